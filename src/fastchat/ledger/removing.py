"""Removes users from rooms for moderators."""

from __future__ import annotations

import asyncio
import logging

from fastchat.ledger import LedgerError
from fastchat.ledger.attendance import Attendance
from fastchat.ledger.publishing import Publishing
from fastchat.rooms import Member, Removal
from fastchat.rooms.refusals import not_here, unavailable

__all__ = ["Removing"]

moderation = logging.getLogger("fastchat.moderation")


class Removing:
    """The removals that this machine asks the ledger for."""

    def __init__(self, attendance: Attendance, publishing: Publishing) -> None:
        self._attendance = attendance
        self._publishing = publishing
        self._under_way: dict[str, list[asyncio.Future[None]]] = {}

    def under_way(self, name: str) -> tuple[asyncio.Future[None], ...]:
        """What ends with the removals from a room that have begun; joins have to wait for them."""
        return tuple(self._under_way.get(name, ()))

    async def remove(self, removal: Removal) -> Member:
        """Do what `Rooms.remove` promises. Connections are closed when the ledger tells of it."""
        name, _, _, seconds, moderator = removal
        ended = asyncio.get_running_loop().create_future()
        self._under_way.setdefault(name, []).append(ended)
        try:
            await asyncio.sleep(0)  # the first step can be outside of a task
            await self._publishing.flushed(name)
            await self._attendance.say_spectators()
            member = await self._attendance.remove(removal)
        except LedgerError as error:
            raise unavailable() from error
        finally:
            ended.set_result(None)
            self._under_way[name].remove(ended)
            if not self._under_way[name]:
                del self._under_way[name]
        if member is None:
            raise not_here()
        moderation.info("%r removed %r (%s) from %s for %d s", moderator, *member, name, seconds)
        return member
