"""Starts the clients of bench/load/crowd.c, sends them commands, and ends them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness.report import BenchError
from harness.served import stop
from load.drain import build

LINE_TIMEOUT_S = 120.0


class Crowd:
    """Many clients in one process, which reports events as lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def told(self) -> dict[str, Any]:
        """Return the next line. Raises BenchError with the process's error if it has ended."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(LINE_TIMEOUT_S):
                line = await self._process.stdout.readline()
                if not line:
                    errors = await self._process.stderr.read()
                    text = errors.decode(errors="replace").strip()
                    raise BenchError(f"the clients ended: {text}")
        except TimeoutError:
            raise BenchError("the clients took too long") from None
        told: dict[str, Any] = json.loads(line)
        return told

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())


@asynccontextmanager
async def crowd(
    mode: str, ports: Sequence[int], cpu: int | None, *numbers: object
) -> AsyncIterator[Crowd]:
    """Start clients in one of the modes of crowd.c, on the given CPU unless it is None."""
    process = await asyncio.create_subprocess_exec(
        str(build("crowd")),
        *map(str, (mode, ",".join(map(str, ports)), -1 if cpu is None else cpu, *numbers)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Crowd(process)
    finally:
        await stop(process)
