"""Which further file may be announced or started: the quotas of an author and of the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw

from fastchat.database import select
from fastchat.errors import CommandError, ErrorCode

__all__ = ["Quotas", "charge_of"]

#: What the least file takes on a disk: without it, files of one byte would be free.
_BLOCK_BYTES = 4096


class Quotas:
    """The quotas of an index; each method is called in a transaction of its database `db`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_author_bytes: int,
        max_total_bytes: int,
        check_disk: Callable[[int, Sequence[tuple[int, int]]], None],
    ) -> None:
        self._clock = clock
        self._max_author_bytes = max_author_bytes
        self._max_total_bytes = max_total_bytes
        self._check_disk = check_disk

    def check_total(self, db: apsw.Connection, charge: int) -> None:
        """Whether there is room for a file, whoever has it. Raises CommandError."""
        ((kept,),) = select(db, "SELECT bytes FROM totals")
        ((coming,),) = select(db, "SELECT total(charge) FROM uploads WHERE begun")
        if kept + coming + charge > self._max_total_bytes:
            raise CommandError(
                ErrorCode.FORBIDDEN, "The server has no room for more files at the moment."
            )
        self._check_disk(charge, select(db, "SELECT number, size FROM uploads WHERE begun"))

    def excess(self, db: apsw.Connection, author: str, charge: int) -> float:
        """By how much a further file would be too much for its author."""
        ((shared,),) = select(
            db,
            "SELECT (SELECT total(charge) FROM files WHERE author = ?1) + (SELECT total(charge) "
            "FROM uploads WHERE author = ?1 AND again IS NULL AND (begun OR expires > ?2))",
            author,
            self._clock(),
        )
        return float(shared + charge - self._max_author_bytes)

    def check_author(self, db: apsw.Connection, author: str, charge: int) -> None:
        """Whether its author may have a further file. Raises CommandError."""
        now, excess = self._clock(), self.excess(db, author, charge)
        if excess <= 0:
            return
        for expires, freed in select(
            db,
            "SELECT expires, charge FROM uploads "
            "WHERE author = ? AND again IS NULL AND NOT begun AND expires > ? ORDER BY expires",
            author,
            now,
        ):
            excess -= freed
            if excess <= 0:
                raise CommandError(
                    ErrorCode.FORBIDDEN,
                    "What you have announced and not sent leaves no room; try again later.",
                    temporary=True,
                    retry_after_ms=int((expires - now) * 1000) + 1,
                )
        raise CommandError(
            ErrorCode.FORBIDDEN,
            "You have shared as much as you may; delete messages with files, and try again.",
        )

    def unlinked_file(self, db: apsw.Connection, room: str, author: str, size: int) -> str | None:
        """A file that may be the same, which no message has yet and nobody sends again."""
        found = select(
            db,
            "SELECT id FROM files WHERE author = ? AND room = ? AND size = ? AND NOT linked "
            "AND id NOT IN (SELECT again FROM uploads "
            "WHERE again IS NOT NULL AND (begun OR expires > ?)) LIMIT 1",
            author,
            room,
            size,
            self._clock(),
        )
        return found[0][0] if found else None


def charge_of(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
