"""Files over HTTP: `POST /files` with a ticket, `GET` and `HEAD` of a link.

A `POST` needs nothing but a ticket, and a `GET` nothing but an id, which cannot be guessed. Neither
uses sessions, tokens or cookies, so another page cannot do in a reader's name what it could not do
itself. A browser gets every file as data: images by their content, other files to be saved, and
nothing in a file can run (docs/security.md).

The duration of a transfer has no bound. Its progress has one (`fastchat.web.http`), and so has the
number of transfers at once, in all and from one address. Files that come and files that go are
counted apart, and a request without a ticket counts for neither.

Starlette's FileResponse is not used, because it

- opens a file by its path, and not the descriptor that was found by the id and that a deletion
  leaves readable;
- has no hook between two pieces, to put off the deadline and to stop when the client is gone, and
  reads in the thread pool that anyio's users share;
- answers a range also to HEAD, several ranges as `multipart/byteranges`, and a malformed range by
  400, all of which we ignore; and it does not know If-None-Match;
- leaves our headers out of the answers 400 and 416.

The quotations are from RFC 9110.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fastchat.errors import CommandError, ErrorCode
from fastchat.files import BUSY_S, File, busy
from fastchat.files.links import disposition, is_id
from fastchat.files.media import OTHER
from fastchat.files.store import Content, DiskFileWriter, FileStore
from fastchat.files.transfers import RequestContext
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.queue import FairQueue
from fastchat.metrics import Metrics
from fastchat.protocol import FILES_URL

__all__ = ["FileEndpoints"]

#: The size of a piece. A client has `HttpTimings.answer_s` for what waits to be sent, at most three
#: pieces (uvicorn's transport is full at 64 KiB), so some 3 kB a second are enough.
CHUNK_BYTES = 32 * 1024
#: This much of a refused file is read, for this long, so that the connection can be kept. Beyond
#: that, a new connection costs the client less.
DRAIN_BYTES = 1024 * 1024
DRAIN_S = 5.0
_BEARER = re.compile(r"bearer +([\x21-\x7e]+) *", re.IGNORECASE)
#: One range. §14.2: "A server MAY ignore the Range header field." So a client that asks for several
#: gets the whole file.
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)
_STATUS = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.TOO_LONG: 413,
    ErrorCode.UNAVAILABLE: 503,
}
#: The headers of every file. The content of a link never changes; if it is deleted, browsers forget
#: it within a day.
_HEADERS = {
    "cache-control": "private, max-age=86400, immutable",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "accept-ranges": "bytes",
}


class FileEndpoints:
    """The endpoints of a process.

    `receiving` counts the files that come, and `serving` is the queue of requests for files that
    go. Each request has a `RequestContext` (`fastchat.files.transfers`).
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
            error = CommandError(ErrorCode.BAD_COMMAND, "Send the file without Content-Encoding.")
            await self._spend_ticket(request)
            return self._refused(error, status=415, ends=True)
        body = request.stream()
        try:
            return await self._receive(request, body)
        except CommandError as error:
            if "expect" in request.headers:  # the client waits for this, and sends no body
                return self._refused(error, ends=True)
            return await self._refuse_and_drain(body, error)
        except ClientDisconnect:
            return Response(status_code=400)  # not sent, because the client is gone

    async def _spend_ticket(self, request: Request) -> None:
        """End the announcement of a request: this was its one attempt."""
        with contextlib.suppress(CommandError):
            if (writer := await self._find_writer(request)) is not None:
                await writer.abandon()

    async def _receive(self, request: Request, body: AsyncGenerator[bytes]) -> Response:
        announced = await self._find_writer(request)
        if announced is None:
            raise _no_ticket()
        if int(request.headers["content-length"]) != announced.size:
            await announced.abandon()
            message = f"Content-Length must be the {announced.size:,} bytes that were announced."
            raise CommandError(ErrorCode.BAD_COMMAND, message)
        address = _context_of(request).address
        if self._receiving.enter(address) is not None:
            await announced.abandon()  # the client has to announce it again
            return self._refused(busy(), ends=True)
        try:
            writer = await self._files.claim(announced.ticket)
            if writer is None:  # another request was faster
                raise _no_ticket()
            file = await self._store(writer, body)
        finally:
            self._receiving.leave(address, "")
        return JSONResponse(file.described(), 201, {"location": file.link})

    async def _find_writer(self, request: Request) -> DiskFileWriter | None:
        """The announcement of a request's ticket; None if the ticket is not valid any more.

        A request without one must not count as a transfer.
        """
        found = _BEARER.fullmatch(request.headers.get("authorization", ""))
        return None if found is None else await self._files.find(found[1])

    async def _store(self, writer: DiskFileWriter, body: AsyncIterator[bytes]) -> File:
        try:
            async for data in body:
                if data:
                    await writer.write(data)
            return await writer.finish()
        finally:
            await writer.abandon()

    async def _refuse_and_drain(self, body: AsyncGenerator[bytes], error: CommandError) -> Response:
        """Refuse a file that is on its way, and keep the connection if little of it is left.

        Otherwise the connection ends: nothing could be read behind the rest.
        """
        heard = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S), contextlib.aclosing(body):
                async for data in body:
                    heard += len(data)
                    if heard > DRAIN_BYTES:
                        break
                else:
                    return self._refused(error)
        return self._refused(error, ends=True)

    def _refused(
        self, error: CommandError, *, status: int | None = None, ends: bool = False
    ) -> Response:
        """The answer to an error. `ends` closes the connection: nothing can be read behind it."""
        status = status or _STATUS.get(error.code, 400)
        self._metrics.file_refusals[str(status)] += 1
        headers = {"connection": "close"} if ends else {}
        if status == 415:
            # §15.5.16: "If the problem was caused by an unsupported content coding, the
            # Accept-Encoding response header field (Section 12.5.3) ought to be used".
            headers["accept-encoding"] = "identity"
        # §15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field".
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
            if request.method == "HEAD" or _client_has(request, id):
                return _without_content(request, id, await self._files.stat(id))
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


