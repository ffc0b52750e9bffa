"""An earlier commit of this repository, built beside this checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.report import BenchError
from harness.served import Build

ROOT = Path(__file__).resolve().parents[2]
BUILD_LIMIT_S = 300.0


def commit_of(name: str | None) -> str:
    """The commit of this name; None stands for the last tag, or the first commit without one.

    Raises BenchError if there is no such commit.
    """
    if name is None:
        tags = _git("tag", "--merged", "HEAD", "--sort=-creatordate").split()
        name = tags[0] if tags else _git("rev-list", "--max-parents=0", "HEAD").split()[0]
    try:
        return _git("rev-parse", "--verify", f"{name}^{{commit}}")
    except BenchError:
        raise BenchError(f"--against {name}: there is no such commit here") from None


def describe(commit: str) -> str:
    return _git("log", "-1", "--format=%h %s", commit)


def build(commit: str) -> Build:
    """Build a commit under build/guard, unless that was done before. Raises BenchError."""
    directory = ROOT / "build" / "guard" / commit[:12]
    if not (directory / ".venv" / "serve.stamp").exists():
        print(f"building {describe(commit)}", flush=True)
        directory.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True)
        done = subprocess.run(
            ["make", "-C", str(directory), f"PYTHON={sys.executable}", ".venv/serve.stamp"],
            capture_output=True,
            text=True,
            timeout=BUILD_LIMIT_S,
        )
        if done.returncode:
            raise BenchError(f"{commit[:12]} could not be built:\n{done.stderr[-2000:]}")
    return Build(directory / "src", str(directory / ".venv" / "bin" / "python"))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
