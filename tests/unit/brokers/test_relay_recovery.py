"""Rooms continue at a new relay: positions, presence, and the wait for all workers."""

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
from fastchat.history.memory import MemoryHistory
from fastchat.rooms import Member
from fastchat.rooms.members import GRACE_TICKS, MAX_LISTED_USERS
from fastchat.rooms.restoring import MAX_RESUMED
from support.relay import Rig, Run, new_history, until

# Positions


@pytest.mark.parametrize("how", ["cut", "restart"])
def test_missed_publications_are_delivered_once(rig: Run, how: str) -> None:
    """A worker that reconnects gets what others published meanwhile, and then what follows."""

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
    """A room without publications is resumed, even if only this worker has members in it."""

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


def test_room_whose_stream_diverged_is_lost(rig: Run) -> None:
    """If an older copy of the history was put back and has grown, the timestamps differ."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for number in range(3):
            broker.publish(draft(str(number)), receiver.answer)
        await receiver.until_delivered(3)
        generation = rig.history._generation
        rig.history = MemoryHistory(max_messages=100, new_generation=lambda: generation)
        later = [draft(str(n))._replace(timestamp=f"later {n}") for n in range(5)]
        rig.history.append(later)
        rig.kill()
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert receiver.losses == ["a"]

    rig(test)


def test_room_of_another_epoch_is_lost(rig: Run) -> None:
    """If the history is gone, the stream is lost, and its members join again."""

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
        broker.lose("a", member())  # as the chat does for a client that is closed
        await leave(broker)
        entry = await join(broker)
        assert (entry.online, texts(entry)) == (1, ["with"])
        broker.publish(draft("new"), receiver.answer)
        await receiver.until_delivered(6)
        assert receiver.offsets[-1] == 2
        assert receiver.losses == ["a"]

    rig(test)


@pytest.mark.parametrize(("missed", "lost"), [(MAX_RESUMED, False), (MAX_RESUMED + 1, True)])
def test_room_with_too_many_missed_publications_is_lost(rig: Run, missed: int, lost: bool) -> None:
    """Up to the limit all missed publications are delivered; beyond it the stream is lost."""

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


def test_missed_publications_can_fill_several_records(rig: Run) -> None:
    """Missed publications that exceed one record are delivered from several."""

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


def test_repeated_publication_is_not_delivered_again(rig: Run) -> None:
    """A publication that the relay repeats is neither delivered twice nor taken for a hole."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("1"), receiver.answer)
        broker.publish(draft("2"), receiver.answer)
        await receiver.until_delivered(2)
        payloads = [protocol.encode(draft(str(number)).numbered(number)) for number in (1, 2, 3)]
        broker.on_record(records.Deliver([records.Run("a", 1, payloads[:2])]))
        broker.on_record(records.Deliver([records.Run("a", 2, payloads[1:])]))
        await receiver.until_delivered(3)
        assert (receiver.offsets, receiver.losses) == ([1, 2, 3], [])

    rig(test)


