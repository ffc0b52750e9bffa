"""The status of a running server, and its operation, over the socket in its data directory.

`fastchat status` and the supervisor ask for the status, and an operator for an operation. With
several workers the relay answers, and with one process `StatusServer` does. The requests and the
answers are records of the relay's protocol: AskStatus and Status, Operate and Operated. They are
imported when they are needed: a server of one process starts without the relay's records, which
take 10 ms to import.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.brokers.relay.listener import UnixListener
from fastchat.brokers.relay.wire import BadRecord, RecordReader, socket_path
from fastchat.errors import CommandError, FastchatError, SettingError

__all__ = ["NotAnswering", "StatusServer", "ask", "collect", "operate"]

logger = logging.getLogger("fastchat.status")

#: The longest wait of the supervisor for the counters of the other processes. It is well below
#: Prometheus' default `scrape_timeout` of 10 s, so that a scrape succeeds without them.
SCRAPE_TIMEOUT_S = 1.0
#: A connection on which the client has sent no request for this long is closed.
SILENCE_S = 2.0
#: The largest request for an operation.
MAX_REQUEST_BYTES = 256 * 1024
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
    from fastchat.brokers.relay.records import AskStatus, Status

    reply = await _exchange(directory, AskStatus().encode(), Status, timeout_s)
    return {name: dict(part) for name, part in reply.parts.items()}


async def operate(
    directory: Path, verb: str, arguments: Mapping[str, Any], timeout_s: float
) -> Any:
    """Have a server run an operation (`fastchat.chat.operations.Operations.run`).

    Returns its result. Raises CommandError if the server refuses it, and NotAnswering as `ask`;
    then it can have been run nevertheless.
    """
    from fastchat.brokers.relay.records import Operate, Operated

    request = Operate(verb, arguments).encode()
    return (await _exchange(directory, request, Operated, timeout_s)).value


async def _exchange(directory: Path, request: bytes, expected: type[Any], timeout_s: float) -> Any:
    """Send a request, and return the reply, of the type `expected`."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(directory, request, expected)
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
        raise NotAnswering(f"the server on --data {directory} cannot be asked: {error}.") from None


async def _ask(directory: Path, request: bytes, expected: type[Any]) -> Any:
    from fastchat.brokers.relay.records import Refused, decode_from_relay

    with socket_path(directory) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        records = RecordReader(decode_from_relay)
        while data := await reader.read(1 << 16):
            for record in records.feed(data):
                if isinstance(record, Refused):
                    raise record.refusal.error()
                if not isinstance(record, expected):
                    raise BadRecord("it runs another version of fastchat")
                return record
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
    """Answers requests to a server with one process, from `open` to `close`.

    A request is for the status, or for an operation of an operator, which `operate` runs. The
    caller of `open` and `close` must hold the directory's lock. A connection is closed if the
    client sends anything but a request, sends another one during an operation, or sends no request
    for `silence_s` seconds. If there are more than `max_clients` connections, a new one is closed.
    """

    def __init__(
        self,
        directory: Path,
        snapshot: Callable[[], Mapping[str, Any]],
        operate: Callable[[str, Mapping[str, Any]], Awaitable[Any]],
        *,
        silence_s: float = SILENCE_S,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._directory = directory
        self.snapshot = snapshot
        self.operate = operate
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
    """A connection of a client that requests the status, or an operation of an operator."""

    _transport: asyncio.Transport
    _deadline: asyncio.TimerHandle

    def __init__(self, server: StatusServer) -> None:
        self._server = server
        self._received = b""
        self._reader: RecordReader[Any] | None = None  # from the first other request on
        self._operating: asyncio.Task[None] | None = None

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
        from fastchat.brokers.relay.records import AskStatus, Status, decode_from_worker

        if self._reader is None:
            request = AskStatus().encode()
            self._received += data
            if self._received == request and not self._transport.get_write_buffer_size():
                self._received = b""
                self._answer(Status({"server": self._server.snapshot()}).encode())
            elif not request.startswith(self._received):
                self._reader = RecordReader(decode_from_worker, max_record_bytes=MAX_REQUEST_BYTES)
                data, self._received = self._received, b""
        if self._reader is not None:
            try:
                for record in self._reader.feed(data):
                    self._on_record(record)
            except BadRecord:
                self.drop()

    def _on_record(self, record: Any) -> None:
        from fastchat.brokers.relay.records import Operate

        if not isinstance(record, Operate) or self._operating is not None:
            self.drop()
            return
        self._deadline.cancel()  # an operation takes as long as it takes
        self._operating = asyncio.get_running_loop().create_task(self._operate(record))

    async def _operate(self, record: Any) -> None:
        from fastchat.brokers.relay.records import Operated, Refusal, Refused

        try:
            value = await self._server.operate(record.verb, record.arguments)
        except CommandError as refusal:
            self._answer(Refused(0, Refusal.of(refusal)).encode())
        except Exception:
            logger.exception("internal error in the operation %r", record.verb)
            self.drop()
        else:
            self._answer(Operated(value).encode())
        self._operating = None

    def _answer(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)
            self._deadline.cancel()
            self._wait()

    def drop(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self._server.silence_s, self.drop)
