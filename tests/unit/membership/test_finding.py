"""Finding the transport behind a WebSocket, and refusing the WebSockets that show none."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import pytest
import websockets
from aiohttp import web
from starlette.websockets import WebSocket

from fastchat import Hub
from support.hub import LIMIT_S, on_loop, until
from support.libraries import UVICORN, Socket, open_client, serving

pytestmark = pytest.mark.filterwarnings(
    "ignore:remove second argument of ws_handler:DeprecationWarning"
)


def _with_functions(app: Any) -> Any:
    """A middleware that wraps both calls in functions."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def receiving() -> Any:
            return await receive()

        await app(scope, receiving, lambda message: send(message))

    return middleware


def _with_partials(app: Any) -> Any:
    """A middleware that wraps both calls in `partial`, and copies the scope."""

    async def call(function: Any, *arguments: Any) -> Any:
        return await function(*arguments)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        calls = functools.partial(call, receive), functools.partial(call, send)
        await app({**scope, "client": ("192.0.2.1", 1)}, *calls)

    return middleware


def _with_objects(app: Any) -> Any:
    """A middleware that wraps one call in an object, and the other in a method."""

    class Wrapped:
        def __init__(self, call: Any) -> None:
            self._call = call

        async def __call__(self, *arguments: Any) -> Any:
            return await self._call(*arguments)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, Wrapped(Wrapped(receive)), Wrapped(send).__call__)

    return middleware


@pytest.mark.parametrize("middleware", [_with_functions, _with_partials, _with_objects])
@pytest.mark.parametrize("library", UVICORN)
@on_loop
async def test_transport_is_found_behind_middlewares(
    library: str, middleware: Callable[[Any], Any]
) -> None:
    """Middlewares can wrap the calls of ASGI, and copy the scope."""
    hub = Hub()

    async def endpoint(socket: Socket) -> None:
        async with hub.member(socket.ws):
            while await socket.receive():
                hub.broadcast_text("found")

    async with serving(library, endpoint, middleware=middleware) as served:
        client = await open_client(served)
        await client.send("is there a transport?")
        assert await client.recv() == "found"
        await client.close()
        await until(lambda: not served.running)


@on_loop
async def test_transport_of_another_connection_is_not_taken() -> None:
    """A WebSocket whose calls lead to the protocol of another connection is refused."""
    hub = Hub()
    sockets = []

    async def endpoint(socket: Socket) -> None:
        sockets.append(socket)
        await socket.receive()

    async with serving("websockets-sansio", endpoint) as served:
        clients = [await open_client(served) for _ in range(2)]
        await until(lambda: len(sockets) == 2)
        one, other = (socket.ws for socket in sockets)
        mixed = WebSocket(one.scope, other._receive, other._send)
        mixed.application_state, mixed.client_state = one.application_state, one.client_state
        with pytest.raises(TypeError, match="does not show its transport"):
            await hub.member(mixed).__aenter__()
        assert hub.client_count() == 0
        for client in clients:
            await client.close()


SENTENCE = (
    "hub.member() supports FastAPI's and Starlette's WebSocket on uvicorn, ServerConnection of "
    "websockets, and WebSocketResponse of aiohttp: this server does not show its transport"
)


class _Refused:
    """An application whose WebSocket cannot become a member."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        ws = WebSocket(scope, receive, send)
        await ws.accept()
        try:
            await Hub().member(ws).__aenter__()
        except TypeError as error:
            self.sentences.append(str(error))
        await ws.close()


@on_loop
async def test_calls_without_a_server_are_refused() -> None:
    """A test client's calls lead to no transport; one sentence says what is supported."""

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        pass

    app = _Refused()
    await app({"type": "websocket", "headers": []}, receive, send)
    assert app.sentences == [SENTENCE]


@on_loop
async def test_server_that_hides_its_transports_is_refused() -> None:
    """On hypercorn the same sentence says what is supported."""
    app, stopping = _Refused(), asyncio.Event()
    config = hypercorn.config.Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    sockets = config.create_sockets()
    sockets.insecure_sockets[0].listen()
    config.create_sockets = lambda: sockets
    serving = hypercorn.asyncio.serve(app, config, shutdown_trigger=stopping.wait)
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(serving)
        port = sockets.insecure_sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}/", proxy=None) as client:
            await client.wait_closed()
        stopping.set()
    assert app.sentences == [SENTENCE]


@on_loop
async def test_other_objects_are_refused() -> None:
    """Anything but the WebSocket of a supported library is refused, by its type."""
    with pytest.raises(TypeError, match=r"not builtins\.str"):
        await Hub().member("a WebSocket").__aenter__()


@on_loop
async def test_websocket_must_be_accepted_first() -> None:
    """A WebSocket whose handshake is not answered yet is refused."""

    async def never() -> Any:
        raise AssertionError

    for ws in (
        WebSocket({"type": "websocket"}, never, never),
        web.WebSocketResponse(),
    ):
        with pytest.raises(RuntimeError, match="accept the WebSocket"):
            await Hub().member(ws).__aenter__()
