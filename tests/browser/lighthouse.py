"""Prints what Lighthouse says of the page (`make lighthouse`).

    python tests/browser/lighthouse.py OUTPUT_DIRECTORY

The script starts a server of its own and the system's Chromium, and examines the first visit by a
phone and by a desktop computer. It needs node 18.16 or newer with npx, which downloads Lighthouse
once; no other data leaves the machine. The reports are written to OUTPUT_DIRECTORY as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.browser import CHROMIUM
from support.server import running_server

#: The last version that runs on Debian 12's node 18; version 13 needs node 22.
LIGHTHOUSE = "lighthouse@12.8.2"
FORM_FACTORS: dict[str, list[str]] = {"mobile": [], "desktop": ["--preset=desktop"]}
LIMIT_S = 300
#: The score of an audit, from 0 to 1, below which Lighthouse itself shows it as not passed.
PASSED = 0.9


class LighthouseError(Exception):
    """Raised if Lighthouse does not run, or cannot write its report."""


def examine(url: str, form_factor: str, directory: Path) -> dict[str, Any]:
    """Run Lighthouse and return its report, which it also writes to the directory."""
    path = directory / f"lighthouse-{form_factor}.json"
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    flags = ["--headless=new", "--disable-gpu", "--disable-background-networking", *sandbox]
    command = [
        *("npx", "--yes", LIGHTHOUSE, url, "--quiet", "--output=json", f"--output-path={path}"),
        *("--no-enable-error-reporting", f"--chrome-flags={' '.join(flags)}"),
        *FORM_FACTORS[form_factor],
    ]
    # Otherwise npx asks npm for a newer version of itself.
    environment = {"CHROME_PATH": str(CHROMIUM), "NO_UPDATE_NOTIFIER": "1"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            timeout=LIMIT_S,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        raise LighthouseError(f"took longer than {LIMIT_S} s") from None
    if done.returncode:
        raise LighthouseError(done.stderr.strip())
    report: dict[str, Any] = json.loads(path.read_text())
    if error := report.get("runtimeError"):
        raise LighthouseError(error["message"])
    return report


def print_report(form_factor: str, report: dict[str, Any]) -> None:
    print(f"\n{form_factor}")
    for category in report["categories"].values():
        print(f"  {category['title']:<16}{100 * category['score']:>4.0f}")
    weights = {
        reference["id"]: reference["weight"]
        for category in report["categories"].values()
        for reference in category["auditRefs"]
    }
    for name, audit in report["audits"].items():
        if name in weights and audit["score"] is not None and audit["score"] < PASSED:
            counts = "" if weights[name] else " (counts for nothing)"
            print(f"  - {name}: {audit['title']} {audit.get('displayValue', '')}{counts}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Have Lighthouse look at the page.")
    parser.add_argument("directory", type=Path, help="for the reports")
    directory = parser.parse_args().directory
    missing = [name for name in ("node", "npx") if shutil.which(name) is None]
    if CHROMIUM is None:
        missing.append("chromium")
    if missing:
        print(
            f"fastchat: Lighthouse needs {', '.join(missing)}: apt-get install nodejs npm chromium",
            file=sys.stderr,
        )
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    with running_server("--history", "memory") as server:
        for form_factor in FORM_FACTORS:
            try:
                report = examine(f"{server.url}/", form_factor, directory)
            except LighthouseError as error:
                print(f"fastchat: Lighthouse failed: {error}", file=sys.stderr)
                return 1
            print_report(form_factor, report)
    print(f"\nthe reports: {directory}/lighthouse-*.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
