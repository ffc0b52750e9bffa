"""The benchmarks run and check what they measure."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.postgresql import find_programs
from support.server import TIMEOUT_UNIT_S

BENCH = Path(__file__).parents[2] / "bench" / "broadcast.py"
WORKERS = BENCH.with_name("workers.py")
SLOW = BENCH.with_name("slow.py")
API = BENCH.with_name("api.py")
FOOTPRINT = BENCH.with_name("footprint.py")
GUARD = BENCH.with_name("guard.py")
STALLS = BENCH.with_name("stalls.py")
MACHINES = BENCH.with_name("machines.py")
ASGI = BENCH.with_name("asgi.py")
TINY = "--rounds 1 --placements free --rooms 2 --members 5 --measure-ms 100 --messages 20"


def test_quick_run_fills_every_group(tmp_path: Path) -> None:
    """A quick run succeeds, prints its clocks and writes a figure for every row."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, BENCH, "--quick", "--clients", "10", "--json", result],
        capture_output=True,
        text=True,
        timeout=90 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("clock:") == 5
    text = result.read_text()
    figures = json.loads(text)
    rows = {row["row"] for part in figures["groups"] for row in part["rows"]}
    assert {"hub", "server", "history"} <= rows
    assert str(tmp_path) not in text


def test_run_with_workers_fills_every_section(tmp_path: Path) -> None:
    """A small run with two workers succeeds and writes figures for every section."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [
            *(sys.executable, WORKERS, "--json", result),
            *(*TINY.split(), "--idle", "20", "--rooms-of", "10"),
        ],
        capture_output=True,
        text=True,
        timeout=120 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    text = result.read_text()
    figures = json.loads(text)
    assert figures["benchmark"] == "fastchat workers"
    medians = {
        (row["row"], row["variant"]): row["median"]
        for part in figures["groups"]
        for row in part["rows"]
    }
    assert medians["deliveries", "deliveries, 2 workers, free"] > 0
    assert medians["deliveries", "CPU, relay, 2 workers, free"] > 0
    assert medians["hop", "latency, 2 workers, another worker, free"] > 0
    assert ("idle", "PSS, 2 workers") in medians
    assert medians["storm", "attempts, 2 workers"] >= 1
    assert str(tmp_path) not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_run_of_the_page_measures_memory_frames_and_first_visit(tmp_path: Path) -> None:
    """A quick run of the page gives figures of memory, of frames and of the first visit."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, BENCH.with_name("page.py"), "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=90 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(result.read_text())
    rows = [row for part in figures["groups"] for row in part["rows"]]
    assert {row["row"] for row in rows} == {"heap", "nodes", "frames", "visit", "bytes"}
    assert all(row["median"] > 0 for row in rows if not row["variant"].startswith("long tasks"))


