"""Brokers: how a process with clients publishes to rooms, has members in them and reads back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Draft
from fastchat.rooms import Entrance, Entry, Member, Messages, Removal

__all__ = ["Broker", "Delivery", "OnOutcome", "Pages", "Presence", "Receiver"]

#: Called once, in the loop's thread, with what became of a draft: the offset of its publication,
#: the publication that it repeats, or its refusal.
OnOutcome = Callable[[int | Duplicate | CommandError], object]


class Delivery(Protocol):
    """The members of rooms in this process: the hub, as a broker uses it.

    A broker calls it in the loop's thread, in the order of each room's stream.
    """

    def publish(self, room: str, payload: bytes, /) -> None:
        """Give a publication or an event to all members of a room in this process."""
        ...

    def end_turn(self) -> None:
        """Write what has been published: the broker has delivered all of a turn."""
        ...

    def evict(self, room: str, code: int, reason: str, /) -> None:
        """Close the connections of a room's members, who are to come back and recover.

        A broker evicts a room with `CloseCode.LOST_CONTINUITY` when its stream has a hole here.
        """
        ...


class Receiver(Protocol):
    """The rules that a broker reports to: the chat. A broker calls it in the loop's thread."""

    def expel(self, room: str, author: str, seconds: int, /) -> None:
        """Close the connections of a user in this process: a moderator has removed them."""
        ...


class Broker(Protocol):
    """How a process publishes to rooms and has members in them.

    Every broker keeps this contract, and `tests/contracts/broker` tests it:

    * All processes with members in a room are delivered the same publications in the
      same order, with gapless offsets, each once. Nothing is delivered that is not
      in the history already.
    * `join` is atomic: the entry ends at a position, and what follows that position
      is delivered, nothing else, until the last member of this process has left.
    * `publish` never waits. Later the draft's `outcome` is called once: with its offset when
      it is kept, whether or not this process has a member to deliver it to; with a Duplicate;
      or with a CommandError, which is `unavailable` when the draft is not known to be kept,
      or else the history's refusal. An unavailable draft can still be delivered later.
    * Names are unique in a room, over all processes. A user whose last connection is lost
      keeps the name for 5 s; the others hear nothing if the user is back by then.
    * Nothing is called from within `publish`: no delivery, no receiver and no outcome.
    """

    def open(self, *, delivery: Delivery, receiver: Receiver) -> None:
        """Say where publications go to, and who is told of the rest; before anything else, once.

        Finished payloads go straight to the `delivery`: no rule applies to them any more.
        """
        ...

    def publish(self, draft: Draft, outcome: OnOutcome | None = None) -> None:
        """Number, keep and deliver `draft` later; call `outcome` with what became of it."""
        ...

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        """Count a member in. `enter` is called exactly between the publications that the
        member has missed and those that are delivered to it; the others hear of it before.

        Raises CommandError and counts nobody: `username_taken`, `unavailable`, `forbidden`
        if a moderator has removed the user, or the refusal of the limits of rooms.
        """
        ...

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        """Count a member out because its client said so. `left` is called after what was
        published before, and before the others hear of it.

        It always succeeds; without a relay, after a while.
        """
        ...

    def lose(self, room: str, member: Member) -> None:
        """Count a member out because its connection is gone; the user can come back."""
        ...

    def tell(self, room: str, payload: bytes) -> None:
        """Deliver an event to the members in other processes; it can get lost."""
        ...

    def tick(self) -> None:
        """Do what is due once a second: the process calls this at that interval."""
        ...


class Presence(Protocol):
    """The users of the whole server's rooms. The tests of the brokers' contract cover it."""

    async def remove(self, removal: Removal) -> str:
        """Remove a user, wherever they are connected; returns the user's name.

        The others hear that the user has left. Raises CommandError: `not_found`, or
        `unavailable`, when the removal may have happened nevertheless.
        """
        ...


class Pages(Protocol):
    """The publications of a room, to read back. The tests of the brokers' contract cover it.

    A publication that was delivered in this process is in every later page. A page holds the
    messages as they are now, as many as fit into a reply. Every method raises CommandError
    `unavailable` when the history cannot be read.
    """

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        """The newest messages below `offset`, or of all; see `fastchat.history.History.before`."""
        ...

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        """The oldest messages above `offset`; see `fastchat.history.History.after`."""
        ...

    async def search(self, room: str, query: str, limit: int) -> Messages:
        """The newest messages that match `query`; see `fastchat.history.History.search`."""
        ...
