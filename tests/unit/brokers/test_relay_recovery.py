"""Rooms go on at a new relay: positions, presence, and the wait for all workers."""

from __future__ import annotations

import asyncio

import pytest

from contracts.broker import (
    join,
    leave,
    member,
    texts,
)
from contracts.history import draft
from fastchat import protocol
from fastchat.brokers.relay import records
from fastchat.errors import CommandError, ErrorCode
from fastchat.rooms.members import CROWD, GRACE_TICKS
from fastchat.rooms.restoring import MAX_RESUMED
from support.relay import Rig, Run, new_history, until

# Positions


@pytest.mark.parametrize("how", ["cut", "restart"])
def test_what_was_missed_is_delivered_once(rig: Run, how: str) -> None:
    """What others published while our connection was gone, and what follows."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        for number in range(3):
            second.publish(draft(str(number)))
        await receiver.until_delivered(3)
        if how == "restart":
            rig.kill()
            await rig.start()
        else:
            rig.cut(broker)
        await until(lambda: not broker.connected)
        for number in range(3, 50):
            second.publish(draft(str(number)))
        await rig.connected()
        second.publish(draft("50"))
        await receiver.until_delivered(51)
        assert receiver.delivered == other.delivered
        assert receiver.losses == other.losses == []

    rig(test, retry_s=0.1)


def test_silent_room_is_resumed(rig: Run) -> None:
    """Also one in which nothing was ever said, and which only we are in."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        assert receiver.losses == []

    rig(test)


def test_room_of_another_epoch_is_lost(rig: Run) -> None:
    """The history is gone: members come back by new joins, and the others stay."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for number in range(5):
            broker.publish(draft(str(number)), receiver.answer)
        await receiver.until_delivered(5)
        rig.history = new_history()
        rig.kill()
        await until(lambda: not broker.connected)
        broker.publish(draft("without"), receiver.answers_to("me"))
        broker.publish(draft("with", id="i"), receiver.answers_to("me too"))
        await rig.start()
        await rig.connected()
        assert receiver.losses == ["a"]
        assert [(sender, outcome.code) for sender, outcome in receiver.answers] == [
            ("me", ErrorCode.UNAVAILABLE)
        ]
        broker.lose("a", member())  # as the chat does for whoever is closed
        await leave(broker)
        entry = await join(broker)
        assert (entry.online, texts(entry)) == (1, ["with"])
        broker.publish(draft("new"), receiver.answer)
        await receiver.until_delivered(6)
        assert receiver.offsets[-1] == 2
        assert receiver.losses == ["a"]

    rig(test)


@pytest.mark.parametrize(("missed", "lost"), [(MAX_RESUMED, False), (MAX_RESUMED + 1, True)])
def test_room_in_which_too_much_was_missed_is_lost(rig: Run, missed: int, lost: bool) -> None:
    """Up to a number it is all delivered."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("first"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill()
        rig.history.append([draft(str(number)) for number in range(missed)])
        await rig.start()
        await until(lambda: not broker.connected)
        await rig.connected()
        assert receiver.losses == (["a"] if lost else [])
        assert receiver.offsets == list(range(1, 2 if lost else missed + 2))

    rig(test)


def test_missed_publications_can_exceed_a_record(rig: Run) -> None:
    """The relay returns in several records what a worker has missed."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        for room in "abc":
            await join(broker, room=room)
            broker.publish(draft("first", room=room), receiver.answer)
        await receiver.until_delivered(3)
        rig.kill()
        for room in "abc":
            rig.history.append([draft("x" * 10_000, room=room) for _ in range(200)])
        await rig.start()
        await until(lambda: not broker.connected)
        await rig.connected()
        assert len(receiver.delivered) == 603
        assert receiver.losses == []

    rig(test)


def test_what_was_delivered_is_not_delivered_again(rig: Run) -> None:
    """Neither shown twice nor taken for a hole, if a relay should repeat itself."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("1"), receiver.answer)
        broker.publish(draft("2"), receiver.answer)
        await receiver.until_delivered(2)
        for number in (1, 2):
            payload = protocol.encode(draft(str(number)).numbered(number))
            broker.on_record(records.Deliver([records.Delivered("a", number, None, payload)]))
        broker.publish(draft("3"), receiver.answer)
        await receiver.until_delivered(3)
        assert (receiver.offsets, receiver.losses) == ([1, 2, 3], [])

    rig(test)


