"""The wire by hand: sockets, HTTP answers and WebSocket frames, correct and faulty ones."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fastchat.web.headers import SECURITY_HEADERS
from support.server import TIMEOUT_UNIT_S

#: How long a client waits for an answer that must arrive.
PATIENCE_S = 10 * TIMEOUT_UNIT_S

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_STATUS = 1005  # RFC 6455 §7.4.1: an empty close frame

HANDSHAKE = {
    "Host": "localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def request(
    target: str = "/",
    headers: Iterable[tuple[str, str]] = (("Host", "localhost"),),
    *,
    method: str = "GET",
    version: str = "1.1",
) -> bytes:
    """The head of an HTTP request."""
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Response(NamedTuple):
    """An HTTP answer, with header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A TCP connection, with or without TLS, that buffers received bytes which are not used yet."""

    def __init__(
        self,
        port: int,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.unread = b""
        try:
            self.socket.settimeout(PATIENCE_S)
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.connect(("127.0.0.1", port))
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """End the TCP connection with a FIN, as a disconnected client does."""
        self.socket.close()

    def reset(self) -> None:
        """End the TCP connection with an RST."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def write(self, data: bytes | memoryview) -> None:
        self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes; EOFError if the connection ends first."""
        while len(self.unread) < size:
            self._read_more()
        data, self.unread = self.unread[:size], self.unread[size:]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.unread:
            self._read_more()
        data, _, self.unread = self.unread.partition(end)
        return data + end

    def read_all(self) -> bytes:
        """Read until the connection ends, by a FIN or an RST."""
        with contextlib.suppress(EOFError):
            while True:
                self._read_more()
        data, self.unread = self.unread, b""
        return data

    def _read_more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError("the server has ended the connection")
        self.unread += data

    def read_response(self, *, has_body: bool = True) -> Response:
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name}, twice"
            headers[name.lower()] = value
        status = int(status_line.split(" ")[1])
        size = int(headers.get("content-length", 0)) if has_body else 0
        return Response(status, headers, self.read(size))


HOST = ("Host", "localhost")


def ask(wire: Wire, target: str = "/", *headers: tuple[str, str], method: str = "GET") -> Response:
    wire.write(request(target, [HOST, *headers], method=method))
    return wire.read_response(has_body=method != "HEAD")


def is_secure(response: Response) -> bool:
    """Whether an answer has each security header once, with the right value."""
    return all(response.headers.get(name) == value for name, value in SECURITY_HEADERS)


def is_dated(response: Response) -> bool:
    """Whether an answer has the present time in its `Date`, in the form of RFC 9110 §5.6.7."""
    date = response.headers.get("date", "")
    made = email.utils.parsedate_to_datetime(date).timestamp() if date.endswith(" GMT") else 0.0
    return abs(time.time() - made) < 5 * TIMEOUT_UNIT_S


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x11\x22\x33\x44",
    announced: int | None = None,
) -> bytes:
    """A client's frame (RFC 6455 §5.2), with the requested faults.

    `announced` is the length in its header if that is not the payload's.
    """
    size = len(payload) if announced is None else announced
    masked = 0x80 if mask else 0
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 65536:
        head += struct.pack("!BH", masked | 126, size)
    else:
        head += struct.pack("!BQ", masked | 127, size)
    if mask:
        repeated = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
        masked_payload = int.from_bytes(payload, "big") ^ repeated
        payload = mask + masked_payload.to_bytes(len(payload), "big")
    return head + payload


class Client(Wire):
    """A WebSocket client that sends only what a test sends; it answers nothing by itself.

    `early` is sent together with the handshake.
    """

    def __init__(
        self,
        port: int,
        target: str = "/ws",
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        early: bytes = b"",
    ) -> None:
        super().__init__(port, receive_buffer=receive_buffer, tls=tls)
        try:
            self.write(request(target, {**HANDSHAKE, **(headers or {})}.items()) + early)
            self.response = self.read_response()
            assert self.response.status == 101, self.response
        except BaseException:
            self.socket.close()
            raise

    def send_frame(self, *arguments: Any, **keywords: Any) -> None:
        """See `frame`."""
        self.write(frame(*arguments, **keywords))

    def send(self, command: dict[str, Any] | str | bytes) -> None:
        self.write(text(command))

    def send_close(self, code: int = 1000) -> None:
        self.send_frame(CLOSE, code.to_bytes(2, "big"))

    def receive_frame(self) -> Frame:
        first, size = self.read(2)
        assert not size & 0x80, "a server masks nothing"
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        return Frame(first & 0xF, self.read(size), bool(first & 0x80), first >> 4 & 7)

    def receive(self) -> dict[str, Any]:
        """The next text message; pings of the server are skipped."""
        received = self.receive_frame()
        while received.opcode == PING:
            received = self.receive_frame()
        assert received[0] == TEXT, received
        assert received.fin
        assert received.rsv == 0
        value: dict[str, Any] = json.loads(received.payload)
        return value

    def receive_type(self, kind: str) -> dict[str, Any]:
        """The next message of one type; others are skipped."""
        while (message := self.receive())["type"] != kind:
            pass
        return message

    def receive_close(self) -> int:
        """The code of the next close frame; other frames are skipped."""
        while (received := self.receive_frame()).opcode != CLOSE:
            pass
        self.reason = received.payload[2:].decode()
        return int.from_bytes(received.payload[:2], "big") if received.payload else NO_STATUS

    def receive_end(self) -> int:
        """Answer the close frame, wait for the end of the connection, and return the code."""
        code = self.receive_close()
        with contextlib.suppress(OSError):
            self.send_frame(CLOSE, b"" if code == NO_STATUS else code.to_bytes(2, "big"))
        assert self.read_all() == b"", "nothing follows a close frame"
        return code

    def join(self, **fields: Any) -> dict[str, Any]:
        """Join a room; returns the reply. While the rooms are unavailable, it tries again."""
        self.send({"type": "join", **fields})
        while (message := self.receive())["type"] != "joined":
            if message.get("code") == "unavailable":
                time.sleep(0.1)
                self.send({"type": "join", **fields})
        return message


def text(command: dict[str, Any] | str | bytes) -> bytes:
    """A command as a client's frame."""
    if isinstance(command, dict):
        command = json.dumps(command, ensure_ascii=False)
    if isinstance(command, str):
        command = command.encode()
    return frame(TEXT, command, mask=os.urandom(4))


@contextlib.contextmanager
def connected(port: int, target: str = "/ws", **keywords: Any) -> Iterator[Client]:
    """A `Client` during a `with` block."""
    client = Client(port, target, **keywords)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def wired(port: int, **keywords: Any) -> Iterator[Wire]:
    """A `Wire` during a `with` block."""
    wire = Wire(port, **keywords)
    try:
        yield wire
    finally:
        wire.close()


def ends_within(wire: Wire, seconds: float) -> bool:
    """Whether the server ends a connection within this time, even if bytes are unread.

    Only the state of the socket is checked, so that unread bytes stay in it.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        # The first byte is tcpi_state; 1 is TCP_ESTABLISHED (Linux's <netinet/tcp.h>).
        state = wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state != 1:
            return True
        time.sleep(0.02)
    return False
