"""One connection: picows frames in, commands out; and all that picows leaves to us.

picows unmasks frames and checks their opcodes, sizes and masks. It does not
reassemble fragments, bound a whole message, look at UTF-8 or the RSV bits, answer
a CLOSE, or stop delivering frames after one. All that is here, as RFC 6455 says;
and everything a session sends goes through the hub, which is the only writer.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import takewhile
from typing import Any

from multidict import CIMultiDict
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from fastchat import commands, protocol
from fastchat._fanout import Connection
from fastchat.chat import Chat, Client
from fastchat.errors import CloseCode, CommandError, Violation
from fastchat.hub import Hub
from fastchat.limits import TokenBucket
from fastchat.metrics import Metrics
from fastchat.protocol import Command, Join

__all__ = ["Session", "Sessions"]

logger = logging.getLogger("fastchat.session")

#: A connection that has joined nothing by then is closed (docs/protocol.md, "Connecting").
JOIN_TIMEOUT_S = 10.0
#: From a message's first fragment to its last.
MESSAGE_TIMEOUT_S = 30.0
#: Browsers do not fragment; the strictest suites send about fifty.
MAX_FRAGMENTS = 64
PINGS_PER_S, PINGS_BURST = 10.0, 20
#: Refused commands: somebody typing makes one now and then, a broken client a stream.
ERRORS_PER_S, ERRORS_BURST = 1.0, 20
#: As the hub's: a connection that is closed but does not end is aborted.
CLOSE_GRACE_S = 2.0
#: A server that stops may be back after this long at the earliest.
RECONNECT_AFTER_MS = 250

# Looked up once: each costs an attribute of an enum class for every frame.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PING, _PONG, _CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE
_OP_PONG = 0xA  # RFC 6455 §11.8
_NO_STATUS = 1005  # RFC 6455 §7.4.1: an empty close frame
_ABNORMAL = 1006  # and none at all
_NO_HEADERS: CIMultiDict[str] = CIMultiDict()


class Sessions:
    """All sessions of a worker: what they share, their deadlines, and their end.

    `sweep` runs once a second. `max_message_bytes` bounds a whole message.
    """

    def __init__(
        self,
        chat: Chat,
        hub: Hub,
        *,
        max_message_bytes: int,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.chat = chat
        self.hub = hub
        self.metrics = metrics
        self.max_message_bytes = max_message_bytes
        self.clock = clock
        self.draining = False
        self._spread_ms = 0
        # Sessions with their deadlines, in the order of these.
        self._unjoined: dict[Session, float] = {}
        self._unfinished: dict[Session, float] = {}
        self._ending: dict[Session, float] = {}
        self._all: set[Session] = set()
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def open(self, join: Join | CommandError | None) -> Session:
        """A session for an upgrade that is about to happen.

        `join` is what the query asked for: a command to run at once, or why it
        cannot be.
        """
        return Session(self, join)

    def drain(self, spread_s: float) -> None:
        """Tell every client that the server stops, and close its connection with 1012.

        They are asked to come back spread over `spread_s`; so is who connects from now on.
        """
        self.draining = True
        self._spread_ms = int(spread_s * 1000)
        for session in tuple(self._all):
            self._restart(session)

    def _restart(self, session: Session) -> None:
        after_ms = RECONNECT_AFTER_MS + random.randint(0, self._spread_ms)  # noqa: S311 spreads load
        session.restart(after_ms)

    async def ended(self) -> None:
        """Wait until the last session has ended, after `drain`."""
        if self._all:
            await self._none_left.wait()

    def sweep(self) -> None:
        """Close who joined or finished nothing in time; abort who was closed and does not end."""
        now = self.clock()
        for session in _due(self._unjoined, now):
            session.close(CloseCode.JOIN_TIMEOUT, "joined nothing in time")
        for session in _due(self._unfinished, now):
            session.close(CloseCode.FLOODING, "the message took too long")
        for session in _due(self._ending, now):
            session.abort()

    def evicted(self, connection: Connection, code: int, reason: str) -> None:
        """The hub has closed a connection on its own account."""
        session: Session = connection.owner
        session.evicted(code, reason)

    # Of the sessions themselves

    def _opened(self, session: Session) -> None:
        self.metrics.connections_total += 1
        self._all.add(session)
        self._unjoined[session] = self.clock() + JOIN_TIMEOUT_S
        if self.draining:
            self._restart(session)

    def _has_joined(self, session: Session) -> None:
        self._unjoined.pop(session, None)

    def _has_begun(self, session: Session) -> None:
        self._unfinished[session] = self.clock() + MESSAGE_TIMEOUT_S

    def _has_finished(self, session: Session) -> None:
        self._unfinished.pop(session, None)

    def _is_ending(self, session: Session) -> None:
        self._unjoined.pop(session, None)
        self._unfinished.pop(session, None)
        self._ending.setdefault(session, self.clock() + CLOSE_GRACE_S)

    def _ended(self, session: Session, code: int) -> None:
        self.metrics.closes[code] += 1
        self._all.discard(session)
        self._unjoined.pop(session, None)
        self._unfinished.pop(session, None)
        self._ending.pop(session, None)
        if self.draining and not self._all:
            self._none_left.set()


def _due(deadlines: dict[Session, float], now: float) -> list[Session]:
    return [session for session, _ in takewhile(lambda item: item[1] <= now, deadlines.items())]


class _Fragments:
    """A message that has begun and not ended (RFC 6455 §5.4)."""

    __slots__ = ("count", "decoder", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.count = 0
        self.decoder = codecs.getincrementaldecoder("utf-8")()


class Session(WSListener):
    """Turns one connection's frames into commands. Made by `Sessions.open`."""

    __slots__ = (
        "_client",
        "_close_asked",
        "_close_code",
        "_closed",
        "_connection",
        "_errors",
        "_first",
        "_fragments",
        "_pings",
        "_running",
        "_sessions",
        "_transport",
        "_waiting",
    )

    def __init__(self, sessions: Sessions, first: Join | CommandError | None) -> None:
        self._sessions = sessions
        self._first = first
        self._closed = False
        self._fragments: _Fragments | None = None
        self._pings: TokenBucket | None = None
        self._errors: TokenBucket | None = None
        self._running: asyncio.Task[None] | None = None
        self._waiting: deque[Command] | None = None
        self._close_asked: int | None = None  # with this code, once all commands have run
        self._close_code = _ABNORMAL

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        # The handshake is over: its headers would cost a kilobyte a connection.
        transport.request.headers = transport.response.headers = _NO_HEADERS
        self._connection = self._sessions.hub.attach(transport.underlying_transport, self)
        self._client = Client(self._connection)
        self._sessions._opened(self)
        first, self._first = self._first, None
        if self._closed:  # the server is stopping
            return
        if isinstance(first, CommandError):
            self._refuse(first)
        elif first is not None:
            self._dispatch(first)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # picows delivers what is left in its buffer also after a CLOSE or an error.
        if self._closed or self._close_asked is not None or transport.is_close_frame_sent:
            if frame.msg_type is _CLOSE:  # the answer to ours: both have been sent
                transport.disconnect()
            return
        try:
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                # RFC 6455 §5.2: no extension was negotiated
                raise Violation(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
            kind = frame.msg_type
            if kind is _TEXT and frame.fin and self._fragments is None:
                self._on_message(frame.get_payload_as_bytes())
            elif kind is _PONG:
                self._connection.pong()
            elif kind is _PING:
                self._on_ping(frame.get_payload_as_bytes())
            elif kind is _CLOSE:
                self._on_close(frame.get_payload_as_bytes())
            else:
                self._on_fragment(kind, bool(frame.fin), frame.get_payload_as_bytes())
        except Violation as violation:
            logger.info("violation: %s (%d)", violation.reason, violation.close_code)
            self.close(violation.close_code, violation.reason)
            if frame.msg_type is _CLOSE:  # the peer has sent his, there is nothing to wait for
                transport.disconnect()
        except Exception:
            self._fail()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._leave()
        self._sessions.hub.detach(self._connection)
        self._sessions._ended(self, self._close_code)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def parse_failed(self) -> None:
        """picows refused a frame, and has sent a CLOSE of its own (RFC 6455 §7.1.7)."""
        if not self._closed:
            self._close_code = CloseCode.PROTOCOL_ERROR
            self._leave()
            self._sessions.hub.detach(self._connection)
            self._sessions._is_ending(self)

    # Endings

    def close(self, code: int, reason: str) -> None:
        """Take the client out of the chat and start the closing handshake; once."""
        if not self._closed:
            self._close_code = code
            self._leave()
            self._sessions.hub.close_connection(self._connection, code, reason)
            self._sessions._is_ending(self)

    def restart(self, reconnect_after_ms: int) -> None:
        """Close because the server stops; the client is told when to come back."""
        if not self._closed:
            payload = protocol.closing(CloseCode.RESTART, "the server restarts", reconnect_after_ms)
            self._sessions.hub.send(self._connection, payload)
            self.close(CloseCode.RESTART, "the server restarts")

    def evicted(self, code: int, reason: str) -> None:
        if not self._closed:
            logger.info("evicted %r: %s (%d)", self._client.username or "nobody", reason, code)
            self._close_code = code
            self._leave()
            self._sessions._is_ending(self)

    def abort(self) -> None:
        self._transport.disconnect(False)

    def _leave(self) -> None:
        if not self._closed:
            self._closed = True
            self._fragments = None
            if self._waiting is not None:
                self._waiting = None
                # The peer's answer to our close frame is to be read.
                self._transport.underlying_transport.resume_reading()
            self._sessions.chat.depart(self._client)

    # Frames

    def _on_ping(self, payload: bytes) -> None:
        if self._pings is None:
            self._pings = TokenBucket(PINGS_PER_S, PINGS_BURST, self._sessions.clock)
        if not self._pings.take():
            raise Violation(CloseCode.FLOODING, "too many pings")
        self._sessions.hub.send(self._connection, payload, _OP_PONG)

    def _on_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
        if payload and not _may_be_sent(code):
            raise Violation(CloseCode.PROTOCOL_ERROR, "an invalid close code")
        if self._running is None:
            self._answer_close(code)
        else:  # what was sent before it still counts
            self._close_asked = code

    def _answer_close(self, code: int) -> None:
        """Echo the code (RFC 6455 §5.5.1) and end the TCP connection (§7.1.1)."""
        self.close(code, "")
        self._transport.disconnect()

    def _on_fragment(self, kind: WSMsgType, fin: bool, payload: bytes) -> None:
        """A frame of a fragmented message, or one that has no place (RFC 6455 §5.4)."""
        fragments = self._fragments
        if kind is _BINARY:
            raise Violation(CloseCode.UNSUPPORTED_DATA, "binary messages are not expected")
        if (kind is _CONTINUATION) != (fragments is not None):
            raise Violation(CloseCode.PROTOCOL_ERROR, "a fragment is out of place")
        if fragments is None:
            fragments = self._fragments = _Fragments()
            self._sessions._has_begun(self)
        fragments.count += 1
        fragments.size += len(payload)
        if fragments.size > self._sessions.max_message_bytes:
            raise Violation(CloseCode.TOO_BIG, "the message is too big")
        if fragments.count > MAX_FRAGMENTS:
            raise Violation(CloseCode.FLOODING, "too many fragments")
        try:
            fragments.decoder.decode(payload, fin)
        except UnicodeDecodeError:
            raise Violation(CloseCode.INVALID_TEXT, "a text message must be UTF-8") from None
        fragments.parts.append(payload)
        if fin:
            self._fragments = None
            self._sessions._has_finished(self)
            self._on_message(b"".join(fragments.parts))

    # Commands

    def _on_message(self, payload: bytes) -> None:
        try:
            command = commands.parse(payload)
        except CommandError as refusal:
            self._refuse(refusal)
            return
        if self._running is None:
            self._dispatch(command)
            return
        # A client's commands run one after the other. What has been read already
        # is kept; TCP holds back the rest.
        if self._waiting is None:
            self._waiting = deque()
            self._transport.underlying_transport.pause_reading()
        self._waiting.append(command)

    def _dispatch(self, command: Command) -> None:
        try:
            work = self._sessions.chat.handle(self._client, command)
        except CommandError as refusal:
            self._refuse(refusal, command)
        except Exception:
            self._fail()
        else:
            if work is not None:
                self._running = asyncio.get_running_loop().create_task(self._run(work, command))

    async def _run(self, work: Coroutine[Any, Any, None], command: Command) -> None:
        """Run a command that may wait, then those that came meanwhile."""
        try:
            await work
            if isinstance(command, Join) and self._client.rooms:
                self._sessions._has_joined(self)
        except CommandError as refusal:
            self._refuse(refusal, command)
        except Exception:
            self._fail()
        self._running = None
        while self._waiting and self._running is None:
            self._dispatch(self._waiting.popleft())
        if self._running is not None:
            return
        if self._waiting is not None:
            self._waiting = None
            self._transport.underlying_transport.resume_reading()
        if self._close_asked is not None:
            self._answer_close(self._close_asked)

    def _fail(self) -> None:
        """A fault of ours costs this connection, not the process."""
        logger.exception("internal error in a command")
        self.close(CloseCode.INTERNAL, "")

    def _refuse(self, refusal: CommandError, command: Command | None = None) -> None:
        """Answer with an `error` event, or close if these keep coming."""
        if self._closed:
            return
        if command is not None:
            refusal.ref = command.ref
            refusal.id = getattr(command, "id", None)
        if self._errors is None:
            self._errors = TokenBucket(ERRORS_PER_S, ERRORS_BURST, self._sessions.clock)
        self._sessions.metrics.refusals[refusal.code] += 1
        self._sessions.hub.send(self._connection, protocol.error(refusal))
        if not self._errors.take():
            logger.info("too many errors from %r", self._client.username or "nobody")
            self.close(CloseCode.FLOODING, "too many errors")


def _may_be_sent(code: int) -> bool:
    """Whether a close frame may carry `code` (RFC 6455 §7.4)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
