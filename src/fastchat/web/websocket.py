"""picows as the WebSocket implementation of uvicorn (its `ws` class)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from multidict import CIMultiDict
from picows import WSUpgradeRequest, WSUpgradeResponse
from picows.common import WSUpgradeResponseWithListener
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from fastchat._buffers import SharedBuffers
from fastchat.connections.echo import ECHO_PATH, EchoSession
from fastchat.connections.session import Session
from fastchat.errors import CommandError
from fastchat.protocol.commands import Join
from fastchat.protocol.parsing import join_from_query
from fastchat.web.context import ADDRESS_HEADER, HttpContext
from fastchat.web.headers import common_headers

__all__ = ["READ_BYTES", "WebSocketProtocol"]

SUBPROTOCOL = "fastchat.v1"
#: The largest read, and the most that one turn of the event loop takes from one connection: about
#: 100 short messages, which take less than a millisecond in all. With messages of up to 64 KiB,
#: picows' buffer grows to 128 KiB at most while such a message arrives; whole messages need none
#: (`fastchat._buffers`).
READ_BYTES = 16 * 1024
#: The prefix of a subprotocol that is a token. It is offered by clients, and never selected.
BEARER_PREFIX = "fastchat.token."


class _Silent:
    """A logger that logs nothing: picows wants one, and sessions log the same events better."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 its name in logging
        return False

    def log(self, *arguments: object, **keywords: object) -> None:
        """Log nothing."""

    debug = info = warning = error = exception = log


_SILENT = _Silent()
#: It is shared by all connections without any.
_NO_CREDENTIALS: Mapping[str, str] = {}


class WebSocketProtocol(WSProtocol):  # type: ignore[misc]  # private in picows, hence untyped
    """picows' protocol, constructed by uvicorn at an upgrade that `fastchat.web.http` has checked.

    uvicorn passes `config`, `server_state` and `app_state`, which are not needed, and then calls
    `connection_made` and `data_received` with the request as bytes. All protocols of an event loop
    share `buffers`.
    """

    __slots__ = ("_buffers", "_context", "_offered")

    def __init__(self, *, context: HttpContext, buffers: SharedBuffers, **_uvicorn: Any) -> None:
        self._context = context
        self._buffers = buffers
        self._offered = 0
        super().__init__(
            None,  # host and port: only for clients
            None,  # path: only for clients
            False,  # is_client_side
            self._upgrade,
            _SILENT,
            True,  # disconnect on exception; sessions handle all of theirs
            context.timings.head_s,
            False,  # auto ping: the hub's sweep pings all connections
            None,
            None,
            WSAutoPingStrategy.PING_PERIODICALLY,
            False,  # auto pong: it would charge no pings; sessions answer them
            context.session_context.max_message_bytes,
            None,  # extra headers: only for clients
            2048,  # read buffer: the smallest size that picows allows
        )
        buffers.settle(self)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._buffers.share_writing(self.transport)

    def data_received(self, data: bytes) -> None:
        """Take the whole upgrade request, and then the frames that arrived with it, if any.

        Afterwards uvloop uses `get_buffer`.
        """
        rest = memoryview(data)
        while rest:
            buffer = self.get_buffer(-1)
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            rest = rest[count:]
            self.buffer_updated(count)

    def get_buffer(self, size_hint: int) -> memoryview:
        """The free part of picows' buffer, at most READ_BYTES of it.

        picows doubles its buffer, and never shrinks it, whenever a read has filled most of it.
        Without this bound, a client that sends much at once would make it as large as all that the
        kernel has for it, which can be megabytes.
        """
        free: memoryview = super().get_buffer(size_hint)[:READ_BYTES]
        self._offered = len(free)
        return free

    def buffer_updated(self, count: int) -> None:
        super().buffer_updated(count)
        self._buffers.settle(self)
        if self.transport.is_close_frame_sent:
            self.listener.parse_failed()
        elif count == self._offered and self.listener is not None:
            # uvloop would read on in the same callback.
            self.listener.more_to_read()

    def _upgrade(self, request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        response = WSUpgradeResponse.create_101_response()
        response.headers.extend(common_headers())
        if request.path.partition(b"?")[0] == ECHO_PATH:
            return WSUpgradeResponseWithListener(
                response, EchoSession(self._context.session_context)
            )
        lines = request.headers.getall("sec-websocket-protocol", ())
        offered = [name.strip() for line in lines for name in line.split(",")]
        if SUBPROTOCOL in offered:
            response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        tokens = [name[len(BEARER_PREFIX) :] for name in offered if name.startswith(BEARER_PREFIX)]
        session = Session(
            self._context.session_context,
            _join_asked_for(request.path),
            tokens[0] if tokens else None,
            request.headers[ADDRESS_HEADER],
            _credentials(request.headers),
        )
        return WSUpgradeResponseWithListener(response, session)


def _credentials(headers: CIMultiDict[str]) -> Mapping[str, str]:
    """The headers with which the client says who it is, as far as picows was given them."""
    found = {}
    for name, separator in (("cookie", "; "), ("authorization", ", ")):
        if lines := headers.getall(name, ()):
            found[name] = separator.join(lines)
    return found or _NO_CREDENTIALS


def _join_asked_for(path: bytes) -> Join | CommandError | None:
    """The join that ``?username=…`` or ``?room=…`` asks for, or why it is invalid.

    It is None if the query has neither.
    """
    query = path.partition(b"?")[2].decode("ascii")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if "username" not in parameters and "room" not in parameters:
        return None
    try:
        return join_from_query(parameters)
    except CommandError as refusal:
        return refusal
