"""The users of a room; a user with several connections counts once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.names import name_key
from fastchat.rooms import Member

__all__ = ["Roster", "User"]


class User:
    """A user of a room, with a number of connections. The name is theirs as long as they are here.

    `id` is the public id. One user can be here under several names, as a `User` for each.
    `expelled` says that a moderator has removed the user, who has not come back since. See
    `fastchat.rooms.members.Members` for the states of a user.
    """

    __slots__ = ("connections", "expelled", "id", "key", "name")

    def __init__(self, name: str, key: str, id: str) -> None:
        self.name = name
        self.key = key
        self.id = id
        self.connections = 0
        self.expelled = False

    @property
    def member(self) -> Member:
        return Member(self.name, self.id)


class Roster:
    """A room's users. Names are unique in it (docs/protocol.md, "Names")."""

    __slots__ = ("_users",)

    def __init__(self) -> None:
        self._users: dict[str, User] = {}

    def __len__(self) -> int:
        return len(self._users)

    def __iter__(self) -> Iterator[User]:
        """The users in the order in which they came."""
        return iter(self._users.values())

    def find(self, name: str) -> User | None:
        """The user who has this name, or one that looks like it."""
        return self._users.get(name_key(name))

    def find_all(self, id: str) -> list[User]:
        """The user with this public id, under each name that they have here."""
        return [user for user in self if user.id == id]

    def check(self, name: str, id: str) -> User | None:
        """The user who has this name, or one that looks like it; None if it is free.

        Raises CommandError `username_taken` when the user has a connection and another id.
        A user without a connection does not keep others from taking the name.
        """
        user = self.find(name)
        if user is not None and user.connections and user.id != id:
            raise CommandError(
                ErrorCode.USERNAME_TAKEN,
                "A user in this room has this name, or one that looks like it. "
                "Choose another name.",
                temporary=True,
            )
        return user

    def add(self, name: str, id: str) -> User:
        """Add a user without a connection; the name must be free."""
        key = name_key(name)
        user = self._users[key] = User(name, key, id)
        return user

    def remove(self, user: User) -> None:
        """Free the name of a user who has left."""
        del self._users[user.key]

    def members(self, limit: int) -> list[Member]:
        """The first `limit` users, in the order in which they came."""
        return [user.member for user in islice(self, limit)]
