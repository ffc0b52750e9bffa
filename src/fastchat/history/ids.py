"""The ids of recent messages, so that a message that is sent twice is published once."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from fastchat.database import select
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK
from fastchat.protocol import timestamp_of

__all__ = ["REMEMBER_IDS_S", "Ids"]

#: How long an `id` is remembered (docs/protocol.md, "Sending twice").
REMEMBER_IDS_S = 600.0

# Restored publications can be older than ids in the table, so their ids are added first, and
# then the table is rewritten in the order of time.
_ADD_RESTORED = f"""
INSERT OR IGNORE INTO ids (room, user, id, offset, timestamp)
SELECT ?1, user, id, key & {OFFSET_MASK}, timestamp FROM publications
WHERE key BETWEEN ?1 << {OFFSET_BITS} AND (?1 + 1 << {OFFSET_BITS}) - 1
AND id IS NOT NULL AND timestamp >= ?2
"""  # noqa: S608
_SORT = """
CREATE TEMP TABLE remembered AS SELECT room, user, id, offset, timestamp FROM ids;
DELETE FROM ids;
INSERT INTO ids (room, user, id, offset, timestamp)
SELECT room, user, id, offset, timestamp FROM remembered ORDER BY timestamp;
DROP TABLE remembered;
"""


class Ids:
    """The table `ids`. Rows are in the order of time, so that expired ids are its first rows.

    Each method must be called within a transaction. `clock` returns seconds since 1970, and `ages`
    the time from which ages are measured (`fastchat.clocks`).
    """

    def __init__(
        self, db: apsw.Connection, clock: Callable[[], float], ages: Callable[[], float]
    ) -> None:
        self._db = db
        self._clock = clock
        self._ages = ages
        #: Whether expired ids may be left after the last call of `expire`.
        self.has_expired = False

    def add(self, room: int, user: str, id: str, offset: int) -> int | None:
        """Remember the id of a message; return None if the id is new.

        Otherwise the result is the offset of the message that was published with this id.
        """
        self._db.execute(
            "INSERT OR IGNORE INTO ids (room, user, id, offset, timestamp) VALUES (?, ?, ?, ?, ?)",
            (room, user, id, offset, timestamp_of(self._clock())),
        )
        if self._db.changes():
            return None
        ((known,),) = select(
            self._db,
            "SELECT offset FROM ids WHERE room = ? AND user = ? AND id = ?",
            room,
            user,
            id,
        )
        return int(known)

    def add_restored(self, room: int) -> None:
        """Remember the ids of a room's recent publications; `sort` must be called afterwards."""
        self._db.execute(_ADD_RESTORED, (room, self._oldest()))

    def sort(self) -> None:
        """Restore the order of time, which `expire` relies on."""
        self._db.execute(_SORT)

    def expire(self, limit: int) -> None:
        """Forget up to `limit` ids that are older than `REMEMBER_IDS_S`."""
        ((last, expired),) = select(
            self._db,
            "SELECT max(number), count(*) "
            "FROM (SELECT number, timestamp FROM ids ORDER BY number LIMIT ?) WHERE timestamp < ?",
            limit,
            self._oldest(),
        )
        self.has_expired = expired == limit
        if expired:
            self._db.execute("DELETE FROM ids WHERE number <= ?", (last,))

    def _oldest(self) -> str:
        return timestamp_of(self._ages() - REMEMBER_IDS_S)
