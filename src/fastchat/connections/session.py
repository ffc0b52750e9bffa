"""One connection: picows frames in, commands out; and all that picows leaves to us.

picows unmasks frames and checks their opcodes, sizes and masks. It does not
reassemble fragments, bound a whole message, look at UTF-8 or the RSV bits, answer
a CLOSE, or stop delivering frames after one. All that is here, as RFC 6455 says;
and everything a session sends goes through the hub, which is the only writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from multidict import CIMultiDict
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from fastchat import protocol
from fastchat.chat import Client
from fastchat.connections.context import Context
from fastchat.connections.fragments import Fragments
from fastchat.errors import CloseCode, CloseReason, CommandError, ErrorCode, Violation
from fastchat.limits.buckets import TokenBucket, rate_limited
from fastchat.limits.commands import TOO_FAST_ERRORS, TOO_FAST_TYPING
from fastchat.limits.connections import Guest
from fastchat.protocol import Chunk, Command, Join, Typing, parsing

__all__ = ["Session"]

logger = logging.getLogger("fastchat.session")

PINGS_PER_S, PINGS_BURST = 10.0, 20

# Looked up once: each costs an attribute of an enum class for every frame.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PING, _PONG, _CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE
_OP_PONG = 0xA  # RFC 6455 §11.8
_NO_STATUS = 1005  # RFC 6455 §7.4.1: an empty close frame
_ABNORMAL = 1006  # and none at all
_NO_HEADERS: CIMultiDict[str] = CIMultiDict()


class Session(WSListener):
    """Turns one connection's frames into commands; made for an upgrade that is about to happen.

    `first` is what the query asked for: a command to run at once, or why it cannot be.
    `token` is one that came with the upgrade. `address` is what the client is counted by,
    if it has any.
    """

    __slots__ = (
        "_address",
        "_client",
        "_close_asked",
        "_close_code",
        "_closed",
        "_connection",
        "_context",
        "_errors",
        "_first",
        "_fragments",
        "_guest",
        "_heartbeats",
        "_running",
        "_token",
        "_transport",
        "_waiting",
    )

    def __init__(
        self,
        context: Context,
        first: Join | CommandError | None,
        token: str | None = None,
        address: str = "",
    ) -> None:
        self._context = context
        self._address = address
        self._guest: Guest | None = None
        self._first = first
        self._token = token
        self._closed = False
        self._fragments: Fragments | None = None
        self._heartbeats: TokenBucket | None = None
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
        self._connection = self._context.hub.attach(transport.underlying_transport, self)
        self._client = Client(self._connection, self, self._address)
        self._context.sessions.add(self)
        if self._closed:  # the server is stopping
            return
        self._guest = self._context.admission.enter(self, self._address)
        if self._guest is None:
            return
        self._client.guest = self._guest.number
        token, self._token = self._token, None
        first, self._first = self._first, None
        if token is not None and not self._authenticate(token):
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
                raise Violation(CloseReason.RESERVED_BIT)
            kind = frame.msg_type
            if kind is _TEXT and frame.fin and self._fragments is None:
                self._on_message(frame.get_payload_as_bytes())
            elif kind is _PONG:
                self._check_heartbeat()
                self._connection.pong()
            elif kind is _PING:
                self._on_ping(frame.get_payload_as_bytes())
            elif kind is _CLOSE:
                self._on_close(frame.get_payload_as_bytes())
            else:
                self._on_fragment(kind, bool(frame.fin), frame.get_payload_as_bytes())
        except Violation as violation:
            self._close_for(violation)
            if frame.msg_type is _CLOSE:  # the peer has sent his, there is nothing to wait for
                transport.disconnect()
        except Exception:
            self._fail()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._leave()
        self._context.hub.detach(self._connection)
        if self._guest is not None:
            self._context.admission.leave(self._guest)
        self._context.throttle.forget(self)
        self._context.sessions.remove(self, self._close_code)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def parse_failed(self) -> None:
        """picows refused a frame, and has sent a CLOSE of its own (RFC 6455 §7.1.7)."""
        if not self._closed:
            self._close_code = CloseCode.PROTOCOL_ERROR
            self._leave()
            self._context.hub.detach(self._connection)
            self._context.sessions.begin_closing(self)

    # Called by the chat

    def on_authenticated(self, expires_s: float) -> None:
        self._context.sessions.watch_expiry(self, expires_s)

    def on_joined(self, author: str) -> None:
        self._context.sessions.note_joined(self)
        if self._guest is not None:
            self._context.admission.identify(self._guest, author)

    # Endings

    def close(self, reason: CloseReason) -> None:
        """Take the client out of the chat and start the closing handshake; once."""
        self._close_with(reason.code, reason.text)

    def _close_with(self, code: int, text: str) -> None:
        if not self._closed:
            self._close_code = code
            self._leave()
            self._context.hub.close_connection(self._connection, code, text)
            self._context.sessions.begin_closing(self)

    def _close_for(self, violation: Violation) -> None:
        reason = violation.reason
        logger.info("violation: %s (%d)", reason.text, reason.code)
        self.close(reason)

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None:
        """Close a healthy connection; the client is told why, and when it can be back."""
        if not self._closed:
            payload = protocol.closing(reason.code, reason.text, reconnect_after_ms)
            self._context.hub.send(self._connection, payload)
            self.close(reason)

    def evicted(self, code: int, reason: str) -> None:
        if not self._closed:
            logger.info("evicted %r: %s (%d)", self._client.username or "nobody", reason, code)
            self._close_code = code
            self._leave()
            self._context.sessions.begin_closing(self)

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
            self._context.chat.depart(self._client)

    # Frames

    def _on_ping(self, payload: bytes) -> None:
        self._check_heartbeat()
        self._context.hub.send(self._connection, payload, _OP_PONG)

    def _check_heartbeat(self) -> None:
        """Before a ping or a pong, which nobody may have asked for."""
        if self._heartbeats is None:
            self._heartbeats = TokenBucket(PINGS_PER_S, PINGS_BURST, self._context.clock)
        if not self._heartbeats.take():
            raise Violation(CloseReason.TOO_MANY_PINGS)

    def _on_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
        if payload and not _may_be_sent(code):
            raise Violation(CloseReason.INVALID_CLOSE_CODE)
        if self._running is None:
            self._answer_close(code)
        else:  # what was sent before it still counts
            self._close_asked = code

    def _answer_close(self, code: int) -> None:
        """Echo the code (RFC 6455 §5.5.1) and end the TCP connection (§7.1.1)."""
        self._close_with(code, "")
        self._transport.disconnect()

    def _on_fragment(self, kind: WSMsgType, fin: bool, payload: bytes) -> None:
        """A frame of a fragmented message, or one that has no place (RFC 6455 §5.4)."""
        fragments = self._fragments
        if kind is _BINARY and not self._expects_binary():
            raise Violation(CloseReason.UNEXPECTED_BINARY)
        if (kind is _CONTINUATION) != (fragments is not None):
            raise Violation(CloseReason.STRAY_FRAGMENT)
        if fragments is None:
            fragments = self._fragments = Fragments(is_text=kind is _TEXT)
            self._context.sessions.begin_message(self)
        fragments.add(payload, is_last=fin, max_bytes=self._context.max_message_bytes)
        if fin:
            self._fragments = None
            self._context.sessions.end_message(self)
            if fragments.is_text:
                self._on_message(fragments.whole())
            else:
                self._on_binary(fragments.whole())

    def _expects_binary(self) -> bool:
        """Whether a file was announced, or may have been by what has not run yet."""
        return self._client.upload is not None or self._running is not None

    # Commands

    def _on_message(self, payload: bytes) -> None:
        try:
            command = parsing.parse(payload)
        except CommandError as refusal:
            self._refuse(refusal)
            return
        wait_s = self._context.throttle.wait_s(self, command, self._address)
        if wait_s:
            self._throttle(command, wait_s)
        elif self._running is None:
            self._dispatch(command)
        else:
            self._put_off(command)

    def _on_binary(self, payload: bytes) -> None:
        """Bytes of a file, which take their turn behind the `upload` that announced it."""
        self._connection.pong()  # the client's may wait behind a long queue of them
        if self._running is None:
            self._dispatch(Chunk(payload))
        else:
            self._put_off(Chunk(payload))

    def _throttle(self, command: Command, wait_s: float) -> None:
        if type(command) is Typing:  # nobody misses one
            self._count_error(TOO_FAST_TYPING)
        else:
            self._refuse(rate_limited("That is too fast; wait a bit.", wait_s), command)

    def _put_off(self, command: Command) -> None:
        # A client's commands run one after the other. What has been read already
        # is kept; TCP holds back the rest.
        if self._waiting is None:
            self._waiting = deque()
            self._transport.underlying_transport.pause_reading()
        self._waiting.append(command)

    def _authenticate(self, token: str) -> bool:
        """By a token that came with the upgrade; whether the client may go on."""
        try:
            self._context.chat.authenticate(self._client, token)
        except CommandError as refusal:
            self._refuse(refusal)
        except Exception:
            self._fail()
        return not self._closed

    def _dispatch(self, command: Command) -> None:
        try:
            work = self._context.chat.handle(self._client, command)
        except CommandError as refusal:
            self._refuse(refusal, command)
        except Violation as violation:
            self._close_for(violation)
        except Exception:
            self._fail()
        else:
            if work is not None:
                chunk_bytes = len(command.data) if type(command) is Chunk else None
                run = self._run(work, command.ref, chunk_bytes)
                self._running = asyncio.get_running_loop().create_task(run)

    async def _run(
        self, work: Coroutine[Any, Any, None], ref: str | None, chunk_bytes: int | None
    ) -> None:
        """Run a command that may wait, then those that came meanwhile.

        Nothing else of the command is kept for so long: a `join` may have a token in it.
        """
        try:
            await work
        except CommandError as refusal:
            refusal.ref = ref or refusal.ref  # a chunk has none, its upload may
            self._refuse(refusal)
        except Exception:
            self._fail()
        if chunk_bytes is not None:
            await self._pace(chunk_bytes)
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

    async def _pace(self, chunk_bytes: int) -> None:
        """Who sends a file too fast is not read from: to refuse a piece would spoil it all."""
        wait_s = self._context.throttle.pace_s(self, chunk_bytes, self._address)
        if wait_s and not self._closed:
            await asyncio.sleep(wait_s)

    def _fail(self) -> None:
        """A fault of ours costs this connection, not the process."""
        logger.exception("internal error in a command")
        self.close(CloseReason.INTERNAL)

    def _refuse(self, refusal: CommandError, command: Command | None = None) -> None:
        """Answer with an `error` event, or close if these keep coming."""
        if self._closed:
            return
        if command is not None:
            refusal.ref = command.ref or refusal.ref  # a chunk has none, its upload may
            refusal.id = getattr(command, "id", None)
        self._context.metrics.refusals[refusal.code] += 1
        self._context.hub.send(self._connection, protocol.error(refusal))
        if refusal.close_code is not None:
            self._close_with(refusal.close_code, refusal.message)
            return
        self._count_error(TOO_FAST_ERRORS if refusal.code is ErrorCode.RATE_LIMITED else 1.0)

    def _count_error(self, tokens: float) -> None:
        """Close if these keep coming."""
        if self._errors is None:
            self._errors = self._context.throttle.new_errors()
        if self._errors is not None and not self._errors.take(tokens):
            logger.info("too many errors from %r", self._client.username or "nobody")
            self.close(CloseReason.TOO_MANY_ERRORS)


def _may_be_sent(code: int) -> bool:
    """Whether a close frame may carry `code` (RFC 6455 §7.4)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
