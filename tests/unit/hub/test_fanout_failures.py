"""The hub survives failing sockets, aborts, and callbacks during a flush."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from fastchat import Hub, _fanout
from support.hub import (
    ABNORMAL,
    CLOSE,
    EVICTED,
    TEXT,
    TINY_BYTES,
    Client,
    Frame,
    Rig,
    Sink,
    close_payload,
    encode,
    on_loop,
    texts,
    turn,
)

# Descriptors, aborts, failures


@pytest.mark.parametrize("forgetful", [False, True])
@on_loop
async def test_reused_descriptor_gets_only_its_own_frames(
    forgetful: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that reuses a descriptor gets no frame of its predecessor, unregistered or
    not."""
    caplog.set_level(logging.WARNING)

    def descriptor(client: Client) -> int:
        return client.transport.get_extra_info("socket").fileno()

    async with Rig() as rig:
        old = await rig.connect("old", unix=True)
        number = descriptor(old)
        old.served.forgetful = forgetful
        old.transport.abort()
        await old.served.lost
        await turn(3)
        new = await rig.connect(attach=False, unix=True)
        assert descriptor(new) == number
        rig.add(new, "new")
        rig.hub.publish("old", b"for the dead")
        rig.hub.publish("new", b"for the living")
        await turn()
        assert await new.payloads(1) == [b"for the living"]
        assert old.conn.closed
        assert ("was reused" in caplog.text) is forgetful


@on_loop
async def test_aborted_transport_gets_whole_frames_or_nothing() -> None:
    """A transport aborted in the turn of a publication gets whole frames or nothing; others get
    all."""
    async with Rig() as rig:
        gone, other = await rig.connect("lobby"), await rig.connect("lobby")
        rig.hub.publish("lobby", b"before")
        gone.transport.abort()
        rig.hub.publish("lobby", b"after")
        rig.hub.verify()
        assert await other.payloads(2) == [b"before", b"after"]
        assert await gone.to_end() in ([], texts(b"before", b"after"))
        assert not gone.buffer


@pytest.mark.parametrize("way", ["publish", "send"])
@pytest.mark.parametrize("end", ["abort", "close"])
@on_loop
async def test_nothing_follows_bytes_that_a_closing_transport_dropped(end: str, way: str) -> None:
    """After a closing transport has dropped bytes, nothing else is written to that connection."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)

        def write(payload: bytes) -> None:
            if way == "publish":
                rig.hub.publish("lobby", payload)
                rig.hub.flush()
            else:
                rig.hub.send(client.conn, payload)

        getattr(client.transport, end)()
        write(b"1" * 200_000)
        client.receive()
        write(b"2" * 3)
        write(b"3" * 200_000)
        rig.hub.verify()
        assert await client.to_end() == []
        assert encode(TEXT, b"1" * 200_000).startswith(client.buffer)


@on_loop
async def test_failed_send_ends_only_its_own_connection() -> None:
    """A connection that the peer reset is reported as 1006, and the others lose nothing."""
    async with Rig() as rig:
        gone, other = await rig.connect("lobby"), await rig.connect("lobby")
        gone.reset()
        for i in range(3):
            rig.hub.publish("lobby", str(i).encode())
            rig.hub.flush()
            rig.hub.verify()
        assert gone.conn.closed
        assert await other.payloads(3) == [b"0", b"1", b"2"]
        await turn()
        assert [(who, code) for who, code, _ in rig.evicted] == [(gone.conn, ABNORMAL)]
        assert rig.hub.send(gone.conn, "nobody there") is False


@on_loop
async def test_connection_lost_in_a_flush_leaves_the_log_to_the_others() -> None:
    """If a member is lost during a flush, the members after it still get the whole log."""
    async with Rig() as rig:
        gone = await rig.connect("lobby")
        sinks = [Sink(), Sink()]
        for sink in sinks:
            rig.hub.register(sink)
        gone.reset()
        for text in (b"1", b"2", b"3"):
            rig.hub.publish("lobby", text)
            rig.hub.register(Sink())  # seals: three batches to catch up with
        rig.hub.flush()
        rig.hub.verify()
        assert gone.conn.closed
        for sink in sinks:
            assert sink.payloads() == [b"1", b"2", b"3"]


@pytest.mark.parametrize("what", ["write", "get_write_buffer_size", "abort"])
@on_loop
async def test_transport_that_raises_ends_only_its_own_connection(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever exception a transport raises, the other members get every publication."""

    class Broken(Sink):
        broken = False

        def __getattribute__(self, name: str) -> Any:
            if name == what and object.__getattribute__(self, "broken"):
                raise OSError("out of order")
            return object.__getattribute__(self, name)

        def write(self, data: bytes | memoryview) -> None:
            if self.broken:
                raise OSError("out of order")
            super().write(data)

    async with Rig() as rig:
        sinks = [Sink(), Broken(), Sink()]
        conns = [rig.hub.register(sink) for sink in sinks]
        sinks[1].broken = True
        for i in range(3):
            rig.hub.publish("lobby", str(i).encode())
            rig.hub.sweep()
            rig.hub.verify()
            await turn()
        conns[1].pause_writing()
        rig.hub.sweep()
        rig.hub.verify()
        assert conns[1].closed
        assert sinks[0].payloads() == sinks[2].payloads() == [b"0", b"1", b"2"]
        assert rig.hub.client_count() == 2
        assert "out of order" in caplog.text


