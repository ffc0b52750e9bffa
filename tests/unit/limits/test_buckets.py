"""Token buckets, and what is limited by them in rooms."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.buckets import MAX_BUCKETS, Budget, Rates, RoomLimits, TokenBucket, price_of
from fastchat.protocol import Publication
from support.server import TIMEOUT_UNIT_S


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(bucket: TokenBucket, attempts: int) -> int:
    return sum(bucket.take() for _ in range(attempts))


def test_new_bucket_is_full() -> None:
    """A burst passes at once, and nothing beyond it."""
    assert taken(TokenBucket(1.0, 5, Clock()), 100) == 5


def test_bucket_fills_at_its_rate() -> None:
    """After `t` seconds there are `t * rate_per_s` tokens again."""
    clock = Clock()
    bucket = TokenBucket(10.0, 20, clock)
    taken(bucket, 20)
    clock.now += 0.5
    assert taken(bucket, 100) == 5


def test_fractions_of_a_token_are_kept() -> None:
    """Asking often costs nothing: what was gained between two attempts adds up."""
    clock = Clock()
    bucket = TokenBucket(1.0, 1, clock)
    assert bucket.take()
    for _ in range(3):
        clock.now += 0.25
        assert not bucket.take()
    clock.now += 0.25
    assert bucket.take()


def test_bucket_never_holds_more_than_its_burst() -> None:
    """A long silence saves up no more than a burst."""
    clock = Clock()
    bucket = TokenBucket(10.0, 3, clock)
    clock.now += 3600
    assert taken(bucket, 100) == 3


def test_refused_attempt_costs_nothing() -> None:
    """Whoever asks too early is served as soon as whoever waits."""
    clock = Clock()
    bucket = TokenBucket(1.0, 1, clock)
    bucket.take()
    taken(bucket, 1000)
    clock.now += 1
    assert bucket.take()


# Buckets by key


def passed(rates: Rates, clock: Clock, key: str, attempts: int) -> int:
    return sum(not rates.take(key, clock()) for _ in range(attempts))


def test_keys_have_buckets_of_their_own() -> None:
    """What one has used up is not missing to another."""
    clock = Clock()
    rates = Rates(Budget(1.0, 5))
    assert passed(rates, clock, "a", 100) == 5
    assert passed(rates, clock, "b", 100) == 5
    clock.now += 2
    assert passed(rates, clock, "a", 100) == 2


def test_who_waits_as_long_as_he_is_told_is_served() -> None:
    """The wait is neither too short nor much too long, and asking in between costs nothing."""
    clock = Clock()
    rates = Rates(Budget(0.5, 3))
    assert passed(rates, clock, "a", 3) == 3
    wait_s = rates.take("a", clock())
    assert wait_s == pytest.approx(2, rel=0.02)
    passed(rates, clock, "a", 1000)
    clock.now += wait_s / 2
    assert rates.take("a", clock())
    clock.now += wait_s / 2 + 1e-6
    assert not rates.take("a", clock())


@pytest.mark.parametrize("rate_per_s", [0.1, 0.3, 7, 10, 1e4])
@pytest.mark.parametrize("burst", [1, 40, 999])
def test_a_burst_is_exact(rate_per_s: float, burst: int) -> None:
    """Whatever sums of floats come to."""
    assert passed(Rates(Budget(rate_per_s, burst)), Clock(), "a", burst + 1) == burst


def test_rate_of_zero_is_no_limit() -> None:
    clock = Clock()
    assert passed(Rates(Budget(0.0, 1)), clock, "a", 10_000) == 10_000


def test_full_buckets_take_no_memory() -> None:
    """A hundred thousand addresses that came once are forgotten within a minute."""
    clock = Clock()
    rates = Rates(Budget(10.0, 10))
    for number in range(100_000):
        rates.take(str(number), clock())
    rates.take("busy", clock(), 10)
    clock.now += 0.9
    for _ in range(25):
        rates.sweep(clock())
    assert list(rates.full_s) == ["busy"]
    assert rates.take("busy", clock(), 10)


def test_buckets_are_bounded() -> None:
    """Whoever comes from ever new addresses makes the server forget, and not grow."""
    clock = Clock()
    rates = Rates(Budget(0.001, 10))
    for number in range(MAX_BUCKETS + 1000):
        rates.take(str(number), clock())
    rates.sweep(clock())
    assert len(rates.full_s) == MAX_BUCKETS


def test_sweep_takes_no_time_with_however_many_buckets() -> None:
    """It is the loop's time: what came in a flood of addresses is gone at once."""
    clock = Clock()
    rates = Rates(Budget(0.001, 10))
    for number in range(3 * MAX_BUCKETS):
        rates.take(number, clock())
    begun = time.process_time()
    rates.sweep(clock())
    rates.sweep(clock())
    assert time.process_time() - begun < 0.5 * TIMEOUT_UNIT_S
    assert len(rates.full_s) == MAX_BUCKETS


