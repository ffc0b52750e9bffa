"""A service that webhooks and hooks call: it records each request, and answers as a test wants."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from support.server import TIMEOUT_UNIT_S, wait_until

#: A secret of webhooks, and the file's content for it.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Request(NamedTuple):
    """A request with its head in parts, names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


Answer = Callable[[Request, socket.socket], bytes | None]


def respond(status: int = 200, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """An answer; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    lines = {"Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + content


def ok(_request: Request, _connection: socket.socket) -> bytes:
    return respond()


def hang(_request: Request, connection: socket.socket) -> None:
    """Answer nothing until the client closes the connection."""
    with contextlib.suppress(OSError):
        while connection.recv(1024):
            pass


class Receiver:
    """A server of HTTP/1.1 on 127.0.0.1, with a thread for each connection.

    `answer` returns the bytes of the answer to a request. If it returns None, the connection is
    closed; it can have written to the connection itself. A test can replace it at any time.
    `requests` has every request that was read whole, before it is answered.
    """

    def __init__(self, answer: Answer = ok, port: int = 0) -> None:
        self.answer = answer
        #: Is called first for each connection, if there is one.
        self.on_connect: Callable[[socket.socket], object] | None = None
        self.requests: list[Request] = []
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/events"
        self._start(self._accept)

    def bodies(self, *types: str) -> list[dict[str, Any]]:
        """The JSON of each request, in order; only those of some types if these are given."""
        bodies = [request.json for request in tuple(self.requests)]
        return [body for body in bodies if not types or body.get("type") in types]

    def wait(self, count: int, *types: str) -> list[dict[str, Any]]:
        """Wait for so many requests; returns the JSON of all."""
        wait_until(lambda: len(self.bodies(*types)) >= count)
        return self.bodies(*types)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10 * TIMEOUT_UNIT_S)

    def _start(self, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            unread = b""
            if self.on_connect is not None:
                self.on_connect(connection)
                return
            while True:
                request, unread = _read(connection, unread)
                self.requests.append(request)
                answer = self.answer(request, connection)
                if answer is None:
                    break
                connection.sendall(answer)
        self._open.discard(connection)


def _read(connection: socket.socket, unread: bytes) -> tuple[Request, bytes]:
    while b"\r\n\r\n" not in unread:
        unread += _more(connection)
    head, _, unread = unread.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    size = int(headers.get("content-length", 0))
    while len(unread) < size:
        unread += _more(connection)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, unread[:size]), unread[size:]


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data


def reset(connection: socket.socket) -> None:
    """Close a connection by an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def receiving(answer: Answer = ok, port: int = 0) -> Iterator[Receiver]:
    """A `Receiver` during a `with` block."""
    receiver = Receiver(answer, port)
    try:
        yield receiver
    finally:
        receiver.close()


def written_config(folder: Path, text: str) -> str:
    """The name of a settings file with this text; {secret} is the name of a file with SECRET."""
    secret, file = folder / "secret", folder / "fastchat.toml"
    secret.write_text(SECRET, "ascii")
    file.write_text(text.replace("{secret}", str(secret)), "utf-8")
    return str(file)
