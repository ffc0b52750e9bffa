"""Tests of what the ledger forgets in the course of time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from contracts.history import draft
from fastchat.history import Duplicate
from fastchat.ledger.appending import Limits
from fastchat.ledger.rows import digest_of
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import EngineUrl
from fastchat.metrics import Metrics
from fastchat.protocol import MessageDraft
from fastchat.protocol.publications import timestamp_of
from support.ledger import Machine, in_loop

NOW = 1_800_000_000.0


@asynccontextmanager
async def opened(url: EngineUrl, name: str = "one") -> AsyncIterator[Machine]:
    machine = Machine(url, Limits(stored=10_000, slack=100), name)
    await machine.session.open()
    try:
        yield machine
    finally:
        await machine.session.close()


def upkeep(machine: Machine, *, max_age_s: float = 0.0, remember_ids_s: float = 600.0) -> Upkeep:
    return Upkeep(
        machine.session,
        clock=lambda: NOW,
        max_age_s=max_age_s,
        metrics=Metrics(),
        remember_ids_s=remember_ids_s,
    )


def aged(seconds: float, *, room: str = "a") -> MessageDraft:
    return draft(f"{seconds:.0f} s", room=room)._replace(timestamp=timestamp_of(NOW - seconds))


async def texts(machine: Machine, room: str = "a") -> list[str]:
    """The texts of the messages that are stored of a room."""
    page = await machine.reader.after(room, 0, 100)
    return [each.text for each in page.publications]


@in_loop
async def test_id_is_remembered_until_the_second_change(url: EngineUrl) -> None:
    """An id outlives one change of the halves, because it can be new; the next one forgets it."""
    async with opened(url) as one:
        await one.append(draft("first", id="i"))
        await upkeep(one).tick()  # nothing is due
        await upkeep(one, remember_ids_s=0).tick()
        assert await one.append(draft("again", id="i")) == [Duplicate("a", "i", 1)]
        await one.append(draft("second", id="j"))
        await upkeep(one, remember_ids_s=0).tick()
        assert await one.append(draft("again", id="j")) == [Duplicate("a", "j", 2)]
        (third,) = await one.append(draft("again", id="i"))
        assert not isinstance(third, Duplicate)


@in_loop
async def test_ids_of_both_halves_are_known_in_one_commit(url: EngineUrl) -> None:
    """Ids of either half, new ones, and repetitions of these can come together."""
    async with opened(url) as one:
        await one.append(draft("first", id="i"), draft("other", id="i", room="b"))
        await upkeep(one, remember_ids_s=0).tick()
        await one.append(draft("second", id="j"))
        outcomes = await one.append(
            draft("again", id="j"),
            draft("new", id="k"),
            draft("without"),
            draft("again", id="i"),
            draft("again", id="k"),
            draft("new", id="j", room="b"),
            draft("again", id="i", room="b"),
            draft("last", id="l"),
        )
        assert outcomes[0] == Duplicate("a", "j", 2)
        assert outcomes[3:5] == [Duplicate("a", "i", 1), Duplicate("a", "k", 3)]
        assert outcomes[6] == Duplicate("b", "i", 1)
        assert await texts(one) == ["first", "second", "new", "without", "last"]
        assert await texts(one, "b") == ["other", "new"]


def test_digest_tells_whose_id_it_is() -> None:
    """Room, user and id cannot run into each other."""
    parts = [
        ("a", "bc", "d"),
        ("ab", "c", "d"),
        ("a", "b", "cd"),
        ("a", "b c", "d"),
        ("", "a", "bcd"),
    ]
    assert len({digest_of(*each) for each in parts}) == len(parts)
    assert digest_of("é", "b", "c") != digest_of("e", "\u0301b", "c")


@in_loop
async def test_halves_change_once_for_all_machines(url: EngineUrl) -> None:
    """If every machine looks, the ids of the last minutes are still remembered."""
    async with opened(url) as one, opened(url, "two") as two:
        await one.append(draft("first", id="i"))
        await one.session.fetch("UPDATE rotations SET at = now() - interval '11 min'")
        for machine in (one, two, one, two):
            await upkeep(machine).tick()
        assert await two.append(draft("again", id="i")) == [Duplicate("a", "i", 1)]
        assert (await one.session.fetch("SELECT half FROM identity"))[0][0] == 1


@in_loop
async def test_change_of_halves_does_not_wait_for_a_commit(url: EngineUrl) -> None:
    """While a commit holds the older ids, nothing changes and nothing fails; it is done later."""
    async with opened(url) as one:
        db = await asyncpg.connect(url.dsn, server_settings={"search_path": url.schema})
        try:
            async with db.transaction():
                await db.execute("INSERT INTO ids_1 VALUES ('', 1)")
                await upkeep(one, remember_ids_s=0).tick()
                assert await db.fetchval("SELECT half FROM identity") == 0
            await upkeep(one, remember_ids_s=0).tick()
            assert await db.fetchval("SELECT half FROM identity") == 1
            assert await db.fetchval("SELECT count(*) FROM ids_1") == 0
        finally:
            await db.close()


@in_loop
async def test_old_publications_are_dropped(url: EngineUrl) -> None:
    """The first publications of each room that are too old go; offsets go on as before."""
    async with opened(url) as one:
        await one.append(*(aged(seconds) for seconds in (90, 61, 59, 62, 1)))
        await one.append(aged(90, room="b"), aged(80, room="b"))
        await upkeep(one).tick()
        assert len(await texts(one)) == 5, "age does not matter"
        await upkeep(one, max_age_s=60).tick()
        assert await texts(one) == ["59 s", "62 s", "1 s"]
        assert await texts(one, "b") == []
        (kept,) = await one.append(aged(0, room="b"))
        assert kept.offset == 3  # type: ignore[union-attr]
        assert len(await texts(one, "b")) == 1


@in_loop
async def test_each_step_examines_some_rooms(url: EngineUrl) -> None:
    """All rooms have their turn, those with very many old publications several times."""
    async with opened(url) as one:
        rooms = [f"room {number:03}" for number in range(100)]
        await one.append(*(aged(90, room=room) for room in rooms))
        await one.append(*(aged(90, room=rooms[99]) for _ in range(300)))
        step = upkeep(one, max_age_s=60)
        stored = "SELECT room, count(*) FROM publications GROUP BY room"
        lengths = []
        for _ in range(4):
            await step.tick()
            lengths.append(len(await one.session.fetch(stored)))
        assert lengths == [36, 1, 1, 0]


@in_loop
async def test_locked_room_is_left_out(url: EngineUrl) -> None:
    """Nobody waits for a room in which somebody publishes; it has its turn later."""
    async with opened(url) as one:
        await one.append(aged(90), aged(90, room="b"))
        db = await asyncpg.connect(url.dsn, server_settings={"search_path": url.schema})
        try:
            async with db.transaction():
                await db.execute("SELECT 1 FROM rooms WHERE name = 'a' FOR UPDATE")
                await upkeep(one, max_age_s=60).tick()
                assert len(await texts(one)) == 1
                assert await texts(one, "b") == []
            await upkeep(one, max_age_s=60).tick()
            assert await texts(one) == []
        finally:
            await db.close()
