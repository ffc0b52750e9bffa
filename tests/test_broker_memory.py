"""The broker of a single process: the contract, what it leaves behind, and what it logs."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from contracts.broker import BrokerContract, Faulty, Receiver, memory_broker
from contracts.history import draft, texts
from fastchat.brokers import Broker
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError
from fastchat.history import History
from fastchat.history.memory import MemoryHistory


def new_history() -> MemoryHistory:
    numbers = itertools.count(1)
    return MemoryHistory(max_messages=1000, new_epoch=lambda: f"epoch-{next(numbers)}")


class TestContract(BrokerContract):
    @pytest.fixture
    def history(self) -> History:
        return new_history()

    def new_broker(self, history: History) -> Broker:
        return memory_broker(history)


def test_rooms_only_entered_leave_no_trace() -> None:
    """Entering and leaving ten thousand rooms costs nothing in the end."""
    history = new_history()
    broker = memory_broker(history)

    async def enter_and_leave() -> None:
        for number in range(10_000):
            await broker.subscribe(f"r{number}", None, 50, 300)
            broker.unsubscribe(f"r{number}")

    asyncio.run(enter_and_leave())
    assert not history._logs
    assert not broker._subscribers


def test_room_that_was_written_in_is_kept() -> None:
    """Whoever comes back to an empty room finds what was said, under the same epoch."""
    broker = memory_broker(new_history())
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer, receiver.end_turn)

    async def talk_and_leave() -> None:
        first = await broker.subscribe("a", None, 50, 300)
        broker.publish(draft("hello"), None)
        broker.unsubscribe("a")
        again = await broker.subscribe("a", first.position, 50, 300)
        assert again.recovered
        assert texts(again.publications) == ["hello"]

    asyncio.run(talk_and_leave())


class EndOfTurn:
    """In the place of `call_soon`: calls back when a test says so."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def __call__(self, callback: object) -> None:
        self.asked.append(callback)


def test_end_of_a_turn_is_asked_for_once_a_turn() -> None:
    """However much is published in it; and by the next turn again."""
    at_end_of_turn = EndOfTurn()
    broker = MemoryBroker(new_history(), at_end_of_turn=at_end_of_turn)
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer, receiver.end_turn)
    for _ in range(2):
        for _ in range(3):
            broker.publish(draft(), None)
        assert at_end_of_turn.asked == [broker.commit]
        at_end_of_turn.asked.clear()
        broker.commit()
    assert receiver.turns == [0, 0]


def test_end_of_a_turn_of_nothing_is_silent() -> None:
    """What was committed earlier in the turn is not committed again."""
    broker = MemoryBroker(new_history(), at_end_of_turn=EndOfTurn())
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer, receiver.end_turn)
    broker.publish(draft(), None)
    broker.commit()
    broker.commit()
    assert receiver.turns == [0]


def test_failing_history_is_logged_once_and_once_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk under a busy server does not fill it with log lines, too."""
    faulty = Faulty(new_history())
    broker = MemoryBroker(faulty, at_end_of_turn=EndOfTurn())
    receiver = Receiver()
    broker.open(receiver.deliver, receiver.answer, receiver.end_turn)

    async def publish_and_read(times: int) -> None:
        for _ in range(times):
            broker.publish(draft(), None)
            broker.commit()
            try:
                await broker.search("a", "x", 9)
            except CommandError:
                assert faulty.failing

    with caplog.at_level(logging.INFO, "fastchat.broker"):
        for _ in range(2):
            caplog.clear()
            faulty.failing = {"append", "read"}
            asyncio.run(publish_and_read(5))
            assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
            assert "disk I/O error" in caplog.text
            caplog.clear()
            faulty.failing = set()
            asyncio.run(publish_and_read(5))
            assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
            assert "works again" in caplog.text
