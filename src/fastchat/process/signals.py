"""Signals: SIGTERM and SIGINT ask a server to stop, a second one insists; SIGHUP, to read files."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

__all__ = ["on_hang_up", "on_stop_signals"]

logger = logging.getLogger("fastchat")

#: What comes sooner is the same wish: `timeout`, say, signals a process and its group.
REPEAT_S = 0.3


def on_stop_signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], object], insist: Callable[[], object]
) -> None:
    """Call `stop` at the first signal, and `insist` at those that come later, in the loop."""
    first_s: float | None = None

    def on_signal(number: int) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = loop.time()
            logger.info("stopping: %s", signal.Signals(number).name)
            stop()
        elif loop.time() > first_s + REPEAT_S:
            logger.warning("stopping at once")
            insist()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def on_hang_up(
    loop: asyncio.AbstractEventLoop, reload: Callable[[], object], stop: Callable[[], object]
) -> None:
    """Call `reload` at SIGHUP in the loop; `stop` if it came because our terminal has closed.

    Nobody is left there to end a server that was started in it. Started otherwise, it goes on:
    by nohup, in the background of a service, or with another standard input.
    """
    at_terminal = os.isatty(0)

    def on_signal() -> None:
        if at_terminal and not os.isatty(0):
            logger.info("stopping: the terminal has closed")
            stop()
        else:
            reload()

    loop.add_signal_handler(signal.SIGHUP, on_signal)
    # One that came while we started: the supervisor has it wait (see `children`).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
