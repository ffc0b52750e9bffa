"""The compiled hub on real connections: order, short writes, lag, endings, and their traps."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from fastchat import Hub, _fanout
from support.hub import (
    BINARY,
    CLOSE,
    LIMIT_S,
    PING,
    PONG,
    TEXT,
    TINY_BYTES,
    Client,
    Frame,
    Rig,
    Served,
    Sink,
    close_payload,
    encode,
    on_loop,
    packets,
    turn,
    until,
)

EVICTED, HEARTBEAT, ABNORMAL = 4008, 4009, 1006


def texts(*payloads: bytes) -> list[Frame]:
    return [Frame(TEXT, payload) for payload in payloads]


# Frames and turns


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@on_loop
async def test_frames_at_the_boundaries_of_their_length(size: int) -> None:
    """A payload of any length arrives in the shortest frame that RFC 6455 §5.2 allows."""
    payload = bytes(i % 251 for i in range(size))
    async with Rig() as rig:
        client = await rig.connect("lobby")
        rig.hub.broadcast(payload)
        rig.hub.publish("lobby", payload)
        expected = encode(BINARY, payload) + encode(TEXT, payload)
        await until(lambda: client.receive() and len(client.buffer) >= len(expected))
        assert client.buffer == expected


@on_loop
async def test_a_turns_publications_leave_as_one_write() -> None:
    """All publications of a loop turn leave together at its end, in order."""
    async with Rig() as rig:
        with packets() as (sink, arrived):
            rig.hub.register(sink)
            rig.hub.broadcast_text("one")
            rig.hub.broadcast(b"two")
            rig.hub.publish("lobby", b"three")
            assert arrived() == []
            await turn()
            wire = encode(TEXT, b"one") + encode(BINARY, b"two") + encode(TEXT, b"three")
            assert arrived() == [wire]


@on_loop
async def test_a_lone_publication_leaves_in_its_turn() -> None:
    """A publication that is alone in its turn waits for no other."""
    async with Rig() as rig:
        with packets() as (sink, arrived):
            rig.hub.register(sink)
            for text in ("one", "two"):
                rig.hub.broadcast_text(text)
                await turn()
                assert arrived() == [encode(TEXT, text.encode())]


@on_loop
async def test_flush_does_not_wait_for_the_turns_end() -> None:
    """flush() writes everything pending, in every room, before it returns."""
    async with Rig() as rig:
        with packets() as (sink, arrived):
            rig.hub.register(sink, "a")
            rig.hub.register(sink, "b")
            rig.hub.broadcast_text("one", "a")
            rig.hub.broadcast_text("two", "b")
            rig.hub.flush()
            assert sorted(arrived()) == [encode(TEXT, b"one"), encode(TEXT, b"two")]


@on_loop
async def test_members_late_in_the_round_get_several_batches_in_one_write() -> None:
    """Whoever is served later in a round gets what came meanwhile in the same write."""
    async with Rig(slice_visits=1) as rig:
        with packets() as (first, arrived_first), packets() as (second, arrived_second):
            rig.hub.register(first)
            rig.hub.register(second)
            rig.hub.broadcast_text("one")
            await turn()
            rig.hub.broadcast_text("two")
            rig.hub.verify()
            await turn(3)
            one, two = encode(TEXT, b"one"), encode(TEXT, b"two")
            assert arrived_first() == [one, two]
            assert arrived_second() == [one + two]


# Order


@on_loop
async def test_a_reply_never_overtakes_a_publication() -> None:
    """A reply comes behind what was published before it and ahead of what comes later."""
    async with Rig() as rig:
        client = await rig.connect("a", "b")
        rig.hub.publish("a", b"1")
        rig.hub.publish("b", b"2")
        assert rig.hub.send(client.conn, "reply") is True
        rig.hub.publish("a", b"3")
        arrived = await client.payloads(4)
        assert sorted(arrived[:2]) == [b"1", b"2"]
        assert arrived[2:] == [b"reply", b"3"]


@on_loop
async def test_a_reply_to_a_blocked_connection_goes_ahead_of_its_lag() -> None:
    """A blocked connection gets a reply at once, whole, and its publications in order behind."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        filler = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"later")
        await turn()
        assert rig.hub.send(client.conn, b"pong", PONG) is True
        frames = await client.frames(len(filler) + 2)
        assert frames == [*texts(*filler), Frame(PONG, b"pong"), *texts(b"later")]


