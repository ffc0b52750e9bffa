"""Tests of names and presence over several machines, in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from contracts.history import draft
from fastchat.ledger import LedgerError, NotCommittedError, attendance, session
from fastchat.ledger.appending import Limits
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
    events_of,
)
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.rooms import Member, Removal
from support.ledger import Machine, in_loop, make_ledger, observer, until_in
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S, TIMEOUT_UNIT_S

LIMITS = Limits(stored=10_000, slack=100)
#: Of machines whose users must not leave before the test says so.
PATIENT = Times(grace=600.0, silent=600.0, gather=0.0)
#: Of machines whose users leave with the next step of the sweep.
IMPATIENT = PATIENT._replace(grace=0.0)
ALICE, BOB, EVE = Member("Alice", "g_alice"), Member("Bob", "g_bob"), Member("Eve", "g_eve")


#: Somebody waits for a lock of this connection.
WAITS = "count(*) > 0 FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"


class Place(Machine):
    """A machine with attendance, and with the events that it has heard."""

    def __init__(self, url: EngineUrl, name: str, times: Times = PATIENT) -> None:
        super().__init__(url, LIMITS, name)
        self.attendance = Attendance(self.session, times)
        self.events: list[Event] = []
        self.rosters: dict[str, RosterCopy] = {}
        self._changed = asyncio.Event()
        self.connections = 0

    def connected(self) -> None:
        self.attendance.connected()
        self.connections += 1
        self._changed.set()

    def heard(self, payload: str) -> None:
        super().heard(payload)
        for event in self.attendance.heard(payload):
            self.events.append(event)
            if isinstance(event, (Came, Left)):
                self.rosters.setdefault(event.room, RosterCopy()).apply(event)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def enter(self, member: Member, room: str = "a", **options: bool) -> Entered:
        return await self.attendance.enter(room, member, **options)

    async def lose(self, member: Member, room: str = "a") -> None:
        await self.attendance.part(room, member, gone=False)

    async def leave(self, member: Member, room: str = "a") -> None:
        await self.attendance.part(room, member, gone=True)

    @property
    def changes(self) -> list[str]:
        """The joins and leaves that were heard, such as "+Alice"."""
        return [
            ("+" if isinstance(event, Came) else "-") + event.name
            for event in self.events
            if isinstance(event, (Came, Left))
        ]

    def totals(self, room: str) -> list[int]:
        """The numbers of spectators' connections that were heard of a room."""
        heard = [each for each in self.events if isinstance(each, Watched)]
        return [each.connections for each in heard if each.room == room]

    async def until_changes(self, *changes: str) -> None:
        """Wait until these joins and leaves were heard, and no others before them."""
        await self.until(lambda: len(self.changes) >= len(changes))
        assert self.changes == list(changes)

    async def audience(self, room: str) -> int:
        return (await self.attendance.people(room)).total

    async def names(self, room: str = "a") -> list[str]:
        return [each.name for each in await self.attendance.roster(room)]


@asynccontextmanager
async def places(url: EngineUrl, *names: str, times: Times = PATIENT) -> AsyncIterator[list[Place]]:
    """Machines that are connected, and that have said that they have no users."""
    async with AsyncExitStack() as stack:
        made = [Place(url, name, times) for name in names]
        for place in made:
            await place.session.open()
            stack.push_async_callback(place.session.close)
            stack.push_async_callback(place.attendance.close)
            await place.attendance.settle()
        yield made


@asynccontextmanager
async def ledger_of(server: PostgreSQL) -> AsyncIterator[EngineUrl]:
    yield await make_ledger(parse_url(server.url))


# Names


@in_loop
async def test_name_belongs_to_one_user_on_all_machines(url: EngineUrl) -> None:
    """Another user is refused, also with a name that looks alike, until the first one has left."""
    async with places(url, "one", "two") as (one, two):
        assert (await one.enter(ALICE))[:2] == (Verdict.CAME, ALICE)
        thief = Member("aIice", "g_thief")
        assert await two.enter(thief) == Entered(Verdict.TAKEN, thief)
        assert (await two.enter(thief, "b")).is_in, "another room has names of its own"
        await one.leave(ALICE)
        assert (await two.enter(thief)).verdict == Verdict.CAME
        for place in (one, two):
            await place.until_changes("+Alice", "+aIice", "-Alice", "+aIice")


