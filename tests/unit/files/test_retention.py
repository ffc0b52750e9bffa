"""How long files are stored. The history is a real one, and each test advances the clock."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from contracts.history import delete, draft, edit, react
from fastchat.clocks import AgeClock
from fastchat.errors import SettingError
from fastchat.files import File
from fastchat.files.index import TICKET_S, UNLINKED_LIFETIME_S
from fastchat.files.orphans import OrphanFinder, Orphans
from fastchat.files.retention import (
    CHANGE_DELAY_S,
    SWEEP_INTERVAL_S,
    LinkChanges,
    Retention,
)
from fastchat.history import transfer
from fastchat.history.reader import HistoryReader
from fastchat.history.sqlite import SqliteHistory
from fastchat.metrics import Metrics
from support.file_store import ManualClock, files_on_disk, get, opened_store, put
from support.hub import on_loop
from support.server import TIMEOUT_UNIT_S, wait_until


class DataDirectory:
    """A data directory with a history and a retention."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clock = ManualClock()
        self.metrics = Metrics()
        self._start()

    def _start(self) -> None:
        self.history = SqliteHistory(
            self.data,
            max_messages=20,
            max_age_s=0,
            sync_commits=False,
            clock=self.clock,
        )
        self.retention = Retention(self.data, clock=self.clock, metrics=self.metrics)
        self.history.watch_links(self.retention.changes.add)

    def restart(self, *, lose: bool = False) -> None:
        """Close the history if it is open, `lose` its files, and start again."""
        with contextlib.suppress(apsw.ConnectionClosedError, RuntimeError):
            self.history.close()
        for path in self.data.glob("history.*") if lose else ():
            path.unlink()
        self._start()

    def say(self, text: str, *, room: str = "a") -> int:
        """Append a message, and return its offset."""
        (said,) = self.history.append([draft(text, room=room)])
        return said.offset  # type: ignore[union-attr]

    def sweep(self, *, after_s: float = SWEEP_INTERVAL_S) -> None:
        """Advance the clock by `after_s` seconds, and sweep."""
        self.clock.now += after_s
        self.retention.sweep()

    def apply_changes(self) -> None:
        """Advance the clock by CHANGE_DELAY_S, and apply the reported changes, without a sweep."""
        self.clock.now += CHANGE_DELAY_S
        self.retention.apply_changes()

    def has(self, file: File) -> bool:
        """Return whether the content of a file is on the disk."""
        return f"{file.id[:2]}/{file.id}" in files_on_disk(self.data)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path)
    yield directory
    directory.history.close()


@on_loop
async def test_file_is_deleted_with_its_message(directory: DataDirectory) -> None:
    """The content and the row of a file are deleted; another message's file stays."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file, other = await put(store, b"one", room="a"), await put(store, b"other", room="a")
        said = directory.say(f"look {file.link}")
        directory.say(f"{other.link} and more")
        directory.sweep()
        directory.sweep(after_s=10 * UNLINKED_LIFETIME_S)
        assert directory.has(file)
        assert (directory.metrics.kept_files, directory.metrics.kept_file_bytes) == (2, 8192)
        directory.history.append([delete(said)])
        directory.sweep()
        assert not directory.has(file)
        assert await get(store, file.id) is None
        assert await get(store, other.id) == b"other"
        assert (directory.metrics.kept_files, directory.metrics.deleted_files_total) == (1, 1)


@on_loop
async def test_file_of_two_messages_is_deleted_with_the_second(directory: DataDirectory) -> None:
    """A file to which two messages link is deleted when both messages are deleted."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = [directory.say(file.link) for _ in range(2)]
        directory.sweep()
        directory.history.append([delete(said[0])])
        directory.sweep()
        assert directory.has(file)
        directory.history.append([delete(said[1])])
        directory.sweep()
        assert not directory.has(file)


