"""The relay as whoever connects to its socket sees it: what it takes, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import PATIENCE_S, Receiver, join, leave, new_rooms, run_in_loop
from contracts.history import draft
from fastchat.brokers.relay import server
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.server import Relay
from fastchat.brokers.relay.wire import SOCKET_NAME, VERSION, RecordKind, RecordReader, pack
from fastchat.errors import SettingError
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.process import relay as relay_process
from fastchat.process.channel import Control
from fastchat.settings import Settings

HELLO = pack(RecordKind.HELLO, [VERSION, "worker-9", 1, 0])


class Peer:
    """Somebody on the relay's socket, who says what he likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._records = RecordReader()
        self._heard: list[tuple[int, Any, bytes]] = []

    async def say(self, *records: bytes) -> None:
        self.writer.write(b"".join(records))
        await self.writer.drain()

    async def hear(self) -> tuple[int, Any, bytes]:
        """The next record."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._heard:
                data = await self._reader.read(65536)
                assert data, "the relay has hung up"
                self._heard.extend(self._records.feed(data))
        return self._heard.pop(0)

    async def hung_up(self) -> None:
        """Fails if anything comes but the end."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                assert await self._reader.read() == b""


class Place:
    """A relay in a directory; what connects to it is closed at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        history = MemoryHistory(max_messages=1000, new_epoch=lambda: "epoch")
        self.rooms = new_rooms(history)
        self.history = history
        self.relay = Relay(directory, self.rooms, Metrics(), workers=1)
        self._brokers: list[RelayBroker] = []
        self._peers: list[Peer] = []

    async def peer(self, *records: bytes) -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(str(self.directory / SOCKET_NAME)))
        self._peers.append(peer)
        await peer.say(*records)
        return peer

    async def worker(self) -> Peer:
        """One that has been welcomed, with no rooms."""
        peer = await self.peer(HELLO)
        assert await peer.hear() == (RecordKind.WELCOME, None, b"")
        return peer

    async def broker(self) -> tuple[RelayBroker, Receiver]:
        broker, receiver = RelayBroker(self.directory, name="good", metrics=Metrics()), Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        self._brokers.append(broker)
        await broker.start()
        return broker, receiver

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.close()
            if broker._giving_up is not None:
                broker._giving_up.cancel()
        for peer in self._peers:
            peer.writer.close()
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()
        self.relay.close()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def relaying(directory: Path) -> AsyncIterator[Place]:
    place = Place(directory)
    await place.relay.start()
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            yield place
    finally:
        await place.close()


def run(directory: Path, test: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        async with relaying(directory) as place:
            await test(place)

    run_in_loop(body())


def joining(number: int, name: str = "Alice", *, within_s: float = 5.0) -> bytes:
    head = [number, time.monotonic() + within_s, "a", [name, f"author {name}"], None, 50]
    return pack(RecordKind.JOIN, head)


# The socket


def test_socket_is_for_its_user_only(tmp_path: Path) -> None:
    """Nobody else may speak in everybody's name; and what is made later is as usual."""
    before = os.umask(0o022)
    try:

        async def test(place: Place) -> None:
            mode = os.stat(tmp_path / SOCKET_NAME).st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600

        run(tmp_path, test)
        (tmp_path / "later").touch()
        assert stat.S_IMODE(os.stat(tmp_path / "later").st_mode) == 0o644
    finally:
        os.umask(before)


def test_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    """Nobody connects to a relay that has stopped."""

    async def test(place: Place) -> None:
        pass

    run(tmp_path, test)
    assert not (tmp_path / SOCKET_NAME).exists()


def test_socket_of_a_dead_relay_is_replaced(tmp_path: Path) -> None:
    """Whether it was killed or left something else there."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / SOCKET_NAME))
    stale.close()

    async def test(place: Place) -> None:
        broker, _ = await place.broker()
        assert (await join(broker)).online == 1

    run(tmp_path, test)


def test_directory_may_have_a_long_name(tmp_path: Path) -> None:
    """Longer than a socket's address holds."""
    directory = tmp_path / ("x" * 120) / ("ä" * 60)
    directory.mkdir(parents=True)

    async def test(place: Place) -> None:
        assert (directory / SOCKET_NAME).is_socket()
        broker, receiver = await place.broker()
        await join(broker)
        broker.publish(draft("x"), receiver.answer)
        await receiver.until_delivered(1)

    run(directory, test)
    assert not (directory / SOCKET_NAME).exists()


