"""Budgets: how much of something a client may do before it costs him."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["TokenBucket"]


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate_per_s`; each `take` costs one.

    `clock` returns monotonic seconds.
    """

    __slots__ = ("_burst", "_clock", "_rate_per_s", "_tokens", "_updated_s")

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._updated_s = clock()

    def take(self) -> bool:
        """Take a token; False, and nothing taken, when there is none."""
        now = self._clock()
        gained = (now - self._updated_s) * self._rate_per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._updated_s = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
