"""HTTP/1.1 until the upgrade: uvicorn's protocol, with bounds.

uvicorn parses requests and runs the application (`fastchat.web.page`). At an upgrade it hands the
request over, and picows takes the connection (`fastchat.web.websocket`). `HttpProtocol` adds the
limits that both lack: on the size of a request's head and the time until it is complete, on bodies
(`HttpContext.body_rule` says which requests have one), and on the time for which a client does not
read its answer. A client that is refused while it still sends can read why
(`fastchat.web.lingering`).

States
------
A connection is in one `State`, which says what happens to the bytes that arrive:

HEAD       A request's head is arriving (`_head_bytes` so far), or the connection is between two
           requests. Next: BODY or UNWANTED when the head is complete; UPGRADED if it is a valid
           handshake.
BODY       A file or another body that the application takes is arriving; uvicorn keeps the bytes
           until then. Next: HEAD when the body is complete.
UNWANTED   The request must not have a body. If bytes of one arrive, they are dropped, and the
           connection ends after the answer. Next: HEAD if there is no body.
LINGERING  The last answer is written, and the client still sends. At most `_linger_bytes` are read
           and dropped.
CLOSED     The last answer is written, and the transport closes when it is sent.
UPGRADED   picows has the transport, and nothing calls us any more.

A refusal, or an answer that ends the connection, leads from each of the first three states to
LINGERING or CLOSED (`_end`). The last three states are final.

Two things of uvicorn do not depend on the state, because the application answers one request while
the next one arrives: `cycle`, the newest request and its answer, and `pipeline`, the requests that
wait for earlier answers.

`_deadline_s` is the loop's time at which `sweep` aborts the connection; 0.0 if there is none.
It is set to the present time plus

- `head_s` at accept, at the first byte of a further head, and at a refusal;
- `answer_s` when a head is complete, when a body is complete, whenever PROGRESS_BYTES of an upload
  have arrived, and for each piece of a download;
- `body_s` when the head of a request with a body is complete, unless the body is a file;
- `linger_s` when LINGERING begins, or `answer_s` if the client has not read the answer yet;
- `last_answer_s` when the server stops. After that the deadline stays.

An idle connection has no deadline of ours: uvicorn's keep-alive timeout closes it.

uvicorn
-------
uvicorn has no public interface for any of this, hence the pin `uvicorn~=0.54.0` (pyproject.toml).
Before the pin moves, look up these names in the new version, all in
`httptools_impl.HttpToolsProtocol`:

- overridden: `connection_made`, `connection_lost`, `data_received`, `eof_received`, `shutdown`,
  `on_headers_complete`, `on_body`, `on_message_complete`, `on_response_complete`,
  `handle_websocket_upgrade`, `_should_upgrade`, `_start_asgi_task`, `_unsupported_upgrade_warning`
- relied on: `data_received` calls `handle_websocket_upgrade` while it handles `HttpParserUpgrade`
- called: `flow.resume_reading`; `parser.get_http_version`, `parser.get_method` and
  `parser.should_upgrade` (of httptools)
- read: `loop`, `transport`, `client`, `scheme`, `connections` (every connection until its
  upgrade), `pipeline`, `cycle`
- changed: `url`, `headers` (in place, because `scope` has the same list), `scope["state"]`,
  `expect_100_continue`, `server_state.total_requests`, and `parser`, to break a cycle
- of a `RequestResponseCycle`, read: `response_complete`, `more_body`, `scope`; changed:
  `keep_alive`, `disconnected`, `transport`, `default_headers`

When uvicorn's server stops, it calls `shutdown` of each connection. The worker calls `sweep`.
"""

from __future__ import annotations

import logging
import sys
from enum import Enum, auto
from typing import Any

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.transfers import (
    ENDLESS,
    PROGRESS_BYTES,
    BodyRefusal,
    BodyRule,
    RequestContext,
    has_body,
)
from fastchat.limits.connections import Limit
from fastchat.web.context import CREDENTIALS, ONE_HOST, HttpContext, Refusal
from fastchat.web.handshake import (
    UpgradeRequest,
    check_upgrade,
    dropped_from,
    elements_of,
    headers_for_picows,
)
from fastchat.web.headers import common_headers
from fastchat.web.lingering import AnswerTransport
from fastchat.web.target import Target, is_host, parse_target

__all__ = ["MAX_HEAD_BYTES", "MAX_HEAD_LINES", "HttpProtocol", "State"]

logger = logging.getLogger("fastchat.http")

