"""A fair queue for downloads: each client waits for its turn.

An office has one address, and everybody in it opens the same image at the same time. Each of these
downloads takes a moment, so the others wait for it in the order in which they came. If clients of
several addresses wait, the addresses take turns. Waiting is bounded in number and in time.
"""

from __future__ import annotations

import asyncio
from collections import deque

from fastchat.limits.connections import ConnectionCount

__all__ = ["FairQueue"]

#: How long a client waits; well within the time that an answer has
#: (`fastchat.web.context.HttpTimings.answer_s`).
WAIT_S = 10.0


class FairQueue:
    """A queue for the downloads that `active` counts and limits.

    At most `max_waiting` clients wait at the same time, and `max_address_waiting` from one
    address; 0 is no limit. A client waits for `wait_s` seconds at most.
    """

    def __init__(
        self,
        active: ConnectionCount,
        *,
        max_waiting: int = 0,
        max_address_waiting: int = 0,
        wait_s: float = WAIT_S,
    ) -> None:
        self._active = active
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._max_address_waiting = max_address_waiting
        #: The clients that wait, by address; the first address is the next to be served.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._count = 0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """The number of clients that wait."""
        return self._count

    async def enter(self, address: str) -> bool:
        """Wait for a turn; False after `wait_s`, or at once if too many clients wait already.

        After True, the caller must call `leave` with the same address.
        """
        ahead = self._waiting.get(address, ())
        if not ahead and self._active.enter(address) is None:
            return True
        if (
            self._is_closed
            or self._count >= self._max_waiting > 0
            or len(ahead) >= self._max_address_waiting > 0
        ):
            return False
        return await self._wait(address)

    def leave(self, address: str) -> None:
        """End a turn, and let the next client have it."""
        self._active.leave(address, "")
        for each in tuple(self._waiting):
            if self._active.enter(each) is None:
                waiting = self._waiting.pop(each)
                waiting.popleft().set_result(None)
                self._count -= 1
                if waiting:
                    self._waiting[each] = waiting  # behind the other addresses
                return

    def close(self) -> None:
        """Refuse all clients that wait or come later: the server is stopping."""
        self._is_closed = True
        for waiting in self._waiting.values():
            for turn in waiting:
                turn.cancel()
        self._waiting.clear()
        self._count = 0

    async def _wait(self, address: str) -> bool:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        self._count += 1
        had_time = False
        try:
            await asyncio.wait((turn,), timeout=self._wait_s)
            had_time = True
        finally:
            if not turn.done():
                self._remove(address, turn)
            elif not had_time and not turn.cancelled():
                self.leave(address)  # the client's task was cancelled just as its turn came
        return turn.done() and not turn.cancelled()

    def _remove(self, address: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting[address]
        waiting.remove(turn)
        self._count -= 1
        if not waiting:
            del self._waiting[address]
