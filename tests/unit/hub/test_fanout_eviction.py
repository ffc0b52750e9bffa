"""The hub evicts clients that read too slowly or miss their heartbeat, and limits its logs."""

from __future__ import annotations

import pytest

from support.hub import (
    ABNORMAL,
    CLOSE,
    EVICTED,
    HEARTBEAT,
    PING,
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

# Eviction


@on_loop
async def test_member_that_falls_out_of_the_log_is_evicted() -> None:
    """A member that lags by more than max_lag_bytes gets a prefix and 4008; no other member is
    affected."""
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
async def test_member_blocked_for_too_long_is_evicted() -> None:
    """The sweep evicts a member once it has been blocked for longer than max_lag_s, and not
    earlier."""
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
async def test_client_with_too_many_unread_replies_is_evicted() -> None:
    """A client that sends commands without reading is evicted before its replies fill the
    memory."""
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
async def test_leaving_unread_rooms_does_not_evade_eviction() -> None:
    """A client that leaves rooms without reading them is evicted at the same limit."""
    async with Rig() as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        await rig.block(client, "lobby")
        for _ in range(500):
            rig.hub.publish("lobby", b"x" * 1000)
        rig.hub.leave(client.conn, "lobby")
        last = (await client.to_close())[-1]
        assert last.payload == close_payload(EVICTED, "left more rooms than it read")


@on_loop
async def test_evicting_a_room_closes_and_reports_each_member() -> None:
    """All members of an evicted room, even a stalled one, are closed and reported; no other client
    is."""
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
async def test_client_that_reads_in_bursts_is_never_evicted() -> None:
    """A client that pauses for 9 s, reads everything and pauses again stays a member."""
    async with Rig(clock=True, max_lag_s=10) as rig:
        client = await rig.connect("lobby", buffers=TINY_BYTES)
        for _ in range(5):
            published = await rig.block(client, "lobby")
            await rig.sweep(9)
            assert await client.payloads(len(published)) == published
            await until(lambda: not client.conn.blocked)
        assert rig.evicted == []


@on_loop
async def test_reading_member_late_in_the_round_is_not_evicted() -> None:
    """A burst larger than the log evicts no member that reads, however small the slices are."""
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
async def test_sweep_aborts_an_evicted_transport() -> None:
    """A client that does not answer its close frame is aborted after two seconds."""
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
async def test_connection_that_answers_pings_stays() -> None:
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
async def test_connection_that_misses_its_heartbeat_is_closed() -> None:
    """If a ping is not answered within pong_timeout_s, the connection is closed with 4009."""
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
async def test_deadlines_restart_after_the_process_was_suspended() -> None:
    """After a pause of the whole process every pong and every lag gets its full time again."""
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
async def test_ping_behind_a_backlog_counts_from_the_end_of_the_backlog() -> None:
    """A connection that was blocked when its ping was queued gets the whole time to answer."""
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
async def test_log_is_dropped_with_the_last_lagging_member(how: str) -> None:
    """The log is empty as soon as the only lagging member has gone, however it went."""
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
async def test_room_is_removed_with_its_last_member() -> None:
    """A room without members is removed together with its pending frames."""
    async with Rig() as rig:
        first = await rig.connect("lobby")
        rig.hub.publish("lobby", b"1")
        rig.hub.detach(first.conn)
        assert rig.hub.stats()["rooms"] == 0
        second = await rig.connect("lobby")
        rig.hub.publish("lobby", b"2")
        assert await second.payloads(1) == [b"2"]
