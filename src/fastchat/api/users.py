"""Operations on users: where they are, bans, what they have said, and tokens for them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from fastchat.api.requests import (
    Answer,
    ApiError,
    Field,
    Handler,
    Request,
    Stream,
    answer,
    bad_request,
)
from fastchat.chat.operations import Operations
from fastchat.errors import ErrorCode
from fastchat.protocol import timestamp_of
from fastchat.protocol.users import check_user

__all__ = ["IssueToken", "TokenHandlers", "UserHandlers"]

logger = logging.getLogger("fastchat.api")

#: Publications of a user that are read at once for an export.
EXPORTED = 300
#: How long a token is valid if the request does not say, and at most: 1 h and a year, in seconds.
DEFAULT_TTL_S, MAX_TTL_S = 3600, 366 * 86400
#: Rooms that a token can name.
MAX_TOKEN_ROOMS = 100
_RIGHTS = ("read", "write", "moderate")
_JSON_LINES = (
    (b"content-type", b"application/jsonl; charset=utf-8"),
    (b"cache-control", b"no-store"),
)


class UserHandlers:
    """Carries out the operations on users."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "listUsers": self._list,
            "getUser": self._get,
            "disconnectUser": self._disconnect,
            "banUser": self._ban,
            "unbanUser": self._unban,
            "listBans": self._bans,
            "exportUser": self._export,
            "eraseUser": self._erase,
        }

    async def _list(self, request: Request) -> Answer:
        request.query()
        users = await self._operations.users(request.room())
        fields = ("user", "username", "connections", "since")
        return answer({"users": [{name: getattr(each, name) for name in fields} for each in users]})

    async def _get(self, request: Request) -> Answer:
        request.query()
        user = request.variables["user"]
        found = await self._operations.find_user(user)
        fields = ("room", "username", "connections", "since")
        rooms = [each for each in found if request.key.matches(each.room)]
        listed = [{name: getattr(each, name) for name in fields} for each in rooms]
        return answer({"user": user, "rooms": listed})

    async def _disconnect(self, request: Request) -> Answer:
        fields = await request.body_or_nothing(Field("room"), Field("reason"))
        where = request.check_where(fields.get("room"))
        user = check_user(request.variables["user"])
        if reason := fields.get("reason"):
            logger.info("the key %s disconnects %r because: %r", request.key.key.name, user, reason)
        rooms = await self._operations.disconnect(request.key.speaker, user, where)
        return answer({"rooms": rooms})

    async def _ban(self, request: Request) -> Answer:
        fields = await request.body(Field("seconds", int, is_required=True), Field("room"))
        where = request.check_where(fields.get("room"))
        user, seconds = request.variables["user"], fields["seconds"]
        await self._operations.ban(request.key.speaker, user, seconds, where)
        return answer({"user": user, "room": where, "seconds": seconds})

    async def _unban(self, request: Request) -> Answer:
        where = request.check_where(request.query(Field("room")).get("room"))
        user = request.variables["user"]
        if not await self._operations.unban(request.key.speaker, user, where):
            raise ApiError(404, ErrorCode.NOT_FOUND, "The user is not banned there.")
        return Answer(204, b"", ())

    async def _bans(self, request: Request) -> Answer:
        request.query()
        bans = [
            each._asdict()
            for each in await self._operations.bans()
            if request.key.key.has_all_rooms
            or (each.room is not None and request.key.matches(each.room))
        ]
        return answer({"bans": bans})

    async def _export(self, request: Request) -> Stream:
        request.query()
        request.check_all_rooms()
        user = check_user(request.variables["user"])
        # The first step is taken here, so that an error of it is an answer.
        first = await self._operations.messages_of(user, None, EXPORTED)
        logger.info("the key %s exports the messages of %r", request.key.key.name, user)
        return Stream(self._lines(user, *first), _JSON_LINES)

    async def _lines(
        self, user: str, payloads: Sequence[bytes], cursor: Sequence[Any] | None
    ) -> AsyncGenerator[bytes]:
        while True:
            if payloads:
                yield b"\n".join((*payloads, b""))
            if cursor is None:
                return
            payloads, cursor = await self._operations.messages_of(user, cursor, EXPORTED)

    async def _erase(self, request: Request) -> Answer:
        request.query()
        request.check_all_rooms()
        erased = await self._operations.erase(request.key.speaker, request.variables["user"])
        return answer(erased._asdict())


#: Makes a token of a subject, a name or None, rights by room or None, and seconds. Raises
#: CommandError if one of them is refused.
IssueToken = Callable[[str, str | None, Mapping[str, Sequence[str]] | None, int], str]


class TokenHandlers:
    """Makes tokens; `issue` is None if the server has no secret to sign them with.

    `clock`: seconds since 1970.
    """

    def __init__(self, issue: IssueToken | None, clock: Callable[[], float]) -> None:
        self._issue = issue
        self._clock = clock

    def handlers(self) -> Mapping[str, Handler]:
        return {"createToken": self._create}

    async def _create(self, request: Request) -> Answer:
        fields = await request.body(
            Field("sub", is_required=True), Field("name"), Field("rooms", dict), Field("ttl", int)
        )
        ttl = fields.get("ttl", DEFAULT_TTL_S)
        if not 1 <= ttl <= MAX_TTL_S:
            raise bad_request(f"`ttl` must be a whole number of seconds from 1 to {MAX_TTL_S}.")
        rooms = _rooms(request, fields.get("rooms"))
        if self._issue is None:
            raise ApiError(
                409,
                "conflict",
                "The server has no secret to sign tokens with: it accepts no tokens, or has only "
                "the public keys of somebody who makes them.",
            )
        token = self._issue(fields["sub"], fields.get("name"), rooms, ttl)
        logger.info("the key %s made a token for %r", request.key.key.name, fields["sub"])
        return answer({"token": token, "expires": timestamp_of(self._clock() + ttl)}, 201)


def _rooms(request: Request, rooms: dict[str, Any] | None) -> dict[str, list[str]] | None:
    """The rights of a new token, none of which may be for a room that the key is not for."""
    if rooms is None:
        request.check_all_rooms()
        return None
    if len(rooms) > MAX_TOKEN_ROOMS:
        raise bad_request(f"`rooms` can name at most {MAX_TOKEN_ROOMS} rooms.")
    checked = {}
    for room, rights in rooms.items():
        if type(rights) is not list or not all(each in _RIGHTS for each in rights):
            raise bad_request(f"`rooms` must have an array of {', '.join(_RIGHTS)} for each room.")
        if room == "*":
            request.check_all_rooms()
        else:
            room = request.check_room(room)
        checked[room] = rights
    return checked
