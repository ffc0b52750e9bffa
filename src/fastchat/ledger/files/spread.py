"""Shared files of a chat whose rooms are spread over several ledgers.

A file is in the ledger of its room, because the transaction that stores or deletes a message with a
link decides about the file as well. So the quotas are those of each ledger. A link and a ticket do
not say which ledger has the file; all are asked, and the one that has it is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fastchat.errors import CommandError
from fastchat.files import Content, FileWriter
from fastchat.files.refusals import unavailable
from fastchat.ledger.files.store import LedgerFiles, LedgerFileWriter
from fastchat.ledger.identity import Share
from fastchat.ledger.sharing import discover_all, owner_of
from fastchat.ledger.url import EngineUrl

__all__ = ["SpreadFiles"]

Result = TypeVar("Result")

#: The time before it is asked again what is at a URL that could not be reached.
RETRY_S = 1.0
#: A process that can reach one ledger waits for the others for so long.
OTHERS_S = 0.5
#: Files whose ledgers are remembered.
_REMEMBERED = 1 << 14


class SpreadFiles:
    """Shared files in the ledgers at `urls`. Implements `fastchat.files.Files`, in one event loop.

    `make` returns the files of one of the ledgers. Nothing is connected before a method is called.
    """

    def __init__(
        self,
        urls: Sequence[EngineUrl],
        make: Callable[[EngineUrl, Share], LedgerFiles],
        *,
        max_bytes: int,
    ) -> None:
        self.max_bytes = max_bytes
        self._urls = urls
        self._make = make
        self._ids: tuple[str, ...] = ()
        self._by_id: dict[str, LedgerFiles] = {}
        self._known: set[EngineUrl] = set()
        self._learning = asyncio.Lock()
        self._learnt_s = float("-inf")
        self._owners: OrderedDict[str, LedgerFiles] = OrderedDict()  # of files that were found
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True
        for files in self._by_id.values():
            files.close()

    async def reserve(self, room: str, user: str, name: str, size: int) -> FileWriter:
        return await (await self._of(room)).reserve(room, user, name, size)

    async def withdraw(self, room: str, user: str) -> None:
        with contextlib.suppress(CommandError):  # the tickets expire
            await (await self._of(room)).withdraw(room, user)

    async def claim(self, ticket: str) -> FileWriter | None:
        writer = await self.find(ticket)
        return writer if writer is not None and await writer.start() else None

    async def find(self, ticket: str) -> LedgerFileWriter | None:
        found = await self._ask(lambda files: files.find(ticket))
        return None if found is None else found[1]

    async def stat(self, id: str) -> tuple[int, str] | None:
        owner = await self._owner_of(id)
        return None if owner is None else await owner.stat(id)

    async def open(self, id: str) -> Content | None:
        owner = await self._owner_of(id)
        return None if owner is None else await owner.open(id)

    async def _owner_of(self, id: str) -> LedgerFiles | None:
        """The ledger that has a file; None if none has it. It can be deleted by now."""
        owner = self._owners.get(id)
        if owner is None:
            found = await self._ask(lambda files: files.stat(id))
            if found is None:
                return None
            owner = self._owners[id] = found[0]
            if len(self._owners) > _REMEMBERED:
                self._owners.popitem(last=False)
        return owner

    async def _of(self, room: str) -> LedgerFiles:
        """The files of a room's ledger. Raises CommandError if it cannot be reached."""
        if not self._ids or owner_of(room, self._ids) not in self._by_id:
            await self._learn()
        files = self._by_id.get(owner_of(room, self._ids)) if self._ids else None
        if files is None:
            raise unavailable()
        return files

    async def _ask(
        self, question: Callable[[LedgerFiles], Awaitable[Result | None]]
    ) -> tuple[LedgerFiles, Result] | None:
        """Ask all ledgers, until one has an answer that is not None.

        Raises CommandError if none has, and one could not be asked.
        """
        if len(self._known) < len(self._urls):
            await self._learn()
        missing = unavailable() if len(self._known) < len(self._urls) else None

        async def ask(files: LedgerFiles) -> tuple[LedgerFiles, Result] | None:
            answer = await question(files)
            return None if answer is None else (files, answer)

        asking = [asyncio.create_task(ask(files)) for files in self._by_id.values()]
        try:
            for each in asyncio.as_completed(asking):
                try:
                    if (answer := await each) is not None:
                        return answer
                except CommandError as error:
                    missing = error
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if missing is not None:
            raise missing
        return None

    async def _learn(self) -> None:
        """Find out which ledgers are at the URLs that are not known yet."""
        loop = asyncio.get_running_loop()
        async with self._learning:
            if self._is_closed or loop.time() < self._learnt_s + RETRY_S:
                return
            urls = [url for url in self._urls if url not in self._known]
            for url, identity, _ in await discover_all(urls, OTHERS_S, prepare=None):
                if identity is None or len(identity.ledgers) != len(self._urls):
                    continue
                if self._ids not in ((), identity.ledgers) or identity.ledger in self._by_id:
                    continue  # the process with the rooms says what is wrong
                self._ids = identity.ledgers
                share = Share(identity.ledger, identity.ledgers)
                self._by_id[identity.ledger] = self._make(url, share)
                self._known.add(url)
            if len(self._known) < len(self._urls):
                self._learnt_s = loop.time()
