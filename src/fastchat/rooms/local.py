"""The rooms of the whole server: order, history and presence, in one place.

Theory
------
There is one `LocalRooms`, where the history is: in the only process, or in the relay. Each process
with members is a `Subscriber` of it; so is the only process. Everything that happens in a room
happens here, one event after the other, and subscribers are told in that order. So everybody
sees the same order.

All publications of a turn of the loop are stored in one step, and then delivered. An operation
that must not overtake them (a join, a leave) commits them first.

A step must not stop the loop for long. So if a turn has very many publications, further turns store
the rest. And if the history is busy with the disk, the publications wait until it is not. A
publication gets its place when it is stored: a client that joins before that receives it. Only
operations whose answer promises that earlier publications have arrived make the loop wait.

These rooms never suspend, except to search: a coroutine that is awaited runs to its end in the same
step. A caller must not rely on that, because the contract (`contract`) promises it of no rooms.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.history import Duplicate, History, Outcome
from fastchat.history.users import UserIds
from fastchat.limits.rooms import RoomLimits
from fastchat.metrics import Metrics
from fastchat.protocol import Change, Draft, Message, Publication
from fastchat.protocol.names import DEFAULT_ROOM, name_key
from fastchat.protocol.users import subject_of
from fastchat.rooms import Entrance, Entry, Member, Occupancy, Removal
from fastchat.rooms.local_administration import LocalAdministration
from fastchat.rooms.members import GRACE_TICKS, Members, Room
from fastchat.rooms.messages import truncated
from fastchat.rooms.pages import StoragePages
from fastchat.rooms.presence import Roster, User
from fastchat.rooms.refusals import looks_alike, not_here, removed, room_closed
from fastchat.rooms.removals import Removals
from fastchat.rooms.restoring import Restoring, Returning
from fastchat.rooms.rules import RoomRules
from fastchat.rooms.storage import Storage
from fastchat.rooms.subscribers import MAX_RUN, Subscriber, deliver_run
from fastchat.rooms.watching import Watcher

__all__ = ["LocalRooms"]

#: Publications that one turn stores, which takes 1 to 2 ms.
STORED_AT_ONCE = 256
#: If more are waiting, a turn stores this part of them. So the number that waits is at most this
#: often the number that a turn publishes, however fast clients send.
STORED_PART = 16

moderation = logging.getLogger("fastchat.moderation")


class LocalRooms:
    """All rooms on one history. Implements `fastchat.rooms.contract.Rooms`.

    * ``at_end_of_turn`` calls a function at the end of the loop's turn (`call_soon`), and ``soon``
      calls it about a millisecond later.
    * ``clock``: seconds since 1970, for timestamps only.
    * ``user_of`` makes the public id of a credential (default: with the secret of the history).
    * ``removals``: the users who have to stay out (default: kept in memory only).
    * ``limits``: on publications and new rooms (default: none).
    * ``grace_ticks``: how long a user whose last connection was lost can take to come back,
      before the others hear of it.

    If the history fails, an operation that needs it raises CommandError, `unavailable`, or tells
    the senders so; see `Storage`.
    """

    def __init__(
        self,
        history: History,
        *,
        at_end_of_turn: Callable[[Callable[[], None]], object],
        soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        metrics: Metrics,
        user_of: Callable[[str], str] | None = None,
        removals: Removals | None = None,
        limits: RoomLimits | None = None,
        grace_ticks: int = GRACE_TICKS,
    ) -> None:
        self._limits = limits
        self._user_of = UserIds(history.user_key).user_of if user_of is None else user_of
        self._removals = Removals(clock, user_of=self._user_of) if removals is None else removals
        self._storage = Storage(history)
        self._members = Members(clock=clock, grace_ticks=grace_ticks)
        self._restoring = Restoring(self._members, self._storage, self._removals)
        self._rooms = self._members.rooms
        self._at_end_of_turn = at_end_of_turn
        self._soon = soon
        self._metrics = metrics
        self._drafts: list[Draft] = []
        self._senders: list[tuple[Subscriber, Any]] = []
        self._is_scheduled = False
        self._rules = RoomRules(clock)
        self._watcher: Watcher | None = None
        self.pages = StoragePages(self._storage)
        self.administration = LocalAdministration(
            self._members, self._storage, self._removals, commit=self.commit, clock=clock
        )

    @property
    def occupancy(self) -> Occupancy:
        return self._members.occupancy

    @property
    def fault(self) -> str | None:
        """Why publications cannot be stored at the moment, for an operator; None if they can."""
        return self._storage.fault

    @property
    def is_away(self) -> bool:
        """Whether the history is not in its directory. Then nothing in there may be changed."""
        return self._storage.is_away

    def watch(self, watcher: Watcher | None) -> None:
        """Report what happens in all rooms to a watcher, or to none; see `Rooms.watch`."""
        self._watcher = self._members.watcher = watcher

    # Publishing

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        """Number, store and deliver `draft` at the end of the turn; if refused, answer so."""
        self._drafts.append(draft)
        self._senders.append((subscriber, draft_key))
        if not self._is_scheduled:
            self._schedule()

    def publish_all(
        self, subscriber: Subscriber, draft_keys: Sequence[Any], drafts: Sequence[Draft]
    ) -> None:
        """Publish drafts in their order, each with its key."""
        self._drafts += drafts
        self._senders += [(subscriber, draft_key) for draft_key in draft_keys]
        if drafts and not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._at_end_of_turn(self._end_turn)

    def commit(self) -> None:
        """Store and deliver all that was published, even if the history is busy."""
        while self._drafts:
            self._commit_some()

    def _commit_if_short(self) -> None:
        """Do what `commit` does, unless that would stop the loop for long."""
        if len(self._drafts) <= STORED_AT_ONCE and not self._storage.is_busy:
            self.commit()

    def _end_turn(self) -> None:
        """Store and deliver as much as one turn can; try again if anything is left."""
        self._is_scheduled = False
        if self._drafts and self._storage.is_busy:
            self._is_scheduled = True
            self._soon(self._end_turn)
            return
        try:
            if self._drafts:
                self._commit_some()
        finally:
            if self._drafts and not self._is_scheduled:
                self._schedule()

    def _commit_some(self) -> None:
        """Store and deliver the first drafts, as many as one turn can."""
        count = max(STORED_AT_ONCE, len(self._drafts) // STORED_PART)
        drafts, self._drafts = self._drafts[:count], self._drafts[count:]
        senders, self._senders = self._senders[:count], self._senders[count:]
        told = {subscriber for subscriber, _ in senders}
        options = self._storage.options
        if options and (refused := self._rules.check(drafts, options)):
            drafts, senders = _without(refused, drafts, senders)
        if self._limits is not None and (refused := self._limits.charge(drafts, self._rooms)):
            drafts, senders = _without(refused, drafts, senders)
        try:
            outcomes = self._append(drafts) if drafts else ()
        except CommandError as refusal:
            for subscriber, draft_key in senders:
                subscriber.answer(draft_key, refusal)
        else:
            self._deliver(senders, outcomes)
            if self._watcher is not None:
                heads = {each.room: each.offset for each in outcomes if _is_new(each)}
                for name, head in heads.items():
                    self._watcher.published(name, head)
        for name in {draft.room for draft in drafts}:
            if (room := self._rooms.get(name)) is not None:
                told.update(room.subscribers)
        for subscriber in told:
            subscriber.end_turn()

    def _append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        begun = time.perf_counter()
        try:
            outcomes = self._storage.append(drafts)
        except CommandError:
            self._metrics.failed_commits_total += 1
            raise
        kinds = list(map(type, outcomes))
        kept = len(kinds) - kinds.count(Duplicate) - kinds.count(CommandError)
        self._metrics.committed(kept, time.perf_counter() - begun)
        return outcomes

    def _deliver(
        self, senders: Sequence[tuple[Subscriber, Any]], outcomes: Sequence[Outcome]
    ) -> None:
        """Tell each sender its outcome, and deliver the publications, in runs of one room."""
        index, count = 0, len(outcomes)
        while index < count:
            outcome = outcomes[index]
            if not isinstance(outcome, (Message, Change)):
                origin, draft_key = senders[index]
                origin.answer(draft_key, outcome)
                index += 1
                continue
            name, run = outcome.room, [outcome]
            for at in range(index + 1, min(count, index + MAX_RUN)):
                following = outcomes[at]
                if not isinstance(following, (Message, Change)) or following.room != name:
                    break
                run.append(following)
            room = self._rooms.get(name)
            subscribers = room.subscribers if room is not None else {}
            deliver_run(name, subscribers, run, senders[index : index + len(run)])
            index += len(run)

    # Members

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        """Count a connection in; see `Rooms.join`."""
        member = Member(entrance.name, self._user_of(entrance.credential))
        self._check_removal(entrance.room, member.user)
        options = self._storage.options.get(entrance.room)
        if options is not None and options.closed and not entrance.moderates:
            raise room_closed()
        # What was published in this turn is delivered to those who were here before.
        self._commit_if_short()
        room = self._rooms.get(entrance.room)
        if room is None:
            if self._limits is not None:
                self._limits.check_new_room(entrance.address, len(self._rooms))
            if not entrance.room.isascii():
                self._check_look(entrance.room)
        has_token = subject_of(entrance.credential) is not None
        found: Member | User = member
        if room is not None and member.name is not None:
            found = self._members.admit(entrance.room, member, has_token=has_token)
        with self._storage.use("join") as history:
            position = history.position(entrance.room)
            payloads, recovered = _missed(history, entrance)
        room = self._members.open(entrance.room)
        if member.name is None:
            self._members.count_spectator_in(entrance.room, member.user, subscriber)
        else:
            user = found if isinstance(found, User) else self._members.add(entrance.room, found)
            self._members.count_in(entrance.room, user, subscriber)
            member = user.member
        online, spectators = len(room.roster), room.spectator_count
        enter(Entry(member, position, payloads, recovered, room.users, online, spectators, options))

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        """Count a connection out because its client leaves; see `Rooms.leave`."""
        self.commit()
        left()
        if member is None:
            return
        if member.name is None:
            self._members.count_spectator_out(name, member.user, subscriber)
            self._members.drop_if_empty(name)
            return
        user = self._members.count_out(name, member, subscriber)
        if user is not None:
            self._let_leave(name, user)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        """Count a connection out because it is gone; see `Rooms.lose`."""
        self._commit_if_short()
        if member.name is None:
            self._members.count_spectator_out(name, member.user, subscriber)
            self._members.drop_if_empty(name)
            return
        user = self._members.count_out(name, member, subscriber)
        if user is None:
            return
        if user.expelled:
            self._let_leave(name, user)
        else:
            self._members.mark_absent(name, user)

    async def remove(self, removal: Removal) -> Member:
        """Have a user's connections closed, and keep the user out; see `Rooms.remove`."""
        self.commit()
        name, id, username, seconds, moderator = removal
        room = self._rooms.get(name)
        member = None if room is None else _find(room, id, username)
        if room is None or member is None:
            raise not_here()
        if seconds:
            # Another directory in the place of ours stays as it is.
            self._removals.add(name, member.user, seconds, save=not self.is_away)
        moderation.info("%r removed %r (%s) from %s for %d s", moderator, *member, name, seconds)
        self._members.expel(name, member.user, seconds)
        return member

    def _let_leave(self, name: str, user: User) -> None:
        self._members.remove(name, user)
        self._members.drop_if_empty(name)

    def _check_removal(self, room: str, user: str) -> None:
        remaining_s = self._removals.remaining_s(room, user)
        if remaining_s:
            raise removed(remaining_s)

    def _check_look(self, room: str) -> None:
        """Refuse to create a room whose name looks like that of another room."""
        with self._storage.use("join") as history:
            stored = history.find_alike(room)
        if stored == room:
            return
        looks_default = name_key(room) == name_key(DEFAULT_ROOM)
        if stored is not None or looks_default or self._members.has_lookalike(room):
            raise looks_alike()

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        """Deliver an event of one subscriber to the others."""
        room = self._rooms.get(name)
        for other in room.subscribers if room is not None else ():
            if other is not subscriber:
                other.announce(name, payload)

    def tick(self) -> None:
        """Announce users who did not come back, and numbers of users that have changed.

        It is to be called once a second.
        """
        if self._limits is not None:
            self._limits.sweep()
        self._rules.sweep()
        self._members.tick()
        self._storage.tick()
        if not self.is_away:
            self._removals.tick()

    def users(self, name: str) -> Roster:
        """The users of a room; a room that is not there has none."""
        room = self._rooms.get(name)
        return Roster() if room is None else room.roster

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        """Take a process back with the members of a room; see `Rooms.restore`."""
        self.commit()
        return self._restoring.restore(subscriber, returning, gathering=gathering)

    async def close(self) -> None:
        """Store and deliver all that was published, because the process ends."""
        self.commit()


