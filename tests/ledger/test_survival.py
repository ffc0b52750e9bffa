"""Machines that share rooms go on after their PostgreSQL was killed, and after one of them was."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter

from contracts.broker import Receiver, join, names
from contracts.history import NOW_S, draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import Times
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.metrics import Metrics
from support.ledger import in_loop, make_ledger
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S


class Machine:
    """A machine with one process, its broker, and what its members receive."""

    def __init__(self, url: EngineUrl, name: str) -> None:
        self.name = name
        self.rooms = SharedRooms(
            url,
            name,
            secrets.token_hex(8),
            Witness(),
            room_limits=Limits(stored=100_000, slack=100),
            clock=lambda: NOW_S,
            metrics=Metrics(),
            user_of=lambda credential: credential,
            times=Times(grace=5.0),
        )
        self.broker = MemoryBroker(self.rooms)
        self.receiver = Receiver()
        self.broker.open(delivery=self.receiver, receiver=self.receiver)
        self.sent: list[str] = []
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.rooms.open()
        self._ticking = asyncio.create_task(self._tick_forever())

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        await self.rooms.close()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.broker.tick()

    async def talk(self, seconds: float) -> None:
        """Publish without a pause worth mentioning, as a client that repeats what was refused."""
        ends = asyncio.get_running_loop().time() + seconds
        number = 0
        while asyncio.get_running_loop().time() < ends:
            id = f"{self.name} {number}"
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self.broker.publish(draft(id, by=self.name, id=id), answer.set_result)
            async with asyncio.timeout(PATIENCE_S):
                outcome = await answer
            if isinstance(outcome, CommandError):
                await asyncio.sleep(0.05)
            else:
                self.sent.append(id)
                number += 1
            await asyncio.sleep(0.002)


@in_loop
async def test_killed_server_costs_nothing(own_server: PostgreSQL) -> None:
    """PostgreSQL is killed four times while two machines publish: all publications arrive at both,
    once and in one order, and nobody has left."""
    url = await make_ledger(parse_url(own_server.url))
    one, two = Machine(url, "one"), Machine(url, "two")
    try:
        for machine in (one, two):
            await machine.start()
            await join(machine.broker, machine.name)
        talking = [asyncio.create_task(machine.talk(9.0)) for machine in (one, two)]
        loop = asyncio.get_running_loop()
        for _ in range(4):
            await asyncio.sleep(1.0)
            await loop.run_in_executor(None, own_server.kill)
            await loop.run_in_executor(None, own_server.start)
        await asyncio.gather(*talking)
        total = len(one.sent) + len(two.sent)
        for machine in (one, two):
            await machine.receiver.until_delivered(total)
            assert machine.receiver.offsets == list(range(1, total + 1))
            assert Counter(machine.receiver.texts) == Counter(one.sent + two.sent)
            assert machine.receiver.losses == []
        assert one.receiver.texts == two.receiver.texts
        await asyncio.sleep(1.5)
        assert one.receiver.events == [("join", "two")]
        assert two.receiver.events == []
        assert names(await join(one.broker, "one")) == ["one", "two"]
    finally:
        for machine in (one, two):
            await machine.stop()