@on_loop
async def test_file_is_deleted_when_an_edit_removes_its_link(directory: DataDirectory) -> None:
    """An edit can remove the link to a file, or add one."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        before, after = await put(store, b"before", room="a"), await put(store, b"after", room="a")
        said = directory.say(before.link)
        directory.sweep()
        directory.history.append([edit(said, after.link)])
        directory.sweep()
        assert (directory.has(before), directory.has(after)) == (False, True)
        directory.history.append([edit(said, "nothing")])
        directory.sweep()
        assert not directory.has(after)


@on_loop
async def test_file_is_deleted_when_the_history_drops_its_message(directory: DataDirectory) -> None:
    """A file is deleted with a message that exceeds the limit of the history (20 here)."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
        for _ in range(19):
            directory.say("more")
        directory.sweep()
        assert directory.has(file)
        for _ in range(30):
            directory.say("more")
        directory.sweep()
        assert not directory.has(file)


@on_loop
async def test_unlinked_file_is_deleted_after_an_hour(directory: DataDirectory) -> None:
    """A file without a link is stored for UNLINKED_LIFETIME_S, even in a room without messages."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="silent")
        directory.sweep(after_s=UNLINKED_LIFETIME_S - 1)
        assert directory.has(file)
        directory.sweep(after_s=2)
        assert not directory.has(file)


@on_loop
async def test_hour_of_an_unlinked_file_is_not_shortened_by_the_clock(
    directory: DataDirectory,
) -> None:
    """The sender has an hour, even if somebody sets the clock forward, and then no more."""
    uptime = ManualClock()
    ages = AgeClock(UNLINKED_LIFETIME_S, wall=directory.clock, steady=uptime)
    retention = Retention(
        directory.data, clock=directory.clock, ages=ages, metrics=directory.metrics
    )

    def sweep(after_s: float, step_s: float = 0.0) -> None:
        uptime.now += after_s
        directory.clock.now += after_s + step_s
        retention.sweep()

    async with opened_store(directory.data, clock=directory.clock, ages=ages) as store:
        file = await put(store, b"one", room="a")
        sweep(10, step_s=3 * UNLINKED_LIFETIME_S)
        sweep(UNLINKED_LIFETIME_S - 20)
        assert directory.has(file)
        sweep(20)
        sweep(2 * UNLINKED_LIFETIME_S)
        assert not directory.has(file)


@on_loop
async def test_ticket_is_valid_for_ten_minutes_whatever_the_clock(directory: DataDirectory) -> None:
    uptime = ManualClock()
    ages = AgeClock(TICKET_S, wall=directory.clock, steady=uptime)
    async with opened_store(directory.data, clock=directory.clock, ages=ages) as store:
        upload = await store.reserve("a", "alice", "a", 7)
        uptime.now += TICKET_S - 1
        directory.clock.now += TICKET_S - 1 + 86_400
        assert await store.find(upload.ticket) is not None
        uptime.now += 2 * TICKET_S
        directory.clock.now += 2 * TICKET_S
        assert await store.find(upload.ticket) is None


@on_loop
async def test_file_that_is_sent_again_starts_a_new_hour(directory: DataDirectory) -> None:
    """A file that is sent again counts as new, even if the message with its link is deleted."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = directory.say(file.link)
        directory.sweep()
        await put(store, b"one", room="a")
        directory.history.append([delete(said)])
        directory.sweep()
        assert directory.has(file)
        directory.say(file.link)
        directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        assert directory.has(file)


@on_loop
async def test_file_that_is_sent_again_keeps_its_old_link(directory: DataDirectory) -> None:
    """A file that is sent again stays if an old message links to it, though no message is new."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
        await put(store, b"one", room="a")
        for _ in range(3):
            directory.sweep(after_s=UNLINKED_LIFETIME_S)
        assert directory.has(file)


@on_loop
async def test_file_that_is_sent_again_during_a_sweep_stays(directory: DataDirectory) -> None:
    """A sweep does not delete or mark a file that was sent again after the sweep read its row."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.clock.now += 2 * UNLINKED_LIFETIME_S
        (seen,) = store.index.files_of("a")
        await put(store, b"one", room="a")
        assert not store.index.delete(seen, store.contents.remove)
        store.index.mark_linked(seen, "epoch", 1)
        assert not store.index.files_of("a")[0].linked
        assert await get(store, file.id) == b"one"


