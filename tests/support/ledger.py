"""A ledger of its own for each test, in a PostgreSQL that a test process shares."""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import pytest
import uvloop

from fastchat.history import Cursor, Erasure, Outcome, Page, StoredStream
from fastchat.history.options import options_of
from fastchat.ledger import LedgerError
from fastchat.ledger.appending import Batch, Committed, Limits
from fastchat.ledger.connecting import connect
from fastchat.ledger.erasing import Eraser, new_erasure
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.listing import Listing
from fastchat.ledger.options import store_options
from fastchat.ledger.reading import Reader
from fastchat.ledger.schema import prepare_schema
from fastchat.ledger.search import Search
from fastchat.ledger.session import Session
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Draft, Message, Position, Publication
from fastchat.protocol.options import RoomOptions
from support.postgresql import FAST, PostgreSQL, postgresql
from support.server import PATIENCE_S

__all__ = [
    "LedgerHistory",
    "Machine",
    "execute",
    "in_loop",
    "make_ledger",
    "observer",
    "own_server",
    "server",
    "shared",
    "sharing",
    "until",
    "until_in",
    "url",
    "urls",
]

Result = TypeVar("Result")

#: The ids of two ledgers that share rooms: "b" is in the first one, "a" and "c" in the second.
SHARING = ("even", "odd")
_TABLES = """
SELECT array_agg(relname::text) FROM pg_class
WHERE relnamespace = $1::regnamespace AND relkind = 'r'
"""
_RESTART_SEQUENCES = """
SELECT setval(oid, 1, false) FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'S'
"""
#: Changes with the tables, functions and triggers of a schema.
_SHAPE = """
SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
    SELECT concat(relname, relkind, relnatts) FROM pg_class WHERE relnamespace = $1::regnamespace
    UNION ALL SELECT concat(proname, xmin) FROM pg_proc WHERE pronamespace = $1::regnamespace
    UNION ALL SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = $1::regnamespace
) AS parts(part)
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastchat'
"""


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A PostgreSQL for all tests of a process; tests that break one start their own."""
    with postgresql(*FAST) as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL for one test, which breaks it."""
    with postgresql(*FAST) as running:
        yield running


@pytest.fixture(scope="session")
def shared(server: PostgreSQL) -> SharedLedger:
    """A ledger for all tests of a process."""
    return _made(SharedLedger(parse_url(f"{server.url}?schema=shared")))


@pytest.fixture(scope="session")
def sharing(server: PostgreSQL) -> list[SharedLedger]:
    """Two ledgers that share rooms, for all tests of a process."""
    return [
        _made(SharedLedger(parse_url(f"{server.url}?schema=sharing_{id}"), id, SHARING))
        for id in SHARING
    ]


def _made(ledger: SharedLedger) -> SharedLedger:
    asyncio.run(ledger.make())
    return ledger


@pytest.fixture
def url(shared: SharedLedger) -> EngineUrl:
    """The URL of a ledger that is like a new one."""
    asyncio.run(shared.renew())
    return shared.url


@pytest.fixture
def urls(sharing: list[SharedLedger]) -> list[EngineUrl]:
    """The URLs of two ledgers that share rooms and are like new ones."""
    for ledger in sharing:
        asyncio.run(ledger.renew())
    return [ledger.url for ledger in sharing]


class SharedLedger:
    """A ledger that tests use in turn. To renew it takes a hundredth of the time of another one.

    If a test has changed the schema, it is made again.
    """

    def __init__(self, url: EngineUrl, id: str | None = None, ledgers: Sequence[str] = ()) -> None:
        self.url = url
        self._id = id
        self._ledgers = ledgers
        self._at_first = f"{url.schema}_at_first"
        self._renewing = ""
        self._shape = ""

    async def make(self) -> None:
        """Make the ledger, and note what is in it at first."""
        self._renewing = ""
        await make_ledger(self.url)
        async with observer(self.url) as db:
            if self._id is not None:
                set_ids = "UPDATE identity SET ledger = $1, ledgers = $2, user_key = $3"
                await db.execute(set_ids, self._id, list(self._ledgers), b"users")
            self._shape = await db.fetchval(_SHAPE, self.url.schema)
            await db.execute(f"CREATE SCHEMA {self._at_first}")
            for table in await db.fetchval(_TABLES, self.url.schema):
                await db.execute(f"CREATE TABLE {self._at_first}.{table} AS TABLE {table}")
                self._renewing += (
                    f"DELETE FROM {table}; "  # noqa: S608
                    f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE {self._at_first}.{table}; "
                )

    async def renew(self) -> None:
        """Bring back the first state, and end the connections of earlier tests."""
        async with observer(self.url) as db, asyncio.timeout(PATIENCE_S):
            while await db.fetch(_END_OTHERS):
                await db.execute("SELECT pg_sleep(0.001)")
            if await db.fetchval(_SHAPE, self.url.schema) != self._shape:
                await db.execute(f"DROP SCHEMA {self.url.schema}, {self._at_first} CASCADE")
                await self.make()
                return
            async with db.transaction():
                await db.execute("SET LOCAL session_replication_role = replica")  # no triggers
                await db.execute(self._renewing)
                await db.fetch(_RESTART_SEQUENCES, self.url.schema)
                await db.execute("UPDATE rotations SET at = clock_timestamp()")