@on_loop
async def test_joining_seals_what_was_published_before() -> None:
    """A new member gets nothing that was published before it joined, not even in that turn."""
    async with Rig() as rig:
        old = await rig.connect("lobby")
        new = await rig.connect()
        rig.hub.publish("lobby", b"before")
        rig.hub.join(new.conn, "lobby")
        rig.hub.publish("lobby", b"after")
        assert await old.payloads(2) == [b"before", b"after"]
        assert await new.payloads(1) == [b"after"]


@pytest.mark.parametrize("blocked", [False, True])
@on_loop
async def test_leaving_loses_nothing_published_before(blocked: bool) -> None:
    """What was published before a member left arrives, and nothing after; also when blocked."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        stays = await rig.connect("lobby")
        filler = await rig.block(client, "lobby") if blocked else []
        for text in (b"missing", b"pending"):
            rig.hub.publish("lobby", text)
            if text == b"missing":
                await turn()
        rig.hub.leave(client.conn, "lobby")
        rig.hub.verify()
        rig.hub.publish("lobby", b"after")
        await turn()
        assert client.conn.rooms == []
        assert await client.payloads(len(filler) + 2) == [*filler, b"missing", b"pending"]
        assert await stays.payloads(len(filler) + 3) == [*filler, b"missing", b"pending", b"after"]


@on_loop
async def test_leaving_in_the_turn_of_more_than_the_socket_takes() -> None:
    """A member that leaves gets all that was published in that turn, however much it is."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        published = [text * 70_000 for text in (b"1", b"2", b"3")]
        for payload in published:
            rig.hub.publish("lobby", payload)
        rig.hub.leave(client.conn, "lobby")
        assert client.conn.blocked
        rig.hub.verify()
        assert await client.payloads(3) == published
        await until(lambda: not client.conn.blocked)


@on_loop
async def test_publishing_but_one() -> None:
    """The one left out gets everything else, each in its place."""
    async with Rig() as rig:
        sender, other = await rig.connect("lobby"), await rig.connect("lobby")
        elsewhere = await rig.connect("other")
        rig.hub.publish("lobby", b"1")
        rig.hub.publish("lobby", b"2", sender.conn)
        rig.hub.publish("lobby", b"3")
        rig.hub.publish("lobby", b"4", sender.conn)
        rig.hub.publish("lobby", b"5", elsewhere.conn)
        assert await other.payloads(5) == [b"1", b"2", b"3", b"4", b"5"]
        assert await sender.payloads(3) == [b"1", b"3", b"5"]


@pytest.mark.parametrize("size", [100, 70_000])
@on_loop
async def test_publishing_but_one_while_the_log_overflows(size: int) -> None:
    """The one left out is left out also when the publication pushes the log over its bound."""
    async with Rig(max_lag_bytes=8000) as rig:
        lagging = await rig.connect("lobby", buffers=TINY_BYTES)
        sender, other = await rig.connect("lobby"), await rig.connect("lobby")
        filler = await rig.block(lagging, "lobby")
        while not lagging.conn.closed:
            filler.append(b"for everybody".ljust(size, b"."))
            rig.hub.publish("lobby", filler[-1])
            if not lagging.conn.closed:
                rig.hub.publish("lobby", b"for others".ljust(size, b"."), sender.conn)
                filler.append(b"")
        assert await sender.payloads(len([f for f in filler if f])) == [f for f in filler if f]
        await other.frames(len(filler))


@on_loop
async def test_publishing_but_one_that_is_blocked() -> None:
    """A blocked connection cannot be left out: it gets the publication like the others."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        filler = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"all", client.conn)
        assert await client.payloads(len(filler) + 1) == [*filler, b"all"]


# Short writes


@on_loop
async def test_a_blocked_member_catches_up_in_order() -> None:
    """After a short write everything arrives complete and in order, in whole frames."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        published = await rig.block(client, "lobby")
        for i in range(300):
            published.append(str(i).encode() * (i % 50))
            rig.hub.publish("lobby", published[-1])
            if i % 3 == 0:
                await turn()
                rig.hub.verify()
        assert client.conn.blocked
        assert await client.payloads(len(published)) == published
        await until(lambda: not client.conn.blocked)
        assert rig.hub.stats()["log_bytes"] == 0


