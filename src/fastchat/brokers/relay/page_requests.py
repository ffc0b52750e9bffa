"""The relay's answers to requests for pages of the history; `pages.RelayPages` is the other end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastchat.brokers import Pages
from fastchat.brokers.relay import records
from fastchat.brokers.relay.deadlines import check_deadline
from fastchat.brokers.relay.records import Refusal
from fastchat.errors import CommandError
from fastchat.rooms import Messages

__all__ = ["PageRequests"]


class PageRequests:
    """Reads pages of the history for one worker, and searches in it.

    `say` sends a record to the worker. A request that cannot be answered, or whose deadline has
    passed, is refused.
    """

    def __init__(self, pages: Pages, say: Callable[[records.Page | records.Refused], None]) -> None:
        self._pages = pages
        self._say = say
        self._searches: set[asyncio.Task[None]] = set()

    async def read(self, record: records.Before | records.After) -> None:
        """Answer a request for a page."""
        number, deadline, room, offset, limit = record
        try:
            check_deadline(deadline)
            if isinstance(record, records.After):
                messages = await self._pages.after(room, record.offset, limit)
            else:
                messages = await self._pages.before(room, offset, limit)
        except CommandError as refusal:
            self._refuse(number, refusal)
        else:
            self._reply(number, messages)

    def begin_search(self, record: records.Search) -> None:
        """Answer a search when it has ended; later records do not wait for it."""
        search = asyncio.get_running_loop().create_task(self._search(record))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)

    def close(self) -> None:
        """Cancel the searches, because the worker is gone."""
        for search in self._searches:
            search.cancel()

    async def _search(self, record: records.Search) -> None:
        try:
            check_deadline(record.deadline)
            messages = await self._pages.search(record.room, record.query, record.limit)
        except CommandError as refusal:
            self._refuse(record.number, refusal)
        else:
            self._reply(record.number, messages)

    def _refuse(self, number: int, refusal: CommandError) -> None:
        self._say(records.Refused(number, Refusal.of(refusal)))

    def _reply(self, number: int, messages: Messages) -> None:
        self._say(records.Page(number, messages.payloads, messages.more))
