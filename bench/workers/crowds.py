"""Ten thousand idle clients: the memory that they cost, and their reconnect all at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from harness.report import BenchError, Result, Target
from harness.served import Served, memory_bytes, running_server
from load.crowd import Crowd, crowd
from workers.deliveries import ONE, label

IDLE_TITLE = "idle: {clients:,} connections, in rooms of {members}"
IDLE_CLOCK = (
    "no time, but memory: the growth of all the server's processes together, divided by the\n"
    "         number of connections, after all clients have joined and each room has {missed}\n"
    "         messages. 'PSS' divides shared pages among the processes that share them, 'RSS'\n"
    "         counts them in each process (/proc/*/smaps_rollup). Neither includes the kernel's\n"
    "         socket buffers."
)
STORM_TITLE = "storm: {clients:,} connections in rooms of {members} are cut at once, and come back"
STORM_CLOCK = (
    "from kill -9 of all workers until this share of the clients has joined again; it includes\n"
    "         the restart of the workers. A client waits for 0.25 s, and for twice as long after\n"
    "         each failure, reduced at random by up to a half. Then it connects, upgrades, and\n"
    "         joins with its session and `since`. It must recover exactly the {missed} messages\n"
    "         that it has not seen. 'attempts' is the mean number for one client."
)
TARGETS = {"PSS": Target(12.0), "all joined": Target(15.0)}
UNITS = {"idle": "kB", "storm": "s"}
MISSED = 5
#: Time for the last join events to be delivered, and for garbage to be collected.
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Size:
    """The number of clients, and the number of members of a room."""

    clients: int
    members: int


@dataclass(slots=True)
class _Taken:
    """The samples of one number of workers, by row."""

    memory: dict[str, list[float]]
    storm: dict[str, list[float]]


async def run(
    counts: list[int], rounds: int, size: Size, *, idle: bool, storm: bool
) -> tuple[list[Result], list[Result]]:
    """Return the rows of idle connections and those of a storm, as requested."""
    taken = {workers: _Taken({}, {}) for workers in counts if idle or workers != ONE}
    for turn in range(rounds):
        for workers in list(taken)[:: -1 if turn % 2 else 1]:
            await _round(workers, size, taken[workers], storm=storm and workers != ONE)
    idle_rows = [
        row
        for workers, samples in taken.items()
        for row in _rows("idle", workers, size, samples.memory)
    ]
    storm_rows = [
        row
        for workers, samples in taken.items()
        for row in _rows("storm", workers, size, samples.storm)
    ]
    return (idle_rows if idle else []), storm_rows


def _rows(group: str, workers: int, size: Size, samples: dict[str, list[float]]) -> list[Result]:
    return [
        Result(
            group,
            f"{name}, {label(workers)}",
            size.clients,
            "" if name == "attempts" else UNITS[group],
            tuple(values),
            target=TARGETS.get(name),
        )
        for name, values in samples.items()
    ]


async def _round(workers: int, size: Size, taken: _Taken, *, storm: bool) -> None:
    async with running_server("--workers", str(workers)) as server:
        before = _memory(server)
        numbers = (size.clients, size.members, MISSED)
        async with crowd("idle", [server.port], None, *numbers) as clients:
            await clients.told()
            await asyncio.sleep(SETTLE_S)
            for name, value in _growth(before, _memory(server), size.clients).items():
                taken.memory.setdefault(name, []).append(value)
            if storm:
                for name, value in (await _storm(server, clients, size.clients)).items():
                    taken.storm.setdefault(name, []).append(value)


def _memory(server: Served) -> dict[str, dict[str, int]]:
    return {name: memory_bytes(pid) for name, pid in server.parts().items()}


def _growth(
    before: dict[str, dict[str, int]], after: dict[str, dict[str, int]], clients: int
) -> dict[str, float]:
    """The memory in kB for each connection: of all processes, and of the relay alone."""

    def grown(kind: str, parts: list[str]) -> float:
        return sum(after[part][kind] - before[part][kind] for part in parts) / clients / 1000

    if before.keys() != after.keys():
        raise BenchError("a part of the server ended while its clients joined")
    growth = {"PSS": grown("Pss", list(before)), "RSS": grown("Rss", list(before))}
    if "relay" in before:
        growth["PSS, relay alone"] = grown("Pss", ["relay"])
    return growth


async def _storm(server: Served, clients: Crowd, count: int) -> dict[str, float]:
    """Kill all workers, and have the clients report when they have reconnected."""
    clients.say("storm")
    await clients.told()
    workers = server.workers()
    started_ns = time.perf_counter_ns()
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return back(await clients.told(), started_ns, count)


def back(told: dict[str, Any], started_ns: int, count: int) -> dict[str, float]:
    """The figures of clients that came back. Raises BenchError if some are missing."""
    first = f"; the first that failed: {told['first_failure']}" if told["failures"] else ""
    if told["joined"] < count:
        raise BenchError(f"only {told['joined']} of {count} clients came back{first}")
    if told["recovered"] != count or told["missed"] != count * MISSED:
        raise BenchError(
            f"{told['recovered']} of {count} clients recovered, "
            f"{told['missed']} of {count * MISSED} messages{first}"
        )
    return {
        "half joined": (told["half_ns"] - started_ns) / 1e9,
        "99 % joined": (told["most_ns"] - started_ns) / 1e9,
        "all joined": (told["all_ns"] - started_ns) / 1e9,
        "attempts": told["attempts"] / count,
    }
