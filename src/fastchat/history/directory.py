"""The directory of a SQLite history, and how its file is locked, checked and opened."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import apsw

from fastchat.database import open_to_write
from fastchat.directory import make_private
from fastchat.errors import SettingError
from fastchat.history.checkpoints import WORTH_IT_BYTES
from fastchat.history.schema import HISTORY

__all__ = ["FILE_NAME", "lock", "open_database"]

FILE_NAME = "history.db"
#: A larger file is not checked for damage at the start: reading all of it would delay the
#: server.
_MAX_CHECKED_BYTES = 256 * 1024 * 1024
#: A write waits at most this long for another connection: a reader, or the full checkpoint of
#: a long log (`checkpoints`). After that it fails with HistoryError.
_BUSY_TIMEOUT_MS = 2000


def lock(directory: Path) -> int:
    """Lock the directory for this process; return the descriptor that holds the lock.

    If the directory is missing, it is created, for this user only. The kernel releases the lock
    when the descriptor is closed or the process ends, even if the process is killed. Raises
    SettingError if the directory cannot be used or is locked.
    """
    try:
        make_private(directory)
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
    """Open, check and migrate the history's file, and create it if it is missing.

    With `sync_commits`, each commit waits until the disk has it. Raises SettingError if the
    file cannot be used.
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
        raise SettingError(f"--data: {file} cannot be opened: {error}.") from None
    db.pragma("wal_autocheckpoint", 0)  # the thread in `checkpoints` does it instead
    db.pragma("journal_size_limit", WORTH_IT_BYTES)
    db.pragma("cache_size", -16 * 1024)
    return db
