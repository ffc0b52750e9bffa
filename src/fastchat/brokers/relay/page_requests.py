"""The relay's answers to requests for pages of the history; `pages.RelayPages` is the other end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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

    async def answer(self, record: records.Before | records.After | records.Search) -> None:
        """Answer a request for a page, or a search."""
        try:
            check_deadline(record.deadline)
            messages = await self._read(record)
        except CommandError as refusal:
            self._say(records.Refused(record.number, Refusal.of(refusal)))
        else:
            self._say(records.Page(record.number, messages.payloads, messages.more))

    def _read(self, record: records.Before | records.After | records.Search) -> Awaitable[Messages]:
        match record:
            case records.Before(_, _, room, offset, limit):
                return self._pages.before(room, offset, limit)
            case records.After(_, _, room, offset, limit):
                return self._pages.after(room, offset, limit)
            case records.Search(_, _, room, query, limit):
                return self._pages.search(room, query, limit)
