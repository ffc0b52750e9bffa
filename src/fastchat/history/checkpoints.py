"""Checkpoints of SQLite's write-ahead log (WAL), on their own thread and connection.

A checkpoint moves committed pages from the log into the database file, and syncs both files.
The event loop, which is the only writer, must not wait for that.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import apsw

__all__ = ["Checkpointer"]

logger = logging.getLogger("fastchat.history")

#: Time between two looks at the size of the log.
INTERVAL_S = 1.0
#: SQLite's default page size, which our file has.
_PAGE_BYTES = 4096
#: A shorter log is moved only after `QUIET_INTERVALS` without a change of its size. This is
#: about 1,000 pages, SQLite's own default for automatic checkpoints.
WORTH_IT_BYTES = 4 * 1024 * 1024
#: If the log is longer, the writer waits for its last part to be moved. This bounds the log's
#: size under a load that never pauses (docs/command-line.md states it for operators).
TOO_LONG_BYTES = 64 * 1024 * 1024
#: A small log is moved after this many intervals (30 s) in which its size has not changed.
QUIET_INTERVALS = 30


class Checkpointer(threading.Thread):
    """A thread that moves the log into the database file and rarely makes the writer wait.

    A passive checkpoint takes no lock that a writer waits for. If it has moved all commits,
    the next commit restarts the log at its beginning. Under a steady load there is always a
    commit that the checkpoint has not moved, and the log would grow without limit. Therefore,
    if the log is longer than `TOO_LONG_BYTES`, two passive checkpoints move almost all of the
    log, and a full checkpoint moves the rest while the writer waits.

    If a checkpoint fails, the first failure is logged, and the thread tries again.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(name="fastchat-checkpoints", daemon=True)
        self._log = file.with_name(file.name + "-wal")
        self._ended = threading.Event()
        self._failing = False
        self._connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.pragma("synchronous", "NORMAL")

    def run(self) -> None:
        moved, quiet = 0, 0
        while not self._ended.wait(INTERVAL_S):
            size = self._log_bytes()
            quiet = quiet + 1 if size == moved else 0
            if size >= WORTH_IT_BYTES or (size and quiet == QUIET_INTERVALS):
                self._checkpoint()
            moved = size
        self._connection.close()

    def stop(self) -> None:
        """Stop the thread, and wait until its present checkpoint has finished."""
        self._ended.set()
        self.join()

    def _log_bytes(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def _checkpoint(self) -> None:
        try:
            if self._move() > TOO_LONG_BYTES:
                self._move()
                # The full checkpoint waits for the writer's present transaction, which is short.
                self._connection.set_busy_timeout(1000)
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
        except apsw.BusyError:
            return
        except apsw.Error as error:
            if not self._failing:
                logger.error("a checkpoint of the history failed and will be retried: %s", error)
            self._failing = True
            return
        if self._failing:
            logger.info("checkpoints of the history work again")
        self._failing = False

    def _move(self) -> int:
        """Run a passive checkpoint; return the size of the log's content at its start."""
        self._connection.set_busy_timeout(0)
        frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return frames * _PAGE_BYTES
