"""Tests of the SQLite history: the contract, restarts, damaged files, full disks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from checker.nemesis import can_mount
from contracts.history import (
    GENERATION,
    TIMESTAMP,
    HistoryContract,
    add,
    draft,
    reactions,
    texts,
)
from fastchat.clocks import AgeClock
from fastchat.database import open_to_write, select
from fastchat.directory import sqlite_files
from fastchat.errors import CommandError, HistoryError, SettingError
from fastchat.history import Duplicate, History, checkpoints, log
from fastchat.history.checkpoints import Checkpointer
from fastchat.history.directory import CONTENT_INTERVAL_S
from fastchat.history.ids import REMEMBER_IDS_S
from fastchat.history.log import WriteAheadLog
from fastchat.history.main_file import MainFile
from fastchat.history.memory import MemoryHistory
from fastchat.history.rows import OFFSET_MASK
from fastchat.history.schema import HISTORY
from fastchat.history.sqlite import SqliteHistory
from fastchat.history.transfer import export_rooms, import_rooms
from fastchat.protocol import (
    ChangeDraft,
    Draft,
    Kind,
    Message,
    MessageDraft,
    Position,
    timestamp_of,
)
from support.server import TIMEOUT_UNIT_S, wait_until
from support.sqlite_history import Clock, connected, count, new_history, opened


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    with opened(tmp_path) as history:
        yield history


@pytest.fixture
def idle_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checkpoints' thread wait, for tests that make its steps, and use its connections."""
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 3600.0)


def change(
    kind: Kind, target: int, text: str = "", *, by: str = "Alice", **more: Any
) -> ChangeDraft:
    """A change in room "a", by the user whom `draft` makes for the same name."""
    now, user = "2025-01-18T11:00:00.000Z", draft(by=by).user
    return ChangeDraft("a", by, text, now, user, kind, target, **more)


def state(history: History, *rooms: str) -> list[Any]:
    """Everything that can be read of some rooms."""
    read: list[Any] = []
    for room in rooms or ("a",):
        position = history.position(room)
        read += [position, history.before(room, None, 300), history.after(room, 0, 300)]
        read.append(history.since(room, Position(position.epoch, max(position.offset - 3, 0)), 300))
    return read


class TestContract(HistoryContract):
    SLACK = 6

    @pytest.fixture
    def history(self, tmp_path: Path) -> Iterator[History]:
        with opened(tmp_path, max_messages=self.KEPT) as history:
            yield history


# Restarts


def test_state_is_the_same_after_reopening(tmp_path: Path) -> None:
    """Epochs, offsets, messages and their changes survive a restart."""
    with opened(tmp_path) as history:
        add(history, "one", "two", "three")
        history.append(
            [
                change(Kind.EDIT, 1, "better"),
                change(Kind.DELETE, 2),
                change(Kind.REACT, 3, by="Bob", emoji="👍"),
                change(Kind.REACT, 3, by="Cem", emoji="👍"),
                change(Kind.REACT, 3, by="Bob", emoji="👍", remove=True),
            ]
        )
        before = state(history)
    with opened(tmp_path) as history:
        assert state(history) == before
        one, two, three = history.before("a", None, 9).publications
        assert (one.text, one.edited) == ("better", "2025-01-18T11:00:00.000Z")
        assert (two.text, two.deleted) == ("", True)
        assert reactions(three) == {"👍": ["Cem"]}
        assert history.append([draft("four")])[0] == draft("four").numbered(9)


def test_each_file_has_secrets_of_its_own_which_stay(tmp_path: Path) -> None:
    def facts(directory: Path) -> dict[str, bytes]:
        with opened(directory):
            pass
        with connected(directory / "history.db") as db:
            return dict(select(db, "SELECT name, value FROM facts WHERE name <> 'clock'"))

    first = facts(tmp_path / "one")
    assert {name: len(value) for name, value in first.items()} == {
        "generation": 16,
        "user_key": 32,
    }
    assert facts(tmp_path / "one") == first
    assert not set(facts(tmp_path / "two").values()) & set(first.values())


def test_killed_process_loses_no_returned_append(tmp_path: Path) -> None:
    """If the process is killed, every publication that `append` has returned is in the file."""
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from fastchat.history.sqlite import SqliteHistory\n"
        "from fastchat.protocol import MessageDraft\n"
        "history = SqliteHistory(Path(sys.argv[1]), max_messages=10**6, max_age_s=0,\n"
        "    sync_commits=False, clock=time.time)\n"
        "print(history.position('a').epoch, flush=True)\n"
        "while True:\n"
        "    (done,) = history.append([MessageDraft('a', 'Alice', 'text', 'now', '')])\n"
        "    print(done.offset, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    known = child.stdout.readline().decode().strip()
    returned = [int(child.stdout.readline()) for _ in range(200)][-1]
    child.kill()
    returned = [returned, *map(int, child.communicate()[0].split())][-1]
    with opened(tmp_path) as history:
        epoch, offset, _ = history.position("a")
        assert epoch == known
        assert returned <= offset <= returned + 1
        kept = history.since("a", Position(epoch, offset - 150), 300)
        assert kept is not None
        assert [each.offset for each in kept] == list(range(offset - 149, offset + 1))


def test_id_is_remembered_for_ten_minutes_across_a_restart(tmp_path: Path) -> None:
    """After ten minutes and a call of `prune`, the id is new again."""
    clock = Clock()

    def publish(history: History) -> Any:
        sent = draft(id="i")._replace(timestamp=timestamp_of(clock.now))
        return history.append([sent])[0]

    with opened(tmp_path, clock=clock) as history:
        assert publish(history).offset == 1
    with opened(tmp_path, clock=clock) as history:
        clock.now += REMEMBER_IDS_S - 1
        history.prune()
        assert publish(history) == Duplicate("a", "i", 1)
        clock.now += 2
        history.prune()
        assert publish(history).offset == 2


