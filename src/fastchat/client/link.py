"""A WebSocket to a server, and sentences for the errors of the network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
)

from fastchat.client.text import safe
from fastchat.errors import FastchatError

__all__ = ["Interrupted", "Link", "Refused", "translated"]

#: How long `close` waits for the server to answer the client's close frame.
FAREWELL_S = 1.0

_OK = 1000
_TEXT, _BINARY = WSMsgType.TEXT, WSMsgType.BINARY
_CONTINUATION, _CLOSE = WSMsgType.CONTINUATION, WSMsgType.CLOSE


class Refused(FastchatError):
    """Another attempt is useless: the server refuses this client, or the address is wrong."""


class Interrupted(FastchatError):
    """The connection cannot be used any more, but a new connection may work."""


class Link(WSListener):
    """One connection. It joins frames into messages, and notes why the server closed it.

    `on_connected` is called after the handshake, and `on_payload` for each complete text message.
    `close_code` and `close_reason` are those of the server's close frame; before it arrives, the
    code is None.
    """

    def __init__(
        self, on_connected: Callable[[Link], None], on_payload: Callable[[bytes], None]
    ) -> None:
        self.close_code: int | None = None
        self.close_reason = ""
        self._on_connected = on_connected
        self._on_payload = on_payload
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._ended = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._on_connected(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _CLOSE:
            self._on_close(transport, frame.get_payload_as_bytes())
        elif self.close_code is None and (kind is _TEXT or kind is _CONTINUATION):
            # fastchat sends no fragments, but RFC 6455 §5.4: "An intermediary might coalesce and/or
            # split frames".
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                payload, self._parts = b"".join(self._parts), []
                self._on_payload(payload)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._ended.set()

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        assert self._transport is not None
        self._transport.send(_BINARY if binary else _TEXT, payload)

    async def close(self) -> None:
        """Send a close frame, wait at most FAREWELL_S for the answer, and close the socket."""
        assert self._transport is not None
        if not self._transport.is_close_frame_sent:
            self._transport.send_close(WSCloseCode.OK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._ended.wait()
        self.abort()

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.disconnect(False)

    def _on_close(self, transport: WSTransport, payload: bytes) -> None:
        self.close_code = int.from_bytes(payload[:2], "big") if payload else _OK
        self.close_reason = payload[2:].decode("utf-8", "replace")
        if not transport.is_close_frame_sent:
            transport.send_close(WSCloseCode.OK)
        transport.disconnect()


@contextlib.contextmanager
def translated(address: str, *, first: bool) -> Iterator[None]:
    """Translate errors of the network to Refused, which ends the client, or to Interrupted.

    If the `first` connection fails because the other side is not a WebSocket server, the address is
    wrong. On later connections the same error means that the server or a proxy is restarting.
    """
    try:
        yield
    except (WSHandshakeError, ssl.SSLError, socket.gaierror) as error:
        why = _why_not(error)
        if first and not _is_temporary(error):
            raise Refused(f"No chat server answers at {address}: {why}.") from None
        raise Interrupted(why) from None
    except BrokenPipeError:  # the reader of standard output has ended
        raise
    except TimeoutError:
        raise Interrupted("the server does not answer") from None
    except (OSError, WSError) as error:
        raise Interrupted(f"the server cannot be reached: {_why_not(error)}") from None


def _why_not(error: Exception) -> str:
    if isinstance(error, WSHandshakeError):
        status = _status(error)
        if status is None:
            return "the answer is not a WebSocket handshake"
        return f"the answer has the HTTP status {status}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake fails: {error.reason}"
    return safe(getattr(error, "strerror", None) or str(error))


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, WSHandshakeError):
        status = _status(error)
        return status is not None and (status >= 500 or status == 429)
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN


def _status(error: WSHandshakeError) -> int | None:
    return None if error.response is None else int(error.response.status)
