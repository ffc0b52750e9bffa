"""The rooms of several machines, as one of them sees them.

Theory
------
The ledger numbers publications, gives out names, and says who is where. A machine has the newest
part of the streams of those rooms in which it has members (`following`), and a copy of their users.
The copy changes only by what the ledger tells all machines, in its order, and so do events about
users: a join is answered when the machine hears that its own user came. So all machines tell their
members the same.

What is published is committed in one batch after the other (`publishing`). It is delivered here as
soon as it is committed, and told to the other machines.

Calls for one name of one room wait for each other. Calls for different names do not.

If the ledger may lack what somebody has seen, or if a stream cannot be continued, the room is lost:
its members have to come back by themselves, and recover what there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import orjson

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.history import Duplicate, Page
from fastchat.history.users import UserIds
from fastchat.ledger import LedgerError
from fastchat.ledger.appending import Committed, Limits, State, Target
from fastchat.ledger.attendance import (
    Attendance,
    Came,
    Entered,
    Event,
    Expelled,
    Left,
    Present,
    RosterCopy,
    Times,
    Verdict,
    Watched,
)
from fastchat.ledger.following import Following
from fastchat.ledger.identity import Witness
from fastchat.ledger.lines import Lines
from fastchat.ledger.notes import PREFIX, notes_of
from fastchat.ledger.pages import SharedPages
from fastchat.ledger.publishing import MAX_BATCH, PATIENCE_S, Publishing
from fastchat.ledger.reading import Reader
from fastchat.ledger.reports import Reports
from fastchat.ledger.search import Search
from fastchat.ledger.session import Session
from fastchat.ledger.streams import Stream
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import EngineUrl
from fastchat.limits.rooms import RoomLimits
from fastchat.metrics import Metrics
from fastchat.protocol import MAX_HISTORY, Draft, Position, Publication
from fastchat.protocol.names import DEFAULT_ROOM, name_key
from fastchat.protocol.users import subject_of
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.members import Members
from fastchat.rooms.messages import truncated
from fastchat.rooms.presence import User
from fastchat.rooms.refusals import looks_alike, name_taken, not_here, removed, unavailable
from fastchat.rooms.restoring import MAX_RESUMED, Returning
from fastchat.rooms.sending_away import SendingAway
from fastchat.rooms.subscribers import MAX_RUN, Subscriber, deliver_run

__all__ = ["SharedRooms"]

logger = logging.getLogger("fastchat.ledger")
moderation = logging.getLogger("fastchat.moderation")

#: How long a join waits for what was published in the room before.
FLUSH_S = 0.5
#: After this time without an answer to a beat, the machine counts as cut off from the ledger.
UNREADY_S = 3.0
#: Rooms whose users are read again at once, in statements of several rooms.
_READ_AT_ONCE = 200
#: Attempts to read the end of a room while it changes.
_ATTEMPTS = 5
#: The first character of the notification of an event that need not arrive, such as typing.
_TOLD = "t"
#: The sender of what another machine has published.
_ELSEWHERE = (None, None)


class _Origin(NamedTuple):
    """Where a draft came from."""

    subscriber: Subscriber
    draft_key: Any


class _Shared:
    """What a machine has of a room beside its stream and its users.

    `calls` are under way, and need the room. `early` has what was heard while the roster is read.
    `spectators` are the connections that the ledger knows of. `absent` are the keys of users whose
    last connection to this machine was lost.
    """

    __slots__ = ("absent", "arrivals", "calls", "copy", "early", "opening", "spectators")

    def __init__(self, opening: asyncio.Task[None]) -> None:
        self.opening = opening
        self.copy = RosterCopy()
        self.calls = 0
        self.early: list[Came | Left | Watched] | None = []
        self.arrivals: dict[str, list[asyncio.Future[None]]] = {}
        self.spectators = 0
        self.absent: set[str] = set()


class SharedRooms:
    """All rooms on the ledger at `url`. Implements `fastchat.rooms.contract.Rooms`."""

    def __init__(
        self,
        url: EngineUrl,
        machine: str,
        boot: str,
        witness: Witness,
        *,
        room_limits: Limits,
        clock: Callable[[], float],
        metrics: Metrics,
        limits: RoomLimits | None = None,
        user_of: Callable[[str], str] | None = None,
        times: Times | None = None,
        max_age_s: float = 0.0,
        patience_s: float = 30.0,
        settings_digest: str = "",
        gather_s: float = 0.0,
    ) -> None:
        self._session = session = Session(url, machine, boot, self, witness)
        self._reader = Reader(session.fetch, lambda: session.identity)
        self._search = Search(session.helping)
        self._times = times or Times()
        self._attendance = Attendance(session, self._times)
        self._reports = Reports(session, machine, settings_digest)
        self._upkeep = Upkeep(session, clock=clock, max_age_s=max_age_s, metrics=metrics)
        self._sending_away = SendingAway(patience_s, "the ledger")
        self._following = Following(
            self._reader,
            deliver=self._deliver,
            lost=self._lose_room,
            machine=lambda: session.machine,
        )
        self._publishing = Publishing(
            session,
            self._reader,
            room_limits,
            known=self._state,
            committed=self._on_committed,
            answered=self._on_answered,
        )
        self._members = Members(clock=clock)
        self._limits = limits
        self._metrics = metrics
        self._user_of_credential = user_of
        self._user_ids: UserIds | None = None
        self._shared: dict[str, _Shared] = {}
        #: The members of each subscriber in each room, with the number of their connections.
        self._counted: dict[Subscriber, dict[str, Counter[Member]]] = {}
        self._lines = Lines()  # by room and key
        #: Users who are in the copy and not in the ledger, by room and key, and until when.
        self._missing: dict[tuple[str, str], float] = {}
        self._removals: dict[str, list[asyncio.Future[None]]] = {}  # under way, by room
        self._own: dict[tuple[str, int], _Origin] = {}  # committed, and not delivered yet
        self._told: set[Subscriber] = set()  # and their turn has not ended
        self._token: str | None = None
        #: Users of this machine whom the ledger has to be told of, and rooms whose users are to be
        #: read, since the last connection; and whether it knows that nobody is missing.
        self._unsaid: dict[tuple[str, Member], None] = {}
        self._unread: dict[str, None] = {}
        self._coming_back = asyncio.Lock()
        self._connections = 0
        self._gather_s = gather_s
        self._settling_s = 0.0  # before this time, by the loop's clock, nobody says so
        self._is_settled = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticking: asyncio.Task[None] | None = None
        #: Implements `fastchat.rooms.contract.Pages`.
        self.pages = SharedPages(self._reader, self._following, self._search)

    async def open(self, *, again: bool = False) -> None:
        """Connect to the ledger. Raises LedgerError or SettingError, but see `Session.open`."""
        await self._session.open(again=again)

    async def close(self) -> None:
        await self._flush(None)
        await self._publishing.close()
        self._following.close()
        await self._attendance.close()
        for task in (*self._tasks, self._ticking):
            if task is not None:
                task.cancel()
        await self._session.close()

    # For operators

    @property
    def room_count(self) -> int:
        return len(self._members.rooms)

    @property
    def user_count(self) -> int:
        return self._members.user_count

    @property
    def spectator_count(self) -> int:
        return self._members.spectator_count

    @property
    def absent_count(self) -> int:
        """Those whose last connection to this machine was lost."""
        return sum(len(shared.absent) for shared in self._shared.values())

    @property
    def fault(self) -> str | None:
        if self._session.end is not None:
            return str(self._session.end)
        health = self._session.health
        if health.silent_s > UNREADY_S:
            why = f" ({health.failure})" if health.failure else ""
            return f"PostgreSQL has not answered for {health.silent_s:.0f} s{why}"
        return self._publishing.fault

    @property
    def is_away(self) -> bool:
        return False

    def gauges(self) -> dict[str, Any]:
        """What operators want to know of the ledger, by the keys of `fastchat.ops.prometheus`."""
        health, following = self._session.health, self._following
        return {
            "engine_up": int(self._session.is_connected and health.silent_s <= UNREADY_S),
            "engine_beat_s": health.beat_s,
            "engine_skew_s": health.skew_s,
            "engine_queue_usage": health.queue_usage,
            "engine_reconnects_total": health.reconnects_total,
            "engine_tokens_total": health.tokens_total,
            "engine_doubts": dict(health.doubts),
            "engine_waiting": self._publishing.count,
            "engine_gaps_total": following.gaps_total,
            "engine_reads_total": following.reads_total,
            "machines": self._reports.count,
            "machine_reports": self._reports.all,
        }

    def report(self, counters: Mapping[str, Any]) -> None:
        """Tell the other machines of this one's counters, soon. They must be JSON."""
        self._reports.own = counters

    # Publishing

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        self.publish_all(subscriber, (draft_key,), (draft,))

    def publish_all(
        self, subscriber: Subscriber, draft_keys: Sequence[Any], drafts: Sequence[Draft]
    ) -> None:
        refused: Mapping[int, CommandError] = {}
        if self._limits is not None:
            refused = self._limits.charge(drafts, self._members.rooms)
        for index, (draft_key, draft) in enumerate(zip(draft_keys, drafts, strict=True)):
            if index in refused:
                self._soon(subscriber.answer, draft_key, refused[index])
            else:
                self._publishing.publish(_Origin(subscriber, draft_key), draft)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        asyncio.get_running_loop().call_soon(call, *arguments)

    def _state(self, target: Target) -> State | None:
        stream = self._following.get(target[0])
        return None if stream is None else stream.state(target[1])

    def _on_committed(
        self, rooms: Mapping[str, tuple[Committed, Sequence[Any]]], seconds: float
    ) -> None:
        runs = {room: committed.publications for room, (committed, _) in rooms.items()}
        for room, (committed, origins) in rooms.items():
            for publication, origin in zip(committed.publications, origins, strict=True):
                if origin is not None:
                    self._own[room, publication.offset] = origin
            self._following.offer(room, committed.publications)
            stream = self._following.get(room)
            for publication in committed.publications:
                # Nobody here follows the room, or a read has been faster than the commit's answer.
                if stream is None or publication.offset <= stream.head:
                    origin = self._own.pop((room, publication.offset), None)
                    if origin is not None:
                        self._kept(origin, publication.offset)
        session = self._session
        session.tell(notes_of(session.identity.token, session.machine, session.last_commit, runs))
        self._metrics.committed(sum(map(len, runs.values())), seconds)

    def _on_answered(self, origin: _Origin, outcome: Duplicate | CommandError) -> None:
        self._soon(origin.subscriber.answer, origin.draft_key, outcome)
        self._end_turn((origin.subscriber,))

    def _kept(self, origin: _Origin, offset: int) -> None:
        origin.subscriber.kept(origin.draft_key, offset)
        self._end_turn((origin.subscriber,))

    def _end_turn(self, told: Iterable[Subscriber]) -> None:
        """Report the end of the turn, once, to subscribers that were told something."""
        if not self._told:
            self._soon(self._report_end)
        self._told.update(told)

    def _report_end(self) -> None:
        told, self._told = self._told, set()
        for subscriber in told:
            subscriber.end_turn()

    def _deliver(self, stream: Stream, publications: Sequence[Publication]) -> None:
        name = stream.room
        room = self._members.rooms.get(name)
        subscribers = tuple(room.subscribers) if room is not None else ()
        told = set(subscribers)
        for start in range(0, len(publications), MAX_RUN):
            run = publications[start : start + MAX_RUN]
            senders = [self._own.pop((name, each.offset), _ELSEWHERE) for each in run]
            told.update(origin for origin, _ in senders if origin is not None)
            deliver_run(subscribers, run, senders)
        if told:
            self._end_turn(told)

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        self._announce(name, payload, but=subscriber)
        note = orjson.dumps([self._session.machine, name, payload.decode()]).decode()
        self._session.tell([_TOLD + note])

    def _announce(self, name: str, payload: bytes, *, but: Subscriber | None = None) -> None:
        room = self._members.rooms.get(name)
        for subscriber in room.subscribers if room is not None else ():
            if subscriber is not but:
                subscriber.announce(name, payload)

    # Joining and leaving

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        member = Member(entrance.name, self._user_of(entrance.credential))
        name = entrance.room
        removals = tuple(self._removals.get(name, ()))
        async with self._lines.wait((name, _key_of(member))), self._needed(entrance):
            if removals:  # which began before; the user can be the one who is removed
                await asyncio.wait(removals)
            has_token = subject_of(entrance.credential) is not None
            while True:
                verdict: Verdict | None = None
                connections = self._connections
                if member.name is not None:
                    member, verdict = await self._admit(name, member, has_token=has_token)
                try:
                    payloads, recovered = await self._read_entry(entrance)
                    # From here on nothing is awaited.
                    if wait_s := self._attendance.removed_s(name, member.user):
                        self._give_up(name, member, gone=True)
                        raise removed(wait_s)
                    if verdict is None and not self._is_connected(name, member):
                        continue  # the connection that had let them in is gone meanwhile
                    self._count_in(subscriber, name, member)
                except BaseException:
                    self._give_up(name, member)
                    raise
                break
            self._say_if_missed(connections, name, member)
            room, position = self._members.rooms[name], self._stream(name).position
            online, spectators = len(room.roster), room.spectator_count
            enter(Entry(member, position, payloads, recovered, room.users, online, spectators))

    async def _read_entry(self, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
        """What an entry has; what was published in this turn too, unless that takes long."""
        if self._publishing.count <= MAX_BATCH:
            await self._flush(entrance.room, FLUSH_S)
        return await self._missed(entrance)

    def _is_connected(self, name: str, member: Member) -> bool:
        """Whether a user has a connection to this machine. A spectator needs no other one."""
        return member.name is None or bool(self._user(name, member.name).connections)

    def _give_up(self, name: str, member: Member, *, gone: bool = False) -> None:
        """Take out a user who was let in for a connection that has come to nothing.

        The client can try again at once, so the user has the usual time to come back, unless they
        are `gone`.
        """
        if member.name is not None and not self._is_here(name, member):
            self._part(name, member, gone=gone)

    def _user_of(self, credential: str) -> str:
        if self._user_of_credential is not None:
            return self._user_of_credential(credential)
        if self._user_ids is None:
            self._user_ids = UserIds(self._session.identity.user_key)
        return self._user_ids.user_of(credential)

    @asynccontextmanager
    async def _needed(self, entrance: Entrance) -> AsyncIterator[None]:
        """Have the room of an entrance open during the block.

        Raises CommandError: `unavailable`, also for a LedgerError of the block, or a refusal to
        create the room.
        """
        name = entrance.room
        shared = self._shared.get(name)
        if shared is None:
            opening = asyncio.get_running_loop().create_task(self._open(name))
            shared = self._shared[name] = _Shared(opening)
        shared.calls += 1
        try:
            await asyncio.wait([shared.opening])
            if shared.opening.cancelled() or self._shared.get(name) is not shared:
                raise LedgerError("the room is lost")
            shared.opening.result()
            if not self._members.rooms[name].subscribers:
                await self._check_new(entrance)
            yield
        except LedgerError as error:
            logger.debug("a call in room %r has failed: %s", name, error)
            raise unavailable() from error
        finally:
            shared.calls -= 1
            self._close_if_unused(name)

    async def _open(self, name: str) -> None:
        """Follow a room, and read its users."""
        shared = self._shared[name]
        self._members.open(name)
        await self._following.follow(name)
        await self._read_roster(name, shared)

    async def _read_roster(self, name: str, shared: _Shared) -> None:
        early: list[Came | Left | Watched] = []
        shared.early = early
        roster: Sequence[Present] = ()
        spectators: int | None = None
        try:
            roster, spectators = await self._attendance.people(name)
        finally:
            # Otherwise the room is lost, or its users are being read anew.
            if self._shared.get(name) is shared and shared.early is early:
                if spectators is not None:
                    self._load(name, shared, roster, spectators)
                # If nothing was read, what is heard is applied to the users as they were.
                shared.early = None
                for event in early:
                    self._take_in(name, shared, event)
                for key in tuple(shared.arrivals):  # of users who can be in the roster
                    self._wake(shared, key)

    def _load(self, name: str, shared: _Shared, roster: Sequence[Present], spectators: int) -> None:
        """Take over the users of a room, and the connections of its spectators, that were read."""
        roster_now = self._members.rooms[name].roster
        for each in roster:
            self._add(name, Member(each.name, each.user))
        present = {each.key: each.user for each in roster}
        gone_s = asyncio.get_running_loop().time() + self._times.grace
        for user in roster_now:
            if present.get(user.key) != user.id:
                # After a crash of the server, another machine can be about to say them again.
                self._missing.setdefault((name, user.key), gone_s)
        shared.spectators = spectators
        self._watch(name, shared)
        shared.copy.load(roster)

    async def _check_new(self, entrance: Entrance) -> None:
        """Refuse to create a room that exceeds a limit, or whose name looks like another's."""
        name = entrance.room
        room = self._members.rooms[name]
        if len(room.roster) or room.spectator_count:
            return
        if self._limits is not None:
            self._limits.check_new_room(entrance.address, len(self._members.rooms) - 1)
        if name.isascii():
            return
        stored = await self._reader.find_alike(name)
        if stored == name:
            return
        looks_default = name_key(name) == name_key(DEFAULT_ROOM)
        if stored is not None or looks_default or self._members.has_lookalike(name):
            raise looks_alike()

    def _close_if_unused(self, name: str) -> None:
        shared, room = self._shared.get(name), self._members.rooms.get(name)
        if shared is None or shared.calls or (room is not None and room.subscribers):
            return
        self._forget(name)

    async def _admit(
        self, name: str, member: Member, *, has_token: bool
    ) -> tuple[Member, Verdict | None]:
        """Let a member into a room; returns them with the name that they have there.

        The verdict is that of the ledger. It was not asked, and is None, if the user has a
        connection to this machine. Raises CommandError.
        """
        assert member.name is not None
        roster = self._members.rooms[name].roster
        own = roster.find_own(member.name, member.user) if has_token else roster.find(member.name)
        if own is not None and own.id == member.user and own.connections:
            return own.member, None
        entered = await self._attendance.enter(name, member, has_token=has_token)
        if entered.verdict is Verdict.TAKEN:
            raise name_taken(entered.wait_s)
        if entered.verdict is Verdict.REMOVED:
            raise removed(entered.wait_s or 0.0)
        try:
            await self._arrived(name, entered)
        except BaseException:
            self._give_up(name, entered.member)
            raise
        return entered.member, entered.verdict

    async def _arrived(self, name: str, entered: Entered) -> None:
        """Wait until this machine hears that a user is in a room."""
        assert entered.member.name is not None
        key = name_key(entered.member.name)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (shared := self._shared.get(name)) is not None:
                    found = shared.copy.find(key)
                    if found is not None and found.serial >= entered.serial:
                        user = self._members.rooms[name].roster.find(entered.member.name)
                        if user is not None and user.id == entered.member.user:
                            return
                    arrival = asyncio.get_running_loop().create_future()
                    shared.arrivals.setdefault(key, []).append(arrival)
                    await arrival
        except TimeoutError:
            pass
        raise LedgerError("a user who has come was not heard of")

    async def _missed(self, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
        """What a client has missed, and whether that is all; nothing may be awaited afterwards."""
        name, _, _, since, limit, *_ = entrance
        page = Page([], False)
        for _ in range(_ATTEMPTS):
            stream = self._stream(name)
            if since is not None and stream.has(since.offset):
                missed = stream.since(since, MAX_HISTORY)
                if missed is not None:
                    payloads, too_many = truncated(missed, newest_first=True)
                    if not too_many:
                        return payloads, True
            found = stream.before(None, limit) if limit else page
            if found is not None:
                return truncated(found.publications, newest_first=True).payloads, False
            head = stream.head
            page = await self._reader.before(name, None, limit)
            if self._stream(name).head == head:
                break
        return truncated(page.publications, newest_first=True).payloads, False

    def _stream(self, name: str) -> Stream:
        stream = self._following.get(name)
        if stream is None:
            raise LedgerError("the room is lost")
        return stream

    def _count_in(self, subscriber: Subscriber, name: str, member: Member, count: int = 1) -> None:
        user = None if member.name is None else self._user(name, member.name)
        counted = self._counted.setdefault(subscriber, {}).setdefault(name, Counter())
        counted[member] += count
        if user is None:
            self._members.count_spectator_in(name, member.user, subscriber, count)
            self._spectate(name)
        else:
            self._shared[name].absent.discard(user.key)
            self._members.count_in(name, user, subscriber, count)

    def _user(self, name: str, username: str) -> User:
        room = self._members.rooms.get(name)
        user = None if room is None else room.roster.find(username)
        if user is None:
            raise LedgerError("the room was lost meanwhile")
        return user

    def _count_out(
        self, subscriber: Subscriber, name: str, member: Member, *, gone: bool
    ) -> asyncio.Future[None] | None:
        """Count a connection out; returns what ends when the ledger knows that it was the last."""
        counted = self._counted.get(subscriber, {}).get(name)
        if counted is None or not counted[member]:
            return None  # the room was lost
        counted[member] -= 1
        if not counted[member]:
            del counted[member]
        room = self._members.rooms[name]
        parting = None
        if member.name is None:
            self._members.count_spectator_out(name, member.user, subscriber)
            self._spectate(name)
        else:
            room.count(subscriber, -1)
            user = room.roster.find(member.name)
            is_own = user is not None and user.id == member.user
            if user is not None and is_own:
                user.connections -= 1
            if user is None or not is_own or not user.connections:
                is_expelled = user is not None and is_own and user.expelled
                parting = self._part(name, member, gone=gone or is_expelled)
        if not counted:
            self._forget_counts(subscriber, name)
        self._close_if_unused(name)
        return parting

    def _forget_counts(self, subscriber: Subscriber, name: str) -> None:
        counts = self._counted[subscriber]
        del counts[name]
        if not counts:
            del self._counted[subscriber]

    def _part(self, name: str, member: Member, *, gone: bool) -> asyncio.Future[None]:
        """Take a user out, whose last connection to this machine has ended."""
        if not gone and name in self._shared:
            self._shared[name].absent.add(_key_of(member))
        parting = self._attendance.part(name, member, gone=gone)
        parting.add_done_callback(_note_failure)
        return parting

    def _spectate(self, name: str) -> None:
        room = self._members.rooms.get(name)
        self._attendance.spectate(name, {} if room is None else room.spectators)

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        async with self._lines.wait((name, _key_of(member))):
            await self._flush(name)
            left()
            parting = None
            if member is not None:
                parting = self._count_out(subscriber, name, member, gone=True)
            if parting is not None:  # when this returns, the name is free on all machines
                await asyncio.wait([parting], timeout=PATIENCE_S)

    async def _flush(self, name: str | None, seconds: float = PATIENCE_S) -> None:
        """Wait until what was published in a room has its outcome, but not longer than this.

        If the room is None, this waits for all rooms.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._publishing.flushed(name)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        if (name, _key_of(member)) in self._lines:
            self._start(self._lose_later(subscriber, name, member))
        else:
            self._count_out(subscriber, name, member, gone=False)

    async def _lose_later(self, subscriber: Subscriber, name: str, member: Member) -> None:
        async with self._lines.wait((name, _key_of(member))):
            self._count_out(subscriber, name, member, gone=False)

    async def remove(self, removal: Removal) -> Member:
        name, _, _, seconds, moderator = removal
        ended = asyncio.get_running_loop().create_future()
        self._removals.setdefault(name, []).append(ended)
        try:
            await asyncio.sleep(0)  # the first step can be outside of a task
            await self._flush(name)
            await self._attendance.say_spectators()
            member = await self._attendance.remove(removal)
        except LedgerError as error:
            raise unavailable() from error
        finally:
            ended.set_result(None)
            self._removals[name].remove(ended)
            if not self._removals[name]:
                del self._removals[name]
        if member is None:
            raise not_here()
        moderation.info("%r removed %r (%s) from %s for %d s", moderator, *member, name, seconds)
        return member

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        name, since, members, _ = returning
        entrance = Entrance(name, None, "", since, 0)
        connections = self._connections
        await asyncio.sleep(0)
        entered: list[Entered] = []
        try:
            async with self._needed(entrance):
                entered = await self._enter_again(
                    name, [member for member, _ in members if member.name is not None]
                )
                for each in entered:
                    await self._arrived(name, each)
                missed = await self._missed_by(name, since)
                if missed is None:
                    raise unavailable()
                # From here on nothing is awaited.
                if members:
                    self._count_again(subscriber, returning, gathering=gathering)
                for member, _ in members:
                    self._say_if_missed(connections, name, member)
                for publication in missed:
                    payloads = (protocol.encode(publication),)
                    subscriber.deliver(name, publication.offset, payloads, None)
        except CommandError:
            for each in entered:
                self._give_up(name, each.member)
            return False
        return True

    def _count_again(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> None:
        """Count the members of a process that comes back: all of them, or none if this raises."""
        name, _, members, known = returning
        for member, _ in members:
            if member.name is not None:
                self._user(name, member.name)
        if gathering:
            self._expect(name, known or ())
        for member, count in members:
            self._count_in(subscriber, name, member, count)
        for user in {member.user for member, _ in members}:
            if seconds := self._attendance.removed_s(name, user):
                subscriber.expel(name, user, int(seconds))
        self._members.catch_up(name, subscriber, None if known is None else list(known))

    def _expect(self, name: str, known: Iterable[Member]) -> None:
        """Keep users for a moment whom a process knows, although the ledger does not have them.

        After a crash of PostgreSQL, another machine can be about to say them again.
        """
        gone_s = asyncio.get_running_loop().time() + self._times.grace
        for member in known:
            if member.name is None or self._members.rooms[name].roster.find(member.name):
                continue
            self._members.add(name, member)
            self._missing.setdefault((name, name_key(member.name)), gone_s)

    async def _enter_again(self, name: str, members: Sequence[Member]) -> list[Entered]:
        """Enter users who were in a room already. Raises CommandError, and then nobody is in."""
        entering = [self._attendance.enter(name, member, again=True) for member in members]
        results = await asyncio.gather(*entering, return_exceptions=True)
        entered = [each for each in results if isinstance(each, Entered) and each.is_in]
        if len(entered) < len(members):
            for each in entered:
                self._give_up(name, each.member)
            raise unavailable()
        return entered

    async def _missed_by(self, name: str, since: Position) -> Sequence[Publication] | None:
        """What a process has missed; nothing may be awaited afterwards."""
        stream = self._stream(name)
        if stream.has(since.offset):
            return stream.since(since, MAX_RESUMED)
        found = await self._reader.since(name, since, MAX_RESUMED)
        stream = self._stream(name)
        if not found or not stream.has(found[-1].offset):
            return None
        last = found[-1]
        later = stream.since(Position(stream.epoch, last.offset), MAX_RESUMED)
        return None if later is None else [*found, *later]

    # What the ledger tells

    def connected(self) -> None:
        token = self._session.identity.token
        is_other = self._token not in (None, token)
        self._token = token
        self._user_ids = None
        self._is_settled = False
        self._connections += 1
        self._attendance.connected()
        self._publishing.connected()
        if self._connections == 1:
            # The workers of a new relay have to come back with their users first.
            self._settling_s = asyncio.get_running_loop().time() + self._gather_s
        for name, shared in tuple(self._shared.items()):
            if is_other or not shared.opening.done():
                self._lose_room(name)  # what was read until now can be out of date
            else:
                shared.early = []  # serials can begin anew
        self._following.connected()
        self._unread |= dict.fromkeys(self._shared)
        self._unsaid |= {
            (name, member): None
            for rooms in self._counted.values()
            for name, members in rooms.items()
            for member in members
            if member.name is not None
        }
        self._start(self._come_back())

    def _say_if_missed(self, connections: int, name: str, member: Member) -> None:
        """Have a user said again who was let in before the last connection, and is here since it.

        `connections` is their number at the time when the user was let in.
        """
        if connections != self._connections and member.name is not None:
            self._unsaid[name, member] = None

    async def _come_back(self) -> None:
        """Say the users of this machine again, and read those of others.

        Raises LedgerError; the next tick goes on then.
        """
        async with self._coming_back:
            await self._say_again()
            names = tuple(self._unread)
            for start in range(0, len(names), _READ_AT_ONCE):
                part = names[start : start + _READ_AT_ONCE]
                await asyncio.gather(*map(self._read_again, part))

    async def _read_again(self, name: str) -> None:
        self._unread.pop(name, None)
        if (shared := self._shared.get(name)) is None:
            return
        self._spectate(name)
        try:
            await self._read_roster(name, shared)
        except LedgerError:
            self._unread[name] = None
            raise

    async def _say_again(self) -> None:
        """Say all users at once, because the time in which they have to be said is short."""
        unsaid, self._unsaid = self._unsaid, {}
        here = [(name, member) for name, member in unsaid if self._is_here(name, member)]
        answers = await asyncio.gather(
            *(self._attendance.enter(name, member, again=True) for name, member in here),
            return_exceptions=True,
        )
        failure: BaseException | None = None
        for (name, member), answer in zip(here, answers, strict=True):
            if isinstance(answer, BaseException):
                self._unsaid[name, member] = None
                failure = answer
            elif answer.verdict is Verdict.REMOVED:
                self._expel(Expelled(name, member.user, answer.wait_s or 0.0, 0))
            elif not answer.is_in and self._is_here(name, member):
                self._lose_room(name)
        if failure is not None:
            raise failure

    def _is_here(self, name: str, member: Member) -> bool:
        """Whether a user has a connection to this machine in a room."""
        return any(rooms[name][member] for rooms in self._counted.values() if name in rooms)

    def disconnected(self, why: LedgerError) -> None:
        """Do nothing: the session has logged it, and members are sent away if it lasts."""

    def heard(self, payload: str) -> None:
        if payload.startswith(PREFIX):
            self._following.heard(payload)
            return
        events: list[Event] = []
        try:
            if payload.startswith(_TOLD):
                self._on_told(*orjson.loads(payload.removeprefix(_TOLD)))
            else:
                events = self._attendance.heard(payload)
        except (ValueError, TypeError, AttributeError):
            logger.warning("a notification cannot be read: %.80r", payload)
        for event in events:
            try:
                self._on_event(event)
            except Exception:  # a bug in one room must not stop what is told of others
                logger.exception("internal error in an event of room %r", event.room)
                self._lose_room(event.room)

    def _on_told(self, machine: int, name: str, payload: str) -> None:
        if machine != self._session.machine:
            self._announce(name, payload.encode())

    def beaten(self, machines: Sequence[Sequence[Any]]) -> None:
        self._following.beaten(machines)

    def _on_event(self, event: Event) -> None:
        shared = self._shared.get(event.room)
        if shared is None:
            return
        if isinstance(event, Expelled):
            self._expel(event)
        elif shared.early is not None:
            shared.early.append(event)
        else:
            self._take_in(event.room, shared, event)

    def _take_in(self, name: str, shared: _Shared, event: Came | Left | Watched) -> None:
        if isinstance(event, Watched):
            # If a newer number was read, its notification is still to come.
            shared.spectators = event.connections
            self._attendance.count_own(event)
            self._watch(name, shared)
        else:
            self._apply(name, shared, event)

    def _watch(self, name: str, shared: _Shared) -> None:
        """Take over the number of spectators on all machines."""
        self._members.watch(name, shared.spectators + self._attendance.unsaid(name))

    def _apply(self, name: str, shared: _Shared, event: Came | Left) -> None:
        shared.absent.discard(event.key)
        if not shared.copy.apply(event):
            return
        member = Member(event.name, event.user)
        if isinstance(event, Came):
            self._add(name, member)
            self._wake(shared, event.key)
        else:
            found = self._members.rooms[name].roster.find(event.name)
            if found is not None:
                self._members.remove(name, found)
            if self._is_here(name, member):
                # The others hold this machine for dead.
                self._unsaid[name, member] = None
                self._start(self._come_back())
        if subscribers := self._members.rooms[name].subscribers:
            self._end_turn(subscribers)

    def _wake(self, shared: _Shared, key: str) -> None:
        """Have those look again who wait until a user has come."""
        for arrival in shared.arrivals.pop(key, ()):
            if not arrival.done():
                arrival.set_result(None)

    def _add(self, name: str, member: Member) -> None:
        """Add a user to this machine's copy, and tell its members, unless the user is there."""
        assert member.name is not None
        self._missing.pop((name, name_key(member.name)), None)
        found = self._members.rooms[name].roster.find(member.name)
        if found is not None and found.id == member.user and found.name == member.name:
            return
        if found is not None:
            self._members.remove(name, found)
        self._members.add(name, member).connections = sum(
            rooms[name][member] for rooms in self._counted.values() if name in rooms
        )

    def _remove_missing(self) -> None:
        """Remove the users whom no machine has said again after a loss of the connection."""
        now = asyncio.get_running_loop().time()
        for (name, key), gone_s in tuple(self._missing.items()):
            if gone_s > now or not self._session.is_connected:
                continue
            del self._missing[name, key]
            shared, room = self._shared.get(name), self._members.rooms.get(name)
            if shared is None or room is None or shared.copy.find(key) is not None:
                continue
            for user in tuple(room.roster):
                if user.key == key:
                    self._members.remove(name, user)

    def _expel(self, event: Expelled) -> None:
        room = self._members.rooms.get(event.room)
        if room is None:
            return
        for user in room.roster.find_all(event.user):
            user.expelled = bool(user.connections)
        for subscriber in tuple(room.subscribers):
            subscriber.expel(event.room, event.user, int(event.seconds))

    def _lose_room(self, name: str) -> None:
        """Have the members of a room come back by themselves."""
        room = self._members.rooms.get(name)
        for subscriber in tuple(room.subscribers) if room is not None else ():
            for member in tuple(self._counted.get(subscriber, {}).get(name, ())):
                if member.name is not None:
                    self._part(name, member, gone=False)
            if name in self._counted.get(subscriber, {}):
                self._forget_counts(subscriber, name)
            subscriber.lost(name)
            self._end_turn((subscriber,))
        self._forget(name)

    def _forget(self, name: str) -> None:
        for key in [key for key in self._own if key[0] == name]:
            self._kept(self._own.pop(key), key[1])
        if (shared := self._shared.pop(name, None)) is not None:
            shared.opening.cancel()
        self._unread.pop(name, None)
        self._following.unfollow(name)
        self._members.forget(name)

    # Time

    def tick(self) -> None:
        if self._limits is not None:
            self._limits.sweep()
        self._members.tick()
        self._remove_missing()
        self._publishing.tick()
        self._metrics.failed_commits_total = self._publishing.failures_total
        self._send_away()
        if self._ticking is None and self._session.is_connected:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def _send_away(self) -> None:
        """Have some members come back, perhaps to another machine, if the ledger stays away."""
        is_lost = self._session.end is not None
        share = self._sending_away.share(self._session.health.silent_s, is_lost=is_lost)
        for subscriber in tuple(self._counted) if share else ():
            subscriber.send_away(share)

    async def _tick(self) -> None:
        try:
            if self._unsaid or self._unread:
                await self._come_back()
            if not self._is_settled and asyncio.get_running_loop().time() >= self._settling_s:
                connections = self._connections
                await self._attendance.settle()
                self._is_settled = connections == self._connections
            for event in await self._attendance.tick():
                self._expel(event)
            for name, shared in self._shared.items():
                if shared.early is None:
                    self._watch(name, shared)
            await self._upkeep.tick()
            await self._reports.tick()
        except LedgerError as error:
            logger.debug("a tick has failed: %s", error)
        finally:
            self._ticking = None

    # Tasks

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except LedgerError as error:
            logger.debug("a call of the ledger has failed: %s", error)


def _note_failure(call: asyncio.Future[None]) -> None:
    """If a call has failed, all users of this machine are said again, or it was not needed."""
    if not call.cancelled() and (error := call.exception()) is not None:
        logger.debug("a call of the ledger has failed: %s", error)


def _key_of(member: Member | None) -> str:
    """What calls for the same member have in common. A spectator has no name."""
    if member is None:
        return ""
    return f"\0{member.user}" if member.name is None else name_key(member.name)
