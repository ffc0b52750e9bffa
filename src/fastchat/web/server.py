"""The server that accepts a worker's connections: uvicorn's, with our protocols."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.types import ASGIApp

from fastchat._buffers import SharedBuffers
from fastchat.connections.echo import check_loopback
from fastchat.web.context import HttpContext
from fastchat.web.headers import SECURITY_HEADERS
from fastchat.web.http import HttpProtocol
from fastchat.web.websocket import READ_BYTES, WebSocketProtocol

if TYPE_CHECKING:
    from fastchat.web.tls import Tls

__all__ = ["HttpServer"]


class _Uvicorn(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Accepts connections on `listener` and answers them with `app`, until it is stopped.

    It also accepts WebSockets, which are sessions with `context.session_context` from then on. With
    `tls`, it encrypts connections. When the server stops, requests that are being answered have
    `stop_s` seconds to end. A connection without a further request is closed after `keep_alive_s`
    seconds.

    Raises SettingError if `context.echo` is set and other machines can reach the listener.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: ASGIApp,
        context: HttpContext,
        tls: Tls | None = None,
        *,
        stop_s: float,
        keep_alive_s: int,
    ) -> None:
        if context.echo:
            check_loopback(listener)
        self.listener = listener
        self._context = context
        self._tls = tls
        config = uvicorn.Config(
            app,
            http=self._accept,  # type: ignore[arg-type]  # uvicorn expects a class, and calls it
            ws=functools.partial(  # type: ignore[arg-type]
                WebSocketProtocol, context=context, buffers=SharedBuffers(READ_BYTES)
            ),
            headers=SECURITY_HEADERS,
            server_header=False,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            lifespan="off",
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=int(stop_s),
        )
        self._uvicorn = _Uvicorn(config)

    @property
    def connections(self) -> tuple[HttpProtocol, ...]:
        """The connections that are not upgraded; with TLS, their handshake is over."""
        return cast("tuple[HttpProtocol, ...]", tuple(self._uvicorn.server_state.connections))

    async def serve(self) -> None:
        """Accept connections until `stop` is called and the answers under way have ended."""
        await self._uvicorn.serve(sockets=[self.listener])

    def stop_accepting(self) -> None:
        """Stop accepting connections. If others listen at the same address, new ones are theirs."""
        for server in getattr(self._uvicorn, "servers", ()):  # there are none before `serve`
            server.close()

    def stop(self, *, at_once: bool = False) -> None:
        """Have `serve` return; `at_once` does not wait for answers under way."""
        self._uvicorn.should_exit = True
        if at_once:
            self._uvicorn.force_exit = True

    def sweep(self) -> None:
        """Abort the connections whose deadline has passed; call it once a second."""
        now = asyncio.get_running_loop().time()
        for connection in self.connections:
            connection.sweep(now)

    def _accept(self, **keywords: Any) -> asyncio.Protocol:
        """Make the protocol of a connection; uvicorn calls this as if it were a class."""
        protocol = HttpProtocol(context=self._context, **keywords)
        return protocol if self._tls is None else self._tls.wrap(protocol, self._free)

    def _free(self) -> int:
        """How many connections can be accepted besides those that are known here."""
        known = len(self._uvicorn.server_state.connections) + len(
            self._context.session_context.sessions
        )
        return self._context.capacity.accepted - known
