"""`/_echo` under `--debug-echo`: sends back what it receives, for test suites of RFC 6455.

It is the usual session with another inbox. So what such a suite finds about frames, fragments,
closes and sizes also holds for the chat.
"""

from __future__ import annotations

import ipaddress
import socket

from picows import WSMsgType, WSTransport

from fastchat.connections.context import Context
from fastchat.connections.inbox import Inbox
from fastchat.connections.session import Session
from fastchat.errors import CloseReason, SettingError, Violation

__all__ = ["ECHO_PATH", "EchoSession", "check_loopback"]

ECHO_PATH = b"/_echo"


def check_loopback(listener: socket.socket) -> None:
    """Raise SettingError unless only this machine can reach a listening socket."""
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        raise SettingError("--debug-echo is for tests; it needs --host 127.0.0.1 or ::1.")


class EchoSession(Session):
    """A session of a client that never joins a room: each message goes back as it came."""

    __slots__ = ()

    def __init__(self, context: Context) -> None:
        super().__init__(context, None)

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self._context.sessions.note_joined(self)  # it never will

    def _new_inbox(self) -> Inbox:
        return _EchoInbox(self._context, self, self._client)


class _EchoInbox(Inbox):
    """Sends back what it receives, and runs no command."""

    __slots__ = ()

    @property
    def takes_bytes(self) -> bool:
        return True

    def receive(self, payload: bytes) -> None:
        # In the chat, the parser of commands checks the UTF-8.
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise Violation(CloseReason.INVALID_UTF8) from None
        self._context.hub.send(self._client.connection, payload)

    def receive_bytes(self, payload: bytes) -> None:
        self._context.hub.send(self._client.connection, payload, WSMsgType.BINARY.value)
