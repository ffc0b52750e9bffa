"""The throughput and the CPU time of several workers, and the latency of the relay.

Each sample has a new server. The numbers of workers alternate within each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from harness.machine import Pins
from harness.report import BenchError, Result, Target, median
from harness.served import Served, running_server
from load.crowd import crowd

DELIVERIES_TITLE = "deliveries: {rooms} rooms of {members} members, {window} messages in flight"
DELIVERIES_CLOCK = (
    "in each room, one member sends messages of 100 bytes of text; all members receive them,\n"
    "         spread over all workers. A message is in flight until ALL members have it.\n"
    "         'deliveries': messages x members a second by the load's clock, after a warm-up.\n"
    "         'CPU': seconds of all threads of all the server's processes for a million\n"
    "         deliveries. The load checks each offset of each client. 'free': nothing is pinned;\n"
    "         with fewer CPUs than processes, the load takes CPU time from the server. 'pinned':\n"
    "         the whole server is on one CPU and the load on another. Then the rate is that of\n"
    "         one CPU, and the CPU seconds are the cost of the server's work alone."
)
HOP_TITLE = "hop: a lone message, {members} members, one in flight"
HOP_CLOCK = (
    "from the send() until all members, including the sender, have the message. 'same worker':\n"
    "         all members are connected to one worker. 'another worker': the sender is connected\n"
    "         to one worker and the others to another. 'hop': the median of a round minus the\n"
    "         median of the single process in the same round. 'free' and 'pinned': see\n"
    "         deliveries."
)
HOP_TARGET = Target(250.0)
#: Connections for each member. The kernel chooses the worker of a connection, so with this many
#: there are enough on the workers that a variant needs.
CANDIDATES = 6
ONE = 1
FIGURES = {
    "deliveries": "M/s",
    "CPU": "s/M",
    "CPU, relay": "s/M",
    "deliveries in one read": "",
    "server busy": "%",
    "load busy": "%",
}

Samples = dict[str, list[float]]
#: Chooses, from the connections of each worker, those that join; the first one sends.
Choice = Callable[[list[list[int]]], list[int]]


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one sample."""

    rooms: int = 4
    members: int = 100
    window: int = 64
    warm_up_ms: int = 500
    measure_ms: int = 1000
    hop_members: int = 10
    hop_messages: int = 300


@dataclass(frozen=True, slots=True)
class Placement:
    """The CPUs of the server and of the load; None if the kernel chooses."""

    name: str
    server: int | None
    load: int | None


def placements(names: Iterable[str], pins: Pins) -> list[Placement]:
    known = {
        "free": Placement("free", None, None),
        "pinned": Placement("pinned", pins.sender, pins.load),
    }
    return [known[name] for name in names]


def label(workers: int) -> str:
    return "1 process" if workers == ONE else f"{workers} workers"


async def deliveries(
    counts: list[int], rounds: int, where: list[Placement], load: Load
) -> list[Result]:
    """Return the rates and their CPU time, for each number of workers."""
    samples: dict[tuple[Placement, int], list[dict[str, float]]] = {
        key: [] for key in product(where, counts)
    }
    for turn in range(rounds):
        for key in list(samples)[:: -1 if turn % 2 else 1]:
            samples[key].append(await _deliveries(*key, load))
    return [
        Result(
            "deliveries",
            f"{name}, {label(workers)}, {placement.name}",
            load.rooms * load.members,
            unit,
            tuple(sample[name] for sample in taken),
        )
        for name, unit in FIGURES.items()
        for (placement, workers), taken in samples.items()
        if name in taken[0]
    ]


async def _deliveries(placement: Placement, workers: int, load: Load) -> dict[str, float]:
    async with running_server("--workers", str(workers), cpu=placement.server) as server:
        parts = server.parts()
        numbers = (load.rooms * load.members, load.members, load.window)
        times = (load.warm_up_ms, load.measure_ms, ",".join(map(str, parts.values())))
        async with crowd("rooms", [server.port], placement.load, *numbers, *times) as clients:
            return _figures(parts, await clients.told())


