"""The progress that a transfer of a file must make, and the context of a request for a file.

`fastchat.web.http` reads the head of each request before an endpoint runs. It decides whether
the server reads the body, and puts a `RequestContext` into the request's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastchat.errors import CommandError

__all__ = ["PROGRESS_BYTES", "BodyRefusal", "RequestContext"]

#: Each time that this many bytes have arrived, the deadline of the transfer is extended, over HTTP
#: and over the WebSocket. A client that sends only a byte now and then cannot occupy a transfer.
PROGRESS_BYTES = 16 * 1024


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
