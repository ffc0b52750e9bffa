"""The clock that measures the age of records.

A record has the time of day at which it was made (by the wall clock), because people read the time,
and because it means the same after a restart. But the wall clock can be wrong, and can be set right
while the server runs. An older record then looks older or younger than it is, by the size of the
step, and a record that looks too old is deleted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["AgeClock", "steady"]

#: A smaller difference is not a step of the wall clock but the inexactness of two readings.
_STEP_S = 1.0


def steady() -> float:
    """Seconds since the machine was booted, including those while it was suspended.

    Nobody can set this clock.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AgeClock:
    """Returns a time in seconds since 1970, from which the age of records is measured.

    The age of a record is that time minus the record's time by the clock `wall`. A record of this
    process that is at most `window_s` seconds old never looks older than it is, whatever steps
    `wall` has made. It can look younger, by at most the size of these steps. So nothing is deleted
    too early, and nothing more than `window_s` seconds too late.

    The clock notices a step of `wall` when it is called, and then calls `on_step` with the seconds
    by which `wall` was set forward. It must be called about once a second: otherwise it does not
    notice two steps between two calls, and records that were made between them can look older than
    they are. Threads can share the clock.
    """

    def __init__(
        self,
        window_s: float,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady,
        on_step: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._window_s = window_s
        self._on_step = on_step
        self._wall = wall
        self._steady = steady
        #: By how much `wall` was ahead of `steady`, and since when (by `steady`), oldest first.
        self._leads: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            now = self._steady()
            lead = self._wall() - now
            while len(self._leads) > 1 and self._leads[1][0] <= now - self._window_s:
                self._leads.popleft()  # all records from its time are older than the window
            step_s = lead - self._leads[-1][1] if self._leads else 0.0
            if not self._leads or abs(step_s) > _STEP_S:
                self._leads.append((now, lead))
            ages_from = now + min(lead, *(each for _, each in self._leads))
        if abs(step_s) > _STEP_S:
            self._on_step(step_s)
        return ages_from
