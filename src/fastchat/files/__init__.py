"""Files that people share: how they are announced, received, stored and deleted.

A message contains a file as a link in its text. No other part of a message knows of files.
Everybody who has the link can read the file.

The states of a file
--------------------
Each state has one noun, and a file passes through the states in this order:

============  ======================  ================================================
State         Noun                    The state ends
============  ======================  ================================================
announced     `Announced`             when the first byte arrives, when its ticket
                                      expires after ten minutes, or when it is withdrawn
incoming      `incoming.Incoming`     when the last byte is stored, or when it is abandoned
stored        `File`                  when no message of its room links to it any more
                                      (`fastchat.files.retention`)
deleted                               never: a new upload of the same content stores it again
============  ======================  ================================================

* The command that announces a file is `fastchat.protocol.Upload`. It is named after its type on
  the wire.
* A `FileWriter` writes the bytes of one announced file. It is a role, not a state.
* An `Incoming` is a file that arrives by binary messages. An upload over HTTP uses a `FileWriter`
  without an `Incoming`: its Content-Length limits its bytes, and the deadline of its connection
  limits its time.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.links import link_of

__all__ = [
    "BUSY_S",
    "TICKET_S",
    "UNLINKED_LIFETIME_S",
    "Content",
    "File",
    "FileWriter",
    "Files",
    "busy",
]

#: A client that is refused for lack of a transfer is asked to retry after this many seconds. A
#: longer time leaves free transfers unused; a shorter time makes refused clients ask more often.
BUSY_S = 5
#: A ticket is valid for this long, from the announcement of a file to its first byte. Meanwhile,
#: the announcement counts against its user's quota.
TICKET_S = 600.0
#: A file without a link is deleted after this time. A sender who writes their message for longer
#: must send the file again.
UNLINKED_LIFETIME_S = 3600.0


class File(NamedTuple):
    """A stored file.

    `size` is in bytes. `width` and `height` are in pixels; they are None if the file is not an
    image, or if its header states no believable size.
    """

    id: str
    room: str
    name: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None

    @property
    def link(self) -> str:
        """The path and query under which the file is served, as messages contain it."""
        return link_of(self.id, self.name, self.size, self.width, self.height)

    def described(self) -> dict[str, Any]:
        """The fields that the server sends to the client that uploaded the file."""
        description: dict[str, Any] = {
            "room": self.room,
            "link": self.link,
            "name": self.name,
            "size": self.size,
            "media_type": self.media_type,
        }
        if self.width is not None and self.height is not None:
            description.update(width=self.width, height=self.height)
        return description


class FileWriter(Protocol):
    """Writes an announced file of `size` bytes. Its `ticket` is valid for one attempt.

    The attempt starts with the first `write`. After that, `Files.claim` does not return this file
    any more. Only one call of a writer may be in progress at a time. A writer that does not finish
    must be abandoned; otherwise its space and its share of the quota stay occupied.
    """

    ticket: str
    room: str
    name: str
    size: int

    async def write(self, data: bytes) -> None:
        """Write the next bytes.

        Raises CommandError: `too_long` for more bytes than were announced; `forbidden` if the
        ticket is used or expired, or if the server's total quota is exhausted; `unavailable` if
        the disk or the database fails or is too full.
        """
        ...

    async def finish(self) -> File:
        """Store the file.

        Raises CommandError: `bad_command` if bytes are missing, `forbidden` if the file exceeds
        the quota of its user, `unavailable` if the disk or the database fails. Then nothing is
        stored.
        """
        ...

    async def abandon(self) -> None:
        """Remove the bytes that were written, and end the ticket.

        If another writer has used the ticket, its file is not affected. The method can be called
        repeatedly, and never raises.
        """
        ...


class Content(Protocol):
    """A file that is open for reading."""

    @property
    def id(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def media_type(self) -> str: ...

    async def read(self, offset: int, size: int) -> bytes:
        """Read at most `size` bytes at `offset`: at least one, unless the content ends before.

        Raises CommandError (`unavailable`). A file that is deleted in the meantime can be read to
        its end, if that does not take long.
        """
        ...

    def close(self) -> None:
        """Close the file. The content of a deleted file can be freed then."""
        ...


class Files(Protocol):
    """Stores files: on the disk of one machine (`store`), or in a ledger that machines share.

    No method blocks the event loop. After `close`, each method raises CommandError (`unavailable`).
    """

    max_bytes: int

    async def reserve(self, room: str, user: str, name: str, size: int) -> FileWriter:
        """Announce a file of `size` bytes. Its ticket is valid for ten minutes.

        Raises CommandError: `too_long` if the file is larger than `max_bytes`, `forbidden` if the
        quota of the user or of the server is exhausted, `unavailable` if the disk or the database
        fails or is too full.
        """
        ...

    async def withdraw(self, room: str, user: str) -> None:
        """End the tickets of a user's files in a room that have not started. Never raises."""
        ...

    async def claim(self, ticket: str) -> FileWriter | None:
        """Use a ticket, and return the writer of its file.

        Of several calls with the same ticket, in any of the server's processes, one gets the
        writer. The method returns None if the ticket is unknown, used or expired. Raises
        CommandError like `FileWriter.write`.
        """
        ...

    async def find(self, ticket: str) -> FileWriter | None:
        """Return the writer of a ticket's file, like `claim`, but do not use the ticket."""
        ...

    async def stat(self, id: str) -> tuple[int, str] | None:
        """Return the size and the media type of a file; None if it does not exist.

        Raises CommandError (`unavailable`).
        """
        ...

    async def open(self, id: str) -> Content | None:
        """Open a file for reading; None if it does not exist. The caller must close the result.

        Raises CommandError (`unavailable`).
        """
        ...

    def close(self) -> None:
        """Release what is open. Incoming files are not finished."""
        ...


def busy() -> CommandError:
    """Return the error for a transfer that exceeds a limit on concurrent transfers."""
    return CommandError(
        ErrorCode.UNAVAILABLE,
        f"Too many files are being transferred. Try again in {BUSY_S} s.",
        temporary=True,
        retry_after_ms=BUSY_S * 1000,
    )