# What is not understood

NONSENSE = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "impossible length": b"\xff\xff\xff\xff",
    "too short": b"\x00\x00\x00\x02\x01\x01",
    "head that is not JSON": b"\x00\x00\x00\x09\x01\x00\x00\x00\x04nul!",
    "wrong version": pack(RecordKind.HELLO, [VERSION + 1, "worker-9", 1, 0]),
    "record before hello": joining(1),
    "restore before hello": pack(RecordKind.RESTORE, ["a", ["epoch", 0], [], []]),
    "hello of another shape": pack(RecordKind.HELLO, {"version": VERSION}),
    "record before its rooms": pack(RecordKind.HELLO, [VERSION, "worker-9", 1, 1]) + joining(1),
    "restore of another shape": pack(RecordKind.HELLO, [VERSION, "worker-9", 1, 1])
    + pack(RecordKind.RESTORE, [1]),
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_who_does_not_speak_the_protocol_is_cut_off(
    tmp_path: Path, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line in the log; the others do not notice."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        await join(broker)
        caplog.clear()
        peer = await place.peer(nonsense)
        await peer.hung_up()
        serious = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(serious) == 1
        broker.publish(draft("x"), receiver.answer)
        await receiver.until_delivered(1)
        assert receiver.events == []
        assert place.rooms.user_count == 1
        assert broker.connected

    with caplog.at_level(logging.INFO):
        run(tmp_path, test)


@pytest.mark.parametrize(
    "nonsense",
    [
        HELLO,
        pack(RecordKind.DELIVER, []),
        pack(99, None),  # type: ignore[arg-type]
        pack(RecordKind.JOIN, [1]),
        pack(RecordKind.PUBLISH, [9e99, [[1, "a"]]]),
    ],
    ids=repr,
)
def test_worker_that_talks_nonsense_is_lost(
    tmp_path: Path, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its members have the usual time to come back."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        await join(broker, "Bob")
        peer = await place.worker()
        await peer.say(joining(1))
        assert (await peer.hear())[0] == RecordKind.JOINED
        caplog.clear()
        await peer.say(nonsense)
        await peer.hung_up()
        assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1
        assert (await join(broker)).online == 2
        for _ in range(20):
            place.rooms.tick()
        assert (await join(broker, "Eve")).online == 3
        assert receiver.events == [("join", "Alice"), ("join", "Eve")]

    run(tmp_path, test)


def test_silence_of_one_keeps_nobody_up(tmp_path: Path) -> None:
    """Who connects and says nothing, or half a record, is no worker."""

    async def test(place: Place) -> None:
        await place.peer()
        await place.peer(HELLO[:7])
        broker, _ = await place.broker()
        assert (await join(broker)).online == 1

    run(tmp_path, test)


# What is asked too late, or of nobody


def test_draft_that_comes_too_late_is_not_kept(tmp_path: Path) -> None:
    """Each is answered; one in time is kept."""
    fields = ["a", "Alice", "hi", "2025-01-18T10:30:00.123Z", "author", None]

    async def test(place: Place) -> None:
        peer = await place.worker()
        now = time.monotonic()
        await peer.say(pack(RecordKind.PUBLISH, [now - 0.01, [[1, *fields], [2, *fields]]]))
        for ticket in (1, 2):
            kind, (number, refusal, repeated), _ = await peer.hear()
            assert (kind, number, repeated) == (RecordKind.ANSWER, ticket, False)
            assert (refusal[0], refusal[2]) == ("unavailable", True)
        await peer.say(pack(RecordKind.PUBLISH, [now + 60, [[3, *fields]]]))
        assert await peer.hear() == (RecordKind.ANSWER, [3, 1, False], b"")
        assert place.history.position("a").offset == 1

    run(tmp_path, test)


def test_join_that_comes_too_late_counts_nobody(tmp_path: Path) -> None:
    """It is refused."""

    async def test(place: Place) -> None:
        peer = await place.worker()
        await peer.say(joining(7, within_s=-0.01))
        kind, (number, refusal), _ = await peer.hear()
        assert (kind, number) == (RecordKind.REFUSED, 7)
        assert (refusal[0], refusal[2]) == ("unavailable", True)
        assert place.rooms.user_count == 0

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(RecordKind.BEFORE, None), (RecordKind.AFTER, 0), (RecordKind.SEARCH, "x")],
)
def test_question_that_comes_too_late_is_not_looked_up(
    kind: RecordKind, what: Any, tmp_path: Path
) -> None:
    """It is refused; nobody waits for the answer."""

    async def test(place: Place) -> None:
        peer = await place.worker()
        await peer.say(pack(kind, [7, time.monotonic() - 0.01, "a", what, 9]))
        answered, (number, refusal), _ = await peer.hear()
        assert (answered, number) == (RecordKind.REFUSED, 7)
        assert (refusal[0], refusal[2]) == ("unavailable", True)

    run(tmp_path, test)


