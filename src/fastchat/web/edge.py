"""What all connections of a process share before they are WebSockets, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fastchat.connections.context import Context
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.handshakes import HandshakeLimiter
from fastchat.web.capacity import Capacity
from fastchat.web.lingering import LINGER_BYTES, LINGER_S
from fastchat.web.origins import Origins
from fastchat.web.proxies import Proxies

__all__ = ["ADDRESS_HEADER", "ONE_HOST", "Edge", "HttpTimings", "Refusal"]

#: The header in which `HttpProtocol` tells `WebSocketProtocol` the address that limits count the
#: client by. It is written by us only: the same header of a client is not passed on.
ADDRESS_HEADER = "x-fastchat-address"

ONE_HOST = "A request needs exactly one Host header."


class Refusal(NamedTuple):
    """Why a request gets no answer of the application: a status of HTTP and a sentence."""

    status: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTimings:
    """How long HTTP waits for a client. Values are seconds; deadlines are checked once a second."""

    #: From accept, or from the first byte of a further request, to a complete head.
    head_s: float = 5.0
    #: From a complete head until the answer has left our buffers; the page has some 60 kB. A file
    #: has this long for each `fastchat.files.transfers.PROGRESS_BYTES` that come of it, and for
    #: each piece that goes: the time that all of it takes has no bound.
    answer_s: float = 30.0
    #: The same when the server stops. With a sweep it stays under the worker's DRAIN_S, after
    #: which uvicorn would cancel the answer and log an error.
    last_answer_s: float = 1.0
    #: When the server stops, a connection without a request is closed after this time: its first
    #: request may be on its way.
    last_request_s: float = 0.5
    #: How long a client that still sends after the last answer is listened to, and how many bytes
    #: it can send in this time (`fastchat.web.lingering`).
    linger_s: float = LINGER_S
    linger_bytes: int = LINGER_BYTES


class Edge(NamedTuple):
    """What the connections of a process share before they are WebSockets.

    A request above `capacity.served` connections gets 503, and a connection above
    `capacity.accepted` gets 503 at once. Between the two a handshake goes on, unless `handshakes`
    refuses it: a browser cannot see the status of a refused handshake, so a session has to tell it.
    `visitors` counts connections by address until they are WebSockets. `echo` opens /_echo. A file
    has at most `max_file_bytes`; 0 if the server takes no files.
    """

    context: Context
    origins: Origins
    capacity: Capacity
    proxies: Proxies
    handshakes: HandshakeLimiter
    visitors: ConnectionCount
    echo: bool = False
    max_file_bytes: int = 0
    timings: HttpTimings = HttpTimings()
