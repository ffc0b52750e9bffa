"""The contract of `fastchat.brokers.Broker`, as tests that every implementation runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from contracts.history import draft
from fastchat.brokers import Broker
from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Position, Publication
from support import TIMEOUT_UNIT_S

#: How long a broker may take for what it does "later".
PATIENCE_S = 5 * TIMEOUT_UNIT_S


class Receiver:
    """Stands where the chat stands, and records what the broker tells it."""

    def __init__(self) -> None:
        self.delivered: list[Publication] = []
        self.answers: list[tuple[Any, Publication, Duplicate | CommandError]] = []
        self._news = asyncio.Event()

    def deliver(self, publication: Publication) -> None:
        self.delivered.append(publication)
        self._news.set()

    def answer(self, sender: Any, sent: Publication, outcome: Duplicate | CommandError) -> None:
        self.answers.append((sender, sent, outcome))
        self._news.set()

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.delivered]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the broker may do later; fails when it does not."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await self._news.wait()
                self._news.clear()

    async def until_delivered(self, count: int) -> None:
        await self.until(lambda: len(self.delivered) >= count)
        assert len(self.delivered) == count


class BrokerContract:
    """A subclass says in `running` how a new broker is made and, at the end, stopped."""

    def running(self) -> AbstractAsyncContextManager[Broker]:
        raise NotImplementedError

    def run(self, test: Callable[[Broker, Receiver], Awaitable[None]]) -> None:
        """Run a test in a loop of its own, with a new broker that is open."""

        async def body() -> None:
            receiver = Receiver()
            async with self.running() as broker:
                broker.open(receiver.deliver, receiver.answer)
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
