"""The target `hub`: bytes are operations on a hub, checked by tests/support/hub_model.py.

In the random test of the hub a seed chooses the next operation. Here the bytes choose it, so a
fuzzer can take a sequence that reached new code and vary it. The loop and the transports are
simulated (`simulated`), and misbehave more than real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from simulated import Broken, Bystander, Loop, Source, Transport
from support.hub import BINARY, CLOSE, PING, PONG, TEXT, Client, Frame, Rig, close_payload, decode
from support.hub_model import MAX_CLIENTS, ROOMS, Item, Peer, Run

#: Bystanders in a crowd: the flushes of a room with more than 256 members are paced and sliced.
CROWD = 260
#: Sweeps at the end of a run, after which every client must have everything.
LAST_SWEEPS = 30


class Near:
    """The server's end of a connection. It tells the hub what its transport reports."""

    def __init__(self, run: HubRun) -> None:
        self.run = run
        self.conn: Any = None
        self.transport: Any = None
        self.deaf = False  # does not tell the hub when to pause and resume
        self.forgetful = False  # does not call `unregister`

    def pause_writing(self) -> None:
        if self.conn is not None and not self.deaf:
            self.conn.pause_writing()
        self.run.on_pause()

    def resume_writing(self) -> None:
        if self.conn is not None and not self.deaf:
            self.conn.resume_writing()
        self.run.on_pause()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.forgetful:
            self.run.hub.unregister(self.transport)
        self.run.on_pause()


class FuzzedPeer(Peer):
    """The model's peer knows text, close and empty ping frames; this one takes others as text."""

    def take(self, frame: Frame) -> None:
        if frame.opcode in {BINARY, PONG} or (frame.opcode == PING and frame.payload):
            frame = Frame(TEXT, frame.payload)
        super().take(frame)


