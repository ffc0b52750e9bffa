"""Which users are in which rooms, over all machines: names, presence, removals and spectators.

Theory
------
The ledger decides: `enter_1` gives a name to one user, and `part_1` and `sweep_1` say when that
user has left. A machine says only that a user's first connection to it has come, and that the last
one has gone.

What happened is told to all machines in the order of the commits. Every machine, the one that has
caused it too, applies it when its notification arrives (`events_of`), and never when a call
returns: a join and a leave by two machines would otherwise arrive in two orders. A roster that was
read can be ahead of the notifications. So each change of a room and key has a serial, and
`RosterCopy` leaves out what is older than what it has. Serials are compared for one room and key
only, and not across a new connection: after a crash of the server they can begin anew.

When a machine has connected, all its users are away, as if their connections had been lost. It has
to enter all of them again (`again`) and to call `settle`. A user who is entered in time was never
away for the others. If the server has crashed, nobody else can get a free name before the machines
have done so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.gathering import MANY_ROOMS, ROOMS_AT_ONCE, Gathering, Pace
from fastchat.ledger.notices import Deleted, Erased, Lifted, Notice, Optioned
from fastchat.ledger.rows import escaped, unescaped
from fastchat.ledger.session import Session
from fastchat.protocol.names import name_key
from fastchat.rooms import Member, Removal
from fastchat.rooms.presence import Roster
from fastchat.rooms.removals import ALL_ROOMS

__all__ = [
    "Attendance",
    "Came",
    "Entered",
    "Event",
    "Expelled",
    "Left",
    "People",
    "Present",
    "RosterCopy",
    "Times",
    "Verdict",
    "Watched",
    "events_of",
]

logger = logging.getLogger("fastchat.ledger")

#: Users that one call enters or takes out. The ledger takes some 10 ms for so many.
CALLED_AT_ONCE = 256
#: How many users who come or go within `PACE_S` are very many.
MANY_USERS = 50
#: Absences that one step of the sweep ends.
SWEPT_AT_ONCE = 500
#: The time after which a newcomer asks again whether the machines have said their users.
WAIT_S = 0.1
#: How long a removal can be heard later than that it was lifted.
LIFTED_S = 60.0
#: How often a call is made that the ledger has ended because others were in the way.
_ATTEMPTS = 5
#: Deadlock, and serialisation failure.
_ROLLED_BACK = frozenset(("40P01", "40001"))
#: Before the removals were read for the first time.
_UNREAD = -1
#: Verdicts of `enter_1` after which the caller asks again.
_HAS_NAMES, _GATHERING = 4, 5

_ENTER = """
SELECT n, verdict, name, seconds, serial
FROM enter_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_PART = "SELECT part_1($1, $2, $3, $4, $5, $6, $7, $8)"
_SPECTATE = "SELECT spectate_1($1, $2, $3, $4, $5, $6, $7)"
_SWEEP = "SELECT removal, ended FROM sweep_1($1, $2, $3, $4, $5, $6)"
_SETTLE = "SELECT said_1($1, $2, $3)"
_REMOVE = 'SELECT name, "user", serial FROM remove_1($1, $2, $3, $4, $5)'
_EXPEL = "SELECT expel_1($1, $2, $3, $4, $5, $6, $7)"
_BAN = "SELECT serial, rooms FROM ban_1($1, $2, $3, $4)"
_LIFT = "SELECT is_lifted, line FROM lift_1($1, $2, $3)"
_CONNECTIONS = "SELECT connections_1($1, $2, $3, $4, $5, $6)"
_PEOPLE = """
SELECT u.n, coalesce(a.total, 0), CASE WHEN a.total IS NULL THEN 0 ELSE (
    SELECT coalesce(sum(connections), 0) FROM spectators s WHERE s.room = u.room AND s.machine = $2
) END, o.value, o.serial, r.key, r.name, r."user", r.serial, r.is_away
FROM unnest($1::text[]) WITH ORDINALITY AS u(room, n)
LEFT JOIN audiences a ON a.room = u.room
LEFT JOIN options o ON o.room = u.room
LEFT JOIN LATERAL roster_1(u.room) r ON true
ORDER BY u.n, r.serial
"""
_REMOVALS = """
SELECT room, "user", greatest(0, extract(epoch FROM until - clock_timestamp()))::float8, serial
FROM removals WHERE serial > $1 AND ($1 >= 0 OR until > clock_timestamp()) ORDER BY serial
"""


