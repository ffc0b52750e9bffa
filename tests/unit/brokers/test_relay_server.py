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
from fastchat.brokers.relay import records
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.records import FromRelay, decode_from_relay
from fastchat.brokers.relay.server import GATHERING_S, Relay
from fastchat.brokers.relay.wire import SOCKET_NAME, VERSION, RecordKind, RecordReader, pack
from fastchat.errors import ErrorCode, SettingError
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.process import relay as relay_process
from fastchat.process.channel import Channel
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Member
from fastchat.rooms.rooms import Rooms
from fastchat.settings import Settings

HELLO = records.Hello("worker-9", 1, rooms=0).encode()
ASK_STATUS = records.AskStatus().encode()
ALICE = Member("Alice", "author Alice")


class RawWorker:
    """A worker as the relay sees it, which sends just the bytes that a test gives it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._records = RecordReader(decode_from_relay)
        self._heard: list[FromRelay] = []

    async def say(self, *records: bytes) -> None:
        self.writer.write(b"".join(records))
        await self.writer.drain()

    async def hear(self) -> FromRelay:
        """The next record."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._heard:
                data = await self._reader.read(65536)
                assert data, "the relay has hung up"
                self._heard.extend(self._records.feed(data))
        return self._heard.pop(0)

    async def status(self) -> records.Status:
        record = await self.hear()
        assert isinstance(record, records.Status)
        return record

    async def hung_up(self) -> None:
        """Fails if anything comes but the end."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                assert await self._reader.read() == b""


class Place:
    """A relay in a directory; what connects to it is closed at the end."""

    def __init__(self, directory: Path, *, workers: int = 1, gathering_s: float) -> None:
        self.directory = directory
        history = MemoryHistory(max_messages=1000, new_epoch=lambda: "epoch")
        self.rooms = new_rooms(history)
        self.history = history
        self.relay = Relay(
            directory, self.rooms, Metrics(), workers=workers, gathering_s=gathering_s
        )
        self._brokers: list[RelayBroker] = []
        self._peers: list[RawWorker] = []

    async def peer(self, *records: bytes) -> RawWorker:
        peer = RawWorker(*await asyncio.open_unix_connection(str(self.directory / SOCKET_NAME)))
        self._peers.append(peer)
        await peer.say(*records)
        return peer

    async def worker(self) -> RawWorker:
        """One that has been welcomed, with no rooms."""
        peer = await self.peer(HELLO)
        assert await peer.hear() == records.Welcome()
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
            broker._timer.cancel()
        for peer in self._peers:
            peer.writer.close()
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()
        self.relay.close()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def relaying(directory: Path, **options: Any) -> AsyncIterator[Place]:
    place = Place(directory, **{"gathering_s": GATHERING_S, **options})
    await place.relay.start()
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            yield place
    finally:
        await place.close()


def run(
    directory: Path, test: Callable[[Place], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def body() -> None:
        async with relaying(directory, **options) as place:
            await test(place)

    run_in_loop(body())


def joining(number: int, name: str = "Alice", *, within_s: float = 5.0) -> bytes:
    entrance = Entrance("a", Member(name, f"author {name}"), None, 50)
    return records.Join(number, time.monotonic() + within_s, entrance).encode()


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
    "restore before hello": records.Restore("a", Position("epoch", 0), [], []).encode(),
    "hello of another shape": pack(RecordKind.HELLO, {"version": VERSION}),
    "record before its rooms": records.Hello("worker-9", 1, rooms=1).encode() + joining(1),
    "restore of another shape": records.Hello("worker-9", 1, rooms=1).encode()
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
        assert isinstance(await peer.hear(), records.Joined)
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
    hi = draft("hi")

    async def test(place: Place) -> None:
        peer = await place.worker()
        now = time.monotonic()
        await peer.say(records.Publish(now - 0.01, [(1, hi), (2, hi)]).encode())
        for number in (1, 2):
            answer = await peer.hear()
            assert isinstance(answer, records.Answer)
            assert isinstance(answer.outcome, records.Refusal)
            assert (answer.draft_number, answer.repeated) == (number, False)
            assert_unavailable(answer.outcome)
        await peer.say(records.Publish(now + 60, [(3, hi)]).encode())
        assert await peer.hear() == records.Answer(3, 1)
        assert place.history.position("a").offset == 1

    run(tmp_path, test)


def assert_unavailable(refusal: records.Refusal) -> None:
    assert (refusal.code, refusal.temporary) == (ErrorCode.UNAVAILABLE, True)


def test_join_that_comes_too_late_counts_nobody(tmp_path: Path) -> None:
    """It is refused."""

    async def test(place: Place) -> None:
        peer = await place.worker()
        await peer.say(joining(7, within_s=-0.01))
        refused = await peer.hear()
        assert isinstance(refused, records.Refused)
        assert refused.number == 7
        assert_unavailable(refused.refusal)
        assert place.rooms.user_count == 0

    run(tmp_path, test)


@pytest.mark.parametrize(
    "question",
    [
        records.Before(7, 0.0, "a", None, 9),
        records.After(7, 0.0, "a", 0, 9),
        records.Search(7, 0.0, "a", "x", 9),
    ],
)
def test_question_that_comes_too_late_is_not_looked_up(
    question: records.Before | records.After | records.Search, tmp_path: Path
) -> None:
    """It is refused; nobody waits for the answer."""

    async def test(place: Place) -> None:
        peer = await place.worker()
        await peer.say(question._replace(deadline=time.monotonic() - 0.01).encode())
        refused = await peer.hear()
        assert isinstance(refused, records.Refused)
        assert refused.number == 7
        assert_unavailable(refused.refusal)

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
                records.Leave(number, past, room, ALICE).encode(),
                records.Lose(room, ALICE).encode(),
            )
            assert await peer.hear() == records.Left(number)
        assert place.rooms.room_count == 0

    run(tmp_path, test)


def test_members_of_a_connection_that_ends_are_lost(tmp_path: Path) -> None:
    """All of them, each of his connections."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        await join(broker, "Bob")
        peer = await place.worker()
        await peer.say(joining(1), joining(2), joining(3, "Eve"))
        while (await peer.hear())[0] != 3:  # the request's number
            pass
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert place.rooms.user_count == 3
        for _ in range(20):
            place.rooms.tick()
        await receiver.until_events(
            ("join", "Alice"), ("join", "Eve"), ("leave", "Alice"), ("leave", "Eve")
        )
        await leave(broker, "Bob")
        assert place.rooms.room_count == 0

    run(tmp_path, test)


