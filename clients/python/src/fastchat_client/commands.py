"""The commands of a chat that wait for their answers, by the `ref` or the `id` of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastchat_client.errors import ChatError, Refused
from fastchat_client.link import Link

__all__ = ["Commands", "reply_to"]


class Commands:
    """Passes each answer of the server to the command that it belongs to."""

    def __init__(self) -> None:
        #: Held while a file is sent: a connection can send one file at a time.
        self.uploading = asyncio.Lock()
        self._number = 0
        self._refusals: dict[tuple[str, str], Callable[[ChatError], None]] = {}
        self._replies: dict[str, asyncio.Queue[dict[str, Any]]] = {}

    def new_ref(self) -> str:
        self._number += 1
        return f"r{self._number}"

    @contextmanager
    def refusable(
        self, key: str, value: str, refuse: Callable[[ChatError], None]
    ) -> Iterator[None]:
        """Call `refuse` with the errors whose `key` ("ref" or "id") has this value."""
        self._refusals[key, value] = refuse
        try:
            yield
        finally:
            del self._refusals[key, value]

    @contextmanager
    def replies(self, ref: str) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """Collect the replies to a command in a queue, and its error as well."""
        queue = self._replies[ref] = asyncio.Queue()
        try:
            yield queue
        finally:
            del self._replies[ref]

    def on_reply(self, event: dict[str, Any]) -> None:
        """Take an event that answers a command."""
        queue = self._replies.get(event.get("ref", ""))
        if queue is not None:
            queue.put_nowait(event)

    def on_error(self, event: dict[str, Any]) -> bool:
        """Take an `error`; returns whether it belonged to a command."""
        for key in ("id", "ref"):
            refuse = self._refusals.get((key, event.get(key, "")))
            if refuse is not None:
                refuse(Refused.from_event(event))
                return True
        queue = self._replies.get(event.get("ref", ""))
        if queue is not None:
            queue.put_nowait(event)
        return queue is not None


async def reply_to(link: Link, replies: asyncio.Queue[dict[str, Any]]) -> dict[str, Any]:
    """Wait for the next reply. Raises LinkLost, or Refused if it is an error."""
    waiting = asyncio.ensure_future(replies.get())
    try:
        reply = await link.until(waiting)
    finally:
        waiting.cancel()
    if reply["type"] == "error":
        raise Refused.from_event(reply)
    return reply
