"""Tests of the notes beside a history: which events change the epochs, and which do not."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.history import add, texts
from fastchat.errors import HistoryError
from fastchat.history import transfer
from fastchat.protocol import Position
from support.server import TIMEOUT_UNIT_S
from support.sqlite_history import count, opened

#: The rooms of these tests; nothing is ever said in the last one.
ROOMS = ("a", "b", "silent")


def epochs(directory: Path, **options: Any) -> list[str]:
    """Open the history and close it again; returns the epochs of its rooms."""
    with opened(directory, **options) as history:
        return [history.position(room).epoch for room in ROOMS]


def talk(directory: Path, *said: str, **options: Any) -> list[str]:
    """Say something in the rooms, and stop; returns their epochs."""
    with opened(directory, **options) as history:
        for text in said or ("hello",):
            for room in ROOMS[:-1]:
                add(history, text, room=room)
    return epochs(directory, **options)


def kill(directory: Path, then: str = "say('last')", *, sync_commits: bool = False) -> None:
    """Say something in a process that is killed afterwards.

    `then` is a line that the process runs before its end.
    """
    program = (
        "import os, shutil, sys, time\nfrom pathlib import Path\n"
        "from fastchat.history.sqlite import SqliteHistory\n"
        "from fastchat.protocol import MessageDraft\n"
        "directory = Path(sys.argv[1])\n"
        "history = SqliteHistory(directory, max_messages=100, max_age_s=0,\n"
        f"    sync_commits={sync_commits}, clock=time.time)\n"
        "def say(text):\n"
        "    history.append([MessageDraft(room, 'Alice', text, 'now', '') for room in 'ab'])\n"
        f"{then}\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", program, str(directory)]
    ended = subprocess.run(command, capture_output=True, timeout=20 * TIMEOUT_UNIT_S)
    assert ended.returncode == -9, ended.stderr


def notes(directory: Path) -> dict[str, Any]:
    noted: dict[str, Any] = json.loads((directory / "history.state").read_bytes())
    return noted


def note(directory: Path, **changes: Any) -> None:
    changed = json.dumps({**notes(directory), **changes})
    (directory / "history.state").write_text(changed.ljust(1024), "utf-8")


def reboot(directory: Path) -> None:
    """Make the notes those of another boot. The device can have another number then."""
    history = notes(directory)["history"]
    note(directory, boot="another", history=[history[0] + 1, *history[1:]])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


# What changes no epoch


def stopped(data: Path) -> None:
    """Nothing happens between two runs."""


def rebooted(data: Path) -> None:
    reboot(data)


def moved_away_and_back(data: Path) -> None:
    data.rename(data.with_name("away"))
    data.with_name("away").rename(data)


def moved_elsewhere_and_back(data: Path) -> None:
    (data.parent / "disk").mkdir()
    shutil.move(data, data.parent / "disk" / "data")
    shutil.move(data.parent / "disk" / "data", data)


def killed(data: Path) -> None:
    kill(data)


def killed_twice(data: Path) -> None:
    kill(data)
    kill(data)


def killed_before_it_wrote(data: Path) -> None:
    kill(data, "pass")


def killed_and_moved(data: Path) -> None:
    kill(data)
    moved_away_and_back(data)


def killed_after_a_checkpoint(data: Path) -> None:
    kill(data, "say('last'); history._db.wal_checkpoint(mode=1); say('more')")


def killed_after_its_lock_was_removed(data: Path) -> None:
    kill(data, "(directory / 'lock').unlink(); history.check(); say('last')")


def killed_while_it_was_closed(data: Path) -> None:
    kill(data, "say('last'); history._open_file._continuity.prepare_end(); history._db.close()")


def killed_before_it_was_closed(data: Path) -> None:
    kill(data, "say('last'); history._open_file._continuity.prepare_end()")


def moved_while_it_ran(data: Path) -> None:
    with opened(data) as history:
        add(history, "before")
        moved_away_and_back(data)
        add(history, "after")


def stopped_while_it_was_moved(data: Path) -> None:
    with opened(data) as history:
        add(history, "before")
        data.rename(data.with_name("away"))
        with pytest.raises(HistoryError):
            add(history, "meanwhile")
    data.with_name("away").rename(data)


def crashed_with_synced_commits(data: Path) -> None:
    kill(data, sync_commits=True)
    reboot(data)


def exported(data: Path) -> None:
    with (data.parent / "export").open("wb") as out:
        transfer.export_rooms(data, None, out)


def stopped_during_an_export(data: Path) -> None:
    with transfer._snapshot(data), opened(data) as history:
        add(history, "last")


def read_by_another_program(data: Path) -> None:
    count(data, "SELECT count(*) FROM rooms")


def imported(data: Path) -> None:
    line = b'{"username":"Ann","text":"old","room":"imported"}\n'
    file = data.parent / "lines"
    file.write_bytes(line)
    with file.open("rb") as lines:
        transfer.import_rooms(data, lines, "lines", "lobby")


@pytest.mark.parametrize(
    "event",
    [
        stopped,
        rebooted,
        moved_away_and_back,
        moved_elsewhere_and_back,
        killed,
        killed_twice,
        killed_before_it_wrote,
        killed_and_moved,
        killed_after_a_checkpoint,
        killed_after_its_lock_was_removed,
        killed_while_it_was_closed,
        killed_before_it_was_closed,
        moved_while_it_ran,
        stopped_while_it_was_moved,
        crashed_with_synced_commits,
        exported,
        stopped_during_an_export,
        read_by_another_program,
        imported,
    ],
)
def test_epochs_stay_if_nothing_is_lost(
    data: Path, event: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Positions are valid after a stop, a kill, a move and a reboot, also in a silent room."""
    before = talk(data)
    event(data)
    assert epochs(data) == before
    assert epochs(data) == before
    assert "new epochs" not in caplog.text


