"""Files over HTTP: `POST /files` with a ticket, `GET` and `HEAD` of a link.

A ticket is all that a `POST` needs, and an id, which nobody can guess, all that a `GET` needs:
neither knows of sessions, tokens or cookies, so no other page can do in a reader's name what it
could not do itself. What is served is data to every browser: images by what is in them, all else
to be saved, and nothing of it may run (docs/security.md).

How long a transfer may take is not bounded; what it must move in how many seconds is
(`fastchat.web.http`), and how many there are at once, in all and from one address. Those that come
and those that go are counted apart, and who has no ticket takes no place.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fastchat.errors import CommandError, ErrorCode
from fastchat.files import BUSY_S, File, busy
from fastchat.files.links import disposition, is_id
from fastchat.files.media import OTHER
from fastchat.files.store import Content, FileStore, StoredUpload
from fastchat.files.transfers import RequestContext
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.queue import FairQueue
from fastchat.metrics import Metrics
from fastchat.protocol import FILES_URL

__all__ = ["FileEndpoints"]

#: Of a piece. Whoever reads has a time for what waits for him, which is three of them at most
#: (uvicorn's transport is full at 64 KiB): some 3 kB a second will do.
CHUNK_BYTES = 32 * 1024
#: Of a file that is refused: who sends so little, so soon, has hardly been hung up on anyway; more
#: would be read for nothing.
HEARD_OUT_BYTES = 1024 * 1024
HEARD_OUT_S = 5.0
_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)
#: One range; where a client wants several, it gets the whole file (RFC 9110 §14.2 lets us).
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)
_STATUS = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.TOO_LONG: 413,
    ErrorCode.UNAVAILABLE: 503,
}
#: Of every file. A link's content never changes; one that is deleted is forgotten in a day.
_HEADERS = {
    "cache-control": "private, max-age=86400, immutable",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "accept-ranges": "bytes",
}


class FileEndpoints:
    """The endpoints of a process; `receiving` counts the files that come, `serving` has the
    places for those that go.

    `fastchat.web.http` puts a `RequestContext` into each request's state.
    """

    def __init__(
        self, files: FileStore, receiving: ConnectionCount, serving: FairQueue, metrics: Metrics
    ) -> None:
        self._files = files
        self._receiving = receiving
        self._serving = serving
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route(FILES_URL, self._post, methods=["POST"]),
            Route(FILES_URL + "/{id}/{name}", self._get, methods=["GET", "HEAD"]),
        ]

    # Taking

    async def _post(self, request: Request) -> Response:
        refusal = _context_of(request).body_refusal
        if refusal is not None:
            if refusal.spends_ticket:
                await self._spend_ticket(request)
            return self._refused(refusal.error, status=refusal.status, ends=True)
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            error = CommandError(ErrorCode.BAD_COMMAND, "A file comes as it is, without encoding.")
            await self._spend_ticket(request)
            return self._refused(error, status=415, ends=True)
        body = request.stream()
        try:
            return await self._receive(request, body)
        except CommandError as error:
            if "expect" in request.headers:  # he waits for this, and then does not send it
                return self._refused(error, ends=True)
            return await self._heard_out(body, error)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    async def _spend_ticket(self, request: Request) -> None:
        """End the announcement of a request: this was its one attempt."""
        with contextlib.suppress(CommandError):
            if (announced := await self._announced(request)) is not None:
                await announced.abandon()

    async def _receive(self, request: Request, body: AsyncGenerator[bytes]) -> Response:
        announced = await self._announced(request)
        if announced is None:
            raise _no_ticket()
        if int(request.headers["content-length"]) != announced.size:
            await announced.abandon()
            message = f"Content-Length has to be the {announced.size:,} bytes that were announced."
            raise CommandError(ErrorCode.BAD_COMMAND, message)
        address = _context_of(request).address
        if self._receiving.enter(address) is not None:
            await announced.abandon()  # who comes back announces it again
            return self._refused(busy(), ends=True)
        try:
            upload = await self._files.claim(announced.ticket)
            if upload is None:  # somebody else was faster
                raise _no_ticket()
            file = await self._kept(upload, body)
        finally:
            self._receiving.leave(address, "")
        return JSONResponse(file.described(), 201, {"location": file.link})

    async def _announced(self, request: Request) -> StoredUpload | None:
        """What a ticket is for that is good still: without, nobody gets a place."""
        found = _BEARER.fullmatch(request.headers.get("authorization", ""))
        return None if found is None else await self._files.find(found[1])

    async def _kept(self, upload: StoredUpload, body: AsyncIterator[bytes]) -> File:
        try:
            async for data in body:
                if data:
                    await upload.write(data)
            return await upload.finish()
        finally:
            await upload.abandon()

    async def _heard_out(self, body: AsyncGenerator[bytes], error: CommandError) -> Response:
        """Who has sent it all goes on with the connection; who has more to send loses it."""
        heard = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARD_OUT_S), contextlib.aclosing(body):
                async for data in body:
                    heard += len(data)
                    if heard > HEARD_OUT_BYTES:
                        break
                else:
                    return self._refused(error)
        return self._refused(error, ends=True)

    def _refused(
        self, error: CommandError, *, status: int | None = None, ends: bool = False
    ) -> Response:
        """`ends` for a connection on which nothing further can be read."""
        status = status or _STATUS.get(error.code, 400)
        self._metrics.file_refusals[str(status)] += 1
        headers = {"connection": "close"} if ends else {}
        if status == 415:
            headers["accept-encoding"] = "identity"  # RFC 9110 §15.5.16
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        if status == 503:
            headers["retry-after"] = str(BUSY_S)
        return JSONResponse({"code": error.code, "message": error.message}, status, headers)

    # Serving

    async def _get(self, request: Request) -> Response:
        id: str = request.path_params["id"]
        if not is_id(id):
            return _not_found()
        try:
            if request.method == "HEAD" or _is_known(request, id):
                return _told(request, id, await self._files.look(id))
            return await self._serve(request, id)
        except CommandError as error:
            return self._refused(error)

    async def _serve(self, request: Request, id: str) -> Response:
        context = _context_of(request)
        address = context.address
        if not await self._serving.enter(address):
            raise busy()
        content = None
        try:
            if context.note_progress():
                content = await self._files.open(id)
        finally:
            if content is None:
                self._serving.leave(address)
        if content is None:
            return _not_found()
        return _Transfer(request, content, lambda: self._serving.leave(address))


def _told(request: Request, id: str, known: tuple[int, str] | None) -> Response:
    """What takes no place, for nothing is read for it: a HEAD, or that nothing has changed."""
    if known is None:
        return _not_found()
    status, _, _, headers = _selected(request, id, *known)
    return Response(status_code=status, headers={**_HEADERS, **headers})


class _Transfer(Response):
    """A file, or a part of it; then `ended` is called."""

    def __init__(self, request: Request, content: Content, ended: Callable[[], None]) -> None:
        self._content = content
        self._ended = ended
        self._note_progress = _context_of(request).note_progress
        self.background = None
        self.status_code, self._start, self._end, headers = _selected(
            request, content.id, content.size, content.media_type
        )
        self.init_headers({**_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            if self._start < self._end:
                await self._send_pieces(send)
            else:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._content.close()
            self._ended()

    async def _send_pieces(self, send: Send) -> None:
        at = self._start
        while at < self._end and self._note_progress():
            data = await self._content.read(at, min(CHUNK_BYTES, self._end - at))
            at += len(data)
            if not data:
                raise OSError("a file has become shorter")
            more = at < self._end
            await send({"type": "http.response.body", "body": data, "more_body": more})


def _is_known(request: Request, id: str) -> bool:
    """Whether a client says that he has the file."""
    known = request.headers.get("if-none-match", "")
    return f'"{id}"' in known or known.strip() == "*"


def _selected(
    request: Request, id: str, size: int, media_type: str
) -> tuple[int, int, int, dict[str, str]]:
    """The status for a request, from where to where it is answered, and what says so."""
    etag = f'"{id}"'
    headers = {"etag": etag}
    if _is_known(request, id):
        return 304, 0, 0, headers
    part = _part_asked_for(request, etag, size)
    start, end = (0, size) if part is None else part
    headers["content-length"] = str(max(0, end - start))
    if start >= end:
        headers["content-range"] = f"bytes */{size}"
        return 416, 0, 0, headers
    name: str = request.path_params["name"]
    headers["content-type"] = media_type
    headers["content-disposition"] = disposition(name, inline=media_type != OTHER)
    if part is None:
        return 200, start, end, headers
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return 206, start, end, headers


def _part_asked_for(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """From where to where; None for all of it."""
    # RFC 9110 §13.1.5: a part is of use only for who has others of the very same.
    if request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return None
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    start = int(found[1])
    if found[2] and int(found[2]) < start:
        return None  # not a range at all (RFC 9110 §14.1.1)
    return start, min(int(found[2]) + 1, size) if found[2] else size


def _context_of(request: Request) -> RequestContext:
    context: RequestContext = request.state.context
    return context


def _no_ticket() -> CommandError:
    return CommandError(
        ErrorCode.UNAUTHORIZED,
        "The ticket is unknown, used or too old; announce the file again.",
    )


def _not_found() -> Response:
    return PlainTextResponse("Not found\n", 404)
