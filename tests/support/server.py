"""A real server in a process of its own, and waiting for conditions."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: The unit of all timeouts, in seconds; a slow machine can set it higher.
TIMEOUT_UNIT_S = float(os.environ.get("FASTCHAT_TIMEOUT_UNIT", "1"))
#: A deadline that only a failing test reaches.
START_TIMEOUT_S = 60 * TIMEOUT_UNIT_S
PATIENCE_S = 15 * TIMEOUT_UNIT_S
#: Ports are given in turn: a test can ask for several of them before a server uses the first.
_turns = itertools.count(random.SystemRandom().randrange(1 << 16))


def lasting_port() -> int:
    """A free port that a server can use again after its end; 0 if there is none.

    The port is below the kernel's range for outgoing connections. So none of the connections that
    other tests open meanwhile, or that a page tries to open to the stopped server, can take it.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    if low < 16_384:
        return 0
    # Each of the processes that run tests in parallel has every sixteenth port.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(low // 2 + number % 16, low, 16)
    while True:
        port = ports[next(_turns) % len(ports)]
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def without_root() -> tuple[str, ...]:
    """Arguments before a command that take root's right to ignore the modes of files from it."""
    if os.geteuid():
        return ()
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


class Server:
    """`fastchat serve` as a child process, on a port of 127.0.0.1; 0 is any free port.

    `open_files` is its limit of descriptors (`ulimit -n`), and `stdin` a descriptor, such as a
    terminal's. `before` are words before the command, such as those that choose its network. With
    `as_root` false, the modes of files apply to it even if the test runs as root.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        port: int = 0,
        open_files: int | None = None,
        stdin: int | None = None,
        *,
        as_root: bool = True,
        before: tuple[str, ...] = (),
    ) -> None:
        command = [
            *before,
            sys.executable,
            "-m",
            "fastchat",
            "serve",
            "--port",
            str(port or lasting_port()),
        ]
        command += arguments
        if not as_root:
            command = [*without_root(), *command]
        if open_files is not None:
            command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.output = ""
        try:
            self.url = self._await_address()
        except BaseException:
            self.kill()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def _await_address(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        assert self.process.stdout is not None
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.1)
            if ready:
                line = self.process.stdout.readline()
                self.output += line
                if found := re.search(r"https?://[\d.]+:\d+", line):
                    return found[0]
            if self.process.poll() is not None:
                break
        self.process.kill()  # so that communicate() does not wait for a server that hangs
        raise RuntimeError(f"the server did not start: {self.process.communicate()}")

    def stop(self, *, timeout_s: float = 10 * TIMEOUT_UNIT_S) -> int:
        """Stop the server with SIGTERM; returns the exit status. If that takes too long, kill it
        and fail."""
        self.process.terminate()
        return self._finish(timeout_s)

    def kill(self) -> int:
        self.process.kill()
        return self._finish(10 * TIMEOUT_UNIT_S)

    def wait(self, *, timeout_s: float = 10 * TIMEOUT_UNIT_S) -> int:
        """Wait for a server that stops by itself; returns the exit status."""
        return self._finish(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _finish(self, timeout_s: float) -> int:
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        self.output += out
        self.errors = err
        return self.process.returncode

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def running_server(
    *arguments: str,
    port: int = 0,
    open_files: int | None = None,
    stdin: int | None = None,
    as_root: bool = True,
) -> Iterator[Server]:
    """A server during a `with` block; it is killed at the end if it still runs."""
    server = Server(arguments, port, open_files, stdin, as_root=as_root)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


def wait_until(holds: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
    """Poll a condition that has no event to wait for; AssertionError if it does not become true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {timeout_s} s: {holds}"
        time.sleep(0.01)
