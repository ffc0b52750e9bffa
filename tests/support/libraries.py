"""WebSocket servers of other libraries, in the test's loop, and one interface to their sockets.

`serving(name, endpoint)` serves until the end of its block. For each client it calls `endpoint`
with a `Socket`, which an application would use in the way of its library.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import websockets
from websockets.asyncio.client import connect

from support.raw_websocket import HANDSHAKE, request
from support.server import TIMEOUT_UNIT_S

LIMIT_S = 10 * TIMEOUT_UNIT_S

#: uvicorn's implementations, by the names of `--ws`, and two libraries with servers of their own.
UVICORN = ("websockets-sansio", "wsproto", "websockets-legacy")
LIBRARIES = (*UVICORN, "websockets", "aiohttp")

Endpoint = Callable[["Socket"], Awaitable[None]]


class Socket(Protocol):
    """A WebSocket on the application's side."""

    ws: Any  # what the library calls a WebSocket

    @property
    def transport(self) -> Any: ...  # what the library writes to
    async def send(self, text: str) -> None: ...
    async def receive(self) -> str | None: ...  # None at the end
    async def close(self, code: int) -> None: ...


class StarletteSocket:
    def __init__(self, ws: Any) -> None:
        self.ws = ws

    @property
    def transport(self) -> Any:
        return self.ws._receive.__self__.transport

    async def send(self, text: str) -> None:
        await self.ws.send_text(text)

    async def receive(self) -> str | None:
        message = await self.ws.receive()
        return message["text"] if message["type"] == "websocket.receive" else None

    async def close(self, code: int) -> None:
        await self.ws.close(code)


class WebsocketsSocket:
    def __init__(self, ws: Any) -> None:
        self.ws = ws

    @property
    def transport(self) -> Any:
        return self.ws.transport

    async def send(self, text: str) -> None:
        await self.ws.send(text)

    async def receive(self) -> str | None:
        with contextlib.suppress(websockets.ConnectionClosed):
            text: str = await self.ws.recv()
            return text
        return None

    async def close(self, code: int) -> None:
        await self.ws.close(code)


class AiohttpSocket:
    def __init__(self, ws: Any) -> None:
        self.ws = ws

    @property
    def transport(self) -> Any:
        return self.ws._req.transport

    async def send(self, text: str) -> None:
        await self.ws.send_str(text)

    async def receive(self) -> str | None:
        message = await self.ws.receive()
        return message.data if isinstance(message.data, str) else None

    async def close(self, code: int) -> None:
        await self.ws.close(code=code)


class Served:
    """A running server: its port, and what its endpoints have done."""

    def __init__(self, endpoint: Endpoint, port: int) -> None:
        self._endpoint = endpoint
        self.port = port
        self.failures: list[BaseException] = []
        self.running = 0

    async def run(self, ws: Socket) -> None:
        """Run the endpoint for a client; its failure fails the test."""
        self.running += 1
        try:
            await self._endpoint(ws)
        except Exception as error:
            self.failures.append(error)
        finally:
            self.running -= 1


@contextlib.asynccontextmanager
async def serving(
    library: str,
    endpoint: Endpoint,
    *,
    tls: ssl.SSLContext | None = None,
    compression: bool = False,
    send_buffer: int | None = None,
    middleware: Callable[[Any], Any] = lambda app: app,
) -> AsyncIterator[Served]:
    """Serve with a library until the end of the block, which fails if an endpoint has failed."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    served = Served(endpoint, listener.getsockname()[1])
    if library == "websockets":
        server = _websockets(served, listener, tls, compression)
    elif library == "aiohttp":
        server = _aiohttp(served, listener, tls, compression)
    else:
        server = _uvicorn(library, served, listener, tls, compression, middleware)
    try:
        async with server:
            yield served
        assert not served.running, "an endpoint runs on after its server has ended"
    finally:
        if served.failures:
            raise served.failures[0]


@contextlib.asynccontextmanager
async def _websockets(
    served: Served, listener: socket.socket, tls: ssl.SSLContext | None, compression: bool
) -> AsyncIterator[None]:
    async def handler(ws: Any) -> None:
        await served.run(WebsocketsSocket(ws))

    async with websockets.serve(
        handler,
        sock=listener,
        ssl=tls,
        compression="deflate" if compression else None,
        ping_interval=None,
        close_timeout=1,
    ):
        yield


@contextlib.asynccontextmanager
async def _aiohttp(
    served: Served, listener: socket.socket, tls: ssl.SSLContext | None, compression: bool
) -> AsyncIterator[None]:
    from aiohttp import web

    async def handler(request: Any) -> Any:
        ws = web.WebSocketResponse(compress=compression, timeout=1)
        await ws.prepare(request)
        await served.run(AiohttpSocket(ws))
        return ws

    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _uvicorn(
    library: str,
    served: Served,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    compression: bool,
    middleware: Callable[[Any], Any],
) -> AsyncIterator[None]:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from uvicorn.server import ServerState

    async def endpoint(ws: Any) -> None:
        await ws.accept()
        await served.run(StarletteSocket(ws))

    config = uvicorn.Config(
        middleware(Starlette(routes=[WebSocketRoute("/", endpoint)])),
        ws="websockets" if library == "websockets-legacy" else library,  # type: ignore[arg-type]
        ws_ping_interval=None,
        ws_per_message_deflate=compression,
        lifespan="off",
        log_config=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oldest implementation is deprecated
        config.load()
    state = ServerState()
    protocol = functools.partial(
        config.http_protocol_class, config=config, server_state=state, app_state={}
    )
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, sock=listener, ssl=tls)
    try:
        yield
    finally:
        server.close()
        for connection in tuple(state.connections):
            connection.shutdown()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*state.tasks)
            await server.wait_closed()


class RawClient(NamedTuple):
    """A client that knows no frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self.writer.transport


async def open_client(
    served: Served,
    *,
    tls: ssl.SSLContext | None = None,
    compression: bool = False,
    receive_buffer: int | None = None,
    raw: bool = False,
) -> Any:
    """Connect a client, which stops reading after a message that nobody has received yet.

    A `raw` client has sent a handshake, and reads bytes.
    """
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.port))
    if raw:
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(request(headers=HANDSHAKE.items()))
        await reader.readuntil(b"\r\n\r\n")
        return RawClient(reader, writer)
    return await connect(
        f"{'ws' if tls is None else 'wss'}://localhost:{served.port}/",
        sock=sock,
        ssl=tls,
        compression="deflate" if compression else None,
        max_size=None,
        max_queue=1,
        ping_interval=None,
        close_timeout=1,
        proxy=None,
    )
