"""The admin port: `/metrics` for Prometheus, `/livez` and `/readyz` for probes.

It has an address of its own, so that it can be kept apart from clients. A connection gets one
answer and has a few seconds for it, so a scraper that stalls holds nothing.

It rides on uvicorn's private `HttpToolsProtocol` as `fastchat.web.http` does, and uses less of it:
`connection_made`, `connection_lost`, `data_received`, `connections`, `loop` and `transport`.
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

#: From accept to the end of the answer: Prometheus' default `scrape_timeout`.
CONNECTION_S = 10.0
#: Some scrapers and probes at once, each with one connection; the descriptors are reserved.
MAX_CONNECTIONS = 32
#: Head and body of a request. Prometheus' requests have some 300 bytes.
MAX_REQUEST_BYTES = 16 * 1024
#: How long answers that are under way have when the server stops.
CLOSE_S = 0.5


class Admin:
    """The endpoints.

    `live` says whether the server lives; `ready` returns None, or why it is not ready; `parts`
    returns the snapshots of all parts.
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
        """Stop listening and end every connection; answers under way have CLOSE_S."""
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


#: The headers of every answer.
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
            super().data_received(data)