@in_loop
async def test_one_of_two_users_gets_a_name_at_the_same_moment(url: EngineUrl) -> None:
    """Whichever machine is first, exactly one user has the name, and everybody hears of them."""
    async with places(url, "one", "two") as (one, two):
        for number in range(50):
            wanted = [Member(f"user {number}", user) for user in ("g_x", "g_y")]
            answers = await asyncio.gather(one.enter(wanted[0]), two.enter(wanted[1]))
            assert sorted(each.verdict for each in answers) == [Verdict.CAME, Verdict.TAKEN]
            winner = next(each.member for each in answers if each.is_in)
            (present,) = [
                each for each in await one.attendance.roster("a") if each.name == winner.name
            ]
            assert present.user == winner.user
        for place in (one, two):
            await place.until_changes(*(f"+user {number}" for number in range(50)))


@in_loop
async def test_user_keeps_the_first_spelling_of_the_name(url: EngineUrl) -> None:
    """A second tab with another spelling has the name of the first one."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        answer = await two.enter(Member("ALICE", ALICE.user))
        assert answer[:2] == (Verdict.HERE, ALICE)
        came = await two.enter(BOB)
        await one.until_changes("+Alice", "+Bob")
        serials = [each.serial for each in one.events if isinstance(each, Came)]
        assert serials == [answer.serial, came.serial]


@in_loop
async def test_users_with_tokens_get_numbers(url: EngineUrl) -> None:
    """Nobody with a token is refused because of a name; a user has one name in all tabs."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(Member("Ann", "g_guest"))
        for place, user, name in (
            (one, "u_1", "Ann (2)"),
            (two, "u_2", "Ann (3)"),
            (two, "u_1", "Ann (2)"),
        ):
            answer = await place.enter(Member("Ann", user), has_token=True)
            assert answer.member == Member(name, user)
        await one.leave(Member("Ann", "g_guest"))
        answer = await two.enter(Member("Ann", "u_1"), has_token=True)
        assert answer[:2] == (Verdict.HERE, Member("Ann (2)", "u_1"))
        answer = await two.enter(Member("Other", "u_1"), has_token=True)
        assert answer[:2] == (Verdict.CAME, Member("Other", "u_1"))
        assert await one.names() == ["Ann (2)", "Ann (3)", "Other"]


@in_loop
async def test_users_with_tokens_come_at_the_same_moment(url: EngineUrl) -> None:
    """All of them get in, with names of their own."""
    async with places(url, "one", "two") as machines:
        answers = await asyncio.gather(
            *(
                place.enter(Member("Ann", f"u_{number}_{place.session._name}"), has_token=True)
                for number in range(10)
                for place in machines
            )
        )
        assert all(each.verdict == Verdict.CAME for each in answers)
        numbered = {"Ann", *(f"Ann ({number})" for number in range(2, 21))}
        assert {each.member.name for each in answers} == numbered


# Presence


