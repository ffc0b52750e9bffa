"""The connections of a machine to its ledger, and what happens if they are lost.

Theory
------
A machine has four connections: the writer commits publications; the teller sends notifications; the
listener receives them, and beats; the reader reads.

Each commit has a number and an incarnation. If its answer is lost, nobody knows whether it has
happened. Then a new writer begins another incarnation (`refence_1`): the ledger waits until the old
commit has ended in one way or the other, lets nothing of the older incarnation happen afterwards,
and says with which number and answer the last commit has ended. So a turn is stored once, and its
answer is not lost.

The server must not be asked to cancel a commit, nor to end a connection that may be committing:
PostgreSQL would then show a commit that a standby does not have. So a commit has no timeout of the
library, and is never cancelled. If it takes too long, the machine closes its own socket.

If another connection than the writer is lost, all are made anew. What they read before `refence_1`
has returned could be a commit that a standby does not have yet, so nobody uses them before.

Each new connection is asked what it is connected to. If publications can be missing there that
somebody has seen, the ledger gets another token, and its rooms other epochs (`identify`). The same
happens if a commit is missing that this process knows of.

If two processes have the name of one machine, each takes the fence from the other. This is right
once, when a new process replaces one that hangs. If it goes on, the later process gives up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Protocol

import asyncpg

from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, MachineTakenError, NotCommittedError
from fastchat.ledger.appending import Limits
from fastchat.ledger.connecting import (
    ANSWER_S,
    ASYNCHRONOUS,
    FAILED,
    HELPER_SETTINGS,
    bounded,
    connect,
    fetch,
    ledger_error,
)
from fastchat.ledger.health import CROWDED, Health
from fastchat.ledger.identity import Identity, Share, Witness, identify, renew
from fastchat.ledger.naming import log_of
from fastchat.ledger.url import EngineUrl

__all__ = ["Session", "SessionUser", "Store"]

#: A commit that takes longer is in doubt: the socket is closed, and a new writer asks.
COMMIT_S = 3.0
#: The time between two beats, and after which silence of the listener ends all connections.
BEAT_S, SILENCE_S = 1.0, 6.0
#: The time between two beats while nothing is told, because the queue of notifications is crowded.
CROWDED_BEAT_S = 0.2
#: The time between two attempts to connect: the first, and the longest.
RETRY_S, MAX_RETRY_S = 0.1, 0.5
#: How long a reader waits for a connection.
PATIENCE_S = 2.0
#: If a machine is taken from a process so often in this time, two processes use its name.
MAX_TAKEN, TAKEN_S = 3, 60.0
#: How long it can take to become the machine: all its users are marked as away.
CLAIM_S = 30.0
#: When the log says that a connection waits for earlier commits or a standby.
SLOW_S = 5.0
#: Arguments of `append_1`; the session adds the first five.
_ARGUMENTS = 31
_APPEND = f"SELECT append_1({', '.join(f'${n}' for n in range(1, _ARGUMENTS + 1))})"
_BEAT = """
SELECT b.machine, b.name, b.last, s.flushed, extract(epoch FROM clock_timestamp())::float8,
    pg_notification_queue_usage()
FROM beat_1($1, $2, $3) b, server_1() s
"""
#: Classes of errors that end by themselves: a conflict, no disk or memory, a lock, a time limit.
_PASSING = frozenset(("40", "53", "55", "57"))
#: The process is not the machine any more, or the ledger is not the same any more.
_REPLACED = frozenset(("FC001", "FC002"))
#: The constraint that a number violates which was used already.
_USED = "commits_pkey"

#: Runs a function as `Session.store` does, with its arguments.
Store = Callable[..., Awaitable[Sequence[Any]]]


class SessionUser(Protocol):
    """Who uses a session. The session calls it in the loop's thread."""

    def connected(self) -> None:
        """All connections are there, at first or again; `identity` can be another one."""
        ...

    def disconnected(self, why: LedgerError, /) -> None:
        """The connections are lost, and are being made anew.

        If `why` is a MachineTakenError, they are not: the session has ended for good. It comes
        after the call for the lost connections.
        """
        ...

    def heard(self, payload: str, /) -> None:
        """A notification has arrived."""
        ...

    def beaten(self, machines: Sequence[Sequence[Any]], /) -> None:
        """A beat has come back, with the number, the name and the last commit of each machine."""
        ...


