"""Checkpoints of SQLite's write-ahead log (WAL), on their own thread and connection.

A checkpoint moves committed pages from the log into the database file, and syncs both files.
The event loop, which is the only writer, must not wait for that.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import apsw

from fastchat.errors import HistoryError
from fastchat.history.log import PAGE_BYTES, WriteAheadLog
from fastchat.history.main_file import MainFile

__all__ = ["Checkpointer"]

logger = logging.getLogger("fastchat.history")

#: Time between two looks at the size of the log.
INTERVAL_S = 1.0
#: A shorter log is moved only after `QUIET_INTERVALS` without a change of its size. This is
#: about 1,000 pages, SQLite's own default for automatic checkpoints.
WORTH_IT_BYTES = 4 * 1024 * 1024
#: If the log is longer, the writer waits for its last part to be moved. This bounds the log's
#: size under a load that never pauses (docs/command-line.md states it for operators).
TOO_LONG_BYTES = 64 * 1024 * 1024
#: The writer waits only for a last part that is shorter than this. If more is left, an old snapshot
#: is being read, for example by an export, and waiting would not help.
LAST_PART_BYTES = TOO_LONG_BYTES // 4
#: The longest time that the writer waits. A disk of 50 MB/s moves the last part in this time.
MAX_PAUSE_S = 0.3
#: A small log is moved after this many intervals (30 s) in which its size has not changed.
QUIET_INTERVALS = 30


class Checkpointer(threading.Thread):
    """A thread that moves the log into the database file and rarely makes the writer wait.

    A passive checkpoint takes no lock that a writer waits for, and waits for no reader. If it has
    moved all commits, the next commit restarts the log at its beginning. Under a steady load there
    is always a commit that the checkpoint has not moved, and the log would grow without limit.
    Therefore, if the log is longer than `TOO_LONG_BYTES`, two checkpoints move almost all of the
    log, and a third one moves the rest while `begin_write` makes the writer wait. SQLite's own
    blocking checkpoints are not used: they lock the writer out while they wait for the readers of
    all processes.

    If a checkpoint fails, the first failure is logged, and the thread tries again.
    """

    def __init__(self, file: Path, main: MainFile) -> None:
        super().__init__(name="fastchat-checkpoints", daemon=True)
        self._main = main
        self._ended = threading.Event()
        self._failing = False
        self._last_part = threading.Lock()
        self._is_slow = False
        self._connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.pragma("synchronous", "NORMAL")
        self._log = WriteAheadLog(self._connection, file)

    def run(self) -> None:
        moved, quiet = 0, 0
        while not self._ended.wait(INTERVAL_S):
            size = self._log.size()
            quiet = quiet + 1 if size == moved else 0
            if size >= WORTH_IT_BYTES or (size and quiet == QUIET_INTERVALS):
                self._checkpoint()
            moved = size
        self._connection.close()
        self._log.close()

    def stop(self) -> None:
        """Stop the thread, and wait until its present checkpoint has finished."""
        self._ended.set()
        self.join()

    def begin_write(self) -> None:
        """Keep the last part of a checkpoint out until `end_write`; called before a transaction.

        If it is being moved, this waits, but at most `MAX_PAUSE_S`, and only once for the same
        part. After that, it raises HistoryError.
        """
        if not self._last_part.acquire(timeout=0 if self._is_slow else MAX_PAUSE_S):
            self._is_slow = True
            raise HistoryError("the disk is slow, and a checkpoint of the log has not ended")
        self._is_slow = False

    def end_write(self) -> None:
        """Allow checkpoints of the last part again; called after a transaction."""
        self._last_part.release()

    def _checkpoint(self) -> None:
        if self._main.is_overwritten(self._connection) or not self._log.is_whole():
            return  # it would damage the file; `SqliteHistory.check` says so
        with self._main.changing(self._connection):
            self._move_all()

    def _move_all(self) -> None:
        try:
            if self._move()[0] > TOO_LONG_BYTES:
                log_bytes, moved_bytes = self._move()
                if log_bytes - moved_bytes < LAST_PART_BYTES:
                    with self._last_part:
                        self._move()
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

    def _move(self) -> tuple[int, int]:
        """Run a passive checkpoint.

        Returns the size of the log's content, and how much of it has been moved, in bytes.
        """
        frames, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return frames * PAGE_BYTES, moved * PAGE_BYTES
