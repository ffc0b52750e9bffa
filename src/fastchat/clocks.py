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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["STEP_S", "AgeClock", "Lead", "boot_id", "steady"]

#: A smaller difference is not a step of the wall clock but the inexactness of two readings.
STEP_S = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def steady() -> float:
    """Seconds since the machine was booted, including those while it was suspended.

    Nobody can set this clock.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """A string that the kernel makes at each boot; empty if it is not known."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


class Lead(NamedTuple):
    """By how much the wall clock was ahead of the steady one, and since when (by the steady one).

    Both are in seconds.
    """

    since_s: float
    lead_s: float


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

    A clock of a later process knows the steps only if it is told of `leads` (`resume`).
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
        self._leads: deque[Lead] = deque()  # oldest first
        self._lock = threading.Lock()

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The leads in the window, oldest first; a later clock can resume from them."""
        with self._lock:
            return tuple(self._leads)

    def resume(self, leads: Iterable[Lead], *, is_same_boot: bool) -> None:
        """Go on from the leads of an earlier clock, before the first call.

        If the machine has been booted since, `steady` has begun anew. Then `wall` is trusted as it
        is now.
        """
        found = tuple(leads)
        if not found:
            return
        now = self._steady()
        if not is_same_boot or found[-1].since_s > now:
            shift_s = self._wall() - now - found[-1].lead_s
            found = tuple(Lead(each.since_s - shift_s, each.lead_s + shift_s) for each in found)
        with self._lock:
            self._leads = deque(found)

    def __call__(self) -> float:
        with self._lock:
            now = self._steady()
            lead = self._wall() - now
            while len(self._leads) > 1 and self._leads[1].since_s <= now - self._window_s:
                self._leads.popleft()  # all records from its time are older than the window
            step_s = lead - self._leads[-1].lead_s if self._leads else 0.0
            if not self._leads or abs(step_s) > STEP_S:
                self._leads.append(Lead(now, lead))
            ages_from = now + min(lead, *(each.lead_s for each in self._leads))
        if abs(step_s) > STEP_S:
            self._on_step(step_s)
        return ages_from
