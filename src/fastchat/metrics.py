"""What a process counts of itself: plain numbers, for `/metrics` and `fastchat status`.

Nothing here is rendered, and nothing waits: a count is an addition, a time a bisection.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fastchat.errors import CloseCode

__all__ = ["BOUNDS_S", "Histogram", "Metrics", "quantile", "since", "watch_lag", "with_usage"]

#: From a commit into the page cache to a process that hangs.
BOUNDS_S = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0),
)
#: How often it is looked whether the loop is late.
LAG_INTERVAL_S = 0.1
#: Close codes that are told apart: the server's, and those of RFC 6455 (§7.4.1). A client may
#: close with any of 2,000 others.
_TOLD_APART = frozenset({*CloseCode, *range(1000, 1016)})


class Histogram:
    """Times, counted by bucket: a bucket takes what is at most its bound, the last one the rest."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float] = BOUNDS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds

    def snapshot(self) -> dict[str, Any]:
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum_s}


class Metrics:
    """The counts of one process, from its start. Whoever does something counts it."""

    def __init__(self) -> None:
        self.connections_total = 0  # upgrades accepted
        self.publications_total = 0  # kept by the history
        self.closes: Counter[int] = Counter()  # connections ended, by close code; 1006 for none
        self.refusals: Counter[str] = Counter()  # error events, by code
        self.turned_away: Counter[str] = Counter()  # connections, by the limit they were over
        self.files_total = 0  # files that were kept, whichever way they came
        self.file_bytes_total = 0
        self.file_refusals: Counter[str] = Counter()  # over HTTP, by status
        self.full_disk_refusals_total = 0  # of files, for the disk is for messages
        self.deleted_files_total = 0  # that no message has any more
        self.kept_files: int | None = None  # at the last look; None if that is another part's
        self.kept_file_bytes: int | None = None
        self.commit_s = Histogram()  # an append to the history
        self.loop_lag_s = Histogram()  # how late the loop came to what was due
        self.relay_lag_s = Histogram()  # from a worker to the relay and back
        self._started_s = time.monotonic()

    def committed(self, publications: int, seconds: float) -> None:
        """The history has kept publications, in one append of this length."""
        self.publications_total += publications
        self.commit_s.observe(seconds)

    def snapshot(self, **gauges: Any) -> dict[str, Any]:
        """All counts and `gauges` (like the hub's stats) as JSON can say them.

        A histogram that has seen nothing is left out: a worker commits nothing itself.
        """
        counts: dict[str, Any] = {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started_s,
            "connections_total": self.connections_total,
            "publications_total": self.publications_total,
            "closes": _by_code(self.closes),
            "refusals": self.refusals,
            "turned_away": self.turned_away,
            "files_total": self.files_total,
            "file_bytes_total": self.file_bytes_total,
            "file_refusals": self.file_refusals,
            "full_disk_refusals_total": self.full_disk_refusals_total,
            "deleted_files_total": self.deleted_files_total,
            **gauges,
        }
        if self.kept_files is not None:
            counts |= {"kept_files": self.kept_files, "kept_file_bytes": self.kept_file_bytes}
        for name in ("commit_s", "loop_lag_s", "relay_lag_s"):
            histogram: Histogram = getattr(self, name)
            if any(histogram.counts):
                counts[name] = histogram.snapshot()
        return {name: _with_text_keys(value) for name, value in counts.items()}


def _by_code(closes: Mapping[int, int]) -> Counter[int | str]:
    counts: Counter[int | str] = Counter()
    for code, count in closes.items():
        counts[int(code) if code in _TOLD_APART else "other"] += count
    return counts


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): count for key, count in value.items()}
    return value


async def watch_lag(histogram: Histogram) -> None:
    """Observe for ever how late the running loop comes to what is due."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        histogram.observe(max(0.0, loop.time() - due))


# Of snapshots


def quantile(histogram: Mapping[str, Any] | None, share: float) -> float | None:
    """The bound under which `share` of the times lie; None if there are none.

    Of what lies beyond the last bound only that is said: infinity.
    """
    if histogram is None or not (total := sum(histogram["counts"])):
        return None
    seen = 0
    for bound, count in zip(histogram["bounds"], histogram["counts"], strict=False):
        seen += count
        if seen >= share * total:
            return float(bound)
    return float("inf")


def since(earlier: Mapping[str, Any] | None, later: Mapping[str, Any] | None) -> Any:
    """A histogram of what has come between two of the same process; None if it is gone."""
    if earlier is None or later is None or earlier["bounds"] != later["bounds"]:
        return later
    counts = [now - then for then, now in zip(earlier["counts"], later["counts"], strict=True)]
    return {**later, "counts": counts, "sum": later["sum"] - earlier["sum"]}


def with_usage(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Snapshots and what the kernel knows of their processes: `resident_bytes`, `cpu_s`."""
    return {name: {**part, **_usage(part.get("pid"))} for name, part in parts.items()}


def _usage(pid: Any) -> dict[str, float]:
    """Of a process, by proc(5); empty if it is gone."""
    try:
        with open(f"/proc/{int(pid)}/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        with open(f"/proc/{int(pid)}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()  # a name may hold anything
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, TypeError, ValueError, IndexError):
        return {}
    return {
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
    }