# Of the rooms


class Room(NamedTuple):
    price: int


def draft(author: str, room: str = "lobby") -> Publication:
    return Publication(room, 0, "Ann", "text", "now", author=author)


def limited(clock: Clock, **limits: Any) -> RoomLimits:
    off: dict[str, Any] = {
        "user": Budget(0, 1),
        "room": Budget(0, 1),
        "new_rooms": Budget(0, 1),
        "max_rooms": 0,
    }
    return RoomLimits(**{**off, **limits}, clock=clock)


def refused(limits: RoomLimits, drafts: list[Publication], price: int = 1) -> list[int]:
    return list(limits.sift(drafts, {"lobby": Room(price), "other": Room(price)}))


def test_user_is_limited_over_all_rooms_and_alone() -> None:
    """He has one budget, and others theirs."""
    limits = limited(Clock(), user=Budget(1.0, 3))
    drafts = [draft("ann"), draft("ann", "other"), draft("bob"), draft("ann"), draft("ann")]
    assert refused(limits, drafts) == [4]
    assert refused(limits, [draft("ann", "other"), draft("bob"), draft("bob")]) == [0]


def test_room_is_limited_over_all_users() -> None:
    """Turn by turn, and whichever order rooms are named in."""
    clock = Clock()
    limits = limited(clock, room=Budget(2.0, 4))
    drafts = [draft(str(number), ("lobby", "other")[number % 2]) for number in range(10)]
    assert refused(limits, drafts) == [8, 9]
    clock.now += 1
    assert refused(limits, drafts) == [4, 5, 6, 7, 8, 9]


def test_what_the_room_refuses_costs_the_user_nothing() -> None:
    """And the other way round."""
    clock = Clock()
    limits = limited(clock, user=Budget(1.0, 3), room=Budget(1.0, 1))
    assert refused(limits, [draft("ann")] * 10) == list(range(1, 10))
    assert refused(limits, [draft("ann", "other"), draft("ann", "third")]) == []
    assert refused(limits, [draft("ann", "fourth"), draft("bob", "fourth")]) == [0]


def test_refusal_says_how_long_to_wait() -> None:
    """As a temporary error, with a time after which it works."""
    clock = Clock()
    for limits in (limited(clock, user=Budget(0.5, 1)), limited(clock, room=Budget(0.5, 1))):
        (refusal,) = limits.sift([draft("ann"), draft("ann")], {}).values()
        assert (refusal.code, refusal.temporary) == (ErrorCode.RATE_LIMITED, True)
        assert refusal.retry_after_ms is not None
        assert 1950 <= refusal.retry_after_ms <= 2001
        clock.now += refusal.retry_after_ms / 1000
        assert not limits.sift([draft("ann")], {})


@pytest.mark.parametrize(
    ("connections", "price"), [(0, 1), (999, 1), (1000, 2), (3999, 4), (4000, 5), (1_000_000, 5)]
)
def test_messages_are_dearer_in_big_rooms(connections: int, price: int) -> None:
    """Each is sent to everybody there; but never so dear that an outbox does not get through."""
    assert price_of(connections) == price
    limits = limited(Clock(), user=Budget(10.0, 100))
    assert len(refused(limits, [draft("ann")] * 200, price_of(connections))) == 200 - 100 // price


def test_rooms_are_limited_in_all_and_by_address() -> None:
    """The first room too many is refused; who has no address is not limited by it."""
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
