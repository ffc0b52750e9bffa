"""Tests of a ledger whose database is replaced, is restored, crashes, or waits for a standby.

The short run is part of every test run; environment variables make it longer (`make soak`):
SOAK_DATABASE_CRASHES and SOAK_DATABASE_RESTORES.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts.history import draft
from fastchat.ledger import LedgerError, NotCommittedError, administration, session
from fastchat.ledger.appending import Limits
from fastchat.ledger.connecting import connect
from fastchat.ledger.identity import FILE_NAME, Identity, Witness, identify
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Message, Position
from support.ledger import Machine, in_loop, make_ledger, observer, until
from support.postgresql import FAST, PostgreSQL, postgresql, standby
from support.server import PATIENCE_S, TIMEOUT_UNIT_S
from support.wire import Wire

LIMITS = Limits(stored=100_000, slack=100)
CRASHES = int(os.environ.get("SOAK_DATABASE_CRASHES", 3))
RESTORES = int(os.environ.get("SOAK_DATABASE_RESTORES", 1))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let machines find out soon, and come back soon."""
    monkeypatch.setattr(session, "BEAT_S", 0.1)
    monkeypatch.setattr(session, "MAX_RETRY_S", 0.1)


class Watched(Machine):
    """A machine that counts its beats and connections."""

    beats = connections = 0

    def connected(self) -> None:
        self.connections += 1

    def beaten(self, machines: Sequence[Sequence[Any]]) -> None:
        super().beaten(machines)
        self.beats += 1


def url_of(*servers: PostgreSQL | Wire) -> EngineUrl:
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in servers)
    return parse_url(
        f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&sslmode=disable"
    )


@asynccontextmanager
async def opened(
    url: EngineUrl, name: str = "one", witness: Witness | None = None
) -> AsyncIterator[Watched]:
    machine = Watched(url, LIMITS, name, witness)
    await machine.session.open()
    try:
        yield machine
    finally:
        await machine.session.close()


