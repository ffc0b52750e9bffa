"""Helpers for the hub's tests: connections over loopback whose far end is a plain socket.

`Rig` owns a hub and all its connections, and closes them at the end. A `Client` is both ends of one
connection: `conn` is the hub's object, and the other methods read from the wire. `Sink` is a
transport without a socket, for tests that need thousands of transports or decide what a transport
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, Self

import trustme
import uvloop

from fastchat import Hub
from fastchat._fanout import Connection
from support.server import TIMEOUT_UNIT_S

LIMIT_S = 10 * TIMEOUT_UNIT_S

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
#: Close codes of the hub (`fastchat.errors.CloseCode`): too slow, no pong, and no close frame.
EVICTED, HEARTBEAT, ABNORMAL = 4008, 4009, 1006

#: The size of both ends' socket buffers if a test needs short writes; the kernel doubles it.
TINY_BYTES = 4096


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a uvloop of its own, for at most `LIMIT_S`."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * LIMIT_S):
                await test(*args, **kwargs)

        uvloop.run(bounded())

    return run


async def turn(count: int = 1) -> None:
    """Let the loop turn once: callbacks that were scheduled before have run when this returns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  a condition has no event
            await asyncio.sleep(0.0005)


class Frame(NamedTuple):
    opcode: int
    payload: bytes


def texts(*payloads: bytes) -> list[Frame]:
    """The frames in which a client receives these payloads."""
    return [Frame(TEXT, payload) for payload in payloads]


def encode(opcode: int, payload: bytes) -> bytes:
    """A server's frame, written from RFC 6455 §5.2 without the hub's code."""
    size = len(payload)
    if size <= 125:
        head = bytes([0x80 | opcode, size])
    elif size <= 0xFFFF:
        head = bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big")
    return head + payload


