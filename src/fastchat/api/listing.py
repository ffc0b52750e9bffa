"""The rooms that a key can see, in the order of their names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from fastchat.api.keys import ActiveKey
from fastchat.chat.operations import Operations
from fastchat.rooms.administration import StoredRoom

__all__ = ["ListedRooms"]

#: Rooms that are looked up at once. Each takes some 50 µs, in which a single process does nothing
#: else.
AT_ONCE = 50


class ListedRooms:
    """Lists the rooms of keys. Each call raises CommandError if the rooms cannot be reached."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def page(
        self, patterns: Iterable[str], prefix: str, after: str, limit: int
    ) -> list[StoredRoom]:
        """The first rooms that match a pattern, begin with `prefix`, and come after `after`."""
        found: list[StoredRoom] = []
        for pattern in _disjoint(patterns):
            beginning = pattern.removesuffix("*")
            if beginning == pattern:
                if pattern.startswith(prefix) and pattern > after and len(found) < limit:
                    rooms = await self._operations.rooms(pattern, "", 1)
                    found += [room for room in rooms if room.room == pattern]
                continue
            if not (beginning.startswith(prefix) or prefix.startswith(beginning)):
                continue
            longer, last = max(beginning, prefix, key=len), after
            while len(found) < limit:
                wanted = min(limit - len(found), AT_ONCE)
                rooms = await self._operations.rooms(longer, last, wanted)
                found += rooms
                if len(rooms) < wanted:
                    break
                last = rooms[-1].room
                await asyncio.sleep(0)  # so that others have their turn
        return found

    async def names(self, key: ActiveKey, limit: int) -> list[str]:
        """The names of the first rooms of a key."""
        return [room.room for room in await self.page(key.key.rooms, "", "", limit)]


def _disjoint(patterns: Iterable[str]) -> list[str]:
    """The patterns without those that another one contains, in the order of their rooms."""
    kept: list[str] = []
    # A beginning sorts before everything that it contains, once its `*` is ignored.
    for pattern in sorted(
        set(patterns), key=lambda each: (each.removesuffix("*"), each[-1] != "*")
    ):
        if not any(
            each.endswith("*") and pattern.removesuffix("*").startswith(each[:-1]) for each in kept
        ):
            kept.append(pattern)
    return kept
