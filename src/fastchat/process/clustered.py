"""One of several workers: the relay has the rooms, the supervisor starts and ends the process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket

import uvloop

from fastchat.process.assembly.worker import ClusteredComponents, build_clustered
from fastchat.process.channel import Channel
from fastchat.process.signals import on_hang_up
from fastchat.process.timings import WorkerTimings
from fastchat.process.worker import Worker
from fastchat.settings import Settings

__all__ = ["run"]

logger = logging.getLogger("fastchat")


def run(settings: Settings, channel: Channel, *, number: int, listener: socket.socket) -> int:
    """Serve as one of several until SIGTERM, or until the supervisor is gone.

    Returns the exit status.
    """
    listener.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, channel, f"worker-{number}", listener))


async def _serve(settings: Settings, channel: Channel, name: str, listener: socket.socket) -> int:
    components = build_clustered(settings, listener, name=name, timings=WorkerTimings())
    worker = Worker(components.worker)
    return await worker.serve(Clustered(worker, components, channel, name))


class Clustered:
    """The mode of the worker `name` of several: it reports to the supervisor and the relay."""

    def __init__(
        self, worker: Worker, components: ClusteredComponents, channel: Channel, name: str
    ) -> None:
        self._worker = worker
        self._relay = components.relay
        self._reader = components.reader
        self._timings = components.worker.timings
        self._channel = channel
        self._name = name

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        on_hang_up(loop, self._worker.reload, self._worker.drain)
        # A second SIGTERM changes nothing. If all processes of a server are signalled, the
        # supervisor sends another one. A worker that must end at once is killed by the supervisor.
        loop.add_signal_handler(signal.SIGTERM, self._on_end)
        self._channel.open(loop, self._on_lost)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timings.relay_wait_s):
                await self._relay.start()
        self._channel.say(ready=True)
        self.tick()
        # The objects that exist now live as long as the process; the collector can skip them.
        gc.collect()
        gc.freeze()

    def tick(self) -> None:
        self._channel.say(beat=True, relay=self._relay.connected)
        self._relay.report(self._worker.snapshot())

    async def end(self) -> None:
        await self._relay.close()
        if self._reader is not None:
            self._reader.close()

    def _on_end(self) -> None:
        if not self._worker.draining:
            logger.info("%s stops", self._name)
            self._worker.drain()

    def _on_lost(self) -> None:
        """The channel ends the process in a moment (END_S); until then, tell the clients."""
        logger.warning("%s stops: the supervisor is gone", self._name)
        self._worker.drain_within(self._timings.lost_drain_s)