def test_leave_that_comes_late_is_done(tmp_path: Path) -> None:
    """Who has gone has gone; and who was not there is answered too."""

    async def test(place: Place) -> None:
        peer = await place.worker()
        await peer.say(joining(1))
        await peer.hear()
        past = time.monotonic() - 60
        for number, room in ((2, "a"), (3, "a"), (4, "nowhere")):
            await peer.say(
                pack(RecordKind.LEAVE, [number, past, room, ["Alice", "author Alice"]]),
                pack(RecordKind.LOSE, [room, ["Alice", "author Alice"]]),
            )
            assert await peer.hear() == (RecordKind.LEFT, [number, None], b"")
        assert place.rooms.room_count == 0

    run(tmp_path, test)


def test_members_of_a_connection_that_ends_are_lost(tmp_path: Path) -> None:
    """All of them, each of his connections."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        await join(broker, "Bob")
        peer = await place.worker()
        await peer.say(joining(1), joining(2), joining(3, "Eve"))
        while (await peer.hear())[1][0] != 3:
            pass
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert place.rooms.user_count == 3
        for _ in range(20):
            place.rooms.tick()
        await receiver.until_told(
            ("join", "Alice"), ("join", "Eve"), ("leave", "Alice"), ("leave", "Eve")
        )
        await leave(broker, "Bob")
        assert place.rooms.room_count == 0

    run(tmp_path, test)


def test_searches_of_a_connection_that_ends_are_given_up(tmp_path: Path) -> None:
    """Nobody waits for them."""

    async def test(place: Place) -> None:
        cancelled = asyncio.Event()

        async def search(*_: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        searching = pack(RecordKind.SEARCH, [1, time.monotonic() + 60, "a", "x", 9])
        place.rooms.search = search  # type: ignore[assignment,method-assign]
        peer = await place.worker()
        await peer.say(searching, pack(RecordKind.PING, 5))
        assert await peer.hear() == (RecordKind.PONG, 5, b"")
        peer.writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await cancelled.wait()

    run(tmp_path, test)


# Gathering


def test_nobody_is_welcomed_before_all_are_there_or_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection for the status is no worker."""
    monkeypatch.setattr(server, "GATHERING_S", 0.1)

    async def test(place: Place) -> None:
        place.relay._expected = 2
        status = await place.peer(pack(RecordKind.STATUS, None))
        await status.hear()
        begun = time.monotonic()
        peer = await place.peer(HELLO, pack(RecordKind.PING, 1))
        assert (await peer.hear())[0] == RecordKind.PONG  # it is heard, and not welcome yet
        assert (await peer.hear())[0] == RecordKind.WELCOME
        assert time.monotonic() - begun > 0.05
        late = await place.peer(HELLO)
        assert (await late.hear())[0] == RecordKind.WELCOME

    run(tmp_path, test)


