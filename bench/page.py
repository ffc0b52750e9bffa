"""Measure the page in a browser: memory, frames, and the first visit on a slow telephone.

    python bench/page.py [--rounds 5] [--json FILE] [--quick]

It needs Chromium and Playwright (pip install -e '.[test]'). It starts its own server and browser,
and stops them again. bench/README.md explains the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))

from harness import (
    command,
    machine,
    report,
    served,
)
from harness.report import BenchError, Result

LIMIT_S = 600.0
ROUNDS = 5
COUNTS = (1_000, 10_000, 20_000)
QUICK_COUNTS = (1_000, 2_000)
#: Messages in flight to the page: fewer than its log holds, so that the page shows each of them.
WINDOW = 100
LOG_MESSAGES = 300
#: Messages a second of a very busy room: at 60 Hz, about one for each frame.
STEADY_RATE = 50
STEADY_S = 10.0
QUICK_STEADY_S = 1.0
WAIT_MS = 30_000
#: Lighthouse's settings for mobile devices: slow 4G, and a mid-range telephone.
SLOW_CPU = 4
SLOW_NETWORK = {
    "offline": False,
    "latency": 150,
    "downloadThroughput": 1.6 * 1024 * 1024 / 8,
    "uploadThroughput": 750 * 1024 / 8,
}
DESK = {"viewport": {"width": 1280, "height": 840}}
PHONE = {"viewport": {"width": 412, "height": 823}, "device_scale_factor": 1.75, "is_mobile": True}
TEXT = "The light at six was unreal, and the third one belongs on the studio wall."
SHOWN = "(offset) => [...document.querySelectorAll('.message')].at(-1)?.dataset.offset >= offset"
RECORD = """() => {
  const seen = window.seen = { frames: [], tasks: [] };
  new PerformanceObserver((list) => {
    seen.tasks.push(...list.getEntries().map(({ duration }) => duration));
  }).observe({ type: "longtask" });
  let before = null;
  const frame = (now) => {
    if (before !== null) seen.frames.push(now - before);
    before = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""
LOADED = """async () => {
  const painted = () => performance.getEntriesByName("first-contentful-paint")[0];
  while (!painted()) await new Promise(requestAnimationFrame);
  const all = ["resource", "navigation"].flatMap((type) => performance.getEntriesByType(type));
  return {
    painted: painted().startTime,
    ready: performance.now(),
    requests: all.length,
    decoded: all.reduce((sum, { decodedBodySize }) => sum + decodedBodySize, 0),
  };
}"""

MEMORY_CLOCK = """\
the page's JavaScript heap after two forced collections, and the nodes of its document, after the
page has shown this many messages of one room; the log holds the last 300"""
FRAMES_CLOCK = f"""\
from one animation frame to the next while {STEADY_RATE} messages a second arrive in a full log;
long tasks (over 50 ms) of the page, in milliseconds a second. '4x': the browser slows the CPU down
fourfold. The browser is headless and has no GPU, so the CPU paints"""
VISIT_CLOCK = """\
a first visit with an empty cache, until the first contentful paint, and until the reader can type
a name; bytes on the wire with headers, and bytes after decompression. 'slow': CPU slowed down
fourfold, 1.6 Mbit/s, round trips of 150 ms, which are Lighthouse's settings for telephones"""

Rows = dict[tuple[str, str, str], list[float]]


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit status."""
    options = _parse(arguments)
    return command.run("page.py", lambda: _measure(options), LIMIT_S)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/page.py", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"rounds of each measurement (default: {ROUNDS})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check in less than 20 s that the benchmark works; the figures mean nothing",
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 1 if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    options.command = command.recorded("python bench/page.py", arguments)
    return options


async def _measure(options: argparse.Namespace) -> int:
    counts = QUICK_COUNTS if options.quick else COUNTS
    steady_s = QUICK_STEADY_S if options.quick else STEADY_S
    neighbours = machine.Neighbours()
    memory: Rows = {}
    frames: Rows = {}
    visits: Rows = {}
    kept = ("--history", "memory", "--history-max-messages", "1000")
    async with _chromium() as browser, served.running_server(*kept) as server:
        facts = machine.describe(machine.Pins(None, None)) | {
            "pinned": "no: a browser is many processes",
            "chromium": browser.version,
        }
        report.print_machine(facts)
        if options.quick:
            print("\n  --quick: the benchmark works; do not use these figures")
        for number in range(options.rounds):
            room = Room(browser, server.port, f"round-{number}")
            await room.fill(counts, memory)
            await room.flow(steady_s, 1, frames)
            await room.flow(steady_s, SLOW_CPU, frames)
            await _visit(browser, server.port, slow=False, rows=visits)
            await _visit(browser, server.port, slow=True, rows=visits)
    printed: list[tuple[str, str, list[Result], list[str]]] = []
    for title, clock, rows in (
        ("memory of a page that stays open", MEMORY_CLOCK, memory),
        ("frames of a lively room", FRAMES_CLOCK, frames),
        ("the first visit", VISIT_CLOCK, visits),
    ):
        results = [
            Result(group, variant, 0, unit, tuple(samples))
            for (group, variant, unit), samples in rows.items()
        ]
        report.print_group(title, clock, results, [])
        printed.append((title, clock, results, []))
    facts["others"] = neighbours.describe()
    print(f"\nother processes: {facts['others']}")
    if options.json:
        report.write_json(
            options.json, options.command, facts, printed, [], benchmark="fastchat page"
        )
    return 0


@contextlib.asynccontextmanager
async def _chromium() -> AsyncIterator[Any]:
    """Start the system's Chromium without background tasks, and without a sandbox for root."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise BenchError("no Chromium: apt-get install chromium")
    try:
        playwright_api = importlib.import_module("playwright.async_api")
    except ImportError:
        raise BenchError("no Playwright: pip install -e '.[test]'") from None
    arguments = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    arguments += [] if os.geteuid() else ["--no-sandbox"]
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Room:
    """A room with one page, and a client that writes messages."""

    def __init__(self, browser: Any, port: int, name: str) -> None:
        self._browser = browser
        self._port = port
        self._name = name
        self._sent = 0
        #: Makes names different: the name of a client that has just gone is kept for its user.
        self._numbers = itertools.count(1)

    async def fill(self, counts: tuple[int, ...], rows: Rows) -> None:
        """Measure the page's memory after each of these numbers of messages."""
        async with self._page() as (page, devtools), self._writer() as writer:
            for count in counts:
                while self._sent < count:
                    await self._say_window(page, writer)
                for _ in range(2):
                    await devtools.send("HeapProfiler.collectGarbage")
                reply = await devtools.send("Performance.getMetrics")
                metrics = {each["name"]: each["value"] for each in reply["metrics"]}
                _add(
                    rows, "heap", f"heap, {count:,} messages", "MB", metrics["JSHeapUsedSize"] / 1e6
                )
                _add(rows, "nodes", f"nodes, {count:,} messages", "", metrics["Nodes"])

    async def flow(self, seconds: float, slowdown: int, rows: Rows) -> None:
        """Write messages at a steady rate, and measure the page's frames."""
        async with self._page() as (page, devtools), self._writer() as writer:
            for _ in range(LOG_MESSAGES // WINDOW):
                await self._say_window(page, writer)
            await devtools.send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
            await page.evaluate(RECORD)
            loop = asyncio.get_running_loop()
            started = loop.time()
            for number in itertools.count(1):
                await self._say(writer)
                await asyncio.sleep(max(0.0, started + number / STEADY_RATE - loop.time()))
                if loop.time() - started >= seconds:
                    break
            await page.wait_for_function(SHOWN, arg=self._sent, timeout=WAIT_MS)
            took_s = loop.time() - started
            seen = await page.evaluate("() => seen")
        gaps = sorted(seen["frames"])
        label = "" if slowdown == 1 else f", {slowdown}x"
        _add(rows, "frames", f"median{label}", "ms", gaps[len(gaps) // 2])
        _add(rows, "frames", f"p99{label}", "ms", gaps[len(gaps) * 99 // 100])
        _add(rows, "frames", f"long tasks{label}", "ms/s", sum(seen["tasks"]) / took_s)

    async def _say_window(self, page: Any, writer: Any) -> None:
        """Send messages; return when the page shows all of them."""
        for _ in range(WINDOW):
            await self._say(writer)
        await page.wait_for_function(SHOWN, arg=self._sent, timeout=WAIT_MS)

    async def _say(self, writer: Any) -> None:
        self._sent += 1
        await writer.send(json.dumps({"text": f"{self._sent}: {TEXT}"}))

    @contextlib.asynccontextmanager
    async def _page(self) -> AsyncIterator[tuple[Any, Any]]:
        """Somebody who is in the room, and the browser's instruments on his window."""
        context = await self._browser.new_context(**DESK)
        try:
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{self._port}/#{self._name}")
            await page.fill("#name-input", f"Reader {next(self._numbers)}")
            await page.press("#name-input", "Enter")
            await page.wait_for_selector("#people .person", state="attached", timeout=WAIT_MS)
            devtools = await context.new_cdp_session(page)
            await devtools.send("HeapProfiler.enable")
            await devtools.send("Performance.enable")
            yield page, devtools
        finally:
            await context.close()

    @contextlib.asynccontextmanager
    async def _writer(self) -> AsyncIterator[Any]:
        websockets = importlib.import_module("websockets.asyncio.client")
        name = f"Writer-{next(self._numbers)}"
        address = f"ws://127.0.0.1:{self._port}/ws?username={name}&room={self._name}&history=0"
        async with websockets.connect(address, max_queue=None) as writer:
            joined = json.loads(await writer.recv())
            if joined["type"] != "joined":
                raise BenchError(f"the writer could not join: {joined}")
            # The writer receives its own messages too; they are read and discarded.
            reading = asyncio.ensure_future(_read_all(writer))
            try:
                yield writer
            finally:
                reading.cancel()


async def _read_all(writer: Any) -> None:
    async for _ in writer:
        pass


async def _visit(browser: Any, port: int, *, slow: bool, rows: Rows) -> None:
    """Open the page as a new visitor."""
    context = await browser.new_context(**PHONE)
    try:
        page = await context.new_page()
        devtools = await context.new_cdp_session(page)
        received: list[float] = []
        devtools.on(
            "Network.loadingFinished", lambda event: received.append(event["encodedDataLength"])
        )
        await devtools.send("Network.enable")
        if slow:
            await devtools.send("Network.emulateNetworkConditions", SLOW_NETWORK)
            await devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOW_CPU})
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.wait_for_function(
            "() => document.activeElement?.id === 'name-input'", timeout=WAIT_MS
        )
        figures = await page.evaluate(LOADED)
    finally:
        await context.close()
    label = ", slow" if slow else ""
    _add(rows, "visit", f"first contentful paint{label}", "ms", figures["painted"])
    _add(rows, "visit", f"ready for a name{label}", "ms", figures["ready"])
    if slow:
        return
    _add(rows, "bytes", "over the wire", "kB", sum(received) / 1e3)
    _add(rows, "bytes", "unpacked", "kB", figures["decoded"] / 1e3)
    _add(rows, "bytes", "requests", "", figures["requests"])


def _add(rows: Rows, group: str, variant: str, unit: str, value: float) -> None:
    rows.setdefault((group, variant, unit), []).append(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