@on_loop
async def test_link_in_another_room_does_not_count(directory: DataDirectory) -> None:
    """A file without a link in its own room is deleted."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link, room="b")
        directory.sweep(after_s=UNLINKED_LIFETIME_S + 1)
        assert not directory.has(file)


@on_loop
async def test_texts_of_an_unchanged_room_are_not_read_again(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep reads the texts of a room only if its stream has moved since the last sweep."""
    read: list[str] = []
    texts_with_links = HistoryReader.texts_with_links
    monkeypatch.setattr(
        HistoryReader,
        "texts_with_links",
        lambda self, room: read.append(room) or texts_with_links(self, room),
    )
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        for _ in range(3):
            directory.sweep()
        assert read == ["a"]
        directory.say("more")
        for _ in range(3):
            directory.sweep()
        assert read == ["a", "a"]


@on_loop
async def test_no_file_is_deleted_without_the_history(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """If the history is missing, no file is deleted; it is logged once, and sweeps try again."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
        directory.history.close()
        moved = (directory.data / "history.db").rename(directory.data / "elsewhere")
        for _ in range(3):
            directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        assert directory.has(file)
        assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
        moved.rename(directory.data / "history.db")
        directory.history = SqliteHistory(
            directory.data,
            max_messages=20,
            max_age_s=0,
            sync_commits=False,
            clock=directory.clock,
        )
        with caplog.at_level("INFO"):
            directory.sweep()
        assert "works again" in caplog.text
        directory.history.append([delete(1)])
        directory.sweep()
        assert not directory.has(file)


# Between two sweeps


@on_loop
async def test_file_of_a_short_lived_message_is_deleted_at_once(directory: DataDirectory) -> None:
    """If a message is deleted or edited at once, its file is deleted without a sweep."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        deleted, edited, other = [
            await put(store, content, room="a") for content in (b"one", b"two", b"other")
        ]
        directory.history.append([delete(directory.say(deleted.link))])
        directory.history.append([edit(directory.say(edited.link), f"rather {other.link}")])
        directory.apply_changes()
        assert [directory.has(file) for file in (deleted, edited, other)] == [False, False, True]
        assert await get(store, deleted.id) is None
        assert (directory.metrics.kept_files, directory.metrics.deleted_files_total) == (1, 2)


@on_loop
async def test_file_of_a_message_that_is_dropped_at_once_is_deleted(
    directory: DataDirectory,
) -> None:
    """If the history drops a message before a sweep, the next sweep deletes its file."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        for _ in range(30):
            directory.say("more")
        directory.sweep()
        assert not directory.has(file)


@on_loop
async def test_added_link_is_known_after_a_restart(directory: DataDirectory) -> None:
    """A thread that stops has marked the added links in the index."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = directory.say(file.link)
        directory.retention.start()
        directory.retention.stop()
        assert [known.linked for known in store.index.files_of("a")] == [True]
        directory.history.watch_links(lambda *change: None)
        directory.history.append([delete(said)])
        directory.retention = Retention(
            directory.data, clock=directory.clock, metrics=directory.metrics
        )
        directory.sweep(after_s=0)
        assert not directory.has(file)