@on_loop
async def test_a_blocked_member_delays_nobody() -> None:
    """While one member is blocked the others get every publication in its turn."""
    async with Rig() as rig:
        slow = await rig.connect("lobby", buffers=TINY_BYTES)
        quick = await rig.connect("lobby")
        filler = await rig.block(slow, "lobby")
        assert await quick.payloads(len(filler)) == filler
        for i in range(50):
            rig.hub.publish("lobby", str(i).encode())
            await turn()
            assert quick.now() == texts(str(i).encode())


@on_loop
async def test_the_rest_of_a_batch_is_handed_over_by_reference() -> None:
    """Two members cut short in one batch share its bytes; nobody gets a copy."""
    rests = []

    class Recorder(Sink):
        def write(self, data: bytes | memoryview) -> None:
            rests.append(data)
            self.held = len(data)

    async with Rig() as rig:
        pairs = [socket.socketpair(), socket.socketpair()]
        for near, _ in pairs:
            near.setblocking(False)
            rig.hub.register(Recorder(near))
        rig.hub.broadcast(bytes(1 << 20))
        await turn()
        assert all(isinstance(rest, memoryview) for rest in rests)
        assert rests[0].obj is rests[1].obj
        assert [bool(0 < len(rest) < 1 << 20) for rest in rests] == [True, True]
        rig.hub.abort()
        for pair in pairs:
            for sock in pair:
                sock.close()


@on_loop
async def test_the_log_is_trimmed_while_a_transport_holds_a_slice() -> None:
    """What a transport still has to write outlives the log that it came from."""
    payload = bytes(i % 253 for i in range(300_000))
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        other = await rig.connect("lobby")
        rig.hub.broadcast(payload)
        await turn()
        assert client.conn.blocked
        assert rig.hub.stats()["log_bytes"] == 0
        gc.collect()
        trash = [bytes([i]) * 300_000 for i in range(8)]
        assert (await client.frames(1))[0].payload == payload
        assert (await other.frames(1))[0].payload == payload
        del trash


@on_loop
async def test_a_blocked_transport_survives_garbage_collection() -> None:
    """A blocked connection that nobody else refers to is kept, and catches up."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        published = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"last")
        rig.clients.remove(client)
        lost, alive = client.served.lost, weakref.ref(client.served)
        # All that is left is the far end; the connection's owner was its `Client`.
        far = Client.__new__(Client)
        far.sock, far.buffer, far.ended = client.sock, bytearray(), False
        rig.hub.detach(rig.hub.attach(Sink(), client))
        del client
        gc.collect()
        assert await far.payloads(len(published) + 1) == [*published, b"last"]
        assert alive() is not None
        far.sock.close()
        await lost


@on_loop
async def test_a_transport_that_holds_something_when_it_comes() -> None:
    """Bytes that a transport held before it was attached come first, then the publications."""
    async with Rig() as rig:
        client = await rig.connect(buffers=TINY_BYTES, attach=False)
        head = encode(TEXT, b"h" * 100_000)
        client.transport.write(head)
        rig.add(client, "lobby")
        assert client.conn.blocked
        rig.hub.publish("lobby", b"behind")
        assert await client.payloads(2) == [b"h" * 100_000, b"behind"]


@on_loop
async def test_a_protocol_that_forwards_nothing_is_found_by_the_sweep() -> None:
    """Where flow control is not forwarded, the sweep unblocks the connection."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        conn, client.served.conn = client.conn, None
        published = []
        while not conn.blocked:
            published.append(b"x" * 1000)
            rig.hub.publish("lobby", published[-1])
            await turn()
        rig.hub.publish("lobby", b"last")
        await turn()
        assert await client.payloads(len(published)) == published
        rig.hub.sweep()
        assert await client.payloads(1) == [b"last"]
        assert not conn.blocked


