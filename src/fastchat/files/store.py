"""Files on this machine's disk: `fastchat.files.Files` for one of a server's processes.

All that touches the disk or the index is done in threads. What a client sends is written as it
comes; nothing waits in memory but one piece of each file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import threading
from base64 import b32encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from fastchat.errors import CommandError, ErrorCode, FilesError, SettingError
from fastchat.files import File
from fastchat.files.contents import Contents
from fastchat.files.index import FOLDER, Announced, Index
from fastchat.files.links import clean_name
from fastchat.files.media import HEAD_BYTES, sniff
from fastchat.files.space import Disk, Space, space_of
from fastchat.metrics import Metrics

__all__ = ["Content", "DiskFileWriter", "FileStore"]

logger = logging.getLogger("fastchat.files")

Result = TypeVar("Result")

#: They wait for the disk, mostly; a few keep one slow file from holding up the others.
_THREADS = 4
_TICKET_BYTES = 24
_ID_BYTES = 20


class FileStore:
    """Keeps files in `data`, none larger than `max_bytes`.

    `max_author_bytes` are one author's, `max_total_bytes` everybody's; and some of the disk, which
    `measure` tells, stays free (`fastchat.files.space`). With `sync` a file that is kept survives a
    power loss. How many come and go at once is counted by whoever has them
    do so. Raises SettingError with one sentence when what is there cannot be used.
    """

    def __init__(
        self,
        data: Path,
        *,
        max_bytes: int,
        max_author_bytes: int,
        max_total_bytes: int,
        sync: bool,
        clock: Callable[[], float],
        metrics: Metrics,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        self.max_bytes = min(max_bytes, max_author_bytes, max_total_bytes)
        self.contents = Contents(data / FOLDER)
        self.index = Index(
            data / FOLDER,
            clock=clock,
            max_author_bytes=max_author_bytes,
            max_total_bytes=max_total_bytes,
            sync_commits=sync,
            check_disk=self._check_disk,
        )
        self._disk = Disk(data / FOLDER, measure, metrics)
        self.sync = sync
        self.metrics = metrics
        self._key: bytes | None = None
        self._is_closed = False
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fastchat-files")
        try:
            self.index.open()
        except FilesError as error:
            logger.error("files cannot be taken, which is tried again: %s", error)

    def close(self) -> None:
        """Wait for what is under way on the disk; afterwards everything is `unavailable`."""
        self._is_closed = True
        self._threads.shutdown()
        self.index.close()

    async def reserve(self, room: str, author: str, name: str, size: int) -> DiskFileWriter:
        if size > self.max_bytes:
            raise CommandError(ErrorCode.TOO_LONG, f"A file has at most {self.max_bytes:,} bytes.")
        return await self.run(self._reserve, room, author, clean_name(name), size)

    async def withdraw(self, room: str, author: str) -> None:
        with contextlib.suppress(CommandError):  # logged; the tickets end by themselves
            await self.run(self.index.withdraw_all, room, author)

    async def find(self, ticket: str) -> DiskFileWriter | None:
        """As `claim`, but nothing is used by that."""
        return await self.run(self._find, ticket)

    async def claim(self, ticket: str) -> DiskFileWriter | None:
        return await self.run(self._claim, ticket)

    async def stat(self, id: str) -> tuple[int, str] | None:
        """The size and the media type of a file; None if there is none. Raises CommandError."""
        return await self.run(self._stat, id)

    async def open(self, id: str) -> Content | None:
        """A file to be read, and closed; None if there is none. Raises CommandError."""
        return await self.run(self._open, id)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call it in a thread. A disk that fails is `unavailable`."""
        if self._is_closed:
            raise _unavailable()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _disk_errors, function, *arguments)

    # In threads

    def _reserve(self, room: str, author: str, name: str, size: int) -> DiskFileWriter:
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        announced = self.index.reserve(room, author, name, size, _digest_of(ticket))
        return DiskFileWriter(self, ticket, announced)

    def _check_disk(self, size: int, started: Sequence[tuple[int, int]]) -> None:
        self._disk.check(size, sum(self.contents.missing_bytes(*each) for each in started))

    def _find(self, ticket: str) -> DiskFileWriter | None:
        announced = self.index.find(_digest_of(ticket))
        return None if announced is None else DiskFileWriter(self, ticket, announced)

    def _claim(self, ticket: str) -> DiskFileWriter | None:
        writer = self._find(ticket)
        return writer if writer is not None and writer.start() else None

    def _stat(self, id: str) -> tuple[int, str] | None:
        content = self._open(id)
        if content is None:
            return None
        content.close()
        return content.size, content.media_type

    def _open(self, id: str) -> Content | None:
        known = self.index.size_and_type(id)
        if known is None:
            return None
        size, media_type = known
        descriptor = self.contents.open(id)
        if descriptor is not None and os.fstat(descriptor).st_size == size:
            return Content(self, descriptor, id, size, media_type)
        if descriptor is not None:
            os.close(descriptor)
        logger.warning("the content of a file is lost or damaged: %s", id)
        return None

    def hasher(self, room: str) -> hashlib.blake2b:
        """What makes an id of a content: the same in two rooms are two files."""
        if self._key is None:
            self._key = self.index.key()
        return hashlib.blake2b(room.encode() + b"\0", key=self._key, digest_size=_ID_BYTES)


