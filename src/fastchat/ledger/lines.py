"""Calls that wait for each other, in the order in which they began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from fastchat.protocol.names import name_key
from fastchat.rooms import Member

__all__ = ["Lines", "line_of"]


class Lines:
    """A line of calls for each key: one of them goes on, and the others wait for it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._calls: dict[Hashable, int] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether there are calls for a key."""
        return key in self._calls

    @asynccontextmanager
    async def wait(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for the earlier calls for a key, and let later ones wait during the block.

        The first step can be outside of a task.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._calls[key] = self._calls.get(key, 0) + 1
        try:
            async with lock:
                await asyncio.sleep(0)
                yield
        finally:
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key], self._locks[key]


def line_of(room: str, member: Member | None) -> Hashable:
    """The key of the calls for a member of a room: its name, or its user if it is a spectator."""
    if member is None:
        return room, ""
    return room, f"\0{member.user}" if member.name is None else name_key(member.name)
