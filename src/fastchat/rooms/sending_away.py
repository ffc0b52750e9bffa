"""When clients are sent away, because the rooms cannot be reached from this machine."""

from __future__ import annotations

import logging

__all__ = ["SendingAway"]

logger = logging.getLogger("fastchat")

#: All clients are sent away within this time, so that they do not come to other machines at once.
SPREAD_S = 60.0


class SendingAway:
    """Says once a second which share of its clients a machine has to send away.

    Nobody has to go before `patience_s` seconds. If `what` is back meanwhile, the clients that are
    left stay.
    """

    def __init__(self, patience_s: float, what: str) -> None:
        self._patience_s = patience_s
        self._what = what
        self._has_begun = False

    def share(self, away_s: float, *, is_lost: bool = False) -> float:
        """The share, from 0 to 1, after so many seconds without the rooms.

        If they are lost for good, nobody waits for them.
        """
        over_s = away_s if is_lost else away_s - self._patience_s
        if over_s < 0:
            self._has_begun = False
            return 0.0
        if not self._has_begun:
            self._has_begun = True
            logger.error(
                "%s cannot be reached for %.0f s; clients are sent away, to other machines, over "
                "%.0f s",
                self._what,
                away_s,
                SPREAD_S,
            )
        return 1 / max(1.0, SPREAD_S - over_s)
