"""The hub delivers: frames, turns, order, and writes that the socket accepts in parts."""

from __future__ import annotations

import gc
import socket
import weakref

import pytest

from support.hub import (
    BINARY,
    PONG,
    TEXT,
    TINY_BYTES,
    Client,
    Frame,
    Rig,
    Sink,
    encode,
    on_loop,
    packets,
    texts,
    turn,
    until,
)

# Frames and turns


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@on_loop
async def test_frame_header_is_the_shortest_for_its_length(size: int) -> None:
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
async def test_publications_of_a_turn_leave_in_one_write() -> None:
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
async def test_single_publication_leaves_in_its_turn() -> None:
    """A publication that is alone in its turn is not delayed until another arrives."""
    async with Rig() as rig:
        with packets() as (sink, arrived):
            rig.hub.register(sink)
            for text in ("one", "two"):
                rig.hub.broadcast_text(text)
                await turn()
                assert arrived() == [encode(TEXT, text.encode())]


@on_loop
async def test_flush_writes_everything_before_it_returns() -> None:
    """flush() writes all pending publications of all rooms before it returns."""
    async with Rig() as rig:
        with packets() as (sink, arrived):
            rig.hub.register(sink, "a")
            rig.hub.register(sink, "b")
            rig.hub.broadcast_text("one", "a")
            rig.hub.broadcast_text("two", "b")
            rig.hub.flush()
            assert sorted(arrived()) == [encode(TEXT, b"one"), encode(TEXT, b"two")]


@on_loop
async def test_member_late_in_the_round_gets_several_batches_in_one_write() -> None:
    """A member that is served late in a round gets the batches that were sealed meanwhile in one
    write."""
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
async def test_reply_never_overtakes_a_publication() -> None:
    """A reply arrives after the publications before it and before those after it."""
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
async def test_reply_to_a_blocked_connection_precedes_unread_publications() -> None:
    """A blocked connection gets a whole reply at once, and its publications in order after the
    reply."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        filler = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"later")
        await turn()
        assert rig.hub.send(client.conn, b"pong", PONG) is True
        frames = await client.frames(len(filler) + 2)
        assert frames == [*texts(*filler), Frame(PONG, b"pong"), *texts(b"later")]


@on_loop
async def test_new_member_gets_no_earlier_publication() -> None:
    """A new member gets no publication from before its join, not even one of the same turn."""
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
async def test_leaving_member_gets_all_earlier_publications(blocked: bool) -> None:
    """A member that leaves, blocked or not, gets every publication before its leave and none after
    it."""
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
async def test_leaving_member_gets_a_turn_larger_than_its_socket_buffer() -> None:
    """A member that leaves gets everything published in that turn, even more than its socket
    accepts."""
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
async def test_publication_can_exclude_one_member() -> None:
    """The excluded member gets all other publications, each in its place."""
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
async def test_member_is_excluded_while_the_log_overflows(size: int) -> None:
    """The excluded member is excluded even if the publication pushes the log over its limit."""
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
async def test_blocked_member_cannot_be_excluded() -> None:
    """A blocked connection gets the publication like all other members."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        filler = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"all", client.conn)
        assert await client.payloads(len(filler) + 1) == [*filler, b"all"]


# Short writes


@on_loop
async def test_blocked_member_catches_up_in_order() -> None:
    """After a short write all publications arrive complete, in order and in whole frames."""
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
async def test_blocked_member_delays_no_other_member() -> None:
    """While one member is blocked, the others get each publication in its turn."""
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
async def test_rest_of_a_batch_is_passed_to_transports_by_reference() -> None:
    """Two members whose writes were short in one batch share its bytes without a copy."""
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
async def test_log_is_trimmed_while_a_transport_holds_a_slice() -> None:
    """Bytes that a transport still has to write outlive the log that they came from."""
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
async def test_blocked_transport_survives_garbage_collection() -> None:
    """A blocked connection that only the hub refers to stays alive and catches up."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        published = await rig.block(client, "lobby")
        rig.hub.publish("lobby", b"last")
        rig.clients.remove(client)
        lost, alive = client.served.lost, weakref.ref(client.served)
        # Only the far end is left here; the connection's owner was its `Client`.
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
async def test_bytes_buffered_before_attaching_arrive_first() -> None:
    """Bytes that a transport held before it was attached arrive before the publications."""
    async with Rig() as rig:
        client = await rig.connect(buffers=TINY_BYTES, attach=False)
        head = encode(TEXT, b"h" * 100_000)
        client.transport.write(head)
        rig.add(client, "lobby")
        assert client.conn.blocked
        rig.hub.publish("lobby", b"behind")
        assert await client.payloads(2) == [b"h" * 100_000, b"behind"]


@on_loop
async def test_sweep_unblocks_connections_without_flow_control() -> None:
    """If a protocol does not forward flow control, the sweep unblocks its connection."""
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
async def test_blocked_member_of_many_rooms_loses_nothing() -> None:
    """A member of 128 rooms that one room has blocked loses no publication of any room."""
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
