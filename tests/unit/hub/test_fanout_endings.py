"""Connections are closed and unregistered, wrong arguments are refused, and statistics are
counted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from fastchat import Hub, _fanout
from support.hub import (
    ABNORMAL,
    CLOSE,
    EVICTED,
    HEARTBEAT,
    PONG,
    TEXT,
    TINY_BYTES,
    Frame,
    Rig,
    Sink,
    close_payload,
    on_loop,
    texts,
    turn,
    until,
)

# Endings


@on_loop
async def test_close_sends_pending_publications_then_one_close_frame() -> None:
    """close() delivers all pending publications, then one close frame, to blocked members too."""
    async with Rig(clock=True) as rig:
        quick = await rig.connect("lobby", "other")
        slow = await rig.connect("lobby", buffers=TINY_BYTES)
        filler = await rig.block(slow, "lobby")
        rig.hub.publish("lobby", b"missing")
        await turn()
        rig.hub.publish("lobby", b"pending")
        rig.hub.close(1001, "going away")
        rig.hub.close(1000, "a second time")
        rig.hub.verify()
        rig.hub.publish("lobby", b"nobody hears this")
        assert rig.hub.send(quick.conn, "nor this") is False
        last = Frame(CLOSE, close_payload(1001, "going away"))
        expected = [*texts(*filler, b"missing", b"pending"), last]
        assert await quick.to_close() == expected
        assert await slow.to_close() == expected
        assert rig.evicted == []
        await rig.sweep(1.5)
        assert not quick.served.lost.done()
        await rig.sweep(1)
        await quick.served.lost
        await slow.served.lost
        assert rig.hub.stats()["connections"] == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda hub: hub.register(Sink()),
        lambda hub: hub.attach(Sink()),
        lambda hub: hub.broadcast(b""),
        lambda hub: hub.broadcast_text(""),
    ],
)
@on_loop
async def test_closed_hub_refuses_calls(call: Callable[[Hub], object]) -> None:
    """A closed hub raises RuntimeError in every method that needs an open hub."""
    async with Rig() as rig:
        rig.hub.close()
        with pytest.raises(RuntimeError, match="the hub is closed"):
            call(rig.hub)


@on_loop
async def test_closing_one_connection_flushes_it_and_affects_no_other() -> None:
    """Closing a connection sends it what is pending for it and leaves all others alone."""
    async with Rig() as rig:
        client, other = await rig.connect("lobby"), await rig.connect("lobby")
        rig.hub.publish("lobby", b"1")
        rig.hub.close_connection(client.conn, 1005)
        rig.hub.close_connection(client.conn, 1000)
        rig.hub.publish("lobby", b"2")
        assert await client.to_close() == [Frame(TEXT, b"1"), Frame(CLOSE, b"")]
        assert await other.payloads(2) == [b"1", b"2"]
        assert client.conn.closed
        assert client.conn.owner is client


@on_loop
async def test_long_close_reason_is_cut_between_characters() -> None:
    """A reason that is too long for a control frame is cut at the end of a character."""
    async with Rig() as rig:
        client = await rig.connect()
        rig.hub.close_connection(client.conn, 4000, "x" + "é" * 100)
        (frame,) = await client.to_close()
        assert frame.payload == close_payload(4000, "x" + "é" * 61)


@on_loop
async def test_unregistered_transport_is_forgotten_at_once() -> None:
    """After unregister() the hub neither writes to the transport nor refers to it."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink)
        rig.hub.broadcast(b"pending")
        rig.hub.unregister(sink)
        rig.hub.unregister(sink)
        rig.hub.unregister(Sink(), "unknown")
        await turn()
        assert sink.written == []
        alive = weakref.ref(sink)
        del sink
        gc.collect()
        assert alive() is None


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_lag_bytes": 1023}, "max_lag_bytes must be at least 1024"),
        ({"max_lag_s": 0}, "max_lag_s"),
        ({"pong_timeout_s": -1}, "pong_timeout_s"),
        ({"ping_interval_s": -1}, "ping_interval_s"),
        ({"slice_visits": 0}, "slice_visits must be 1 to 256"),
        ({"slice_visits": 257}, "slice_visits must be 1 to 256"),
    ],
)
@on_loop
async def test_hub_setting_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    """A setting out of its range raises an error that names the setting."""
    with pytest.raises(ValueError, match=message):
        Hub(**arguments)


