"""Measure how long the event loop of a busy server stalls, beside a bare loop on the same CPU.

    python bench/stalls.py [--rate N] [--seconds S] [--rounds N] [--json FILE] [--quick]

The benchmark starts its own servers and stops them again. bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from harness import command, machine, report
from stalls import rounds

LIMIT_S = 900.0
#: bench/load/drain.c ends after 240 s.
MAX_SECONDS = 100.0


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_load()
    return command.run("stalls.py", lambda: _measure(options, pins), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/stalls.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--rate", type=int, default=90_000, help="messages a second (default: 90000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds of a round (default: 60)"
    )
    parser.add_argument("--clients", type=int, default=1, help="members of the room (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument(
        "--serve",
        default="",
        metavar="FLAGS",
        help="further flags of fastchat serve, in one argument",
    )
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
        options.rate, options.seconds, options.rounds = 2000, 1.5, 1
    for name in ("rate", "clients", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must be from 1 to {MAX_SECONDS:.0f}")
    options.command = command.recorded("python bench/stalls.py", arguments)
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    facts = machine.describe(pins)
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    load = rounds.Load(
        options.rate, options.seconds, options.clients, tuple(shlex.split(options.serve))
    )
    rows, stalls = await rounds.run(load, options.rounds, pins)
    title = rounds.TITLE.format(rate=options.rate)
    report.print_group(title, rounds.CLOCK, rows, [])
    for line in rounds.causes(stalls):
        print(f"  {line}")
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json,
            options.command,
            facts,
            [(title, rounds.CLOCK, rows, rounds.causes(stalls))],
            [],
            benchmark="fastchat stalls",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
