"""A message that comes in pieces (RFC 6455 §5.4), and its bounds."""

from __future__ import annotations

import codecs

from fastchat.errors import CloseReason, Violation

__all__ = ["Fragments"]

#: Browsers do not fragment; the strictest suites send about fifty.
MAX_FRAGMENTS = 64


class Fragments:
    """What has come of a message; `is_text` says whether it has to be UTF-8."""

    __slots__ = ("_count", "_decoder", "_parts", "_size", "is_text")

    def __init__(self, *, is_text: bool) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._count = 0
        self.is_text = is_text
        self._decoder = codecs.getincrementaldecoder("utf-8")() if is_text else None

    def add(self, payload: bytes, *, is_last: bool, max_bytes: int) -> None:
        """Take the next fragment; raises Violation."""
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
            raise Violation(CloseReason.INVALID_UTF8) from None
        self._parts.append(payload)

    def whole(self) -> bytes:
        return b"".join(self._parts)
