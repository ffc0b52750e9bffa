"""A worker of several: the relay has the rooms, and the supervisor has us."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from pathlib import Path

import uvloop

from fastchat.brokers import Broker
from fastchat.brokers.relay.client import RelayBroker
from fastchat.history.reader import PageReader
from fastchat.process.channel import Control
from fastchat.process.worker import Worker
from fastchat.settings import Settings

__all__ = ["run"]

logger = logging.getLogger("fastchat")

#: The time to drain when the supervisor is gone, and with it soon everything.
LOST_DRAIN_S = 0.3
#: A new worker waits so long for the relay; then it serves, and says that it has none.
RELAY_WAIT_S = 3.0


def run(settings: Settings, control: Control, *, number: int, listener: socket.socket) -> int:
    """Serve as one of several until SIGTERM, or until the supervisor is gone.

    Returns the exit status.
    """
    listener.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(WorkerPart(settings, listener, control, number).serve())


class WorkerPart(Worker):
    """A worker of several: the relay has the rooms, the supervisor has us."""

    def __init__(
        self, settings: Settings, listener: socket.socket, control: Control, number: int
    ) -> None:
        super().__init__(settings, listener)
        self._control = control
        self._name = f"worker-{number}"

    def _open_broker(self, loop: asyncio.AbstractEventLoop) -> Broker:
        directory = Path(self._settings.data)
        self._relay = RelayBroker(
            directory,
            name=self._name,
            metrics=self._metrics,
            reader=PageReader(directory) if self._settings.history == "sqlite" else None,
            admission=self._admission,
        )
        return self._relay

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        # However often: whoever signals all processes of a server does so as well as the
        # supervisor, and it is the supervisor that knows SIGKILL.
        loop.add_signal_handler(signal.SIGTERM, self._on_end)
        self._control.open(loop, self._on_lost)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELAY_WAIT_S):
                await self._relay.start()
        self._control.say(ready=True)
        self._tick()

    def _tick(self) -> None:
        self._control.say(beat=True, relay=self._relay.connected)
        self._relay.report(self._snapshot())

    async def _end(self) -> None:
        await self._relay.close()

    def _on_end(self) -> None:
        if not self._sessions.draining:
            logger.info("%s stops", self._name)
            self._drain()

    def _on_lost(self) -> None:
        """In a moment the control channel ends the process; who can be told is told."""
        logger.warning("%s stops: the supervisor is gone", self._name)
        self._drain_s = LOST_DRAIN_S
        self._server.force_exit = True
        if not self._sessions.draining:
            self._drain()
