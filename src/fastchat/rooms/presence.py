"""Who is in a room; a user with several connections counts once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from itertools import islice

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.names import name_key

__all__ = ["Roster", "User", "author_of"]


def author_of(session: str) -> str:
    """What a session's owner is known by: a digest, which does not give it away.

    It tells him apart from others who had his name before.
    """
    return hashlib.blake2b(session.encode(), digest_size=9).hexdigest()


class User:
    """Somebody in a room, with this many connections. The name is his until he is removed.

    `expelled` once a moderator has removed him, until he comes back.
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
        """In the order in which they came."""
        return iter(self._users.values())

    def find(self, name: str) -> User | None:
        """Who has this name, or one that looks like it."""
        return self._users.get(name_key(name))

    def check(self, name: str, author: str) -> User | None:
        """Who has this name, if it is `author`; if nobody is there to defend it, whoever had it.

        Raises CommandError `username_taken` when it is somebody else's.
        """
        user = self.find(name)
        if user is not None and user.connections and not user.is_author(author):
            raise CommandError(
                ErrorCode.USERNAME_TAKEN,
                "Somebody in this room has this name, or one that looks like it.",
                temporary=True,
            )
        return user

    def add(self, name: str, author: str) -> User:
        """A new user, without a connection; his name must be free."""
        key = name_key(name)
        user = self._users[key] = User(name, key, author)
        return user

    def remove(self, user: User) -> None:
        """Free the name of a user who has left."""
        del self._users[user.key]

    def names(self, limit: int) -> list[str]:
        """The names of the first `limit` users, in the order in which they came."""
        return [user.name for user in islice(self, limit)]
