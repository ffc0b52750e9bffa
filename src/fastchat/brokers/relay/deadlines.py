"""Deadlines of drafts and requests that wait for the relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fastchat.errors import CommandError, ErrorCode

__all__ = ["DeadlineTimer", "check_deadline", "too_late"]


class DeadlineTimer:
    """Calls `expire` once, when the earliest watched deadline has passed.

    Deadlines are in seconds of the monotonic clock. After `expire`, the owner must watch the
    remaining deadlines again.
    """

    def __init__(self, expire: Callable[[], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    def watch(self, deadline: float) -> None:
        if self._handle is not None:
            if self._deadline <= deadline:
                return
            # The new deadline is earlier, for example that of a request after a search.
            self._handle.cancel()
        self._deadline = deadline
        delay_s = max(0.0, deadline - time.monotonic())
        self._handle = self._loop.call_later(delay_s, self._on_time)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_time(self) -> None:
        self._handle = None
        self._expire()


def check_deadline(deadline: float) -> None:
    """Raise CommandError in the relay if the worker no longer waits for the reply."""
    if time.monotonic() > deadline:
        raise too_late()


def too_late() -> CommandError:
    """The refusal of a draft or request that the relay reads after its deadline."""
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server is overloaded at the moment. Try again soon.",
        temporary=True,
    )
