"""Pages of the histories that are in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastchat.ledger import LedgerError
from fastchat.ledger.following import Following
from fastchat.ledger.reading import Reader
from fastchat.ledger.search import Search
from fastchat.rooms import Messages
from fastchat.rooms.messages import page_of, truncated
from fastchat.rooms.refusals import unavailable

__all__ = ["SharedPages"]


class SharedPages:
    """Implements `fastchat.rooms.contract.Pages`."""

    def __init__(self, reader: Reader, following: Following, search: Search) -> None:
        self._reader = reader
        self._following = following
        self._search = search

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        stream = self._following.get(room)
        page = None if stream is None else stream.before(offset, limit)
        if page is None:
            page = await self._read(self._reader.before(room, offset, limit))
        return page_of(page, newest_first=True)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        page = await self._read(self._reader.after(room, offset, limit))
        return page_of(page, newest_first=False)

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return truncated(
            await self._read(self._search.search(room, query, limit)), newest_first=False
        )

    async def _read(self, reading: Coroutine[Any, Any, Any]) -> Any:
        await asyncio.sleep(0)  # the first step can be outside of a task
        try:
            return await reading
        except LedgerError as error:
            raise unavailable() from error
