"""What the ledger forgets in the course of time: the ids of old messages, and old publications."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.ledger.session import Session
from fastchat.protocol.publications import timestamp_of

__all__ = ["REMEMBER_IDS_S", "Upkeep"]

#: An id is remembered for this time, and for twice as long at most.
REMEMBER_IDS_S = 600.0
#: Rooms that one step examines for old publications, and rows that it deletes in each.
_ROOMS_AT_ONCE, _ROWS_AT_ONCE = 64, 256

_ROTATE = "SELECT rotate_1($1, $2, $3, $4)"
_AGE = "SELECT age_1($1, $2, $3, $4, $5, $6, $7)"


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
        remember_ids_s: float = REMEMBER_IDS_S,
    ) -> None:
        self._session = session
        self._clock = clock
        self._max_age_s = max_age_s
        self._remember_ids_s = remember_ids_s
        self._last = 0  # the number of the last room that was examined

    async def tick(self) -> None:
        """Do a small step. It is to be called once a second. Raises LedgerError."""
        await self._session.call(_ROTATE, self._remember_ids_s)
        if self._max_age_s:
            before = timestamp_of(self._clock() - self._max_age_s)
            ((self._last,),) = await self._session.call(
                _AGE, before, self._last, _ROOMS_AT_ONCE, _ROWS_AT_ONCE
            )
