"""The buffer of a room stays bounded and says what it has dropped."""

from __future__ import annotations

from fastchat_client.buffer import Buffer
from fastchat_client.events import Gap, Message, Position, Typing, publication_of


def said(offset: int, epoch: str = "E") -> Message:
    fields = {"type": "message", "room": "r", "offset": offset, "username": "Ann", "text": "x"}
    event = publication_of({**fields, "timestamp": "2025-01-18T10:30:00.000Z"}, epoch)
    assert isinstance(event, Message)
    return event


def gap(reason: str, after: int, before: int, epoch: str = "E") -> Gap:
    position = Position(epoch, before - 1)
    return Gap(room="r", reason=reason, after=after, before=before, position=position)  # type: ignore[arg-type]


def typing() -> Typing:
    return Typing(room="r", user="u", username="Ann")


def filled(*events: Message | Gap | Typing, limit: int = 2) -> Buffer:
    buffer = Buffer("r", limit, Position("E", 0))
    for event in events:
        buffer.put(event)
    return buffer


def test_events_are_taken_in_order() -> None:
    """The position is that of the last publication that was taken."""
    buffer = filled(said(1), typing(), said(2), limit=3)
    assert buffer.take() == said(1)
    assert isinstance(buffer.take(), Typing)
    assert buffer.position == Position("E", 1, "2025-01-18T10:30:00.000Z")
    assert buffer.take() == said(2)
    assert not buffer


def test_dropped_events_leave_one_gap() -> None:
    """The gap names the offsets between the last event taken and the next one."""
    buffer = filled(said(1), said(2), said(3), said(4))
    assert buffer.take() == gap("slow", 0, 3)
    assert [buffer.take(), buffer.take()] == [said(3), said(4)]
    for offset in (5, 6, 7):
        buffer.put(said(offset))
    assert buffer.take() == gap("slow", 4, 6)


def test_dropped_joins_leave_an_empty_gap() -> None:
    """If no publication was dropped, no offset is missing."""
    assert filled(typing(), typing(), typing()).take() == gap("slow", 0, 1)
    assert filled(typing(), said(1), said(2)).take() == gap("slow", 0, 1)


def test_gap_before_another_gap_is_told_as_well() -> None:
    """What was dropped before a gap of the server is not hidden by it."""
    buffer = filled(said(1), said(2), gap("away", 2, 10))
    buffer.put(said(10))
    assert buffer.take() == gap("slow", 0, 3)
    assert buffer.take() == gap("away", 2, 10)


def test_reset_is_never_dropped_silently() -> None:
    """A dropped reset makes the gap a reset; one that follows says enough itself."""
    buffer = filled(gap("reset", 0, 5, "F"), said(5, "F"), said(6, "F"))
    assert buffer.take() == gap("reset", 0, 5, "F")
    buffer = filled(said(1), said(2), gap("reset", 0, 5, "F"))
    buffer.put(said(5, "F"))
    assert buffer.take() == gap("reset", 0, 5, "F")
    assert buffer.take() == said(5, "F")
