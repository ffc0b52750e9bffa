"""A WebSocket server in the event loop of a test, which says what the test says."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

EPOCH = "E"
USER = "g_me"


class Peer:
    """A client's connection, as a scripted server sees it."""

    def __init__(self, connection: ServerConnection, number: int) -> None:
        self._connection = connection
        #: 1 for the first connection of all.
        self.number = number

    async def receive(self) -> dict[str, Any]:
        command: dict[str, Any] = json.loads(await self._connection.recv())
        return command

    async def say(self, **event: Any) -> None:
        await self._connection.send(json.dumps(event))

    async def welcome(self, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Answer a `join`, and return that command."""
        join = await self.receive()
        assert join["type"] == "join"
        reply = {"type": "joined", "room": join["room"], "user": USER, "ref": join["ref"]}
        reply |= {"username": join.get("username"), "session": "s" * 16, "epoch": EPOCH}
        reply |= {"offset": 0, "timestamp": None, "recovered": False, "rights": ["read", "write"]}
        await self.say(
            **{**reply, "users": [], "online": 1, "spectators": 0, **more}, messages=messages
        )
        return join

    async def close(self, code: int, reason: str = "") -> None:
        await self._connection.close(code, reason)

    def cut(self) -> None:
        """End the connection without a close frame."""
        self._connection.transport.abort()

    async def stay(self) -> None:
        """Read until the client ends the connection."""
        await self._connection.wait_closed()


@contextlib.asynccontextmanager
async def scripted(script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Run `script` for each connection; yields the address."""
    count = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal count
        count += 1
        with contextlib.suppress(ConnectionClosed):
            await script(Peer(connection, count))

    async with serve(handle, "127.0.0.1", 0) as server:
        (listener,) = server.sockets
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"


def message(offset: int, text: str, *, user: str = "u_eve", **more: Any) -> dict[str, Any]:
    """A message as a server sends it; each offset has a time of its own."""
    fields = {"type": "message", "room": "lobby", "offset": offset, "user": user}
    stamp = f"2025-01-18T10:{offset // 60:02}:{offset % 60:02}.000Z"
    return {**fields, "username": "Eve", "text": text, "timestamp": stamp, **more}
