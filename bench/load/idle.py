"""Clients that join one room, send nothing, and answer the server's pings."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from harness.report import BenchError

JOIN_TIMEOUT_S = 60.0
#: Connections that are made at the same time: fewer than the server's backlog.
AT_ONCE = 100
PING, PONG = 0x89, bytes((0x8A, 0x80, 0, 0, 0, 0))


@asynccontextmanager
async def idle_clients(
    port: int, count: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Have so many clients in a room during the block. Raises BenchError if one does not join."""
    clients: list[_Client] = []
    try:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while len(clients) < count:
                numbers = range(len(clients), min(count, len(clients) + AT_ONCE))
                clients += await asyncio.gather(*(_connect(port, each, tls) for each in numbers))
        yield
        if any(client.is_lost for client in clients):
            raise BenchError("an idle client lost its connection")
    except (OSError, TimeoutError) as error:
        raise BenchError(f"an idle client could not join: {error!r}") from None
    finally:
        for client in clients:
            client.transport.abort()


async def _connect(port: int, number: int, tls: ssl.SSLContext | None) -> _Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: _Client(number), "127.0.0.1", port, ssl=tls)
    await client.joined
    return client


class _Client(asyncio.Protocol):
    """A WebSocket client that parses only the heads of frames."""

    transport: asyncio.Transport

    def __init__(self, number: int) -> None:
        self._number = number
        self._received = bytearray()
        self._is_open = False
        self.is_lost = False
        self.joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(
            f"GET /ws?room=idle&username=idle-{self._number} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self.joined.done():
            self.joined.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_open:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.transport.abort()
                return
            self._is_open, self._received = True, bytearray(rest)
        while self._take_frame():
            pass

    def _take_frame(self) -> bool:
        """Take a whole frame off what was received; False if there is none."""
        received = self._received
        if len(received) < 2:
            return False
        # RFC 6455 §5.2: lengths of 126 and 127 stand for 2 and 8 bytes of length that follow.
        start = {126: 4, 127: 10}.get(received[1], 2)
        length = received[1] if start == 2 else int.from_bytes(received[2:start], "big")
        if len(received) < start + length:
            return False
        if received[0] == PING:
            self.transport.write(PONG)
        elif b'"type":"joined"' in received[start : start + length] and not self.joined.done():
            self.joined.set_result(None)
        del received[: start + length]
        return True
