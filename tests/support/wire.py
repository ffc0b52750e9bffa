"""A wire to a server that can break: answers get lost, or the connection is cut."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType

__all__ = ["Wire"]


class Wire:
    """Forwards connections from a port of its own to `port` of 127.0.0.1, in the running loop."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        #: Whether what the server sends gets lost, from now on.
        self.loses_answers = False
        #: Whether new connections are refused.
        self.refuses = False

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Cut all connections; both ends see a reset."""
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        connection = asyncio.get_running_loop().create_task(self._serve(near, back))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.refuses:
            back.transport.abort()
            return
        far, out = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {back, out}
        await asyncio.gather(
            self._forward(near, out, is_answer=False), self._forward(far, back, is_answer=True)
        )
        self._writers -= {back, out}

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if not (is_answer and self.loses_answers):
                    writer.write(data)
                    await writer.drain()
        writer.close()
