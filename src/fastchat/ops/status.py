"""The status of a running server, over the socket in its data directory.

`fastchat status` and the supervisor ask. The relay answers, or `StatusServer` where the server is
one process. Question and answer are the records AskStatus and Status of the relay's protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.brokers.relay.records import AskStatus, Status, decode_from_relay
from fastchat.brokers.relay.wire import (
    SOCKET_NAME,
    BadRecord,
    RecordReader,
    bind_socket,
    socket_path,
)
from fastchat.errors import FastchatError

__all__ = ["NotAnswering", "StatusServer", "ask", "collect"]

logger = logging.getLogger("fastchat.status")

#: A scraper waits for less time than a person at a terminal.
SCRAPE_TIMEOUT_S = 1.0
#: A client that sends nothing, or reads nothing, for this long is dropped.
SILENCE_S = 2.0
#: More than one person or script asks at a time, each with a connection of some milliseconds.
MAX_CLIENTS = 16

_QUESTION = AskStatus().encode()


class NotAnswering(FastchatError):
    """No server answers in the directory; the message is a sentence for the user."""


# Asking


async def ask(directory: Path, timeout_s: float) -> dict[str, dict[str, Any]]:
    """The snapshots of a server's parts, by name. Raises NotAnswering."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(directory)
    except TimeoutError:
        raise NotAnswering(f"the server on --data {directory} does not answer.") from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NotAnswering(f"no server is running on --data {directory}.") from None
    except PermissionError:
        raise NotAnswering(
            f"--data {directory} belongs to another user; ask as the server's user."
        ) from None
    except (OSError, EOFError, BadRecord) as error:
        raise NotAnswering(f"the server on --data {directory} gives no answer: {error}.") from None


async def _ask(directory: Path) -> dict[str, dict[str, Any]]:
    with socket_path(directory) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_QUESTION)
        records = RecordReader(decode_from_relay)
        while data := await reader.read(1 << 16):
            for record in records.feed(data):
                if not isinstance(record, Status):
                    raise BadRecord("it is of another version")
                return {name: dict(part) for name, part in record.parts.items()}
        raise EOFError("it hung up")
    finally:
        writer.close()


async def collect(
    directory: Path,
    known: Mapping[str, Mapping[str, Any]],
    *,
    timeout_s: float = SCRAPE_TIMEOUT_S,
) -> dict[str, dict[str, Any]]:
    """What is `known` about the parts, with what they report if they answer within `timeout_s`.

    Never raises. The report of a process that has been replaced in the meantime is left out.
    """
    try:
        reported = await ask(directory, timeout_s)
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
    """Answers for a server that is one process, from `open` to `close`.

    Call both while the directory's lock is held. Clients that send anything but the question are
    dropped, as are those that are silent for `silence_s`.
    """

    def __init__(
        self,
        directory: Path,
        snapshot: Callable[[], Mapping[str, Any]],
        *,
        silence_s: float = SILENCE_S,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._directory = directory
        self.snapshot = snapshot
        self.silence_s = silence_s
        self.max_clients = max_clients
        self.clients: set[_Client] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. If the directory cannot hold a socket, the server runs without status."""
        try:
            listener = bind_socket(self._directory)
        except OSError as error:
            logger.warning("`fastchat status` will not work: %s", error.strerror)
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Client(self), sock=listener, backlog=self.max_clients
        )

    def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        (self._directory / SOCKET_NAME).unlink(missing_ok=True)
        for client in tuple(self.clients):
            client.drop()


class _Client(asyncio.Protocol):
    """A connection of a client that asks."""

    _transport: asyncio.Transport
    _deadline: asyncio.TimerHandle

    def __init__(self, server: StatusServer) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.clients.add(self)
        self._wait()
        if len(self._server.clients) > self._server.max_clients:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._server.clients.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received == _QUESTION and not self._transport.get_write_buffer_size():
            self._received = b""
            self._transport.write(Status({"server": self._server.snapshot()}).encode())
            self._deadline.cancel()
            self._wait()
        elif not _QUESTION.startswith(self._received):
            self.drop()

    def drop(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self._server.silence_s, self.drop)