class Content(NamedTuple):
    """A file that is open for reading."""

    store: FileStore
    descriptor: int
    id: str
    size: int
    media_type: str

    async def read(self, offset: int, size: int) -> bytes:
        return await self.store.run(os.pread, self.descriptor, size, offset)

    def close(self) -> None:
        os.close(self.descriptor)


class DiskFileWriter:
    """Implements `fastchat.files.FileWriter`."""

    def __init__(self, store: FileStore, ticket: str, announced: Announced) -> None:
        self._store = store
        self._announced = announced
        self.ticket = ticket
        self.room = announced.room
        self.name = announced.name
        self.size = announced.size
        self._lock = threading.Lock()  # a task that is cancelled leaves a thread at work
        self._descriptor: int | None = None
        self._received = 0
        self._is_over = False

    async def write(self, data: bytes) -> None:
        await self._store.run(self._write, data)

    async def finish(self) -> File:
        file = await self._store.run(self._finish)
        self._store.metrics.files_total += 1
        self._store.metrics.file_bytes_total += self.size
        return file

    async def abandon(self) -> None:
        with contextlib.suppress(CommandError):  # logged, and what is left is cleared away later
            await self._store.run(self._abandon)

    # In threads

    def start(self) -> bool:
        """Use the ticket; says whether that was possible. Raises CommandError as `write`."""
        try:
            self._hash = self._store.hasher(self.room)
            self._descriptor = self._store.contents.create(self._announced.number)
            if self._store.index.start(self._announced):
                return True
        except FileExistsError:  # it comes already
            pass
        except BaseException:
            self._release()
            raise
        self._release()
        return False

    def _release(self) -> None:
        """Let go of the temporary file."""
        if self._descriptor is not None:
            try:
                self._store.contents.discard(self._announced.number)
            finally:
                os.close(self._descriptor)
                self._descriptor = None

    def _write(self, data: bytes) -> None:
        with self._lock:
            is_open = self._descriptor is not None
            if self._is_over or not (is_open or self.start()):
                raise CommandError(
                    ErrorCode.FORBIDDEN, "The ticket is used or too old; announce the file again."
                )
            assert self._descriptor is not None
            if self._received + len(data) > self.size:
                raise CommandError(
                    ErrorCode.TOO_LONG, f"The file has more than the {self.size:,} bytes announced."
                )
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._received + done)
            self._hash.update(data)
            self._received += len(data)

    def _finish(self) -> File:
        with self._lock:
            missing = self.size - self._received
            if missing or self._is_over or self._descriptor is None:
                raise CommandError(
                    ErrorCode.BAD_COMMAND, f"The file is incomplete: {missing:,} bytes are missing."
                )
            store, announced = self._store, self._announced
            media = sniff(os.pread(self._descriptor, HEAD_BYTES, 0))
            id = b32encode(self._hash.digest()).decode("ascii").lower()
            file = File(id, self.room, self.name, self.size, *media)
            if store.sync:
                os.fsync(self._descriptor)
            store.index.set_id(announced, id)
            store.index.store(
                announced, file, lambda: store.contents.place(announced.number, id, sync=store.sync)
            )
            self._is_over = True
            self._release()
            return file

    def _abandon(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            if self._descriptor is None:  # it may be coming to who has shown the ticket
                self._store.index.withdraw(self._announced)
                return
            self._release()
            self._store.index.discard(self._announced.number, self._store.contents.remove)


def _digest_of(ticket: str) -> bytes:
    """What is kept of a ticket: who reads the index gets none that can be used."""
    return hashlib.blake2b(ticket.encode("utf-8", "replace"), digest_size=32).digest()


def _disk_errors(function: Callable[..., Result], *arguments: object) -> Result:
    """Call it; what the disk does is logged, and means that the client may try again."""
    try:
        return function(*arguments)
    except (FilesError, SettingError, OSError) as error:
        logger.error("a file cannot be kept or read: %s", error)
        raise _unavailable() from error


def _unavailable() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "Files cannot be kept or read at the moment; try again.",
        temporary=True,
    )
