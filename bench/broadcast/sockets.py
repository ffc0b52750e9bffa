"""Broadcasts over loopback sockets, which a separate compiled process reads.

There are two groups. With one message in flight, one send() for each client dominates the cost, in
any language. With 64 in flight, the messages of one loop turn can share a send(), and the designs
differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from broadcast.lanes import Broadcaster, Lane, clock, hub_lane, picows_lane, websockets_lane
from harness.machine import Pins, package_version
from harness.report import BenchError, Result, Samples, Target, median, preemptions

ONE_TITLE = "sockets, one in flight"
ONE_CLOCK = (
    "'sending': the time inside hub.broadcast_text + flush, or inside the call of another\n"
    "         variant; for the floor, the time inside C. 'latency': from the start of that call\n"
    "         until the drainer has read the message for the last client, by the drainer's clock.\n"
    "         Messages are 120 bytes of JSON in frames of 122 bytes. 20 broadcasts warm up each\n"
    "         block. The drainer blocks in epoll. 'hub / floor' compares the medians of adjacent\n"
    "         blocks."
)
MANY_TITLE = "sockets, 64 in flight"
MANY_CLOCK = (
    "from the first broadcast until the last client has the last message, divided by the number\n"
    "         of messages. A message is in flight until ALL clients have it. When the drainer\n"
    "         reports completed messages (eventfd), one turn of the loop sends as many new ones.\n"
    "         The floor joins the messages of a turn. The time includes encoding."
)
WINDOW = 64
WARM_UP = 20  # after idle time the receiver acknowledges each of its first segments at once
PAUSE_NS = 30_000  # between samples, so that every drainer is back in epoll
RATIO_TARGET = Target(1.05)
MANY_TARGETS = {10: Target(3.5), 100: Target(30.0)}
BLOCK_NS = 15_000_000  # about the length of a block of samples
WINDOW_NS = 25_000_000
BLOCK_TIMEOUT_S = 20.0

Opener = Callable[[int, Pins], AbstractAsyncContextManager[list[Broadcaster]]]


async def run(
    client_counts: list[int], rounds: int, pins: Pins, *, hub: bool, others: bool
) -> tuple[list[Result], list[Result], list[str]]:
    """Return the rows of one in flight, the rows of 64 in flight, and the skipped variants."""
    one: list[Result] = []
    many: list[Result] = []
    openers, skipped = _choose(hub=hub, others=others)
    for clients in client_counts:
        async with AsyncExitStack() as stack:
            broadcasters: list[Broadcaster] = []
            for opener in openers:
                broadcasters += await stack.enter_async_context(opener(clients, pins))
            if broadcasters:
                for broadcaster in broadcasters:
                    await _check(broadcaster)
                one += await _one_in_flight(broadcasters, rounds)
                many += await _many_in_flight(broadcasters, rounds)
    return one, many, skipped


def _choose(*, hub: bool, others: bool) -> tuple[list[Opener], list[str]]:
    openers: list[Opener] = [hub_lane] if hub else []
    skipped = []
    if others:
        for package, opener in (("websockets", websockets_lane), ("picows", picows_lane)):
            if package_version(package):
                openers.append(opener)
            else:
                skipped.append(f"rows of {package}: it is not installed (pip install {package})")
    return openers, skipped


async def _check(broadcaster: Broadcaster) -> None:
    """Check that both ways of sending reach all clients, before anything is timed."""
    lane = broadcaster.lane
    broadcaster.send_now(lane.next_numbers(1)[0])
    lane.drainer.wait(lane.sent)
    await _Window(broadcaster, WINDOW * 2).run()


async def _one_in_flight(broadcasters: list[Broadcaster], rounds: int) -> list[Result]:
    sending = {one.name: Samples() for one in broadcasters}
    latency = {one.name: Samples() for one in broadcasters}
    ratios = Samples()
    clients = broadcasters[0].lane.clients
    count = max(10, min(100, BLOCK_NS // (4000 * clients + 60_000)))
    for number in range(rounds):
        # The order is reversed in every second round, so that no variant is always the first.
        order = broadcasters if number % 2 else broadcasters[::-1]
        medians = {}
        for one in order:
            block = await _block(one, count, latency[one.name])
            sending[one.name].kept += block.kept
            sending[one.name].disturbed += block.disturbed
            medians[one.name] = median(block.kept or block.disturbed)
        if "hub" in medians:
            floor = next(one.name for one in broadcasters if "floor" in one.name)
            ratios.kept.append(medians["hub"] / medians[floor])
    results = []
    for name, samples in sending.items():
        results.append(samples.result("sockets one", f"{name}: sending", clients, "us"))
    for name, samples in latency.items():
        results.append(samples.result("sockets one", f"{name}: latency", clients, "us"))
    if ratios.kept:
        ratio = ratios.result(
            "sockets one", "hub / floor: sending", clients, "x", target=RATIO_TARGET
        )
        results.insert(len(sending), ratio)
    return results


async def _block(one: Broadcaster, count: int, latency: Samples) -> Samples:
    """Warm up the sockets, and then take `count` samples of one broadcast each."""
    lane = one.lane
    sending = Samples()
    for number in range(WARM_UP + count):
        _pause()
        message = lane.next_numbers(1)[0]
        before, started = preemptions(), clock()
        spent = one.send_now(message)
        arrived = lane.drainer.wait(lane.sent)
        if number >= WARM_UP:
            sending.add(spent / 1000, before)
            latency.add((arrived - started) / 1000, before)
        await asyncio.sleep(0)
    return sending


def _pause() -> None:
    until = clock() + PAUSE_NS
    while clock() < until:
        pass


async def _many_in_flight(broadcasters: list[Broadcaster], rounds: int) -> list[Result]:
    samples = {one.name: Samples() for one in broadcasters}
    clients = broadcasters[0].lane.clients
    # Long enough to settle; by the first, untimed run of each.
    counts = {one.name: await _count_for(one) for one in broadcasters}
    for number in range(rounds):
        for one in broadcasters if number % 2 else broadcasters[::-1]:
            # Unlike one broadcast, a run of many is always interrupted somewhere.
            samples[one.name].kept.append(await _Window(one, counts[one.name]).run())
    results = []
    for name, taken in samples.items():
        target = MANY_TARGETS.get(clients) if name == "hub" else None
        results.append(taken.result("sockets 64", name, clients, "us", target=target))
    return results


async def _count_for(one: Broadcaster) -> int:
    each_us = await _Window(one, 4 * WINDOW).run()
    return max(4 * WINDOW, int(WINDOW_NS / 1000 / each_us))


class _Window:
    """Keeps 64 messages in flight until all clients have received `count` messages."""

    def __init__(self, broadcaster: Broadcaster, count: int) -> None:
        self._broadcaster = broadcaster
        self._lane: Lane = broadcaster.lane
        self._first = self._lane.sent
        self._last = self._first + count
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> float:
        """Return the microseconds for one message."""
        drainer = self._lane.drainer
        drainer.set_signalling(True)
        self._loop.add_reader(drainer.event_fd, self._refill)
        try:
            async with asyncio.timeout(BLOCK_TIMEOUT_S):
                started = clock()
                self._refill()
                await self._done
        except TimeoutError:
            raise drainer.failure("the messages in flight did not arrive") from None
        finally:
            self._loop.remove_reader(drainer.event_fd)
            drainer.set_signalling(False)
            drainer.drain_signal()
        return (drainer.last_ns - started) / (self._last - self._first) / 1000

    def _refill(self) -> None:
        drainer = self._lane.drainer
        drainer.drain_signal()
        completed = drainer.completed
        if completed >= self._last:
            if not self._done.done():
                self._done.set_result(None)
            return
        room = min(completed + WINDOW, self._last) - self._lane.sent
        if room > 0:
            try:
                self._broadcaster.send_batch(self._lane.next_numbers(room))
            except BenchError as error:
                self._done.set_exception(error)