#: A token of 8 KiB fits; it is Node.js' default, too.
MAX_HEAD_BYTES = 16 * 1024
#: Apache and Python's http.client have 100 by default.
MAX_HEAD_LINES = 128
#: Requests of a connection that can wait for earlier answers; each costs about 2 kB.
MAX_PIPELINED = 32
#: A client that is refused for lack of capacity is told to retry after this long.
RETRY_AFTER_S = 5

FULL = Refusal(503, "The server is full.")
TOO_MANY_FROM_ADDRESS = Refusal(503, "There are too many connections from this address.")
TOO_MANY_HANDSHAKES = Refusal(503, "There are too many new connections.")
TOO_MANY_REQUESTS = Refusal(429, "There are too many requests without an answer.")
LARGE_HEAD = Refusal(431, "The request's head is too large.")
NOT_ONE_HOST = Refusal(400, ONE_HOST)
BAD_TARGET = Refusal(400, "The address is malformed.")
NO_TUNNEL = Refusal(405, "This server is not a proxy.")
OTHER_VERSION = Refusal(505, "This server speaks HTTP/1.1.")
NO_SOCKETS = Refusal(404, "There is no WebSocket endpoint at this address.")
DROPPED_UPGRADE = Refusal(426, "The handshake is incomplete. A proxy must pass on Upgrade.")
EARLY_UPGRADE = Refusal(400, "An upgrade cannot be sent before the last request is answered.")


