"""The alerts for Prometheus: they name metrics that exist, and fire when they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastchat.ops.prometheus import SERIES
from support.server import TIMEOUT_UNIT_S

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "prometheus"
#: `make prometheus` unpacks it under `build`.
PROMTOOL = shutil.which(
    "promtool", path=f"{os.environ.get('PATH', '')}:{ROOT / 'build/prometheus/usr/bin'}"
)


def alerts() -> dict[str, str]:
    """Return the expression of each alert."""
    found = re.findall(r"- alert: (\w+)\n +expr: (.+)\n", (FOLDER / "alerts.yml").read_text())
    return dict(found)


def test_alerts_name_metrics_that_exist() -> None:
    """Each metric in an alert is one of the server's, or Prometheus' own `up`."""
    known = {"up"}
    for series in SERIES:
        known.add(f"{series.name}_bucket" if series.kind == "histogram" else series.name)
    assert len(alerts()) > 10
    for expression in alerts().values():
        named = set(re.findall(r"\b(?:fastchat_\w+|up)\b", expression))
        assert named
        assert named <= known


def test_server_that_is_stopped_is_noticed_by_a_metric_that_remains() -> None:
    """The first alert does not rely on the server's own metrics, which end with the server."""
    name, expression = next(iter(alerts().items()))
    assert (name, expression) == ("FastchatDown", 'up{job="fastchat"} == 0')


def test_documentation_and_tests_have_every_alert() -> None:
    """docs/operations.md describes every alert, and each has a test in which it fires."""
    documented = re.findall(
        r"^\| `(Fastchat\w+)` \|", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.M
    )
    assert documented == list(alerts())
    tested = (FOLDER / "alerts_test.yml").read_text("utf-8")
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", tested)
    assert set(fired) == set(alerts())


@pytest.mark.skipif(PROMTOOL is None, reason="apt-get install prometheus")
def test_alerts_fire_when_they_should() -> None:
    """promtool accepts the rules, and its tests of them pass."""
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        run = subprocess.run(
            [str(PROMTOOL), *arguments],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=60 * TIMEOUT_UNIT_S,
        )
        assert run.returncode == 0, run.stdout + run.stderr
