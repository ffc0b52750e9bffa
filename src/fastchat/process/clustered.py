"""One of several workers: the relay has the rooms, the supervisor starts and ends the process."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket

import uvloop

from fastchat.errors import FastchatError
from fastchat.process.assembly.clustered import ClusteredComponents, build_clustered
from fastchat.process.channel import Channel
from fastchat.process.signals import on_hang_up
from fastchat.process.timings import WorkerTimings
from fastchat.process.waiting import wait_first
from fastchat.process.worker import Worker
from fastchat.settings import Settings

__all__ = ["run"]

logger = logging.getLogger("fastchat")


class _NoRelay(FastchatError):
    """The relay cannot be reached, and the worker must not serve without it."""


def run(
    settings: Settings,
    channel: Channel,
    *,
    number: int,
    listener: socket.socket,
    api_listener: socket.socket | None = None,
    must_connect: bool = False,
) -> int:
    """Serve as one of several until SIGTERM, or until the supervisor is gone.

    Returns the exit status. With `must_connect`, it is 1 if the relay cannot be reached in time:
    then the worker tells the supervisor, and never serves.
    """
    for each in (listener, api_listener):
        if each is not None:
            each.setblocking(False)
    name = f"worker-{number}"
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                _serve(settings, channel, name, listener, api_listener, must_connect=must_connect)
            )
    except _NoRelay as error:
        channel.say(failed=str(error))
        return 1


async def _serve(
    settings: Settings,
    channel: Channel,
    name: str,
    listener: socket.socket,
    api_listener: socket.socket | None,
    *,
    must_connect: bool,
) -> int:
    components = build_clustered(
        settings, listener, name=name, timings=WorkerTimings(), api_listener=api_listener
    )
    worker = Worker(components.worker)
    mode = Clustered(worker, components, channel, name, must_connect=must_connect)
    return await worker.serve(mode)


class Clustered:
    """The mode of the worker `name` of several: it reports to the supervisor and the relay.

    It waits a moment for the relay before it serves. If the relay is down, a worker that takes the
    place of a dead one serves anyway, because somebody has to answer the clients. A worker that
    takes the place of one that works must connect (`must_connect`), or `begin` raises _NoRelay.
    """

    def __init__(
        self,
        worker: Worker,
        components: ClusteredComponents,
        channel: Channel,
        name: str,
        *,
        must_connect: bool,
    ) -> None:
        self._worker = worker
        self._relay = components.relay
        self._reader = components.reader
        self._timings = components.worker.timings
        self._channel = channel
        self._name = name
        self._must_connect = must_connect
        self._asked_to_end = asyncio.Event()

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        on_hang_up(loop, self._worker.reload, self._worker.drain)
        # A second SIGTERM changes nothing. If all processes of a server are signalled, the
        # supervisor sends another one. A worker that must end at once is killed by the supervisor.
        loop.add_signal_handler(signal.SIGTERM, self._on_end)
        self._channel.open(loop, self._on_lost)
        timings = self._timings
        await wait_first(
            self._relay.start(),
            self._asked_to_end.wait(),
            timeout_s=timings.relay_deadline_s if self._must_connect else timings.relay_wait_s,
        )
        if self._must_connect and not (self._relay.connected or self._asked_to_end.is_set()):
            raise _NoRelay(f"the relay cannot be reached: {self._relay.failure}")
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
        self._asked_to_end.set()
        if not self._worker.draining:
            logger.info("%s stops", self._name)
            self._worker.drain()

    def _on_lost(self) -> None:
        """The channel ends the process in a moment (END_S); until then, tell the clients."""
        self._asked_to_end.set()
        logger.warning("%s stops: the supervisor is gone", self._name)
        self._worker.drain_within(self._timings.lost_drain_s)