def test_expired_ids_are_dropped_as_fast_as_ids_are_added(tmp_path: Path) -> None:
    """Ids that one `prune` leaves are dropped by the appends that follow."""
    clock = Clock()
    many = 10_000
    with opened(tmp_path, clock=clock) as history:
        for start in range(0, many, 1000):
            now = timestamp_of(clock.now)
            history.append(
                [draft(id=str(n))._replace(timestamp=now) for n in range(start, start + 1000)]
            )
        clock.now += 2 * REMEMBER_IDS_S
        history.prune()
        now = timestamp_of(clock.now)
        for start in range(many, 2 * many, 1000):
            history.append(
                [draft(id=str(n))._replace(timestamp=now) for n in range(start, start + 1000)]
            )
    assert count(tmp_path, "SELECT count(*) FROM ids") == many


# Unusable files


def test_directory_in_use_is_refused_and_its_owner_continues(tmp_path: Path) -> None:
    """A directory belongs to one history, in this process and in others."""
    with opened(tmp_path) as history:
        add(history, "one")
        with pytest.raises(SettingError, match=r"^--data .* is in use by another server; .*\.$"):
            new_history(tmp_path)
        other = subprocess.run(
            [sys.executable, "-m", "fastchat", "serve", "--port", "0", "--data", tmp_path],
            capture_output=True,
            text=True,
            timeout=20 * TIMEOUT_UNIT_S,
        )
        assert other.returncode == 2
        assert "is in use by another server" in other.stderr
        assert other.stderr.count("\n") == 1
        add(history, "two")
    with opened(tmp_path) as history:
        assert texts(history.before("a", None, 9)) == ["one", "two"]


def filled(directory: Path) -> Path:
    """A history's file with some hundred pages."""
    with opened(directory) as history:
        for number in range(40):
            history.append(
                [draft(f"{number} {n} " + "x" * 400, id=f"{number} {n}") for n in range(25)]
            )
    return directory / "history.db"


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 6 // 10)


def middle_overwritten(file: Path) -> None:
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        damaged.write(random.Random(1).randbytes(16 * 4096))


def test_rooms_of_an_older_file_are_found_by_their_look(tmp_path: Path) -> None:
    """A file from before rooms were compared gets the look of each of its rooms."""
    older = HISTORY._replace(migrations=HISTORY.migrations[:3])
    with contextlib.closing(
        open_to_write(tmp_path / "history.db", older, busy_timeout_ms=1000, sync_commits=False)
    ) as db:
        db.execute("INSERT INTO rooms (name, epoch, head) VALUES ('kitchen', 'E', 1)")
        db.execute("INSERT INTO rooms (name, epoch, head) VALUES ('k1tchen', 'F', 1)")
    with opened(tmp_path) as history:
        assert history.find_alike("kitсhen") in ("kitchen", "k1tchen")
        assert history.find_alike("k1tchen") == "k1tchen"


def middle_zeroed(file: Path) -> None:
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        damaged.write(bytes(16 * 4096))


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(100_000))


def text_file(file: Path) -> None:
    file.write_text("These are my notes.\n" * 50)


def newer_schema(file: Path) -> None:
    in_sqlite(file, "PRAGMA user_version = 99")


def other_application(file: Path) -> None:
    in_sqlite(file, "PRAGMA application_id = 12345")


def foreign_database(file: Path) -> None:
    file.unlink()
    in_sqlite(file, "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')")


def foreign_database_with_our_version(file: Path) -> None:
    file.unlink()
    in_sqlite(file, "CREATE TABLE notes (text); PRAGMA user_version = 1")


def in_sqlite(file: Path, script: str) -> None:
    with connected(file) as connection:
        connection.execute(script)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (truncated, "is damaged"),
        (middle_overwritten, "is damaged"),
        (middle_zeroed, "is damaged"),
        (garbage, "is damaged"),
        (text_file, "is damaged"),
        (newer_schema, "was written by a newer fastchat"),
        (other_application, "is not a history of fastchat"),
        (foreign_database, "is not a history of fastchat"),
        (foreign_database_with_our_version, "is not a history of fastchat"),
    ],
)
def test_unusable_file_is_refused_and_not_changed(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """The error names the file and a way out; no byte of the file changes."""
    file = filled(tmp_path)
    spoil(file)
    before = file.read_bytes()
    for _ in range(2):  # the second time, the lock must be free again
        with pytest.raises(SettingError) as refused:
            new_history(tmp_path)
        assert str(file) in str(refused.value)
        assert why in str(refused.value)
        assert "\n" not in str(refused.value)
    assert file.read_bytes() == before
    log = file.with_name("history.db-wal")
    assert not log.exists() or log.stat().st_size == 0


def test_log_of_a_newer_file_is_not_changed(tmp_path: Path) -> None:
    """An older fastchat leaves the log of a killed newer one as it is."""
    filled(tmp_path)
    killed = tmp_path / "killed"
    killed.mkdir()
    with connected(tmp_path / "history.db") as connection:
        connection.execute("PRAGMA user_version = 99")
        for name in ("history.db", "history.db-wal"):
            (killed / name).write_bytes((tmp_path / name).read_bytes())
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    with pytest.raises(SettingError, match="newer"):
        new_history(killed)
    assert {name: (killed / name).read_bytes() for name in before} == before


def test_directory_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    """If a file has the directory's name, the error is one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"^--data .* cannot be used: .*\.$"):
        new_history(tmp_path / "file")


def test_empty_file_is_a_new_history(tmp_path: Path) -> None:
    """An empty file, which a process killed early can leave, is used."""
    (tmp_path / "history.db").touch()
    with opened(tmp_path) as history:
        add(history, "one")


# Limits


def test_log_restarts_under_a_load_without_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits without a pause do not make the log grow without limit."""
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.05)
    monkeypatch.setattr(checkpoints, "TOO_LONG_BYTES", 4 << 20)
    log = tmp_path / "history.db-wal"
    written = 0
    with opened(tmp_path) as history:
        last_salt, restarts = 0, 0
        deadline = time.monotonic() + 20 * TIMEOUT_UNIT_S
        while restarts < 3 and time.monotonic() < deadline:
            history.append([draft("x" * 500, room=f"r{n}", id=f"{written} {n}") for n in range(10)])
            written += 1
            with log.open("rb") as header:
                # "Salt-1" increases with each restart of the log (SQLite's file format, §4.1).
                salt = int.from_bytes(header.read(20)[16:], "big")
            restarts += salt != last_salt
            last_salt = salt
        assert restarts == 3
    assert log.exists() is False


