"""Makes and migrates the schema of a ledger."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from fastchat.errors import SettingError
from fastchat.files.ids import KEY_BYTES
from fastchat.history.epochs import new_generation
from fastchat.history.users import new_user_key
from fastchat.ledger import LedgerError
from fastchat.ledger.connecting import FAILED, check_server, connect, ledger_error
from fastchat.ledger.url import EngineUrl

__all__ = ["MIGRATIONS", "Migration", "check_schema", "prepare_ledger", "prepare_schema"]

logger = logging.getLogger("fastchat.ledger")


class Migration(NamedTuple):
    """A step from one version of the schema to the next one.

    `version` is the next one, and `readable_from` the oldest version whose programs can use it.
    The `statements` are SQL. They only add to the schema if there are such programs.
    """

    version: int
    readable_from: int
    statements: str


#: These files are this version of the schema, and each migration makes the next one.
_FIRST = 1
_SOURCES = ("schema.sql", "files.sql", "administration.sql")
MIGRATIONS: Sequence[Migration] = ()
#: A migration does not wait longer for a lock at a time, because what comes after it waits as well.
LOCK_MS = 500
#: How often it tries, with a pause in between.
_ATTEMPTS, _PAUSE_S = 60, 0.5
#: Not by `to_regclass`, which does not know what another machine has just made.
_HAS_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'identity'
)
"""


async def prepare_ledger(url: EngineUrl) -> tuple[int | None, int]:
    """Check a server, and do there what `prepare_schema` does, with the same result.

    Raises SettingError if the server, the role or the schema cannot be used, and LedgerError if the
    server cannot be reached, or if somebody keeps the schema locked.
    """
    db = await connect(url)
    try:
        await check_server(db, url)
        return await prepare_schema(db, url.schema, MIGRATIONS)
    except FAILED as error:
        raise ledger_error(error) from error
    finally:
        db.terminate()


async def check_schema(db: asyncpg.Connection, schema: str) -> int:
    """Return the version of a schema; raises SettingError if it cannot be used as it is."""
    known = _newest(MIGRATIONS)
    version = await _version(db, schema, known)
    if version is None:
        raise SettingError(f"--engine: the database has no schema {schema!r}.")
    if version < known:
        raise SettingError(
            f"--engine: the schema {schema!r} has version {version}, and this fastchat needs "
            f"version {known}; `fastchat engine init` migrates it."
        )
    return version


async def prepare_schema(
    db: asyncpg.Connection, schema: str, migrations: Sequence[Migration] = MIGRATIONS
) -> tuple[int | None, int]:
    """Make the schema, or migrate it, if it is older than the last of the migrations.

    Returns the version that the schema had, None if there was none, and the one that it has now.
    Several machines can do it at the same time, also while others use the ledger. The connection's
    search path must be the schema. Raises SettingError if the schema is too new, or if the role has
    not the right, and LedgerError if a lock is in the way for half a minute.
    """
    known = _newest(migrations)
    seen: list[int | None] = []
    for attempt in range(_ATTEMPTS):
        try:
            while (version := await _version(db, schema, known)) is None or version < known:
                seen.append(version)
                await _advance(db, schema, migrations)
        except asyncpg.InsufficientPrivilegeError as error:
            role = await db.fetchval("SELECT current_user")
            raise SettingError(
                f"--engine: the role {role!r} may not make, change or use the schema {schema!r}: "
                f"{error}. The owner of the database can give it to the role with CREATE SCHEMA "
                f'"{schema}" AUTHORIZATION "{role}", or make it with `fastchat engine init`.'
            ) from None
        except asyncpg.LockNotAvailableError:
            if attempt == 0:
                logger.info("the schema %r is locked, and is waited for", schema)
            await asyncio.sleep(_PAUSE_S)
        else:
            return (seen or [version])[0], version
    raise LedgerError(f"the schema {schema!r} is locked, and cannot be made or migrated")


def _newest(migrations: Sequence[Migration]) -> int:
    return migrations[-1].version if migrations else _FIRST


async def _version(db: asyncpg.Connection, schema: str, known: int) -> int | None:
    """The version of the schema; None if there is none."""
    if not await db.fetchval(_HAS_TABLES, schema):
        return None
    version, readable_from = await db.fetchrow(
        f'SELECT version, readable_from FROM "{schema}".identity'  # noqa: S608
    )
    if readable_from > known:
        raise SettingError(
            f"--engine: the schema {schema!r} has version {version} and needs a newer fastchat; "
            f"this one knows version {known}."
        )
    return int(version)


async def _advance(db: asyncpg.Connection, schema: str, migrations: Sequence[Migration]) -> None:
    """Make the schema, or do the next migration, unless another machine does it first."""
    known = _newest(migrations)
    async with db.transaction():
        await db.execute(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {LOCK_MS}")
        await db.execute(
            "SELECT pg_advisory_xact_lock(hashtext('fastchat schema'), hashtext($1))", schema
        )
        version = await _version(db, schema, known)
        if version is None:
            await _make(db, schema)
            return
        for migration in migrations:
            if migration.version == version + 1:
                await db.execute(migration.statements)
                await db.execute(
                    "UPDATE identity SET version = $1, readable_from = $2",
                    migration.version,
                    migration.readable_from,
                )
                logger.info("the schema %r has version %d now", schema, migration.version)


async def _make(db: asyncpg.Connection, schema: str) -> None:
    # CREATE SCHEMA IF NOT EXISTS asks for the right to create one, even if it is there.
    if not await db.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await db.execute(f'CREATE SCHEMA "{schema}"')
    for name in _SOURCES:
        await db.execute(files("fastchat.ledger").joinpath(name).read_text("utf-8"))
    await db.execute("INSERT INTO file_key (key) VALUES ($1)", secrets.token_bytes(KEY_BYTES))
    ledger = secrets.token_hex(8)
    values: Sequence[object] = (
        ledger,
        [ledger],
        new_generation(),
        new_user_key(),
        f"fastchat_{secrets.token_hex(16)}",
        _FIRST,
    )
    await db.execute(
        "INSERT INTO identity (ledger, ledgers, generation, user_key, channel, system, timeline, "
        "version, readable_from) "
        "SELECT $1, $2, $3, $4, $5, system, timeline, $6, $6 FROM server_1()",
        *values,
    )
