"""In the place of `fastchat.files.Files`: keeps all in memory, and fails or waits when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastchat.errors import CommandError, ErrorCode
from fastchat.files import File
from fastchat.limits.connections import ConnectionCount
from support.server import TIMEOUT_UNIT_S


class ShelfUpload:
    """One that is under way; `gate` holds its writes up, `failure` is what they raise."""

    def __init__(self, shelf: Shelf, room: str, author: str, name: str, size: int) -> None:
        self.ticket = f"ticket-{len(shelf.uploads)}"
        self.room, self.author, self.name, self.size = room, author, name, size
        self.data = bytearray()
        self.writes = 0
        self._is_busy = False
        self.state = "reserved"
        self._shelf = shelf

    async def write(self, data: bytes) -> None:
        assert self.state == "reserved", f"written when it was {self.state}"
        self.writes += 1
        self._shelf.changed.set()
        await self._pass_gate()
        if self._shelf.failure is not None:
            raise self._shelf.failure
        self.data += data
        if len(self.data) > self.size:
            raise CommandError(ErrorCode.TOO_LONG, "More than was announced.")

    async def finish(self) -> File:
        assert self.state == "reserved", f"finished when it was {self.state}"
        assert len(self.data) == self.size
        self.state = "finished"
        self._shelf.changed.set()
        return File("i" * 32, self.room, self.name, self.size, "text/plain")

    async def abandon(self) -> None:
        await self._pass_gate()
        assert self.state != "finished", "a file was given up that is complete"
        self.state = "abandoned"
        self._shelf.changed.set()

    async def _pass_gate(self) -> None:
        assert not self._is_busy, "two calls at a time"
        self._is_busy = True
        await self._shelf.pass_gate()
        self._is_busy = False


class Shelf:
    """What is announced and written, in order."""

    max_bytes = 1_000_000

    def __init__(self) -> None:
        self.uploads: list[ShelfUpload] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.changed = asyncio.Event()
        self.places = ConnectionCount()  # of those that come at once

    async def reserve(self, room: str, author: str, name: str, size: int) -> ShelfUpload:
        await self.pass_gate()
        if self.failure is not None:
            raise self.failure
        if size > self.max_bytes:
            raise CommandError(ErrorCode.TOO_LONG, "Too long.")
        upload = ShelfUpload(self, room, author, name, size)
        self.uploads.append(upload)
        return upload

    async def withdraw(self, room: str, author: str) -> None:
        await self.pass_gate()
        for upload in self.uploads:
            if (upload.room, upload.author, upload.writes) == (room, author, 0):
                upload.state = "withdrawn"
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what comes of a write, or of the end of an upload."""
        async with asyncio.timeout(5 * TIMEOUT_UNIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    def states(self) -> list[str]:
        return [upload.state for upload in self.uploads]

    async def pass_gate(self) -> None:
        await asyncio.sleep(0)  # as a thread takes a turn of the loop at least
        if self.gate is not None:
            await self.gate.wait()
