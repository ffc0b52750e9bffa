"""Tests of a machine's connections: which process has them, what the log says, what is left."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contracts.history import draft
from fastchat.ledger import LedgerError, MachineTakenError, NotCommittedError, session
from fastchat.ledger.appending import Limits
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Message
from support.ledger import Machine, in_loop, observer, until
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S
from support.wire import Wire

LIMITS = Limits(stored=10_000, slack=100)


class Watched(Machine):
    """A machine that counts its connections, and keeps the errors."""

    connections = 0

    def __init__(self, url: EngineUrl, name: str = "one") -> None:
        super().__init__(url, LIMITS, name)
        self.errors: list[LedgerError] = []

    def connected(self) -> None:
        self.connections += 1

    def disconnected(self, why: LedgerError) -> None:
        super().disconnected(why)
        self.errors.append(why)

    @property
    def has_ended(self) -> bool:
        return bool(self.errors) and isinstance(self.errors[-1], MachineTakenError)


@asynccontextmanager
async def opened(url: EngineUrl, name: str = "one") -> AsyncIterator[Watched]:
    machine = Watched(url, name)
    await machine.session.open()
    try:
        yield machine
    finally:
        await machine.session.close()


def through(url: EngineUrl, wire: Wire) -> EngineUrl:
    return parse_url(f"postgresql://postgres@127.0.0.1:{wire.port}/postgres?schema={url.schema}")


class TestName:
    @in_loop
    async def test_later_process_gives_up(
        self, url: EngineUrl, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of two servers with one machine name, the one that was started later stops with one
        sentence; the other one goes on."""
        monkeypatch.setattr(session, "BEAT_S", 0.02)
        async with opened(url) as earlier, opened(url) as later:
            await until(lambda: later.has_ended)
            sentence = str(later.errors[-1])
            assert "two servers have the machine name 'one'" in sentence
            assert caplog.messages.count(sentence) == 1
            taken = [each for each in earlier.losses if "another process is this machine" in each]
            assert len(taken) <= session.MAX_TAKEN + 1
            with pytest.raises(LedgerError, match="two servers"):
                await later.reader.position("a")
            with pytest.raises(NotCommittedError, match="two servers"):
                await later.append(draft("two"))
            with pytest.raises(LedgerError, match="two servers"):
                async with later.session.helping():
                    pass
            assert not later.session.is_connected
            # The earlier one gets the machine back from the last claim of the later one.
            async with observer(url) as db, asyncio.timeout(PATIENCE_S):
                while await db.fetchval("SELECT boot FROM machines") != earlier.session._boot:
                    await db.execute("SELECT pg_sleep(0.01)")
            await until(lambda: earlier.session.is_connected)
            number = earlier.connections
            await earlier.append(draft("one"))
            await asyncio.sleep(0.3)
            assert earlier.session.is_connected
            assert earlier.connections == number
            assert [each.text for each in await earlier.stored()] == ["one"]

    @in_loop
    async def test_rare_replacements_are_no_contest(
        self, url: EngineUrl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only what happens within a minute counts."""
        monkeypatch.setattr(session, "BEAT_S", 0.02)
        monkeypatch.setattr(session, "TAKEN_S", 0.0)
        async with opened(url) as earlier, opened(url) as later:
            await until(lambda: len(later.errors) > 2 * session.MAX_TAKEN)
            assert not later.has_ended
            assert not earlier.has_ended

    @in_loop
    async def test_restarted_process_takes_the_machine(self, url: EngineUrl) -> None:
        """A process follows another one without a contest, as often as it likes."""
        for turn in range(2 * session.MAX_TAKEN):
            async with opened(url) as machine:
                await machine.append(draft(str(turn)))
        async with opened(url) as machine:
            assert len(await machine.stored()) == 2 * session.MAX_TAKEN


class TestDoubt:
    @in_loop
    async def test_machine_was_another_process_meanwhile(
        self, url: EngineUrl, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last commit is that of the other process then, so nobody knows what has become of
        one's own."""
        monkeypatch.setattr(session, "COMMIT_S", 0.3)
        async with Wire(server.port) as wire, opened(through(url, wire)) as first:
            await first.append(draft("one"))
            appending = await in_doubt(url, wire, first)
            async with opened(url) as second:
                await second.append(draft("three"))
            wire.refuses = False
            with pytest.raises(LedgerError, match="another process") as caught:
                await appending
            assert not isinstance(caught.value, NotCommittedError)
            await first.append(draft("four"))
            texts = [each.text for each in await first.stored()]
            assert texts == ["one", "two", "three", "four"]

    @in_loop
    async def test_machine_was_silent_meanwhile(
        self, url: EngineUrl, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine that others have taken for dead still learns what has become of its commit."""
        monkeypatch.setattr(session, "COMMIT_S", 0.3)
        async with Wire(server.port) as wire, opened(through(url, wire)) as machine:
            await machine.append(draft("one"))
            appending = await in_doubt(url, wire, machine)
            async with observer(url) as db:
                await db.execute("UPDATE machines SET boot = ''")
                await db.execute("UPDATE fences SET incarnation = incarnation + 1")
            wire.refuses = False
            (two,) = await appending
            assert isinstance(two, Message)
            assert two.offset == 2
            await machine.append(draft("three"))
            assert [each.text for each in await machine.stored()] == ["one", "two", "three"]


async def in_doubt(url: EngineUrl, wire: Wire, machine: Machine) -> asyncio.Task[list[object]]:
    """A commit that has happened and whose answer is lost; the wire refuses connections."""
    wire.loses_answers = True
    appending: asyncio.Task[list[object]] = asyncio.create_task(
        machine.append(draft("two"))  # type: ignore[arg-type]
    )
    async with observer(url) as db, asyncio.timeout(PATIENCE_S):
        while await db.fetchval("SELECT head FROM rooms") != 2:
            await db.execute("SELECT pg_sleep(0.01)")
    wire.refuses = True
    wire.cut()
    wire.loses_answers = False
    return appending


class TestConnections:
    @in_loop
    async def test_log_tells_once(
        self,
        url: EngineUrl,
        server: PostgreSQL,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An outage is a line at its beginning, one with the reason, and one at its end."""
        caplog.set_level(logging.INFO, "fastchat")
        monkeypatch.setattr(session, "RETRY_S", 0.01)
        monkeypatch.setattr(session, "MAX_RETRY_S", 0.01)
        async with Wire(server.port) as wire, opened(through(url, wire)) as machine:
            caplog.clear()
            wire.refuses = True
            wire.cut()
            await asyncio.sleep(0.5)
            wire.refuses = False
            await until(lambda: machine.connections == 2)
            lost, reason, again = caplog.messages
            assert lost.startswith("the connections to the ledger are lost: ")
            assert reason.startswith("the ledger cannot be reached, and is tried again: ")
            assert re.fullmatch(r"the ledger is connected again, after [0-9.]+ s", again)

    @in_loop
    async def test_waiting_writer_is_told(
        self, url: EngineUrl, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If a new writer has to wait for long, the log says for what."""
        monkeypatch.setattr(session, "SLOW_S", 0.1)
        async with observer(url) as db:
            async with opened(url) as machine:
                fence = machine.session._fence
            async with db.transaction():
                await db.execute("SELECT pg_advisory_xact_lock_shared($1)", fence)
                opening = asyncio.create_task(Watched(url).session.open())
                await until(lambda: "the ledger waits" in caplog.text)
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)

    @in_loop
    async def test_close_ends_those_who_wait(self, url: EngineUrl, server: PostgreSQL) -> None:
        """A session that is closed connects no more, whatever was under way."""
        async with Wire(server.port) as wire, opened(through(url, wire)) as machine:
            await machine.append(draft("one"))
            appending = await in_doubt(url, wire, machine)
            reading = asyncio.create_task(machine.reader.position("a"))
            await asyncio.sleep(0.1)
            await machine.session.close()
            wire.refuses = False
            for waiting in (appending, reading):
                with pytest.raises(LedgerError, match="closed"):
                    await waiting
            async with observer(url) as db:
                assert await db.fetchval("SELECT incarnation FROM fences") == 1

    @in_loop
    async def test_close_while_connecting(self, url: EngineUrl, server: PostgreSQL) -> None:
        """A session can be closed while a new writer waits for an earlier commit."""
        waiting = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory')"
        async with (
            Wire(server.port) as wire,
            opened(through(url, wire)) as machine,
            observer(url) as holder,
            observer(url) as db,
            holder.transaction(),
        ):
            fence = machine.session._fence
            await holder.execute("SELECT pg_advisory_xact_lock_shared($1)", fence)
            wire.cut()
            async with asyncio.timeout(PATIENCE_S):
                while not await db.fetchval(waiting):
                    await db.execute("SELECT pg_sleep(0.01)")
            closing = asyncio.create_task(machine.session.close())
            await asyncio.wait({closing}, timeout=PATIENCE_S / 3)
            assert closing.done()

    @in_loop
    async def test_lost_connections_leave_nothing(self, url: EngineUrl, server: PostgreSQL) -> None:
        """Each new set of connections replaces the one before, also that for searches."""
        async with Wire(server.port) as wire, opened(through(url, wire)) as machine:
            for number in range(2, 12):
                async with machine.session.helping() as helper:
                    await helper.fetch("SELECT 1")
                wire.cut()
                await until(lambda number=number: machine.connections == number)  # type: ignore[misc]
            async with machine.session.helping() as helper:
                await helper.fetch("SELECT 1")
            async with observer(url) as db, asyncio.timeout(PATIENCE_S):
                while (
                    await db.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fastchat'"
                    )
                    > 5
                ):
                    await db.execute("SELECT pg_sleep(0.01)")

    @in_loop
    async def test_helper_on_another_server_is_refused(
        self, url: EngineUrl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection for searches that finds another token is not used, also at the next try."""
        monkeypatch.setattr(session, "BEAT_S", 1000)
        async with opened(url) as machine, observer(url) as db:
            await until(lambda: bool(machine.commits))
            await db.execute("UPDATE identity SET token = 'other'")
            for _ in range(2):
                with pytest.raises(LedgerError, match="different servers"):
                    async with machine.session.helping():
                        pass
            await db.execute("UPDATE identity SET token = ''")
            async with machine.session.helping() as helper:
                assert await helper.fetchval("SELECT 1") == 1
