"""The CPU time of an application for its deliveries, by the way in which it broadcasts."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broadcast.server import Lengths, load_server
from harness.machine import Pins
from harness.report import BenchError, Result
from harness.served import Build, Served, pinned, stop

TITLE = "an application with FastAPI and uvicorn"
CLOCK = (
    "the CPU time of the server's main thread for 100,000 deliveries, while the load keeps so\n"
    "         many messages in flight. It includes receiving, numbering and encoding messages.\n"
    "         One client sends all messages, and every client receives each one. The ratios\n"
    "         compare samples of one round."
)
START_TIMEOUT_S = 20.0
DELIVERIES = 100_000
WINDOWS = (1, 64)
NAMES = {"member": "hub.member", "send_text": "loop of send_text", "broadcaster": "broadcaster"}


#: Samples by the number of clients, the number of messages in flight, and the variant.
Taken = dict[tuple[int, int, str], list[float]]


async def run(
    client_counts: list[int], rounds: int, pins: Pins, lengths: Lengths
) -> tuple[list[Result], list[str]]:
    """Measure all variants in every round; return the rows, and what was skipped."""
    variants, skipped = list(NAMES), []
    if importlib.util.find_spec("broadcaster") is None:
        variants.remove("broadcaster")
        skipped.append("broadcaster: it is not installed (pip install -e '.[bench]')")
    taken: Taken = {}
    for number in range(rounds):
        # The order is reversed in every second round, so that no variant is always the first.
        for variant in variants if number % 2 else reversed(variants):
            for clients in client_counts:
                async with _running(variant, pins) as server:
                    for window in WINDOWS:
                        cost = await _sample(server, clients, window, pins, lengths)
                        taken.setdefault((clients, window, variant), []).append(cost)
    rows = []
    for clients in client_counts:
        for window in WINDOWS:
            rows += _rows(taken, clients, window, variants)
    return rows, skipped


def _rows(taken: Taken, clients: int, window: int, variants: list[str]) -> list[Result]:
    rows = []
    own = taken[clients, window, "member"]
    for variant in variants:
        name, samples = f"{window} in flight, {NAMES[variant]}", taken[clients, window, variant]
        rows.append(Result("asgi", name, clients, "ms", tuple(samples)))
        if variant != "member":
            ratios = tuple(theirs / ours for theirs, ours in zip(samples, own, strict=True))
            rows.append(Result("asgi", f"{name} / hub.member", clients, "x", ratios))
    return rows


async def _sample(server: Served, clients: int, window: int, pins: Pins, lengths: Lengths) -> float:
    """The CPU milliseconds of a server for 100,000 deliveries."""
    load = await load_server(server.port, clients, pins, lengths, server.pid, window=window)
    deliveries, cpu_ns = load["deliveries"], load["server_cpu_ns"]
    assert isinstance(deliveries, int)
    assert isinstance(cpu_ns, int)
    if not deliveries:
        raise BenchError("the application delivered nothing")
    return cpu_ns / 1e6 / deliveries * DELIVERIES


@asynccontextmanager
async def _running(variant: str, pins: Pins) -> AsyncIterator[Served]:
    """Serve a variant of the application on a free port; it is stopped at the end."""
    with pinned(pins.sender):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("application.py")), variant),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=Build().environment(),
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line.strip().isdigit():
            raise BenchError(f"the application with {NAMES[variant]} did not start")
        yield Served(int(line), process.pid)
    except TimeoutError:
        raise BenchError(f"the application with {NAMES[variant]} did not start in time") from None
    finally:
        await stop(process)
