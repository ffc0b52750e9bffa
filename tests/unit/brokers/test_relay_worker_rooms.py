"""The rooms with members in a worker, which stay while members or unanswered drafts need them."""

from __future__ import annotations

from fastchat.brokers.relay import records
from fastchat.brokers.relay.worker_rooms import WorkerRoom, WorkerRooms
from fastchat.protocol import Position
from fastchat.rooms import Entry, Member
from fastchat.rooms.subscribers import PresenceChange

ALICE, BOB = Member("Alice", "user A"), Member("Bob", "user B")


def joined(member: Member, offset: int = 3) -> records.Joined:
    entry = Entry(member, Position("epoch", offset), [], False, [member], 1, 0)
    return records.Joined(1, "a", entry)


def test_room_is_dropped_with_its_last_connection() -> None:
    """A member's connections are counted, and the last one's end drops the room."""
    rooms = WorkerRooms()
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


def test_room_stays_while_a_request_is_pending() -> None:
    """A room without members stays for a pending request, and takes the position of its next
    member."""
    rooms = WorkerRooms()
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


def test_position_follows_the_deliveries() -> None:
    """A room's position is that of its last delivery, and a second member does not change it."""
    rooms = WorkerRooms()
    rooms.count_in(joined(ALICE, offset=3))
    rooms.count_in(joined(BOB, offset=9))
    assert rooms["a"].offset == 3


def test_position_has_the_timestamp_of_the_last_delivery() -> None:
    """A new relay compares it with its history; before a delivery, it is that of the join."""
    room = WorkerRoom(Position("epoch", 3, "then"))
    assert room.position() == Position("epoch", 3, "then")
    room.offset, room.newest = 4, b'{"type":"message","timestamp":"now"}'
    assert room.position() == Position("epoch", 4, "now")
    room.start(Position("other", 0))
    assert room.position() == Position("other", 0)


def test_settling_an_older_room_does_not_affect_its_successor() -> None:
    """After a lost stream, the end of an old request does not change the room that replaced it."""
    rooms = WorkerRooms()
    lost = WorkerRoom(Position("epoch", 1))
    lost.pending = 1
    rooms.count_in(joined(ALICE))
    rooms.settle("a", lost)
    rooms.settle("a", None)
    assert set(rooms) == {"a"}


def test_repeated_presence_change_is_ignored() -> None:
    """A new relay can repeat a join without effect, and a leave is always announced."""
    room, another = WorkerRoom(Position("epoch", 1)), Member("Alice", "another")
    assert room.note(PresenceChange(True, ALICE))
    assert not room.note(PresenceChange(True, ALICE))
    assert room.note(PresenceChange(False, ALICE))
    assert room.note(PresenceChange(True, another))
    assert list(room.known or ()) == [another]
    assert room.note(PresenceChange(False, another))
    assert room.note(PresenceChange(False, another))
    assert room.known == {}


def test_crowd_knows_no_users() -> None:
    """Its introduction says so, until a list arrives."""
    rooms = WorkerRooms()
    rooms.count_in(joined(ALICE))
    rooms["a"].know(None)
    assert rooms["a"].note(PresenceChange(True, BOB))
    (record,) = rooms.introduction()
    assert record.known is None
    rooms["a"].know([BOB, ALICE])
    (record,) = rooms.introduction()
    assert record.known == [BOB, ALICE]


def test_introduction_lists_each_room() -> None:
    """The introduction has each room with its members and the users that they know of."""
    rooms = WorkerRooms()
    rooms.count_in(joined(ALICE))
    rooms["a"].note(PresenceChange(True, BOB))
    assert list(rooms.introduction()) == [
        records.Restore("a", Position("epoch", 3), [(ALICE, 1)], [ALICE, BOB])
    ]