def test_messages_older_than_the_limit_are_dropped(tmp_path: Path) -> None:
    """Each `prune` drops at most 256 of a room's old messages, and never a newer one."""
    clock = Clock()
    with opened(tmp_path, clock=clock, max_age_s=3600.0) as history:
        for _ in range(2):
            now = timestamp_of(clock.now)
            history.append([draft(f"said at {now}")._replace(timestamp=now) for _ in range(400)])
            clock.now += 3000
        steps = []
        while not steps or steps[-1] != history.after("a", 0, 1).publications[0].offset:
            steps.append(history.after("a", 0, 1).publications[0].offset)
            history.prune()
        assert steps == [1, 257, 401]
        clock.now += 3600
        history.prune()
        history.prune()
        assert history.before("a", None, 9) == ([], False)
        assert history.position("a").offset == 800
        assert history.append([draft()])[0] == draft().numbered(801)


def test_room_whose_messages_were_all_dropped_keeps_its_offsets(tmp_path: Path) -> None:
    """No offset is used twice, also after a restart, and after an export and an import."""
    clock = Clock()
    with opened(tmp_path / "a", clock=clock, max_age_s=3600.0) as history:
        now = timestamp_of(clock.now)
        history.append([draft()._replace(timestamp=now) for _ in range(9)])
        epoch = history.position("a").epoch
        clock.now += 7200
        history.prune()
        assert history.before("a", None, 9) == ([], False)
    with opened(tmp_path / "a") as history:
        assert history.position("a") == Position(epoch, 9)
    exported = io.BytesIO()
    export_rooms(tmp_path / "a", None, exported)
    exported.seek(0)
    import_rooms(tmp_path / "b", exported, "lines", "lobby")
    for directory in ("a", "b"):
        with opened(tmp_path / directory) as history:
            assert history.append([draft()])[0] == draft().numbered(10)
            assert history.position("a").epoch == epoch
        with opened(tmp_path / directory) as history:
            assert history.position("a").offset == 10


@pytest.mark.parametrize("ends", ["closed", "killed"])
def test_offsets_of_rows_that_another_program_deletes_are_not_used_again(
    tmp_path: Path, ends: str
) -> None:
    """A head is in the file after a second, and after a stop."""
    with opened(tmp_path / "a") as history:
        history.append([draft(), draft(), draft()])
        epoch = history.position("a").epoch
        if ends == "killed":
            history.prune()
            shutil.copytree(tmp_path / "a", tmp_path / "b")
    directory = tmp_path / ("a" if ends == "closed" else "b")
    with connected(directory / "history.db") as db:
        db.execute("DELETE FROM publications WHERE key & 0xff > 1")
    with opened(directory) as history:
        assert history.position("a").offset == 3
        assert history.append([draft()])[0] == draft().numbered(4)
        assert history.position("a").epoch != epoch  # because the file has changed


def test_lone_message_writes_one_page(tmp_path: Path) -> None:
    """A second page would cost as much again: the room's row must not change with each message."""
    log = tmp_path / "history.db-wal"
    with opened(tmp_path) as history:
        history.append([draft()])
        sizes = [log.stat().st_size]
        for _ in range(5):
            history.append([draft()])
            sizes.append(log.stat().st_size)
    # https://sqlite.org/fileformat2.html#the_write_ahead_log: a frame is a header and a page.
    assert [after - before for before, after in itertools.pairwise(sizes)] == [24 + 4096] * 5


@pytest.mark.parametrize("lead_s", [3 * 3600.0, -3 * 3600.0])
def test_message_keeps_its_time_after_the_clock_was_set(tmp_path: Path, lead_s: float) -> None:
    """Neither the messages from before nor those from after are dropped early, and no id is
    forgotten early."""
    clock, uptime = Clock(), Clock()

    def after(seconds: float) -> None:
        clock.now += seconds
        uptime.now += seconds
        history.prune()

    def say(id: str) -> Any:
        return history.append([draft(id=id)._replace(timestamp=timestamp_of(clock.now))])[0]

    ages = AgeClock(3600.0, wall=clock, steady=uptime)
    right, clock.now = clock.now, clock.now + lead_s
    with opened(tmp_path, clock=clock, ages=ages, max_age_s=3600.0) as history:
        after(1)
        say("before")
        after(1)
        clock.now = right + 2
        say("after")
        after(1)
        assert history.after("a", 0, 9).publications[0].offset == 1
        after(REMEMBER_IDS_S - 10)
        assert say("before") == Duplicate("a", "before", 1)
        assert say("after") == Duplicate("a", "after", 2)
        after(3600 - REMEMBER_IDS_S)
        assert [each.offset for each in history.after("a", 0, 9).publications] == [1, 2]
        for _ in range(4):
            after(3600)
        assert history.before("a", None, 9).publications == []


