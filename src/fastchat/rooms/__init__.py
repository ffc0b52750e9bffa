"""The rooms of the whole server: one order of publications, and who is where.

`rooms` has them, in the one process with the history; `subscribers` says how a process with
clients is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastchat.protocol import Position

__all__ = ["Entrance", "Entry", "Member", "Messages", "Removal"]


class Member(NamedTuple):
    """Somebody in a room: his name, and whose it is (`fastchat.rooms.presence.author_of`)."""

    name: str
    author: str


class Entrance(NamedTuple):
    """What a newcomer asks for: a name in a room, and what he has missed of it.

    That is all since `since`, or else the newest `limit` messages. `address` and
    `connection_number`, a
    number, are what his connection is counted by, where it is.
    """

    room: str
    member: Member
    since: Position | None
    limit: int
    address: str = ""
    connection_number: int = 0


class Removal(NamedTuple):
    """Who has this name in a room is to leave it, and to stay out for so many seconds.

    `moderator` is the name of who wants that, for the log.
    """

    room: str
    username: str
    seconds: int
    moderator: str


class Messages(NamedTuple):
    """Encoded publications, as many as fit into a reply; `more` if there are more."""

    payloads: Sequence[bytes]
    more: bool


class Entry(NamedTuple):
    """What a newcomer gets: his place in the stream, and the room as it is there.

    With `recovered`, `payloads` are exactly the publications after the position he came
    with; without, the newest. `users` are the first names, himself among them.
    """

    member: Member
    position: Position
    payloads: Sequence[bytes]
    recovered: bool
    users: Sequence[str]
    online: int
