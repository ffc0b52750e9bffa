"""Server-Sent Events (the HTML standard, §9.2), parsed from bytes as they arrive."""

from __future__ import annotations

from typing import NamedTuple

from fastchat_client.errors import Disconnected
from fastchat_client.requests import Lost

__all__ = ["Lines", "Parser", "ServerSent"]

#: The longest line. The server's longest has a message of 16 kB with its reactions.
MAX_LINE_BYTES = 16 * 1024 * 1024


class ServerSent(NamedTuple):
    """An event; `id` is None if it has none of its own."""

    type: str
    id: str | None
    data: str


class Lines:
    """Splits pieces of a text into its lines, which end with a line feed.

    Unlike `str.splitlines`, it leaves U+2028 and other separators alone, which JSON can contain.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece. Raises Lost if a line is too long."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise Lost(Disconnected("The server has sent a line without an end."), was_sent=True)
        return lines

    @property
    def is_complete(self) -> bool:
        """Whether the text so far ends with a line."""
        return not self._rest


class Parser:
    """Parses events. `retry_s` is what the server has said of reconnecting, in seconds."""

    def __init__(self) -> None:
        self.retry_s: float | None = None
        self._lines = Lines()
        self._type = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerSent]:
        """The events that end in this piece. Raises Lost."""
        found = []
        for line in self._lines.feed(piece):
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            if text:
                self._take(text)
                continue
            # "If the data buffer is an empty string, set the data buffer and the event type buffer
            # to the empty string and return."
            if self._data:
                found.append(ServerSent(self._type or "message", self._id, "\n".join(self._data)))
            self._type, self._id, self._data = "", None, []
        return found

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