@in_loop
async def test_user_who_hops_in_time_was_never_away(url: EngineUrl) -> None:
    """A lost user can come back on another machine; nobody hears of it, and no rest is left."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        await one.lose(ALICE)
        (present,) = await two.attendance.roster("a")
        assert (present.name, present.is_away) == ("Alice", True)
        assert (await two.enter(ALICE)).verdict == Verdict.HERE
        assert not (await two.attendance.roster("a"))[0].is_away
        await two.leave(ALICE)  # at once, although the first machine had lost them
        for place in (one, two):
            await place.until_changes("+Alice", "-Alice")


@in_loop
async def test_name_of_a_lost_user_is_kept(url: EngineUrl) -> None:
    """Another user hears for how long, and gets the name afterwards, even before a sweep."""
    async with places(url, "one") as (one,), observer(url) as db:
        await one.enter(ALICE)
        await one.lose(ALICE)
        thief = Member("ALICE", "g_thief")
        answer = await one.enter(thief)
        assert answer.verdict == Verdict.TAKEN
        assert answer.wait_s is not None
        assert 500 < answer.wait_s <= 600
        await db.execute("UPDATE attendance SET until = now()")
        assert (await one.enter(thief)).verdict == Verdict.CAME
        await one.until_changes("+Alice", "-Alice", "+ALICE")


@in_loop
async def test_lost_user_leaves_when_the_time_is_over(url: EngineUrl) -> None:
    """One machine tells it, and all machines hear it once."""
    async with places(url, "one", "two", times=IMPATIENT) as (one, two):
        await one.enter(ALICE)
        await one.enter(BOB)
        await one.lose(ALICE)
        await asyncio.gather(one.attendance.tick(), two.attendance.tick())
        await one.attendance.tick()
        await two.leave(BOB)  # of whom the second machine knows nothing
        await one.leave(BOB)
        for place in (one, two):
            await place.until_changes("+Alice", "+Bob", "-Alice", "-Bob")


@in_loop
async def test_user_with_tabs_on_two_machines_counts_once(url: EngineUrl) -> None:
    """The user leaves with the last tab, whichever machine has it."""
    async with places(url, "one", "two", times=IMPATIENT) as (one, two):
        await one.enter(ALICE)
        assert (await two.enter(ALICE)).verdict == Verdict.HERE
        await one.lose(ALICE)
        await one.attendance.tick()
        assert await one.names() == ["Alice"]
        await one.enter(ALICE)
        await two.leave(ALICE)
        assert await one.names() == ["Alice"]
        await one.leave(ALICE)
        for place in (one, two):
            await place.until_changes("+Alice", "-Alice")


@in_loop
async def test_users_of_a_dead_machine_leave(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not beat is fenced; who is back on another machine was never away."""
    monkeypatch.setattr(session, "BEAT_S", 0.05)
    times = Times(grace=0.0, silent=TIMEOUT_UNIT_S, gather=0.0)
    async with places(url, "one", "two", times=times) as (one, two):
        # More than one step of the sweep ends.
        users = [Member(f"user {number}", f"g_{number}") for number in range(700)]
        await asyncio.gather(*map(one.enter, (ALICE, *users)))
        one.attendance.spectate("a", {"g_zoe": 2})
        await one.attendance.tick()
        await two.until(lambda: two.totals("a") == [2])
        await one.session.close()
        await two.enter(ALICE)
        async with asyncio.timeout(PATIENCE_S):
            while await two.names() != ["Alice"]:
                await two.attendance.tick()
                await asyncio.sleep(0.05)
        await two.until(lambda: len(two.changes) == 701 + 700)
        assert {each for each in two.changes if each[0] == "-"} == {
            f"-{each.name}" for each in users
        }
        assert two.totals("a") == [2, 0]
        async with observer(url) as db:
            assert await db.fetchval("SELECT boot FROM machines WHERE name = 'one'") == ""


@in_loop
async def test_very_many_users_of_a_dead_machine_are_marked_in_steps(url: EngineUrl) -> None:
    """The machine is fenced in the first step; each step marks some of its users."""
    async with places(url, "one", "two") as (one, two), observer(url) as db:
        await asyncio.gather(*(one.enter(Member(f"u{n}", f"g_{n}")) for n in range(25)))
        await one.session.close()
        lengths = []
        for _ in range(4):
            await db.execute("SELECT * FROM sweep_1($1, $2, $3, 0, 600, 1)", *identity(two))
            lengths.append(sum(each.is_away for each in await two.attendance.roster("a")))
        assert lengths == [10, 20, 25, 25]


@in_loop
async def test_machine_that_was_silent_for_a_week_is_forgotten(url: EngineUrl) -> None:
    """Nothing of it is left. If it wakes up, it is refused, and comes back as a new machine."""
    async with places(url, "one", "two") as (one, two), observer(url) as db:
        await one.append(draft("before"))
        await db.execute("INSERT INTO reports VALUES ($1, now(), '{}')", one.session.machine)
        number, claim, token = identity(one)
        tables = ("commits", "fences", "reports", "beats", "machines")

        async def rows(table: str) -> int:
            column = "number" if table == "machines" else "machine"
            query = f"SELECT count(*) FROM {table} WHERE {column} = $1"  # noqa: S608
            found: int = await db.fetchval(query, number)
            return found

        async with db.transaction():  # so that it cannot wake up in between
            for days in (6, 2):
                await db.execute("SELECT * FROM sweep_1($1, $2, $3, 0, 600, 500)", *identity(two))
                assert [await rows(table) for table in tables] == [1] * len(tables)
                await db.execute(
                    "UPDATE machines SET silent = silent - make_interval(days => $2)"
                    " WHERE number = $1",
                    number,
                    days,
                )
            await db.execute("SELECT * FROM sweep_1($1, $2, $3, 0, 600, 500)", *identity(two))
            assert [await rows(table) for table in tables] == [0] * len(tables)
            assert await db.fetchval("SELECT count(*) FROM machines") == 1
            late = asyncio.create_task(one.append(draft("refused")))
            async with observer(url) as watching:
                await until_in(
                    watching,
                    "EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)",
                )
        with pytest.raises(NotCommittedError):
            await late
        with pytest.raises(asyncpg.PostgresError) as refused:
            await db.execute("SELECT machine_1($1, $2, $3)", number, claim, token)
        assert refused.value.sqlstate == "FC001"
        await one.until(lambda: one.session.machine != number and one.session.is_connected)
        await one.append(draft("after"))
        assert [each.text for each in await two.stored()] == ["before", "after"]


