"""How many handshakes a second a process accepts."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.limits.connections import Limit

__all__ = ["HandshakeLimiter"]


class HandshakeLimiter:
    """Limits WebSocket handshakes a second, in all and from one address.

    `clock` returns monotonic seconds.
    """

    def __init__(self, total: Budget, per_address: Budget, clock: Callable[[], float]) -> None:
        self._total = TokenBuckets(total)
        self._addresses = TokenBuckets(per_address)
        self._clock = clock

    def enter(self, address: str) -> Limit | None:
        """Take a handshake; returns the limit that it exceeds, or None.

        The address is checked first, so that the refused handshakes of a busy address take nothing
        from the total.
        """
        now = self._clock()
        if address and self._addresses.take(address, now):
            return Limit.ADDRESS_UPGRADES
        if self._total.take(None, now):
            return Limit.UPGRADES
        return None

    def sweep(self) -> None:
        """Forget addresses whose bucket is full again; call it once a second."""
        self._addresses.sweep(self._clock())
