"""Several ledgers that share the rooms of one chat.

Theory
------
Each ledger has a random id, and the ids of all ledgers of its chat, in their order. The id of a
room's ledger follows from the ids and from the room's name (`owner_of`). It does not depend on URLs
or on their order, so all machines agree on it, and rooms whose names look alike are in one ledger.

The ids are stored when the ledgers are used together for the first time (`lay`), in one ledger
after the other. If that is interrupted, the next start goes on. Nothing can have been published in
a ledger before: its rooms could belong to another one. The ids never change afterwards. So it is
enough to compare them at each connection (`fastchat.ledger.identity.check_share`), because a ledger
gets another token with its ids, and a machine that has connected before can do nothing with the old
one.

All ledgers have the secret of users of the first one. Otherwise a guest would have another id in
each ledger's rooms.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from hashlib import blake2b
from typing import Any, NamedTuple

import asyncpg

from fastchat.errors import SettingError
from fastchat.ledger import LedgerError
from fastchat.ledger.connecting import FAILED, bounded, check_server, connect, fetch, ledger_error
from fastchat.ledger.identity import TOKEN_BYTES, Identity, Share, read_identity
from fastchat.ledger.schema import prepare_schema
from fastchat.ledger.url import EngineUrl
from fastchat.protocol.names import name_key

__all__ = ["Found", "Target", "agree", "discover", "discover_all", "lay", "owner_of", "settle"]

logger = logging.getLogger("fastchat.ledger")

_DIGEST_BYTES = 8
#: What uses a ledger holds a lock on its identity until it has committed. Nobody can use it between
#: the check and the change.
_LOCK = """
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '10s';
LOCK TABLE identity IN ACCESS EXCLUSIVE MODE
"""
_STATE = """
SELECT ledgers, user_key, EXISTS (SELECT FROM rooms WHERE head > 0) AS is_used FROM identity
"""
_LAY = """
UPDATE identity SET ledgers = $1, user_key = $2, token = $3, renewed = clock_timestamp()
"""
_MOVE = "export its rooms, and import them with all URLs into new schemas (?schema=…)"

#: Makes, migrates or checks a schema; None if the caller only wants to know what is there.
Prepare = Callable[[asyncpg.Connection, str], Coroutine[Any, Any, Any]] | None


#: A ledger that a command uses; the share is None if it is the only one.
Target = tuple[EngineUrl, Share | None]


class Found(NamedTuple):
    """What is at a URL. If it cannot be reached, `failure` says why and `identity` is None."""

    url: EngineUrl
    identity: Identity | None
    failure: LedgerError | None = None


def owner_of(room: str, ledgers: Sequence[str]) -> str:
    """The id of the ledger that has a room: the one with the greatest digest of both.

    If `name_key` gave another key for a room, the room would be looked for in another ledger.
    """
    key = name_key(room).encode()

    def weight(ledger: str) -> bytes:
        return blake2b(key, digest_size=_DIGEST_BYTES, key=ledger.encode()).digest()

    return max(ledgers, key=weight)


async def discover(url: EngineUrl, prepare: Prepare = prepare_schema) -> Found:
    """Ask what is at a URL, after `prepare` has made, migrated or checked the schema.

    Raises SettingError if the server, the role or the schema cannot be used.
    """
    try:
        db = await connect(url)
        try:
            if prepare is not None:
                await check_server(db, url)
                if await db.fetchval("SELECT pg_is_in_recovery()"):
                    raise LedgerError("the server is a standby, which cannot be written")
                await prepare(db, url.schema)
            with bounded(db):
                return Found(url, await read_identity(db))
        except FAILED as error:
            raise ledger_error(error) from error
        finally:
            db.terminate()
    except LedgerError as error:
        return Found(url, None, error)
    except SettingError as error:
        raise SettingError(str(error).replace("--engine:", f"--engine {url.shown}:", 1)) from error


async def discover_all(
    urls: Sequence[EngineUrl], wait_s: float | None = None, prepare: Prepare = prepare_schema
) -> list[Found]:
    """Ask what is at each URL. Raises SettingError as `discover` does.

    When the ids of all ledgers are known from one, the others have `wait_s` seconds to answer.
    """
    tasks = [asyncio.create_task(discover(url, prepare)) for url in urls]
    waiting = set(tasks)
    try:
        is_known = False
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=wait_s if is_known else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            identities = [task.result().identity for task in done]
            is_known |= any(each is not None and len(each.ledgers) > 1 for each in identities)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    silent = LedgerError("PostgreSQL does not answer")
    return [
        Found(url, None, silent) if task.cancelled() else task.result()
        for url, task in zip(urls, tasks, strict=True)
    ]


async def settle(urls: Sequence[EngineUrl], prepare: Prepare = prepare_schema) -> list[Target]:
    """Prepare ledgers that a command uses, and store the ids of all in them, as a start does.

    Raises SettingError, and LedgerError if one of them
    cannot be reached.
    """
    if len(urls) == 1:
        return [(urls[0], None)]
    found = await discover_all(urls, prepare=prepare)
    shares: list[Target] = []
    for url, identity, failure in found:
        if identity is None:
            raise LedgerError(f"--engine {url.shown}: {failure}")
        shares.append((url, Share(identity.ledger, ())))
    ids = agree(found)
    await lay(found, ids)
    return [(url, share and share._replace(ledgers=ids)) for url, share in shares]


def agree(found: Sequence[Found]) -> tuple[str, ...]:
    """The ids of all ledgers of the chat, in their order.

    If they are stored nowhere yet, they are those of the ledgers that were found. Raises
    SettingError if the URLs lead to other ledgers than those that share the chat, and LedgerError
    if that cannot be known, because none or not all can be reached.
    """
    reached: dict[str, tuple[EngineUrl, Identity]] = {}
    for url, identity, _ in found:
        if identity is None:
            continue
        if identity.ledger in reached:
            raise SettingError(
                f"--engine: {reached[identity.ledger][0].shown} and {url.shown} are the same "
                "ledger; give each one once."
            )
        reached[identity.ledger] = url, identity
    shared = [(url, each.ledgers) for url, each in reached.values() if len(each.ledgers) > 1]
    if not shared:
        for url, _, failure in found:
            if failure is not None:
                raise LedgerError(
                    f"--engine {url.shown}: {failure}; when several are used together for the "
                    "first time, all have to be there"
                )
        return tuple(sorted(reached))
    first, ledgers = shared[0]
    for url, identity in reached.values():
        if len(identity.ledgers) > 1 and identity.ledgers != ledgers:
            raise SettingError(
                f"--engine: {first.shown} and {url.shown} belong to different chats; export one of "
                "them, and import it into the other."
            )
        if identity.ledger not in ledgers:
            raise SettingError(
                f"--engine: {url.shown} is not one of the {len(ledgers)} that share the chat of "
                f"{first.shown}; to add one, export all rooms, and import them with all URLs into "
                "new schemas (?schema=…)."
            )
    if len(found) != len(ledgers):
        raise SettingError(
            f"--engine: {len(ledgers)} ledgers share the chat of {first.shown}, but there are "
            f"{len(found)} URLs; give those of all. To use another number, export all rooms, and "
            "import them with the new URLs into new schemas (?schema=…)."
        )
    return ledgers


async def lay(
    found: Sequence[Found], ledgers: tuple[str, ...], user_key: bytes | None = None
) -> bytes:
    """Store the ids of all ledgers in those that were found and do not have them yet.

    Returns the secret of users that all have. It must be given if neither the first ledger was
    found nor one that has the ids.

    Raises SettingError if such a ledger was used alone, and LedgerError if it cannot be reached.
    Then nothing was stored, unless the connection was lost during the commits.
    """
    identities = {
        each.identity.ledger: (each.url, each.identity)
        for each in found
        if each.identity is not None
    }
    missing = [id for id in ledgers if id in identities and identities[id][1].ledgers != ledgers]
    for _, each in identities.values():
        if each.ledgers == ledgers:
            user_key = each.user_key
    laid: list[tuple[asyncpg.Connection, EngineUrl]] = []
    async with AsyncExitStack() as stack:
        for id in missing:  # in the order in which every machine locks them
            url, _ = identities[id]
            try:
                db = await connect(url)
                stack.callback(db.terminate)
                user_key = await _lay(db, url, id, ledgers, user_key)
            except FAILED as error:
                raise LedgerError(f"--engine {url.shown}: {ledger_error(error)}") from error
            laid.append((db, url))
        for db, url in laid:
            try:
                await fetch(db, "COMMIT")
            except FAILED as error:
                raise LedgerError(f"--engine {url.shown}: {ledger_error(error)}") from error
    if laid:
        logger.info("%d ledgers share the rooms from now on", len(ledgers))
    assert user_key is not None
    return user_key


async def _lay(
    db: asyncpg.Connection,
    url: EngineUrl,
    id: str,
    ledgers: tuple[str, ...],
    user_key: bytes | None,
) -> bytes:
    """Do everything but commit in one ledger; returns its secret of users."""
    await db.execute(f"BEGIN; {_LOCK}")
    present, own_key, is_used = await db.fetchrow(_STATE)
    assert isinstance(own_key, bytes)
    user_key = own_key if user_key is None else user_key
    if tuple(present) == ledgers:
        return own_key  # another machine was faster
    if present != [id]:
        raise SettingError(f"--engine: {url.shown} shares another chat with other ledgers.")
    if is_used:
        raise SettingError(
            f"--engine: {url.shown} has rooms that were made without the others; {_MOVE}."
        )
    await db.execute(_LAY, list(ledgers), user_key, secrets.token_urlsafe(TOKEN_BYTES))
    return user_key
