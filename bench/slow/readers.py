"""Slow readers in many rooms: the memory that they cost, and the delay of everybody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from harness.machine import Pins
from harness.report import BenchError, Result, Target
from harness.served import Served, memory_bytes, running_server
from slow.load import Member, SlowReader, publish

TITLE = "{slow} clients read {rate} kB/s, each in {rooms} rooms of its own"
CLOCK = (
    "memory is the largest resident memory of the server (/proc/*/smaps_rollup) while the slow\n"
    "         readers lag, minus the largest before they came, at the same rate of messages.\n"
    "         'left' is the same, {settle:g} s after they have gone. A delay is the time from a\n"
    "         publisher's send() to the callback of a reader that reads at once; both are in one\n"
    "         other process. 'quiet' is before the slow readers came."
)
#: The bound of the process is 48 MiB (50.3 MB); the rest is for members and fragments of memory.
MEMORY_TARGET = Target(64.0)
RATIO_TARGET = Target(2.0)
HEALTHY, HEALTHY_ROOMS = 8, 12
SETTLE_S = 3.0
MB = 1e6


@dataclass(frozen=True, slots=True)
class Load:
    """Numbers of slow readers and of rooms of each, and the messages that are published."""

    slow: int
    rooms: int
    rate: int
    seconds: float
    message_bytes: int


@dataclass(slots=True)
class _Taken:
    memory: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    quiet: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    ended: int = 0


async def run(load: Load, rounds: int, pins: Pins) -> list[Result]:
    """Measure so many rounds. Raises BenchError if a client that reads at once is closed."""
    taken = _Taken()
    for _ in range(rounds):
        await _round(load, taken, pins)
    ratios = [slow / quiet for slow, quiet in zip(taken.slow, taken.quiet, strict=True)]
    return [
        _row("memory", load, "MB", taken.memory, MEMORY_TARGET, evicted=taken.ended / rounds),
        _row("memory, left", load, "MB", taken.left, None),
        _row("delay, p99, quiet", load, "ms", taken.quiet, None),
        _row("delay, p99", load, "ms", taken.slow, None),
        _row("delay, p99 / quiet", load, "", ratios, RATIO_TARGET),
    ]


def _row(
    name: str, load: Load, unit: str, samples: list[float], target: Target | None, **extra: float
) -> Result:
    return Result("slow", name, load.slow, unit, tuple(samples), target=target, extra=extra)


async def _round(load: Load, taken: _Taken, pins: Pins) -> None:
    groups = max(load.slow, HEALTHY)
    rooms = [[f"r{group}-{room}" for room in range(load.rooms)] for group in range(groups)]
    async with running_server(cpu=pins.sender) as server:
        publishers = await asyncio.gather(
            *(Member.connect(server.port, f"p{group}", rooms[group]) for group in range(groups))
        )
        delays: list[int] = []
        healthy = await asyncio.gather(
            *(
                Member.connect(server.port, f"h{group}", rooms[group][:HEALTHY_ROOMS], delays)
                for group in range(HEALTHY)
            )
        )
        places = [
            (publishers[group], rooms[group][room])
            for room in range(load.rooms)
            for group in range(groups)
        ]

        async def phase() -> tuple[float, float]:
            delays.clear()
            filler = b"x" * load.message_bytes
            peak = await publish(server, places, load.rate, load.seconds, filler)
            return peak / MB, _p99_ms(delays)

        before, quiet = await phase()
        async with _slow_readers(server, load, rooms) as readers:
            peak, slow = await phase()
            taken.ended += sum(reader.has_ended for reader in readers)
        await asyncio.sleep(SETTLE_S)
        taken.memory.append(peak - before)
        taken.left.append(memory_bytes(server.pid)["Rss"] / MB - before)
        taken.quiet.append(quiet)
        taken.slow.append(slow)
        for member in (*publishers, *healthy):
            if member.close_code is not None:
                raise BenchError(f"a client that reads at once was closed: {member.close_code}")


@contextlib.asynccontextmanager
async def _slow_readers(
    server: Served, load: Load, rooms: list[list[str]]
) -> AsyncIterator[list[SlowReader]]:
    readers = await asyncio.gather(
        *(SlowReader.connect(server.port, f"s{group}", rooms[group]) for group in range(load.slow))
    )
    try:
        yield readers
    finally:
        await asyncio.gather(*(reader.close() for reader in readers))


def _p99_ms(delays_ns: list[int]) -> float:
    if len(delays_ns) < 100:
        raise BenchError("too few messages arrived to measure their delay")
    ordered = sorted(delays_ns)
    return ordered[int(0.99 * len(ordered))] / 1e6