def test_hole_is_lost(rig: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that jumps is never shown as if it were whole."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker._rooms["a"].offset = 7
        rig.history.append([draft(str(number)) for number in range(8)])
        broker.publish(draft("9"), receiver.answer)
        await receiver.until(lambda: bool(receiver.losses))
        assert receiver.losses == ["a"]
        assert "hole" in caplog.text

    rig(test)


# Presence


def test_nobody_hears_of_those_who_stayed(rig: Run) -> None:
    """Neither over the relay's end nor over that of one connection."""

    async def test(rig: Rig) -> None:
        pairs = await rig.several(3)
        for number, (broker, _) in enumerate(pairs):
            for letter in "AB":
                await join(broker, f"{letter}{number}")
                await join(broker, f"{letter}{number}")
        await rig.said()
        told = [list(receiver.events) for receiver in rig.receivers]
        await rig.restart()
        rig.cut(pairs[0][0])
        await until(lambda: not pairs[0][0].connected)
        await rig.connected()
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert [receiver.events for receiver in rig.receivers] == told
        assert sorted(rig.names()) == ["A0", "A1", "A2", "B0", "B1", "B2"]
        # Each of them has two connections still.
        await leave(pairs[1][0], "A1")
        await rig.said()
        assert [receiver.events for receiver in rig.receivers] == told
        await leave(pairs[1][0], "A1")
        await rig.said()
        assert all(receiver.events[-1] == ("leave", "A1") for receiver in rig.receivers)

    rig(test)


def test_who_was_lost_while_the_relay_was_away_has_left_after_a_while(rig: Run) -> None:
    """His worker is gone too; the others know of him, and hear it after the usual time."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert rig.names() == ["Alice", "Bob"]
        rig.tick(GRACE_TICKS - 1)
        await rig.said()
        assert receiver.events == [("join", "Bob")]
        rig.tick(1)
        await rig.said()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob")]
        assert rig.names() == ["Alice"]

    rig(test)


def test_who_came_while_another_joined_late_is_known(rig: Run) -> None:
    """Whatever became of the first join of a process, it knows who is in the room."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        coming = asyncio.create_task(join(broker, "Eve"))
        await asyncio.sleep(0)
        broker.lose("a", member())  # the room is empty here when the reply comes
        await coming
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        rig.tick()
        await rig.said()
        assert ("leave", "Bob") in receiver.events

    rig(test)


def test_who_came_while_a_connection_was_gone_is_told(rig: Run) -> None:
    """The members of that process hear of it when it is back, once."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        rig.cut(broker)
        await until(lambda: not broker.connected)
        entry = await join(second, "Eve")
        assert entry.online == 3
        await rig.connected()
        assert receiver.events == [("join", "Bob"), ("join", "Eve")]
        assert receiver.received[-1]["online"] == 3
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        assert receiver.events == [("join", "Bob"), ("join", "Eve")]
        assert other.events == [("join", "Eve")]

    rig(test, retry_s=0.1)


def test_who_was_announced_as_gone_and_is_back_is_told(rig: Run) -> None:
    """A process that was away for longer than the grace comes back with its members."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, "Bob")  # by now the relay has seen it
        rig.tick()
        await until(lambda: other.events[-1:] == [("leave", "Alice")])
        await rig.connected()
        assert other.events == [("join", "Alice"), ("leave", "Alice"), ("join", "Alice")]
        assert receiver.events == []
        assert rig.names() == ["Bob", "Alice"]

    rig(test, retry_s=0.1)


def test_crowd_is_told_its_number_after_a_gap(rig: Run) -> None:
    """Names are not told there."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        for number in range(CROWD + 1):
            await join(second, f"user {number}")
        rig.tick(1)
        await rig.said()
        receiver.received.clear()
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        rig.tick(1)
        await rig.said()
        assert [event.get("online") for event in receiver.received] == [CROWD + 2]

    rig(test)


def test_room_that_was_a_crowd_is_resumed_in_silence(rig: Run) -> None:
    """Those who came and went in the crowd, of whom nobody was told, are no news later."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(CROWD + 20)]
        for name in names:
            await join(second, name)
        for name in names[:40]:
            await leave(second, name)
        await rig.said()
        left = len(rig.names())
        assert left < CROWD
        assert len(broker._rooms["a"].known) == len(second._rooms["a"].known) == left
        receiver.received.clear()
        other.received.clear()
        await rig.restart()
        assert len(rig.names()) == left
        rig.tick()
        await rig.said()
        assert receiver.received == other.received == []

    rig(test)


def test_crowd_is_not_resumed_with_those_who_have_left(rig: Run) -> None:
    """Of whom nobody was told."""

    async def test(rig: Rig) -> None:
        (broker, _), (second, _) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(CROWD + 20)]
        for name in names:
            await join(second, name)
        for name in names[:10]:
            await leave(second, name)
        await rig.restart()
        assert len(rig.names()) == CROWD + 11

    rig(test)


