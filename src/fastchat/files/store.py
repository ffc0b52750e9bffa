"""Files on this machine's disk: `fastchat.files.Files` for one of a server's processes.

All work on the disk and in the index is done in threads. Each chunk that arrives is written before
the next one is read, so at most one chunk of each file is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from fastchat.errors import CommandError, FilesError, SettingError
from fastchat.files import File
from fastchat.files.contents import Contents
from fastchat.files.ids import hasher, id_of
from fastchat.files.index import FOLDER, Announced, Index
from fastchat.files.links import clean_name
from fastchat.files.media import HEAD_BYTES, sniff
from fastchat.files.refusals import incomplete, ticket_used, too_large, too_long, unavailable
from fastchat.files.space import Disk, Space, space_of
from fastchat.files.tickets import digest_of, new_ticket
from fastchat.metrics import Metrics

__all__ = ["DiskContent", "DiskFileWriter", "FileStore"]

logger = logging.getLogger("fastchat.files")

Result = TypeVar("Result")

#: There are several threads so that one slow file does not delay all others. They mostly wait for
#: the disk.
_THREADS = 4


class FileStore:
    """Stores files in the data directory `data`. Implements `fastchat.files.Files`.

    The event loop only waits for results: disk access happens in threads. Raises SettingError if
    the index is unusable.

    * ``max_bytes``: the size of the largest file.
    * ``max_user_bytes``, ``max_total_bytes``: the quotas of one user and of the server.
    * ``sync``: whether a stored file survives a loss of power.
    * ``clock``: returns seconds since 1970.
    * ``ages``: returns the time from which ages are measured (`fastchat.clocks`; default: `clock`).
    * ``create``: whether the folder and the index are created if they are missing.
    * ``measure``: returns the space on the disk, of which a part stays free for messages
      (`fastchat.files.space`).

    The store does not limit concurrent transfers. The WebSocket (`fastchat.files.incoming`) and
    HTTP (`fastchat.files.endpoints`) count their own.
    """

    def __init__(
        self,
        data: Path,
        *,
        max_bytes: int,
        max_user_bytes: int,
        max_total_bytes: int,
        sync: bool,
        clock: Callable[[], float],
        ages: Callable[[], float] | None = None,
        metrics: Metrics,
        create: bool = True,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        self.max_bytes = min(max_bytes, max_user_bytes, max_total_bytes)
        self.contents = Contents(data / FOLDER)
        self.index = Index(
            data / FOLDER,
            clock=clock,
            ages=ages,
            create=create,
            max_user_bytes=max_user_bytes,
            max_total_bytes=max_total_bytes,
            sync_commits=sync,
            check_disk=self._check_disk,
        )
        self._disk = Disk(data / FOLDER, measure, metrics)
        self.sync = sync
        self.metrics = metrics
        self._key: bytes | None = None
        self._is_closed = False
        # Separate threads, so that a download does not wait for an upload that waits for the index.
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="fastchat-files")
        self._writers = ThreadPoolExecutor(_THREADS, thread_name_prefix="fastchat-uploads")
        try:
            self.index.open()
        except FilesError as error:
            logger.error(
                "cannot open the index of files, so uploads fail until it opens: %s", error
            )

    def close(self) -> None:
        """Do what `Files.close` does, and wait for the work in the threads."""
        self._is_closed = True
        self.index.hurry()
        self._writers.shutdown()
        self._readers.shutdown()
        self.index.close()

    async def reserve(self, room: str, user: str, name: str, size: int) -> DiskFileWriter:
        if size > self.max_bytes:
            raise too_large(self.max_bytes)
        return await self.run_writing(self._reserve, room, user, clean_name(name), size)

    async def withdraw(self, room: str, user: str) -> None:
        with contextlib.suppress(CommandError):  # it is logged, and the tickets expire
            await self.run_writing(self.index.withdraw_all, room, user)

    async def find(self, ticket: str) -> DiskFileWriter | None:
        return await self.run(self._find, ticket)

    async def claim(self, ticket: str) -> DiskFileWriter | None:
        return await self.run_writing(self._claim, ticket)

    async def stat(self, id: str) -> tuple[int, str] | None:
        return await self.run(self._stat, id)

    async def open(self, id: str) -> DiskContent | None:
        return await self.run(self._open, id)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function that only reads in a thread, and return its result.

        If the disk fails, the method logs it and raises CommandError (`unavailable`).
        """
        return await self._run(self._readers, function, *arguments)

    async def run_writing(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Do what `run` does, for a function that may wait for other processes."""
        return await self._run(self._writers, function, *arguments)

    async def _run(
        self, threads: ThreadPoolExecutor, function: Callable[..., Result], *arguments: object
    ) -> Result:
        if self._is_closed:
            raise unavailable()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, _disk_errors, function, *arguments)

    # In threads

    def _reserve(self, room: str, user: str, name: str, size: int) -> DiskFileWriter:
        ticket = new_ticket()
        announced = self.index.reserve(room, user, name, size, digest_of(ticket))
        return DiskFileWriter(self, ticket, announced)

    def _check_disk(self, size: int, started: Sequence[tuple[int, int]]) -> None:
        self._disk.check(size, sum(self.contents.missing_bytes(*each) for each in started))

    def _find(self, ticket: str) -> DiskFileWriter | None:
        announced = self.index.find(digest_of(ticket))
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

    def _open(self, id: str) -> DiskContent | None:
        known = self.index.size_and_type(id)
        if known is None:
            return None
        size, media_type = known
        descriptor = self.contents.open(id)
        if descriptor is not None and os.fstat(descriptor).st_size == size:
            return DiskContent(self, descriptor, id, size, media_type)
        if descriptor is not None:
            os.close(descriptor)
        logger.warning("the content of a file is missing or damaged: %s", id)
        return None

    def hasher(self, room: str) -> hashlib.blake2b:
        """Return the hash that makes the id of a file in a room."""
        if self._key is None:
            self._key = self.index.key()
        return hasher(self._key, room)


class DiskContent(NamedTuple):
    """Implements `fastchat.files.Content`."""

    store: FileStore
    descriptor: int
    id: str
    size: int
    media_type: str

    async def read(self, offset: int, size: int) -> bytes:
        return await self.store.run(os.pread, self.descriptor, size, offset)

    def close(self) -> None:
        """Close the descriptor. The content of a deleted file is freed then."""
        os.close(self.descriptor)


class DiskFileWriter:
    """Implements `fastchat.files.FileWriter`.

    A writer is in one of these states:

    * not started: `_descriptor` is None, and `_is_over` is false;
    * started: `_descriptor` is the locked temporary file;
    * over: `_is_over` is true, and the temporary file does not exist any more. The file is stored,
      or the writer was abandoned.
    """

    def __init__(self, store: FileStore, ticket: str, announced: Announced) -> None:
        self._store = store
        self._announced = announced
        self.ticket = ticket
        self.room = announced.room
        self.name = announced.name
        self.size = announced.size
        # A cancelled task does not stop its thread, so two calls can be in progress.
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._received = 0
        self._is_over = False

    async def write(self, data: bytes) -> None:
        await self._store.run_writing(self._write, data)

    async def finish(self) -> File:
        file = await self._store.run_writing(self._finish)
        self._store.metrics.files_total += 1
        self._store.metrics.file_bytes_total += self.size
        return file

    async def abandon(self) -> None:
        with contextlib.suppress(CommandError):  # it is logged, and the retention removes the rest
            await self._store.run_writing(self._abandon)

    # In threads

    def start(self) -> bool:
        """Use the ticket. Returns False if it is used or expired. Raises as `write` does."""
        try:
            self._hash = self._store.hasher(self.room)
            self._descriptor = self._store.contents.create(self._announced.number)
            if self._store.index.start(self._announced):
                return True
        except FileExistsError:  # another writer has started this file
            pass
        except BaseException:
            self._release()
            raise
        self._release()
        return False

    def _release(self) -> None:
        """Remove and close the temporary file."""
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
                raise ticket_used()
            assert self._descriptor is not None
            if self._received + len(data) > self.size:
                raise too_long(self.size)
            done = 0
            while done < len(data):
                done += os.pwrite(self._descriptor, data[done:], self._received + done)
            self._hash.update(data)
            self._received += len(data)

    def _finish(self) -> File:
        with self._lock:
            missing = self.size - self._received
            if missing or self._is_over or self._descriptor is None:
                raise incomplete(missing)
            store, announced = self._store, self._announced
            media = sniff(os.pread(self._descriptor, HEAD_BYTES, 0))
            id = id_of(self._hash)
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
            if self._descriptor is None:
                # If another writer has started the file with its ticket, nothing changes.
                self._store.index.withdraw(self._announced)
                return
            self._release()
            self._store.index.discard(self._announced.number, self._store.contents.remove)


def _disk_errors(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function. If the disk fails, log it, and raise `unavailable`."""
    try:
        return function(*arguments)
    except (FilesError, SettingError, OSError) as error:
        logger.error("cannot store or read a file: %s", error)
        raise unavailable() from error
