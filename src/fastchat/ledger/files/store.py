"""Files in the ledger: `fastchat.files.Files` for one of a machine's processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastchat.errors import CommandError
from fastchat.files import TICKET_S, File, busy
from fastchat.files.ids import hasher, id_of
from fastchat.files.links import clean_name
from fastchat.files.media import OTHER, Media, sniff
from fastchat.files.quotas import charge_of
from fastchat.files.refusals import (
    disk_full,
    incomplete,
    interrupted,
    quota_announced,
    quota_used_up,
    ticket_used,
    too_large,
    too_long,
    total_used_up,
    unavailable,
)
from fastchat.files.tickets import digest_of, new_ticket
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.files.cache import CACHE_BYTES, Cache
from fastchat.ledger.files.connection import FilesConnection
from fastchat.ledger.files.contents import PIECE_BYTES, Copying, LedgerContent
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.url import EngineUrl
from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.metrics import Metrics

__all__ = ["LedgerFiles"]

logger = logging.getLogger("fastchat.files")

Result = TypeVar("Result")

#: What the functions in `files.sql` say of a file.
_ACCEPTED, _TOTAL, _USER, _ANNOUNCED, _GONE = range(5)
#: The SQLSTATE of a disk that is full.
_DISK_FULL = "53100"
#: Bytes a second that all machines together store (`pace` in `files.sql`). At this rate, the p99 of
#: a message is what it is without files; at 16 MiB/s it is 1.3 times, and without a limit 3 times
#: as much.
STORE_RATE = 8 << 20
#: A piece that has to wait longer for its turn is refused. Over HTTP, an upload ends if it makes no
#: progress for 30 s.
LONGEST_WAIT_S = 10.0
#: Bytes a second that a process reads. Messages do not suffer from more, but the event loop would.
READ_RATE = 64 << 20
#: The time between two comparisons of the copies on the disk with the index.
SWEEP_INTERVAL_S = 60.0
#: The copies that one question to the index is about.
_COMPARED = 1000
#: The cache is brought to its size after this many new bytes, at the latest.
_SHRINK_BYTES = 64 << 20
_THREADS = 4

_RESERVE = "SELECT refusal, seconds, number FROM reserve_1($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_WITHDRAW = 'DELETE FROM uploads WHERE room = $1 AND "user" = $2 AND claim IS NULL'
_FIND = """
SELECT number, room, name, size FROM uploads
WHERE ticket = $1 AND claim IS NULL AND expires > clock_timestamp()
"""
_BEGIN = "SELECT begin_1($1, $2, $3)"
_PUT = "SELECT put_1($1, $2, $3, $4, $5)"
_FINISH = "SELECT refusal, seconds FROM finish_1($1, $2, $3, $4, $5, $6, $7)"
_ABANDON = "SELECT abandon_1($1, $2)"
_FILE = "SELECT size, media_type, content FROM files WHERE id = $1"
_IS_COMPLETE = "SELECT is_complete_1($1, $2)"
_PIECE = "SELECT data FROM pieces WHERE content = $1 AND n = $2"
_MISSING = """
SELECT u.id FROM unnest($1::text[]) AS u(id)
WHERE NOT EXISTS (SELECT 1 FROM files f WHERE f.id = u.id)
"""


class Announced(NamedTuple):
    """An announced file, by its number in the ledger."""

    number: int
    room: str
    name: str
    size: int


class LedgerFiles:
    """Shared files in the ledger at `url`. Implements `fastchat.files.Files`, in one event loop.

    * ``cache``: a folder of this machine for copies of contents, which is created.
    * ``witness``: returns what the machine has seen of the ledger; it is called in a thread.
    * ``max_bytes``: the size of the largest file.
    * ``max_user_bytes``, ``max_total_bytes``: the quotas of one user and of all machines.
    * ``share``: which one it is of several ledgers.
    * ``store_rate``: bytes a second that all machines together store in PostgreSQL.
    * ``read_rate``: bytes a second that this process reads there. A rate of 0 is no limit.

    Nothing is connected before a method is called.
    """

    def __init__(
        self,
        url: EngineUrl,
        *,
        cache: Path,
        witness: Callable[[], Witness],
        max_bytes: int,
        max_user_bytes: int,
        max_total_bytes: int,
        metrics: Metrics,
        share: Share | None = None,
        cache_bytes: int = CACHE_BYTES,
        store_rate: float = STORE_RATE,
        read_rate: float = READ_RATE,
    ) -> None:
        self.max_bytes = min(max_bytes, max_user_bytes, max_total_bytes)
        self.max_user_bytes = max_user_bytes
        self.max_total_bytes = max_total_bytes
        self.metrics = metrics
        self.cache = Cache(cache, cache_bytes)
        self._connection = FilesConnection(url, witness, share)
        self._store_rate = store_rate
        self._storing = asyncio.Lock()
        self._may_store_s = 0.0  # when the next piece can be stored, by the loop's clock
        self._reading = TokenBuckets(Budget(read_rate, PIECE_BYTES))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fastchat-files")
        self._copying: dict[str, Copying] = {}
        self._copied = 0  # bytes since the cache was brought to its size
        self._sweeping: asyncio.Task[None] | None = None
        self._is_closed = False

    def close(self) -> None:
        self._is_closed = True
        self._connection.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._threads.shutdown()

    async def reserve(self, room: str, user: str, name: str, size: int) -> LedgerFileWriter:
        if size > self.max_bytes:
            raise too_large(self.max_bytes)
        name, ticket = clean_name(name), new_ticket()
        ((refusal, seconds, number),) = await self.run(
            _RESERVE,
            *(room, user, name, size, charge_of(size), digest_of(ticket), TICKET_S),
            *(self.max_user_bytes, self.max_total_bytes),
        )
        check(refusal, seconds)
        return LedgerFileWriter(self, ticket, Announced(number, room, name, size))

    async def withdraw(self, room: str, user: str) -> None:
        with contextlib.suppress(CommandError):  # it is logged, and the tickets expire
            await self.run(_WITHDRAW, room, user)

    async def find(self, ticket: str) -> LedgerFileWriter | None:
        rows = await self.run(_FIND, digest_of(ticket))
        return LedgerFileWriter(self, ticket, Announced(*rows[0])) if rows else None

    async def claim(self, ticket: str) -> LedgerFileWriter | None:
        writer = await self.find(ticket)
        return writer if writer is not None and await writer.start() else None

    async def stat(self, id: str) -> tuple[int, str] | None:
        rows = await self.run(_FILE, id)
        return (rows[0]["size"], rows[0]["media_type"]) if rows else None

    async def open(self, id: str) -> LedgerContent | None:
        rows = await self.run(_FILE, id)
        if not rows:
            await self.in_thread(self.cache.remove, id)
            return None
        size, media_type, content = rows[0]
        descriptor = await self.in_thread(self.cache.open, id, size)
        if descriptor is not None:
            return LedgerContent(self, id, size, media_type, content, descriptor=descriptor)
        copying = self._copying.get(id)
        if copying is None:
            if not await self.value(_IS_COMPLETE, content, size):
                logger.warning("the content of a file is missing or damaged: %s", id)
                return None
            copy = await self.in_thread(self.cache.begin, size)
            if copy is None:
                return LedgerContent(self, id, size, media_type, content)
            copying = self._copying.get(id)
            if copying is not None:  # another reader has come meanwhile
                self.cache.end(copy)
            else:
                copying = self._copying[id] = Copying(self, id, size, content, copy)
        return LedgerContent(self, id, size, media_type, content, copying=copying)

    # For the writers and the contents

    async def run(
        self, query: str, *arguments: Any, patience_s: float | None = None
    ) -> Sequence[Any]:
        """Run a statement, which can be run twice, and return its rows.

        If the ledger fails, the method logs it and raises CommandError (`unavailable`).
        """
        if self._sweeping is None and not self._is_closed:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep_forever())
        try:
            return await self._connection.run(query, *arguments, patience_s=patience_s)
        except NotCommittedError as error:
            logger.error("cannot store or read a file: %s", error)
            if error.code == _DISK_FULL:
                self.metrics.full_disk_refusals_total += 1
                raise disk_full() from error
            raise unavailable() from error
        except LedgerError as error:
            logger.error("cannot store or read a file: %s", error)
            raise unavailable() from error

    async def value(self, query: str, *arguments: Any) -> Any:
        """Do what `run` does for a statement with one row of one column, and return the value."""
        ((value,),) = await self.run(query, *arguments)
        return value

    async def in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function in a thread, and return its result. Raises CommandError after `close`."""
        if self._is_closed:
            raise unavailable()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    async def key(self) -> bytes:
        """The secret key of the digests that are ids."""
        if not self._connection.key:
            await self.run("SELECT 1")
        return self._connection.key

    @property
    def claims(self) -> set[int]:
        """Those of the uploads that this process is receiving."""
        return self._connection.claims

    async def put(self, announced: Announced, claim: int, n: int, piece: bytes) -> bool:
        """Store a piece of an incoming file; returns whether it is still there."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._storing.acquire()
        except TimeoutError:
            raise busy() from None
        try:
            await asyncio.sleep(self._may_store_s - loop.time())
            arguments = announced.number, claim, n, piece, self._store_rate
            wait_s = await self.value(_PUT, *arguments)
            self._may_store_s = loop.time() + (wait_s or 0.0)
        finally:
            self._storing.release()
        return wait_s is not None

    async def piece(self, content: int, n: int, size: int) -> bytes:
        """Read a piece of `size` bytes of a content; the result is empty if there is none."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(self._reading.spend("", now, size))
        rows = await self.run(_PIECE, content, n)
        return bytes(rows[0][0]) if rows else b""

    def copied(self, copying: Copying, *, is_kept: bool) -> None:
        """A copy has ended; called in the loop."""
        if self._copying.get(copying.id) is copying:
            del self._copying[copying.id]
        self._copied += copying.size if is_kept else 0
        if self._copied >= _SHRINK_BYTES and not self._is_closed:
            self._copied = 0
            self._threads.submit(self.cache.shrink)

    # The sweep

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            with contextlib.suppress(CommandError, LedgerError):  # the next sweep tries again
                await self.sweep()

    async def sweep(self) -> None:
        """Remove the copies of deleted files, and end uploads that could not be abandoned.

        Raises CommandError or LedgerError.
        """
        await self._connection.own()
        await self.in_thread(self.cache.shrink)
        ids = await self.in_thread(self.cache.ids)
        for start in range(0, len(ids), _COMPARED):
            for (id,) in await self.run(_MISSING, ids[start : start + _COMPARED]):
                await self.in_thread(self.cache.remove, id)


