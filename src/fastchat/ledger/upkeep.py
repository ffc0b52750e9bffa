"""What the ledger forgets in the course of time: ids, publications, deleted rooms, and files."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastchat.files import UNLINKED_LIFETIME_S
from fastchat.ledger.connecting import fetch
from fastchat.ledger.erasing import purge
from fastchat.ledger.session import Session
from fastchat.metrics import Metrics
from fastchat.protocol.publications import timestamp_of

__all__ = ["REMEMBER_IDS_S", "Upkeep"]

logger = logging.getLogger("fastchat.files")

#: An id is remembered for this time, and for twice as long at most.
REMEMBER_IDS_S = 600.0
#: Rooms that one step examines for old publications, and rows that it deletes in each.
_ROOMS_AT_ONCE, _ROWS_AT_ONCE = 64, 256
#: An incoming file is given up if its process has ended, and if nothing has come for this time: if
#: a connection was lost and the process goes on, it is the owner again before.
LOST_S = 30.0
#: The content of a deleted file stays for this time, so that downloads under way can end.
DISCARDED_S = 5.0
#: Bytes of deleted contents that one step deletes.
_BYTES_AT_ONCE = 16 << 20

_ROTATE = "SELECT rotate_1($1, $2, $3, $4)"
_AGE = "SELECT age_1($1, $2, $3, $4, $5, $6, $7)"
_TIDY = "SELECT files, bytes, unfinished, deleted FROM tidy_1($1, $2, $3, $4)"


class Upkeep:
    """Makes the ledger forget. Every machine has one; what several of them do is done once.

    Publications older than `max_age_s` seconds are dropped; 0 means that age does not matter.
    `clock` returns seconds since 1970, as the timestamps of messages have them.
    """

    def __init__(
        self,
        session: Session,
        *,
        clock: Callable[[], float],
        max_age_s: float = 0.0,
        metrics: Metrics,
        remember_ids_s: float = REMEMBER_IDS_S,
        lost_s: float = LOST_S,
    ) -> None:
        self._session = session
        self._clock = clock
        self._max_age_s = max_age_s
        self.metrics = metrics
        self._remember_ids_s = remember_ids_s
        self._lost_s = lost_s
        self._last = 0  # the number of the last room that was examined
        self._files = self._file_bytes = 0  # those of this ledger in the metrics

    async def tick(self) -> None:
        """Do a small step. It is to be called once a second. Raises LedgerError."""
        await self._session.call(_ROTATE, self._remember_ids_s)
        if self._max_age_s:
            before = timestamp_of(self._clock() - self._max_age_s)
            ((self._last,),) = await self._session.call(
                _AGE, before, self._last, _ROOMS_AT_ONCE, _ROWS_AT_ONCE
            )
        await purge(self._session)
        await self._tidy_files()

    async def _tidy_files(self) -> None:
        """Delete what no message needs, with the connection for work that takes long."""
        async with self._session.helping() as db:
            (row,) = await fetch(
                db, _TIDY, self._lost_s, UNLINKED_LIFETIME_S, DISCARDED_S, _BYTES_AT_ONCE
            )
        files, file_bytes, unfinished, deleted = row
        # Several ledgers count together.
        self.metrics.kept_files = (self.metrics.kept_files or 0) + files - self._files
        self.metrics.kept_file_bytes = (
            (self.metrics.kept_file_bytes or 0) + file_bytes - self._file_bytes
        )
        self._files, self._file_bytes = files, file_bytes
        self.metrics.deleted_files_total += deleted
        if unfinished:
            logger.info("removed %d files that were incomplete", unfinished)
