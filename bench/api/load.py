"""Programs that publish over HTTP, and clients that listen, in one process beside the server."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from harness.report import BenchError

#: The text of each message.
TEXT = "The order has left the warehouse and arrives tomorrow."
ROOM = "bench"


def request(key: str) -> bytes:
    """One publication."""
    body = f'{{"text":"{TEXT}"}}'.encode()
    head = (
        f"POST /api/v1/rooms/{ROOM}/messages HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Publishing:
    """What publishers have done: the number of answers, and the delay of each in seconds."""

    answers: int = 0
    delays_s: list[float] = field(default_factory=list)
    failure: str | None = None


class Publisher(asyncio.Protocol):
    """A connection that is kept alive. It has one request at a time."""

    def __init__(
        self, data: bytes, publishing: Publishing, on_answer: Callable[[Publisher], None]
    ) -> None:
        self._data = data
        self._publishing = publishing
        self._on_answer = on_answer
        self._arrived = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        self._sent_s = time.perf_counter()
        self.transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        # The body of each answer is an object without another one in it.
        if not self._arrived.endswith(b"}"):
            return
        if not self._arrived.startswith(b"HTTP/1.1 201"):
            self._publishing.failure = self._arrived[:400].decode("latin-1")
        self._arrived = b""
        self._publishing.answers += 1
        self._publishing.delays_s.append(time.perf_counter() - self._sent_s)
        self._on_answer(self)


class Listener(asyncio.Protocol):
    """A WebSocket in the room, which drops what it reads."""

    def __init__(self) -> None:
        self.joined = asyncio.get_running_loop().create_future()
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        nonce = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET /ws?room={ROOM}&history=0 HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n"
            "\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.joined.done() and b'"joined"' in data:
            self.joined.set_result(None)


async def listen(port: int, count: int) -> list[Listener]:
    """Connect so many listeners, and wait until all are in the room."""
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Listener, "127.0.0.1", port))[1] for _ in range(count)]
    async with asyncio.timeout(20):
        for listener in made:
            await listener.joined
    return made


async def publish(
    port: int, key: str, *, connections: int, seconds: float, rate: float | None
) -> tuple[float, Publishing]:
    """Publish for some seconds; returns the publications a second, and the delays.

    Without a `rate`, each connection sends a request as soon as it has the answer to the last one.
    With a rate, a request is due at fixed times, and its delay includes the time for which it waits
    for a connection. Raises BenchError if a request fails.
    """
    loop = asyncio.get_running_loop()
    publishing = Publishing()
    data = request(key)
    ends_s = loop.time() + seconds
    idle: list[Publisher] = []
    all_idle = asyncio.Event()

    def on_answer(publisher: Publisher) -> None:
        if rate is None and loop.time() < ends_s:
            publisher.send()
        else:
            idle.append(publisher)
            if len(idle) == connections and loop.time() >= ends_s:
                all_idle.set()

    publishers = [
        (
            await loop.create_connection(
                lambda: Publisher(data, publishing, on_answer), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    begun_s = loop.time()
    ends_s = begun_s + seconds
    if rate is None:
        for publisher in publishers:
            publisher.send()
    else:
        idle += publishers
        sent = 0
        while loop.time() < ends_s:
            due = int((loop.time() - begun_s) * rate)
            while sent < due and idle:
                idle.pop().send()
                sent += 1
            await asyncio.sleep(0.0005)
    if len(idle) < connections or loop.time() < ends_s:
        async with asyncio.timeout(seconds + 10):
            await all_idle.wait()
    took_s = loop.time() - begun_s
    for publisher in publishers:
        publisher.transport.close()
    if publishing.failure is not None:
        raise BenchError(f"a request failed: {publishing.failure}")
    return publishing.answers / took_s, publishing
