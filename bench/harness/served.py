"""`fastchat serve` as a separate process, with its children, and the resources that they use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.report import BenchError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
#: The children of a supervisor end within a second after it (`fastchat.process.channel.END_S`).
ORPHANS_S = 3.0
ORPHANS_INTERVAL_S = 0.05
ADDRESS = re.compile(rb"https?://127\.0\.0\.1:(\d+)")
SOURCE = Path(__file__).resolve().parents[2] / "src"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its port, and the process that was started."""

    port: int
    pid: int

    def parts(self) -> dict[str, int]:
        """Its processes by name, such as "worker 1". A single process is called "server"."""
        found = _children(self.pid)
        return {"supervisor" if found else "server": self.pid, **found}

    def workers(self) -> list[int]:
        """The processes to which clients connect."""
        parts = self.parts()
        return [pid for name, pid in parts.items() if name.startswith("worker")] or [self.pid]

    def owners(self, client_ports: list[int]) -> list[int]:
        """The process that serves each of the connections from these ports."""
        processes = {inode: pid for pid in self.workers() for inode in _sockets(pid)}
        inodes = _connections(self.port)
        try:
            return [processes[inodes[port]] for port in client_ports]
        except KeyError:
            raise BenchError("a connection of the load belongs to no worker") from None


@dataclass(frozen=True, slots=True)
class Build:
    """A build of fastchat: its sources, and a Python that has what they need."""

    source: Path = SOURCE
    python: str = sys.executable

    def environment(self) -> dict[str, str]:
        """The environment of its processes.

        Servers use their defaults, and not this user's settings for other servers. They store
        bytecode, as an installed package does.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("FASTCHAT_") and name != "PYTHONDONTWRITEBYTECODE"
        }
        path = [str(self.source), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
        return environment


@asynccontextmanager
async def running_server(
    *arguments: str,
    cpu: int | None = None,
    build: Build | None = None,
    program: Sequence[str] = ("-m", "fastchat"),
) -> AsyncIterator[Served]:
    """Start a server on a free port, with an empty data directory. It is this build by default.

    It runs on the CPUs of this process, unless another CPU is given. `program` are Python's
    arguments that start fastchat's command. At the end the server is stopped by SIGTERM, or by
    SIGKILL if that fails, together with all its children.
    """
    build = build or Build()
    # The load is far above the limits of one address and of one user.
    command = [build.python, *program, "serve", "--port", "0", "--log-level", "warning"]
    command += ["--limits", "off"]
    with tempfile.TemporaryDirectory(
        prefix="fastchat-bench-", ignore_cleanup_errors=True
    ) as directory:
        with pinned(cpu):
            process = await asyncio.create_subprocess_exec(
                *command,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=build.environment(),
            )
        errors = asyncio.ensure_future(_read_all(process.stderr))
        try:
            yield Served(await _port(process, errors), process.pid)
        finally:
            parts = _children(process.pid)
            try:
                await stop(process, STOP_TIMEOUT_S)
            finally:
                errors.cancel()
                await _end_orphans(parts)


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Start processes on this CPU inside the `with` block."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _read_all(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""


async def _port(process: asyncio.subprocess.Process, errors: asyncio.Future[bytes]) -> int:
    """Read the address that the server prints when it is ready."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            async for line in process.stdout:
                found = ADDRESS.search(line)
                if found:
                    return int(found[1])
            text = (await errors).decode(errors="replace").strip()
    except TimeoutError:
        text = f"it printed no address within {START_TIMEOUT_S:.0f} s"
    raise BenchError(f"the server did not start: {text}")


async def stop(process: asyncio.subprocess.Process, timeout_s: float = 5) -> None:
    """Stop a process of this benchmark by SIGTERM, and after a while by SIGKILL."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _end_orphans(parts: dict[str, int]) -> None:
    """Wait for the children of a server that has ended; kill those that remain."""
    for _ in range(int(ORPHANS_S / ORPHANS_INTERVAL_S)):
        if not any(map(_part_name, parts.values())):
            return
        await asyncio.sleep(ORPHANS_INTERVAL_S)
    for pid in filter(_part_name, parts.values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> dict[str, int]:
    """The children that this process has started, by name."""
    found = {}
    for directory in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in parentheses can contain any character; the state and the parent follow it.
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
            pid = int(directory.name)
            if int(fields[1]) == parent and (name := _part_name(pid)):
                found[name] = pid
    return found


def _part_name(pid: int) -> str | None:
    """The role of a process in a server of several; None if it has none, or has ended."""
    try:
        command = (PROC / str(pid) / "cmdline").read_text().split("\0")
    except OSError:
        return None
    if "fastchat.process" not in command:
        return None
    kind, number, *_ = command[command.index("fastchat.process") + 1 :]
    return f"{kind} {number}" if kind == "worker" else kind


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for link in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def _connections(port: int) -> dict[int, str]:
    """The inodes of the sockets of a local port, by the port of the other end."""
    found = {}
    for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]:
        fields = line.split()
        own, other = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
        if own == port and other:
            found[other] = fields[9]
    return found


def memory_bytes(pid: int) -> dict[str, int]:
    """The memory of a process: "Pss" divides shared pages among the processes that share them,
    "Rss" counts them in each process, and "Private" leaves them out."""
    sizes: dict[str, int] = {}
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name[:-1]] = int(value) * 1024
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"Pss": sizes["Pss"], "Rss": sizes["Rss"], "Private": private}


def cpu_s(pid: int) -> float:
    """The CPU time of all threads of a process."""
    times = (PROC / str(pid) / "task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in times) / 1e9
