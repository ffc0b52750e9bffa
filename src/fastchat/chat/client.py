"""A client as the chat sees it, its rights, and how it is reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastchat.auth import GUEST_RIGHTS, Identity, Right, forbidden
from fastchat.errors import CloseReason, CommandError, ErrorCode
from fastchat.files.incoming import Incoming
from fastchat.protocol import MessageDraft, ModeratorDraft, message_draft
from fastchat.rooms import Member

__all__ = ["ChatHub", "Client", "Endpoint", "nameless", "reply"]


#: A room in which a client writes, its name and public id there, and what makes its drafts.
Writer = tuple[str, str, str, Callable[[str, str, str, str, str, str | None], MessageDraft]]
#: It is shared by all clients that have not written yet, and never changed.
_NO_WRITERS: dict[str | None, Writer] = {}
#: The same for what few clients have.
_NOTHING: Mapping[str, Any] = {}


class Endpoint(Protocol):
    """The connection of a client: the chat reports to it, and asks it to close."""

    def on_authenticated(self, expires_s: float, /) -> None:
        """The client's token was accepted; it expires at `expires_s`, in seconds since 1970."""
        ...

    def on_joined(self, user: str, /) -> None:
        """The client has joined a room, in which it is the user with this public id."""
        ...

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int, /) -> None:
        """Tell the client why it must go and when it can come back, and close its connection.

        The client has departed from the chat when this returns.
        """
        ...


class Client:
    """A connection as the chat sees it: its rooms, its names in them, and its rights.

    * ``connection``: identifies the client to the hub; the chat only passes it on.
    * ``endpoint``: is told what the chat learns about the client.
    * ``address`` and ``connection_number``: identify the connection where connections are
      counted, as in `fastchat.rooms.Entrance`.
    * ``guest_rights``: what the client can do in each room as long as it has no identity.
    * ``handshake``: the `cookie` and `authorization` of its handshake, if a hook is to see them.
    * ``gone``: the client has departed; nothing is sent to it any more.
    """

    __slots__ = (
        "_granted",
        "_writers",
        "address",
        "connection",
        "connection_number",
        "endpoint",
        "gone",
        "guest_rights",
        "handshake",
        "identity",
        "incoming",
        "rooms",
        "session",
        "username",
    )

    def __init__(
        self,
        connection: Any,
        endpoint: Endpoint,
        address: str = "",
        guest_rights: frozenset[Right] = GUEST_RIGHTS,
        handshake: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self.address = address
        self.connection_number = 0
        self.rooms: dict[str, Member] = {}
        #: What `writer_in` returns, which is asked for each message, for the rooms that it knows.
        self._writers = _NO_WRITERS
        self.username: str | None = None
        self.session: str | None = None
        self.identity: Identity | None = None
        self.incoming: Incoming | None = None
        self.guest_rights = guest_rights
        self.handshake = handshake
        #: The rights in rooms for which a hook has given others than the usual ones.
        self._granted: Mapping[str, frozenset[Right]] = _NOTHING
        self.gone = False

    def room_of(self, room: str | None, needed: Right | None = None) -> str:
        """The room that a command is about. A client that is in only one room need not name it.

        Raises CommandError if the client is not in the room, or lacks a right that is `needed`.
        """
        if room is None:
            room = self._only_room()
        elif room not in self.rooms:
            raise CommandError(
                ErrorCode.NOT_JOINED, f"You are not in the room “{room}”. Join it first."
            )
        if needed is not None:
            self.check(needed, room)
        return room

    def writer_in(self, room: str | None) -> Writer:
        """The room that a command writes in, and how the client writes there.

        Raises CommandError as `room_of`, and if the client is a spectator.
        """
        writer = self._writers.get(room)
        if writer is None:
            writer = self._find_writer(room)
            self._writers = {**self._writers, room: writer}
        return writer

    def enter(self, room: str, member: Member) -> None:
        """Note that the client has joined a room, or has another name in it."""
        self.rooms[room] = member
        self._writers = _NO_WRITERS

    def leave(self, room: str) -> Member:
        """Note that the client has left a room, in which it was the member that is returned."""
        self.grant(room, None)
        return self.rooms.pop(room)

    def identify(self, identity: Identity) -> None:
        """Give the client the identity of its token, which can change its rights."""
        self.identity = identity
        self._writers = _NO_WRITERS

    def grant(self, room: str, rights: frozenset[Right] | None) -> None:
        """Give the client these rights in a room instead of the usual ones; None for those."""
        if rights is not None:
            self._granted = {**self._granted, room: rights}
        elif room in self._granted:
            self._granted = {name: each for name, each in self._granted.items() if name != room}
        self._writers = _NO_WRITERS

    def check(self, needed: Right, room: str) -> None:
        """Raise CommandError if the client does not have a right in a room."""
        if needed not in self._rights(room):
            raise forbidden()

    def rights_in(self, room: str) -> frozenset[Right]:
        """What the client can do in a room that it is in; a spectator only reads."""
        if self.rooms[room].name is None:
            return frozenset({Right.READ})
        return self._rights(room)

    def is_spectator_in(self, room: str) -> bool:
        member = self.rooms.get(room)
        return member is not None and member.name is None

    def for_log(self) -> str:
        """The client's name, quoted; a client that has no name can be in the log, too."""
        return "a client without a name" if self.username is None else repr(self.username)

    def moderates(self, room: str) -> bool:
        """Whether the client's token makes it a moderator; without a token nobody is one."""
        return self.identity is not None and Right.MODERATE in self._rights(room)

    def _rights(self, room: str) -> frozenset[Right]:
        if room in self._granted:
            return self._granted[room]
        return self.guest_rights if self.identity is None else self.identity.rights_in(room)

    def _find_writer(self, room: str | None) -> Writer:
        room = self.room_of(room, Right.WRITE)
        name, user = self.rooms[room]
        if name is None:
            raise nameless()
        return room, name, user, ModeratorDraft if self.moderates(room) else message_draft

    def _only_room(self) -> str:
        if len(self.rooms) == 1:
            return next(iter(self.rooms))
        if not self.rooms:
            raise CommandError(ErrorCode.NOT_JOINED, "You are not in any room. Join one first.")
        raise CommandError(
            ErrorCode.BAD_COMMAND, "You are in several rooms. Name one of them in `room`."
        )


class ChatHub(Protocol):
    """The hub as the chat uses it: for replies, memberships and events that are not stored.

    Publications do not pass here: the broker gives them to the hub as a
    `fastchat.brokers.Delivery`. A `connection` is opaque. See `fastchat._fanout.Hub`.

    The order is fixed. A payload published to a room before a `join` does not reach the new
    member. A payload published before a `leave` still reaches the member that leaves. A payload
    of `send` does not overtake earlier ones. `join` returns False if the connection is closed,
    even if the chat does not know that yet.
    """

    def join(self, connection: Any, room: str, /) -> bool: ...
    def leave(self, connection: Any, room: str, /) -> None: ...
    def publish(self, room: str, payload: bytes, but: Any = None, /) -> None: ...
    def send(self, connection: Any, payload: bytes, /) -> bool | None: ...


def nameless() -> CommandError:
    """The refusal of a spectator's command that writes."""
    return CommandError(
        ErrorCode.FORBIDDEN,
        "You are reading without a name. To write, join the room again with a `username`.",
    )


def reply(hub: ChatHub, client: Client, payload: bytes) -> None:
    """Send an answer to a client, unless the client has departed."""
    if not client.gone:
        hub.send(client.connection, payload)
