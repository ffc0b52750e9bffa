"""Places that are waited for: whoever wants to read a file comes to it in his turn.

An office has one address, and all of it opens the same picture at once. Each of these readers
needs a place for a moment only; so they wait for it, in the order in which they came. Of several
addresses that wait one after the other has its turn. Who waits is counted, and does so for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque

from fastchat.limits.connections import Census

__all__ = ["Places"]

#: Well within the time that an answer has (`fastchat.web.edge.HttpTimings.answer_s`).
WAIT_S = 10.0


class Places:
    """The places that `census` counts. `max_waiting` wait at once, `max_address_waiting` of one
    address; 0 is no limit."""

    def __init__(
        self, census: Census, *, max_waiting: int = 0, max_address_waiting: int = 0
    ) -> None:
        self._census = census
        self._max_waiting = max_waiting
        self._max_address_waiting = max_address_waiting
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # whose turn it is first
        self._count = 0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._count

    async def enter(self, address: str) -> bool:
        """Have a place; False if there is none within WAIT_S, or too many wait already."""
        ahead = self._waiting.get(address, ())
        if not ahead and self._census.enter(address) is None:
            return True
        if (
            self._is_closed
            or self._count >= self._max_waiting > 0
            or len(ahead) >= self._max_address_waiting > 0
        ):
            return False
        return await self._wait(address)

    def leave(self, address: str) -> None:
        """Give a place back, and to whoever waits for it."""
        self._census.leave(address, "")
        for each in tuple(self._waiting):
            if self._census.enter(each) is None:
                waiting = self._waiting.pop(each)
                waiting.popleft().set_result(None)
                self._count -= 1
                if waiting:
                    self._waiting[each] = waiting  # behind the others
                return

    def close(self) -> None:
        """Nobody waits any more: the server stops."""
        self._is_closed = True
        for waiting in self._waiting.values():
            for place in waiting:
                place.cancel()
        self._waiting.clear()
        self._count = 0

    async def _wait(self, address: str) -> bool:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(place)
        self._count += 1
        had_time = False
        try:
            await asyncio.wait((place,), timeout=WAIT_S)
            had_time = True
        finally:
            if not place.done():
                self._forget(address, place)
            elif not had_time and not place.cancelled():
                self.leave(address)  # his task was ended in the moment in which he got it
        return place.done() and not place.cancelled()

    def _forget(self, address: str, place: asyncio.Future[None]) -> None:
        waiting = self._waiting[address]
        waiting.remove(place)
        self._count -= 1
        if not waiting:
            del self._waiting[address]
