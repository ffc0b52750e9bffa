"""Measure what a server costs before it does anything: its start, its memory, idle connections.

    python bench/footprint.py [--sections NAME,NAME] [--against COMMIT] [--rounds N] [--quick]

With --against, that commit is built under build/guard and measured in turn with this checkout.
bench/README.md explains the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from harness import command, commits, machine
from harness.comparison import Comparison, interval
from harness.served import Build, cpu_s, memory_bytes, running_server
from load.idle import idle_clients

LIMIT_S = 1800.0
#: Rounds of the sections. Memory hardly varies, and the last three take longer.
ROUNDS = {"import": 25, "start": 25, "idle": 3, "tls": 3, "cpu": 1}
#: Clients of the last three sections; all of them with --quick.
CLIENTS = {"idle": 2000, "tls": 2000, "cpu": 10_000}
QUICK_CLIENTS = 50
#: Time for the start's last work, and for the events of joins to be delivered.
SETTLE_S = 2.0
#: Longer than the interval of pings, 25 s.
WATCH_S = 30.0
QUICK_WATCH_S = 1.0

Sample = dict[str, float]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    return command.run("footprint.py", lambda: _measure(options), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/footprint.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--sections",
        metavar="NAME,NAME",
        default=",".join(ROUNDS),
        help=f"sections to measure (default: {','.join(ROUNDS)})",
    )
    parser.add_argument(
        "--against", metavar="COMMIT", help="an earlier commit to compare with (default: none)"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each section (default: 25, 3 or 1 by section)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in less than a minute that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    options.sections = options.sections.split(",")
    if unknown := set(options.sections) - set(ROUNDS):
        parser.error(f"--sections: {unknown.pop()!r} is none of {', '.join(ROUNDS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


async def _measure(options: argparse.Namespace) -> int:
    before = None
    if options.against is not None:
        commit = commits.commit_of(options.against)
        before = await asyncio.to_thread(commits.build, commit)
        print(f"before: {commits.describe(commit)}")
    print(f"{'':<44}{'before':>10}{'after':>10}   after / before", flush=True)
    neighbours = machine.Neighbours()
    with tempfile.TemporaryDirectory(prefix="fastchat-bench-") as directory:
        samples = _samplers(Path(directory), quick=options.quick)
        for section in options.sections:
            rounds = 1 if options.quick else options.rounds or ROUNDS[section]
            await _compare(samples[section], before, Build(), rounds)
    print(f"\nother processes: {neighbours.describe()}")
    return 0


def _samplers(directory: Path, *, quick: bool) -> dict[str, Callable[[Build], Awaitable[Sample]]]:
    clients = dict.fromkeys(CLIENTS, QUICK_CLIENTS) if quick else CLIENTS
    return {
        "import": _import,
        "start": _start,
        "idle": lambda build: _idle(build, clients["idle"]),
        "tls": lambda build: _idle(build, clients["tls"], directory),
        "cpu": lambda build: _cpu(build, clients["cpu"], QUICK_WATCH_S if quick else WATCH_S),
    }


async def _compare(
    sample: Callable[[Build], Awaitable[Sample]], before: Build | None, after: Build, rounds: int
) -> None:
    """Measure both builds in turn, and print a row for each figure."""
    builds = [after] if before is None else [before, after]
    found: dict[str, Comparison] = {}
    for build in builds:
        await sample(build)  # the first run stores bytecode and fills the kernel's caches
    for turn in range(rounds):
        for build in builds if turn % 2 else reversed(builds):
            for name, value in (await sample(build)).items():
                row = found.setdefault(name, Comparison(name, more_is_better=True))
                (row.before if build is before else row.after).append(value)
    for row in found.values():
        earlier = f"{median(row.before):10.2f}" if row.before else f"{'-':>10}"
        ratio = ""
        if row.before:
            low, middle, high = interval(row.ratios())
            ratio = f"   {middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"{row.name:<44}{earlier}{median(row.after):10.2f}{ratio}", flush=True)


async def _import(build: Build) -> Sample:
    """Import the hub in a new process."""

    def run() -> Sample:
        started = time.perf_counter()
        process = subprocess.Popen(
            [build.python, "-c", "import fastchat.hub"], env=build.environment()
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - started
        return {
            "import fastchat.hub, ms": took * 1e3,
            "import fastchat.hub, CPU ms": (usage.ru_utime + usage.ru_stime) * 1e3,
        }

    return await asyncio.to_thread(run)


async def _start(build: Build) -> Sample:
    """Start a server on an empty directory, until it prints its address."""
    started = time.perf_counter()
    async with running_server(build=build) as server:
        took, used = time.perf_counter() - started, cpu_s(server.pid)
        await asyncio.sleep(SETTLE_S)
        memory = memory_bytes(server.pid)
    return {
        "serve until ready, ms": took * 1e3,
        "serve until ready, CPU ms": used * 1e3,
        "serve, RSS MB": memory["Rss"] / 1e6,
        "serve, private MB": memory["Private"] / 1e6,
    }


async def _idle(build: Build, clients: int, directory: Path | None = None) -> Sample:
    """Growth of the server's memory with idle connections; with TLS if there is a directory."""
    files = [] if directory is None else await asyncio.to_thread(_certificate, directory)
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(files[1])
        context.check_hostname = False
    async with running_server(*files, build=build) as server:
        await asyncio.sleep(SETTLE_S)
        before = memory_bytes(server.pid)["Rss"]
        async with idle_clients(server.port, clients, context):
            await asyncio.sleep(SETTLE_S)
            grown = memory_bytes(server.pid)["Rss"] - before
    kind = "plain" if directory is None else "TLS"
    return {f"idle connection, {kind}, RSS kB": grown / clients / 1000}


async def _cpu(build: Build, clients: int, seconds: float) -> Sample:
    """The share of a core that idle connections need: for pings, pongs and sweeps."""
    async with running_server(build=build) as server, idle_clients(server.port, clients):
        await asyncio.sleep(SETTLE_S)
        used, started = cpu_s(server.pid), time.perf_counter()
        await asyncio.sleep(seconds)
        share = (cpu_s(server.pid) - used) / (time.perf_counter() - started)
    return {f"{clients:,} idle connections, % of a core": share * 100}


def _certificate(directory: Path) -> list[str]:
    """Arguments for a server with a certificate of its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file, key_file = directory / "certificate.pem", directory / "key.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return ["--ssl-certfile", str(file), "--ssl-keyfile", str(key_file)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