# What changes all epochs


def copy_of(data: Path) -> Path:
    return Path(shutil.copytree(data, data.with_name("copy")))


def copy_put_back(data: Path) -> None:
    copy = copy_of(data)
    talk(data, "lost")
    shutil.rmtree(data)
    copy.rename(data)


def copy_written_over(data: Path) -> None:
    copy = copy_of(data)
    talk(data, "lost")
    shutil.copytree(copy, data, dirs_exist_ok=True)


def history_alone_written_over(data: Path) -> None:
    copy = copy_of(data)
    talk(data, "lost")
    shutil.copy2(copy / "history.db", data / "history.db")


def history_alone_put_back(data: Path) -> None:
    copy = copy_of(data)
    talk(data, "lost")
    (copy / "history.db").rename(data / "history.db")


def linked_copy_put_back(data: Path) -> None:
    shutil.copytree(data, data.with_name("copy"))
    talk(data, "lost")
    shutil.rmtree(data)
    shutil.copytree(data.with_name("copy"), data, copy_function=os.link)


def copy_used_elsewhere(data: Path) -> None:
    copy = copy_of(data)
    shutil.rmtree(data)
    shutil.copytree(copy, data)


def hot_copy_put_back_after_a_kill(data: Path) -> None:
    kill(data, "say('kept'); shutil.copytree(directory, str(directory) + '-hot'); say('lost')")
    shutil.rmtree(data)
    data.with_name("data-hot").rename(data)


def hot_copy_written_over_after_a_kill(data: Path) -> None:
    kill(data, "say('kept'); shutil.copytree(directory, str(directory) + '-hot'); say('lost')")
    shutil.copytree(data.with_name("data-hot"), data, dirs_exist_ok=True)


def copy_put_back_after_a_kill(data: Path) -> None:
    copy = copy_of(data)
    kill(data)
    shutil.rmtree(data)
    copy.rename(data)


def copy_written_over_after_a_kill(data: Path) -> None:
    copy = copy_of(data)
    kill(data)
    shutil.copytree(copy, data, dirs_exist_ok=True)
    (data / "history.db-wal").unlink()


def history_written_over_after_a_kill(data: Path) -> None:
    copy = copy_of(data)
    kill(data)
    shutil.copyfile(copy / "history.db", data / "history.db")
    (data / "history.db-wal").unlink()


def history_and_log_put_back_after_a_kill(data: Path) -> None:
    kill(data, "say('kept'); shutil.copytree(directory, str(directory) + '-hot'); say('lost')")
    hot = data.with_name("data-hot")
    shutil.copyfile(hot / "history.db", data / "history.db")
    (hot / "history.db-wal").rename(data / "history.db-wal")


def log_removed_after_a_kill(data: Path) -> None:
    kill(data, "say('kept'); history._db.wal_checkpoint(mode=1); say('lost')")
    (data / "history.db-wal").unlink()


def log_removed_after_a_kill_without_a_checkpoint(data: Path) -> None:
    kill(data)
    (data / "history.db-wal").unlink()


def log_emptied_after_a_kill(data: Path) -> None:
    kill(data)
    os.truncate(data / "history.db-wal", 0)


