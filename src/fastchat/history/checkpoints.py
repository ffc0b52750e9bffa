"""Checkpoints of a WAL, which sync, on a thread and a connection of their own."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import apsw

__all__ = ["Checkpointer"]

logger = logging.getLogger("fastchat.history")

INTERVAL_S = 1.0
#: SQLite's default, which our file has.
_PAGE_BYTES = 4096
#: A log shorter than this is left alone until it has been quiet for a while.
WORTH_IT_BYTES = 4 * 1024 * 1024
#: Of a longer one, no commit may follow the last checkpoint before the log begins anew.
TOO_LONG_BYTES = 64 * 1024 * 1024
QUIET_INTERVALS = 30


class Checkpointer(threading.Thread):
    """Moves what the log holds into the database file, and hardly ever holds the writer up.

    A passive checkpoint takes no lock that a writer waits for; when it has moved
    everything, the next commit begins the log anew. Under a steady load there is always
    a commit that it has not moved, and the log would grow for ever: so of a log that has
    become too long the last bit, what came during two passive checkpoints, is moved
    while the writer waits. A failure is logged once, and tried again.
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
        """End the thread, after the checkpoint that it is at."""
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
                # Waits for the transaction that is under way, which is short.
                self._connection.set_busy_timeout(1000)
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
        except apsw.BusyError:
            return
        except apsw.Error as error:
            if not self._failing:
                logger.error("a checkpoint failed, and is tried again: %s", error)
            self._failing = True
            return
        if self._failing:
            logger.info("checkpoints work again")
        self._failing = False

    def _move(self) -> int:
        """A passive checkpoint; returns how much of the log had been written when it began."""
        self._connection.set_busy_timeout(0)
        frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return frames * _PAGE_BYTES
