"""The relay: one process that has the rooms, for all workers of a machine.

Workers connect to a Unix socket in the data directory (`fastchat.brokers.relay.client` is their
side of it). A worker's connection is a port of the rooms. When it ends, its members are
lost, and have the usual time to come back by another worker.

A relay that takes the place of another knows nothing of who is there: it waits until all
workers have told it, and welcomes them together, so that nobody's name is given away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from fastchat.brokers.relay.peer import RelayPort
from fastchat.brokers.relay.wire import SOCKET_NAME, bind_socket
from fastchat.errors import SettingError
from fastchat.history import History
from fastchat.history.directory import lock
from fastchat.limits.connections import Census
from fastchat.metrics import Metrics, watch_lag
from fastchat.process.bounds import census_of, room_limits_of
from fastchat.process.channel import Control
from fastchat.process.histories import open_history, open_retention
from fastchat.rooms.removals import FILE_NAME, Removals
from fastchat.rooms.rooms import Rooms
from fastchat.settings import Settings

__all__ = ["Relay", "run"]

logger = logging.getLogger("fastchat.relay")

#: How long the first workers wait for the others.
GATHERING_S = 1.0
TICK_INTERVAL_S = 1.0
#: How long they have to end, when all are asked to.
WORKERS_STOP_S = 6.0


def run(settings: Settings, control: Control, *, workers: int) -> int:
    """Relay until SIGTERM, or until the supervisor is gone; returns the exit status.

    Raises SettingError when the data directory cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if settings.history == "memory":  # the directory is the socket's, too
            stack.callback(os.close, lock(Path(settings.data)))
        history = open_history(settings)
        stack.callback(history.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, history, control, workers))


async def _serve(settings: Settings, history: History, control: Control, workers: int) -> int:
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    rooms = Rooms(
        history,
        at_end_of_turn=loop.call_soon,
        clock=time.time,
        metrics=metrics,
        removals=Removals(time.time, Path(settings.data) / FILE_NAME),
        limits=room_limits_of(settings),
    )
    relay = Relay(Path(settings.data), rooms, metrics, workers=workers, census=census_of(settings))
    asked, alone = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    control.open(loop, alone.set)
    try:
        await relay.start()
    except OSError as error:
        raise SettingError(
            f"--data {settings.data} cannot hold the relay's socket: {error.strerror}."
        ) from None
    control.say(ready=True)
    tasks = [
        loop.create_task(_tick_forever(relay, control)),
        loop.create_task(watch_lag(metrics.loop_lag_s)),
    ]
    retention = open_retention(settings, metrics, history)
    if retention is not None:
        retention.start()
    gc.collect()
    gc.freeze()
    orphaned = loop.create_task(alone.wait())
    await _first_of(orphaned, asked.wait())
    # Whoever signals all processes at once means the workers first: they have something to say.
    await _first_of(orphaned, relay.deserted(), timeout_s=WORKERS_STOP_S)
    for task in tasks:
        task.cancel()
    if retention is not None:
        retention.stop()
    relay.close()
    return 0


async def _first_of(
    task: asyncio.Task[Any], other: Coroutine[Any, Any, Any], timeout_s: float | None = None
) -> None:
    second = asyncio.ensure_future(other)
    await asyncio.wait({task, second}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()


async def _tick_forever(relay: Relay, control: Control) -> None:
    while True:
        await asyncio.sleep(TICK_INTERVAL_S)
        try:
            relay.rooms.tick()
        except Exception:  # a fault that stays has us replaced: there is no beat
            logger.exception("internal error in a tick")
        else:
            control.say(beat=True, relay=True)


class Relay:
    """The rooms, offered to workers in `directory`. Waits for `workers` of them at first.

    `census` counts the connections of all of them.
    """

    def __init__(
        self,
        directory: Path,
        rooms: Rooms,
        metrics: Metrics,
        *,
        workers: int,
        census: Census | None = None,
    ) -> None:
        self.rooms = rooms
        self.census = Census() if census is None else census
        self._directory = directory
        self._metrics = metrics
        self._expected = workers
        self.gathered = False
        self._ports: dict[RelayPort, None] = {}  # the newest last
        self._server: asyncio.AbstractServer | None = None
        self._left = asyncio.Event()  # whenever a port has

    async def start(self) -> None:
        """Listen. The directory's lock is ours: a socket that is there is a dead relay's.

        Raises OSError.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            functools.partial(RelayPort, self), sock=bind_socket(self._directory)
        )
        loop.call_later(GATHERING_S, self._end_gathering)

    def close(self) -> None:
        """Hang up; what has been kept is kept."""
        self.rooms.commit()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / SOCKET_NAME)
        if self._server is not None:
            self._server.close()
        for port in tuple(self._ports):
            port.close()

    async def deserted(self) -> None:
        """Wait until no worker is connected."""
        while any(port.name for port in self._ports):
            self._left.clear()
            await self._left.wait()

    def status(self) -> dict[str, Any]:
        """The last report of each worker, and our own.

        Of a worker and the one that replaces it, the latter's.
        """
        own = self._metrics.snapshot(rooms=self.rooms.room_count, users=self.rooms.user_count)
        return {
            "parts": {
                "relay": own,
                **{port.name: port.report for port in self._ports if port.report is not None},
            }
        }

    # Of the ports

    def opened(self, port: RelayPort) -> None:
        self._ports[port] = None

    def closed(self, port: RelayPort) -> None:
        self._ports.pop(port, None)
        self._left.set()

    def restored(self, port: RelayPort) -> None:
        """A worker has told all it knows."""
        if self.gathered:
            port.welcome()
        elif sum(each.is_restored for each in self._ports) >= self._expected:
            self._end_gathering()

    def _end_gathering(self) -> None:
        if not self.gathered:
            self.gathered = True
            for port in self._ports:
                if port.is_restored:
                    port.welcome()
