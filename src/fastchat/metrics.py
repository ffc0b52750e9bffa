"""Counters of a process: plain numbers, for `/metrics` and `fastchat status`.

Counting is an addition, and observing a time is a bisection. Rendering is done elsewhere
(`fastchat.ops.prometheus`, `fastchat.cli.status`).
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
from fastchat.logs import dropped_lines

__all__ = ["BOUNDS_S", "Histogram", "Metrics", "quantile", "since", "watch_lag", "with_usage"]

#: Upper bounds of the histograms' buckets: from a commit into the page cache (some 11 µs) to a
#: process that hangs.
BOUNDS_S = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0),
)
#: How often the delay of the event loop is measured.
LAG_INTERVAL_S = 0.1
#: Close codes that have a counter of their own: the server's, and those of RFC 6455 (§7.4.1). A
#: client can close with any of 2,000 others, which would make as many series.
_TOLD_APART = frozenset({*CloseCode, *range(1000, 1016)})


class Histogram:
    """Counts times in seconds by bucket. A bucket has an upper bound; the last one has none."""

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
    """The counters of one process since its start. The code that does something counts it."""

    def __init__(self) -> None:
        self.connections_total = 0  # WebSocket handshakes accepted
        self.publications_total = 0  # stored by the history
        self.failed_commits_total = 0  # appends that the history could not store
        self.closes: Counter[int] = Counter()  # connections ended, by close code; 1006 for none
        self.refusals: Counter[str] = Counter()  # error events, by code
        self.turned_away: Counter[str] = Counter()  # connections, by the limit they were over
        self.handshake_refusals: Counter[str] = Counter()  # over HTTP, by status
        self.files_total = 0  # uploads completed, over HTTP or by binary messages
        self.file_bytes_total = 0
        self.file_refusals: Counter[str] = Counter()  # over HTTP, by status
        self.api_requests: Counter[tuple[str, str, str]] = Counter()  # by key, operation, status
        self.incoming_requests: Counter[tuple[str, str]] = Counter()  # by incoming webhook, status
        self.full_disk_refusals_total = 0  # uploads, to keep disk space for messages
        self.deleted_files_total = 0  # files that no message linked to any more
        self.kept_files: int | None = None  # at the last sweep; None if another process counts
        self.kept_file_bytes: int | None = None
        self.orphaned_files = 0  # kept although no message links to them, at the last sweep
        self.commit_s = Histogram()  # an append to the history
        self.api_s = Histogram()  # a request to the API, without streams
        self.loop_lag_s = Histogram()  # delay of callbacks in the event loop
        self.before_publish: Counter[str] = Counter()  # questions to the hook, by outcome
        self.before_join: Counter[str] = Counter()
        self.hook_s = Histogram()  # a question to a hook
        self.relay_lag_s = Histogram()  # round trip from a worker to the relay
        self._started_s = time.monotonic()

    def committed(self, publications: int, seconds: float) -> None:
        """Count publications that the history has stored in one append of so many seconds."""
        self.publications_total += publications
        self.commit_s.observe(seconds)

    def snapshot(self, **gauges: Any) -> dict[str, Any]:
        """All counters and `gauges`, such as the hub's statistics, as JSON types.

        An empty histogram is left out: a worker, for example, commits nothing itself.
        """
        counts: dict[str, Any] = {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started_s,
            "connections_total": self.connections_total,
            "publications_total": self.publications_total,
            "failed_commits_total": self.failed_commits_total,
            "closes": _by_code(self.closes),
            "refusals": self.refusals,
            "turned_away": self.turned_away,
            "handshake_refusals": self.handshake_refusals,
            "files_total": self.files_total,
            "file_bytes_total": self.file_bytes_total,
            "file_refusals": self.file_refusals,
            "api_requests": _nested(self.api_requests),
            "incoming_requests": _nested(self.incoming_requests),
            "full_disk_refusals_total": self.full_disk_refusals_total,
            "deleted_files_total": self.deleted_files_total,
            "dropped_log_lines_total": dropped_lines(),
            "before_publish": self.before_publish,
            "before_join": self.before_join,
            **gauges,
        }
        if self.kept_files is not None:
            counts |= {
                "kept_files": self.kept_files,
                "kept_file_bytes": self.kept_file_bytes,
                "orphaned_files": self.orphaned_files,
            }
        for name in ("commit_s", "api_s", "loop_lag_s", "relay_lag_s", "hook_s"):
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
    """Observe the delay of the running event loop, until the task is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        histogram.observe(max(0.0, loop.time() - due))


# Of snapshots


def quantile(histogram: Mapping[str, Any] | None, share: float) -> float | None:
    """The upper bound of the bucket in which the quantile `share` lies, in seconds.

    None for an empty histogram; infinity if the quantile lies beyond the last bound.
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
    """The histogram of the time between two snapshots; `later` if they cannot be compared."""
    if earlier is None or later is None or earlier["bounds"] != later["bounds"]:
        return later
    counts = [now - then for then, now in zip(earlier["counts"], later["counts"], strict=True)]
    return {**later, "counts": counts, "sum": later["sum"] - earlier["sum"]}


def with_usage(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the kernel's `resident_bytes` and `cpu_s` of each process to its snapshot."""
    return {name: {**part, **_usage(part.get("pid"))} for name, part in parts.items()}


def _usage(pid: Any) -> dict[str, float]:
    """Memory and CPU time of a process (proc(5)); empty if it has ended."""
    try:
        with open(f"/proc/{int(pid)}/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
        with open(f"/proc/{int(pid)}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()  # a name can contain anything
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, TypeError, ValueError, IndexError):
        return {}
    return {
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
    }


def _nested(counts: Mapping[Any, int]) -> dict[str, Any]:
    """Counts by tuples of labels, in a mapping for each label, which JSON can have."""
    nested: dict[str, Any] = {}
    for (*labels, last), count in counts.items():
        inner = nested
        for label in labels:
            inner = inner.setdefault(label, {})
        inner[last] = count
    return nested