class State(Enum):
    """What happens to the bytes that arrive; the module's docstring has the table."""

    HEAD = auto()
    BODY = auto()
    UNWANTED = auto()
    LINGERING = auto()
    CLOSED = auto()
    UPGRADED = auto()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with bounds. `sweep` has to be called once a second."""

    def __init__(self, *arguments: Any, context: HttpContext, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._context = context
        self._timings = context.timings
        self._state = State.HEAD
        self._head_bytes = 0
        self._arrived = b""  # what the parser is being given
        self._moved_bytes = 0  # of a file, since the deadline was extended
        self._is_file = False  # whether the body is one
        self._linger_bytes = 0  # that are still read while LINGERING
        self._is_stopping = False
        self._own_address: str | None = None  # of a request that no proxy has passed on
        self._visitor = ""  # the address that `context.visitors` counts
        self._answering: Any = None  # the cycle that the application answers
        self._deadline_s = self.loop.time() + self._timings.head_s

    # The connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._connection_count() > self._context.capacity.accepted:
            logger.warning(
                "%d connections are open, and no more fit into the limit of open files (ulimit -n)",
                self._context.capacity.accepted,
            )
            self._refuse(FULL, at_once=True)
            return
        visitor = self._context.proxies.visitor(None if self.client is None else self.client[0])
        if self._context.visitors.enter(visitor) is None:
            self._visitor = visitor
        else:
            self._context.session_context.metrics.turned_away[Limit.ADDRESS] += 1
            self._refuse(TOO_MANY_FROM_ADDRESS, at_once=True)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells only the newest request; the application may be answering an earlier one.
        if self._answering is not None:
            self._answering.disconnected = True
        self._leave_visitors()
        super().connection_lost(exc)

    def sweep(self, now: float) -> None:
        """Abort the connection if its deadline has passed."""
        if self._deadline_s and now >= self._deadline_s:
            is_unread = self.transport.get_write_buffer_size() > 0
            if is_unread or self._state is State.LINGERING or not self._is_idle():
                self.transport.abort()
            else:
                self._deadline_s = 0.0  # answered and read: uvicorn's keep-alive timeout applies

    def shutdown(self) -> None:
        """End the connection when its request is answered; called once, by uvicorn."""
        self._is_stopping = True
        self._deadline_s = self.loop.time() + self._timings.last_answer_s
        if self.cycle is not None:
            super().shutdown()
        else:  # uvicorn would close at once, but a first request may be on its way
            self.loop.call_later(self._timings.last_request_s, self._close_unless_upgraded)

    def _close_unless_upgraded(self) -> None:
        if self._state is not State.UPGRADED:
            super().shutdown()

    def _connection_count(self) -> int:
        return len(self.connections) + len(self._context.session_context.sessions)

    def _leave_visitors(self) -> None:
        """Stop counting the connection, which is lost or upgraded. Safe to call again."""
        if self._visitor:
            self._context.visitors.leave(self._visitor, "")
            self._visitor = ""

    def _is_idle(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self._head_bytes == 0

    @property
    def _has_ended(self) -> bool:
        """Whether the last answer is written, so that no further request is read."""
        return self._state in (State.LINGERING, State.CLOSED)

    # Bytes that arrive

    def data_received(self, data: bytes) -> None:
        if self._state is State.LINGERING:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self.transport.close()
            return
        if self._state is State.CLOSED:
            return
        if self._state is State.HEAD:
            if not self._head_bytes and (not self._deadline_s or self._is_idle()):
                self._deadline_s = self.loop.time() + self._timings.head_s
            self._head_bytes += len(data)
        self._arrived = data
        super().data_received(data)
        self._arrived = b""
        if self._state is State.HEAD and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(LARGE_HEAD)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes either
        """Keep the connection while a request is answered, if its client has sent all of it.

        A client that has closed its half of the connection still reads the answer. TLS has no
        half-closed connections.
        """
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        if cycle.scope["state"].get(ENDLESS):
            return False
        cycle.keep_alive = False
        return True

    def on_headers_complete(self) -> None:
        if self._has_ended:
            return
        self._state = State.UNWANTED
        self._head_bytes = 0
        self._deadline_s = self.loop.time() + self._timings.answer_s
        refusal = self._request_refusal()
        if refusal is not None:
            self._refuse(refusal)
            return
        waits = self.cycle is not None and not self.cycle.response_complete
        # RFC 9110 §10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0
        # request MUST ignore that expectation."
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()
        if "path" in self.scope:  # not an upgrade
            self._give_context(waits=waits)

    def on_body(self, body: bytes) -> None:
        if self._state is not State.BODY or self.cycle.response_complete:
            self._end_after_answer()
            return
        super().on_body(body)  # kept until the application takes it; above 64 KiB, reading pauses
        self._moved_bytes += len(body)
        if self._is_file and self._moved_bytes >= PROGRESS_BYTES:
            self._moved_bytes = 0
            self._note_progress()

    def on_message_complete(self) -> None:
        if self._has_ended:
            return
        if self._state is State.BODY:
            self._note_progress()
        super().on_message_complete()
        self._state = State.HEAD

    # Requests

    def _request_refusal(self) -> Refusal | None:
        """Why a request is refused by its head; None if it is not."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEAD_LINES:
            return LARGE_HEAD
        if len(self.pipeline) >= MAX_PIPELINED:
            return TOO_MANY_REQUESTS
        version, method = self.parser.get_http_version(), self.parser.get_method()
        if version not in ("1.0", "1.1"):
            return OTHER_VERSION
        if method == b"CONNECT":
            return NO_TUNNEL
        # RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
        # request message that lacks a Host header field and to any request message that contains
        # more than one Host header field line or a Host header field with an invalid field value."
        # Health checks speak HTTP/1.0 without one.
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (version == "1.1" and not hosts) or not all(map(is_host, hosts)):
            return NOT_ONE_HOST
        target = parse_target(method, self.url)
        if target is None:
            return BAD_TARGET
        self._take_target(target)
        if self.parser.should_upgrade() and self._should_upgrade():
            return None  # `handle_websocket_upgrade` has reasons of its own
        dropped = dropped_from(version, self.url, self.headers)
        if dropped is not None:
            self._note_dropped(dropped)
            return DROPPED_UPGRADE
        if self._connection_count() > self._context.capacity.served:
            return FULL
        return None

    def _note_dropped(self, dropped: str) -> None:
        """Tell the operator what a proxy in front of the server has to pass on."""
        self._context.session_context.metrics.handshake_refusals[str(DROPPED_UPGRADE.status)] += 1
        logger.warning(
            "a WebSocket handshake came from %s without %s; a proxy must use HTTP/1.1 and pass on "
            "Upgrade and Connection (in nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
            '$http_upgrade; proxy_set_header Connection "upgrade";)',
            "a socket without an address" if self.client is None else self.client[0],
            dropped,
        )

    def _take_target(self, target: Target) -> None:
        """Have the request name its resource by a path, and its host by `Host`.

        RFC 9112 §3.2.2: "When an origin server receives a request with an absolute-form of
        request-target, the origin server MUST ignore the received Host header field (if any) and
        instead use the host information of the request-target."
        """
        self.url = target.path
        if target.host is not None:
            others = [header for header in self.headers if header[0] != b"host"]
            self.headers[:] = [(b"host", target.host), *others]

    def _give_context(self, *, waits: bool) -> None:
        """Tell the application what it has to know about the newest request.

        The application's task runs after this. `waits` says whether earlier answers come first.
        """
        refusal, self._is_file = None, False
        rule = self._context.body_rule(self.scope["method"], self.scope["path"])
        if rule is not None and (rule.is_file or has_body(self.headers)):
            refusal = self._body_refusal(rule, waits=waits)
            if refusal is None:
                self._state, self._is_file = State.BODY, rule.is_file
                if not rule.is_file:
                    self._deadline_s = self.loop.time() + self._timings.body_s
        self._moved_bytes = 0
        self.scope["state"]["context"] = RequestContext(
            self._address(), refusal, self._note_progress
        )

    def _body_refusal(self, rule: BodyRule, *, waits: bool) -> BodyRefusal | None:
        """Why the body of a request is not read; None if it is."""
        what = "file" if rule.is_file else "body"
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if len(lengths) != 1 or any(name == b"transfer-encoding" for name, _ in self.headers):
            # RFC 9110 §15.5.12: "The 411 (Length Required) status code indicates that the server
            # refuses to accept the request without a defined Content-Length".
            error = CommandError(
                ErrorCode.BAD_COMMAND,
                f"The request has no Content-Length. Send the {what} with its size in bytes.",
            )
            return BodyRefusal(411, error, spends_ticket=True)
        if int(lengths[0]) > rule.max_bytes:
            error = CommandError(
                ErrorCode.TOO_LONG,
                f"The {what} is too large. A {what} can have at most {rule.max_bytes:,} bytes.",
            )
            return BodyRefusal(413, error, spends_ticket=True)
        if self.parser.should_upgrade():
            # After a head with `Upgrade` the parser reads nothing more, even if the upgrade is to
            # HTTP/2, as in requests of Java's client.
            error = CommandError(
                ErrorCode.BAD_COMMAND, f"Send the {what} without an Upgrade header."
            )
            return BodyRefusal(400, error, spends_ticket=False)
        if waits:
            # The body would wait in memory. RFC 9112 §9.3.2 asks clients to pipeline only behind
            # idempotent methods, and to be ready to send again what was not answered.
            error = CommandError(
                ErrorCode.BAD_COMMAND,
                f"The previous request has no answer yet. Wait for it before you send a {what}.",
            )
            return BodyRefusal(400, error, spends_ticket=False)
        return None

    def _note_progress(self) -> bool:
        """Extend the deadline: a piece of a file has come or gone. Returns whether connected."""
        if not self._is_stopping:
            self._deadline_s = self.loop.time() + self._timings.answer_s
        return not self.transport.is_closing()

    def _address(self) -> str:
        peer = None if self.client is None else self.client[0]
        forwarded = [value for name, value in self.headers if name == b"x-forwarded-for"]
        if forwarded:
            return self._context.proxies.client_of(peer, forwarded)
        if self._own_address is None:
            self._own_address = self._context.proxies.client_of(peer, ())
        return self._own_address

    # Upgrades

    def _should_upgrade(self) -> bool:
        """Whether the request asks for an upgrade to WebSocket.

        uvicorn reads only the last line of each header, and only one protocol. RFC 9110 §5.3 and
        §7.8: several lines are one list, and `Upgrade` lists protocols.
        """
        # RFC 9110 §7.8: "A server MUST ignore an Upgrade header field that is received in an
        # HTTP/1.0 request."
        return (
            self.parser.get_http_version() != "1.0"
            and b"upgrade" in elements_of(b"connection", self.headers)
            and b"websocket" in elements_of(b"upgrade", self.headers)
        )

    def handle_websocket_upgrade(self) -> None:
        if self._has_ended:
            return
        early = self._after_head()
        self._head_bytes = len(
            early
        )  # if the upgrade is refused, a client that still sends can read why
        address = self._address()
        limit = self._context.handshakes.enter(address)
        if limit is not None:
            self._context.session_context.metrics.turned_away[limit] += 1
            self._refuse_upgrade(TOO_MANY_HANDSHAKES)
            return
        refusal = self._upgrade_refusal()
        if refusal is not None:
            self._refuse_upgrade(refusal)
            return
        self._context.proxies.watch(
            None if self.client is None else self.client[0],
            self.headers,
            encrypted=self.scheme == "https",
            connections=len(self._context.session_context.sessions) + 1,
        )
        self.headers[:] = headers_for_picows(self.headers, address, self._credentials())
        self._deadline_s = 0.0
        self._leave_visitors()
        super().handle_websocket_upgrade()
        self._state = State.UPGRADED
        self.parser = None  # type: ignore[assignment]  # the parser and we refer to each other
        # RFC 6455 §4.1: "the client MUST wait for a response from the server before sending any
        # further data." Some do not, and their frames can arrive together with the handshake.
        if early:
            protocol: Any = self.transport.get_protocol()
            protocol.data_received(early)

    def _credentials(self) -> tuple[bytes, ...]:
        """The headers with which a client says who it is, if a hook is to see them.

        A browser sends cookies for every page. If all pages may connect, a cookie says nothing
        about who wants to join.
        """
        if not self._context.session_context.chat.needs_handshake:
            return ()
        if self._context.origins.allows_any:
            return (b"authorization",)
        return CREDENTIALS

    def _after_head(self) -> bytes:
        """The bytes that arrived together with the end of the handshake, and belong to frames."""
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        return self._arrived[upgrade.args[0] :]

    def _upgrade_refusal(self) -> Refusal | None:
        if not self._context.takes_sockets:
            return NO_SOCKETS
        # The answer of an earlier request would be written into the stream of the WebSocket.
        if self.cycle is not None and not self.cycle.response_complete:
            return EARLY_UPGRADE
        request = UpgradeRequest(
            self.scope["method"], self.url, self.headers, encrypted=self.scheme == "https"
        )
        return check_upgrade(request, self._context.origins, echo=self._context.echo)

    def _refuse_upgrade(self, refusal: Refusal) -> None:
        self._context.session_context.metrics.handshake_refusals[str(refusal.status)] += 1
        self._refuse(refusal)

    def _unsupported_upgrade_warning(self) -> None:
        # RFC 9110 §7.8: "A server MAY ignore a received Upgrade header field if it wishes to
        # continue using the current protocol on that connection." uvicorn would log a warning. The
        # parser reads nothing more on this connection, so it has to end.
        self._end_after_answer()

    # Answers

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        cycle.transport = AnswerTransport(self.transport, self._end)
        cycle.default_headers = []  # they are for uvicorn's own answers; the application sets them
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._state is State.LINGERING:  # requests in the pipeline are not answered
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    def _refuse(self, refusal: Refusal, *, at_once: bool = False) -> None:
        """Write a fixed answer, and end the connection."""
        is_head = not at_once and self.parser.get_method() == b"HEAD"
        self.transport.write(_answer_with(refusal, has_body=not is_head))
        self._deadline_s = self.loop.time() + self._timings.head_s
        if at_once:
            self._state = State.CLOSED
            self.transport.close()
        else:
            self._end()

    def _end_after_answer(self) -> None:
        if self.cycle is not None:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._end()

    def _end(self) -> None:
        """End the connection after its last answer; if the client still sends, read on a while."""
        if self._has_ended:
            return
        has_more = self._state in (State.BODY, State.UNWANTED) and has_body(self.headers)
        if self.transport.is_closing() or not (self._head_bytes or has_more):
            self._state = State.CLOSED
            self.transport.close()
            return
        self._state = State.LINGERING
        self._linger_bytes = self._timings.linger_bytes
        if not self._is_stopping:
            is_read = not self.transport.get_write_buffer_size()
            self._deadline_s = self.loop.time() + (
                self._timings.linger_s if is_read else self._timings.answer_s
            )
        # RFC 9112 §9.6: "First, the server performs a half-close by closing only the write side of
        # the read/write connection." TLS cannot, but its answers have a length.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()


