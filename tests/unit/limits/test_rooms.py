"""Limits of publications and of new rooms on the whole server."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.buckets import Budget
from fastchat.limits.rooms import RoomLimits, price_of
from fastchat.protocol import ChangeDraft, Draft, Kind, MessageDraft, PostedDraft
from support.clock import Clock


class Room(NamedTuple):
    price: int


def draft(user: str, room: str = "lobby") -> Draft:
    return MessageDraft(room, "Ann", "text", "now", user)


def limited(clock: Clock, **limits: Any) -> RoomLimits:
    off: dict[str, Any] = {
        "user": Budget(0, 1),
        "room": Budget(0, 1),
        "new_rooms": Budget(0, 1),
        "max_rooms": 0,
    }
    return RoomLimits(**{**off, **limits}, clock=clock)


def refused(limits: RoomLimits, drafts: list[Draft], price: int = 1) -> list[int]:
    return list(limits.charge(drafts, {"lobby": Room(price), "other": Room(price)}))


def test_user_has_one_budget_for_all_rooms() -> None:
    """A user has one budget for all rooms, and other users have theirs."""
    limits = limited(Clock(), user=Budget(1.0, 3))
    drafts = [draft("ann"), draft("ann", "other"), draft("bob"), draft("ann"), draft("ann")]
    assert refused(limits, drafts) == [4]
    assert refused(limits, [draft("ann", "other"), draft("bob"), draft("bob")]) == [0]


def test_room_has_one_budget_for_all_users() -> None:
    """A room's budget is charged turn by turn, in whichever order the rooms of a turn are named."""
    clock = Clock()
    limits = limited(clock, room=Budget(2.0, 4))
    drafts = [draft(str(number), ("lobby", "other")[number % 2]) for number in range(10)]
    assert refused(limits, drafts) == [8, 9]
    clock.now += 1
    assert refused(limits, drafts) == [4, 5, 6, 7, 8, 9]


def test_what_a_key_posts_costs_nobody_anything() -> None:
    """A key's messages and changes are neither refused nor charged, whatever name they have."""
    limits = limited(Clock(), user=Budget(1.0, 1), room=Budget(1.0, 1))
    posted: list[Draft] = [PostedDraft("lobby", "Ann", "text", "now", "ann")] * 5
    posted.append(ChangeDraft("lobby", "Ann", "", "now", "ann", Kind.DELETE, 1, posted=True))
    assert refused(limits, [*posted, draft("ann"), *posted, draft("ann")]) == [13]


def test_message_refused_by_one_budget_costs_the_other_nothing() -> None:
    """A message that the room's budget refuses costs the user nothing, and the other way round."""
    clock = Clock()
    limits = limited(clock, user=Budget(1.0, 3), room=Budget(1.0, 1))
    assert refused(limits, [draft("ann")] * 10) == list(range(1, 10))
    assert refused(limits, [draft("ann", "other"), draft("ann", "third")]) == []
    assert refused(limits, [draft("ann", "fourth"), draft("bob", "fourth")]) == [0]


def test_refusal_has_the_time_to_wait() -> None:
    """A refusal is a temporary error, and the same message succeeds after the time in it."""
    clock = Clock()
    for limits in (limited(clock, user=Budget(0.5, 1)), limited(clock, room=Budget(0.5, 1))):
        (refusal,) = limits.charge([draft("ann"), draft("ann")], {}).values()
        assert (refusal.code, refusal.temporary) == (ErrorCode.RATE_LIMITED, True)
        assert refusal.retry_after_ms is not None
        assert 1950 <= refusal.retry_after_ms <= 2001
        clock.now += refusal.retry_after_ms / 1000
        assert not limits.charge([draft("ann")], {})


@pytest.mark.parametrize(
    ("connections", "price"), [(0, 1), (999, 1), (1000, 2), (3999, 4), (4000, 5), (1_000_000, 5)]
)
def test_message_costs_more_in_a_big_room(connections: int, price: int) -> None:
    """The cost grows with the number of members, up to what an outbox of messages can still pay."""
    assert price_of(connections) == price
    limits = limited(Clock(), user=Budget(10.0, 100))
    assert len(refused(limits, [draft("ann")] * 200, price_of(connections))) == 200 - 100 // price


def test_new_rooms_are_limited_in_all_and_by_address() -> None:
    """The first room over a limit is refused; a user without an address has no limit by address."""
    clock = Clock()
    limits = limited(clock, new_rooms=Budget(1.0, 2), max_rooms=10)
    for _ in range(2):
        limits.check_new_room("192.0.2.1", 9)
    limits.check_new_room("192.0.2.2", 9)
    for _ in range(10):
        limits.check_new_room("", 9)
    with pytest.raises(CommandError) as caught:
        limits.check_new_room("192.0.2.1", 9)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    with pytest.raises(CommandError) as caught:
        limits.check_new_room("192.0.2.3", 10)
    assert (caught.value.code, caught.value.temporary) == (ErrorCode.TOO_MANY_ROOMS, True)
    clock.now += 1
    limits.check_new_room("192.0.2.1", 9)