@on_loop
async def test_needed_file_is_not_deleted_with_a_message(directory: DataDirectory) -> None:
    """The deletion of a message deletes no file that was sent again, is not linked yet, has
    another link, or belongs to another room."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        again, unsaid, twice = [
            await put(store, content, room="a") for content in (b"again", b"unsaid", b"twice")
        ]
        elsewhere = await put(store, b"one", room="b")
        said = [directory.say(each.link) for each in (again, twice, twice)]
        directory.clock.now += SWEEP_INTERVAL_S
        await put(store, b"again", room="a")
        directory.history.append([edit(said[0], f"better: {again.link}")])
        directory.history.append([delete(offset) for offset in said[:2]])
        directory.history.append([delete(directory.say(elsewhere.link))])
        directory.apply_changes()
        assert all(directory.has(each) for each in (again, unsaid, twice, elsewhere))
        directory.history.append([delete(said[2])])
        directory.apply_changes()
        assert not directory.has(twice)


@on_loop
async def test_reaction_removes_no_link(directory: DataDirectory) -> None:
    """Neither a reaction nor a refused deletion removes a link."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = directory.say(file.link)
        directory.history.append([react(said), delete(said, by="Bob")])
        assert directory.retention.changes.take().lost == {}
        directory.apply_changes()
        assert directory.has(file)


@on_loop
async def test_link_changes_outlive_a_failing_history(directory: DataDirectory) -> None:
    """Changes that cannot be applied are applied when the history works again."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.history.append([delete(directory.say(file.link))])
        moved = (directory.data / "history.db").rename(directory.data / "elsewhere")
        directory.apply_changes()
        assert directory.has(file)
        moved.rename(directory.data / "history.db")
        directory.apply_changes()
        assert not directory.has(file)


def test_link_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If changes are not applied, for example because the disk hangs, further ones are dropped."""
    monkeypatch.setattr("fastchat.files.retention.MAX_CHANGES", 3)
    changes = LinkChanges(lambda: 1.0)
    for letter in "abcdefgh":
        changes.add("a", 1, f"/files/{letter * 32}/a", "")
        changes.add("a", 1, "", f"/files/{letter * 32}/a")
    assert sum(map(len, changes.take())) <= 4


def test_thread_applies_a_change_at_once(directory: DataDirectory) -> None:
    """The thread deletes a file after CHANGE_DELAY_S, and does not wait for a sweep."""
    directory.retention.start()
    try:
        file = asyncio.run(_said_and_deleted(directory))
        wait_until(lambda: not directory.has(file), timeout_s=CHANGE_DELAY_S + 5 * TIMEOUT_UNIT_S)
    finally:
        directory.retention.stop()


async def _said_and_deleted(directory: DataDirectory) -> File:
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.history.append([delete(directory.say(file.link))])
        return file


# Leftovers


@on_loop
async def test_incoming_file_is_not_removed(directory: DataDirectory) -> None:
    """A sweep does not remove an incoming file whose process lives, however long it takes."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        upload = await store.reserve("a", "alice", "a", 7)
        await upload.write(b"con")
        directory.sweep(after_s=10 * TICKET_S)
        await upload.write(b"tent")
        assert await get(store, (await upload.finish()).id) == b"content"


@on_loop
async def test_expired_announcement_is_removed(directory: DataDirectory) -> None:
    """A sweep removes an announcement when its ticket has expired."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        await store.reserve("a", "alice", "a", 7)
        directory.sweep(after_s=TICKET_S - 1)
        assert count_uploads(directory) == 1
        directory.sweep(after_s=2)
        assert count_uploads(directory) == 0


def count_uploads(directory: DataDirectory) -> int:
    """Return the number of announced and incoming files in the index."""
    db = apsw.Connection(str(directory.data / "files" / "index.sqlite3"))
    try:
        ((count,),) = db.execute("SELECT count(*) FROM uploads").fetchall()
    finally:
        db.close()
    return int(count)


_KILLED_UPLOAD = """
import asyncio, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from support.file_store import new_store
from fastchat.files.contents import Contents

class Killed(Contents):
    def place(self, *arguments, **keywords):
        if {when!r} == "placed":
            super().place(*arguments, **keywords)
        signal.raise_signal(signal.SIGKILL)

async def upload():
    store = new_store(Path({data!r}))
    store.contents.__class__ = Killed
    writer = await store.reserve("a", "alice", "a", 7)
    await writer.write(b"con")
    if {when!r} != "started":
        await writer.write(b"tent")
        await writer.finish()
    signal.raise_signal(signal.SIGKILL)

asyncio.run(upload())
"""


