"""A timer of a millisecond in an event loop of uvloop, which records how late it runs.

    python bench/stalls/ticks.py FILE

As a program, it is the bare loop: it does nothing else, until its standard input ends, and then
writes its ticks to FILE.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from pathlib import Path

import uvloop

INTERVAL_S = 0.001
_INTERVAL_NS = 1_000_000


class Ticks:
    """The ticks of the running loop from now on: when each was due, and how late it was.

    Both are nanoseconds of the monotonic clock, which all processes share.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._times = array("q")
        self._due_ns = 0
        self._schedule()

    def _schedule(self) -> None:
        self._due_ns = time.monotonic_ns() + _INTERVAL_NS
        self._loop.call_later(INTERVAL_S, self._tick)

    def _tick(self) -> None:
        self._times.extend((self._due_ns, max(0, time.monotonic_ns() - self._due_ns)))
        self._schedule()

    def write(self, file: Path) -> None:
        file.write_bytes(self._times.tobytes())


def read(file: Path) -> list[tuple[int, int]]:
    """The ticks that a process has written."""
    times = array("q")
    times.frombytes(file.read_bytes())
    return list(zip(times[::2], times[1::2], strict=True))


async def _run(file: Path) -> None:
    ticks = Ticks()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    print("ready", flush=True)
    await ended.wait()
    ticks.write(file)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(Path(sys.argv[1])))
