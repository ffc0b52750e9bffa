"""Files over HTTP: `POST /files` with a ticket, `GET` and `HEAD` of a link.

A `POST` needs only a ticket, and a `GET` needs only an id, which cannot be guessed. Neither uses
sessions, tokens or cookies. So a page of another site cannot use a reader's browser to do anything
that it could not do without it. `fastchat.web.sharing` lets pages of allowed sites use both. A
browser receives each file as data. It displays images, which are recognized by their content, and
saves other files; no content can run (docs/security.md).

The duration of a transfer is not limited, but it must make progress (`fastchat.web.http`). The
number of concurrent transfers is limited, in total and for each address. Uploads and downloads are
counted separately. A request without a valid ticket does not count as an upload.

Starlette's FileResponse is not used, because it

- opens a file by its path. We read from the descriptor that was opened by the id; after the file
  is deleted, it stays readable;
- has no hook between two chunks. We need one to extend the deadline, and to stop if the client is
  gone. Besides, it reads in the thread pool that all users of anyio share;
- answers HEAD with a range, several ranges with `multipart/byteranges`, and a malformed range with
  400. We ignore the ranges in these cases. It does not know If-None-Match;
- omits our headers from answers with the status 400 or 416.

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
from fastchat.files import BUSY_S, Content, File, Files, FileWriter, busy
from fastchat.files.links import disposition, is_id
from fastchat.files.media import OTHER
from fastchat.files.transfers import RequestContext
from fastchat.limits.connections import ConnectionCount
from fastchat.limits.queue import FairQueue
from fastchat.metrics import Metrics
from fastchat.protocol import FILES_URL

__all__ = ["TICKET_HEADER", "FileEndpoints"]

#: The header of a `POST` that names the ticket; `Authorization: Bearer` does the same.
TICKET_HEADER = "x-upload-ticket"
#: The size of a chunk of an answer. A client must receive the buffered data within
#: `HttpTimings.answer_s`. At most three chunks are buffered (uvicorn pauses writing at 64 KiB), so
#: a client must read some 3 kB a second.
CHUNK_BYTES = 32 * 1024
#: Up to this many bytes of a refused upload are read, for up to this long, so that its connection
#: can be used again. For more, a new connection is cheaper for the client.
DRAIN_BYTES = 1024 * 1024
DRAIN_S = 5.0
_TICKET = re.compile(r"[\x21-\x7e]+")
_BEARER = re.compile(rf"bearer +({_TICKET.pattern}) *", re.IGNORECASE)
#: A single range. §14.2: "A server MAY ignore the Range header field." So a client that requests
#: several ranges receives the whole file.
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)
_STATUS = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.TOO_LONG: 413,
    ErrorCode.UNAVAILABLE: 503,
}
#: The headers of every answer with a file. The content of a link never changes, hence `immutable`.
#: Browsers forget a deleted file within a day, hence `max-age`.
_HEADERS = {
    "cache-control": "private, max-age=86400, immutable",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "accept-ranges": "bytes",
}


class FileEndpoints:
    """The endpoints for files in one process.

    `receiving` counts and limits concurrent uploads. `serving` limits concurrent downloads, and
    queues the requests that exceed the limit. Each request must have a `RequestContext`
    (`fastchat.files.transfers`).
    """

    def __init__(
        self, files: Files, receiving: ConnectionCount, serving: FairQueue, metrics: Metrics
    ) -> None:
        self._files = files
        self._receiving = receiving
        self._serving = serving
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            Route(FILES_URL, self._post, methods=["POST"]),
            Route(FILES_URL + "/{id}/{name}", self._get, methods=["GET", "HEAD"]),
        ]

    # Uploads

    async def _post(self, request: Request) -> Response:
        refusal = _context_of(request).body_refusal
        if refusal is not None:
            if refusal.spends_ticket:
                await self._spend_ticket(request)
            return self._refused(refusal.error, status=refusal.status, ends=True)
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            error = CommandError(ErrorCode.BAD_COMMAND, "Send the file without a Content-Encoding.")
            await self._spend_ticket(request)
            return self._refused(error, status=415, ends=True)
        body = request.stream()
        try:
            return await self._receive(request, body)
        except CommandError as error:
            if "expect" in request.headers:  # the client waits for an answer, and sends no body
                return self._refused(error, ends=True)
            return await self._refuse_and_drain(body, error)
        except ClientDisconnect:
            return Response(status_code=400)  # it is not sent, because the client is gone

    async def _spend_ticket(self, request: Request) -> None:
        """End the ticket of a request, which was the one attempt for which the ticket was valid."""
        with contextlib.suppress(CommandError):
            if (writer := await self._find_writer(request)) is not None:
                await writer.abandon()

    async def _receive(self, request: Request, body: AsyncGenerator[bytes]) -> Response:
        announced = await self._find_writer(request)
        if announced is None:
            raise _no_ticket()
        if int(request.headers["content-length"]) != announced.size:
            await announced.abandon()
            message = f"Content-Length must be {announced.size:,}, the size that was announced."
            raise CommandError(ErrorCode.BAD_COMMAND, message)
        address = _context_of(request).address
        if self._receiving.enter(address) is not None:
            await announced.abandon()  # so that the client can announce it again
            return self._refused(busy(), ends=True)
        try:
            writer = await self._files.claim(announced.ticket)
            if writer is None:  # another request has used the ticket
                raise _no_ticket()
            file = await self._store(writer, body)
        finally:
            self._receiving.leave(address, "")
        return JSONResponse(file.described(), 201, {"location": file.link})

    async def _find_writer(self, request: Request) -> FileWriter | None:
        """Return the writer of a request's ticket; None if it has no ticket that is still valid.

        It is called before the request counts as an upload, and does not use the ticket.
        """
        ticket = _ticket_of(request)
        return None if ticket is None else await self._files.find(ticket)

    async def _store(self, writer: FileWriter, body: AsyncIterator[bytes]) -> File:
        try:
            async for data in body:
                if data:
                    await writer.write(data)
            return await writer.finish()
        finally:
            await writer.abandon()

    async def _refuse_and_drain(self, body: AsyncGenerator[bytes], error: CommandError) -> Response:
        """Refuse an upload that is still arriving.

        If little of the body is left, it is read and dropped, and the connection can be used
        again. Otherwise the answer closes the connection, because the next request would follow
        the rest of the body.
        """
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S), contextlib.aclosing(body):
                async for data in body:
                    drained += len(data)
                    if drained > DRAIN_BYTES:
                        break
                else:
                    return self._refused(error)
        return self._refused(error, ends=True)

    def _refused(
        self, error: CommandError, *, status: int | None = None, ends: bool = False
    ) -> Response:
        """Return the answer to an error, and count it. `ends` closes the connection after it."""
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

    # Downloads

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
    """Return the answer to HEAD, or 304. No content is read, so it does not count as a download."""
    if known is None:
        return _not_found()
    selected = _select(request, id, *known)
    return Response(status_code=selected.status, headers={**_HEADERS, **selected.headers})


class _Transfer(Response):
    """An answer with a file or a range of a file. `ended` is called when it has ended."""

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
                await self._send_chunks(send)
            else:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._content.close()
            self._ended()

    async def _send_chunks(self, send: Send) -> None:
        at, end = self._selected.start, self._selected.end
        while at < end and self._note_progress():
            data = await self._content.read(at, min(CHUNK_BYTES, end - at))
            at += len(data)
            if not data:
                raise OSError("the content of a file was truncated while it was served")
            more = at < end
            await send({"type": "http.response.body", "body": data, "more_body": more})


class _Selected(NamedTuple):
    """The status and headers of an answer. Its body is the file from `start` until before `end`."""

    status: int
    start: int
    end: int
    headers: dict[str, str]


def _select(request: Request, id: str, size: int, media_type: str) -> _Selected:
    """Choose the answer to a request for a file that exists."""
    etag = f'"{id}"'
    headers = {"etag": etag}
    # §13.2.2: If-None-Match is evaluated before Range.
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
    """Return whether the client states that it has the file.

    §13.1.2: "A recipient MUST use the weak comparison function when comparing entity tags for
    If-None-Match". So a prefix `W/` is ignored.
    """
    known = request.headers.get("if-none-match", "")
    return f'"{id}"' in known or known.strip() == "*"


def _requested_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the start and end of the range that a request asks for; None for the whole file.

    The range is empty if the file is too short for it.
    """
    # §14.2: "For this specification, GET is the only method for which range handling is defined."
    if request.method != "GET":
        return None
    # §13.1.5: "A recipient of an If-Range header field MUST ignore the Range header field if the
    # If-Range condition evaluates as false." Files here have no Last-Modified, so a date is false.
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


def _ticket_of(request: Request) -> str | None:
    """Return the ticket that a request names; None if it names none, or several.

    Behind a proxy that asks for a password, a browser can send only the password in
    `Authorization`. So a ticket in TICKET_HEADER counts, and then `Authorization` is ignored.
    """
    tickets = request.headers.getlist(TICKET_HEADER)
    if tickets:
        return tickets[0] if len(tickets) == 1 and _TICKET.fullmatch(tickets[0]) else None
    found = _BEARER.fullmatch(request.headers.get("authorization", ""))
    return None if found is None else found[1]


def _context_of(request: Request) -> RequestContext:
    context: RequestContext = request.state.context
    return context


def _no_ticket() -> CommandError:
    return CommandError(
        ErrorCode.UNAUTHORIZED,
        "The ticket is unknown, used or expired. Announce the file again.",
    )


def _not_found() -> Response:
    return PlainTextResponse("Not found\n", 404)