def test_message_keeps_its_time_over_a_restart_after_the_clock_was_set(tmp_path: Path) -> None:
    """The machine had no clock of its own, for example, and got the time after the server's start.
    The server is stopped or killed later."""
    clock, uptime = Clock(), Clock()
    clock.now -= 3 * 3600

    def started() -> contextlib.AbstractContextManager[SqliteHistory]:
        ages = AgeClock(3600.0, wall=clock, steady=uptime)
        return opened(tmp_path, clock=clock, ages=ages, max_age_s=3600.0)

    with started() as history:
        history.prune()
        said = draft(id="1")._replace(timestamp=timestamp_of(clock.now))
        history.append([said])
        clock.now += 3 * 3600
        history.prune()
    for _ in range(3):
        with started() as history:
            history.prune()
            assert history.append([said]) == [Duplicate("a", "1", 1)]
            assert history.before("a", None, 9).publications != []
            history.prune()


def test_rooms_beyond_the_known_ones_keep_their_offsets(tmp_path: Path) -> None:
    """Rooms leave and enter memory, even during a batch, without an effect on offsets."""
    chance = random.Random(1)
    heads = dict.fromkeys("abcdefghijkl", 0)
    with opened(tmp_path, max_known_rooms=4, max_warm_rooms=2) as history:
        for number in range(12):
            history.position(f"silent-{number}")
        epochs = {room: history.position(room).epoch for room in heads}
        for _ in range(200):
            rooms = chance.choices(tuple(heads), k=chance.randint(1, 8))
            for outcome in history.append([draft(room=room) for room in rooms]):
                assert isinstance(outcome, Message)
                heads[outcome.room] += 1
                assert outcome.offset == heads[outcome.room]
            room = chance.choice(rooms)
            assert len(history.before(room, None, 300).publications) == min(300, heads[room])
        assert {room: history.position(room) for room in heads} == {
            room: Position(epochs[room], head, TIMESTAMP) for room, head in heads.items()
        }


def test_publications_beyond_the_tail_are_recovered(tmp_path: Path) -> None:
    """A recovery reads the publications from the file that memory does not have."""
    with opened(tmp_path) as history:
        epoch = history.position("a").epoch
        for number in range(700):
            history.append([draft(f"{number} " + "x" * 3990)])
            if number == 300:
                history.before("a", None, 1)  # from here on, the room is in memory
        for missing in (1, 60, 130, 299, 300):
            found = history.since("a", Position(epoch, 700 - missing), 300)
            assert found is not None
            assert [each.offset for each in found] == list(range(701 - missing, 701))


@pytest.mark.parametrize("gone", [(2,), (3, 4), (2, 4)])
def test_recovery_is_refused_if_rows_are_missing(tmp_path: Path, gone: tuple[int, ...]) -> None:
    """Another program has deleted rows, for example: a client must not believe that it has missed
    only what is left."""
    with opened(tmp_path) as history:
        history.append([draft(str(number)) for number in range(1, 6)])
    with connected(tmp_path / "history.db") as other:
        statement = "DELETE FROM publications WHERE key & ? = ?"
        other.executemany(statement, [(OFFSET_MASK, offset) for offset in gone])
    with opened(tmp_path) as history:
        epoch = history.position("a").epoch
        for offset in range(max(gone)):
            assert history.since("a", Position(epoch, offset), 300) is None
        (edited,) = history.append([change(Kind.EDIT, 1, "changed")])
        assert getattr(edited, "target", None) == 1
        assert texts(history.since("a", Position(epoch, 5), 300)) == ["changed"]
        assert texts(history.before("a", None, 300).publications) == [
            "changed" if offset == 1 else str(offset)
            for offset in range(1, 6)
            if offset not in gone
        ]


def test_refused_change_does_not_create_a_room(tmp_path: Path) -> None:
    """A reaction to a missing message does not write its room to the file."""
    with opened(tmp_path) as history:
        (refused,) = history.append([change(Kind.REACT, 1, emoji="👍")])
        assert isinstance(refused, CommandError)
        assert select(history._db, "SELECT name FROM rooms") == []


# Failure


@contextlib.contextmanager
def failing(directory: Path, when: str) -> Iterator[None]:
    """Make some statements fail, by a trigger."""
    file = directory / "history.db"
    in_sqlite(file, f"CREATE TRIGGER fault {when} BEGIN SELECT RAISE(ABORT, 'injected'); END")
    try:
        yield
    finally:
        in_sqlite(file, "DROP TRIGGER fault")


POISON = "BEFORE INSERT ON publications WHEN new.text = 'poison'"


@pytest.mark.parametrize("warm", [True, False])
def test_failed_batch_changes_nothing(tmp_path: Path, *, warm: bool) -> None:
    """If a statement fails, memory and file stay as before, and the next batch succeeds."""
    with opened(tmp_path) as history:
        history.append([draft("one", id="1"), draft("two", id="2"), draft("zzz", room="b")])
        epoch = history.position("new").epoch
        if warm:
            before = state(history, "a", "b", "new")
        batch = [
            change(Kind.EDIT, 1, "changed"),
            change(Kind.DELETE, 2),
            draft("three", id="3"),
            draft("first", room="new"),
            draft("poison", room="b"),
        ]
        with failing(tmp_path, POISON):
            for _ in range(2):
                with pytest.raises(HistoryError, match="injected"):
                    history.append(batch)
        if warm:
            assert state(history, "a", "b", "new") == before
        assert history.position("new") == Position(epoch, 0)
        assert texts(history.before("a", None, 9)) == ["one", "two"]
        assert [each.offset for each in history.append(batch)] == [3, 4, 5, 1, 2]
        assert texts(history.before("a", None, 9)) == ["changed", "", "three"]
        after = state(history, "a", "b", "new")
    with opened(tmp_path) as history:
        assert state(history, "a", "b", "new") == after


