"""Joins to rooms on the ledger, into which something comes while they wait."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from contracts.broker import Receiver
from contracts.history import draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import People, Watched
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.url import EngineUrl
from fastchat.metrics import Metrics
from fastchat.rooms import Entrance, Entry, Member, Removal
from support.ledger import execute, in_loop, observer, until
from support.server import PATIENCE_S

ANN = Member("Ann", "u:ann")
REMOVAL = Removal("a", "u:ann", None, 600, "Mod")


class Rooms(SharedRooms):
    """Rooms whose joins stop at a gate, after the user was let in."""

    def __init__(self, url: EngineUrl, name: str = "one") -> None:
        super().__init__(
            url,
            name,
            secrets.token_hex(8),
            Witness(),
            room_limits=Limits(stored=100, slack=10),
            clock=lambda: 0.0,
            metrics=Metrics(),
            user_of=lambda credential: credential,
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self._read_entry = self._membership._read_entry
        self._membership._read_entry = self._read_entry_later  # type: ignore[method-assign]

    async def _read_entry_later(self, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
        self.waiting.set()
        await self.gate.wait()
        return await self._read_entry(entrance)


class Machine:
    """A machine with one process, and what its clients get."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.receiver = Receiver()
        self.broker = MemoryBroker(rooms)
        self.broker.open(delivery=self.receiver, receiver=self.receiver)

    async def join(self, member: Member, room: str = "a") -> Entry:
        entries: list[Entry] = []
        entrance = Entrance(room, member.name, member.user, None, 0)
        await self.broker.join(entrance, entries.append)
        return entries[0]

    async def closed_gate(self, member: Member) -> asyncio.Task[Entry]:
        """A join that waits at the gate."""
        self.rooms.gate.clear()
        self.rooms.waiting.clear()
        joining = asyncio.create_task(self.join(member))
        await self.rooms.waiting.wait()
        return joining


@asynccontextmanager
async def opened(url: EngineUrl) -> AsyncIterator[Machine]:
    rooms = Rooms(url)
    await rooms.open()
    try:
        async with asyncio.timeout(4 * PATIENCE_S):
            yield Machine(rooms)
    finally:
        rooms.gate.set()
        await rooms.close()


async def users_of(url: EngineUrl) -> list[str]:
    async with observer(url) as db:
        return [name for (name,) in await db.fetch("SELECT name FROM names ORDER BY name")]


@in_loop
async def test_user_who_is_removed_while_they_join_is_refused(url: EngineUrl) -> None:
    """Nobody is counted in whom a moderator has removed meanwhile, nor with a second connection."""
    async with opened(url) as machine:
        joining = await machine.closed_gate(ANN)
        removing = asyncio.create_task(machine.rooms.remove(REMOVAL))
        assert await removing == ANN
        await until(lambda: machine.rooms._attendance.removed_s("a", ANN.user) > 0)
        machine.rooms.gate.set()
        with pytest.raises(CommandError) as refused:
            await joining
        assert refused.value.code is ErrorCode.FORBIDDEN
        async with asyncio.timeout(PATIENCE_S):
            while await users_of(url):  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.01)


@in_loop
async def test_last_spectator_can_go_while_a_user_joins(url: EngineUrl) -> None:
    """The room stays for the user who is about to come."""
    async with opened(url) as machine:
        spectator = (await machine.join(Member(None, "u:eve"))).member
        joining = await machine.closed_gate(ANN)
        machine.broker.lose("a", spectator)
        machine.rooms.gate.set()
        assert (await joining).users == [ANN]


@in_loop
async def test_user_is_asked_for_again_if_their_other_connection_goes(url: EngineUrl) -> None:
    """A connection that let in a second one can be lost while that joins; the user stays."""
    async with opened(url) as machine:
        user = (await machine.join(ANN)).member
        joining = await machine.closed_gate(ANN)
        machine.rooms._membership._count_out(machine.broker, "a", user, gone=True)
        machine.rooms.gate.set()
        assert (await joining).users == [ANN]
        assert await users_of(url) == ["Ann"]