@in_loop
async def test_fenced_machine_enters_nobody(url: EngineUrl) -> None:
    """It learns that it is fenced, connects anew, and says its users again."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        async with observer(url) as db:
            machine = identity(one)[0]
            incarnation = "SELECT incarnation FROM fences WHERE machine = $1"
            before = await db.fetchval(incarnation, machine)
            await db.execute("DELETE FROM beats WHERE machine = $1", machine)
            await db.execute("SELECT * FROM sweep_1($1, $2, $3, 600, 600, 500)", *identity(two))
            after = await db.fetchval(incarnation, machine)
            assert after == before + 1
        with pytest.raises(NotCommittedError) as caught:
            await one.enter(BOB)
        assert caught.value.code == "FC001"
        await one.until(lambda: one.connections == 2)
        assert await two.names() == ["Alice"]
        assert (await one.enter(ALICE, again=True)).verdict == Verdict.HERE
        await one.attendance.settle()
        await two.until_changes("+Alice")


@in_loop
async def test_late_call_of_an_older_connection_is_refused(url: EngineUrl) -> None:
    """A server can work off a call that was sent before its connection was lost. Once the machine
    has connected anew, nobody waits for such a user to leave."""
    async with places(url, "one") as (one,), observer(url) as db:
        await one.enter(ALICE)
        late = identity(one)
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE '%enter_1%' AND pid <> pg_backend_pid()"
        )
        await one.until(lambda: one.connections == 2)
        with pytest.raises(asyncpg.PostgresError) as caught:
            await db.execute("SELECT part_1($1, $2, $3, '{a}', '{x}', '{g_x}', '{f}', 5)", *late)
        assert caught.value.sqlstate == "FC001"


def identity(place: Place) -> Sequence[Any]:
    """The first arguments of functions, as this machine has them."""
    return place.session._machine, place.session._claimed, place.session.identity.token


@in_loop
async def test_restarted_machine_says_its_users_again(url: EngineUrl) -> None:
    """Who was said in time was never away; the others leave."""
    async with places(url, "one", "two") as (one, two):
        await asyncio.gather(*map(one.enter, (ALICE, BOB, EVE)))
        await one.session.close()
        async with places(url, "one") as (again,):
            assert [each.is_away for each in await two.attendance.roster("a")] == [True] * 3
            assert (await again.enter(ALICE, again=True)).verdict == Verdict.HERE
            assert (await two.enter(EVE)).verdict == Verdict.HERE
            async with observer(url) as db:
                await db.execute("UPDATE attendance SET until = now() WHERE until IS NOT NULL")
            await two.attendance.tick()
            await two.until(lambda: "-Bob" in two.changes)
            assert two.changes[3:] == ["-Bob"]
            assert sorted(await again.names()) == ["Alice", "Eve"]


@in_loop
async def test_owner_keeps_the_name_after_a_crash_of_the_server(own_server: PostgreSQL) -> None:
    """The ledger has forgotten all users. A stranger has to wait until the machines have said
    theirs, and is then refused; a free name is given at once afterwards."""
    times = PATIENT._replace(gather=600.0)
    async with (
        ledger_of(own_server) as url,
        places(url, "one", "two", times=times) as (one, two),
    ):
        await one.enter(ALICE)
        await two.until_changes("+Alice")
        own_server.kill()
        own_server.start()
        await two.until(lambda: two.connections == 2)
        await one.until(lambda: one.connections == 2)
        assert await two.names() == []
        await two.attendance.settle()
        thief = asyncio.create_task(two.enter(Member("ALICE", "g_thief")))
        await asyncio.sleep(3 * attendance.WAIT_S)
        assert not thief.done()
        assert (await one.enter(ALICE, again=True)).verdict == Verdict.CAME
        await one.attendance.settle()
        assert (await thief).verdict == Verdict.TAKEN
        assert (await two.enter(BOB)).verdict == Verdict.CAME


@in_loop
async def test_newcomers_wait_only_a_moment_for_a_machine_that_is_gone(
    own_server: PostgreSQL,
) -> None:
    """After a crash of the server, a machine that does not come back holds up nobody for long."""
    times = PATIENT._replace(gather=0.5)
    async with (
        ledger_of(own_server) as url,
        places(url, "one", "two", times=times) as (one, two),
    ):
        await one.session.close()
        own_server.kill()
        own_server.start()
        await two.until(lambda: two.connections == 2)
        await two.attendance.settle()
        async with asyncio.timeout(PATIENCE_S):
            assert (await two.enter(BOB)).verdict == Verdict.CAME


# Order


ROOMS = ("a", "b", "c")
USERS = [Member(f"u{number}", f"g_{number}") for number in range(12)]


async def storm(place: Place, dice: random.Random) -> None:
    """Let users come and go in many rounds, several at the same time, and sweep now and then."""
    here: set[tuple[str, Member]] = set()
    for _ in range(40):
        calls = []
        for room, member in {(dice.choice(ROOMS), dice.choice(USERS)) for _ in range(8)}:
            if (room, member) in here:
                calls.append(place.attendance.part(room, member, gone=dice.random() < 0.7))
            else:
                calls.append(come(place, member, room))
            here ^= {(room, member)}
        await asyncio.gather(*calls)
        if dice.random() < 0.2:
            await place.attendance.tick()


async def come(place: Place, member: Member, room: str) -> None:
    assert (await place.enter(member, room)).is_in


async def claim_often(place: Place, db: asyncpg.Connection) -> None:
    """Do again and again what a machine does that connects anew."""
    machine, claim, token = identity(place)
    channel = place.session.identity.channel
    await db.execute("SET synchronous_commit = off")
    for _ in range(20):
        async with db.transaction():
            await db.execute("SELECT machine_1($1, $2, $3)", machine, claim, token)
            await db.execute("SELECT arrive_1($1, $2, 0, true)", machine, channel)


def assert_alternate(events: Sequence[Event]) -> None:
    """Check that the joins and leaves of each user in each room take turns."""
    last: dict[tuple[str, str], type[Event]] = {}
    for event in events:
        assert isinstance(event, (Came, Left))
        assert last.get((event.room, event.key), Left) is not type(event)
        last[event.room, event.key] = type(event)


@in_loop
async def test_all_machines_hear_one_order(url: EngineUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a storm of joins and leaves by three machines, which all sweep and one of which connects
    anew, all hear the same changes, and what they have heard is the roster in the end. No call
    waits for another in a circle."""
    monkeypatch.setattr(attendance, "_ROLLED_BACK", frozenset())  # so that a deadlock is raised
    async with (
        observer(url) as db,
        places(url, "one", "two", "three", times=IMPATIENT) as machines,
    ):
        one, two, three = machines
        storms = (storm(place, random.Random(n)) for n, place in enumerate(machines))
        await asyncio.gather(*storms, claim_often(three, db))
        await one.enter(ALICE)
        for place in machines:
            await place.until(lambda place=place: "+Alice" in place.changes)
        assert one.events == two.events == three.events
        assert_alternate(one.events)
        for room in ROOMS:
            table = {each[:4] for each in await one.attendance.roster(room)}
            assert {each[:4] for each in one.rosters[room].users} == table


