"""What a turn of the event loop has to say over a connection: one write at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Outbox"]


class Outbox:
    """Encoded records, in order. `flush` is called at the end of a turn in which some came.

    It is the owner's: it adds what it has collected in other ways, takes what there is, and
    writes that.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._records: list[bytes] = []
        self._scheduled = False

    def add(self, record: bytes) -> None:
        self._records.append(record)

    def schedule(self) -> None:
        """Have `flush` called at the end of the turn, once."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def take(self) -> bytes:
        """Empty the outbox; returns what was in it."""
        records, self._records = self._records, []
        return b"".join(records)

    def clear(self) -> None:
        """Forget what there is to write."""
        self._records.clear()

    def _end_turn(self) -> None:
        self._scheduled = False
        self._flush()
