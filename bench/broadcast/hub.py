"""The hub alone: it encodes, frames, logs and flushes messages to sinks that discard them.

The test follows a Go hub example, whose published figures are 11 us for 10 clients and 75 us for
100. An operation of the example ends when the message is in a queue, before it is written. Here it
ends when every sink has been written to. Neither uses sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import fastchat
from harness.report import BenchError, Result, Samples, Target, preemptions

TITLE = "hub: one broadcast to N sinks that discard"
CLOCK = (
    "one operation is hub.broadcast(17 bytes) + hub.flush(): encode, frame, log, and one write to\n"
    "         each of N sinks. A sink is a Python object whose write() does nothing; there is no\n"
    "         socket. 'turn': no flush(), but each operation has its own turn of the event loop\n"
    "         (call_soon). This includes the cost of an empty turn, which has its own row."
)
REFERENCES = [
    "Go hub example, as published: 11 us for 10 clients, 75 us for 100",
    "the same Go code, measured earlier on a 2-core machine: 2.5 us for 10 clients, 26 us for 100;"
    " it does not wait for its writes",
]
TARGETS = {10: Target(1.0), 100: Target(8.0)}
MESSAGE = b"seventeen bytes!!"
OBJECT = {"text": "hello!"}  # 17 bytes of JSON
SAMPLE_NS = 4_000_000  # long against the clock, short against a time slice
VERIFIED_BROADCASTS = 50

clock = time.perf_counter_ns


class Sink:
    """A transport that discards what is written to it and is never full."""

    __slots__ = ()

    def write(self, data: bytes | memoryview, /) -> None:
        pass

    def writelines(self, parts: list[bytes]) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class CountingSink(Sink):
    """A sink that stores the bytes that it receives."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = b""

    def write(self, data: bytes | memoryview, /) -> None:
        self.received += bytes(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.received += b"".join(parts)


async def run(client_counts: list[int], rounds: int) -> list[Result]:
    """Measure every variant in every round, with the real hub in a running loop."""
    for clients in client_counts:
        await _verify(clients)
    variants = [_Variants(clients) for clients in client_counts]
    empty = Samples()
    try:
        for variant in variants:
            variant.warm_up()
        for _ in range(rounds):
            for variant in variants:
                await variant.take_round()
            await _empty_turns(empty)
    finally:
        for variant in variants:
            variant.hub.close()
    results = [result for variant in variants for result in variant.results()]
    return [*results, empty.result("hub", "an empty loop turn, for comparison", 0, "us")]


class _Variants:
    """One hub with N sinks, and the variants of its use, which are timed in turn."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.hub = _hub_of([Sink() for _ in range(clients)])
        self._direct: dict[str, tuple[Callable[[Any], object], object]] = {
            "broadcast + flush": (self.hub.broadcast, MESSAGE),
            "broadcast_text + flush": (self.hub.broadcast_text, MESSAGE.decode()),
            "broadcast_json + flush": (self.hub.broadcast_json, OBJECT),
        }
        self._turn = "broadcast, turn"
        self._samples = {name: Samples() for name in (*self._direct, self._turn)}
        self._count = max(50, SAMPLE_NS // (100 * (clients + 5)))

    def warm_up(self) -> None:
        for send, message in self._direct.values():
            _time_flushed(send, self.hub.flush, message, 5 * self._count)

    async def take_round(self) -> None:
        for name, (send, message) in self._direct.items():
            for _ in range(3):
                before = preemptions()
                elapsed = _time_flushed(send, self.hub.flush, message, self._count)
                self._samples[name].add(elapsed, before)
            await asyncio.sleep(0)
        for _ in range(3):
            before = preemptions()
            elapsed = await _time_turns(lambda: self.hub.broadcast(MESSAGE), self._count)
            self._samples[self._turn].add(elapsed, before)

    def results(self) -> list[Result]:
        results = []
        for name, samples in self._samples.items():
            target = TARGETS.get(self.clients) if name == "broadcast + flush" else None
            results.append(samples.result("hub", name, self.clients, "us", target=target))
        return results


def _time_flushed(
    send: Callable[[Any], object], flush: Callable[[], object], message: object, count: int
) -> float:
    """Microseconds for one operation, from a run of `count` operations."""
    started = clock()
    for _ in repeat(None, count):
        send(message)
        flush()
    return (clock() - started) / count / 1000


async def _time_turns(operation: Callable[[], object], count: int) -> float:
    """Microseconds for one operation if each has its own turn of the event loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if done.done():
            return  # cancelled: the benchmark is being stopped
        if left < 0:
            # The last operation was flushed before this turn started.
            done.set_result(None)
            return
        operation()
        loop.call_soon(step)

    started = clock()
    loop.call_soon(step)
    await done
    return (clock() - started) / count / 1000


def _hub_of(sinks: list[Sink]) -> fastchat.Hub:
    hub = fastchat.Hub()
    for sink in sinks:
        hub.register(sink)
    return hub


async def _empty_turns(samples: Samples) -> None:
    before = preemptions()
    samples.add(await _time_turns(lambda: None, 2000), before)


async def _verify(clients: int) -> None:
    """Check, without a clock, that every sink receives every frame once and in order."""
    sinks = [CountingSink() for _ in range(clients)]
    hub = _hub_of(list(sinks))
    expected = b""
    for number in range(VERIFIED_BROADCASTS):
        message = b"message %09d" % number
        hub.broadcast(message)
        if number % 2:
            hub.flush()
        else:
            await asyncio.sleep(0)
        # RFC 6455 section 5.2: final binary frame, not masked, 17 bytes.
        expected += b"\x82\x11" + message
        hub.broadcast_text(message.decode())
        hub.flush()
        expected += b"\x81\x11" + message
    received = [sink.received for sink in sinks]
    hub.close()
    if any(bytes_ != expected for bytes_ in received):
        raise BenchError(f"not every one of {clients} sinks received what was broadcast")
