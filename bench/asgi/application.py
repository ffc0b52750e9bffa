"""A chat in a FastAPI application, in three variants that broadcast in different ways.

It does the least that a chat has to do: it numbers each message, and sends it to all clients.
`python bench/asgi/application.py VARIANT` prints its port, and serves with uvicorn until SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

JOINED = '{"type":"joined"}'


class Numbers:
    """Gives each message the next number."""

    def __init__(self) -> None:
        self._offset = 0

    def event(self, message: str) -> str:
        self._offset += 1
        event = {"type": "message", "offset": self._offset, "text": json.loads(message)["text"]}
        return json.dumps(event, separators=(",", ":"))


def with_member() -> FastAPI:
    """Broadcast with the hub."""
    import fastchat

    numbers = Numbers()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = fastchat.Hub()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/ws")
    async def chat(ws: WebSocket) -> None:
        hub = ws.app.state.hub
        await ws.accept()
        async with hub.member(ws):
            await ws.send_text(JOINED)
            async for message in ws.iter_text():
                hub.broadcast_text(numbers.event(message))

    return app


def with_send_text() -> FastAPI:
    """Broadcast by a loop over all WebSockets, as FastAPI's documentation shows it."""
    numbers = Numbers()
    sockets: list[WebSocket] = []
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(JOINED)
        sockets.append(ws)
        try:
            async for message in ws.iter_text():
                event = numbers.event(message)
                for each in tuple(sockets):
                    with contextlib.suppress(WebSocketDisconnect):
                        await each.send_text(event)
        finally:
            sockets.remove(ws)

    return app


def with_broadcaster() -> FastAPI:
    """Broadcast with broadcaster in memory: each client has a queue and a second task."""
    from broadcaster import Broadcast

    numbers = Numbers()
    broadcast = Broadcast("memory://")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with broadcast:
            yield

    app = FastAPI(lifespan=lifespan)

    async def deliver(ws: WebSocket, subscriber: Any) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            async for event in subscriber:
                await ws.send_text(event.message)

    @app.websocket("/ws")
    async def chat(ws: WebSocket) -> None:
        await ws.accept()
        async with broadcast.subscribe("room") as subscriber:
            delivering = asyncio.create_task(deliver(ws, subscriber))
            await ws.send_text(JOINED)
            async for message in ws.iter_text():
                await broadcast.publish("room", numbers.event(message))
            delivering.cancel()

    return app


VARIANTS = {"member": with_member, "send_text": with_send_text, "broadcaster": with_broadcaster}


def serve(variant: str) -> None:
    config = uvicorn.Config(VARIANTS[variant](), log_level="warning", backlog=1024)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    serve(sys.argv[1])
