"""Who is in which room; a user with several connections counts once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from itertools import islice

from fastchat.errors import CommandError, ErrorCode
from fastchat.names import name_key

__all__ = ["Presence", "User"]


class User:
    """Somebody in a room. The name is his as long as a connection of his is there.

    `session` is a secret that only he knows: whoever shows it may join under the
    same name again, from another tab or after a drop that we have not noticed.
    """

    __slots__ = ("announced", "author", "connections", "key", "name", "session")

    def __init__(self, name: str, key: str, session: str) -> None:
        self.name = name
        self.key = key
        self.session = session
        #: Tells him apart from others who had his name before: a digest of the session.
        self.author = hashlib.blake2b(session.encode(), digest_size=9).hexdigest()
        self.connections = 0
        self.announced = False  # whether the others have heard of him


class Presence:
    """Rooms and their users. Names are unique within a room (docs/protocol.md, "Names")."""

    __slots__ = ("_rooms",)

    def __init__(self) -> None:
        self._rooms: dict[str, dict[str, User]] = {}

    def join(self, room: str, name: str, session: str) -> User:
        """Count a connection in; returns its user, not announced yet if he is new here.

        Raises CommandError `username_taken` when the name, or one that looks like
        it, belongs to somebody with another session.
        """
        users = self._rooms.get(room)
        key = name_key(name)
        user = users.get(key) if users else None
        if user is None:
            user = User(name, key, session)
            self._rooms.setdefault(room, {})[key] = user
        elif not hmac.compare_digest(user.session.encode(), session.encode()):
            raise CommandError(
                ErrorCode.USERNAME_TAKEN,
                "Somebody in this room has this name, or one that looks like it.",
                temporary=True,
            )
        user.connections += 1
        return user

    def leave(self, user: User) -> bool:
        """Count a connection out; True if it was the user's last in this room.

        He keeps his name until `remove`.
        """
        user.connections -= 1
        return user.connections == 0

    def remove(self, room: str, user: User) -> None:
        """Free the name of a user who has left."""
        users = self._rooms[room]
        del users[user.key]
        if not users:
            del self._rooms[room]

    def absent(self, room: str, name: str) -> User | None:
        """The user who has this name and no connection, if there is one."""
        user = self._rooms.get(room, {}).get(name_key(name))
        return user if user is not None and user.connections == 0 else None

    def online(self, room: str) -> int:
        """How many users are in a room."""
        return len(self._rooms.get(room, ()))

    def names(self, room: str, limit: int) -> list[str]:
        """The names of the first `limit` users, in the order they came."""
        users: Iterable[User] = self._rooms.get(room, {}).values()
        return [user.name for user in islice(users, limit)]
