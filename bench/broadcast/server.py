"""The whole chat server as a separate process, under the load of bench/load/drain.c.

Each sample has a new server with an empty room. It measures the cost of numbering, storing and
sending a message, with the protocol, the sockets and the event loop.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
from dataclasses import dataclass
from statistics import median

from broadcast.peers import require_socketify, running_peer
from harness.machine import Pins
from harness.report import BenchError, MissingError, Result, Target
from harness.served import Build, running_server, stop
from load.drain import build_drain

TITLE = "server: `fastchat serve` beside a chat on socketify, 64 in flight and one in flight"
CLOCK = (
    "one of N clients sends messages of 100 bytes of text; all N receive them. A message is in\n"
    "         flight until ALL clients have it. 'deliveries': messages x clients a second by the\n"
    "         load's clock, with 64 in flight, after a warm-up. 'CPU of a message': all that the\n"
    "         server uses for it and its deliveries. 'latency': from the send() until\n"
    "         the last client has the message, with one in flight. The load checks that no client\n"
    "         misses an offset, or receives one twice or out of order. It is a compiled process;\n"
    "         'load busy' is the share of its CPU that it used. Near 100 %, the load is the\n"
    "         limit."
)
REFERENCES = [
    "a Go chat that joins raw text with newlines, measured earlier on a 2-core machine with this"
    " load: 1.59 M deliveries/s with 10 clients, 1.56 M with 100, 1.35 M with 1000",
]
TARGETS = {
    10: Target(0.8, at_least=True),
    100: Target(2.5, at_least=True),
    1000: Target(2.5, at_least=True),
}
#: The latency beside socketify's, which stores and checks nothing.
RATIOS = {10: Target(1.6), 100: Target(1.1), 1000: Target(1.05)}
HISTORIES, PEER = ("sqlite", "memory"), "socketify"
NAMES = {"memory": "history in memory", PEER: "socketify"}
WINDOW = 64
SAMPLE_TIMEOUT_S = 120.0


#: The samples of each figure, by its name.
Figures = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Lengths:
    """The duration of one sample."""

    warm_up_ms: int = 500
    measure_ms: int = 2000
    latencies: int = 300


QUICK = Lengths(warm_up_ms=100, measure_ms=400, latencies=30)


async def run(
    client_counts: list[int], rounds: int, pins: Pins, lengths: Lengths
) -> tuple[list[Result], list[str]]:
    """Measure all client counts in every round; returns the rows and what was skipped."""
    if importlib.util.find_spec("fastchat.cli") is None:
        return [], ["the server: this build of fastchat has no server (fastchat.cli)"]
    kinds, skipped = [*HISTORIES], []
    try:
        require_socketify()
        kinds.append(PEER)
    except MissingError as missing:
        skipped.append(str(missing))
    found: dict[int, dict[str, list[Figures]]] = {
        clients: {kind: [] for kind in kinds} for clients in client_counts
    }
    for turn in range(rounds):
        for clients in client_counts:
            for kind in kinds if turn % 2 else reversed(kinds):
                figures = await _sample_any(kind, clients, pins, lengths)
                found[clients][kind].append(figures)
    return [row for clients in client_counts for row in _rows(clients, found[clients])], skipped


async def _sample_any(kind: str, clients: int, pins: Pins, lengths: Lengths) -> Figures:
    if kind != PEER:
        return await sample(clients, pins, lengths, kind)
    async with running_peer() as peer:
        return _figures(await load_server(peer.port, clients, pins, lengths, peer.pid))


async def sample(
    clients: int,
    pins: Pins,
    lengths: Lengths,
    history: str = "sqlite",
    build: Build | None = None,
) -> Figures:
    """The figures of one new server with this history, under the load of `clients` clients."""
    async with running_server("--history", history, build=build) as server:
        return _figures(await load_server(server.port, clients, pins, lengths, server.pid))


def _figures(load: dict[str, object]) -> Figures:
    numbers = {key: float(value) for key, value in load.items() if isinstance(value, int)}
    elapsed_ns = numbers["elapsed_ns"]
    latencies = load["latencies_ns"]
    assert isinstance(latencies, list)
    ordered = sorted(latencies)
    return {
        "deliveries": [numbers["deliveries"] / elapsed_ns * 1000],
        "messages": [numbers["messages"] / elapsed_ns * 1e9],
        "cpu": [numbers["server_cpu_ns"] / numbers["messages"] / 1000],
        "latency": [one / 1000 for one in ordered],
        "p99": [ordered[(len(ordered) * 99 - 1) // 100] / 1000],
        "per read": [numbers["deliveries"] / max(1.0, numbers["reads"])],
        "server busy": [numbers["server_cpu_ns"] / elapsed_ns * 100],
        "load busy": [numbers["load_cpu_ns"] / elapsed_ns * 100],
    }


def _rows(clients: int, found: dict[str, list[Figures]]) -> list[Result]:
    def row(
        variant: str, key: str, unit: str, target: Target | None = None, *, kind: str = "sqlite"
    ) -> Result:
        values = tuple(value for sample in found[kind] for value in sample[key])
        return Result("server", variant, clients, unit, values, target=target)

    rows = [
        row("deliveries", "deliveries", "M/s", TARGETS.get(clients)),
        row("messages", "messages", "/s"),
        row("CPU of a message", "cpu", "us"),
        row("latency, one in flight", "latency", "us"),
        row("latency, 99th percentile", "p99", "us"),
        row("deliveries in one read", "per read", ""),
        row("server busy", "server busy", "%"),
        row("load busy", "load busy", "%"),
    ]
    for kind in list(found)[1:]:
        name = NAMES[kind]
        rows += [
            row(f"deliveries, {name}", "deliveries", "M/s", kind=kind),
            row(f"CPU of a message, {name}", "cpu", "us", kind=kind),
            row(f"latency, one in flight, {name}", "latency", "us", kind=kind),
        ]
    if PEER in found:
        ratios = tuple(
            median(ours["latency"]) / median(theirs["latency"])
            for ours, theirs in zip(found["sqlite"], found[PEER], strict=True)
        )
        target = RATIOS.get(clients)
        rows.append(
            Result("server", "latency, sqlite / socketify", clients, "", ratios, target=target)
        )
    return rows


async def load_server(
    port: int,
    clients: int,
    pins: Pins,
    lengths: Lengths,
    server: int,
    *,
    window: int = WINDOW,
    rate: int = 0,
) -> dict[str, object]:
    """Run the load against the process `server` and return what it measured.

    With a `rate`, it sends so many messages a second, while at most `window` are in flight.
    """
    numbers = (window, lengths.warm_up_ms, lengths.measure_ms, lengths.latencies, server, rate)
    process = await asyncio.create_subprocess_exec(
        str(build_drain()),
        "chat",
        *map(str, (port, clients, pins.load_argument, *numbers)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SAMPLE_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise BenchError(f"the load of {clients} clients took too long") from None
    finally:
        await stop(process)
    if process.returncode:
        text = errors.decode(errors="replace").strip()
        raise BenchError(f"the load of {clients} clients ended: {text}")
    measured: dict[str, object] = json.loads(output)
    return measured