def _without_content(request: Request, id: str, known: tuple[int, str] | None) -> Response:
    """The answer to HEAD, or 304: no content is read for it, so it is not a transfer."""
    if known is None:
        return _not_found()
    selected = _select(request, id, *known)
    return Response(status_code=selected.status, headers={**_HEADERS, **selected.headers})


class _Transfer(Response):
    """The answer with a file, or with a range of it. `ended` is called when it has ended."""

    def __init__(self, request: Request, content: Content, ended: Callable[[], None]) -> None:
        self._content = content
        self._ended = ended
        self._note_progress = _context_of(request).note_progress
        self.background = None
        self._selected = _select(request, content.id, content.size, content.media_type)
        self.status_code = self._selected.status
        self.init_headers({**_HEADERS, **self._selected.headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            if self._selected.start < self._selected.end:
                await self._send_pieces(send)
            else:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._content.close()
            self._ended()

    async def _send_pieces(self, send: Send) -> None:
        at, end = self._selected.start, self._selected.end
        while at < end and self._note_progress():
            data = await self._content.read(at, min(CHUNK_BYTES, end - at))
            at += len(data)
            if not data:
                raise OSError("a file has become shorter")
            more = at < end
            await send({"type": "http.response.body", "body": data, "more_body": more})


class _Selected(NamedTuple):
    """A status, its headers, and the bytes of the file that the answer has: from start to end."""

    status: int
    start: int
    end: int
    headers: dict[str, str]


def _select(request: Request, id: str, size: int, media_type: str) -> _Selected:
    """What the answer to a request for a file is."""
    etag = f'"{id}"'
    headers = {"etag": etag}
    # §13.2.2 has If-None-Match evaluated before Range.
    if _client_has(request, id):
        return _Selected(304, 0, 0, headers)
    part = _requested_range(request, etag, size)
    start, end = (0, size) if part is None else part
    headers["content-length"] = str(max(0, end - start))
    if start >= end:
        # §15.5.17: "A server that generates a 416 response to a byte-range request SHOULD generate
        # a Content-Range header field specifying the current length".
        headers["content-range"] = f"bytes */{size}"
        return _Selected(416, 0, 0, headers)
    name: str = request.path_params["name"]
    headers["content-type"] = media_type
    headers["content-disposition"] = disposition(name, inline=media_type != OTHER)
    if part is None:
        return _Selected(200, start, end, headers)
    headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return _Selected(206, start, end, headers)


def _client_has(request: Request, id: str) -> bool:
    """Whether the client says that it has the file.

    §13.1.2: "A recipient MUST use the weak comparison function when comparing entity tags for
    If-None-Match", hence `W/` does not matter.
    """
    known = request.headers.get("if-none-match", "")
    return f'"{id}"' in known or known.strip() == "*"


def _requested_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """The range that a request asks for, from start to end; None if it gets the whole file."""
    # §14.2: "For this specification, GET is the only method for which range handling is defined."
    if request.method != "GET":
        return None
    # §13.1.5: "A recipient of an If-Range header field MUST ignore the Range header field if the
    # If-Range condition evaluates as false." A date never is the validator of a file here.
    if request.headers.get("if-range", etag) != etag:
        return None
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    start = int(found[1])
    # §14.1.1: "An int-range is invalid if the last-pos value is present and less than first-pos."
    if found[2] and int(found[2]) < start:
        return None
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