@in_loop
async def test_order_of_calls_for_a_user_is_kept(url: EngineUrl) -> None:
    """Calls that wait together are made in their order."""
    async with places(url, "one") as (one,):
        await asyncio.gather(
            one.enter(ALICE),
            one.leave(ALICE),
            one.enter(BOB),
            one.enter(ALICE),
            one.leave(BOB),
            one.leave(ALICE),
            one.enter(ALICE),
        )
        assert await one.names() == ["Alice"]
        await one.until(lambda: len(one.changes) == 7)
        alice = [each for each in one.changes if "Alice" in each]
        assert alice == ["+Alice", "-Alice", "+Alice", "-Alice", "+Alice"]


def test_copy_of_a_roster_leaves_out_what_is_older() -> None:
    """Notifications from before the roster was read change nothing."""
    copy = RosterCopy()
    copy.load([Present("alice", "Alice", "g_new", 7)])
    assert not copy.apply(Came("a", "alice", "alice", "g_old", 5))
    assert not copy.apply(Left("a", "alice", "alice", "g_old", 6))
    assert not copy.apply(Came("a", "alice", "Alice", "g_new", 7))
    assert not copy.apply(Left("a", "bob", "Bob", "g_bob", 3))
    assert copy.apply(Came("a", "bob", "Bob", "g_bob", 8))
    assert copy.apply(Left("a", "alice", "Alice", "g_new", 9))
    assert [each.name for each in copy.users] == ["Bob"]


