"""An implementation of `fastchat.files.Files` in memory. A test can make it fail or wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastchat.errors import CommandError, ErrorCode
from fastchat.files import File
from fastchat.limits.connections import ConnectionCount
from support.server import TIMEOUT_UNIT_S


class FileWriterInMemory:
    """Implements `fastchat.files.FileWriter`, and checks that it is used according to its contract.

    `state` is "reserved", "withdrawn", "finished" or "abandoned". `data` is what was written, by
    `writes` calls.
    """

    def __init__(self, files: FilesInMemory, room: str, user: str, name: str, size: int) -> None:
        self.ticket = f"ticket-{len(files.writers)}"
        self.room, self.user, self.name, self.size = room, user, name, size
        self.data = bytearray()
        self.writes = 0
        self._is_busy = False
        self.state = "reserved"
        self._files = files

    async def write(self, data: bytes) -> None:
        assert self.state == "reserved", f"written when it was {self.state}"
        self.writes += 1
        self._files.changed.set()
        await self._wait_while_blocked()
        if self._files.failure is not None:
            raise self._files.failure
        self.data += data
        if len(self.data) > self.size:
            raise CommandError(ErrorCode.TOO_LONG, "More than was announced.")

    async def finish(self) -> File:
        assert self.state == "reserved", f"finished when it was {self.state}"
        assert len(self.data) == self.size
        self.state = "finished"
        self._files.changed.set()
        return File("i" * 32, self.room, self.name, self.size, "text/plain")

    async def abandon(self) -> None:
        await self._wait_while_blocked()
        assert self.state != "finished", "a complete file was abandoned"
        self.state = "abandoned"
        self._files.changed.set()

    async def _wait_while_blocked(self) -> None:
        assert not self._is_busy, "two calls are in progress"
        self._is_busy = True
        await self._files.wait_while_blocked()
        self._is_busy = False


class FilesInMemory:
    """Records the writers of all announced files, in order.

    * ``failure``: the exception that each announcement and write raises, if it is not None.
    * ``unblocked``: if it is not None, each call waits until this event is set.
    * ``changed``: is set when a writer is called.
    * ``transfers``: counts concurrent transfers without a limit.
    """

    max_bytes = 1_000_000

    def __init__(self) -> None:
        self.writers: list[FileWriterInMemory] = []
        self.failure: Exception | None = None
        self.unblocked: asyncio.Event | None = None
        self.changed = asyncio.Event()
        self.transfers = ConnectionCount()

    async def reserve(self, room: str, user: str, name: str, size: int) -> FileWriterInMemory:
        await self.wait_while_blocked()
        if self.failure is not None:
            raise self.failure
        if size > self.max_bytes:
            raise CommandError(ErrorCode.TOO_LONG, "Too long.")
        writer = FileWriterInMemory(self, room, user, name, size)
        self.writers.append(writer)
        return writer

    async def withdraw(self, room: str, user: str) -> None:
        await self.wait_while_blocked()
        for writer in self.writers:
            if (writer.room, writer.user, writer.writes) == (room, user, 0):
                writer.state = "withdrawn"
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds that calls of writers can change."""
        async with asyncio.timeout(5 * TIMEOUT_UNIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    def states(self) -> list[str]:
        """Return the states of all writers, in the order of their announcements."""
        return [writer.state for writer in self.writers]

    async def wait_while_blocked(self) -> None:
        """Give other tasks a turn, as a call in a thread does, and wait for `unblocked`."""
        await asyncio.sleep(0)
        if self.unblocked is not None:
            await self.unblocked.wait()
