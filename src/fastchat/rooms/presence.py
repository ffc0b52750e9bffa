"""The users of a room; a user with several connections counts once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from itertools import islice

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.names import name_key

__all__ = ["Roster", "User", "author_of"]


def author_of(session: str) -> str:
    """A digest of a client's session, which identifies the user without revealing the session.

    It tells a user apart from others who had the same name before.
    """
    return hashlib.blake2b(session.encode(), digest_size=9).hexdigest()


class User:
    """A user of a room, with a number of connections. The name is theirs as long as they are here.

    `expelled` says that a moderator has removed the user, who has not come back since. See
    `fastchat.rooms.members.Members` for the states of a user.
    """

    __slots__ = ("author", "connections", "expelled", "key", "name")

    def __init__(self, name: str, key: str, author: str) -> None:
        self.name = name
        self.key = key
        self.author = author
        self.connections = 0
        self.expelled = False

    def is_author(self, author: str) -> bool:
        return hmac.compare_digest(self.author.encode(), author.encode())


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

    def check(self, name: str, author: str) -> User | None:
        """The user who has this name, or one that looks like it; None if it is free.

        Raises CommandError `username_taken` when the user has a connection and another author.
        A user without a connection does not keep others from taking the name.
        """
        user = self.find(name)
        if user is not None and user.connections and not user.is_author(author):
            raise CommandError(
                ErrorCode.USERNAME_TAKEN,
                "A user in this room has this name, or one that looks like it. "
                "Choose another name.",
                temporary=True,
            )
        return user

    def add(self, name: str, author: str) -> User:
        """Add a user without a connection; the name must be free."""
        key = name_key(name)
        user = self._users[key] = User(name, key, author)
        return user

    def remove(self, user: User) -> None:
        """Free the name of a user who has left."""
        del self._users[user.key]

    def names(self, limit: int) -> list[str]:
        """The names of the first `limit` users, in the order in which they came."""
        return [user.name for user in islice(self, limit)]
