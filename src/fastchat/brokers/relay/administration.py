"""What backends and operators ask of rooms in the relay: the requests, and the relay's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastchat.brokers.relay import records
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.deadlines import check_deadline
from fastchat.brokers.relay.records import Refusal, Verb
from fastchat.errors import CommandError
from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.administration import (
    Administration,
    Ban,
    Erased,
    Presence,
    StoredRoom,
)

__all__ = ["AdministrationRequests", "RelayAdministration"]

#: How long a worker waits for a user to be erased, which goes through all publications.
ERASE_S = 600.0


class RelayAdministration:
    """Implements `fastchat.rooms.administration.Administration` by requests to the relay."""

    def __init__(self, relay: RelayBroker) -> None:
        self._relay = relay

    async def position(self, room: str) -> Position:
        return Position(*await self._value(Verb.POSITION, room))

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        return [StoredRoom(*row) for row in await self._value(Verb.ROOMS, prefix, after, limit)]

    async def options(self, room: str) -> RoomOptions:
        return RoomOptions(*await self._value(Verb.OPTIONS, room))

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        return RoomOptions(*await self._value(Verb.SET_OPTIONS, room, changes, by))

    async def delete_room(self, room: str, by: str) -> bool:
        return bool(await self._value(Verb.DELETE_ROOM, room, by))

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        reply = await self._ask(Verb.SINCE, room, position, limit)
        return reply.payloads if reply.value else None

    async def users(self, room: str) -> Sequence[Presence]:
        return [Presence(*row) for row in await self._value(Verb.USERS, room)]

    async def find_user(self, user: str) -> Sequence[Presence]:
        return [Presence(*row) for row in await self._value(Verb.FIND_USER, user)]

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        return int(await self._value(Verb.DISCONNECT, user, room, by))

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        await self._value(Verb.BAN, user, room, seconds, by)

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        return bool(await self._value(Verb.UNBAN, user, room, by))

    async def bans(self) -> Sequence[Ban]:
        return [Ban(*row) for row in await self._value(Verb.BANS)]

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        reply = await self._ask(Verb.MESSAGES_OF, user, after, limit)
        return reply.payloads, reply.value

    async def erase_user(self, user: str, by: str) -> Erased:
        reply = await self._ask(Verb.ERASE_USER, user, by, patience_s=ERASE_S)
        return Erased(*reply.value)

    async def _value(self, verb: Verb, *arguments: Any) -> Any:
        return (await self._ask(verb, *arguments)).value

    async def _ask(
        self, verb: Verb, *arguments: Any, patience_s: float | None = None
    ) -> records.Administered:
        replies: list[records.Administered] = []
        await self._relay.ask(
            lambda number, deadline: records.Administer(number, deadline, verb, arguments),
            records.Administered,
            replies.append,
            patience_s,
        )
        return replies[0]


class AdministrationRequests:
    """The relay's answers for one worker. `say` sends a record to the worker.

    A request whose deadline has passed is refused.
    """

    def __init__(
        self,
        administration: Administration,
        say: Callable[[records.Administered | records.Refused], None],
    ) -> None:
        self._administration = administration
        self._say = say

    async def answer(self, record: records.Administer) -> None:
        try:
            check_deadline(record.deadline)
            reply = await self._run(record)
        except CommandError as refusal:
            self._say(records.Refused(record.number, Refusal.of(refusal)))
        else:
            self._say(reply)

    async def _run(self, record: records.Administer) -> records.Administered:
        number, _, verb, arguments = record
        if verb is Verb.SINCE:
            room, position, limit = arguments
            found = await self._administration.since(room, Position(*position), limit)
            return records.Administered(number, found is not None, found or ())
        if verb is Verb.MESSAGES_OF:
            payloads, cursor = await self._administration.messages_of(*arguments)
            return records.Administered(number, cursor, payloads)
        return records.Administered(number, await getattr(self._administration, verb)(*arguments))
