"""Measure what broadcasts cost in a FastAPI application: the hub, and the usual alternatives.

    python bench/asgi.py [--clients 10,100] [--rounds N] [--json FILE] [--quick]

The benchmark starts its own servers and stops them again. bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from asgi import costs
from broadcast.server import QUICK, Lengths
from harness import command, machine, report

LIMIT_S = 900.0


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_load()
    return command.run("asgi.py", lambda: _measure(options, pins), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/asgi.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--clients",
        type=command.counts(1, 1000, "numbers of clients are from 1 to 1000, as in 10,100"),
        default=[100],
        metavar="N,N",
        help="numbers of clients (default: 100)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in some seconds that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.quick:
        options.clients, options.rounds = [10], 1
    options.command = command.recorded("python bench/asgi.py", arguments)
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    facts = machine.describe(pins)
    for package in ("fastapi", "broadcaster"):
        facts[package] = machine.package_version(package) or "not installed"
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    lengths = QUICK if options.quick else Lengths(latencies=0)
    rows, skipped = await costs.run(options.clients, options.rounds, pins, lengths)
    report.print_group(costs.TITLE, costs.CLOCK, rows, [])
    for what in skipped:
        print(f"  skipped: {what}")
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json,
            options.command,
            facts,
            [(costs.TITLE, costs.CLOCK, rows, [])],
            skipped,
            benchmark="fastchat in an application",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
