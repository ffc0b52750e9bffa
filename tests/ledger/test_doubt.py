"""Tests of commits that fail, or whose answer is lost: nobody has to guess what was stored."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from contracts.history import draft
from fastchat.history import Duplicate
from fastchat.ledger import NotCommittedError, session
from fastchat.ledger.appending import Limits
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Message
from support.ledger import Machine, in_loop, observer, until_in
from support.postgresql import PostgreSQL
from support.wire import Wire

LIMITS = Limits(stored=10_000, slack=100)


@asynccontextmanager
async def opened(url: EngineUrl, name: str = "one") -> AsyncIterator[Machine]:
    machine = Machine(url, LIMITS, name)
    await machine.session.open()
    try:
        yield machine
    finally:
        await machine.session.close()


def through(url: EngineUrl, wire: Wire) -> EngineUrl:
    return parse_url(f"postgresql://postgres@127.0.0.1:{wire.port}/postgres?schema={url.schema}")


async def waits_for_lock(db: asyncpg.Connection, backend: int) -> None:
    await until_in(db, "pg_blocking_pids($1) <> '{}'", backend)


def writer_of(machine: Machine) -> int:
    """The process id of the backend that commits."""
    writer = machine.session._writer
    assert writer is not None
    return int(writer.get_server_pid())


@in_loop
async def test_lost_answer_is_asked_for(
    url: EngineUrl, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit whose answer is lost has the same outcomes as one whose answer arrives."""
    monkeypatch.setattr(session, "COMMIT_S", 0.3)
    async with Wire(server.port) as wire, opened(through(url, wire)) as machine:
        await machine.append(draft("one"), draft("two", id="i"))
        appending = asyncio.create_task(
            machine.append(draft("three"), draft(id="i"), draft("four"))
        )
        wire.loses_answers = True
        async with observer(url) as db:
            await until_in(db, "head = 4 FROM rooms")
        wire.cut()
        wire.loses_answers = False
        three, duplicate, four = await appending
        assert isinstance(three, Message)
        assert isinstance(four, Message)
        assert (three.offset, duplicate, four.offset) == (3, Duplicate("a", "i", 2), 4)
        assert [each.text for each in await machine.stored()] == ["one", "two", "three", "four"]


@in_loop
async def test_commit_that_did_not_happen_is_known(url: EngineUrl, server: PostgreSQL) -> None:
    """If the connection is lost before the commit, the machine knows that nothing is stored."""
    async with opened(url) as machine, observer(url) as db:
        await machine.append(draft("one"))
        async with db.transaction():
            await db.execute("SELECT 1 FROM rooms FOR UPDATE")
            appending = asyncio.create_task(machine.append(draft("two")))
            backend = writer_of(machine)
            await waits_for_lock(db, backend)
            await db.execute("SELECT pg_terminate_backend($1)", backend)
        with pytest.raises(NotCommittedError):
            await appending
        await machine.append(draft("three"))
        assert [each.text for each in await machine.stored()] == ["one", "three"]


@in_loop
async def test_frozen_commit_is_waited_for(url: EngineUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that hangs in the middle of a commit is neither killed nor overtaken."""
    monkeypatch.setattr(session, "COMMIT_S", 0.3)
    async with opened(url) as machine, observer(url) as db:
        await machine.append(draft("one"))
        backend = writer_of(machine)
        async with db.transaction():
            await db.execute("SELECT 1 FROM rooms FOR UPDATE")
            appending = asyncio.create_task(machine.append(draft("two")))
            await waits_for_lock(db, backend)
            os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.shield(appending)
        finally:
            os.kill(backend, signal.SIGCONT)
        (two,) = await appending
        assert isinstance(two, Message)
        assert two.offset == 2
        assert [each.text for each in await machine.stored()] == ["one", "two"]


@in_loop
async def test_cancelled_task_cancels_no_commit(url: EngineUrl) -> None:
    """A task that is cancelled closes the socket; the server is not asked to cancel anything."""
    async with opened(url) as machine, observer(url) as db:
        await machine.append(draft("one"))
        async with db.transaction():
            await db.execute("SELECT 1 FROM rooms FOR UPDATE")
            appending = asyncio.create_task(machine.append(draft("two")))
            backend = writer_of(machine)
            await waits_for_lock(db, backend)
            appending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await appending
            # A cancel request would end the wait for the lock, and with it the transaction.
            await asyncio.sleep(0.3)
            assert await db.fetchval("SELECT pg_blocking_pids($1) <> '{}'", backend)
        async with opened(url) as machine:
            assert [each.text for each in await machine.stored()] == ["one", "two"]


@in_loop
async def test_second_process_of_a_machine_takes_the_fence(url: EngineUrl) -> None:
    """The process that was the machine before can commit nothing more."""
    async with opened(url) as first:
        await first.append(draft("one"))
        async with opened(url) as second:
            await second.append(draft("two"))
            with pytest.raises(NotCommittedError) as caught:
                await first.append(draft("three"))
            assert caught.value.code == "FC001"
            assert [each.text for each in await second.stored()] == ["one", "two"]


@in_loop
async def test_machines_share_one_order(url: EngineUrl) -> None:
    """Several machines that publish in the same rooms at once: no offset is missing or used twice,
    and none of them waits for another in a circle."""
    names = ("one", "two", "three")
    rooms = ("a", "b", "c", "d")

    async def publish(machine: Machine, name: str) -> None:
        for turn in range(30):
            order = rooms if turn % 2 else tuple(reversed(rooms))
            await machine.append(*(draft(f"{name} {turn}", room=room, by=name) for room in order))

    async with opened(url, "one") as one, opened(url, "two") as two, opened(url, "three") as three:
        machines = (one, two, three)
        await asyncio.gather(*map(publish, machines, names))
        for room in rooms:
            stored = await one.stored(room)
            assert [each.offset for each in stored] == list(range(1, 91))
            for name in names:
                mine = [each.text for each in stored if each.username == name]
                assert mine == [f"{name} {turn}" for turn in range(30)]
