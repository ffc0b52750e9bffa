"""The contract of brokers: publications, their outcomes, and turns."""

from __future__ import annotations

import pytest

from contracts.broker.base import Contract, Receiver, decoded, join, leave, member, texts
from contracts.history import delete, draft, edit, react
from fastchat import protocol
from fastchat.brokers import Broker
from fastchat.errors import ErrorCode
from fastchat.history import Duplicate


class PublishingContract(Contract):
    """Publications are stored, delivered in order, and reported to their senders."""

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
            assert sorted(receiver.texts) == ["0", "1", "2", "3", "4"]
            broker.publish(draft("5"), receiver.answer)
            await receiver.until(lambda: len(receiver.turns) == 2)
            assert receiver.turns == [5, 6]
            assert await self.batches() == [5, 1]

        self.run(test)
