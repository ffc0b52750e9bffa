"""What a SQLite history has of its rooms in memory: their places, and their newest."""

from __future__ import annotations

from fastchat.history.rows import OFFSET_BITS
from fastchat.protocol import MAX_HISTORY, MAX_REPLY_BYTES, Publication

__all__ = ["Room", "Tail"]


class Room:
    """Where a room's stream stands; `number` is None until something is published."""

    __slots__ = ("epoch", "first", "head", "name", "number")

    def __init__(self, name: str, number: int | None, epoch: str, first: int, head: int) -> None:
        self.name = name
        self.number = number
        self.epoch = epoch
        self.first = first  # the oldest offset that is kept
        self.head = head

    def key(self, offset: int) -> int:
        assert self.number is not None
        return self.number << OFFSET_BITS | offset


class Tail:
    """The newest publications of a room, without a hole, up to its head.

    At least as many as a reply may hold: `MAX_HISTORY`, or `MAX_REPLY_BYTES` of text.
    """

    __slots__ = ("_chars", "publications")

    def __init__(self, publications: list[Publication]) -> None:
        self.publications = publications
        self._trim()

    def append(self, publication: Publication) -> None:
        self.publications.append(publication)
        self._chars += len(publication.text)
        if len(self.publications) > 2 * MAX_HISTORY or self._chars > 2 * MAX_REPLY_BYTES:
            self._trim()

    def _trim(self) -> None:
        kept, self._chars = 0, 0
        for publication in reversed(self.publications):
            if kept == MAX_HISTORY or self._chars >= MAX_REPLY_BYTES:
                break
            kept += 1
            self._chars += len(publication.text)
        del self.publications[: len(self.publications) - kept]

    def find(self, offset: int) -> int | None:
        """The index of a publication."""
        if not self.publications:
            return None
        index = offset - self.publications[0].offset
        return index if 0 <= index < len(self.publications) else None