def test_hub_outside_an_event_loop_is_refused() -> None:
    """A hub cannot be created outside a running event loop."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        Hub()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda hub, conn: hub.broadcast("text"), TypeError, "broadcast_text"),
        (lambda hub, conn: hub.broadcast(None), TypeError, "bytes-like"),
        (lambda hub, conn: hub.broadcast(b"", None), TypeError, "room"),
        (lambda hub, conn: hub.broadcast_text(5), TypeError, "bytes-like"),
        (lambda hub, conn: hub.broadcast_text("\ud800"), UnicodeEncodeError, "surrogates"),
        (lambda hub, conn: hub.publish("lobby", "text"), TypeError, "bytes"),
        (lambda hub, conn: hub.register(Sink(), None), TypeError, "room"),
        (lambda hub, conn: hub.register(object()), AttributeError, "is_closing"),
        (lambda hub, conn: hub.register(conn.transport, 5), TypeError, "room"),
        (lambda hub, conn: hub.attach(conn.transport), RuntimeError, "attached already"),
        (lambda hub, conn: hub.join(None, "lobby"), TypeError, "conn"),
        (lambda hub, conn: hub.join(conn, None), TypeError, "name"),
        (lambda hub, conn: hub.send(conn, 5), TypeError, "bytes-like"),
        (lambda hub, conn: hub.send(conn, b"", CLOSE), ValueError, "opcode"),
        (lambda hub, conn: hub.send(conn, b"", 0x181), ValueError, "opcode"),
        (lambda hub, conn: hub.send(conn, b"x" * 126, PONG), ValueError, "125 bytes"),
        (lambda hub, conn: hub.close_connection(conn, 1006), ValueError, "1006"),
        (lambda hub, conn: hub.close_connection(conn, 70_000), ValueError, "70000"),
        (lambda hub, conn: hub.close_connection(conn, 1000, None), TypeError, "reason"),
        (lambda hub, conn: hub.close(999), ValueError, "999"),
        (lambda hub, conn: Hub().send(conn, b""), ValueError, "another hub"),
        (lambda hub, conn: Hub().join(conn, "lobby"), ValueError, "another hub"),
        (lambda hub, conn: Hub().detach(conn), ValueError, "another hub"),
        (lambda hub, conn: _fanout.Connection(), TypeError, "made by Hub"),
    ],
)
@on_loop
async def test_bad_arguments_are_refused(
    call: Callable[[Hub, _fanout.Connection], object], error: type[Exception], message: str
) -> None:
    """A call with a bad argument raises an error that names the fault, and changes nothing."""
    async with Rig() as rig:
        sink = Sink()
        conn = rig.hub.register(sink)
        with pytest.raises(error, match=message):
            call(rig.hub, conn)
        rig.hub.verify()
        rig.hub.flush()
        assert sink.written == []
        assert rig.hub.client_count() == rig.hub.client_count("lobby") == 1
        assert not conn.closed


@on_loop
async def test_bad_argument_is_refused_in_the_calling_thread() -> None:
    """A call from another thread raises the same error at once, and the loop is not involved."""
    async with Rig() as rig:
        conn = rig.hub.register(Sink())
        for call in (lambda: rig.hub.send(conn, 5), lambda: rig.hub.broadcast(None)):
            with pytest.raises(TypeError, match="bytes-like"):
                await asyncio.to_thread(call)


# Statistics


@on_loop
async def test_stats_count_publications_and_deliveries() -> None:
    """stats() counts publications and deliveries, and gauges connections, rooms and logs."""
    async with Rig() as rig:
        slow = await rig.connect("a", "b", buffers=TINY_BYTES)
        quick = await rig.connect("a")
        filler = await rig.block(slow, "a")
        rig.hub.publish("nobody's", b"counted nowhere")
        stats = rig.hub.stats()
        assert (stats["connections"], stats["rooms"], stats["blocked"]) == (2, 2, 1)
        assert stats["publications"] == len(filler)
        await slow.frames(len(filler))
        await quick.frames(len(filler))
        await until(lambda: rig.hub.stats()["blocked"] == 0)
        assert rig.hub.stats()["deliveries"] == 2 * len(filler)
        assert rig.hub.stats()["evictions"] == {EVICTED: 0, HEARTBEAT: 0, ABNORMAL: 0}
        assert slow.conn.rooms == ["a", "b"]
