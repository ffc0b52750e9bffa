"""How well a machine reaches its ledger, as operators want to know it."""

from __future__ import annotations

import time
from collections import Counter

from fastchat.ledger.naming import Log

__all__ = ["CROWDED", "Health"]

#: The share of PostgreSQL's queue of notifications above which a machine sends none that can be
#: missed. Any client of any database can fill the queue by not reading it.
CROWDED = 0.25
#: A difference between the clocks of this machine and the server that operators should know of.
SKEW_S = 1.0


class Health:
    """What a session has found out about its connections, and tells the `log`.

    Times are in monotonic seconds.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._answered_s = time.monotonic()
        #: Why the ledger could not be reached the last time; "" if it was always reached.
        self.failure = ""
        #: The time that the last beat took, and by how much this machine's clock is ahead.
        self.beat_s = self.skew_s = 0.0
        #: The share of the server's queue of notifications that is used.
        self.queue_usage = 0.0
        #: How often all connections were made anew, and how often the ledger's token changed.
        self.reconnects_total = self.tokens_total = 0
        #: Commits whose answer was lost, by what was found out: `kept`, `lost` or `unknown`.
        self.doubts: Counter[str] = Counter()
        self._is_skewed = self._was_crowded = self._is_mute = False

    @property
    def silent_s(self) -> float:
        """The time since the ledger has answered a beat."""
        return time.monotonic() - self._answered_s

    @property
    def is_crowded(self) -> bool:
        """Whether nothing is told: the queue is too full, or the server cannot write it."""
        return self.queue_usage > CROWDED or self._is_mute

    def lose_notifications(self, why: str) -> None:
        """Note that the server cannot store notifications, until `notify_again` is called."""
        if not self._is_mute:
            self._log.error(
                "PostgreSQL cannot store notifications, so messages of other machines arrive "
                "later: %s",
                why,
            )
        self._is_mute = True

    def notify_again(self) -> None:
        """Note that the server has stored a notification."""
        if self._is_mute:
            self._log.info("PostgreSQL can store notifications again")
        self._is_mute = False

    def answer(self) -> None:
        """Note that the ledger answers."""
        self._answered_s = time.monotonic()

    def beat(self, begun_s: float, server_s: float, queue_usage: float) -> None:
        """Note a beat that began at `begun_s`; `server_s` is the server's time since 1970."""
        self.answer()
        self.beat_s = self._answered_s - begun_s
        self.skew_s = time.time() - self.beat_s / 2 - server_s
        self.queue_usage = queue_usage
        if (abs(self.skew_s) > SKEW_S) is not self._is_skewed:
            self._is_skewed = not self._is_skewed
            if self._is_skewed:
                self._log.warning(
                    "the clock of this machine is %.1f s %s that of PostgreSQL; timestamps of "
                    "messages are as wrong as the clocks",
                    abs(self.skew_s),
                    "ahead of" if self.skew_s > 0 else "behind",
                )
        if (queue_usage > CROWDED) is not self._was_crowded:
            self._was_crowded = not self._was_crowded
            if self._was_crowded:
                self._log.error(
                    "the queue of notifications of PostgreSQL is %.0f %% full, because some client "
                    "that listens, perhaps in another database, does not read; messages of other "
                    "machines arrive later meanwhile",
                    100 * queue_usage,
                )
            else:
                self._log.info("the queue of notifications of PostgreSQL is free again")
