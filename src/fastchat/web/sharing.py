"""Shares the server's files with pages of other origins: CORS, as the Fetch standard describes it.

A page of an origin that `--allow-origin` names can open a WebSocket. It also needs the files. A
browser lets the page send a file and read the answer only if the answer has
`Access-Control-Allow-Origin`. Before the browser sends a ticket, it asks for permission by a
preflight (`OPTIONS`). If a page shows an image, the browser does not name the page's origin, so
`Cross-Origin-Resource-Policy` has to allow every page. That discloses nothing, because everybody
who knows a file's link can read the file.

Files need no cookies and no passwords. So no answer allows credentials, and `*` is safe.
"""

from __future__ import annotations

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastchat.files.endpoints import TICKET_HEADER
from fastchat.protocol import FILES_URL
from fastchat.web.origins import Origins

__all__ = ["FileSharing"]

logger = logging.getLogger("fastchat.http")

#: Headers that a page can send besides those that the Fetch standard always allows.
_SENT = f"authorization, content-type, if-none-match, if-range, range, {TICKET_HEADER}"
#: Headers that a page can read besides those that the Fetch standard always shows.
_READ = "accept-ranges, content-disposition, content-range, etag, location, retry-after"
#: How long a browser can keep the answer to a preflight, in seconds; Chromium's upper limit.
_MAX_AGE_S = 7200


class FileSharing:
    """Adds to each answer about a file the headers that pages of the allowed `origins` need."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path != FILES_URL and not path.startswith(FILES_URL + "/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origins = [value for name, value in headers.raw if name == b"origin"]
        shared = self._origins.shared_with(origins)
        # Fetch §3.2.2: "A CORS-preflight request is a CORS request that checks to see if the CORS
        # protocol is understood. It uses `OPTIONS` as method and includes these headers".
        is_preflight = (
            scope["method"] == "OPTIONS" and "access-control-request-method" in headers and origins
        )
        if is_preflight and shared is None:
            page = origins[0][:100].decode("latin-1")
            logger.warning(
                "refused files to a page from %r; --allow-origin allows pages of other hosts", page
            )

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                if self._origins.has_others:
                    answer.add_vary_header("Origin")
                if shared is not None or (not origins and self._origins.has_others):
                    answer["cross-origin-resource-policy"] = "cross-origin"
                if shared is not None:
                    answer["access-control-allow-origin"] = shared
                    answer["access-control-expose-headers"] = _READ
                    if is_preflight and message["status"] == 204:
                        answer["access-control-allow-methods"] = answer["allow"]
                        answer["access-control-allow-headers"] = _SENT
                        answer["access-control-max-age"] = str(_MAX_AGE_S)
            await send(message)

        await self._app(scope, receive, send_shared)
