"""The copies that a machine has of the users of rooms.

Theory
------
A copy begins with a roster that is read. Afterwards it changes only by what the ledger tells all
machines, in its order, and so do the events that members get: a join is answered when the machine
hears that its own user came (`arrived`). So all machines tell their members the same.

What is heard while the roster is read is kept, and applied afterwards. `RosterCopy` leaves out what
the roster had already.

After a crash of PostgreSQL, the ledger lacks users whom their machines are about to say again. Such
users are missing: they stay in the copy for the time in which a lost user can come back, and leave
it if no machine has said them by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from fastchat.ledger import LedgerError
from fastchat.ledger.attendance import (
    Attendance,
    Came,
    Entered,
    Left,
    People,
    RosterCopy,
    Watched,
)
from fastchat.ledger.counting import Counting
from fastchat.ledger.options import OptionCopies
from fastchat.ledger.publishing import PATIENCE_S
from fastchat.protocol.names import name_key
from fastchat.rooms import Member
from fastchat.rooms.members import Members
from fastchat.rooms.subscribers import Subscriber

__all__ = ["Rosters"]


class _Copy:
    """The copy of one room's users.

    `users` are the users as the ledger has them. `spectators` are the connections that it knows of.
    `early` has what was heard since the roster has begun to be read, and is None if it is not being
    read. `arrivals` are those who wait for a user, by the key of the user's name.
    """

    __slots__ = ("arrivals", "early", "spectators", "users")

    def __init__(self) -> None:
        self.users = RosterCopy()
        self.spectators = 0
        self.early: list[Came | Left | Watched] | None = []
        self.arrivals: dict[str, list[asyncio.Future[None]]] = {}


class Rosters:
    """The copies of all open rooms, which this class writes to `members`.

    * `options` are those of the same rooms, which are read with the users.
    * `told` is called with the processes that were told of a change.
    * `say_again` is called with a user who has a connection to this machine, although the ledger
      says that they have left: the other machines hold this one for dead.
    * `grace_s`: how long a missing user stays.
    """

    def __init__(
        self,
        attendance: Attendance,
        members: Members,
        counting: Counting,
        *,
        options: OptionCopies,
        told: Callable[[Iterable[Subscriber]], None],
        say_again: Callable[[str, Member], None],
        grace_s: float,
    ) -> None:
        self._attendance = attendance
        self._members = members
        self._counting = counting
        self._options = options
        self._told = told
        self._say_again = say_again
        self._grace_s = grace_s
        self._copies: dict[str, _Copy] = {}
        #: The missing users, by room and key, and until when they stay.
        self._missing: dict[tuple[str, str], float] = {}

    def __contains__(self, name: str) -> bool:
        """Whether there is a copy of a room's users."""
        return name in self._copies

    def open(self, name: str) -> None:
        """Begin the copy of a room, which is empty until `read` has ended."""
        self._members.open(name)
        self._options.open(name)
        self._copies[name] = _Copy()

    def forget(self, name: str) -> None:
        self._copies.pop(name, None)
        self._options.forget(name)
        self._members.forget(name)

    def connected(self) -> None:
        """Keep what is heard from now on, because serials can begin anew; each room is to be read.

        A read that has begun before has no effect.
        """
        for copy in self._copies.values():
            copy.early = []

    async def read(self, name: str) -> None:
        """Read the users of a room, and the number of its spectators. Raises LedgerError.

        Then the copy stays as it was, but for what was heard meanwhile.
        """
        copy = self._copies[name]
        early: list[Came | Left | Watched] = []
        copy.early = early
        people: People | None = None
        try:
            people = await self._attendance.people(name)
        finally:
            # Otherwise the room is lost, or its users are being read anew.
            if self._copies.get(name) is copy and copy.early is early:
                if people is not None:
                    self._load(name, copy, people)
                copy.early = None
                for event in early:
                    self._take_in(name, copy, event)
                for key in tuple(copy.arrivals):  # of users who can be in the roster
                    _wake(copy, key)

    def _load(self, name: str, copy: _Copy, people: People) -> None:
        """Take over the users of a room, and the connections of its spectators, that were read."""
        roster = people.roster
        for each in roster:
            self._add(name, Member(each.name, each.user))
        present = {each.key: each.user for each in roster}
        gone_s = asyncio.get_running_loop().time() + self._grace_s
        for user in self._members.rooms[name].roster:
            if present.get(user.key) != user.id:
                self._missing.setdefault((name, user.key), gone_s)
        copy.spectators = people.total
        self._watch(name, copy)
        copy.users.load(roster)
        self._options.take(name, people.options, people.serial)

    # What is heard

    def heard(self, event: Came | Left | Watched) -> None:
        """Take in what the ledger tells of a room, or keep it while the room is read."""
        copy = self._copies.get(event.room)
        if copy is None:
            return
        if copy.early is not None:
            copy.early.append(event)
        else:
            self._take_in(event.room, copy, event)

    def _take_in(self, name: str, copy: _Copy, event: Came | Left | Watched) -> None:
        if isinstance(event, Watched):
            # If a newer number was read, its notification is still to come.
            copy.spectators = event.connections
            self._attendance.count_own(event)
            self._watch(name, copy)
        else:
            self._apply(name, copy, event)

    def _watch(self, name: str, copy: _Copy) -> None:
        """Take over the number of spectators on all machines."""
        self._members.watch(name, copy.spectators + self._attendance.unsaid(name))

    def _apply(self, name: str, copy: _Copy, event: Came | Left) -> None:
        self._counting.end_absence(name, event.key)
        if not copy.users.apply(event):
            return
        member = Member(event.name, event.user)
        if isinstance(event, Came):
            self._add(name, member)
            _wake(copy, event.key)
        else:
            found = self._members.rooms[name].roster.find(event.name)
            if found is not None:
                self._members.remove(name, found)
            if self._counting.connections(name, member):
                self._say_again(name, member)
        if subscribers := self._members.rooms[name].subscribers:
            self._told(subscribers)

    def _add(self, name: str, member: Member) -> None:
        """Add a user to this machine's copy, and tell its members, unless the user is there."""
        assert member.name is not None
        self._missing.pop((name, name_key(member.name)), None)
        found = self._members.rooms[name].roster.find(member.name)
        if found is not None and found.id == member.user and found.name == member.name:
            return
        if found is not None:
            self._members.remove(name, found)
        user = self._members.add(name, member)
        user.connections = self._counting.connections(name, member)

    async def arrived(self, name: str, entered: Entered) -> None:
        """Wait until this machine hears that a user is in a room.

        Raises LedgerError if that takes longer than `PATIENCE_S`, or if the room is lost.
        """
        assert entered.member.name is not None
        key = name_key(entered.member.name)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (copy := self._copies.get(name)) is not None:
                    found = copy.users.find(key)
                    if found is not None and found.serial >= entered.serial:
                        user = self._members.rooms[name].roster.find(entered.member.name)
                        if user is not None and user.id == entered.member.user:
                            return
                    arrival = asyncio.get_running_loop().create_future()
                    copy.arrivals.setdefault(key, []).append(arrival)
                    await arrival
        except TimeoutError:
            pass
        raise LedgerError("a user who has come was not heard of")

    # Time

    def expect(self, name: str, known: Iterable[Member]) -> None:
        """Keep users for a moment whom a process knows, although the ledger does not have them."""
        gone_s = asyncio.get_running_loop().time() + self._grace_s
        for member in known:
            if member.name is None or self._members.rooms[name].roster.find(member.name):
                continue
            self._members.add(name, member)
            self._missing.setdefault((name, name_key(member.name)), gone_s)

    def remove_missing(self) -> None:
        """Remove the users whom no machine has said again in time."""
        now = asyncio.get_running_loop().time()
        for (name, key), gone_s in tuple(self._missing.items()):
            if gone_s > now:
                continue
            del self._missing[name, key]
            copy, room = self._copies.get(name), self._members.rooms.get(name)
            if copy is None or room is None or copy.users.find(key) is not None:
                continue
            for user in tuple(room.roster):
                if user.key == key:
                    self._members.remove(name, user)

    def watch(self) -> None:
        """Count the spectators on this machine of whom the ledger was not told yet."""
        for name, copy in self._copies.items():
            if copy.early is None:
                self._watch(name, copy)


def _wake(copy: _Copy, key: str) -> None:
    """Have those look again who wait until a user has come."""
    for arrival in copy.arrivals.pop(key, ()):
        if not arrival.done():
            arrival.set_result(None)
