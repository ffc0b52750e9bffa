"""`fastchat serve` with a timer of a millisecond in its event loop, and a record of what took long.

    python bench/stalls/watched.py DIRECTORY serve …

When the server stops, it writes its ticks and the record to files in DIRECTORY.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fastchat.process.worker
from fastchat.cli import main
from fastchat.history.checkpoints import Checkpointer
from fastchat.history.pruning import Pruner
from fastchat.history.sqlite import SqliteHistory
from fastchat.process.worker import Worker
from fastchat.rooms.local import LocalRooms
from stalls.ticks import Ticks

TICKS, CALLS = "ticks", "calls.json"
#: A shorter call is not recorded.
LEAST_NS = 1_000_000
#: What runs in the event loop, and can take long; an outer function before those that it calls.
WATCHED: tuple[tuple[type, str, str], ...] = (
    (Worker, "_sweep", "the tasks of each second"),
    (LocalRooms, "commit", "a turn's messages"),
    (SqliteHistory, "_commit", "a commit"),
    (SqliteHistory, "check", "the check of the directory"),
    (Pruner, "shorten", "the deletion of old messages"),
    (Checkpointer, "begin_write", "the wait for a checkpoint"),
)


class Calls:
    """Calls that took at least a millisecond: name, begin and end."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, int]] = []
        self._collecting_ns = 0
        for owner, function, name in WATCHED:
            setattr(owner, function, self._timed(name, getattr(owner, function)))
        gc.callbacks.append(self._collected)

    def _add(self, name: str, begin_ns: int) -> None:
        now = time.monotonic_ns()
        if now - begin_ns >= LEAST_NS:
            self.found.append((name, begin_ns, now))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any) -> Any:
            begin_ns = time.monotonic_ns()
            try:
                return function(*arguments)
            finally:
                self._add(name, begin_ns)

        return call

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_ns = time.monotonic_ns()
        else:
            self._add(f"garbage collection, generation {info['generation']}", self._collecting_ns)


def _watch(directory: Path) -> None:
    calls = Calls()

    async def watch_lag(_: object) -> None:
        ticks = Ticks()
        try:
            await asyncio.Event().wait()
        finally:
            ticks.write(directory / TICKS)
            (directory / CALLS).write_text(json.dumps(calls.found))

    # The server measures its own delay ten times a second, which misses most stalls.
    fastchat.process.worker.watch_lag = watch_lag


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
