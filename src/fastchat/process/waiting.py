"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["wait_first"]


async def wait_first(*coroutines: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> None:
    """Wait until one of the coroutines has ended, at most for `timeout_s`; cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
