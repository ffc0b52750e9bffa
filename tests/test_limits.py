"""Token buckets."""

from __future__ import annotations

from fastchat.limits import TokenBucket


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