# Callbacks during a flush


def _leave(hub: Hub, conn: _fanout.Connection) -> None:
    hub.leave(conn, "lobby")


def _close(hub: Hub, conn: _fanout.Connection) -> None:
    hub.close_connection(conn)


def _reply(hub: Hub, conn: _fanout.Connection) -> None:
    hub.send(conn, "reply")


@pytest.mark.parametrize("act", [_leave, _close, _reply])
@pytest.mark.parametrize("victim", range(5))
@on_loop
async def test_leave_close_and_reply_inside_a_write_keep_the_order(
    act: Callable[[Hub, _fanout.Connection], None], victim: int
) -> None:
    """Leaving, closing and replying inside a transport's write neither lose nor reorder a
    publication."""
    async with Rig() as rig:
        sinks = [Sink() for _ in range(5)]
        conns = [rig.hub.register(sink) for sink in sinks]

        def once() -> None:
            sinks[2].on_write = None
            act(rig.hub, conns[victim])
            rig.hub.publish("lobby", b"2")

        rig.hub.publish("lobby", b"0")
        await turn()
        sinks[2].on_write = once
        rig.hub.publish("lobby", b"1")
        await turn(3)
        rig.hub.verify()
        for i, sink in enumerate(sinks):
            arrived = sink.payloads()
            if i != victim:
                assert arrived == [b"0", b"1", b"2"]
            elif act is _reply:
                assert arrived == [b"0", b"1", b"reply", b"2"]
            elif act is _leave:
                assert arrived == [b"0", b"1"]
            else:
                assert arrived == [b"0", b"1", close_payload(1001)]


@on_loop
async def test_batch_published_inside_a_write_keeps_its_place() -> None:
    """A publication that is large enough to be sealed inside a write follows the one being
    written."""
    async with Rig() as rig:
        sinks = [Sink() for _ in range(4)]
        conns = [rig.hub.register(sink) for sink in sinks]
        large = b"x" * 70_000

        def once() -> None:
            sinks[0].on_write = None
            rig.hub.publish("lobby", large)
            for conn in conns:
                rig.hub.send(conn, b"reply")

        sinks[0].on_write = once
        rig.hub.publish("lobby", b"first")
        await turn(3)
        rig.hub.verify()
        for sink in sinks:
            assert sink.payloads() == [b"first", large, b"reply"]


@on_loop
async def test_log_overflow_inside_a_write_evicts_no_reading_member() -> None:
    """A log that overflows during a flush is not cut before the remaining members are served."""
    async with Rig(max_lag_bytes=1024) as rig:
        sinks = [Sink() for _ in range(5)]
        for sink in sinks:
            rig.hub.register(sink)
        large = [text * 70_000 for text in (b"1", b"2")]

        def once() -> None:
            sinks[1].on_write = None
            for payload in large:
                rig.hub.publish("lobby", payload)

        sinks[1].on_write = once
        rig.hub.publish("lobby", b"0")
        await turn(3)
        assert [sink.payloads() for sink in sinks] == [[b"0", *large]] * 5
        assert rig.evicted == []


