"""A client as the chat sees it, and what the chat tells the connection behind it."""

from __future__ import annotations

from typing import Any, Protocol

from fastchat.auth import Identity
from fastchat.errors import CloseReason
from fastchat.files.incoming import Incoming
from fastchat.rooms import Member

__all__ = ["Client", "Endpoint"]


class Endpoint(Protocol):
    """The connection behind a client: it is told what the chat has learned, and asked to close."""

    def on_authenticated(self, expires_s: float, /) -> None:
        """The client's token was accepted; it expires at `expires_s`, in seconds since 1970."""
        ...

    def on_joined(self, author: str, /) -> None:
        """The client has joined a room, in which its messages are those of `author`."""
        ...

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int, /) -> None:
        """Tell the client why it must go and when it can come back, and close its connection.

        The client has departed from the chat when this returns.
        """
        ...


class Client:
    """A connection as the chat sees it: its rooms, its names in them, and its rights.

    * ``connection``: what the hub knows the client by; the chat only passes it on.
    * ``endpoint``: is told what the chat learns about the client.
    * ``address`` and ``connection_number``: what the connection is counted by, as in
      `fastchat.rooms.Entrance`.
    * ``gone``: the client has departed; nothing is sent to it any more.
    """

    __slots__ = (
        "address",
        "connection",
        "connection_number",
        "endpoint",
        "gone",
        "identity",
        "rooms",
        "session",
        "upload",
        "username",
    )

    def __init__(self, connection: Any, endpoint: Endpoint, address: str = "") -> None:
        self.connection = connection
        self.endpoint = endpoint
        self.address = address
        self.connection_number = 0
        self.rooms: dict[str, Member] = {}
        self.username: str | None = None
        self.session: str | None = None
        self.identity: Identity | None = None
        self.upload: Incoming | None = None
        self.gone = False
