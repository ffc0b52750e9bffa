"""The load: publishers, readers that measure the delay of each message, and slow readers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Sequence
from typing import Self

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from harness.report import BenchError
from harness.served import Served, memory_bytes

#: What a slow reader reads: some 12 kB a second, like a phone at the edge of its network.
SLOW_BYTES, SLOW_INTERVAL_S = 1200, 0.1
#: The receive buffer of a slow reader, so that the kernel does not read for it.
SLOW_BUFFER = 8192
TURN_S = 0.005
MEMORY_INTERVAL_S = 0.25
JOIN_TIMEOUT_S = 120.0
_MARK = b'"text":"@'
_DIGITS = 20


class Member(WSListener):
    """A client that reads at once. It notes in `delays_ns` how long each message took, if given."""

    def __init__(self, name: str, rooms: Sequence[str], delays_ns: list[int] | None) -> None:
        self._name = name
        self._waiting = list(reversed(rooms))
        self._delays_ns = delays_ns
        self.joined = asyncio.get_running_loop().create_future()
        self.close_code: int | None = None

    @classmethod
    async def connect(
        cls, port: int, name: str, rooms: Sequence[str], delays_ns: list[int] | None = None
    ) -> Self:
        """Connect, and join all rooms, one after the other."""
        member = cls(name, rooms, delays_ns)
        await ws_connect(lambda: member, f"ws://127.0.0.1:{port}/ws")
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            await member.joined
        return member

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._join_next()

    def _join_next(self) -> None:
        if self._waiting:
            join = _join(self._waiting.pop(), self._name)
            self._transport.send(WSMsgType.TEXT, join)
        else:
            self.joined.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            self.close_code = int(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type is WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            if not self.joined.done() and b'"type":"joined"' in payload:
                self._join_next()
            elif self._delays_ns is not None and (at := payload.find(_MARK)) >= 0:
                sent = int(payload[at + len(_MARK) : at + len(_MARK) + _DIGITS])
                self._delays_ns.append(time.monotonic_ns() - sent)

    def publish(self, room: str, filler: bytes) -> None:
        command = b'{"room":"%s","text":"@%020d%s"}' % (
            room.encode(),
            time.monotonic_ns(),
            filler,
        )
        self._transport.send(WSMsgType.TEXT, command)


class SlowReader:
    """A client that joins its rooms, and from then on reads at a constant low rate."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reading: asyncio.Task[None] | None = None
        self.has_ended = False

    @classmethod
    async def connect(cls, port: int, name: str, rooms: Sequence[str]) -> Self:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        sock.setblocking(False)
        reader = cls(sock)
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            await reader._say(_HANDSHAKE, b"\r\n\r\n")
            for room in rooms:
                await reader._say(_frame(_join(room, name)), b'"type":"joined"')
        reader._reading = asyncio.ensure_future(reader._read_slowly())
        return reader

    async def _say(self, data: bytes, answer: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, data)
        read = b""
        while answer not in read:
            more = await loop.sock_recv(self._socket, 65536)
            if not more:
                raise BenchError("the server closed a slow reader that was still joining")
            read = read[-100:] + more

    async def _read_slowly(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while True:
                if not await loop.sock_recv(self._socket, SLOW_BYTES):
                    break
                await asyncio.sleep(SLOW_INTERVAL_S)
        self.has_ended = True

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._socket.close()


async def publish(
    server: Served, places: Sequence[tuple[Member, str]], rate: int, seconds: float, filler: bytes
) -> float:
    """Publish at this rate, in each place in turn; returns the server's largest memory in bytes."""
    started = time.monotonic()
    sent, peak, look_at = 0, 0, started
    while (now := time.monotonic()) < started + seconds:
        due = int((now - started) * rate)
        while sent < due:
            member, room = places[sent % len(places)]
            member.publish(room, filler)
            sent += 1
        if now >= look_at:
            look_at = now + MEMORY_INTERVAL_S
            peak = max(peak, memory_bytes(server.pid)["Rss"])
        await asyncio.sleep(TURN_S)
    return float(peak)


def _join(room: str, name: str) -> bytes:
    command = {"type": "join", "room": room, "username": name, "history": 0}
    return json.dumps(command).encode()


def _frame(payload: bytes) -> bytes:
    """A client's text frame of less than 126 bytes (RFC 6455 §5.2); the mask is 0."""
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