def _figures(parts: dict[str, int], told: dict[str, Any]) -> dict[str, float]:
    spent = dict(zip(parts, told["cpu_ns"], strict=True))
    elapsed_ns, delivered = told["elapsed_ns"], told["deliveries"]
    figures = {
        "deliveries": delivered / elapsed_ns * 1000,
        "CPU": sum(spent.values()) / delivered / 1000,
        "deliveries in one read": delivered / max(1, told["reads"]),
        "server busy": sum(spent.values()) / elapsed_ns * 100,
        "load busy": told["load_cpu_ns"] / elapsed_ns * 100,
    }
    if "relay" in spent:
        figures["CPU, relay"] = spent["relay"] / delivered / 1000
    return figures


async def hop(counts: list[int], rounds: int, where: list[Placement], load: Load) -> list[Result]:
    """Return the latency of a single message in one process, and through the relay."""
    latencies: dict[Placement, Samples] = {placement: {} for placement in where}
    medians: dict[Placement, Samples] = {placement: {} for placement in where}
    for turn in range(rounds):
        for placement, workers in product(where, counts[:: -1 if turn % 2 else 1]):
            for variant, choose in _variants(workers):
                taken = await _latencies(placement, workers, choose, load)
                latencies[placement].setdefault(variant, []).extend(taken)
                medians[placement].setdefault(variant, []).append(median(taken))
    rows = []
    for placement in where:
        rows += _hop_rows(placement.name, latencies[placement], medians[placement], load)
    return rows


def _variants(workers: int) -> list[tuple[str, Choice]]:
    if workers == ONE:
        return [(label(ONE), _on_same)]
    name = label(workers)
    return [(f"{name}, same worker", _on_same), (f"{name}, another worker", _on_another)]


def _hop_rows(placement: str, latencies: Samples, medians: Samples, load: Load) -> list[Result]:
    def row(variant: str, values: list[float], target: Target | None = None) -> Result:
        variant = f"{variant}, {placement}"
        return Result("hop", variant, load.hop_members, "us", tuple(values), target=target)

    rows = [row(f"latency, {variant}", values) for variant, values in latencies.items()]
    for variant, values in latencies.items():
        share = len(values) // len(medians[variant])
        ends = [_p99(values[start : start + share]) for start in range(0, len(values), share)]
        rows.append(row(f"99th percentile, {variant}", ends))
    for variant, values in medians.items():
        if variant != label(ONE):
            hops = [here - there for here, there in zip(values, medians[label(ONE)], strict=True)]
            rows.append(row(f"hop, {variant}", hops, HOP_TARGET))
    return rows


def _p99(values: list[float]) -> float:
    return sorted(values)[(len(values) * 99 - 1) // 100]


async def _latencies(placement: Placement, workers: int, choose: Choice, load: Load) -> list[float]:
    """Latencies in microseconds, of a new server, with members chosen by their workers."""
    async with running_server("--workers", str(workers), cpu=placement.server) as server:
        candidates = load.hop_members * CANDIDATES * workers
        numbers = (candidates, load.hop_members, load.hop_messages)
        async with crowd("hop", [server.port], placement.load, *numbers) as clients:
            chosen = _choose(server, (await clients.told())["ports"], choose, load.hop_members)
            clients.say(" ".join(map(str, chosen)))
            told = await clients.told()
    return [latency / 1000 for latency in told["latencies_ns"]]


def _choose(server: Served, ports: list[int], choose: Choice, members: int) -> list[int]:
    """Return the connections that join."""
    owners = server.owners(ports)
    groups = [
        [index for index, owner in enumerate(owners) if owner == worker]
        for worker in server.workers()
    ]
    chosen = choose(groups)[:members]
    if len(chosen) < members:
        raise BenchError("too few connections reached the chosen worker")
    return chosen


def _on_same(groups: list[list[int]]) -> list[int]:
    return groups[0]


def _on_another(groups: list[list[int]]) -> list[int]:
    return [*groups[0][:1], *groups[1]]
