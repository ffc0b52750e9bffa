"""What clients of machines cost, and how long they wait."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from harness.machine import Pins
from harness.postgresql import Database, running_postgresql
from harness.report import Result, Target, median
from harness.served import Served, running_server
from load.crowd import crowd
from machines.appenders import appender

HOP_TITLE = "hop: a lone message, from a client of one machine to a client of another"
HOP_CLOCK = (
    "from the send() until the sender and the other client have the message, with one message\n"
    "         in flight. 'one machine': both are clients of one server, with SQLite. 'commit':\n"
    "         the round trip of a commit of one message, from a machine without clients to the\n"
    "         same PostgreSQL. 'excess': the median of two machines minus that of one machine\n"
    "         minus two commits, in the same round. The servers and PostgreSQL are on one CPU and\n"
    "         the load on another, unless there is only one."
)
HOP_TARGET = Target(500.0)
JOIN_TITLE = "join: one client after the other, in rooms of {members}"
JOIN_CLOCK = (
    "from the send() of `join` on an open connection until the client has its answer; in turn at\n"
    "         one of two machines. The other members of the room are told of it before the next\n"
    "         client joins. CPUs as in hop."
)
JOIN_TARGET = Target(1500.0)
DELIVERIES_TITLE = "deliveries: a room of {members} members, {window} messages in flight"
DELIVERIES_CLOCK = (
    "a message is in flight until ALL members have it. 'CPU': seconds of all threads of the\n"
    "         servers' processes for a million deliveries, after a warm-up, without PostgreSQL;\n"
    "         its processes have a row of their own. 'relay': one server with two workers and\n"
    "         SQLite. 'machines': two servers of one process, each with half of the members.\n"
    "         'ratio': CPU of the machines, divided by that of the relay in the same round. CPUs\n"
    "         as in hop."
)
RATIO_TARGET = Target(1.1)
AWAY_TITLE = "away: the hop between two machines while a third one is stopped"
AWAY_CLOCK = (
    "as in hop. 'stopped': a signal stops all processes of the third machine before the first\n"
    "         message, and continues them after the last. The others find out meanwhile that it\n"
    "         is silent. 'ratio': the 99th percentile with the stopped machine, divided by that\n"
    "         without, in the same round."
)
AWAY_TARGET = Target(1.2)
#: So many times the messages of a hop, because a machine counts as silent after 6 s.
AWAY_FACTOR = 5
#: After this time a machine that was stopped is one of the others again, and the names of clients
#: that have gone are free.
RETURN_S = 7.0
#: Between two lone commits, so that the notifications of the first have been sent.
PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one sample."""

    messages: int = 1000
    joins: int = 300
    room: int = 10
    members: int = 100
    window: int = 64
    warm_up_ms: int = 1000
    measure_ms: int = 5000


