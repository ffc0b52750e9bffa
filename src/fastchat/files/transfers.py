"""What transfers of files have in common, and what HTTP tells the endpoints about a request.

`fastchat.web.http` reads the head of each request, before any endpoint runs. It decides whether
the body can be read, and puts a `RequestContext` into the request's state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastchat.errors import CommandError

__all__ = ["PROGRESS_BYTES", "BodyRefusal", "RequestContext"]

#: A transfer's deadline is put off each time that this many bytes have come, over HTTP and over
#: the WebSocket. So a client that sends a byte now and then cannot occupy a transfer.
PROGRESS_BYTES = 16 * 1024


class BodyRefusal(NamedTuple):
    """Why the body of a request is not read; the endpoint answers with it.

    `spends_ticket` says whether this was the one attempt that a ticket is good for. It was not
    if the same file can come by another request.
    """

    status: int
    error: CommandError
    spends_ticket: bool


class RequestContext(NamedTuple):
    """What the endpoints know about a request from its connection; it is `request.state.context`.

    `address` is what limits count the client by. `body_refusal` is None if the body can be read.
    `note_progress` has to be called for each piece of the answer, to put off the deadline; it
    returns whether the client is still connected.
    """

    address: str
    body_refusal: BodyRefusal | None
    note_progress: Callable[[], bool]
