"""Operations on messages: publish, read, change and react."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from fastchat.api.keys import ApiRight
from fastchat.api.listing import ListedRooms
from fastchat.api.requests import (
    Answer,
    ApiError,
    Field,
    Handler,
    Request,
    answer,
    bad_request,
    refusal,
)
from fastchat.chat.operations import Operations, Published
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import MAX_HISTORY, Position, check_epoch

__all__ = ["MessageHandlers"]

#: Rooms to which one request can publish.
MAX_ROOMS = 1000
#: Rooms to which a request publishes at the same time.
AT_ONCE = 100
#: Messages in an answer if the client does not say how many it wants.
DEFAULT_LIMIT = 50
#: Characters of a query, as in the protocol's `search`.
MAX_QUERY_CHARS = 200
_TEXT = Field("text", is_required=True)
_AUTHOR = (Field("user"), Field("username"))
_MESSAGE = (_TEXT, *_AUTHOR, Field("id"), Field("reply_to", int))
_GONE = "The publications after this position are not stored any more. Read the newest messages."


class MessageHandlers:
    """Carries out the operations on messages; `wake` is called with a room after each change."""

    def __init__(
        self, operations: Operations, rooms: ListedRooms, wake: Callable[[str], None]
    ) -> None:
        self._operations = operations
        self._rooms = rooms
        self._wake = wake

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "publishMessage": self._publish,
            "publishToRooms": self._publish_to_rooms,
            "listMessages": self._list,
            "editMessage": self._edit,
            "deleteMessage": self._delete,
            "addReaction": self._add_reaction,
            "removeReaction": self._remove_reaction,
        }

    # Publishing

    async def _publish(self, request: Request) -> Answer:
        room = request.room()
        fields = await request.body(*_MESSAGE)
        text = fields.pop("text")
        published = await self._operations.publish(request.key.speaker, room, text, **fields)
        return answer(self._described(published), 200 if published.is_repeated else 201)

    async def _publish_to_rooms(self, request: Request) -> Answer:
        """Publish to many rooms. Some of them can fail."""
        fields = await request.body(Field("rooms", object, is_required=True), *_MESSAGE[:-1])
        rooms = await self._rooms_of(request, fields.pop("rooms"))
        # Each room costs as much as a request, even if the key has not so much left.
        request.spend(len(rooms) - 1)
        text = fields.pop("text")
        results: list[dict[str, Any]] = []
        for some in range(0, len(rooms), AT_ONCE):
            publishing = (
                self._publish_to(request, room, text, fields)
                for room in rooms[some : some + AT_ONCE]
            )
            results += await asyncio.gather(*publishing)
        return answer({"results": results})

    async def _rooms_of(self, request: Request, rooms: Any) -> Sequence[str]:
        if rooms == "*":
            named = await self._rooms.names(request.key, MAX_ROOMS + 1)
        elif type(rooms) is list:
            named = rooms
        else:
            raise bad_request('`rooms` must be an array of rooms, or "*" for all of the key\'s.')
        if len(named) > MAX_ROOMS:
            raise ApiError(
                400,
                ErrorCode.TOO_MANY_ROOMS,
                f"A request can publish to {MAX_ROOMS:,} rooms. Send several requests.",
            )
        return named

    async def _publish_to(
        self, request: Request, room: object, text: str, fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            name = request.check_room(room)
            published = await self._operations.publish(request.key.speaker, name, text, **fields)
        except (ApiError, CommandError) as error:
            refused = error if isinstance(error, ApiError) else refusal(error)
            return {"room": room, "status": refused.status, "error": refused.fields()}
        return {**self._described(published), "status": 200 if published.is_repeated else 201}

    # Reading

    async def _list(self, request: Request) -> Answer:
        room = request.room()
        query = request.query(
            Field("before", int),
            Field("after", int),
            Field("limit", int),
            Field("q"),
            Field("since"),
        )
        limit = query.pop("limit", DEFAULT_LIMIT)
        if not 1 <= limit <= MAX_HISTORY:
            raise bad_request(f"`limit` must be from 1 to {MAX_HISTORY}.")
        if len(query) > 1:
            raise bad_request(f"`{'` and `'.join(query)}` cannot be used together.")
        if "since" in query:
            return await self._since(room, query["since"], limit)
        words = query.get("q")
        if words is not None and not 1 <= len(words) <= MAX_QUERY_CHARS:
            raise bad_request(f"`q` must have 1 to {MAX_QUERY_CHARS} characters.")
        # Read before the messages: a client that goes on from there misses nothing.
        position = await self._operations.position(room)
        page = await self._operations.messages(
            room, before=query.get("before"), after=query.get("after"), query=words, limit=limit
        )
        return _page(page.payloads, page.more, position.epoch, position.offset)

    async def _since(self, room: str, text: str, limit: int) -> Answer:
        epoch, colon, offset = text.rpartition(":")
        if not (colon and offset.isascii() and offset.isdigit() and len(offset) <= 16):
            raise bad_request("`since` must be an epoch, a colon and an offset, as in answers.")
        position = Position(check_epoch(epoch), int(offset))
        payloads = await self._operations.since(room, position, limit)
        if payloads is None:
            raise ApiError(410, "gone", _GONE)
        # Every publication has the next offset, so the last one's need not be parsed.
        last = position.offset + len(payloads)
        more = len(payloads) > 0 and (await self._operations.position(room)).offset > last
        return _page(payloads, more, epoch, last)

    # Changes

    async def _edit(self, request: Request) -> Answer:
        room, offset = request.room(), request.offset()
        fields = await request.body(_TEXT, *_AUTHOR)
        _check_author(request, fields)
        text = fields.pop("text")
        moderates = request.has(ApiRight.MODERATE)
        changed = await self._operations.edit(
            request.key.speaker, room, offset, text, **fields, moderates=moderates
        )
        return answer(self._described(changed))

    async def _delete(self, request: Request) -> Answer:
        room, offset = request.room(), request.offset()
        fields = request.query(*_AUTHOR)
        _check_author(request, fields)
        moderates = request.has(ApiRight.MODERATE)
        changed = await self._operations.delete(
            request.key.speaker, room, offset, **fields, moderates=moderates
        )
        return answer(self._described(changed))

    async def _add_reaction(self, request: Request) -> Answer:
        return await self._react(request, remove=False)

    async def _remove_reaction(self, request: Request) -> Answer:
        return await self._react(request, remove=True)

    async def _react(self, request: Request, *, remove: bool) -> Answer:
        room, offset = request.room(), request.offset()
        fields = request.query(*_AUTHOR)
        changed = await self._operations.react(
            request.key.speaker, room, offset, request.variables["emoji"], remove=remove, **fields
        )
        return answer(self._described(changed))

    def _described(self, published: Published) -> dict[str, Any]:
        """The fields of an answer, after streams have been told of the publication."""
        self._wake(published.room)
        return _fields_of(published)


def _check_author(request: Request, fields: Mapping[str, Any]) -> None:
    """Refuse a change in the name of a user by a key that can only moderate."""
    if fields.keys() & {"user", "username"} and not request.has(ApiRight.PUBLISH):
        raise ApiError(
            403, ErrorCode.FORBIDDEN, "The key needs the right publish to speak for a user."
        )


def _fields_of(published: Published) -> dict[str, Any]:
    room, epoch, offset, timestamp, id, _ = published
    described = {"room": room, "epoch": epoch, "offset": offset, "timestamp": timestamp}
    if id is not None:
        described["id"] = id
    return described


def _page(payloads: Sequence[bytes], more: bool, epoch: str, offset: int) -> Answer:
    messages = [orjson.Fragment(payload) for payload in payloads]
    return answer({"messages": messages, "more": more, "epoch": epoch, "offset": offset})
