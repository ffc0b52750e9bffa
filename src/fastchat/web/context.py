"""What the HTTP connections of a process share: objects, timings and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fastchat.connections.context import Context
from fastchat.files.transfers import BodyRule
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.handshakes import HandshakeLimiter
from fastchat.web.capacity import Capacity
from fastchat.web.lingering import LINGER_BYTES, LINGER_S
from fastchat.web.origins import Origins
from fastchat.web.proxies import TrustedProxies

__all__ = ["ADDRESS_HEADER", "CREDENTIALS", "ONE_HOST", "HttpContext", "HttpTimings", "Refusal"]

#: The header in which `HttpProtocol` tells `WebSocketProtocol` the address that limits count the
#: client by. Only we write it: the same header from a client is not passed on.
ADDRESS_HEADER = "x-fastchat-address"

#: The headers with which a client can say who it is.
CREDENTIALS = (b"cookie", b"authorization")

ONE_HOST = "A request needs exactly one valid Host header."


class Refusal(NamedTuple):
    """Why a request does not reach the application: an HTTP status, and a sentence to send."""

    status: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTimings:
    """How long HTTP waits for a client. Values are seconds; deadlines are checked once a second."""

    #: From accept, or from the first byte of a further request, to a complete head.
    head_s: float = 5.0
    #: From a complete head until the answer has left our buffers; the page has about 60 kB. An
    #: upload has this long for each `fastchat.files.transfers.PROGRESS_BYTES`, and a download for
    #: each piece. So the transfer of a whole file has no limit in time.
    answer_s: float = 30.0
    #: From a complete head to a complete body, unless the body is a file.
    body_s: float = 10.0
    #: The same when the server stops. It must end, with a sweep, before `WorkerTimings.drain_s`,
    #: after which uvicorn would cancel the answer and log an error.
    last_answer_s: float = 1.0
    #: When the server stops, a connection without a request is closed after this time: its first
    #: request may be on its way.
    last_request_s: float = 0.5
    #: If a client still sends after the last answer, the server reads on for this long, and at most
    #: this many bytes (`fastchat.web.lingering`).
    linger_s: float = LINGER_S
    linger_bytes: int = LINGER_BYTES


class HttpContext(NamedTuple):
    """The objects that the connections of a process share before they are WebSockets.

    `session_context` is what they share afterwards.

    A request above `capacity.served` connections gets 503, and a connection above
    `capacity.accepted` gets 503 at once. Between the two, a handshake is still accepted, unless
    `handshakes` refuses it: a page cannot see the status of a refused handshake, so a session is
    opened to tell the page that the server is full.

    `visitors` counts connections by address until they are WebSockets. `echo` allows /_echo.
    `body_rule` says how the body of a request is received, by its method and its path; None if such
    a request must not have one. `takes_sockets` is whether a handshake is accepted.
    """

    session_context: Context
    origins: Origins
    capacity: Capacity
    proxies: TrustedProxies
    handshakes: HandshakeLimiter
    visitors: ConnectionCount
    echo: bool = False
    body_rule: Callable[[str, str], BodyRule | None] = lambda method, path: None
    takes_sockets: bool = True
    timings: HttpTimings = HttpTimings()