async def until_row(db: asyncpg.Connection, query: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await db.fetchval(f"SELECT EXISTS ({query})"):
            await db.execute("SELECT pg_sleep(0.01)")


@asynccontextmanager
async def reconnecting(*machines: Watched) -> AsyncIterator[None]:
    """In the block, the machines lose their connections; afterwards they have new ones."""
    before = [each.connections for each in machines]
    yield
    await until(
        lambda: all(
            each.connections > number for each, number in zip(machines, before, strict=True)
        )
    )


class Publisher:
    """Publishes in a room as long as the block runs, and notes what has become of each text."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.kept: list[str] = []
        self.refused: list[str] = []
        self._stops = False

    async def __aenter__(self) -> Publisher:
        self._task = asyncio.create_task(self._publish())
        await self.goes_on()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stops = True
        async with asyncio.timeout(PATIENCE_S):
            await self._task

    async def goes_on(self) -> None:
        """Wait until something more was kept."""
        number = len(self.kept)
        await until(lambda: len(self.kept) > number + 3)

    async def _publish(self) -> None:
        number = 0
        while not self._stops:
            number += 1
            text = str(number)
            try:
                (outcome,) = await self._machine.append(draft(text))
            except NotCommittedError:
                self.refused.append(text)
                await asyncio.sleep(0.01)
                continue
            assert isinstance(outcome, Message)
            self.kept.append(text)


async def texts(machine: Machine) -> list[str]:
    return [each.text for each in await machine.stored()]


@in_loop
async def test_synchronous_standby_is_promoted() -> None:
    """Nothing that a commit has returned is missing, and nothing is there twice."""
    with postgresql(*FAST) as primary, standby(primary) as other:
        primary.configure_now("synchronous_standby_names = '*'")
        async with opened(await make_ledger(url_of(primary, other))) as machine:
            token = machine.session.identity.token
            async with Publisher(machine) as publisher:
                old = await machine.reader.position("a")
                async with reconnecting(machine):
                    await asyncio.to_thread(primary.crash)
                    await asyncio.to_thread(other.promote)
                await publisher.goes_on()
            assert await texts(machine) == publisher.kept
            assert machine.session.identity.token != token
            assert (await machine.reader.position("a")).epoch != old.epoch
            assert await machine.reader.since("a", old, 10**6) is None
            assert await machine.reader.since("a", Position(old.epoch, 0), 10**6) is None


@in_loop
async def test_asynchronous_standby_is_promoted_without_a_tail() -> None:
    """Publications that the standby does not have are missing, and no client is told otherwise."""
    with postgresql(*FAST) as primary, standby(primary) as other:
        async with opened(await make_ledger(url_of(primary, other))) as machine:
            await machine.append(draft("one"), draft("two"))
            early = await machine.reader.position("a")
            head = primary.query("SELECT pg_current_wal_lsn()")
            await until(
                lambda: other.query(f"SELECT pg_last_wal_replay_lsn() >= '{head}'::pg_lsn") == "t"
            )
            other.stop()
            await machine.append(draft("lost"), draft("lost as well"))
            late = await machine.reader.position("a")
            async with reconnecting(machine):
                await asyncio.to_thread(primary.crash)
                await asyncio.to_thread(other.start)
                await asyncio.to_thread(other.promote)
            await machine.append(draft("three"), draft("four"), draft("five"))
            assert await texts(machine) == ["one", "two", "three", "four", "five"]
            for position in (early, late, Position(early.epoch, 0)):
                assert await machine.reader.since("a", position, 10**6) is None


@pytest.mark.soak
@in_loop
async def test_older_primary_is_refused(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Nothing is published or read on a primary that a standby has replaced, unless an operator
    accepts it. Then the rooms have other epochs."""
    file = tmp_path / FILE_NAME
    with postgresql(*FAST) as primary, standby(primary) as other:
        url = await make_ledger(url_of(primary, other))
        async with opened(url, witness=Witness(file)) as machine:
            await machine.append(draft("one"))
            old = (await machine.reader.position("a")).epoch
            async with reconnecting(machine):
                await asyncio.to_thread(primary.crash)
                await asyncio.to_thread(other.promote)
            await machine.append(draft("two"))
            new = (await machine.reader.position("a")).epoch
            async with reconnecting(machine):
                await asyncio.to_thread(other.stop)
                await asyncio.to_thread(primary.start)
                await until(lambda: "which another server has left behind" in caplog.text)
                appending = asyncio.create_task(machine.append(draft("three")))
                with pytest.raises(LedgerError):
                    await machine.reader.position("a")
                await asyncio.to_thread(primary.stop)
                await asyncio.to_thread(other.start)
            with pytest.raises(NotCommittedError):
                await appending
            assert await texts(machine) == ["one", "two"]
            lines = [each for each in caplog.messages if "left behind" in each]
            assert len(lines) == 1
        primary.start()
        with pytest.raises(LedgerError, match=r"left behind.*`fastchat engine accept`"):
            await Machine(url, LIMITS, witness=Witness(file)).session.open()
        report = await administration.accept(url)
        assert report.startswith("accepted the server on timeline 00000001: all rooms have new")
        async with opened(url, witness=Witness(file)) as machine:
            await machine.append(draft("three"))
            assert await texts(machine) == ["one", "three"]
            assert (await machine.reader.position("a")).epoch not in (old, new)


@in_loop
async def test_commit_waits_for_an_absent_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that a standby must have is visible to nobody before, also after it was given up;
    then its outcome is known. Beats and reads go on meanwhile."""
    monkeypatch.setattr(session, "COMMIT_S", 0.3)
    monkeypatch.setattr(session, "BEAT_S", 0.05)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    locked = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"
    with postgresql(*FAST) as primary, standby(primary) as other:
        primary.configure_now("synchronous_standby_names = '*'")
        url = await make_ledger(url_of(primary))
        async with opened(url) as machine, opened(url, "two") as second, observer(url) as db:
            await machine.append(draft("one"))
            other.stop()
            appending = asyncio.create_task(machine.append(draft("two"), draft("three")))
            await until_row(db, waiting)
            beats, others_beats = machine.beats, second.beats
            await until_row(db, locked)  # the writer that asks for the outcome
            await until(lambda: machine.beats > beats + 5 and second.beats > others_beats + 5)
            assert await texts(machine) == await texts(second) == ["one"]
            assert await db.fetchval(f"SELECT EXISTS ({waiting})")
            assert not appending.done()
            assert machine.losses == second.losses == []
            other.start()
            two, three = await appending
            assert isinstance(two, Message)
            assert isinstance(three, Message)
            assert (two.offset, three.offset) == (2, 3)
            await machine.append(draft("four"))
            assert await texts(second) == ["one", "two", "three", "four"]


@in_loop
async def test_crash_while_the_standby_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, PostgreSQL shows a commit that the standby does not have. No machine reads
    it."""
    monkeypatch.setattr(session, "PATIENCE_S", 0.2)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with postgresql(*FAST) as primary, standby(primary) as other:
        primary.configure_now("synchronous_standby_names = '*'")
        url = await make_ledger(url_of(primary))
        async with opened(url) as machine:
            await machine.append(draft("one"))
            other.stop()
            appending = asyncio.create_task(machine.append(draft("two")))
            async with observer(url) as db:
                await until_row(db, waiting)
            async with reconnecting(machine):
                await asyncio.to_thread(primary.crash)
                await asyncio.to_thread(primary.start)
                async with observer(url) as db:
                    assert await db.fetchval("SELECT head FROM rooms") == 2
                    await until_row(db, waiting)  # the machine asks which commit was the last
                with pytest.raises(LedgerError):
                    await machine.reader.position("a")
                assert not appending.done()
                await asyncio.to_thread(other.start)
            (two,) = await appending
            assert isinstance(two, Message)
            assert await texts(machine) == ["one", "two"]


async def fill(machine: Machine) -> None:
    """Publish so much that the log of a restored server is shorter."""
    for turn in range(20):
        await machine.append(*(draft(f"{turn} {number} " + "x" * 200) for number in range(10)))


def flushed(file: Path) -> int:
    """How much of the server's log a machine has seen, from its file."""
    return int(json.loads(file.read_text())["flushed"])


@in_loop
async def test_base_backup_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the server has the same identifier and timeline. The end of its log tells, also
    after a restart of the machine; and only one machine renews the token."""
    monkeypatch.setattr(session, "BEAT_S", 0.05)
    one, two = tmp_path / "one", tmp_path / "two"
    with postgresql(*FAST) as server:
        url = await make_ledger(url_of(server))
        async with opened(url, "one", Witness(one)) as first, opened(url, "two", Witness(two)):
            await first.append(draft("one"))
            backup = await asyncio.to_thread(server.base_backup)
            await fill(first)
            old = await first.reader.position("a")
            end = int(server.query("SELECT pg_current_wal_flush_lsn() - '0/0'"))
            await until(lambda: flushed(one) >= end and flushed(two) >= end)
        await asyncio.to_thread(server.restore, backup)
        async with opened(url, "one", Witness(one)) as first:
            token = first.session.identity.token
            assert token
            assert await texts(first) == ["one"]
            assert await first.reader.since("a", old, 10**6) is None
            assert await first.reader.since("a", Position(old.epoch, 1), 10**6) is None
            async with opened(url, "two", Witness(two)) as second:
                assert second.session.identity.token == token
                assert second.session.identity.renewed == first.session.identity.renewed
        async with opened(url, "one", Witness(one)) as first:
            assert first.session.identity.token == token


@in_loop
async def test_backup_is_restored_under_running_machines() -> None:
    """Machines that were connected find out as well, and agree on one token each time. A backup
    that was made under an older token does not bring it back."""
    with postgresql(*FAST) as server:
        url = await make_ledger(url_of(server))
        async with opened(url, "one") as one, opened(url, "two") as two:
            await one.append(draft("one"))
            backup = await asyncio.to_thread(server.base_backup)
            epochs = {(await one.reader.position("a")).epoch}
            for turn in range(RESTORES):
                await fill(one)
                async with reconnecting(one, two):
                    await asyncio.to_thread(server.restore, backup)
                # A machine that connected under the older token connects again.
                await until(lambda: one.session.identity.token == two.session.identity.token)
                epochs.add((await one.reader.position("a")).epoch)
                assert len(epochs) == 2 + turn
                assert await texts(one) == await texts(two) == ["one"]
            later = await asyncio.to_thread(server.base_backup)
            await fill(one)
            async with reconnecting(one, two):
                await asyncio.to_thread(server.restore, later)
            await until(lambda: one.session.identity.token == two.session.identity.token)
            epochs.add((await one.reader.position("a")).epoch)
            assert len(epochs) == 2 + RESTORES


@in_loop
async def test_missing_commit_renews_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """If the restored server has written more than the lost one, the machine's own commits tell."""
    with postgresql(*FAST) as server:
        async with Wire(server.port) as wire:
            await make_ledger(url_of(server))
            async with opened(url_of(wire)) as machine:
                await machine.append(draft("one"))
                backup = await asyncio.to_thread(server.base_backup)
                await machine.append(draft("two"))
                old = await machine.reader.position("a")
                async with reconnecting(machine):
                    wire.refuses = True
                    wire.cut()
                    await asyncio.to_thread(server.restore, backup)
                    server.query("CREATE TABLE filler AS SELECT * FROM generate_series(1, 100000)")
                    wire.refuses = False
                assert machine.session.identity.token
                assert "commits of this machine are missing" in caplog.text
                assert await texts(machine) == ["one"]
                assert await machine.reader.since("a", old, 10**6) is None
                await machine.append(draft("three"))
                assert await texts(machine) == ["one", "three"]


class Slow:
    """A connection on which answers take so long that a beat comes first."""

    def __init__(self, db: asyncpg.Connection, beat: Callable[[], None]) -> None:
        self._db, self._beat = db, beat
        self.fetchval, self.terminate = db.fetchval, db.terminate

    async def fetchrow(self, query: str) -> Any:
        row = await self._db.fetchrow(query)
        self._beat()
        return row


@in_loop
async def test_late_answer_is_no_contradiction(url: EngineUrl) -> None:
    """A beat that overtakes the answer to a new connection does not renew the token."""
    witness = Witness()
    db = await connect(url)
    try:
        found = await identify(db, witness)
        assert found.flushed is not None
        later = found.flushed + 10**9
        slow = Slow(db, lambda: witness.follow(found, later, found.now + 1))
        overtaken = await identify(slow, witness)
        assert overtaken.token == found.token
        assert (await identify(db, witness)).token != found.token
    finally:
        db.terminate()


@pytest.mark.soak
@in_loop
async def test_recovery_up_to_a_point_in_time() -> None:
    """A recovery begins another timeline, so the epochs are others."""
    with postgresql(*FAST) as server:
        async with opened(await make_ledger(url_of(server))) as machine:
            await machine.append(draft("one"))
            backup = await asyncio.to_thread(server.base_backup)
            await machine.append(draft("two"))
            server.query("SELECT pg_create_restore_point('here')")
            await machine.append(draft("three"))
            old = await machine.reader.position("a")
            timeline = machine.session.identity.timeline
            async with reconnecting(machine):
                await asyncio.to_thread(server.restore, backup, restore_point="here")
            assert machine.session.identity.timeline > timeline
            assert await texts(machine) == ["one", "two"]
            assert await machine.reader.since("a", old, 10**6) is None
            assert await machine.reader.since("a", Position(old.epoch, 2), 10**6) is None


@in_loop
async def test_server_crashes_again_and_again() -> None:
    """After each crash of the server, the machine comes back by itself. Each commit has happened
    once or not at all, as it was said; the epoch stays, and nothing is left behind."""
    gc.collect()
    earlier = {id(each) for each in connections()}  # of tests whose objects are kept
    with postgresql(*FAST) as server:
        async with opened(await make_ledger(url_of(server))) as machine:
            async with Publisher(machine) as publisher:
                first = await machine.reader.position("a")
                for _ in range(CRASHES):
                    async with reconnecting(machine):
                        await asyncio.to_thread(server.crash)
                        await asyncio.to_thread(server.start)
                        started_s = time.monotonic()
                    assert time.monotonic() - started_s < 5 * TIMEOUT_UNIT_S
                    await publisher.goes_on()
            missed = await machine.reader.since("a", first, 10**6)
            assert missed is not None
            stored = await machine.stored()
            assert stored[first.offset :] == missed
            assert [each.text for each in stored] == publisher.kept
            assert [each.offset for each in stored] == list(range(1, len(stored) + 1))
            async with observer(url_of(server)) as db:
                await until_row(
                    db,
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fastchat' "
                    "HAVING count(*) = 4",
                )
            gc.collect()
            alive = [each for each in connections() if id(each) not in earlier]
            assert len([each for each in alive if not each.is_closed()]) == 4
            assert len(alive) <= 8
            assert len(asyncio.all_tasks()) <= 3  # the test, the keeper and the beats


def connections() -> list[asyncpg.Connection]:
    return [each for each in gc.get_objects() if type(each) is asyncpg.Connection]


@in_loop
async def test_connections_to_two_servers_are_refused() -> None:
    """All connections must be to one server. Here, the first host accepts only one, and the second
    is a copy."""
    with postgresql(*FAST) as server, postgresql(*FAST) as copy:
        await make_ledger(url_of(server))
        await asyncio.to_thread(copy.restore, await asyncio.to_thread(server.base_backup))
        async with OnlyOnce(server.port) as first:
            with pytest.raises(LedgerError, match="different servers"):
                await Machine(url_of(first, copy), LIMITS).session.open()
        async with Wire(server.port) as first, opened(url_of(first, copy)):
            pass  # all connections are to the first


class OnlyOnce(Wire):
    """A wire that refuses every connection after the first one."""

    _is_used = False

    def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self._is_used:
            back.transport.abort()
            return
        self._is_used = True
        super()._connected(near, back)


IDENTITY = Identity(
    "ledger", "token", "channel", b"", b"", "system", "00000002", 100.0, 200.0, 50.0, "system",
    "00000002", 5000,
)  # fmt: skip


def seen(file: Path | None = None) -> Witness:
    witness = Witness(file)
    witness.see(IDENTITY)
    return witness


class TestWitness:
    def test_same_server_is_believed(self) -> None:
        """A log that goes on contradicts nothing, and neither does one that stands still."""
        assert not seen().is_contradicted_by(IDENTITY)
        assert not seen().is_contradicted_by(IDENTITY._replace(flushed=5001))
        assert not seen().is_older(IDENTITY)

    def test_shorter_log_contradicts(self) -> None:
        """A log that ends earlier on the same timeline lacks something."""
        assert seen().is_contradicted_by(IDENTITY._replace(flushed=4999))

    def test_beats_move_the_end(self) -> None:
        """What a beat has seen counts as well."""
        witness = seen()
        witness.follow(IDENTITY, 6000, 300.0)
        assert witness.is_contradicted_by(IDENTITY._replace(flushed=5999))

    def test_beats_of_another_server_move_nothing(self) -> None:
        """What was seen last counts, not what an older connection still sees."""
        for other in ({"token": "older"}, {"timeline": "00000001"}, {"system": "other"}):
            witness = seen()
            witness.follow(IDENTITY._replace(**other), 6000, 300.0)
            assert not witness.is_contradicted_by(IDENTITY)

    def test_late_answer_moves_nothing_back(self) -> None:
        """An answer that was on its way for longer does not make the log shorter."""
        witness = seen()
        witness.see(IDENTITY._replace(flushed=10))
        assert witness.is_contradicted_by(IDENTITY._replace(flushed=4999))

    def test_renewed_token_is_believed(self) -> None:
        """A token that was drawn after the machine looked last has settled the contradiction."""
        renewed = IDENTITY._replace(flushed=10, token="next", renewed=201.0)
        assert not seen().is_contradicted_by(renewed)

    def test_older_token_is_not_believed(self) -> None:
        """A token from before the machine looked last came back with the backup."""
        assert seen().is_contradicted_by(
            IDENTITY._replace(flushed=10, token="older", renewed=199.0)
        )

    def test_earlier_timeline_is_older(self) -> None:
        """A server does not go back to an earlier timeline by itself."""
        assert seen().is_older(IDENTITY._replace(timeline="00000001"))
        assert not seen().is_older(IDENTITY._replace(timeline="00000001", system="other"))

    def test_accepted_server_is_not_older(self) -> None:
        """An operator can accept an earlier timeline; it counts only since the machine looked."""
        earlier = IDENTITY._replace(timeline="00000001")
        assert not seen().is_older(earlier._replace(accepted=200.1))
        assert seen().is_older(earlier._replace(accepted=199.9))

    def test_other_ledger_is_unknown(self) -> None:
        """What was seen of one ledger says nothing of another."""
        assert not seen().is_contradicted_by(IDENTITY._replace(ledger="other", flushed=1))

    def test_silent_server_is_believed(self) -> None:
        """Some managed services do not tell how long their log is."""
        silent = IDENTITY._replace(system="", timeline="", flushed=None)
        witness = Witness()
        witness.see(silent)
        assert not witness.is_contradicted_by(silent)
        assert not witness.is_older(silent)

    def test_file_survives_a_restart(self, tmp_path: Path) -> None:
        """Another process with the same file knows the same."""
        file = tmp_path / FILE_NAME
        seen(file).save()
        assert Witness(file).is_contradicted_by(IDENTITY._replace(flushed=4999))

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"3"])
    def test_damaged_file_is_like_none(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log says that the file cannot be read."""
        file = tmp_path / FILE_NAME
        file.write_bytes(content)
        assert not Witness(file).is_contradicted_by(IDENTITY)
        assert "cannot be read" in caplog.text

    def test_unwritable_file_is_told_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log tells of the first failure, and of the first one after a success."""
        folder = tmp_path / "data"
        witness = seen(folder / FILE_NAME)
        witness.save()
        witness.save()
        assert len(caplog.messages) == 1
        folder.mkdir()
        witness.save()
        (folder / FILE_NAME).unlink()
        folder.rmdir()
        witness.save()
        assert len(caplog.messages) == 2