def test_room_that_cannot_be_resumed_is_lost_before_the_welcome(tmp_path: Path) -> None:
    """The others are resumed, and what they missed comes before it, too."""

    async def test(place: Place) -> None:
        place.history.append([draft("1"), draft("2")])
        members = [[["Alice", "author Alice"], 1]]
        peer = await place.peer(
            pack(RecordKind.HELLO, [VERSION, "worker-9", 1, 2]),
            pack(RecordKind.RESTORE, ["b", ["other", 3], members, []]),
            pack(RecordKind.RESTORE, ["a", ["epoch", 1], members, []]),
        )
        assert await peer.hear() == (RecordKind.LOST, "b", b"")
        while (record := await peer.hear())[0] != RecordKind.WELCOME:
            kind, items, _ = record
            assert kind == RecordKind.DELIVER
            assert [(room, offset) for room, offset, *_ in items if offset] == [("a", 2)]
        assert place.rooms.room_count == 1

    run(tmp_path, test)


# Status


def test_status_is_answered_to_anybody(tmp_path: Path) -> None:
    """What each worker has reported last, and the relay's own counts, as often as asked."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        peer = await place.peer(pack(RecordKind.STATUS, None))
        kind, status, _ = await peer.hear()
        assert kind == RecordKind.STATUS
        assert set(status["parts"]) == {"relay"}
        broker.report({"pid": 1, "x": 1})
        broker.report({"pid": 1, "x": 2})
        await join(broker)
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        await peer.say(pack(RecordKind.STATUS, None))
        _, status, _ = await peer.hear()
        assert status["parts"]["good"] == {"pid": 1, "x": 2}
        own = status["parts"]["relay"]
        assert (own["rooms"], own["users"], own["pid"]) == (1, 1, os.getpid())
        await broker.close()
        await asyncio.sleep(0.02)
        await peer.say(pack(RecordKind.STATUS, None))
        assert set((await peer.hear())[1]["parts"]) == {"relay"}

    run(tmp_path, test)


def test_status_of_a_worker_is_its_successors(tmp_path: Path) -> None:
    """During a rolling restart both are there."""

    async def test(place: Place) -> None:
        peers = []
        for pid in range(1, 9):
            peers.append(await place.worker())
            await peers[-1].say(
                pack(RecordKind.REPORT, {"pid": pid}), pack(RecordKind.STATUS, None)
            )
            _, status, _ = await peers[-1].hear()
            assert status["parts"]["worker-9"] == {"pid": pid}

    run(tmp_path, test)


# Its heart


def test_fault_in_a_tick_is_logged_and_costs_a_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next tick is as any; a fault that stays is a relay without a beat."""
    beats: list[int] = []

    class Beats:
        def say(self, **message: Any) -> None:
            beats.append(ticks)

    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            raise RuntimeError("a planted fault")

    async def test(place: Place) -> None:
        monkeypatch.setattr(place.rooms, "tick", tick)
        ticking = asyncio.create_task(
            relay_process._tick_forever(place.relay, Beats(), interval_s=0.001)  # type: ignore[arg-type]
        )
        async with asyncio.timeout(PATIENCE_S):
            while len(beats) < 3:  # noqa: ASYNC110 there is no event to wait for
                await asyncio.sleep(0.001)
        ticking.cancel()

    run(tmp_path, test)
    assert beats[:3] == [1, 3, 4]
    assert "a planted fault" in caplog.text


def test_directory_that_takes_no_socket_is_a_sentence(tmp_path: Path) -> None:
    """Not a traceback, whatever is in the socket's place."""
    (tmp_path / SOCKET_NAME).mkdir()
    settings = Settings(data=str(tmp_path), workers=2, history="memory")
    ours, theirs = socket.socketpair()
    control = Control(theirs.detach())
    with ours, pytest.raises(SettingError, match=r"^--data .* cannot hold the relay's socket: "):
        relay_process.run(settings, control, workers=2)
    control._socket.close()
