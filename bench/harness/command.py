"""Runs the benchmarks' commands, with a time limit, and stops their processes after a signal."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from harness.report import BenchError

FILE_OPTIONS = ("--json", "--output")


def run(program: str, measure: Callable[[], Coroutine[Any, Any, int]], limit_s: float) -> int:
    """Run `measure` in an event loop. Return its exit status, or that of its failure."""
    _allow_many_sockets()
    try:
        importlib.import_module("fastchat")
        importlib.import_module("uvloop")
    except ImportError as error:
        print(f"{error}. Build the hub first: pip install -e .", file=sys.stderr)
        return 2
    try:
        return _run_in_loop(measure, limit_s)
    except BenchError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except TimeoutError:
        print(f"{program}: stopped, because it took too long", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return 1


def recorded(program: str, arguments: list[str]) -> str:
    """The command for the record, without the name of the file with the results."""
    kept = []
    skip = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not skip and name not in FILE_OPTIONS:
            kept.append(argument)
        skip = name in FILE_OPTIONS and not equals
    return " ".join([program, *kept])


def counts(least: int, most: int, expected: str) -> Callable[[str], list[int]]:
    """A parser of numbers with commas between them, each from `least` to `most`.

    It raises argparse's error with the sentence `expected` for any other text.
    """

    def parse(text: str) -> list[int]:
        parts = text.split(",")
        if not all(part.isdecimal() and least <= int(part) <= most for part in parts):
            raise argparse.ArgumentTypeError(expected)
        return [int(part) for part in parts]

    return parse


def some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A parser of names with commas between them; it raises argparse's error for an unknown one."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def _allow_many_sockets() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run_in_loop(measure: Callable[[], Coroutine[Any, Any, int]], limit_s: float) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_bounded(measure, limit_s))


async def _bounded(measure: Callable[[], Coroutine[Any, Any, int]], limit_s: float) -> int:
    """Run the benchmark. A signal or the time limit cancels it and stops its processes."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    async with asyncio.timeout(limit_s):
        return await measure()
