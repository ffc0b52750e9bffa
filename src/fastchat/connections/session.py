"""The RFC 6455 endpoint of one client: picows' frames in, messages out, and how it all ends.

picows unmasks frames and checks their opcodes, sizes and masks. It does not reassemble fragments,
limit the size of a whole message, check UTF-8 or the RSV bits, answer a CLOSE, or stop delivering
frames after one. The session does all of this, as RFC 6455 requires. Everything that a session
sends goes through the hub, which is the only writer. The inbox knows what the messages mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from multidict import CIMultiDict
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from fastchat import protocol
from fastchat.chat import Client
from fastchat.connections.context import Context
from fastchat.connections.fragments import Fragments
from fastchat.connections.inbox import Inbox
from fastchat.errors import CloseCode, CloseReason, CommandError, Violation
from fastchat.limits.connections import Counted
from fastchat.protocol import Join

__all__ = ["Session"]

logger = logging.getLogger("fastchat.session")

# Looked up once, because an attribute of an enum class is slow to read for every frame.
_TEXT, _BINARY, _CONTINUATION = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION
_PING, _PONG, _CLOSE = WSMsgType.PING, WSMsgType.PONG, WSMsgType.CLOSE
_OP_PONG = 0xA  # RFC 6455 §11.8
_NO_STATUS = 1005  # RFC 6455 §7.4.1: an empty close frame
_ABNORMAL = 1006  # and no close frame at all
_NO_HEADERS: CIMultiDict[str] = CIMultiDict()


class Session(WSListener):
    """One WebSocket connection, from its upgrade until its socket is closed.

    | state         | since                            | frames that are read | leads to         |
    |---------------|----------------------------------|----------------------|------------------|
    | made          | the upgrade was accepted         | none yet             | open             |
    | open          | `on_ws_connected`                | all                  | asked, closed    |
    | asked         | the client sent a close frame    | none                 | closed           |
    |               | while a command was running      |                      |                  |
    | closed        | we sent a close frame, or the    | the client's close   | disconnected     |
    |               | hub or picows sent one for us    | frame                |                  |
    | disconnected  | `on_ws_disconnected`             | none                 | nothing          |

    `asked` is `_close_asked`, the code to answer with once all commands have run; `closed` is
    `_closed`. A client leaves the chat on its way to `closed`, exactly once. A closed session
    that is not disconnected in time is aborted by the registry.

    * ``first`` is the join that the upgrade's query asked for, or why the query is invalid; None if
      it asked for nothing.
    * ``token`` came with the upgrade.
    * ``address`` is what the connection is counted by; an empty one is not counted.
    * ``handshake`` has the headers of the handshake that a hook is to see.
    """

    __slots__ = (
        "_address",
        "_client",
        "_close_asked",
        "_close_code",
        "_closed",
        "_connection",
        "_context",
        "_counted",
        "_first",
        "_fragments",
        "_handshake",
        "_inbox",
        "_is_paused",
        "_token",
        "_transport",
    )

    def __init__(
        self,
        context: Context,
        first: Join | CommandError | None,
        token: str | None = None,
        address: str = "",
        handshake: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self._context = context
        self._address = address
        self._handshake = handshake
        self._counted: Counted | None = None
        self._first = first
        self._token = token
        self._closed = False
        self._is_paused = False  # by the inbox
        self._fragments: Fragments | None = None
        self._close_asked: int | None = None
        self._close_code: int = _ABNORMAL

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        context = self._context
        self._transport = transport
        # The handshake is over: its headers would cost a kilobyte a connection.
        transport.request.headers = transport.response.headers = _NO_HEADERS
        self._connection = context.hub.attach(transport.underlying_transport, self)
        self._client = Client(
            self._connection, self, self._address, context.chat.guest_rights, self._handshake
        )
        self._inbox = self._new_inbox()
        context.sessions.add(self)
        if self._closed:  # the server is stopping
            return
        self._counted = context.admission.enter(self, self._address)
        if self._counted is None:
            return
        self._client.connection_number = self._counted.number
        token, self._token = self._token, None
        first, self._first = self._first, None
        self._inbox.open(token, first)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # Even after a CLOSE or an error, picows delivers what is left in its buffer.
        if self._closed or self._close_asked is not None or transport.is_close_frame_sent:
            if frame.msg_type is _CLOSE:  # the answer to ours
                # RFC 6455 §5.5.1: "After both sending and receiving a Close message, an endpoint
                # considers the WebSocket connection closed and MUST close the underlying TCP
                # connection."
                transport.disconnect()
            return
        # The frame dies with this callback, and a command may wait longer than that: hence
        # `get_payload_as_bytes`, which copies the payload, and not a view of it.
        try:
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                # RFC 6455 §5.2: "MUST be 0 unless an extension is negotiated that defines
                # meanings for non-zero values." None is.
                raise Violation(CloseReason.RESERVED_BIT)
            kind = frame.msg_type
            if kind is _TEXT and frame.fin and self._fragments is None:
                self._inbox.receive(frame.get_payload_as_bytes())
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
            self.close_for(violation)
            if frame.msg_type is _CLOSE:  # the client has closed as well, so it will send no answer
                transport.disconnect()
        except Exception:
            self.fail()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._depart()
        self._context.hub.detach(self._connection)
        if self._counted is not None:
            self._context.admission.leave(self._counted)
        self._context.sessions.remove(self, self._close_code)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def parse_failed(self) -> None:
        """picows has refused a frame, and has sent a close frame of its own.

        For example RFC 6455 §5.1: "The server MUST close the connection upon receiving a frame
        that is not masked."
        """
        # §7.1.7: "An endpoint MUST NOT continue to attempt to process data (including a
        # responding Close frame) from the remote endpoint after being instructed to _Fail the
        # WebSocket Connection_." The hub sends nothing behind that close frame either.
        if not self._closed:
            self._close_code = CloseCode.PROTOCOL_ERROR
            self._context.hub.stop_sending(self._connection)
            self._depart()
            self._context.sessions.begin_closing(self)

    def more_to_read(self) -> None:
        """There is probably more to read; leave it to the next turn of the event loop.

        uvloop would read up to 32 times, and all other connections and timers would wait.
        """
        if not self._is_paused:
            self._transport.underlying_transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._is_paused:
            self._transport.underlying_transport.resume_reading()

    # Called by the chat

    def on_authenticated(self, expires_s: float) -> None:
        self._context.sessions.watch_expiry(self, expires_s)

    def on_joined(self, user: str) -> None:
        self._context.sessions.note_joined(self)
        if self._counted is not None:
            self._context.admission.identify(self._counted, user)

    # Called by the inbox

    def on_unavailable(self) -> None:
        self._context.sessions.note_unavailable(self)

    def pause_reading(self) -> None:
        self._is_paused = True
        self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        self._transport.underlying_transport.resume_reading()

    def on_idle(self) -> None:
        if self._close_asked is not None:
            self._answer_close(self._close_asked)

    # Endings, which all do nothing to a session that is closed

    def close(self, reason: CloseReason) -> None:
        """Take the client out of the chat and start the closing handshake."""
        self.close_with(reason.code, reason.text)

    def close_with(self, code: int, text: str) -> None:
        """Do the same with a code or a text that is not in `CloseReason`."""
        if not self._closed:
            self._close_code = code
            self._depart()
            self._context.hub.close_connection(self._connection, code, text)
            self._context.sessions.begin_closing(self)

    def close_for(self, violation: Violation) -> None:
        """Close because the client broke a rule."""
        reason = violation.reason
        logger.info("violation: %s (%d)", reason.text, reason.code)
        self.close(reason)

    def fail(self) -> None:
        """Close because of an exception of ours: it costs this connection, not the process."""
        logger.exception("internal error in a command")
        self.close(CloseReason.INTERNAL)

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None:
        """Close a healthy connection; the client is told why, and when it can come back."""
        if not self._closed:
            payload = protocol.closing(reason.code, reason.text, reconnect_after_ms)
            self._context.hub.send(self._connection, payload)
            self.close(reason)

    def on_evicted(self, code: int, reason: str) -> None:
        """The hub itself has closed the connection."""
        if not self._closed:
            logger.info("evicted %s: %s (%d)", self._client.for_log(), reason, code)
            self._close_code = code
            self._depart()
            self._context.sessions.begin_closing(self)

    def abort(self) -> None:
        """Close the socket at once, even if data waits to be sent."""
        self._transport.disconnect(False)

    def _depart(self) -> None:
        if not self._closed:
            self._closed = True
            self._fragments = None
            self._inbox.close()
            self._context.chat.depart(self._client)

    # Frames

    def _on_ping(self, payload: bytes) -> None:
        self._check_heartbeat()
        # RFC 6455 §5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in
        # response, unless it already received a Close frame." §5.5.3: it "must have identical
        # 'Application data' as found in the message body of the Ping frame being replied to".
        self._context.hub.send(self._connection, payload, _OP_PONG)

    def _check_heartbeat(self) -> None:
        """Charge the client for a ping or a pong.

        RFC 6455 §5.5.3: "A Pong frame MAY be sent unsolicited." So a client can send as many pongs
        as it likes, however few pings it gets.
        """
        if not self._context.throttle.is_heartbeat_allowed(self._inbox):
            raise Violation(CloseReason.TOO_MANY_PINGS)

    def _on_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
        # RFC 6455 §5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte
        # unsigned integer (in network byte order) representing a status code with value /code/
        # defined in Section 7.4." A body of one byte makes a code below all of these.
        if payload and not _may_be_sent(code):
            raise Violation(CloseReason.INVALID_CLOSE_CODE)
        if self._inbox.is_idle:
            self._answer_close(code)
        else:  # the commands before it still run, and are answered before we close
            self._close_asked = code

    def _answer_close(self, code: int) -> None:
        """Echo the code of the client's close frame, and end the TCP connection."""
        # RFC 6455 §5.5.1: "If an endpoint receives a Close frame and did not previously send a
        # Close frame, the endpoint MUST send a Close frame in response. (When sending a Close
        # frame in response, the endpoint typically echos the status code it received.)" And:
        # "The server MUST close the underlying TCP connection immediately".
        self.close_with(code, "")
        self._transport.disconnect()

    def _on_fragment(self, kind: WSMsgType, fin: bool, payload: bytes) -> None:
        """Take a frame of a fragmented message, a binary message, or a stray fragment."""
        fragments = self._fragments
        if kind is _BINARY and not self._inbox.takes_bytes:
            raise Violation(CloseReason.UNEXPECTED_BINARY)
        # RFC 6455 §5.4: "The fragments of one message MUST NOT be interleaved between the
        # fragments of another message". Control frames can be interleaved, but do not come here.
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
                self._inbox.receive(fragments.whole())
            else:
                # This counts as a pong, because a real one may wait behind many binary messages.
                self._connection.pong()
                self._inbox.receive_bytes(fragments.whole())

    def _new_inbox(self) -> Inbox:
        return Inbox(self._context, self, self._client)


def _may_be_sent(code: int) -> bool:
    """Whether a close frame can carry `code` (RFC 6455 §7.4, and IANA's registry for 1012 to 1014).

    §7.4.1: 1005 "is a reserved value and MUST NOT be set as a status code in a Close control
    frame by an endpoint". The same holds for 1006 and 1015, and 1004 has no meaning.
    """
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