def test_exception_outside_sqlite_changes_nothing(history: SqliteHistory) -> None:
    """If encoding a row fails, nothing of the batch is stored."""
    add(history, "one")
    before = state(history)
    with pytest.raises(UnicodeEncodeError):
        history.append([draft("two"), draft("\ud800")])
    assert state(history) == before
    add(history, "two")
    assert texts(history.before("a", None, 9)) == ["one", "two"]


def test_failing_prune_changes_nothing_and_logs_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Old messages stay readable until the disk works again, and are dropped then."""
    clock = Clock()
    with opened(tmp_path, clock=clock, max_age_s=3600.0) as history:
        history.append(
            [draft(str(n))._replace(timestamp=timestamp_of(clock.now)) for n in range(9)]
        )
        before = state(history)
        clock.now += 7200
        with failing(tmp_path, "BEFORE DELETE ON publications"), caplog.at_level(logging.INFO):
            for _ in range(3):
                history.prune()
            assert state(history) == before
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        history.prune()
        assert history.before("a", None, 9) == ([], False)


def keep_appending(history: SqliteHistory, *, room: str = "a") -> int:
    """Append until it fails; return the offset of the last publication."""
    kept = history.position(room).offset
    with pytest.raises(HistoryError):  # noqa: PT012 it is the loop that fails
        while True:
            kept = history.append([draft("x" * 3000, room=room)])[0].offset
    return kept


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a full disk `append` fails and reads work; with free space `append` works again."""
    if not can_mount(tmp_path):
        pytest.skip("needs root, to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], check=True)
    try:
        filler = tmp_path / "filler"
        filler.write_bytes(bytes(2 << 20))
        with opened(tmp_path) as history:
            kept = keep_appending(history)
            before = state(history)
            for _ in range(3):
                with pytest.raises(HistoryError):
                    history.append([draft("y" * 4000)])
                with pytest.raises(HistoryError, match="full"):
                    history.check()
                history.prune()
            assert state(history) == before
            assert history.position("a").offset == kept
            filler.unlink()
            history.check()
            assert history.append([draft("after")])[0] == draft("after").numbered(kept + 1)
        with opened(tmp_path) as history:
            assert history.position("a").offset == kept + 1
            assert texts(history.before("a", None, 1)) == ["after"]
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_file_size_limit_loses_nothing(tmp_path: Path) -> None:
    """If the file cannot grow, `append` raises; when the limit is lifted, it works again."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _in_small_files(tmp_path)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with opened(tmp_path) as history:
        newest = history.before("a", None, 1).publications[0]
        assert newest.text == "after"
        assert newest.offset == history.position("a").offset


def _in_small_files(directory: Path) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    history = new_history(directory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
    kept = keep_appending(history)
    before = state(history)
    with pytest.raises(HistoryError):
        history.append([draft("x" * 4000)])
    assert state(history) == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert history.append([draft("after")])[0] == draft("after").numbered(kept + 1)
    history.close()
    return 0


# A file that is not in its directory, or locked by another program


def assert_refuses(history: SqliteHistory, reason: str) -> None:
    """Neither `append` nor `check` succeeds, and nothing changes."""
    before = state(history)
    for _ in range(2):
        with pytest.raises(HistoryError, match=reason):
            history.append([draft("lost", id="lost")])
        with pytest.raises(HistoryError, match=reason):
            history.check()
    assert state(history) == before


@pytest.mark.parametrize("name", ["history.db", "history.db-wal", "history.db-shm"])
def test_nothing_is_stored_in_a_file_that_is_not_in_its_directory(
    tmp_path: Path, name: str
) -> None:
    """While one of the open files is away or another file is in its place, `append` fails; when it
    is back, `append` works."""
    with opened(tmp_path) as history:
        add(history, "one")
        (tmp_path / name).rename(tmp_path / "away")
        assert_refuses(history, f"{name} is missing")
        (tmp_path / name).write_bytes((tmp_path / "away").read_bytes())
        assert_refuses(history, f"{name} was replaced")
        (tmp_path / "away").rename(tmp_path / name)
        history.check()
        add(history, "two")
    with opened(tmp_path) as history:
        assert texts(history.before("a", None, 9)) == ["one", "two"]


def test_nothing_is_stored_while_the_directory_is_away(tmp_path: Path) -> None:
    """The same is true of the directory; a search does not touch what is in its place."""
    directory = tmp_path / "data"
    with opened(directory) as history:
        add(history, "one")
        asyncio.run(history.search("a", "one", 9))
        directory.rename(tmp_path / "away")
        assert_refuses(history, "cannot be reached")
        shutil.copytree(tmp_path / "away", directory)
        before = {file.name: file.read_bytes() for file in directory.iterdir()}
        assert_refuses(history, "was replaced")
        with pytest.raises(HistoryError, match="was replaced"):
            asyncio.run(history.search("a", "one", 9))
        assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
        shutil.rmtree(directory)
        (tmp_path / "away").rename(directory)
        add(history, "two")
        assert texts(asyncio.run(history.search("a", "two", 9))) == ["two"]


def emptied(log: Path) -> None:
    os.truncate(log, 0)


def shortened(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def erased(log: Path) -> None:
    log.write_bytes(bytes(log.stat().st_size))


@pytest.mark.parametrize("break_it", [emptied, shortened, erased])
def test_nothing_is_stored_in_a_log_with_a_hole(
    tmp_path: Path, break_it: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was emptied to free space, for example. SQLite would go on, and write the hole into
    the database file at the end."""
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.01)
    with opened(tmp_path) as history:
        history.append([draft("old")])
    with opened(tmp_path) as history:
        history.append([draft(f"lost {number}") for number in range(100)])
        time.sleep(CONTENT_INTERVAL_S)
        break_it(tmp_path / "history.db-wal")
        monkeypatch.setattr(checkpoints, "QUIET_INTERVALS", 1)
        assert_refuses(history, "was emptied or overwritten")
        time.sleep(0.1)  # for some checkpoints
    with opened(tmp_path) as history:
        assert texts(history.before("a", None, 9).publications)[0] == "old"
        add(history, "new")
        assert history.position("a").offset > 1