def _answer_with(refusal: Refusal, *, has_body: bool) -> bytes:
    body = refusal.message.encode() + b"\n"
    head = [f"HTTP/1.1 {refusal.status} Refused".encode()]
    head += [f"{name}: {value}".encode() for name, value in common_headers()]
    head += [b"content-type: text/plain; charset=utf-8"]
    head += [b"content-length: %d" % len(body)]
    head += _STATUS_HEADERS.get(refusal.status, (_CLOSE,))
    # RFC 9110 §9.3.2: "The HEAD method is identical to GET except that the server MUST NOT send
    # content in the response."
    return b"\r\n".join([*head, b"", body if has_body else b""])


_CLOSE = b"connection: close"
_RETRY_AFTER = (_CLOSE, b"retry-after: %d" % RETRY_AFTER_S)
#: The headers of each status that has others than `_CLOSE`.
_STATUS_HEADERS = {
    # RFC 9110 §15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
    405: (_CLOSE, b"allow: GET"),
    # RFC 9110 §15.5.22: "The server MUST send an Upgrade header field in a 426 response"; RFC 6455
    # §4.4 has it list the versions that it supports. RFC 9110 §7.8: "A sender of Upgrade MUST also
    # send an "Upgrade" connection option in the Connection header field".
    426: (b"connection: close, upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"),
    # RFC 6585 §4 and RFC 9110 §15.6.4 allow `Retry-After`.
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
