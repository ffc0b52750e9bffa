"""The contract of `fastchat.brokers.Broker`, as tests that every implementation runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from contracts.history import delete, draft, edit, offsets, react, reactions, texts
from fastchat.brokers import Broker
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode, HistoryError
from fastchat.history import Duplicate, History, Outcome, Page
from fastchat.protocol import Kind, Position, Publication
from support import TIMEOUT_UNIT_S

#: How long a broker may take for what it does "later".
PATIENCE_S = 5 * TIMEOUT_UNIT_S


class Receiver:
    """Stands where the chat stands, and records what the broker tells it."""

    def __init__(self) -> None:
        self.delivered: list[Publication] = []
        self.answers: list[tuple[Any, Publication, Duplicate | CommandError]] = []
        self.turns: list[int] = []  # how much had been delivered at the end of each
        self._news = asyncio.Event()

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)
        self._news.set()

    def answer(self, sender: Any, sent: Publication, outcome: Duplicate | CommandError) -> None:
        self.answers.append((sender, sent, outcome))
        self._news.set()

    def end_turn(self) -> None:
        self.turns.append(len(self.delivered))
        self._news.set()

    @property
    def texts(self) -> list[str]:
        return texts(self.delivered)

    @property
    def codes(self) -> list[ErrorCode]:
        """Of the refusals, in order."""
        outcomes = [outcome for _, _, outcome in self.answers]
        return [each.code for each in outcomes if isinstance(each, CommandError)]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the broker may do later; fails when it does not."""
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


