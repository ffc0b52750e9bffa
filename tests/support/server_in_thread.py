"""A server in a thread of this process, so that a test can inspect it and set its deadlines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

from fastchat.files.incoming import IncomingFiles
from fastchat.process.assembly.standalone import build_standalone
from fastchat.process.assembly.storage import open_history
from fastchat.process.timings import WorkerTimings
from fastchat.process.worker import Worker
from fastchat.settings import Settings
from fastchat.web.capacity import Capacity
from fastchat.web.http import HttpProtocol
from fastchat.web.sockets import listen
from support.server import TIMEOUT_UNIT_S

Result = TypeVar("Result")


class Server:
    """The only process of a server, without its signals, on a port of 127.0.0.1.

    Its history is in memory unless the settings say otherwise. For `capacity`, `transfers` and
    `uploads` see `build_standalone`.
    """

    def __init__(
        self,
        *,
        timings: WorkerTimings | None = None,
        capacity: Capacity | None = None,
        transfers: int | None = None,
        incoming_files: IncomingFiles | None = None,
        **settings: Any,
    ) -> None:
        self._settings = Settings(port=0, **{"history": "memory", **settings})
        self._timings = WorkerTimings() if timings is None else timings
        self._capacity = capacity
        self._transfers = transfers
        self._incoming_files = incoming_files
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
        built = build_standalone(
            self._settings,
            self._listener,
            self.history,
            timings=self._timings,
            capacity=self._capacity,
            transfers=self._transfers,
            incoming_files=self._incoming_files,
        )
        self.rooms = built.rooms
        self.hub, self.sessions = built.worker.hub, built.worker.sessions
        self.broker = built.worker.broker
        self.files, self.readers = built.worker.files, built.worker.readers
        self.metrics = built.worker.metrics
        self.http = built.worker.server
        self.hooks = built.worker.hooks
        self.webhooks = built.webhooks
        self._worker = Worker(built.worker)
        await self._worker.serve(self)

    # The methods of a worker's mode

    async def begin(self) -> None:
        self.loop.call_soon(self._ready.set)

    def tick(self) -> None:
        """Do nothing: there is no supervisor to report to."""

    async def end(self) -> None:
        """Stop what was started with the server."""
        if self.webhooks is not None:
            await self.webhooks.close()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the server's loop; returns its result."""
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return future.result(10 * TIMEOUT_UNIT_S)

    def reload(self) -> None:
        """Read certificates and keys again, as at SIGHUP; for `call`."""
        self._worker.reload()

    def await_(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the server's loop; returns its result."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(10 * TIMEOUT_UNIT_S)

    def connections(self) -> list[HttpProtocol]:
        """The HTTP connections that are not upgraded."""
        return list(self.http.connections)

    def shut_down(self) -> None:
        """Close all connections like a server that stops; the server goes on."""
        self.sessions.drain(2.0)
        for connection in self.connections():
            connection.shutdown()

    def names(self, room: str) -> list[str]:
        """The names of a room's users."""
        return self.call(lambda: [user.name for user in self.rooms.users(room)])

    def stop(self) -> None:
        def stop() -> None:
            self._worker.drain()
            self.hub.abort()  # these tests do not check how a server stops

        self.call(stop)
        self._thread.join(10 * TIMEOUT_UNIT_S)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """A `Server` during a `with` block."""
    server = Server(**settings)
    try:
        yield server
    finally:
        server.stop()
