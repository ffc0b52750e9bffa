"""The directory and the file of a SQLite history: locked, checked, opened."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import apsw

from fastchat.errors import SettingError
from fastchat.history.checkpoints import WORTH_IT_BYTES
from fastchat.history.schema import check, migrate

__all__ = ["FILE_NAME", "lock", "open_database"]

FILE_NAME = "history.db"
#: Larger files are not read through at the start.
_CHECKED_BYTES = 256 * 1024 * 1024


def lock(directory: Path) -> int:
    """Lock the directory for this process; the lock ends with it, however it ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingError(f"--data {directory} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingError(
            f"--data {directory} is in use by another server; stop it or choose another directory."
        ) from None
    return descriptor


def open_database(file: Path, sync_commits: bool) -> apsw.Connection:
    """Open, check and migrate a file; one that cannot be used stays as it was."""
    try:
        db = apsw.Connection(str(file))
    except apsw.Error as error:
        raise _not_opened(file, error) from None
    try:
        _prepare(db, file, sync_commits)
    except BaseException as error:
        db.close()
        if isinstance(error, apsw.CorruptError | apsw.NotADBError):
            raise _unusable(file, "is damaged") from None
        if isinstance(error, ValueError):
            raise _unusable(file, str(error)) from None
        if isinstance(error, apsw.Error | OSError):
            raise _not_opened(file, error) from None
        raise
    return db


def _prepare(db: apsw.Connection, file: Path, sync_commits: bool) -> None:
    # Until the file is known to be ours and whole, nothing may write into it: not the
    # change to WAL mode, and not the checkpoint of a log at closing.
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.set_busy_timeout(2000)
    check(db)
    if file.stat().st_size <= _CHECKED_BYTES and db.pragma("quick_check") != "ok":
        raise ValueError("is damaged")
    db.pragma("secure_delete", True)
    if db.pragma("journal_mode", "wal") != "wal":
        raise ValueError("is on a file system that has no shared memory for its log")
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    db.pragma("synchronous", "FULL" if sync_commits else "NORMAL")
    db.pragma("wal_autocheckpoint", 0)
    db.pragma("journal_size_limit", WORTH_IT_BYTES)
    db.pragma("cache_size", -16 * 1024)
    migrate(db)


def _not_opened(file: Path, error: Exception) -> SettingError:
    return SettingError(f"--data: {file} cannot be opened: {error}.")


def _unusable(file: Path, why: str) -> SettingError:
    return SettingError(
        f"--data: {file} {why}; restore it from a copy, or move it away to begin anew."
    )
