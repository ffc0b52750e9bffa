"""A message that arrives in fragments (RFC 6455 §5.4), and its limits."""

from __future__ import annotations

import codecs

from fastchat.errors import CloseReason, Violation

__all__ = ["Fragments"]

#: Browsers send no fragments; the strictest test suites send about 50 in a message.
MAX_FRAGMENTS = 64


class Fragments:
    """The fragments of one message that have come so far.

    * ``is_text``: whether the message must be UTF-8.
    """

    __slots__ = ("_count", "_decoder", "_parts", "_size", "is_text")

    def __init__(self, *, is_text: bool) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._count = 0
        self.is_text = is_text
        self._decoder = codecs.getincrementaldecoder("utf-8")() if is_text else None

    def add(self, payload: bytes, *, is_last: bool, max_bytes: int) -> None:
        """Take the next fragment. Raises Violation if the message exceeds a limit.

        Text is decoded fragment by fragment, so that a message fails where it stops being UTF-8
        and not with its last fragment. A character can begin in one fragment and end in another.
        """
        self._count += 1
        self._size += len(payload)
        if self._size > max_bytes:
            raise Violation(CloseReason.MESSAGE_TOO_BIG)
        if self._count > MAX_FRAGMENTS:
            raise Violation(CloseReason.TOO_MANY_FRAGMENTS)
        try:
            if self._decoder is not None:
                self._decoder.decode(payload, is_last)
        except UnicodeDecodeError:
            # RFC 6455 §8.1: "When an endpoint is to interpret a byte stream as UTF-8 but finds
            # that the byte stream is not, in fact, a valid UTF-8 stream, that endpoint MUST
            # _Fail the WebSocket Connection_."
            raise Violation(CloseReason.INVALID_UTF8) from None
        self._parts.append(payload)

    def whole(self) -> bytes:
        """The message, after its last fragment."""
        return b"".join(self._parts)
