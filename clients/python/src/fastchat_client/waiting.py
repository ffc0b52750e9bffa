"""Coroutines that never suspend, run to their ends without an event loop.

The asynchronous and the blocking API share their code in this way: if the transport of a coroutine
blocks, the coroutine has its result after one step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["each", "result"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def result(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that does not suspend. Raises what it raises."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        returned: Result = done.value
        return returned
    coroutine.close()
    raise RuntimeError("The coroutine has suspended.")


def each(items: AsyncGenerator[Item]) -> Iterator[Item]:
    """The items of an asynchronous generator that does not suspend."""

    async def step() -> tuple[Item, ...]:
        async for item in items:
            return (item,)
        return ()

    try:
        while found := result(step()):
            yield found[0]
    finally:
        result(items.aclose())
