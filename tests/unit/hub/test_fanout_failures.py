"""The hub survives failing sockets, aborts, and callbacks in the middle of a flush."""

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
async def test_a_reused_descriptor_gets_only_its_own(
    forgetful: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection with an old one's descriptor gets nothing of it, forgotten or not."""
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
async def test_an_abort_and_a_publication_in_the_same_turn() -> None:
    """A transport that was aborted gets whole frames or nothing; the others get everything."""
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
async def test_no_hole_on_the_wire_of_a_closing_transport(end: str, way: str) -> None:
    """What a closing transport drops is followed by nothing on that connection's wire."""
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
async def test_a_failed_send_loses_only_its_own_connection() -> None:
    """A connection whose peer reset it is reported as 1006 and costs the others nothing."""
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
async def test_a_connection_lost_in_a_flush_takes_nothing_with_it() -> None:
    """Losing one member in the middle of a flush leaves the log to those still to be served."""
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
async def test_a_transport_that_raises_costs_only_its_own_connection(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a transport raises, the other members get every publication."""

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


# Callbacks in the middle of a flush


def _leave(hub: Hub, conn: _fanout.Connection) -> None:
    hub.leave(conn, "lobby")


def _close(hub: Hub, conn: _fanout.Connection) -> None:
    hub.close_connection(conn)


def _reply(hub: Hub, conn: _fanout.Connection) -> None:
    hub.send(conn, "reply")


@pytest.mark.parametrize("act", [_leave, _close, _reply])
@pytest.mark.parametrize("victim", range(5))
@on_loop
async def test_acting_on_a_member_inside_anothers_write(
    act: Callable[[Hub, _fanout.Connection], None], victim: int
) -> None:
    """Leaving, closing and replying inside a transport's write lose and disorder nothing."""
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
async def test_publishing_a_batch_inside_a_write_keeps_the_order() -> None:
    """A publication large enough to be sealed inside a write comes behind the one under way."""
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
async def test_overflowing_the_log_inside_a_write_evicts_nobody_who_reads() -> None:
    """A log that overflows while a flush is under way is not cut under those still to come."""
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
async def test_eviction_inside_a_flush_finishes_the_frame_under_way() -> None:
    """Who is evicted between a short write and its rest gets the rest before the close frame."""
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
    """What a transport's callback sends while its close frame is written is refused."""
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
async def test_a_reply_whose_way_is_closed_while_it_is_cleared() -> None:
    """A reply that pushes a rest ahead of itself is dropped when that closes the connection."""
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
async def test_joining_inside_the_seal_of_a_join() -> None:
    """A join that a transport's callback makes again, or makes impossible, breaks nothing."""
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
async def test_acting_inside_pause_writing(
    act: Callable[[Hub, _fanout.Connection], None],
) -> None:
    """Members that go inside a transport's pause_writing get what was published before."""
    async with Rig() as rig:
        slow = await rig.connect("lobby", buffers=TINY_BYTES)
        others = [await rig.connect("lobby", buffers=TINY_BYTES) for _ in range(3)]
        everybody = [slow, *others]

        def everybody_goes() -> None:
            for client in everybody:
                act(rig.hub, client.conn)

        slow.served.on_pause = everybody_goes
        large = b"x" * 100_000
        rig.hub.publish("lobby", large)
        await turn()
        rig.hub.verify()
        rig.hub.publish("lobby", b"nobody is left")
        expected = texts(large)
        if act is _close:
            expected.append(Frame(CLOSE, close_payload(1001)))
        for client in everybody:
            assert await client.frames(len(expected)) == expected
        assert rig.hub.client_count("lobby") == 0
