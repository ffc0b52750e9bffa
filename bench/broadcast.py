"""Measure the cost of a broadcast: in the hub alone, over sockets, and in the whole server.

    python bench/broadcast.py [--clients 10,100] [--json FILE] [--quick]

The benchmark starts its own servers and stops them again. All variants alternate within each round
of one run. bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
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
from harness.report import MissingError, Result

GROUPS = ("hub", "sockets", "server", "history", "others")
LIMIT_S = 480.0
QUICK_LIMIT_S = 60.0
ROUNDS = 25
QUICK_ROUNDS = 2

Printed = tuple[str, str, list[Result], list[str]]
Show = Callable[[str, str, list[Result], list[str]], None]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_sender()
    limit_s = QUICK_LIMIT_S if options.quick else LIMIT_S
    return command.run("broadcast.py", lambda: _measure(options, pins), limit_s)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/broadcast.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--clients",
        type=command.counts(1, 5000, "numbers of clients are from 1 to 5000, as in 10,100"),
        metavar="N,N",
        help="numbers of clients to measure (default: 10,100; for the server also 1000)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help="rounds of the hub and the sockets; the server has a fifth of them "
        f"(default: {ROUNDS})",
    )
    parser.add_argument(
        "--only",
        type=_groups,
        default=GROUPS,
        metavar="GROUP,GROUP",
        help=f"groups to measure (default: {','.join(GROUPS)})",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in less than 20 s that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    options.command = command.recorded("python bench/broadcast.py", arguments)
    return options


def _groups(text: str) -> tuple[str, ...]:
    groups = tuple(text.split(","))
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} must be one of {', '.join(GROUPS)}")
    return groups


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    facts = machine.describe(pins)
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    printed: list[Printed] = []
    skipped: list[str] = []

    def show(title: str, clock: str, rows: list[Result], references: list[str]) -> None:
        if rows:
            report.print_group(title, clock, rows, references)
            printed.append((title, clock, rows, references))

    if "hub" in options.only:
        from broadcast import hub

        rows = await hub.run(options.clients or [10, 100], options.rounds)
        show(hub.TITLE, hub.CLOCK, rows, hub.REFERENCES)
    for part in (_sockets, _server, _history):
        try:
            skipped += await part(options, pins, show)
        except MissingError as missing:
            skipped.append(str(missing))
    skipped = list(dict.fromkeys(skipped))
    for line in skipped:
        print(f"\nskipped: {line}")
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(options.json, options.command, facts, printed, skipped)
    return 0


async def _sockets(options: argparse.Namespace, pins: machine.Pins, show: Show) -> list[str]:
    from broadcast import sockets

    hub, others = "sockets" in options.only, "others" in options.only
    one, many, skipped = await sockets.run(
        options.clients or [10, 100], options.rounds, pins, hub=hub, others=others
    )
    show(sockets.ONE_TITLE, sockets.ONE_CLOCK, one, [])
    show(sockets.MANY_TITLE, sockets.MANY_CLOCK, many, [])
    return skipped


async def _server(options: argparse.Namespace, pins: machine.Pins, show: Show) -> list[str]:
    from broadcast import server

    if "server" not in options.only:
        return []
    counts = options.clients or ([10, 100] if options.quick else [10, 100, 1000])
    lengths = server.QUICK if options.quick else server.Lengths()
    rows, skipped = await server.run(counts, max(1, options.rounds // 5), pins, lengths)
    show(server.TITLE, server.CLOCK, rows, server.REFERENCES)
    return skipped


async def _history(options: argparse.Namespace, pins: machine.Pins, show: Show) -> list[str]:
    from broadcast import history
    from broadcast.server import QUICK, Lengths

    if "history" in options.only:
        lengths = QUICK if options.quick else Lengths()
        rows = await history.run(max(1, options.rounds // 5), pins, lengths)
        show(history.TITLE, history.CLOCK, rows, history.REFERENCES)
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
