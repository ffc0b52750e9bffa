"""The ASGI application of the API: it finds the operation, checks the key, and answers.

The order of the checks is: the path (404), the method (405), the key (401), its budget (429), its
rights (403), and then what the operation itself checks. A key cannot be used by a page of another
origin: no answer has CORS headers, and there are no cookies.

A request with a key is never refused because others have guessed from its address. Only failed
attempts are counted, and beyond a limit they get 429 without another word.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.types import Receive, Scope, Send

from fastchat.api.bodies import Body
from fastchat.api.keys import ActiveKey, ApiKeys
from fastchat.api.paths import Operation, find
from fastchat.api.requests import (
    Answer,
    ApiError,
    Handler,
    Request,
    Stream,
    bad_request,
    refusal,
    send_answer,
)
from fastchat.errors import CommandError, ErrorCode
from fastchat.files.transfers import ENDLESS, RequestContext
from fastchat.limits.buckets import Budget, TokenBuckets, rate_limited
from fastchat.metrics import Metrics

__all__ = ["Api", "Handlers"]

logger = logging.getLogger("fastchat.api")

#: Failed attempts that an address has at once, and a second after that.
FAILURES = Budget(1.0, 20.0)
#: An operation can take longer than a client may take to read its answer, which ends a connection.
#: So the connection hears this often that the operation goes on.
PROGRESS_S = 5.0
_BEARER = b"bearer "
_UNKNOWN = "-"  # a key or an operation in metrics, if a request has none


class Handlers(Protocol):
    """A part of the API: some operations, by their names."""

    def handlers(self) -> Mapping[str, Handler]: ...


class Api:
    """Answers requests below `paths.PREFIX`. Each must have a `RequestContext`.

    * `parts` carry out the operations, together all of them.
    * `is_limited`: whether keys have budgets. Failed attempts are limited in any case.
    * `clock`: monotonic seconds.
    """

    def __init__(
        self,
        keys: ApiKeys,
        *parts: Handlers,
        metrics: Metrics,
        is_limited: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keys = keys
        self._metrics = metrics
        self._is_limited = is_limited
        self._clock = clock
        self._failures = TokenBuckets(FAILURES)
        self._closing = asyncio.Event()
        self._handlers: dict[str, Handler] = {"getDescription": _describe}
        for part in parts:
            self._handlers |= part.handlers()

    def close(self) -> None:
        """End all streams, because the server stops."""
        self._closing.set()

    def sweep(self) -> None:
        """Forget addresses that have made no failed attempt for a while; call it once a second."""
        self._failures.sweep(self._clock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        exchange, body = _Exchange(), Body(scope, receive)
        try:
            result = await self._answer(exchange, scope, body.receive)
        except ApiError as error:
            result = error.answered()
        except CommandError as error:
            result = refusal(error).answered()
        except Exception:
            logger.exception("internal error in the API (%s)", exchange.operation)
            result = ApiError(500, "internal", "The server has made a mistake.").answered()
        if isinstance(result, Stream):
            self._count(exchange, 200)
            await self._send_stream(scope, receive, send, result)
            return
        ends = result.ends or not await body.drain()
        self._count(exchange, result.status)
        self._metrics.api_s.observe(time.perf_counter() - begun)
        await send_answer(send, result._replace(ends=ends))

    def _count(self, exchange: _Exchange, status: int) -> None:
        self._metrics.api_requests[exchange.key, exchange.operation, str(status)] += 1

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> Answer | Stream:
        context: RequestContext = scope["state"]["context"]
        try:
            resource = find(scope["raw_path"])
        except ValueError:
            raise bad_request("The address is not UTF-8.") from None
        if resource is None:
            raise ApiError(404, ErrorCode.NOT_FOUND, "There is nothing at this address.")
        method = scope["method"]
        if method == "OPTIONS":
            return Answer(204, b"", ((b"allow", resource.allow.encode()),))
        operation = resource.operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            raise ApiError(
                405,
                ErrorCode.BAD_COMMAND,
                f"This address has other methods: {resource.allow}.",
                headers=((b"allow", resource.allow.encode()),),
            )
        exchange.operation = operation.name
        if not operation.rights:
            return await self._handlers[operation.name](None)  # type: ignore[arg-type]
        key = self._authenticate(scope, context.address)
        exchange.key = key.key.name
        self._charge(key, operation)
        if context.body_refusal is not None:
            raise refusal(context.body_refusal.error, status=context.body_refusal.status, ends=True)

        def spend(tokens: int) -> None:
            if self._is_limited:
                key.budget.spend("", self._clock(), tokens)

        request = Request(key, resource.variables, scope, receive, spend)
        handler = self._handlers[operation.name]
        if operation.name in _LONG:
            return await _with_progress(handler, request)
        return await handler(request)

    def _authenticate(self, scope: Scope, address: str) -> ActiveKey:
        """The key of a request. All failures look alike."""
        given = [
            value[len(_BEARER) :].strip() if name == b"authorization" else value
            for name, value in scope["headers"]
            if name == b"x-api-key"
            or (name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER)
        ]
        key = self.keys.find(given[0]) if len(given) == 1 else None
        if key is not None:
            return key
        if wait_s := self._failures.take(address, self._clock()):
            raise refusal(rate_limited("There were too many attempts without a key.", wait_s))
        raise ApiError(
            401,
            ErrorCode.UNAUTHORIZED,
            "There is no such key. Send a key as `Authorization: Bearer KEY`.",
        )

    def _charge(self, key: ActiveKey, operation: Operation) -> None:
        if self._is_limited and (wait_s := key.budget.take("", self._clock())):
            raise refusal(rate_limited("The key sends requests too quickly.", wait_s))
        if not any(map(key.has, operation.rights)):
            needed = " or ".join(operation.rights)
            raise ApiError(403, ErrorCode.FORBIDDEN, f"The key needs the right {needed} for this.")

    async def _send_stream(
        self, scope: Scope, receive: Receive, send: Send, stream: Stream
    ) -> None:
        """Send a stream, until it or the server ends, or until the client is gone."""
        note_progress = scope["state"]["context"].note_progress
        scope["state"][ENDLESS] = stream.is_endless
        start = {"status": 200, "headers": [*stream.headers]}
        await send({"type": "http.response.start", **start})
        if scope["method"] == "HEAD":
            await stream.content.aclose()
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_all() -> None:
            async with contextlib.aclosing(stream.content):
                async for chunk in stream.content:
                    if not note_progress():
                        return
                    # If the client does not read, this waits, and the connection's deadline passes.
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})

        loop = asyncio.get_running_loop()
        sending = loop.create_task(send_all())
        others = {loop.create_task(_disconnected(receive)), loop.create_task(self._closing.wait())}
        try:
            await asyncio.wait({sending, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
            ended = await asyncio.gather(sending, *others, return_exceptions=True)
        # If it has failed, the client sees that the answer is not complete, because the server
        # closes the connection without the end of the answer.
        if isinstance(ended[0], CommandError):
            logger.warning("a stream of the API ends early: %s", ended[0])
            return
        if isinstance(ended[0], Exception):
            raise ended[0]
        await send({"type": "http.response.body", "body": b""})


class _Exchange:
    """What metrics say of a request: the name of its key, and its operation."""

    __slots__ = ("key", "operation")

    def __init__(self) -> None:
        self.key = self.operation = _UNKNOWN


#: Operations that look at a whole history.
_LONG = frozenset({"eraseUser", "deleteRoom", "publishToRooms"})


async def _with_progress(handler: Handler, request: Request) -> Answer | Stream:
    """Carry an operation out, and meanwhile extend the deadline of its connection."""
    working = asyncio.ensure_future(handler(request))
    while not (await asyncio.wait({working}, timeout=PROGRESS_S))[0]:
        request.context.note_progress()
    return working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _describe(request: Request) -> Answer:
    """The description of the API for programs (OpenAPI)."""
    data = (importlib.resources.files("fastchat.api") / "openapi.json").read_bytes()
    return Answer(200, data, ((b"content-type", b"application/json"),))