def test_names_stay_taken_while_the_workers_gather(rig: Run) -> None:
    """A name is not given away before its owner's worker has come back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob", "b")
        rig.kill()
        await until(lambda: not second.connected)
        coming = asyncio.create_task(join(second, member("alice", by="thief")))
        await rig.start()
        with pytest.raises(CommandError) as caught:
            await coming
        assert caught.value.code == ErrorCode.USERNAME_TAKEN
        await rig.connected()
        assert receiver.losses == []
        assert rig.names() == ["Alice"]

    rig(test)


def test_member_known_only_by_others_may_come_back_silently(rig: Run) -> None:
    """As somebody in his grace: his author gets the name back, without a word."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert (await join(broker, "Bob")).online == 2
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert receiver.events == [("join", "Bob")]

    rig(test)


def test_name_of_a_member_known_only_by_others_may_be_taken(rig: Run) -> None:
    """As that of somebody in his grace: it is told that he left, and that another came."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert (await join(broker, member("bob", by="thief"))).online == 2
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob"), ("join", "bob")]

    rig(test)


def test_name_that_was_given_away_makes_its_room_lost(rig: Run) -> None:
    """A worker that came too late finds another there: its members must come back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(broker, "Eve")
        await join(broker, room="b")
        await join(second, "Bob")
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, member("ALICE", by="thief"))
        await rig.connected()
        assert receiver.losses == ["a"]
        broker.lose("a", member())
        broker.lose("a", member("Eve"))
        with pytest.raises(CommandError):
            await join(broker)
        assert (await join(broker, "Eve")).online == 3
        assert set(broker._rooms) == {"a", "b"}
        assert other.events[-2:] == [("leave", "Alice"), ("join", "ALICE")]

    rig(test, retry_s=0.1)


def test_member_comes_back_over_somebody_absent_of_his_name(rig: Run) -> None:
    """Who took it has gone in the meantime, and nobody else is there."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, member("ALICE", by="thief"))
        second.lose("a", member("ALICE", by="thief"))
        await rig.connected()
        assert rig.names() == ["Alice"]
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        await leave(broker)
        assert rig.relay.rooms.room_count == 0

    rig(test, retry_s=0.1)


@pytest.mark.parametrize("how", ["lose", "leave"])
def test_who_goes_while_the_workers_gather_is_gone(rig: Run, how: str) -> None:
    """Between a broker's introduction and its welcome; no ghost of him stays."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        rig.kill()
        await until(lambda: not broker.connected)
        await rig.start(workers=2, gathering_s=0.1)
        await until(lambda: rig.relay.rooms.user_count == 2)
        assert not broker.connected
        if how == "lose":
            broker.lose("a", member())
        else:
            await leave(broker)
        await rig.connected()
        rig.tick()
        await rig.said()
        assert rig.names() == ["Bob"]
        assert receiver.events[-1] == ("leave", "Alice")
        broker.lose("a", member("Bob"))
        await rig.said()
        rig.tick()
        assert rig.relay.rooms.room_count == 0

    rig(test)


# Gathering


def test_workers_are_welcomed_together(rig: Run) -> None:
    """When all that were expected are there, not before."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=60)
        starting = asyncio.create_task(first.start())
        await until(lambda: any(peer.is_restored for peer in rig.relay._peers))
        await asyncio.sleep(0.02)
        assert not first.connected
        await second.start()
        await starting
        await rig.said()

    rig(test)


def test_workers_are_not_waited_for_long(rig: Run) -> None:
    """One that does not come back keeps the others out for a while only; late, it is welcome."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=0.05)
        await first.start()
        assert (await join(first)).online == 1
        await second.start()
        assert (await join(second, "Bob")).online == 2

    rig(test)
