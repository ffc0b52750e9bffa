"""The ASGI application of incoming webhooks: it finds the hook, reads the text, and publishes it.

The order of the checks is: the method (405), the secret (404), the hook's budget (429), the length
of the body (411, 413), its type (415), and its content (400). The answers are words, as Slack's
are. 200 is sent after the message is stored.

The path has the secret. So no part of a request is logged or counted, only the id of its hook.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from fastchat.api.bodies import Body, read_body
from fastchat.api.hooks import PREFIX, ActiveHook, IncomingHooks
from fastchat.api.incoming import InvalidPayload, NoText, text_in
from fastchat.api.paths import MAX_BODY_BYTES
from fastchat.api.requests import Answer, Headers, refusal, send_answer
from fastchat.chat.operations import Operations
from fastchat.errors import CommandError
from fastchat.files.transfers import BodyRule, RequestContext
from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.metrics import Metrics

__all__ = ["HookReceiver", "body_rule"]

logger = logging.getLogger("fastchat.api")

#: Wrong secrets that an address can try at once, and a second after that.
FAILURES = Budget(1.0, 20.0)
_UNKNOWN = "-"  # a hook in metrics, if a request has none
_HEADERS: Headers = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
)
_METHODS = b"OPTIONS, POST"
#: The types of bodies; JSON is also sent without a type, or with one of these two.
_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded", "text/plain"})
#: The words for refusals by the head of a request.
_BY_HEAD = {411: "length_required", 413: "payload_too_large"}


class HookReceiver:
    """Answers requests below `PREFIX`. Each must have a `RequestContext`.

    * `is_limited`: whether hooks have budgets. Wrong secrets are limited in any case.
    * `clock`: monotonic seconds.
    """

    def __init__(
        self,
        hooks: IncomingHooks,
        operations: Operations,
        *,
        metrics: Metrics,
        is_limited: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hooks = hooks
        self._operations = operations
        self._metrics = metrics
        self._is_limited = is_limited
        self._clock = clock
        self._failures = TokenBuckets(FAILURES)

    def sweep(self) -> None:
        """Forget addresses that have tried no wrong secret for a while; call it once a second."""
        self._failures.sweep(self._clock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope["state"]["context"]
        body = Body(scope, receive)
        hook: ActiveHook | None = None
        if scope["method"] == "OPTIONS":
            answer = Answer(204, b"", ((b"allow", _METHODS),))
        elif scope["method"] != "POST":
            answer = _answer(405, "method_not_allowed", (b"allow", _METHODS))
        else:
            hook = self._find(scope)
            if hook is None:
                answer = self._refuse_guess(context.address)
            else:
                try:
                    answer = await self._receive(hook, scope, body)
                except Exception:
                    logger.exception("internal error in the webhook %s", hook.hook.id)
                    answer = _answer(500, "internal_error")
        ends = answer.ends or not await body.drain()
        self._metrics.incoming_requests[
            _UNKNOWN if hook is None else hook.hook.id, str(answer.status)
        ] += 1
        await send_answer(send, answer._replace(ends=ends))

    def _find(self, scope: Scope) -> ActiveHook | None:
        path: bytes = scope["raw_path"]
        beginning = PREFIX.encode()
        return self._hooks.find(path[len(beginning) :]) if path.startswith(beginning) else None

    def _refuse_guess(self, address: str) -> Answer:
        if wait_s := self._failures.take(address, self._clock()):
            return _too_early(wait_s)
        return _answer(404, "no_service")

    async def _receive(self, hook: ActiveHook, scope: Scope, body: Body) -> Answer:
        """Publish what a request with a valid secret has, and say what has happened."""
        if self._is_limited and (wait_s := hook.budget.take("", self._clock())):
            return _too_early(wait_s)
        context: RequestContext = scope["state"]["context"]
        if (refused := context.body_refusal) is not None:
            answer = _answer(refused.status, _BY_HEAD.get(refused.status, "invalid_payload"))
            return answer._replace(ends=True)
        if not _is_readable(scope):
            return _answer(415, "unsupported_media_type")
        data = await read_body(body.receive)
        try:
            text = text_in(data or b"")
        except InvalidPayload:
            return _answer(400, "invalid_payload")
        except NoText:
            return _answer(400, "no_text")
        return await self._publish(hook, text)

    async def _publish(self, hook: ActiveHook, text: str) -> Answer:
        try:
            await self._operations.publish(hook.speaker, hook.hook.room, text)
        except CommandError as error:
            refused = refusal(error)
            if refused.retry_after_ms is not None:
                return _too_early(refused.retry_after_ms / 1000, refused.status, refused.code)
            return _answer(refused.status, refused.code)
        return _answer(200, "ok")


def body_rule(method: str, path: str) -> BodyRule | None:
    """How the body of a request below `PREFIX` is received."""
    return BodyRule(MAX_BODY_BYTES) if method == "POST" and path.startswith(PREFIX) else None


def _is_readable(scope: Scope) -> bool:
    """Whether a body can be JSON or a form, by its headers."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0]
    coding = headers.get(b"content-encoding", b"identity").lower()
    return media_type.strip().lower() in _TYPES and coding == b"identity"


def _answer(status: int, word: str, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(status, word.encode(), (*_HEADERS, *headers))


def _too_early(wait_s: float, status: int = 429, word: str = "rate_limited") -> Answer:
    """An answer with the time after which the program can try again, in whole seconds."""
    return _answer(status, word, (b"retry-after", b"%d" % max(1, -(-wait_s // 1))))
