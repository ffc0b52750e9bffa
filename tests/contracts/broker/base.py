"""What all parts of the brokers' contract use: a receiver, a faulty history, and helpers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

import pytest
import uvloop

from contracts.history import NOW_S
from fastchat.brokers import Broker, OnOutcome, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CloseCode, CommandError, ErrorCode, HistoryError
from fastchat.history import (
    Cursor,
    Duplicate,
    Erasure,
    History,
    Outcome,
    Page,
    StoredStream,
)
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Message, Position, Publication
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entrance, Entry, Member, Messages
from fastchat.rooms.administration import Administration
from fastchat.rooms.contract import Rooms
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.members import GRACE_TICKS
from fastchat.rooms.removals import Removals
from support.server import TIMEOUT_UNIT_S

Result = TypeVar("Result")

#: How long a test waits for something that a broker does in a later turn.
PATIENCE_S = 5 * TIMEOUT_UNIT_S


class Receiver:
    """Takes the place of the hub and of the chat, and records every call of a broker in order."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []  # publications and events
        self.answers: list[tuple[object, Duplicate | CommandError]] = []  # each with its sender
        self.confirmed: list[
            tuple[object, int]
        ] = []  # offsets, each with the sender that was informed
        self.turns: list[int] = []  # the number of delivered publications at each turn's end
        self.losses: list[str] = []  # rooms whose streams were lost
        self.expelled: list[tuple[str, str, int]] = []
        self.on_lost: Callable[[str], None] = lambda room: None
        self._news = asyncio.Event()

    def publish(self, room: str, payload: bytes) -> None:
        event = json.loads(payload)
        assert event["room"] == room
        self.received.append(event)
        self._news.set()

    def answer(self, outcome: int | Duplicate | CommandError) -> None:
        """An `outcome` for drafts whose senders a test need not distinguish."""
        self._answer(None, outcome)

    def answers_to(self, sender: object) -> OnOutcome:
        """An `outcome` for the drafts of one sender."""
        return functools.partial(self._answer, sender)

    def _answer(self, sender: object, outcome: int | Duplicate | CommandError) -> None:
        if isinstance(outcome, int):
            self.confirmed.append((sender, outcome))
        else:
            self.answers.append((sender, outcome))
        self._news.set()

    def end_turn(self) -> None:
        self.turns.append(len(self.delivered))
        self._news.set()

    def evict(self, room: str, code: int, reason: str) -> None:
        assert code == CloseCode.LOST_CONTINUITY
        assert CloseCode.LOST_CONTINUITY.reconnect
        assert len(reason.encode()) <= 123
        self.losses.append(room)
        self._news.set()
        self.on_lost(room)

    def expel(self, room: str, user: str, seconds: int) -> None:
        self.expelled.append((room, user, seconds))
        self._news.set()

    @property
    def delivered(self) -> list[dict[str, Any]]:
        """All publications that were received."""
        return [event for event in self.received if "offset" in event]

    @property
    def events(self) -> list[tuple[str, str]]:
        """Joins, leaves and other events that are not publications: type and user name."""
        return [
            (event["type"], event.get("username", ""))
            for event in self.received
            if "offset" not in event
        ]

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.delivered]

    @property
    def offsets(self) -> list[int]:
        return [event["offset"] for event in self.delivered]

    @property
    def codes(self) -> list[ErrorCode]:
        """The error codes of all refusals, in order."""
        outcomes = [outcome for _, outcome in self.answers]
        return [each.code for each in outcomes if isinstance(each, CommandError)]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds; fails after `PATIENCE_S`."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self._news.wait()
                self._news.clear()

    async def until_delivered(self, count: int) -> None:
        await self.until(lambda: len(self.delivered) >= count)
        assert len(self.delivered) == count

    async def until_answered(self, count: int) -> None:
        await self.until(lambda: len(self.answers) >= count)
        assert len(self.answers) == count

    async def until_events(self, *events: tuple[str, str]) -> None:
        """Wait until exactly these events have been received since the start."""
        await self.until(lambda: len(self.events) >= len(events))
        assert self.events == list(events)


