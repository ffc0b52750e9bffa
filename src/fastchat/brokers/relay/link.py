"""A worker's connection to the relay, which is found again whenever it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, cast

from fastchat.brokers.relay.records import FromRelay, from_relay
from fastchat.brokers.relay.wire import RecordReader, socket_path

__all__ = ["Link", "Owner"]

logger = logging.getLogger("fastchat.broker")

RETRY_S = 0.05
#: How long `close` waits for the relay to have read all.
CLOSE_S = 0.5


class Owner(Protocol):
    """Who speaks over a link."""

    def introduction(self) -> Iterable[bytes]:
        """What a relay is to hear first."""
        ...

    def on_record(self, record: FromRelay, /) -> None:
        """What the relay says. Raises whatever it likes: that costs the connection."""
        ...

    def on_end(self) -> None:
        """The relay is gone, and with it what was written last, perhaps."""
        ...


class Link:
    """Connects to the relay in `directory`, for ever; nothing is raised."""

    def __init__(self, directory: Path, owner: Owner) -> None:
        self._directory = directory
        self._owner = owner
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.closing = False

    @property
    def is_up(self) -> bool:
        """Whether there is a relay, and it has been sent the introduction."""
        return self._connection is not None

    @property
    def backlog_bytes(self) -> int:
        """What the relay has not read."""
        if self._connection is None:
            return 0
        return self._connection.transport.get_write_buffer_size()

    def start(self) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def write(self, data: bytes) -> None:
        """Send; without a relay, or where it has just gone, it is lost."""
        if self._connection is not None and not self._connection.transport.is_closing():
            self._connection.transport.write(data)

    async def close(self) -> None:
        """Let the relay read what was written, and hang up."""
        self.closing = True
        if self._connecting is not None:
            self._connecting.cancel()
        connection = self._connection
        if connection is not None:
            connection.transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await connection.ended.wait()

    async def _connect(self) -> None:
        while True:
            try:
                connection = await self._dial()
            except OSError:
                pass
            else:
                await connection.ended.wait()
            await asyncio.sleep(RETRY_S)

    async def _dial(self) -> _Connection:
        loop = asyncio.get_running_loop()
        with socket_path(self._directory) as path:
            _, connection = await loop.create_unix_connection(lambda: _Connection(self), path)
        return connection

    def _opened(self, connection: _Connection) -> None:
        self._connection = connection
        connection.transport.write(b"".join(self._owner.introduction()))

    def _lost(self) -> None:
        if self._connection is not None:
            self._connection = None
            self._owner.on_end()


class _Connection(asyncio.Protocol):
    transport: asyncio.WriteTransport

    def __init__(self, link: Link) -> None:
        self._link = link
        self._reader = RecordReader(from_relay)
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self._link._opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for record in self._reader.feed(data):
                self._link._owner.on_record(record)
        except Exception:  # a fault of either side costs the connection, not the worker
            logger.exception("the relay said something that is not understood; connecting anew")
            self.transport.abort()
            self._link._lost()

    def connection_lost(self, error: Exception | None) -> None:
        self._link._lost()
        self.ended.set()
