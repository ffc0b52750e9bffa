"""A server in a thread of this process, so that a test may look inside and set its deadlines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import uvloop

from fastchat.process.assembly.storage import open_history
from fastchat.process.standalone import Single
from fastchat.settings import Settings
from fastchat.web.sockets import listen
from support.server import TIMEOUT_UNIT_S

Result = TypeVar("Result")


class Server:
    """What `fastchat serve` runs but for its signals, on a port of 127.0.0.1.

    Its history is in memory unless the settings say otherwise.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(port=0, **{"history": "memory", **settings})
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10 * TIMEOUT_UNIT_S)

    def _run(self) -> None:
        self.history = open_history(self._settings)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self.history.close()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        worker = Single(self._settings, self._listener, self.history, None)
        worker._build(self.loop)
        self.hub, self.sessions = worker._hub, worker._sessions
        self.rooms, self.broker = worker._rooms, worker._broker
        self._server, self.files, self.metrics = worker._server, worker._files, worker._metrics
        self.readers = worker._readers
        sweeping = self.loop.create_task(worker._sweep_forever())
        self.loop.call_soon(self._ready.set)
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            sweeping.cancel()
            self.hub.abort()
            await asyncio.sleep(0)
            if worker._files is not None:
                await asyncio.to_thread(worker._files.close)

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call something in the server's loop; returns what it returned."""
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return future.result(10 * TIMEOUT_UNIT_S)

    def connections(self) -> list[Any]:
        """Those that are not upgraded."""
        return list(self._server.server_state.connections)

    def shut_down(self) -> None:
        """As a server does that has been told to stop; but it goes on."""
        self.sessions.drain(2.0)
        for connection in self.connections():
            connection.shutdown()

    def names(self, room: str) -> list[str]:
        """Who is in a room."""

        def names() -> list[str]:
            known = self.rooms._rooms.get(room)
            return [] if known is None else known.roster.names(1000)

        return self.call(names)

    def stop(self) -> None:
        def stop() -> None:
            self.sessions.drain(2)
            self.hub.abort()  # nothing here tests how a server stops
            self._server.should_exit = True

        self.call(stop)
        self._thread.join(10 * TIMEOUT_UNIT_S)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """A `Server` for the length of a `with` block."""
    server = Server(**settings)
    try:
        yield server
    finally:
        server.stop()
