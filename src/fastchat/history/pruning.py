"""Pruning: a room's oldest publications are deleted if they are too many or too old.

Pruning runs on the event loop, so each step deletes a limited number of rows. A room can
therefore have some publications more than its limit for a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import apsw

from fastchat.database import select
from fastchat.history.rows import OFFSET_MASK
from fastchat.history.tails import KnownRooms, Room
from fastchat.protocol.options import RoomOptions

__all__ = ["PRUNED_AT_ONCE", "Pruner"]

#: Rows that one step deletes in one room; deleting them takes well under 1 ms.
PRUNED_AT_ONCE = 256
#: Rooms that one step examines for publications that are too old. With a step a second, each
#: of N rooms is examined every N / 64 seconds.
_ROOMS_AT_ONCE = 64


class Pruner:
    """Deletes publications beyond the newest `max_messages` of each room, and old ones.

    A room whose `options` have another number keeps that. A room can have a slack of an eighth of
    its number, at most `PRUNED_AT_ONCE`, so that not every turn deletes rows. Each method must be
    called within a transaction.
    """

    def __init__(
        self,
        db: apsw.Connection,
        rooms: KnownRooms,
        max_messages: int,
        options: Mapping[str, RoomOptions],
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._max_messages = max_messages
        self._options = options
        self._last = 0  # number of the last room that `find_aged` has examined

    def shorten(self, room: Room) -> None:
        """Delete the oldest publications of a room if it has more than its limit and slack."""
        kept = room.head - room.first + 1
        options = self._options.get(room.name) if self._options else None
        limit = (options.max_messages if options else 0) or self._max_messages
        if kept > limit + min(limit // 8 + 1, PRUNED_AT_ONCE):
            # This is more than one turn usually adds, and still keeps the turn short.
            excess = min(kept - limit, 2 * PRUNED_AT_ONCE)
            self.drop(room, room.first + excess)

    def find_aged(self, before: str) -> Iterator[tuple[Room, int]]:
        """Rooms with publications from before the timestamp `before`.

        Each room comes with the offset of its first publication that must stay. Each call
        examines the next `_ROOMS_AT_ONCE` rooms, and after the last room the first ones again.
        """
        rooms = select(
            self._db,
            "SELECT number, name FROM rooms WHERE number > ? ORDER BY number LIMIT ?",
            self._last,
            _ROOMS_AT_ONCE,
        )
        self._last = rooms[-1][0] if len(rooms) == _ROOMS_AT_ONCE else 0
        for _, name in rooms:
            room = self._rooms.get(name)
            last = 0
            for key, timestamp in select(
                self._db,
                "SELECT key, timestamp FROM publications WHERE key BETWEEN ? AND ? "
                "ORDER BY key LIMIT ?",
                room.key(room.first),
                room.key(room.head),
                PRUNED_AT_ONCE,
            ):
                if timestamp >= before:
                    break
                last = key & OFFSET_MASK
            if last:
                yield room, last + 1

    def drop(self, room: Room, first: int) -> None:
        """Delete the publications before offset `first`, in the file and in memory."""
        self._db.execute(
            "DELETE FROM publications WHERE key BETWEEN ? AND ?",
            (room.key(0), room.key(first - 1)),
        )
        if first > room.head:  # otherwise the newest key has the head
            self._rooms.write_head(room)
        room.first = first
        self._rooms.drop_before(room, first)
