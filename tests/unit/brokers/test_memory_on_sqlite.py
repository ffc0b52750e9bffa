"""The SQLite history and a broker on it: their contracts, and a comparison with the memory
history."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.broker import (
    AdministrationContract,
    BrokerContract,
    join,
    leave,
    memory_broker,
    run_in_loop,
)
from contracts.history import (
    GENERATION,
    NOW_S,
    HistoryContract,
    delete,
    draft,
    edit,
    react,
    reactions,
)
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.database import select
from fastchat.history import History, Outcome
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
from fastchat.protocol import Draft, Kind, Message, Position
from fastchat.rooms.contract import Rooms


@contextlib.contextmanager
def opened(
    directory: Path, max_messages: int = 1000, max_known_rooms: int = 10_000
) -> Iterator[SqliteHistory]:
    """A history that is open during a `with` block."""
    history = SqliteHistory(
        directory,
        max_messages=max_messages,
        max_age_s=0,
        sync_commits=False,
        clock=lambda: NOW_S,
        max_known_rooms=max_known_rooms,
    )
    try:
        yield history
    finally:
        history.close()


class TestHistoryContract(HistoryContract):
    SLACK = 6

    @pytest.fixture
    def history(self, tmp_path: Path) -> Iterator[History]:
        with opened(tmp_path, self.KEPT) as history:
            yield history


class TestBrokerContract(BrokerContract, AdministrationContract):
    @pytest.fixture
    def history(self, tmp_path: Path) -> Iterator[History]:
        with opened(tmp_path) as history:
            yield history

    def new_broker(self, rooms: Rooms) -> Broker:
        return MemoryBroker(rooms)

    def presence_of(self, broker: Broker) -> Presence:
        return self.rooms

    def pages_of(self, broker: Broker) -> Pages:
        return self.rooms.pages


def test_unused_rooms_are_forgotten(tmp_path: Path) -> None:
    """Joining and leaving a thousand rooms without a message leaves nothing in the file, and not
    more in memory than the history may have there."""

    async def enter_and_leave(history: History) -> None:
        broker = memory_broker(history)
        for number in range(1000):
            await join(broker, room=f"r{number}")
            await leave(broker, room=f"r{number}")

    with opened(tmp_path, max_known_rooms=10) as history:
        run_in_loop(enter_and_leave(history))
        assert select(history._db, "SELECT name FROM rooms") == []
        assert len(history._rooms) <= 10


# Against the history in memory

ROOMS = ("a", "b")
NAMES = ("Alice", "Bob", "Eve")


def any_draft(chance: random.Random, newest: int) -> Draft:
    """A message or a change, which the history can refuse."""
    room, by = chance.choice(ROOMS), chance.choice(NAMES)
    target = chance.randint(max(newest - 12, 0), newest + 1)
    kind = chance.choice(list(Kind))
    if kind is Kind.EDIT:
        return edit(target, f"edited {chance.randrange(100)}", by=by, room=room)
    if kind is Kind.DELETE:
        return delete(target, by=by, room=room)
    if kind is Kind.REACT:
        emoji = chance.choice("👋👍🎉")
        return react(target, emoji, by=by, room=room, remove=chance.random() < 0.4)
    id = chance.choice((None, str(chance.randrange(50))))
    return draft(f"text {chance.randrange(100)}", by=by, room=room, id=id)


def comparable(outcome: Outcome) -> object:
    """The parts of an answer that are equal in both histories, with reactions as lists."""
    if isinstance(outcome, Message):
        return outcome._replace(reactions=reactions(outcome))
    return outcome if isinstance(outcome, tuple) else outcome.code


def reads(history: History, chance: random.Random) -> list[object]:
    """Results of reads of all kinds, at places that `chance` determines."""
    found: list[object] = []
    for room in ROOMS:
        epoch, newest, _ = history.position(room)
        place, limit = chance.randint(0, newest + 1), chance.randint(1, 20)
        pages = [
            history.before(room, None, limit),
            history.before(room, place, limit),
            history.after(room, place, limit),
        ]
        found += [([comparable(each) for each in page[0]], page.more) for page in pages]
        missed = history.since(room, Position(epoch, place), 300)
        found.append(missed and [comparable(each) for each in missed])
        word = f"{chance.choice(('text', 'edited'))} {chance.randrange(100)}"
        results = asyncio.run(history.search(room, word, 300))
        found.append(sorted(each.offset for each in results))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_both_histories_return_the_same(seed: int, tmp_path: Path) -> None:
    """After the same drafts both histories return the same, also after the file was reopened."""
    chance = random.Random(seed)
    memory = MemoryHistory(max_messages=1000, new_generation=lambda: GENERATION)
    for _ in range(3):
        with opened(tmp_path) as sqlite:
            for _ in range(40):
                newest = max(memory.position(room).offset for room in ROOMS)
                drafts = [any_draft(chance, newest) for _ in range(chance.randint(0, 6))]
                expected = [comparable(each) for each in memory.append(drafts)]
                assert [comparable(each) for each in sqlite.append(drafts)] == expected
                if chance.random() < 0.3:
                    place = chance.random()
                    expected_reads = reads(memory, random.Random(place))
                    assert reads(sqlite, random.Random(place)) == expected_reads