@on_loop
async def test_a_member_of_many_rooms() -> None:
    """A member of 128 rooms that is blocked by one of them loses nothing of any."""
    rooms = [f"room {i}" for i in range(128)]
    async with Rig() as rig:
        client = await rig.connect(*rooms, buffers=TINY_BYTES)
        other = await rig.connect(*rooms)
        filler = await rig.block(client, "room 5")
        assert await other.payloads(len(filler)) == filler
        for i in range(3):
            for room in rooms:
                rig.hub.publish(room, f"{room}: {i}".encode())
            await turn()
            rig.hub.verify()
        for who, ahead in ((other, []), (client, filler)):
            arrived = await who.payloads(len(ahead) + 3 * len(rooms))
            assert arrived[: len(ahead)] == ahead
            for room in rooms:
                of_room = [p for p in arrived[len(ahead) :] if p.startswith(f"{room}:".encode())]
                assert of_room == [f"{room}: {i}".encode() for i in range(3)]
        await until(lambda: not client.conn.blocked)
        rig.hub.leave(client.conn, "room 7")
        assert len(client.conn.rooms) == 127


# Eviction


@on_loop
async def test_eviction_when_a_member_falls_out_of_the_log() -> None:
    """Who falls further behind than max_lag_bytes gets a prefix and 4008; nobody else notices."""
    async with Rig(max_lag_bytes=20_000) as rig:
        slow = await rig.connect("lobby", "other", buffers=TINY_BYTES)
        quick = await rig.connect("lobby")
        published = await rig.block(slow, "lobby")
        while not slow.conn.closed:
            published.append(b"x" * 500)
            rig.hub.publish("lobby", published[-1])
            await turn()
            rig.hub.verify()
            assert rig.hub.stats()["log_bytes"] <= 20_000
        assert await quick.payloads(len(published)) == published
        *frames, last = await slow.to_close()
        assert frames == texts(*published[: len(frames)])
        assert last.payload == close_payload(EVICTED, "fell too far behind")
        assert rig.evicted == [(slow.conn, EVICTED, "fell too far behind")]
        assert rig.hub.stats()["evictions"][EVICTED] == 1
        assert rig.hub.client_count("other") == 0
        assert rig.hub.send(slow.conn, "too late") is False


@on_loop
async def test_eviction_when_a_member_reads_nothing_for_too_long() -> None:
    """Who stays blocked longer than max_lag_s is evicted by the sweep, not before."""
    async with Rig(clock=True, max_lag_s=10) as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.block(client, "lobby")
        await rig.sweep(10)
        assert not client.conn.closed
        await rig.sweep(1)
        assert client.conn.closed
        last = (await client.to_close())[-1]
        assert last.payload == close_payload(EVICTED, "read nothing for too long")


@on_loop
async def test_eviction_when_replies_pile_up() -> None:
    """A client that asks and does not read is evicted before its replies fill the memory."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        count = 0
        while rig.hub.send(client.conn, b"x" * 1000):
            count += 1
        assert client.conn.closed
        assert client.transport.get_write_buffer_size() < 400_000
        *frames, last = await client.to_close()
        assert len(frames) == count
        assert last.payload == close_payload(EVICTED, "left too many replies unread")


@on_loop
async def test_eviction_when_rooms_are_left_unread() -> None:
    """Leaving rooms without reading them is no way around the bound."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.block(client, "lobby")
        for _ in range(500):
            rig.hub.publish("lobby", b"x" * 1000)
        rig.hub.leave(client.conn, "lobby")
        last = (await client.to_close())[-1]
        assert last.payload == close_payload(EVICTED, "left more rooms than it read")


@on_loop
async def test_eviction_of_a_whole_room() -> None:
    """All its members, one of them stalled, are closed and reported; nobody else is."""
    async with Rig() as rig:
        stalled = await rig.connect("torn", buffers=TINY_BYTES)
        members = [stalled, await rig.connect("torn"), await rig.connect("torn", "whole")]
        other = await rig.connect("whole")
        await rig.block(stalled, "torn")
        rig.hub.evict("nobody is here", 4010)
        rig.hub.evict("torn", 4010, "a hole")
        for client in members:
            assert (await client.to_close())[-1].payload == close_payload(4010, "a hole")
        assert sorted(map(repr, rig.evicted)) == sorted(
            repr((client.conn, 4010, "a hole")) for client in members
        )
        assert rig.hub.stats()["evictions"][4010] == 3
        with pytest.raises(ValueError, match="1006"):
            rig.hub.evict("whole", ABNORMAL)
        rig.hub.publish("whole", b"still here")
        assert await other.payloads(1) == [b"still here"]
        assert rig.hub.client_count("torn") == 0
        rig.hub.verify()


