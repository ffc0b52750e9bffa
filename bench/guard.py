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
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if (ROOT / "src").is_dir():
    sys.path.insert(0, str(ROOT / "src"))

from broadcast.server import QUICK, Lengths, sample
from harness import command, commits, machine
from harness.comparison import Comparison, interval
from harness.served import Build

LIMIT_S = 900.0
ROUNDS = 15
#: What a figure may lose.
LEAST_RATIO = 0.98
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
    commit = commits.commit_of(options.against)
    before = await asyncio.to_thread(commits.build, commit)
    print(f"before: {commits.describe(commit)}\nafter:  this checkout\n", flush=True)
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
        "before": commits.describe(commit),
        "after": commits.describe("HEAD"),
        "machine": machine.describe(pins),
        "other_processes": others,
        "rows": rows,
    }
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
