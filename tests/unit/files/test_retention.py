"""How long files are kept: the history is a real one, and time passes when a test says so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from contracts.history import delete, draft, edit, react
from fastchat.files import File
from fastchat.files.index import TICKET_S
from fastchat.files.retention import (
    CHANGE_DELAY_S,
    SWEEP_INTERVAL_S,
    UNLINKED_LIFETIME_S,
    LinkChanges,
    Retention,
)
from fastchat.history.reader import HistoryReader
from fastchat.history.sqlite import SqliteHistory
from fastchat.metrics import Metrics
from support.file_store import ManualClock, files_on_disk, get, opened_store, put
from support.hub import on_loop
from support.server import TIMEOUT_UNIT_S, wait_until


class DataDirectory:
    """A data directory with a history, and what keeps house there."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.history = SqliteHistory(
            data,
            max_messages=20,
            max_age_s=0,
            sync_commits=False,
            new_epoch=lambda: os.urandom(8).hex(),
            clock=self.clock,
        )
        self.retention = Retention(data, clock=self.clock, metrics=self.metrics)
        self.history.watch_links(self.retention.changes.add)

    def say(self, text: str, *, room: str = "a") -> int:
        """The offset of a new message."""
        (said,) = self.history.append([draft(text, room=room)])
        return said.offset  # type: ignore[union-attr]

    def sweep(self, *, after_s: float = SWEEP_INTERVAL_S) -> None:
        self.clock.now += after_s
        self.retention.sweep()

    def apply_changes(self) -> None:
        """What follows a change within CHANGE_DELAY_S, without a sweep."""
        self.clock.now += CHANGE_DELAY_S
        self.retention.apply_changes()

    def has(self, file: File) -> bool:
        return f"{file.id[:2]}/{file.id}" in files_on_disk(self.data)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path)
    yield directory
    directory.history.close()


@on_loop
async def test_file_goes_with_its_message(directory: DataDirectory) -> None:
    """Its content and what was known of it; what another message has stays."""
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
async def test_file_that_two_messages_have_goes_with_the_last(directory: DataDirectory) -> None:
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
async def test_file_goes_when_its_link_is_edited_away(directory: DataDirectory) -> None:
    """An edit that brings one has it, too."""
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
async def test_file_goes_with_the_oldest_messages(directory: DataDirectory) -> None:
    """When the history drops them, of which there may be 20 here."""
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
async def test_unlinked_file_has_an_hour(directory: DataDirectory) -> None:
    """Its sender may be writing what goes with it; also in a room where nobody speaks."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="silent")
        directory.sweep(after_s=UNLINKED_LIFETIME_S - 1)
        assert directory.has(file)
        directory.sweep(after_s=2)
        assert not directory.has(file)


@on_loop
async def test_file_that_is_sent_again_has_its_hour_anew(directory: DataDirectory) -> None:
    """Whatever became of the first."""
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
async def test_file_that_is_sent_again_stays_where_it_was_linked(directory: DataDirectory) -> None:
    """Its room's stream has not moved: the old message has it still, after the hour too."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        directory.sweep()
        await put(store, b"one", room="a")
        for _ in range(3):
            directory.sweep(after_s=UNLINKED_LIFETIME_S)
        assert directory.has(file)


@on_loop
async def test_file_that_comes_again_during_the_sweep_stays(directory: DataDirectory) -> None:
    """What the sweep has seen of it is not true any more when it comes to delete it."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.clock.now += 2 * UNLINKED_LIFETIME_S
        (seen,) = store.index.files_of("a")
        await put(store, b"one", room="a")
        assert not store.index.delete(seen, store.contents.remove)
        store.index.mark_linked(seen)
        assert not store.index.files_of("a")[0].linked
        assert await get(store, file.id) == b"one"


@on_loop
async def test_link_in_another_room_keeps_nothing(directory: DataDirectory) -> None:
    """A file is its room's, and goes with it."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link, room="b")
        directory.sweep(after_s=UNLINKED_LIFETIME_S + 1)
        assert not directory.has(file)


