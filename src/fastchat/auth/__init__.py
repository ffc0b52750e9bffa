"""Who may come in, and what he may do where: identities and rights.

Whoever tells them from a token is an `Authenticator`; `fastchat.auth.tokens` has the one for
JSON Web Tokens. Without any, everybody may come in, and nobody moderates.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from fastchat.errors import CloseCode, CommandError, ErrorCode

__all__ = [
    "ANY_ROOM",
    "Authenticator",
    "Identity",
    "Right",
    "forbidden",
    "unauthorized",
]

#: Stands for the rooms that a token does not name.
ANY_ROOM = "*"


class Right(StrEnum):
    """What somebody may do in a room; none of them includes another."""

    READ = "read"
    WRITE = "write"
    MODERATE = "moderate"


class Identity(NamedTuple):
    """Somebody, until `expires_s` (seconds since 1970): his name, and what he is told apart by.

    `rights` are by room.
    """

    author: str
    name: str
    expires_s: float
    rights: Mapping[str, frozenset[Right]]

    def may(self, right: Right, room: str) -> bool:
        return right in self.rights_in(room)

    def rights_in(self, room: str) -> frozenset[Right]:
        rights = self.rights.get(room)
        return self.rights.get(ANY_ROOM, frozenset()) if rights is None else rights


class Authenticator(Protocol):
    """Knows who somebody is by the token that he shows."""

    def verify(self, token: str) -> Identity:
        """Raises CommandError `unauthorized` with the code to close with; it says no more
        of the token than whether it has expired."""
        ...

    def reload(self) -> None:
        """Read the keys anew. The old ones stay if that fails; it is logged, and not raised."""
        ...


def unauthorized(
    message: str, close_code: CloseCode = CloseCode.UNAUTHORIZED, *, temporary: bool = False
) -> CommandError:
    return CommandError(ErrorCode.UNAUTHORIZED, message, temporary=temporary, close_code=close_code)


def forbidden() -> CommandError:
    """The same for every room and every right: it gives away nothing of what there is."""
    return CommandError(ErrorCode.FORBIDDEN, "You may not do this here.")
