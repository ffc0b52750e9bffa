"""Read access to a SQLite history for other processes and other threads.

A publication is committed before it is delivered, so a reader of the file sees everything that
clients have received. Reading works even if the writing process is stuck or dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from fastchat.database import open_to_read, select
from fastchat.errors import HistoryError
from fastchat.history import Page, StoredStream
from fastchat.history.directory import FILE_NAME
from fastchat.history.rows import (
    FIRST_NAME,
    LINK,
    OFFSET_BITS,
    OFFSET_MASK,
    SELECT,
    disk_errors,
    message_of,
)

__all__ = ["HistoryReader", "Stream", "list_streams", "read_page"]

#: Publications from which the size of a room is estimated, and the bytes of a row beside its text.
SAMPLE, ROW_BYTES = 50, 100
#: No character comes after it.
LAST_CHARACTER = "\U0010ffff"


def read_page(
    db: apsw.Connection, room: str, number: int, low: int, high: int, limit: int, *, newest: bool
) -> Page:
    """The `limit` newest or oldest messages from offset `low` to `high`, oldest first."""
    order = "DESC" if newest else "ASC"
    rows = db.execute(
        f"{SELECT} AND kind = 0 ORDER BY key {order} LIMIT ?",
        (number << OFFSET_BITS | low, number << OFFSET_BITS | high, limit + 1),
    ).fetchall()
    messages = [message_of(room, row) for row in rows[:limit]]
    if newest:
        messages.reverse()
    return Page(messages, more=len(rows) > limit)


def list_streams(db: apsw.Connection, prefix: str, after: str, limit: int) -> list[StoredStream]:
    """What `History.streams` returns of the rooms that were published in."""
    low, last = max(prefix, FIRST_NAME), prefix + LAST_CHARACTER
    rows = select(
        db,
        "SELECT name, epoch, head, number FROM streams "
        "WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?",
        *(after, low, last, limit),
    )
    return [
        StoredStream(room, epoch, head, *_extent(db, *rest)) for room, epoch, head, *rest in rows
    ]


def _extent(db: apsw.Connection, number: int) -> tuple[str | None, int]:
    """The time of a room's newest publication, and about how many bytes all of them take.

    The size is that of the newest ones, times the number of all.
    """
    low, high = _keys(number)
    newest = select(
        db,
        "SELECT timestamp, ifnull(length(text), 0) FROM publications "
        "WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT ?",
        *(low, high, SAMPLE),
    )
    if not newest:
        return None, 0
    statement = "SELECT max(key) - min(key) + 1 FROM publications WHERE key BETWEEN ? AND ?"
    ((count,),) = select(db, statement, low, high)
    size = sum(length for _, length in newest) / len(newest) + ROW_BYTES
    return newest[0][0], int(size * count)


class Stream(NamedTuple):
    """The extent of a room's stream. As long as it does not change, neither does the room.

    `head` is the offset of the newest publication, `first` that of the oldest stored one. If
    none is stored, `first` is `head` + 1.
    """

    epoch: str
    head: int
    first: int


class HistoryReader:
    """Reads the history's file in `directory`. The first read opens the file.

    If SQLite locks readers out for a moment, a read waits at most `busy_timeout_ms`. By default it
    does not wait, so that an event loop can use the reader. If the file cannot be read, every
    method except `close` raises HistoryError.
    """

    def __init__(self, directory: Path, *, busy_timeout_ms: int = 0) -> None:
        self._file = directory / FILE_NAME
        self._busy_timeout_ms = busy_timeout_ms
        self._db: apsw.Connection | None = None

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        high = OFFSET_MASK if offset is None else min(offset - 1, OFFSET_MASK)
        return self._read(room, 0, high, limit, newest=True)

    def after(self, room: str, offset: int, limit: int) -> Page:
        return self._read(room, min(offset + 1, OFFSET_MASK), OFFSET_MASK, limit, newest=False)

    def stream(self, room: str) -> Stream | None:
        """The extent of a room's stream; None if nothing was ever published in the room."""
        with self._room(room) as (db, number):
            if number is None:
                return None
            ((epoch, head),) = select(
                db, "SELECT epoch, head FROM streams WHERE number = ?", number
            )
            statement = "SELECT min(key) FROM publications WHERE key BETWEEN ? AND ?"
            ((oldest,),) = select(db, statement, *_keys(number))
        return Stream(epoch, head, head + 1 if oldest is None else oldest & OFFSET_MASK)

    def texts_with_links(self, room: str) -> Iterator[tuple[int, str]]:
        """The offsets and present texts of those messages of a room that may link to files."""
        with self._room(room) as (db, number):
            if number is not None:
                statement = (
                    "SELECT key, text FROM publications "
                    "WHERE key BETWEEN ? AND ? AND kind = 0 AND instr(text, ?)"
                )
                for key, text in db.execute(statement, (*_keys(number), LINK)):
                    yield key & OFFSET_MASK, text

    def open_again(self) -> None:
        """Open the file that is in the directory now; if that fails, the next read tries again."""
        self.close()
        with suppress(HistoryError), disk_errors():
            self._db = open_to_read(self._file, busy_timeout_ms=self._busy_timeout_ms)
            select(self._db, "SELECT 1 FROM rooms LIMIT 1")  # also opens SQLite's files beside it

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, room: str, low: int, high: int, limit: int, *, newest: bool) -> Page:
        with self._room(room) as (db, number):
            if number is None:
                return Page([], more=False)
            return read_page(db, room, number, low, high, limit, newest=newest)

    @contextmanager
    def _room(self, name: str) -> Iterator[tuple[apsw.Connection, int | None]]:
        """The open file, and the room's number, or None if the file does not have the room."""
        with disk_errors():
            if self._db is None:
                self._db = open_to_read(self._file, busy_timeout_ms=self._busy_timeout_ms)
            found = select(self._db, "SELECT number FROM rooms WHERE name = ?", name)
            yield self._db, found[0][0] if found else None


def _keys(number: int) -> tuple[int, int]:
    """The first and the last key that a room can have."""
    return number << OFFSET_BITS, number << OFFSET_BITS | OFFSET_MASK
