"""The directory of a SQLite history: its lock, its file, and a guard that both stay in place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from fastchat.database import open_to_write
from fastchat.directory import Displaced, Watch, make_private
from fastchat.errors import HistoryAwayError, HistoryError, SettingError
from fastchat.history.checkpoints import WORTH_IT_BYTES
from fastchat.history.continuity import Continuity
from fastchat.history.log import WriteAheadLog
from fastchat.history.main_file import MainFile
from fastchat.history.schema import HISTORY, write_same_page

__all__ = ["FILE_NAME", "Guard", "HistoryFile", "lock", "open_database"]

logger = logging.getLogger("fastchat.history")

FILE_NAME = "history.db"
LOCK_NAME = "lock"
#: A larger file is not checked for damage at the start: reading all of it would delay the
#: server.
_MAX_CHECKED_BYTES = 256 * 1024 * 1024
#: While the file is opened, each statement waits at most this long for other programs.
_BUSY_TIMEOUT_MS = 2000
#: The time between two checks of the content before commits. A check takes 5 µs, and an append of
#: one message takes 28 µs. If somebody overwrites the file, the messages that the server confirms
#: before the next check can be lost, like the messages that the file had.
CONTENT_INTERVAL_S = 0.05
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def lock(directory: Path) -> int:
    """Lock the directory for this process; return the descriptor that holds the lock.

    If the directory is missing, it is created, for this user only. The kernel releases the lock
    when the descriptor is closed or the process ends, even if the process is killed. Raises
    SettingError if the directory cannot be used or is locked.
    """
    try:
        make_private(directory)
        descriptor = os.open(directory / LOCK_NAME, _LOCK_FLAGS, 0o600)
    except OSError as error:
        raise SettingError(
            f"--data {directory} cannot be used: {error.filename}: {error.strerror}."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingError(
            f"--data {directory} is in use by another server; stop it or choose another directory."
        ) from None
    return descriptor


def open_database(file: Path, sync_commits: bool) -> apsw.Connection:
    """Open, check and migrate the history's file, and create it if it is missing.

    With `sync_commits`, each commit waits until the disk has it. A statement waits up to 2 s for
    locks of other programs. Raises SettingError if the file cannot be used.
    """
    try:
        db = open_to_write(
            file,
            HISTORY,
            busy_timeout_ms=_BUSY_TIMEOUT_MS,
            sync_commits=sync_commits,
            max_checked_bytes=_MAX_CHECKED_BYTES,
        )
    except (apsw.Error, OSError) as error:
        raise SettingError(f"--data: {file} cannot be opened: {_reason(file, error)}.") from None
    db.pragma("wal_autocheckpoint", 0)  # the thread in `checkpoints` does it instead
    db.pragma("journal_size_limit", WORTH_IT_BYTES)
    db.pragma("cache_size", -16 * 1024)
    return db


def try_to_write(db: apsw.Connection, file: Path) -> bool:
    """Write to the file without changing its content; return whether that worked.

    The result is False if the disk is full, or if another program has locked the file, because a
    later attempt can then succeed. Raises SettingError if a person must do something first.
    """
    try:
        write_same_page(db)
    except (apsw.FullError, apsw.BusyError):
        return False
    except apsw.Error as error:
        if db.system_errno == errno.EDQUOT:
            return False
        raise SettingError(f"--data: {file} cannot be written: {_reason(file, error)}.") from None
    return True


def _reason(file: Path, error: apsw.Error | OSError) -> str:
    """Why the file cannot be used. If a mode is the cause, the text names the file or directory."""
    if os.statvfs(file.parent).f_flag & os.ST_RDONLY:
        return "the file system is read-only"
    files = (file.with_name(file.name + end) for end in ("", "-wal", "-shm"))
    for path in (file.parent, *files):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return f"this user has no right to write to {path}"
    return str(error) if isinstance(error, apsw.Error) else str(error.strerror)


class Guard:
    """Checks that the history that a process has open is still the one in `directory`.

    `lock` is the descriptor that holds the directory's lock. If the guard has to lock the directory
    again, it calls `on_lock` with the new descriptor. Threads can share a guard. Raises OSError if
    the files cannot be looked up.
    """

    def __init__(
        self, directory: Path, lock: int, on_lock: Callable[[int], None] = lambda lock: None
    ) -> None:
        self._directory = directory
        self._on_lock = on_lock
        self._file = directory / LOCK_NAME
        self._lock = lock
        self._watch = self._new_watch()
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Release the directory."""
        self._watch.close()
        os.close(self._lock)

    def check(self) -> None:
        """Raise HistoryAwayError if the open files are not those in the directory any more.

        A call usually costs one `stat`. If only the file of the lock is missing, it is created and
        locked again.
        """
        if not self._watch.is_unchanged():
            self.compare()

    def compare(self) -> None:
        """Do what `check` does, but look at each file; call it once a second."""
        with self._mutex:
            try:
                self._watch.compare()
            except Displaced as displaced:
                if displaced.path != self._file:
                    raise HistoryAwayError(str(displaced)) from None
                self._lock_again(displaced)

    def _new_watch(self) -> Watch:
        return Watch(self._directory, self._directory / FILE_NAME, self._file)

    def _lock_again(self, displaced: Displaced) -> None:
        """Create and lock the file of the lock again, which was removed.

        If another server has created the file, that server writes to the same history. The state in
        this process's memory is then wrong, so nothing may be stored until a restart.
        """
        try:
            descriptor = os.open(self._file, _LOCK_FLAGS | os.O_EXCL, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                watch = self._new_watch()
            except BaseException:
                os.close(descriptor)
                raise
        except OSError:
            raise HistoryAwayError(str(displaced)) from None
        self.close()
        self._lock, self._watch = descriptor, watch
        self._on_lock(descriptor)
        logger.warning("%s was removed while the server ran; it was created again", self._file)


class HistoryFile:
    """The open file of a history. It locks `directory`.

    `db` is the connection, `generation` that of the history, and `guard` checks that the file stays
    in its place. `log` is its write-ahead log, and `main` the file without the log. With
    `sync_commits`, each commit waits until the disk has it. `is_writable` is False if the disk is
    full, or if another program has locked the file. Raises SettingError if the directory or the
    file cannot be used.
    """

    def __init__(self, directory: Path, *, sync_commits: bool) -> None:
        self.path = directory / FILE_NAME
        with contextlib.ExitStack() as stack:
            descriptor = lock(directory)
            stack.callback(os.close, descriptor)
            self._continuity = Continuity(self.path, descriptor)
            stack.callback(self._continuity.close)
            self.db = open_database(self.path, sync_commits)
            stack.callback(self.db.close)
            self.is_writable = try_to_write(self.db, self.path)
            try:
                self.generation = self._continuity.begin(self.db, sync_commits=sync_commits)
                self.log = WriteAheadLog(self.db, self.path)
                stack.callback(self.log.close)
                self.main = MainFile(self.db, self.path)
                stack.callback(self.main.close)
                self.guard = Guard(directory, descriptor, self._continuity.note_lock)
            except (apsw.Error, OSError) as error:
                raise SettingError(
                    f"--data: {self.path} cannot be written: {_reason(self.path, error)}."
                ) from None
            stack.pop_all()
        self._content_due_s = 0.0

    def check_content(self) -> None:
        """Raise HistoryError if somebody has overwritten or emptied the file or its log.

        Then rooms get new epochs at the next start. It must not be called in a transaction.
        """
        try:
            self.main.check(self.db)
            self.log.check()
        except HistoryError:
            self._continuity.forget()
            raise
        self._content_due_s = time.monotonic() + CONTENT_INTERVAL_S

    def check_content_lately(self) -> None:
        """Do what `check_content` does, unless that was done less than `CONTENT_INTERVAL_S` ago."""
        if time.monotonic() >= self._content_due_s:
            self.check_content()

    def close(self) -> None:
        """Close the file, and release the lock. Close this process's other connections first."""
        try:
            self.check_content()
        except HistoryError as error:
            # SQLite would move the log into another file, or a hole in the log into the file.
            logger.error("the files of the history stay as they are: %s", error)
            self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.db.close()
        else:
            self._continuity.prepare_end()
            self.db.close()
            self._continuity.end()
        finally:
            self._continuity.close()
            self.log.close()
            self.main.close()
            self.guard.close()
