"""Tests of the set-up of a ledger: making its schema, migrations, and roles without rights."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from contracts.history import draft
from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, schema
from fastchat.ledger.appending import Limits
from fastchat.ledger.connecting import connect
from fastchat.ledger.schema import Migration, prepare_ledger, prepare_schema
from fastchat.ledger.url import EngineUrl, parse_url
from support.ledger import Machine, in_loop
from support.postgresql import PostgreSQL

LIMITS = Limits(stored=100, slack=10)
SECOND = Migration(2, 1, "ALTER TABLE rooms ADD COLUMN title text; CREATE TABLE titles (a text)")
THIRD = Migration(3, 3, "ALTER TABLE rooms RENAME COLUMN title TO topic")


@pytest.fixture
def empty(server: PostgreSQL) -> Iterator[EngineUrl]:
    """The URL of a ledger that does not exist yet."""
    name = f"test_{secrets.token_hex(4)}"
    yield parse_url(f"{server.url}?schema={name}")
    server.query(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@asynccontextmanager
async def connected(url: EngineUrl) -> AsyncIterator[asyncpg.Connection]:
    db = await connect(url)
    try:
        yield db
    finally:
        await db.close()


async def prepare(url: EngineUrl, *migrations: Migration) -> None:
    async with connected(url) as db:
        await prepare_schema(db, url.schema, migrations)


async def version(url: EngineUrl) -> tuple[int, int]:
    async with connected(url) as db:
        return tuple(await db.fetchrow("SELECT version, readable_from FROM identity"))


@in_loop
async def test_machines_make_one_schema(empty: EngineUrl) -> None:
    """Machines that start at the same moment make the schema once, and agree on the ledger."""
    await asyncio.gather(*(prepare_ledger(empty) for _ in range(6)))
    async with connected(empty) as db:
        assert await db.fetchval("SELECT count(*) FROM identity") == 1
    one, two = Machine(empty, LIMITS, "one"), Machine(empty, LIMITS, "two")
    await asyncio.gather(one.session.open(), two.session.open())
    assert one.session.identity.ledger == two.session.identity.ledger
    await asyncio.gather(one.session.close(), two.session.close())


@in_loop
async def test_migrations_run_in_their_order(empty: EngineUrl) -> None:
    """A new schema gets all migrations, an older one those that it lacks, and each runs once."""
    await prepare(empty, SECOND)
    assert await version(empty) == (2, 1)
    await prepare(empty, SECOND, THIRD)
    assert await version(empty) == (3, 3)
    await prepare(empty, SECOND, THIRD)
    async with connected(empty) as db:
        assert await db.fetchval("SELECT count(topic) FROM rooms") == 0


@in_loop
async def test_machines_migrate_once(empty: EngineUrl) -> None:
    """Machines of a newer version that start at the same moment migrate once."""
    await prepare(empty)
    await asyncio.gather(*(prepare(empty, SECOND, THIRD) for _ in range(6)))
    assert await version(empty) == (3, 3)


@in_loop
async def test_older_program_uses_a_schema_with_additions(empty: EngineUrl) -> None:
    """A schema that was only added to is used, and stays as it is."""
    await prepare(empty, SECOND)
    await prepare(empty)
    assert await version(empty) == (2, 1)
    machine = Machine(empty, LIMITS)
    await machine.session.open()
    await machine.append(draft("one"))
    assert len(await machine.stored()) == 1
    await machine.session.close()


@in_loop
async def test_newer_schema_is_refused(empty: EngineUrl) -> None:
    """A schema that has changed in a way that this program does not know gets a sentence."""
    await prepare(empty, SECOND, THIRD)
    with pytest.raises(
        SettingError, match=r"has version 3 and needs a newer fastchat; .* version 1"
    ):
        await prepare_ledger(empty)


@in_loop
async def test_failed_migration_changes_nothing(empty: EngineUrl) -> None:
    """A migration is one transaction, with its number."""
    await prepare(empty)
    broken = Migration(2, 1, f"{SECOND.statements}; SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await prepare(empty, broken)
    assert await version(empty) == (1, 1)
    await prepare(empty, SECOND)
    assert await version(empty) == (2, 1)


@in_loop
async def test_migration_waits_in_short_steps(
    empty: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody uses a table, a migration tries again and again. In between, it does not keep
    those waiting that come after it."""
    monkeypatch.setattr(schema, "LOCK_MS", 50)
    await prepare(empty)
    async with connected(empty) as user, connected(empty) as other:
        async with user.transaction():
            await user.execute("SELECT 1 FROM rooms")
            migrating = asyncio.create_task(prepare(empty, SECOND))
            for _ in range(20):
                # It would wait behind the migration as long as that waits.
                await other.fetch("SELECT 1 FROM rooms", timeout=5)
                await asyncio.sleep(0.05)
            assert not migrating.done()
        await migrating
    assert await version(empty) == (2, 1)


