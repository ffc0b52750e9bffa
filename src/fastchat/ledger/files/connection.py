"""The connection of a process to the ledger for its files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.connecting import FAILED, bounded, connect, fetch, ledger_error
from fastchat.ledger.identity import Share, Witness, identify
from fastchat.ledger.url import EngineUrl

__all__ = ["FilesConnection"]

#: A piece can take longer than a message.
_SETTINGS = {"lock_timeout": "5s", "statement_timeout": "10s"}
#: If a statement has no answer after this time, the socket is closed.
ANSWER_S = 12.0
#: How long a statement waits for a new connection, if the last one was lost.
PATIENCE_S = 5.0
#: The time between two attempts to connect.
RETRY_S = 0.2
_OWN = "SELECT own_1($1)"


class FilesConnection:
    """Runs statements, one after the other, on a connection that is made when it is needed.

    `claims` are those of the uploads that this process is receiving. `witness` returns what the
    machine has seen of the ledger; it is called in a thread. `share` says which one it is of
    several ledgers.
    """

    def __init__(
        self, url: EngineUrl, witness: Callable[[], Witness], share: Share | None = None
    ) -> None:
        self._url = url
        self._dsns = url.dsns
        self._witness = witness
        self._share = share
        self._db: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._failure = LedgerError("PostgreSQL cannot be reached")
        self.claims: set[int] = set()
        self.key = b""

    def close(self) -> None:
        """Close the socket. Statements that run or wait raise LedgerError, and so do later ones."""
        self._is_closed = True
        if self._db is not None:
            self._db.terminate()

    async def run(
        self, query: str, *arguments: Any, patience_s: float | None = None
    ) -> Sequence[Any]:
        """Run a statement, and return its rows.

        If the connection is lost, the statement is run again on a new one, so it must not matter
        whether it has run before. If there is none after `patience_s` (None: PATIENCE_S), this
        raises LedgerError. It raises NotCommittedError if the statement has had no effect.

        If the caller is cancelled, the statement goes on: PostgreSQL must not be asked to cancel a
        commit.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + (PATIENCE_S if patience_s is None else patience_s)
        task = loop.create_task(self._run(query, arguments, deadline_s))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    async def own(self) -> None:
        """Make the connection if there is none, and end the uploads that are not in `claims`."""
        await self.run(_OWN, list(self.claims))

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # if the caller was cancelled, nobody else takes note of it

    async def _run(self, query: str, arguments: Sequence[Any], deadline_s: float) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        async with self._lock:
            while True:
                if self._is_closed:
                    raise LedgerError("the connection for files is closed")
                if not self._is_connected and loop.time() >= deadline_s:
                    raise self._failure  # after an outage, statements do not fail one by one
                try:
                    db = await self._connected()
                    with bounded(db, ANSWER_S):
                        return await fetch(db, query, *arguments)
                except SettingError as error:
                    self._failure = LedgerError(str(error))
                except (*FAILED, LedgerError) as error:
                    self._failure = ledger_error(error)
                if isinstance(self._failure, NotCommittedError) or loop.time() >= deadline_s:
                    raise self._failure
                await asyncio.sleep(RETRY_S)

    @property
    def _is_connected(self) -> bool:
        return self._db is not None and not self._db.is_closed()

    async def _connected(self) -> asyncpg.Connection:
        if self._is_connected:
            return self._db
        db = await connect(self._url, _SETTINGS, dsns=self._dsns)
        try:
            await identify(db, await asyncio.to_thread(self._witness), self._share)
            with bounded(db):
                self.key = await db.fetchval(_OWN, list(self.claims))
            if self._is_closed:
                raise LedgerError("the connection for files is closed")
        except BaseException:
            db.terminate()
            raise
        self._db = db
        return db
