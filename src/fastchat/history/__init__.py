"""Rooms' histories: what was published, numbered, as far back as it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastchat.errors import CommandError
from fastchat.protocol import Draft, Message, Position, Publication

__all__ = ["Duplicate", "History", "Outcome", "Page"]


class Duplicate(NamedTuple):
    """A draft whose `id` its user has published in its room before, at `offset`."""

    room: str
    id: str
    offset: int


#: What becomes of a draft.
Outcome = Publication | Duplicate | CommandError


class Page(NamedTuple):
    """Messages, oldest first; `more` if there are more in the direction asked for."""

    publications: list[Message]
    more: bool


class History(Protocol):
    """The contract of every history; `tests/contracts/history.py` holds them to it.

    * A room begins with its first `position` or `append`, at offset 0 and with a
      new epoch. Its publications are numbered 1, 2, 3 … without a hole. An offset is
      never used twice in one epoch; a history that was lost has another epoch.
    * `append` numbers and keeps its drafts in one step, all or none, before it
      returns. What it returned is seen by every later read.
    * A message as it is read is in its present state (`fastchat.history.changes`); a
      deleted text is nowhere any more.
    * What is kept is the newest of a room; the oldest go first.

    Every method but `prune` raises HistoryError where a disk fails; nothing is changed then.
    """

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Number and keep `drafts`, in order.

        A draft with an `id` that its user published in its room before, as far as
        is remembered, changes nothing and gives a Duplicate; one that may not
        change the message it names gives a CommandError.
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
        """The newest messages below `offset` (None: of all), `limit` at most."""
        ...

    def after(self, room: str, offset: int, limit: int) -> Page:
        """The oldest kept messages above `offset`, `limit` at most."""
        ...

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        """The messages that match `query` (`fastchat.history.search`), the newest first."""
        ...

    def prune(self) -> None:
        """Drop a little of what is too old; called about once a second.

        It never raises: what a failing disk keeps is dropped later.
        """
        ...

    def adopt(self, room: str, epoch: str) -> None:
        """Give a room in which nothing was published the epoch that its members know."""
        ...

    def forget(self, room: str) -> None:
        """Forget a room in which nothing was published; its next epoch is another."""
        ...

    def close(self) -> None:
        """Keep everything and let go of the disk; nothing is called afterwards."""
        ...
