"""The contract of brokers on rooms that machines share: each broker is a machine of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest

from contracts.broker import Receiver
from contracts.broker.administration import AdministrationContract
from contracts.broker.joining import JoiningContract
from contracts.broker.presence import PresenceContract
from contracts.broker.publishing import PublishingContract
from contracts.broker.reading import ReadingContract
from contracts.broker.several import SeveralContract
from contracts.history import NOW_S
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.brokers.relay.administration import RelayAdministration
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import Relay
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import Times
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.spread import SpreadRooms
from fastchat.ledger.url import EngineUrl
from fastchat.metrics import Metrics
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.administration import Administration
from fastchat.rooms.members import GRACE_TICKS
from support.ledger import in_loop, observer
from support.server import PATIENCE_S

LIMITS = Limits(stored=100_000, slack=100)
#: A notification that only tests send.
BARRIER = "~"


class Rooms(SharedRooms):
    """Shared rooms that know when they have heard everything that was told before."""

    def __init__(self, url: EngineUrl, machine: str, share: Share | None = None) -> None:
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
            share=share,
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


class Spread(SpreadRooms):
    """The rooms of a machine on several ledgers; `parts` has those on each of them."""

    def __init__(self, urls: Sequence[EngineUrl], machine: str) -> None:
        made: dict[EngineUrl, Rooms] = {}

        def make(url: EngineUrl, share: Share, _: object) -> Rooms:
            return made.setdefault(url, Rooms(url, machine, share))

        super().__init__(urls, make)
        self._made = made

    @property
    def parts(self) -> list[Rooms]:
        return [self._made[url] for url in sorted(self._made)]


@asynccontextmanager
async def machine(url: EngineUrl, name: str) -> AsyncIterator[Rooms]:
    rooms = Rooms(url, name)
    try:
        await rooms.open()
        yield rooms
    finally:
        await rooms.close()


@asynccontextmanager
async def spread_machine(urls: Sequence[EngineUrl], name: str) -> AsyncIterator[Spread]:
    rooms = Spread(urls, name)
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


class OnLedgers(AdministrationContract):
    """What the contract needs of machines that share ledgers: one, or those of a subclass."""

    PACE_S = 0.005

    @pytest.fixture(autouse=True)
    def _with_url(self, url: EngineUrl) -> None:
        self.urls = [url]

    def machine(self, name: str) -> AbstractAsyncContextManager[Rooms | Spread]:
        return machine(self.urls[0], name)

    def parts(self) -> list[list[Rooms]]:
        """The rooms of each machine, on each ledger."""
        return [[each] if isinstance(each, Rooms) else each.parts for each in self.machines]

    @pytest.fixture
    def history(self) -> History:
        """The base class builds rooms on it, which these tests do not use."""
        return MemoryHistory(max_messages=1, new_generation=lambda: b"unused")

    @asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        async with AsyncExitStack() as stack:
            self.machines = [
                await stack.enter_async_context(self.machine(f"machine-{number}"))
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

    def administration_of(self, broker: Broker) -> Administration:
        assert isinstance(broker, MemoryBroker)
        return broker._rooms.administration

    def test_failing_disk_is_said(self) -> None:
        """Without the ledger, nothing can be asked."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            for part in self.parts()[0]:
                await part._session.close()
            for call in (
                rooms.position("a"),
                rooms.options("a"),
                rooms.set_options("a", {"title": "x"}, "shop"),
                rooms.delete_room("a", "shop"),
                rooms.rooms("", "", 10),
                rooms.since("a", Position("epoch", 0), 10),
                rooms.users("a"),
                rooms.find_user("user Alice"),
                rooms.disconnect("user Alice", None, "shop"),
                rooms.ban("user Alice", None, 10, "shop"),
                rooms.unban("user Alice", None, "shop"),
                rooms.bans(),
                rooms.messages_of("user Alice", None, 10),
                rooms.erase_user("user Alice", "shop"),
            ):
                with pytest.raises(CommandError) as caught:
                    await call
                assert caught.value.code is ErrorCode.UNAVAILABLE

        self.run_with(test)

    async def batches(self) -> list[int]:
        found: list[int] = []
        for rooms in self.parts()[0]:
            answers = await rooms._session.fetch("SELECT answer FROM commits ORDER BY number")
            found += [sum(kept for _, _, kept, *_ in json.loads(answer)) for (answer,) in answers]
        return found

    async def tick(self, times: int = GRACE_TICKS) -> None:
        """Let so many seconds pass for the ledgers, and all machines hear what happens then."""
        machines = self.parts()
        for rooms in chain(*machines):
            await rooms.called()
            rooms.reached.clear()
        for url, rooms in zip(sorted(self.urls), machines[0], strict=True):
            async with observer(url) as db:
                passed = "UPDATE attendance SET until = until - $1 * interval '1 s'"
                await db.execute(passed, times)
                await rooms._attendance.tick()
                channel = rooms._session.identity.channel
                await db.execute("SELECT pg_notify($1, $2)", channel, BARRIER)
        for rooms in chain(*machines):
            await rooms.reached.wait()
            await rooms.ticked()


class TestContract(
    OnLedgers,
    SeveralContract,
    JoiningContract,
    PresenceContract,
    PublishingContract,
    ReadingContract,
):
    """The contract with one process on each machine."""


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
                await stack.enter_async_context(self.machine(each.name)) for each in used
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

    def administration_of(self, broker: Broker) -> Administration:
        assert isinstance(broker, RelayBroker)
        return RelayAdministration(broker)


class TestSpreadContract(OnLedgers, SeveralContract, JoiningContract, ReadingContract):
    """The contract with rooms that are spread over two ledgers.

    A room is in one of them, as in the other classes. So the parts that are about what happens
    within one room are left out.
    """

    @pytest.fixture(autouse=True)
    def _with_url(self, urls: list[EngineUrl]) -> None:
        self.urls = urls

    def machine(self, name: str) -> AbstractAsyncContextManager[Rooms | Spread]:
        # Each machine has the URLs in another order.
        return spread_machine(self.urls[:: -1 if name[-1] in "13579" else 1], name)