def decode(buffer: bytearray) -> list[Frame]:
    """Remove the whole frames at the start of `buffer` and return them; AssertionError for a bad
    one."""
    frames = []
    at = 0
    while len(buffer) - at >= 2:
        assert buffer[at] & 0x70 == 0, f"reserved bits at {at}: the wire is torn"
        assert buffer[at] & 0x80, f"no FIN at {at}: the wire is torn"
        opcode = buffer[at] & 0x0F
        assert opcode in {TEXT, BINARY, CLOSE, PING, PONG}, "the wire is torn"
        assert buffer[at + 1] < 128, "a server's frame is not masked"
        size, head = buffer[at + 1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            if len(buffer) - at < head:
                break
            size = int.from_bytes(buffer[at + 2 : at + head], "big")
            assert size > (125 if head == 4 else 0xFFFF), "not the shortest length"
        if len(buffer) - at < head + size:
            break
        frames.append(Frame(opcode, bytes(buffer[at + head : at + head + size])))
        at += head + size
    del buffer[:at]
    return frames


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


class Clock:
    """Seconds that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Served(asyncio.Protocol):
    """The server's end: it forwards flow control to the hub, and unregisters when it has ended."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.conn: Connection | None = None
        self.forgetful = False  # whether it omits `unregister`
        self.lost = asyncio.get_running_loop().create_future()
        self.pauses = 0
        self.on_pause: Callable[[], object] = lambda: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def pause_writing(self) -> None:
        self.pauses += 1
        if self.conn is not None:
            self.conn.pause_writing()
        self.on_pause()

    def resume_writing(self) -> None:
        if self.conn is not None:
            self.conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.forgetful:
            self.hub.unregister(self.transport)
        self.lost.set_result(None)


class Client:
    """Both ends of a connection."""

    def __init__(self, served: Served, sock: Any) -> None:
        self.served = served
        self.transport = served.transport
        self.sock = sock
        self.buffer = bytearray()
        self.ended = False

    @property
    def conn(self) -> Connection:
        assert self.served.conn is not None
        return self.served.conn

    def receive(self, limit: int = 1 << 20) -> bool:
        """Read once without waiting. False if there is nothing; sets `ended` at the end."""
        try:
            data = self.sock.recv(limit)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except ConnectionError:
            data = b""
        self.buffer += data
        self.ended = self.ended or not data
        return bool(data)

    def now(self) -> list[Frame]:
        """All whole frames that have arrived."""
        while self.receive():
            pass
        return decode(self.buffer)

    async def frames(self, count: int) -> list[Frame]:
        """Wait for the next `count` frames, and check that no more have arrived."""
        frames: list[Frame] = []
        async with asyncio.timeout(LIMIT_S):
            while True:
                frames += self.now()
                if len(frames) >= count:
                    assert len(frames) == count, frames[count:]
                    return frames
                assert not self.ended, f"the connection ended after {frames}"
                await self._readable()

    async def payloads(self, count: int) -> list[bytes]:
        return [frame.payload for frame in await self.frames(count)]

    async def to_close(self) -> list[Frame]:
        """All frames up to and with a close frame, after which nothing must arrive."""
        frames: list[Frame] = []
        async with asyncio.timeout(LIMIT_S):
            while not frames or frames[-1].opcode != CLOSE:
                frames += self.now()
                assert all(frame.opcode != CLOSE for frame in frames[:-1])
                if not frames or frames[-1].opcode != CLOSE:
                    assert not self.ended, f"the connection ended after {frames[-3:]}"
                    await self._readable()
        assert not self.buffer
        return frames

    async def to_end(self) -> list[Frame]:
        """All frames until the connection ends; part of one can remain in `buffer`."""
        frames: list[Frame] = []
        async with asyncio.timeout(LIMIT_S):
            while True:
                frames += self.now()
                if self.ended:
                    return frames
                await self._readable()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self.sock, ready.set_result, None)
        try:
            await ready
        finally:
            loop.remove_reader(self.sock)

    def reset(self) -> None:
        """Close the far end so that the near end gets a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Rig:
    """A hub, with a test's clock if `clock=True`, and its connections, which are closed at the
    end."""

    def __init__(self, *, clock: bool = False, **hub_arguments: Any) -> None:
        self.clock = Clock()
        self.evicted: list[tuple[Connection, int, str]] = []
        if clock:
            hub_arguments["clock"] = self.clock
        self.hub = Hub(on_evict=lambda *what: self.evicted.append(what), **hub_arguments)
        self.clients: list[Client] = []
        self.complaints: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.hub.verify()
        self.hub.abort()
        for client in self.clients:
            client.transport.abort()
        async with asyncio.timeout(LIMIT_S):
            for client in self.clients:
                await client.served.lost
        for client in self.clients:
            client.sock.close()
        if kind is None:
            assert not self.complaints, self.complaints

    async def connect(
        self,
        *rooms: str,
        buffers: int | None = None,
        unix: bool = False,
        tls: bool = False,
        wrap: Callable[[Any], Any] = lambda transport: transport,
        attach: bool = True,
    ) -> Client:
        """A new connection in `rooms`; `buffers` sizes its sockets, and `wrap` wraps its
        transport."""
        near, far = _socket_pair(buffers, unix=unix)
        far.setblocking(False)
        served = Served(self.hub)
        loop = asyncio.get_running_loop()
        if tls:
            server_side, client_side = _tls_contexts()
            accepting = loop.connect_accepted_socket(lambda: served, near, ssl=server_side)
            _, far = await asyncio.gather(accepting, _shake_hands(far, client_side))
        else:
            await loop.connect_accepted_socket(lambda: served, near)
        served.transport = wrap(served.transport)
        return self.add(Client(served, far), *rooms, attach=attach)

    def add(self, client: Client, *rooms: str, attach: bool = True) -> Client:
        self.clients.append(client)
        if attach:
            client.served.conn = self.hub.attach(client.transport, client)
            for room in rooms:
                self.hub.join(client.conn, room)
        return client

    async def block(self, client: Client, room: str, *, size: int = 1000) -> list[bytes]:
        """Publish to `room` until `client`, which does not read, is blocked."""
        published = []
        async with asyncio.timeout(LIMIT_S):
            while not client.conn.blocked:
                published.append(f"filler {len(published)} ".encode().ljust(size, b"."))
                self.hub.publish(room, published[-1])
                await turn()
        return published

    async def sweep(self, seconds: float) -> None:
        """Let `seconds` pass with a sweep each second, and let the loop turn."""
        while seconds > 0:
            self.clock.now += min(seconds, 1.0)
            seconds -= 1.0
            self.hub.sweep()
            self.hub.verify()
            await turn()


@functools.cache
def _tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    return server_side, client_side


async def _shake_hands(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The client's side of a TLS handshake, by Python's own `ssl`."""
    secured = context.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)

    def has_shaken_hands() -> bool:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            secured.do_handshake()
            return True
        return False

    await until(has_shaken_hands)
    return secured


def _socket_pair(buffers: int | None, *, unix: bool) -> tuple[socket.socket, socket.socket]:
    if unix:
        near, far = socket.socketpair()
        if buffers is not None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        return near, far
    with socket.socket() as listener:
        far = socket.socket()
        if buffers is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class Sink:
    """A transport without a socket, or with one that the test reads packet by packet.

    `written` records the writes. `held` is the size of the write buffer that it reports. `on_write`
    is called inside each write.
    """

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.sock = sock
        self.written: list[bytes] = []
        self.held = 0
        self.aborted = False
        self.closing = False
        self.on_write: Callable[[], object] | None = None

    def write(self, data: bytes | memoryview) -> None:
        self.written.append(bytes(data))
        if self.on_write is not None:
            self.on_write()

    def get_write_buffer_size(self) -> int:
        return self.held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" and self.sock is not None else default

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = self.closing = True

    def frames(self) -> list[Frame]:
        """The written bytes as frames; AssertionError if they end within one."""
        buffer = bytearray(b"".join(self.written))
        frames = decode(buffer)
        assert not buffer
        return frames

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames()]


@contextlib.contextmanager
def packets() -> Iterator[tuple[Sink, Callable[[], list[bytes]]]]:
    """A `Sink` on a socket that keeps writes apart, and a function that reads them."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)

    def arrived() -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(far.recv(1 << 20))
        return found

    with near, far:
        yield Sink(near), arrived
