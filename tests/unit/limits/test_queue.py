"""FairQueue: the order in which places are given, the time limit, and the number that can wait."""

from __future__ import annotations

import asyncio

from fastchat.limits.connections import ConnectionCount
from fastchat.limits.queue import FairQueue
from support.hub import on_loop


async def arrive(places: FairQueue, *addresses: str) -> list[asyncio.Task[bool]]:
    """Start these waiters in order, and give each a turn of the loop."""
    tasks = []
    for address in addresses:
        tasks.append(asyncio.create_task(places.enter(address)))
        await asyncio.sleep(0)
    return tasks


async def served(tasks: list[asyncio.Task[bool]]) -> list[int]:
    """The waiters that have a place by now."""
    for _ in range(3):
        await asyncio.sleep(0)
    return [number for number, task in enumerate(tasks) if task.done() and task.result()]


@on_loop
async def test_places_are_given_in_the_order_of_arrival() -> None:
    """No later waiter overtakes an earlier one of the same address."""
    places = FairQueue(ConnectionCount(per_address=2))
    tasks = await arrive(places, *"AAAAA")
    assert await served(tasks) == [0, 1]
    assert places.waiting == 3
    for number in range(2, 5):
        places.leave("A")
        assert await served(tasks) == list(range(number + 1))
    assert places.waiting == 0


@on_loop
async def test_addresses_take_turns() -> None:
    """If all places are taken, an address with many waiters is not served before one with few."""
    places, arrivals = FairQueue(ConnectionCount(total=1)), "AAAABBC"
    tasks = await arrive(places, *arrivals)
    order = [0]
    while places.waiting:
        places.leave(arrivals[order[-1]])
        order += {*await served(tasks)} - {*order}
    assert [arrivals[number] for number in order] == [*"AABCABA"]


@on_loop
async def test_address_at_its_limit_delays_no_other_address() -> None:
    """A free place is given to the next waiter whose address is below its limit."""
    places = FairQueue(ConnectionCount(total=3, per_address=2))
    tasks = await arrive(places, *"AAABB")
    assert await served(tasks) == [0, 1, 3]
    places.leave("B")
    assert await served(tasks) == [0, 1, 3, 4]
    places.leave("A")
    assert await served(tasks) == [0, 1, 2, 3, 4]


@on_loop
async def test_waiter_is_refused_after_the_time_limit() -> None:
    """The waiter is not counted any more, and no place is lost."""
    places = FairQueue(ConnectionCount(total=1), wait_s=0.01)
    assert await places.enter("A")
    assert not await places.enter("A")
    assert places.waiting == 0
    places.leave("A")
    assert await places.enter("A")


@on_loop
async def test_number_of_waiters_is_bounded() -> None:
    """Waiters are bounded in all and by address; one over the bound is refused at once."""
    places = FairQueue(ConnectionCount(total=1), max_waiting=3, max_address_waiting=2)
    tasks = await arrive(places, *"AAA")
    assert not await places.enter("A")
    tasks += await arrive(places, "B")
    assert not await places.enter("C")
    assert places.waiting == 3
    places.close()
    assert [await task for task in tasks] == [True, False, False, False]


@on_loop
async def test_cancelled_waiter_loses_no_place() -> None:
    """No place is lost if a waiter is cancelled before it has one, or at that very moment."""
    connection_count = ConnectionCount(total=1)
    places = FairQueue(connection_count)
    first, second, third, fourth = await arrive(places, *"ABCD")
    second.cancel()
    await asyncio.wait([second])
    places.leave("A")
    third.cancel()
    await asyncio.wait([third])
    assert await fourth
    assert (connection_count.count, places.waiting) == (1, 0)
    places.leave("D")
    assert connection_count.count == 0
    assert first.result()


@on_loop
async def test_stopped_queue_refuses_all_waiters() -> None:
    """Current waiters are refused when the server stops, and later ones at once."""
    connection_count = ConnectionCount(total=1)
    places = FairQueue(connection_count)
    tasks = await arrive(places, *"AAB")
    places.close()
    assert [await task for task in tasks] == [True, False, False]
    assert not await places.enter("A")
    places.leave("A")
    assert connection_count.count == 0
    assert await places.enter("A")
