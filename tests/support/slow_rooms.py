"""Rooms whose coroutines suspend, as those of rooms on another machine do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastchat.rooms import Entrance, Entry, Member, Messages, Removal
from fastchat.rooms.contract import Pages
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.restoring import Returning
from fastchat.rooms.subscribers import Subscriber


class Pauses:
    """Pauses of different lengths, so that a later call can overtake an earlier one."""

    def __init__(self) -> None:
        self._turns = itertools.cycle((3, 1, 2))

    async def take(self) -> None:
        """Let one, two or three turns of the loop pass."""
        for _ in range(next(self._turns)):
            await asyncio.sleep(0)


class SlowRooms:
    """Implements `fastchat.rooms.contract.Rooms`: local rooms that take their time.

    Each coroutine suspends before it does its work and after it. The calls for one room keep their
    order, because the contract promises it; those for different rooms do not.
    """

    def __init__(self, rooms: LocalRooms) -> None:
        self._rooms = rooms
        self._pauses = Pauses()
        #: The newest call that has not done its work yet, for each room.
        self._newest: dict[str, asyncio.Event] = {}
        self._losses: set[asyncio.Task[None]] = set()
        self.pages = SlowPages(rooms.pages, self._pauses)

    def __getattr__(self, name: str) -> Any:
        """What never suspends: publications, counts and ticks."""
        return getattr(self._rooms, name)

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        async with self._place_in(entrance.room):
            await self._rooms.join(subscriber, entrance, enter)

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        async with self._place_in(name):
            await self._rooms.leave(subscriber, name, member, left)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        if name not in self._newest:
            self._rooms.lose(subscriber, name, member)
            return
        place = self._place_in(name)
        loss = asyncio.get_running_loop().create_task(self._lose(place, subscriber, name, member))
        self._losses.add(loss)
        loss.add_done_callback(self._losses.discard)

    async def remove(self, removal: Removal) -> Member:
        async with self._place_in(removal.room):
            return await self._rooms.remove(removal)

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        async with self._place_in(returning.room):
            return await self._rooms.restore(subscriber, returning, gathering=gathering)

    async def close(self) -> None:
        while self._newest:
            await next(iter(self._newest.values())).wait()
        await self._rooms.close()

    async def _lose(
        self,
        place: contextlib.AbstractAsyncContextManager[None],
        subscriber: Subscriber,
        name: str,
        member: Member,
    ) -> None:
        async with place:
            self._rooms.lose(subscriber, name, member)

    def _place_in(self, room: str) -> contextlib.AbstractAsyncContextManager[None]:
        """A place for a call's work: after that of all earlier calls, and between two pauses."""
        before, done = self._newest.get(room), asyncio.Event()
        self._newest[room] = done
        return self._work(room, before, done)

    @contextlib.asynccontextmanager
    async def _work(
        self, room: str, before: asyncio.Event | None, done: asyncio.Event
    ) -> AsyncIterator[None]:
        try:
            if before is not None:
                await before.wait()
            await self._pauses.take()
            yield
        finally:
            done.set()
            if self._newest[room] is done:
                del self._newest[room]
        await self._pauses.take()


class SlowPages:
    """Pages that suspend before they are read and after it."""

    def __init__(self, pages: Pages, pauses: Pauses) -> None:
        self._pages = pages
        self._pauses = pauses

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        await self._pauses.take()
        messages = await self._pages.before(room, offset, limit)
        await self._pauses.take()
        return messages

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        await self._pauses.take()
        messages = await self._pages.after(room, offset, limit)
        await self._pauses.take()
        return messages

    async def search(self, room: str, query: str, limit: int) -> Messages:
        await self._pauses.take()
        messages = await self._pages.search(room, query, limit)
        await self._pauses.take()
        return messages
