"""Random operations on the hub, checked on the wire against the model in `support.hub_model`.

`FASTCHAT_RANDOM_SEEDS=1000` tries 1,000 seeds; `FASTCHAT_RANDOM_FIRST=123` is the first seed.
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
async def test_random_operations_deliver_all_frames_in_order(seed: int) -> None:
    """After any operations each connection has got every frame that it should, whole and in
    order."""
    await _run(seed, Run(seed))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
@on_loop
async def test_random_operations_over_tls_deliver_all_frames_in_order(seed: int) -> None:
    """Over TLS, where every byte passes through the transport, no frame is lost or reordered
    either."""
    await _run(seed, Run(seed, tls=True))


async def _run(seed: int, run: Run) -> None:
    try:
        await run.run()
    except BaseException as error:
        error.add_note(f"seed {seed}, last operations:\n  " + "\n  ".join(run.history))
        raise
