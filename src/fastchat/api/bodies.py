"""The bodies of requests, which may be answered without them."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope

from fastchat.api.paths import MAX_BODY_BYTES
from fastchat.files.transfers import has_body

__all__ = ["Body", "read_body"]


class Body:
    """The body of a request, which may be answered without it.

    Until all of a body has arrived, the next request of its connection cannot be read.
    """

    __slots__ = ("_is_read", "_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._is_read = not has_body(scope["headers"])

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self._is_read = True
        return message

    async def drain(self) -> bool:
        """Read a short rest, if there is one and the client sends it.

        Returns whether the connection can go on.
        """
        if self._is_read:
            return True
        headers = dict(self._scope["headers"])
        refusal = self._scope["state"]["context"].body_refusal
        length = headers.get(b"content-length", b"")
        if refusal is not None or b"expect" in headers or int(length or 0) > MAX_BODY_BYTES:
            return False
        while not self._is_read:
            await self.receive()
        return True


async def read_body(receive: Receive) -> bytes | None:
    """The whole body of a request; None if the client is gone before its end.

    The connection has checked the length (`BodyRule`), and ends if the body takes too long.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        data: bytes = message.get("body", b"")
        return data
    parts = [message.get("body", b"")]
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    return b"".join(parts) if message["type"] == "http.request" else None
