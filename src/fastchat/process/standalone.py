"""The server that is one process: it has the clients and the history."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from fastchat.chat.operations import OPERATOR
from fastchat.history import History
from fastchat.history.directory import lock
from fastchat.logs import flush_log
from fastchat.ops.machines import report_of
from fastchat.ops.status import StatusServer
from fastchat.process.announcing import announce
from fastchat.process.assembly.standalone import StandaloneComponents, build_standalone
from fastchat.process.assembly.storage import open_history
from fastchat.process.assembly.webhooks import use_again
from fastchat.process.signals import on_hang_up, on_stop_signals
from fastchat.process.timings import WorkerTimings
from fastchat.process.worker import Worker
from fastchat.settings import Settings
from fastchat.web.sockets import listen, listen_admin

if TYPE_CHECKING:
    from fastchat.ops.admin import Admin

__all__ = ["run"]

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
        api_listener = None
        if settings.api_port:
            flags = ("--api-host", "--api-port")
            api_listener = listen(settings.api_host, settings.api_port, flags=flags)
            stack.enter_context(api_listener)
        history: History | None = None
        if settings.engine:
            stack.callback(os.close, lock(Path(settings.data)))
        else:
            history = open_history(settings)
            stack.callback(history.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, listener, history, admin_listener, api_listener))


async def _serve(
    settings: Settings,
    listener: socket.socket,
    history: History | None,
    admin_listener: socket.socket | None,
    api_listener: socket.socket | None,
) -> int:
    reserved = 0
    if admin_listener is not None:
        from fastchat.ops.admin import MAX_CONNECTIONS  # here: see `_serve_admin`

        reserved = MAX_CONNECTIONS
    components = build_standalone(
        settings,
        listener,
        history,
        timings=WorkerTimings(),
        reserved=reserved,
        api_listener=api_listener,
    )
    worker = Worker(components.worker)
    return await worker.serve(Standalone(worker, components, admin_listener))


class Standalone:
    """The mode of the only process: it has the history, and answers for all of the server."""

    def __init__(
        self,
        worker: Worker,
        components: StandaloneComponents,
        admin_listener: socket.socket | None,
    ) -> None:
        self._worker = worker
        self._components = components
        self._settings = components.worker.settings
        self._admin_listener = admin_listener
        operations = components.worker.operations
        self._status = StatusServer(
            Path(self._settings.data), self._report, partial(operations.run, OPERATOR)
        )
        self._admin: Admin | None = None

    async def begin(self) -> None:
        if self._components.shared is not None:
            from fastchat.process.assembly.engine import open_shared_rooms

            # Nothing is at stake before it is open, so signals simply end the process.
            await open_shared_rooms(self._settings, self._components.shared)
        loop = asyncio.get_running_loop()
        on_hang_up(loop, self._reload, self._worker.drain)
        on_stop_signals(loop, self._worker.drain, _end_at_once)
        # With several processes it asks for a rolling restart. By default it would end this one.
        loop.add_signal_handler(
            signal.SIGUSR2, logger.warning, "one process cannot be restarted by SIGUSR2"
        )
        if self._settings.has_directory:
            await self._status.open()
        if self._components.retention is not None:
            self._components.retention.start()
        if self._admin_listener is not None:
            self._admin = await self._serve_admin(self._admin_listener)
        announce(self._settings, self._components.worker.server.listener)
        # The objects that exist now live as long as the process; the collector can skip them.
        gc.collect()
        gc.freeze()

    def tick(self) -> None:
        """Look after the socket, and report to other machines; there is no supervisor."""
        if self._components.shared is not None:
            self._components.shared.report(report_of({"server": self._report()}))
        if not self._components.rooms.is_away:  # a directory that is not ours gets no socket
            self._status.check()

    async def end(self) -> None:
        async with contextlib.AsyncExitStack() as ends:  # if one fails, the others still run
            if self._admin is not None:
                ends.push_async_callback(self._admin.close)
            ends.callback(self._status.close)
            ends.push_async_callback(self._components.rooms.close)
            if self._components.webhooks is not None:
                ends.push_async_callback(self._components.webhooks.close)
            if self._components.retention is not None:
                ends.callback(self._components.retention.stop)

    def _reload(self) -> None:
        use_again(self._components.webhooks, self._worker.reload())

    async def _serve_admin(self, listener: socket.socket) -> Admin:
        # Imported here: it takes 15 ms and 1 MB, and only a server with an admin port needs it.
        from fastchat.ops.admin import Admin

        admin = Admin(live=lambda: True, ready=self._why_not_ready, parts=self._parts)
        await admin.serve(listener)
        return admin

    def _why_not_ready(self) -> str | None:
        if self._worker.draining:
            return "draining"
        fault = self._components.rooms.fault
        return None if fault is None else f"messages cannot be stored: {fault}"

    def _report(self) -> dict[str, Any]:
        rooms, shared = self._components.rooms, self._components.shared
        webhooks = self._components.webhooks
        occupancy = rooms.occupancy
        return self._worker.snapshot(
            users=occupancy.users,
            spectators=occupancy.spectators,
            history_writable=int(rooms.fault is None),
            **({} if shared is None else shared.gauges()),
            **({} if webhooks is None else webhooks.gauges()),
        )

    async def _parts(self) -> dict[str, dict[str, Any]]:
        return {"server": {"up": 1, **self._report()}}


def _end_at_once() -> None:
    flush_log()
    os._exit(1)