def _is_new(outcome: Outcome) -> TypeGuard[Publication]:
    return isinstance(outcome, (Message, Change))


def _find(room: Room, id: str | None, username: str | None) -> Member | None:
    """The user of a removal; None if they are not in the room."""
    if id is None:
        user = None if username is None else room.roster.find(username)
    else:
        user = next(iter(room.roster.find_all(id)), None)
        if user is None and id in room.spectators:
            return Member(None, id)
    return None if user is None else user.member


def _without(
    refused: Mapping[int, CommandError],
    drafts: Sequence[Draft],
    senders: Sequence[tuple[Subscriber, Any]],
) -> tuple[list[Draft], list[tuple[Subscriber, Any]]]:
    """The drafts that are not refused, and their senders; tells the senders of the others."""
    for index, refusal in refused.items():
        subscriber, draft_key = senders[index]
        subscriber.answer(draft_key, refusal)
    kept = [index for index in range(len(drafts)) if index not in refused]
    return [drafts[index] for index in kept], [senders[index] for index in kept]


def _missed(history: History, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
    """The publications that a client has missed before its join, and whether these are all.

    If there are too many, these are the newest messages, as for a client without a position.
    """
    room, _, _, since, limit, *_ = entrance
    missed = None if since is None else history.since(room, since, protocol.MAX_HISTORY)
    if missed is not None:
        payloads, too_many = truncated(missed, newest_first=True)
        if not too_many:
            return payloads, True
    newest = history.before(room, None, limit).publications if limit else []
    return truncated(newest, newest_first=True).payloads, False
