"""The hub under random operations, checked on the wire against the model in `support.hub_model`.

`FASTCHAT_RANDOM_SEEDS=1000` tries 1,000 seeds; `FASTCHAT_RANDOM_FIRST=123` is the first one.
"""

from __future__ import annotations

import os

import pytest

from support.hub import on_loop
from support.hub_model import Run

FIRST = int(os.environ.get("FASTCHAT_RANDOM_FIRST", "0"))
SEEDS = int(os.environ.get("FASTCHAT_RANDOM_SEEDS", "30"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@on_loop
async def test_random_operations(seed: int) -> None:
    """Whatever happens, each connection gets what it is due, whole and in order."""
    await _run(seed, Run(seed))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@on_loop
async def test_random_operations_over_tls(seed: int) -> None:
    """The same where nothing can be written past the transport."""
    await _run(seed, Run(seed, tls=True))


async def _run(seed: int, run: Run) -> None:
    try:
        await run.run()
    except BaseException as error:
        error.add_note(f"seed {seed}, last operations:\n  " + "\n  ".join(run.history))
        raise
