"""The quotas of files: how many bytes one user can share, and how many all users together.

* The quota of a user counts their stored, incoming and announced files. So a user cannot
  announce more than they can send.
* The quota of the server counts stored and incoming files of all users, but not announced ones.
  If announcements counted, one user could exclude all others without sending a byte.
* A file that is probably the same as a stored file counts once (`unlinked_file`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw

from fastchat.database import select
from fastchat.files.refusals import quota_announced, quota_used_up, total_used_up

__all__ = ["Quotas", "charge_of"]

#: Files count in whole blocks of this size, the block size of common file systems. Otherwise files
#: of one byte would occupy the disk and hardly count.
_BLOCK_BYTES = 4096


class Quotas:
    """Checks quotas with the tables of the index.

    Each method must be called in a transaction of the index's database `db`. The function `ages`
    returns the time from which ages are measured (`fastchat.clocks`). The function
    `check_disk` gets the size of a further file, and the numbers and sizes of all incoming files.
    It raises CommandError if the disk is too full for the file, or OSError if that is unknown.
    """

    def __init__(
        self,
        *,
        ages: Callable[[], float],
        max_user_bytes: int,
        max_total_bytes: int,
        check_disk: Callable[[int, Sequence[tuple[int, int]]], None],
    ) -> None:
        self._ages = ages
        self._max_user_bytes = max_user_bytes
        self._max_total_bytes = max_total_bytes
        self._check_disk = check_disk

    def check_total(self, db: apsw.Connection, charge: int) -> None:
        """Check that the quota of the server and the disk allow a further file.

        Raises CommandError: `forbidden` for the quota, `unavailable` for the disk.
        """
        ((stored,),) = select(db, "SELECT bytes FROM totals")
        ((incoming,),) = select(db, "SELECT total(charge) FROM uploads WHERE begun")
        if stored + incoming + charge > self._max_total_bytes:
            raise total_used_up()
        self._check_disk(charge, select(db, "SELECT number, size FROM uploads WHERE begun"))

    def excess(self, db: apsw.Connection, user: str, charge: int) -> float:
        """Return by how many bytes a further file would exceed its user's quota.

        The result is negative or 0 if the quota allows the file.
        """
        ((shared,),) = select(
            db,
            "SELECT (SELECT total(charge) FROM files WHERE user = ?1) + (SELECT total(charge) "
            "FROM uploads WHERE user = ?1 AND again IS NULL AND (begun OR expires > ?2))",
            user,
            self._ages(),
        )
        return float(shared + charge - self._max_user_bytes)

    def check_user(self, db: apsw.Connection, user: str, charge: int) -> None:
        """Check that a user's quota allows a further file.

        Raises CommandError (`forbidden`). If the quota will allow the file after some of the
        user's announcements expire, the error is temporary, and `retry_after_ms` is the time
        until then.
        """
        now, excess = self._ages(), self.excess(db, user, charge)
        if excess <= 0:
            return
        for expires, freed in select(
            db,
            "SELECT expires, charge FROM uploads "
            "WHERE user = ? AND again IS NULL AND NOT begun AND expires > ? ORDER BY expires",
            user,
            now,
        ):
            excess -= freed
            if excess <= 0:
                raise quota_announced(expires - now)
        raise quota_used_up()

    def unlinked_file(self, db: apsw.Connection, room: str, user: str, size: int) -> str | None:
        """Return the id of a stored file which the next file of this size probably repeats.

        A client that has not received the answer to an upload sends the file again. So the result
        is a file of the same user, room and size to which no message links yet, and which no
        other announcement counts as. The method returns None if there is none.
        """
        found = select(
            db,
            "SELECT id FROM files WHERE user = ? AND room = ? AND size = ? AND NOT linked "
            "AND id NOT IN (SELECT again FROM uploads "
            "WHERE again IS NOT NULL AND (begun OR expires > ?)) LIMIT 1",
            user,
            room,
            size,
            self._ages(),
        )
        return found[0][0] if found else None


def charge_of(size: int) -> int:
    """Return how many bytes a file of `size` bytes counts in quotas: whole blocks."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
