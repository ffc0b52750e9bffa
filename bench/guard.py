"""Compare the speed of this checkout with that of an earlier commit.

    python bench/guard.py [--against COMMIT] [--rounds N] [--json FILE] [--quick]

The earlier commit (by default the last tag, or the first commit if there is no tag) is built under
build/guard. Servers of both commits run in turn under the same load. The exit status is 1 if a
figure has fallen below 0.98 of what it was, and 2 if the commits cannot be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if (ROOT / "src").is_dir():
    sys.path.insert(0, str(ROOT / "src"))

from broadcast.server import QUICK, Lengths, sample
from harness import command, machine
from harness.report import BenchError
from harness.served import Build

LIMIT_S = 900.0
BUILD_LIMIT_S = 300.0
ROUNDS = 15
#: What a figure may lose.
LEAST_RATIO = 0.98
#: Samples of a bootstrap (Efron, 1979), for the interval of a median.
RESAMPLES = 5000
#: The history and the number of clients of each server.
SERVERS = (("sqlite", 10), ("sqlite", 100), ("sqlite", 1000), ("memory", 10))
#: Lone messages of a sample, but fewer if there are many clients.
LATENCIES, LEAST_LATENCIES, LATENCY_DELIVERIES = 2000, 200, 60_000
#: Figures of `broadcast.server.sample`, and whether more is better.
FIGURES = {"deliveries": True, "cpu": False, "latency": False}
NAMES = {
    "deliveries": "deliveries, 64 in flight (M/s)",
    "cpu": "CPU of a message, 64 in flight (us)",
    "latency": "latency, one in flight (us)",
}


@dataclass(slots=True)
class Comparison:
    """One figure of both commits, by round. A ratio above 1 is an improvement."""

    name: str
    more_is_better: bool
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        pairs = zip(self.before, self.after, strict=True)
        return [
            after / before if self.more_is_better else before / after for before, after in pairs
        ]


def main(arguments: list[str]) -> int:
    """Run the comparison; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_sender()
    return command.run("guard.py", lambda: _measure(options, pins), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/guard.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="the earlier commit (default: the last tag, or the first commit)",
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"rounds of each figure (default: {ROUNDS})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in less than a minute that the comparison works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.quick:
        options.rounds = 1
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    commit = _commit_of(options.against)
    before = await asyncio.to_thread(_build, commit)
    print(f"before: {_describe(commit)}\nafter:  this checkout\n", flush=True)
    neighbours = machine.Neighbours()
    comparisons = await _compare(before, Build(), options.rounds, pins, quick=options.quick)
    fallen = [each for each in comparisons if _print_row(each)]
    others = neighbours.describe()
    print(f"\nother processes: {others}")
    if options.json is not None:
        write(options.json, commit, comparisons, pins, others)
    for each in fallen:
        print(f"slower than before: {each.name}")
    return 1 if fallen and not options.quick else 0


async def _compare(
    before: Build, after: Build, rounds: int, pins: machine.Pins, *, quick: bool
) -> list[Comparison]:
    comparisons: dict[tuple[str, int, str], Comparison] = {}
    for turn in range(rounds):
        for history, clients in SERVERS:
            latencies = max(LEAST_LATENCIES, min(LATENCIES, LATENCY_DELIVERIES // clients))
            lengths = QUICK if quick else Lengths(latencies=latencies)
            for build in (before, after) if turn % 2 else (after, before):
                found = await sample(clients, pins, lengths, history, build)
                for figure, more_is_better in FIGURES.items():
                    comparison = comparisons.setdefault(
                        (history, clients, figure),
                        Comparison(
                            f"{clients} clients, {history}, {NAMES[figure]}", more_is_better
                        ),
                    )
                    values = comparison.before if build is before else comparison.after
                    values.append(median(found[figure]))
    return list(comparisons.values())


def _print_row(comparison: Comparison) -> bool:
    """Print a line of the table; returns whether the figure has fallen."""
    low, middle, high = interval(comparison.ratios())
    has_fallen = high < LEAST_RATIO
    print(
        f"{comparison.name:<62} {median(comparison.before):9.3f} {median(comparison.after):9.3f}"
        f"   {middle:.3f} ({low:.3f} to {high:.3f}){'  FALLEN' if has_fallen else ''}"
    )
    return has_fallen


def write(
    file: Path, commit: str, comparisons: list[Comparison], pins: machine.Pins, others: str
) -> None:
    """Write the figures, with those of each round as [before, after], as JSON."""
    rows = []
    for each in comparisons:
        low, middle, high = interval(each.ratios())
        medians = {"before": median(each.before), "after": median(each.after)}
        rows.append(
            {"figure": each.name, **medians, "ratio": middle, "interval": [low, high]}
            | {"rounds": [list(pair) for pair in zip(each.before, each.after, strict=True)]}
        )
    result = {
        "before": _describe(commit),
        "after": _describe("HEAD"),
        "machine": machine.describe(pins),
        "other_processes": others,
        "rows": rows,
    }
    file.write_text(json.dumps(result, indent=1) + "\n")


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """The median of ratios, between the ends of its 95 % interval (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], median(ratios), medians[-RESAMPLES // 40]


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _commit_of(name: str | None) -> str:
    if name is None:
        tags = _git("tag", "--merged", "HEAD", "--sort=-creatordate").split()
        name = tags[0] if tags else _git("rev-list", "--max-parents=0", "HEAD").split()[0]
    try:
        return _git("rev-parse", "--verify", f"{name}^{{commit}}")
    except BenchError:
        raise BenchError(f"--against {name}: there is no such commit here") from None


def _describe(commit: str) -> str:
    return _git("log", "-1", "--format=%h %s", commit)


def _build(commit: str) -> Build:
    """Build a commit under build/guard, unless that was done before."""
    directory = ROOT / "build" / "guard" / commit[:12]
    if not (directory / ".venv" / "serve.stamp").exists():
        print(f"building {_describe(commit)}", flush=True)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
