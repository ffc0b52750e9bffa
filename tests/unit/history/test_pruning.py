"""Tests of deleting publications that are too many or too old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from contracts.history import draft
from fastchat.database import select
from fastchat.history.directory import open_database
from fastchat.history.pruning import PRUNED_AT_ONCE, Pruner
from fastchat.history.rows import INSERT, OFFSET_BITS, OFFSET_MASK, row_of
from fastchat.history.tails import KnownRooms, Room
from fastchat.protocol import timestamp_of

START_S = 1_750_000_000.0


class Rig:
    """A file of a history with its rooms, and a pruner with a limit of 80 publications."""

    def __init__(self, file: Path) -> None:
        self.db: apsw.Connection = open_database(file, sync_commits=False)
        self.rooms = KnownRooms(self.db, lambda: "epoch")
        self.pruner = Pruner(self.db, self.rooms, max_messages=80, options={})

    def fill(self, name: str, count: int) -> Room:
        """Store a room whose publications have the times START_S + 1, START_S + 2 …"""
        self.db.execute(
            "INSERT INTO rooms (name, epoch, least_head) VALUES (?, 'epoch', ?)", (name, count)
        )
        number = self.db.last_insert_rowid()
        for offset in range(1, count + 1):
            message = draft(room=name).numbered(offset)
            message = message._replace(timestamp=timestamp_of(START_S + offset))
            self.db.execute(INSERT, row_of(number << OFFSET_BITS | offset, message))
        return self.rooms.get(name)

    def stored(self, room: Room) -> list[int]:
        """The offsets that the file has of a room."""
        keys = select(
            self.db,
            "SELECT key FROM publications WHERE key BETWEEN ? AND ? ORDER BY key",
            room.key(0),
            room.key(OFFSET_MASK),
        )
        return [key & OFFSET_MASK for (key,) in keys]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "history.db")
    yield rig
    rig.db.close()


@pytest.mark.parametrize(("count", "first"), [(80, 1), (91, 1), (92, 13)])
def test_room_beyond_its_slack_is_shortened(rig: Rig, count: int, first: int) -> None:
    """A room with more than 80 and an eighth is cut to its newest 80 publications."""
    room = rig.fill("a", count)
    rig.pruner.shorten(room)
    assert rig.stored(room) == list(range(first, count + 1))
    assert room.first == first


def test_shortening_deletes_a_limited_number_of_rows(rig: Rig) -> None:
    """One step deletes at most twice `PRUNED_AT_ONCE`, so that a turn stays short."""
    room = rig.fill("a", 1000)
    rig.pruner.shorten(room)
    assert room.first == 2 * PRUNED_AT_ONCE + 1
    assert rig.stored(room)[0] == room.first


def test_head_stays_when_all_publications_are_dropped(rig: Rig) -> None:
    """The file keeps the head, so that no offset is used again."""
    room = rig.fill("a", 20)
    rig.db.execute("UPDATE rooms SET least_head = 5")  # it is written later than the publications
    rig.pruner.drop(room, 21)
    rig.rooms.read_again("a")
    assert (rig.rooms.get("a").head, rig.rooms.get("a").first) == (20, 21)


def test_dropped_publications_leave_the_tail(rig: Rig) -> None:
    """Memory and file have the same publications after a drop; other rooms do not change."""
    room, other = rig.fill("a", 20), rig.fill("b", 20)
    for each in (room, other):
        rig.rooms.tail(each)
    rig.pruner.drop(room, 15)
    assert rig.stored(room) == list(range(15, 21))
    assert [each.offset for each in rig.rooms.tail(room).publications] == list(range(15, 21))
    assert len(rig.rooms.tail(other).publications) == len(rig.stored(other)) == 20


def test_rooms_with_old_publications_are_found(rig: Rig) -> None:
    """A room comes with its first publication that is not too old; others are left out."""
    some, none, all_ = rig.fill("some", 20), rig.fill("none", 0), rig.fill("all", 5)
    assert none.number is not None
    found = list(rig.pruner.find_aged(timestamp_of(START_S + 10)))
    assert found == [(some, 10), (all_, 6)]


def test_old_publications_of_a_room_are_found_in_steps(rig: Rig) -> None:
    """One step finds at most `PRUNED_AT_ONCE` old publications of a room."""
    room = rig.fill("a", 400)
    assert list(rig.pruner.find_aged(timestamp_of(START_S + 1000))) == [(room, PRUNED_AT_ONCE + 1)]


def test_each_step_examines_the_next_rooms(rig: Rig) -> None:
    """A step examines 64 rooms; after the last room, the first ones are examined again."""
    rooms = [rig.fill(f"room-{number}", 1) for number in range(100)]
    steps = [
        [room for room, _ in rig.pruner.find_aged(timestamp_of(START_S + 10))] for _ in range(3)
    ]
    assert steps == [rooms[:64], rooms[64:], rooms[:64]]