@pytest.mark.usefixtures("idle_checkpoints")
def test_nothing_is_stored_in_a_file_that_was_overwritten(tmp_path: Path) -> None:
    """An older copy was written over the file, without a stop of the server: nothing more is
    confirmed, and nothing is mixed with the copy."""
    with opened(tmp_path / "data") as history:
        history.append([draft("old")])
    copy = shutil.copytree(tmp_path / "data", tmp_path / "copy")
    with opened(tmp_path / "data") as history:
        history.append([draft(f"lost {number}") for number in range(100)])
        history._checkpointer._checkpoint()
        add(history, "lost, too")
        epoch = history.position("a").epoch
        history.check()
        state(history)  # from now on in memory: the copy and the log do not fit together
        shutil.copyfile(copy / "history.db", tmp_path / "data" / "history.db")
        time.sleep(CONTENT_INTERVAL_S)
        assert_refuses(history, "was overwritten while the server runs")
        history._checkpointer._checkpoint()
    (tmp_path / "data" / "history.db-wal").unlink()
    assert (tmp_path / "data" / "history.db").read_bytes() == (copy / "history.db").read_bytes()
    with opened(tmp_path / "data") as history:
        assert history.position("a").epoch != epoch
        assert texts(history.before("a", None, 9).publications) == ["old"]


@pytest.mark.usefixtures("idle_checkpoints")
def test_other_changes_of_the_file_are_no_harm(tmp_path: Path) -> None:
    """Neither checkpoints, in any process, nor a program that sets the time of the file."""
    with opened(tmp_path) as history:
        for number in range(300):
            add(history, f"{number}: " + "x" * 1000)
            change = number % 5
            if change == 0:
                history._checkpointer._checkpoint()
            elif change == 1:
                os.utime(tmp_path / "history.db", (number, number))
            elif change == 2:
                with connected(tmp_path / "history.db") as other:
                    assert select(other, "SELECT count(*) FROM rooms") == [(1,)]
                    other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            elif change == 3:
                with connected(tmp_path / "history.db") as other:
                    other.execute("UPDATE publications SET edited = NULL")
            history.check()
    with opened(tmp_path) as history:
        assert history.position("a").offset == 300


def test_log_that_another_program_has_moved_is_whole(tmp_path: Path) -> None:
    """A backup program can move the log into the file and empty it; nothing is lost then."""
    with opened(tmp_path) as history:
        for number in range(3):
            add(history, str(number))
            with connected(tmp_path / "history.db") as other:
                assert select(other, "SELECT count(*) FROM publications") == [(number + 1,)]
                other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            assert not (tmp_path / "history.db-wal").stat().st_size
            history.check()
        add(history, "3")
        history.check()
    with opened(tmp_path) as history:
        assert history.position("a").offset == 4


def test_removed_lock_is_locked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file of the lock is removed, the history creates and locks it again, and says so."""
    with opened(tmp_path) as history:
        for _ in range(2):
            (tmp_path / "lock").unlink()
            add(history, "one")
            with pytest.raises(SettingError, match="in use by another server"):
                new_history(tmp_path)
        (tmp_path / "lock").unlink()
        history.check()
        assert (tmp_path / "lock").exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    with opened(tmp_path) as history:
        assert texts(history.before("a", None, 9)) == ["one"] * 2


def test_lock_that_was_replaced_is_not_taken_back(tmp_path: Path) -> None:
    """Another server may have stored messages that this process does not know of."""
    with opened(tmp_path) as history:
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()
        assert_refuses(history, "lock was replaced")


def test_lock_of_another_program_is_not_waited_for(tmp_path: Path) -> None:
    """While another program has locked the file, `append` and `prune` fail at once, and reads work;
    after that, `check` finds that it can be written again."""
    with opened(tmp_path, max_age_s=3600.0) as history:
        add(history, "one")
        with connected(tmp_path / "history.db") as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            for _ in range(20):
                with pytest.raises(HistoryError, match="another program has locked"):
                    history.append([draft("two")])
                history.prune()
                with pytest.raises(HistoryError, match="another program has locked"):
                    history.check()
                assert texts(history.after("a", 0, 9)) == ["one"]
                assert history.position("new").offset == 0
            assert time.monotonic() - begun < 1 * TIMEOUT_UNIT_S
            assert texts(asyncio.run(history.search("a", "one", 9))) == ["one"]
        history.check()
        add(history, "two")
        assert texts(history.after("a", 0, 9)) == ["one", "two"]


def test_long_read_does_not_make_the_writer_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an export reads an old snapshot, the log grows, and checkpoints that cannot move all
    of it do not delay a commit."""
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.01)
    monkeypatch.setattr(checkpoints, "TOO_LONG_BYTES", 1 << 20)
    monkeypatch.setattr(checkpoints, "LAST_PART_BYTES", 1 << 18)
    with opened(tmp_path) as history, connected(tmp_path / "history.db") as export:
        export.execute("BEGIN")
        export.execute("SELECT count(*) FROM rooms").fetchall()
        longest = 0.0
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            begun = time.monotonic()
            history.append([draft("x" * 5000)])
            longest = max(longest, time.monotonic() - begun)
        assert (tmp_path / "history.db-wal").stat().st_size > 1 << 20
        # SQLite's own checkpoint of a whole log would wait for the reader, and lock the writer out.
        assert longest < 0.5 * TIMEOUT_UNIT_S


