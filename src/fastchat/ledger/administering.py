"""What backends and operators ask of rooms that several machines share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastchat import protocol
from fastchat.history import Cursor
from fastchat.ledger import LedgerError
from fastchat.ledger.attendance import Attendance
from fastchat.ledger.erasing import Eraser, new_erasure
from fastchat.ledger.following import Following
from fastchat.ledger.listing import Listing
from fastchat.ledger.notices import Notices
from fastchat.ledger.options import read_options, store_options
from fastchat.ledger.publishing import Publishing
from fastchat.ledger.reading import Reader
from fastchat.ledger.session import Session
from fastchat.protocol import Position, Publication
from fastchat.protocol.options import RoomOptions
from fastchat.protocol.values import MAX_OFFSET
from fastchat.rooms.administration import Ban, Erased, Presence, StoredRoom
from fastchat.rooms.messages import oldest_of
from fastchat.rooms.refusals import unavailable
from fastchat.rooms.removals import ALL_ROOMS

__all__ = ["SharedAdministration"]

logger = logging.getLogger("fastchat.ledger")
moderation = logging.getLogger("fastchat.moderation")


class SharedAdministration:
    """Implements `fastchat.rooms.administration.Administration`.

    What a call decides is in force on this machine when it returns, and on the others as soon as
    they hear of it: in a moment, or within about a second if the notification is lost.
    """

    def __init__(
        self,
        session: Session,
        reader: Reader,
        attendance: Attendance,
        publishing: Publishing,
        following: Following,
        notices: Notices,
    ) -> None:
        self._session = session
        self._reader = reader
        self._attendance = attendance
        self._publishing = publishing
        self._following = following
        self._notices = notices
        self._listing = Listing(session)
        self._eraser = Eraser(session)
        self._erasing = asyncio.Lock()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Turn a LedgerError of the block into CommandError `unavailable`."""
        await asyncio.sleep(0)  # the first step can be outside of a task
        try:
            yield
        except LedgerError as error:
            logger.debug("a call of an administrator has failed: %s", error)
            raise unavailable() from error

    # Rooms

    async def position(self, room: str) -> Position:
        async with self._asking():
            return await self._reader.position(room)

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        async with self._asking():
            return await self._listing.rooms(prefix, after, limit)

    async def options(self, room: str) -> RoomOptions:
        async with self._asking():
            return await read_options(self._session, room)

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        async with self._asking():
            await self._publishing.flushed(room)
            options, notice = await store_options(self._session, room, changes)
        moderation.info("%r has set options of room %s: %s", by, room, ", ".join(changes))
        self._notices.tell(notice)
        return options

    async def delete_room(self, room: str, by: str) -> bool:
        async with self._asking():
            await self._publishing.flushed(room)
            deletion = await self._eraser.delete_room(room)
        moderation.info("%r has deleted room %s", by, room)
        if deletion.notice is not None:
            self._notices.tell(deletion.notice)
        if deletion.number is not None:
            with suppress(LedgerError):  # then `Upkeep` does it
                await self._eraser.release(deletion.number)
        return deletion.notice is not None

    # Publications

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        found: Sequence[Publication] | None = None
        stream = self._following.get(room)
        if stream is not None and stream.has(position.offset):
            found = stream.since(position, MAX_OFFSET)
        if found is None:  # the position can be one of which this machine has not heard yet
            async with self._asking():
                found = await self._reader.following(room, position, limit)
        else:
            found = found[:limit]
        return None if found is None else oldest_of(found)

    # Users

    async def users(self, room: str) -> Sequence[Presence]:
        async with self._asking():
            await self._attendance.say_connections()
            return await self._listing.users(room)

    async def find_user(self, user: str) -> Sequence[Presence]:
        async with self._asking():
            await self._attendance.say_connections()
            return await self._listing.find_user(user)

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        count = await self._keep_out(user, room, 0)
        moderation.info("%r has disconnected %s from %s", by, user, room or "all rooms")
        return count

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        await self._keep_out(user, room, seconds)
        moderation.info("%r keeps %s out of %s for %d s", by, user, room or "all rooms", seconds)

    async def _keep_out(self, user: str, room: str | None, seconds: int) -> int:
        async with self._asking():
            await self._publishing.flushed(room)
            await self._attendance.say_spectators()
            return await self._attendance.keep_out(room or ALL_ROOMS, user, seconds)

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        async with self._asking():
            is_lifted, notice = await self._attendance.lift(room or ALL_ROOMS, user)
        if notice is not None:
            self._notices.tell(notice)
        if is_lifted:
            moderation.info("%r lets %s into %s again", by, user, room or "all rooms")
        return is_lifted

    async def bans(self) -> Sequence[Ban]:
        async with self._asking():
            return await self._listing.bans()

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        async with self._asking():
            found, cursor = await self._eraser.published_by(user, after, limit)
        return list(map(protocol.encode, found)), cursor

    async def erase_user(self, user: str, by: str) -> Erased:
        async with self._asking(), self._erasing:
            await self._publishing.flushed(None)
            moderation.info("%r erases what %s has said", by, user)
            messages = reactions = 0
            cursor: Cursor | None = None
            erasure = new_erasure()
            async with self._session.storing() as store:
                while True:
                    step, notices, cursor = await self._eraser.erase(store, user, erasure, cursor)
                    messages, reactions = messages + step.messages, reactions + step.reactions
                    for notice in notices:
                        self._notices.tell(notice)
                    if cursor is None:
                        return Erased(messages, reactions)
