"""Makes one statement of many questions when very many come in a short time.

When a machine has ended, its clients come to others within seconds. A statement for each room and
each few users would then keep PostgreSQL busy, and this process, with little in each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["MANY_ROOMS", "PACE_S", "ROOMS_AT_ONCE", "Gathering", "Pace"]

#: While very many questions come, there is one statement in this time.
PACE_S = 0.2
#: The most rooms of one statement, and how many in that time are very many.
ROOMS_AT_ONCE, MANY_ROOMS = 20, 4

Key = TypeVar("Key")
Value = TypeVar("Value")


class Pace:
    """Says when the next statement can begin: at once, unless `busy` questions come in `PACE_S`.

    While they do, it begins at the end of that time, or as soon as it is full: `most` wait for it.
    """

    def __init__(self, busy: int, most: int) -> None:
        self._busy = busy
        self._most = most
        self._full = asyncio.Event()
        self._asked = 0  # since the present interval has begun
        self._begun_s = 0.0
        self._is_busy = False

    def note(self, waiting: int) -> None:
        """A question has come; so many wait now."""
        self._asked += 1
        if waiting >= self._most:
            self._full.set()

    async def wait(self, waiting: int) -> None:
        """Wait until a statement for those who wait can begin; it begins then."""
        loop = asyncio.get_running_loop()
        if waiting < self._most:
            self._full.clear()
        left_s = self._begun_s + PACE_S - loop.time()
        if left_s > 0:
            if not self._is_busy and self._asked < self._busy:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._full.wait()
        self._is_busy = self._asked >= self._busy and left_s > -PACE_S
        self._asked = 0
        self._begun_s = loop.time()


class Gathering(Generic[Key, Value]):
    """Asks for the values of several keys in one statement.

    `ask` returns the values of at most `most` keys. One call is under way at a time. Each answer is
    from a call that began after the question. What `ask` raises is raised for each of its keys.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]],
        *,
        most: int,
        busy: int,
    ) -> None:
        self._ask = ask
        self._most = most
        self._pace = Pace(busy, most)
        self._waiting: dict[Key, asyncio.Future[Value]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value:
        loop = asyncio.get_running_loop()
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = loop.create_future()
            self._pace.note(len(self._waiting))
            if self._asking is None:
                self._asking = loop.create_task(self._run())
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        asked: dict[Key, asyncio.Future[Value]] = {}
        try:
            while self._waiting:
                await self._pace.wait(len(self._waiting))
                keys = list(self._waiting)[: self._most]
                asked = {key: self._waiting.pop(key) for key in keys}
                try:
                    found = await self._ask(keys)
                except Exception as error:  # it is raised for those who wait
                    for answer in asked.values():
                        answer.set_exception(error)
                        answer.exception()  # they can have been cancelled
                else:
                    for key, answer in asked.items():
                        answer.set_result(found[key])
        finally:
            self._asking = None
            for answer in (*asked.values(), *self._waiting.values()):
                answer.cancel()
            self._waiting.clear()
