"""Show where a server spends its time, by stages of a message.

    python bench/profile_server.py [--clients N] [--window N] [--seconds N] [--history NAME]

The benchmark starts a server under the load of `bench/broadcast.py`, and py-spy takes samples of
its stacks, with the frames of compiled code. For each sample, py-spy stops the server for a moment.
So the shares are right, but not the speed. Time in the kernel counts for the call that led there,
and waiting for clients does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from broadcast.server import Lengths, load_server
from harness import command, machine
from harness.report import BenchError
from harness.served import running_server, stop

SAMPLES_PER_S = 250
START_S = 1.0
MAX_SECONDS = 60
#: The stage of a sample is that of its innermost frame that one of these expressions matches.
STAGES = (
    ("send to members (with the kernel)", r"\(wire\.pxi|\b__libc_send|\bsendmsg"),
    ("hub", r"\.pxi|_fanout"),
    ("SQLite (with the kernel)", r"apsw|sqlite3|walWrite|checkpoints\.py"),
    ("check of the directory", r"fastchat/(history/)?directory\.py"),
    ("history", r"fastchat/history/"),
    ("encoding and parsing", r"fastchat/protocol/|_codec|orjson"),
    ("rooms", r"fastchat/rooms/"),
    ("broker", r"fastchat/brokers/"),
    ("limits", r"fastchat/limits/"),
    ("chat", r"fastchat/chat/"),
    ("inbox", r"fastchat/connections/inbox"),
    ("session", r"fastchat/connections/"),
    ("WebSocket frames", r"picows|fastchat/web/websocket"),
    ("event loop (with the kernel)", r"uv_|uv__|loop\.c|uvloop"),
)


def main(arguments: list[str]) -> int:
    """Run the profile; returns the exit status."""
    options = _parse(arguments)
    pins = machine.Pins.choose()
    pins.pin_sender()
    return command.run("profile_server.py", lambda: _measure(options, pins), 3.0 * MAX_SECONDS)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/profile_server.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--clients", type=int, default=10, help="members of the room (default: 10)")
    parser.add_argument(
        "--window", type=int, default=64, help="messages in flight (default: 64; 1 for lone ones)"
    )
    parser.add_argument("--seconds", type=int, default=15, help="seconds of samples (default: 15)")
    parser.add_argument(
        "--history", choices=("sqlite", "memory"), default="sqlite", help="default: sqlite"
    )
    parser.add_argument("--functions", type=int, default=25, help="functions to list (default: 25)")
    options = parser.parse_args(arguments)
    for name in ("clients", "window", "seconds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.seconds > MAX_SECONDS:
        parser.error(f"--seconds must be at most {MAX_SECONDS}")
    return options


async def _measure(options: argparse.Namespace, pins: machine.Pins) -> int:
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        raise BenchError("py-spy is missing: pip install -e '.[profile]', or make profile")
    lengths = Lengths(measure_ms=int((options.seconds + 2 * START_S) * 1000), latencies=1)
    with tempfile.NamedTemporaryFile(suffix=".txt") as stacks:
        async with running_server("--history", options.history) as server:
            load = asyncio.ensure_future(
                load_server(
                    server.port, options.clients, pins, lengths, server.pid, window=options.window
                )
            )
            await asyncio.sleep(START_S)
            await _spy(spy, server.pid, options.seconds, stacks.name)
            await load
        samples = _read(Path(stacks.name))
    _print(samples, options.functions)
    return 0


async def _spy(spy: str, pid: int, seconds: int, out: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(spy, "record", "--pid", str(pid), "--native", "--format", "raw", "--output", out),
        *("--rate", str(SAMPLES_PER_S), "--duration", str(seconds)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate()
    finally:
        await stop(process)
    if process.returncode:
        raise BenchError(f"py-spy failed: {errors.decode(errors='replace').strip()[-500:]}")


def _read(file: Path) -> list[tuple[list[str], int]]:
    """The stacks of the event loop's thread, outermost frame first, each with its count."""
    found = []
    for line in file.read_text(errors="replace").splitlines():
        frames, _, count = line.rpartition(" ")
        stack = frames.split(";")
        # py-spy cannot tell a loop that waits in epoll from one that works.
        is_waiting = re.match(r"(__)?epoll_p?wait\b", stack[-1])
        if any("run_until_complete" in frame for frame in stack) and not is_waiting:
            found.append((stack, int(count)))
    if not found:
        raise BenchError("py-spy saw no event loop")
    return found


def stage_of(stack: list[str]) -> str:
    """The stage of a sample; its innermost frame decides."""
    for frame in reversed(stack):
        for name, pattern in STAGES:
            if re.search(pattern, frame):
                return name
    return "other"


def _print(samples: list[tuple[list[str], int]], functions: int) -> None:
    stages: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for stack, count in samples:
        stages[stage_of(stack)] += count
        for name in {re.sub(r":\d+\)", ")", frame) for frame in stack if ".py" in frame}:
            inclusive[name] += count
    total = stages.total()
    print(f"{total:,} samples of the event loop\n\nstage")
    for name, count in stages.most_common():
        print(f"  {count / total:6.1%}  {name}")
    print("\nfunction, with all that it calls")
    for name, count in inclusive.most_common(functions):
        print(f"  {count / total:6.1%}  {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