class HubRun(Run):
    """Runs the operations of one input on a hub and on its model."""

    def __init__(self, data: bytes) -> None:
        # `Run.__init__` is not called: this sets the same attributes, with bytes as the source.
        self.loop = Loop()
        asyncio._set_running_loop(self.loop)
        self.random = Source(data)
        # Without the model, a run can contain operations that the model cannot follow.
        self.checked = self.random.random() < 0.75
        self.meddle = self.random.random() < 0.75
        self.max_lag_bytes = self.random.choice((1024, 2048, 20_000, 100_000))
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
        self.other = Rig().hub
        self.peers: list[Peer] = []
        self.crowd: list[Bystander] = []
        self.torn = False  # what arrives may belong to another connection
        self.moment = self.serial = self.depth = 0
        self.history = deque(maxlen=25)
        self.weights = self.usual_weights()
        self.inside = {
            self.publish: 5, self.reply: 4, self.join: 2, self.leave: 3, self.close: 1,
            self.flush: 1, self.abort: 1, self.unregister: 1, self.end_turn: 1, self.connect: 1,
            self.evict: 1, self.break_one: 1, self.register: 1, self.late: 1,
        }  # fmt: skip
        if not self.checked:
            self.weights |= {self.hub_close: 1, self.hub_abort: 1}
            self.inside |= {self.hub_close: 1, self.hub_abort: 1, self.sweep: 1}

    def usual_weights(self) -> dict[Callable[[], None], int]:
        return {
            self.turn: 40, self.connect: 12, self.publish: 24, self.burst: 8,
            self.publish_but_one: 12, self.broadcast: 8, self.reply: 12, self.control: 4,
            self.reply_often: 2, self.join: 20, self.register: 5, self.leave: 10, self.stall: 8,
            self.resume: 8, self.read_a_bit: 8, self.flush: 6, self.end_turn: 4, self.sweep: 8,
            self.close: 3, self.evict: 2, self.abort: 2, self.unregister: 2, self.reset: 3,
            self.break_one: 4, self.be_odd: 3, self.misuse: 5, self.elsewhere: 3,
            self.gather: 1, self.reattach: 2, self.late: 4,
        }  # fmt: skip

    def run(self) -> None:
        """Run all operations, then the end. Raises AssertionError if the hub is wrong."""
        try:
            self.connect()
            while not self.random.empty:
                self.pick(self.weights)()
                self.look()
                self.hub.verify()
            self.finish()
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        self.meddle = False
        for peer in self.peers:
            peer.client.transport.broken = frozenset()
            peer.client.transport.fail()
        self.hub.abort()
        self.other.abort()
        self.loop.turn()
        for peer in self.peers:
            peer.client.sock.close()
            peer.client.transport.sock.close()
        asyncio._set_running_loop(None)

    def on_pause(self) -> None:
        """A callback of a transport, in which a protocol can call the hub again."""
        if self.meddle and self.depth < 2 and self.random.random() < 0.4:
            self.depth += 1
            try:
                self.pick(self.inside)()
            finally:
                self.depth -= 1

    def look(self) -> None:
        for peer in self.peers:
            # If its transport has failed, any part of what is due may be missing.
            peer.cut = peer.cut or peer.client.transport.failed
        super().look()

    # Operations that the model does not have, or has in another way

    def connect(self, *, join: bool = True) -> None:
        if sum(peer.open for peer in self.peers) >= MAX_CLIENTS or len(self.peers) >= 40:
            return
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.random.choice((1, 8192, 65536)))
        near.setblocking(False)
        far.setblocking(False)
        served = Near(self)
        style = self.random.byte()
        served.transport = Transport(
            self.loop, near, served, shown=style % 4 != 0, eager=style & 4 == 0
        )
        client = Client(served, far)
        peer = FuzzedPeer(len(self.peers), client)
        try:
            served.conn = self.hub.attach(served.transport, peer)
        except RuntimeError:  # the hub is closed
            near.close()
            far.close()
            return
        self.peers.append(peer)
        self.note(f"connect {peer}, {style=}")
        for _ in range(style >> 3 & 3):
            self.join(peer)

    def join(self, peer: Peer | None = None) -> None:
        super().join(peer)

    def register(self) -> None:
        """Join a room by `Hub.register`, with the transport instead of the connection."""
        peer = self.someone()
        if peer is None:
            return
        room = self.random.choice(ROOMS)
        self.note(f"{peer} is registered in {room}")
        joining = () if room in peer.rooms else (room,)
        with self.moving(peer, *joining), contextlib.suppress(RuntimeError):  # closed
            assert self.hub.register(peer.client.transport, room) is peer.client.conn
        if room in peer.client.conn.rooms:
            peer.rooms.add(room)

    def broadcast(self) -> None:
        """Publish by the methods of the library: text, and any buffer."""
        room = self.random.choice(ROOMS)
        payload = self.payload(room)
        self.note(f"broadcast {payload[:8]!r}, {len(payload)} bytes")
        items = self.add_publication(room, payload)
        publish, data = self.random.choice((
            (self.hub.broadcast, payload),
            (self.hub.broadcast, bytearray(payload)),
            (self.hub.broadcast, memoryview(payload + b"!")[:-1]),
            (self.hub.broadcast_text, payload.decode()),
            (self.hub.broadcast_text, memoryview(payload)),
        ))  # fmt: skip
        with contextlib.suppress(*(() if self.checked else (RuntimeError,))):
            publish(data, room)
        self.end(items)

    def control(self) -> None:
        """Send a ping, a pong or a binary message to one client."""
        if peer := self.someone():
            self.send(peer, self.payload("=")[:125], self.random.choice((BINARY, PING, PONG)))

    def send(self, peer: Peer, payload: bytes, opcode: int = TEXT) -> None:
        item = Item(payload, self.now())
        self.note(f"reply {payload[:8]!r}, {len(payload)} bytes, {opcode=}, to {peer}")
        item.strict = not peer.client.conn.blocked
        item.optional = True  # until it is known that it was sent
        peer.replies.append(item)
        item.optional = self.hub.send(peer.client.conn, payload, opcode) is not True
        item.strict = item.strict and not peer.client.conn.blocked
        self.end([item])

    def reply_often(self) -> None:
        peer = self.someone(lambda peer: peer.client.conn.blocked)
        for _ in range(self.random.byte() % 20 if peer is not None else 0):
            if not peer.open:
                break
            self.send(peer, self.payload("=").ljust(25_000, b"~"))
            self.look()

    def abort(self) -> None:
        with contextlib.suppress(Broken):
            super().abort()

    def unregister(self) -> None:
        with contextlib.suppress(Broken):
            super().unregister()

    def late(self) -> None:
        """Call the hub for a closed connection: the calls have no effect."""
        self.look()
        closed = [peer for peer in self.peers if peer.client.conn.closed]
        if not closed:
            return
        peer = self.random.choice(closed)
        conn, hub, room = peer.client.conn, self.hub, self.random.choice(ROOMS)
        self.note(f"too late for {peer}")
        assert hub.send(conn, b"=late") is False
        hub.stop_sending(conn)
        conn.pause_writing()
        conn.resume_writing()
        conn.pong()
        hub.leave(conn, room)
        hub.close_connection(conn, 4001, "late")
        assert hub.join(conn, room) is False
        assert conn.closed
        assert not conn.rooms

    def end_turn(self) -> None:
        self.note("end of turn")
        self.hub.end_turn()

    def evict(self) -> None:
        room = self.random.choice(ROOMS)
        self.note(f"evict {room}")
        self.hub.evict(room, 4010, "so it is")

    def break_one(self) -> None:
        """Make methods of a transport raise from now on."""
        if peer := self.someone():
            methods = ("write", "get_write_buffer_size", "is_closing", "abort")
            chosen = self.random.byte()
            broken = frozenset(each for bit, each in enumerate(methods) if chosen >> bit & 1)
            self.note(f"{peer} is broken: {sorted(broken)}")
            peer.cut = peer.cut or bool(broken)
            peer.client.transport.broken = broken

    def be_odd(self) -> None:
        """Make a protocol break its contract from now on, or pause without a reason."""
        peer = self.someone()
        if peer is None:
            return
        match self.random.byte() % 4:
            case 0:
                peer.client.served.deaf = True
            case 1:
                peer.client.served.deaf = False
            case 2 if not self.checked:  # the hub may write to the socket of another connection
                peer.client.served.forgetful = self.torn = True
            case 3:
                peer.client.conn.pause_writing()  # without a reason
        self.note(f"{peer} is odd")

    def reattach(self) -> None:
        """Detach a connection, and attach its transport again as another connection."""
        peer = self.someone(lambda peer: not peer.client.transport.failed)
        if peer is None or self.checked:
            return
        self.note(f"{peer} is attached anew")
        self.hub.detach(peer.client.conn)
        with contextlib.suppress(RuntimeError, Broken):
            peer.client.served.conn = self.hub.attach(peer.client.transport, peer)

    def gather(self) -> None:
        """Add a crowd to a room; if there is one, make some of it stall or go on."""
        if not self.crowd:
            room = self.random.choice(ROOMS)
            self.note(f"a crowd comes to {room}")
            with contextlib.suppress(RuntimeError):
                for _ in range(CROWD):
                    self.crowd.append(Bystander())
                    self.hub.register(self.crowd[-1], room)
            return
        first, step, held = self.random.byte(), self.random.byte() + 1, self.random.byte() & 1
        self.note(f"from bystander {first} on, each {step} holds {held}")
        for each in self.crowd[first::step]:
            each.held = held
            each.on_write = self.on_pause if held else None

    def misuse(self) -> None:
        """Call the hub with a mistake: it must refuse the call and change nothing."""
        peer = self.someone()
        if peer is None:
            return
        conn, hub = peer.client.conn, self.hub
        kinds = (TypeError, ValueError, RuntimeError, UnicodeError, BufferError)
        call = self.random.choice((
            lambda: hub.send(conn, b"x" * 126, PING),
            lambda: hub.send(conn, b"", CLOSE),
            lambda: hub.send(conn, 7),
            lambda: hub.send(conn, "\ud800"),
            lambda: hub.send(None, b""),
            lambda: hub.broadcast("text", "a"),
            lambda: hub.send(conn, memoryview(b"abcd")[::2]),
            lambda: hub.publish("a", None),
            lambda: hub.publish("a", b"", peer),
            lambda: hub.close_connection(conn, 1005 + 1),
            lambda: hub.close_connection(conn, 5000),
            lambda: hub.close(999),
            lambda: hub.join(conn, None),
            lambda: hub.attach(peer.client.transport),
            lambda: self.other.join(conn, "a"),
            lambda: self.other.send(conn, b""),
            lambda: self.other.publish("a", b"", object()),
            lambda: type(conn)(),
            lambda: self.other.detach(conn),
        ))  # fmt: skip
        self.note("misuse")
        try:
            call()
        except (*kinds, Broken):
            return
        raise AssertionError("a call with a mistake in it was accepted")

    def elsewhere(self) -> None:
        """Call the hub from another thread, and run the turn in which it does the work."""
        room = self.random.choice(ROOMS)
        payload = self.payload(room)
        self.note(f"elsewhere {payload[:8]!r}")
        meddle, self.meddle = self.meddle, False
        items = self.add_publication(room, payload)
        calls = (lambda: self.hub.broadcast(bytearray(payload), room), self.hub.flush)

        def work() -> None:
            for call in calls:
                with contextlib.suppress(RuntimeError):  # the hub is closed
                    call()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.loop.turn()
        self.look()
        self.end(items)
        self.meddle = meddle

    def hub_close(self) -> None:
        self.note("the hub closes")
        self.hub.close(1012, "in the middle of it")

    def hub_abort(self) -> None:
        self.note("the hub aborts")
        self.hub.abort()

    # The loop

    def turn(self) -> None:
        self.note("turn")
        self.go_round()
        for peer in self.peers:
            if not peer.stalled:
                self.receive(peer, self.random.choice((500, 5000, 1 << 20)))

    def go_round(self) -> None:
        self.loop.now = self.rig.clock.now
        self.loop.turn()
        for peer in self.peers:
            if peer.client.ended:
                peer.client.transport.fail()  # the loop has read the end of the stream
            peer.client.transport.writable()
        self.look()

    def receive(self, peer: Peer, limit: int) -> None:
        if self.checked:
            super().receive(peer, limit)
        elif not peer.client.ended:
            peer.client.receive(limit)
            if not self.torn:
                decode(peer.client.buffer)

    # The end

    def finish(self) -> None:
        """Have every client read everything, then close the hub."""
        self.note("the end")
        self.meddle = False
        for each in self.crowd:
            each.held = 0
        self.hub.sweep()  # notices that the crowd reads again
        self.drain()
        self.hub.verify()
        self.hub.flush()
        stats = self.hub.stats()
        at_fault = any(peer.cut and peer.open for peer in self.peers)
        assert stats["log_bytes"] == 0 or at_fault or not self.checked, stats
        for peer in self.peers:
            if peer.open:
                peer.close = close_payload(1001, "the end")
                peer.open = False
        self.hub.close(1001, "the end")
        self.drain()
        if self.checked:
            self.check_evictions()

    def drain(self) -> None:
        turns = 3 + len(self.crowd)  # a flush may visit only one member in a turn
        for _ in range(LAST_SWEEPS):
            for _ in range(turns):
                self.go_round()
                for peer in self.peers:
                    while not peer.client.ended and self.reads(peer):
                        peer.client.transport.writable()
                if not self.checked or all(self.has_all(peer) for peer in self.peers):
                    return
            self.hub.verify()
            self.rig.clock.now += 1.0
            self.hub.sweep()
        missing = [peer for peer in self.peers if not self.has_all(peer)]
        raise AssertionError(f"{missing} did not get what is due")

    def reads(self, peer: Peer) -> bool:
        before = peer.client.sock.fileno(), len(peer.client.buffer)
        seen = sum(len(queue) for queue in (*peer.due.values(), peer.replies))
        self.receive(peer, 1 << 20)
        after = peer.client.sock.fileno(), len(peer.client.buffer)
        return before != after or seen != sum(
            len(queue) for queue in (*peer.due.values(), peer.replies)
        )

    def has_all(self, peer: Peer) -> bool:
        transport = peer.client.transport
        if transport.failed or transport.broken or (peer.cut and peer.open):
            return True
        return super().has_all(peer)


def run_hub(data: bytes) -> None:
    """The target. If the hub is wrong, it raises AssertionError, or the sanitizer reports it."""
    run = HubRun(data)
    try:
        run.run()
    except BaseException as error:
        error.add_note("last operations:\n  " + "\n  ".join(run.history))
        raise
