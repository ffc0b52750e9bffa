"""Memberships of WebSockets that belong to other libraries.

A hub must be the only writer of its transports. The WebSocket of an application has another
writer: its library, which sends the application's messages, pongs and close frames. During a
membership both write to one transport, and this package keeps their frames apart. `finding` finds
the transport of a WebSocket, `shared` lets two write to it, and `frames` follows what one writes.
"""

from __future__ import annotations

from types import TracebackType

from fastchat._fanout import Connection, Hub
from fastchat.membership.finding import find
from fastchat.membership.shared import SharedTransport, ended_connection, share

__all__ = ["Membership"]


class Membership:
    """The asynchronous context manager that `Hub.member` returns, and documents."""

    def __init__(self, hub: Hub, ws: object, room: str) -> None:
        self._hub = hub
        self._ws = ws
        self._room = room
        self._shared: SharedTransport | None = None

    async def __aenter__(self) -> Connection:
        endpoint = await find(self._ws)
        if endpoint is None:
            return ended_connection(self._hub, self._ws)
        self._shared = share(self._hub, endpoint, self._ws)
        return self._shared.enter(self._room)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Nothing here waits, so a cancelled task leaves as well as any other.
        if self._shared is not None:
            self._shared.leave(self._room)