def test_room_with_a_hole_in_its_stream_is_lost(rig: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that skips an offset is lost, and is never delivered as if it were whole."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker._rooms["a"].offset = 7
        rig.history.append([draft(str(number)) for number in range(8)])
        broker.publish(draft("9"), receiver.answer)
        await receiver.until(lambda: bool(receiver.losses))
        assert receiver.losses == ["a"]
        assert "publications of a room are missing" in caplog.text

    rig(test)


# Presence


def test_members_that_stayed_are_not_announced(rig: Run) -> None:
    """Neither the relay's end nor that of one connection causes presence events for members that
    stayed."""

    async def test(rig: Rig) -> None:
        pairs = await rig.several(3)
        for number, (broker, _) in enumerate(pairs):
            for letter in "AB":
                await join(broker, f"{letter}{number}")
                await join(broker, f"{letter}{number}")
        await rig.settled()
        told = [list(receiver.events) for receiver in rig.receivers]
        await rig.restart()
        rig.cut(pairs[0][0])
        await until(lambda: not pairs[0][0].connected)
        await rig.connected()
        rig.tick(2 * GRACE_TICKS)
        await rig.settled()
        assert [receiver.events for receiver in rig.receivers] == told
        assert sorted(rig.names()) == ["A0", "A1", "A2", "B0", "B1", "B2"]
        # Each of them has two connections still.
        await leave(pairs[1][0], "A1")
        await rig.settled()
        assert [receiver.events for receiver in rig.receivers] == told
        await leave(pairs[1][0], "A1")
        await rig.settled()
        assert all(receiver.events[-1] == ("leave", "A1") for receiver in rig.receivers)

    rig(test)


def test_user_lost_without_a_relay_leaves_after_the_grace_period(rig: Run) -> None:
    """The user's worker is gone too; other workers know the user, and get the leave after the usual
    time."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.settled()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert rig.names() == ["Alice", "Bob"]
        rig.tick(GRACE_TICKS - 1)
        await rig.settled()
        assert receiver.events == [("join", "Bob")]
        rig.tick(1)
        await rig.settled()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob")]
        assert rig.names() == ["Alice"]

    rig(test)


def test_join_answered_in_an_empty_room_brings_its_users(rig: Run) -> None:
    """A process whose earlier members have left knows the room's users once a later join is
    answered."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        coming = asyncio.create_task(join(broker, "Eve"))
        await asyncio.sleep(0)
        broker.lose("a", member())  # the room is empty here when the reply comes
        await coming
        await rig.settled()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        rig.tick()
        await rig.settled()
        assert ("leave", "Bob") in receiver.events

    rig(test)


def test_user_who_joined_during_a_disconnection_is_announced_once(rig: Run) -> None:
    """The members of the disconnected process get the join once it is back."""

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


def test_user_who_returns_after_the_grace_period_is_announced(rig: Run) -> None:
    """If a process was disconnected for longer than the grace period, its members are announced
    again."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, "Bob")  # the relay has handled the disconnection by now
        rig.tick()
        await until(lambda: other.events[-1:] == [("leave", "Alice")])
        await rig.connected()
        assert other.events == [("join", "Alice"), ("leave", "Alice"), ("join", "Alice")]
        assert receiver.events == []
        assert rig.names() == ["Bob", "Alice"]

    rig(test, retry_s=0.1)


def test_crowd_gets_its_number_after_a_gap(rig: Run) -> None:
    """In a crowd the worker's members get the number of users and no names."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        for number in range(MAX_LISTED_USERS + 1):
            await join(second, f"user {number}")
        rig.tick(1)
        await rig.settled()
        receiver.received.clear()
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        rig.tick(1)
        await rig.settled()
        assert [event.get("online") for event in receiver.received] == [MAX_LISTED_USERS + 2]

    rig(test)


def test_former_crowd_gets_its_list_once(rig: Run) -> None:
    """Joins and leaves that a crowd was not sent are not announced later either."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(MAX_LISTED_USERS + 20)]
        for name in names:
            await join(second, name)
        for name in names[:40]:
            await leave(second, name)
        await rig.settled()
        assert broker._rooms["a"].known is second._rooms["a"].known is None
        left = len(rig.names())
        assert left < MAX_LISTED_USERS
        rig.tick(1)
        await rig.settled()
        for worker, each in ((broker, receiver), (second, other)):
            assert list(worker._rooms["a"].known or ()) == rig.relay.rooms.users("a").members()
            assert len(each.received[-1]["users"]) == left
            each.received.clear()
        await rig.restart()
        assert len(rig.names()) == left
        rig.tick()
        await rig.settled()
        assert receiver.received == other.received == []

    rig(test)


def test_crowd_that_ended_with_its_relay_gets_its_list(rig: Run) -> None:
    """The new relay finds that the users are not too many any more."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        for number in range(MAX_LISTED_USERS):
            await join(second, f"user {number}")
        await rig.settled()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert broker._rooms["a"].known is None
        receiver.received.clear()
        rig.tick(1)
        await rig.settled()
        (event,) = receiver.received
        assert event["users"] == [{"user": "user Alice", "username": "Alice"}]

    rig(test)


def test_spectators_are_counted_by_the_next_relay(rig: Run) -> None:
    """Those of all workers are counted, and the members hear of it."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        for worker, name in ((broker, "Zoe"), (second, "Yan")):
            entry = await join(worker, Member(None, member(name).user))
            assert entry.member == Member(None, member(name).user)
        await rig.restart()
        assert rig.relay.rooms.occupancy.spectators == 2
        receiver.received.clear()
        rig.tick(1)
        await rig.settled()
        (event,) = receiver.received
        assert (event["type"], event["online"], event["spectators"]) == ("presence", 1, 2)
        await leave(second, Member(None, member("Yan").user))
        assert rig.relay.rooms.occupancy.spectators == 1

    rig(test)


def test_crowd_is_resumed_without_users_who_left(rig: Run) -> None:
    """Users who left the crowd unannounced are not in the room afterwards."""

    async def test(rig: Rig) -> None:
        (broker, _), (second, _) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(MAX_LISTED_USERS + 20)]
        for name in names:
            await join(second, name)
        for name in names[:10]:
            await leave(second, name)
        await rig.restart()
        assert len(rig.names()) == MAX_LISTED_USERS + 11

    rig(test)


def test_names_stay_taken_until_all_workers_are_back(rig: Run) -> None:
    """A name is not given to another user before its owner's worker has returned."""

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


def test_user_known_only_to_other_workers_can_return_unannounced(rig: Run) -> None:
    """As in the grace period, the user gets the name back without an event."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.settled()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert (await join(broker, "Bob")).online == 2
        rig.tick(2 * GRACE_TICKS)
        await rig.settled()
        assert receiver.events == [("join", "Bob")]

    rig(test)


def test_name_of_a_user_known_only_to_other_workers_is_kept(rig: Run) -> None:
    """As in the grace period, the name can be taken once the old user has left."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.settled()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        with pytest.raises(CommandError):
            await join(broker, member("bob", by="thief"))
        rig.tick()
        assert (await join(broker, member("bob", by="thief"))).online == 2
        await rig.settled()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob"), ("join", "bob")]

    rig(test)


def test_room_whose_name_was_given_away_is_lost(rig: Run) -> None:
    """A worker that returns late and finds a name taken loses the stream, and its members join
    again."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(broker, "Eve")
        await join(broker, room="b")
        await join(second, "Bob")
        rig.cut(broker)
        await until(lambda: not broker.connected)
        rig.tick()
        await join(second, member("ALICE", by="thief"))
        await rig.connected()
        assert receiver.losses == ["a"]
        broker.lose("a", member())
        broker.lose("a", member("Eve"))
        with pytest.raises(CommandError):
            await join(broker)
        assert (await join(broker, "Eve")).online == 3
        assert set(broker._rooms) == {"a", "b"}
        assert other.events[-4:] == [
            *(("leave", "Alice"), ("leave", "Eve")),
            *(("join", "ALICE"), ("join", "Eve")),
        ]

    rig(test, retry_s=0.1)


def test_member_regains_a_name_from_an_absent_user(rig: Run) -> None:
    """The user who took the name has left meanwhile, and no other user is in the room."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        rig.tick()
        await join(second, member("ALICE", by="thief"))
        second.lose("a", member("ALICE", by="thief"))
        await rig.connected()
        assert rig.names() == ["Alice"]
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(2)
        await leave(broker)
        assert rig.relay.rooms.occupancy.rooms == 0

    rig(test, retry_s=0.1)


@pytest.mark.parametrize("how", ["lose", "leave"])
def test_member_that_leaves_before_the_welcome_is_gone(rig: Run, how: str) -> None:
    """A member that leaves between its broker's introduction and the welcome is not in the room."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        rig.kill()
        await until(lambda: not broker.connected)
        await rig.start(workers=2, gathering_s=0.1)
        await until(lambda: rig.relay.rooms.occupancy.users == 2)
        assert not broker.connected
        if how == "lose":
            broker.lose("a", member())
        else:
            await leave(broker)
        await rig.connected()
        rig.tick()
        await rig.settled()
        assert rig.names() == ["Bob"]
        assert receiver.events[-1] == ("leave", "Alice")
        broker.lose("a", member("Bob"))
        await rig.settled()
        rig.tick()
        assert rig.relay.rooms.occupancy.rooms == 0

    rig(test)


# Waiting for all workers


def test_workers_are_welcomed_together(rig: Run) -> None:
    """The relay welcomes workers when all expected ones are connected, and not earlier."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=60)
        starting = asyncio.create_task(first.start())
        await until(lambda: any(peer.is_restored for peer in rig.relay._peers))
        await asyncio.sleep(0.02)
        assert not first.connected
        await second.start()
        await starting
        await rig.settled()

    rig(test)


def test_relay_waits_only_a_limited_time_for_workers(rig: Run) -> None:
    """A worker that does not return delays the others for a limited time, and is welcome later."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=0.05)
        await first.start()
        assert (await join(first)).online == 1
        await second.start()
        assert (await join(second, "Bob")).online == 2

    rig(test)