@pytest.mark.parametrize("when", ["started", "complete", "placed"])
def test_leftovers_of_a_killed_process_are_removed(directory: DataDirectory, when: str) -> None:
    """A sweep removes the file of a process that was killed before, or while, it was stored."""
    path = [str(Path(__file__).parents[2])]
    script = _KILLED_UPLOAD.format(path=path, data=str(directory.data), when=when)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(files_on_disk(directory.data)) == 1
    assert count_uploads(directory) == 1
    # Without the search of the first sweep for contents that have no row.
    directory.retention._is_first_sweep = False
    directory.sweep()
    assert files_on_disk(directory.data) == []
    assert count_uploads(directory) == 0


# Orphans


@on_loop
async def test_contents_that_are_not_in_the_index_are_kept(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """If the index was lost, its contents stay; the log and a gauge say so, once."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        files = [await put(store, content, room="a") for content in (b"one", b"two")]
        for file in files:
            directory.say(file.link)
        directory.sweep()
    for path in (directory.data / "files").glob("index.sqlite3*"):
        path.unlink()
    directory.restart()
    for _ in range(3):
        directory.sweep(after_s=UNLINKED_LIFETIME_S)
    assert all(map(directory.has, files))
    assert directory.metrics.orphaned_files == 2
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "0 whose messages are missing from the history, and 2 that are not in" in line
    assert f"fastchat files --data {directory.data} --delete-orphans" in line


@on_loop
async def test_index_that_is_put_back_has_its_files(directory: DataDirectory) -> None:
    """What was kept is served again."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
    index = directory.data / "files" / "index.sqlite3"
    index.rename(directory.data / "elsewhere")
    directory.restart()
    directory.sweep(after_s=UNLINKED_LIFETIME_S)
    (directory.data / "elsewhere").rename(index)
    directory.restart()
    directory.sweep(after_s=UNLINKED_LIFETIME_S)
    assert directory.metrics.orphaned_files == 0
    async with opened_store(directory.data, clock=directory.clock) as store:
        assert await get(store, file.id) == b"one"


@on_loop
async def test_files_stay_if_the_history_was_lost(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a new history, nor messages in it, nor a restart deletes files of the lost one."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        files = [await put(store, content, room="a") for content in (b"one", b"two")]
        for file in files:
            directory.say(file.link)
        directory.sweep()
        directory.restart(lose=True)
        directory.sweep()
        directory.say("the room begins again")
        directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        directory.restart()
        directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        assert all(map(directory.has, files))
        assert directory.metrics.orphaned_files == 2
        assert "2 whose messages are missing from the history, and 0 that" in caplog.text


@on_loop
async def test_files_stay_that_are_newer_than_a_restored_history(directory: DataDirectory) -> None:
    """The others are deleted with their messages, as ever."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        old = await put(store, b"old", room="a")
        said = directory.say(old.link)
        directory.sweep()
        directory.history.close()
        copy = shutil.copytree(directory.data, directory.data.with_name("copy"))
        directory.restart()
        new = await put(store, b"new", room="a")
        directory.say(new.link)
        directory.sweep()
        directory.history.close()
        for name in ("history.db", "history.state"):
            shutil.copy(copy / name, directory.data / name)
        directory.restart()
        directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        assert (directory.has(old), directory.has(new)) == (True, True)
        assert directory.metrics.orphaned_files == 1
        directory.history.append([delete(said)])
        directory.apply_changes()
        assert (directory.has(old), directory.has(new)) == (False, True)
        directory.say(f"again {new.link}")
        directory.sweep()
        assert directory.metrics.orphaned_files == 0


@on_loop
async def test_files_stay_that_are_newer_than_an_imported_history(directory: DataDirectory) -> None:
    """An older export has the same epoch, and new messages reach the offset of the lost one."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        directory.say("first")
        export = io.BytesIO()
        transfer.export_rooms(directory.data, None, export)
        file = await put(store, b"one", room="a")
        directory.say("second")
        directory.say(file.link)
        directory.sweep()
        directory.history.close()
        for path in directory.data.glob("history.*"):
            path.unlink()
        lines = io.BytesIO(export.getvalue().replace(b'"user Alice"', b'"u_alice"'))
        transfer.import_rooms(directory.data, lines, "the export", "a")
        directory.restart()
        for number in range(5):
            directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
            directory.say(f"{number} after the import")
        assert directory.has(file)
        assert directory.metrics.orphaned_files == 1


@on_loop
async def test_files_stay_if_an_older_history_is_put_back_under_a_running_server(
    directory: DataDirectory,
) -> None:
    """The older file has the same epochs, but its stream ends before the files' messages."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        directory.say("first")
        directory.history.close()
        shutil.copy(directory.data / "history.db", directory.data / "copy")
        directory.restart()
        swept, unswept = [await put(store, each, room="a") for each in (b"one", b"two")]
        directory.say(swept.link)
        directory.sweep()
        directory.say(unswept.link)
        (directory.data / "copy").rename(directory.data / "history.db")
        for _ in range(3):
            directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
        assert directory.has(swept)
        assert directory.has(unswept)


@on_loop
async def test_file_is_deleted_with_its_message_before_it_was_swept(
    directory: DataDirectory,
) -> None:
    """The history itself reports that the link is gone, so nothing is missing."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = directory.say(file.link)
        directory.sweep()
        directory.history.close()
        (directory.data / "history.state").unlink()  # so that the epochs change
        directory.restart()
        directory.history.append([delete(said)])
        directory.apply_changes()
        assert not directory.has(file)


@on_loop
async def test_file_of_an_older_index_is_kept_or_marked(directory: DataDirectory) -> None:
    """An older version did not note where the link was. The first sweep does if it finds one."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        linked, lost = [await put(store, each, room="a") for each in (b"one", b"two")]
        said = directory.say(linked.link)
        directory.say("nothing")
        directory.retention.changes.take()
    db = apsw.Connection(str(directory.data / "files" / "index.sqlite3"))
    db.execute("UPDATE files SET linked = 1, epoch = NULL, offset = NULL")
    db.close()
    directory.sweep(after_s=2 * UNLINKED_LIFETIME_S)
    assert directory.has(lost)
    directory.history.append([delete(said)])
    directory.sweep()
    assert (directory.has(linked), directory.has(lost)) == (False, True)


@on_loop
async def test_orphans_are_deleted_on_demand(directory: DataDirectory) -> None:
    """Nothing else is, also while a server runs."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        orphan = await put(store, b"orphan", room="a")
        directory.say(orphan.link)
        directory.sweep()
        directory.restart(lose=True)
        linked, fresh = [await put(store, each, room="a") for each in (b"linked", b"fresh")]
        directory.say(linked.link)
        directory.sweep()
        stray = directory.data / "files" / "aa" / ("a" * 32)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"stray")
        foreign = directory.data / "files" / "README"
        foreign.write_text("a file of the operator")
        with contextlib.closing(OrphanFinder(directory.data, directory.clock)) as finder:
            assert finder.count() == Orphans(1, 1, 11)
            assert finder.totals() == (3, 3 * 4096)
            assert directory.has(orphan)
            assert finder.delete() == Orphans(1, 1, 11)
            assert finder.count() == Orphans(0, 0, 0)
        assert (directory.has(orphan), stray.exists(), foreign.exists()) == (False, False, True)
        assert await get(store, linked.id) == b"linked"
        assert await get(store, fresh.id) == b"fresh"
        directory.sweep()
        assert directory.metrics.orphaned_files == 0


@on_loop
async def test_orphan_that_is_sent_again_has_an_hour_for_its_message(
    directory: DataDirectory,
) -> None:
    """Then it is an orphan again, because the lost message can still come back."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
        directory.restart(lose=True)
        directory.sweep()
        assert directory.metrics.orphaned_files == 1
        await put(store, b"one", room="a")
        directory.sweep()
        assert directory.metrics.orphaned_files == 0
        with contextlib.closing(OrphanFinder(directory.data, directory.clock)) as finder:
            assert finder.delete() == Orphans(0, 0, 0)
        directory.sweep(after_s=UNLINKED_LIFETIME_S)
        assert directory.has(file)
        assert directory.metrics.orphaned_files == 1


def test_directory_without_an_index_has_no_orphans(tmp_path: Path) -> None:
    """The command does not create an index."""
    with pytest.raises(SettingError, match=r"has no index of shared files: .*\.$"):
        OrphanFinder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_directory_without_a_history_has_no_orphans(tmp_path: Path) -> None:
    """Without the history, every file would look like one, and would be deleted."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "index.sqlite3").touch()
    with pytest.raises(SettingError, match=r"holds no history: .* in it, so every shared file"):
        OrphanFinder(tmp_path)


def test_thread_sweeps_at_once_and_stops(directory: DataDirectory) -> None:
    """The thread sweeps when it starts, and ends when it is stopped."""
    (directory.data / "files" / "incoming").mkdir(parents=True)
    orphan = directory.data / "files" / "incoming" / "7"
    orphan.touch()
    directory.retention.start()
    wait_until(lambda: not orphan.exists())
    directory.retention.stop()
    assert not directory.retention.is_alive()


# An older copy in the place of the history or the index


@on_loop
async def test_file_is_kept_while_another_history_is_in_place(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """An older copy of the history lacks the newest links, so no file is deleted because of it."""
    directory.retention.check_history = directory.history.check_directory
    file = directory.data / "history.db"
    async with opened_store(directory.data, clock=directory.clock) as store:
        kept = await put(store, b"one", room="a")
        directory.say("before")
        copy = apsw.Connection(str(directory.data / "copy.db"))
        with copy.backup("main", directory.history._db, "main") as backup:
            backup.step()
        copy.close()
        directory.say(kept.link)
        directory.sweep()
        names = ("history.db", "history.db-wal", "history.db-shm")
        for name in names:
            (directory.data / name).rename(directory.data / f"away-{name}")
        (directory.data / "copy.db").rename(file)
        for _ in range(3):
            directory.sweep(after_s=10 * UNLINKED_LIFETIME_S)
        assert directory.has(kept)
        for path in directory.data.glob("history.db*"):
            path.unlink()
        for name in names:
            (directory.data / f"away-{name}").rename(directory.data / name)
        directory.sweep(after_s=10 * UNLINKED_LIFETIME_S)
        assert directory.has(kept)
        said = directory.say("after")
        directory.history.append([delete(said - 1)])
        directory.sweep()
        assert not directory.has(kept)
    failures = [each for each in caplog.messages if "not needed cannot be deleted" in each]
    assert len(failures) == 1
    assert "was replaced by another file" in failures[0]


@on_loop
async def test_retention_creates_nothing_in_place_of_a_directory(directory: DataDirectory) -> None:
    """If the folder of files is moved away, a sweep does not create an empty one."""
    files = directory.data / "files"
    directory.retention.open()
    directory.sweep()
    files.rename(directory.data / "away")
    directory.sweep()
    assert not files.exists()
    (directory.data / "away").rename(files)
    directory.sweep()
    assert directory.metrics.kept_files == 0


def test_relay_that_was_started_again_creates_no_index(tmp_path: Path) -> None:
    """Without the right to create, a missing index is logged, and stays missing."""
    retention = Retention(tmp_path, clock=time.time, metrics=Metrics(), create=False)
    retention.open()
    retention.sweep()
    assert list(tmp_path.iterdir()) == []