class Faulty:
    """A history on a disk that fails while `failing` names the operation; counts its batches."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.failing: set[str] = set()
        self.batches: list[int] = []

    def append(self, drafts: Sequence[Publication]) -> list[Outcome]:
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

    async def search(self, room: str, query: str, limit: int) -> list[Publication]:
        self._fail("read")
        return await self._history.search(room, query, limit)

    def prune(self) -> None:
        self._history.prune()

    def forget(self, room: str) -> None:
        self._fail("read")
        self._history.forget(room)

    def close(self) -> None:
        self._history.close()

    def _fail(self, operation: str) -> None:
        if operation in self.failing:
            raise HistoryError("disk I/O error")


def memory_broker(history: History) -> MemoryBroker:
    """As the worker builds it; in a running loop."""
    return MemoryBroker(
        history, at_end_of_turn=lambda commit: asyncio.get_running_loop().call_soon(commit)
    )


class BrokerContract:
    """A subclass gives the fixture `history`, a new one, and says in `new_broker` how a broker
    is made upon it."""

    @pytest.fixture
    def history(self) -> History:
        raise NotImplementedError

    def new_broker(self, history: History) -> Broker:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _with_faulty(self, history: History) -> None:
        self.faulty = Faulty(history)

    def run(self, test: Callable[[Broker, Receiver], Awaitable[None]]) -> None:
        """Run a test in a loop of its own, with a new broker that is open."""

        async def body() -> None:
            receiver = Receiver()
            broker = self.new_broker(self.faulty)
            broker.open(receiver.deliver, receiver.answer, receiver.end_turn)
            await test(broker, receiver)

        asyncio.run(body())

    def test_subscriber_is_delivered_what_is_published(self) -> None:
        """Publications of a subscribed room arrive in order, numbered without holes."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            for number in range(100):
                broker.publish(draft(str(number)), None)
            await receiver.until_delivered(100)
            assert receiver.texts == [str(number) for number in range(100)]
            assert [each.offset for each in receiver.delivered] == list(range(1, 101))
            assert receiver.answers == []

        self.run(test)

    def test_each_publication_is_delivered_once_to_a_process(self) -> None:
        """Several subscribers of a room share one delivery: the hub multiplies it."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for _ in range(3):
                await broker.subscribe("a", None, 50, 300)
            broker.publish(draft(), None)
            await receiver.until_delivered(1)

        self.run(test)

    def test_what_is_delivered_is_in_the_history_already(self) -> None:
        """Nobody sees what the next reader would not find."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft("x"), None)
            await receiver.until_delivered(1)
            page = await broker.before("a", None, 9)
            assert page.publications == receiver.delivered

        self.run(test)

    def test_unsubscribed_room_is_not_delivered(self) -> None:
        """Without a subscriber a publication is kept, and delivered to nobody."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("b", None, 50, 300)
            broker.publish(draft("lonely", room="a"), None)
            broker.publish(draft("heard", room="b"), None)
            await receiver.until_delivered(1)
            assert receiver.texts == ["heard"]
            snapshot = await broker.subscribe("a", None, 50, 300)
            assert [each.text for each in snapshot.publications] == ["lonely"]

        self.run(test)

    def test_deliveries_end_with_the_last_subscriber(self) -> None:
        """Subscribers are counted: the first that goes ends nothing."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("b", None, 50, 300)
            await broker.subscribe("a", None, 50, 300)
            await broker.subscribe("a", None, 50, 300)
            broker.unsubscribe("a")
            broker.publish(draft("heard"), None)
            await receiver.until_delivered(1)
            broker.unsubscribe("a")
            broker.publish(draft("unheard"), None)
            broker.publish(draft("later", room="b"), None)
            await receiver.until_delivered(2)
            assert receiver.texts == ["heard", "later"]

        self.run(test)

    def test_snapshot_and_deliveries_meet_without_hole_or_overlap(self) -> None:
        """What a snapshot ends with is followed by what is delivered, while others publish."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            seen: list[int] = []
            for round_ in range(20):
                broker.publish(draft(f"before {round_}"), None)
                snapshot = await broker.subscribe("a", None, 300, 300)
                assert len(snapshot.publications) == snapshot.position.offset
                known = len(receiver.delivered)
                broker.publish(draft(f"after {round_}"), None)
                await receiver.until(lambda known=known: len(receiver.delivered) > known)
                seen = [each.offset for each in snapshot.publications]
                seen += [
                    each.offset
                    for each in receiver.delivered
                    if each.offset > snapshot.position.offset
                ]
                assert seen == list(range(1, seen[-1] + 1))
                broker.unsubscribe("a")

        self.run(test)

    def test_snapshot_holds_the_newest_up_to_its_limit(self) -> None:
        """A newcomer gets the end of the stream, oldest first, and its position."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for number in range(1, 11):
                broker.publish(draft(str(number)), None)
            snapshot = await broker.subscribe("a", None, 3, 300)
            assert [each.text for each in snapshot.publications] == ["8", "9", "10"]
            assert snapshot.position.offset == 10
            assert not snapshot.recovered
            snapshot = await broker.subscribe("a", None, 0, 300)
            assert snapshot.publications == []

        self.run(test)

    def test_snapshot_of_a_known_position_holds_just_what_was_missed(self) -> None:
        """A recovery is whole, whatever the limit for newcomers is."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            first = await broker.subscribe("a", None, 50, 300)
            for number in range(1, 11):
                broker.publish(draft(str(number)), None)
            await receiver.until_delivered(10)
            since = Position(first.position.epoch, 4)
            snapshot = await broker.subscribe("a", since, 2, 6)
            assert snapshot.recovered
            assert [each.offset for each in snapshot.publications] == [5, 6, 7, 8, 9, 10]
            assert snapshot.position == Position(first.position.epoch, 10)
            snapshot = await broker.subscribe("a", snapshot.position, 50, 300)
            assert (snapshot.recovered, snapshot.publications) == (True, [])

        self.run(test)

    def test_snapshot_without_recovery_holds_the_newest(self) -> None:
        """Another epoch, too much missed, or a position ahead: the newest, as for a newcomer."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            first = await broker.subscribe("a", None, 50, 300)
            for number in range(1, 11):
                broker.publish(draft(str(number)), None)
            await receiver.until_delivered(10)
            epoch = first.position.epoch
            for since in (Position("x", 9), Position(epoch, 4), Position(epoch, 11)):
                snapshot = await broker.subscribe("a", since, 2, 5)
                assert not snapshot.recovered
                assert [each.offset for each in snapshot.publications] == [9, 10]
                assert snapshot.position == Position(epoch, 10)

        self.run(test)

    def test_duplicate_is_answered_to_its_sender_and_not_delivered(self) -> None:
        """Sending again gives the sender the first one's offset, and nobody else anything."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            sender = object()
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft("first", id="i"), object())
            repeated = draft("again", id="i")
            broker.publish(repeated, sender)
            await receiver.until(lambda: bool(receiver.answers))
            assert receiver.answers == [(sender, repeated, Duplicate("a", "i", 1))]
            assert receiver.answers[0][0] is sender
            assert receiver.texts == ["first"]

        self.run(test)

    def test_duplicate_is_answered_without_a_subscriber_too(self) -> None:
        """The answer is for the sender, wherever he is by now."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            broker.publish(draft("first", id="i"), None)
            broker.publish(draft("again", id="i"), None)
            await receiver.until(lambda: bool(receiver.answers))
            assert len(receiver.answers) == 1
            assert receiver.delivered == []

        self.run(test)

    def test_pages_are_those_of_the_history(self) -> None:
        """`before` and `after` read what was published, up to their limits."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            for number in range(1, 6):
                broker.publish(draft(str(number)), None)
            await receiver.until_delivered(5)
            page = await broker.before("a", 4, 2)
            assert ([each.offset for each in page.publications], page.more) == ([2, 3], True)
            page = await broker.after("a", 3, 9)
            assert ([each.offset for each in page.publications], page.more) == ([4, 5], False)

        self.run(test)

    # Turns

    def test_nothing_is_told_from_within_publish(self) -> None:
        """Whoever publishes is not called back before he has finished."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft(id="i"), None)
            broker.publish(draft(id="i"), None)
            broker.publish(edit(9), None)
            assert (receiver.delivered, receiver.answers, receiver.turns) == ([], [], [])
            await receiver.until_answered(2)
            await receiver.until_delivered(1)

        self.run(test)

    def test_turn_is_kept_in_one_step_and_told_at_its_end(self) -> None:
        """All of a turn is one batch, then it is delivered, then its end is told once."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            await broker.subscribe("b", None, 50, 300)
            for number in range(5):
                broker.publish(draft(str(number), room="ab"[number % 2]), None)
            await receiver.until(lambda: bool(receiver.turns))
            assert receiver.texts == ["0", "1", "2", "3", "4"]
            broker.publish(draft("5"), None)
            await receiver.until(lambda: len(receiver.turns) == 2)
            assert receiver.turns == [5, 6]
            assert self.faulty.batches == [5, 1]

        self.run(test)

    def test_what_was_published_before_unsubscribing_still_arrives(self) -> None:
        """Also in the same turn."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft("last words"), None)
            broker.unsubscribe("a")
            await receiver.until_delivered(1)
            assert receiver.texts == ["last words"]

        self.run(test)

    def test_newcomer_finds_what_the_same_turn_published(self) -> None:
        """It is in his snapshot, and delivered to those who were there before, not to him."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft("before"), None)
            snapshot = await broker.subscribe("a", None, 50, 300)
            assert texts(snapshot.publications) == ["before"]
            assert receiver.texts == ["before"], "it comes before whatever follows the snapshot"

        self.run(test)

    # Changes

    def test_changes_are_delivered_like_messages(self) -> None:
        """Edits, deletions and reactions are numbered in the same stream."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            for each in (draft("1"), edit(1, "2"), react(1), delete(1), draft("5")):
                broker.publish(each, None)
            await receiver.until_delivered(5)
            assert offsets(receiver.delivered) == [1, 2, 3, 4, 5]
            assert [each.kind for each in receiver.delivered] == [
                *(Kind.MESSAGE, Kind.EDIT, Kind.REACT, Kind.DELETE, Kind.MESSAGE)
            ]
            assert [each.target for each in receiver.delivered] == [None, 1, 1, 1, None]

        self.run(test)

    def test_refused_change_is_answered_to_its_sender_and_not_delivered(self) -> None:
        """`forbidden` or `not_found`, with the draft; the others hear nothing."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            senders = [object(), object(), object()]
            drafts = [edit(1, by="Bob"), delete(9), react(9)]
            broker.publish(draft("1"), None)
            for sender, each in zip(senders, drafts, strict=True):
                broker.publish(each, sender)
            await receiver.until_answered(3)
            await receiver.until_delivered(1)
            assert [answer[0] for answer in receiver.answers] == senders
            assert [answer[1] for answer in receiver.answers] == drafts
            assert receiver.codes == [ErrorCode.FORBIDDEN, *2 * [ErrorCode.NOT_FOUND]]

        self.run(test)

    def test_snapshot_of_a_newcomer_holds_folded_messages_only(self) -> None:
        """A newcomer needs no changes to apply; a recovery has them all."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for each in (draft("1"), draft("2"), edit(1, "one"), react(2), draft("5")):
                broker.publish(each, None)
            snapshot = await broker.subscribe("a", None, 2, 300)
            assert offsets(snapshot.publications) == [2, 5]
            assert reactions(snapshot.publications[0]) == {"👋": ["Bob"]}
            assert snapshot.position.offset == 5
            since = Position(snapshot.position.epoch, 2)
            snapshot = await broker.subscribe("a", since, 2, 300)
            assert snapshot.recovered
            assert offsets(snapshot.publications) == [3, 4, 5]

        self.run(test)

    def test_search_is_that_of_the_history(self) -> None:
        """What was published is found, up to the limit."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            for number in range(5):
                broker.publish(draft(f"word {number}"), None)
            await receiver.until_delivered(5)
            assert len(await broker.search("a", "word", 3)) == 3
            assert texts(await broker.search("a", "4", 3)) == ["word 4"]

        self.run(test)

    # A history that fails

    def test_failed_turn_is_unavailable_to_each_of_its_senders(self) -> None:
        """Nothing is delivered; what is published later is, without a hole."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            self.faulty.failing = {"append"}
            drafts = [draft("1", id="i"), draft("2", room="b"), edit(1)]
            for number, each in enumerate(drafts):
                broker.publish(each, number)
            await receiver.until_answered(3)
            assert [answer[:2] for answer in receiver.answers] == list(enumerate(drafts))
            for _, _, outcome in receiver.answers:
                assert isinstance(outcome, CommandError)
                assert (outcome.code, outcome.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            broker.publish(draft("1", id="i"), None)
            await receiver.until_delivered(1)
            assert offsets(receiver.delivered) == [1]
            assert len(receiver.answers) == 3

        self.run(test)

    def test_subscription_that_fails_counts_nobody(self) -> None:
        """It is `unavailable`; nothing is delivered until one succeeds."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("b", None, 50, 300)
            self.faulty.failing = {"read"}
            with pytest.raises(CommandError) as caught:
                await broker.subscribe("a", None, 50, 300)
            assert (caught.value.code, caught.value.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            broker.publish(draft("unheard", room="a"), None)
            broker.publish(draft("heard", room="b"), None)
            await receiver.until_delivered(1)
            assert receiver.texts == ["heard"]
            snapshot = await broker.subscribe("a", None, 50, 300)
            assert texts(snapshot.publications) == ["unheard"]

        self.run(test)

    def test_what_cannot_be_read_is_unavailable(self) -> None:
        """Pages and searches, for as long as the disk fails."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            broker.publish(draft("word"), None)
            await receiver.until_delivered(1)
            self.faulty.failing = {"read"}
            reads: list[Callable[[], Awaitable[object]]] = [
                lambda: broker.before("a", None, 9),
                lambda: broker.after("a", 0, 9),
                lambda: broker.search("a", "word", 9),
            ]
            for read in reads:
                with pytest.raises(CommandError) as caught:
                    await read()
                assert (caught.value.code, caught.value.temporary) == (ErrorCode.UNAVAILABLE, True)
            self.faulty.failing = set()
            for read in reads:
                assert "word" in repr(await read())

        self.run(test)

    def test_delivery_goes_on_while_nothing_can_be_read(self) -> None:
        """What can be kept is delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            self.faulty.failing = {"read"}
            broker.publish(draft("1"), None)
            await receiver.until_delivered(1)

        self.run(test)

    def test_unsubscribing_works_whatever_fails(self) -> None:
        """Whoever goes has gone, and what he published is answered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await broker.subscribe("a", None, 50, 300)
            await broker.subscribe("b", None, 50, 300)
            self.faulty.failing = {"append", "read"}
            broker.publish(draft("1"), None)
            broker.unsubscribe("a")
            await receiver.until_answered(1)
            assert receiver.codes == [ErrorCode.UNAVAILABLE]
            self.faulty.failing = set()
            broker.publish(draft("unheard", room="a"), None)
            broker.publish(draft("heard", room="b"), None)
            await receiver.until_delivered(1)
            assert receiver.texts == ["heard"]

        self.run(test)
