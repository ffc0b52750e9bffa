"""A PostgreSQL of the benchmark's own: Debian's programs, in a temporary directory."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.report import BenchError, MissingError
from harness.served import pinned

ROOT = Path(__file__).resolve().parents[2]
#: Where Debian's package has its programs, installed or unpacked by `make postgresql`.
PLACES = (Path("/usr/lib/postgresql"), ROOT / "build/postgresql/usr/lib/postgresql")
INITDB = ("--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C")
#: PostgreSQL refuses to run as root.
USER = "nobody"
START_TIMEOUT_S, STOP_TIMEOUT_S = 30.0, 10.0
POLL_S = 0.005


class Database:
    """A running server with PostgreSQL's own settings, which can be killed and started again."""

    def __init__(
        self, home: Path, port: int, cpu: int | None, environment: Mapping[str, str]
    ) -> None:
        self._home = home
        self._cpu = cpu
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    async def start(self) -> None:
        """Start the server, and return as soon as it accepts connections."""
        self._process = self._begin()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._accepted()
        except TimeoutError:
            raise BenchError(f"PostgreSQL did not start: {self.log()}") from None

    def _begin(self) -> subprocess.Popen[bytes]:
        # uvloop starts no process as another user.
        with pinned(self._cpu), (self._home / "log").open("ab") as log:
            return subprocess.Popen(
                [str(_programs() / "postgres"), "-D", str(self._home / "data")],
                cwd=self._home,
                env=self._environment,
                user=_user(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _accepted(self) -> None:
        while True:
            with contextlib.suppress(BenchError):
                await self.fetch("SELECT 1")
                return
            assert self._process is not None
            if self._process.poll() is not None:
                raise BenchError(f"PostgreSQL ended: {self.log()}")
            await asyncio.sleep(POLL_S)

    def log(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-1000:]

    async def kill(self) -> None:
        """Kill the server with all its processes, which lose what they were doing."""
        await asyncio.to_thread(self._end, signal.SIGQUIT)

    async def close(self) -> None:
        # SIGTERM would wait for the clients.
        await asyncio.to_thread(self._end, signal.SIGINT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def fetch(self, query: str) -> list[Any]:
        """Run a query on a new connection. Raises BenchError if that is not possible."""
        import asyncpg

        try:
            db = await asyncpg.connect(self.url, timeout=START_TIMEOUT_S)
            try:
                return list(await db.fetch(query))
            finally:
                db.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise BenchError(f"PostgreSQL: {error}") from None

    def processes(self) -> list[int]:
        """The processes of the server and of its connections."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


@asynccontextmanager
async def running_postgresql(
    *settings: str, cpu: int | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Database]:
    """Start a server with an empty database; `settings` are further lines of postgresql.conf.

    It runs on the CPUs of this process, unless another CPU is given. The `environment` is added to
    that of its processes. Raises MissingError if there is no PostgreSQL, or no asyncpg.
    """
    _programs()
    home = Path(tempfile.mkdtemp(prefix="fastchat-bench-postgresql-"))
    database = Database(home, _free_port(), cpu, environment)
    try:
        if user := _user():
            shutil.chown(home, user)
        await asyncio.to_thread(lambda: _copy(_initialised(), home / "data"))
        lines = (
            "listen_addresses = '127.0.0.1'",
            f"port = {database.port}",
            f"unix_socket_directories = '{home}'",
            *settings,
        )
        with (home / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write("\n".join((*lines, "")))
        await database.start()
        yield database
    finally:
        await database.close()
        shutil.rmtree(home, ignore_errors=True)


def version() -> str:
    """The version of the server's programs."""
    program = str(_programs() / "postgres")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def _programs() -> Path:
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        raise MissingError("asyncpg is missing: pip install -e '.[cluster]'") from None
    found = [each for place in PLACES for each in place.glob("*/bin") if (each / "initdb").exists()]
    if not found:
        raise MissingError("PostgreSQL is missing: apt-get install postgresql")
    return max(found, key=lambda each: int(each.parent.name))


def _user() -> str | None:
    return USER if os.geteuid() == 0 else None


@functools.cache
def _initialised() -> Path:
    """The directory of a server that was never started. All servers are copies."""
    home = Path(tempfile.mkdtemp(prefix="fastchat-bench-initdb-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if user := _user():
        shutil.chown(home, user)
    _run([str(_programs() / "initdb"), *INITDB, "-D", str(home / "data")], home)
    return home / "data"


def _copy(source: Path, target: Path) -> None:
    # The server's user must own the files.
    _run(["cp", "-a", str(source), str(target)], target.parent)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, user=_user(), capture_output=True, text=True)
    if done.returncode:
        raise BenchError(done.stderr.strip())


def _free_port() -> int:
    """A port that is free now and stays so: it is below the kernel's range for outgoing ones."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for port in range(low - 1, 1024, -1):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("there is no free port")
