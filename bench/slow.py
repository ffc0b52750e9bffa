"""Measure what slow readers cost: memory, and the delay of the clients that read at once.

    python bench/slow.py [--slow 8,40] [--rounds N] [--json FILE] [--quick]

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

from harness import (
    command,
    machine,
    report,
)
from harness.report import Result
from slow import readers
from slow.load import SLOW_BYTES, SLOW_INTERVAL_S

LIMIT_S = 900.0


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_load()
    return command.run("slow.py", lambda: _measure(options, pins), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/slow.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--slow",
        type=command.counts(1, 1000, "numbers of slow readers are from 1 to 1000, as in 8,40"),
        default=[8, 40],
        metavar="N,N",
        help="numbers of slow readers (default: 8,40)",
    )
    parser.add_argument(
        "--rooms", type=int, default=96, help="rooms of each slow reader (default: 96)"
    )
    parser.add_argument(
        "--rate", type=int, default=1500, help="messages a second in all (default: 1500)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds of each phase (default: 20)"
    )
    parser.add_argument(
        "--bytes", type=int, default=3900, help="characters of a message (default: 3900)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default: 3)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in some seconds that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.slow, options.rooms, options.rounds = [2], 12, 1
        options.rate, options.seconds = 400, 1.5
    for name in ("rooms", "rate", "rounds", "bytes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.command = command.recorded("python bench/slow.py", arguments)
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    facts = machine.describe(pins)
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    printed: list[tuple[str, str, list[Result], list[str]]] = []
    clock = readers.CLOCK.format(settle=readers.SETTLE_S)
    for slow in options.slow:
        load = readers.Load(slow, options.rooms, options.rate, options.seconds, options.bytes)
        title = readers.TITLE.format(
            slow=slow, rooms=options.rooms, rate=round(SLOW_BYTES / SLOW_INTERVAL_S / 1000)
        )
        rows = await readers.run(load, options.rounds, pins)
        report.print_group(title, clock, rows, [])
        printed.append((title, clock, rows, []))
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json, options.command, facts, printed, [], benchmark="fastchat slow readers"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
