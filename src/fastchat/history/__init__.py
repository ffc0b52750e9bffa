"""Rooms' histories: what was published, numbered, as far back as it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastchat.protocol import Position, Publication

__all__ = ["Duplicate", "History", "Page"]


class Duplicate(NamedTuple):
    """A draft whose `id` its user has published in its room before, at `offset`."""

    room: str
    id: str
    offset: int


class Page(NamedTuple):
    """A piece of history, oldest first; `more` if there is more in the direction asked for."""

    publications: list[Publication]
    more: bool


class History(Protocol):
    """The contract of every history; `tests/contracts/history.py` holds them to it.

    * A room begins with its first `position` or `append`, at offset 0 and with a
      new epoch. Its publications are numbered 1, 2, 3 … without a hole. An offset is
      never used twice in one epoch; a history that was lost has another epoch.
    * `append` numbers and keeps its drafts in one step, all or none, before it
      returns. What it returned is seen by every later read.
    * What is kept is the newest of a room; the oldest go first.

    Raises OSError where a disk fails, and nothing is changed then.
    """

    def append(self, drafts: Sequence[Publication]) -> list[Publication | Duplicate]:
        """Number and keep `drafts` (whose offsets are ignored), in order.

        A draft with an `id` that its user published in its room before, as far as
        is remembered, changes nothing and gives a Duplicate.
        """
        ...

    def position(self, room: str) -> Position:
        """Where a room's stream stands: its epoch, and the offset of its newest publication."""
        ...

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        """All publications after `position`, oldest first.

        None, never a part of them, when the epoch is another, the position lies
        ahead, some are no longer kept, or there are more than `limit`.
        """
        ...

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        """The newest publications below `offset` (None: of all), `limit` at most."""
        ...

    def after(self, room: str, offset: int, limit: int) -> Page:
        """The oldest kept publications above `offset`, `limit` at most."""
        ...

    def forget(self, room: str) -> None:
        """Drop all that is known of a room; its next epoch is another."""
        ...
