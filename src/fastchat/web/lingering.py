"""The end of a connection whose client still sends.

RFC 9112 §9.6: "If a server performs an immediate close of a TCP connection, there is a significant
risk that the client will not be able to read the last HTTP response." If the client sends more
after the close, the server's kernel answers with a reset, and the client's kernel then drops the
part of the answer that the client has not read. So the server closes only its half, and "continues
to read from the connection" for a moment. It keeps nothing of what it reads.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["LINGER_BYTES", "LINGER_S", "AnswerTransport"]

#: A client that is connected well enough to send files reads an answer in this time. The default
#: of nginx's `lingering_timeout` is 5 s.
LINGER_S = 2.0
#: A little more than the default of --max-file-bytes: most files that are too large are not much
#: larger.
LINGER_BYTES = 32 * 1024 * 1024


class AnswerTransport:
    """The transport that uvicorn writes an answer to; `close` calls `end` instead."""

    def __init__(self, transport: Any, end: Callable[[], None]) -> None:
        self._transport = transport
        self._end = weakref.WeakMethod(end)  # the owner of the method holds us
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        end = self._end()
        if end is None:
            self._transport.close()
        else:
            end()
