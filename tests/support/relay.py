"""A relay that a test can kill and start again, and brokers that outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contracts.broker import (
    PATIENCE_S,
    Faulty,
    Receiver,
    new_rooms,
)
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import GATHERING_S, MAX_BACKLOG_BYTES, Relay
from fastchat.history import History, Outcome
from fastchat.history.epochs import new_generation
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.protocol import Draft
from fastchat.rooms.members import GRACE_TICKS
from support.slow_rooms import SlowRooms


def new_history() -> MemoryHistory:
    return MemoryHistory(max_messages=100_000, new_generation=new_generation)


class HistoryOfOneRelay(Faulty):
    """The history as one relay uses it; after the relay's end every call fails."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.on_appended: Callable[[], None] | None = None

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        outcomes = super().append(drafts)
        if self.on_appended is not None:
            self.on_appended()
        return outcomes

    def prune(self) -> None:
        pass


class Rig:
    """A relay that a test can kill and start again, and brokers that outlive it."""

    relay: Relay

    def __init__(
        self, directory: Path, history: History, *, are_rooms_slow: bool = False, **bounds: Any
    ) -> None:
        self.directory = directory
        self.are_rooms_slow = are_rooms_slow
        self.history = history
        #: A short pause between attempts, so that tests do not wait long for a new relay.
        self.bounds = Bounds(**{"retry_s": 0.005, **bounds})
        self.max_peer_backlog_bytes = MAX_BACKLOG_BYTES
        self.brokers: list[RelayBroker] = []
        self.receivers: list[Receiver] = []

    async def start(self, *, workers: int | None = None, gathering_s: float = GATHERING_S) -> None:
        """Start a relay that waits for all existing brokers."""
        self.relay_history = HistoryOfOneRelay(self.history)
        rooms = new_rooms(self.relay_history)
        self.relay = Relay(
            self.directory,
            SlowRooms(rooms) if self.are_rooms_slow else rooms,
            Metrics(),
            workers=workers or len(self.brokers) or 1,
            gathering_s=gathering_s,
            max_backlog_bytes=self.max_peer_backlog_bytes,
        )
        await self.relay.start()

    def kill(self) -> None:
        """Kill the relay as SIGKILL does: unwritten and unread records are lost."""
        self.relay_history.failing = {"append", "read"}
        listener = self.relay._listener._server
        assert listener is not None
        listener.close()
        self.relay.opened = lambda peer: peer._transport.abort()  # type: ignore[method-assign]
        for peer in tuple(self.relay._peers):
            peer._transport.abort()

    def kill_after_storing(self) -> None:
        """Kill the relay as soon as it has stored the next drafts, before it sends anything."""
        self.relay_history.on_appended = self.kill

    async def restart(self, *, workers: int | None = None) -> None:
        self.kill()
        await self.start(workers=workers)
        await self.connected()

    def broker(self) -> tuple[RelayBroker, Receiver]:
        """Add a broker, which is not started yet."""
        name = f"worker-{len(self.brokers) + 1}"
        broker = RelayBroker(self.directory, name=name, metrics=Metrics(), bounds=self.bounds)
        receiver = Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        self.brokers.append(broker)
        self.receivers.append(receiver)
        return broker, receiver

    async def several(self, count: int) -> list[tuple[RelayBroker, Receiver]]:
        """Start a relay and `count` brokers, and connect them."""
        pairs = [self.broker() for _ in range(count)]
        await self.start()
        await asyncio.gather(*(broker.start() for broker, _ in pairs))
        return pairs

    async def connected(self) -> None:
        """Wait until all brokers have been welcomed, and the relay has handled their records."""
        await until(lambda: all(broker.connected for broker in self.brokers))
        await self.settled()

    async def settled(self) -> None:
        """Wait until the relay and all brokers have handled all records that were sent."""
        for _ in range(2):
            for broker in self.brokers:
                await RelayPages(broker).before("elsewhere", None, 1)

    async def abandon(self, broker: RelayBroker) -> None:
        """End a broker as a killed worker ends."""
        index = self.brokers.index(broker)
        del self.brokers[index], self.receivers[index]
        if broker._link._connecting is not None:
            broker._link._connecting.cancel()
        if broker._link._connection is not None:
            broker._link._connection.transport.abort()
        await asyncio.sleep(0.01)

    def cut(self, broker: RelayBroker) -> None:
        """End a broker's connection at the relay; records on the way are lost."""
        for peer in self.relay._peers:
            if peer.name == broker._name:
                peer._transport.abort()

    def tick(self, times: int = GRACE_TICKS) -> None:
        for _ in range(times):
            self.relay.rooms.tick()

    def names(self, room: str = "a") -> list[str]:
        return [user.name for user in self.relay.rooms.users(room)]

    async def end(self) -> None:
        for broker in self.brokers:
            await broker.close()
            broker._timer.cancel()
        await self.relay.close()
        await asyncio.sleep(0.01)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.001)


#: A function that runs a test in a loop of its own, with a `Rig` that has these bounds.
Run = Callable[..., None]
