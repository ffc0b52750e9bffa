"""Authentication: identities, and their rights in rooms.

An `Authenticator` makes an identity of a token; `fastchat.auth.tokens` has the one for JSON Web
Tokens. A client without a token is a guest, if the server admits guests. Guests never moderate.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from fastchat.errors import CloseCode, CommandError, ErrorCode

__all__ = [
    "ANY_ROOM",
    "GUEST_RIGHTS",
    "Authenticator",
    "Identity",
    "Right",
    "forbidden",
    "unauthorized",
]

#: The name that stands for all rooms that a token does not name.
ANY_ROOM = "*"


class Right(StrEnum):
    """A right that a user can have in a room. No right includes another."""

    READ = "read"
    WRITE = "write"
    MODERATE = "moderate"

    # The hash of an enum is computed in Python, and each message looks a right up.
    __hash__ = str.__hash__


#: The rights of guests, in all rooms, unless the operator gives them fewer.
GUEST_RIGHTS = frozenset({Right.READ, Right.WRITE})


class Identity(NamedTuple):
    """A user, as a token identifies them until `expires_s` (seconds since 1970).

    `credential` is unique to the user (`fastchat.protocol.users.holder_of`). `name` is the name
    that other users see. `rights` has the user's rights by the key of the room; `ANY_ROOM` stands
    for all rooms that it does not name.
    """

    credential: str
    name: str
    expires_s: float
    rights: Mapping[str, frozenset[Right]]

    def may(self, right: Right, room: str) -> bool:
        """Whether the user has a right in a room."""
        return right in self.rights_in(room)

    def rights_in(self, room: str) -> frozenset[Right]:
        """All rights of the user in a room."""
        rights = self.rights.get(room)
        return self.rights.get(ANY_ROOM, frozenset()) if rights is None else rights


class Authenticator(Protocol):
    """Makes identities of tokens."""

    def verify(self, token: str) -> Identity:
        """The user whom a token identifies.

        Raises CommandError `unauthorized` with the code to close with. Its message says whether
        the token has expired, and nothing else about the token.
        """
        ...

    def reload(self) -> None:
        """Read the keys again. If that fails, it is logged, and the old keys stay in use."""
        ...


def unauthorized(
    message: str, close_code: CloseCode = CloseCode.UNAUTHORIZED, *, temporary: bool = False
) -> CommandError:
    """The refusal of a token; `close_code` is that with which the connection is closed."""
    return CommandError(ErrorCode.UNAUTHORIZED, message, temporary=temporary, close_code=close_code)


def forbidden() -> CommandError:
    """The refusal of a command for which the user has no right.

    It is the same for all rooms and rights, so that it does not reveal which rooms exist.
    """
    return CommandError(ErrorCode.FORBIDDEN, "You are not allowed to do this in this room.")