class SlowJoins:
    """Has the joins of a relay's rooms wait until `gate` is set, as rooms elsewhere would."""

    def __init__(self, rooms: Rooms) -> None:
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self._join = rooms.join
        rooms.join = self.join  # type: ignore[method-assign]

    async def join(self, *arguments: Any) -> None:
        self.begun.set()
        await self.gate.wait()
        await self._join(*arguments)


def test_records_behind_a_request_that_waits_keep_their_order(tmp_path: Path) -> None:
    """They are handled when it has its reply; other workers do not wait."""

    async def test(place: Place) -> None:
        slow = SlowJoins(place.rooms)
        peer, other = await place.worker(), await place.worker()
        publishing = records.Publish(time.monotonic() + 60, [(1, draft("hi"))]).encode()
        await peer.say(joining(1), publishing)
        await slow.begun.wait()
        await peer.say(joining(2, "Eve"), records.Ping(5).encode())
        await other.say(records.Ping(6).encode())
        assert await other.hear() == records.Pong(6)
        assert place.history.position("a").offset == 0
        slow.gate.set()
        heard = [await peer.hear() for _ in range(5)]
        assert [type(each).__name__ for each in heard] == [
            "Joined",
            "Deliver",
            "Deliver",
            "Joined",
            "Pong",
        ]

    run(tmp_path, test)