class Verdict(IntEnum):
    """What the ledger says of a user who enters a room. The numbers are those of `enter_1`."""

    HERE = 0  #: the user was here, or away for a moment
    CAME = 1  #: the others hear that the user has come
    TAKEN = 2  #: another user has the name
    REMOVED = 3  #: a moderator has removed the user


class Entered(NamedTuple):
    """The answer to `Attendance.enter`. `member` has the name that the user has in the room.

    `wait_s` is the time after which a user who was refused can try again, in seconds; None if the
    user who has the name is connected. `serial` is that of the notification that the user has come.
    """

    verdict: Verdict
    member: Member
    wait_s: float | None = None
    serial: int = 0

    @property
    def is_in(self) -> bool:
        return self.verdict in (Verdict.HERE, Verdict.CAME)


class Present(NamedTuple):
    """A user in a room. `is_away` says that all their connections were lost a moment ago."""

    key: str
    name: str
    user: str
    serial: int
    is_away: bool = False


class Came(NamedTuple):
    """A user has come into a room."""

    room: str
    key: str
    name: str
    user: str
    serial: int


class Left(NamedTuple):
    """A user has left a room."""

    room: str
    key: str
    name: str
    user: str
    serial: int


class Watched(NamedTuple):
    """The spectators of a room have so many connections, on all machines.

    The machine of this number has caused the change, and `own` of them are its own.
    """

    room: str
    connections: int
    machine: int = 0
    own: int = 0


class Expelled(NamedTuple):
    """A user was removed from a room for so many seconds; with 0 they can come back.

    The room is `removals.ALL_ROOMS` if the user must leave all of them.
    """

    room: str
    user: str
    seconds: float
    serial: int


Event = Came | Left | Watched | Expelled | Notice

_EVENTS: Mapping[str, Callable[..., Event]] = {
    "+": Came,
    "-": Left,
    "s": Watched,
    "x": Expelled,
    "o": Optioned,
    "d": Deleted,
    "e": Erased,
    "u": Lifted,
}


def events_of(payload: str) -> list[Event]:
    """The events of a notification, in their order; none if it is of another kind.

    Events that only a newer version knows are left out.
    """
    if not payload.startswith("c\n"):
        return []
    lines = (orjson.loads(line) for line in payload.split("\n")[1:])
    return [
        _EVENTS[kind](*(unescaped(each) if isinstance(each, str) else each for each in values))
        for kind, *values in lines
        if kind in _EVENTS
    ]


class RosterCopy:
    """The users of a room, from a roster that was read, and from notifications in their order."""

    def __init__(self) -> None:
        self._users: dict[str, Present] = {}

    def find(self, key: str) -> Present | None:
        """The user with a name of this key; None if there is none."""
        return self._users.get(key)

    @property
    def users(self) -> list[Present]:
        return list(self._users.values())

    def load(self, roster: Sequence[Present]) -> None:
        """Begin with a roster. Notifications must have been kept since before it was read."""
        self._users = {each.key: each for each in roster}

    def apply(self, event: Came | Left) -> bool:
        """Apply a notification; returns whether it was newer than what the copy has."""
        known = self._users.get(event.key)
        if isinstance(event, Left):
            if known is None or known.serial > event.serial:
                return False
            del self._users[event.key]
            return True
        if known is not None and known.serial >= event.serial:
            return False
        self._users.pop(event.key, None)
        self._users[event.key] = Present(*event[1:])
        return True


class Times(NamedTuple):
    """Times in seconds, which must be the same on all machines.

    A user whose connections were lost can come back for `grace`; the sweep adds up to a second. A
    machine that does not beat for `silent` loses its users. After a crash of the server, newcomers
    wait `gather` at most for what the machines say.
    """

    grace: float = 5.0
    silent: float = 6.0
    gather: float = 2.0


#: The verdict, the name, the time to wait, and the serial.
_Answer = tuple[int, str, float | None, int]


class _Enter(NamedTuple):
    room: str
    key: str
    name: str
    user: str
    single: bool
    again: bool
    done: asyncio.Future[_Answer]


