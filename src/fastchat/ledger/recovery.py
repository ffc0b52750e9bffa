"""What clients and processes have missed of the streams of rooms.

The answer must end where the stream ends at the moment of the answer. What this machine has of a
stream is used if it is enough. Otherwise the ledger is read, and the stream can go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastchat.history import Page
from fastchat.ledger import LedgerError
from fastchat.ledger.following import Following
from fastchat.ledger.reading import Reader
from fastchat.ledger.streams import Stream
from fastchat.protocol import MAX_HISTORY, Position, Publication
from fastchat.rooms import Entrance
from fastchat.rooms.messages import truncated
from fastchat.rooms.restoring import MAX_RESUMED

__all__ = ["Recovery"]

#: Attempts to read the end of a room while it changes.
_ATTEMPTS = 5


class Recovery:
    """The ends of the streams that are followed.

    Every method raises LedgerError if the room is lost, or if the ledger cannot be read. After a
    method has returned, its caller must not await anything before it uses the result.
    """

    def __init__(self, following: Following, reader: Reader) -> None:
        self._following = following
        self._reader = reader

    def position(self, name: str) -> Position:
        """The end of a room's stream."""
        return self._stream(name).position

    async def missed_by_client(self, entrance: Entrance) -> tuple[Sequence[bytes], bool]:
        """The publications that a client has missed, and whether these are all.

        If there are too many, these are the newest messages, as for a client without a position.
        """
        name, _, _, since, limit, *_ = entrance
        page = Page([], False)
        for _ in range(_ATTEMPTS):
            stream = self._stream(name)
            if since is not None and stream.has(since.offset):
                missed = stream.since(since, MAX_HISTORY)
                if missed is not None:
                    payloads, too_many = truncated(missed, newest_first=True)
                    if not too_many:
                        return payloads, True
            found = stream.before(None, limit) if limit else page
            if found is not None:
                return truncated(found.publications, newest_first=True).payloads, False
            head = stream.head
            page = await self._reader.before(name, None, limit)
            if self._stream(name).head == head:
                break
        return truncated(page.publications, newest_first=True).payloads, False

    async def missed_by_process(self, name: str, since: Position) -> Sequence[Publication] | None:
        """The publications that a process has missed; None if it cannot go on from there."""
        stream = self._stream(name)
        if stream.has(since.offset):
            return stream.since(since, MAX_RESUMED)
        found = await self._reader.since(name, since, MAX_RESUMED)
        stream = self._stream(name)
        if not found or not stream.has(found[-1].offset):
            return None
        last = found[-1]
        later = stream.since(Position(stream.epoch, last.offset), MAX_RESUMED)
        return None if later is None else [*found, *later]

    def _stream(self, name: str) -> Stream:
        stream = self._following.get(name)
        if stream is None:
            raise LedgerError("the room is lost")
        return stream
