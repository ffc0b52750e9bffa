"""One WebSocket to a server, and sentences for the errors of the network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)

from fastchat_client.address import is_loopback
from fastchat_client.errors import Closed, Disconnected, Refused, may_reconnect

__all__ = ["Link", "LinkLost"]

#: The longest wait for the connection and its handshake, in seconds.
CONNECT_TIMEOUT_S = 15.0
#: How long `close` waits for the server to answer the client's close frame.
FAREWELL_S = 1.0
#: The client sends a ping this often, and waits this long for the answer. The server sends its own
#: pings every 25 s; those of the client find a connection whose other end is gone without a word.
PING_INTERVAL_S, PONG_TIMEOUT_S = 25.0, 20.0
#: The longest event. The server sends at most 256 KiB of publications at once, and a list of users.
MAX_EVENT_BYTES = 4 * 1024 * 1024
#: The longest command that a server accepts with its defaults (docs/protocol.md, "Message").
MAX_COMMAND_BYTES = 64 * 1024
#: After so many events, other tasks run. Otherwise a burst could fill the buffer of a room before
#: the program has had a chance to take one event.
EVENTS_PER_TURN = 32

_logger = logging.getLogger("fastchat_client.websockets")

Result = TypeVar("Result")


class LinkLost(Exception):
    """The connection ended before the answer came."""


class _Connect(connect):
    """Without redirects: the token in a `join` must reach no other server than the named one."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Link:
    """One connection. `lost` is done when it cannot be used any more."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, url: str, *, tls: ssl.SSLContext | None = None, is_first: bool = False
    ) -> Link:
        """Connect. Raises Disconnected, which is not temporary if the address must be wrong.

        `is_first` says that no connection to this address has worked yet. Later, an answer that is
        no WebSocket means that the server or a proxy is restarting.
        """
        with _translated(url, is_first=is_first):
            connection = await _Connect(
                url,
                compression=None,  # the server has no extensions
                proxy=None if is_loopback(url) else True,
                open_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PONG_TIMEOUT_S,
                close_timeout=FAREWELL_S,
                max_size=MAX_EVENT_BYTES,
                logger=_logger,
                ssl=_tls_of(url, tls),
            )
        return cls(connection)

    async def read(self, dispatch: Callable[[dict[str, Any]], None]) -> None:
        """Pass each event to `dispatch`, until the connection ends.

        It ends only by an exception: Disconnected, or Closed if the server's close code forbids a
        reconnect, or an exception of `dispatch`.
        """
        count = 0
        try:
            while True:
                dispatch(_parsed(await self._connection.recv()))
                count += 1
                if count % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        except ConnectionClosed as closed:
            raise _ending(closed) from None
        finally:
            self.abort()

    async def send(self, command: Mapping[str, Any]) -> None:
        """Send a command; wait if the connection is slow.

        Raises LinkLost, Refused if the server would close the connection because the command is too
        large, and ValueError if a text has lone surrogates.
        """
        data = json.dumps(command, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) > MAX_COMMAND_BYTES:
            raise Refused("too_long", f"A command can have at most {MAX_COMMAND_BYTES:,} bytes.")
        await self._send(data, is_text=True)

    async def try_to_send(self, command: Mapping[str, Any]) -> None:
        """Send a command that means nothing any more if the connection is lost."""
        with contextlib.suppress(LinkLost):
            await self.send(command)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message; wait if the connection is slow. Raises LinkLost."""
        await self._send(data, is_text=False)

    async def until(self, answer: asyncio.Future[Result]) -> Result:
        """Wait for an answer, and return it or raise its exception. Raises LinkLost."""
        await asyncio.wait((answer, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise LinkLost
        return answer.result()

    async def close(self) -> None:
        """Send a close frame, wait for the answer for at most FAREWELL_S, and close the socket."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._connection.close()
        self.abort()

    def abort(self) -> None:
        """Close the socket at once. Safe to call again."""
        if not self.lost.done():
            self.lost.set_result(None)
        self._connection.transport.abort()

    async def _send(self, data: bytes, *, is_text: bool) -> None:
        if self.lost.done():
            raise LinkLost
        try:
            await self._connection.send(data, text=is_text)
        except ConnectionClosed:
            self.abort()  # `lost` is done from now on, even if `read` has not noticed the end yet
            raise LinkLost from None


def _parsed(data: str | bytes) -> dict[str, Any]:
    """The event in a message. Raises ValueError if it is none."""
    try:
        event = json.loads(data)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ValueError(event)
    return event


def _ending(closed: ConnectionClosed) -> Disconnected | Closed:
    """The meaning of the end of a connection."""
    if closed.rcvd is None:
        return Disconnected("The connection was lost.")
    code, reason = closed.rcvd.code, closed.rcvd.reason or "no reason"
    sentence = f"The server closed the connection: {reason} ({code})."
    if may_reconnect(code):
        return Disconnected(sentence, close_code=code)
    return Closed(sentence, close_code=code)


@contextlib.contextmanager
def _translated(url: str, *, is_first: bool) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Disconnected("The server does not answer.") from None
    except (InvalidHandshake, ssl.SSLError, socket.gaierror) as error:
        if is_first and not _is_temporary(error):
            raise Disconnected(
                f"No chat server answers at {url}: {_why_not(error)}.",
                code="unreachable",
                temporary=False,
            ) from None
        raise Disconnected(
            f"{_why_not(error).capitalize()}.", retry_after=_retry_after(error)
        ) from None
    except (OSError, WebSocketException, EOFError) as error:
        raise Disconnected(f"The server cannot be reached: {_why_not(error)}.") from None


def _why_not(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        return f"the answer has the HTTP status {error.response.status_code}"
    if isinstance(error, InvalidHandshake):
        return "the answer is not a WebSocket handshake"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake fails: {error.reason}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, InvalidStatus):
        return error.response.status_code >= 500 or error.response.status_code == 429
    if isinstance(error, InvalidMessage):
        return isinstance(error.__cause__, EOFError)  # the other side has only closed the socket
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


def _retry_after(error: Exception) -> float | None:
    """The seconds of `Retry-After` (RFC 9110 §10.2.3) in a refused handshake."""
    if not isinstance(error, InvalidStatus):
        return None
    text = error.response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _tls_of(url: str, tls: ssl.SSLContext | None) -> ssl.SSLContext | bool | None:
    """The argument `ssl` of a connection: True means the certificates that the system trusts."""
    if not url.startswith("wss:"):
        return None
    return True if tls is None else tls
