"""The rooms of the whole server: one order of publications, and the users of each room.

`rooms` has them, in the one process with the history. `subscribers` says how a process with
clients is told of what happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastchat.protocol import Position

__all__ = ["Entrance", "Entry", "Member", "Messages", "Removal"]


class Member(NamedTuple):
    """A user in a room: the name, and its author (`fastchat.rooms.presence.author_of`)."""

    name: str
    author: str


class Entrance(NamedTuple):
    """The request of a newcomer: a name in a room, and the publications missed there.

    These are all after the position `since`, or else the newest `limit` messages. The connection
    is counted by `address` and `connection_number`, where connections are counted.
    """

    room: str
    member: Member
    since: Position | None
    limit: int
    address: str = ""
    connection_number: int = 0


class Removal(NamedTuple):
    """The user with this name in a room is to leave it, and to stay out for so many seconds.

    `moderator` is the name of the moderator, for the log.
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
    """A newcomer's place in the stream, and the room as it is there.

    With `recovered`, `payloads` are exactly the publications after the position that the
    newcomer asked for; without, the newest. `users` are the first names, the newcomer's among
    them, and `online` is the number of all.
    """

    member: Member
    position: Position
    payloads: Sequence[bytes]
    recovered: bool
    users: Sequence[str]
    online: int
