"""The hub bounds what it keeps for slow connections: for each over all its rooms, and for all."""

from __future__ import annotations

import logging

import pytest

from support.hub import (
    EVICTED,
    TINY_BYTES,
    Client,
    Rig,
    Sink,
    close_payload,
    on_loop,
    texts,
    turn,
    until,
)

TOGETHER = "fell too far behind in its rooms together"
TOTAL = "the server had too much to keep for slow readers"


async def fill(rig: Rig, room: str, size: int, *, piece: int = 1000) -> None:
    """Publish about `size` bytes to a room, one publication in each turn."""
    for _ in range(size // piece):
        rig.hub.publish(room, b"x" * piece)
        await turn()
        rig.hub.verify()


async def stalled(rig: Rig, *rooms: str, tls: bool = False) -> Client:
    """A member of rooms that reads nothing and is blocked."""
    client = await rig.connect(*rooms, buffers=TINY_BYTES, tls=tls)
    await rig.block(client, rooms[0])
    return client


def reasons(rig: Rig) -> list[tuple[Client, str]]:
    assert all(code == EVICTED for _, code, _ in rig.evicted)
    return [(conn.owner, reason) for conn, _, reason in rig.evicted]


# One connection over all its rooms


@on_loop
async def test_rooms_of_a_connection_are_bounded_together() -> None:
    """A connection that lags a little in each of many rooms is evicted at the bound for them all,
    and not earlier."""
    async with Rig(max_lag_bytes=1 << 20, max_connection_lag_bytes=200_000) as rig:
        rooms = [f"room {number}" for number in range(20)]
        slow = await stalled(rig, *rooms)
        quick = await rig.connect(*rooms)
        before = len(quick.now())
        for size in (8000, 2000):
            for room in rooms:
                if slow.conn.closed:
                    break
                await fill(rig, room, size)
            if size == 8000:
                assert not slow.conn.closed
        assert slow.conn.closed
        assert rig.hub.stats()["slow_evictions"]["connection"] == 1
        assert rig.hub.stats()["log_bytes"] == 0
        await turn()
        assert reasons(rig) == [(slow, TOGETHER)]
        last = (await slow.to_close())[-1]
        assert last.payload == close_payload(EVICTED, TOGETHER)
        assert not quick.conn.closed
        assert before + len(quick.now()) > 160


@on_loop
async def test_every_connection_is_responsible_for_a_shared_log() -> None:
    """Each of several connections that need the same logs is evicted at its own bound."""
    async with Rig(max_connection_lag_bytes=50_000) as rig:
        slow = [await stalled(rig, *"abcd") for _ in range(3)]
        for room in "abcd" * 2:
            await fill(rig, room, 8000)
        assert all(client.conn.closed for client in slow)
        assert rig.hub.stats()["slow_evictions"]["connection"] == 3
        assert rig.hub.stats()["log_bytes"] == 0


@on_loop
async def test_connection_that_catches_up_is_not_evicted() -> None:
    """What a connection has read does not count, however much it was."""
    async with Rig(max_connection_lag_bytes=50_000) as rig:
        slow = await rig.connect(*"abcd", buffers=TINY_BYTES)
        for _ in range(10):
            await rig.block(slow, "a")
            for room in "abcd":
                await fill(rig, room, 8000)
            while slow.conn.blocked:
                slow.now()
                await turn()
        await turn()
        assert rig.evicted == []
        assert rig.hub.stats()["lag_bytes"] == 0


# All connections together


@on_loop
async def test_connection_with_the_largest_lag_is_evicted_first() -> None:
    """Above the bound for all connections, the one with the largest lag is evicted, and only as
    many are as the bound demands."""
    async with Rig(max_lag_total_bytes=160_000) as rig:
        most, some, least = [await stalled(rig, room) for room in "abc"]
        await fill(rig, "c", 10_000)
        await fill(rig, "b", 40_000)
        await fill(rig, "a", 60_000)
        assert rig.evicted == []
        await fill(rig, "c", 40_000)
        assert most.conn.closed
        assert not some.conn.closed
        assert not least.conn.closed
        assert rig.hub.stats()["slow_evictions"]["total"] == 1
        assert rig.hub.stats()["lag_bytes"] < 160_000
        assert (await most.to_close())[-1].payload == close_payload(EVICTED, TOTAL)
        assert reasons(rig) == [(most, TOTAL)]


@on_loop
async def test_kept_bytes_stay_within_the_bound() -> None:
    """However many connections stall in however many rooms, the hub keeps no more than the bound
    and the step in which it is checked."""
    async with Rig(max_lag_total_bytes=320_000) as rig:
        for number in range(12):
            await stalled(rig, f"room {number}")
            await fill(rig, f"room {number}", 60_000)
            assert rig.hub.stats()["lag_bytes"] <= 340_000
        assert 7 <= rig.hub.stats()["slow_evictions"]["total"] < 12


@on_loop
async def test_shared_log_counts_once() -> None:
    """Many connections that need the same log together need no more than one of them."""
    async with Rig(max_lag_total_bytes=400_000) as rig:
        slow = [await stalled(rig, "a") for _ in range(8)]
        await fill(rig, "a", 100_000)  # each of the eight lags by this
        assert rig.evicted == []
        assert not any(client.conn.closed for client in slow)
        assert 100_000 < rig.hub.stats()["lag_bytes"] < 400_000


@on_loop
async def test_batch_in_several_transports_counts_once() -> None:
    """A batch that many transports hold a part of is one batch in memory."""
    async with Rig(max_lag_total_bytes=160_000) as rig:
        clients = [await rig.connect("a", buffers=TINY_BYTES) for _ in range(8)]
        rig.hub.publish("a", b"x" * 60_000)
        await turn()
        assert all(client.conn.blocked for client in clients)
        assert 60_000 <= rig.hub.stats()["lag_bytes"] < 70_000
        rig.hub.verify()
        for client in clients:
            assert await client.payloads(1) == [b"x" * 60_000]
        await until(lambda: not any(client.conn.blocked for client in clients))
        assert rig.hub.stats()["lag_bytes"] == 0


@on_loop
async def test_unread_replies_count() -> None:
    """Replies that connections do not read count against the bound for all."""
    async with Rig(max_lag_total_bytes=500_000) as rig:
        clients = [await rig.connect(buffers=TINY_BYTES) for _ in range(4)]
        for client, count in zip(clients, (9, 5, 5, 5), strict=True):
            for _ in range(count):
                assert rig.hub.send(client.conn, b"x" * 25_000) is not None
                rig.hub.verify()
        assert [client.conn.closed for client in clients] == [True, False, False, False]
        assert rig.hub.stats()["slow_evictions"] == {
            "room": 0, "connection": 0, "total": 1, "time": 0, "replies": 0,
        }  # fmt: skip
        assert rig.hub.stats()["lag_bytes"] <= 500_000


@on_loop
async def test_evicted_connection_counts_until_its_transport_is_empty() -> None:
    """A closing connection whose transport holds the most is aborted, and no other is evicted."""
    async with Rig(clock=True, max_lag_total_bytes=400_000) as rig:
        closing = await rig.connect(buffers=TINY_BYTES)
        for _ in range(10):
            rig.hub.send(closing.conn, b"x" * 25_000)
        rig.hub.close_connection(closing.conn, 1000)
        rig.hub.verify()
        assert rig.hub.stats()["lag_bytes"] > 200_000
        other = await rig.connect(buffers=TINY_BYTES)
        for _ in range(9):
            assert rig.hub.send(other.conn, b"x" * 25_000)
            rig.hub.verify()
        assert rig.hub.stats()["lag_bytes"] < 300_000
        assert rig.evicted == []
        await closing.to_end()
        assert not other.conn.closed


@on_loop
async def test_closing_connection_that_reads_gives_its_bytes_back() -> None:
    """The bytes of a closing connection do not count any more once it has read them."""
    async with Rig(clock=True) as rig:
        for tls in (False, True):
            client = await rig.connect("a", buffers=TINY_BYTES, tls=tls)
            published = await rig.block(client, "a")
            rig.hub.send(client.conn, b"a reply" * 1000)
            rig.hub.close_connection(client.conn, 1000)
            rig.hub.verify()
            assert rig.hub.stats()["lag_bytes"] > 0
            assert len(await client.to_close()) == len(published) + 2
            await until(lambda: rig.hub.stats()["lag_bytes"] == 0)
            rig.hub.verify()


@on_loop
async def test_bytes_that_are_encrypted_count_for_each_connection() -> None:
    """TLS transports hold bytes of their own, so the same batch counts for each of them."""
    async with Rig(max_lag_total_bytes=400_000) as rig:
        clients = [await rig.connect("a", buffers=TINY_BYTES, tls=True) for _ in range(3)]
        for _ in range(2):  # uvloop's TLS does not count the first
            rig.hub.publish("a", b"x" * 90_000)
            await turn()
            rig.hub.verify()
        assert all(client.conn.blocked for client in clients)
        assert rig.hub.stats()["lag_bytes"] > 3 * 90_000
        for client in clients:
            assert await client.payloads(2) == [b"x" * 90_000] * 2
        await until(lambda: rig.hub.stats()["lag_bytes"] == 0)
        assert rig.evicted == []


@pytest.mark.parametrize("slices", [1, 256])
@on_loop
async def test_members_that_read_are_served_before_anybody_is_evicted(slices: int) -> None:
    """Batches that a flush has yet to write to members that read do not count against the bound:
    a slow reader with a small lag stays."""
    async with Rig(max_lag_total_bytes=100_000, slice_visits=slices) as rig:
        slow = await stalled(rig, "slow")
        sinks = [Sink() for _ in range(30)]
        for number, sink in enumerate(sinks):
            rig.hub.register(sink, f"room {number // 2}")
        for number in range(200):
            rig.hub.publish(f"room {number % 15}", b"x" * 2000)
            if number % 10 == 0:
                rig.hub.end_turn()
            rig.hub.verify()
        rig.hub.flush()
        assert not slow.conn.closed
        assert sum(len(sink.payloads()) for sink in sinks) == 400


@on_loop
async def test_relief_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says how many connections were evicted for all, and names the setting."""
    caplog.set_level(logging.WARNING)
    async with Rig(max_lag_total_bytes=50_000) as rig:
        await stalled(rig, "a")
        await fill(rig, "a", 60_000)
        (line,) = (record.getMessage() for record in caplog.records)
        assert line.startswith("clients that read too slowly were evicted (1): ")
        assert line.endswith("and --max-lag-total-bytes is 50000")


# Closing without a close frame


@on_loop
async def test_connection_whose_owner_sent_a_close_frame_gets_nothing_more() -> None:
    """After `stop_sending` no frame follows, pending ones included, and the sweep aborts the
    connection."""
    async with Rig(clock=True) as rig:
        client = await rig.connect("a")
        rig.hub.publish("a", b"1")
        await turn()
        rig.hub.publish("a", b"2")
        rig.hub.stop_sending(client.conn)
        rig.hub.stop_sending(client.conn)
        rig.hub.verify()
        assert client.conn.closed
        assert rig.hub.send(client.conn, "late") is False
        rig.hub.leave(client.conn, "a")
        await rig.sweep(3)
        assert await client.to_end() == texts(b"1")
        assert rig.evicted == []


@on_loop
async def test_bytes_of_a_connection_that_was_stopped_count() -> None:
    """Bytes in the transport count until it is closed, although nothing is sent any more."""
    async with Rig(clock=True) as rig:
        client = await stalled(rig, "a")
        rig.hub.send(client.conn, b"x" * 50_000)
        rig.hub.stop_sending(client.conn)
        rig.hub.verify()
        assert rig.hub.stats()["lag_bytes"] > 50_000
        await rig.sweep(3)
        assert rig.hub.stats()["lag_bytes"] == 0


@pytest.mark.parametrize("name", ["max_connection_lag_bytes", "max_lag_total_bytes"])
@on_loop
async def test_bound_that_is_too_small_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Rig(**{name: 1023})