class _Link:
    """The connections beside the writer; `lost` has the reason when one of them is gone."""

    def __init__(self) -> None:
        self.reader: asyncpg.Connection
        self.teller: asyncpg.Connection
        self.listener: asyncpg.Connection
        self.helper: asyncpg.Connection | None = None  # made when it is needed
        self.all: list[asyncpg.Connection] = []
        self.is_closed = False
        self.lost: asyncio.Future[LedgerError] = asyncio.get_running_loop().create_future()
        self.heard_s = asyncio.get_running_loop().time()

    @property
    def is_lost(self) -> bool:
        return self.lost.done() or any(
            each.is_closed() for each in (self.reader, self.teller, self.listener)
        )

    def lose(self, why: LedgerError) -> None:
        if not self.lost.done():
            self.lost.set_result(why)

    def end(self, _: object) -> None:
        """Do not go on without beats."""
        self.lose(LedgerError("the beats have ended"))

    def close(self) -> None:
        self.is_closed = True
        for each in (*self.all, self.helper):
            if each is not None:
                each.terminate()


class Session:
    """The connections of the machine with this name to the ledger at `url`.

    `boot` is a random value of this process, and `witness` what the machine knows of the ledger.
    `share` says which one it is of several ledgers; it is None if there are no others.
    Calls of `commit` must not overlap.
    """

    def __init__(
        self,
        url: EngineUrl,
        machine: str,
        boot: str,
        user: SessionUser,
        witness: Witness,
        share: Share | None = None,
    ) -> None:
        self._url = url
        self._dsns = url.dsns  # in the order in which they are tried
        self._name = machine
        self._secret = boot
        self._boot = ""  # when this process became the machine, and its random value
        self._user = user
        self._witness = witness
        self._share = share
        self._identity: Identity | None = None
        self._link: _Link | None = None
        self._is_up = asyncio.Event()  # whether there is a link
        self._keeper: asyncio.Task[None] | None = None
        self._reading, self._calling, self._helping, self._storing = (
            asyncio.Lock() for _ in range(4)
        )
        self._told: list[str] = []
        self._telling: asyncio.Task[None] | None = None
        # The writer, its prepared statement, and how often there was a new one.
        self._writer: asyncpg.Connection | None = None
        self._append: Any = None
        self._opening = asyncio.Lock()
        self._writers = 0
        self._machine = self._claimed = self._fence = self._incarnation = 0
        self._tenures = 0  # how often this process followed another one that could commit
        self._is_started = False  # whether this process has been the machine
        self._taken_s: list[float] = []  # when the machine was taken from it
        self._end: LedgerError | None = None  # why the session has ended
        self._last = 0  # the number of the last commit, and what it has answered
        self._answer: str | None = None
        #: Its lines name the ledger if there are several.
        self.log = log_of(None if share is None else url.place)
        self.health = Health(self.log)

    @property
    def identity(self) -> Identity:
        """What the ledger is; the session must have been opened."""
        assert self._identity is not None
        return self._identity

    @property
    def machine(self) -> int:
        """The number of this machine."""
        return self._machine

    @property
    def last_commit(self) -> int:
        """The number of the last commit of this machine."""
        return self._last

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    @property
    def end(self) -> LedgerError | None:
        """Why the session has ended for good; None if it has not."""
        return self._end

    async def open(self, *, again: bool = False) -> None:
        """Connect, and become the machine. Raises LedgerError or SettingError.

        With `again`, this tries until it succeeds, and raises MachineTakenError at most. If an
        older commit of the machine waits for a standby, this waits as well.
        """
        self._link = await (self._connect_again() if again else self._connect())
        self._is_up.set()
        self._user.connected()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(self._link))

    async def close(self) -> None:
        """Close all sockets at once. A commit that is under way can happen or not.

        Afterwards, and for those who wait, all methods raise LedgerError.
        """
        self._end = LedgerError("the session is closed")
        self._is_up.set()
        if self._keeper is not None:
            self._keeper.cancel()
        if self._writer is not None:
            self._writer.terminate()
        if self._link is not None:
            self._link.close()
            self._link = None
        for task in (self._keeper, self._telling):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    # The connections

    async def _connect(self) -> _Link:
        link = _Link()
        if self._writer is not None:
            self._writer.terminate()  # it can be waiting for a server that is not used any more
        try:
            for name in ("reader", "teller", "listener"):
                settings = {} if name == "reader" else ASYNCHRONOUS
                db = await connect(self._url, settings, dsns=self._dsns)
                link.all.append(db)
                setattr(link, name, db)
                # From now on: a new writer can wait for minutes for a standby.
                db.add_termination_listener(
                    lambda _: link.lose(LedgerError("a connection is lost"))
                )
            identities = [await identify(db, self._witness, self._share) for db in link.all]
            if len({each.place for each in identities}) > 1:
                raise LedgerError("the connections are to different servers")
            if self._identity is not None and identities[-1].token != self._identity.token:
                self._last = 0  # commits can be missing, and everybody knows already
                self.health.tokens_total += 1
            self._identity = identities[-1]
            await self._become_machine(link.teller)
            await self._open_writer(self._writers)
            with bounded(link.listener):
                await link.listener.add_listener(
                    self.identity.channel, lambda _, __, ___, payload: self._on_heard(link, payload)
                )
            if link.is_lost:
                raise LedgerError("a connection is lost")
        except BaseException as error:
            link.close()
            self._dsns.append(self._dsns.pop(0))
            if isinstance(error, FAILED):
                raise ledger_error(error) from error
            raise
        self.health.answer()
        return link

    async def _become_machine(self, db: asyncpg.Connection) -> None:
        """Become the machine, unless an earlier process is the machine as well."""
        if not self._boot:
            # The server's clock puts the processes of one machine in an order.
            self._boot = f"{self.identity.now:017.6f} {self._secret}"
        with bounded(db, CLAIM_S):
            async with db.transaction():
                # With very many users, it takes more than the usual time.
                await db.execute("SET LOCAL statement_timeout = 0")
                machine, previous, self._claimed = await db.fetchrow(
                    "SELECT machine, previous, claim FROM claim_1($1, $2, $3)",
                    self._name,
                    self._boot,
                    self.identity.token,
                )
        if self._is_started and previous not in ("", self._boot):
            self._note_taken(previous)
        self._is_started = True
        if machine != self._machine:
            self._machine, self._last = machine, 0

    def _note_taken(self, previous: str) -> None:
        """Another process was the machine since; raise MachineTakenError if this one must stop."""
        now_s = asyncio.get_running_loop().time()
        self._taken_s = [each for each in self._taken_s if now_s - each < TAKEN_S]
        self._taken_s.append(now_s)
        if len(self._taken_s) >= MAX_TAKEN and self._boot > previous:
            raise MachineTakenError(
                f"two servers have the machine name {self._name!r} and take the ledger from each "
                "other; this one was started later and does not use the ledger any more: restart "
                "it with another --machine"
            )

    async def _keep(self, link: _Link) -> None:
        """Beat, and make new connections when one is lost."""
        loop = asyncio.get_running_loop()
        while True:
            beats = loop.create_task(self._beat(link))
            beats.add_done_callback(link.end)
            try:
                why = await link.lost
            finally:
                beats.cancel()
                link.close()
            lost_s = loop.time()
            self._link = None
            self._is_up.clear()
            self.log.warning("the connections to the ledger are lost: %s", why)
            self.health.failure = str(why)
            self._user.disconnected(why)
            try:
                link = await self._connect_again()
            except MachineTakenError as error:
                self.log.error("%s", error)
                self._end = error
                if self._writer is not None:
                    self._writer.terminate()
                self._is_up.set()
                self._user.disconnected(error)
                return
            if self._end is not None:
                link.close()
                return
            self._link = link
            self._is_up.set()
            self.health.reconnects_total += 1
            self.log.info("the ledger is connected again, after %.1f s", loop.time() - lost_s)
            self._user.connected()

    async def _connect_again(self) -> _Link:
        wait_s, said = RETRY_S, ""
        while True:
            try:
                return await self._connect()
            except MachineTakenError:
                raise
            except (LedgerError, SettingError) as error:
                if str(error) != said:
                    self.log.warning("the ledger cannot be reached, and is tried again: %s", error)
                said = self.health.failure = str(error)
            except Exception:
                # Without connections the machine is of no use, whatever the fault is.
                self.log.exception("a fault while connecting to the ledger")
            if self._end is not None:
                raise asyncio.CancelledError  # asyncpg can have replaced it
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _beat(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        saving: asyncio.Future[None] | None = None
        while True:
            begun_s = time.monotonic()
            silence = loop.call_later(
                SILENCE_S, link.lose, LedgerError("PostgreSQL does not answer a beat")
            )
            try:
                rows = await fetch(
                    link.listener, _BEAT, self._machine, self._boot, self.identity.token
                )
                flushed, server_s, queue_usage = rows[0][3:]
                self.health.beat(begun_s, server_s, queue_usage)
                self._witness.follow(self.identity, flushed, server_s)
                if saving is None or saving.done():
                    saving = loop.run_in_executor(None, self._witness.save)
                self._user.beaten([row[:3] for row in rows])
                await self._echo(link)
            except FAILED as error:
                meaning = ledger_error(error)
                if not self._is_passing(meaning):
                    link.lose(meaning)
                    return
                self.health.failure = str(meaning)
            finally:
                silence.cancel()
            if self.health.is_crowded:
                link.heard_s = loop.time()  # no beats come back then
            elif loop.time() - link.heard_s > SILENCE_S:
                link.lose(LedgerError("PostgreSQL sends no notifications"))
                return
            await asyncio.sleep(CROWDED_BEAT_S if self.health.is_crowded else BEAT_S)

    def _is_passing(self, why: LedgerError) -> bool:
        """Whether a beat has failed for something that new connections would not help against.

        They would only make it worse: a machine that has connected has to say all its users again.
        """
        return (
            isinstance(why, NotCommittedError)
            and why.code[:2] in _PASSING
            and self.health.silent_s < SILENCE_S
        )

    async def _echo(self, link: _Link) -> None:
        """Have a notification come back, which shows that the listener hears.

        It has a transaction of its own. If its commit fails, the beat has happened all the same.
        """
        if self.health.queue_usage > CROWDED:
            return
        try:
            await fetch(
                link.listener,
                "SELECT pg_notify($1, $2)",
                self.identity.channel,
                f"b{self._machine}",
            )
        except FAILED as error:
            meaning = ledger_error(error)
            if not isinstance(meaning, NotCommittedError):
                raise
            self.health.lose_notifications(str(meaning))
        else:
            self.health.notify_again()

    def _on_heard(self, link: _Link, payload: str) -> None:
        link.heard_s = asyncio.get_running_loop().time()
        if not payload.startswith("b"):
            self._user.heard(payload)

    # Reading and telling

    async def fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        """Read rows. If there is no connection, this waits a moment for one. Raises LedgerError."""
        async with self._turn(self._reading) as link:
            try:
                with _watched(link):
                    rows = await fetch(link.reader, query, *arguments)
            except FAILED as error:
                raise ledger_error(error) from error
            return rows

    async def call(self, query: str, *arguments: Any) -> Sequence[Any]:
        """Run a function as this machine, in the order of the calls, and return its rows.

        Its commit waits for nothing, so it can notify. `$1` to `$3` of the query are the machine,
        the claim and the token, which `machine_1` checks; the arguments follow. If there is no
        connection, this waits a moment for one. Raises NotCommittedError if the call has had no
        effect, and another LedgerError if that is not known.
        """
        async with self._turn(self._calling) as link:
            try:
                with _watched(link):
                    rows = await fetch(
                        link.teller,
                        query,
                        self._machine,
                        self._claimed,
                        self.identity.token,
                        *arguments,
                    )
            except FAILED as error:
                meaning = ledger_error(error)
                if isinstance(meaning, NotCommittedError) and meaning.code in _REPLACED:
                    link.lose(meaning)
                raise meaning from error
            return rows

    async def store(self, query: str, *arguments: Any) -> Sequence[Any]:
        """Run a function of which a standby has to know before it returns, and return its rows.

        It has a connection of its own, because it can wait for the standby for long. One call has
        it at a time. `$1` of the query is the token. Raises LedgerError; after `COMMIT_S`, nobody
        knows whether it happened.
        """
        async with self._storing, self.storing() as store:
            return await store(query, *arguments)

    @asynccontextmanager
    async def storing(self) -> AsyncIterator[Store]:
        """What does the same as `store`, on a connection that the caller has for many calls.

        Raises LedgerError.
        """
        db = await self._connect_also()
        try:
            await _uncancelled(db, self._identify(db))
            yield partial(self._store, db)
        except FAILED as error:
            raise ledger_error(error) from error
        finally:
            db.terminate()

    async def _store(self, db: asyncpg.Connection, query: str, *arguments: Any) -> Sequence[Any]:
        if self._end is not None:
            raise LedgerError(str(self._end))
        call = fetch(db, query, self.identity.token, *arguments)
        rows: Sequence[Any] = await _uncancelled(db, call)
        return rows

    async def _identify(self, db: asyncpg.Connection) -> Identity:
        """Ask what a further connection is to. Raises LedgerError if the others are to another."""
        found = await identify(db, self._witness, self._share)
        if found.place != self.identity.place:
            raise LedgerError("the connections are to different servers")
        return found

    @asynccontextmanager
    async def _turn(self, lock: asyncio.Lock) -> AsyncIterator[_Link]:
        """The connections, when it is the caller's turn to use them.

        All callers have the same patience, however many wait for a lost connection.
        """
        deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
        try:
            async with asyncio.timeout_at(deadline_s):
                await lock.acquire()
        except TimeoutError:
            raise LedgerError("PostgreSQL does not answer in time") from None
        try:
            yield await self._linked(deadline_s)
        finally:
            lock.release()

    async def _linked(self, deadline_s: float) -> _Link:
        """The connections; waits for a moment if they are lost."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._is_up.wait()
                while self._link is not None and self._link.is_lost:
                    await asyncio.sleep(0)  # until the keeper has seen it
                    await self._is_up.wait()
        except TimeoutError:
            raise LedgerError("PostgreSQL cannot be reached") from None
        if self._link is None:
            raise self._end or LedgerError("PostgreSQL cannot be reached")
        return self._link

    @asynccontextmanager
    async def helping(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection for work that takes long, such as a search; one caller has it at a time.

        Raises LedgerError, also for what asyncpg raises in the block.
        """
        async with self._helping:
            link = self._link
            if link is None:
                raise self._end or LedgerError("PostgreSQL cannot be reached")
            try:
                if link.helper is None or link.helper.is_closed():
                    link.helper = await self._connect_helper(link)
                yield link.helper
            except FAILED as error:
                raise ledger_error(error) from error

    async def _connect_helper(self, link: _Link) -> asyncpg.Connection:
        helper = await self._connect_also(HELPER_SETTINGS)
        try:
            await self._identify(helper)
            if link.is_closed:
                raise LedgerError("the connections are to different servers")
        except BaseException:
            helper.terminate()
            raise
        return helper

    async def _connect_also(self, settings: Mapping[str, str] | None = None) -> asyncpg.Connection:
        """Make a further connection. Raises LedgerError, also if a file of the URL is missing."""
        try:
            return await connect(self._url, settings or {}, dsns=self._dsns)
        except SettingError as error:
            raise LedgerError(str(error)) from error

    def tell(self, payloads: Sequence[str]) -> None:
        """Notify all machines, in order; notifications can get lost.

        If the server's queue of notifications is crowded or cannot be written, they are not sent.
        """
        if self.health.is_crowded:
            return
        self._told += payloads
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while self._told and self._link is not None:
                async with self._calling:
                    if (link := self._link) is None:
                        return
                    told, self._told = self._told, []
                    with _watched(link):
                        await fetch(
                            link.teller,
                            "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p",
                            self.identity.channel,
                            told,
                        )
        except FAILED as error:
            meaning = ledger_error(error)
            if isinstance(meaning, NotCommittedError):
                self.health.lose_notifications(str(meaning))
            else:
                self.log.warning("notifications are lost, and others find out later: %s", meaning)
        finally:
            self._told.clear()
            self._telling = None

    # Committing

    async def commit(
        self, limits: Limits, arguments: Sequence[Any], *, skip_locked: bool = False
    ) -> str:
        """Run `append_1` with these arguments, from `p_names` on, and return its answer.

        If the answer is lost, this waits until the ledger can say what has happened, for as long as
        that takes. If there is no connection, it waits for one as well. Raises NotCommittedError if
        nothing was stored, and another LedgerError if that will never be known.
        """
        if self._end is not None:
            raise NotCommittedError(str(self._end))
        number, writers, tenures = self._last + 1, self._writers, self._tenures
        if self._writer is None or self._writer.is_closed():
            await self._ask(writers)
            raise NotCommittedError("the connection was lost before the commit")
        try:
            answer = await self._call(
                number,
                (skip_locked, limits.rate, limits.burst, limits.stored, limits.slack, *arguments),
            )
        except FAILED as error:
            meaning = ledger_error(error)
            if isinstance(meaning, NotCommittedError) and not _is_used(error):
                raise meaning from error
            self.log.warning("commit %d is in doubt: %s", number, meaning)
            await self._ask(writers)
            if self._tenures != tenures:
                self.health.doubts["unknown"] += 1
                raise LedgerError("another process was this machine meanwhile") from error
            is_kept = self._last == number
            self.health.doubts["kept" if is_kept else "lost"] += 1
            self.log.info("commit %d has %shappened", number, "" if is_kept else "not ")
            if not is_kept or self._answer is None:
                raise NotCommittedError(str(meaning)) from error
            return self._answer
        self._last = number
        return answer

    async def _call(self, number: int, arguments: Sequence[Any]) -> str:
        """Run a commit without ever asking the server to cancel it."""
        writer = self._writer
        assert writer is not None
        fence = (self._fence, self._machine, self._incarnation, self.identity.token, number)
        answer = await _uncancelled(writer, _run(self._append, (*fence, *arguments)))
        assert isinstance(answer, str)
        return answer

    async def _ask(self, writers: int) -> None:
        """Find out which commit was the last, with a newer writer than the one of this number.

        If this process is not the machine any more, or the ledger is another one, only new
        connections help. They come after the next beat, with a writer.
        """
        wait_s = RETRY_S
        while self._writers == writers:
            if self._end is not None:
                raise LedgerError(str(self._end))
            try:
                await self._open_writer(writers)
            except (LedgerError, SettingError):
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _open_writer(self, writers: int) -> None:
        """Make a writer, unless there is a newer one than that of this number."""
        async with self._opening:
            if self._writers != writers:
                return
            if self._writer is not None:
                self._writer.terminate()
            self._writer = writer = await connect(self._url, dsns=self._dsns)
            try:
                if self._end is not None:
                    raise LedgerError(str(self._end))
                found = await self._identify(writer)
                row = await self._refence(writer)
                if row["last"] < self._last:
                    self._last = row["last"]
                    await renew(writer, found, "commits of this machine are missing")
                    raise LedgerError("commits of this machine are missing")
                with bounded(writer):
                    append = await writer.prepare(_APPEND)
            except BaseException as error:
                writer.terminate()
                if isinstance(error, FAILED):
                    raise ledger_error(error) from error
                raise
            self._append = append
            self._fence, self._incarnation, self._last, self._answer, is_own = row
            self._tenures += not is_own
            self._writers += 1

    async def _refence(self, writer: asyncpg.Connection) -> asyncpg.Record:
        """Begin another incarnation. It waits for a commit that is under way, without limit."""
        slow = asyncio.get_running_loop().call_later(
            SLOW_S,
            self.log.warning,
            "the ledger waits: an earlier commit of this machine has not ended, or a standby that "
            "must have each commit is away",
        )
        try:
            # A block with a transaction of asyncpg would replace CancelledError by another one.
            await writer.execute(
                "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"
            )
            row = await writer.fetchrow(
                "SELECT fence, incarnation, last, answer, is_own FROM refence_1($1, $2, $3)",
                self._machine,
                self._boot,
                self.identity.token,
            )
            await writer.execute("COMMIT")
            return row
        finally:
            slow.cancel()


@contextmanager
def _watched(link: _Link) -> Iterator[None]:
    """Make new connections if the block takes longer than any statement in it can.

    The server ends statements that take too long. If it does not, its process hangs.
    """
    why = LedgerError("PostgreSQL does not answer")
    timer = asyncio.get_running_loop().call_later(ANSWER_S, link.lose, why)
    try:
        yield
    finally:
        timer.cancel()


async def _uncancelled(db: asyncpg.Connection, work: Coroutine[Any, Any, Any]) -> Any:
    """Do work on a connection, and never ask the server to cancel it.

    After `COMMIT_S`, and if the caller is cancelled, the socket is closed.
    """
    loop = asyncio.get_running_loop()
    call = loop.create_task(work)
    timer = loop.call_later(COMMIT_S, db.terminate)
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        # asyncpg asks the server to cancel if its own task is cancelled on an open socket.
        db.terminate()
        call.add_done_callback(_forget)
        raise
    finally:
        timer.cancel()


async def _run(statement: Any, arguments: Sequence[Any]) -> Any:
    """Run a prepared statement. asyncpg fails if its connection is lost before the task begins."""
    return await statement.fetchval(*arguments)


def _is_used(error: BaseException) -> bool:
    return isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name == _USED


def _forget(call: asyncio.Task[Any]) -> None:
    """Take note of how a task has ended, so that asyncio does not complain."""
    if not call.cancelled():
        call.exception()
