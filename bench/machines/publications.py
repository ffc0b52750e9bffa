"""The publications that one PostgreSQL takes from several machines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from harness.postgresql import running_postgresql
from harness.report import Result, Target
from machines.appenders import appender

TITLE = "publications: {machines} machines, {rooms} rooms, commits of {size}, for {seconds:.0f} s"
CLOCK = (
    "the seconds of the whole run. Each machine is a process that commits messages of 100\n"
    "         characters to all rooms, one batch after the other, tells the others of them, and\n"
    "         hears what the others tell. It has no clients. Rooms keep 10,000 publications, and\n"
    "         older ones are deleted meanwhile; PostgreSQL has its default settings, autovacuum\n"
    "         included. 'last': the rate of the last sixth of the run, as a share of the mean.\n"
    "         PostgreSQL and the machines share all CPUs."
)
TARGET = Target(40_000, at_least=True)
#: Of each run, so many parts are compared.
PARTS = 6
SHARES = {0.0: "no ids", 0.5: "half with ids", 1.0: "all with ids"}


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one run."""

    seconds: float = 60.0
    machines: int = 2
    rooms: int = 10
    size: int = 500
    shares: Sequence[float] = tuple(SHARES)


async def run(rounds: int, load: Load) -> list[Result]:
    """Return the rates without ids, and with them. Each run has a new PostgreSQL."""
    samples: dict[float, list[dict[str, float]]] = {share: [] for share in load.shares}
    for turn in range(rounds):
        for share in load.shares[:: -1 if turn % 2 else 1]:
            samples[share].append(await _sample(share, load))
    return [
        Result(
            "publications",
            f"{name}, {SHARES[share]}",
            0,
            unit,
            tuple(each[name] for each in taken),
            target=TARGET if name == "rate" else None,
        )
        for name, unit in (("rate", "1/s"), ("last", ""), ("commit", "ms"), ("commit, p99", "ms"))
        for share, taken in samples.items()
    ]


async def _sample(share: float, load: Load) -> dict[str, float]:
    async with running_postgresql() as database, AsyncExitStack() as stack:
        appenders = []
        for number in range(load.machines):
            name = f"machine-{number}"
            numbers = (load.seconds, load.rooms, load.size, share)
            appenders.append(await stack.enter_async_context(appender([database], name, *numbers)))
        told = await asyncio.gather(*(each.run() for each in appenders))
    return _figures(told, load)


def _figures(told: list[dict[str, Any]], load: Load) -> dict[str, float]:
    seconds = max(each["seconds"] for each in told)
    counts = [sum(both) for both in zip(*(each["counts"] for each in told), strict=True)]
    commits = sorted(commit for each in told for commit in each["commits"])
    rate = sum(counts) / seconds
    whole = counts[: int(load.seconds)]
    part = max(1, len(whole) // PARTS)
    return {
        "rate": rate,
        "last": sum(whole[-part:]) / part / rate,
        "commit": 1000 * commits[len(commits) // 2],
        "commit, p99": 1000 * commits[(len(commits) * 99 - 1) // 100],
    }
