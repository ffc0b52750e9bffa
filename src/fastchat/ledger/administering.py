"""What backends and operators ask of rooms that several machines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.administration import Ban, Erased, Presence, StoredRoom

__all__ = ["SharedAdministration"]


class SharedAdministration:
    """Implements `fastchat.rooms.administration.Administration`."""

    async def position(self, room: str) -> Position:
        raise _unsupported()

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        raise _unsupported()

    async def options(self, room: str) -> RoomOptions:
        raise _unsupported()

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        raise _unsupported()

    async def delete_room(self, room: str, by: str) -> bool:
        raise _unsupported()

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        raise _unsupported()

    async def users(self, room: str) -> Sequence[Presence]:
        raise _unsupported()

    async def find_user(self, user: str) -> Sequence[Presence]:
        raise _unsupported()

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        raise _unsupported()

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        raise _unsupported()

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        raise _unsupported()

    async def bans(self) -> Sequence[Ban]:
        raise _unsupported()

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        raise _unsupported()

    async def erase_user(self, user: str, by: str) -> Erased:
        raise _unsupported()


def _unsupported() -> CommandError:
    return CommandError(ErrorCode.UNAVAILABLE, "A server with an engine cannot do this yet.")
