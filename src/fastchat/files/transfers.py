"""The progress that a transfer of a file must make, and the context of a request with a body.

`fastchat.web.http` reads the head of each request before an endpoint runs. It decides whether
the server reads the body, and puts a `RequestContext` into the request's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from fastchat.errors import CommandError

__all__ = ["ENDLESS", "PROGRESS_BYTES", "BodyRefusal", "BodyRule", "RequestContext", "has_body"]

#: Each time that this many bytes have arrived, the deadline of the transfer is extended, over HTTP
#: and over the WebSocket. A client that sends only a byte now and then cannot occupy a transfer.
PROGRESS_BYTES = 16 * 1024


#: In the state of a request: whether its answer has no end of its own. Nobody waits for the rest of
#: such an answer, so it ends when the client closes its half of the connection.
ENDLESS = "endless"


class BodyRule(NamedTuple):
    """How the body of a request is received: `max_bytes` at most, as Content-Length must say.

    The body of a file (`is_file`) is as long as it is, and must make progress; a request for it
    without a Content-Length is refused. All other bodies must be complete within
    `HttpTimings.body_s`, and can be missing.
    """

    max_bytes: int
    is_file: bool = False


class BodyRefusal(NamedTuple):
    """The reason why the server does not read the body of a request.

    The endpoint answers the request with `status` and `error`. `spends_ticket` is true if the
    request was the one attempt for which its ticket is valid. It is false if the client can send
    the same file by another request.
    """

    status: int
    error: CommandError
    spends_ticket: bool


class RequestContext(NamedTuple):
    """The facts about a request that its connection knows, in `request.state.context`.

    Limits count the client by its `address`. `body_refusal` is None if the body can be read. An
    endpoint must call `note_progress` for each chunk of its answer. The call extends the deadline,
    and returns whether the client is still connected.
    """

    address: str
    body_refusal: BodyRefusal | None
    note_progress: Callable[[], bool]


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request has a body.

    RFC 9112 §6: "The presence of a message body in a request is signaled by a Content-Length or
    Transfer-Encoding header field."
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