@on_loop
async def test_a_client_that_reads_in_bursts_is_never_evicted() -> None:
    """A client that stops for 9 s, reads everything, and stops again stays a member."""
    async with Rig(clock=True, max_lag_s=10) as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        for _ in range(5):
            published = await rig.block(client, "lobby")
            await rig.sweep(9)
            assert await client.payloads(len(published)) == published
            await until(lambda: not client.conn.blocked)
        assert rig.evicted == []


@on_loop
async def test_nobody_is_evicted_for_being_late_in_the_round() -> None:
    """A burst larger than the log evicts nobody who reads, however small the slices."""
    async with Rig(max_lag_bytes=10_000, slice_visits=1) as rig:
        sinks = [Sink() for _ in range(20)]
        for sink in sinks:
            rig.hub.register(sink)
        published = [f"{i} ".encode() * 300 for i in range(200)]
        for i, payload in enumerate(published):
            rig.hub.publish("lobby", payload)
            if i % 7 == 0:
                await turn()
            rig.hub.verify()
        rig.hub.flush()
        assert all(sink.payloads() == published for sink in sinks)
        assert rig.hub.stats()["log_bytes"] == 0


@on_loop
async def test_an_evicted_transport_is_aborted_by_the_sweep() -> None:
    """A client that does not answer its close frame is cut off after two seconds."""
    async with Rig(clock=True) as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.block(client, "lobby")
        await rig.sweep(11)
        assert client.conn.closed
        assert not client.transport.is_closing()
        await rig.sweep(2)
        await client.served.lost
        assert rig.hub.client_count() == 0


# Heartbeat


@on_loop
async def test_pings_go_out_and_pongs_keep_a_connection() -> None:
    """An idle connection gets one ping an interval, and stays as long as it answers."""
    async with Rig(clock=True, ping_interval_s=30, pong_timeout_s=10) as rig:
        client = await rig.connect("lobby")
        for _ in range(4):
            await rig.sweep(29)
            assert client.now() == []
            await rig.sweep(1)
            assert client.now() == [Frame(PING, b"")]
            client.conn.pong()
            client.conn.pong()  # an unsolicited one changes nothing
        assert not client.conn.closed


@on_loop
async def test_a_missed_heartbeat_ends_a_connection() -> None:
    """A ping that is not answered within pong_timeout_s closes the connection with 4009."""
    async with Rig(clock=True, ping_interval_s=30, pong_timeout_s=10) as rig:
        client = await rig.connect("lobby")
        await rig.sweep(39)
        assert not client.conn.closed
        await rig.sweep(1)
        reason = "missed its heartbeat"
        frames = await client.to_close()
        assert frames == [Frame(PING, b""), Frame(CLOSE, close_payload(HEARTBEAT, reason))]
        assert rig.evicted == [(client.conn, HEARTBEAT, reason)]


@on_loop
async def test_nobody_is_blamed_after_the_process_slept() -> None:
    """After a pause of the whole process every pong and every lag gets its time anew."""
    async with Rig(clock=True, ping_interval_s=30, pong_timeout_s=10, max_lag_s=10) as rig:
        client = await rig.connect("lobby")
        blocked = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.sweep(30)
        await rig.block(blocked, "lobby")
        rig.clock.now += 3600
        rig.hub.sweep()
        await turn()
        assert not client.conn.closed
        assert not blocked.conn.closed
        await rig.sweep(11)
        assert client.conn.closed
        assert blocked.conn.closed


@on_loop
async def test_a_ping_behind_a_backlog_counts_from_its_end() -> None:
    """A connection that was blocked behind its ping gets the whole time to answer."""
    async with Rig(clock=True, ping_interval_s=30, pong_timeout_s=5, max_lag_s=60) as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.sweep(30)
        published = await rig.block(client, "lobby")
        await rig.sweep(20)
        assert len(await client.frames(len(published) + 1)) == len(published) + 1
        await until(lambda: not client.conn.blocked)
        await rig.sweep(4)
        assert not client.conn.closed
        client.conn.pong()
        await rig.sweep(20)
        assert not client.conn.closed


# The log


