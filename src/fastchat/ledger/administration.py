"""What an operator does to a ledger by hand: `fastchat engine init`, `accept` and `renew`.

Each function returns a line that says what it has done. It raises SettingError if the server, the
role or the schema cannot be used, and LedgerError if the server cannot be reached; then it has done
nothing, unless the connection was lost during the commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from fastchat.ledger import LedgerError
from fastchat.ledger.connecting import FAILED, check_server, connect, ledger_error
from fastchat.ledger.identity import Identity, draw, read_identity
from fastchat.ledger.schema import check_schema, prepare_ledger
from fastchat.ledger.sharing import settle
from fastchat.ledger.url import EngineUrl

__all__ = ["ACTIONS", "accept", "init", "renew", "share"]

_CONSEQUENCE = "all rooms have new epochs, and clients load the newest messages"


async def init(url: EngineUrl) -> str:
    """Make the schema of a ledger, or migrate it."""
    before, version = await prepare_ledger(url)
    if before is None:
        return f"made the schema {url.schema!r}, version {version}"
    if before < version:
        return f"migrated the schema {url.schema!r} from version {before} to version {version}"
    return f"the schema {url.schema!r} is there already, with version {version}"


async def share(urls: Sequence[EngineUrl]) -> str:
    """Let ledgers share the rooms of one chat, if nothing was published in them."""
    await settle(urls)
    return f"{len(urls)} ledgers share the rooms of one chat"


async def accept(url: EngineUrl) -> str:
    """Let machines use a server that was restored, although it is on an earlier timeline than one
    that they have seen. Publications are missing, so the rooms get new epochs.
    """
    async with _connected(url) as (db, found):
        async with db.transaction():
            await db.execute("UPDATE identity SET accepted = clock_timestamp()")
            await _draw(db, found)
        place = f" on timeline {found.timeline}" if found.timeline else ""
        return f"accepted the server{place}: {_CONSEQUENCE}"


async def renew(url: EngineUrl) -> str:
    """Give all rooms new epochs, because publications can be missing that clients have seen.

    It is for services whose servers do not say that they were replaced or restored.
    """
    async with _connected(url) as (db, found):
        await _draw(db, found)
        return f"renewed the ledger's token: {_CONSEQUENCE}"


async def _draw(db: asyncpg.Connection, found: Identity) -> None:
    if not await draw(db, found):
        raise LedgerError("the ledger has got another token at the same moment; try again")


@asynccontextmanager
async def _connected(url: EngineUrl) -> AsyncIterator[tuple[asyncpg.Connection, Identity]]:
    db = await connect(url)
    try:
        await check_server(db, url)
        await check_schema(db, url.schema)
        if await db.fetchval("SELECT pg_is_in_recovery()"):
            raise LedgerError("the server is a standby, which cannot be written")
        yield db, await read_identity(db)
    except FAILED as error:
        raise ledger_error(error) from error
    finally:
        db.terminate()


#: By the names that they have at the command line.
ACTIONS: Mapping[str, Callable[[EngineUrl], Coroutine[Any, Any, str]]] = {
    "init": init,
    "accept": accept,
    "renew": renew,
}
