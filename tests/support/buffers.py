"""WebSocket protocols that share buffers, and clients that send them frames in pieces."""

from __future__ import annotations

import asyncio
import random
import socket
from types import SimpleNamespace
from typing import Any

from picows import WSFrame, WSListener, WSTransport, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener

from fastchat._buffers import SharedBuffers
from fastchat.web.websocket import READ_BYTES, WebSocketProtocol

__all__ = ["HANDSHAKE", "Peer", "exercise", "frame"]

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MAX_MESSAGE_BYTES = 64 * 1024


class _Recorder(WSListener):
    """A listener that copies the payloads of frames."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        pass

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.payloads.append(frame.get_payload_as_bytes())

    def parse_failed(self) -> None:
        pass

    def more_to_read(self) -> None:
        pass


class _Protocol(WebSocketProtocol):
    """The server's protocol with a listener of ours."""

    __slots__ = ()

    def _upgrade(self, request: Any) -> WSUpgradeResponseWithListener:
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), _Recorder())


class Peer:
    """A protocol, its socket, and the client's socket. It must be made in a running event loop."""

    def __init__(self, buffers: SharedBuffers) -> None:
        context: Any = SimpleNamespace(
            timings=SimpleNamespace(head_s=60.0),
            session_context=SimpleNamespace(max_message_bytes=MAX_MESSAGE_BYTES),
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self._sock, _ = listener.accept()
        self.protocol = _Protocol(context=context, buffers=buffers)
        self.protocol.connection_made(self)

    @property
    def payloads(self) -> list[bytes]:
        return [] if self.protocol.listener is None else self.protocol.listener.payloads

    def receive(self, data: bytes) -> int:
        """Have the protocol read as much of the data as it takes at once; returns how much."""
        buffer = self.protocol.get_buffer(-1)
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        self.protocol.buffer_updated(count)
        return count

    def close(self) -> None:
        self.protocol.connection_lost(None)
        self.client.close()
        self._sock.close()

    # The transport

    def get_extra_info(self, name: str) -> Any:
        return self._sock if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def is_closing(self) -> bool:
        return False


def frame(payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A binary frame of a client."""
    size = len(payload)
    if size < 126:
        head = bytes((0x82, 0x80 | size))
    elif size < 1 << 16:
        head = b"\x82\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x82\xff" + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def exercise(seed: int, *, peers: int = 4, frames: int = 12) -> None:
    """Have several protocols receive frames in pieces, by turns; raises AssertionError."""
    chance = random.Random(seed)
    buffers = SharedBuffers(READ_BYTES)
    sent: list[list[bytes]] = []
    waiting: list[bytes] = []
    for _ in range(peers):
        sizes = [chance.choice((0, 5, 125, 126, 1000, 5000, 20_000, 65_536)) for _ in range(frames)]
        sent.append([chance.randbytes(size) for size in sizes])
        waiting.append(HANDSHAKE + b"".join(map(frame, sent[-1])))
    served = [Peer(buffers) for _ in range(peers)]
    try:
        while any(waiting):
            which = chance.choice([index for index, data in enumerate(waiting) if data])
            piece = waiting[which][: chance.choice((1, 7, 200, 3000, 16_384, 100_000))]
            taken = served[which].receive(piece)
            waiting[which] = waiting[which][taken:]
        await asyncio.sleep(0)
        assert [peer.payloads for peer in served] == sent
        assert all(buffers.is_sharing(peer.protocol) for peer in served)
    finally:
        for peer in served:
            peer.close()