class LedgerFileWriter:
    """Implements `fastchat.files.FileWriter`.

    It collects the bytes of a piece in memory, and stores it when it is complete. `_claim` is 0
    until the file has started; `_is_over` is true when the file is stored or abandoned.
    """

    def __init__(self, files: LedgerFiles, ticket: str, announced: Announced) -> None:
        self._files = files
        self._announced = announced
        self.ticket = ticket
        self.room = announced.room
        self.name = announced.name
        self.size = announced.size
        self._claim = 0
        self._has_started = False
        self._received = self._pieces = 0
        self._buffer = bytearray()
        self._media = Media(OTHER)
        self._is_over = False

    async def start(self) -> bool:
        """Use the ticket. Returns False if it is used or expired. Raises as `write` does."""
        self._hash = hasher(await self._files.key(), self.room)
        if not self._claim:
            self._claim = secrets.randbits(62) | 1
            self._files.claims.add(self._claim)
        refusal = await self._files.value(
            _BEGIN, self._announced.number, self._claim, self._files.max_total_bytes
        )
        if refusal == _GONE:
            self._files.claims.discard(self._claim)
            return False
        check(refusal)
        self._has_started = True
        return True

    async def write(self, data: bytes) -> None:
        if self._is_over or not (self._has_started or await self.start()):
            raise ticket_used()
        if self._received + len(data) > self.size:
            raise too_long(self.size)
        self._received += len(data)
        self._buffer += data
        while len(self._buffer) >= PIECE_BYTES:
            await self._put(PIECE_BYTES)

    async def _put(self, size: int) -> None:
        """Store the first `size` bytes of the buffer as the next piece."""
        piece, n = bytes(self._buffer[:size]), self._pieces
        del self._buffer[:size]
        self._pieces += 1
        if n == 0:
            self._media = await self._files.in_thread(sniff, piece)
        await self._files.in_thread(self._hash.update, piece)
        if not await self._files.put(self._announced, self._claim, n, piece):
            raise interrupted()

    async def finish(self) -> File:
        missing = self.size - self._received
        if missing or self._is_over or not self._has_started:
            raise incomplete(missing)
        if self._buffer:
            await self._put(len(self._buffer))
        file = File(id_of(self._hash), self.room, self.name, self.size, *self._media)
        ((refusal, seconds),) = await self._files.run(
            _FINISH,
            *(self._announced.number, self._claim, file.id),
            *(file.media_type, file.width, file.height, self._files.max_user_bytes),
        )
        if refusal == _GONE:
            raise interrupted()
        check(refusal, seconds)
        self._is_over = True
        self._files.claims.discard(self._claim)
        self._files.metrics.files_total += 1
        self._files.metrics.file_bytes_total += self.size
        return file

    async def abandon(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._buffer.clear()
        self._files.claims.discard(self._claim)
        with contextlib.suppress(CommandError):  # it is logged, and a sweep tries again
            await self._files.run(_ABANDON, self._announced.number, self._claim, patience_s=0)


def check(refusal: int, seconds: float | None = None) -> None:
    """Raise the CommandError for what the ledger has said of a file, if it is a refusal."""
    if refusal == _TOTAL:
        raise total_used_up()
    if refusal == _USER:
        raise quota_used_up()
    if refusal == _ANNOUNCED:
        raise quota_announced(seconds or 0.0)
