"""The contract of brokers on rooms that machines share: each broker is a machine of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from contracts.broker import Receiver
from contracts.broker.joining import JoiningContract
from contracts.broker.presence import PresenceContract
from contracts.broker.publishing import PublishingContract
from contracts.broker.reading import ReadingContract
from contracts.broker.several import SeveralContract
from contracts.history import NOW_S
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import Relay
from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import Times
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.url import EngineUrl
from fastchat.metrics import Metrics
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.members import GRACE_TICKS
from support.ledger import in_loop, observer
from support.server import PATIENCE_S

LIMITS = Limits(stored=100_000, slack=100)
#: A notification that only tests send.
BARRIER = "~"


class Rooms(SharedRooms):
    """Shared rooms that know when they have heard everything that was told before."""

    def __init__(self, url: EngineUrl, machine: str) -> None:
        super().__init__(
            url,
            machine,
            secrets.token_hex(8),
            Witness(),
            room_limits=LIMITS,
            clock=lambda: NOW_S,
            metrics=Metrics(),
            user_of=lambda credential: credential,
            times=Times(grace=GRACE_TICKS),
        )
        self.reached = asyncio.Event()

    def heard(self, payload: str) -> None:
        if payload == BARRIER:
            self.reached.set()
        else:
            super().heard(payload)

    async def called(self) -> None:
        """Wait until all users have been entered and taken out."""
        if self._attendance._caller is not None:
            await asyncio.wait([self._attendance._caller])

    async def ticked(self) -> None:
        self.tick()
        if self._ticking is not None:
            await asyncio.wait([self._ticking])


@asynccontextmanager
async def machine(url: EngineUrl, name: str) -> AsyncIterator[Rooms]:
    rooms = Rooms(url, name)
    try:
        await rooms.open()
        yield rooms
    finally:
        await rooms.close()


FORGED = (
    "",
    "t",
    "t{",
    "t[1]",
    "t[9, 2, 3]",
    "c\n{",
    'c\n["+"]',
    'c\n["+", 1, 2]',
    "c\nnull",
    "p",
    "p{",
)


@in_loop
async def test_forged_notifications_change_nothing(
    url: EngineUrl, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may read the ledger's tables can send anything; it is logged, and that is all."""
    async with machine(url, "one") as rooms, observer(url) as db:
        broker = MemoryBroker(rooms)
        receiver = Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        for payload in (*FORGED, BARRIER):
            await db.execute("SELECT pg_notify(channel, $1) FROM identity", payload)
        async with asyncio.timeout(PATIENCE_S):
            await rooms.reached.wait()
            entries: list[Entry] = []
            await broker.join(Entrance("a", "Ann", "s:ann", None, 0), entries.append)
        assert [each.users for each in entries] == [[Member("Ann", "s:ann")]]
    logged = [each for each in caplog.records if "cannot be read" in each.getMessage()]
    assert len(logged) == len(FORGED) - 1, "the empty notification is of no kind"


class TestContract(
    SeveralContract, JoiningContract, PresenceContract, PublishingContract, ReadingContract
):
    PACE_S = 0.005

    @pytest.fixture(autouse=True)
    def _with_url(self, url: EngineUrl) -> None:
        self.url = url

    @pytest.fixture
    def history(self) -> History:
        """The base class builds rooms on it, which these tests do not use."""
        return MemoryHistory(max_messages=1, new_generation=lambda: b"unused")

    @asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        async with AsyncExitStack() as stack:
            self.machines = [
                await stack.enter_async_context(machine(self.url, f"machine-{number}"))
                for number in range(len(receivers))
            ]
            brokers = [MemoryBroker(rooms) for rooms in self.machines]
            for broker, receiver in zip(brokers, receivers, strict=True):
                broker.open(delivery=receiver, receiver=receiver)
            yield list(brokers)

    def presence_of(self, broker: Broker) -> Presence:
        assert isinstance(broker, MemoryBroker)
        return broker._rooms

    def pages_of(self, broker: Broker) -> Pages:
        assert isinstance(broker, MemoryBroker)
        return broker._rooms.pages

    async def batches(self) -> list[int]:
        session = self.machines[0]._session
        answers = await session.fetch("SELECT answer FROM commits ORDER BY number")
        return [sum(kept for _, _, kept, *_ in json.loads(answer)) for (answer,) in answers]

    async def tick(self, times: int = GRACE_TICKS) -> None:
        """Let so many seconds pass for the ledger, and all machines hear what happens then."""
        for rooms in self.machines:
            await rooms.called()
            rooms.reached.clear()
        async with observer(self.url) as db:
            await db.execute("UPDATE attendance SET until = until - $1 * interval '1 s'", times)
            await self.machines[0]._attendance.tick()
            channel = self.machines[0]._session.identity.channel
            await db.execute("SELECT pg_notify($1, $2)", channel, BARRIER)
        for rooms in self.machines:
            await rooms.reached.wait()
            await rooms.ticked()


class TestRelayContract(TestContract):
    """The same behind relays: half of the brokers are workers of each of two machines."""

    @pytest.fixture(autouse=True)
    def _with_directory(self, tmp_path: Path) -> None:
        self.directories = [tmp_path / "one", tmp_path / "two"]

    @asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        async with AsyncExitStack() as stack:
            used = self.directories[: len(receivers)]
            self.machines = [
                await stack.enter_async_context(machine(self.url, each.name)) for each in used
            ]
            made: list[RelayBroker] = []
            for number, (directory, rooms) in enumerate(zip(used, self.machines, strict=True)):
                directory.mkdir()
                workers = len(receivers[number::2])
                relay = Relay(directory, rooms, Metrics(), workers=workers)
                await relay.start()
                stack.push_async_callback(relay.close)
            for number, receiver in enumerate(receivers):
                broker = RelayBroker(
                    self.directories[number % 2],
                    name=f"worker-{number}",
                    metrics=Metrics(),
                    bounds=Bounds(retry_s=0.005),
                )
                broker.open(delivery=receiver, receiver=receiver)
                stack.callback(broker._timer.cancel)
                stack.push_async_callback(broker.close)
                made.append(broker)
            await asyncio.gather(*(broker.start() for broker in made))
            yield list(made)

    def presence_of(self, broker: Broker) -> Presence:
        assert isinstance(broker, RelayBroker)
        return broker

    def pages_of(self, broker: Broker) -> Pages:
        assert isinstance(broker, RelayBroker)
        return RelayPages(broker)
