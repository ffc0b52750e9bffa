"""Servers in this process, each with N clients in a separate drainer process.

A lane is a set of connected sockets. A `Broadcaster` is a way of sending over them. The hub and the
bare C loop share a lane, so that both write to the same sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from harness.machine import Pins
from load.drain import MODULUS, SETUP_TIMEOUT_S, Drainer, Floor

PAYLOAD_BYTES = 120
TEXT = 1  # RFC 6455 section 5.2: the opcode of a text frame

clock = time.perf_counter_ns


def _payload(number: int) -> bytes:
    head = b'{"type":"message","room":"bench","offset":%d,"username":"Alice","text":"' % number
    return head.ljust(PAYLOAD_BYTES - 2, b".") + b'"}'


#: Messages of 120 bytes. Each has a number, by which the drainer checks their order.
PAYLOADS = [_payload(number) for number in range(MODULUS)]
#: The same messages in frames of 122 bytes: final, text, not masked.
FRAMES = [bytes((0x80 | TEXT, PAYLOAD_BYTES)) + payload for payload in PAYLOADS]


class Lane:
    """N connections, and the number of messages that were sent over them."""

    def __init__(self, drainer: Drainer, clients: int) -> None:
        self.drainer = drainer
        self.clients = clients
        self.sent = 0

    def next_numbers(self, count: int) -> range:
        """The numbers of the next `count` messages. Take them modulo MODULUS."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        return numbers


class Broadcaster(Protocol):
    """One way of sending the same message to all clients of a lane."""

    name: str
    lane: Lane

    def send_now(self, number: int) -> int:
        """Send one message to all clients; return the nanoseconds that sending took."""

    def send_batch(self, numbers: range) -> None:
        """Send several messages to all clients, like a server that has them in one loop turn."""


class HubBroadcaster:
    name = "hub"

    def __init__(self, lane: Lane, hub: Any) -> None:
        self.lane = lane
        self._hub = hub

    def send_now(self, number: int) -> int:
        payload = PAYLOADS[number % MODULUS]
        broadcast, flush = self._hub.broadcast_text, self._hub.flush
        started = clock()
        broadcast(payload)
        flush()
        return clock() - started

    def send_batch(self, numbers: range) -> None:
        broadcast = self._hub.broadcast_text
        for number in numbers:
            broadcast(PAYLOADS[number % MODULUS])


class FloorBroadcaster:
    name = "bare C send() loop (floor)"

    def __init__(self, lane: Lane, sockets: list[int]) -> None:
        self.lane = lane
        self._floor = Floor(sockets)

    def send_now(self, number: int) -> int:
        return self._floor.send(FRAMES[number % MODULUS])

    def send_batch(self, numbers: range) -> None:
        self._floor.send(b"".join([FRAMES[number % MODULUS] for number in numbers]))


class WebsocketsBroadcaster:
    name = "websockets.broadcast()"

    def __init__(self, lane: Lane, connections: list[Any]) -> None:
        from websockets.asyncio.server import broadcast

        self.lane = lane
        self._connections = connections
        self._broadcast = broadcast
        self._texts = [payload.decode() for payload in PAYLOADS]

    def send_now(self, number: int) -> int:
        text = self._texts[number % MODULUS]
        started = clock()
        self._broadcast(self._connections, text)
        return clock() - started

    def send_batch(self, numbers: range) -> None:
        for number in numbers:
            self._broadcast(self._connections, self._texts[number % MODULUS])


class PicowsBroadcaster:
    name = "Python loop over picows' send()"

    def __init__(self, lane: Lane, transports: list[Any]) -> None:
        from picows import WSMsgType

        self.lane = lane
        self._transports = transports
        self._text = WSMsgType.TEXT

    def send_now(self, number: int) -> int:
        payload, text = PAYLOADS[number % MODULUS], self._text
        started = clock()
        for transport in self._transports:
            transport.send(text, payload)
        return clock() - started

    def send_batch(self, numbers: range) -> None:
        for number in numbers:
            self.send_now(number)


class _Arrivals:
    """The connections of a server, until all clients have connected."""

    def __init__(self, count: int) -> None:
        self.all: list[Any] = []
        self._count = count
        self._complete = asyncio.Event()

    def add(self, one: Any) -> None:
        self.all.append(one)
        if len(self.all) == self._count:
            self._complete.set()

    async def complete(self) -> None:
        async with asyncio.timeout(SETUP_TIMEOUT_S):
            await self._complete.wait()


class _HubProtocol(asyncio.Protocol):
    """A connection that only receives. It passes the transport's callbacks to the hub."""

    def __init__(self, hub: Any, arrivals: _Arrivals) -> None:
        self._hub = hub
        self._arrivals = arrivals
        self._connection: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connection = self._hub.register(transport)
        self._arrivals.add(transport)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._hub.unregister(self._transport)


@asynccontextmanager
async def hub_lane(clients: int, pins: Pins) -> AsyncIterator[list[Broadcaster]]:
    """A plain uvloop server whose transports are in a hub. The floor uses the same sockets.

    There is no WebSocket handshake: the connections carry frames from the first byte on.
    """
    import fastchat

    hub = fastchat.Hub()
    arrivals = _Arrivals(clients)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _HubProtocol(hub, arrivals), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    try:
        with Drainer(port, clients, pins, handshake=False) as drainer:
            await drainer.ready()
            await arrivals.complete()
            lane = Lane(drainer, clients)
            sockets = [one.get_extra_info("socket").fileno() for one in arrivals.all]
            yield [HubBroadcaster(lane, hub), FloorBroadcaster(lane, sockets)]
    finally:
        hub.close()
        server.close()


@asynccontextmanager
async def websockets_lane(clients: int, pins: Pins) -> AsyncIterator[list[Broadcaster]]:
    """A `websockets` server without compression and keepalive pings."""
    from websockets.asyncio.server import serve

    arrivals = _Arrivals(clients)

    async def handler(connection: Any) -> None:
        arrivals.add(connection)
        await connection.wait_closed()

    async with serve(
        handler, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=0.1
    ) as server:
        port = server.sockets[0].getsockname()[1]
        with Drainer(port, clients, pins, handshake=True) as drainer:
            await drainer.ready()
            await arrivals.complete()
            yield [WebsocketsBroadcaster(Lane(drainer, clients), arrivals.all)]


@asynccontextmanager
async def picows_lane(clients: int, pins: Pins) -> AsyncIterator[list[Broadcaster]]:
    """A picows server with its own defaults, without automatic pings."""
    from picows import WSListener, WSTransport, ws_create_server

    arrivals = _Arrivals(clients)

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            arrivals.add(transport)

    server = await ws_create_server(lambda request: Listener(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with Drainer(port, clients, pins, handshake=True) as drainer:
            await drainer.ready()
            await arrivals.complete()
            yield [PicowsBroadcaster(Lane(drainer, clients), arrivals.all)]
    finally:
        server.close()
