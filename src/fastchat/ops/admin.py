"""The admin port: `/metrics` for Prometheus, `/livez` and `/readyz` for probes.

It listens on its own address, so that clients cannot reach it. A connection serves one request and
has a deadline. Therefore a scraper that stalls does not block a connection for ever.

Like `fastchat.web.http`, it extends uvicorn's private `HttpToolsProtocol`. It relies on
these names: `connection_made`, `connection_lost`, `data_received`, `connections`, `loop`,
`server_state.default_headers` and `transport`.
"""

from __future__ import annotations

import asyncio
import email.utils
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

#: The time from accept to the end of the answer: Prometheus' default `scrape_timeout`.
CONNECTION_S = 10.0
#: The connections at the same time, one for each scraper or probe. The server reserves this many
#: descriptors for them.
MAX_CONNECTIONS = 32
#: The longest request, head and body. Prometheus' requests have some 300 bytes.
MAX_REQUEST_BYTES = 16 * 1024
#: When the server stops, unfinished answers have this long to end.
CLOSE_S = 0.5


class Admin:
    """The admin port's endpoints.

    `live` returns whether the server is alive. `ready` returns None if the server is ready, or else
    the reason why it is not. `parts` returns the counters of all processes. A connection has
    `connection_s` seconds. If there are more than `max_connections`, a new one is closed at once.
    """

    def __init__(
        self,
        live: Callable[[], bool],
        ready: Callable[[], str | None],
        parts: Callable[[], Awaitable[Parts]],
        *,
        connection_s: float = CONNECTION_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._live = live
        self._ready = ready
        self._parts = parts
        self._connection_s = connection_s
        self._max_connections = max_connections
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Start to answer requests on `listener`, until `close`. It returns at once."""
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

        def protocol() -> _Protocol:
            return _Protocol(
                config=config,
                server_state=self._state,
                app_state={},
                connection_s=self._connection_s,
                max_connections=self._max_connections,
            )

        self._server = await loop.create_server(protocol, sock=listener)

    async def close(self) -> None:
        """Stop listening, and close all connections after at most CLOSE_S."""
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


#: The headers of every answer, besides the date.
_HEADERS = [(b"cache-control", b"no-store"), (b"connection", b"close")]


def _text(line: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(line + "\n", status)


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol for one small request, with one deadline for all of it."""

    def __init__(self, *, connection_s: float, max_connections: int, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._connection_s = connection_s
        self._max_connections = max_connections
        self._received_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self._connection_s, transport.abort)
        if len(self.connections) > self._max_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.abort()
        else:
            # The answer to this request takes these headers, and so does a 400.
            date = email.utils.formatdate(usegmt=True).encode()
            self.server_state.default_headers = [*_HEADERS, (b"date", date)]
            super().data_received(data)
