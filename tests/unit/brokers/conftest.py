"""Fixtures for the tests of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import (
    PATIENCE_S,
    run_in_loop,
)
from support.relay import Rig, new_history


@pytest.fixture(params=[False, True], ids=["local", "slow"])
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that runs a test in a loop of its own with a `Rig` that has `bounds`.

    Each test runs twice: the relay's rooms never suspend, or all their coroutines do.
    """

    def run(test: Callable[[Rig], Coroutine[Any, Any, None]], **bounds: Any) -> None:
        async def body() -> None:
            rig = Rig(tmp_path, new_history(), are_rooms_slow=request.param, **bounds)
            try:
                async with asyncio.timeout(4 * PATIENCE_S):
                    await test(rig)
            finally:
                await rig.end()

        run_in_loop(body())

    return run
