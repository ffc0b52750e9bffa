"""Resources of the application, with the methods that each has (RFC 9110 §9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

__all__ = ["Resource"]


class Resource(Route):
    """The resources whose paths match `path`, and for which `exists`, if given, returns True.

    A request for one of them does not reach later routes, whatever its method is, with one
    exception: GET and HEAD do if GET is not among `methods`, because there is nothing to get at
    this path. If GET is among them, so is HEAD. `OPTIONS` gets 204, and a method that is not among
    `methods` gets 405, both with the methods in `Allow`. If OPTIONS is among `methods`, `endpoint`
    answers it.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        methods: Iterable[str] = ("GET",),
        exists: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=tuple(methods))
        self._exists = exists
        # RFC 9110 §10.2.1: "The Allow header field lists the set of methods advertised as supported
        # by the target resource."
        self._allow = {"allow": ", ".join(sorted({*(self.methods or ()), "OPTIONS"}))}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if self._exists is not None and not self._exists(scope["path"]):
            return Match.NONE, {}
        if match is Match.PARTIAL:
            match = Match.NONE if scope["method"] in ("GET", "HEAD") else Match.FULL
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in (self.methods or ()):
            await self.app(scope, receive, send)
            return
        response: Response
        if scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers=self._allow)
        else:
            response = PlainTextResponse("Method not allowed\n", 405, self._allow)
        await response(scope, receive, send)
