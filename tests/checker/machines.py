"""Several machines on one PostgreSQL, and everything that can happen to either.

The faults are those of operations: processes that are killed or stopped, wires that lose packets, a
disk that is slow or full, a standby that takes over, a backup that is put back. Each one is made by
process id or on a network of its own, is known to have happened, and is over when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import asyncpg

from checker.client import Place
from checker.nemesis import Disk, can_mount
from checker.parts import is_alive, parts_of
from checker.records import Outage
from support.networks import Network
from support.postgresql import PostgreSQL, find_programs
from support.server import TIMEOUT_UNIT_S, Server, lasting_port, wait_until

__all__ = ["LOSSY", "Database", "Faults", "Machine"]

#: The size of the disk for PostgreSQL, in MB.
DISK_MB = 600
SETTINGS = (
    "listen_addresses = '*'",
    "max_connections = 60",
    "max_wal_size = '64MB'",
    "wal_keep_size = '64MB'",
    "synchronous_standby_names = ''",
    "wal_receiver_timeout = '5s'",
    "wal_retrieve_retry_interval = '200ms'",
)
#: A sync that takes as many microseconds longer as a file says.
SLOW_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_as_told(void) {
    long microseconds = 0;
    FILE *file = fopen(getenv("SLOW_SYNC_FILE"), "r");
    if (file == NULL) return;
    if (fscanf(file, "%ld", &microseconds) == 1 && microseconds > 0) usleep(microseconds);
    fclose(file);
}

int fsync(int fd) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""
#: What the last statement of a connection contains, by what the connection is for.
ROLES = {
    "writer": "append_1",
    "listener": r"beat_1|pg_notify\(\$1, \$2\)",
    "teller": r"unnest\(\$2::text|sweep_1|enter_1|part_1|report_1|rotate_1",
    "reader": "roster_1|audiences|FROM rooms",
}
#: A machine that says nothing for this time counts as gone.
SILENT_S = 6.0
#: Faults after which something can be missing that somebody has seen.
LOSSY = frozenset(("asynchronous promotion", "restore", "recovery"))


def _now() -> float:
    """The time on the clock of the event loop."""
    return time.monotonic()


class Database:
    """A PostgreSQL at one of two ports; a standby gets the other one.

    Root gets a small disk for it, which can be full, unless there is no `disk` to be.
    """

    def __init__(self, *, disk: bool) -> None:
        programs = find_programs()
        assert programs is not None
        self._programs = programs
        self.place = Path(tempfile.mkdtemp(prefix="fastchat-machines-"))
        self.place.chmod(0o755)  # PostgreSQL has a user of its own
        self.disk = Disk(self.place, DISK_MB) if disk and can_mount(self.place) else None
        self.place.chmod(0o777)
        self._delay = self.place / "delay"
        self._environment: dict[str, str] = {}
        self._servers: list[PostgreSQL] = []
        self.ports = lasting_port(), lasting_port()
        try:
            self.syncs_slowly = self._build_slow_sync()
            self.primary = self._start(self.ports[0])
        except BaseException:
            self.close()
            raise
        with (self.primary.data / "pg_hba.conf").open("a") as rules:
            rules.write("host all,replication all 10.0.0.0/8 trust\n")
        self.primary.configure_now()

    def _build_slow_sync(self) -> bool:
        library = self.place / "slowsync.so"
        (source := self.place / "slowsync.c").write_text(SLOW_SYNC)
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"]
            subprocess.run(command, check=True, capture_output=True)
            self._environment = {"LD_PRELOAD": str(library), "SLOW_SYNC_FILE": str(self._delay)}
            self.delay(0)
            return True
        return False

    def delay(self, milliseconds: int) -> None:
        """Let each sync take so much longer, from now on."""
        self._delay.write_text(f"{1000 * milliseconds}")

    def _start(self, port: int, follows: PostgreSQL | None = None) -> PostgreSQL:
        server = PostgreSQL(
            self._programs,
            SETTINGS,
            follows,
            place=self.place,
            port=port,
            environment=self._environment,
        )
        self._servers.append(server)
        return server

    def start_standby(self) -> PostgreSQL:
        (port,) = {*self.ports} - {self.primary.port}
        return self._start(port, self.primary)

    def url(self, host: str) -> str:
        """The URL for a machine that reaches it at this address."""
        hosts = ",".join(f"{host}:{port}" for port in self.ports)
        return f"postgresql://postgres@{hosts}/postgres"

    def take_over(self, standby: PostgreSQL) -> None:
        """Make the primary of the standby; the old one must have ended."""
        standby.promote()
        self._servers.remove(self.primary)
        self.primary.close()
        self.primary = standby

    async def observe(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.primary.url, timeout=10 * TIMEOUT_UNIT_S)

    async def ask(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of a query; the schema is that of the chat."""
        db = await self.observe()
        try:
            await db.execute("SET search_path = fastchat")
            rows: list[asyncpg.Record] = await db.fetch(query, *arguments)
        finally:
            db.terminate()
        return rows

    async def publications(self) -> int:
        """How many publications there have been in all rooms."""
        ((total,),) = await self.ask("SELECT coalesce(sum(head), 0)::bigint FROM rooms")
        return int(total)

    async def until_up(self) -> None:
        """Wait until it answers, after it has restarted itself; start it if it has ended."""
        deadline = _now() + 60 * TIMEOUT_UNIT_S
        while True:
            if not self.primary.is_running:
                await asyncio.to_thread(self.primary.start)
            try:
                await self.ask("SELECT 1")
            except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError):
                assert _now() < deadline, (self.primary.home / "log").read_text()[-3000:]
                await asyncio.sleep(0.1)
            else:
                return

    def close(self) -> None:
        for server in self._servers:
            server.close()
        if self.disk is not None:
            self.disk.unmount()
        subprocess.run(["rm", "-rf", self.place], check=False)


