"""The timer of requests to the relay, which waits for the earliest deadline."""

from __future__ import annotations

import asyncio
import time

from fastchat.brokers.relay.deadlines import DeadlineTimer


def test_earliest_deadline_expires_once() -> None:
    """The earliest deadline expires once, even if a later one was set first; a past one expires at
    once."""

    async def test() -> None:
        expired = asyncio.Event()
        times: list[float] = []

        def expire() -> None:
            times.append(time.monotonic())
            expired.set()

        timer = DeadlineTimer(expire)
        now = time.monotonic()
        timer.watch(now + 60)
        timer.watch(now + 0.02)
        timer.watch(now + 30)
        async with asyncio.timeout(10):
            await expired.wait()
        assert len(times) == 1
        assert times[0] >= now + 0.02
        expired.clear()
        timer.watch(now - 1)
        async with asyncio.timeout(10):
            await expired.wait()
        assert len(times) == 2

    asyncio.run(test())


def test_cancelled_timer_does_not_expire() -> None:
    """A cancelled timer does not expire until another deadline is set."""

    async def test() -> None:
        expired: list[bool] = []
        timer = DeadlineTimer(lambda: expired.append(True))
        timer.watch(time.monotonic())
        timer.cancel()
        timer.cancel()
        await asyncio.sleep(0.01)
        assert expired == []

    asyncio.run(test())
