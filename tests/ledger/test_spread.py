"""Tests of rooms that are spread over several ledgers, while one of these is away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts.broker import Receiver, join, leave, member, texts
from contracts.history import NOW_S, draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.ledger import LedgerError, publishing, session
from fastchat.ledger import rooms as shared_rooms
from fastchat.ledger.appending import Limits
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.sharing import owner_of, settle
from fastchat.ledger.spread import SpreadRooms
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.limits.buckets import Budget
from fastchat.limits.rooms import RoomLimits
from fastchat.metrics import Metrics
from fastchat.rooms import Occupancy, Removal
from support.ledger import execute, in_loop, observer, until
from support.machines import chat_url
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let machines find out soon."""
    monkeypatch.setattr(session, "BEAT_S", 0.1)
    monkeypatch.setattr(session, "PATIENCE_S", 0.3)
    monkeypatch.setattr(publishing, "PATIENCE_S", 0.3)
    monkeypatch.setattr(shared_rooms, "UNREADY_S", 0.3)


class Leaving(Receiver):
    """A receiver that notes which shares of its clients are sent away."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_away: list[float] = []


class Machine:
    """A machine of one process on several ledgers; each room has a member, with the room's name."""

    def __init__(
        self, urls: Sequence[EngineUrl], name: str, *, patience_s: float = 30.0, max_rooms: int = 0
    ) -> None:
        self.name = name
        self.metrics = Metrics()
        self.receiver = Leaving()
        limits = RoomLimits(
            user=Budget(0, 1),
            room=Budget(0, 1),
            new_rooms=Budget(0, 1),
            max_rooms=max_rooms,
            clock=time.monotonic,
        )

        def make(url: EngineUrl, share: Share, elsewhere: Callable[[], int]) -> SharedRooms:
            return SharedRooms(
                url,
                name,
                secrets.token_hex(8),
                Witness(),
                room_limits=Limits(stored=100_000, slack=100),
                clock=lambda: NOW_S,
                metrics=self.metrics,
                limits=limits,
                patience_s=None,
                share=share,
                rooms_elsewhere=elsewhere,
            )

        self.rooms = SpreadRooms(urls, make, patience_s=patience_s)
        self.broker = MemoryBroker(self.rooms, self.receiver.sent_away.append)
        self.broker.open(delivery=self.receiver, receiver=self.receiver)

    async def tick_forever(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.broker.tick()

    async def say(self, room: str, text: str = "Hello") -> int | ErrorCode:
        """The offset of a message, or the code with which it is refused."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.broker.publish(draft(text, room=room, by=room), answer.set_result)
        async with asyncio.timeout(PATIENCE_S):
            outcome = await answer
        return outcome.code if isinstance(outcome, CommandError) else int(outcome)

    async def says(self, room: str) -> None:
        """Publish in a room until that succeeds."""
        async with asyncio.timeout(PATIENCE_S):
            while not isinstance(await self.say(room), int):  # noqa: ASYNC110 nothing tells when
                await asyncio.sleep(0.02)

    def gauge(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rooms.gauges()[name]
        return found


@asynccontextmanager
async def opened(
    urls: Sequence[EngineUrl], name: str = "one", **more: Any
) -> AsyncIterator[Machine]:
    machine = Machine(urls, name, **more)
    ticking = asyncio.create_task(machine.tick_forever())
    try:
        await machine.rooms.open()
        yield machine
    finally:
        ticking.cancel()
        await machine.rooms.close()


class Two:
    """Two ledgers, and a room in each: that of `lasting`, and that of a server of the test."""

    def __init__(self, lasting: PostgreSQL, mortal: PostgreSQL) -> None:
        self.mortal = mortal
        self.urls = [parse_url(chat_url(each)) for each in (lasting, mortal)]

    async def settle(self) -> None:
        """Let them share the rooms; `here` and `there` are rooms of theirs."""
        shares = dict(await settle(self.urls))
        self.here, self.there = (
            next(
                room
                for room in map(str, range(100))
                if owner_of(room, share.ledgers) == share.ledger
            )
            for share in (shares[url] for url in self.urls)
            if share is not None
        )

    async def kill(self) -> None:
        await asyncio.to_thread(self.mortal.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.mortal.start)


@pytest.fixture
def two(server: PostgreSQL, own_server: PostgreSQL) -> Two:
    return Two(server, own_server)


@in_loop
async def test_killed_ledger_takes_away_its_rooms_only(
    two: Two, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rooms are `unavailable`, the other ones go on, nobody is sent away, and everything is
    as before when it is back."""
    await two.settle()
    async with opened(two.urls, patience_s=1.0) as one, opened(two.urls[::-1], "two") as other:
        for machine in (one, other):
            for room in (two.here, two.there):
                await join(machine.broker, machine.name, room)
        assert [await one.say(room) for room in (two.here, two.there)] == [1, 1]
        await two.kill()
        assert await one.say(two.there) == ErrorCode.UNAVAILABLE
        assert await one.say(two.here) == 2
        assert await other.say(two.here) == 3
        with pytest.raises(CommandError) as refused:
            await join(one.broker, "Late", two.there)
        assert refused.value.code == ErrorCode.UNAVAILABLE
        await join(one.broker, "Late", two.here)
        here, there = (url.place for url in two.urls)
        await until(lambda: one.gauge("engine_up") == {here: 1, there: 0})
        await until(lambda: one.gauge("engine_faults")[there] is not None)
        await until(lambda: max(each.silent_s for each in one.rooms._ledgers) > 1.2)
        assert one.rooms.fault is None
        assert one.receiver.sent_away == []
        assert f"{there}: the connections to the ledger are lost" in caplog.text
        assert f"{here}: " not in caplog.text
        await two.start()
        await one.says(two.there)
        await until(lambda: one.gauge("engine_up") == {here: 1, there: 1})
        assert one.receiver.losses == other.receiver.losses == []
        await other.receiver.until(
            lambda: two.there in {e["room"] for e in other.receiver.delivered[3:]}
        )


@in_loop
async def test_clients_are_sent_away_if_all_ledgers_are_away(own_server: PostgreSQL) -> None:
    """Then another machine is the only hope."""
    urls = [parse_url(chat_url(own_server)) for _ in range(2)]
    async with opened(urls, patience_s=0.1) as one:
        for number in range(8):
            await join(one.broker, "Ann", f"room-{number}")
        await asyncio.to_thread(own_server.kill)
        await until(lambda: one.rooms.fault is not None)
        assert one.rooms.fault.count("PostgreSQL has not answered") == 2
        await until(lambda: bool(one.receiver.sent_away))


@in_loop
async def test_machine_starts_without_one_of_the_ledgers(two: Two) -> None:
    """It serves the rooms of the others at once, and those of the missing one when it is there."""
    await two.settle()
    await two.kill()
    async with opened(two.urls[::-1]) as one:
        assert await one.say(two.here) == 1
        await join(one.broker, "Ann", two.here)
        assert await one.say(two.there) == ErrorCode.UNAVAILABLE
        for call in (
            join(one.broker, "Ann", two.there),
            one.rooms.pages.before(two.there, None, 10),
            one.rooms.remove(Removal(two.there, None, "Ann", 10, "Bob")),
        ):
            with pytest.raises(CommandError) as refused:
                await call
            assert refused.value.code == ErrorCode.UNAVAILABLE
        await leave(one.broker, "Ann", two.there)  # confirmed, although nobody was counted
        one.broker.lose(two.there, member())
        one.broker.tell(two.there, b"{}")
        there = two.urls[1].place
        assert one.gauge("engine_up")[there] == 0
        assert "was not reached yet" in one.gauge("engine_faults")[there]
        assert one.rooms.fault is None
        await two.start()
        await one.says(two.there)
        assert texts(await join(one.broker, "Ann", two.there)) == ["Hello"]


@in_loop
async def test_start_needs_one_ledger(two: Two) -> None:
    """Without any, and without all if they are new, the start fails with a sentence; a relay that
    takes the place of another one waits instead."""
    await two.kill()
    with pytest.raises(LedgerError, match="for the first time, all have to be there"):
        await Machine(two.urls, "one").rooms.open()
    dead = [parse_url(f"{two.mortal.url}?schema=a_{number}") for number in range(2)]
    with pytest.raises(LedgerError, match="PostgreSQL cannot be reached"):
        await Machine(dead, "one").rooms.open()
    machine = Machine(dead, "one")
    assert machine.rooms.occupancy == Occupancy(rooms=0, users=0, absent=0, spectators=0)
    opening = asyncio.create_task(machine.rooms.open(again=True))
    try:
        await two.start()
        async with asyncio.timeout(PATIENCE_S):
            await opening
        assert await machine.say("a") == 1
    finally:
        opening.cancel()
        await machine.rooms.close()


@in_loop
async def test_wrong_ledger_that_comes_late_is_not_used(two: Two) -> None:
    """A machine was told of another one than the missing one: it says so, and serves the others."""
    await two.settle()
    await two.kill()
    wrong = parse_url(f"{two.mortal.url}?schema=wrong")
    async with opened([two.urls[0], wrong]) as one:
        assert await one.say(two.here) == 1
        await two.start()
        await until(lambda: "is not one of the 2" in one.gauge("engine_faults")[wrong.place])
        assert await one.say(two.there) == ErrorCode.UNAVAILABLE
        assert await one.say(two.here) == 2


async def stored(url: EngineUrl) -> tuple[Any, ...]:
    async with observer(url) as db:
        return tuple(await db.fetchrow("SELECT ledger, ledgers, user_key FROM identity"))


@in_loop
async def test_interrupted_start_is_completed_by_a_machine_that_serves(two: Two) -> None:
    """The ledger without the ids was away when the machine started. It gets them later."""
    await two.settle()
    kept = await stored(two.urls[1])
    undo = "UPDATE identity SET ledgers = ARRAY[ledger], user_key = 'x'"
    await execute(two.urls[1], undo)
    await two.kill()
    async with opened(two.urls) as one:
        assert await one.say(two.here) == 1
        await two.start()
        await one.says(two.there)
    assert await stored(two.urls[1]) == kept


@in_loop
async def test_limit_of_rooms_counts_all_ledgers(server: PostgreSQL) -> None:
    """--max-rooms is about the machine."""
    urls = [parse_url(chat_url(server)) for _ in range(2)]
    async with opened(urls, max_rooms=4) as one:
        for number in range(4):
            await join(one.broker, "Ann", f"room-{number}")
        with pytest.raises(CommandError) as refused:
            await join(one.broker, "Ann", "one-more")
        assert refused.value.code == ErrorCode.TOO_MANY_ROOMS
        assert one.rooms.occupancy == Occupancy(rooms=4, users=4, absent=0, spectators=0)
