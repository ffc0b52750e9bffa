"""A small model of the hub, and random operations on both, checked on the wire.

The model knows nothing of batches, cursors and slices. It says which frames are due to a
connection: of each room all publications during its membership, in order; its replies in order; and
how the two can be mixed. All received bytes are compared with that.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.hub import (
    CLOSE,
    LIMIT_S,
    PING,
    TEXT,
    Client,
    Frame,
    Rig,
    close_payload,
    decode,
    encode,
    turn,
)

OPERATIONS = 1500

ROOMS = ("a", "b", "c", "d")
MAX_CLIENTS = 12

#: The bytes that the hub's log counts for a batch beyond its content (BATCH_OVERHEAD there).
BATCH_OVERHEAD = 80


class Item:
    """A message that is due to one connection; it was published or sent between two moments."""

    __slots__ = ("began", "ended", "optional", "payload", "strict")

    def __init__(self, payload: bytes, began: int, *, optional: bool = False) -> None:
        self.payload = payload
        self.began = began
        self.ended = began
        self.optional = optional  # published while the membership began or ended
        self.strict = True  # whether a reply must not overtake earlier publications


def _take_from(queue: deque[Item], payload: bytes) -> Item:
    """Remove the item with this payload, which must be the first, with two exceptions.

    Optional items before it can be missing. An item can arrive later than this one if this one was
    sent from a callback inside the call that sent the other.
    """
    passed: list[Item] = []
    while queue:
        item = queue.popleft()
        if item.payload == payload:
            assert all(other.ended > item.began for other in passed), (
                f"{payload[:12]!r} came instead of {passed[0].payload[:12]!r}"
            )
            queue.extendleft(reversed(passed))
            return item
        if not item.optional:
            passed.append(item)
    raise AssertionError(f"{payload[:12]!r} was not due")


class Peer:
    """A connection in the model: the messages that are due to it, and the ways in which it can
    end."""

    def __init__(self, number: int, client: Client) -> None:
        self.number = number
        self.client = client
        self.rooms: set[str] = set()
        self.moving: list[str] = []  # rooms that the connection is joining or leaving at the moment
        self.due: dict[str, deque[Item]] = {room: deque() for room in ROOMS}
        self.replies: deque[Item] = deque()
        self.stalled = False
        self.open = True  # the model still adds due messages
        self.close: bytes | None = None  # the close frame that must arrive after all messages
        self.cut = False  # evicted or aborted: a prefix of the due messages is enough
        self.lag_when_cut = 0  # unread bytes at its eviction, plus 1
        self.pings = 0
        self.seen_close: bytes | None = None

    def __repr__(self) -> str:
        return f"peer {self.number}"

    def take(self, frame: Frame) -> None:
        """Match a frame that has arrived; AssertionError if it is not due now."""
        assert self.seen_close is None, f"{self}: {frame.opcode} behind the close frame"
        if frame.opcode == PING:
            assert frame.payload == b""
            self.pings += 1
        elif frame.opcode == CLOSE:
            self.seen_close = frame.payload
            if frame.payload == self.close:
                assert self.is_served(), f"{self}: closed before it had everything"
            else:
                assert self.lag_when_cut, f"{self}: closed without a cause, {frame.payload!r}"
        else:
            assert frame.opcode == TEXT
            self._take_text(frame.payload)

    def _take_text(self, payload: bytes) -> None:
        kind = chr(payload[0]) if payload else ROOMS[0]  # only that room has empty payloads
        item = _take_from(self.replies if kind == "=" else self.due[kind], payload)
        if kind != "=":
            overtaken = self.replies and self.replies[0].ended < item.began
            assert not overtaken, f"{self}: {payload[:12]!r} has overtaken a reply"
        elif item.strict:
            for room, others in self.due.items():
                first = next((other for other in others if not other.optional), None)
                assert first is None or first.ended >= item.began, (
                    f"{self}: reply {payload[:12]!r} has overtaken {first.payload[:12]!r} in {room}"
                )

    def is_served(self) -> bool:
        """Whether no message is due any more."""
        return all(item.optional for queue in (*self.due.values(), self.replies) for item in queue)

    def lag(self) -> int:
        """The largest number of unread bytes in one room, as a log counts them."""
        return max(
            sum(len(encode(TEXT, item.payload)) + BATCH_OVERHEAD for item in queue)
            for queue in self.due.values()
        )


class WithoutDescriptor:
    """A transport that hides its socket, so that all bytes pass through its `write`."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Run:
    """The operations of one seed on a hub and its model; with `tls` most connections are
    encrypted."""

    def __init__(self, seed: int, *, tls: bool = False) -> None:
        self.tls = tls
        self.random = random.Random(seed)
        self.max_lag_bytes = self.random.choice((2048, 20_000, 100_000))
        self.rig = Rig(
            clock=True,
            max_lag_bytes=self.max_lag_bytes,
            max_connection_lag_bytes=2 * self.max_lag_bytes,
            max_lag_total_bytes=6 * self.max_lag_bytes,
            slice_visits=self.random.choice((1, 2, 3, 7, 256)),
            ping_interval_s=self.random.choice((0, 7)),
            pong_timeout_s=5,
        )
        self.hub = self.rig.hub
        self.peers: list[Peer] = []
        self.moment = 0
        self.serial = 0
        self.depth = 0  # the depth of operations inside a transport's callback
        self.meddle = self.random.random() < 0.7
        self.history: deque[str] = deque(maxlen=25)
        self.weights: dict[Callable[[], None], int] = {
            self.publish: 120,
            self.burst: 24,
            self.publish_but_one: 32,
            self.reply: 36,
            self.reply_often: 2,
            self.join: 50,
            self.leave: 20,
            self.stall: 20,
            self.resume: 20,
            self.read_a_bit: 24,
            self.flush: 12,
            self.sweep: 8,
            self.close: 2,
            self.abort: 2,
            self.unregister: 1,
            self.reset: 1,
            self.stop_sending: 1,
        }

    async def run(self) -> None:
        async with self.rig:
            for _ in range(3):
                await self.connect()
            for _ in range(OPERATIONS):
                chance = self.random.random()
                if chance < 0.22:
                    await self.turn()
                elif chance < 0.27 and sum(peer.open for peer in self.peers) < MAX_CLIENTS:
                    await self.connect()
                else:
                    self.pick(self.weights)()
                self.look()
                self.hub.verify()
            await self.finish()

    def pick(self, weights: dict[Callable[[], None], int]) -> Callable[[], None]:
        return self.random.choices(list(weights), list(weights.values()))[0]

    # What the operations share

    def now(self) -> int:
        self.moment += 1
        return self.moment

    def note(self, what: str) -> None:
        self.history.append("  " * self.depth + what)

    def payload(self, kind: str) -> bytes:
        self.serial += 1
        chance = self.random.random()
        if chance < 0.02:
            size = self.random.randint(1000, 70_000)
        else:
            size = self.random.choice((8, 20, 60, 125, 126, 300, 1000))
            if chance > 0.97 and kind == ROOMS[0]:
                return b""
        return f"{kind}{self.serial:06} ".encode().ljust(size, b"%x" % (self.serial % 16))

    def someone(self, holds: Callable[[Peer], bool] = lambda _: True) -> Peer | None:
        self.look()
        able = [peer for peer in self.peers if peer.open and holds(peer)]
        return self.random.choice(able) if able else None

    def add_publication(self, room: str, payload: bytes, but: Peer | None = None) -> list[Item]:
        items = []
        began = self.now()
        for peer in self.peers:
            moving = room in peer.moving
            if peer.open and peer is not but and (room in peer.rooms or moving):
                items.append(Item(payload, began, optional=moving))
                peer.due[room].append(items[-1])
        return items

    @contextmanager
    def moving(self, peer: Peer, *rooms: str) -> Iterator[None]:
        """While this context is open, publications in these rooms are optional for `peer`."""
        peer.moving += rooms
        yield
        for room in rooms:
            peer.moving.remove(room)

    def look(self) -> None:
        """Note the connections that the hub has closed on its own account."""
        for peer in self.peers:
            if peer.open and peer.client.conn.closed:
                self.note(f"{peer} is out")
                peer.open = False
                peer.lag_when_cut = 1 + peer.lag()
                peer.cut = peer.cut or peer.close is None
        assert not self.rig.complaints, self.rig.complaints

    def on_pause(self) -> None:
        """Sometimes call the hub, as a protocol can in its `pause_writing`."""
        if self.meddle and self.depth < 2 and self.random.random() < 0.4:
            self.depth += 1
            self.pick({self.publish: 5, self.reply: 4, self.join: 2, self.leave: 3, self.close: 1,
                       self.flush: 1, self.abort: 1, self.unregister: 1})()  # fmt: skip
            self.depth -= 1

    # Operations

    async def connect(self) -> None:
        tls = self.tls and self.random.random() < 0.8
        direct = tls or self.random.random() < 0.75
        unix = self.random.random() < 0.6
        # A TCP window below some kilobytes opens only by the kernel's timers, 0.2 s each.
        sizes = (2048, 4096, 16384) if unix else (16384, 65536)
        client = await self.rig.connect(
            buffers=self.random.choice(sizes),
            unix=unix,
            tls=tls,
            wrap=(lambda transport: transport) if direct else WithoutDescriptor,
        )
        client.served.on_pause = self.on_pause
        self.peers.append(Peer(len(self.peers), client))
        self.note(f"connect {self.peers[-1]}, {direct=}, {tls=}")
        for _ in range(self.random.randint(0, 3)):
            self.join(self.peers[-1])

    def publish(self) -> None:
        room = self.random.choice(ROOMS)
        payload = self.payload(room)
        self.note(f"publish {payload[:8]!r}, {len(payload)} bytes")
        items = self.add_publication(room, payload)
        self.hub.publish(room, payload)
        self.end(items)

    def end(self, items: list[Item]) -> None:
        ended = self.now()
        for item in items:
            item.ended = ended

    def burst(self) -> None:
        for _ in range(self.random.randint(2, 30)):
            self.publish()

    def publish_but_one(self) -> None:
        peer = self.someone(lambda peer: bool(peer.rooms))
        if peer is None:
            return
        room = self.random.choice(sorted(peer.rooms))
        payload = self.payload(room)
        self.note(f"publish {payload[:8]!r}, {len(payload)} bytes, but not to {peer}")
        meddle, self.meddle = self.meddle, False
        items = self.add_publication(room, payload, peer)
        self.hub.publish(room, payload, peer.client.conn)
        if peer.client.conn.blocked:  # a blocked member cannot be excluded
            items.append(Item(payload, items[0].began if items else self.now()))
            peer.due[room].append(items[-1])
        self.end(items)
        self.meddle = meddle

    def reply(self) -> None:
        if peer := self.someone():
            self.send(peer, self.payload("="))

    def reply_often(self) -> None:
        """Send replies to one connection until it is evicted, unless it reads."""
        peer = self.someone(lambda peer: peer.client.conn.blocked)
        while peer is not None and peer.open and self.random.random() < 0.95:
            self.send(peer, self.payload("=").ljust(25_000, b"~"))
            self.look()

    def send(self, peer: Peer, payload: bytes) -> None:
        item = Item(payload, self.now())
        self.note(f"reply {item.payload[:8]!r}, {len(item.payload)} bytes, to {peer}")
        item.strict = not peer.client.conn.blocked
        item.optional = True  # until the result of send() is known
        peer.replies.append(item)
        item.optional = self.hub.send(peer.client.conn, item.payload) is not True
        item.strict = item.strict and not peer.client.conn.blocked
        self.end([item])

    def join(self, peer: Peer | None = None) -> None:
        peer = peer or self.someone()
        if peer is None or not peer.open:
            return
        room = self.random.choice(ROOMS)
        self.note(f"{peer} joins {room}")
        already = room in peer.rooms
        with self.moving(peer, *(() if already else (room,))):
            try:
                self.hub.join(peer.client.conn, room)
            except RuntimeError:
                assert peer.client.conn.closed
                return
        if room in peer.client.conn.rooms:  # otherwise a callback made it leave meanwhile
            peer.rooms.add(room)

    def leave(self) -> None:
        peer = self.someone(lambda peer: bool(peer.rooms))
        if peer is None:
            return
        room = self.random.choice(sorted(peer.rooms))
        self.note(f"{peer} leaves {room}")
        with self.moving(peer, room):
            self.hub.leave(peer.client.conn, room)
        if room not in peer.client.conn.rooms:
            peer.rooms.discard(room)

    def stall(self) -> None:
        if peer := self.someone():
            self.note(f"{peer} stalls")
            peer.stalled = True

    def resume(self) -> None:
        if peer := self.someone(lambda peer: peer.stalled):
            self.note(f"{peer} resumes")
            peer.stalled = False

    def read_a_bit(self) -> None:
        if self.peers:
            self.receive(self.random.choice(self.peers), self.random.randint(1, 3000))

    def flush(self) -> None:
        self.note("flush")
        self.hub.flush()

    def sweep(self) -> None:
        step = self.random.choice((0.5, 1, 2, 2.9, 20))
        for _ in range(self.random.randint(1, 5)):
            self.rig.clock.now += step
            self.note(f"sweep at {self.rig.clock.now}")
            self.hub.sweep()
            self.look()

    def close(self) -> None:
        peer = self.someone()
        if peer is None:
            return
        self.note(f"close {peer}")
        reason = f"number {self.serial}"
        peer.close = close_payload(4000, reason)
        with self.moving(peer, *peer.rooms):
            self.hub.close_connection(peer.client.conn, 4000, reason)
        # Sealing can have evicted it: then its close frame is that of the eviction.
        peer.lag_when_cut = 1 + peer.lag()
        peer.open = False
        peer.rooms.clear()

    def abort(self) -> None:
        """Abort a transport as its owner can, before the hub is informed."""
        if peer := self.someone():
            self.note(f"abort {peer}")
            peer.cut = True
            peer.client.transport.abort()

    def unregister(self) -> None:
        if peer := self.someone():
            self.note(f"unregister {peer}")
            peer.cut, peer.open = True, False
            self.hub.unregister(peer.client.transport)
            peer.client.transport.abort()

    def stop_sending(self) -> None:
        """Close a connection without a frame; its transport ends like one that was aborted."""
        if peer := self.someone():
            self.note(f"stop sending to {peer}")
            peer.cut, peer.open = True, False
            self.hub.stop_sending(peer.client.conn)
            peer.client.transport.abort()

    def reset(self) -> None:
        if peer := self.someone(lambda peer: not peer.client.ended):
            self.note(f"{peer} resets its connection")
            peer.cut = True
            peer.client.ended = True
            peer.client.reset()

    async def turn(self) -> None:
        self.note("turn")
        await turn()
        self.look()
        for peer in self.peers:
            if not peer.stalled:
                self.receive(peer, self.random.choice((500, 5000, 1 << 20)))

    def receive(self, peer: Peer, limit: int) -> None:
        if peer.client.ended:
            return
        peer.client.receive(limit)
        for frame in decode(peer.client.buffer):
            peer.take(frame)
        if peer.pings and self.random.random() < 0.9:
            peer.pings = 0
            peer.client.conn.pong()

    # The end

    async def finish(self) -> None:
        """Let all connections read everything, then close the hub."""
        self.note("the end")
        self.meddle = False
        await self.drain()
        self.hub.flush()  # finish a round that has no member left to serve
        stats = self.hub.stats()
        assert stats["log_bytes"] == 0, stats
        for peer in self.peers:
            if peer.open:
                assert not peer.client.conn.blocked, f"{peer} is still blocked"
                peer.close = close_payload(1001, "the end")
                peer.open = False
        self.hub.close(1001, "the end")
        await self.drain()
        self.check_evictions()

    async def drain(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not all(self.has_all(peer) for peer in self.peers):
                await asyncio.sleep(0.0005)
                self.look()
                for peer in self.peers:
                    self.receive(peer, 1 << 20)
                self.hub.verify()
        for peer in self.peers:
            may_be_torn = peer.client.transport.is_closing()
            assert may_be_torn or not peer.client.buffer, f"{peer}: part of a frame"

    def has_all(self, peer: Peer) -> bool:
        if peer.client.ended:
            assert peer.client.transport.is_closing() or peer.cut, f"{peer} ended too early"
            return True
        if peer.open and not peer.cut:
            return peer.is_served() and not peer.client.conn.blocked
        return peer.seen_close is not None

    def check_evictions(self) -> None:
        reports = {conn: (code, reason) for conn, code, reason in self.rig.evicted}
        assert len(reports) == len(self.rig.evicted), "reported twice"
        for peer in self.peers:
            code, reason = reports.get(peer.client.conn, (0, ""))
            if peer.seen_close not in (None, peer.close):
                assert peer.seen_close == close_payload(code, reason)
            if reason == "fell too far behind":
                assert peer.lag_when_cut > self.max_lag_bytes, f"{peer} was evicted too early"
