"""Pages of a history in SQLite, for processes beside the one that writes it.

What a client has been delivered is committed, so whoever reads the file sees it. Reading goes
on when the writer does not answer, or is dead.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from fastchat.database import open_to_read, select
from fastchat.history import Page
from fastchat.history.directory import FILE_NAME
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK, SELECT, disk_errors, publication_of

__all__ = ["PageReader", "read_page"]

#: A checkpoint that begins the log anew may lock readers out for a moment.
_BUSY_TIMEOUT_MS = 500


def read_page(
    db: apsw.Connection, room: str, number: int, low: int, high: int, limit: int, *, newest: bool
) -> Page:
    """The `limit` newest or oldest messages from offset `low` to `high`, oldest first."""
    order = "DESC" if newest else "ASC"
    rows = db.execute(
        f"{SELECT} AND kind = 0 ORDER BY key {order} LIMIT ?",
        (number << OFFSET_BITS | low, number << OFFSET_BITS | high, limit + 1),
    ).fetchall()
    publications = [publication_of(room, row) for row in rows[:limit]]
    if newest:
        publications.reverse()
    return Page(publications, more=len(rows) > limit)


class PageReader:
    """Reads the file of the history in `directory`, which is opened when it is needed.

    `before` and `after` are those of `fastchat.history.History`; they raise
    HistoryError where the file cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE_NAME
        self._db: apsw.Connection | None = None

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        high = OFFSET_MASK if offset is None else min(offset - 1, OFFSET_MASK)
        return self._read(room, 0, high, limit, newest=True)

    def after(self, room: str, offset: int, limit: int) -> Page:
        return self._read(room, min(offset + 1, OFFSET_MASK), OFFSET_MASK, limit, newest=False)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _read(self, room: str, low: int, high: int, limit: int, *, newest: bool) -> Page:
        with disk_errors():
            if self._db is None:
                self._db = open_to_read(self._file, busy_timeout_ms=_BUSY_TIMEOUT_MS)
            found = select(self._db, "SELECT number FROM rooms WHERE name = ?", room)
            if not found:
                return Page([], more=False)
            return read_page(self._db, room, found[0][0], low, high, limit, newest=newest)