async def make_ledger(url: EngineUrl) -> EngineUrl:
    """The URL, with a new ledger."""
    db = await connect(url)
    try:
        await prepare_schema(db, url.schema)
    finally:
        await db.close()
    return url


async def execute(url: EngineUrl, statement: str) -> None:
    async with observer(url) as db:
        await db.execute(statement)


@asynccontextmanager
async def observer(url: EngineUrl) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else, in the ledger's schema."""
    db = await asyncpg.connect(url.dsn, server_settings={"search_path": url.schema})
    try:
        yield db
    finally:
        await db.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds that has no event to wait for."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 the docstring says why
            await asyncio.sleep(0.01)


async def until_in(db: asyncpg.Connection, condition: str, *arguments: object) -> None:
    """Wait until an SQL condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await db.fetchval(f"SELECT {condition}", *arguments):
            await db.execute("SELECT pg_sleep(0.01)")


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine in a loop of the server's kind."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*arguments, **fixtures))

    return run


class Machine:
    """A machine with a session of the ledger, in the running loop; each turn is one commit."""

    def __init__(
        self,
        url: EngineUrl,
        limits: Limits,
        name: str = "one",
        witness: Witness | None = None,
        share: Share | None = None,
    ) -> None:
        self.limits = limits
        self.payloads: list[str] = []
        self.commits: dict[str, int] = {}  # of each machine, from the last beat
        self.losses: list[str] = []
        self.beats = 0
        witness = witness or Witness()
        self.session = Session(url, name, secrets.token_hex(8), self, witness, share)
        self.reader = Reader(self.session.fetch, lambda: self.session.identity)
        self.search = Search(self.session.helping)

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self, why: LedgerError) -> None:
        self.losses.append(str(why))

    def heard(self, payload: str) -> None:
        self.payloads.append(payload)

    def beaten(self, machines: Sequence[Sequence[Any]]) -> None:
        self.commits = {name: last for _, name, last in machines}
        self.beats += 1

    def committed(self, published: Mapping[str, Committed]) -> None:
        """Do nothing; called after each commit."""

    async def append(self, *drafts: Draft) -> list[Outcome]:
        batch = Batch(drafts, self.session.identity.generation)
        while not batch.is_settled:
            states = await self.reader.states(batch.targets)
            arguments = batch.arguments(states)
            if arguments is not None:
                self.committed(batch.settle(await self.session.commit(self.limits, arguments)))
        return [outcome for outcome in batch.outcomes if outcome is not None]

    async def stored(self, room: str = "a") -> list[Publication]:
        """Everything that is stored of a room."""
        position = await self.reader.position(room)
        found = await self.reader.since(room, Position(position.epoch, 0), 10**6)
        assert found is not None
        return found


class LedgerHistory:
    """A machine with the synchronous methods of `fastchat.history.History`, for its contract."""

    is_busy = False

    def __init__(self, url: EngineUrl, limits: Limits) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._machine = Machine(url, limits)
        self._reader = self._machine.reader
        self._eraser = Eraser(self._machine.session)
        self._run(self._machine.session.open())

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def user_key(self) -> bytes:
        return self._machine.session.identity.user_key

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        return self._run(self._machine.append(*drafts))

    def position(self, room: str) -> Position:
        return self._run(self._reader.position(room))

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        return self._run(self._reader.since(room, position, limit))

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        return self._run(self._reader.before(room, offset, limit))

    def after(self, room: str, offset: int, limit: int) -> Page:
        return self._run(self._reader.after(room, offset, limit))

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        # The contract runs it in a loop of its own.
        search = self._machine.search.search(room, query, limit)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(search, self._loop))

    def find_alike(self, room: str) -> str | None:
        return self._run(self._reader.find_alike(room))

    # Rooms and users

    def following(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        return self._run(self._reader.following(room, position, limit))

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        rows = self._run(self._machine.session.fetch("SELECT room, value FROM options"))
        return {room: options_of(json.loads(value)) for room, value in rows}

    def set_options(self, room: str, options: RoomOptions) -> None:
        self._run(store_options(self._machine.session, room, options._asdict()))

    def streams(self, prefix: str, after: str, limit: int) -> list[StoredStream]:
        found = self._run(Listing(self._machine.session).rooms(prefix, after, limit))
        return [
            StoredStream(room, epoch, head, last_at, size)
            for room, epoch, head, _, last_at, size in found
        ]

    def delete_room(self, room: str) -> bool:
        return self._run(self._eraser.delete_room(room)).notice is not None

    def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        return self._run(self._eraser.published_by(user, after, limit))

    def erase_user(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        return self._run(self._erase(user, after))

    async def _erase(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        async with self._machine.session.storing() as store:
            erasure, _, cursor = await self._eraser.erase(store, user, new_erasure(), after)
            return erasure, cursor

    def check(self) -> None:
        self._run(self._machine.session.fetch("SELECT 1"))

    def prune(self) -> None:
        """Do nothing: there is no limit of age yet."""

    def close(self) -> None:
        self._run(self._machine.session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
