"""The end of a connection whose client still sends (RFC 9112 §9.6).

Who is hung up on while he sends gets a reset, and with it loses the answer that was to tell him
why. So he is told that nothing more comes, and heard for a moment, of which nothing is kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["LINGER_BYTES", "LINGER_S", "AnswerTransport", "has_body"]

#: Enough for an answer to get there and to be read, on any line that carries files.
LINGER_S = 2.0
#: A little more than the largest file by default: what is too large is mostly that.
LINGER_BYTES = 32 * 1024 * 1024


class AnswerTransport:
    """What uvicorn writes an answer to: the same transport, but for another `end` of it."""

    def __init__(self, transport: Any, end: Callable[[], None]) -> None:
        self._transport = transport
        self._end = weakref.WeakMethod(end)  # whose it is holds us
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        end = self._end()
        if end is None:
            self._transport.close()
        else:
            end()


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says that it has one."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in headers
    )
