"""The broker of a single process: its contract, and what remains in memory."""

from __future__ import annotations

import asyncio

import pytest

from contracts.broker import (
    AdministrationContract,
    BrokerContract,
    Receiver,
    join,
    leave,
    member,
    new_rooms,
    texts,
)
from contracts.history import GENERATION, draft
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.protocol import typing
from fastchat.rooms.contract import Rooms
from fastchat.rooms.members import GRACE_TICKS
from support.slow_rooms import SlowRooms


def new_history() -> MemoryHistory:
    return MemoryHistory(max_messages=1000, new_generation=lambda: GENERATION)


class TestContract(BrokerContract, AdministrationContract):
    @pytest.fixture
    def history(self) -> History:
        return new_history()

    def new_broker(self, rooms: Rooms) -> Broker:
        return MemoryBroker(rooms)

    def presence_of(self, broker: Broker) -> Presence:
        return self.rooms

    def pages_of(self, broker: Broker) -> Pages:
        return self.rooms.pages


class TestContractOnSlowRooms(TestContract):
    def make_rooms(self) -> Rooms:
        return SlowRooms(new_rooms(self.faulty))


def test_unused_rooms_are_forgotten() -> None:
    """Joining and leaving ten thousand rooms without a message leaves nothing in memory."""
    history = new_history()

    async def enter_and_leave() -> None:
        rooms = new_rooms(history)
        broker = MemoryBroker(rooms)
        for number in range(0, 10_000, 2):
            await join(broker, room=f"r{number}")
            await leave(broker, room=f"r{number}")
            await join(broker, room=f"r{number + 1}")
            broker.lose(f"r{number + 1}", member())
        for _ in range(GRACE_TICKS):
            broker.tick()
        assert rooms.occupancy[:2] == (0, 0)

    asyncio.run(enter_and_leave())
    assert not history._logs


def test_history_of_an_empty_room_is_kept() -> None:
    """A user who returns to an empty room finds its messages under the same epoch."""

    async def talk_and_leave() -> None:
        broker, receiver = MemoryBroker(new_rooms(new_history())), Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        first = await join(broker)
        broker.publish(draft("hello"), receiver.answer)
        await leave(broker)
        again = await join(broker, since=first.position)
        assert again.recovered
        assert texts(again) == ["hello"]

    asyncio.run(talk_and_leave())


def test_told_event_is_not_delivered() -> None:
    """An event for other processes is dropped: the chat has sent it to this process's members."""

    async def tell() -> None:
        broker, receiver = MemoryBroker(new_rooms(new_history())), Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        await join(broker)
        broker.tell("a", typing("a", "u", "Alice"))
        assert receiver.received == []

    asyncio.run(tell())
