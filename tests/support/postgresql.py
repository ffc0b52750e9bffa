"""A real PostgreSQL of its own for tests: Debian's package, in a temporary directory."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from support.server import START_TIMEOUT_S, TIMEOUT_UNIT_S, lasting_port, wait_until

__all__ = ["FAST", "PostgreSQL", "find_programs", "postgresql", "standby"]

#: Where Debian's package has its programs, installed or unpacked by `make postgresql`.
_ROOT = Path(__file__).parents[2]
_PLACES = (Path("/usr/lib/postgresql"), _ROOT / "build/postgresql/usr/lib/postgresql")
_BACKUP = ("--no-sync", "--checkpoint=fast", "--wal-method=stream")
_INITDB = (
    *("--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"),
    "--wal-segsize=1",  # there is less to copy
)
#: In postmaster.pid, of a server that accepts connections.
_READY = ("ready", "standby")
#: PostgreSQL refuses to run as root.
_USER = "nobody"
#: Settings of servers whose processes are killed, but not their machine.
FAST = ("fsync = off", "autovacuum = off")


def find_programs() -> Path | None:
    """The directory with the programs of the newest PostgreSQL; None if there is none."""
    found = [
        each for place in _PLACES for each in place.glob("*/bin") if (each / "initdb").exists()
    ]
    return max(found, key=lambda each: int(each.parent.name), default=None)


def _as_user() -> str | None:
    """The user of the servers, if it is another one than that of the tests."""
    return _USER if os.geteuid() == 0 else None


def _give(directory: Path) -> None:
    """Let the servers' user have a directory."""
    if user := _as_user():
        shutil.chown(directory, user)


@functools.cache
def _initialised(programs: Path) -> Path:
    """The directory of a server that was never started. All servers of this process are copies."""
    home = Path(tempfile.mkdtemp(prefix="fastchat-initdb-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    _give(home)
    _run(programs, home, "initdb", *_INITDB, "-D", str(home / "data"))
    return home / "data"


def _run(programs: Path, folder: Path, program: str, *arguments: str) -> str:
    ended = subprocess.run(
        [str(programs / program), *arguments],
        cwd=folder,
        user=_as_user(),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_TIMEOUT_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _is_running(process: str) -> bool:
    try:
        stat = Path("/proc", process, "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class PostgreSQL:
    """A server on a port of 127.0.0.1, with a database in which everybody is trusted.

    The directory is deleted by `close`; it is a new one below `place`. `settings` are lines of
    postgresql.conf. With `follows`, it is a standby of that server. `environment` is added to that
    of its processes.
    """

    def __init__(
        self,
        programs: Path,
        settings: Sequence[str] = (),
        follows: PostgreSQL | None = None,
        *,
        place: Path | None = None,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = programs
        self.home = Path(tempfile.mkdtemp(prefix="fastchat-postgresql-", dir=place))
        self.data = self.home / "data"
        self.port = port or lasting_port()
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._backups = 0
        try:
            _give(self.home)
            if follows is None:
                # Initialising takes a second.
                self._copy(_initialised(programs), self.data)
            else:
                self.run("pg_basebackup", *_BACKUP, "-R", "-d", follows.url, "-D", str(self.data))
            self._settings = settings
            self._configure_place()
            self.start()
        except BaseException:
            self.close()
            raise

    def _configure_place(self) -> None:
        self.configure(
            "listen_addresses = '127.0.0.1'",
            f"port = {self.port}",
            f"unix_socket_directories = '{self.home}'",
            "shared_buffers = 32MB",
            "max_wal_size = 256MB",
            "wal_keep_size = 256MB",
            *self._settings,
        )

    def configure(self, *settings: str) -> None:
        """Append lines to postgresql.conf, which override earlier ones at the next start."""
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write("\n".join((*settings, "")))

    def configure_now(self, *settings: str) -> None:
        """Append lines to postgresql.conf of a running server."""
        self.configure(*settings)
        self.run("pg_ctl", "reload", "-s", "-D", str(self.data))

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs as the server's user; returns the output."""
        return _run(self._programs, self.home, program, *arguments)

    def query(self, statement: str) -> str:
        """The first value that a statement returns, as text."""
        return self.run("psql", "-XAtc", statement, self.url).strip()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data)],
                cwd=self.home,
                env={**os.environ, **self._environment},
                user=_as_user(),
                stdout=log,
                stderr=log,
            )
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        status = self.data / "postmaster.pid"
        process = self._process
        assert process is not None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError):
                lines = status.read_text().splitlines()
                # After a crash, the file of the process that was killed is still there.
                if int(lines[0]) == process.pid and lines[7].strip() in _READY:
                    return
            assert process.poll() is None, (self.home / "log").read_text()
            time.sleep(0.01)
        raise AssertionError("PostgreSQL did not start")

    @property
    def is_running(self) -> bool:
        """Whether the server has not ended, by itself or by the test."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server as an operator does; what is connected loses its connection."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server and what it has started."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(10 * TIMEOUT_UNIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def crash(self) -> None:
        """Kill the server and its children with SIGKILL, as a crash of the machine would."""
        process = self._process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        process.wait()
        self._process = None
        # The next start refuses the shared memory as long as a child has it.
        wait_until(lambda: not any(map(_is_running, children)))

    def promote(self) -> None:
        """Make the primary of a standby."""
        self.run("pg_ctl", "promote", "-s", "-w", "-D", str(self.data))

    def base_backup(self) -> Path:
        """Copy the server as pg_basebackup does; returns the directory, which `close` deletes."""
        self._backups += 1
        backup = self.home / f"backup-{self._backups}"
        self.run("pg_basebackup", *_BACKUP, "-d", self.url, "-D", str(backup))
        return backup

    def restore(self, backup: Path, *, restore_point: str = "") -> None:
        """Put a base backup in the place of what there is, and start it.

        With a `restore_point`, it is recovered up to there from the log of the present data.
        """
        if self._process is not None:
            self.stop()
        old = self.home / f"old-{len(list(self.home.glob('old-*')))}"
        self.data.rename(old)
        self._copy(backup, self.data)
        self._configure_place()
        if restore_point:
            self.configure(
                f"restore_command = 'cp {old}/pg_wal/%f %p'",
                f"recovery_target_name = '{restore_point}'",
                "recovery_target_action = 'promote'",
            )
            (self.data / "recovery.signal").touch()
        self.start()
        if restore_point:
            wait_until(lambda: self.query("SELECT pg_is_in_recovery()") == "f")
            self.configure("recovery_target_name = ''", "restore_command = ''")  # for its standbys

    def _copy(self, source: Path, target: Path) -> None:
        # The server's user must own the files.
        subprocess.run(
            ["cp", "-a", str(source), str(target)], user=_as_user(), cwd=self.home, check=True
        )

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def postgresql(*settings: str) -> Iterator[PostgreSQL]:
    """A server for the length of a `with` block. Without PostgreSQL, the test is skipped."""
    server = PostgreSQL(_programs(), settings)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def standby(primary: PostgreSQL) -> Iterator[PostgreSQL]:
    """A standby of a server, for the length of a `with` block."""
    server = PostgreSQL(_programs(), follows=primary)
    try:
        yield server
    finally:
        server.close()


def _programs() -> Path:
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql (as root)")
    return programs
