"""The commands that a client can send, one type for each.

docs/protocol.md is the reference ("Commands"). `fastchat.protocol.parsing` makes commands from
JSON. If `room` is None, the client left it out; it can do that while it is in exactly one room.
`ref` is the client's reference for the reply, or None.
"""

from __future__ import annotations

from typing import NamedTuple

from fastchat.protocol.publications import Position

__all__ = [
    "DEFAULT_HISTORY",
    "MAX_HISTORY",
    "Chunk",
    "Command",
    "Delete",
    "Edit",
    "GetHistory",
    "Join",
    "Leave",
    "Ping",
    "React",
    "Remove",
    "Search",
    "Send",
    "Typing",
    "Upload",
]

#: Messages in a reply to `join` or `history` if the client does not give a number.
DEFAULT_HISTORY = 50
#: The most messages that a client can ask for in one reply.
MAX_HISTORY = 300


class Join(NamedTuple):
    """The client joins a room, or renews its token in a room that it is in.

    `since` is the client's last position in the room, from which it recovers; None for a client
    that has none. `session` is the secret that a `joined` event gave to the client.
    """

    room: str
    username: str | None = None
    history: int = DEFAULT_HISTORY
    since: Position | None = None
    session: str | None = None
    ref: str | None = None
    token: str | None = None


class Leave(NamedTuple):
    """The client leaves a room."""

    room: str | None
    ref: str | None = None


class Send(NamedTuple):
    """The client publishes a message. The command's `type` on the wire is "message"."""

    text: str
    room: str | None = None
    id: str | None = None
    ref: str | None = None


class Typing(NamedTuple):
    """The client's user is writing a message."""

    room: str | None
    ref: str | None = None


class GetHistory(NamedTuple):
    """The client asks for messages before or after an offset.

    At most one of `before` and `after` is set. Without both, it asks for the newest messages.
    """

    room: str | None
    before: int | None
    after: int | None
    limit: int
    ref: str | None = None


class Edit(NamedTuple):
    """The client replaces the text of the message at `offset`."""

    offset: int
    text: str
    room: str | None = None
    ref: str | None = None


class Delete(NamedTuple):
    """The client deletes the message at `offset`."""

    offset: int
    room: str | None = None
    ref: str | None = None


class React(NamedTuple):
    """The client adds a reaction to the message at `offset`, or removes its own."""

    offset: int
    emoji: str
    remove: bool
    room: str | None = None
    ref: str | None = None


class Search(NamedTuple):
    """The client searches a room; it gets at most `limit` messages."""

    query: str
    limit: int
    room: str | None = None
    ref: str | None = None


class Remove(NamedTuple):
    """A moderator removes a user from a room and keeps the user out for `seconds`.

    The user is the one with the public id `user`, or if it is None, the one who has the `username`
    in the room.
    """

    user: str | None
    username: str | None
    seconds: int
    room: str | None = None
    ref: str | None = None


class Upload(NamedTuple):
    """The client announces a file of `size` bytes that it will share in a room."""

    name: str
    size: int
    room: str | None = None
    ref: str | None = None


class Chunk(NamedTuple):
    """The next bytes of the file that the client announced last.

    On the wire it is a binary message, so it has no `ref`.
    """

    data: bytes
    ref: None = None


class Ping(NamedTuple):
    """The client asks for a `pong`, to find out whether the server is there."""

    ref: str | None = None


Command = (
    Join
    | Leave
    | Send
    | Edit
    | Delete
    | React
    | Typing
    | GetHistory
    | Search
    | Remove
    | Upload
    | Chunk
    | Ping
)