def log_shortened_after_a_kill(data: Path) -> None:
    kill(data)
    os.truncate(data / "history.db-wal", (data / "history.db-wal").stat().st_size - 1)


def head_of_the_log_erased_after_a_kill(data: Path) -> None:
    kill(data)
    with (data / "history.db-wal").open("r+b") as log:
        log.write(bytes(32))


def log_written_over_after_a_kill(data: Path) -> None:
    kill(data, "say('kept'); shutil.copytree(directory, str(directory) + '-hot'); say('lost')")
    shutil.copyfile(data.with_name("data-hot") / "history.db-wal", data / "history.db-wal")


def log_emptied_while_it_ran(data: Path) -> None:
    with opened(data) as history:
        add(history, "lost")
        os.truncate(data / "history.db-wal", 0)


def log_emptied_before_a_kill(data: Path) -> None:
    kill(data, "say('lost'); os.truncate(directory / 'history.db-wal', 0)")


def crashed(data: Path) -> None:
    kill(data)
    reboot(data)


def crashed_on_an_unknown_boot(data: Path) -> None:
    kill(data)
    note(data, boot="")


def crashed_after_a_kill_without_syncs(data: Path) -> None:
    kill(data)
    kill(data, "pass", sync_commits=True)
    reboot(data)


def notes_removed(data: Path) -> None:
    (data / "history.state").unlink()


def notes_damaged(data: Path) -> None:
    (data / "history.state").write_bytes(b"{" * 1024)


def notes_empty(data: Path) -> None:
    (data / "history.state").write_bytes(b"")


def notes_of_another_form(data: Path) -> None:
    (data / "history.state").write_bytes(b'{"phase":"stopped","history":[1]}')


def notes_of_a_newer_version(data: Path) -> None:
    note(data, phase="paused")


def notes_without_values(data: Path) -> None:
    note(data, history=None)


@pytest.mark.parametrize(
    "event",
    [
        copy_put_back,
        copy_written_over,
        history_alone_written_over,
        history_alone_put_back,
        linked_copy_put_back,
        copy_used_elsewhere,
        hot_copy_put_back_after_a_kill,
        hot_copy_written_over_after_a_kill,
        copy_put_back_after_a_kill,
        copy_written_over_after_a_kill,
        history_written_over_after_a_kill,
        history_and_log_put_back_after_a_kill,
        log_removed_after_a_kill,
        log_removed_after_a_kill_without_a_checkpoint,
        log_emptied_after_a_kill,
        log_shortened_after_a_kill,
        head_of_the_log_erased_after_a_kill,
        log_written_over_after_a_kill,
        log_emptied_while_it_ran,
        log_emptied_before_a_kill,
        crashed,
        crashed_on_an_unknown_boot,
        crashed_after_a_kill_without_syncs,
        notes_removed,
        notes_damaged,
        notes_empty,
        notes_of_another_form,
        notes_of_a_newer_version,
        notes_without_values,
    ],
)
def test_all_epochs_change_if_messages_may_be_lost(
    data: Path, event: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A position from before is not recovered, the log says why, and the next start changes
    nothing."""
    before = talk(data)
    with opened(data) as history:
        position = history.position("a")
    event(data)
    with caplog.at_level(logging.WARNING), opened(data) as history:
        after = [history.position(room).epoch for room in ROOMS]
        assert not set(after) & set(before)
        assert len(set(after)) == len(ROOMS)
        assert history.since("a", position, 300) is None
        assert "hello" in texts(history.before("a", None, 9))
    (line,) = [each.getMessage() for each in caplog.records if "new epochs" in each.getMessage()]
    assert "all rooms (2)" in line
    assert epochs(data) == after


def test_new_history_is_not_reported(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory that is new, or whose history was removed, has nothing to report."""
    before = talk(data)
    for file in data.glob("history.db*"):
        file.unlink()
    assert not set(talk(data)) & set(before)
    assert caplog.text == ""


def test_notes_that_cannot_be_written_are_reported(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The history works; as its notes are missing, its epochs change at the next start."""
    data.mkdir()
    (data / "history.state").mkdir()
    before = talk(data)
    assert "history.state cannot be written" in caplog.text
    with opened(data) as history:
        assert texts(history.before("a", None, 9)) == ["hello"]
        assert history.since("a", Position(before[0], 1), 9) is None


def test_outdated_notes_are_no_notes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails when a server starts, the notes of the server before it must not count."""
    before = talk(data)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("fastchat.history.continuity.os.fsync", fail)
        assert epochs(data) == before
    assert (data / "history.state").read_bytes() == b""
    assert not set(epochs(data)) & set(before)
