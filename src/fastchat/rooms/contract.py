"""The contract of the rooms: what brokers and processes can rely on, wherever the rooms are.

`fastchat.rooms.local.LocalRooms` has all rooms in its own process and never suspends, except to
search. Other rooms can have to wait for another machine. The rules are the same:

* **One stream.** Everything that happens in a room happens in one order, for all members on all
  machines. Each subscriber is told in that order.
* **Places.** If something must happen at an exact place in a room's stream, it is done by a
  callback (`enter`, `left`) and not after the `await`. Callbacks and the methods of a subscriber
  are called in the loop's thread. They can call `publish` and `lose`. A coroutine ends soon after
  its callback, but not always in the same step.
* **First step.** A coroutine takes its place among the other calls in its first step, before it
  suspends. So the caller has to begin coroutines in the order in which it wants them. The first
  step can run outside of any task, where there is no `asyncio.current_task()`.
* **Order of calls.** Calls of `join`, `leave`, `lose`, `remove` and `restore` in this process that
  concern the same user, or the same name, in the same room take effect in the order in which they
  began, even if an earlier one has not ended. For example, a name that a `leave` frees can be taken
  by the next `join`, and a user who was removed cannot join. Other calls have no such order, and
  one does not wait for another.
* **Order of drafts.** What was published to a room in this process before a `leave` or a `remove`
  begins is delivered or answered before that takes effect. What was published before a `join` is in
  the entry, or is delivered after it if the rooms are too busy to store it first.
* **No cancelling.** A caller does not cancel a coroutine of the rooms, except those of the pages:
  nobody would know whether it took effect. If a subscriber is gone when `enter` is called, the
  callback calls `lose`.

If the rooms cannot store or read, or cannot be reached, `join`, `remove` and the pages raise
CommandError, `unavailable`, and drafts are answered with it. `leave` and `lose` always succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastchat.protocol import Draft
from fastchat.rooms import Entrance, Entry, Member, Messages, Occupancy, Removal
from fastchat.rooms.administration import Administration
from fastchat.rooms.restoring import Returning
from fastchat.rooms.subscribers import Subscriber

__all__ = ["Pages", "Rooms"]


class Pages(Protocol):
    """Pages of a room's history. `tests/contracts/broker` tests it.

    A publication that was delivered in this process is in every later page. A page has as many
    messages as fit into a reply, in their current state. Every method raises CommandError
    `unavailable` if the history cannot be read.
    """

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        """The newest messages before `offset`, or the newest of all if it is None.

        See `fastchat.history.History.before`.
        """
        ...

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        """The oldest messages after `offset`; see `fastchat.history.History.after`."""
        ...

    async def search(self, room: str, query: str, limit: int) -> Messages:
        """The newest messages that match `query`; see `fastchat.history.History.search`."""
        ...


class Rooms(Protocol):
    """All rooms of a server, as one process sees them. Implements `fastchat.brokers.Presence`.

    A `subscriber` is the process with the members that a call is about.
    """

    @property
    def pages(self) -> Pages:
        """The pages of the rooms' history."""
        ...

    @property
    def administration(self) -> Administration:
        """What backends and operators ask of the rooms."""
        ...

    # For operators

    @property
    def occupancy(self) -> Occupancy:
        """How many are in the rooms with users or spectators that this process knows of."""
        ...

    @property
    def fault(self) -> str | None:
        """Why publications cannot be stored at the moment, for an operator; None if they can."""
        ...

    @property
    def is_away(self) -> bool:
        """Whether another directory is in the place of the data directory.

        Then nothing in there may be changed.
        """
        ...

    # Publishing

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        """Have `draft` numbered, stored and delivered later.

        The drafts of a subscriber get their places in the order of its calls. If the publication
        is delivered to the subscriber itself, it gets `draft_key` with it. If it has no members in
        the room, `Subscriber.kept` is called. If the draft becomes no publication,
        `Subscriber.answer` is called. Nothing is called before `publish` returns.
        """
        ...

    def publish_all(
        self, subscriber: Subscriber, draft_keys: Sequence[Any], drafts: Sequence[Draft]
    ) -> None:
        """Publish drafts in their order, each with its key."""
        ...

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        """Deliver an event of one subscriber to the others. The event can be lost."""
        ...

    # Members

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        """Count a connection in.

        `enter` is called once, at the entry's place in the stream: what is delivered to
        `subscriber` afterwards follows the entry's position. The other members hear of a new user
        before.

        Raises CommandError and does not call `enter`: `username_taken`, `unavailable`, `forbidden`
        for a user whom a moderator has removed, or a refusal to create another room (`bad_room`
        if its name looks like that of another). Nothing has changed then.
        """
        ...

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        """Count a connection out because its client leaves; the others hear of it at once.

        `left` is called once, after what the subscriber has published in the room before, and
        before the others hear of it. If `member` is None, nobody is counted out: the client leaves
        a room in which it was not counted, and only has to hear `left` at its place.
        """
        ...

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        """Count a connection out because it is gone.

        The others hear of it if the user is not back in 5 s, or at once if the user was removed.
        """
        ...

    async def remove(self, removal: Removal) -> Member:
        """Have a user's connections closed, and keep the user out; returns the user.

        This includes connections under other names of the same user, and as a spectator. The others
        hear that the user has left when the last connection of a name is gone. Raises CommandError:
        `not_found` if the user is not here, or `unavailable`. In the second case the user can have
        been removed nevertheless.
        """
        ...

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        """Take a process back with the members of a room.

        The publications that it missed are delivered to it. If its members know of users who are
        not here, those have left. But while processes are `gathering` around new rooms, such users
        have the usual time to come back.

        Returns False, and counts and delivers nothing, if the members must come back by
        themselves: the stream cannot be resumed, a name is taken, or the history cannot be read.
        """
        ...

    # Time

    def tick(self) -> None:
        """Do periodic work, such as announcing users who did not come back.

        It is to be called once a second.
        """
        ...

    async def close(self) -> None:
        """Store and deliver what was published, and finish what has begun, before a process ends.

        It takes a few seconds at most. Drafts that cannot be stored in that time are answered as
        `unavailable`. Afterwards only `lose` and `close` can be called, and change nothing that
        others hear of.
        """
        ...
