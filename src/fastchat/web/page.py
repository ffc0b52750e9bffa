"""The Starlette application: the page and its files.

`/` is the page, and its files are under `/static/`. `/sw.js` has to be at the root, because a
service worker controls what is below its path; `/embed.js` and `/client.js` are there because
people type their addresses. Scripts of other origins can load these two and the types of the
client. The files are read at the start: no path of a request ever reaches the file system.
"""

from __future__ import annotations

import importlib.resources
import re
import types
from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastchat.web.assets import Asset, load_assets, needed_by
from fastchat.web.headers import common_headers, page_headers
from fastchat.web.mounts import Mounts
from fastchat.web.origins import Origins
from fastchat.web.resources import Resource
from fastchat.web.sharing import FileSharing

__all__ = ["build_app"]

#: RFC 9110 §12.4.2: "a value of 0 means 'not acceptable'."
_UNWANTED = re.compile(r"q=0(\.0{0,3})?")


def build_app(
    *,
    origins: Origins,
    frames: Sequence[str] = (),
    routes: Sequence[Route] = (),
    mounts: Mapping[str, ASGIApp] = types.MappingProxyType({}),
) -> ASGIApp:
    """Build the application: `mounts`, then `routes`, then the page.

    Each mount is an application for all paths that begin with its own, which ends with a slash.
    Pages of `origins` can use the files, and pages of `frames` can embed the page.
    """
    assets = load_assets(importlib.resources.files("fastchat") / "static")
    links = ", ".join(needed_by("/static/index.html", assets))
    anywhere = {"cross-origin-resource-policy": "cross-origin"}
    # A browser loads a module of another origin only with CORS. `*` excludes credentials: a browser
    # refuses an answer with `*` to a request that has any (Fetch §3.2.5).
    shared = {**anywhere, "access-control-allow-origin": "*"}
    # Deno finds the types of a module by this header.
    typed = {**shared, "x-typescript-types": "/client.d.ts"}
    files: dict[str, tuple[Asset, dict[str, str]]] = {
        **{path: (asset, {}) for path, asset in assets.items()},
        "/": (assets["/static/index.html"], {**page_headers(frames), "link": links}),
        "/sw.js": (assets["/static/sw.js"], {}),
        "/embed.js": (assets["/static/embed.js"], anywhere),
        "/client.js": (assets["/static/client.js"], typed),
        "/client.d.ts": (assets["/static/client.d.ts"], shared),
    }

    async def serve(request: Request) -> Response:
        return _answer(request, *files[request.scope["path"]])

    async def refuse(request: Request) -> Response:
        return PlainTextResponse("Not found\n", 404)

    async def explain(request: Request) -> Response:
        headers = {"upgrade": "websocket", "connection": "upgrade"}
        return PlainTextResponse("This is a WebSocket endpoint.\n", 426, headers)

    anything = "/{path:path}"
    resources = [
        Resource("/ws", explain),
        *(Resource(each.path, each.endpoint, each.methods or ()) for each in routes),
        Resource(anything, serve, exists=files.__contains__),
        Resource(anything, refuse, ("GET", "OPTIONS")),
    ]
    page = _Complete(FileSharing(Starlette(routes=resources), origins))
    return Mounts(mounts, page) if mounts else page


def _answer(request: Request, asset: Asset, more: Mapping[str, str]) -> Response:
    packed = asset.packed if _takes_gzip(request) else None
    etag = asset.etag if packed is None else asset.packed_etag
    # A browser asks each time whether a file has changed, so a page is never half old and half new.
    headers = {**more, "etag": etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if packed is None:
        return Response(asset.body, headers=headers, media_type=asset.media_type)
    headers["content-encoding"] = "gzip"
    return Response(packed, headers=headers, media_type=asset.media_type)


def _takes_gzip(request: Request) -> bool:
    """Whether a client asks for gzip by name (RFC 9110 §12.5.3); `*` alone is not enough."""
    codings = ",".join(request.headers.getlist("accept-encoding")).lower().split(",")
    for coding in codings:
        name, _, weight = coding.replace(" ", "").partition(";")
        if name == "gzip":
            return _UNWANTED.fullmatch(weight) is None
    return False


class _Complete:
    """Adds the common headers that an answer does not set itself, also to an error 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in common_headers():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_complete)
