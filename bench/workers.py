"""Measure the gain and the cost of several processes for one server.

    python bench/workers.py [--sections deliveries,hop,idle,storm] [--full] [--json FILE]

The benchmark starts its own servers and stops them again. Servers with one process and with several
alternate within each round of one run. Without --full, the figures are only a first impression.
bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import os
import resource
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
from harness.report import Result
from workers import (
    crowds,
    deliveries,
)
from workers.deliveries import Load

SECTIONS = ("deliveries", "hop", "idle", "storm")
PLACEMENTS = ("free", "pinned")
LIMIT_S = 900.0
QUICK = {"rounds": 2, "idle": 1000, "measure_ms": 1000, "messages": 300}
FULL = {"rounds": 5, "idle": 10_000, "measure_ms": 3000, "messages": 1000}
#: Rounds of idle connections and storms. They are few because these samples are long and vary less.
CROWD_SHARE = 2
#: Descriptors for everything but the clients' sockets.
SPARE_DESCRIPTORS = 200

Printed = tuple[str, str, list[Result], list[str]]
Show = Callable[[str, str, list[Result]], None]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    return command.run("workers.py", lambda: _measure(options), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/workers.py",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_choices(parser)
    _add_sizes(parser)
    options = parser.parse_args(arguments)
    for name, value in (FULL if options.full else QUICK).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    _check_sizes(parser, options)
    options.rooms_of = options.rooms_of or options.idle
    options.idle -= options.idle % options.rooms_of
    if options.idle > _descriptors() - SPARE_DESCRIPTORS:
        parser.error(f"--idle: this user may have {_descriptors()} descriptors (ulimit -Hn)")
    options.command = command.recorded("python bench/workers.py", arguments)
    return options


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is measured, and where the figures go."""
    parser.add_argument(
        "--sections",
        type=command.some_of(SECTIONS),
        default=SECTIONS,
        metavar="NAME,NAME",
        help=f"sections to measure (default: {','.join(SECTIONS)})",
    )
    parser.add_argument(
        "--workers",
        type=command.counts(2, 64, "numbers of workers are from 2 to 64, as in 2,4"),
        default=[2],
        metavar="N,N",
        help="numbers of workers to compare with one process (default: 2)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="measure for several minutes, with the sizes of the figures in the documents",
    )
    parser.add_argument(
        "--json",
        "--output",
        type=Path,
        metavar="FILE",
        help="also write the figures to this file",
    )
    parser.add_argument(
        "--placements",
        type=command.some_of(PLACEMENTS),
        default=PLACEMENTS,
        metavar="NAME,NAME",
        help=f"whether the processes are pinned to CPUs (default: {','.join(PLACEMENTS)})",
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments with numbers. The defaults of some depend on --full."""
    for name, help in (
        ("rounds", "rounds, each of which measures all numbers of workers"),
        ("measure-ms", "milliseconds of a sample of the section deliveries"),
        ("messages", "messages of a sample of the section hop"),
        ("idle", "connections of the sections idle and storm"),
    ):
        key = name.replace("-", "_")
        defaults = f"(default: {QUICK[key]}, or {FULL[key]} with --full)"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{help} {defaults}")
    for name, default, help in (
        ("rooms", 4, "rooms of the section deliveries"),
        ("members", 100, "members of each room of the section deliveries"),
    ):
        help = f"{help} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    parser.add_argument(
        "--rooms-of",
        type=int,
        default=100,
        metavar="N",
        help="members of each room in idle and storm; 0 for one room (default: 100)",
    )


def _check_sizes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("rounds", "rooms", "members", "measure_ms", "messages", "idle"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 <= options.rooms_of <= options.idle:
        parser.error("--rooms-of must be from 0 to the number of connections")


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def _measure(options: argparse.Namespace) -> int:
    pins = machine.Pins.choose()
    facts = machine.describe(pins)
    facts["pinned"] = "where a row says so: " + facts["pinned"]
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if not options.full:
        print("\n  without --full: a first impression; do not cite these figures")
    if (cpus := len(os.sched_getaffinity(0))) < max(options.workers) + 2:
        print(f"\n  {cpus} CPUs for {max(options.workers)} workers, a relay and the load:")
        print("  these figures show the cost of several processes, but not their gain")
    printed: list[Printed] = []

    def show(title: str, clock: str, rows: list[Result]) -> None:
        if rows:
            report.print_group(title, clock, rows, [])
            printed.append((title, clock, rows, []))

    await _messages(options, pins, show)
    await _crowds(options, show)
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json, options.command, facts, printed, [], benchmark="fastchat workers"
        )
    return 0


async def _messages(options: argparse.Namespace, pins: machine.Pins, show: Show) -> None:
    load = Load(
        rooms=options.rooms,
        members=options.members,
        measure_ms=options.measure_ms,
        hop_messages=options.messages,
    )
    counts = [deliveries.ONE, *options.workers]
    where = deliveries.placements(options.placements, pins)
    if "deliveries" in options.sections:
        title = deliveries.DELIVERIES_TITLE.format(
            rooms=load.rooms, members=load.members, window=load.window
        )
        rows = await deliveries.deliveries(counts, options.rounds, where, load)
        show(title, deliveries.DELIVERIES_CLOCK, rows)
    if "hop" in options.sections:
        title = deliveries.HOP_TITLE.format(members=load.hop_members)
        rows = await deliveries.hop(counts, options.rounds, where, load)
        show(title, deliveries.HOP_CLOCK, rows)


async def _crowds(options: argparse.Namespace, show: Show) -> None:
    idle, storm = "idle" in options.sections, "storm" in options.sections
    if not (idle or storm):
        return
    size = crowds.Size(options.idle, options.rooms_of)
    rounds = -(-options.rounds // CROWD_SHARE)
    counts = [deliveries.ONE, *options.workers]
    idle_rows, storm_rows = await crowds.run(counts, rounds, size, idle=idle, storm=storm)
    names = {"clients": size.clients, "members": size.members, "missed": crowds.MISSED}
    show(crowds.IDLE_TITLE.format(**names), crowds.IDLE_CLOCK.format(**names), idle_rows)
    show(crowds.STORM_TITLE.format(**names), crowds.STORM_CLOCK.format(**names), storm_rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
