"""Pages of a history that the relay writes: requested from the relay, or read from its file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from fastchat.brokers import Pages
from fastchat.brokers.relay import records
from fastchat.brokers.relay.client import RelayBroker
from fastchat.errors import HistoryError
from fastchat.history.reader import HistoryReader
from fastchat.rooms import Messages
from fastchat.rooms.messages import page_of
from fastchat.rooms.refusals import unavailable

__all__ = ["FilePages", "RelayPages"]

logger = logging.getLogger("fastchat.broker")


class RelayPages:
    """Implements `fastchat.brokers.Pages` by requests to the relay.

    It serves the history in memory, which only the relay can read. A method raises CommandError
    `unavailable` if the relay does not reply in time.
    """

    def __init__(self, relay: RelayBroker) -> None:
        self._relay = relay

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        return await self._ask(
            lambda number, deadline: records.Before(number, deadline, room, offset, limit)
        )

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        return await self._ask(
            lambda number, deadline: records.After(number, deadline, room, offset, limit)
        )

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return await self._ask(
            lambda number, deadline: records.Search(number, deadline, room, query, limit),
            self._relay.bounds.search_s,
        )

    async def _ask(
        self, make: Callable[[int, float], records.Request], patience_s: float | None = None
    ) -> Messages:
        pages: list[Messages] = []
        await self._relay.ask(
            make,
            records.Page,
            lambda reply: pages.append(Messages(reply.payloads, reply.more)),
            patience_s,
        )
        return pages[0]


class FilePages:
    """Implements `fastchat.brokers.Pages` by reading the history's file in this process.

    Therefore clients can read the history while there is no relay. Only a search is passed to
    `searching`, because the search index belongs to the process that writes the history. A method
    raises CommandError `unavailable` if the file cannot be read.
    """

    def __init__(self, reader: HistoryReader, searching: Pages) -> None:
        self._reader = reader
        self._searching = searching

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        with _reading():
            return page_of(self._reader.before(room, offset, limit), newest_first=True)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        with _reading():
            return page_of(self._reader.after(room, offset, limit), newest_first=False)

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return await self._searching.search(room, query, limit)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except HistoryError as error:
        logger.warning("a page of the history cannot be read: %s", error)
        raise unavailable() from None
