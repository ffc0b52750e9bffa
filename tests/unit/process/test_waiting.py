"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio

from fastchat.process.waiting import wait_first


async def _never(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("cancelled")


def test_first_ends_the_wait_and_cancels_the_others() -> None:
    """Nothing is left behind in the loop."""
    ended: list[str] = []

    async def test() -> None:
        await wait_first(_never(ended), asyncio.sleep(0), _never(ended))
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(test())
    assert ended == ["cancelled", "cancelled"]


def test_wait_ends_when_its_time_is_over() -> None:
    """It raises nothing, and what has not ended is cancelled."""
    ended: list[str] = []

    async def test() -> None:
        await wait_first(_never(ended), timeout_s=0.01)
        await asyncio.sleep(0)

    asyncio.run(test())
    assert ended == ["cancelled"]
