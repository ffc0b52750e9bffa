"""Brokers carry publications from whoever sends them to every process that has members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fastchat.errors import CommandError
from fastchat.history import Duplicate, Page
from fastchat.protocol import Position, Publication

__all__ = ["Answer", "Broker", "Deliver", "Snapshot"]

#: Takes each publication of a subscribed room, in order.
Deliver = Callable[[Publication], None]
#: Tells a sender, as given to `publish`, why his draft became no publication.
Answer = Callable[[Any, Publication, Duplicate | CommandError], None]


class Snapshot(NamedTuple):
    """What a newcomer gets: the stream's position, and what was published before it.

    With `recovered` these are exactly the publications after the position he came
    with; without, the newest.
    """

    position: Position
    publications: list[Publication]
    recovered: bool


class Broker(Protocol):
    """The contract of every broker; `tests/contracts/broker.py` holds them to it.

    * All subscribers of a room are delivered the same publications in the same
      order, with gapless offsets, each once. Nothing is delivered that is not in
      the history already.
    * `subscribe` is atomic: its snapshot ends at a position, and what follows that
      position is delivered, nothing else, until `unsubscribe`.
    * `publish` never waits. Later it either delivers, or calls `answer` once: with a
      Duplicate, or with a CommandError: `unavailable` when nothing was kept, or what
      the history has against it.
    * All of a turn is kept in one step, then delivered, then `delivered` is called.
    * `deliver`, `answer` and `delivered` are called in the loop's thread, not from
      within `publish`.
    """

    def open(self, deliver: Deliver, answer: Answer, delivered: Callable[[], None]) -> None:
        """Say where publications and answers go; before anything else, once."""
        ...

    def publish(self, draft: Publication, sender: object) -> None:
        """Number, keep and deliver `draft`, or answer `sender`."""
        ...

    async def subscribe(
        self, room: str, since: Position | None, limit: int, max_missed: int
    ) -> Snapshot:
        """Count a subscriber in, and return what it missed.

        That is all since `since` if it is at most `max_missed` publications, or
        else the newest `limit` messages. Raises CommandError `unavailable` and counts
        nobody when the history cannot be read; so do the methods below.
        """
        ...

    def unsubscribe(self, room: str) -> None:
        """Count a subscriber out; after the last, nothing of the room is delivered."""
        ...

    async def search(self, room: str, query: str, limit: int) -> list[Publication]:
        """As `fastchat.history.History.search`."""
        ...

    async def before(self, room: str, offset: int | None, limit: int) -> Page:
        """As `fastchat.history.History.before`."""
        ...

    async def after(self, room: str, offset: int, limit: int) -> Page:
        """As `fastchat.history.History.after`."""
        ...
