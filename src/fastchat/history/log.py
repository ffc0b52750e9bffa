"""SQLite's write-ahead log: whether it still has everything that was committed to it.

Somebody can empty the log, for example to free space. SQLite does not notice: it goes on to write
behind the hole, and at the end moves the hole into the database file, which is damaged then. So the
log's size is compared with the number of committed frames that the log's index has.

Source of the formats: https://www.sqlite.org/walformat.html, sections 1.1 and 2.1.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import apsw

from fastchat.directory import sqlite_files
from fastchat.errors import HistoryError

__all__ = ["PAGE_BYTES", "WriteAheadLog", "is_log_whole"]

#: SQLite's default page size, which our file has.
PAGE_BYTES = 4096
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
#: The first four bytes of a log; the last bit is the byte order of its checksums.
_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SYNC_FILE_RANGE_WRITE = 2
_SALTS = slice(16, 24)  # in the header of the log
#: The beginning of the index, in the machine's byte order: version, unused, changes, whether it is
#: complete, byte order, page size, frames, pages, checksum of the last frame, salts of the log.
_INDEX = struct.Struct("=IIIBBHII8s8s")


def is_log_whole(log: Path, index: Path | None) -> bool:
    """Whether the log of a killed server has all frames that its index knows of.

    Without an `index`, or if that is missing, only the header of the log is checked. No process may
    have the database open.
    """
    try:
        with log.open("rb") as opened:
            header, size = opened.read(_HEADER_BYTES), os.fstat(opened.fileno()).st_size
    except OSError:
        return False
    if header[:4] not in _MAGIC or len(header) < _HEADER_BYTES:
        return False
    try:
        data = b"" if index is None else index.read_bytes()[: _INDEX.size]
    except OSError:
        return True
    if len(data) < _INDEX.size:
        return True
    _, _, _, is_complete, _, _, frames, _, _, salts = _INDEX.unpack(data)
    if not is_complete or not frames:
        return True
    return salts == header[_SALTS] and size >= _bytes_of(frames)


class WriteAheadLog:
    """The log of the database in `file`, as the connection `db` uses it. Raises OSError."""

    def __init__(self, db: apsw.Connection, file: Path) -> None:
        self._db = db
        self._path, _ = sqlite_files(file)
        # SQLite has no locks on the log itself, which would be released with this descriptor.
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._sent = 0  # bytes for which writeback has begun, since the log began anew

    def close(self) -> None:
        os.close(self._file)

    def size(self) -> int:
        """The size of the file in bytes."""
        return os.fstat(self._file).st_size

    def frames(self) -> int:
        """The pages that the log has. The file can be longer: it keeps its size for later pages."""
        frames, _ = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        return frames

    def begin_writeback(self, kept_back: int) -> None:
        """Let the kernel write the log to the disk, without its last `kept_back` bytes.

        This waits for nothing. Nothing happens where the C library lacks `sync_file_range`.
        """
        end = _bytes_of(self.frames()) - kept_back
        if end < self._sent:  # it has begun anew
            self._sent = 0
        if end > self._sent:
            _begin_writeback(self._file, self._sent, end - self._sent)
            self._sent = end

    def check(self) -> None:
        """Raise HistoryError if the log lacks a part of what was committed.

        It must not be called in a transaction.
        """
        if not self.is_whole():
            raise HistoryError(
                f"{self._path} was emptied or overwritten, so messages are lost; restart the server"
            )

    def is_whole(self) -> bool:
        """Whether the log has everything that was committed; False if that is not known."""
        try:
            # If the writer of another thread begins the log anew, the first comparison can fail.
            return self._has_all_frames() or self._has_all_frames()
        except (apsw.Error, OSError):
            return False

    def _has_all_frames(self) -> bool:
        frames = self.frames()
        if not frames:
            return True
        return self.size() >= _bytes_of(frames) and os.pread(self._file, 4, 0) in _MAGIC


def _begin_writeback(file: int, start: int, count: int) -> None:
    """See sync_file_range(2), SYNC_FILE_RANGE_WRITE."""
    import ctypes  # imported here: only a busy server needs it

    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call(file, ctypes.c_int64(start), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


def _bytes_of(frames: int) -> int:
    return _HEADER_BYTES + frames * (_FRAME_HEADER_BYTES + PAGE_BYTES)
