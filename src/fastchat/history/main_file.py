"""The database file of the history: whether something else than a checkpoint has written to it.

Somebody can write an older copy over the file while the server runs (`cp backup/history.db …`).
SQLite does not notice: with a write-ahead log, only checkpoints write to the file, so it trusts
what it has in memory, and the next checkpoint mixes both. So each change of the file's time must
come from a checkpoint of this process, or of another one, which moves the log's mark. The header of
the file is compared as well, because some file systems change the time later. It has a counter that
each start of a server increases.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from fastchat.directory import hold
from fastchat.errors import HistoryError

__all__ = ["MainFile"]

#: https://www.sqlite.org/fileformat2.html, section 1.3.
_HEADER_BYTES = 100


class _Look(NamedTuple):
    """How the file looks: its time and size, its header, and the marks of the log.

    `moved` of the `frames` in the log are in the file already.
    """

    status: tuple[int, int]
    header: bytes
    frames: int
    moved: int


class MainFile:
    """The file at `path`. Threads can share it; each passes a connection `db` of its own.

    No method may be called in a transaction. Raises apsw.Error or OSError if the file cannot be
    read at first.
    """

    def __init__(self, db: apsw.Connection, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = hold(path)
        try:
            self._last = self._look(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file. No method may be called afterwards."""
        os.close(self._file)

    @contextmanager
    def changing(self, db: apsw.Connection) -> Iterator[None]:
        """Expect a checkpoint of this process during the block."""
        with self._lock:
            try:
                yield
            finally:
                # If that fails, the mark of the log shows the checkpoint later.
                with suppress(apsw.Error, OSError):
                    self._last = self._look(db)

    def check(self, db: apsw.Connection) -> None:
        """Raise HistoryError if the file was overwritten.

        It raises nothing while a checkpoint of this process runs, or if the file cannot be read.
        """
        if self.is_overwritten(db):
            raise HistoryError(
                f"{self._path} was overwritten while the server runs; stop the server, and put "
                "back a whole copy of the directory"
            )

    def is_overwritten(self, db: apsw.Connection) -> bool:
        """Whether the file was overwritten, as far as that is known."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            last, status = self._last, self._status()
            if status == last.status:
                frames, moved = _marks(db)
                self._last = last._replace(frames=frames, moved=moved)
                return False
            now = self._look(db)
            is_same = (now.header, now.status[1]) == (last.header, last.status[1])
            if is_same or now.moved != last.moved or now.frames < last.frames:
                self._last = now
                return False
        except (apsw.Error, OSError):
            return False
        finally:
            self._lock.release()
        return True

    def _look(self, db: apsw.Connection) -> _Look:
        status = self._status()
        _, header = db.read("main", 0, 0, _HEADER_BYTES)
        return _Look(status, header, *_marks(db))

    def _status(self) -> tuple[int, int]:
        status = os.fstat(self._file)
        return status.st_mtime_ns, status.st_size


def _marks(db: apsw.Connection) -> tuple[int, int]:
    """The frames in the log, and how many of them are in the file."""
    return db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