@in_loop
async def test_notifications_are_short_enough(url: EngineUrl) -> None:
    """The longest names and ids come over, in payloads that PostgreSQL takes."""
    room = "ü" * 64
    members = [
        Member(f"{number:03}{'ﷺ' * 29}", f"u_{number}" + "\U0001f600" * 250) for number in range(30)
    ]
    members.append(Member('odd\n"\\', "u_with\0zero"))
    async with places(url, "one", "two") as (one, two):
        await asyncio.gather(*(one.enter(each, room) for each in members))
        await two.until(lambda: len(two.changes) == len(members))
        assert {Member(each.name, each.user) for each in two.rosters[room].users} == set(members)
        assert set(await two.attendance.roster(room)) == set(two.rosters[room].users)
        assert max(len(each.encode()) for each in two.payloads) <= 7500


def test_unknown_events_are_left_out() -> None:
    """A newer version can tell more than this one knows."""
    assert events_of('c\n["?",1]\n["s","a",3]') == [Watched("a", 3)]
    assert events_of("p1 2") == []


# Removals


def removal(member: Member, seconds: int = 60, *, by_name: bool = False) -> Removal:
    user, name = (None, member.name) if by_name else (member.user, None)
    return Removal("a", user, name, seconds, "Mod")


@in_loop
async def test_removed_user_is_refused_on_all_machines(url: EngineUrl) -> None:
    """All machines are told, the user cannot come back, and an absent user has left at once."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        await one.enter(BOB)
        assert await two.attendance.remove(removal(Member("aIice", ""), by_name=True)) == ALICE
        for place in (one, two):
            await place.until(lambda place=place: isinstance(place.events[-1], Expelled))
            assert place.events[-1][:3] == ("a", ALICE.user, 60)
        await one.leave(ALICE)
        answer = await two.enter(ALICE)
        assert answer.verdict == Verdict.REMOVED
        assert answer.wait_s is not None
        assert 50 < answer.wait_s <= 60
        await one.lose(BOB)
        assert await one.attendance.remove(removal(BOB)) == BOB
        await two.until_changes("+Alice", "+Bob", "-Alice", "-Bob")
        assert await one.attendance.tick() == await two.attendance.tick() == []


@in_loop
async def test_removal_finds_users_and_spectators(url: EngineUrl) -> None:
    """A user of another room is not found; a spectator is, by the public id."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE, "b")
        assert await one.attendance.remove(removal(ALICE)) is None
        assert await one.attendance.remove(removal(ALICE, by_name=True)) is None
        assert (await one.enter(ALICE)).is_in
        one.attendance.spectate("a", {"g_zoe": 1})
        await one.attendance.tick()
        zoe = Member(None, "g_zoe")
        assert await two.attendance.remove(removal(zoe)) == zoe
        await one.until(lambda: isinstance(one.events[-1], Expelled))


