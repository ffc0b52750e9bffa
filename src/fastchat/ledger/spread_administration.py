"""What backends and operators ask of rooms that are spread over several ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.administration import Administration, Ban, Erased, Presence, StoredRoom

__all__ = ["SpreadAdministration"]

Result = TypeVar("Result")


class SpreadAdministration:
    """Implements `fastchat.rooms.administration.Administration`.

    What is about one room is asked of the room's ledger, `of` its name. What is about all rooms is
    asked of every ledger in `every`, by their ids in their order. If one of them fails, the others
    have done it, and the call can be made again. Both raise CommandError (`unavailable`) if a
    ledger was not reached yet.
    """

    def __init__(
        self,
        of: Callable[[str], Administration],
        every: Callable[[], Mapping[str, Administration]],
    ) -> None:
        self._of = of
        self._every = every

    async def _ask_all(
        self, question: Callable[[Administration], Coroutine[Any, Any, Result]]
    ) -> list[Result]:
        asked = self._every().values()
        answers = await asyncio.gather(*map(question, asked), return_exceptions=True)
        found: list[Result] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
        return found

    # Rooms

    async def position(self, room: str) -> Position:
        return await self._of(room).position(room)

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        found = await self._ask_all(lambda each: each.rooms(prefix, after, limit))
        return sorted((room for rooms in found for room in rooms), key=lambda room: room.room)[
            :limit
        ]

    async def options(self, room: str) -> RoomOptions:
        return await self._of(room).options(room)

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        return await self._of(room).set_options(room, changes, by)

    async def delete_room(self, room: str, by: str) -> bool:
        return await self._of(room).delete_room(room, by)

    # Publications

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        return await self._of(room).since(room, position, limit)

    # Users

    async def users(self, room: str) -> Sequence[Presence]:
        return await self._of(room).users(room)

    async def find_user(self, user: str) -> Sequence[Presence]:
        found = await self._ask_all(lambda each: each.find_user(user))
        return [presence for presences in found for presence in presences]

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        if room is not None:
            return await self._of(room).disconnect(user, room, by)
        return sum(await self._ask_all(lambda each: each.disconnect(user, None, by)))

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        """See `Administration.ban`. Each ledger keeps a ban from all rooms for its own."""
        if room is not None:
            await self._of(room).ban(user, room, seconds, by)
        else:
            await self._ask_all(lambda each: each.ban(user, None, seconds, by))

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        if room is not None:
            return await self._of(room).unban(user, room, by)
        return any(await self._ask_all(lambda each: each.unban(user, None, by)))

    async def bans(self) -> Sequence[Ban]:
        found: dict[tuple[str, str | None], Ban] = {}
        for bans in await self._ask_all(lambda each: each.bans()):
            for ban in bans:
                known = found.setdefault((ban.user, ban.room), ban)
                if known.until < ban.until:
                    found[ban.user, ban.room] = ban
        return sorted(found.values(), key=lambda ban: ban.until)

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        """See `Administration.messages_of`. The cursor begins with the id of a ledger."""
        every = self._every()
        ids = list(every)
        place = 0 if after is None or after[0] not in ids else ids.index(after[0])
        cursor = after[1:] if after is not None and after[0] == ids[place] else None
        found, cursor = await every[ids[place]].messages_of(user, cursor or None, limit)
        if cursor is not None:
            return found, [ids[place], *cursor]
        return found, [ids[place + 1]] if place + 1 < len(ids) else None

    async def erase_user(self, user: str, by: str) -> Erased:
        erased = await self._ask_all(lambda each: each.erase_user(user, by))
        return Erased(*map(sum, zip(*erased, strict=True)))
