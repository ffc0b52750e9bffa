"""The publications that two PostgreSQLs take, beside one, while the disk decides."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from harness.postgresql import running_postgresql
from harness.report import Result, Target
from load.drain import build
from machines.appenders import appender

TITLE = (
    "ledgers: {machines} machines, {rooms} rooms, commits of {size}, each sync {slow_ms:g} ms "
    "slower, for {seconds:.0f} s"
)
CLOCK = (
    "the seconds of the whole run. Each machine is a process that commits messages of 100\n"
    "         characters, one batch after the other in each PostgreSQL, to the rooms that it has;\n"
    "         with two, each has half of the rooms. 'ratio': two as a multiple of one, in the\n"
    "         same round. All PostgreSQLs and machines share all CPUs and one disk."
)
TARGET = Target(1.7, at_least=True)
COUNTS = (1, 2)
#: Of each run.
SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one run."""

    seconds: float = SECONDS
    machines: int = 2
    rooms: int = 20
    size: int = 50
    slow_ms: float = 3.0


async def run(rounds: int, load: Load) -> list[Result]:
    """Return the rates through one PostgreSQL and through two, each round with new ones."""
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    for turn in range(rounds):
        for count in COUNTS[:: -1 if turn % 2 else 1]:
            rates[count].append(await _sample(count, load))
    ratios = tuple(two / one for one, two in zip(*rates.values(), strict=True))
    return [
        Result("ledgers", "one, rate", 0, "1/s", tuple(rates[1])),
        Result("ledgers", "two, rate", 0, "1/s", tuple(rates[2])),
        Result("ledgers", "ratio", 0, "", ratios, target=TARGET),
    ]


async def _sample(count: int, load: Load) -> float:
    slow = {
        "LD_PRELOAD": str(build("slow_sync", "-shared", "-fPIC")),
        "SLOW_SYNC_US": str(int(1000 * load.slow_ms)),
    }
    async with AsyncExitStack() as stack:
        databases = [
            await stack.enter_async_context(running_postgresql(environment=slow))
            for _ in range(count)
        ]
        machines = [
            await stack.enter_async_context(
                appender(databases, f"machine-{number}", load.seconds, load.rooms, load.size)
            )
            for number in range(load.machines)
        ]
        told = await asyncio.gather(*(each.run() for each in machines))
    return sum(sum(each["counts"]) for each in told) / max(each["seconds"] for each in told)
