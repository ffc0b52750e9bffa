"""Token buckets, one for each key."""

from __future__ import annotations

import time

import pytest

from fastchat.limits.buckets import MAX_BUCKETS, Budget, TokenBuckets
from support.clock import Clock
from support.server import TIMEOUT_UNIT_S


def passed(buckets: TokenBuckets, clock: Clock, key: str, attempts: int) -> int:
    """The number of these attempts that are allowed."""
    return sum(not buckets.take(key, clock()) for _ in range(attempts))


def test_bucket_fills_at_its_rate() -> None:
    """After `t` seconds an empty bucket has `t * rate_per_s` tokens again."""
    clock = Clock()
    buckets = TokenBuckets(Budget(10.0, 20))
    assert passed(buckets, clock, "a", 100) == 20
    clock.now += 0.5
    assert passed(buckets, clock, "a", 100) == 5


def test_fractions_of_a_token_add_up() -> None:
    """Tokens gained between frequent attempts add up."""
    clock = Clock()
    buckets = TokenBuckets(Budget(1.0, 1))
    assert not buckets.take("a", clock())
    for _ in range(3):
        clock.now += 0.25
        assert buckets.take("a", clock())
    clock.now += 0.25
    assert not buckets.take("a", clock())


def test_bucket_never_holds_more_than_its_burst() -> None:
    """A long silence saves no more tokens than a burst."""
    clock = Clock()
    buckets = TokenBuckets(Budget(10.0, 3))
    assert passed(buckets, clock, "a", 1) == 1
    clock.now += 3600
    assert passed(buckets, clock, "a", 100) == 3


def test_keys_have_buckets_of_their_own() -> None:
    """A key that has used all its tokens takes none from another key."""
    clock = Clock()
    buckets = TokenBuckets(Budget(1.0, 5))
    assert passed(buckets, clock, "a", 100) == 5
    assert passed(buckets, clock, "b", 100) == 5
    clock.now += 2
    assert passed(buckets, clock, "a", 100) == 2


def test_attempt_after_the_returned_wait_succeeds() -> None:
    """The returned wait is neither too short nor much too long, and attempts meanwhile cost
    nothing."""
    clock = Clock()
    buckets = TokenBuckets(Budget(0.5, 3))
    assert passed(buckets, clock, "a", 3) == 3
    wait_s = buckets.take("a", clock())
    assert wait_s == pytest.approx(2, rel=0.02)
    passed(buckets, clock, "a", 1000)
    clock.now += wait_s / 2
    assert buckets.take("a", clock())
    clock.now += wait_s / 2 + 1e-6
    assert not buckets.take("a", clock())


@pytest.mark.parametrize("rate_per_s", [0.1, 0.3, 7, 10, 1e4])
@pytest.mark.parametrize("burst", [1, 40, 999])
def test_burst_is_exact(rate_per_s: float, burst: int) -> None:
    """Rounding errors of floats neither add nor remove a token."""
    assert passed(TokenBuckets(Budget(rate_per_s, burst)), Clock(), "a", burst + 1) == burst


def test_rate_of_zero_is_no_limit() -> None:
    """With a rate of 0 every attempt is allowed."""
    clock = Clock()
    assert passed(TokenBuckets(Budget(0.0, 1)), clock, "a", 10_000) == 10_000


def test_full_buckets_are_forgotten() -> None:
    """A hundred thousand addresses that came once are forgotten within a minute."""
    clock = Clock()
    buckets = TokenBuckets(Budget(10.0, 10))
    for number in range(100_000):
        buckets.take(str(number), clock())
    buckets.take("busy", clock(), 10)
    clock.now += 0.9
    for _ in range(25):
        buckets.sweep(clock())
    assert list(buckets.full_s) == ["busy"]
    assert buckets.take("busy", clock(), 10)


def test_number_of_buckets_is_bounded() -> None:
    """A flood of new addresses replaces old ones instead of taking more memory."""
    clock = Clock()
    buckets = TokenBuckets(Budget(0.001, 10))
    for number in range(MAX_BUCKETS + 1000):
        buckets.take(str(number), clock())
    buckets.sweep(clock())
    assert len(buckets.full_s) == MAX_BUCKETS


def test_sweep_is_fast_with_many_buckets() -> None:
    """A sweep, which runs in the event loop, removes a flood of addresses quickly."""
    clock = Clock()
    buckets = TokenBuckets(Budget(0.001, 10))
    for number in range(3 * MAX_BUCKETS):
        buckets.take(number, clock())
    begun = time.process_time()
    buckets.sweep(clock())
    buckets.sweep(clock())
    assert time.process_time() - begun < 0.5 * TIMEOUT_UNIT_S
    assert len(buckets.full_s) == MAX_BUCKETS
