"""Tests of the rooms and publications of a SQLite history that are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from contracts.history import GENERATION, draft
from fastchat.history.directory import open_database
from fastchat.history.epochs import epoch_of
from fastchat.history.rows import INSERT, OFFSET_BITS, row_of
from fastchat.history.tails import KnownRooms, Tail
from fastchat.protocol import MAX_HISTORY, MAX_REPLY_BYTES, Message, Publication, Reactor

REACTORS = [Reactor(f"g_{number}", f"user {number}") for number in range(20)]


def publications(first: int, last: int, *, chars: int = 1) -> list[Publication]:
    return [draft("x" * chars).numbered(offset) for offset in range(first, last + 1)]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    """The file of a history with the rooms "a", "b" and "c", of five publications each.

    The oldest two of room "a" were dropped.
    """
    connection = open_database(tmp_path / "history.db", sync_commits=False)
    with connection:
        for number, name in enumerate("abc", 1):
            row = (number, name, f"epoch of {name}")
            connection.execute("INSERT INTO rooms VALUES (?, ?, ?, 5)", row)
            for each in publications(3 if name == "a" else 1, 5):
                connection.execute(INSERT, row_of(number << OFFSET_BITS | each.offset, each))
    yield connection
    connection.close()


def known_rooms(
    db: apsw.Connection, *, max_rooms: int = 9, max_tails: int = 9, max_tail_bytes: int = 1 << 20
) -> KnownRooms:
    return KnownRooms(
        db,
        GENERATION,
        max_rooms=max_rooms,
        max_tails=max_tails,
        max_tail_bytes=max_tail_bytes,
    )


# Tails


def test_tail_keeps_at_most_twice_as_many_as_a_reply() -> None:
    """A tail is trimmed to `MAX_HISTORY` once it has more than twice as many."""
    tail = Tail(publications(1, MAX_HISTORY))
    counts = set()
    for each in publications(MAX_HISTORY + 1, 4 * MAX_HISTORY):
        tail.extend([each])
        counts.add(len(tail.publications))
    assert (min(counts), max(counts)) == (MAX_HISTORY, 2 * MAX_HISTORY)
    assert tail.publications[-1].offset == 4 * MAX_HISTORY


def test_tail_of_long_texts_is_limited_by_their_length() -> None:
    """A tail keeps enough long texts for a reply, and not `MAX_HISTORY` of them."""
    tail = Tail(publications(1, MAX_HISTORY, chars=4000))
    assert len(tail.publications) == MAX_REPLY_BYTES // 4000 + 1


def test_tail_finds_a_publication_by_its_offset() -> None:
    """An offset outside of the tail is not found."""
    tail = Tail(publications(3, 7))
    assert [tail.find(offset) for offset in (2, 3, 7, 8)] == [None, 0, 4, None]
    assert Tail([]).find(1) is None


def test_tail_knows_what_it_takes_in_memory() -> None:
    """Texts count by their size in memory, which one emoji multiplies by four, and so do reactions;
    what is trimmed, changed or dropped does not count any more."""
    tail = Tail(publications(1, 4, chars=1000))
    plain = tail.memory_bytes
    assert 4 * 1500 < plain < 4 * 1700
    tail.extend([draft("😀" + "x" * 999).numbered(5)])
    assert tail.memory_bytes > plain + 4000
    message = tail.publications[-1]
    assert isinstance(message, Message)
    tail.replace(message._replace(text="short"))
    assert plain < tail.memory_bytes < plain + 700
    tail.replace(message._replace(text="", reactions={"👋": REACTORS}))
    assert tail.memory_bytes > plain + 200 * len(REACTORS)
    tail.replace(message._replace(offset=99))
    tail.drop_before(3)
    tail.drop_before(99)
    assert [each.offset for each in tail.publications] == [3, 4, 5]
    tail.drop_before(5)
    tail.replace(message._replace(text="x" * 1000))
    assert tail.memory_bytes == plain // 4


# Known rooms


def test_room_is_read_from_the_file(db: apsw.Connection) -> None:
    """A room in the file has its number, its epoch, and its oldest and newest offsets."""
    room = known_rooms(db).get("a")
    assert (room.number, room.epoch, room.first, room.head) == (1, "epoch of a", 3, 5)


def test_room_that_is_not_in_the_file_has_an_epoch_of_the_generation(db: apsw.Connection) -> None:
    """Its epoch does not depend on which rooms are in memory."""
    room = known_rooms(db).get("new")
    epoch = epoch_of(GENERATION, "new")
    assert (room.number, room.epoch, room.first, room.head) == (None, epoch, 1, 0)
    assert known_rooms(db).get("new").epoch == epoch


def test_room_without_publications_takes_no_memory(db: apsw.Connection) -> None:
    """A stranger can name any number of them."""
    rooms = known_rooms(db)
    assert not rooms.tail(rooms.get("new")).publications
    assert len(rooms) == 0
    assert rooms.warm_tail(rooms.get("new")) is None


def test_least_recently_used_room_is_forgotten(db: apsw.Connection) -> None:
    """Beyond `max_rooms`, a room leaves memory and is read again."""
    rooms = known_rooms(db, max_rooms=2)
    oldest, _, newest = rooms.get("a"), rooms.get("b"), rooms.get("c")
    assert rooms.get("c") is newest
    assert rooms.get("a") is not oldest


def test_no_room_is_forgotten_during_a_transaction(db: apsw.Connection) -> None:
    """During a transaction, a room in memory can be ahead of the file."""
    rooms = known_rooms(db, max_rooms=1)
    with db:
        in_use = [rooms.get(name) for name in "abc"]
        assert [rooms.get(name) for name in "abc"] == in_use
    assert len(rooms) == 3


def test_tail_is_read_once(db: apsw.Connection) -> None:
    """A room's tail is read from the file when it is first asked for."""
    rooms = known_rooms(db)
    room = rooms.get("a")
    assert rooms.warm_tail(room) is None
    tail = rooms.tail(room)
    assert [each.offset for each in tail.publications] == [3, 4, 5]
    assert rooms.tail(room) is rooms.warm_tail(room) is tail


