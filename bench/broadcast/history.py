"""The cost of a history on disk: `fastchat serve` with SQLite, and with the history in memory.

The two alternate in each round, each with a new server. Therefore their ratio is also valid on a
machine with other load.
"""

from __future__ import annotations

from broadcast.server import Lengths, sample
from harness.machine import Pins
from harness.report import Result, Target

TITLE = "history: SQLite beside memory"
CLOCK = (
    "as in the server group. 'throughput': deliveries a second with SQLite, divided by those with\n"
    "         the history in memory in the same round; 64 messages in flight. 'extra latency':\n"
    "         the median latency with SQLite minus the one with memory; one message in flight."
)
REFERENCES: list[str] = []
HISTORIES = ("sqlite", "memory")
TARGETS = {100: Target(60.0, at_least=True)}
EXTRA_LATENCY = Target(150.0)


async def run(rounds: int, pins: Pins, lengths: Lengths) -> list[Result]:
    """Measure 100 clients with 64 messages in flight, and one client with one in flight."""
    rates: dict[str, list[float]] = {history: [] for history in HISTORIES}
    latencies: dict[str, list[float]] = {history: [] for history in HISTORIES}
    for turn in range(rounds):
        for history in HISTORIES[:: 1 if turn % 2 else -1]:
            many = await sample(100, pins, lengths, history)
            rates[history] += many["deliveries"]
            one = await sample(1, pins, lengths, history)
            latencies[history].append(one["latency"][len(one["latency"]) // 2])
    shares = [100 * kept / free for kept, free in zip(*rates.values(), strict=True)]
    extra = [kept - free for kept, free in zip(*latencies.values(), strict=True)]
    return [
        *(_row(f"deliveries, {name}", 100, "M/s", values) for name, values in rates.items()),
        _row("throughput, sqlite / memory", 100, "%", shares, TARGETS[100]),
        *(_row(f"latency, {name}", 1, "us", values) for name, values in latencies.items()),
        _row("extra latency, sqlite", 1, "us", extra, EXTRA_LATENCY),
    ]


def _row(
    variant: str, clients: int, unit: str, values: list[float], target: Target | None = None
) -> Result:
    return Result("history", variant, clients, unit, tuple(values), target=target)