class Machine:
    """A `fastchat serve` with engines, and its own data directory; perhaps also a network.

    Each machine has the engines in another order.
    """

    def __init__(
        self,
        number: int,
        databases: Sequence[Database],
        data: Path,
        network: Network | None,
        arguments: Sequence[str],
    ) -> None:
        self.number = number
        self.network = network
        host, outside = "127.0.0.1", "127.0.0.1"
        self._before: tuple[str, ...] = ()
        if network is not None:
            host, outside, self._before = network.address, network.outside, network.before
        self.place: Place = host, lasting_port()
        urls = [database.url(outside) for database in databases]
        first = number % len(urls)
        engines = (("--engine", url) for url in (*urls[first:], *urls[:first]))
        self._arguments = (
            *(argument for engine in engines for argument in engine),
            *("--machine", f"m{number}", "--host", host),
            *("--data", str(data), "--log-level", "info", "--limits", "off", *arguments),
        )
        self._server: Server | None = None
        self._readers: list[threading.Thread] = []
        self._log: list[str] = []

    @property
    def log(self) -> str:
        return "".join(self._log)

    @property
    def parts(self) -> dict[int, str]:
        """The processes, with their names; that of a machine without workers is "server"."""
        if self._server is None or self._server.process.poll() is not None:
            return {}
        return {self._server.pid: "server", **parts_of(self._server.pid)}

    async def start(self) -> None:
        self._server = await asyncio.to_thread(
            Server, self._arguments, self.place[1], before=self._before
        )
        # The log is longer than a pipe's buffer, so a thread reads it.
        errors, self._server.process.stderr = self._server.process.stderr, None
        reader = threading.Thread(target=self._read, args=(errors,), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _read(self, errors: IO[str]) -> None:
        with errors:
            self._log.extend(errors)

    async def stop(self) -> None:
        """Stop it with SIGTERM, and check that it has ended well and left no process."""
        assert self._server is not None
        parts = self.parts
        status = await asyncio.to_thread(self._server.stop, timeout_s=20 * TIMEOUT_UNIT_S)
        left = [name for pid, name in parts.items() if is_alive(pid)]
        assert (status, left) == (0, []), f"{self.place}: status {status}, left {left}: {self.log}"
        for reader in self._readers:
            await asyncio.to_thread(reader.join, 5 * TIMEOUT_UNIT_S)

    async def kill(self) -> None:
        """Kill all its processes at once."""
        assert self._server is not None
        parts = self.parts
        for number in (signal.SIGSTOP, signal.SIGKILL):
            _signal(parts, number)
        await asyncio.to_thread(self._server.kill)

    async def freeze(self, seconds: float) -> None:
        """Stop all its processes for a while; the supervisor goes on last."""
        parts = self.parts
        _signal(parts, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(dict(reversed(parts.items())), signal.SIGCONT)

    def abandon(self) -> None:
        """Kill it after a run that failed."""
        parts = self.parts
        _signal(parts, signal.SIGKILL)
        if self._server is not None and self._server.process.poll() is None:
            self._server.kill()


def _signal(parts: dict[int, str], number: signal.Signals) -> None:
    for pid in parts:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _unfollow(standby: PostgreSQL) -> None:
    """Let a standby not hear of its primary any more."""
    standby.query("ALTER SYSTEM SET primary_conninfo = ''")
    standby.query("SELECT pg_reload_conf()")
    wait_until(lambda: standby.query("SELECT count(*) FROM pg_stat_wal_receiver") == "0")


class Faults:
    """Faults of a database and of machines; `counts` has how often which ones have happened.

    A machine is away for `longest_s` at most.
    """

    def __init__(
        self,
        database: Database,
        machines: Sequence[Machine],
        chance: random.Random,
        longest_s: float,
    ) -> None:
        self._database = database
        self._machines = machines
        self._chance = chance
        self._longest_s = longest_s
        self._began = _now()
        self.counts: Counter[str] = Counter()
        self.outages: list[Outage] = []
        self.renewals = 0  # how often the ledger must have got another token
        self.lost = 0  # publications that the database has lost
        has_networks = all(machine.network is not None for machine in machines)
        self.known: dict[str, Callable[[], Awaitable[str | None]]] = {
            "crash": self.crash,
            "killed backend": self.kill_backend,
            "terminated backend": self.terminate_backend,
            "terminated backends": self.terminate_backends,
            "frozen commit": self.freeze_commit,
            "frozen backend": self.freeze_backend,
            "lost note": self.lose_note,
            "killed relay": self.kill_relay,
            "killed machine": self.kill_machine,
            "stopped machine": self.stop_machine,
            "ended machine": self.end_machine,
            "exhausted connections": self.exhaust_connections,
            "open snapshot": self.open_snapshot,
            "synchronous promotion": self.promote_synchronous,
            "absent standby": self.lose_standby,
            "asynchronous promotion": self.promote_asynchronous,
            "restore": self.restore,
            "recovery": self.recover,
        }
        if has_networks:
            self.known["partition"] = self.partition
            self.known["lost answers"] = self.lose_answers
            self.known["lost questions"] = self.lose_questions
        if database.syncs_slowly:
            self.known["slow sync"] = self.sync_slowly
        if database.disk is not None:
            self.known["full disk"] = self.fill_disk

    async def cause(self, kind: str) -> None:
        """Cause a fault of this kind, and wait until it is over; what this machine cannot have is
        left out."""
        if kind not in self.known:
            print(f"{kind}: not possible here")
            return
        began = _now()
        detail = await self.known[kind]()
        if detail is None:
            print(f"{began - self._began:6.1f} s {kind}: no occasion")
            return
        self.counts[kind] += 1
        lasted_s = _now() - began
        print(f"{began - self._began:6.1f} s {kind}: {detail}, {lasted_s:.1f} s in all", flush=True)

    # Of PostgreSQL

    async def crash(self) -> str:
        """Kill PostgreSQL with all its processes, and start it again."""
        down_s = self._chance.choice((0, 0.5, self._chance.uniform(0, 5)))
        await asyncio.to_thread(self._database.primary.crash)
        await asyncio.sleep(down_s)
        await asyncio.to_thread(self._database.primary.start)
        return f"down for {down_s:.1f} s"

    async def kill_backend(self) -> str | None:
        """Kill one of its processes, after which it restarts all of them."""
        backend = await self._backend(self._chance.choice([*ROLES]))
        if backend is None:
            return None
        os.kill(backend, signal.SIGKILL)
        await self._database.until_up()
        return f"process {backend}"

    async def terminate_backend(self) -> str | None:
        """End one connection, but not one that commits."""
        role = self._chance.choice(("listener", "teller", "reader"))
        backend = await self._backend(role)
        if backend is None:
            return None
        ((ended,),) = await self._database.ask("SELECT pg_terminate_backend($1)", backend)
        return role if ended else None

    async def terminate_backends(self) -> str:
        """End all connections at once, as `pg_ctl restart` would."""
        ((count,),) = await self._database.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'fastchat'"
        )
        return f"{count} connections"

    async def freeze_commit(self) -> str | None:
        """Stop a process of PostgreSQL in the middle of a commit."""
        backend = await self._committing()
        if backend is None:
            return None
        seconds = self._chance.uniform(1, 6)
        await self._freeze(backend, seconds)
        return f"{seconds:.1f} s"

    async def freeze_backend(self) -> str | None:
        """Stop a process of PostgreSQL that serves a connection, wherever it is."""
        role = self._chance.choice(("listener", "teller", "reader"))
        backend = await self._backend(role)
        if backend is None:
            return None
        seconds = self._chance.uniform(1, 8)
        await self._freeze(backend, seconds)
        return f"{role} for {seconds:.1f} s"

    async def _freeze(self, backend: int, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(backend, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(backend, signal.SIGCONT)

    async def _committing(self) -> int | None:
        """The process of a commit, stopped in the middle of it."""
        db = await self._database.observe()
        self._database.delay(20)
        deadline = _now() + 5 * TIMEOUT_UNIT_S
        query = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'fastchat' "
            "AND state = 'active' AND query LIKE '%append_1%'"
        )
        try:
            while _now() < deadline:
                for (pid,) in await db.fetch(query):
                    os.kill(pid, signal.SIGSTOP)
                    if await db.fetch(f"{query} AND pid = $1", pid):
                        return int(pid)
                    os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.002)
        finally:
            self._database.delay(0)
            db.terminate()
        return None

    async def _backend(self, role: str, machine: Machine | None = None) -> int | None:
        """The process of a connection with this role, perhaps of this machine."""
        rows = await self._database.ask(
            "SELECT pid, host(client_addr) FROM pg_stat_activity "
            "WHERE application_name = 'fastchat' AND query ~ $1",
            ROLES[role],
        )
        pids = [pid for pid, address in rows if machine is None or self._is_of(machine, address)]
        return self._chance.choice(pids) if pids else None

    def _is_of(self, machine: Machine, address: str) -> bool:
        if machine.network is None:
            return len(self._machines) == 1
        near = machine.network.outside.rpartition(".")
        return address == f"{near[0]}.{int(near[2]) + 1}"

    async def sync_slowly(self) -> str:
        """Let each sync take longer."""
        milliseconds, seconds = self._chance.choice((5, 50, 300)), self._chance.uniform(2, 6)
        self._database.delay(milliseconds)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._database.delay(0)
        return f"{milliseconds} ms for {seconds:.1f} s"

    async def fill_disk(self) -> str:
        """Fill the disk of PostgreSQL to the last page for a while."""
        disk = self._database.disk
        assert disk is not None
        seconds = self._chance.uniform(1, 5)
        await asyncio.to_thread(disk.fill)
        try:
            await asyncio.sleep(seconds)
        finally:
            disk.free()
        has_ended = not self._database.primary.is_running
        await self._database.until_up()
        return f"{seconds:.1f} s{', and it ended' if has_ended else ''}"

    async def exhaust_connections(self) -> str:
        """Take all connections that PostgreSQL allows, and end one that a machine had."""
        others: list[asyncpg.Connection] = []
        last = await self._database.observe()
        backend = await self._backend("reader")
        try:
            with contextlib.suppress(asyncpg.PostgresError):
                while True:
                    others.append(await self._database.observe())
            if backend is not None:
                await last.execute(f"SELECT pg_terminate_backend({backend})")
                await self._take(others)
            await asyncio.sleep(self._chance.uniform(1, 4))
        finally:
            for other in (*others, last):
                other.terminate()
        return f"{len(others)} taken"

    async def _take(self, others: list[asyncpg.Connection]) -> None:
        """Take the connection that was ended before its machine has it again."""
        for _ in range(20):
            with contextlib.suppress(asyncpg.PostgresError):
                others.append(await self._database.observe())

    async def open_snapshot(self) -> str:
        """Keep a snapshot open, as pg_dump does."""
        seconds = self._chance.uniform(3, 10)
        db = await self._database.observe()
        try:
            async with db.transaction(isolation="repeatable_read"):
                await db.fetch("SELECT count(*) FROM fastchat.publications")
                await asyncio.sleep(seconds)
        finally:
            db.terminate()
        return f"{seconds:.1f} s"

    # Another PostgreSQL

    async def promote_synchronous(self) -> str:
        """Kill PostgreSQL, and let a standby take its place that has every commit."""
        standby = await self._synchronous_standby()
        await asyncio.sleep(self._chance.uniform(0.5, 2))
        before = await self._database.publications()
        await self._replace(standby)
        after = await self._database.publications()
        assert after >= before, f"a synchronous standby lacks {before - after} publications"
        return f"on port {standby.port}"

    async def _synchronous_standby(self) -> PostgreSQL:
        database = self._database
        standby = await asyncio.to_thread(database.start_standby)
        database.primary.configure_now("synchronous_standby_names = '*'")
        await self._until("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        # Commits from before it was a synchronous one are not waited for.
        ((position,),) = await database.ask("SELECT pg_current_wal_flush_lsn()::text")
        await self._until(
            "SELECT 1 FROM pg_stat_replication WHERE flush_lsn >= $1::text::pg_lsn", position
        )
        return standby

    async def _until(self, query: str, *arguments: object) -> None:
        deadline = _now() + 30 * TIMEOUT_UNIT_S
        while not await self._database.ask(query, *arguments):
            assert _now() < deadline, query
            await asyncio.sleep(0.05)

    async def lose_standby(self) -> str:
        """Stop a standby that must have every commit, and go on without it after a while."""
        database = self._database
        standby = await self._synchronous_standby()
        await asyncio.to_thread(standby.crash)
        seconds = self._chance.uniform(1, 6)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(database.primary.configure_now, "synchronous_standby_names = ''")
        await asyncio.to_thread(standby.close)
        return f"{seconds:.1f} s"

    async def promote_asynchronous(self) -> str:
        """Kill PostgreSQL, and let a standby take its place that lacks the newest commits."""
        database = self._database
        standby = await asyncio.to_thread(database.start_standby)
        await self._until("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'")
        await asyncio.to_thread(_unfollow, standby)
        before = await self._growth(await database.publications())
        await asyncio.to_thread(database.primary.crash)
        await asyncio.to_thread(database.take_over, standby)
        return await self._note_lost(before)

    async def _growth(self, before: int) -> int:
        """Wait until some more has been published; returns how much has been by then."""
        deadline = _now() + 20 * TIMEOUT_UNIT_S
        while (now := await self._database.publications()) < before + 5:
            assert _now() < deadline, "nothing is published"
            await asyncio.sleep(0.05)
        return now

    async def _note_lost(self, before: int) -> str:
        lost = before - await self._database.publications()
        self.renewals += 1
        self.lost += max(0, lost)
        return f"{lost} publications lost"

    async def _replace(self, standby: PostgreSQL) -> None:
        await asyncio.to_thread(self._database.primary.crash)
        await asyncio.to_thread(self._database.take_over, standby)
        self.renewals += 1

    async def restore(self) -> str:
        """Put a base backup back, plainly."""
        primary = self._database.primary
        backup = await asyncio.to_thread(primary.base_backup)
        await asyncio.sleep(self._chance.uniform(0.5, 2))
        before = await self._growth(await self._database.publications())
        await asyncio.to_thread(primary.restore, backup)
        return await self._note_lost(before)

    async def recover(self) -> str:
        """Put a base backup back, and recover it up to a moment."""
        primary = self._database.primary
        backup = await asyncio.to_thread(primary.base_backup)
        await asyncio.sleep(self._chance.uniform(0.5, 1.5))
        name = f"point {_now()}"
        await self._database.ask("SELECT pg_create_restore_point($1)", name)
        before = await self._growth(await self._database.publications())
        await asyncio.to_thread(lambda: primary.restore(backup, restore_point=name))
        return await self._note_lost(before)

    # Of machines

    async def lose_note(self) -> str | None:
        """Kill what has committed before the others are told of it."""
        machine = self._chance.choice(self._machines)
        teller = await self._backend("teller", machine)
        if teller is None:
            return None
        os.kill(teller, signal.SIGSTOP)
        query = (
            "SELECT coalesce(max(c.number), 0) FROM commits c JOIN machines m "
            "ON m.number = c.machine WHERE m.name = $1"
        )
        name = f"m{machine.number}"
        try:
            ((before,),) = await self._database.ask(query, name)
            deadline = _now() + 2 * TIMEOUT_UNIT_S
            while (after := (await self._database.ask(query, name))[0][0]) == before:
                if _now() > deadline:
                    return None
                await asyncio.sleep(0.005)
            relays = [pid for pid, part in machine.parts.items() if part == "relay"]
            if relays:
                _signal(dict.fromkeys(relays, "relay"), signal.SIGKILL)
            else:
                await machine.kill()
        finally:
            # It ends before it reads what its machine has said last.
            with contextlib.suppress(ProcessLookupError):
                os.kill(teller, signal.SIGTERM)
                os.kill(teller, signal.SIGCONT)
        if not relays:
            await machine.start()
        return f"commits {before + 1} to {after} of {name}"

    async def kill_relay(self) -> str | None:
        """Kill the relay of a machine with workers."""
        relays = [
            (pid, machine)
            for machine in self._machines
            for pid, part in machine.parts.items()
            if part == "relay"
        ]
        if not relays:
            return None
        pid, machine = self._chance.choice(relays)
        _signal({pid: "relay"}, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: "relay" in machine.parts.values())
        return f"m{machine.number}"

    async def kill_machine(self) -> str:
        """Kill a machine, and start it again at once, or when its users have left, or between."""
        machine = self._chance.choice(self._machines)
        down_s = min(self._chance.choice((0, self._chance.uniform(0, 5), 13)), self._longest_s)
        await machine.kill()
        await asyncio.sleep(down_s)
        await machine.start()
        return f"m{machine.number} down for {down_s:.1f} s"

    async def end_machine(self) -> str:
        """Stop a machine with SIGTERM while it publishes, and start it again."""
        machine = self._chance.choice(self._machines)
        await machine.stop()
        await machine.start()
        return f"m{machine.number}"

    async def stop_machine(self) -> str:
        """Stop a machine's processes for a while."""
        machine = self._chance.choice(self._machines)
        seconds = self._outage_s()
        with self._outage(machine):
            await machine.freeze(seconds)
        return f"m{machine.number} for {seconds:.1f} s"

    def _outage_s(self) -> float:
        """A time that others do not notice, or that ends the session, or after which users left."""
        chance = self._chance
        seconds = chance.choice((2, chance.uniform(3, 9), chance.uniform(13, 20)))
        return min(seconds, self._longest_s)

    @contextlib.contextmanager
    def _outage(self, machine: Machine) -> Iterator[None]:
        # It can be coming back from the fault before, and have said nothing yet.
        began = _now() - SILENT_S
        try:
            yield
        finally:
            self.outages.append(Outage(machine.number, began, _now()))

    async def partition(self) -> str:
        """Cut a machine off from PostgreSQL."""
        return await self._cut(questions=True, answers=True)

    async def lose_answers(self) -> str:
        """Let what PostgreSQL sends to a machine get lost."""
        return await self._cut(questions=False, answers=True)

    async def lose_questions(self) -> str:
        """Let what a machine sends to PostgreSQL get lost."""
        return await self._cut(questions=True, answers=False)

    async def _cut(self, *, questions: bool, answers: bool) -> str:
        machine = self._chance.choice(self._machines)
        assert machine.network is not None
        seconds = self._outage_s()
        with self._outage(machine):
            await asyncio.to_thread(machine.network.cut, questions=questions, answers=answers)
            try:
                await asyncio.sleep(seconds)
            finally:
                await asyncio.to_thread(machine.network.heal)
        return f"m{machine.number} for {seconds:.1f} s"
