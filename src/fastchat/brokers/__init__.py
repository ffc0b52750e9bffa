"""Brokers: how a process with clients publishes to rooms, joins them and reads their history.

`memory` calls the rooms of its own process (`fastchat.rooms.contract`). `relay` reaches the rooms
of another process. Both keep the contracts below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Draft
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.contract import Pages

__all__ = ["Broker", "Delivery", "OnOutcome", "Pages", "Presence", "Receiver"]

#: Called once for a draft, in the loop's thread, with its outcome: the offset of its publication,
#: the earlier publication that it repeats, or its refusal.
OnOutcome = Callable[[int | Duplicate | CommandError], object]


class Delivery(Protocol):
    """The members of rooms in this process: the hub, as a broker uses it.

    A broker calls it in the loop's thread, in the order of each room's stream.
    """

    def publish(self, room: str, payload: bytes, /) -> None:
        """Add a publication or an event to the log of a room's members in this process."""
        ...

    def end_turn(self) -> None:
        """Write everything that was published: the broker has delivered all of a turn."""
        ...

    def evict(self, room: str, code: int, reason: str, /) -> None:
        """Close the connections of a room's members. Their clients reconnect and recover.

        A broker evicts a room with `CloseCode.LOST_CONTINUITY` if publications are missing from
        the room's stream in this process.
        """
        ...


class Receiver(Protocol):
    """The chat as a broker uses it. A broker calls it in the loop's thread."""

    def expel(self, room: str, user: str, seconds: int, /) -> None:
        """Close the connections of a user that a moderator has removed from a room.

        Only the connections in this process are closed. The user must stay out of the room for
        this many seconds.
        """
        ...


class Broker(Protocol):
    """How a process publishes to rooms and has members in them.

    Every broker keeps this contract, and `tests/contracts/broker` tests it:

    * All processes with members in a room receive the same publications in the same order, each
      once, with gapless offsets. A publication is stored in the history before it is delivered.
    * `join` is atomic. The entry ends at a position. The process receives exactly the publications
      after that position, until the last member in this process has left.
    * `publish` never waits. Later it calls the draft's `outcome` once. If the draft was stored,
      the outcome is its offset, even if this process has no member in the room. If the draft
      repeats a publication, the outcome is a Duplicate. Otherwise it is a CommandError: the
      history's refusal, or `unavailable` if the broker does not know whether the draft was stored.
      A draft that was `unavailable` can still be delivered later.
    * A name is unique in a room, over all processes. If a user's last connection is lost, the user
      keeps the name for 5 s. If the user comes back in that time, the others receive no event.
    * `publish` calls nothing before it returns: no delivery, no receiver and no outcome.
    """

    def open(self, *, delivery: Delivery, receiver: Receiver) -> None:
        """Connect the broker to the hub and the chat. Call it once, before any other method.

        Publications and events go straight to `delivery`, because the chat has no rule for them.
        Removals go to `receiver`.
        """
        ...

    def publish(self, draft: Draft, outcome: OnOutcome | None = None) -> None:
        """Have `draft` numbered, stored and delivered later; call `outcome` with the result."""
        ...

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        """Count a member in.

        `enter` is called exactly between the publications that the member has missed and those
        that the process delivers to it. The other members receive the join event before.

        Raises CommandError, and does not count the member, if the name is in use
        (`username_taken`), if the rooms cannot be reached (`unavailable`), if a moderator has
        removed the user (`forbidden`), or if the room exceeds a limit of new rooms.
        """
        ...

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        """Count a member out because its client has left the room.

        `left` is called after all earlier publications were delivered, and before the other
        members receive the leave event. It always succeeds. Without a relay, it takes as long as a
        request can wait.
        """
        ...

    def lose(self, room: str, member: Member) -> None:
        """Count a member out because its connection was lost; the user can come back."""
        ...

    def tell(self, room: str, payload: bytes) -> None:
        """Deliver an event to the members in other processes. The event can be lost."""
        ...

    def tick(self) -> None:
        """Do periodic work. The process calls this once a second."""
        ...


class Presence(Protocol):
    """The users of the whole server's rooms; `tests/contracts/broker` tests it."""

    async def remove(self, removal: Removal) -> Member:
        """Remove a user from a room, in all processes; return the user.

        The other members receive a leave event. Raises CommandError: `not_found` if the user is not
        in the room, or `unavailable` if the rooms did not reply in time. In the second
        case the user can have been removed nevertheless.
        """
        ...
