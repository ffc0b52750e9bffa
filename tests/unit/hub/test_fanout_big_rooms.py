"""Rooms with many members: slices and pauses."""

from __future__ import annotations

import time

from support.hub import (
    Rig,
    Sink,
    on_loop,
    texts,
    turn,
    until,
)


@on_loop
async def test_big_room_is_flushed_in_slices() -> None:
    """Each of 10,000 members gets every publication once, and the loop runs other work between
    slices."""
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
async def test_members_that_join_or_leave_during_a_round_miss_nothing() -> None:
    """Members that join or leave during a round neither miss nor repeat a publication."""
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
    """A sink whose writes take `seconds` each."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass


def _slow_room(rig: Rig, name: str, seconds: float) -> Sink:
    """Fill a room whose flush takes at least the given time; returns its last sink."""
    for _ in range(300):
        sink = SlowSink(seconds / 300)
        rig.hub.register(sink, name)
    return sink


@on_loop
async def test_flush_of_a_big_room_is_paced_under_load() -> None:
    """After a flush that was slow and carried several publications, the next one waits about as
    long."""
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
async def test_single_publication_is_never_paced() -> None:
    """Publications that arrive one at a time leave in their own turn, however big the room is."""
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
async def test_paced_room_delays_no_other_room() -> None:
    """A room with a short pause does not wait for a room with a longer one."""
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