@pytest.mark.usefixtures("idle_checkpoints")
def test_writer_waits_once_for_a_slow_checkpoint(tmp_path: Path) -> None:
    """If the last part of a checkpoint takes long, the history is busy for a moment, and `append`
    waits for that long at most; then it fails at once until the part is moved."""
    with opened(tmp_path) as history:
        add(history, "one")
        durations = []
        assert not history.is_busy
        with history._checkpointer._commits_put_off():
            assert history.is_busy
            for _ in range(5):
                begun = time.monotonic()
                with pytest.raises(HistoryError, match="the disk is slow"):
                    history.append([draft("two")])
                durations.append(time.monotonic() - begun)
            assert not history.is_busy
        assert sum(durations[1:]) < checkpoints.MAX_PAUSE_S
        assert not history.is_busy
        add(history, "two")
        assert texts(history.after("a", 0, 9)) == ["one", "two"]


def salt_of(history: SqliteHistory) -> int:
    """ "Salt-1" of the log: it increases when the log begins anew (SQLite's file format, §4.1)."""
    log, _ = sqlite_files(history.file)
    return int.from_bytes(log.read_bytes()[16:20], "big")


@pytest.mark.usefixtures("idle_checkpoints")
def test_event_loop_never_begins_the_log_anew(tmp_path: Path) -> None:
    """A commit that begins the log anew waits for the disk, so the checkpoints' thread makes it;
    while it moves the log, no commit does it either."""
    with opened(tmp_path) as history:
        add(history, "one")
        first = salt_of(history)
        checkpointer = history._checkpointer
        with checkpointer._log_kept():
            assert checkpointer._move()[1] == 0
            add(history, "two")
        assert salt_of(history) == first
        checkpointer._checkpoint()
        anew = salt_of(history)
        assert anew != first
        add(history, "three")
        assert salt_of(history) == anew
    with opened(tmp_path) as history:
        assert texts(history.after("a", 0, 9)) == ["one", "two", "three"]


@pytest.mark.usefixtures("idle_checkpoints")
def test_log_keeps_its_size_until_it_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load the file of the log stays as long as it was, because new blocks cost time; a quiet
    server gives the space back, and then writes nothing more."""
    monkeypatch.setattr(checkpoints, "WORTH_IT_BYTES", 1 << 18)
    with opened(tmp_path) as history:
        log, _ = sqlite_files(history.file)
        while log.stat().st_size <= 1 << 18:
            history.append([draft("x" * 4000) for _ in range(10)])
        size = log.stat().st_size
        history._checkpointer._checkpoint()
        assert log.stat().st_size == size
        add(history, "more")
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.01)
    with opened(tmp_path) as history:
        while log.stat().st_size <= 1 << 18:
            history.append([draft("x" * 4000) for _ in range(10)])
        wait_until(lambda: log.stat().st_size <= 1 << 18)
        salt = salt_of(history)
        time.sleep(2 * checkpoints.QUIET_INTERVALS * checkpoints.INTERVAL_S)
        assert salt_of(history) == salt


def test_locked_file_can_be_opened(tmp_path: Path) -> None:
    """A history that another program has locked is opened; `check` says that it cannot be written,
    until it can."""
    with opened(tmp_path) as history:
        add(history, "one")
    with connected(tmp_path / "history.db") as other:
        other.execute("BEGIN IMMEDIATE")
        with opened(tmp_path) as history:
            with pytest.raises(HistoryError, match="another program has locked"):
                history.check()
            assert texts(history.after("a", 0, 9)) == ["one"]
            other.execute("ROLLBACK")
            history.check()
            add(history, "two")


# Reading from memory


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All statements that connections execute during the test."""
    executed: list[str] = []

    def trace(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        executed.append(statement)
        return True

    def hook(connection: apsw.Connection) -> None:
        connection.exec_trace = trace

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, hook])
    return executed


def test_thousand_recoveries_read_the_disk_at_most_five_times(
    tmp_path: Path, statements: list[str]
) -> None:
    """After a restart, the first recovery reads the file, and later ones read memory."""
    with opened(tmp_path) as history:
        for number in range(400):
            add(history, str(number))
    with opened(tmp_path) as history:
        statements.clear()
        epoch = history.position("a").epoch
        for number in range(1000):
            found = history.since("a", Position(epoch, 100 + number % 300), 300)
            assert found is not None
            assert len(found) == 300 - number % 300
            assert len(history.before("a", None, 50).publications) == 50
        assert len(statements) <= 5
        add(history, "warm stays warm")
        statements.clear()
        assert texts(history.since("a", Position(epoch, 400), 300)) == ["warm stays warm"]
        assert not statements


def test_batch_costs_few_statements(tmp_path: Path, statements: list[str]) -> None:
    """A turn of 500 messages without ids is one transaction and one insertion."""
    with opened(tmp_path) as history:
        add(history, "one")
        statements.clear()
        history.append([draft() for _ in range(500)])
        assert len({*statements}) <= 4
        assert [each for each in statements if each in ("BEGIN IMMEDIATE", "COMMIT")] == [
            "BEGIN IMMEDIATE",
            "COMMIT",
        ]


# Deletion


def test_deleted_text_is_in_no_read_row_or_file(tmp_path: Path) -> None:
    """No read, row or byte of a file has a deleted text or the texts of its edits."""
    secrets = ("first-secret-7341", "second-secret-9127", "third-secret-5518")
    with opened(tmp_path) as history:
        add(history, "before", secrets[0])
        history.append([change(Kind.EDIT, 2, secrets[1])])
        add(history, "between")
        history.append([change(Kind.EDIT, 2, secrets[2])])
        history.append([change(Kind.DELETE, 2)])
        for read in (
            state(history),
            history.since("a", history.position("a")._replace(timestamp=None, offset=0), 9),
        ):
            assert "secret" not in repr(read)
    with connected(tmp_path / "history.db") as connection:
        for table in ("rooms", "publications", "ids"):
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            assert "secret" not in repr(rows)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], file


# Durability