@in_loop
async def test_migration_gives_up(empty: EngineUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the lock does not become free, the error says so."""
    monkeypatch.setattr(schema, "LOCK_MS", 20)
    monkeypatch.setattr(schema, "_ATTEMPTS", 3)
    monkeypatch.setattr(schema, "_PAUSE_S", 0.01)
    await prepare(empty)
    async with connected(empty) as user, user.transaction():
        await user.execute("SELECT 1 FROM rooms")
        with pytest.raises(LedgerError, match="is locked"):
            await prepare(empty, SECOND)
    assert await version(empty) == (1, 1)


@in_loop
async def test_chats_share_a_database(server: PostgreSQL) -> None:
    """Each schema is a ledger of its own, with rooms and notifications of its own."""
    names = [f"test_{secrets.token_hex(4)}" for _ in range(2)]
    urls = [parse_url(f"{server.url}?schema={name}") for name in names]
    for url in urls:
        await prepare_ledger(url)
    one, two = (Machine(url, LIMITS) for url in urls)
    await asyncio.gather(one.session.open(), two.session.open())
    await one.append(draft("one"))
    await two.append(draft("two"), draft("three"))
    assert [each.text for each in await one.stored()] == ["one"]
    assert [each.text for each in await two.stored()] == ["two", "three"]
    assert one.session.identity.channel != two.session.identity.channel
    assert (await one.reader.position("b")).epoch != (await two.reader.position("b")).epoch
    await asyncio.gather(one.session.close(), two.session.close())
    for name in names:
        server.query(f"DROP SCHEMA {name} CASCADE")


class TestRights:
    @pytest.fixture
    def role(self, server: PostgreSQL, empty: EngineUrl) -> Iterator[str]:
        """A role that may do nothing but connect."""
        role = f"role_{secrets.token_hex(4)}"
        server.query(f"CREATE ROLE {role} LOGIN")
        yield role
        server.query(f"DROP SCHEMA IF EXISTS {empty.schema} CASCADE")
        server.query(f"DROP ROLE {role}")

    @pytest.fixture
    def plain(self, server: PostgreSQL, empty: EngineUrl, role: str) -> EngineUrl:
        url = server.url.replace("postgres@", f"{role}@")
        return parse_url(f"{url}?schema={empty.schema}")

    @in_loop
    async def test_role_may_not_create(self, plain: EngineUrl, role: str) -> None:
        """The error has the statement that helps."""
        with pytest.raises(SettingError) as caught:
            await prepare_ledger(plain)
        statement = f'CREATE SCHEMA "{plain.schema}" AUTHORIZATION "{role}"'
        assert statement in str(caught.value)
        assert "permission denied for database" in str(caught.value)

    @in_loop
    async def test_role_owns_the_schema(
        self, plain: EngineUrl, role: str, server: PostgreSQL
    ) -> None:
        """A role that has got its schema from somebody else needs no other right."""
        server.query(f'CREATE SCHEMA "{plain.schema}" AUTHORIZATION "{role}"')
        await prepare_ledger(plain)
        machine = Machine(plain, LIMITS)
        await machine.session.open()
        await machine.append(draft("one"))
        assert len(await machine.stored()) == 1
        assert machine.session.identity.flushed is not None
        await machine.session.close()

    @in_loop
    async def test_schema_of_another_role(self, plain: EngineUrl, empty: EngineUrl) -> None:
        """A schema that the role may not use has a sentence as well."""
        await prepare_ledger(empty)
        with pytest.raises(SettingError, match="may not make, change or use the schema"):
            await prepare_ledger(plain)

    @in_loop
    async def test_unknown_role(self, server: PostgreSQL) -> None:
        """What PostgreSQL says of a login that it refuses is in the error."""
        url = parse_url(server.url.replace("postgres@", "nobody_knows:s3cret@"))
        with pytest.raises(LedgerError, match='role "nobody_knows" does not exist') as caught:
            await prepare_ledger(url)
        assert "s3cret" not in str(caught.value)
