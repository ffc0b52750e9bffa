"""Drafts survive the end of a relay, and none is stored twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.broker import (
    join,
    leave,
    member,
    texts,
)
from contracts.history import draft, edit, react
from fastchat.brokers.relay.pages import RelayPages
from fastchat.history import Duplicate
from fastchat.protocol import Draft
from fastchat.rooms.members import GRACE_TICKS
from support.relay import Rig, Run, until


@pytest.mark.parametrize("id", [None, "i"])
def test_draft_that_the_relay_never_read_is_sent_again(rig: Run, id: str | None) -> None:
    """The draft is delivered once, in order with what was published while the relay was away."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("1", id=id), receiver.answer)
        rig.kill()
        await asyncio.sleep(0)
        broker.publish(draft("2", id=id and "j"), receiver.answer)
        await until(lambda: not broker.connected)
        broker.publish(draft("3", id=id and "k"), receiver.answer)
        await rig.start()
        await rig.connected()
        for each in (receiver, other):
            assert (each.texts, each.offsets) == (["1", "2", "3"], [1, 2, 3])
        assert receiver.answers == []
        assert not broker._drafts

    rig(test)


@pytest.mark.parametrize("id", [None, "i"])
def test_draft_that_was_stored_and_not_delivered_is_recognised(rig: Run, id: str | None) -> None:
    """The publication is delivered once from the history, and the draft is not sent again."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("0"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_storing()
        for text in "112":  # two drafts are equal
            broker.publish(draft(text, id=id and f"{id}{len(broker._drafts)}"), receiver.answer)
        await until(lambda: not broker.connected)
        broker.publish(draft("3"), receiver.answer)
        await rig.start()
        await rig.connected()
        for each in (receiver, other):
            assert each.texts == ["0", "1", "1", "2", "3"]
            assert each.offsets == [1, 2, 3, 4, 5]
        assert receiver.answers == []
        assert [offset for _, offset in receiver.confirmed] == [1, 2, 3, 4, 5]
        assert rig.history.position("a").offset == 5

    rig(test)


def test_stored_change_is_recognised(rig: Run) -> None:
    """An edit or a reaction that the old relay stored is not published again."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        broker.publish(draft("1"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_storing()
        for each in (edit(1, "x"), react(1), react(1, remove=True)):
            broker.publish(each, receiver.answer)
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert receiver.offsets == [1, 2, 3, 4]
        assert [each["type"] for each in receiver.delivered[1:]] == ["edit", "react", "react"]

    rig(test)


@pytest.mark.parametrize("change", [edit(1, "x"), react(1)], ids=["edit", "react"])
def test_stored_message_that_was_edited_meanwhile_is_recognised(rig: Run, change: Draft) -> None:
    """A draft is recognised even if another process changed its message before the worker
    returned."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("1"), receiver.answer)
        rig.relay_history.on_appended = lambda: rig.cut(broker)
        await other.until_delivered(1)
        rig.relay_history.on_appended = None
        rig.brokers[1].publish(change)
        await other.until_delivered(2)
        await rig.connected()
        assert receiver.offsets == other.offsets == [1, 2]

    rig(test, retry_s=0.1)


def test_stored_draft_of_a_member_that_left_is_confirmed(rig: Run) -> None:
    """After the relay's end, the draft of a member that left is neither lost nor doubled."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        await join(broker)
        rig.kill_after_storing()
        broker.publish(draft("1"))
        broker.lose("a", member())
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert not broker._drafts
        assert not broker._rooms
        assert rig.history.position("a").offset == 1

    rig(test)


def test_duplicate_is_recognised_by_the_next_relay(rig: Run) -> None:
    """The next relay recognises an `id` that was published long before."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("1", id="i"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill()
        await until(lambda: not broker.connected)
        broker.publish(draft("1", id="i"), receiver.answers_to("me"))
        await rig.start()
        await receiver.until_answered(1)
        assert receiver.answers[0][0] == "me"
        assert receiver.answers[0][1] == Duplicate("a", "i", 1)
        assert receiver.texts == ["1"]

    rig(test)


def test_leave_follows_earlier_messages_after_the_relays_end(rig: Run) -> None:
    """A leave is confirmed after the earlier publications have been delivered."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        rig.kill()
        await until(lambda: not broker.connected)
        known: list[list[str]] = []
        broker.publish(draft("last words"), receiver.answer)
        leaving = asyncio.create_task(
            broker.leave("a", member(), lambda: known.append(list(other.texts)))
        )
        await rig.start()
        await leaving
        await rig.connected()
        assert other.texts == ["last words"]
        assert receiver.answers == []
        assert not broker._rooms
        rig.tick()
        await rig.settled()
        assert other.events == [("leave", "Alice")]

    rig(test)


def test_one_of_two_connections_can_leave_during_the_relays_absence(rig: Run) -> None:
    """The other connection stays in the room and gets deliveries."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(rig.brokers[1], "Bob")
        await join(broker)
        await join(broker)
        rig.kill()
        await until(lambda: not broker.connected)
        leaving = asyncio.create_task(leave(broker))
        await asyncio.sleep(0)
        await rig.start()
        await leaving
        await rig.connected()
        rig.tick(2 * GRACE_TICKS)
        rig.brokers[1].publish(draft(by="Bob"))
        await receiver.until_delivered(1)
        assert rig.names() == ["Alice", "Bob"] or rig.names() == ["Bob", "Alice"]
        assert other.events == [("join", "Alice")]
        await leave(broker)
        await rig.settled()
        assert other.events == [("join", "Alice"), ("leave", "Alice")]

    rig(test)


def test_unanswered_requests_are_sent_to_the_next_relay(rig: Run) -> None:
    """The next relay answers joins and reads that the old one left unanswered."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("word"), receiver.answer)
        await receiver.until_delivered(1)
        requests: list[asyncio.Task[Any]] = [
            asyncio.create_task(join(broker, "Bob")),
            asyncio.create_task(RelayPages(broker).before("a", None, 9)),
            asyncio.create_task(RelayPages(broker).after("a", 0, 9)),
            asyncio.create_task(RelayPages(broker).search("a", "word", 9)),
        ]
        await asyncio.sleep(0)
        rig.kill()
        requests.append(asyncio.create_task(join(broker, "Eve", "b")))
        await rig.start()
        entry, *pages, elsewhere = await asyncio.gather(*requests)
        assert (entry.online, texts(entry)) == (2, ["word"])
        assert [texts(page) for page in pages] == 3 * [["word"]]
        assert elsewhere.online == 1
        assert sorted(rig.names()) == ["Alice", "Bob"]

    rig(test)
