"""Files that people share: taken, kept, and where they are.

A file is in a message as a link in its text; nothing else of a message knows of files. So
whoever has the link may read it, and a file is kept for as long as a message of its room
has the link (`fastchat.files.retention`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.links import link_of

__all__ = ["BUSY_S", "File", "FileWriter", "Files", "busy"]

#: Who comes when too many files are on their way may try again after so long.
BUSY_S = 5


class File(NamedTuple):
    """A file that is kept. `width` and `height` are in pixels; None for what is no image."""

    id: str
    room: str
    name: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None

    @property
    def link(self) -> str:
        """Where it is, as messages have it."""
        return link_of(self.id, self.name, self.size, self.width, self.height)

    def described(self) -> dict[str, Any]:
        """What its sender gets to know."""
        known: dict[str, Any] = {
            "room": self.room,
            "link": self.link,
            "name": self.name,
            "size": self.size,
            "media_type": self.media_type,
        }
        if self.width is not None and self.height is not None:
            known.update(width=self.width, height=self.height)
        return known


class FileWriter(Protocol):
    """A file of `size` bytes that was announced, and is valid for one attempt.

    The first `write` is that attempt: from then on nobody else can `claim` it. One call at
    a time. What is not finished has to be abandoned, or it holds a descriptor and its quota.
    """

    ticket: str
    room: str
    name: str
    size: int

    async def write(self, data: bytes) -> None:
        """Keep the next bytes.

        Raises CommandError: `too_long` for more than were announced, `forbidden` when the
        ticket is used or too old or there is no room any more, `unavailable` when the disk
        fails.
        """
        ...

    async def finish(self) -> File:
        """Keep it as a file. Raises CommandError as `write`, and when bytes are missing."""
        ...

    async def abandon(self) -> None:
        """Let go of what is kept of it and of its ticket, unless somebody else has used that.

        Safe to call again; never raises.
        """
        ...


class Files(Protocol):
    """Where files are kept. Nothing of it is done in the loop, which only waits."""

    max_bytes: int

    async def reserve(self, room: str, author: str, name: str, size: int) -> FileWriter:
        """A ticket for a file of `size` bytes, valid for ten minutes.

        Raises CommandError: `too_long` for one over `max_bytes`, `forbidden` when the
        author's files or all of them would be too many, `unavailable` when the disk fails.
        """
        ...

    async def withdraw(self, room: str, author: str) -> None:
        """Let go of what somebody has announced in a room and not begun. Never raises."""
        ...

    async def claim(self, ticket: str) -> FileWriter | None:
        """The upload of a ticket, for whoever shows it first, in any process of the server.

        None for a ticket that is unknown, used or too old. Raises CommandError as `write`.
        """
        ...


def busy() -> CommandError:
    """For whoever comes when there is no place for a further file that is on its way."""
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "Too many files are on their way; try again.",
        temporary=True,
        retry_after_ms=BUSY_S * 1000,
    )
