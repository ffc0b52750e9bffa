"""A worker's connection to the relay, which is made again whenever it is lost."""

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

#: How long `close` waits for the relay to read what was written. It bounds how much longer a worker
#: takes to end if the relay hangs.
CLOSE_S = 0.5


class Owner(Protocol):
    """The user of a link, which sends records to a relay and receives the relay's records."""

    def introduction(self) -> Iterable[bytes]:
        """Return encoded records that are sent first on every connection."""
        ...

    def on_record(self, record: FromRelay, /) -> None:
        """Handle a record of the relay. If it raises an exception, the connection is closed."""
        ...

    def on_end(self) -> None:
        """Note that the connection has ended. The relay may not have read what was written last."""
        ...


class Link:
    """Connects to the relay whose socket is in `directory`, and reconnects until `close`.

    If there is no relay, it tries again every `retry_s` seconds. It raises nothing. It is clogged
    while the relay has more than `max_backlog_bytes` still to read. A record of more than
    `max_record_bytes` ends the connection.
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
        #: Why the last attempt to connect failed, as a part of a sentence.
        self.failure = "it has not answered yet"

    @property
    def is_up(self) -> bool:
        """Whether there is a connection. The introduction was sent on it."""
        return self._connection is not None and self._connection.is_open

    @property
    def backlog_bytes(self) -> int:
        """Bytes that were written and not passed to the kernel yet."""
        return 0 if self._connection is None else self._connection.backlog_bytes

    @property
    def is_clogged(self) -> bool:
        """Whether the relay has so much still to read that it should be sent no more requests."""
        return self.backlog_bytes > self._max_backlog_bytes

    def start(self) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def write(self, data: bytes) -> None:
        """Send data. Without a connection, or if the connection has just ended, it is lost."""
        if self._connection is not None:
            self._connection.write(data)

    async def close(self) -> None:
        """Disconnect, after the relay has read what was written or CLOSE_S has passed."""
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
            except OSError as error:
                self.failure = error.strerror or str(error)
            else:
                self.failure = "it does not answer"
                await connection.ended.wait()
            await asyncio.sleep(self._retry_s)

    def _new_connection(self) -> _Connection:
        # The attribute is set here, not in `_connect`: the first record of the relay can arrive
        # before `_connect` continues.
        self._connection = _Connection(self._owner, self._max_record_bytes)
        return self._connection


class _Connection(asyncio.Protocol):
    """One connection to a relay. It sends the owner's introduction first.

    It is open from then on until the relay disconnects or a record cannot be handled. Then
    `on_end` is called, once.
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
        """Disconnect when everything has been written, and wait for that."""
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
        except Exception:  # an error of the relay or of this worker must not stop the worker
            logger.exception("a record of the relay could not be handled; reconnecting")
            self.transport.abort()
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        self.ended.set()

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self._owner.on_end()
