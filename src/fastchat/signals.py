"""SIGTERM and SIGINT: the first asks a server to stop, a second one insists."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

__all__ = ["on_stop_signals"]

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
