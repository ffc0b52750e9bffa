"""Checkpoints of SQLite's write-ahead log (WAL), on their own thread and connections.

A checkpoint moves committed pages from the log into the database file, and syncs both files.
The event loop, which is the only writer, must not wait for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from fastchat.errors import HistoryError
from fastchat.history.log import PAGE_BYTES, WriteAheadLog
from fastchat.history.main_file import MainFile
from fastchat.history.schema import write_same_page

__all__ = ["Checkpointer"]

logger = logging.getLogger("fastchat.history")

#: Time between two looks at the size of the log.
INTERVAL_S = 1.0
#: A shorter log is moved only after `QUIET_INTERVALS` without a change of its size. This is
#: about 1,000 pages, SQLite's own default for automatic checkpoints.
WORTH_IT_BYTES = 4 * 1024 * 1024
#: If the log is longer, commits are put off while its last part is moved. This bounds the log's
#: size under a load that never pauses (docs/command-line.md states it for operators).
TOO_LONG_BYTES = 64 * 1024 * 1024
#: The last part of a log that is too long must be shorter than this. If more is left, an old
#: snapshot is being read, for example by an export, and putting off commits would not help.
LAST_PART_BYTES = TOO_LONG_BYTES // 4
#: A last part that is moved, however long the log is. Writing it takes less time than the syncs.
SHORT_PART_BYTES = 256 * 1024
#: Checkpoints before the last part of a log that is too long. Each leaves what was committed
#: while it ran, which is less than what the one before has left.
PASSES = 3
#: The longest time for which commits are put off. A disk of 50 MB/s moves the last part in it.
MAX_PAUSE_S = 0.3
#: While the log grows, its new part is sent to the disk this often. Otherwise a checkpoint would
#: sync all that a second has written, and commits would wait for pages that are on their way.
WRITEBACK_INTERVAL_S = 0.1
#: The end of the log that is not sent to the disk, because the next commits write there.
KEPT_BACK_BYTES = 1024 * 1024
#: A small log is moved after this many intervals (30 s) in which its size has not changed.
QUIET_INTERVALS = 30


class Checkpointer(threading.Thread):
    """A thread that moves the log into the database file, and then begins the log anew.

    A passive checkpoint takes no lock that a writer waits for, and waits for no reader. It leaves
    what is committed while it runs. SQLite's own blocking checkpoints are not used: they lock the
    writer out while they wait for the readers of all processes.

    If all is moved, the next commit overwrites the log from its beginning. Before that, SQLite
    syncs the log's new header: otherwise a loss of power could leave the old header with some new
    frames behind it, and the old frames before these would be taken for the newest pages. That
    sync takes up to 40 ms, so the event loop must not be the one that commits. Therefore
    checkpoints run while a reader of this thread keeps the log from beginning anew. When only a
    short part is left, `is_busy` is true until this thread has moved that part, and has begun the
    log anew with a commit of its own. The event loop puts its commits off for this time.

    If a checkpoint or a look at the log fails, the first failure is logged, and the thread tries
    again.
    """

    def __init__(self, file: Path, main: MainFile) -> None:
        super().__init__(name="fastchat-checkpoints", daemon=True)
        self._main = main
        self._ended = threading.Event()
        self._failing = False
        self._writing = threading.Lock()
        self._pause_ends_s = 0.0  # monotonic; 0 if commits are not put off
        self._last_frames = 0  # at the last look
        self._quiet = 0  # looks since then without a change
        self._frames_anew = 0  # in a log that this thread has begun anew
        self._connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.pragma("synchronous", "NORMAL")
        self._connection.pragma("wal_autocheckpoint", 0)
        self._reader = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        self._log = WriteAheadLog(self._connection, file)

    def run(self) -> None:
        while self._wait():
            try:
                is_moved = self._look()
            except apsw.BusyError:
                continue
            except (apsw.Error, OSError) as error:
                if not self._failing:
                    logger.error(
                        "a checkpoint of the history failed and will be retried: %s", error
                    )
                self._failing = True
                self._quiet = 0  # a quiet log is retried after `QUIET_INTERVALS`
            else:
                if is_moved and self._failing:
                    logger.info("checkpoints of the history work again")
                    self._failing = False
        self._reader.close()
        self._connection.close()
        self._log.close()

    def _wait(self) -> bool:
        """Wait until the next look, and send what is written to the disk; False at the end."""
        if self._last_frames * PAGE_BYTES < WORTH_IT_BYTES // 4:
            return not self._ended.wait(INTERVAL_S)
        ends_s = time.monotonic() + INTERVAL_S
        while (left_s := ends_s - time.monotonic()) > 0:
            if self._ended.wait(min(left_s, WRITEBACK_INTERVAL_S)):
                return False
            with suppress(apsw.Error, OSError):
                self._log.begin_writeback(KEPT_BACK_BYTES)
        return True

    def stop(self) -> None:
        """Stop the thread, and wait until its present checkpoint has finished."""
        self._ended.set()
        self.join()

    @property
    def is_busy(self) -> bool:
        """Whether `begin_write` would wait. It is true for at most `MAX_PAUSE_S` at once."""
        return self._pause_ends_s > 0 and time.monotonic() < self._pause_ends_s

    def begin_write(self) -> None:
        """Keep the last part of a checkpoint out until `end_write`; called before a transaction.

        While `is_busy`, this waits. If the last part is still not moved then, it raises
        HistoryError.
        """
        wait_s = max(0.0, self._pause_ends_s - time.monotonic())
        if not self._writing.acquire(timeout=wait_s):
            raise HistoryError("the disk is slow, and a checkpoint of the log has not ended")

    def end_write(self) -> None:
        """Allow checkpoints of the last part again; called after a transaction."""
        self._writing.release()

    def _look(self) -> bool:
        """Run a checkpoint if the log is long, or has been quiet; returns whether one was run."""
        frames = self._log.frames()
        self._quiet = self._quiet + 1 if frames == self._last_frames else 0
        self._last_frames = frames
        if frames * PAGE_BYTES >= WORTH_IT_BYTES:
            return self._checkpoint()
        if self._quiet == QUIET_INTERVALS and (
            frames != self._frames_anew or self._log.size() > WORTH_IT_BYTES
        ):
            return self._checkpoint(kept_bytes=WORTH_IT_BYTES)
        return False

    def _checkpoint(self, kept_bytes: int = TOO_LONG_BYTES) -> bool:
        """Move the log; if it begins anew, its file keeps at most `kept_bytes`.

        Returns False if that would damage the file; `SqliteHistory.check` says so then.
        """
        if self._main.is_overwritten(self._connection) or not self._log.is_whole():
            return False
        with self._main.changing(self._connection):
            self._move_all(kept_bytes)
        return True

    def _move_all(self, kept_bytes: int) -> None:
        for _ in range(PASSES):
            with self._log_kept():
                log_bytes, rest_bytes = self._move()
            is_too_long = log_bytes > TOO_LONG_BYTES
            if rest_bytes <= SHORT_PART_BYTES or not is_too_long:
                break
        if rest_bytes <= (LAST_PART_BYTES if is_too_long else SHORT_PART_BYTES):
            with self._commits_put_off():
                if self._move()[1] == 0:
                    self._begin_anew(kept_bytes)

    @contextmanager
    def _log_kept(self) -> Iterator[None]:
        """Keep the log from beginning anew, even if all of it is moved in the meantime.

        SQLite begins a log anew only if no reader needs its frames.
        """
        self._reader.execute("BEGIN")
        try:
            self._reader.pragma("user_version")  # the first read takes the snapshot
            yield
        finally:
            self._reader.execute("ROLLBACK")

    @contextmanager
    def _commits_put_off(self) -> Iterator[None]:
        # It is set before the lock is taken: the event loop sees it and leaves the lock free.
        self._pause_ends_s = time.monotonic() + MAX_PAUSE_S
        try:
            with self._writing:
                yield
        finally:
            self._pause_ends_s = 0.0

    def _begin_anew(self, kept_bytes: int) -> None:
        """Begin the log anew; any commit does that, unless a reader needs the old frames.

        A part of the file that is kept has its blocks already. While a file system allocates blocks
        to new parts, which it does when it writes them to the disk, commits can wait for it.
        """
        self._connection.pragma("journal_size_limit", kept_bytes)
        write_same_page(self._connection)
        self._frames_anew = self._log.frames()

    def _move(self) -> tuple[int, int]:
        """Run a passive checkpoint.

        Returns the size of the log's content, and how much of it has not been moved, in bytes.
        """
        frames, moved = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return frames * PAGE_BYTES, (frames - moved) * PAGE_BYTES
