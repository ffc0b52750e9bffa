"""How the rooms reach a process with members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.rooms import Member

__all__ = ["Change", "Subscriber"]


class Change(NamedTuple):
    """What a join or leave event says, for those who keep count: `came` or went."""

    came: bool
    member: Member


class Subscriber(Protocol):
    """A process with members. What it is told, it is told in order."""

    def deliver(
        self, room: str, offset: int, payload: bytes, ticket: Any, change: Change | None = None, /
    ) -> None:
        """A publication, with the `ticket` of its draft if that came from here; or an
        event, with offset 0."""
        ...

    def kept(self, ticket: Any, offset: int, /) -> None:
        """A draft has been published in a room where this process has no member."""
        ...

    def answer(self, ticket: Any, outcome: Duplicate | CommandError, /) -> None:
        """A draft became no publication."""
        ...

    def know(self, room: str, users: Mapping[str, str], /) -> None:
        """Whom the members of a room are to know of, from now on: names, and their authors."""
        ...

    def expel(self, room: str, author: str, seconds: int, /) -> None:
        """A user was removed: his connections from here are to be closed, and to be lost."""
        ...

    def end_turn(self) -> None:
        """All of a turn has been told."""
        ...