@pytest.mark.parametrize("how", ["leave", "unregister", "close", "evict", "reset"])
@on_loop
async def test_the_log_goes_with_the_last_who_needs_it(how: str) -> None:
    """The log is empty as soon as the only member that lagged is gone, in whatever way."""
    async with Rig(clock=True) as rig:
        slow = await rig.connect("lobby", buffers=TINY_BYTES)
        quick = await rig.connect("lobby")
        await rig.block(slow, "lobby")
        for _ in range(20):
            rig.hub.publish("lobby", b"x" * 1000)
            await turn()
        assert rig.hub.stats()["log_bytes"] > 20_000
        if how == "leave":
            rig.hub.leave(slow.conn, "lobby")
        elif how == "unregister":
            rig.hub.unregister(slow.transport)
        elif how == "close":
            rig.hub.close_connection(slow.conn)
        elif how == "evict":
            await rig.sweep(11)
        else:
            slow.reset()
            await slow.served.lost
        assert rig.hub.stats()["log_bytes"] == 0
        assert rig.hub.client_count("lobby") == 1
        assert not quick.conn.closed


@on_loop
async def test_a_room_goes_with_its_last_member() -> None:
    """A room without members costs nothing, and what was pending in it goes with it."""
    async with Rig() as rig:
        first = await rig.connect("lobby")
        rig.hub.publish("lobby", b"1")
        rig.hub.detach(first.conn)
        assert rig.hub.stats()["rooms"] == 0
        second = await rig.connect("lobby")
        rig.hub.publish("lobby", b"2")
        assert await second.payloads(1) == [b"2"]


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


# Big rooms


@on_loop
async def test_ten_thousand_members_in_one_room() -> None:
    """Everybody in a big room gets everything once, and the loop goes on between the slices."""
    async with Rig() as rig:
        sinks = [Sink() for _ in range(10_000)]
        for sink in sinks:
            rig.hub.register(sink, "big")
        client = await rig.connect("small")
        rig.hub.publish("big", b"1")
        rig.hub.publish("small", b"hello")
        turns = 0
        while rig.hub.stats()["deliveries"] < 10_001:
            await turn()
            turns += 1
            if turns == 3:
                assert client.now() == texts(b"hello")
                assert rig.hub.stats()["deliveries"] < 1000
        assert turns >= 10_000 // 256
        rig.hub.publish("big", b"2")
        await turn(5)
        rig.hub.publish("big", b"3")
        for sink in sinks[4000:6000]:
            rig.hub.unregister(sink)
        rig.hub.verify()
        rig.hub.flush()
        rig.hub.verify()
        assert all(sink.payloads() == [b"1", b"2", b"3"] for sink in sinks[:4000] + sinks[6000:])


@on_loop
async def test_a_large_join_in_the_middle_of_a_round() -> None:
    """Members who come and go while a round is under way neither miss nor repeat anything."""
    async with Rig(slice_visits=7) as rig:
        sinks = [Sink() for _ in range(100)]
        for sink in sinks:
            rig.hub.register(sink)
        expected: dict[Sink, list[bytes]] = {sink: [] for sink in sinks}
        for i in range(60):
            payload = str(i).encode()
            rig.hub.publish("lobby", payload)
            for had in expected.values():
                had.append(payload)
            await turn()
            newcomer = Sink()
            rig.hub.register(newcomer)
            leaver = list(expected)[(i * 37) % len(expected)]
            rig.hub.unregister(leaver, "lobby")
            assert leaver.payloads() == expected.pop(leaver)
            expected[newcomer] = []
            rig.hub.verify()
        rig.hub.flush()
        for sink, had in expected.items():
            assert sink.payloads() == had


