"""What backends and operators ask of the rooms, wherever these are.

`Rooms.administration` is where the rooms are; a worker among several passes each call on to its
relay. All methods raise CommandError `unavailable` if the rooms cannot be reached, or cannot store
or read. Then the call can have had its effect nevertheless; every call can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions

__all__ = [
    "MAX_LISTED_ROOMS",
    "Administration",
    "Ban",
    "Erased",
    "Presence",
    "StoredRoom",
]

#: The most rooms in one answer of `Administration.rooms`.
MAX_LISTED_ROOMS = 1000


class StoredRoom(NamedTuple):
    """A room with publications, options or users.

    `online` is the number of its users, `last_at` the time of its newest publication (RFC 3339;
    None if nothing is stored), and `bytes` about how much its publications take.
    """

    room: str
    epoch: str
    head: int
    online: int
    last_at: str | None
    bytes: int


class Presence(NamedTuple):
    """A user in a room, under one of their names, since a time (RFC 3339).

    If the user's connections were lost a moment ago, `connections` is 0.
    """

    room: str
    user: str
    username: str
    connections: int
    since: str


class Ban(NamedTuple):
    """A user must stay out of a room until a time (RFC 3339); `room` is None for all rooms."""

    user: str
    room: str | None
    until: str


class Erased(NamedTuple):
    """How much of a user was erased: their messages, and reactions to messages of others."""

    messages: int
    reactions: int


class Administration(Protocol):
    """`tests/contracts/broker` tests it. `by` is the name of a key or an operator, for the log."""

    # Rooms

    async def position(self, room: str) -> Position:
        """The end of a room's stream."""
        ...

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        """The first rooms whose names begin with `prefix` and come after `after`.

        Names are compared as sequences of code points. `limit` is at most MAX_LISTED_ROOMS.
        """
        ...

    async def options(self, room: str) -> RoomOptions:
        """The options of a room."""
        ...

    async def set_options(self, room: str, changes: Mapping[str, Any], by: str) -> RoomOptions:
        """Change some options, by their names, and return all of them.

        The values must be checked already. The members hear of it (`protocol.events.room_changed`).
        """
        ...

    async def delete_room(self, room: str, by: str) -> bool:
        """Delete a room's publications, their files and its options; return whether it had any.

        Its members hear of it (`protocol.events.room_deleted`) and are in the room no more. A room
        of this name begins anew, with another epoch. The content is gone from every answer when
        this returns, and from the disk soon after.
        """
        ...

    # Publications

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        """Encoded publications of all kinds after a position, oldest first, at most `limit`.

        They are the oldest ones, as many as fit into a reply (`protocol.MAX_REPLY_BYTES`), and at
        least one if there is any. None if some of them are not stored any more, or if the position
        is not one of this room.
        """
        ...

    # Users

    async def users(self, room: str) -> Sequence[Presence]:
        """The users of a room, in the order in which they came."""
        ...

    async def find_user(self, user: str) -> Sequence[Presence]:
        """The rooms that the user with this public id is in, and their names there."""
        ...

    async def disconnect(self, user: str, room: str | None, by: str) -> int:
        """Close a user's connections in a room, or in all; they can come back at once.

        Returns in how many rooms the user was, spectators included.
        """
        ...

    async def ban(self, user: str, room: str | None, seconds: int, by: str) -> None:
        """Keep a user out of a room, or of all rooms, from now on for so many seconds.

        It holds for users who are not here, too. An earlier ban of the same user and room is
        replaced.
        """
        ...

    async def unban(self, user: str, room: str | None, by: str) -> bool:
        """Lift a ban, or a moderator's removal; return whether there was one.

        If `room` is None, the one for all rooms is lifted, and no other.
        """
        ...

    async def bans(self) -> Sequence[Ban]:
        """The bans and removals in force, the one that ends soonest first."""
        ...

    async def messages_of(
        self, user: str, after: Sequence[Any] | None, limit: int
    ) -> tuple[Sequence[bytes], Sequence[Any] | None]:
        """At most `limit` encoded publications of a user, and a cursor for the next call.

        The order is by rooms, and within a room by offsets. A call looks at a limited number of
        publications, so it can return none although others follow; the cursor is None at the end.
        A cursor is made of texts and numbers.
        """
        ...

    async def erase_user(self, user: str, by: str) -> Erased:
        """Erase what a user has said, in all rooms.

        The user's messages become deleted, and their names and public id in the history are
        replaced (`protocol.users.ERASED_USER`). Their reactions are taken back. Files that nothing
        links to any more are deleted as usual. Members hear of it (`protocol.events.user_erased`),
        but it is no publication. Backups and the write-ahead log can contain the texts for a while.
        """
        ...
