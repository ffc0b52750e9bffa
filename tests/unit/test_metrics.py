"""The metrics of a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import orjson
import pytest

from fastchat import metrics
from fastchat.errors import CloseCode, ErrorCode
from fastchat.limits.connections import Limit
from fastchat.logs import dropped_lines
from fastchat.metrics import Histogram, Metrics, quantile, since, watch_lag, with_usage
from support.hub import LIMIT_S, TINY_BYTES, Rig, Sink, encode, on_loop, turn, until
from support.server import TIMEOUT_UNIT_S


def histogram(*seconds: float) -> dict[str, object]:
    """The snapshot of a histogram with bounds of 1, 2 and 3 s that has observed these values."""
    counted = Histogram((1, 2, 3))
    for each in seconds:
        counted.observe(each)
    return counted.snapshot()


def test_bucket_counts_values_up_to_its_bound() -> None:
    """As in Prometheus, a value equal to a bound is in its bucket; values above all bounds have one
    more."""
    assert histogram(0, 1, 1.001, 2, 3, 3.001, 1000) == {
        "bounds": [1, 2, 3],
        "counts": [2, 2, 1, 2],
        "sum": pytest.approx(1010.002),
    }


def test_bounds_are_in_ascending_order() -> None:
    """The bisection that finds a bucket needs ascending bounds."""
    assert list(metrics.BOUNDS_S) == sorted(set(metrics.BOUNDS_S))


def test_snapshot_is_json() -> None:
    """A snapshot has text keys, all counters, and the gauges that it is given."""
    counted = Metrics()
    counted.connections_total += 3
    counted.closes[CloseCode.EVICTED] += 1
    counted.closes[1006] += 2
    counted.refusals[ErrorCode.NOT_FOUND] += 1
    counted.turned_away[Limit.ADDRESS] += 4
    counted.file_refusals["413"] += 2
    counted.committed(5, 0.001)
    counted.committed(2, 0.002)
    snapshot = orjson.loads(orjson.dumps(counted.snapshot(users=4, evictions={4008: 7})))
    assert snapshot.pop("uptime_s") == pytest.approx(0, abs=10 * TIMEOUT_UNIT_S)
    commits = snapshot.pop("commit_s")
    assert (sum(commits["counts"]), commits["sum"]) == (2, pytest.approx(0.003))
    assert snapshot == {
        "pid": os.getpid(),
        "connections_total": 3,
        "publications_total": 7,
        "failed_commits_total": 0,
        "closes": {"4008": 1, "1006": 2},
        "refusals": {"not_found": 1},
        "turned_away": {"address": 4},
        "handshake_refusals": {},
        "files_total": 0,
        "file_bytes_total": 0,
        "file_refusals": {"413": 2},
        "api_requests": {},
        "incoming_requests": {},
        "before_publish": {},
        "before_join": {},
        "full_disk_refusals_total": 0,
        "dropped_log_lines_total": dropped_lines(),
        "deleted_files_total": 0,
        "users": 4,
        "evictions": {"4008": 7},
    }


def test_close_codes_of_clients_are_counted_together() -> None:
    """Clients can send any of 2,000 codes, so each must not become a series of its own."""
    counted = Metrics()
    for code in range(3000, 5000):
        counted.closes[code] += 1
    closes = counted.snapshot()["closes"]
    assert len(closes) == 1 + sum(code >= 3000 for code in CloseCode)
    assert sum(closes.values()) == 2000
    assert closes["4008"] == 1


def test_snapshot_does_not_change() -> None:
    """Later counts are in the next snapshot only."""
    counted = Metrics()
    counted.committed(1, 0.1)
    before = counted.snapshot()
    counted.committed(1, 0.1)
    counted.closes[1000] += 1
    assert sum(before["commit_s"]["counts"]) == 1
    assert before["closes"] == {}


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [
        ([], None),
        ([0.5], 1),
        ([0.5] * 99 + [2.5], 1),
        ([0.5] * 98 + [2.5] * 2, 3),
        ([0.5] * 98 + [4] * 2, float("inf")),
    ],
)
def test_quantile_is_a_bound(seconds: list[float], bound: float | None) -> None:
    """A quantile is the lowest bound that 99 of 100 values do not exceed."""
    assert quantile(histogram(*seconds), 0.99) == bound


def test_missing_histogram_has_no_quantile() -> None:
    """A process without the histogram has no quantile."""
    assert quantile(None, 0.5) is None


def test_difference_of_two_snapshots() -> None:
    """The difference is the whole snapshot if there was none before, or one of another kind."""
    later = histogram(0.5, 1.5, 1.5)
    assert since(histogram(0.5, 1.5), later) == histogram(1.5)
    assert since(None, later) == later
    assert since(Histogram((5,)).snapshot(), later) == later
    assert since(later, None) is None


@on_loop
async def test_late_loop_is_measured() -> None:
    """A call that blocks the loop is measured as lag; an idle loop has almost none."""
    seen = Histogram((0.15,))
    watching = asyncio.create_task(watch_lag(seen))
    await until(lambda: sum(seen.counts) > 0)
    late = seen.counts[-1]
    time.sleep(metrics.LAG_INTERVAL_S + 0.2)  # noqa: ASYNC251 that is the point
    await until(lambda: seen.counts[-1] > late)
    watching.cancel()


def test_usage_is_that_of_the_process() -> None:
    """Memory and CPU time of another process are those that the kernel reports."""
    code = "import time; x = b'x' * 50_000_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        used = with_usage({"worker-1": {"pid": child.pid, "rooms": 1}})["worker-1"]
        child.communicate(b"\n", timeout=LIMIT_S)
    assert used["rooms"] == 1
    assert 50_000_000 < used["resident_bytes"] < 200_000_000
    assert 0 <= used["cpu_s"] < LIMIT_S
    assert with_usage({"worker-1": {"pid": child.pid}}) == {"worker-1": {"pid": child.pid}}


@pytest.mark.parametrize("part", [{}, {"pid": None}, {"pid": "../self"}, {"pid": -1}])
def test_usage_without_a_valid_pid_is_omitted(part: dict[str, object]) -> None:
    """A report without a pid, or with an invalid one, stays as it was."""
    assert with_usage({"part": part}) == {"part": part}


@on_loop
async def test_hub_counts_every_byte_once() -> None:
    """Over sockets and transports, in parts and as replies, exactly the received bytes are
    counted."""
    async with Rig() as rig:
        slow = await rig.connect("a", "b", buffers=TINY_BYTES)
        quick = await rig.connect("a")
        sink = Sink()
        rig.hub.register(sink, "a")
        filler = await rig.block(slow, "a")
        rig.hub.publish("b", b"for one that is blocked")
        rig.hub.send(quick.conn, b"a reply")
        rig.hub.send(slow.conn, b"a reply that waits")
        await turn()
        frames = [
            *await slow.frames(len(filler) + 2),
            *await quick.frames(len(filler) + 1),
            *sink.frames(),
        ]
        await until(lambda: rig.hub.stats()["blocked"] == 0)
        rig.hub.close_connection(quick.conn, 1000, "the end")
        frames += await quick.to_close()
        assert rig.hub.stats()["bytes"] == sum(len(encode(*frame)) for frame in frames)
