"""A message is sent again only while that cannot publish it twice."""

from __future__ import annotations

import asyncio

import pytest

from fastchat_client import Refused, Unconfirmed
from fastchat_client.pending import MEMORY_S, PendingMessage
from support.clock import Clock


def in_loop(clock: Clock) -> PendingMessage:
    async def make() -> PendingMessage:
        return PendingMessage("id", clock)

    return asyncio.run(make())


def test_message_in_doubt_is_sent_again_for_less_than_ten_minutes() -> None:
    """The time counts from the first attempt whose fate is not known."""
    clock = Clock()
    pending = in_loop(clock)
    pending.sending()
    clock.now += MEMORY_S - 1
    pending.sending()
    clock.now += 2
    with pytest.raises(Unconfirmed):
        pending.sending()


def test_message_that_was_not_published_can_always_be_sent() -> None:
    """If the server has sent everything that was missed, nothing is in doubt."""
    clock = Clock()
    pending = in_loop(clock)
    pending.sending()
    clock.now += MEMORY_S + 1
    pending.was_not_published()
    pending.sending()


@pytest.mark.parametrize(("code", "is_known"), [("rate_limited", True), ("unavailable", False)])
def test_unavailable_leaves_the_doubt(code: str, is_known: bool) -> None:
    """After `rate_limited` nothing has happened; after `unavailable` it can have."""

    async def main() -> None:
        clock = Clock()
        pending = PendingMessage("id", clock)
        pending.sending()
        pending.again(Refused(code, "Wait.", temporary=True))
        clock.now += MEMORY_S + 1
        if is_known:
            pending.sending()
        else:
            with pytest.raises(Unconfirmed):
                pending.sending()

    asyncio.run(main())
