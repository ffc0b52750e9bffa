"""The benchmark runs, and checks what it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support import TIMEOUT_UNIT_S

BENCH = Path(__file__).parent.parent / "bench" / "broadcast.py"


def test_quick_run_fills_every_group(tmp_path: Path) -> None:
    """A quick run ends well, prints its clocks and writes a figure for every row."""
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


def test_wrong_arguments_are_refused_in_a_sentence() -> None:
    """A count of clients that makes no sense is refused with exit status 2."""
    run = subprocess.run(
        [sys.executable, BENCH, "--clients", "ten"],
        capture_output=True,
        text=True,
        timeout=30 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 2
    assert "numbers of clients" in run.stderr
