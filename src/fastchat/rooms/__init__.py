"""The rooms of the whole server: one order of publications, and the users of each room.

`contract` says what all rooms promise. `local` has them in the one process with the history.
`subscribers` is the interface through which a process with clients learns what happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions

__all__ = ["Entrance", "Entry", "Member", "Messages", "Occupancy", "Removal"]


class Member(NamedTuple):
    """A user in a room: the name, and the user's public id (`fastchat.protocol.users`).

    The name of a spectator, who reads without one, is None.
    """

    name: str | None
    user: str


class Entrance(NamedTuple):
    """The request of a client to join a room under a name, or as a spectator if it is None.

    `credential` says who the user is (`fastchat.protocol.users`). The client wants to know all
    publications after the position `since`, or else the newest `limit` messages. `address` and
    `connection_number` identify its connection where connections are counted. `moderates` says
    whether the client is a moderator in the room, who can join even if it is closed.
    """

    room: str
    name: str | None
    credential: str
    since: Position | None
    limit: int
    address: str = ""
    connection_number: int = 0
    moderates: bool = False


class Removal(NamedTuple):
    """A moderator's command to remove a user from a room and keep them out for so many seconds.

    The user is found by the public id `user`, or if it is None, by `username`. `moderator` is the
    moderator's name, for the log.
    """

    room: str
    user: str | None
    username: str | None
    seconds: int
    moderator: str


class Messages(NamedTuple):
    """Encoded publications, as many as fit into a reply; `more` if there are more."""

    payloads: Sequence[bytes]
    more: bool


class Entry(NamedTuple):
    """The reply to a join: a position in the room's stream, and the room as it is at that position.

    If `recovered`, `payloads` are exactly the publications after the position that the client asked
    for; otherwise they are the newest messages. `users` are all users in the order in which they
    came, or None in a crowd. `online` is their number, and `spectators` that of the spectators'
    connections. `options` are those of the room; None if nothing was set.
    """

    member: Member
    position: Position
    payloads: Sequence[bytes]
    recovered: bool
    users: Sequence[Member] | None
    online: int
    spectators: int
    options: RoomOptions | None = None


class Occupancy(NamedTuple):
    """How many are in the rooms that a process knows of, for operators.

    A user of two rooms counts twice. `absent` are those of the `users` whose last connection is
    lost, and who may still come back. `spectators` are connections.
    """

    rooms: int
    users: int
    absent: int
    spectators: int
