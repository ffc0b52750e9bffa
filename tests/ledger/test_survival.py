"""Machines that share rooms go on after their PostgreSQL was killed.

The short run is part of every test run; SOAK_DATABASE_KILLS makes it longer (`make soak`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts.broker import Receiver, join, member, names
from contracts.history import NOW_S, draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.ledger.appending import Limits
from fastchat.ledger.attendance import Times
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.metrics import Metrics
from fastchat.rooms.restoring import Returning
from support.ledger import execute, in_loop, make_ledger, observer, until, until_in
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S

KILLS = int(os.environ.get("SOAK_DATABASE_KILLS", 1))


class Machine:
    """A machine with one process, its broker, and what its members receive."""

    def __init__(self, url: EngineUrl, name: str) -> None:
        self.name = name
        self.rooms = SharedRooms(
            url,
            name,
            secrets.token_hex(8),
            Witness(),
            room_limits=Limits(stored=100_000, slack=100),
            clock=lambda: NOW_S,
            metrics=Metrics(),
            user_of=lambda credential: credential,
            times=Times(grace=5.0),
        )
        self.broker = MemoryBroker(self.rooms)
        self.receiver = Receiver()
        self.broker.open(delivery=self.receiver, receiver=self.receiver)
        self.sent: list[str] = []
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.rooms.open()
        self._ticking = asyncio.create_task(self._tick_forever())

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        await self.rooms.close()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            self.broker.tick()

    async def talk(self, end: asyncio.Event) -> None:
        """Publish without a pause worth mentioning, as a client that repeats what was refused.

        What was refused can have been stored, so it does not end before that was repeated.
        """
        number, outcome = 0, None
        while not end.is_set() or isinstance(outcome, CommandError):
            id = f"{self.name} {number}"
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self.broker.publish(draft(id, by=self.name, id=id), answer.set_result)
            async with asyncio.timeout(PATIENCE_S):
                outcome = await answer
            if isinstance(outcome, CommandError):
                await asyncio.sleep(0.05)
            else:
                self.sent.append(id)
                number += 1
            await asyncio.sleep(0.002)


async def until_more_is_sent(*machines: Machine) -> None:
    """Wait until each machine has published something more."""
    enough = [len(each.sent) + 50 for each in machines]
    pairs = list(zip(machines, enough, strict=True))
    await until(lambda: all(len(each.sent) >= number for each, number in pairs))


@in_loop
async def test_killed_server_costs_nothing(own_server: PostgreSQL) -> None:
    """PostgreSQL is killed while two machines publish: all publications arrive at both, once and in
    one order, and nobody has left."""
    url = await make_ledger(parse_url(own_server.url))
    one, two = Machine(url, "one"), Machine(url, "two")
    try:
        for machine in (one, two):
            await machine.start()
            await join(machine.broker, machine.name)
        end = asyncio.Event()
        talking = [asyncio.create_task(machine.talk(end)) for machine in (one, two)]
        for _ in range(KILLS):
            await until_more_is_sent(one, two)
            await asyncio.to_thread(own_server.kill)
            await asyncio.to_thread(own_server.start)
        await until_more_is_sent(one, two)
        end.set()
        await asyncio.gather(*talking)
        total = len(one.sent) + len(two.sent)
        for machine in (one, two):
            await machine.receiver.until_delivered(total)
            assert machine.receiver.offsets == list(range(1, total + 1))
            assert Counter(machine.receiver.texts) == Counter(one.sent + two.sent)
            assert machine.receiver.losses == []
        assert one.receiver.texts == two.receiver.texts
        # Both hear of everything else before.
        assert names(await join(two.broker, "three")) == ["one", "two", "three"]
        await until(lambda: ("join", "three") in one.receiver.events)
        assert one.receiver.events == [("join", "two"), ("join", "three")]
        assert two.receiver.events == [("join", "three")]
    finally:
        for machine in (one, two):
            await machine.stop()


@asynccontextmanager
async def talking(url: EngineUrl, *machines: str) -> AsyncIterator[list[Machine]]:
    """Machines with a member each, who has the name of the machine."""
    made = [Machine(url, name) for name in machines]
    try:
        for machine in made:
            await machine.start()
            await join(machine.broker, machine.name)
        yield made
    finally:
        for machine in made:
            await machine.stop()


@in_loop
async def test_users_who_cannot_be_said_at_once_are_said_later(url: EngineUrl) -> None:
    """If the ledger refuses to take a machine's users back after its connections were lost, or to
    say who is there, the machine tries again: nobody has left, and newcomers are heard of."""
    async with talking(url, "one", "two") as (one, two), observer(url) as db:
        begun = await db.fetchval("SELECT max(claim) FROM machines")
        async with db.transaction():
            await db.execute("LOCK TABLE names")
            await db.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'fastchat' AND query ~ 'beat_1|pg_notify'"
            )
            await until_in(db, "(SELECT min(claim) FROM machines) > $1", begun)
            await until_in(db, "EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
            await db.execute("SELECT pg_sleep(1.8)")  # longer than `lock_timeout`
            assert not await db.fetchval("SELECT count(*) FROM attendance WHERE until IS NULL")
        await until_in(db, "(SELECT count(*) FROM attendance WHERE until IS NULL) = 2")
        await join(two.broker, "Newcomer")
        await one.receiver.until_events(("join", "two"), ("join", "Newcomer"))
        assert one.receiver.events == [("join", "two"), ("join", "Newcomer")]
        assert two.receiver.events == [("join", "Newcomer")]


@in_loop
async def test_room_that_is_lost_while_it_is_opened_refuses(url: EngineUrl) -> None:
    """A client that joins a room at the moment when it is lost is refused for now."""
    async with talking(url, "one") as (one,):
        rooms = one.rooms
        joining = asyncio.create_task(join(one.broker, "Ann", room="b"))
        while "b" not in rooms._opening.names:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0)
        rooms._opening._rooms["b"].opening.add_done_callback(lambda _: rooms._lose_room("b"))
        with pytest.raises(CommandError) as refused:
            await joining
        assert (refused.value.code, refused.value.temporary) == (ErrorCode.UNAVAILABLE, True)
        await join(one.broker, "Ann", room="b")


@in_loop
async def test_join_that_comes_to_nothing_leaves_nobody_behind(url: EngineUrl) -> None:
    """A user who was let in, but whose connection was refused after all, has a moment to come back,
    and then is gone."""
    async with talking(url, "one", "two") as (one, two), observer(url) as db:
        async with db.transaction():
            # So the join waits for what is published in the room.
            await db.execute("SELECT 1 FROM rooms FOR UPDATE")
            await db.execute("LOCK TABLE rooms")
            one.broker.publish(draft("waits", by="one"))
            joining = asyncio.create_task(join(one.broker, "Ann"))
            await until_in(db, "EXISTS (SELECT 1 FROM attendance WHERE key = 'ann')")
            await two.receiver.until_events(("join", "Ann"))
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        await until_in(
            db, "EXISTS (SELECT 1 FROM attendance WHERE key = 'ann' AND until IS NOT NULL)"
        )
        await join(two.broker, "Ann")
        assert two.receiver.events == [("join", "Ann")]


@in_loop
async def test_users_known_to_a_process_are_kept_for_a_moment(url: EngineUrl) -> None:
    """If a relay ends together with PostgreSQL, the users whom its workers know have a moment to be
    said again. Only those who are not said leave."""
    async with talking(url, "one", "two") as (one, two):
        ann, bob, cem = member("Ann"), member("Bob"), member("Cem")
        position = (await join(two.broker, ann, "b")).position
        returning = Returning("b", position, [(ann, 1)], [ann, bob, cem])
        assert await one.rooms.restore(one.broker, returning, gathering=True)
        assert names(await join(one.broker, "Dan", "b")) == ["Ann", "Bob", "Cem", "Dan"]
        await join(two.broker, bob, "b")
        for key in one.rooms._rosters._missing:
            one.rooms._rosters._missing[key] = 0.0
        await one.receiver.until_events(("join", "two"), ("join", "Dan"), ("leave", "Cem"))


@in_loop
async def test_missed_changes_have_the_right_numbers(url: EngineUrl) -> None:
    """A process that comes back is told of each user who came or left, with the number of users at
    that time."""
    async with talking(url, "one", "two") as (one, two):
        ann = member("Ann")
        position = (await join(two.broker, ann, "b")).position
        known = [ann, member("Bob"), member("Cem")]
        returning = Returning("b", position, [(ann, 1)], known)
        assert await one.rooms.restore(one.broker, returning, gathering=False)
        told = [each for each in one.receiver.received if each["room"] == "b"]
        assert [(each["username"], each["online"]) for each in told] == [("Bob", 2), ("Cem", 1)]


@in_loop
async def test_user_who_joins_while_connections_are_made_stays(url: EngineUrl) -> None:
    """A user whom the ledger has let in before the machine has connected again, and who is in the
    room only afterwards, is said again like all others."""
    async with talking(url, "one") as (one,), observer(url) as db:
        async with db.transaction():
            # So the join waits for what is published in the room.
            await db.execute("LOCK TABLE rooms")
            one.broker.publish(draft("waits", by="one"))
            joining = asyncio.create_task(join(one.broker, "Ann"))
            await until_in(db, "EXISTS (SELECT 1 FROM attendance WHERE key = 'ann')")
            # What the session does when it has connected again.
            await execute(url, "UPDATE attendance SET until = clock_timestamp() + interval '60 s'")
            one.rooms.connected()
        await joining
        await until_in(db, "(SELECT count(*) FROM attendance WHERE until IS NULL) = 2")