def test_invalid_arguments_are_refused_with_a_sentence() -> None:
    """An invalid count of clients is refused with exit status 2."""
    run = subprocess.run(
        [sys.executable, BENCH, "--clients", "ten"],
        capture_output=True,
        text=True,
        timeout=30 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 2
    assert "numbers of clients" in run.stderr


def test_run_of_the_api_fills_every_row(tmp_path: Path) -> None:
    """A small run of the API succeeds and writes all figures."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, API, "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=60 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    (group,) = json.loads(result.read_text())["groups"]
    medians = {row["variant"]: row["median"] for row in group["rows"]}
    assert set(medians) == {"at most", "p50", "p99"}
    assert all(value > 0 for value in medians.values())


def test_run_with_slow_readers_fills_every_row(tmp_path: Path) -> None:
    """A small run with slow readers succeeds and writes all figures."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, SLOW, "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=90 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    (group,) = json.loads(result.read_text())["groups"]
    medians = {row["variant"]: row["median"] for row in group["rows"]}
    assert len(medians) == 5
    assert medians["delay, p99"] > 0


@pytest.mark.skipif(find_programs() is None, reason="PostgreSQL is not installed")
def test_run_of_machines_fills_every_section(tmp_path: Path) -> None:
    """A quick run of machines succeeds and writes figures for every section."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, MACHINES, "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=180 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(result.read_text())
    medians = {
        (row["row"], row["variant"]): row["median"]
        for part in figures["groups"]
        for row in part["rows"]
    }
    sections = {row for row, _ in medians}
    assert sections == {
        *("hop", "away", "join", "deliveries", "publications", "ledgers", "storm", "restart")
    }
    assert medians["deliveries", "ratio"] > 0
    assert medians["publications", "rate, half with ids"] > 0
    assert medians["ledgers", "ratio"] > 0
    assert medians["storm", "attempts"] >= 1
    assert medians["storm", "statements"] > 0


def test_footprint_measures_every_section() -> None:
    """A small run measures the start, the memory, and idle connections without and with TLS."""
    run = subprocess.run(
        [sys.executable, FOOTPRINT, "--quick"],
        capture_output=True,
        text=True,
        timeout=120 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    for name in ("import fastchat.hub, ms", "private MB", "plain, RSS kB", "TLS", "% of a core"):
        assert name in run.stdout


def test_run_of_stalls_measures_both_loops(tmp_path: Path) -> None:
    """A small run measures the delays of the server's loop and of the bare loop."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, STALLS, "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=90 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    text = result.read_text()
    (group,) = json.loads(text)["groups"]
    medians = {row["variant"]: row["median"] for row in group["rows"]}
    assert medians["messages"] > 0
    assert medians["server, longest"] >= medians["server, p99.9"] > 0
    assert medians["bare loop, longest"] >= medians["bare loop, p99.9"] > 0
    assert medians["excess, longest"] <= medians["server, longest"]
    assert str(tmp_path) not in text


def test_guard_tells_a_loss_from_noise() -> None:
    """A ratio above 1 is an improvement, of costs too; a figure has fallen if its whole interval
    is below the bound."""
    sys.path.append(str(GUARD.parent))
    import guard
    from harness.comparison import Comparison, interval

    steady = Comparison("cpu", more_is_better=False, before=[9.0] * 15, after=[10.0] * 15)
    assert interval(steady.ratios()) == (0.9, 0.9, 0.9)
    noisy = Comparison("rate", more_is_better=True, before=[1.0] * 15)
    noisy.after = [0.7, 1.2, 0.9, 1.1, 0.8] * 3
    low, middle, high = interval(noisy.ratios())
    assert low < middle == 0.9 < guard.LEAST_RATIO < high


def test_guard_writes_its_figures(tmp_path: Path) -> None:
    sys.path.append(str(GUARD.parent))
    import guard
    from harness.comparison import Comparison
    from harness.machine import Pins

    comparison = Comparison("cpu", more_is_better=False, before=[9.0], after=[10.0])
    file = tmp_path / "guard.json"
    guard.write(file, "HEAD", [comparison], Pins.choose(), "none")
    (row,) = json.loads(file.read_text())["rows"]
    assert row == {"figure": "cpu", "before": 9.0, "after": 10.0, "ratio": 0.9,
                   "interval": [0.9, 0.9], "rounds": [[9.0, 10.0]]}  # fmt: skip


def test_guard_refuses_a_commit_that_does_not_exist() -> None:
    run = subprocess.run(
        [sys.executable, GUARD, "--against", "no-such-commit", "--quick"],
        capture_output=True,
        text=True,
        timeout=30 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 1
    assert run.stderr == "guard.py: --against no-such-commit: there is no such commit here\n"


def test_applications_are_compared(tmp_path: Path) -> None:
    """A quick run has the cost of the hub in an application, and of a loop of send_text."""
    result = tmp_path / "figures.json"
    run = subprocess.run(
        [sys.executable, ASGI, "--quick", "--json", result],
        capture_output=True,
        text=True,
        timeout=90 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0, run.stderr
    (group,) = json.loads(result.read_text())["groups"]
    costs = {row["variant"]: row["median"] for row in group["rows"]}
    assert costs["64 in flight, hub.member"] > 0
    assert costs["64 in flight, loop of send_text / hub.member"] > 0
