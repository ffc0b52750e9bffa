"""Contents that are read from the ledger, or from their copies in the cache."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

from fastchat.errors import CommandError
from fastchat.ledger.files.cache import Copy

if TYPE_CHECKING:
    from fastchat.ledger.files.store import LedgerFiles

__all__ = ["PIECE_BYTES", "Copying", "LedgerContent"]

logger = logging.getLogger("fastchat.files")

#: The size of all pieces of a content but the last one.
PIECE_BYTES = 256 * 1024
#: A reader waits for the copy if it is at most so many pieces behind; otherwise the reader asks the
#: ledger for the piece itself.
_NEAR = 8


class Copying:
    """A content that is being copied to the cache. All who read it meanwhile read the copy.

    It goes on as long as there is a reader. If the disk or the ledger fails, the readers read the
    ledger themselves.
    """

    def __init__(self, files: LedgerFiles, id: str, size: int, content: int, copy: Copy) -> None:
        self.id = id
        self.size = size
        self.readers = 0
        self._files = files
        self._content = content
        self._copy = copy
        self._done = 0  # pieces
        self._is_over = False
        loop = asyncio.get_running_loop()
        self._progress: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._run())

    def open(self) -> int:
        """A descriptor of the copy for one more reader, who must close it and call `leave`."""
        descriptor = os.dup(self._copy.descriptor)
        self.readers += 1
        return descriptor

    def leave(self) -> None:
        self.readers -= 1

    async def has(self, n: int) -> bool:
        """Whether the copy has a piece; if it will have it soon, the method waits."""
        while self._done <= n < self._done + _NEAR and not self._is_over:
            await asyncio.shield(self._progress)
        return n < self._done

    async def _run(self) -> None:
        is_kept = False
        try:
            is_kept = await self._copy_pieces()
        except (CommandError, OSError) as error:
            logger.debug("a content cannot be copied: %s", error)
        finally:
            self._is_over = True
            self._advance()
            self._files.copied(self, is_kept=is_kept)
            self._files.cache.end(self._copy)

    async def _copy_pieces(self) -> bool:
        files, copy, offset = self._files, self._copy, 0
        while offset < self.size:
            if not self.readers and self._done:
                return False
            size = min(PIECE_BYTES, self.size - offset)
            piece = await files.piece(self._content, self._done, size)
            if len(piece) != size:
                return False
            await files.in_thread(files.cache.write, copy, piece, offset)
            offset += len(piece)
            self._done += 1
            self._advance()
        await files.in_thread(files.cache.keep, copy, self.id)
        return True

    def _advance(self) -> None:
        progress, self._progress = self._progress, asyncio.get_running_loop().create_future()
        progress.set_result(None)


class LedgerContent:
    """Implements `fastchat.files.Content`: a file that is open for reading.

    Its content is in a copy with a `descriptor`, or is being copied, or only the ledger has it.
    """

    def __init__(
        self,
        files: LedgerFiles,
        id: str,
        size: int,
        media_type: str,
        content: int,
        *,
        descriptor: int | None = None,
        copying: Copying | None = None,
    ) -> None:
        self.id = id
        self.size = size
        self.media_type = media_type
        self._files = files
        self._content = content
        self._descriptor = descriptor if copying is None else copying.open()
        self._copying = copying
        self._last: tuple[int, bytes] = -1, b""  # the last piece that was read from the ledger

    async def read(self, offset: int, size: int) -> bytes:
        n, start = divmod(offset, PIECE_BYTES)
        size = min(size, PIECE_BYTES - start)
        if self._descriptor is not None and (self._copying is None or await self._copying.has(n)):
            with contextlib.suppress(OSError):
                return await self._files.in_thread(os.pread, self._descriptor, size, offset)
        if self._last[0] != n and offset < self.size:
            whole = min(PIECE_BYTES, self.size - n * PIECE_BYTES)
            self._last = n, await self._files.piece(self._content, n, whole)
        return self._last[1][start : start + size] if self._last[0] == n else b""

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            if self._copying is not None:
                self._copying.leave()
