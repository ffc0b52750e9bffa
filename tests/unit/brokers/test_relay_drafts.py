"""Drafts survive the end of a relay, and none is doubled."""

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
    """It is delivered once, with what was published while the relay was away, in order."""

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
def test_draft_that_was_kept_and_not_delivered_is_recognised(rig: Run, id: str | None) -> None:
    """It is delivered from the history, once, and not said again."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("0"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_keeping()
        for text in "112":  # two of them are the same
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


def test_changes_are_recognised_too(rig: Run) -> None:
    """An edit or a reaction is not published twice either."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        broker.publish(draft("1"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_keeping()
        for each in (edit(1, "x"), react(1), react(1, remove=True)):
            broker.publish(each, receiver.answer)
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert receiver.offsets == [1, 2, 3, 4]
        assert [each["type"] for each in receiver.delivered[1:]] == ["edit", "react", "react"]

    rig(test)


@pytest.mark.parametrize("change", [edit(1, "x"), react(1)], ids=["edit", "react"])
def test_message_that_was_changed_while_we_were_away_is_recognised(rig: Run, change: Draft) -> None:
    """Another process had it delivered, and changed it before we came back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("1"), receiver.answer)
        rig.mortal.on_appended = lambda: rig.cut(broker)
        await other.until_delivered(1)
        rig.mortal.on_appended = None
        rig.brokers[1].publish(change)
        await other.until_delivered(2)
        await rig.connected()
        assert receiver.offsets == other.offsets == [1, 2]

    rig(test, retry_s=0.1)


def test_draft_kept_without_a_member_left_is_confirmed(rig: Run) -> None:
    """Its sender is gone; over the relay's end it is neither lost nor doubled."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        await join(broker)
        rig.kill_after_keeping()
        broker.publish(draft("1"))
        broker.lose("a", member())
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert not broker._drafts
        assert not broker._rooms
        assert rig.history.position("a").offset == 1

    rig(test)


def test_duplicate_is_answered_over_the_relays_end(rig: Run) -> None:
    """An `id` that was published long ago is known to the next relay."""

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


def test_leave_over_the_relays_end_stays_behind_a_message(rig: Run) -> None:
    """`left` is said after what was published before has been delivered."""

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
        await rig.said()
        assert other.events == [("leave", "Alice")]

    rig(test)


def test_leave_of_one_of_two_connections_over_the_relays_end(rig: Run) -> None:
    """The other connection stays, and is delivered to."""

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
        await rig.said()
        assert other.events == [("join", "Alice"), ("leave", "Alice")]

    rig(test)


def test_requests_are_answered_over_the_relays_end(rig: Run) -> None:
    """Joins and reads that were not answered are asked again."""

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
