"""Faults: a machine is killed with all its clients connected, and PostgreSQL is killed."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness.postgresql import Database, running_postgresql
from harness.report import BenchError, Result, Target
from load.crowd import crowd
from machines.clients import running_machines
from workers.crowds import MISSED, back

STORM_TITLE = (
    "storm: one of three machines is killed, with {clients:,} clients in rooms of {members}"
)
STORM_CLOCK = (
    "from kill -9 of the machine until this share of the clients has joined again, at the two\n"
    "         other machines. A client waits for 0.25 s, and for twice as long after each\n"
    "         failure, reduced at random by up to a half. Then it connects, upgrades, and joins\n"
    "         with its session and `since`; it must recover exactly the {missed} messages that it\n"
    "         has not seen. 'statements': all that PostgreSQL has run in this time, the beats of\n"
    "         the machines included (pg_stat_statements). The target is the number of rooms, one\n"
    "         for each 100 clients, and 50. The servers, PostgreSQL and the clients share all\n"
    "         CPUs."
)
STORM_TARGET = Target(5.0)
RESTART_TITLE = "restart: PostgreSQL is killed, and starts again {down:.0f} s later"
RESTART_CLOCK = (
    "from the first connection that PostgreSQL accepts again, which another process makes, until\n"
    "         a client of a machine has the first message. The client has been connected all the\n"
    "         time, and sends a message every {pause:.1f} s."
)
RESTART_TARGET = Target(1.0)
COUNTED = "shared_preload_libraries = 'pg_stat_statements'"
COUNT = "SELECT sum(calls) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
#: Time for the last join events to be delivered.
SETTLE_S = 2.0
PAUSE_S, PATIENCE_S = 0.1, 30.0


async def storm(rounds: int, clients: int, members: int) -> list[Result]:
    """Kill a machine; return how soon its clients are back, and with how many statements."""
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        async with (
            running_postgresql(COUNTED) as database,
            running_machines(database, 3, None) as servers,
        ):
            await database.fetch("CREATE EXTENSION pg_stat_statements")
            ports = [server.port for server in servers]
            async with crowd("idle", ports, None, clients, members, MISSED) as crowded:
                await crowded.told()
                await asyncio.sleep(SETTLE_S)
                crowded.say("storm")
                await crowded.told()
                await database.fetch("SELECT pg_stat_statements_reset()")
                started_ns = time.perf_counter_ns()
                os.kill(servers[0].pid, signal.SIGKILL)
                told = await crowded.told()
                ((statements,),) = await database.fetch(COUNT)
        for name, value in back(told, started_ns, clients).items():
            samples.setdefault(name, []).append(value)
        samples.setdefault("statements", []).append(float(statements))
    allowed = -(-clients // members) + clients // 100 + 50
    targets = {"all joined": STORM_TARGET, "statements": Target(allowed)}
    return [
        Result(
            "storm",
            name,
            clients,
            "s" if "joined" in name else "",
            tuple(values),
            target=targets.get(name),
        )
        for name, values in samples.items()
    ]


async def restart(rounds: int, down_s: float) -> list[Result]:
    """Kill PostgreSQL; return how soon a message is published after its start."""
    samples: list[float] = []
    async with (
        running_postgresql() as database,
        running_machines(database, 1, None) as servers,
        talker(servers[0].port) as client,
    ):
        for _ in range(rounds):
            samples.append(await _restart(database, client, down_s))
    return [Result("restart", "first message", 1, "s", tuple(samples), target=RESTART_TARGET)]


async def _restart(database: Database, client: Talker, down_s: float) -> float:
    await database.kill()
    await asyncio.sleep(down_s)
    client.begin()
    await database.start()
    accepted_s = time.monotonic()
    return await client.published() - accepted_s


class Talker:
    """A client that sends messages from `begin` on, until the first of them is published."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._sending: asyncio.Task[None] | None = None
        self._first: asyncio.Future[float] | None = None

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        self._sending = loop.create_task(self._send())

    async def published(self) -> float:
        """When the first message since `begin` has arrived; raises BenchError if none does."""
        assert self._first is not None
        assert self._sending is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._first
        except TimeoutError:
            raise BenchError("nothing was published after the start of PostgreSQL") from None
        finally:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            await self._socket.send('{"type":"message","text":"?"}')
            await asyncio.sleep(PAUSE_S)

    async def read(self) -> None:
        async for payload in self._socket:
            if payload.startswith('{"type":"message"') and self._first and not self._first.done():
                self._first.set_result(time.monotonic())
        if self._first and not self._first.done():
            self._first.set_exception(BenchError("the client has lost its connection"))


@asynccontextmanager
async def talker(port: int) -> AsyncIterator[Talker]:
    """A client that has joined a room of the server at a port. Raises BenchError."""
    websockets = importlib.import_module("websockets.asyncio.client")
    address = f"ws://127.0.0.1:{port}/ws?room=restart&username=talker"
    async with websockets.connect(address, max_queue=None) as socket:
        joined = json.loads(await socket.recv())
        if joined["type"] != "joined":
            raise BenchError(f"the client could not join: {joined}")
        client = Talker(socket)
        reading = asyncio.create_task(client.read())
        try:
            yield client
        finally:
            reading.cancel()
