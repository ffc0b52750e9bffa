"""Applications that answer all requests below a path: the API, beside the page or alone."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastchat.web.headers import common_headers

__all__ = ["Mounts", "not_found"]


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
