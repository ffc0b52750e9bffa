"""The broker of a single process: the contract, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from contracts.broker import BrokerContract, Receiver
from contracts.history import draft
from fastchat.brokers import Broker
from fastchat.brokers.memory import MemoryBroker
from fastchat.history.memory import MemoryHistory


def new_history() -> MemoryHistory:
    numbers = itertools.count(1)
    return MemoryHistory(max_messages=1000, new_epoch=lambda: f"epoch-{next(numbers)}")


class TestContract(BrokerContract):
    def running(self) -> AbstractAsyncContextManager[Broker]:
        @contextlib.asynccontextmanager
        async def running() -> AsyncIterator[Broker]:
            yield MemoryBroker(new_history())

        return running()


def test_rooms_only_entered_leave_no_trace() -> None:
    """Entering and leaving ten thousand rooms costs nothing in the end."""
    history = new_history()
    broker = MemoryBroker(history)

    async def enter_and_leave() -> None:
        for number in range(10_000):
            await broker.subscribe(f"r{number}", None, 50, 300)
            broker.unsubscribe(f"r{number}")

    asyncio.run(enter_and_leave())
    assert not history._logs
    assert not broker._subscribers


def test_room_that_was_written_in_is_kept() -> None:
    """Whoever comes back to an empty room finds what was said, under the same epoch."""
    history = new_history()
    broker = MemoryBroker(history)
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer)

    async def talk_and_leave() -> None:
        first = await broker.subscribe("a", None, 50, 300)
        broker.publish(draft("hello"), None)
        broker.unsubscribe("a")
        again = await broker.subscribe("a", first.position, 50, 300)
        assert again.recovered
        assert [each.text for each in again.publications] == ["hello"]

    asyncio.run(talk_and_leave())


def test_delivery_and_answer_come_before_publish_returns() -> None:
    """In one process there is nothing to wait for."""
    broker = MemoryBroker(new_history())
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer)

    async def publish() -> None:
        await broker.subscribe("a", None, 50, 300)
        broker.publish(draft(id="i"), "sender")
        assert len(receiver.delivered) == 1
        broker.publish(draft(id="i"), "sender")
        assert len(receiver.answers) == 1

    asyncio.run(publish())
