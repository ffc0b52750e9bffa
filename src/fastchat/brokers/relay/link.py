"""A worker's connection to the relay, which is found again whenever it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast

from fastchat.brokers.relay.records import FromRelay, decode_from_relay
from fastchat.brokers.relay.wire import RecordReader, socket_path

__all__ = ["Link", "Owner"]

logger = logging.getLogger("fastchat.broker")

#: How long `close` waits for the relay to have read all.
CLOSE_S = 0.5


class Owner(Protocol):
    """The user of a link: it speaks to a relay, and hears what the relay says."""

    def introduction(self) -> Iterable[bytes]:
        """Encoded records that a relay must read before all others."""
        ...

    def on_record(self, record: FromRelay, /) -> None:
        """Take a record of the relay. An exception of any kind ends the connection."""
        ...

    def on_end(self) -> None:
        """Hear that the connection has ended; what was written last may not have been read."""
        ...


class Link:
    """Connects to the relay in `directory`, for ever; nothing is raised.

    It tries again after `retry_s`. It is clogged while the relay has left more than
    `max_backlog_bytes` unread.
    """

    def __init__(
        self,
        directory: Path,
        owner: Owner,
        *,
        retry_s: float,
        max_backlog_bytes: int,
        max_record_bytes: int,
    ) -> None:
        self._directory = directory
        self._owner = owner
        self._retry_s = retry_s
        self._max_backlog_bytes = max_backlog_bytes
        self._max_record_bytes = max_record_bytes
        self._connection: _Connection | None = None  # the newest, also before it is open
        self._connecting: asyncio.Task[None] | None = None
        self.closing = False

    @property
    def is_up(self) -> bool:
        """Whether there is a relay, and it has been sent the introduction."""
        return self._connection is not None and self._connection.is_open

    @property
    def backlog_bytes(self) -> int:
        """What the relay has not read."""
        return 0 if self._connection is None else self._connection.backlog_bytes

    @property
    def is_clogged(self) -> bool:
        """Whether the relay has left so much unread that nothing more is asked of it."""
        return self.backlog_bytes > self._max_backlog_bytes

    def start(self) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def write(self, data: bytes) -> None:
        """Send; without a relay, or where it has just gone, it is lost."""
        if self._connection is not None:
            self._connection.write(data)

    async def close(self) -> None:
        """Let the relay read what was written, and hang up."""
        self.closing = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._connection.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                with socket_path(self._directory) as path:
                    _, connection = await loop.create_unix_connection(self._new_connection, path)
            except OSError:
                pass
            else:
                await connection.ended.wait()
            await asyncio.sleep(self._retry_s)

    def _new_connection(self) -> _Connection:
        # Known at once: what the relay says first may come before `_connect` goes on.
        self._connection = _Connection(self._owner, self._max_record_bytes)
        return self._connection


class _Connection(asyncio.Protocol):
    """One connection to a relay. Its owner introduces itself first, and is told of its end once.

    It is open from there until the relay has gone, or has said what is not understood.
    """

    transport: asyncio.WriteTransport

    def __init__(self, owner: Owner, max_record_bytes: int) -> None:
        self._owner = owner
        self._reader = RecordReader(decode_from_relay, max_record_bytes=max_record_bytes)
        self.is_open = False
        self.ended = asyncio.Event()

    @property
    def backlog_bytes(self) -> int:
        return self.transport.get_write_buffer_size() if self.is_open else 0

    def write(self, data: bytes) -> None:
        if self.is_open and not self.transport.is_closing():
            self.transport.write(data)

    async def close(self) -> None:
        """Hang up when all has been read, and wait for that."""
        if self.is_open:
            self.transport.close()
            await self.ended.wait()

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.is_open = True
        self.transport.write(b"".join(self._owner.introduction()))

    def data_received(self, data: bytes) -> None:
        try:
            for record in self._reader.feed(data):
                self._owner.on_record(record)
        except Exception:  # a fault of either side costs the connection, not the worker
            logger.exception("the relay said something that is not understood; connecting anew")
            self.transport.abort()
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        self.ended.set()

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self._owner.on_end()