class Faulty:
    """A history that raises HistoryError in each operation named in `failing`; records its
    batches."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.is_busy = False
        self.failing: set[str] = set()
        self.batches: list[int] = []

    @property
    def user_key(self) -> bytes:
        return self._history.user_key

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        self._fail("append")
        self.batches.append(len(drafts))
        return self._history.append(drafts)

    def check(self) -> None:
        self._fail("append")
        self._history.check()

    def position(self, room: str) -> Position:
        self._fail("read")
        return self._history.position(room)

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        self._fail("read")
        return self._history.since(room, position, limit)

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        self._fail("read")
        return self._history.before(room, offset, limit)

    def after(self, room: str, offset: int, limit: int) -> Page:
        self._fail("read")
        return self._history.after(room, offset, limit)

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        self._fail("read")
        return await self._history.search(room, query, limit)

    def find_alike(self, room: str) -> str | None:
        self._fail("read")
        return self._history.find_alike(room)

    def following(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        self._fail("read")
        return self._history.following(room, position, limit)

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        return self._history.options

    def set_options(self, room: str, options: RoomOptions) -> None:
        self._fail("append")
        self._history.set_options(room, options)

    def streams(self, prefix: str, after: str, limit: int) -> list[StoredStream]:
        self._fail("read")
        return self._history.streams(prefix, after, limit)

    def delete_room(self, room: str) -> bool:
        self._fail("append")
        return self._history.delete_room(room)

    def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        self._fail("read")
        return self._history.published_by(user, after, limit)

    def erase_user(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        self._fail("append")
        return self._history.erase_user(user, after)

    def prune(self) -> None:
        self._history.prune()

    def close(self) -> None:
        self._history.close()

    def _fail(self, operation: str) -> None:
        if operation in self.failing:
            raise HistoryError("disk I/O error")


def new_rooms(history: History, removals: Removals | None = None) -> LocalRooms:
    """Rooms as the worker or the relay builds them; needs a running loop."""
    return LocalRooms(
        history,
        at_end_of_turn=asyncio.get_running_loop().call_soon,
        soon=asyncio.get_running_loop().call_soon,
        clock=lambda: NOW_S,
        metrics=Metrics(),
        user_of=lambda credential: credential,
        removals=removals,
    )


def memory_broker(history: History) -> MemoryBroker:
    """A broker as the worker builds it; needs a running loop."""
    return MemoryBroker(new_rooms(history))


def run_in_loop(body: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop of the server's kind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body)


def at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that does not suspend; fails if it suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("Result", end.value)
    work.close()
    raise AssertionError("the coroutine has suspended")


def member(name: str = "Alice", by: str = "") -> Member:
    """A member with the user of the drafts under this name (`contracts.history.draft`)."""
    return Member(name, f"user {by or name}")


async def join(
    broker: Broker,
    user: Member | str = "Alice",
    room: str = "a",
    *,
    since: Position | None = None,
    limit: int = 50,
) -> Entry:
    """Join and return the entry; fails unless the broker gives it exactly once."""
    user = member(user) if isinstance(user, str) else user
    entries: list[Entry] = []
    await broker.join(Entrance(room, *user, since, limit), entries.append)
    (entry,) = entries
    return entry


async def leave(broker: Broker, user: Member | str = "Alice", room: str = "a") -> None:
    """Leave; fails unless the broker confirms it exactly once."""
    user = member(user) if isinstance(user, str) else user
    confirmed: list[None] = []
    await broker.leave(room, user, lambda: confirmed.append(None))
    assert len(confirmed) == 1


def decoded(payloads: Sequence[bytes]) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in payloads]


def names(entry: Entry) -> list[str]:
    """The names of the users who are listed in an entry."""
    assert entry.users is not None, "a crowd has no list"
    return [user.name or "" for user in entry.users]


def offsets(found: Entry | Messages) -> list[int]:
    return [each["offset"] for each in decoded(found.payloads)]


def texts(found: Entry | Messages) -> list[str]:
    return [each["text"] for each in decoded(found.payloads)]


class Contract:
    """The fixtures of all parts of the contract.

    A subclass overrides the fixture `history` with a new history. It also overrides `brokers`,
    which opens brokers on `self.rooms`, or only `new_broker` if there is only one broker.
    """

    @pytest.fixture
    def history(self) -> History:
        raise NotImplementedError

    def make_rooms(self) -> Rooms:
        """New rooms on `self.faulty`; it is called in a running loop."""
        return new_rooms(self.faulty)

    def new_broker(self, rooms: Rooms) -> Broker:
        raise NotImplementedError

    def presence_of(self, broker: Broker) -> Presence:
        """The presence in the process of a broker."""
        raise NotImplementedError

    def pages_of(self, broker: Broker) -> Pages:
        """The pages in the process of a broker."""
        raise NotImplementedError

    def administration_of(self, broker: Broker) -> Administration:
        """The administration in the process of a broker."""
        return self.rooms.administration

    @contextlib.asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        """Open a broker on `self.rooms` for each receiver, and wait until all can be used."""
        (receiver,) = receivers
        broker = self.new_broker(self.rooms)
        broker.open(delivery=receiver, receiver=receiver)
        yield [broker]

    @pytest.fixture(autouse=True)
    def _with_faulty(self, history: History) -> None:
        self.faulty = Faulty(history)

    def run(self, test: Callable[[Broker, Receiver], Awaitable[None]]) -> None:
        """Run a test in a loop of its own, with a new open broker."""

        async def body() -> None:
            self.rooms = self.make_rooms()
            receiver = Receiver()
            async with self.brokers([receiver]) as (broker,):
                await test(broker, receiver)

        run_in_loop(body())

    async def batches(self) -> list[int]:
        """The sizes of the batches in which drafts were stored."""
        return self.faulty.batches

    async def tick(self, times: int = GRACE_TICKS) -> None:
        """Let `times` seconds pass; by default as many as a lost user has to come back."""
        for _ in range(times):
            self.rooms.tick()
