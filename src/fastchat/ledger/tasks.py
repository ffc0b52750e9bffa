"""Work that goes on beside the calls of a machine, and that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from fastchat.ledger import LedgerError

__all__ = ["Tasks"]

logger = logging.getLogger("fastchat.ledger")


class Tasks:
    """Tasks in the running loop. If a task fails with a LedgerError, that is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except LedgerError as error:
        logger.debug("a call of the ledger has failed: %s", error)