class SlowSink(Sink):
    """A sink whose writes take the time they are told to."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass


def _slow_room(rig: Rig, name: str, seconds: float) -> Sink:
    """A room whose flush takes that long; returns its last sink."""
    for _ in range(300):
        sink = SlowSink(seconds / 300)
        rig.hub.register(sink, name)
    return sink


@on_loop
async def test_under_load_a_big_rooms_next_flush_waits() -> None:
    """After a flush that took long and carried much, the next one waits about as long."""
    async with Rig() as rig:
        last = _slow_room(rig, "big", 0.03)
        rig.hub.publish("big", b"1")
        rig.hub.publish("big", b"2")
        await turn(3)
        assert last.payloads() == [b"1", b"2"]
        began = time.perf_counter()
        rig.hub.publish("big", b"3")
        await turn(3)
        assert last.payloads() == [b"1", b"2"]
        await until(lambda: last.payloads() == [b"1", b"2", b"3"])
        assert time.perf_counter() - began > 0.02


@on_loop
async def test_a_lone_publication_never_waits() -> None:
    """Publications that come one by one leave in their turn, however big the room."""
    async with Rig() as rig:
        last = _slow_room(rig, "big", 0.02)
        for i in range(4):
            rig.hub.publish("big", str(i).encode())
            rig.hub.flush()
        for i in range(4, 8):
            rig.hub.publish("big", str(i).encode())
            await turn(3)
            assert last.payloads() == [str(j).encode() for j in range(i + 1)]


@on_loop
async def test_a_waiting_room_delays_no_other() -> None:
    """A room that waits for a short while does not wait for one that waits longer."""
    async with Rig() as rig:
        slow, quick = _slow_room(rig, "slow", 0.3), _slow_room(rig, "quick", 0.003)
        for room in ("slow", "quick"):
            for text in (b"1", b"2"):
                rig.hub.publish(room, text)
            await turn(3)
            rig.hub.publish(room, b"3")
            await turn()
        await until(lambda: len(quick.payloads()) == 3)
        assert len(slow.payloads()) == 2


# TLS


async def _connect_tls(rig: Rig, *rooms: str) -> Client:
    """A connection over TLS with small buffers; the far end is Python's own `ssl`."""
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(), ssl.create_default_context()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    served = Served(rig.hub)
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TINY_BYTES)
    server = await loop.create_server(lambda: served, sock=listener, ssl=server_side)

    def shake_hands() -> ssl.SSLSocket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
        sock.settimeout(LIMIT_S)
        sock.connect(server.sockets[0].getsockname())
        return client_side.wrap_socket(sock, server_hostname="localhost")

    far = await loop.run_in_executor(None, shake_hands)
    far.setblocking(False)
    await until(lambda: hasattr(served, "transport"))
    server.close()
    return rig.add(Client(served, far), *rooms)


@on_loop
async def test_tls_takes_the_batches_through_the_transport() -> None:
    """A TLS connection gets the same frames in the same order, encrypted."""
    async with Rig() as rig:
        client, plain = await _connect_tls(rig, "a", "b"), await rig.connect("a")
        rig.hub.publish("a", b"1")
        rig.hub.broadcast(b"2" * 70_000, "a")
        rig.hub.send(client.conn, "reply")
        rig.hub.publish("a", b"3")
        frames = [Frame(TEXT, b"1"), Frame(BINARY, b"2" * 70_000), Frame(TEXT, b"3")]
        assert await plain.frames(3) == frames
        assert await client.frames(4) == [*frames[:2], Frame(TEXT, b"reply"), frames[2]]
        rig.hub.close_connection(client.conn, 1000)
        assert await client.to_close() == [Frame(CLOSE, close_payload(1000))]


@on_loop
async def test_a_stalled_tls_reader_is_blocked_and_catches_up() -> None:
    """A TLS client that stops reading is blocked, holds nobody up, and loses nothing."""
    async with Rig(max_lag_bytes=1 << 22) as rig:
        client, plain = await _connect_tls(rig, "lobby"), await rig.connect("lobby")
        published = await rig.block(client, "lobby", size=8000)
        for i in range(200):
            published.append(str(i).encode() * 700)
            rig.hub.publish("lobby", published[-1])
            await turn()
            rig.hub.verify()
        assert client.conn.blocked
        assert client.transport.get_write_buffer_size() < 400_000
        assert await plain.payloads(len(published)) == published
        assert await client.payloads(len(published)) == published
        await until(lambda: not client.conn.blocked)
        assert rig.hub.stats()["log_bytes"] == 0


@on_loop
async def test_a_stalled_tls_reader_is_evicted() -> None:
    """A TLS client that does not read at all is evicted like any other."""
    async with Rig(clock=True, max_lag_bytes=100_000) as rig:
        client = await _connect_tls(rig, "lobby")
        published = await rig.block(client, "lobby", size=8000)
        while not client.conn.closed:
            published.append(b"x" * 8000)
            rig.hub.publish("lobby", published[-1])
            await turn()
        *frames, last = await client.to_close()
        assert frames == texts(*published[: len(frames)])
        assert last.payload == close_payload(EVICTED, "fell too far behind")
        await rig.sweep(3)
        await client.served.lost


