"""Tests of the history in memory: the contract of histories, and its limits."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from contracts.history import HistoryContract, add, delete, draft, edit, react, texts
from fastchat.history import Duplicate, History, Page
from fastchat.history.memory import MemoryHistory
from fastchat.protocol import Position


def new_history(max_messages: int = 40, max_bytes: int = 1 << 28) -> MemoryHistory:
    numbers = itertools.count(1)
    return MemoryHistory(
        max_messages=max_messages,
        max_bytes=max_bytes,
        new_generation=lambda: b"generation %d" % next(numbers),
    )


class TestContract(HistoryContract):
    @pytest.fixture
    def history(self) -> History:
        return new_history(self.KEPT)


def test_room_stores_at_most_an_eighth_more() -> None:
    """A room is trimmed in steps: it has between `max_messages` and an eighth more."""
    history = new_history(80)
    counts = set()
    for number in range(400):
        add(history, str(number))
        counts.add(len(history.before("a", None, 1000).publications))
    assert max(counts) == 90
    assert len(history.before("a", None, 1000).publications) >= 80


def test_history_that_stores_nothing_still_numbers() -> None:
    """With `max_messages` 0 no publication is stored, but offsets increase."""
    history = new_history(0)
    assert [history.append([draft()])[0].offset for _ in range(3)] == [1, 2, 3]
    epoch = history.position("a").epoch
    assert history.before("a", None, 9) == Page([], False)
    assert history.since("a", Position(epoch, 3), 9) == []
    assert history.since("a", Position(epoch, 2), 9) is None


def test_id_is_forgotten_with_its_publication() -> None:
    """An id is remembered exactly as long as its publication is stored."""
    history = new_history(8)
    history.append([draft(id="i")])
    for number in range(8):
        history.append([draft(id=str(number))])
    assert history.append([draft(id="i")]) == [Duplicate("a", "i", 1)]
    history.append([draft(id="one too many")])
    (outcome,) = history.append([draft(id="i")])
    assert not isinstance(outcome, Duplicate)
    assert len(history._logs["a"].by_id) == len(history.before("a", None, 99).publications)


def test_all_rooms_together_stay_within_max_bytes() -> None:
    """With 20,000 rooms, the memory in use stays near `max_bytes`."""
    history = new_history(1000, max_bytes=1_000_000)
    tracemalloc.start()
    try:
        for number in range(20_000):
            add(history, "x" * 100, room=f"room-{number}")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_500_000
    assert history._bytes <= 1_000_000


def test_longest_silent_room_loses_its_oldest_first() -> None:
    """Beyond `max_bytes`, the room that was silent for longest loses its oldest publications."""
    history = new_history(1000, max_bytes=100_000)
    for number in range(50):
        add(history, str(number), room="quiet")
    for number in range(50):
        add(history, str(number), room="middle")
    for number in range(80):
        add(history, str(number), room="busy")
    assert len(history.before("busy", None, 999).publications) == 80
    assert len(history.before("middle", None, 999).publications) == 50
    quiet = texts(history.before("quiet", None, 999))
    assert 0 < len(quiet) < 50
    assert quiet[-1] == "49"


def test_room_without_publications_left_is_forgotten() -> None:
    """A room that has lost all of its publications starts again with another epoch."""
    history = new_history(1000, max_bytes=10_000)
    add(history, "1", room="old")
    old = history.position("old")
    for number in range(50):
        add(history, str(number), room="new")
    assert "old" not in history._logs
    assert history.since("old", old, 300) is None
    assert history.position("old").epoch != old.epoch


def test_publication_larger_than_max_bytes_is_not_stored() -> None:
    """A message larger than `max_bytes` is numbered but not stored."""
    history = new_history(1000, max_bytes=1000)
    assert history.append([draft("x" * 4000)])[0].offset == 1
    assert history._bytes == 0
    assert not history._logs


def test_counted_bytes_are_those_of_the_stored_publications() -> None:
    """After appends, changes and trimming, the count of bytes is exact."""
    history = new_history(8, max_bytes=20_000)
    for number in range(300):
        history.append([draft("x" * (number % 50), room=f"r{number % 5}", id=str(number))])
        history.append([react(1, by=f"user {number}", room="r1")])
        history.append([edit(2, "y" * number, room="r2"), delete(number % 9, room="r3")])
    for room in tuple(history._logs):
        history._bytes -= history._logs.pop(room).drop(1000)
    assert history._bytes == 0
