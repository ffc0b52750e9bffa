"""The ids of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.api.cursor import MAX_CHARS, decode_cursor, encode_cursor, resumed
from fastchat.api.events import MAX_ROOMS
from fastchat.protocol import Position
from fastchat.protocol.values import MAX_OFFSET

POSITIONS = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.builds(Position, st.text(max_size=22), st.integers(0, MAX_OFFSET), st.none()),
    max_size=MAX_ROOMS,
)


@given(POSITIONS)
def test_client_resumes_where_it_was(positions: dict[str, Position]) -> None:
    """A cursor has the position of each room."""
    cursor = decode_cursor(encode_cursor(positions))
    for room, position in positions.items():
        assert resumed(cursor, room, position.epoch) == (position, False)


def test_other_epoch_is_a_gap_and_other_room_begins_at_its_start() -> None:
    """A room that began anew is told as a gap, and a room that is not in the cursor is new."""
    cursor = decode_cursor(encode_cursor({"lobby": Position("a", 300)}))
    assert resumed(cursor, "lobby", "b") == (Position("b", 0), True)
    assert resumed(cursor, "ops", "a") == (Position("a", 0), False)


def test_cursor_of_the_most_rooms_is_not_too_long() -> None:
    """A cursor of as many rooms as a stream can have is accepted, and fits into a header."""
    most = {f"room-{number}": Position("e", MAX_OFFSET) for number in range(MAX_ROOMS)}
    text = encode_cursor(most)
    assert len(text) <= MAX_CHARS
    assert len(decode_cursor(text)) == MAX_ROOMS


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_other_texts_are_refused(text: str) -> None:
    """Any text is a cursor, or raises ValueError."""
    try:
        decode_cursor(text)
    except ValueError:
        return
    assert text.isascii()


@pytest.mark.parametrize("text", ["Ag", "AQ?", "AQdB", "AQ" + "_" * 40, "AQ" * 1000])
def test_malformed_cursors(text: str) -> None:
    """Another version, other characters, a missing end, a huge offset and a long text."""
    with pytest.raises(ValueError, match="cursor"):
        decode_cursor(text)
