"""Applications that answer all requests below a path: the API, and incoming webhooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastchat.files.transfers import BodyRule
from fastchat.web.headers import common_headers

__all__ = ["Mount", "Mounts", "not_found"]


class Mount(NamedTuple):
    """An application, its path with a slash at the end, and how it receives bodies.

    `body_rule` gets a method and a path, and returns None if such a request must have no body.
    """

    path: str
    app: ASGIApp
    body_rule: Callable[[str, str], BodyRule | None]


class Mounts:
    """Calls the application whose path a request begins with, or else `others`.

    The applications set none of the common headers; these are added to their answers.
    """

    def __init__(self, mounts: Mapping[str, ASGIApp], others: ASGIApp) -> None:
        self._mounts = tuple(mounts.items())
        self._others = others
        self._headers: list[tuple[bytes, bytes]] = []
        self._made_s = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        app = next((app for beginning, app in self._mounts if path.startswith(beginning)), None)
        if app is None:
            await self._others(scope, receive, send)
            return

        async def send_complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._common_headers()]
            await send(message)

        await app(scope, receive, send_complete)

    def _common_headers(self) -> list[tuple[bytes, bytes]]:
        """The common headers, which are encoded once a second."""
        now_s = int(time.time())
        if now_s != self._made_s:
            self._made_s = now_s
            self._headers = [(name.encode(), value.encode()) for name, value in common_headers()]
        return self._headers


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a port at which there is nothing else than mounts."""
    headers = dict(common_headers())
    await PlainTextResponse("Not found\n", 404, headers)(scope, receive, send)
