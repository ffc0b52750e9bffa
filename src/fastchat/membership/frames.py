"""Follows the frames in the bytes that a library writes to its transport."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview

CONTINUATION, TEXT, BINARY, CLOSE = 0x0, 0x1, 0x2, 0x8


class Frames:
    """Knows after each write whether it has ended within a frame or within a message.

    The bytes are those of a server (RFC 6455 §5.2), so they are not masked.
    """

    __slots__ = ("_head", "_left", "closes", "is_message_open")

    def __init__(self, *, is_message_open: bool = False) -> None:
        #: Whether a message has begun in a fragment, and its last fragment has not.
        self.is_message_open = is_message_open
        #: Whether a close frame has begun.
        self.closes = False
        self._head = b""  # the bytes of an incomplete header
        self._left = 0  # how many bytes of a payload are still to come

    @property
    def is_whole(self) -> bool:
        """Whether a frame of another writer can follow.

        RFC 6455 §5.4: "The fragments of one message MUST NOT be interleaved between the
        fragments of another message".
        """
        return not (self._left or self._head or self.is_message_open)

    def feed(self, data: Buffer) -> None:
        """Take the bytes of one write."""
        size = len(data)
        if self._left >= size:  # the payload alone, whose header was written before
            self._left -= size
            return
        data = memoryview(data).cast("B")
        at = self._left
        while at < size:
            head = self._head + data[at : at + 10 - len(self._head)]
            length = _header_bytes(head)
            if len(head) < length:
                self._head = head
                self._left = 0
                return
            at += length - len(self._head) + self._take(head, length)
            self._head = b""
        self._left = at - size

    def _take(self, head: bytes, length: int) -> int:
        """Note a frame, and return the number of bytes of its payload."""
        opcode = head[0] & 0x0F
        if opcode in (CONTINUATION, TEXT, BINARY):
            self.is_message_open = not head[0] & 0x80
        elif opcode == CLOSE:
            self.closes = True
        return head[1] if length == 2 else int.from_bytes(head[2:length], "big")


def _header_bytes(head: bytes) -> int:
    """The length of the header that begins with these bytes, or more than their number."""
    if len(head) < 2:
        return 2
    return {126: 4, 127: 10}.get(head[1], 2)