def test_request_that_waits_when_its_connection_ends_is_undone(tmp_path: Path) -> None:
    """Its member is counted in and lost, and so are those behind it."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        await join(broker, "Bob")
        slow = SlowJoins(place.rooms)
        peer = await place.worker()
        await peer.say(joining(1), joining(2, "Eve"))
        await slow.begun.wait()
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert place.rooms.user_count == 1
        slow.gate.set()
        await receiver.until_events(("join", "Alice"), ("join", "Eve"))
        for _ in range(20):
            place.rooms.tick()
        await receiver.until(lambda: len(receiver.events) == 4)
        assert receiver.events[2:] == [("leave", "Alice"), ("leave", "Eve")]

    run(tmp_path, test)


def test_fault_behind_a_request_that_waits_costs_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The relay goes on."""

    async def test(place: Place) -> None:
        slow = SlowJoins(place.rooms)
        peer = await place.worker()
        await peer.say(joining(1))
        await slow.begun.wait()
        await peer.say(HELLO, joining(2, "Eve"))
        slow.gate.set()
        await peer.hung_up()
        assert "Hello out of turn" in caplog.text
        assert place.rooms.user_count == 1

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

        searching = records.Search(1, time.monotonic() + 60, "a", "x", 9).encode()
        place.rooms.pages.search = search  # type: ignore[assignment,method-assign]
        peer = await place.worker()
        await peer.say(searching, records.Ping(5).encode())
        assert await peer.hear() == records.Pong(5)
        peer.writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await cancelled.wait()

    run(tmp_path, test)


# Gathering


def test_nobody_is_welcomed_before_all_are_there_or_time_is_over(tmp_path: Path) -> None:
    """A connection for the status is no worker."""

    async def test(place: Place) -> None:
        status = await place.peer(ASK_STATUS)
        await status.hear()
        begun = time.monotonic()
        peer = await place.peer(HELLO, records.Ping(1).encode())
        assert await peer.hear() == records.Pong(1)  # it is heard, and not welcome yet
        assert await peer.hear() == records.Welcome()
        assert time.monotonic() - begun > 0.05
        late = await place.peer(HELLO)
        assert await late.hear() == records.Welcome()

    run(tmp_path, test, workers=2, gathering_s=0.1)


def test_room_that_cannot_be_resumed_is_lost_before_the_welcome(tmp_path: Path) -> None:
    """The others are resumed, and what they missed comes before it, too."""

    async def test(place: Place) -> None:
        place.history.append([draft("1"), draft("2")])
        peer = await place.peer(
            records.Hello("worker-9", 1, rooms=2).encode(),
            records.Restore("b", Position("other", 3), [(ALICE, 1)], []).encode(),
            records.Restore("a", Position("epoch", 1), [(ALICE, 1)], []).encode(),
        )
        assert await peer.hear() == records.Lost("b")
        while (record := await peer.hear()) != records.Welcome():
            assert isinstance(record, records.Deliver)
            offsets = [(each.room, each.offset) for each in record.deliveries if each.offset]
            assert offsets == [("a", 2)]
        assert place.rooms.room_count == 1

    run(tmp_path, test)


# Status


def test_status_is_answered_to_anybody(tmp_path: Path) -> None:
    """What each worker has reported last, and the relay's own counts, as often as asked."""

    async def test(place: Place) -> None:
        broker, receiver = await place.broker()
        peer = await place.peer(ASK_STATUS)
        assert set((await peer.status()).parts) == {"relay"}
        broker.report({"pid": 1, "x": 1})
        broker.report({"pid": 1, "x": 2})
        await join(broker)
        broker.publish(draft())
        await receiver.until_delivered(1)
        await peer.say(ASK_STATUS)
        parts = (await peer.status()).parts
        assert parts["good"] == {"pid": 1, "x": 2}
        own = parts["relay"]
        assert (own["rooms"], own["users"], own["pid"]) == (1, 1, os.getpid())
        await broker.close()
        await asyncio.sleep(0.02)
        await peer.say(ASK_STATUS)
        assert set((await peer.status()).parts) == {"relay"}

    run(tmp_path, test)


def test_status_of_a_worker_is_its_successors(tmp_path: Path) -> None:
    """During a rolling restart both are there."""

    async def test(place: Place) -> None:
        peers = []
        for pid in range(1, 9):
            peers.append(await place.worker())
            await peers[-1].say(records.Report({"pid": pid}).encode(), ASK_STATUS)
            status = await peers[-1].status()
            assert status.parts["worker-9"] == {"pid": pid}

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
    channel = Channel(theirs.detach())
    with ours, pytest.raises(SettingError, match=r"^--data .* cannot hold the relay's socket: "):
        relay_process.run(settings, channel, workers=2)
    channel._socket.close()
