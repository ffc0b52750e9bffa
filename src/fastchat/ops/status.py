"""The status of a running server, over the socket in its data directory.

`fastchat status` and the supervisor send a request. With several workers the relay answers, and
with one process `StatusServer` does. The request and the answer are the records AskStatus and
Status of the relay's protocol. They are imported when they are needed: a server of one process
starts without the relay's records, which take 10 ms to import.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.brokers.relay.listener import UnixListener
from fastchat.brokers.relay.wire import BadRecord, RecordReader, socket_path
from fastchat.errors import FastchatError, SettingError

__all__ = ["NotAnswering", "StatusServer", "ask", "collect"]

logger = logging.getLogger("fastchat.status")

#: The longest wait of the supervisor for the counters of the other processes. It is well below
#: Prometheus' default `scrape_timeout` of 10 s, so that a scrape succeeds without them.
SCRAPE_TIMEOUT_S = 1.0
#: A connection on which the client has sent no request for this long is closed.
SILENCE_S = 2.0
#: The connections at the same time; further ones are closed. A request takes some milliseconds.
MAX_CLIENTS = 16


class NotAnswering(FastchatError):
    """No server answers on the data directory. The message is a sentence for the user."""


# Asking


async def ask(directory: Path, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Return the counters of each process of a server, by the process's name.

    Raises NotAnswering if no server runs on `directory`, or if it does not answer within
    `timeout_s` seconds.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(directory)
    except TimeoutError:
        raise NotAnswering(
            f"the server on --data {directory} did not answer within {timeout_s:g} s."
        ) from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NotAnswering(
            f"no server is running on --data {directory}; give the directory of a running server."
        ) from None
    except PermissionError:
        raise NotAnswering(
            f"--data {directory} belongs to another user; run the command as the server's user."
        ) from None
    except (OSError, EOFError, BadRecord) as error:
        raise NotAnswering(
            f"the server on --data {directory} cannot be asked for its status: {error}."
        ) from None


async def _ask(directory: Path) -> dict[str, dict[str, Any]]:
    from fastchat.brokers.relay.records import AskStatus, Status, decode_from_relay

    with socket_path(directory) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(AskStatus().encode())
        records = RecordReader(decode_from_relay)
        while data := await reader.read(1 << 16):
            for record in records.feed(data):
                if not isinstance(record, Status):
                    raise BadRecord("it runs another version of fastchat")
                return {name: dict(part) for name, part in record.parts.items()}
        raise EOFError("it closed the connection")
    finally:
        writer.close()


async def collect(
    directory: Path,
    known: Mapping[str, Mapping[str, Any]],
    *,
    timeout_s: float = SCRAPE_TIMEOUT_S,
) -> dict[str, dict[str, Any]]:
    """Return the counters of each process: the `known` ones, and those that the server reports.

    If the server does not answer within `timeout_s` seconds, only the known ones are returned. If
    a process has been replaced, the report of the old process is left out. It raises nothing.
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
    """Answers requests for the status of a server with one process, from `open` to `close`.

    The caller of both must hold the directory's lock. A connection is closed if the client sends
    anything but a request, or sends no request for `silence_s` seconds. If there are more than
    `max_clients` connections, a new one is closed.
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
        self._listener = UnixListener(directory, lambda: _Client(self), backlog=max_clients)

    async def open(self) -> None:
        """Listen. If the directory cannot hold a socket, log a warning and answer no requests.

        Raises SettingError if another server answers there already.
        """
        try:
            await self._listener.open()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingError(
                    f"--data {self._directory} is in use by another server; stop it or choose "
                    "another directory."
                ) from None
            logger.warning(
                "`fastchat status` will not work, because the data directory cannot hold a "
                "socket: %s",
                error.strerror,
            )

    def check(self) -> None:
        """Bind the socket again if its file is gone; call it once a second."""
        self._listener.check()

    def close(self) -> None:
        self._listener.close()
        for client in tuple(self.clients):
            client.drop()


class _Client(asyncio.Protocol):
    """A connection of a client that requests the status."""

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
        from fastchat.brokers.relay.records import AskStatus, Status

        request = AskStatus().encode()
        self._received += data
        if self._received == request and not self._transport.get_write_buffer_size():
            self._received = b""
            self._transport.write(Status({"server": self._server.snapshot()}).encode())
            self._deadline.cancel()
            self._wait()
        elif not request.startswith(self._received):
            self.drop()

    def drop(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self._server.silence_s, self.drop)
