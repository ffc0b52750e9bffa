"""What backends and operators ask of the rooms of one process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastchat import protocol
from fastchat.history import Cursor
from fastchat.protocol import Position, timestamp_of
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.administration import Ban, Erased, Presence, StoredRoom
from fastchat.rooms.members import Members
from fastchat.rooms.messages import oldest_of
from fastchat.rooms.presence import User
from fastchat.rooms.removals import Removals
from fastchat.rooms.storage import Storage

__all__ = ["LocalAdministration"]

#: The time between two looks at a history that is busy with the disk.
BUSY_S = 0.001

moderation = logging.getLogger("fastchat.moderation")


class LocalAdministration:
    """Implements `fastchat.rooms.administration.Administration`.

    `commit` stores and delivers everything that was published, so that it comes before what is
    asked. Only calls that go through all publications suspend.
    """

    def __init__(
        self,
        members: Members,
        storage: Storage,
        removals: Removals,
        *,
        commit: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._members = members
        self._storage = storage
        self._removals = removals
        self._commit = commit
        self._clock = clock

    # Rooms

    async def position(self, room: str) -> Position:
        with self._storage.use("position") as history:
            return history.position(room)

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        with self._storage.use("rooms") as history:
            stored = {each.room: each for each in history.streams(prefix, after, limit)}
            open_rooms = self._members.rooms
            names = stored.keys() | {
                name for name in open_rooms if name.startswith(prefix) and name > after
            }
            found = []
            for name in sorted(names)[:limit]:
                room = open_rooms.get(name)
                online = 0 if room is None else len(room.roster)
                if (each := stored.get(name)) is not None:
                    _, epoch, head, last_at, size = each
                else:
                    (epoch, head, last_at), size = history.position(name), 0
                found.append(StoredRoom(name, epoch, head, online, last_at, size))
        return found

    async def options(self, room: str) -> RoomOptions:
        return self._storage.options.get(room, RoomOptions())

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        self._commit()
        options = self._storage.options.get(room, RoomOptions())._replace(**changes)
        with self._storage.use("options") as history:
            history.set_options(room, options)
        moderation.info("%r has set options of room %s: %s", by, room, ", ".join(changes))
        self._announce(room, protocol.room_changed(room, options))
        return options

    async def delete_room(self, room: str, by: str) -> bool:
        self._commit()
        with self._storage.use("delete") as history:
            is_deleted = history.delete_room(room)
            position = history.position(room)
        moderation.info("%r has deleted room %s", by, room)
        self._announce(room, protocol.room_deleted(room))
        if (found := self._members.rooms.get(room)) is not None:
            for subscriber in tuple(found.subscribers):
                subscriber.restarted(room, position)
        return is_deleted or found is not None

    def _announce(self, room: str, payload: bytes) -> None:
        if (found := self._members.rooms.get(room)) is not None:
            for subscriber in found.subscribers:
                subscriber.announce(room, payload)

    # Publications

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        with self._storage.use("since") as history:
            found = history.following(room, position, limit)
        return None if found is None else oldest_of(found)

    # Users

    async def users(self, room: str) -> Sequence[Presence]:
        found = self._members.rooms.get(room)
        return [] if found is None else [_presence(room, user) for user in found.roster]

    async def find_user(self, user: str) -> Sequence[Presence]:
        return [
            _presence(name, each)
            for name, room in self._members.rooms.items()
            for each in room.roster.find_all(user)
        ]

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        self._commit()
        count = sum(self._members.expel(name, user, 0) for name in self._names(room))
        moderation.info("%r has disconnected %s from %s", by, user, room or "all rooms")
        return count

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        self._commit()
        # Another directory in the place of ours stays as it is.
        self._removals.add(room, user, seconds, save=not self._storage.is_away)
        moderation.info("%r keeps %s out of %s for %d s", by, user, room or "all rooms", seconds)
        for name in self._names(room):
            self._members.expel(name, user, seconds)

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        is_lifted = self._removals.lift(room, user, save=not self._storage.is_away)
        if is_lifted:
            moderation.info("%r lets %s into %s again", by, user, room or "all rooms")
        return is_lifted

    async def bans(self) -> Sequence[Ban]:
        now = self._clock()
        return [
            Ban(user, room, timestamp_of(now + seconds))
            for room, user, seconds in self._removals.in_force()
        ]

    def _names(self, room: str | None) -> Iterator[str]:
        """The names of the rooms that are meant, of those with members."""
        yield from (
            tuple(self._members.rooms) if room is None else {room} & self._members.rooms.keys()
        )

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        await self._until_idle()
        with self._storage.use("search") as history:
            found, cursor = history.published_by(user, after, limit)
        return list(map(protocol.encode, found)), cursor

    async def erase_user(self, user: str, by: str) -> Erased:
        self._commit()
        moderation.info("%r erases what %s has said", by, user)
        messages = reactions = 0
        rooms: set[str] = set()
        cursor: Cursor | None = None
        while True:
            await self._until_idle()
            with self._storage.use("erase") as history:
                erasure, cursor = history.erase_user(user, cursor)
            messages, reactions = messages + erasure.messages, reactions + erasure.reactions
            rooms |= erasure.rooms
            if cursor is None:
                break
            await asyncio.sleep(0)
        for name in rooms:
            self._announce(name, protocol.user_erased(name, user))
        return Erased(messages, reactions)

    async def _until_idle(self) -> None:
        while self._storage.is_busy:  # noqa: ASYNC110  # a thread ends it
            await asyncio.sleep(BUSY_S)


def _presence(room: str, user: User) -> Presence:
    return Presence(room, user.id, user.name, user.connections, timestamp_of(user.since_s))
