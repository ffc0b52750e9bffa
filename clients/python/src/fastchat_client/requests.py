"""Requests of the HTTP API, and the answers to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import quote

from fastchat_client.errors import ChatError, Disconnected
from fastchat_client.results import refusal_of

__all__ = ["Body", "Lost", "Reply", "Request", "SharedFile", "Transport", "error_of", "path_of"]


class SharedFile(NamedTuple):
    """An open file with its name and its size in bytes."""

    name: str
    size: int
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class Request:
    """A request; `path` is below `/api/v1` and percent-encoded.

    * ``json``: the fields of the body; None for a request without a body.
    * ``is_idempotent``: whether the effect of two such requests is that of one.
    * ``is_removal``: whether "not found" means, after an attempt whose answer was lost, that this
      attempt has succeeded.
    * ``timeout``: the longest wait for a piece of the answer, in seconds; None for the usual one.
    """

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    file: SharedFile | None = None
    is_idempotent: bool = True
    is_removal: bool = False
    timeout: float | None = None


class Reply(NamedTuple):
    """A whole answer. The names of `headers` are in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Body(Protocol):
    """An answer whose content has not been read. It must be closed."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> Reply:
        """Read the whole content. Raises Lost."""

    async def next(self) -> bytes | None:
        """The next piece of the content, or None at its end. Raises Lost."""

    async def close(self) -> None: ...


class Transport(Protocol):
    """Sends requests. Coroutines of a blocking transport do their work without suspending."""

    async def open(self, request: Request) -> Body:
        """Send a request, and wait for the head of its answer. Raises Lost."""

    async def open_file(self, source: Any) -> SharedFile: ...

    async def sleep(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


class Lost(Exception):
    """There is no answer. `was_sent`: whether the request can have been carried out."""

    def __init__(self, error: Disconnected, *, was_sent: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.was_sent = was_sent


def path_of(*parts: str | int) -> str:
    """A path of these parts. Raises ValueError if one is empty, or is not Unicode."""
    quoted = []
    for part in parts:
        text = str(part)
        if not text:
            raise ValueError("A room, a user or an emoji must not be empty.")
        # A room can be called "..", which would be another path.
        quoted.append(text.replace(".", "%2E") if not text.strip(".") else quote(text, safe=""))
    return "/" + "/".join(quoted)


def error_of(reply: Reply) -> ChatError:
    """The error of an answer without success."""
    try:
        refused = refusal_of(json.loads(reply.content))
    except ValueError:
        refused = None
    if refused is not None:
        return refused
    status = reply.status
    if 300 <= status < 400:
        where = reply.headers.get("location", "another address")
        message = f"The server redirects to {where}. Give the address behind it."
        return Disconnected(message, code="unreachable", temporary=False)
    if status == 429 or status >= 500:  # of a proxy
        after = reply.headers.get("retry-after", "")
        return Disconnected(
            f"The answer has the HTTP status {status}.",
            retry_after=float(after) if after.isdecimal() else None,
        )
    return unreachable(f"the HTTP status {status}")


def unreachable(found: str) -> Disconnected:
    """The error of an answer that is not of the API."""
    return Disconnected(
        f"There is no HTTP API of fastchat at the address, which answers with {found}. The server "
        "needs --api-key-file.",
        code="unreachable",
        temporary=False,
    )
