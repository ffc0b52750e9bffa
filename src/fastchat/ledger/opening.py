"""The rooms that a machine has open: it follows their streams, and has copies of their users.

A room is open while a call needs it, or a process of this machine has members in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastchat.ledger import LedgerError
from fastchat.ledger.following import Following
from fastchat.ledger.reading import Reader
from fastchat.ledger.rosters import Rosters
from fastchat.limits.rooms import RoomLimits
from fastchat.protocol.names import DEFAULT_ROOM, name_key
from fastchat.rooms import Entrance
from fastchat.rooms.members import Members
from fastchat.rooms.refusals import looks_alike, unavailable

__all__ = ["Opening"]

logger = logging.getLogger("fastchat.ledger")


class _Open:
    """A room that is open, or is being opened by a task; `calls` need it."""

    __slots__ = ("calls", "opening")

    def __init__(self, opening: asyncio.Task[None]) -> None:
        self.opening = opening
        self.calls = 0


class Opening:
    """Opens rooms, and has those closed that nobody needs.

    `close` is called with the name of such a room, and has to call `forget`. `rooms_elsewhere`
    returns the number of further rooms that count against the limit of rooms.
    """

    def __init__(
        self,
        members: Members,
        following: Following,
        rosters: Rosters,
        reader: Reader,
        *,
        limits: RoomLimits | None,
        rooms_elsewhere: Callable[[], int],
        close: Callable[[str], None],
    ) -> None:
        self._members = members
        self._following = following
        self._rosters = rosters
        self._reader = reader
        self._limits = limits
        self._rooms_elsewhere = rooms_elsewhere
        self._close = close
        self._rooms: dict[str, _Open] = {}

    @property
    def names(self) -> list[str]:
        """The names of the rooms that are open or are being opened."""
        return list(self._rooms)

    def is_opening(self, name: str) -> bool:
        """Whether a room is being opened."""
        return not self._rooms[name].opening.done()

    @asynccontextmanager
    async def needed(self, entrance: Entrance) -> AsyncIterator[None]:
        """Have the room of an entrance open during the block.

        Raises CommandError: `unavailable`, also for a LedgerError of the block, or a refusal to
        create the room.
        """
        name = entrance.room
        room = self._rooms.get(name)
        if room is None:
            opening = asyncio.get_running_loop().create_task(self._open(name))
            room = self._rooms[name] = _Open(opening)
        room.calls += 1
        try:
            await asyncio.wait([room.opening])
            if room.opening.cancelled() or self._rooms.get(name) is not room:
                raise LedgerError("the room is lost")
            room.opening.result()
            if not self._members.rooms[name].subscribers:
                await self._check_new(entrance)
            yield
        except LedgerError as error:
            logger.debug("a call in room %r has failed: %s", name, error)
            raise unavailable() from error
        finally:
            room.calls -= 1
            self.close_if_unused(name)

    async def _open(self, name: str) -> None:
        self._rosters.open(name)
        await self._following.follow(name)
        await self._rosters.read(name)

    async def _check_new(self, entrance: Entrance) -> None:
        """Refuse to create a room that exceeds a limit, or whose name looks like another's."""
        name = entrance.room
        room = self._members.rooms[name]
        if len(room.roster) or room.spectator_count:
            return
        if self._limits is not None:
            others = len(self._members.rooms) - 1 + self._rooms_elsewhere()
            self._limits.check_new_room(entrance.address, others)
        if name.isascii():
            return
        stored = await self._reader.find_alike(name)
        if stored == name:
            return
        looks_default = name_key(name) == name_key(DEFAULT_ROOM)
        if stored is not None or looks_default or self._members.has_lookalike(name):
            raise looks_alike()

    def close_if_unused(self, name: str) -> None:
        """Close a room if no call needs it, and no process has members in it."""
        open_room, room = self._rooms.get(name), self._members.rooms.get(name)
        if open_room is None or open_room.calls or (room is not None and room.subscribers):
            return
        self._close(name)

    def forget(self, name: str) -> None:
        """Have a room open no longer. Calls that wait for it get `unavailable`."""
        if (room := self._rooms.pop(name, None)) is not None:
            room.opening.cancel()
