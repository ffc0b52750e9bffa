"""Finds out whether a history's file may lack messages that clients have seen.

Invariant
---------
A publication that clients have received under an epoch stays at its offset under that epoch, until
the history drops it as one of the oldest. So if a file may lack such publications, all its rooms
get new epochs, and clients load the rooms afresh.

How
---
A copy that is put in the place of the file is a valid database, and nothing inside it shows that it
is a copy. So a small file beside it, `history.state`, has notes about the history's file: its
inode, its size, and the time of its last change (`ctime`, which no program can set). Before the
file is opened again, it is compared with the notes. The notes also have the phase of the server:

* Stopped: the file must have the same inode, size and ctime as after the last write. A copy has
  another inode, or another ctime if it was written over the file.
* Running: the server was killed. Its commits are in the page cache, so they are lost only if the
  machine goes down, and the machine then has another boot id. Synced commits survive even that. The
  file and its write-ahead log must have the same inodes. Nothing changes the lock file while a
  server runs, so its inode and ctime show whether the directory was copied or overwritten.
* Closing: as running, but the write-ahead log may be gone already.

The notes are on the disk before the first commit of a server, and again after its last one. The
number of the device is compared within one boot only, because it can change with a boot.

What this does not find
-----------------------
A snapshot of a volume or of a virtual machine takes the notes back in time together with the file.
Single files that were copied from a running server can be written over the present files after it
was killed. In both cases the positions of clients show it, because a position contains the
timestamp of the client's last publication (`History.since`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fastchat.clocks import boot_id
from fastchat.database import select, transaction
from fastchat.directory import hold, sqlite_files
from fastchat.history.epochs import epoch_of, new_generation
from fastchat.history.log import is_log_whole

__all__ = ["FILE_NAME", "Continuity"]

logger = logging.getLogger("fastchat.history")

#: In the data directory.
FILE_NAME = "history.state"
#: The notes are written over the old ones in place and are always this long, so that a server can
#: start on a full disk. Notes that were written in part are no notes.
_NOTES_BYTES = 1024
_STOPPED, _RUNNING, _CLOSING = "stopped", "running", "closing"

_UNKNOWN = "there are no notes about its last use"
_CHANGED = "it was copied, restored or changed since the server stopped"
_REPLACED = "it was copied or restored since the server was killed"
_NO_LOG = "its write-ahead log was removed, replaced or emptied"
_RESTARTED = "the machine was restarted, and the server had not been stopped before"


class _FileStatus(NamedTuple):
    """What the system knows of a file; `changed` is its ctime in nanoseconds."""

    device: int
    inode: int
    changed: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> _FileStatus:
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size)


class _Notes(NamedTuple):
    """The content of the notes.

    * `phase`: that of the server, and `boot`: the id of the boot.
    * `is_synced`: whether all commits were synced to the disk.
    * `log`: the write-ahead log; None if there is none, as usually after a stop.
    """

    phase: str
    boot: str
    is_synced: bool
    history: _FileStatus
    lock: _FileStatus
    log: _FileStatus | None

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode().ljust(_NOTES_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> _Notes | None:
        try:
            fields = json.loads(data)
            for name in ("history", "lock"):
                fields[name] = _FileStatus(*map(int, fields[name]))
            if fields["log"] is not None:
                fields["log"] = _FileStatus(*map(int, fields["log"]))
            notes = cls(**fields)
            return notes if notes.phase in (_STOPPED, _RUNNING, _CLOSING) else None
        except (ValueError, TypeError, KeyError):
            return None


class Continuity:
    """Compares a history's `file` with the notes about it, and writes new notes.

    `lock` is the descriptor of the lock of the file's directory. Construct it before the file is
    opened, because opening can change the file. The order of calls is `begin`, `prepare_end`,
    `end`, `close`. If the notes cannot be written, the log says so, and all rooms get new epochs at
    the next start.
    """

    def __init__(self, file: Path, lock: int) -> None:
        self._file = file
        self._log, index = sqlite_files(file)
        self._lock = _FileStatus.of(os.fstat(lock))
        self._boot = boot_id()
        self._before = _status_of(file)
        self._log_before = _status_of(self._log)
        self._last = _read(file.with_name(FILE_NAME))
        # After a boot, SQLite does not use the old index either.
        is_same_boot = self._last is not None and self._last.boot == self._boot
        self._is_log_whole = is_log_whole(self._log, index if is_same_boot else None)
        self._is_synced = False
        self._history_file: int | None = None
        self._notes_file: int | None = None

    def begin(self, db: apsw.Connection, *, sync_commits: bool) -> bytes:
        """Note that a server uses the file, which `db` has opened; return its generation.

        If the file may have lost its end, it gets a new generation, and all of its rooms get new
        epochs in the same transaction. Raises apsw.Error or OSError if the disk fails.
        """
        reason = self._why_broken() if self._before is not None and self._before.size else None
        if reason is not None:
            _renew(db, reason)
        self._history_file = hold(self._file)
        self._open_notes()
        # The commits of a killed server without syncs may not be on the disk yet.
        self._is_synced = sync_commits and (
            self._last is None or self._last.is_synced or self._last.phase == _STOPPED
        )
        self._write(_RUNNING, log=_status_of(self._log), sync=True)
        ((generation,),) = select(db, "SELECT value FROM facts WHERE name = 'generation'")
        return bytes(generation)

    def note_lock(self, lock: int) -> None:
        """Note that the file of the lock was removed, and was created again by this server."""
        self._lock = _FileStatus.of(os.fstat(lock))
        self._write(_RUNNING, log=_status_of(self._log), sync=True)

    def forget(self) -> None:
        """Make the notes no notes, because the file may have lost a part."""
        if self._notes_file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._notes_file, 0)
            os.close(self._notes_file)
            self._notes_file = None

    def prepare_end(self) -> None:
        """Note that the file is about to be closed."""
        self._write(_CLOSING)

    def end(self) -> None:
        """Note that the file was closed after its last write."""
        log = _status_of(self._log)
        if log is None or not log.size:
            self._write(_STOPPED, sync=True)
        elif self._sync_log():  # another process still reads the file, so SQLite has left the log
            self._write(_STOPPED, log=log, sync=True)

    def close(self) -> None:
        """Release the descriptors. Without a call of `end`, the server counts as killed."""
        for descriptor in (self._notes_file, self._history_file):
            if descriptor is not None:
                os.close(descriptor)
        self._notes_file = self._history_file = None

    def _why_broken(self) -> str | None:
        """Why the file may lack publications that clients have seen; None if it lacks none."""
        last, now = self._last, self._before
        if last is None or now is None:
            return _UNKNOWN
        is_same_boot = last.boot == self._boot != ""
        if now.inode != last.history.inode or (is_same_boot and now.device != last.history.device):
            return _CHANGED if last.phase == _STOPPED else _REPLACED
        is_unchanged = (now.changed, now.size) == (last.history.changed, last.history.size)
        if last.phase == _STOPPED:
            if not is_unchanged:
                return _CHANGED
            return None if last.log is None or self._has_log(last.log.size) else _NO_LOG
        if (self._lock.inode, self._lock.changed) != (last.lock.inode, last.lock.changed):
            return _REPLACED
        if not (is_same_boot or last.is_synced):
            return _RESTARTED
        # On a full disk, the server can have started without a log.
        needs_log = not is_unchanged or (last.log is not None and last.log.size)
        if last.phase == _RUNNING and needs_log and not self._has_log(1):
            return _NO_LOG
        return None

    def _has_log(self, size: int) -> bool:
        """Whether the last server's write-ahead log is there, with at least `size` bytes."""
        last, now = self._last, self._log_before
        if last is None or now is None or now.size < size or not self._is_log_whole:
            return False
        return last.log is None or last.log.inode == now.inode

    def _open_notes(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            self._notes_file = os.open(self._file.with_name(FILE_NAME), flags, 0o600)
        except OSError as error:
            self._complain(error)

    def _write(self, phase: str, *, log: _FileStatus | None = None, sync: bool = False) -> None:
        if self._notes_file is None or self._history_file is None:
            return
        try:
            history = _FileStatus.of(os.fstat(self._history_file))
            notes = _Notes(phase, self._boot, self._is_synced, history, self._lock, log)
            os.pwrite(self._notes_file, notes.encode(), 0)
            if sync:
                os.fsync(self._notes_file)
        except OSError as error:
            with contextlib.suppress(OSError):  # older notes would be wrong from now on
                os.ftruncate(self._notes_file, 0)
            self._complain(error)

    def _sync_log(self) -> bool:
        try:
            descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _complain(self, error: OSError) -> None:
        logger.warning(
            "%s cannot be written (%s), so all rooms get new epochs at the next start",
            self._file.with_name(FILE_NAME),
            error.strerror,
        )


def _renew(db: apsw.Connection, reason: str) -> None:
    """Give the history a new generation, and all of its rooms new epochs."""
    generation = new_generation()
    with transaction(db):
        db.execute("UPDATE facts SET value = ? WHERE name = 'generation'", (generation,))
        rooms: list[tuple[Any, ...]] = select(db, "SELECT name FROM rooms")
        db.executemany(
            "UPDATE rooms SET epoch = ? WHERE name = ?",
            [(epoch_of(generation, name), name) for (name,) in rooms],
        )
    if rooms:
        logger.warning(
            "the history may lack messages that clients have seen, because %s; all rooms (%d) have "
            "new epochs, and clients load them afresh",
            reason,
            len(rooms),
        )


def _read(notes: Path) -> _Notes | None:
    """The notes of the last server; None if there are none, or they cannot be read."""
    try:
        return _Notes.decode(notes.read_bytes())
    except OSError:
        return None


def _status_of(file: Path) -> _FileStatus | None:
    try:
        return _FileStatus.of(file.stat())
    except OSError:
        return None