# Threads


@on_loop
async def test_calls_from_other_threads_are_handed_over() -> None:
    """Registering, publishing, replying and unregistering work from any thread, in order."""
    async with Rig() as rig:
        client = await rig.connect()
        sink = Sink()

        def elsewhere() -> list[object]:
            data = bytearray(b"copied")
            answers: list[object] = [rig.hub.register(sink), rig.hub.register(sink, "b")]
            answers.append(rig.hub.broadcast(data))
            answers.append(rig.hub.send(client.conn, data, BINARY))
            data[:] = b"mutant"
            answers.append(rig.hub.broadcast_text("text", "b"))
            answers.append(rig.hub.flush())
            answers.append(rig.hub.unregister(sink, "b"))
            return answers

        assert await asyncio.to_thread(elsewhere) == [None] * 7
        await turn(3)
        assert sorted(sink.frames()) == [Frame(TEXT, b"text"), Frame(BINARY, b"copied")]
        assert await client.frames(1) == [Frame(BINARY, b"copied")]
        assert rig.hub.client_count("b") == 0
        await asyncio.to_thread(rig.hub.unregister, sink)
        await turn()
        assert rig.hub.client_count() == 1


@on_loop
async def test_a_thread_never_waits_for_the_loop() -> None:
    """A call from another thread returns while the loop is busy elsewhere."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        thread = threading.Thread(target=rig.hub.broadcast_text, args=("from afar",))
        thread.start()
        thread.join(LIMIT_S)  # blocks the loop: that is the point
        assert not thread.is_alive()
        assert await client.payloads(1) == [b"from afar"]


@on_loop
async def test_closing_from_another_thread() -> None:
    """close() from another thread closes everything in a later turn."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        assert await asyncio.to_thread(rig.hub.close, 1012, "restart") is None
        assert await client.to_close() == [Frame(CLOSE, close_payload(1012, "restart"))]
        with pytest.raises(RuntimeError, match="the hub is closed"):
            await asyncio.to_thread(rig.hub.broadcast, b"too late")


# Endings


@on_loop
async def test_close_sends_everything_then_a_close_frame_then_nothing() -> None:
    """close() delivers all that is pending, then one close frame, also to who is blocked."""
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
async def test_a_closed_hub_refuses(call: Callable[[Hub], object]) -> None:
    """A closed hub says so to everything that would need it open."""
    async with Rig() as rig:
        rig.hub.close()
        with pytest.raises(RuntimeError, match="the hub is closed"):
            call(rig.hub)


@on_loop
async def test_closing_one_connection() -> None:
    """Closing one connection flushes what is pending for it and concerns nobody else."""
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
async def test_a_close_reason_is_cut_at_a_character() -> None:
    """A reason too long for a control frame is cut where a character ends."""
    async with Rig() as rig:
        client = await rig.connect()
        rig.hub.close_connection(client.conn, 4000, "x" + "é" * 100)
        (frame,) = await client.to_close()
        assert frame.payload == close_payload(4000, "x" + "é" * 61)


@on_loop
async def test_unregister_forgets_at_once() -> None:
    """After unregister the hub neither writes to a transport nor refers to it."""
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
async def test_a_hub_that_could_not_work_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    """A setting out of its range is refused with a sentence that names it."""
    with pytest.raises(ValueError, match=message):
        Hub(**arguments)


def test_a_hub_needs_a_running_loop() -> None:
    """A hub made outside an event loop is refused."""
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
    """A call with a bad argument says what is wrong, and changes nothing."""
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
async def test_a_bad_argument_is_refused_in_the_thread_that_gave_it() -> None:
    """Another thread gets the same error at once, and the loop nothing."""
    async with Rig() as rig:
        conn = rig.hub.register(Sink())
        for call in (lambda: rig.hub.send(conn, 5), lambda: rig.hub.broadcast(None)):
            with pytest.raises(TypeError, match="bytes-like"):
                await asyncio.to_thread(call)


# Looking in


@on_loop
async def test_stats_count_what_happened() -> None:
    """stats() counts publications and deliveries, and gauges what there is."""
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
