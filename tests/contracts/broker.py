"""The contract of `fastchat.brokers.Broker`, as tests that every implementation runs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

import pytest
import uvloop

from contracts.history import NOW_S, delete, draft, edit, react
from fastchat import protocol
from fastchat.brokers import Broker, OnOutcome, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CloseCode, CommandError, ErrorCode, HistoryError
from fastchat.history import Duplicate, History, Outcome, Page
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Message, Position, Publication
from fastchat.rooms import Entrance, Entry, Member, Messages, Removal
from fastchat.rooms.members import GRACE_TICKS
from fastchat.rooms.removals import Removals
from fastchat.rooms.rooms import Rooms
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

    def expel(self, room: str, author: str, seconds: int) -> None:
        self.expelled.append((room, author, seconds))
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
        self.failing: set[str] = set()
        self.batches: list[int] = []

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        self._fail("append")
        self.batches.append(len(drafts))
        return self._history.append(drafts)

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

    def prune(self) -> None:
        self._history.prune()

    def adopt(self, room: str, epoch: str) -> None:
        self._fail("read")
        self._history.adopt(room, epoch)

    def forget(self, room: str) -> None:
        self._fail("read")
        self._history.forget(room)

    def close(self) -> None:
        self._history.close()

    def _fail(self, operation: str) -> None:
        if operation in self.failing:
            raise HistoryError("disk I/O error")


def new_rooms(history: History, removals: Removals | None = None) -> Rooms:
    """Rooms as the worker or the relay builds them; needs a running loop."""
    return Rooms(
        history,
        at_end_of_turn=asyncio.get_running_loop().call_soon,
        clock=lambda: NOW_S,
        metrics=Metrics(),
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
    """A member with the author of the drafts under this name (`contracts.history.draft`)."""
    return Member(name, f"author {by or name}")


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
    await broker.join(Entrance(room, user, since, limit), entries.append)
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


def offsets(found: Entry | Messages) -> list[int]:
    return [each["offset"] for each in decoded(found.payloads)]


def texts(found: Entry | Messages) -> list[str]:
    return [each["text"] for each in decoded(found.payloads)]


class BrokerContract:
    """What every broker does.

    A subclass overrides the fixture `history` with a new history. It also overrides `brokers`,
    which opens brokers on `self.rooms`, or only `new_broker` if there is only one broker.
    """

    @pytest.fixture
    def history(self) -> History:
        raise NotImplementedError

    def new_broker(self, rooms: Rooms) -> Broker:
        raise NotImplementedError

    def presence_of(self, broker: Broker) -> Presence:
        """The presence in the process of a broker."""
        raise NotImplementedError

    def pages_of(self, broker: Broker) -> Pages:
        """The pages in the process of a broker."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        """Open a broker on `self.rooms` for each receiver; each is ready for every operation."""
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
            self.rooms = new_rooms(self.faulty)
            receiver = Receiver()
            async with self.brokers([receiver]) as (broker,):
                await test(broker, receiver)

        run_in_loop(body())

    def tick(self, times: int = GRACE_TICKS) -> None:
        """Let `times` seconds pass; by default as many as a lost user has to come back."""
        for _ in range(times):
            self.rooms.tick()

    # Publications

    def test_publications_reach_a_member_in_order(self) -> None:
        """The publications of a joined room arrive in order, numbered without holes."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(100):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(100)
            assert receiver.texts == [str(number) for number in range(100)]
            assert receiver.offsets == list(range(1, 101))
            assert receiver.answers == []

        self.run(test)

    def test_each_publication_is_delivered_once_to_a_process(self) -> None:
        """A publication is delivered once for all members of a room, because the hub multiplies
        it."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for name in ("Alice", "Bob", "Eve"):
                await join(broker, name)
            broker.publish(draft("x"), receiver.answer)
            broker.publish(draft("last"), receiver.answer)
            await receiver.until_delivered(2)

        self.run(test)

    def test_payload_is_the_encoded_publication(self) -> None:
        """A payload of each kind has all fields of its draft and the offset of its publication."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            drafts = [
                draft("hello 😀\n", id="i"),
                edit(1),
                react(1, "👋"),
                react(1, "👋", remove=True),
                delete(1),
            ]
            for each in drafts:
                broker.publish(each, receiver.answer)
            await receiver.until_delivered(5)
            expected = [each.numbered(n) for n, each in enumerate(drafts, 1)]
            assert receiver.delivered == decoded([protocol.encode(each) for each in expected])

        self.run(test)

    def test_publication_is_stored_before_it_is_delivered(self) -> None:
        """A publication that a member has received is in the next page that anybody reads."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            broker.publish(draft("x"), receiver.answer)
            await receiver.until_delivered(1)
            page = await self.pages_of(broker).before("a", None, 9)
            assert decoded(page.payloads) == receiver.delivered

        self.run(test)

    def test_publication_of_a_room_without_members_is_stored_only(self) -> None:
        """The publication is stored and not delivered, and its sender gets no error."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, room="b")
            broker.publish(draft("lonely", room="a"), receiver.answer)
            broker.publish(draft("heard", room="b"), receiver.answer)
            await receiver.until_delivered(1)
            assert receiver.texts == ["heard"]
            assert texts(await join(broker, room="a")) == ["lonely"]
            assert receiver.answers == []

        self.run(test)

    @pytest.mark.parametrize("lost", [False, True])
    def test_deliveries_end_with_the_last_member(self, lost: bool) -> None:
        """Deliveries go on until the last member of a room has left or is lost."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            async def go(name: str) -> None:
                if lost:
                    broker.lose("a", member(name))
                else:
                    await leave(broker, name)

            await join(broker, "Eve", "b")
            await join(broker, "Alice")
            await join(broker, "Bob")
            await go("Alice")
            broker.publish(draft("heard"), receiver.answer)
            await receiver.until_delivered(1)
            await go("Bob")
            broker.publish(draft("unheard"), receiver.answer)
            broker.publish(draft("later", room="b"), receiver.answer)
            await receiver.until_delivered(2)
            assert receiver.texts == ["heard", "later"]

        self.run(test)

    # Joining

    def test_entry_and_deliveries_meet_without_hole_or_overlap(self) -> None:
        """The first delivery after a join follows the entry's last publication, while others
        publish."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for round_ in range(20):
                broker.publish(draft(f"before {round_}"), receiver.answer)
                entry = await join(broker, limit=300)
                assert len(entry.payloads) == entry.position.offset
                known = len(receiver.delivered)
                broker.publish(draft(f"after {round_}"), receiver.answer)
                await receiver.until(lambda known=known: len(receiver.delivered) > known)
                later = [each for each in receiver.offsets if each > entry.position.offset]
                seen = offsets(entry) + later
                assert seen == list(range(1, seen[-1] + 1))
                await leave(broker)

        self.run(test)

    def test_entry_is_given_at_its_position_in_the_stream(self) -> None:
        """When an entry is given, exactly the publications up to its position have been
        delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            positions: list[tuple[int, int]] = []

            def enter(entry: Entry) -> None:
                positions.append((entry.position.offset, receiver.offsets[-1]))

            async def come_and_go(name: str) -> None:
                for _ in range(10):
                    await broker.join(Entrance("a", member(name), None, 0), enter)
                    await asyncio.sleep(0)
                    await leave(broker, name)

            broker.publish(draft("first"), receiver.answer)
            comers = [asyncio.create_task(come_and_go(f"user {n}")) for n in range(10)]
            while not all(comer.done() for comer in comers):
                broker.publish(draft("fire"), receiver.answer)
                await asyncio.sleep(0)
            await asyncio.gather(*comers)
            assert len(positions) == 100
            assert [position for position, _ in positions] == [newest for _, newest in positions]

        self.run(test)

    def test_entry_of_a_newcomer_has_the_newest_messages(self) -> None:
        """A newcomer gets at most `limit` messages from the end of the stream, oldest first."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for number in range(1, 11):
                broker.publish(draft(str(number)), receiver.answer)
            entry = await join(broker, limit=3)
            assert texts(entry) == ["8", "9", "10"]
            assert entry.position.offset == 10
            assert not entry.recovered
            assert texts(await join(broker, "Bob", limit=0)) == []

        self.run(test)

    def test_entry_since_a_known_position_has_all_missed_publications(self) -> None:
        """A recovery is complete, whatever the limit for newcomers is."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            first = await join(broker)
            for number in range(1, 11):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(10)
            epoch = first.position.epoch
            entry = await join(broker, "Bob", since=Position(epoch, 4), limit=2)
            assert entry.recovered
            assert offsets(entry) == [5, 6, 7, 8, 9, 10]
            assert entry.position == Position(epoch, 10)
            entry = await join(broker, "Eve", since=entry.position)
            assert (entry.recovered, list(entry.payloads)) == (True, [])

        self.run(test)

    def test_entry_without_recovery_has_the_newest_messages(self) -> None:
        """After another epoch, too many publications or a position ahead, a client is a
        newcomer."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            epoch = (await join(broker)).position.epoch
            newest = protocol.MAX_HISTORY + 10
            for number in range(newest):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(newest)
            for name, since in (
                ("Bob", Position("x", newest - 1)),
                ("Eve", Position(epoch, 9)),
                ("Joe", Position(epoch, newest + 1)),
            ):
                entry = await join(broker, name, since=since, limit=2)
                assert not entry.recovered
                assert offsets(entry) == [newest - 1, newest]
                assert entry.position == Position(epoch, newest)
            assert (await join(broker, "Ann", since=Position(epoch, 10))).recovered

        self.run(test)

    def test_entry_of_a_newcomer_has_folded_messages(self) -> None:
        """A newcomer gets messages with their changes applied; a recovery has each change."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for each in (draft("1"), draft("2"), edit(1, "one"), react(2), draft("5")):
                broker.publish(each, receiver.answer)
            entry = await join(broker, limit=2)
            assert offsets(entry) == [2, 5]
            assert decoded(entry.payloads)[0]["reactions"] == {"👋": ["Bob"]}
            assert entry.position.offset == 5
            entry = await join(broker, "Bob", since=Position(entry.position.epoch, 2), limit=2)
            assert entry.recovered
            assert offsets(entry) == [3, 4, 5]

        self.run(test)

    def test_entry_lists_the_users_of_the_room(self) -> None:
        """The entry has the users in the order of joining, the new one among them, and their
        number."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for count, name in enumerate(("C", "A", "B"), 1):
                entry = await join(broker, name)
                assert entry.member == member(name)
                assert (list(entry.users), entry.online) == (["C", "A", "B"][:count], count)
            entry = await join(broker, member("ａ", by="A"))
            assert entry.member == member("A"), "under its first spelling"
            assert (list(entry.users), entry.online) == (["C", "A", "B"], 3)

        self.run(test)

    # Presence

    def test_name_of_another_user_is_refused(self) -> None:
        """The refused user is not counted, gets no deliveries, and no member hears of the
        attempt."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob", "b")
            await join(broker, "Alice")
            for _ in range(2):
                with pytest.raises(CommandError) as caught:
                    await join(broker, member("ALICE", by="Eve"))
                refusal = caught.value
                assert (refusal.code, refusal.temporary) == (ErrorCode.USERNAME_TAKEN, True)
            assert (await join(broker, "Joe")).online == 2
            await receiver.until_events(("join", "Joe"))
            await leave(broker, "Alice")
            await leave(broker, "Joe")
            broker.publish(draft("unheard"), receiver.answer)
            broker.publish(draft("heard", room="b"), receiver.answer)
            await receiver.until_delivered(1)

        self.run(test)

    def test_joins_and_leaves_are_announced_once_a_user(self) -> None:
        """A user's second connection causes no event, nor does the end of the first of two."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker, "Alice")
            await join(broker, "Alice")
            await receiver.until_events(("join", "Alice"))
            await leave(broker)
            assert (await join(broker, "Eve")).online == 3
            await leave(broker)
            await receiver.until_events(("join", "Alice"), ("join", "Eve"), ("leave", "Alice"))

        self.run(test)

    def test_join_is_announced_before_the_entry_is_given(self) -> None:
        """A newcomer does not receive the event of their own join."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            known: list[list[tuple[str, str]]] = []
            await broker.join(
                Entrance("a", member(), None, 50), lambda entry: known.append(receiver.events)
            )
            assert known == [[("join", "Alice")]]

        self.run(test)

    def test_publication_just_before_a_leave_still_arrives(self) -> None:
        """A publication in the same turn arrives before the leave is confirmed and announced."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            known: list[list[str]] = []

            def left() -> None:
                known.append([event["type"] for event in receiver.received])

            broker.publish(draft("last words"), receiver.answer)
            await broker.leave("a", member(), left)
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"))
            assert known == [["join", "message"]]
            assert [event["type"] for event in receiver.received] == ["join", "message", "leave"]

        self.run(test)

    def test_publication_just_before_a_loss_still_arrives(self) -> None:
        """A publication of a member that is lost is stored, and delivered to the others."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.publish(draft("last words"), receiver.answer)
            broker.lose("a", member())
            await receiver.until_delivered(1)
            broker.publish(draft("last one's", by="Bob"), receiver.answer)
            broker.lose("a", member("Bob"))
            assert texts(await join(broker, "Eve")) == ["last words", "last one's"]

        self.run(test)

    def test_entry_has_publications_of_the_same_turn(self) -> None:
        """They are in the newcomer's entry, and delivered to the earlier members first."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            broker.publish(draft("before"), receiver.answer)
            known: list[list[str]] = []
            entries: list[Entry] = []

            def enter(entry: Entry) -> None:
                known.append(receiver.texts)
                entries.append(entry)

            await broker.join(Entrance("a", member(), None, 50), enter)
            assert texts(entries[0]) == ["before"]
            assert known == [["before"]], "delivered before the entry is given"

        self.run(test)

    def test_user_who_comes_back_in_time_is_not_announced(self) -> None:
        """A lost user stays in the room until their time is over, and their return causes no
        event."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            entry = await join(broker, "Eve")
            assert list(entry.users) == ["Bob", "Alice", "Eve"]
            self.tick(GRACE_TICKS - 1)
            assert (await join(broker)).online == 3
            self.tick(2 * GRACE_TICKS)
            broker.publish(draft(), receiver.answer)
            await receiver.until_delivered(1)
            assert receiver.events == [("join", "Alice"), ("join", "Eve")]

        self.run(test)

    def test_user_who_does_not_come_back_has_left(self) -> None:
        """The leave is announced once, after the time to come back."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            assert (await join(broker, "Bob")).online == 2  # and the broker has handled the loss
            self.tick(GRACE_TICKS - 1)
            assert (await join(broker, "Bob")).online == 2
            self.tick(2)
            assert (await join(broker, "Bob")).online == 1
            assert receiver.events == [("join", "Alice"), ("leave", "Alice")]

        self.run(test)

    def test_name_of_a_lost_user_can_be_taken(self) -> None:
        """The others receive the leave of the lost user, then the join of the new one."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            entry = await join(broker, member("ALICE", by="thief"))
            assert list(entry.users) == ["Bob", "ALICE"]
            with pytest.raises(CommandError):
                await join(broker)
            self.tick(2 * GRACE_TICKS)
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"), ("join", "ALICE"))

        self.run(test)

    # Removals

    def test_removed_user_is_expelled_and_stays_out(self) -> None:
        """Earlier publications arrive, the leave is announced after the last connection, and a join
        is refused."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            presence = self.presence_of(broker)
            await join(broker, "Bob")
            await join(broker)
            broker.publish(draft("spam"), receiver.answer)
            assert await presence.remove(Removal("a", "alice", 60, "Mod")) == "Alice"
            await receiver.until(lambda: bool(receiver.expelled))
            assert receiver.expelled == [("a", member().author, 60)]
            assert receiver.texts == ["spam"]
            assert receiver.events == [("join", "Alice")]
            broker.lose("a", member())
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"))
            with pytest.raises(CommandError) as caught:
                await join(broker)
            assert caught.value.code == ErrorCode.FORBIDDEN

        self.run(test)

    def test_removal_of_an_absent_user_is_refused(self) -> None:
        """The moderator gets `not_found`, and no user is expelled."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for room, name in (("a", "Bob"), ("b", "Alice")):
                with pytest.raises(CommandError) as caught:
                    await self.presence_of(broker).remove(Removal(room, name, 60, "Mod"))
                assert caught.value.code == ErrorCode.NOT_FOUND
            assert (await join(broker, "Eve")).online == 2
            assert receiver.expelled == []

        self.run(test)

    # Outcomes

    def test_sender_gets_each_offset_once(self) -> None:
        """Each sender is informed of its own drafts only, in their order."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(1, 7):
                broker.publish(draft(str(number)), receiver.answers_to(number % 2))
            await receiver.until(lambda: len(receiver.confirmed) == 6)
            broker.publish(draft("7"))
            await receiver.until_delivered(7)
            assert receiver.confirmed == [(number % 2, number) for number in range(1, 7)]
            assert receiver.answers == []

        self.run(test)

    def test_sender_gets_the_offset_without_a_member(self) -> None:
        """A draft is stored, and its sender informed, if this process has no member in the room."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            broker.publish(draft("1"), receiver.answers_to("sender"))
            broker.publish(draft("2"), receiver.answers_to("another"))
            await receiver.until(lambda: len(receiver.confirmed) == 2)
            assert receiver.confirmed == [("sender", 1), ("another", 2)]
            assert receiver.received == []

        self.run(test)

    def test_duplicate_is_reported_to_its_sender_only(self) -> None:
        """The sender of a repeated draft gets the first one's offset, and nothing is delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            broker.publish(draft("first", id="i"), receiver.answers_to("another"))
            broker.publish(draft("again", id="i"), receiver.answers_to("sender"))
            await receiver.until(lambda: bool(receiver.answers))
            assert receiver.answers == [("sender", Duplicate("a", "i", 1))]
            assert receiver.texts == ["first"]

        self.run(test)

    def test_duplicate_is_reported_without_a_member(self) -> None:
        """The sender is informed even if this process has no member in the room."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            broker.publish(draft("first", id="i"), receiver.answer)
            broker.publish(draft("again", id="i"), receiver.answer)
            await receiver.until(lambda: bool(receiver.answers))
            assert len(receiver.answers) == 1
            assert receiver.delivered == []

        self.run(test)

    def test_refused_change_is_reported_to_its_sender_only(self) -> None:
        """The sender gets `forbidden` or `not_found`, and nothing is delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            drafts = [edit(1, by="Bob"), delete(9), react(9)]
            broker.publish(draft("1"), receiver.answer)
            for sender, each in enumerate(drafts):
                broker.publish(each, receiver.answers_to(sender))
            await receiver.until_answered(3)
            await receiver.until_delivered(1)
            assert [sender for sender, _ in receiver.answers] == [0, 1, 2]
            assert receiver.codes == [ErrorCode.FORBIDDEN, *2 * [ErrorCode.NOT_FOUND]]

        self.run(test)

    # Turns

    def test_publish_calls_nothing_back(self) -> None:
        """Deliveries and outcomes follow after publish() has returned."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            broker.publish(draft(id="i"), receiver.answer)
            broker.publish(draft(id="i"), receiver.answer)
            broker.publish(edit(9), receiver.answer)
            assert (receiver.received, receiver.answers, receiver.turns) == ([], [], [])
            assert receiver.confirmed == []
            await receiver.until_answered(2)
            await receiver.until_delivered(1)

        self.run(test)

    def test_turn_is_stored_in_one_step_and_delivered_at_its_end(self) -> None:
        """A turn's drafts are one batch; its publications are delivered, and then its end is
        reported once."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, room="a")
            await join(broker, room="b")
            for number in range(5):
                broker.publish(draft(str(number), room="ab"[number % 2]), receiver.answer)
            await receiver.until(lambda: bool(receiver.turns))
            assert receiver.texts == ["0", "1", "2", "3", "4"]
            broker.publish(draft("5"), receiver.answer)
            await receiver.until(lambda: len(receiver.turns) == 2)
            assert receiver.turns == [5, 6]
            assert self.faulty.batches == [5, 1]

        self.run(test)

    # Reading

    def test_pages_are_those_of_the_history(self) -> None:
        """`before` and `after` return what was published, up to their limits."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(1, 6):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(5)
            page = await self.pages_of(broker).before("a", 4, 2)
            assert (offsets(page), page.more) == ([2, 3], True)
            page = await self.pages_of(broker).after("a", 3, 9)
            assert (offsets(page), page.more) == ([4, 5], False)

        self.run(test)

    def test_page_is_bounded_in_bytes(self) -> None:
        """A page that leaves out messages for their size has `more`: the oldest going back, the
        newest going on."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for _ in range(100):
                broker.publish(draft("word " + "😀" * 3990), receiver.answer)
            await receiver.until_delivered(100)
            pages = self.pages_of(broker)
            back, on = await pages.before("a", None, 100), await pages.after("a", 0, 100)
            found = await pages.search("a", "word", 100)
            for page in (back, on, found):
                size = sum(map(len, page.payloads))
                assert protocol.MAX_REPLY_BYTES / 2 < size <= protocol.MAX_REPLY_BYTES
                assert page.more
            assert (offsets(back)[-1], offsets(on)[0]) == (100, 1)
            assert offsets(back) == list(range(101 - len(back.payloads), 101))
            assert offsets(on) == list(range(1, len(on.payloads) + 1))

        self.run(test)

    def test_search_is_that_of_the_history(self) -> None:
        """A search finds published messages, up to its limit."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for number in range(5):
                broker.publish(draft(f"word {number}"), receiver.answer)
            await receiver.until_delivered(5)
            assert len((await self.pages_of(broker).search("a", "word", 3)).payloads) == 3
            assert texts(await self.pages_of(broker).search("a", "4", 3)) == ["word 4"]

        self.run(test)

    # A history that fails

    def test_failed_commit_is_reported_to_each_sender(self) -> None:
        """Each sender gets `unavailable`, nothing is delivered, and later publications leave no
        hole."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            self.faulty.failing = {"append"}
            drafts = [draft("1", id="i"), draft("2", room="b"), edit(1)]
            for number, each in enumerate(drafts):
                broker.publish(each, receiver.answers_to(number))
            await receiver.until_answered(3)
            assert [sender for sender, _ in receiver.answers] == [0, 1, 2]
            for _, outcome in receiver.answers:
                assert isinstance(outcome, CommandError)
                assert (outcome.code, outcome.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            broker.publish(draft("1", id="i"), receiver.answer)
            await receiver.until_delivered(1)
            assert receiver.offsets == [1]
            assert len(receiver.answers) == 3

        self.run(test)

    def test_failed_join_counts_no_user(self) -> None:
        """A join that fails is `unavailable`, causes no event, and starts no deliveries."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob", "b")
            self.faulty.failing = {"read"}
            for room in ("a", "b"):
                with pytest.raises(CommandError) as caught:
                    await join(broker, room=room)
                assert (caught.value.code, caught.value.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            broker.publish(draft("unheard", room="a"), receiver.answer)
            broker.publish(draft("heard", room="b"), receiver.answer)
            await receiver.until_delivered(1)
            assert [event["type"] for event in receiver.received] == ["message"]
            assert texts(await join(broker)) == ["unheard"]

        self.run(test)

    def test_pages_are_unavailable_while_the_disk_fails(self) -> None:
        """Pages and searches are refused as `unavailable` until the disk can be read again."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            broker.publish(draft("word"), receiver.answer)
            await receiver.until_delivered(1)
            self.faulty.failing = {"read"}
            pages = self.pages_of(broker)
            reads: list[Callable[[], Awaitable[Messages]]] = [
                lambda: pages.before("a", None, 9),
                lambda: pages.after("a", 0, 9),
                lambda: pages.search("a", "word", 9),
            ]
            for read in reads:
                with pytest.raises(CommandError) as caught:
                    await read()
                assert (caught.value.code, caught.value.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            for read in reads:
                assert texts(await read()) == ["word"]

        self.run(test)

    def test_delivery_continues_while_the_disk_cannot_be_read(self) -> None:
        """A publication that can be stored is delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            self.faulty.failing = {"read"}
            broker.publish(draft("1"), receiver.answer)
            await receiver.until_delivered(1)

        self.run(test)

    @pytest.mark.parametrize("lost", [False, True])
    def test_leave_and_loss_succeed_while_the_history_fails(self, lost: bool) -> None:
        """A member that leaves or is lost is gone, and its last draft is answered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            await join(broker, "Bob", "b")
            self.faulty.failing = {"append", "read"}
            broker.publish(draft("1"), receiver.answer)
            if lost:
                broker.lose("a", member())
            else:
                await leave(broker)
            await receiver.until_answered(1)
            assert receiver.codes == [ErrorCode.UNAVAILABLE]
            self.faulty.failing = set()
            broker.publish(draft("unheard", room="a"), receiver.answer)
            broker.publish(draft("heard", room="b"), receiver.answer)
            await receiver.until_delivered(1)
            assert receiver.texts == ["heard"]

        self.run(test)


class SeveralBrokersContract(BrokerContract):
    """What several brokers on the same rooms do for the members of all processes."""

    def run_several(
        self, test: Callable[[list[Broker], list[Receiver]], Awaitable[None]], count: int = 2
    ) -> None:
        """Run a test in a loop of its own, with `count` open brokers."""

        async def body() -> None:
            self.rooms = new_rooms(self.faulty)
            receivers = [Receiver() for _ in range(count)]
            async with self.brokers(receivers) as brokers:
                await test(brokers, receivers)

        run_in_loop(body())

    def test_all_processes_get_the_same_stream(self) -> None:
        """Every process gets each publication once, in the same order and without holes."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            for number, broker in enumerate(brokers):
                await join(broker, f"user {number}")
            for number in range(300):
                brokers[number % 3].publish(draft(str(number)), receivers[number % 3].answer)
                if number % 7 == 0:
                    await asyncio.sleep(0)
            for receiver in receivers:
                await receiver.until_delivered(300)
                assert receiver.delivered == receivers[0].delivered
                assert receiver.offsets == list(range(1, 301))
            for origin in range(3):  # and those of each process in the order of its calls
                own = [int(text) for text in receivers[0].texts if int(text) % 3 == origin]
                assert own == sorted(own)

        self.run_several(test, 3)

    def test_removal_reaches_all_processes_with_members(self) -> None:
        """Each process with members of the room expels the user's connections; others are not
        called."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            await join(brokers[1])
            await join(brokers[2], room="b")
            await self.presence_of(brokers[2]).remove(Removal("a", "Alice", 60, "Mod"))
            for receiver in receivers[:2]:
                await receiver.until(lambda receiver=receiver: bool(receiver.expelled))
                assert receiver.expelled == [("a", member().author, 60)]
            assert receivers[2].expelled == []

        self.run_several(test, 3)

    def test_joins_and_leaves_reach_other_processes(self) -> None:
        """They are announced once a user, in their order among the publications."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0], "Bob")
            await join(brokers[1])
            await join(brokers[1])
            brokers[1].publish(draft("hi"), receivers[1].answer)
            await leave(brokers[1])
            await leave(brokers[1])
            await receivers[0].until(lambda: len(receivers[0].received) == 3)
            assert [each["type"] for each in receivers[0].received] == ["join", "message", "leave"]
            assert receivers[1].events == []

        self.run_several(test)

    def test_told_events_reach_other_processes_only(self) -> None:
        """They reach the processes with members in the room; the sender's own members have them
        already."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            for number, broker in enumerate(brokers[:3]):
                await join(broker, f"user {number}")
            await join(brokers[3], "Eve", "b")
            payload = protocol.typing("a", "user 1")
            brokers[1].tell("a", payload)
            brokers[1].tell("nowhere", protocol.typing("nowhere", "x"))
            brokers[1].publish(draft(), receivers[1].answer)
            brokers[3].publish(draft(room="b"), receivers[3].answer)
            for receiver in receivers:
                await receiver.until_delivered(1)
            typing = [
                [event for event in receiver.received if event["type"] == "typing"]
                for receiver in receivers
            ]
            assert typing == [[json.loads(payload)], [], [json.loads(payload)], []]

        self.run_several(test, 4)

    def test_names_are_unique_over_all_processes(self) -> None:
        """Another user's name is refused in every process, and a user's own name in none."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            with pytest.raises(CommandError) as caught:
                await join(brokers[1], member("alice", by="Eve"))
            assert caught.value.code == ErrorCode.USERNAME_TAKEN
            entry = await join(brokers[1])
            assert (list(entry.users), entry.online) == (["Alice"], 1)
            await leave(brokers[0])
            with pytest.raises(CommandError):
                await join(brokers[0], member("alice", by="Eve"))
            await leave(brokers[1])
            assert (await join(brokers[0], member("alice", by="Eve"))).online == 1

        self.run_several(test)

    def test_user_lost_in_one_process_can_come_back_in_another(self) -> None:
        """A return in time causes no event in either process."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0], "Bob")
            await join(brokers[1], "Eve")
            await join(brokers[0])
            brokers[0].lose("a", member())
            assert (await join(brokers[0], "Bob")).online == 3  # the rooms have handled the loss
            self.tick(GRACE_TICKS - 1)
            assert (await join(brokers[1])).online == 3
            self.tick(2 * GRACE_TICKS)
            for broker in brokers:
                broker.publish(draft())
            for receiver in receivers:
                await receiver.until_delivered(2)
            assert receivers[0].events == [("join", "Eve"), ("join", "Alice")]
            assert receivers[1].events == [("join", "Alice")]

        self.run_several(test)

    def test_room_left_in_one_process_goes_on_in_another(self) -> None:
        """A process without members gets no deliveries, and its next entry has what was
        published."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            await join(brokers[1])
            await leave(brokers[0])
            brokers[0].publish(draft("unheard here"), receivers[0].answer)
            await receivers[1].until_delivered(1)
            entry = await join(brokers[0])
            assert (entry.online, texts(entry)) == (1, ["unheard here"])
            assert receivers[0].delivered == []
            assert receivers[1].events == []

        self.run_several(test)

    def test_entries_under_load_have_neither_hole_nor_overlap(self) -> None:
        """While another process publishes, each newcomer's entry and later deliveries are the whole
        stream."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            seen: dict[str, list[int]] = {}
            inside: set[str] = set()
            plain = receivers[0].publish

            def publish(room: str, payload: bytes) -> None:
                plain(room, payload)
                if "offset" in (event := json.loads(payload)):
                    for name in inside:
                        seen[name].append(event["offset"])

            receivers[0].publish = publish  # type: ignore[method-assign]

            async def come_and_go(name: str) -> None:
                def enter(entry: Entry) -> None:
                    first = entry.position.offset - len(entry.payloads)
                    assert offsets(entry) == list(range(first + 1, entry.position.offset + 1))
                    seen.setdefault(name, []).extend(offsets(entry))
                    inside.add(name)

                position: Position | None = None
                for _ in range(8):
                    await broker.join(Entrance("a", member(name), position, 300), enter)
                    await asyncio.sleep(0.001)
                    inside.discard(name)
                    position = Position(epoch, seen[name][-1] if seen[name] else 0)
                    if len(name) % 2:
                        await leave(broker, name)
                    else:
                        broker.lose("a", member(name))

            broker = brokers[0]
            epoch = (await join(brokers[1], "Bob")).position.epoch
            comers = [asyncio.create_task(come_and_go(f"user {n}")) for n in range(5, 15)]
            fired = 0
            while not all(comer.done() for comer in comers):
                fired += 1
                brokers[1].publish(draft(str(fired), by="Bob"), receivers[1].answer)
                await asyncio.sleep(0.0005)
            await asyncio.gather(*comers)
            await receivers[1].until_delivered(fired)
            assert len(seen) == 10
            for stream in seen.values():
                assert stream == list(range(stream[0], stream[0] + len(stream)))

        self.run_several(test)