@asynccontextmanager
async def running_machines(
    database: Database, count: int, cpu: int | None
) -> AsyncIterator[list[Served]]:
    """Start so many servers of one process on a PostgreSQL."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_server("--engine", database.url, cpu=cpu))
            for _ in range(count)
        ]


async def hop(rounds: int, load: Load, pins: Pins) -> list[Result]:
    """Return the latencies of one machine and of two, of a commit, and the excess."""
    taken: dict[str, list[float]] = {}
    excess: list[float] = []
    for turn in range(rounds):
        sample: dict[str, list[float]] = {}
        for measure in (_hop_of_one, _hop_of_two)[:: -1 if turn % 2 else 1]:
            sample |= await measure(load, pins)
        for name, values in sample.items():
            taken.setdefault(name, []).extend(values)
        one, two, commit = (
            median(sample[each]) for each in ("one machine", "two machines", "commit")
        )
        excess.append(two - one - 2 * commit)
    rows = [Result("hop", name, 2, "us", tuple(values)) for name, values in taken.items()]
    return [*rows, Result("hop", "excess", 2, "us", tuple(excess), target=HOP_TARGET)]


async def _hop_of_one(load: Load, pins: Pins) -> dict[str, list[float]]:
    async with running_server("--workers", "1", cpu=pins.sender) as server:
        return {"one machine": await _latencies([server], load, pins)}


async def _hop_of_two(load: Load, pins: Pins) -> dict[str, list[float]]:
    async with (
        running_postgresql(cpu=pins.sender) as database,
        running_machines(database, 2, pins.sender) as servers,
    ):
        numbers = (load.messages * PAUSE_S, 1, 1, 0.0, PAUSE_S)
        async with appender([database], "bench", *numbers, cpu=pins.load) as publishing:
            commits = (await publishing.run())["commits"]
        return {
            "two machines": await _latencies(servers, load, pins),
            "commit": [each * 1e6 for each in commits],
        }


async def _latencies(servers: Sequence[Served], load: Load, pins: Pins) -> list[float]:
    ports = [server.port for server in servers]
    async with crowd("hop", ports, pins.load, 2, 2, load.messages) as clients:
        await clients.told()
        clients.say("0 1")  # they are connected to the ports in turn
        told = await clients.told()
    return [latency / 1000 for latency in told["latencies_ns"]]


async def away(rounds: int, load: Load, pins: Pins) -> list[Result]:
    """Return the latencies between two machines with and without a third, and their ratio."""
    longer = replace(load, messages=AWAY_FACTOR * load.messages)
    taken: dict[str, list[float]] = {"all there": [], "stopped": []}
    ends: dict[str, list[float]] = {"all there": [], "stopped": []}
    for turn in range(rounds):
        async with (
            running_postgresql(cpu=pins.sender) as database,
            running_machines(database, 3, pins.sender) as (*two, third),
        ):
            for number, name in enumerate(list(taken)[:: -1 if turn % 2 else 1]):
                await asyncio.sleep(number * RETURN_S)
                with _stopped(third) if name == "stopped" else nullcontext():
                    latencies = await _latencies(two, longer, pins)
                taken[name] += latencies
                ends[name].append(sorted(latencies)[(len(latencies) * 99 - 1) // 100])
    pairs = zip(ends["stopped"], ends["all there"], strict=True)
    ratios = tuple(stopped / there for stopped, there in pairs)
    return [
        *(Result("away", name, 2, "us", tuple(values)) for name, values in taken.items()),
        *(
            Result("away", f"99th percentile, {name}", 2, "us", tuple(values))
            for name, values in ends.items()
        ),
        Result("away", "ratio", 2, "", ratios, target=AWAY_TARGET),
    ]


@contextmanager
def _stopped(server: Served) -> Iterator[None]:
    """Stop all processes of a server during the block."""
    pids = tuple(server.parts().values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def join(rounds: int, load: Load, pins: Pins) -> list[Result]:
    """Return the latencies of joins at two machines."""
    taken: list[float] = []
    ends: list[float] = []
    for _ in range(rounds):
        async with (
            running_postgresql(cpu=pins.sender) as database,
            running_machines(database, 2, pins.sender) as servers,
        ):
            ports = [server.port for server in servers]
            async with crowd("join", ports, pins.load, load.joins, load.room) as clients:
                told = await clients.told()
        latencies = [latency / 1000 for latency in told["latencies_ns"]]
        taken += latencies
        ends.append(sorted(latencies)[(len(latencies) * 99 - 1) // 100])
    return [
        Result("join", "two machines", load.joins, "us", tuple(taken), target=JOIN_TARGET),
        Result("join", "99th percentile, two machines", load.joins, "us", tuple(ends)),
    ]


async def deliveries(rounds: int, load: Load, pins: Pins) -> list[Result]:
    """Return the rates and the CPU time of a relay and of machines, and their ratio."""
    samples: dict[str, list[dict[str, float]]] = {"relay": [], "machines": []}
    for turn in range(rounds):
        for name in list(samples)[:: -1 if turn % 2 else 1]:
            measure = _of_relay if name == "relay" else _of_machines
            samples[name].append(await measure(load, pins))
    rows = [
        Result(
            "deliveries",
            f"{figure}, {name}",
            load.members,
            unit,
            tuple(sample[figure] for sample in taken),
        )
        for figure, unit in (("deliveries", "M/s"), ("CPU", "s/M"), ("CPU, PostgreSQL", "s/M"))
        for name, taken in samples.items()
        if figure in taken[0]
    ]
    pairs = zip(samples["machines"], samples["relay"], strict=True)
    ratios = tuple(machines["CPU"] / relay["CPU"] for machines, relay in pairs)
    return [*rows, Result("deliveries", "ratio", load.members, "", ratios, target=RATIO_TARGET)]


async def _of_relay(load: Load, pins: Pins) -> dict[str, float]:
    async with running_server("--workers", "2", cpu=pins.sender) as server:
        return await _deliveries([server], [], load, pins)


async def _of_machines(load: Load, pins: Pins) -> dict[str, float]:
    async with (
        running_postgresql(cpu=pins.sender) as database,
        running_machines(database, 2, pins.sender) as servers,
    ):
        return await _deliveries(servers, database.processes(), load, pins)


async def _deliveries(
    servers: Sequence[Served], others: Sequence[int], load: Load, pins: Pins
) -> dict[str, float]:
    own = [pid for server in servers for pid in server.parts().values()]
    numbers = (load.members, load.members, load.window, load.warm_up_ms, load.measure_ms)
    pids = ",".join(map(str, (*own, *others)))
    async with crowd(
        "rooms", [server.port for server in servers], pins.load, *numbers, pids
    ) as clients:
        told = await clients.told()
    spent, delivered = told["cpu_ns"], told["deliveries"]
    figures = {
        "deliveries": delivered / told["elapsed_ns"] * 1000,
        "CPU": sum(spent[: len(own)]) / delivered / 1000,
    }
    if others:
        figures["CPU, PostgreSQL"] = sum(spent[len(own) :]) / delivered / 1000
    return figures
