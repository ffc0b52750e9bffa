"""The ids of messages, remembered for a while: a message that is sent twice is published once."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from fastchat.database import select
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK
from fastchat.protocol import timestamp_of

__all__ = ["REMEMBER_IDS_S", "Ids"]

#: An `id` is remembered this long (docs/protocol.md, "Sending twice").
REMEMBER_IDS_S = 600.0

# The ids of restored publications, and then all ids in the order of time again.
_ADD_RESTORED = f"""
INSERT OR IGNORE INTO ids (room, username, id, offset, timestamp)
SELECT ?1, username, id, key & {OFFSET_MASK}, timestamp FROM publications
WHERE key BETWEEN ?1 << {OFFSET_BITS} AND (?1 + 1 << {OFFSET_BITS}) - 1
AND id IS NOT NULL AND timestamp >= ?2
"""  # noqa: S608
_SORT = """
CREATE TEMP TABLE remembered AS SELECT room, username, id, offset, timestamp FROM ids;
DELETE FROM ids;
INSERT INTO ids (room, username, id, offset, timestamp)
SELECT room, username, id, offset, timestamp FROM remembered ORDER BY timestamp;
DROP TABLE remembered;
"""


class Ids:
    """The table of ids; every method is called within a transaction.

    `clock` returns seconds since 1970.
    """

    def __init__(self, db: apsw.Connection, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
        self._has_expired = False

    @property
    def has_expired(self) -> bool:
        """Whether more ids have expired than the last call of `expire` took."""
        return self._has_expired

    def add(self, room: int, owner: str, id: str, offset: int) -> int | None:
        """Remember an id; returns the offset of its message if it was known already."""
        self._db.execute(
            "INSERT OR IGNORE INTO ids (room, username, id, offset, timestamp) "
            "VALUES (?, ?, ?, ?, ?)",
            (room, owner, id, offset, timestamp_of(self._clock())),
        )
        if self._db.changes():
            return None
        ((known,),) = select(
            self._db,
            "SELECT offset FROM ids WHERE room = ? AND username = ? AND id = ?",
            room,
            owner,
            id,
        )
        return int(known)

    def add_restored(self, room: int) -> None:
        """Remember the ids of a room's publications; `sort` must follow."""
        self._db.execute(_ADD_RESTORED, (room, self._oldest()))

    def sort(self) -> None:
        """Put the ids in the order of time, as `expire` expects them."""
        self._db.execute(_SORT)

    def expire(self, limit: int) -> None:
        """Forget up to `limit` ids that have been remembered long enough."""
        ((last, expired),) = select(
            self._db,
            "SELECT max(number), count(*) "
            "FROM (SELECT number, timestamp FROM ids ORDER BY number LIMIT ?) WHERE timestamp < ?",
            limit,
            self._oldest(),
        )
        self._has_expired = expired == limit
        if expired:
            self._db.execute("DELETE FROM ids WHERE number <= ?", (last,))

    def _oldest(self) -> str:
        return timestamp_of(self._clock() - REMEMBER_IDS_S)