@on_loop
async def test_room_that_has_not_moved_is_passed_over(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts are read when something was said, and not every minute."""
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
async def test_what_cannot_be_read_is_kept(
    directory: DataDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """A history that is not there says nothing of files; that is logged once, and tried again."""
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
            new_epoch=str,
            clock=directory.clock,
        )
        directory.history.append([delete(1)])
        with caplog.at_level("INFO"):
            directory.sweep()
        assert "deleted again" in caplog.text
        assert not directory.has(file)


# Between two sweeps


@on_loop
async def test_file_goes_with_a_message_that_no_sweep_has_seen(directory: DataDirectory) -> None:
    """Deleted, or its link edited away, in the same moment: it is gone without a sweep."""
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
async def test_file_goes_with_a_message_that_was_dropped_at_once(directory: DataDirectory) -> None:
    """No sweep has seen it either; the first that comes finds that a message had it."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        directory.say(file.link)
        for _ in range(30):
            directory.say("more")
        directory.sweep()
        assert not directory.has(file)


@on_loop
async def test_link_that_came_is_known_after_a_restart(directory: DataDirectory) -> None:
    """What the thread has heeded is in the index, and not in its memory only."""
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
async def test_what_no_message_lost_is_not_settled(directory: DataDirectory) -> None:
    """A file that was sent again, one that nobody has said yet, one that another message has,
    and one of another room, whatever is written there."""
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
async def test_reaction_takes_no_link_away(directory: DataDirectory) -> None:
    """Nor does a change that is refused."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"one", room="a")
        said = directory.say(file.link)
        directory.history.append([react(said), delete(said, by="Bob")])
        assert directory.retention.changes.take().lost == {}
        directory.apply_changes()
        assert directory.has(file)


@on_loop
async def test_link_changes_outlive_an_index_that_fails(directory: DataDirectory) -> None:
    """They are heeded when it works again."""
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
    """While nobody can heed them, as when the disk hangs."""
    monkeypatch.setattr("fastchat.files.retention.MAX_CHANGES", 3)
    changes = LinkChanges(lambda: 1.0)
    for letter in "abcdefgh":
        changes.add("a", f"/files/{letter * 32}/a", "")
        changes.add("a", "", f"/files/{letter * 32}/a")
    assert sum(map(len, changes.take())) <= 4


def test_thread_heeds_a_change_at_once(directory: DataDirectory) -> None:
    """Without waiting for the minute."""
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


# What is left behind


@on_loop
async def test_what_comes_is_left_alone(directory: DataDirectory) -> None:
    """However long it takes, for whoever writes it lives."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        upload = await store.reserve("a", "alice", "a", 7)
        await upload.write(b"con")
        directory.sweep(after_s=10 * TICKET_S)
        await upload.write(b"tent")
        assert await get(store, (await upload.finish()).id) == b"content"


@on_loop
async def test_expired_tickets_go(directory: DataDirectory) -> None:
    async with opened_store(directory.data, clock=directory.clock) as store:
        await store.reserve("a", "alice", "a", 7)
        directory.sweep(after_s=TICKET_S - 1)
        assert uploads(directory) == 1
        directory.sweep(after_s=2)
        assert uploads(directory) == 0


def uploads(directory: DataDirectory) -> int:
    db = apsw.Connection(str(directory.data / "files" / "index.sqlite3"))
    try:
        ((count,),) = db.execute("SELECT count(*) FROM uploads").fetchall()
    finally:
        db.close()
    return int(count)


_BEGIN = """
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

async def begin():
    store = new_store(Path({data!r}))
    store.contents.__class__ = Killed
    upload = await store.reserve("a", "alice", "a", 7)
    await upload.write(b"con")
    if {when!r} != "begun":
        await upload.write(b"tent")
        await upload.finish()
    signal.raise_signal(signal.SIGKILL)

asyncio.run(begin())
"""


@pytest.mark.parametrize("when", ["begun", "noted", "placed"])
def test_killed_process_leaves_nothing_for_long(directory: DataDirectory, when: str) -> None:
    """In the middle of a file, before its content has its place, and before that is known."""
    path = [str(Path(__file__).parents[2])]
    script = _BEGIN.format(path=path, data=str(directory.data), when=when)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(files_on_disk(directory.data)) == 1
    assert uploads(directory) == 1
    directory.retention._is_first_sweep = (
        False  # the usual sweep is to find it, not the search for strays
    )
    directory.sweep()
    assert files_on_disk(directory.data) == []
    assert uploads(directory) == 0


@on_loop
async def test_content_that_nothing_is_known_of_goes_at_the_start(directory: DataDirectory) -> None:
    """A loss of power leaves such, or an older index that was restored; no other file goes."""
    async with opened_store(directory.data, clock=directory.clock) as store:
        file = await put(store, b"known", room="a")
        stray = directory.data / "files" / "aa" / ("a" * 32)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"stray")
        foreign = directory.data / "files" / "README"
        foreign.write_text("an operator's")
        directory.sweep()
        assert not stray.exists()
        assert foreign.exists()
        assert directory.has(file)


def test_thread_sweeps_at_once_and_ends_when_asked(directory: DataDirectory) -> None:
    """Who starts a server again after a kill need not wait a minute."""
    (directory.data / "files" / "incoming").mkdir(parents=True)
    orphan = directory.data / "files" / "incoming" / "7"
    orphan.touch()
    directory.retention.start()
    wait_until(lambda: not orphan.exists())
    directory.retention.stop()
    assert not directory.retention.is_alive()
