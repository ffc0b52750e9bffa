"""Rounds of `stalls.py`: a server under a steady load, and a bare loop beside it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from broadcast.server import Lengths, load_server
from harness.machine import Pins
from harness.report import BenchError, Result, Target
from harness.served import running_server, stop
from stalls import ticks

HERE = Path(__file__).resolve().parent
TITLE = "stalls: {rate:,} messages a second, history in SQLite"
CLOCK = (
    "a timer of 1 ms in the server's event loop, and in a bare loop of uvloop that does nothing\n"
    "         else, in a process on the same CPU at the same time. A delay is the time from when\n"
    "         the timer was due until it ran. 'excess' is a delay of the server minus the longest\n"
    "         delay of the bare loop in the same moment."
)
#: Messages in flight: enough for 40 ms at 90,000 messages a second, so that the load catches up
#: after a stall. drain.c allows 4,095.
WINDOW = 4000
STALL_NS = 5_000_000
TARGET = Target(5.0)
BARE_TIMEOUT_S = 10.0
WARM_UP_MS = 1000


class Stall(NamedTuple):
    """A delay of the server: when the timer was due, and nanoseconds."""

    due_ns: int
    delay_ns: int
    excess_ns: int
    cause: str


@dataclass(frozen=True, slots=True)
class Load:
    """Messages a second to one room, of so many members, for so many seconds."""

    rate: int
    seconds: float
    clients: int
    arguments: tuple[str, ...]


@dataclass(slots=True)
class _Taken:
    delays: dict[str, list[list[int]]] = field(default_factory=lambda: {"server": [], "bare": []})
    stalls: list[list[Stall]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def run(load: Load, rounds: int, pins: Pins) -> tuple[list[Result], list[Stall]]:
    """Measure so many rounds; returns the rows, and all stalls of the server."""
    taken = _Taken()
    for _ in range(rounds):
        await _round(load, taken, pins)
    rows = []
    for part, name in (("bare", "bare loop"), ("server", "server")):
        found = [sorted(delays) for delays in taken.delays[part]]
        rows += [
            _row(f"{name}, p99.9", load, "ms", [_ms(d[len(d) * 999 // 1000]) for d in found]),
            _row(f"{name}, longest", load, "ms", [_ms(d[-1]) for d in found]),
            _row(
                f"{name}, delays over 5 ms",
                load,
                "",
                [float(len(d) - bisect_right(d, STALL_NS)) for d in found],
            ),
        ]
    longest = [max((_ms(s.excess_ns) for s in stalls), default=0.0) for stalls in taken.stalls]
    many = [float(sum(s.excess_ns > STALL_NS for s in stalls)) for stalls in taken.stalls]
    rows += [
        _row("excess, longest", load, "ms", longest, TARGET),
        _row("excess, over 5 ms", load, "", many, Target(0.0)),
        _row("messages", load, "/s", taken.rates),
        _row("CPU of a message", load, "us", taken.cpu),
    ]
    return rows, [stall for stalls in taken.stalls for stall in stalls]


def causes(stalls: Iterable[Stall]) -> list[str]:
    """A line for each cause of stalls whose excess is more than 5 ms."""
    real = [stall for stall in stalls if stall.excess_ns > STALL_NS]
    counts = Counter(stall.cause for stall in real)
    return [
        f"{count} of {len(real)} stalls, at most "
        f"{_ms(max(s.excess_ns for s in real if s.cause == cause)):.1f} ms: {cause}"
        for cause, count in counts.most_common()
    ]


async def _round(load: Load, taken: _Taken, pins: Pins) -> None:
    lengths = Lengths(WARM_UP_MS, int(load.seconds * 1000), 1)
    with tempfile.TemporaryDirectory(prefix="fastchat-stalls-") as name:
        directory = Path(name)
        program = (str(HERE / "watched.py"), name)
        async with (
            running_server(*load.arguments, cpu=pins.sender, program=program) as server,
            _bare_loop(directory / "bare", pins),
        ):
            begin_ns = time.monotonic_ns() + WARM_UP_MS * 1_000_000
            measured = await load_server(
                server.port, load.clients, pins, lengths, server.pid, window=WINDOW, rate=load.rate
            )
            end_ns = begin_ns + int(load.seconds * 1e9)
        delays = {
            part: [each for each in ticks.read(directory / file) if begin_ns < each[0] < end_ns]
            for part, file in (("server", "ticks"), ("bare", "bare"))
        }
        calls = json.loads((directory / "calls.json").read_text())
    if not all(delays.values()):
        raise BenchError("a loop had no ticks")
    for part, found in delays.items():
        taken.delays[part].append([delay_ns for _, delay_ns in found])
    taken.stalls.append(list(_stalls(delays["server"], delays["bare"], calls)))
    elapsed_ns, messages, cpu_ns = (
        float(str(measured[name])) for name in ("elapsed_ns", "messages", "server_cpu_ns")
    )
    taken.rates.append(messages / elapsed_ns * 1e9)
    taken.cpu.append(cpu_ns / messages / 1000)


@asynccontextmanager
async def _bare_loop(file: Path, pins: Pins) -> AsyncIterator[None]:
    """A bare loop on the server's CPU, which writes its ticks to `file` in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "ticks.py"),
        str(file),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=pins.pin_sender,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(BARE_TIMEOUT_S):
            await process.stdout.readline()
        yield
        process.stdin.close()
        async with asyncio.timeout(BARE_TIMEOUT_S):
            await process.wait()
    finally:
        await stop(process)


def _stalls(
    server: Sequence[tuple[int, int]],
    bare: Sequence[tuple[int, int]],
    calls: Sequence[tuple[str, int, int]],
) -> Iterable[Stall]:
    """The server's delays of more than 5 ms."""
    bare_due = [due_ns for due_ns, _ in bare]
    longest_bare_ns = max(delay_ns for _, delay_ns in bare)
    for due_ns, delay_ns in server:
        if delay_ns <= STALL_NS:
            continue
        low = bisect_left(bare_due, due_ns - longest_bare_ns)
        high = bisect_right(bare_due, due_ns + delay_ns)
        beside_ns = max(
            (late_ns for late_due_ns, late_ns in bare[low:high] if late_due_ns + late_ns >= due_ns),
            default=0,
        )
        cause = _cause(due_ns, due_ns + delay_ns, calls)
        yield Stall(due_ns, delay_ns, max(0, delay_ns - beside_ns), cause)


def _cause(begin_ns: int, end_ns: int, calls: Sequence[tuple[str, int, int]]) -> str:
    """The shortest recorded call that takes at least half of the time, or several calls."""
    spent: Counter[str] = Counter()
    for name, begin, end in calls:
        if begin < end_ns and end > begin_ns:
            spent[name] += min(end, end_ns) - max(begin, begin_ns)
    most = [name for name, ns in spent.items() if ns * 2 >= end_ns - begin_ns]
    return min(most, key=lambda name: spent[name]) if most else "no watched call"


def _row(
    variant: str, load: Load, unit: str, values: Sequence[float], target: Target | None = None
) -> Result:
    return Result("stalls", variant, load.clients, unit, tuple(values), target=target)


def _ms(nanoseconds: float) -> float:
    return nanoseconds / 1e6
