"""The rooms of several machines, as one of them sees them.

Theory
------
The ledger numbers publications, gives out names, and says who is where. A machine has the newest
part of the streams of those rooms in which it has members (`following`), and a copy of their users
(`rosters`). `opening` opens such rooms, and `membership` lets members into them and out of them.

What is published is committed in one batch after the other (`publishing`). It is delivered here as
soon as it is committed, and told to the other machines (`deliveries`).

If the ledger may lack what somebody has seen, or if a stream cannot be continued, the room is lost:
its members have to come back by themselves, and recover what there is. After each connection to the
ledger, the machine says its users again (`reconnecting`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import orjson

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.history.users import UserIds
from fastchat.ledger import LedgerError
from fastchat.ledger.administering import SharedAdministration
from fastchat.ledger.appending import Limits, State, Target
from fastchat.ledger.attendance import Attendance, Event, Expelled, Times
from fastchat.ledger.counting import Counting
from fastchat.ledger.deliveries import Deliveries
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.membership import Membership
from fastchat.ledger.notes import PREFIX
from fastchat.ledger.notices import Deleted, Lifted, Notice, Notices, Optioned
from fastchat.ledger.opening import Opening
from fastchat.ledger.options import OptionCopies
from fastchat.ledger.pages import SharedPages
from fastchat.ledger.publishing import Publishing
from fastchat.ledger.reading import Reader
from fastchat.ledger.reconnecting import Reconnecting
from fastchat.ledger.recovery import Recovery
from fastchat.ledger.removing import Removing
from fastchat.ledger.reports import Reports
from fastchat.ledger.rosters import Rosters
from fastchat.ledger.search import Search
from fastchat.ledger.session import Session
from fastchat.ledger.tasks import Tasks
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import EngineUrl
from fastchat.limits.rooms import RoomLimits
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Message, Publication
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entrance, Entry, Member, Occupancy, Removal
from fastchat.rooms.members import Members
from fastchat.rooms.removals import ALL_ROOMS
from fastchat.rooms.restoring import Returning
from fastchat.rooms.rules import RoomRules
from fastchat.rooms.sending_away import SendingAway
from fastchat.rooms.subscribers import Subscriber

__all__ = ["SharedRooms"]

logger = logging.getLogger("fastchat.ledger")

#: After this time without an answer to a beat, the machine counts as cut off from the ledger.
UNREADY_S = 3.0
#: The first character of the notification of an event that need not arrive, such as typing.
_TOLD = "t"


class SharedRooms:
    """All rooms on the ledger at `url`. Implements `fastchat.rooms.contract.Rooms`.

    Clients are sent away after `patience_s` seconds without the ledger; None if somebody else sees
    to that. `share` says which ledger it is of several, and `rooms_elsewhere` how many rooms of the
    others count against the limit of rooms.
    """

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
        patience_s: float | None = 30.0,
        settings_digest: str = "",
        gather_s: float = 0.0,
        share: Share | None = None,
        rooms_elsewhere: Callable[[], int] = lambda: 0,
    ) -> None:
        self._place = url.place
        self._session = session = Session(url, machine, boot, self, witness, share)
        reader = Reader(session.fetch, lambda: session.identity)
        times = times or Times()
        self._members = members = Members(clock=clock)
        self._limits = limits
        self._failures = 0  # of commits, as the metrics have them
        self._metrics = metrics
        self._user_of_credential = user_of
        self._user_ids: UserIds | None = None
        self._token: str | None = None
        self._tasks = Tasks()
        self._ticking: asyncio.Task[None] | None = None
        self._attendance = attendance = Attendance(session, times)
        self._counting = counting = Counting(members, attendance)
        self._options = OptionCopies(self._tell_options)
        self._rules = RoomRules(clock)
        self._erasures: dict[str, int] = {}  # the last one that members of each room heard of
        self._notices = Notices(session, self._tasks, take=self._take_notice, lose=self._lose_rooms)
        self._deliveries = Deliveries(
            session,
            reader,
            members.rooms,
            metrics,
            lost=self._lose_room,
            delivered=self._note_delivered,
        )
        self._following = self._deliveries.following
        self._publishing = Publishing(
            session,
            reader,
            room_limits,
            known=self._state,
            committed=self._deliveries.committed,
            answered=self._deliveries.answer,
        )
        self._rosters = Rosters(
            attendance,
            members,
            counting,
            options=self._options,
            told=self._deliveries.end_turn,
            say_again=self._say_again,
            grace_s=times.grace,
        )
        self._reconnecting = Reconnecting(
            attendance,
            counting,
            self._rosters,
            self._tasks,
            expel=self._expel,
            lose=self._lose_room,
            gather_s=gather_s,
        )
        self._opening = Opening(
            members,
            self._following,
            self._rosters,
            reader,
            limits=limits,
            rooms_elsewhere=rooms_elsewhere,
            close=self._forget,
        )
        self._removing = Removing(attendance, self._publishing)
        self._membership = Membership(
            members,
            attendance,
            self._publishing,
            counting=counting,
            rosters=self._rosters,
            opening=self._opening,
            recovery=Recovery(self._following, reader),
            removing=self._removing,
            reconnecting=self._reconnecting,
            options=self._options.in_use,
            tasks=self._tasks,
        )
        self._reports = Reports(session, machine, settings_digest)
        self._upkeep = Upkeep(session, clock=clock, max_age_s=max_age_s, metrics=metrics)
        self._sending_away = None if patience_s is None else SendingAway(patience_s, "the ledger")
        #: Implements `fastchat.rooms.contract.Pages`.
        self.administration = SharedAdministration(
            session, reader, attendance, self._publishing, self._following, self._notices
        )
        self.pages = SharedPages(reader, self._following, Search(session.helping))

    async def open(self, *, again: bool = False) -> None:
        """Connect to the ledger. Raises LedgerError or SettingError, but see `Session.open`."""
        await self._session.open(again=again)

    async def close(self) -> None:
        await self._publishing.flushed(None)
        await self._publishing.close()
        self._following.close()
        await self._attendance.close()
        self._tasks.cancel()
        if self._ticking is not None:
            self._ticking.cancel()
        await self._session.close()

    # For operators

    @property
    def occupancy(self) -> Occupancy:
        return self._members.occupancy._replace(absent=self._counting.absent_count)

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

    @property
    def silent_s(self) -> float:
        """The seconds since the ledger has answered a beat."""
        return self._session.health.silent_s

    @property
    def is_lost(self) -> bool:
        """Whether this process will never use the ledger again."""
        return self._session.end is not None

    @property
    def subscribers(self) -> Collection[Subscriber]:
        """The processes with members in these rooms."""
        return self._counting.subscribers

    def gauges(self) -> dict[str, Any]:
        """What operators want to know of the ledger, by the keys of `fastchat.ops.prometheus`.

        What is about the ledger has its place as another key.
        """
        health, following = self._session.health, self._following
        gauges = {
            "engine_up": int(self._session.is_connected and health.silent_s <= UNREADY_S),
            "engine_faults": self.fault,
            "engine_beat_s": health.beat_s,
            "engine_skew_s": health.skew_s,
            "engine_queue_usage": health.queue_usage,
            "engine_reconnects_total": health.reconnects_total,
            "engine_tokens_total": health.tokens_total,
            "engine_doubts": dict(health.doubts),
            "engine_waiting": self._publishing.count,
            "engine_gaps_total": following.gaps_total,
            "engine_reads_total": following.reads_total,
        }
        return {
            **{key: {self._place: value} for key, value in gauges.items()},
            "machines": self._reports.count,
            "machine_reports": self._reports.all,
        }

    def report(self, counters: Mapping[str, Any]) -> None:
        """Tell the other machines of this one's counters, soon. They must be JSON."""
        self._reports.own = counters

    # Publishing

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        if self._options.in_use:
            self.publish_all(subscriber, (draft_key,), (draft,))
            return
        sender = subscriber, draft_key
        refused = self._limits and self._limits.charge((draft,), self._members.rooms)
        if refused:
            self._deliveries.answer(sender, refused[0])
        else:
            self._publishing.publish(sender, draft)

    def publish_all(
        self, subscriber: Subscriber, draft_keys: Sequence[Any], drafts: Sequence[Draft]
    ) -> None:
        refused: Mapping[int, CommandError] = {}
        if self._options.in_use and (refused := self._rules.check(drafts, self._options.in_use)):
            for index, refusal in refused.items():
                self._deliveries.answer((subscriber, draft_keys[index]), refusal)
            kept = [index for index in range(len(drafts)) if index not in refused]
            drafts = [drafts[index] for index in kept]
            draft_keys = [draft_keys[index] for index in kept]
            refused = {}
        if self._limits is not None:
            refused = self._limits.charge(drafts, self._members.rooms)
        for index, (draft_key, draft) in enumerate(zip(draft_keys, drafts, strict=True)):
            sender = subscriber, draft_key
            if index in refused:
                self._deliveries.answer(sender, refused[index])
            else:
                self._publishing.publish(sender, draft)

    def _state(self, target: Target) -> State | None:
        stream = self._following.get(target[0])
        return None if stream is None else stream.state(target[1])

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        self._announce(name, payload, but=subscriber)
        note = orjson.dumps([self._session.machine, name, payload.decode()]).decode()
        self._session.tell([_TOLD + note])

    def _announce(self, name: str, payload: bytes, *, but: Subscriber | None = None) -> None:
        room = self._members.rooms.get(name)
        for subscriber in room.subscribers if room is not None else ():
            if subscriber is not but:
                subscriber.announce(name, payload)

    # Members

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        member = Member(entrance.name, self._user_of(entrance.credential))
        await self._membership.join(subscriber, member, entrance, enter)

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        await self._membership.leave(subscriber, name, member, left)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        self._membership.lose(subscriber, name, member)

    async def remove(self, removal: Removal) -> Member:
        return await self._removing.remove(removal)

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        return await self._membership.restore(subscriber, returning, gathering=gathering)

    def _user_of(self, credential: str) -> str:
        if self._user_of_credential is not None:
            return self._user_of_credential(credential)
        if self._user_ids is None:
            self._user_ids = UserIds(self._session.identity.user_key)
        return self._user_ids.user_of(credential)

    # What the ledger tells

    def connected(self) -> None:
        token = self._session.identity.token
        is_other = self._token not in (None, token)
        self._token = token
        self._user_ids = None
        self._notices.connected()
        self._attendance.connected()
        self._publishing.connected()
        for name in self._opening.names:
            if is_other or self._opening.is_opening(name):
                self._lose_room(name)  # what was read until now can be out of date
        self._rosters.connected()
        self._following.connected()
        self._reconnecting.connected(self._opening.names)

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
        if isinstance(event, Expelled):
            self._expel(event)
        elif isinstance(event, Notice):
            if self._notices.is_new(event):
                self._on_notice(event)
        else:
            self._rosters.heard(event)

    def _say_again(self, name: str, member: Member) -> None:
        self._reconnecting.say(name, member)

    def _expel(self, event: Expelled) -> None:
        if event.room == ALL_ROOMS:
            for name, room in tuple(self._members.rooms.items()):
                if room.roster.find_all(event.user) or event.user in room.spectators:
                    self._expel(event._replace(room=name))
            return
        found = self._members.rooms.get(event.room)
        if found is None:
            return
        for user in found.roster.find_all(event.user):
            user.expelled = bool(user.connections)
        for subscriber in tuple(found.subscribers):
            subscriber.expel(event.room, event.user, int(event.seconds))

    # What backends and operators have decided

    def _take_notice(self, line: str) -> None:
        self.heard(f"c\n{line}")

    def _on_notice(self, notice: Notice) -> None:
        name = notice.room
        if isinstance(notice, Optioned):
            self._options.take(name, notice.options, notice.serial)
        elif isinstance(notice, Lifted):
            self._attendance.lifted(notice)
        elif isinstance(notice, Deleted):
            self._attendance.deleted(name)
            self._tell_members(name, protocol.room_deleted(name))
            self._lose_room(name)
        else:
            user, erasure = notice.said
            self._following.erase(name, user)
            if self._erasures.get(name) != erasure and name in self._members.rooms:
                self._erasures[name] = erasure
                self._tell_members(name, protocol.user_erased(name, user))

    def _tell_options(self, name: str, options: RoomOptions) -> None:
        self._tell_members(name, protocol.room_changed(name, options))

    def _note_delivered(self, name: str, publications: Sequence[Publication]) -> None:
        options = self._options.in_use.get(name)
        if options is not None and options.slow_s:
            for each in publications:
                if isinstance(each, Message):
                    self._rules.note(name, each.user, options.slow_s)

    def _tell_members(self, name: str, payload: bytes) -> None:
        self._announce(name, payload)
        if (room := self._members.rooms.get(name)) is not None:
            self._deliveries.end_turn(room.subscribers)

    def _lose_rooms(self) -> None:
        for name in self._opening.names:
            self._lose_room(name)

    def _lose_room(self, name: str) -> None:
        """Have the members of a room come back by themselves."""
        room = self._members.rooms.get(name)
        self._counting.forget(name)  # `Subscriber.lost` promises that nobody is counted any more
        for subscriber in tuple(room.subscribers) if room is not None else ():
            subscriber.lost(name)
            self._deliveries.end_turn((subscriber,))
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._deliveries.forget(name)
        self._opening.forget(name)
        self._erasures.pop(name, None)
        self._reconnecting.forget(name)
        self._following.unfollow(name)
        self._counting.forget(name)
        self._rosters.forget(name)

    # Time

    def tick(self) -> None:
        if self._limits is not None:
            self._limits.sweep()
        self._rules.sweep()
        self._members.tick()
        if self._session.is_connected:
            self._rosters.remove_missing()
        self._publishing.tick()
        self._metrics.failed_commits_total += self._publishing.failures_total - self._failures
        self._failures = self._publishing.failures_total
        self._send_away()
        if self._ticking is None and self._session.is_connected:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def _send_away(self) -> None:
        """Have some members come back, perhaps to another machine, if the ledger stays away."""
        if self._sending_away is None:
            return
        share = self._sending_away.share(self.silent_s, is_lost=self.is_lost)
        for subscriber in self.subscribers if share else ():
            subscriber.send_away(share)

    async def _tick(self) -> None:
        try:
            await self._reconnecting.tick()
            for event in await self._attendance.tick():
                self._expel(event)
            self._rosters.watch()
            await self._notices.tick()
            await self._upkeep.tick()
            await self._reports.tick()
        except LedgerError as error:
            logger.debug("a tick has failed: %s", error)
        finally:
            self._ticking = None
