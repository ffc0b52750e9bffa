"""Measure what several machines on one PostgreSQL cost and carry, beside one machine without it.

    python bench/machines.py [--sections hop,join,…] [--rounds N] [--json FILE] [--quick]

The benchmark starts its own servers and its own PostgreSQL, and stops them again. bench/README.md
explains the table.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from harness import command, machine, postgresql, report
from harness.report import MissingError, Result
from machines import clients, faults, ledgers, publications

SECTIONS = ("hop", "away", "join", "deliveries", "publications", "ledgers", "storm", "restart")
LIMIT_S = 3600.0
#: Descriptors for everything but the clients' sockets.
SPARE_DESCRIPTORS = 200

Show = Callable[[str, str, list[Result]], None]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    return command.run("machines.py", lambda: _measure(options), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/machines.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--sections",
        type=command.some_of(SECTIONS),
        default=SECTIONS,
        metavar="NAME,NAME",
        help=f"sections to measure (default: {','.join(SECTIONS)})",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds of a run of publications (default: 60)"
    )
    parser.add_argument(
        "--clients", type=int, default=10_000, help="clients of the storm (default: 10000)"
    )
    parser.add_argument(
        "--members", type=int, default=100, help="members of each room of it (default: 100)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in half a minute that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    options.load, options.down_s = clients.Load(), 3.0
    options.shares = tuple(publications.SHARES)
    if options.quick:
        options.rounds, options.seconds, options.clients, options.members = 1, 1.0, 40, 10
        options.shares, options.down_s = (0.5,), 0.2
        options.load = clients.Load(
            messages=50, joins=20, members=10, warm_up_ms=100, measure_ms=200
        )
    for name in ("rounds", "seconds", "clients", "members"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_DESCRIPTORS
    if options.clients > most:
        parser.error(f"--clients: this user may have {most} of them (ulimit -Hn)")
    options.command = command.recorded("python bench/machines.py", arguments)
    return options


async def _measure(options: argparse.Namespace) -> int:
    pins = machine.Pins.choose()
    facts = machine.describe(pins)
    try:
        facts["PostgreSQL"] = postgresql.version()
    except MissingError as error:
        print(f"machines.py: {error}", file=sys.stderr)
        return 2
    facts["pinned"] = "where a clock says so: " + facts["pinned"]
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    printed: list[tuple[str, str, list[Result], list[str]]] = []

    def show(title: str, clock: str, rows: list[Result]) -> None:
        report.print_group(title, clock, rows, [])
        printed.append((title, clock, rows, []))

    await _clients(options, pins, show)
    await _ledger(options, show)
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json, options.command, facts, printed, [], benchmark="fastchat machines"
        )
    return 0


async def _clients(options: argparse.Namespace, pins: machine.Pins, show: Show) -> None:
    load, rounds = options.load, options.rounds
    if "hop" in options.sections:
        show(clients.HOP_TITLE, clients.HOP_CLOCK, await clients.hop(rounds, load, pins))
    if "away" in options.sections:
        show(clients.AWAY_TITLE, clients.AWAY_CLOCK, await clients.away(rounds, load, pins))
    if "join" in options.sections:
        rows = await clients.join(rounds, load, pins)
        show(clients.JOIN_TITLE.format(members=load.room), clients.JOIN_CLOCK, rows)
    if "deliveries" in options.sections:
        title = clients.DELIVERIES_TITLE.format(members=load.members, window=load.window)
        show(title, clients.DELIVERIES_CLOCK, await clients.deliveries(rounds, load, pins))


async def _ledger(options: argparse.Namespace, show: Show) -> None:
    rounds = options.rounds
    if "publications" in options.sections:
        load = publications.Load(options.seconds, shares=options.shares)
        title = publications.TITLE.format(
            machines=load.machines, rooms=load.rooms, size=load.size, seconds=load.seconds
        )
        show(title, publications.CLOCK, await publications.run(rounds, load))
    if "ledgers" in options.sections:
        spread = ledgers.Load(min(ledgers.SECONDS, options.seconds))
        title = ledgers.TITLE.format(
            machines=spread.machines,
            rooms=spread.rooms,
            size=spread.size,
            slow_ms=spread.slow_ms,
            seconds=spread.seconds,
        )
        show(title, ledgers.CLOCK, await ledgers.run(rounds, spread))
    if "storm" in options.sections:
        names = {"clients": options.clients, "members": options.members, "missed": faults.MISSED}
        rows = await faults.storm(rounds, options.clients, options.members)
        show(faults.STORM_TITLE.format(**names), faults.STORM_CLOCK.format(**names), rows)
    if "restart" in options.sections:
        names = {"down": options.down_s, "pause": faults.PAUSE_S}
        rows = await faults.restart(rounds, options.down_s)
        show(faults.RESTART_TITLE.format(**names), faults.RESTART_CLOCK.format(**names), rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
