"""What operators' machines ask: `/metrics` for Prometheus, `/livez` and `/readyz` for probes.

On an address of its own, so that it need not be where clients are. Whoever asks gets
one answer a connection, and a few seconds for it: a scraper that stalls holds nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fastchat.ops.prometheus import Parts, render

__all__ = ["MAX_CONNECTIONS", "Admin"]

#: From accept to the end of the answer; Prometheus gives up after as long.
CONNECTION_S = 10.0
MAX_CONNECTIONS = 32
#: A request, whatever is in it. Prometheus' are some 300 bytes.
MAX_REQUEST_BYTES = 16 * 1024
#: Answers that are under way when the server stops.
CLOSE_S = 0.5


class Admin:
    """The endpoints: whether it lives, whether it is ready (None, or why not), and its parts."""

    def __init__(
        self,
        live: Callable[[], bool],
        ready: Callable[[], str | None],
        parts: Callable[[], Awaitable[Parts]],
    ) -> None:
        self._live = live
        self._ready = ready
        self._parts = parts
        self._state = ServerState()
        self._state.default_headers = _HEADERS
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Answer on `listener`, in the running loop, until `close`; returns at once."""
        config = uvicorn.Config(
            self._app(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        config.load()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Protocol(config=config, server_state=self._state, app_state={}),
            sock=listener,
        )

    async def close(self) -> None:
        """Stop listening and end every connection; an answer under way has a moment."""
        if self._server is not None:
            self._server.close()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=CLOSE_S)
        for connection in tuple(self._state.connections):
            connection.transport.abort()

    def _app(self) -> Starlette:
        async def livez(request: Request) -> Response:
            return _text("live", 200) if self._live() else _text("not live", 503)

        async def readyz(request: Request) -> Response:
            reason = self._ready()
            return _text("ready", 200) if reason is None else _text(reason, 503)

        async def metrics(request: Request) -> Response:
            body = render(await self._parts())
            return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

        async def nothing(request: Request) -> Response:
            return _text("Not found", 404)

        return Starlette(
            routes=[
                Route("/livez", livez),
                Route("/readyz", readyz),
                Route("/metrics", metrics),
                Route("/{path:path}", nothing),
            ]
        )


#: Of every answer.
_HEADERS = [(b"cache-control", b"no-store"), (b"connection", b"close")]


def _text(line: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(line + "\n", status)


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol for one small request, and a deadline for all of it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._received_bytes = 0
        self._deadline = self.loop.call_later(CONNECTION_S, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)