@in_loop
async def test_removal_without_a_time_lets_the_user_come_back(url: EngineUrl) -> None:
    """It is told once, and ends no longer removal that is in force."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        await one.attendance.remove(removal(ALICE, 0))
        await two.until(lambda: isinstance(two.events[-1], Expelled))
        await one.leave(ALICE)
        assert (await two.enter(ALICE)).is_in
        await one.attendance.remove(removal(ALICE, 60))
        await one.attendance.remove(removal(ALICE, 0))
        assert (await two.enter(ALICE)).verdict == Verdict.REMOVED


@in_loop
async def test_removal_that_was_not_told_is_found(url: EngineUrl) -> None:
    """The machine that removes can die before it tells; the others find out with a tick, once."""
    async with places(url, "one", "two") as (one, two):
        await one.enter(ALICE)
        await one.attendance.tick()
        for seconds in (60, 0):
            await two.session.store(
                "SELECT remove_1($1, 'a', $2, NULL, $3)", ALICE.user, float(seconds)
            )
            (found,) = await one.attendance.tick()
            assert (found.room, found.user) == ("a", ALICE.user)
            assert 50 < found.seconds <= 60
            assert await one.attendance.tick() == []
        async with places(url, "three") as (three,):
            assert [each.user for each in await three.attendance.tick()] == [ALICE.user]


@in_loop
async def test_removal_during_a_join_holds(url: EngineUrl) -> None:
    """If the ledger had not seen the removal yet, its notification refuses the user."""
    async with places(url, "one", "two") as (one, two), observer(url) as db:
        await two.enter(ALICE)
        async with db.transaction():
            await db.execute("SELECT 1 FROM names FOR UPDATE")
            entering = asyncio.create_task(one.enter(ALICE))
            await until_in(db, WAITS)
            await two.session.store("SELECT remove_1($1, 'a', $2, NULL, 60)", ALICE.user)
            one.heard(f'c\n["x","a","{ALICE.user}",60,1000000]')
        answer = await entering
        assert answer.verdict == Verdict.REMOVED
        assert answer.wait_s is not None
        assert await db.fetchval("SELECT count(*) FROM attendance") == 1, (
            "only on the other machine"
        )


@in_loop
async def test_expired_removals_are_deleted(url: EngineUrl) -> None:
    """A minute after its end, nothing of a removal is left."""
    async with places(url, "one") as (one,), observer(url) as db:
        await one.enter(ALICE)
        await one.enter(BOB)
        await one.attendance.remove(removal(ALICE))
        await one.attendance.remove(removal(BOB))
        await db.execute(
            "UPDATE removals SET until = now() - interval '61 s' WHERE \"user\" = $1", ALICE.user
        )
        await one.attendance.tick()
        assert await db.fetchval('SELECT array_agg("user") FROM removals') == [BOB.user]


# Spectators


@in_loop
async def test_spectators_of_all_machines_are_counted(url: EngineUrl) -> None:
    """Each machine says its own; all machines hear the totals."""
    async with places(url, "one", "two") as (one, two):
        one.attendance.spectate("a", {"g_x": 1, "g_y": 2})
        two.attendance.spectate("a", {"g_x": 3})
        two.attendance.spectate("b", {"g_x": 1})
        await asyncio.gather(one.attendance.tick(), two.attendance.tick())
        assert await one.audience("a") == 6
        one.attendance.spectate("a", {})
        two.attendance.spectate("b", {})
        await asyncio.gather(one.attendance.tick(), two.attendance.tick())
        assert await one.audience("a") == 3
        assert await one.audience("b") == 0
        await two.attendance.tick()  # which has nothing to say
        await one.enter(ALICE)
        for place in (one, two):
            await place.until_changes("+Alice")
            for room, total in (("a", 3), ("b", 0)):
                assert place.totals(room)[-1] == total
        async with observer(url) as db:
            assert await db.fetchval("SELECT count(*) FROM audiences") == 1
            assert await db.fetchval("SELECT count(*) FROM spectators") == 1


@in_loop
async def test_total_of_spectators_is_corrected_by_the_own_ones(url: EngineUrl) -> None:
    """At every moment, the total that was heard last and what is unsaid are the present number,
    whether the ledger has answered or not."""
    async with places(url, "one", "two") as (one, two):
        two.attendance.spectate("a", {"g_z": 5})
        await two.attendance.tick()
        await one.until(lambda: one.totals("a") == [5])
        for connections in (1, 3, 2, 0):
            one.attendance.spectate("a", {"g_x": connections} if connections else {})
            assert one.totals("a")[-1] + one.attendance.unsaid("a") == 5 + connections
            before = len(one.totals("a"))
            await one.attendance.tick()
            await one.until(lambda before=before: len(one.totals("a")) > before)
            assert one.totals("a")[-1] == 5 + connections
            assert one.attendance.unsaid("a") == 0
            assert await one.audience("a") == 5 + connections
            assert one.attendance.unsaid("a") == 0


# Connections and locks


@in_loop
async def test_users_are_locked_in_one_order(url: EngineUrl) -> None:
    """A call that waits for a user has locked no user who comes later in the order of the keys, so
    that calls do not wait for each other in a circle."""
    async with places(url, "one", "two") as (one, two), observer(url) as db:
        await asyncio.gather(one.enter(ALICE), one.enter(BOB))
        for act in (two.enter, two.leave):
            async with db.transaction():
                await db.execute("SELECT 1 FROM names WHERE key = 'allce' FOR UPDATE")
                calls = [asyncio.create_task(act(member)) for member in (BOB, ALICE)]
                await until_in(db, WAITS)
                await db.execute("SELECT 1 FROM names WHERE key = 'bob' FOR UPDATE NOWAIT")
            await asyncio.gather(*calls)


@in_loop
async def test_call_whose_connection_is_lost_fails(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller hears of it, and the machine can say everything again with new connections."""
    monkeypatch.setattr(session, "PATIENCE_S", PATIENCE_S)
    async with places(url, "one") as (one,), observer(url) as db:
        await one.enter(ALICE)
        async with db.transaction():
            await db.execute("SELECT 1 FROM names FOR UPDATE")
            calls = [asyncio.create_task(each) for each in (one.lose(ALICE), one.enter(BOB))]
            await until_in(db, WAITS)
            teller = "FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
            await db.execute("SELECT pg_terminate_backend(pid) " + teller)
            with pytest.raises(LedgerError):
                await calls[0]
        assert (await calls[1]).is_in, "it has waited for the new connections"
        await one.until(lambda: one.connections == 2)
        assert (await one.enter(ALICE, again=True)).verdict == Verdict.HERE
        await one.until_changes("+Alice", "+Bob")


