"""The surroundings of a fuzzed hub: choices from bytes, a simulated event loop, and transports.

The sockets are real, so short writes and EAGAIN are real too. Everything else happens only when
the target says so, so a run with the same bytes has the same order of events. Transports can
behave worse than asyncio's.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from support.hub import Sink


class Source:
    """Takes the place of the model's `random.Random`; after the last byte, every byte is 128."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 128

    def random(self) -> float:
        return self.byte() / 256

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.byte() % len(options)]

    def choices(self, options: Sequence[Any], weights: Sequence[int]) -> list[Any]:
        left = self.byte() * sum(weights) // 256
        for option, weight in zip(options, weights, strict=True):
            left -= weight
            if left < 0:
                return [option]
        raise AssertionError("a byte is below 256")

    def randint(self, low: int, high: int) -> int:
        value = self.byte()
        if high - low > 255:
            value = value << 8 | self.byte()
        return low + value % (high - low + 1)


class Handle:
    """A scheduled callback, like `asyncio.Handle`."""

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.callback = callback
        self.arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The part of an event loop that the hub and its tests use."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, Handle]] = []

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Handle:
        handle = Handle(callback, arguments)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        handle = Handle(callback, arguments)
        self._timers.append((self.now + delay, handle))
        return handle

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        """Run the callbacks that are ready; those that they schedule run in the next turn."""
        due = [handle for when, handle in self._timers if when <= self.now]
        self._timers = [(when, handle) for when, handle in self._timers if when > self.now]
        self._ready.extend(due)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if not handle.cancelled:
                handle.callback(*handle.arguments)


class Broken(Exception):
    """Raised by the methods of a transport that are `broken`."""


class Transport:
    """A transport over a socket. If `eager`, it sends at once, otherwise in `writable`.

    * ``shown``: whether the hub can get the socket (`get_extra_info`).
    * ``broken``: the names of the methods that raise.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, protocol: Any, *, shown: bool, eager: bool
    ) -> None:
        self.sock = sock
        self.broken: frozenset[str] = frozenset()
        self._loop = loop
        self._protocol = protocol
        self._shown = shown
        self._eager = eager
        self._high = 65536
        # References instead of copies, as in uvloop: what the hub hands over must stay valid until
        # it is sent.
        self._queue: deque[bytes | memoryview] = deque()
        self._held = 0
        self._paused = False
        self._closing = False
        self._lost = False

    # Called by the hub

    def write(self, data: bytes | memoryview) -> None:
        self._may_raise("write")
        if self._closing:
            return
        self._queue.append(data)
        self._held += len(data)
        if self._eager and len(self._queue) == 1:
            self._send()
        # uvloop pauses TCP above the limit, and TLS at the limit.
        over = self._held > self._high or (not self._shown and self._held >= self._high)
        if over and not self._paused and not self._closing:
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        self._may_raise("get_write_buffer_size")
        return self._held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" and self._shown else default

    def is_closing(self) -> bool:
        self._may_raise("is_closing")
        return self._closing

    def abort(self) -> None:
        self._may_raise("abort")
        self.fail()

    # Called by the loop

    def writable(self) -> None:
        """The socket may have room: send what is queued."""
        self._send()
        if self._paused and not self._held and not self._closing:
            self._paused = False
            self._protocol.resume_writing()

    def fail(self) -> None:
        """Lose the connection; the protocol is told in the next turn."""
        if not self._closing:
            self._closing = True
            self._queue.clear()
            self._held = 0
            self._loop.call_soon(self._connection_lost)

    @property
    def failed(self) -> bool:
        return self._closing

    def _connection_lost(self) -> None:
        self._lost = True
        self._protocol.connection_lost(None)
        self.sock.close()

    def _send(self) -> None:
        while self._queue and not self._closing:
            data = self._queue[0]
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self.fail()
                return
            self._held -= sent
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = memoryview(data)[sent:]

    def _may_raise(self, method: str) -> None:
        if method in self.broken:
            raise Broken(method)


class Bystander(Sink):
    """A member that only makes a room large; it keeps the last bytes that were written to it."""

    def write(self, data: bytes | memoryview) -> None:
        self.written = [bytes(data)]
        if self.on_write is not None:
            self.on_write()
