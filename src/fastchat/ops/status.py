"""How a running server is: asked over the socket in its data directory.

`fastchat status` and the supervisor ask; the relay answers, or a server that is one
process, here. A question is a STATUS record without a head, and so is always the
same bytes; the answer's head is `{"parts": {name: snapshot}}`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.brokers.relay.wire import (
    SOCKET_NAME,
    BadRecord,
    RecordKind,
    RecordReader,
    bind_socket,
    pack,
    socket_path,
)
from fastchat.errors import FastchatError

__all__ = ["NotAnswering", "StatusServer", "ask", "collect"]

logger = logging.getLogger("fastchat.status")

#: A scraper waits for less time than a person at a terminal.
SCRAPE_TIMEOUT_S = 1.0
#: A client of ours that says nothing for so long, or reads nothing, is dropped.
SILENCE_S = 2.0
MAX_CLIENTS = 16

_QUESTION = pack(RecordKind.STATUS, None)


class NotAnswering(FastchatError):
    """No server answers in the directory; the message is a sentence for a person."""


# Asking


async def ask(directory: Path, timeout_s: float) -> dict[str, dict[str, Any]]:
    """The snapshots of a server's parts, by name; raises NotAnswering."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(directory)
    except TimeoutError:
        raise NotAnswering(f"the server on --data {directory} does not answer.") from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NotAnswering(f"no server is running on --data {directory}.") from None
    except PermissionError:
        raise NotAnswering(
            f"--data {directory} belongs to somebody else; ask as the server's user."
        ) from None
    except (OSError, EOFError, BadRecord) as error:
        raise NotAnswering(f"the server on --data {directory} gives no answer: {error}.") from None


async def _ask(directory: Path) -> dict[str, dict[str, Any]]:
    with socket_path(directory) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_QUESTION)
        records = RecordReader()
        while data := await reader.read(1 << 16):
            for kind, head, _ in records.feed(data):
                return _parts_of(kind, head)
        raise EOFError("it hung up")
    finally:
        writer.close()


def _parts_of(kind: int, head: Any) -> dict[str, dict[str, Any]]:
    parts = head.get("parts") if kind == RecordKind.STATUS and isinstance(head, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise BadRecord("it is of another version")
    return parts


async def collect(
    directory: Path, known: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What is `known` of the parts, and what they report of themselves, if they do.

    Never raises, and takes a second at most. What a process reported that has been
    replaced meanwhile is left out.
    """
    try:
        reported = await ask(directory, SCRAPE_TIMEOUT_S)
    except NotAnswering:
        reported = {}
    parts = {name: dict(part) for name, part in known.items()}
    for name, report in reported.items():
        part = parts.setdefault(name, {})
        if part.get("pid") in (None, report.get("pid")):
            parts[name] = {**report, **part}
    return parts


# Answering


class StatusServer:
    """Answers for a server that is one process, between `open` and `close`.

    Both while the directory's lock is held. Whoever asks anything else is dropped.
    """

    def __init__(self, directory: Path, snapshot: Callable[[], Mapping[str, Any]]) -> None:
        self._directory = directory
        self.snapshot = snapshot
        self.clients: set[_Client] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; a directory that takes no socket costs the status, not the server."""
        try:
            listener = bind_socket(self._directory)
        except OSError as error:
            logger.warning("`fastchat status` will not work: %s", error.strerror)
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Client(self), sock=listener, backlog=MAX_CLIENTS
        )

    def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        (self._directory / SOCKET_NAME).unlink(missing_ok=True)
        for client in tuple(self.clients):
            client.drop()


class _Client(asyncio.Protocol):
    """Somebody who asks."""

    _transport: asyncio.Transport
    _deadline: asyncio.TimerHandle

    def __init__(self, server: StatusServer) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.clients.add(self)
        self._wait()
        if len(self._server.clients) > MAX_CLIENTS:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._server.clients.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received == _QUESTION and not self._transport.get_write_buffer_size():
            self._received = b""
            head = {"parts": {"server": self._server.snapshot()}}
            self._transport.write(pack(RecordKind.STATUS, head))
            self._deadline.cancel()
            self._wait()
        elif not _QUESTION.startswith(self._received):
            self.drop()

    def drop(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(SILENCE_S, self.drop)
