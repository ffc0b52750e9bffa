"""The records that one turn of the event loop sends over a connection, for one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Outbox"]


class Outbox:
    """Encoded records, in order. After `schedule`, it calls `flush` at the end of the turn.

    The owner passes `flush`. It adds the records that the owner has collected elsewhere, calls
    `take`, and writes the result to the connection.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._records: list[bytes] = []
        self._scheduled = False

    def add(self, record: bytes) -> None:
        self._records.append(record)

    def schedule(self) -> None:
        """Have `flush` called at the end of the turn. Further calls in the turn do nothing."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end_turn)

    def take(self) -> bytes:
        """Empty the outbox; return its records, joined."""
        records, self._records = self._records, []
        return b"".join(records)

    def clear(self) -> None:
        """Drop all records."""
        self._records.clear()

    def _end_turn(self) -> None:
        self._scheduled = False
        self._flush()
