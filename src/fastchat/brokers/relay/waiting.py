"""Requests of a worker that wait for the rooms, side by side.

A request runs at once, up to the place where it has to wait. With rooms in the same process it
does not have to, and has ended then: no task is created for it. Requests begin in the order of
their records, which is the order that the rooms keep (`fastchat.rooms.contract`).

`asyncio.Task(eager_start=True)` would do nearly the same, but only since Python 3.12.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["Waiting", "begin"]


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run a coroutine up to its first suspension, and return a task for the rest of it.

    Returns None if the coroutine has ended. Raises what its first step raises. The first step runs
    in no task, so it cannot use `asyncio.current_task` or `asyncio.timeout`.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_Rest(work, awaited))


class _Rest(Coroutine[Any, Any, None]):
    """A coroutine after its first step, in which it has awaited `awaited`, for a task.

    The first step of the task gets `awaited`. From then on the task steps the coroutine itself.
    """

    def __init__(self, work: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited
        self._is_new = True

    def send(self, value: None) -> Any:
        if not self._is_new:
            return self._work.send(value)
        self._is_new = False
        awaited, self._awaited = self._awaited, None
        return awaited

    def throw(self, *error: Any) -> Any:
        if self._is_new and asyncio.isfuture(self._awaited):
            # The task was cancelled before its first step, so it has not cancelled the future.
            self._awaited.cancel()
        self._is_new = False
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise NotImplementedError("only a task runs it")


class Waiting:
    """The requests of one worker that wait for the rooms.

    * ``limit``: with so many requests `is_full` is true, and the owner has to begin no more.
    * ``failed``: called with the exception of a request that has failed after its first step.
    * ``ended``: called when a request that had to wait has ended, in one way or the other.
    """

    def __init__(
        self,
        limit: int,
        *,
        ended: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._limit = limit
        self._ended = ended
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._reads: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._reads)

    @property
    def is_full(self) -> bool:
        return len(self) >= self._limit

    def begin(self, work: Coroutine[Any, Any, None], *, reads: bool = False) -> None:
        """Run a request as far as it gets at once, and the rest of it beside other requests.

        With `reads` it only reads, and can be cancelled. Raises what its first step raises.
        """
        task = begin(work)
        if task is None:
            return
        (self._reads if reads else self._tasks).add(task)
        task.add_done_callback(self._on_done)

    def cancel_reads(self) -> None:
        """Cancel the requests that only read, because the worker is gone."""
        for task in self._reads:
            task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._reads.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
        self._ended()