def test_least_recently_used_tail_is_forgotten(db: apsw.Connection) -> None:
    """Beyond `max_tails`, the tail that was not used for the longest time leaves memory."""
    rooms = known_rooms(db, max_tails=2)
    a, b, c = (rooms.get(name) for name in "abc")
    rooms.tail(a)
    rooms.tail(b)
    rooms.tail(a)
    rooms.tail(c)
    assert [rooms.warm_tail(room) is not None for room in (a, b, c)] == [True, False, True]


def test_tails_are_bounded_together_in_bytes(db: apsw.Connection) -> None:
    """Publications that are added to a tail make room by forgetting those that were not read for
    the longest time, and the last tail stays however large it is."""
    rooms = known_rooms(db, max_tail_bytes=20_000)
    a, b, c = (rooms.get(name) for name in "abc")
    for room in (a, b, c):
        rooms.tail(room)
    assert all(rooms.warm_tail(room) for room in (a, b, c))
    for each in publications(6, 9, chars=4000):
        rooms.extend(c, [each])
    assert [rooms.warm_tail(room) is not None for room in (a, b, c)] == [False, False, True]
    for each in publications(10, 20, chars=4000):
        rooms.extend(c, [each])
    tail = rooms.tail(c)
    assert tail.publications[-1].offset == 20
    rooms.tail(a)
    assert [rooms.warm_tail(room) is not None for room in (a, b, c)] == [True, False, False]


def test_tail_that_shrinks_makes_room_for_others(db: apsw.Connection) -> None:
    """Texts that are deleted or dropped do not count any more."""
    rooms = known_rooms(db, max_tail_bytes=20_000)
    a, b = rooms.get("a"), rooms.get("b")
    for room in (a, b):
        rooms.tail(room)
    for each in publications(6, 8, chars=4000):
        rooms.extend(b, [each])
        assert isinstance(each, Message)
        rooms.replace(b, each._replace(text="", deleted=True))
    rooms.extend(b, publications(9, 9, chars=4000))
    rooms.drop_before(b, 9)
    rooms.extend(b, publications(10, 10, chars=4000))
    for unknown in (rooms.get("c"), rooms.get("new")):
        rooms.extend(unknown, publications(1, 1))
        rooms.drop_before(unknown, 1)
        assert rooms.warm_tail(unknown) is None
    assert rooms.warm_tail(a)
    assert rooms.warm_tail(b)


def test_room_that_differs_from_the_file_is_read_again(db: apsw.Connection) -> None:
    """After a failed transaction, the file has the room's state."""
    rooms = known_rooms(db)
    room = rooms.get("a")
    rooms.tail(room)
    room.head = 99
    for name in ("a", "unknown"):
        rooms.read_again(name)
    assert rooms.get("a").head == 5
    assert rooms.warm_tail(room) is None