class _Part(NamedTuple):
    room: str
    key: str
    user: str
    gone: bool
    done: asyncio.Future[None]


class People(NamedTuple):
    """The users of a room, in the order in which they came, and its options with their serial.

    `total` counts the connections of spectators, as far as they were said, and `own` this
    machine's.
    """

    roster: list[Present]
    total: int
    own: int
    options: Mapping[str, Any]
    serial: int


class Attendance:
    """The users of one machine, as it says them to the ledger, in the running loop.

    One call is under way at a time. What is asked meanwhile goes into the next call, so calls grow
    under load. The order of the calls for one room and name is kept.

    A method that raises LedgerError can have had its effect or not. The owner need not find out
    which: the session either makes new connections, after which all users are said again, or the
    ledger has refused and nothing has happened. A `part` that was refused is done by a later
    `tick`, unless the user enters before. If the task of a caller is cancelled, the call goes on: a
    caller of `enter` then has to call `part`.
    """

    def __init__(self, session: Session, times: Times | None = None) -> None:
        self._session = session
        self._times = times or Times()
        self._waiting: list[_Enter | _Part] = []
        self._refused: dict[tuple[str, str], _Part] = {}  # by room and key
        self._caller: asyncio.Task[None] | None = None
        self._pace = Pace(MANY_USERS, CALLED_AT_ONCE)
        self._people = Gathering(self._read_people, most=ROOMS_AT_ONCE, busy=MANY_ROOMS)
        # The users with more than one connection, by room and key, and those to be said.
        self._connections: dict[tuple[str, str], int] = {}
        self._uncounted: dict[tuple[str, str], None] = {}
        # The spectators of each room, and the rooms for which the ledger has not been told yet.
        self._spectators: dict[str, Mapping[str, int]] = {}
        self._changed: dict[str, None] = {}
        # The own connections in the total of each room that was heard or read last.
        self._said: dict[str, int] = {}
        # Removals: the token of the ledger that they are of; the serial up to which all were read;
        # the newer ones that were heard; until when, by the loop's clock, users must stay out.
        self._token = ""
        self._read = _UNREAD
        self._heard: set[int] = set()
        self._removed: dict[tuple[str, str], float] = {}
        # Removals up to these serials do not count any more, and since when.
        self._lifted: dict[tuple[str, str], tuple[int, float]] = {}

    async def close(self) -> None:
        """End the call that is under way, and those that wait; callers get a LedgerError."""
        if self._caller is not None:
            self._caller.cancel()
            await asyncio.gather(self._caller, return_exceptions=True)
        _fail(self._waiting, LedgerError("the session is closed"))
        self._waiting = []

    def connected(self) -> None:
        """The session has connected: all users of this machine are away until they enter again."""
        self._refused.clear()
        self._changed = dict.fromkeys(self._spectators | self._changed)
        self._uncounted |= dict.fromkeys(self._connections)
        if self._session.identity.token != self._token:
            self._token = self._session.identity.token
            self._read = _UNREAD
            self._heard.clear()
            self._removed.clear()
            self._lifted.clear()

    async def settle(self) -> None:
        """Say that all users were entered again. Raises LedgerError."""
        await self._session.call(_SETTLE)

    # Users

    async def enter(
        self, room: str, member: Member, *, has_token: bool = False, again: bool = False
    ) -> Entered:
        """Let a user be in a room, whose connection to this machine is the first one there.

        A user with a token gets another name if another user has theirs, and has one name in all
        connections (`Roster.find_own`). `again` says that the user was here before this machine has
        connected. Raises LedgerError.
        """
        wanted, user = member
        assert wanted is not None
        name, single = wanted, has_token
        while True:
            verdict, name, wait_s, serial = await self._ask(
                room, name, user, single=single, again=again
            )
            if verdict == _GATHERING:
                await asyncio.sleep(WAIT_S)
            elif verdict == _HAS_NAMES:
                # `name` has the names of the user in the room.
                roster, single = _roster_of((each, user) for each in orjson.loads(name)), False
                own = roster.find_own(wanted, user)
                name = wanted if own is None else own.name
            elif verdict == Verdict.TAKEN and has_token:
                present = await self.roster(room)
                roster, single = _roster_of((each.name, each.user) for each in present), False
                own = roster.find_own(wanted, user)
                name = roster.free_name(wanted) if own is None else own.name
            else:
                break
        entered = Entered(Verdict(verdict), Member(name, user), wait_s, serial)
        left_s = self.removed_s(room, user)
        if entered.is_in and left_s:
            # The removal was stored after the ledger has looked, and its notification has come
            # before the answer.
            await self.part(room, entered.member, gone=True)
            return Entered(Verdict.REMOVED, entered.member, left_s)
        return entered

    def part(self, room: str, member: Member, *, gone: bool) -> asyncio.Future[None]:
        """Take a user out of a room, whose last connection to this machine has ended.

        The call has its place in the order before this returns; the result is when it has ended.

        If the connection was lost, and is not `gone`, the user has the usual time to come back.
        Nothing happens if the user is not there. Raises LedgerError.
        """
        name, user = member
        assert name is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = escaped(name_key(name))
        self._put(_Part(escaped(room), key, escaped(user), gone, done))
        return done

    async def _ask(self, room: str, name: str, user: str, *, single: bool, again: bool) -> _Answer:
        done: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        key = escaped(name_key(name))
        self._put(_Enter(escaped(room), key, escaped(name), escaped(user), single, again, done))
        return await done

    def _put(self, asked: _Enter | _Part) -> None:
        self._refused.pop((asked.room, asked.key), None)
        self._waiting.append(asked)
        self._pace.note(len(self._waiting))
        if self._caller is None or self._caller.done():
            self._caller = asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        while self._waiting:
            await self._pace.wait(len(self._waiting))
            batch, self._waiting = _next_batch(self._waiting)
            try:
                await self._retry(batch)
            except asyncio.CancelledError:
                _fail(batch, LedgerError("the session is closed"))
                raise
            except Exception as error:  # the callers handle it
                for each in batch:
                    if isinstance(each, _Part):
                        self._refused[each.room, each.key] = each
                for asked in self._waiting:  # for the same users
                    self._refused.pop((asked.room, asked.key), None)
                _fail(batch, error)

    async def _retry(self, batch: Sequence[_Enter | _Part]) -> None:
        """Make a call again if the ledger has ended it because others were in the way."""
        for attempt in range(_ATTEMPTS):
            try:
                if isinstance(batch[0], _Enter):
                    await self._enter([each for each in batch if isinstance(each, _Enter)])
                else:
                    await self._part([each for each in batch if isinstance(each, _Part)])
            except NotCommittedError as error:
                if error.code not in _ROLLED_BACK or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    async def _enter(self, batch: Sequence[_Enter]) -> None:
        columns = [list(column) for column in zip(*(each[:6] for each in batch), strict=True)]
        rows = await self._session.call(_ENTER, *columns, self._times.gather)
        for place, verdict, name, seconds, serial in rows:
            _succeed(batch[place - 1].done, (verdict, unescaped(name), seconds, serial or 0))

    async def _part(self, batch: Sequence[_Part]) -> None:
        columns = [list(column) for column in zip(*(each[:4] for each in batch), strict=True)]
        await self._session.call(_PART, *columns, self._times.grace)
        for each in batch:
            _succeed(each.done, None)

    # Removals

    def removed_s(self, room: str, user: str) -> float:
        """The seconds for which a user must still stay out, as far as this machine knows."""
        if not self._removed:
            return 0.0
        here, everywhere = (self._removed.get((each, user), 0.0) for each in (room, ALL_ROOMS))
        return max(0.0, max(here, everywhere) - asyncio.get_running_loop().time())

    async def remove(self, removal: Removal) -> Member | None:
        """Keep a user out of a room; returns the user, or None if they are not in the room.

        The removal is stored safely before all machines are told, this one too (`Expelled`). Then
        each machine closes its connections of the user and parts. If that cannot be told now, each
        machine finds it in its next `tick`. Raises LedgerError: the removal can be in force then.
        """
        room, user, username, seconds, _ = removal
        rows = await self._session.store(
            _REMOVE,
            escaped(room),
            None if user is None else escaped(user),
            None if username is None else escaped(name_key(username)),
            float(seconds),
        )
        if not rows:
            return None
        ((name, found, serial),) = rows
        await self._expel(Expelled(room, unescaped(found), float(seconds), serial))
        return Member(None if name is None else unescaped(name), unescaped(found))

    async def keep_out(self, room: str, user: str, seconds: float) -> int:
        """Do what `remove` does with a user who need not be here, also for `ALL_ROOMS`.

        Returns in how many rooms the user was.
        """
        rows = await self._session.store(_BAN, escaped(room), escaped(user), float(seconds))
        ((serial, rooms),) = rows
        removal = Expelled(room, user, float(seconds), serial)
        self._keep_out(removal)
        await self._expel(removal)
        return int(rooms)

    async def _expel(self, removal: Expelled) -> None:
        room, user, seconds, serial = removal
        try:
            await self._session.call(_EXPEL, escaped(room), escaped(user), seconds, serial)
        except LedgerError as error:
            logger.warning("machines find out later that a user was removed: %s", error)

    async def lift(self, room: str, user: str) -> tuple[bool, str | None]:
        """Lift a removal; returns whether it was in force, and the notice, if there was one.

        Raises LedgerError.
        """
        ((is_lifted, line),) = await self._session.store(_LIFT, escaped(room), escaped(user))
        return is_lifted, line

    def lifted(self, notice: Lifted) -> None:
        """Take in that a removal was lifted. One that was made before can be heard later."""
        who = notice.room, notice.user
        self._lifted[who] = notice.serial, asyncio.get_running_loop().time()
        self._removed.pop(who, None)

    def deleted(self, room: str) -> None:
        """Take in that a room was deleted, with its removals."""
        for who in [who for who in self._removed if who[0] == room]:
            del self._removed[who]

    def heard(self, payload: str) -> list[Event]:
        """The events of a notification, in their order; each notification must be given here."""
        events = events_of(payload)
        for event in events:
            if isinstance(event, Expelled):
                self._heard.add(event.serial)
                self._keep_out(event)
            elif isinstance(event, Watched):
                self.count_own(event)
        return events

    def count_own(self, event: Watched) -> None:
        """Take over how many of a room's spectators are this machine's own, if an event says so.

        It is to be called again for what was heard while the room was read (`people`).
        """
        if event.machine == self._session.machine:
            self._count_own(event.room, event.own)

    def _keep_out(self, removal: Expelled) -> None:
        who = removal.room, removal.user
        if removal.seconds and self._lifted.get(who, (0, 0.0))[0] < removal.serial:
            self._removed[who] = asyncio.get_running_loop().time() + removal.seconds

    async def _missed(self, newest: int) -> list[Expelled]:
        """The removals that were not heard of, up to the newest one in the ledger."""
        now = asyncio.get_running_loop().time()
        self._removed = {who: until for who, until in self._removed.items() if until > now}
        lifted = self._lifted.items()
        self._lifted = {who: (serial, at) for who, (serial, at) in lifted if at + LIFTED_S > now}
        if newest <= self._read:
            return []
        rows = await self._session.fetch(_REMOVALS, self._read)
        found = [Expelled(unescaped(row[0]), unescaped(row[1]), row[2], row[3]) for row in rows]
        missed = [each for each in found if each.serial not in self._heard]
        for each in missed:
            self._keep_out(each)
        self._read = max([newest, *(each.serial for each in found)])
        self._heard = {serial for serial in self._heard if serial > self._read}
        return missed

    # Spectators, and what only time brings about

    def spectate(self, room: str, connections: Mapping[str, int]) -> None:
        """Note the spectators of a room on this machine, by public id; `tick` says them."""
        self._spectators[room] = dict(connections)
        self._changed[room] = None

    def unsaid(self, room: str) -> int:
        """By how many connections the total of a room's spectators is too small, which was heard
        or read last."""
        return sum(self._spectators.get(room, {}).values()) - self._said.get(room, 0)

    def _count_own(self, room: str, own: int) -> None:
        if own:
            self._said[room] = own
        else:
            self._said.pop(room, None)

    async def tick(self) -> list[Expelled]:
        """Say which spectators have changed, and look for users who are away for too long.

        It is to be called once a second, on every machine. It returns the removals that this
        machine has not heard of. Raises LedgerError; the next call then does what is left.
        """
        await self._part_refused()
        await self.say_spectators()
        await self.say_connections()
        ended = SWEPT_AT_ONCE
        while ended == SWEPT_AT_ONCE:
            ((newest, ended),) = await self._session.call(
                _SWEEP, self._times.silent, self._times.grace, SWEPT_AT_ONCE
            )
        return await self._missed(newest)

    async def _part_refused(self) -> None:
        calls = []
        for each in tuple(self._refused.values()):
            asked = each._replace(done=asyncio.get_running_loop().create_future())
            self._put(asked)
            calls.append(asked.done)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def say_spectators(self) -> None:
        """Say which spectators have changed since the last call. Raises LedgerError."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        rows = [
            (escaped(room), escaped(user), connections)
            for room in changed
            for user, connections in self._spectators[room].items()
        ]
        columns = list(zip(*rows, strict=True)) if rows else ((), (), ())
        try:
            await self._session.call(_SPECTATE, list(map(escaped, changed)), *map(list, columns))
        except LedgerError:
            self._changed = changed | self._changed
            raise
        for room in changed.keys() - self._changed.keys():
            if not self._spectators[room]:
                del self._spectators[room]

    def count(self, room: str, member: Member, connections: int) -> None:
        """Note how many connections a user has to this machine; `tick` says it."""
        assert member.name is not None
        place = escaped(room), escaped(name_key(member.name))
        if connections > 1:
            self._connections[place] = connections
        elif self._connections.pop(place, None) is None:
            return  # the ledger counts one
        self._uncounted[place] = None

    async def say_connections(self) -> None:
        """Say which numbers of connections have changed. Raises LedgerError."""
        while self._uncounted:
            places = list(self._uncounted)[:CALLED_AT_ONCE]
            numbers = [self._connections.get(place, 1) for place in places]
            for place in places:
                del self._uncounted[place]
            try:
                await self._session.call(
                    _CONNECTIONS, *map(list, zip(*places, strict=True)), numbers
                )
            except LedgerError:
                self._uncounted |= dict.fromkeys(places)
                raise

    # Reading

    async def people(self, room: str) -> People:
        """Who is in a room, and its options. Raises LedgerError."""
        people = await self._people.get(room)
        self._count_own(room, people.own)
        return people

    async def roster(self, room: str) -> Sequence[Present]:
        """The users of a room, in the order in which they came. Raises LedgerError."""
        return (await self._people.get(room)).roster

    async def _read_people(self, rooms: Sequence[str]) -> dict[str, People]:
        rows = await self._session.fetch(_PEOPLE, list(map(escaped, rooms)), self._session.machine)
        found: dict[str, People] = {}
        for number, total, own, options, changed, key, name, user, serial, is_away in rows:
            room = rooms[number - 1]
            if (people := found.get(room)) is None:
                values = {} if options is None else orjson.loads(options)
                people = found[room] = People([], int(total), int(own), values, changed or 0)
            if key is not None:
                people.roster.append(
                    Present(unescaped(key), unescaped(name), unescaped(user), serial, is_away)
                )
        return found


def _roster_of(members: Any) -> Roster:
    roster = Roster()
    for name, user in members:
        roster.add(name, user)
    return roster


def _next_batch(
    waiting: Sequence[_Enter | _Part],
) -> tuple[list[_Enter | _Part], list[_Enter | _Part]]:
    """The next call, and what is left. It overtakes nothing of the same room and key."""
    kind = type(waiting[0])
    batch: list[_Enter | _Part] = []
    left: list[_Enter | _Part] = []
    passed: set[tuple[str, str]] = set()
    for index, each in enumerate(waiting):
        if len(batch) == CALLED_AT_ONCE:
            left += waiting[index:]
            break
        place = each.room, each.key
        if isinstance(each, kind) and place not in passed:
            batch.append(each)
        else:
            left.append(each)
            passed.add(place)
    return batch, left


def _succeed(done: asyncio.Future[Any], result: Any) -> None:
    if not done.done():
        done.set_result(result)


def _fail(batch: Sequence[_Enter | _Part], error: Exception) -> None:
    for each in batch:
        if not each.done.done():
            each.done.set_exception(error)
