"""Whether a history's file is the one that the last server left, or may have lost its end.

Invariant
---------
A publication that clients have received under an epoch stays at its offset under that epoch, until
the history drops it as one of the oldest. So a file that may lack such publications must not be
used under the same epochs: then all rooms get new ones, and clients load them afresh.

How
---
A file that is put back as a copy is whole and shows no trace of that inside. So a small file beside
it, `history.state`, notes how the system sees the history's file. The notes are compared before the
file is opened again:

* Stopped: the file must be as it was after the last write: the same inode, size and time of its
  last change (`ctime`, which no program can set). A copy has another inode, or another ctime if it
  was written over the file.
* Running: the server was killed. Its commits are in the page cache, so they are lost only with the
  machine, which then has another boot id. With synced commits they survive even that. The file and
  its write-ahead log must have the same inodes. Nothing changes the lock file while a server runs,
  so its inode and ctime show whether the directory was copied or overwritten.
* Closing: as running, but the write-ahead log may be gone already.

The notes are on the disk before the first commit of a run, and again after the last one. The device
number is compared within one boot only, because a volume can have another one after the next.

What this does not find
-----------------------
If the system itself goes back in time (a snapshot of a volume or of a virtual machine), the notes
go back with the file. The same holds for single files that are copied from a running server and
put back after it was killed. Clients find that themselves: their position contains the timestamp
of their last publication (`History.since`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fastchat.database import select, transaction
from fastchat.history.epochs import epoch_of, new_generation

__all__ = ["FILE_NAME", "Continuity"]

logger = logging.getLogger("fastchat.history")

#: In the data directory.
FILE_NAME = "history.state"
#: The notes are written over the old ones in place and are always this long, so that a server can
#: start on a full disk. Notes that were written in part are no notes.
_STATE_BYTES = 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STOPPED, _RUNNING, _CLOSING = "stopped", "running", "closing"

_UNKNOWN = "there are no notes about its last use"
_CHANGED = "it was copied, restored or changed since the server stopped"
_MOVED = "it was copied or restored since the server was killed"
_NO_LOG = "its write-ahead log was removed or replaced"
_CRASHED = "the machine went down while the server ran"


class _Look(NamedTuple):
    """How the system sees a file; `changed` is its ctime in nanoseconds."""

    device: int
    inode: int
    changed: int
    size: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Look:
        return cls(status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size)


class _State(NamedTuple):
    """The notes. `log` is the write-ahead log, which a stop usually does not leave.

    `is_synced` says whether all commits were synced to the disk.
    """

    phase: str
    boot: str
    is_synced: bool
    history: _Look
    lock: _Look
    log: _Look | None

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode().ljust(_STATE_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> _State | None:
        try:
            fields = json.loads(data)
            for name in ("history", "lock"):
                fields[name] = _Look(*map(int, fields[name]))
            if fields["log"] is not None:
                fields["log"] = _Look(*map(int, fields["log"]))
            state = cls(**fields)
            return state if state.phase in (_STOPPED, _RUNNING, _CLOSING) else None
        except (ValueError, TypeError, KeyError):
            return None


class Continuity:
    """The notes about a history's `file`. `lock` is the descriptor of the lock of its directory.

    It is made before the file is opened, because opening can change the file. The order of calls
    is `begin`, `prepare_end`, `end`, `close`. If the notes cannot be written, that is logged, and
    all rooms get new epochs at the next start.
    """

    def __init__(self, file: Path, lock: int) -> None:
        self._file = file
        self._log = file.with_name(file.name + "-wal")
        self._lock = _Look.of(os.fstat(lock))
        self._boot = _boot_id()
        self._before = _look(file)
        self._log_before = _look(self._log)
        self._last = _read(file.with_name(FILE_NAME))
        self._is_synced = False
        self._history: int | None = None
        self._notes: int | None = None

    def begin(self, db: apsw.Connection, *, sync_commits: bool) -> bytes:
        """Note that a server uses the file, which `db` has opened; return its generation.

        If the file may have lost its end, it gets a new generation, and all of its rooms get new
        epochs in the same transaction. Raises apsw.Error or OSError if the disk fails.
        """
        reason = self._why_broken() if self._before is not None and self._before.size else None
        if reason is not None:
            _renew(db, reason)
        # A descriptor of this kind leaves SQLite's locks alone when it is closed, and shows the
        # file even if its directory is moved.
        self._history = os.open(self._file, os.O_PATH | os.O_CLOEXEC)
        self._open_notes()
        # The commits of a killed server without syncs may not be on the disk yet.
        self._is_synced = sync_commits and (
            self._last is None or self._last.is_synced or self._last.phase == _STOPPED
        )
        self._write(_RUNNING, log=_look(self._log), sync=True)
        ((generation,),) = select(db, "SELECT value FROM facts WHERE name = 'generation'")
        return bytes(generation)

    def note_lock(self, lock: int) -> None:
        """Note that the file of the lock was removed and created again while the server runs."""
        self._lock = _Look.of(os.fstat(lock))
        self._write(_RUNNING, log=_look(self._log), sync=True)

    def prepare_end(self) -> None:
        """Note that the file is about to be closed."""
        self._write(_CLOSING)

    def end(self) -> None:
        """Note that the file was closed after its last write."""
        log = _look(self._log)
        if log is None or not log.size:
            self._write(_STOPPED, sync=True)
        elif self._sync_log():  # another process still reads the file, so SQLite has left the log
            self._write(_STOPPED, log=log, sync=True)

    def close(self) -> None:
        """Release the descriptors; if `end` was not called, the file counts as killed."""
        for descriptor in (self._notes, self._history):
            if descriptor is not None:
                os.close(descriptor)
        self._notes = self._history = None

    def _why_broken(self) -> str | None:
        """Why the file may lack publications that clients have seen; None if it lacks none."""
        last, now = self._last, self._before
        if last is None or now is None:
            return _UNKNOWN
        is_same_boot = last.boot == self._boot != ""
        if now.inode != last.history.inode or (is_same_boot and now.device != last.history.device):
            return _CHANGED if last.phase == _STOPPED else _MOVED
        is_unchanged = (now.changed, now.size) == (last.history.changed, last.history.size)
        if last.phase == _STOPPED:
            if not is_unchanged:
                return _CHANGED
            return None if last.log is None or self._has_log(last.log.size) else _NO_LOG
        if (self._lock.inode, self._lock.changed) != (last.lock.inode, last.lock.changed):
            return _MOVED
        if not (is_same_boot or last.is_synced):
            return _CRASHED
        if last.phase == _RUNNING and not (is_unchanged or self._has_log(1)):
            return _NO_LOG
        return None

    def _has_log(self, size: int) -> bool:
        """Whether the log is that of the last server, and has at least `size` bytes."""
        last, now = self._last, self._log_before
        if last is None or now is None or now.size < size:
            return False
        return last.log is None or last.log.inode == now.inode

    def _open_notes(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            self._notes = os.open(self._file.with_name(FILE_NAME), flags, 0o600)
        except OSError as error:
            self._complain(error)

    def _write(self, phase: str, *, log: _Look | None = None, sync: bool = False) -> None:
        if self._notes is None or self._history is None:
            return
        try:
            history = _Look.of(os.fstat(self._history))
            state = _State(phase, self._boot, self._is_synced, history, self._lock, log)
            os.pwrite(self._notes, state.encode(), 0)
            if sync:
                os.fsync(self._notes)
        except OSError as error:
            with contextlib.suppress(OSError):  # older notes would be wrong from now on
                os.ftruncate(self._notes, 0)
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
    """Give a file a new generation, and all of its rooms new epochs."""
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


def _read(notes: Path) -> _State | None:
    """The notes of the last server; None if there are none, or they cannot be read."""
    try:
        return _State.decode(notes.read_bytes())
    except OSError:
        return None


def _look(file: Path) -> _Look | None:
    try:
        return _Look.of(file.stat())
    except OSError:
        return None


def _boot_id() -> str:
    """A string that the kernel makes at each boot; empty if it is not known."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