@in_loop
async def test_part_that_was_refused_is_done_later(url: EngineUrl) -> None:
    """If somebody locks a user for too long, the user leaves with a tick, unless they are back."""
    async with places(url, "one") as (one,), observer(url) as db:
        await asyncio.gather(one.enter(ALICE), one.enter(BOB))
        async with db.transaction():
            await db.execute("SELECT 1 FROM names FOR UPDATE")
            calls = [asyncio.create_task(one.leave(member)) for member in (ALICE, BOB)]
            for call in calls:
                with pytest.raises(NotCommittedError):
                    await call
        await one.enter(BOB)
        await one.attendance.tick()
        assert await one.names() == ["Bob"]
        await one.until_changes("+Alice", "+Bob", "-Alice")


@in_loop
async def test_end_of_a_machine_fails_its_calls(url: EngineUrl) -> None:
    """A call that is under way and one that waits both end, and so does one that has not begun."""
    async with places(url, "one") as (one,), observer(url) as db:
        await one.enter(ALICE)
        async with db.transaction():
            await db.execute("SELECT 1 FROM names FOR UPDATE")
            calls = [asyncio.create_task(each) for each in (one.leave(ALICE), one.enter(BOB))]
            await until_in(db, WAITS)
            await one.attendance.close()
            calls.append(asyncio.create_task(one.enter(EVE)))
            await asyncio.sleep(0)
            await one.attendance.close()
            for call in calls:
                with pytest.raises(LedgerError):
                    await call


@in_loop
async def test_calls_and_notifications_share_a_connection(url: EngineUrl) -> None:
    """What is told while users enter is told as well."""
    async with places(url, "one") as (one,):
        for number in range(20):
            entering = asyncio.create_task(one.enter(Member(f"user {number}", "g_x")))
            one.session.tell([f"p{number}"])
            await asyncio.sleep(0)
            one.session.tell([f"q{number}"])
            assert (await entering).is_in
        await one.until(lambda: len([each for each in one.payloads if each[0] in "pq"]) == 40)


async def until_commits_wait(url: EngineUrl) -> asyncio.Task[None]:
    """Wait until commits wait for a standby, which the server's checkpointer brings about.

    Returns a task with a commit that waits.
    """

    async def commit() -> None:
        async with observer(url) as db:
            await db.execute(f"CREATE TABLE probe_{secrets.token_hex(4)} ()")

    async with asyncio.timeout(PATIENCE_S):
        while True:
            task = asyncio.create_task(commit())
            done, _ = await asyncio.wait([task], timeout=0.5)
            if not done:
                return task


@in_loop
async def test_attendance_does_not_wait_for_a_standby(
    own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While commits and removals wait for a standby that is away, users come and go. A removal that
    waits for too long fails."""
    monkeypatch.setattr(session, "COMMIT_S", 2 * PATIENCE_S)
    async with (
        ledger_of(own_server) as url,
        places(url, "one", "two", times=IMPATIENT) as (one, two),
        observer(url) as db,
    ):
        await one.append(draft("one"))
        await one.enter(ALICE)
        await db.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await db.execute("SELECT pg_reload_conf()")
        waiting = await until_commits_wait(url)
        appending = asyncio.create_task(one.append(draft("two")))
        removing = asyncio.create_task(one.attendance.remove(removal(ALICE)))
        await until_in(db, "count(*) = 3 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        async with asyncio.timeout(PATIENCE_S):
            assert (await one.enter(BOB)).is_in
            assert (await two.enter(EVE)).is_in
            await one.lose(BOB)
            await one.leave(ALICE)
            await one.attendance.tick()
            await two.attendance.tick()
            await two.until_changes("+Alice", "+Bob", "+Eve", "-Alice", "-Bob")
        with monkeypatch.context() as patch:
            patch.setattr(session, "COMMIT_S", 0.2)
            with pytest.raises(LedgerError):
                await two.attendance.remove(removal(EVE))
        await db.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await db.execute("SELECT pg_reload_conf()")
        await appending
        assert await removing == ALICE
        await waiting
