"""Starts machines that only publish (machines/appender.py), and ends them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness.postgresql import Database
from harness.report import BenchError
from harness.served import Build, pinned, stop

PROGRAM = Path(__file__).with_name("appender.py")
PATIENCE_S = 60.0
#: A line has a number for each commit.
LINE_BYTES = 1 << 26


class Appender:
    """A machine that is connected, and waits for its beginning."""

    def __init__(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    async def run(self) -> dict[str, Any]:
        """Publish for the given time.

        The result has the `seconds` of the whole run, the `counts` of publications of each second,
        and the seconds of all `commits`. Raises BenchError.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(b"begin\n")
        told: dict[str, Any] = json.loads(await self.line(self._seconds + PATIENCE_S))
        return told

    async def line(self, patience_s: float) -> bytes:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(patience_s):
                if line := await self._process.stdout.readline():
                    return line
                text = (await self._process.stderr.read()).decode(errors="replace").strip()
        except TimeoutError:
            text = "it took too long"
        raise BenchError(f"a machine that publishes has ended: {text}")


@asynccontextmanager
async def appender(
    databases: Sequence[Database],
    name: str,
    seconds: float,
    rooms: int,
    size: int,
    share: float = 0.0,
    pause_s: float = 0.0,
    *,
    cpu: int | None = None,
) -> AsyncIterator[Appender]:
    """Connect a machine that publishes commits of this `size`; a `share` of them has ids.

    With several databases it commits in each of them to a part of the rooms, side by side.

    It runs on the CPUs of this process, unless another CPU is given.
    """
    build = Build()
    urls = " ".join(each.url for each in databases)
    numbers = (seconds, rooms, size, share, pause_s)
    with pinned(cpu):
        process = await asyncio.create_subprocess_exec(
            *(build.python, str(PROGRAM), urls, name, *map(str, numbers)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=build.environment(),
            limit=LINE_BYTES,
        )
    try:
        made = Appender(process, seconds)
        await made.line(PATIENCE_S)
        yield made
    finally:
        await stop(process)
