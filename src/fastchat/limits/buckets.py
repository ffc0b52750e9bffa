"""Token buckets: how much of something is allowed at once, and how much a second in the long run.

An operation that is refused costs nothing, and its sender is told how long to wait.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import islice
from typing import NamedTuple

from fastchat.errors import CommandError, ErrorCode

__all__ = ["Budget", "TokenBuckets", "rate_limited"]

#: Buckets of one kind that are not full. If there are more, the one that was used first is
#: forgotten.
MAX_BUCKETS = 100_000
#: Buckets that one sweep looks at, to see whether they are full again.
SWEPT = 5_000
#: Fraction of a token by which a bucket can be overdrawn, because sums of floats are not exact.
_EPSILON = 0.01


class Budget(NamedTuple):
    """Tokens a second, and tokens at once (`burst`). A rate of 0 is no limit."""

    rate_per_s: float
    burst: float


class TokenBuckets:
    """A token bucket for each key, all with the same `budget`. Full buckets take no memory.

    A bucket is stored as the time at which it will be full again. `limits.rooms` and
    `limits.commands` charge each message, and compute `take` from these fields themselves: 82
    instead of 130 ns for each bucket, and a message is charged to three.
    """

    __slots__ = ("full_s", "interval_s", "span_s")

    def __init__(self, budget: Budget) -> None:
        rate_per_s, burst = budget
        #: Seconds in which a bucket gains one token.
        self.interval_s = 1 / rate_per_s if rate_per_s else 0.0
        #: Seconds in which an empty bucket becomes full.
        self.span_s = (max(1.0, burst) + _EPSILON) * self.interval_s
        #: When each bucket is full again, in monotonic seconds; full ones can be missing.
        self.full_s: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float, tokens: float = 1) -> float:
        """Take tokens and return 0; if there are too few, take none and return seconds to wait."""
        full_s = self.full_s.get(key, 0.0)
        full_s = (full_s if full_s > now else now) + tokens * self.interval_s
        if full_s - now > self.span_s:
            return full_s - now - self.span_s
        self.full_s[key] = full_s
        return 0.0

    def spend(self, key: Hashable, now: float, tokens: float) -> float:
        """Take tokens even if there are too few; returns the seconds until they are made up for."""
        full_s = max(self.full_s.get(key, 0.0), now) + tokens * self.interval_s
        self.full_s[key] = full_s
        return max(0.0, full_s - now - self.span_s)

    def forget(self, key: Hashable) -> None:
        """Forget the bucket of a key that is not used any more."""
        self.full_s.pop(key, None)

    def sweep(self, now: float) -> None:
        """Forget full buckets, and those beyond MAX_BUCKETS; call it once a second."""
        buckets = self.full_s
        # Keys are collected first: a dict takes ever longer to find its first key while keys are
        # deleted from its front.
        for key in list(islice(buckets, SWEPT)):
            full_s = buckets.pop(key)
            if full_s > now:
                buckets[key] = full_s  # behind the buckets that this sweep does not look at
        for key in list(islice(buckets, max(0, len(buckets) - MAX_BUCKETS))):
            del buckets[key]


def rate_limited(reason: str, wait_s: float) -> CommandError:
    """The refusal of a command that was sent too early.

    `reason` is a sentence, to which the time to wait is added.
    """
    return CommandError(
        ErrorCode.RATE_LIMITED,
        f"{reason} Try again in {math.ceil(wait_s):,} s.",
        temporary=True,
        retry_after_ms=math.ceil(wait_s * 1000),
    )
