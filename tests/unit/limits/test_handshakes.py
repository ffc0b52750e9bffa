"""The limit of handshakes a second."""

from __future__ import annotations

from fastchat.limits.buckets import Budget
from fastchat.limits.connections import Limit
from fastchat.limits.handshakes import HandshakeLimiter


def test_handshakes_are_limited_by_address_and_in_all() -> None:
    """A busy address uses nothing of what the others have."""
    now = 100.0
    limiter = HandshakeLimiter(Budget(10.0, 20), Budget(1.0, 5), lambda: now)
    answers = [limiter.enter("192.0.2.1") for _ in range(1000)]
    assert answers == [*[None] * 5, *[Limit.ADDRESS_UPGRADES] * 995]
    assert [limiter.enter(f"other-{number}") for number in range(16)] == [
        *[None] * 15,
        Limit.UPGRADES,
    ]
    now += 1
    assert [limiter.enter("") for _ in range(11)] == [*[None] * 10, Limit.UPGRADES]
