"""Operations on rooms."""

from __future__ import annotations

from collections.abc import Mapping

from fastchat.api.listing import ListedRooms
from fastchat.api.requests import Answer, ApiError, Field, Handler, Request, answer, bad_request
from fastchat.chat.operations import Operations
from fastchat.errors import ErrorCode
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.administration import MAX_LISTED_ROOMS

__all__ = ["RoomHandlers"]

#: Rooms in an answer if the client does not say how many it wants.
DEFAULT_LIMIT = 100
_OPTIONS = tuple(
    Field(name, type(default))
    for name, default in zip(RoomOptions._fields, RoomOptions(), strict=True)
)


class RoomHandlers:
    """Carries out the operations on rooms."""

    def __init__(self, operations: Operations, rooms: ListedRooms) -> None:
        self._operations = operations
        self._rooms = rooms

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "listRooms": self._list,
            "getRoom": self._get,
            "changeRoom": self._change,
            "deleteRoom": self._delete,
        }

    async def _list(self, request: Request) -> Answer:
        query = request.query(Field("prefix"), Field("cursor"), Field("limit", int))
        limit = query.get("limit", DEFAULT_LIMIT)
        if not 1 <= limit <= MAX_LISTED_ROOMS:
            raise bad_request(f"`limit` must be from 1 to {MAX_LISTED_ROOMS:,}.")
        prefix, after = query.get("prefix", ""), query.get("cursor", "")
        rooms = await self._rooms.page(request.key.key.rooms, prefix, after, limit + 1)
        cursor = rooms[limit - 1].room if len(rooms) > limit else None
        return answer({"rooms": [each._asdict() for each in rooms[:limit]], "cursor": cursor})

    async def _get(self, request: Request) -> Answer:
        room = request.room()
        return _options(room, await self._operations.options(room))

    async def _change(self, request: Request) -> Answer:
        room = request.room()
        changes = await request.body(*_OPTIONS)
        changed = await self._operations.set_options(request.key.speaker, room, changes)
        return _options(room, changed)

    async def _delete(self, request: Request) -> Answer:
        request.query()
        if not await self._operations.delete_room(request.key.speaker, request.room()):
            raise ApiError(404, ErrorCode.NOT_FOUND, "There is no room of this name.")
        return Answer(204, b"", ())


def _options(room: str, options: RoomOptions) -> Answer:
    return answer({"room": room, **options._asdict()})
