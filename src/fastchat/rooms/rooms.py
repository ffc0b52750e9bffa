"""The rooms of the whole server: order, history and presence, in one place.

Theory
------
There is one `Rooms`, where the history is: in the only process, or in the relay. Each
process with members is a `Subscriber` of it, the only process too. What happens in a room
happens here, one thing after the other, and subscribers are told of it in that order; so
everybody sees the same.

All that the loop's turn has published is kept in one step, then delivered. Whatever must
not overtake it (a join, a leave) commits first.

Operations whose result the caller needs are coroutines, because rooms on another machine
would have to wait for it. These rooms never suspend, except to search: a coroutine that is
awaited runs to its end in the same step. A caller must not rely on that. If something has to
happen at an exact place in a room's stream, it is done by a callback (`enter`, `left`), not
after the `await`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode, HistoryError
from fastchat.history import Duplicate, History, Outcome
from fastchat.limits.rooms import RoomLimits, price_of
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Position, Publication
from fastchat.rooms import Entrance, Entry, Member, Messages, Removal
from fastchat.rooms.messages import fitting, page_of
from fastchat.rooms.presence import Roster, User
from fastchat.rooms.removals import Removals
from fastchat.rooms.subscribers import PresenceChange, Subscriber

__all__ = ["CROWD", "Rooms"]

logger = logging.getLogger("fastchat.broker")
moderation = logging.getLogger("fastchat.moderation")

#: Whoever is back before this many ticks are over has not been away, to the others: 5 s,
#: and up to one more because the tick he left in had begun.
GRACE_TICKS = 6
#: Rooms with more users than this hear of joins and leaves by number, once a second.
CROWD = 200
#: A process that lost its relay for longer than this has its members recover by themselves.
MAX_RESUMED = 2000


class _Room:
    __slots__ = ("price", "roster", "subscribers")

    def __init__(self) -> None:
        self.price = price_of(0)
        self.roster = Roster()
        self.subscribers: dict[Subscriber, int] = {}  # connections of each


class Rooms:
    """All rooms on one history.

    * ``at_end_of_turn`` calls a function at the end of the loop's turn (`call_soon`).
    * ``clock``: seconds since 1970, for timestamps only.
    * ``removals``: who is to stay out (default: as long as this lives).
    * ``limits``: of what is published, and of the rooms (default: none).

    Of each operation of the history it is said once in the log that it fails, and once
    that it works again.
    """

    def __init__(
        self,
        history: History,
        *,
        at_end_of_turn: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        metrics: Metrics,
        removals: Removals | None = None,
        limits: RoomLimits | None = None,
    ) -> None:
        self._limits = limits
        self._removals = Removals(clock) if removals is None else removals
        self._history_of_rooms = history
        self._at_end_of_turn = at_end_of_turn
        self._clock = clock
        self._metrics = metrics
        self._rooms: dict[str, _Room] = {}
        self._drafts: list[Draft] = []
        self._senders: list[tuple[Subscriber, Any]] = []
        self._crowded: set[str] = set()  # whose number changed since the last tick
        #: Who has lost his last connection, where, and in which tick; the first first.
        self._absent: dict[User, tuple[str, int]] = {}
        self._ticks = 0
        self._failing: set[str] = set()  # operations

    @property
    def room_count(self) -> int:
        return len(self._rooms)

    @property
    def user_count(self) -> int:
        """Users of all rooms; who is in two of them counts twice."""
        return sum(len(room.roster) for room in self._rooms.values())

    # Publishing

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        """Number, keep and deliver `draft` at the end of the turn, or answer the subscriber."""
        if not self._drafts:
            self._at_end_of_turn(self.commit)
        self._drafts.append(draft)
        self._senders.append((subscriber, draft_key))

    def commit(self) -> None:
        """Keep and deliver what this turn has published; at the end of the turn, or before."""
        if not self._drafts:
            return
        drafts, self._drafts = self._drafts, []
        senders, self._senders = self._senders, []
        told = {subscriber for subscriber, _ in senders}
        if self._limits is not None and (refused := self._limits.sift(drafts, self._rooms)):
            drafts, senders = _without(refused, drafts, senders)
        try:
            outcomes = self._append(drafts) if drafts else ()
        except CommandError as refusal:
            for subscriber, draft_key in senders:
                subscriber.answer(draft_key, refusal)
        else:
            self._deliver(senders, outcomes)
        for name in {draft.room for draft in drafts}:
            if (room := self._rooms.get(name)) is not None:
                told.update(room.subscribers)
        for subscriber in told:
            subscriber.end_turn()

    def _append(self, drafts: Sequence[Draft]) -> Sequence[Outcome]:
        begun = time.perf_counter()
        with self._history("append") as history:
            outcomes = history.append(drafts)
        kinds = list(map(type, outcomes))
        kept = len(kinds) - kinds.count(Duplicate) - kinds.count(CommandError)
        self._metrics.committed(kept, time.perf_counter() - begun)
        return outcomes

    def _deliver(
        self, senders: Sequence[tuple[Subscriber, Any]], outcomes: Sequence[Outcome]
    ) -> None:
        for index, outcome in enumerate(outcomes):
            origin, draft_key = senders[index]
            if isinstance(outcome, (Duplicate, CommandError)):
                origin.answer(draft_key, outcome)
                continue
            name, offset = outcome.room, outcome.offset
            room = self._rooms.get(name)
            subscribers = room.subscribers if room is not None else {}
            if origin not in subscribers:
                origin.kept(draft_key, offset)
            if subscribers:
                payload = protocol.encode(outcome)
                for subscriber in subscribers:
                    subscriber.deliver(
                        name, offset, payload, draft_key if subscriber is origin else None
                    )

    # Members

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        """Count a connection in. `enter` is called at the entry's place in the stream: what is
        delivered to `subscriber` afterwards follows the entry's position.

        Raises CommandError and calls nothing: `username_taken`, `unavailable`, `forbidden` for a
        user that a moderator has removed, or the limits' refusal of another room. Nothing has
        changed then.
        """
        name, author = entrance.member
        self._check_removal(entrance.room, author)
        # What was published in this turn is delivered to those who were here before.
        self.commit()
        room = self._rooms.get(entrance.room)
        if room is None and self._limits is not None:
            self._limits.check_new_room(entrance.address, len(self._rooms))
        user = None if room is None else room.roster.check(name, author)
        with self._history("join") as history:
            position = history.position(entrance.room)
            payloads, recovered = _missed(history, entrance)
        if user is not None and not user.is_author(author):
            self._remove(entrance.room, user)  # he is away, and another takes his name
            user = None
        room = self._rooms.setdefault(entrance.room, room or _Room())
        if user is None:
            user = room.roster.add(name, author)
            self._announce(entrance.room, user, came=True)
        self._count_in(room, user, subscriber, 1)
        enter(
            Entry(
                Member(user.name, user.author),
                position,
                payloads,
                recovered,
                room.roster.names(protocol.MAX_USERS_LISTED),
                len(room.roster),
            )
        )

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member, left: Callable[[], None]
    ) -> None:
        """Count a connection out whose client said so; the others hear of it at once.

        `left` is called after what was published before, and before the others hear of it.
        """
        self.commit()
        left()
        user = self._count_out(subscriber, name, member)
        if user is not None:
            self._remove(name, user)
            self._drop_if_empty(name)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        """Count a connection out that is gone; the others hear of it if it is not back in 5 s."""
        user = self._count_out(subscriber, name, member)
        if user is None:
            return
        if user.expelled:
            self._remove(name, user)
            self._drop_if_empty(name)
        else:
            self._absent[user] = name, self._ticks

    async def remove(self, removal: Removal) -> str:
        """Have a user's connections closed, and keep the user out; returns the user's name.

        The others hear that the user has left when the last connection is gone. Raises
        CommandError `not_found` when nobody of this name is here.
        """
        self.commit()
        name, username, seconds, moderator = removal
        room = self._rooms.get(name)
        user = None if room is None else room.roster.find(username)
        if room is None or user is None:
            raise CommandError(ErrorCode.NOT_FOUND, "Nobody of this name is in the room.")
        if seconds:
            self._removals.add(name, user.author, seconds)
        moderation.info("%r removed %r from %s for %d s", moderator, user.name, name, seconds)
        subscribers = tuple(room.subscribers)
        if user.connections:
            user.expelled = True
        else:
            self._remove(name, user)
            self._drop_if_empty(name)
        for subscriber in subscribers:  # also if he is away: he may be here under another name
            subscriber.expel(name, user.author, seconds)
        return user.name

    def _check_removal(self, room: str, author: str) -> None:
        remaining_s = self._removals.remaining_s(room, author)
        if remaining_s:
            raise CommandError(
                ErrorCode.FORBIDDEN,
                "A moderator has removed you from this room; come back later.",
                temporary=True,
                retry_after_ms=int(remaining_s * 1000) + 1,
            )

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        """An event of one subscriber, to the others."""
        room = self._rooms.get(name)
        for other in room.subscribers if room is not None else ():
            if other is not subscriber:
                other.deliver(name, 0, payload, None)

    def tick(self) -> None:
        """Announce who did not come back, and tell crowded rooms their number; once a second."""
        self._ticks += 1
        if self._limits is not None:
            self._limits.sweep()
        for user, (name, left) in tuple(self._absent.items()):
            if left + GRACE_TICKS > self._ticks:
                break
            self._remove(name, user)
            self._drop_if_empty(name)
        crowded, self._crowded = self._crowded, set()
        for name in crowded:
            if (room := self._rooms.get(name)) is not None:
                self._tell_all(name, protocol.presence(name, len(room.roster)))
        self._history_of_rooms.prune()

    def users(self, name: str) -> Roster:
        """The users of a room that has some; for tests."""
        return self._rooms[name].roster

    def known(self, name: str) -> dict[str, str]:
        """Whom those in a room come to know of, and their authors; a crowd is told by number."""
        roster = self._rooms[name].roster
        return {user.name: user.author for user in roster} if len(roster) <= CROWD else {}

    async def restore(
        self,
        subscriber: Subscriber,
        name: str,
        since: Position,
        members: Iterable[tuple[Member, int]],
        known: Iterable[Member],
        *,
        gathering: bool,
    ) -> bool:
        """Take a process back with the members of a room, and their numbers of connections.

        What it missed since its position is delivered to it. `known` are the users that its
        members know of. Those of them that are not here have left, or, while processes are
        `gathering` around new rooms, have the usual time to come back. Returns False, and counts
        and delivers nothing, when the members must come back by themselves: the stream cannot be
        resumed, a name is taken, or the history cannot be read.
        """
        self.commit()
        members, known = list(members), list(known)
        missed = self._missed_by_process(name, since, members)
        if missed is None:
            return False
        room = self._rooms.setdefault(name, self._rooms.get(name) or _Room())
        users = [(self._bring_back(name, member), count) for member, count in members]
        if gathering:
            for member in known:
                if room.roster.find(member.name) is None:
                    self._absent[self._bring_back(name, member)] = name, self._ticks
        if members:
            self._catch_up(subscriber, name, known)
        for user, count in users:
            self._count_in(room, user, subscriber, count)
            remaining_s = self._removals.remaining_s(name, user.author)
            if remaining_s:  # the last relay did not get round to it
                user.expelled = True
                subscriber.expel(name, user.author, int(remaining_s))
        self._drop_if_empty(name)
        for publication in missed:
            subscriber.deliver(name, publication.offset, protocol.encode(publication), None)
        return True

    def _missed_by_process(
        self, name: str, since: Position, members: Iterable[tuple[Member, int]]
    ) -> Sequence[Publication] | None:
        room = self._rooms.get(name)
        try:
            for member, _ in members:
                if room is not None:
                    room.roster.check(*member)
            with self._history("join") as history:
                if room is None and since.offset == 0:  # silent, so no file knows the epoch
                    history.adopt(name, since.epoch)
                return history.since(name, since, MAX_RESUMED)
        except CommandError:
            return None

    def _bring_back(self, name: str, member: Member) -> User:
        """A user who may be here; the others hear of him, but for those who know of him."""
        roster = self._rooms[name].roster
        user = roster.find(member.name)
        if user is not None:
            if user.is_author(member.author):
                return user
            self._remove(name, user)
        user = roster.add(*member)
        self._announce(name, user, came=True)
        return user

    def _catch_up(self, subscriber: Subscriber, name: str, known: Sequence[Member]) -> None:
        """Tell a subscriber of those who came and went while it was away."""
        roster = self._rooms[name].roster
        if len(roster) > CROWD:
            self._crowded.add(name)
            subscriber.know(name, {})
            return
        here = {Member(user.name, user.author): None for user in roster}
        there = dict.fromkeys(known)
        for member in there:
            if member not in here:
                self._tell_change(subscriber, name, PresenceChange(False, member))
        for member in here:
            if member not in there:
                self._tell_change(subscriber, name, PresenceChange(True, member))

    def _tell_change(self, subscriber: Subscriber, name: str, change: PresenceChange) -> None:
        subscriber.deliver(name, 0, self._change(name, change), None, change)

    def _count_in(self, room: _Room, user: User, subscriber: Subscriber, count: int) -> None:
        self._absent.pop(user, None)
        user.expelled = False
        user.connections += count
        room.subscribers[subscriber] = room.subscribers.get(subscriber, 0) + count
        room.price = price_of(sum(room.subscribers.values()))

    def _count_out(self, subscriber: Subscriber, name: str, member: Member) -> User | None:
        """A connection less; returns its user if it was his last."""
        self.commit()  # what was published before still arrives
        room = self._rooms[name]
        room.subscribers[subscriber] -= 1
        if not room.subscribers[subscriber]:
            del room.subscribers[subscriber]
        room.price = price_of(sum(room.subscribers.values()))
        user = room.roster.find(member.name)
        assert user is not None
        user.connections -= 1
        return None if user.connections else user

    def _remove(self, name: str, user: User) -> None:
        self._absent.pop(user, None)
        room = self._rooms[name]
        room.roster.remove(user)
        self._announce(name, user, came=False)

    def _drop_if_empty(self, name: str) -> None:
        if not len(self._rooms[name].roster):
            del self._rooms[name]
            self._forget_if_silent(name)

    def _announce(self, name: str, user: User, *, came: bool) -> None:
        room = self._rooms[name]
        online = len(room.roster)
        if online > CROWD:
            self._crowded.add(name)
        else:
            change = PresenceChange(came, Member(user.name, user.author))
            self._tell_all(name, self._change(name, change), change)
        if online == CROWD + came:  # it is a crowd now, or no longer
            for subscriber in room.subscribers:
                subscriber.know(name, self.known(name))

    def _change(self, name: str, change: PresenceChange) -> bytes:
        return protocol.presence_change(
            "join" if change.came else "leave",
            name,
            change.member.name,
            protocol.timestamp_of(self._clock()),
            len(self._rooms[name].roster),
        )

    def _tell_all(self, name: str, payload: bytes, change: PresenceChange | None = None) -> None:
        for subscriber in self._rooms[name].subscribers:
            subscriber.deliver(name, 0, payload, None, change)

    # Reading

    async def search(self, room: str, query: str, limit: int) -> Messages:
        with self._history("search") as history:
            found = await history.search(room, query, limit)
        return fitting(found, newest_first=False)

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        with self._history("before") as history:
            return page_of(history.before(room, offset, limit), newest_first=True)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        with self._history("after") as history:
            return page_of(history.after(room, offset, limit), newest_first=False)

    def _forget_if_silent(self, name: str) -> None:
        """Where nothing was ever said: rooms that are only entered leave no trace."""
        try:
            with self._history("join") as history:
                if history.position(name).offset == 0:
                    history.forget(name)
        except CommandError:
            pass  # it is remembered a while longer

    @contextmanager
    def _history(self, operation: str) -> Iterator[History]:
        """The history; what fails there is `unavailable` to clients.

        On a full disk reading works, mostly from memory, while appending does not.
        """
        try:
            yield self._history_of_rooms
        except HistoryError as error:
            if operation not in self._failing:
                self._failing.add(operation)
                logger.error("the history fails (%s), clients are told so: %s", operation, error)
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                "The server cannot store messages at the moment; try again soon."
                if operation == "append"
                else "The server cannot read its messages at the moment; try again soon.",
                temporary=True,
            ) from None
        if operation in self._failing:
            self._failing.discard(operation)
            logger.info("the history works again (%s)", operation)


def _without(
    refused: Mapping[int, CommandError],
    drafts: Sequence[Draft],
    senders: Sequence[tuple[Subscriber, Any]],
) -> tuple[list[Draft], list[tuple[Subscriber, Any]]]:
    """Drafts and their senders but for those refused, who are told."""
    for index, refusal in refused.items():
        subscriber, draft_key = senders[index]
        subscriber.answer(draft_key, refusal)
    kept = [index for index in range(len(drafts)) if index not in refused]
    return [drafts[index] for index in kept], [senders[index] for index in kept]


def _missed(history: History, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
    """What a newcomer has missed, and whether that is all since his position.

    A recovery is whole or it is none, but the newest, as for anybody.
    """
    room, _, since, limit, *_ = entrance
    missed = None if since is None else history.since(room, since, protocol.MAX_HISTORY)
    if missed is not None:
        payloads, too_many = fitting(missed, newest_first=True)
        if not too_many:
            return payloads, True
    newest = history.before(room, None, limit).publications if limit else []
    return fitting(newest, newest_first=True).payloads, False