@pytest.mark.parametrize(("sync_commits", "expected"), [(False, 1), (True, 2)])
def test_power_loss_durability_syncs_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sync_commits: bool, expected: int
) -> None:
    """`synchronous` of the writing connection is FULL (2) or NORMAL (1) by `sync_commits`."""
    connections: list[apsw.Connection] = []
    monkeypatch.setattr(apsw, "connection_hooks", [connections.append])
    with opened(tmp_path, sync_commits=sync_commits):
        assert connections[0].pragma("synchronous") == expected
        assert connections[0].pragma("journal_mode") == "wal"


def test_checkpoint_moves_the_log_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some quiet intervals, the database file has what was written."""
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.01)
    with opened(tmp_path) as history:
        size = history.file.stat().st_size
        add(history, *(str(number) * 1000 for number in range(9)))
        wait_until(lambda: history.file.stat().st_size > size)


@pytest.mark.usefixtures("idle_checkpoints")
def test_log_is_sent_to_the_disk_while_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is sent once, without the pages that the next commits write; a log that begins anew
    is sent from its beginning."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(log, "_begin_writeback", lambda file, *part: sent.append(part))
    with opened(tmp_path) as history:
        checkpointer = history._checkpointer
        for _ in range(2):
            sent.clear()
            for _ in range(3):
                history.append([draft("x" * 4000) for _ in range(20)])
                checkpointer._log.begin_writeback(4096)
                checkpointer._log.begin_writeback(4096)
            assert len(sent) == 3
            assert sent[0][0] == 0
            assert [start for start, _ in sent[1:]] == [sum(part) for part in sent[:-1]]
            assert sum(sent[-1]) == 32 + checkpointer._log.frames() * 4120 - 4096
            checkpointer._checkpoint()


def test_checkpoints_go_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a look at the log, or of a checkpoint, is logged once and retried."""
    caplog.set_level(logging.INFO, "fastchat.history")
    monkeypatch.setattr(checkpoints, "INTERVAL_S", 0.01)
    monkeypatch.setattr(checkpoints, "QUIET_INTERVALS", 1)
    failed: list[object] = []

    def fail(checked: object, *_: object) -> int:
        failed.append(checked)
        raise apsw.IOError("disk I/O error")

    with opened(tmp_path) as history:
        size = history.file.stat().st_size
        for owner, name in (
            (WriteAheadLog, "frames"),
            (Checkpointer, "_move"),
            (MainFile, "is_overwritten"),
        ):
            add(history, name * 1000)
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, fail)
                wait_until(lambda: len(failed) >= 3)
            failed.clear()
            add(history, name)
            wait_until(lambda: caplog.messages[-1] == "checkpoints of the history work again")
            assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
            caplog.clear()
        assert history.file.stat().st_size > size


# Comparison with the history in memory


@pytest.mark.parametrize("seed", range(4))
def test_random_operations_have_the_same_results_as_in_memory(tmp_path: Path, seed: int) -> None:
    """Appends, changes, failures and restarts give the same results in both histories."""
    options = {"max_messages": 10**6, "max_known_rooms": 3, "max_warm_rooms": 2}
    chance = random.Random(seed)
    rooms = ("a", "b", "c", "d", "e")
    epochs: dict[str, str] = {}
    model = MemoryHistory(max_messages=10**6, new_generation=lambda: GENERATION)
    history = new_history(tmp_path, **options)

    def random_draft(number: int) -> Draft:
        room, name = chance.choice(rooms), chance.choice(("Ann", "Bob"))
        head = model.position(room).offset
        if head == 0 or chance.random() < 0.6:
            id = chance.choice((None, f"id{number}", f"id{chance.randint(0, 200)}"))
            return MessageDraft(room, name, f"text {number}", f"t{number}", name, id)
        kind = chance.choice((Kind.EDIT, Kind.DELETE, Kind.REACT))
        emoji = "👍" if kind is Kind.REACT else ""
        text = f"edit {number}" if kind is Kind.EDIT else ""
        target = chance.randint(max(1, head - 30), head)
        remove = kind is Kind.REACT and chance.random() < 0.3
        return ChangeDraft(room, name, text, f"t{number}", name, kind, target, emoji, remove)

    def observed(history: History) -> list[Any]:
        room = chance.choice(rooms)
        epoch, head, _ = history.position(room)
        offset, limit = chance.randint(0, head + 1), chance.randint(1, 300)
        return [
            head,
            plain(history.since(room, Position(epoch, offset), limit)),
            plain(history.before(room, offset, limit)),
            plain(history.after(room, offset, limit)),
            plain(history.before(room, None, limit)),
        ]

    try:
        for number in range(300):
            drafts = [random_draft(number * 10 + n) for n in range(chance.randint(1, 6))]
            if chance.random() < 0.05:
                with failing(tmp_path, POISON), pytest.raises(HistoryError):
                    history.append([*drafts, draft("poison", room=chance.choice(rooms))])
            outcomes = history.append(drafts)
            assert list(map(outline, outcomes)) == list(map(outline, model.append(drafts)))
            if chance.random() < 0.05:
                history.close()
                history = new_history(tmp_path, **options)
            for room in rooms:
                epoch, head, _ = history.position(room)
                assert epochs.setdefault(room, epoch) == epoch or head == 0
                epochs[room] = epoch
            again = chance.getstate()
            expected = observed(model)
            chance.setstate(again)
            assert observed(history) == expected
    finally:
        history.close()


def plain(read: Any) -> Any:
    """A read value with reactions as lists, as the file returns them."""
    if isinstance(read, Message):
        reactions = read.reactions and {key: list(names) for key, names in read.reactions.items()}
        return read._replace(reactions=reactions)
    if isinstance(read, list | tuple):
        return [plain(each) for each in read]
    return read


def outline(outcome: Any) -> Any:
    """An outcome; a refusal is represented by its code."""
    return outcome.code if isinstance(outcome, CommandError) else outcome
