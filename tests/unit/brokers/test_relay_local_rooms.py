"""The rooms with members in a worker: they are here as long as anything in them is."""

from __future__ import annotations

from fastchat.brokers.relay import records
from fastchat.brokers.relay.local_rooms import LocalRoom, LocalRooms
from fastchat.protocol import Position
from fastchat.rooms import Entry, Member
from fastchat.rooms.subscribers import PresenceChange

ALICE, BOB = Member("Alice", "author A"), Member("Bob", "author B")


def joined(member: Member, offset: int = 3) -> records.Joined:
    entry = Entry(member, Position("epoch", offset), [], False, [member.name], 1)
    return records.Joined(1, "a", entry, {member.name: member.author})


def test_connections_of_a_member_are_counted() -> None:
    """The room is dropped with the last of them."""
    rooms = LocalRooms()
    for _ in range(2):
        rooms.count_in(joined(ALICE))
    room = rooms["a"]
    assert room.members == {ALICE: 2}
    room.count_out(ALICE)
    rooms.drop_if_empty("a", room)
    assert room.members == {ALICE: 1}
    room.count_out(ALICE)
    rooms.drop_if_empty("a", room)
    assert rooms == {}


def test_room_stays_while_something_is_pending() -> None:
    """Its position is the newest member's: what came between them is not missed."""
    rooms = LocalRooms()
    rooms.count_in(joined(ALICE))
    room = rooms["a"]
    room.pending += 1
    room.count_out(ALICE)
    rooms.drop_if_empty("a", room)
    assert rooms["a"] is room
    rooms.count_in(joined(BOB, offset=9))
    assert (rooms["a"], room.offset) == (room, 9)
    room.count_out(BOB)
    rooms.settle("a", room)
    assert rooms == {}


def test_position_is_that_of_what_was_delivered() -> None:
    """A second member does not change it."""
    rooms = LocalRooms()
    rooms.count_in(joined(ALICE, offset=3))
    rooms.count_in(joined(BOB, offset=9))
    assert rooms["a"].offset == 3


def test_what_is_settled_in_a_room_of_before_leaves_the_new_one() -> None:
    """Its stream was lost, and members have come back."""
    rooms = LocalRooms()
    lost = LocalRoom(Position("epoch", 1))
    lost.pending = 1
    rooms.count_in(joined(ALICE))
    rooms.settle("a", lost)
    rooms.settle("a", None)
    assert set(rooms) == {"a"}


def test_change_is_noted_once() -> None:
    """A new relay may say it again; and a leave is told in any case."""
    room = LocalRoom(Position("epoch", 1))
    assert room.note(PresenceChange(True, ALICE))
    assert not room.note(PresenceChange(True, ALICE))
    assert room.note(PresenceChange(True, Member("Alice", "another")))
    assert room.known == {"Alice": "another"}
    assert room.note(PresenceChange(False, ALICE))
    assert room.note(PresenceChange(False, ALICE))
    assert room.known == {}


def test_introduction_has_each_room() -> None:
    """With its members, and whom they know."""
    rooms = LocalRooms()
    rooms.count_in(joined(ALICE))
    rooms["a"].note(PresenceChange(True, BOB))
    assert list(rooms.introduction()) == [
        records.Restore("a", Position("epoch", 3), [(ALICE, 1)], [ALICE, BOB])
    ]
