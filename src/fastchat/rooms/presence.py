"""The users of a room; a user with several connections counts once."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fastchat.protocol.names import MAX_USERNAME_CHARS, name_key
from fastchat.rooms import Member

__all__ = ["Roster", "User", "numbered"]

_SUFFIX = re.compile(r" \(([0-9]{1,9})\)$", re.ASCII)


class User:
    """A user of a room, with a number of connections. The name is theirs as long as they are here.

    `id` is the public id. One user can be here under several names, as a `User` for each.
    `since_s` is when they came, in seconds since 1970.
    `expelled` says that a moderator has removed the user, who has not come back since. See
    `fastchat.rooms.members.Members` for the states of a user.
    """

    __slots__ = ("connections", "expelled", "id", "key", "name", "since_s")

    def __init__(self, name: str, key: str, id: str, since_s: float) -> None:
        self.name = name
        self.key = key
        self.id = id
        self.connections = 0
        self.expelled = False
        self.since_s = since_s

    @property
    def member(self) -> Member:
        return Member(self.name, self.id)


class Roster:
    """A room's users. Names are unique in it (docs/protocol.md, "Names")."""

    __slots__ = ("_by_id", "_users")

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._by_id: dict[str, list[User]] = {}

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
        return list(self._by_id.get(id, ()))

    def find_own(self, name: str, id: str) -> User | None:
        """The user with this public id under this name, or with a number after it."""
        for user in self._by_id.get(id, ()):
            number = _SUFFIX.search(user.name)
            if user.name == name or (number and user.name == numbered(name, int(number[1]))):
                return user
        return None

    def free_name(self, name: str) -> str:
        """A name that is free, made of a name that is not: a number is added to it.

        The number is the smallest one if the names with smaller numbers are taken. It is found in a
        few steps even if thousands of users have the name.
        """
        taken, free = 1, 2
        while self.find(numbered(name, free)) is not None:
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            if self.find(numbered(name, middle)) is None:
                free = middle
            else:
                taken = middle
        return numbered(name, free)

    def add(self, name: str, id: str, since_s: float = 0.0) -> User:
        """Add a user without a connection; the name must be free."""
        key = name_key(name)
        user = self._users[key] = User(name, key, id, since_s)
        self._by_id.setdefault(id, []).append(user)
        return user

    def remove(self, user: User) -> None:
        """Free the name of a user who has left."""
        del self._users[user.key]
        same = self._by_id[user.id]
        same.remove(user)
        if not same:
            del self._by_id[user.id]

    def members(self) -> list[Member]:
        """The users in the order in which they came."""
        return [user.member for user in self]


def numbered(name: str, number: int) -> str:
    """A name with a number after it, cut so that it is not too long."""
    suffix = f" ({number})"
    return name[: MAX_USERNAME_CHARS - len(suffix)].rstrip() + suffix
