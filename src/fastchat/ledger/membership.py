"""Lets members into the rooms of this machine, and out of them.

Theory
------
The ledger decides who is in, and the copy of the room's users follows it (`rosters`). A connection
is counted only when the copy has its user, and when everything for the entry was read. From then on
nothing is awaited until the entry is given away. So it ends where deliveries begin.

While a call waits, its room can be lost, its user removed, and the user's other connection, which
let the new one in without a question to the ledger, can go. This is looked at after the last wait.
A user who was let in for nothing is taken out again.

Calls for one name of one room wait for each other (`lines`). Calls for different names do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.ledger.attendance import Attendance, Entered, Verdict
from fastchat.ledger.counting import Counting
from fastchat.ledger.lines import Lines, line_of
from fastchat.ledger.opening import Opening
from fastchat.ledger.publishing import MAX_BATCH, PATIENCE_S, Publishing
from fastchat.ledger.reconnecting import Reconnecting
from fastchat.ledger.recovery import Recovery
from fastchat.ledger.removing import Removing
from fastchat.ledger.rosters import Rosters
from fastchat.ledger.tasks import Tasks
from fastchat.protocol.options import RoomOptions
from fastchat.protocol.users import subject_of
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.members import Members
from fastchat.rooms.refusals import name_taken, removed, room_closed, unavailable
from fastchat.rooms.restoring import Returning
from fastchat.rooms.subscribers import Subscriber

__all__ = ["Membership"]

#: How long a join waits for what was published in the room before.
FLUSH_S = 0.5


class Membership:
    """The members of `members` that are connected to this machine.

    `options` has those of open rooms that have any.
    """

    def __init__(
        self,
        members: Members,
        attendance: Attendance,
        publishing: Publishing,
        *,
        counting: Counting,
        rosters: Rosters,
        opening: Opening,
        recovery: Recovery,
        removing: Removing,
        reconnecting: Reconnecting,
        options: Mapping[str, RoomOptions],
        tasks: Tasks,
    ) -> None:
        self._members = members
        self._attendance = attendance
        self._publishing = publishing
        self._counting = counting
        self._rosters = rosters
        self._opening = opening
        self._recovery = recovery
        self._removing = removing
        self._reconnecting = reconnecting
        self._options = options
        self._tasks = tasks
        self._lines = Lines()

    # Joining

    async def join(
        self,
        subscriber: Subscriber,
        member: Member,
        entrance: Entrance,
        enter: Callable[[Entry], None],
    ) -> None:
        """Do what `Rooms.join` promises, for a member under the name that the entrance wants."""
        name = entrance.room
        removals = self._removing.under_way(name)
        async with self._lines.wait(line_of(name, member)), self._opening.needed(entrance):
            if removals:  # which began before; the user can be the one who is removed
                await asyncio.wait(removals)
            options = self._options.get(name)
            if options is not None and options.closed and not entrance.moderates:
                raise room_closed()
            has_token = subject_of(entrance.credential) is not None
            while True:
                verdict: Verdict | None = None
                connections = self._reconnecting.connections
                if member.name is not None:
                    member, verdict = await self._admit(name, member, has_token=has_token)
                try:
                    payloads, recovered = await self._read_entry(entrance)
                    # From here on nothing is awaited.
                    if wait_s := self._attendance.removed_s(name, member.user):
                        self._counting.give_up(name, member, gone=True)
                        raise removed(wait_s)
                    is_here = member.name is None or self._counting.connections(name, member)
                    if verdict is None and not is_here:
                        continue  # the connection that had let them in is gone meanwhile
                    self._counting.count_in(subscriber, name, member)
                except BaseException:
                    self._counting.give_up(name, member)
                    raise
                break
            self._reconnecting.say_if_missed(connections, name, member)
            room, position = self._members.rooms[name], self._recovery.position(name)
            online, spectators = len(room.roster), room.spectator_count
            users, options = room.users, self._options.get(name)
            enter(Entry(member, position, payloads, recovered, users, online, spectators, options))

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
            await self._rosters.arrived(name, entered)
        except BaseException:
            self._counting.give_up(name, entered.member)
            raise
        return entered.member, entered.verdict

    async def _read_entry(self, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
        """What an entry has; what was published in this turn too, unless that takes long."""
        if self._publishing.count <= MAX_BATCH:
            await self._publishing.flushed(entrance.room, FLUSH_S)
        return await self._recovery.missed_by_client(entrance)

    # Leaving

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        """Do what `Rooms.leave` promises."""
        async with self._lines.wait(line_of(name, member)):
            await self._publishing.flushed(name)
            left()
            parting = None
            if member is not None:
                parting = self._count_out(subscriber, name, member, gone=True)
            if parting is not None:  # when this returns, the name is free on all machines
                await asyncio.wait([parting], timeout=PATIENCE_S)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        """Do what `Rooms.lose` promises."""
        if line_of(name, member) in self._lines:
            self._tasks.start(self._lose_later(subscriber, name, member))
        else:
            self._count_out(subscriber, name, member, gone=False)

    async def _lose_later(self, subscriber: Subscriber, name: str, member: Member) -> None:
        async with self._lines.wait(line_of(name, member)):
            self._count_out(subscriber, name, member, gone=False)

    def _count_out(
        self, subscriber: Subscriber, name: str, member: Member, *, gone: bool
    ) -> asyncio.Future[None] | None:
        """Count a connection out; returns what ends when the ledger knows that it was the last."""
        parting = self._counting.count_out(subscriber, name, member, gone=gone)
        self._opening.close_if_unused(name)
        return parting

    # Processes that come back

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        """Do what `Rooms.restore` promises."""
        name, since, members, _ = returning
        connections = self._reconnecting.connections
        await asyncio.sleep(0)
        entered: list[Entered] = []
        try:
            async with self._opening.needed(Entrance(name, None, "", since, 0)):
                entered = await self._enter_again(
                    name, [member for member, _ in members if member.name is not None]
                )
                for each in entered:
                    await self._rosters.arrived(name, each)
                missed = await self._recovery.missed_by_process(name, since)
                if missed is None:
                    raise unavailable()
                # From here on nothing is awaited.
                if members:
                    self._count_again(subscriber, returning, gathering=gathering)
                for member, _ in members:
                    self._reconnecting.say_if_missed(connections, name, member)
                for publication in missed:
                    payloads = (protocol.encode(publication),)
                    subscriber.deliver(name, publication.offset, payloads, None)
        except CommandError:
            for each in entered:
                self._counting.give_up(name, each.member)
            return False
        return True

    async def _enter_again(self, name: str, members: Sequence[Member]) -> list[Entered]:
        """Enter users who were in a room already. Raises CommandError, and then nobody is in."""
        entering = [self._attendance.enter(name, member, again=True) for member in members]
        results = await asyncio.gather(*entering, return_exceptions=True)
        entered = [each for each in results if isinstance(each, Entered) and each.is_in]
        if len(entered) < len(members):
            for each in entered:
                self._counting.give_up(name, each.member)
            raise unavailable()
        return entered

    def _count_again(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> None:
        """Count the members of a process that comes back: all of them, or none if this raises."""
        name, _, members, known = returning
        for member, _ in members:
            if member.name is not None:
                self._counting.user(name, member.name)
        if gathering:
            # After a crash of PostgreSQL, another machine can be about to say them again.
            self._rosters.expect(name, known or ())
        for member, count in members:
            self._counting.count_in(subscriber, name, member, count)
        for user in {member.user for member, _ in members}:
            if seconds := self._attendance.removed_s(name, user):
                subscriber.expel(name, user, int(seconds))
        self._members.catch_up(name, subscriber, None if known is None else list(known))