@in_loop
async def test_draft_of_an_empty_room_is_stored_before_the_end(url: EngineUrl) -> None:
    """What was published is stored, or refused, also if nobody is in the room any more."""
    outcomes: list[object] = []
    async with opened(url) as machine:
        user = (await machine.join(ANN)).member
        machine.broker.publish(draft(text="last words", room="a"), outcomes.append)
        machine.broker.lose("a", user)
        await machine.rooms.close()
        await until(lambda: bool(outcomes))
    assert outcomes == [1]


@in_loop
async def test_fault_stays_while_the_disk_is_full(url: EngineUrl) -> None:
    """The machine is not ready as long as commits fail, whatever becomes of the drafts."""
    await execute(
        url,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$; "
        "CREATE TRIGGER full_disk BEFORE INSERT ON publications EXECUTE FUNCTION full_disk()",
    )
    outcomes: list[object] = []
    try:
        async with opened(url) as machine:
            await machine.join(ANN)
            machine.broker.publish(draft(text="refused", room="a"), outcomes.append)
            await until(lambda: machine.rooms.fault is not None)
            await until(lambda: bool(outcomes))  # the draft has waited for too long
            await until(lambda: machine.rooms._publishing._task is None)
            assert machine.rooms.fault == "PostgreSQL says: no space left"
    finally:
        await execute(url, "DROP FUNCTION full_disk CASCADE")


@in_loop
async def test_users_are_said_again_until_that_succeeds(url: EngineUrl) -> None:
    """If the users of a machine cannot be entered after a reconnection, it tries again."""
    async with opened(url) as machine, observer(url) as db:
        await machine.join(ANN)
        transaction = db.transaction()
        await transaction.start()
        await db.execute("LOCK TABLE names IN ACCESS EXCLUSIVE MODE")
        link = machine.rooms._session._link
        assert link is not None
        link.reader.terminate()
        await until(lambda: machine.rooms._session.health.reconnects_total == 1)
        await until(lambda: not machine.rooms._tasks)
        assert machine.rooms._reconnecting._unsaid, "nobody could be said"
        await transaction.rollback()
        machine.broker.tick()
        await until(lambda: machine.rooms._ticking is None)
        assert await db.fetchval("SELECT count(*) FROM attendance WHERE until IS NULL") == 1
        bob = Member("Bob", "u:bob")
        assert (await machine.join(bob)).users == [ANN, bob]


@in_loop
async def test_rooms_are_read_again_in_few_statements(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reconnection, a machine with many rooms does not read each by itself."""
    names = [f"room {number}" for number in range(24)]
    async with opened(url) as machine:
        for name in names:
            await machine.join(ANN, name)
        session, rosters, reads = machine.rooms._session, machine.rooms._rosters, 0
        fetch = session.fetch

        async def counted(query: str, *arguments: object) -> Sequence[object]:
            nonlocal reads
            reads += 1
            return await fetch(query, *arguments)

        monkeypatch.setattr(session, "fetch", counted)
        assert session._link is not None
        session._link.reader.terminate()
        await until(lambda: session.health.reconnects_total == 1)
        await until(lambda: all(each.early is None for each in rosters._copies.values()))
        assert 0 < reads < len(names) / 2
        bob = Member("Bob", "u:bob")
        assert (await machine.join(bob, names[-1])).users == [ANN, bob]


@in_loop
async def test_spectator_who_goes_while_a_room_is_read_is_not_counted(url: EngineUrl) -> None:
    """What is heard of spectators during a read holds over what was read."""
    async with opened(url) as machine:
        await machine.join(ANN)
        people = machine.rooms._attendance.people

        async def slow_people(room: str) -> People:
            found = await people(room)
            machine.rooms._on_event(Watched("a", 5))
            machine.rooms._on_event(Watched("a", 4))
            return found._replace(total=3)

        machine.rooms._attendance.people = slow_people  # type: ignore[method-assign]
        await machine.rooms._rosters.read("a")
        assert machine.rooms.occupancy.spectators == 4
