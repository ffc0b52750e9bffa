"""Commands: what a client asks for, one type for each.

docs/protocol.md is the reference ("Commands"); `fastchat.protocol.parsing` makes these from JSON.
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

#: Messages in a reply to `join` or `history`: if the client does not say, and at most.
DEFAULT_HISTORY = 50
MAX_HISTORY = 300


class Join(NamedTuple):
    room: str
    username: str | None = None
    history: int = DEFAULT_HISTORY
    since: Position | None = None
    session: str | None = None
    ref: str | None = None
    token: str | None = None


class Leave(NamedTuple):
    room: str | None
    ref: str | None = None


class Send(NamedTuple):
    """A message is to be published; its `type` on the wire is "message"."""

    text: str
    room: str | None = None
    id: str | None = None
    ref: str | None = None


class Typing(NamedTuple):
    room: str | None
    ref: str | None = None


class GetHistory(NamedTuple):
    """At most one of `before` and `after` is set; neither asks for the newest."""

    room: str | None
    before: int | None
    after: int | None
    limit: int
    ref: str | None = None


class Edit(NamedTuple):
    offset: int
    text: str
    room: str | None = None
    ref: str | None = None


class Delete(NamedTuple):
    offset: int
    room: str | None = None
    ref: str | None = None


class React(NamedTuple):
    offset: int
    emoji: str
    remove: bool
    room: str | None = None
    ref: str | None = None


class Search(NamedTuple):
    query: str
    limit: int
    room: str | None = None
    ref: str | None = None


class Remove(NamedTuple):
    """Somebody is to leave, and to stay out for so many seconds."""

    username: str
    seconds: int
    room: str | None = None
    ref: str | None = None


class Upload(NamedTuple):
    """A file of `size` bytes is to be shared in a room."""

    name: str
    size: int
    room: str | None = None
    ref: str | None = None


class Chunk(NamedTuple):
    """The next bytes of the file that was announced last: a binary message, which has no `ref`."""

    data: bytes
    ref: None = None


class Ping(NamedTuple):
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
