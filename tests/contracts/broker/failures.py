"""The contract of brokers: a history whose disk fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from contracts.broker.base import Contract, Receiver, join, leave, member, texts
from contracts.history import draft, edit
from fastchat.brokers import Broker
from fastchat.errors import CommandError, ErrorCode
from fastchat.rooms import Messages


class FailureContract(Contract):
    """Operations that need a failing disk are refused, and all others go on."""

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