@on_loop
async def test_member_evicted_inside_a_flush_gets_the_rest_of_its_frame() -> None:
    """A member that is evicted after a short write gets the rest of the frame before the close
    frame."""
    async with Rig(max_lag_bytes=1024) as rig:
        clients = [await rig.connect("lobby", buffers=TINY_BYTES) for _ in range(4)]
        large = b"1" * 100_000
        clients[0].served.on_pause = lambda: rig.hub.publish("lobby", b"2" * 70_000)
        rig.hub.publish("lobby", large)
        await turn()
        rig.hub.verify()
        last = Frame(CLOSE, close_payload(EVICTED, "fell too far behind"))
        for client in clients:
            assert await client.to_close() == [*texts(large), last]


@on_loop
async def test_nothing_follows_a_close_frame_written_inside_a_callback() -> None:
    """A message that a callback sends while the close frame is being written is refused."""
    async with Rig() as rig:
        sink = Sink()
        conn = rig.hub.register(sink)
        answers = []

        def meddle() -> None:
            answers.append(rig.hub.send(conn, "late"))
            answers.append(rig.hub.join(conn, "elsewhere"))

        sink.on_write = meddle
        rig.hub.close_connection(conn, 1000, "bye")
        rig.hub.verify()
        assert answers == [False, False]
        assert rig.hub.client_count("elsewhere") == 0
        assert sink.payloads() == [close_payload(1000, "bye")]


@on_loop
async def test_reply_is_dropped_if_writing_the_rest_closes_the_connection() -> None:
    """If writing the rest of a batch closes the connection, the reply behind it is dropped."""
    async with Rig() as rig:
        first, second = [await rig.connect("lobby", buffers=TINY_BYTES) for _ in range(2)]
        answers = []
        first.served.on_pause = lambda: answers.append(rig.hub.send(second.conn, "reply"))
        second.served.on_pause = lambda: rig.hub.close_connection(second.conn, 1000)
        large = b"x" * 100_000
        rig.hub.publish("lobby", large)
        await turn()
        rig.hub.verify()
        assert answers == [False]
        last = Frame(CLOSE, close_payload(1000))
        assert await second.to_close() == [*texts(large), last]
        rig.hub.unregister(second.transport)
        second.transport.close()
        assert await second.to_end() == []


@on_loop
async def test_callback_inside_a_join_can_join_or_close_the_connection() -> None:
    """A callback during a join that joins the same room, or closes the connection, breaks
    nothing."""
    async with Rig(max_lag_bytes=1024) as rig:
        sink, joiner = Sink(), Sink()
        rig.hub.register(sink)
        conn = rig.hub.attach(joiner)
        for act in (lambda: rig.hub.join(conn, "lobby"), lambda: rig.hub.detach(conn)):
            rig.hub.publish("lobby", b"x" * 2000)
            sink.on_write = act
            act()
            assert rig.hub.join(conn, "lobby") is not conn.closed
            sink.on_write = None
            rig.hub.verify()
        assert rig.hub.client_count("lobby") == 1


@pytest.mark.parametrize("act", [_leave, _close])
@on_loop
async def test_member_removed_inside_pause_writing_gets_earlier_publications(
    act: Callable[[Hub, _fanout.Connection], None],
) -> None:
    """Members that leave inside a transport's pause_writing get all earlier publications."""
    async with Rig() as rig:
        slow = await rig.connect("lobby", buffers=TINY_BYTES)
        others = [await rig.connect("lobby", buffers=TINY_BYTES) for _ in range(3)]
        clients = [slow, *others]

        def all_leave() -> None:
            for client in clients:
                act(rig.hub, client.conn)

        slow.served.on_pause = all_leave
        large = b"x" * 100_000
        rig.hub.publish("lobby", large)
        await turn()
        rig.hub.verify()
        rig.hub.publish("lobby", b"nobody is left")
        expected = texts(large)
        if act is _close:
            expected.append(Frame(CLOSE, close_payload(1001)))
        for client in clients:
            assert await client.frames(len(expected)) == expected
        assert rig.hub.client_count("lobby") == 0
