"""Measure the HTTP API: publications a second by keep-alive, and how long one takes.

    python bench/api.py [--listeners N] [--connections N] [--rounds N] [--json FILE] [--quick]

The benchmark starts its own servers and stops them again. bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from api import load
from harness import command, machine, report
from harness.report import Result, Target
from harness.served import running_server

LIMIT_S = 600.0
TITLE = "{connections} connections publish over HTTP, and {listeners} clients listen in the room"
CLOCK = (
    "'at most' is the number of answers in a second if each connection sends its next request as\n"
    "         soon as it has an answer. 'p99' and 'p50' are the time from the moment at which a\n"
    "         request is due to its answer, at {rate} requests a second. The server has one CPU,\n"
    "         and the publishers and the clients share another one."
)
RATE_TARGET = Target(5000.0, at_least=True)
DELAY_TARGET = Target(10.0)


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_load()
    return command.run("api.py", lambda: _measure(options, pins), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/api.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--listeners", type=int, default=100, help="clients in the room (default: 100)"
    )
    parser.add_argument(
        "--connections", type=int, default=32, help="connections that publish (default: 32)"
    )
    parser.add_argument(
        "--rate", type=int, default=1000, help="requests a second for the delays (default: 1000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="seconds of each phase (default: 5)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
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
        options.listeners, options.connections, options.rounds = 5, 4, 1
        options.rate, options.seconds = 100, 1.0
    for name in ("listeners", "connections", "rate", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.command = command.recorded("python bench/api.py", arguments)
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    facts = machine.describe(pins)
    neighbours = machine.Neighbours()
    report.print_machine(facts)
    if options.quick:
        print("\n  --quick: the benchmark works; do not use these figures")
    most: list[float] = []
    delays: dict[str, list[float]] = {"p50": [], "p99": []}
    for _ in range(options.rounds):
        await _round(options, pins, most, delays)
    title = TITLE.format(connections=options.connections, listeners=options.listeners)
    clock = CLOCK.format(rate=options.rate)
    rows = [
        Result("at most", "at most", options.listeners, "1/s", tuple(most), target=RATE_TARGET),
        *(
            Result(
                name,
                name,
                options.listeners,
                "ms",
                tuple(samples),
                target=DELAY_TARGET if name == "p99" else None,
            )
            for name, samples in delays.items()
        ),
    ]
    report.print_group(title, clock, rows, [])
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json,
            options.command,
            facts,
            [(title, clock, rows, [])],
            [],
            benchmark="fastchat HTTP API",
        )
    return 0


async def _round(
    options: argparse.Namespace,
    pins: machine.Pins,
    most: list[float],
    delays: dict[str, list[float]],
) -> None:
    from fastchat.api.key_file import new_key
    from fastchat.api.keys import ApiRight

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        key = new_key(file, "bench", rights=[ApiRight.PUBLISH], rooms=["*"])
        async with running_server("--api-key-file", str(file), cpu=pins.sender) as served:
            listeners = await load.listen(served.port, options.listeners)
            port, connections = served.port, options.connections
            for rate in (None, options.rate):
                found, publishing = await load.publish(
                    port, key, connections=connections, seconds=options.seconds, rate=rate
                )
                if rate is None:
                    most.append(found)
                    continue
                ordered = sorted(publishing.delays_s)
                for name, share in (("p50", 0.5), ("p99", 0.99)):
                    delays[name].append(1000 * ordered[int(share * (len(ordered) - 1))])
            for listener in listeners:
                listener.transport.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
