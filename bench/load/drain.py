"""Builds the compiled half of the benchmark, starts it, and communicates with it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from harness.machine import Pins, find_compiler
from harness.report import BenchError, MissingError

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "bench"
MODULUS = 1024  # numbers in the rows' messages run from 0 to 1023 and begin again
SETUP_TIMEOUT_S = 15.0
SAMPLE_TIMEOUT_S = 5.0
READY, COMPLETED, LAST_NS, SIGNALLING = range(4)  # struct page in drain.c


def build(name: str, *flags: str) -> Path:
    """Compile bench/load/NAME.c into build/bench/, unless the result is newer than the source."""
    source = HERE / f"{name}.c"
    target = BUILD / (f"{name}.so" if "-shared" in flags else name)
    newest = max(path.stat().st_mtime for path in (source, HERE / "load.h"))
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    if not sys.platform.startswith("linux"):
        raise MissingError("sockets and server: the load uses epoll and needs Linux")
    compiler = find_compiler()
    if compiler is None:
        raise MissingError("sockets and server need a C compiler: install gcc or clang, or set CC")
    BUILD.mkdir(parents=True, exist_ok=True)
    # It gets another name first, because a second benchmark can be running the old file.
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    command = [compiler, "-O2", "-Wall", *flags, "-o", str(fresh), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise BenchError(f"{source.name} does not compile:\n{done.stderr}")
    fresh.replace(target)
    return target


def build_drain() -> Path:
    return build("drain")


class Floor:
    """A bare C loop of send() over sockets. The time is measured inside C."""

    def __init__(self, sockets: list[int]) -> None:
        library = ctypes.CDLL(str(build("floor", "-shared", "-fPIC")))
        self._call = library.send_to_all
        self._call.restype = ctypes.c_int64
        self._call.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int64)
        self._sockets = (ctypes.c_int * len(sockets))(*sockets)

    def send(self, data: bytes) -> int:
        """Send to all sockets; return nanoseconds. Raises BenchError if a socket is full."""
        elapsed = self._call(self._sockets, len(self._sockets), data, len(data))
        if elapsed < 0:
            raise BenchError("a socket of the floor took only a part of its message")
        return int(elapsed)


class Drainer:
    """A process that reads N loopback connections and counts the messages that all have received.

    It is a context manager, which stops the process at the end.
    """

    def __init__(self, port: int, clients: int, pins: Pins, *, handshake: bool) -> None:
        self._alone = pins.sender is None
        self._memory_fd = os.memfd_create("drain")
        os.ftruncate(self._memory_fd, mmap.PAGESIZE)
        self._memory = mmap.mmap(self._memory_fd, mmap.PAGESIZE)
        self._page = memoryview(self._memory).cast("Q")
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        numbers = (port, clients, pins.load_argument, int(handshake), MODULUS)
        command = [str(build_drain()), "receive", *map(str, numbers)]
        self._process = subprocess.Popen(
            [*command, str(self._memory_fd), str(self.event_fd)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self._memory_fd, self.event_fd),
        )

    def __enter__(self) -> Drainer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop(self._process)
        self._page.release()
        self._memory.close()
        os.close(self._memory_fd)
        os.close(self.event_fd)

    @property
    def completed(self) -> int:
        """The number of messages that every client has received."""
        return self._page[COMPLETED]

    @property
    def last_ns(self) -> int:
        """The time at which the last client received the newest of them, in nanoseconds.

        The clock is that of time.perf_counter_ns().
        """
        return self._page[LAST_NS]

    def set_signalling(self, on: bool) -> None:
        """Whether each change of `completed` writes to the eventfd."""
        self._page[SIGNALLING] = int(on)

    def drain_signal(self) -> None:
        """Reset the eventfd, if it is set."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)

    async def ready(self) -> None:
        """Wait until all clients are connected, and upgraded if there is a handshake."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_reader(self.event_fd, came.set)
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await came.wait()
        except TimeoutError:
            raise self.failure("the clients could not connect") from None
        finally:
            loop.remove_reader(self.event_fd)
            self.drain_signal()

    def wait(self, count: int) -> int:
        """Spin until all clients have `count` messages; return when the last one arrived.

        Spinning keeps the sender's CPU busy between samples, as in a busy server. On a machine with
        one CPU, it yields to the drainer.
        """
        page, alone = self._page, self._alone
        deadline = time.monotonic() + SAMPLE_TIMEOUT_S
        while page[COMPLETED] < count:
            if alone:
                os.sched_yield()
            if time.monotonic() > deadline:
                raise self.failure(f"only {page[COMPLETED]} of {count} messages arrived")
        return page[LAST_NS]

    def failure(self, what: str) -> BenchError:
        """An error, with the drainer's own message if it has ended."""
        if self._process.poll() is not None and self._process.stderr is not None:
            what += ": " + self._process.stderr.read().decode(errors="replace").strip()
        return BenchError(what)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process of this benchmark by SIGTERM, and after a while by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
