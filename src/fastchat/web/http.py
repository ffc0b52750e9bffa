"""HTTP: connections before they are WebSockets, and the upgrade.

uvicorn speaks HTTP and `app` answers; at an upgrade uvicorn hands the request
over, and picows takes the connection. Between them stands `HttpProtocol`, which
bounds what neither does: the size of a request's head and the time until it is
complete, bodies (only a file has one), and answers that nobody reads. And it
sees to it that who is refused while he still sends gets to read why.
"""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fastchat.limits.connections import Limit
from fastchat.protocol import FILES_URL
from fastchat.web.edge import ONE_HOST, Edge, Refusal
from fastchat.web.handshake import UpgradeRequest, check_upgrade, headers_for_picows
from fastchat.web.headers import SECURITY_HEADERS
from fastchat.web.lingering import AnswerTransport, has_body

__all__ = ["HttpProtocol"]

logger = logging.getLogger("fastchat.http")

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 128
#: Requests that wait for the answers before theirs; one costs some 2 kB.
MAX_PIPELINED = 32
#: A file has as long for each so many bytes that come of it, and for each piece that goes: what
#: all of it takes is not bounded.
PROGRESS_BYTES = 16 * 1024
FULL = "The server is full."
TOO_MANY = "There are too many connections from this address."
#: Who is refused for want of room may try again after so long.
RETRY_AFTER_S = 5


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds. Whoever has `server_state` calls `sweep` each second."""

    def __init__(self, *arguments: Any, edge: Edge, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._edge = edge
        self._sessions = edge.context.sessions
        self._head_bytes = 0
        self._head_complete = False
        self._takes_body = False
        self._moved_bytes = 0  # of a body, since the deadline was put off
        self._refused = False
        self._unheard: int | None = None  # bytes that may come still, once nothing is answered
        self._stopping = False
        self._visitor = ""  # the address that is counted
        self._answering: Any = None
        self._deadline_s = self.loop.time() + self._edge.timings.head_s

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._connection_count() > self._edge.capacity.accepted:
            logger.warning(
                "%d connections are open, no more are accepted (ulimit -n)",
                self._edge.capacity.accepted,
            )
            self._refuse(503, FULL, at_once=True)
            return
        visitor = self._edge.proxies.visitor(None if self.client is None else self.client[0])
        if self._edge.visitors.enter(visitor) is None:
            self._visitor = visitor
        else:
            self._edge.context.metrics.turned_away[Limit.ADDRESS] += 1
            self._refuse(503, TOO_MANY, at_once=True)

    def _leave(self) -> None:
        """Not a visitor any more: gone, or upgraded. Safe to call again."""
        if self._visitor:
            self._edge.visitors.leave(self._visitor, "")
            self._visitor = ""

    def _connection_count(self) -> int:
        return len(self.connections) + len(self._sessions)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the newest request only, and an earlier one may be at its answer.
        if self._answering is not None:
            self._answering.disconnected = True
        self._leave()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        cycle.transport = AnswerTransport(self.transport, self._end)
        cycle.default_headers = []  # the application has its own; others get uvicorn's
        super()._start_asgi_task(cycle, app)

    def sweep(self, now: float) -> None:
        """Abort the connection if it has let its deadline pass."""
        if self._deadline_s and now >= self._deadline_s:
            is_over = self._unheard is not None
            if self.transport.get_write_buffer_size() or is_over or not self._idle():
                self.transport.abort()
            else:
                self._deadline_s = 0.0  # answered and read: uvicorn's keep-alive takes over

    def shutdown(self) -> None:
        self._stopping = True
        self._deadline_s = self.loop.time() + self._edge.timings.last_answer_s
        if self.cycle is not None:
            super().shutdown()
        else:  # a request may be on its way, and gets its answer; uvicorn would hang up
            self.loop.call_later(self._edge.timings.last_request_s, self._hang_up)

    def _hang_up(self) -> None:
        if self.parser is not None:  # not upgraded
            super().shutdown()

    def _idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self._head_bytes == 0

    def data_received(self, data: bytes) -> None:
        if self._unheard is not None:
            self._unheard -= len(data)
            if self._unheard < 0:
                self.transport.close()
            return
        if self._refused:
            return
        if not self._head_complete:
            if not self._head_bytes and (not self._deadline_s or self._idle()):
                self._deadline_s = self.loop.time() + self._edge.timings.head_s
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self._head_complete:
            self._refuse(431, "The request's head is too large.")

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes either
        """Who has sent all of his requests gets the answers; TLS has no half of a connection."""
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_complete = self._takes_body = False

    def on_headers_complete(self) -> None:
        if self._refused:
            return
        self._head_complete = True
        self._head_bytes = 0
        self._deadline_s = self.loop.time() + self._edge.timings.answer_s
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEAD_LINES:
            self._refuse(431, "The request's head is too large.")
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(429, "Too many requests at once.")
        elif (refusal := self._request_refusal()) is not None:
            self._refuse(*refusal)
        else:
            waits = self.cycle is not None and not self.cycle.response_complete
            if self.parser.get_http_version() == "1.0":
                self.expect_100_continue = False  # RFC 9110 §10.1.1
            super().on_headers_complete()
            if "path" in self.scope:  # not an upgrade
                self._prepare(waits=waits)

    def _prepare(self, *, waits: bool) -> None:
        """What the application has to know of a request; it runs in a moment.

        A body behind a request that has no answer yet would wait in memory.
        """
        self._takes_body = not waits and self._is_file()
        self._moved_bytes = 0
        self.scope["state"].update(
            address=self._address(), takes_body=self._takes_body, moved=self._has_moved
        )

    def _is_file(self) -> bool:
        """Whether a request has a body that may be read."""
        if self.scope["method"] != "POST" or self.scope["path"] != FILES_URL:
            return False
        if self.parser.should_upgrade():  # to HTTP/2, say: the parser reads nothing behind it
            return False
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if len(lengths) != 1 or any(name == b"transfer-encoding" for name, _ in self.headers):
            return False
        return int(lengths[0]) <= self._edge.max_file_bytes

    def _has_moved(self) -> bool:
        """A piece of a file has come or gone. Says whether anybody is still there."""
        if not self._stopping:
            self._deadline_s = self.loop.time() + self._edge.timings.answer_s
        return not self.transport.is_closing()

    def _request_refusal(self) -> tuple[int, str] | None:
        """Why a plain request is not answered; handshakes have reasons of their own."""
        if self.parser.should_upgrade() and self._should_upgrade():
            return None
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            return 400, ONE_HOST
        if self._connection_count() > self._edge.capacity.served:
            return 503, FULL
        return None

    def _unsupported_upgrade_warning(self) -> None:
        # Answered as if nobody had asked, which is no event. But nothing behind it is read.
        self._end_after_answer()

    def on_body(self, body: bytes) -> None:
        if not self._takes_body or self.cycle.response_complete:
            self._end_after_answer()  # it is neither kept nor waited for
            return
        super().on_body(body)  # kept until it is asked for; above 64 KiB no more is read
        self._moved_bytes += len(body)
        if self._moved_bytes >= PROGRESS_BYTES:
            self._moved_bytes = 0
            self._has_moved()

    def on_message_complete(self) -> None:
        if self._takes_body:
            self._has_moved()
        if not self._refused:
            super().on_message_complete()
        self._head_complete = False

    def _end_after_answer(self) -> None:
        if self.cycle is not None:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._end()

    def _end(self) -> None:
        """After an answer, end the connection: but first hear out who still sends."""
        if self.transport.is_closing() or self._unheard is not None:
            return
        if not self._head_bytes and not (self._head_complete and has_body(self.headers)):
            self.transport.close()
            return
        self._unheard = self._edge.timings.linger_bytes
        if not self._stopping:
            is_read = not self.transport.get_write_buffer_size()
            self._deadline_s = self.loop.time() + (
                self._edge.timings.linger_s if is_read else self._edge.timings.answer_s
            )
        if self.transport.can_write_eof():  # TLS cannot, and its answers have a length
            self.transport.write_eof()
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        if self._unheard is None:
            super().on_response_complete()
        else:  # what came behind it is not answered any more
            self.server_state.total_requests += 1

    def handle_websocket_upgrade(self) -> None:
        """Check the handshake (RFC 6455 §4.2.1), then pass on just what belongs to it.

        What picows refuses it answers with the text of its exception, the client's
        header in it; and it refuses Firefox's `Connection: keep-alive, Upgrade`.
        So it only gets to see what it will accept.
        """
        if self._refused:
            return
        address = self._address()
        limit = self._edge.gate.enter(address)
        if limit is not None:
            self._edge.context.metrics.turned_away[limit] += 1
            self._refuse(503, "There are too many new connections.")
            return
        refusal = self._upgrade_refusal()
        if refusal is not None:
            self._refuse(*refusal)
            return
        self.headers[:] = headers_for_picows(self.headers, address)
        self._deadline_s = 0.0
        self._leave()
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # it holds us, and we held it

    def _address(self) -> str:
        peer = None if self.client is None else self.client[0]
        forwarded = [value for name, value in self.headers if name == b"x-forwarded-for"]
        return self._edge.proxies.client_of(peer, forwarded)

    def _upgrade_refusal(self) -> Refusal | None:
        if self.cycle is not None and not self.cycle.response_complete:
            return Refusal(400, "An upgrade does not overtake an answer.")
        request = UpgradeRequest(
            self.scope["method"],
            self.scope["http_version"],
            self.url,
            self.headers,
            encrypted=self.scheme == "https",
        )
        return check_upgrade(request, self._edge)

    def _refuse(self, status: int, message: str, *, at_once: bool = False) -> None:
        """A fixed answer, then the end of the connection."""
        self._refused = True
        body = message.encode() + b"\n"
        head = [f"HTTP/1.1 {status} Refused".encode()]
        head += [f"{name}: {value}".encode() for name, value in SECURITY_HEADERS]
        head += [b"content-type: text/plain; charset=utf-8"]
        head += [b"content-length: %d" % len(body), b"connection: close"]
        head += _REQUIRED_HEADERS.get(status, ())
        self.transport.write(b"\r\n".join([*head, b"", body]))
        self._deadline_s = self.loop.time() + self._edge.timings.head_s
        if at_once:
            self.transport.close()
        else:
            self._end()


# What these answers have to say besides (RFC 9110 §15.5.6, RFC 6455 §4.4).
_REQUIRED_HEADERS = {
    405: (b"allow: GET",),
    426: (b"sec-websocket-version: 13", b"upgrade: websocket"),
    429: (b"retry-after: %d" % RETRY_AFTER_S,),
    503: (b"retry-after: %d" % RETRY_AFTER_S,),
}
