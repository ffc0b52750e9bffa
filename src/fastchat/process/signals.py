"""Signals: SIGTERM or SIGINT stops a server, a second one at once; SIGHUP makes it read files."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

__all__ = ["on_hang_up", "on_stop_signals"]

logger = logging.getLogger("fastchat")

#: A signal that comes sooner than this belongs to the first one: `timeout`, for example, signals
#: both a process and its group.
REPEAT_S = 0.3


def on_stop_signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], object], stop_at_once: Callable[[], object]
) -> None:
    """Call `stop` at the first signal, and `stop_at_once` at each later one, in the loop."""
    first_s: float | None = None

    def on_signal(number: int) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = loop.time()
            logger.info("stopping: %s", signal.Signals(number).name)
            stop()
        elif loop.time() > first_s + REPEAT_S:
            logger.warning("stopping at once")
            stop_at_once()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def on_hang_up(
    loop: asyncio.AbstractEventLoop, reload: Callable[[], object], stop: Callable[[], object]
) -> None:
    """Call `reload` at SIGHUP, in the loop; call `stop` if the server's terminal has closed.

    A server that was started in a terminal must end with it, because nobody could stop it there
    any more. A server without a terminal as its standard input goes on: one that was started by
    nohup or by a service manager.
    """
    at_terminal = os.isatty(0)

    def on_signal() -> None:
        if at_terminal and not os.isatty(0):
            logger.info("stopping: the terminal has closed")
            stop()
        else:
            reload()

    loop.add_signal_handler(signal.SIGHUP, on_signal)
    # A SIGHUP that came while the process started has waited, because it is blocked (see `child`).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
