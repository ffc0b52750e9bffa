"""The server that is one process: it has the clients and the history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from fastchat.brokers import Broker
from fastchat.brokers.memory import MemoryBroker
from fastchat.history import History
from fastchat.ops.admin import MAX_CONNECTIONS, Admin
from fastchat.ops.status import StatusServer
from fastchat.process.announcing import announce
from fastchat.process.assembly.limits import room_limits_of
from fastchat.process.assembly.storage import open_history, open_retention
from fastchat.process.signals import on_stop_signals
from fastchat.process.worker import Worker
from fastchat.rooms.removals import FILE_NAME, Removals
from fastchat.rooms.rooms import Rooms
from fastchat.settings import Settings
from fastchat.web.sockets import listen, listen_admin

__all__ = ["Single", "run"]

logger = logging.getLogger("fastchat")


def run(settings: Settings) -> int:
    """Serve in this process until SIGTERM or SIGINT; returns the exit status.

    Raises SettingError when an address cannot be listened on.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        admin_listener = None
        if settings.admin_port:
            admin_listener = listen_admin(settings.admin_host, settings.admin_port)
            stack.enter_context(admin_listener)
        history = open_history(settings)
        stack.callback(history.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Single(settings, listener, history, admin_listener).serve())


class Single(Worker):
    """The only process: it has the history, and answers for all of the server."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        history: History,
        admin_listener: socket.socket | None,
    ) -> None:
        super().__init__(settings, listener)
        self._history = history
        self._admin_listener = admin_listener
        if admin_listener is not None:
            self._reserved = MAX_CONNECTIONS
        self._retention = open_retention(settings, self._metrics, history)
        self._status = StatusServer(Path(settings.data), self._report)
        self._admin = Admin(live=lambda: True, ready=self._why_not_ready, parts=self._parts)

    def _open_broker(self, loop: asyncio.AbstractEventLoop) -> Broker:
        kept = self._settings.history == "sqlite"  # otherwise there is no directory of ours
        file = Path(self._settings.data) / FILE_NAME if kept else None
        self._rooms = Rooms(
            self._history,
            at_end_of_turn=loop.call_soon,
            clock=time.time,
            metrics=self._metrics,
            removals=Removals(time.time, file),
            limits=room_limits_of(self._settings),
        )
        return MemoryBroker(self._rooms)

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        on_stop_signals(loop, self._drain, _end_at_once)
        # To more than one process it means a rolling restart; it is not to end this one.
        loop.add_signal_handler(
            signal.SIGUSR2, logger.warning, "one process cannot be restarted by SIGUSR2"
        )
        if self._settings.history == "sqlite":  # otherwise there is no directory of ours
            await self._status.open()
        if self._retention is not None:
            self._retention.start()
        if self._admin_listener is not None:
            await self._admin.serve(self._admin_listener)
        announce(self._settings, self._listener)

    async def _end(self) -> None:
        if self._retention is not None:
            self._retention.stop()
        self._status.close()
        await self._admin.close()

    def _why_not_ready(self) -> str | None:
        return "draining" if self._sessions.draining else None

    def _report(self) -> dict[str, Any]:
        return self._snapshot(users=self._rooms.user_count)

    async def _parts(self) -> dict[str, dict[str, Any]]:
        return {"server": {"up": 1, **self._report()}}


def _end_at_once() -> None:
    sys.stderr.flush()
    os._exit(1)
