"""The relay as its socket's clients see it: what it accepts, and what it refuses."""

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
from contracts.history import GENERATION, draft
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
from fastchat.rooms.local import LocalRooms
from fastchat.settings import Settings

HELLO = records.Hello("worker-9", 1, rooms=0).encode()
ASK_STATUS = records.AskStatus().encode()
ALICE = Member("Alice", "user Alice")


class RawWorker:
    """A worker that sends exactly the bytes that a test gives it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._records = RecordReader(decode_from_relay)
        self._received: list[FromRelay] = []

    async def send(self, *records: bytes) -> None:
        self.writer.write(b"".join(records))
        await self.writer.drain()

    async def read_record(self) -> FromRelay:
        """Read the next record."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._received:
                data = await self._reader.read(65536)
                assert data, "the relay closed the connection"
                self._received.extend(self._records.feed(data))
        return self._received.pop(0)

    async def status(self) -> records.Status:
        record = await self.read_record()
        assert isinstance(record, records.Status)
        return record

    async def await_end(self) -> None:
        """Wait for the end of the connection; fails if a record arrives first."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionResetError):
                assert await self._reader.read() == b""


class RunningRelay:
    """A relay in a directory; its connections are closed at the end."""

    def __init__(self, directory: Path, *, workers: int = 1, gathering_s: float) -> None:
        self.directory = directory
        history = MemoryHistory(max_messages=1000, new_generation=lambda: GENERATION)
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
        await peer.send(*records)
        return peer

    async def worker(self) -> RawWorker:
        """Connect a worker without rooms, and wait for its welcome."""
        peer = await self.peer(HELLO)
        assert await peer.read_record() == records.Welcome()
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
        await self.relay.close()
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def relaying(directory: Path, **options: Any) -> AsyncIterator[RunningRelay]:
    running = RunningRelay(directory, **{"gathering_s": GATHERING_S, **options})
    await running.relay.start()
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            yield running
    finally:
        await running.close()


def run(
    directory: Path, test: Callable[[RunningRelay], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def body() -> None:
        async with relaying(directory, **options) as running:
            await test(running)

    run_in_loop(body())


def joining(number: int, name: str = "Alice", *, within_s: float = 5.0) -> bytes:
    entrance = Entrance("a", *Member(name, f"user {name}"), None, 50)
    return records.Join(number, time.monotonic() + within_s, entrance).encode()


# The socket


def test_only_the_owner_can_connect_to_the_socket(tmp_path: Path) -> None:
    """No other user can connect; files that are created later have the usual mode."""
    before = os.umask(0o022)
    try:

        async def test(running: RunningRelay) -> None:
            mode = os.stat(tmp_path / SOCKET_NAME).st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600

        run(tmp_path, test)
        (tmp_path / "later").touch()
        assert stat.S_IMODE(os.stat(tmp_path / "later").st_mode) == 0o644
    finally:
        os.umask(before)


def test_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    """A relay that stops removes its socket."""

    async def test(running: RunningRelay) -> None:
        pass

    run(tmp_path, test)
    assert not (tmp_path / SOCKET_NAME).exists()


def test_socket_of_a_dead_relay_is_replaced(tmp_path: Path) -> None:
    """A relay starts although a killed one left its socket behind."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / SOCKET_NAME))
    stale.close()

    async def test(running: RunningRelay) -> None:
        broker, _ = await running.broker()
        assert (await join(broker)).online == 1

    run(tmp_path, test)


def test_directory_can_have_a_long_name(tmp_path: Path) -> None:
    """The path of the directory can be longer than a socket address allows."""
    directory = tmp_path / ("x" * 120) / ("ä" * 60)
    directory.mkdir(parents=True)

    async def test(running: RunningRelay) -> None:
        assert (directory / SOCKET_NAME).is_socket()
        broker, receiver = await running.broker()
        await join(broker)
        broker.publish(draft("x"), receiver.answer)
        await receiver.until_delivered(1)

    run(directory, test)
    assert not (directory / SOCKET_NAME).exists()


# Malformed input

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
def test_client_of_another_protocol_is_disconnected(
    tmp_path: Path, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line about the client, and other workers are not affected."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        await join(broker)
        caplog.clear()
        peer = await running.peer(nonsense)
        await peer.await_end()
        serious = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(serious) == 1
        broker.publish(draft("x"), receiver.answer)
        await receiver.until_delivered(1)
        assert receiver.events == []
        assert running.rooms.user_count == 1
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
        pack(RecordKind.PUBLISH, [9e99, [1]], [b"a"]),
    ],
    ids=repr,
)
def test_worker_that_sends_a_malformed_record_is_disconnected(
    tmp_path: Path, nonsense: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its members have the usual time to return."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        await join(broker, "Bob")
        peer = await running.worker()
        await peer.send(joining(1))
        assert isinstance(await peer.read_record(), records.Joined)
        caplog.clear()
        await peer.send(nonsense)
        await peer.await_end()
        assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1
        assert (await join(broker)).online == 2
        for _ in range(20):
            running.rooms.tick()
        assert (await join(broker, "Eve")).online == 3
        assert receiver.events == [("join", "Alice"), ("join", "Eve")]

    run(tmp_path, test)


def test_silent_client_delays_no_worker(tmp_path: Path) -> None:
    """A client that sends nothing, or half a record, is not waited for as a worker."""

    async def test(running: RunningRelay) -> None:
        await running.peer()
        await running.peer(HELLO[:7])
        broker, _ = await running.broker()
        assert (await join(broker)).online == 1

    run(tmp_path, test)


# Late requests, and ended connections


def test_late_draft_is_refused(tmp_path: Path) -> None:
    """Each late draft is answered, and one in time is stored."""
    hi = draft("hi")

    async def test(running: RunningRelay) -> None:
        peer = await running.worker()
        now = time.monotonic()
        await peer.send(records.Publish(now - 0.01, [1, 2], [hi, hi]).encode())
        for number in (1, 2):
            answer = await peer.read_record()
            assert isinstance(answer, records.Answer)
            assert isinstance(answer.outcome, records.Refusal)
            assert (answer.draft_number, answer.repeated) == (number, False)
            assert_unavailable(answer.outcome)
        await peer.send(records.Publish(now + 60, [3], [hi]).encode())
        assert await peer.read_record() == records.Answer(3, 1)
        assert running.history.position("a").offset == 1

    run(tmp_path, test)


def assert_unavailable(refusal: records.Refusal) -> None:
    assert (refusal.code, refusal.temporary) == (ErrorCode.UNAVAILABLE, True)


def test_late_join_is_refused(tmp_path: Path) -> None:
    """A late join is refused, and no user is counted."""

    async def test(running: RunningRelay) -> None:
        peer = await running.worker()
        await peer.send(joining(7, within_s=-0.01))
        refused = await peer.read_record()
        assert isinstance(refused, records.Refused)
        assert refused.number == 7
        assert_unavailable(refused.refusal)
        assert running.rooms.user_count == 0

    run(tmp_path, test)


@pytest.mark.parametrize(
    "question",
    [
        records.Before(7, 0.0, "a", None, 9),
        records.After(7, 0.0, "a", 0, 9),
        records.Search(7, 0.0, "a", "x", 9),
    ],
)
def test_late_search_is_refused(
    question: records.Before | records.After | records.Search, tmp_path: Path
) -> None:
    """A late search is refused and not run, because its client has stopped waiting."""

    async def test(running: RunningRelay) -> None:
        peer = await running.worker()
        await peer.send(question._replace(deadline=time.monotonic() - 0.01).encode())
        refused = await peer.read_record()
        assert isinstance(refused, records.Refused)
        assert refused.number == 7
        assert_unavailable(refused.refusal)

    run(tmp_path, test)


def test_late_leave_is_executed(tmp_path: Path) -> None:
    """A late leave removes the member, and a leave of a user who is absent is answered, too."""

    async def test(running: RunningRelay) -> None:
        peer = await running.worker()
        await peer.send(joining(1))
        await peer.read_record()
        past = time.monotonic() - 60
        for number, room in ((2, "a"), (3, "a"), (4, "nowhere")):
            await peer.send(
                records.Leave(number, past, room, ALICE).encode(),
                records.Lose(room, ALICE).encode(),
            )
            assert await peer.read_record() == records.Left(number)
        assert running.rooms.room_count == 0

    run(tmp_path, test)


def test_members_of_a_closed_connection_are_lost(tmp_path: Path) -> None:
    """All members are lost, with each of their connections."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        await join(broker, "Bob")
        peer = await running.worker()
        await peer.send(joining(1), joining(2), joining(3, "Eve"))
        while (await peer.read_record())[0] != 3:  # the request's number
            pass
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert running.rooms.user_count == 3
        for _ in range(20):
            running.rooms.tick()
        await receiver.until_events(
            ("join", "Alice"), ("join", "Eve"), ("leave", "Alice"), ("leave", "Eve")
        )
        await leave(broker, "Bob")
        assert running.rooms.room_count == 0

    run(tmp_path, test)


class SlowJoins:
    """Makes joins wait until `gate` is set, as joins of rooms on another machine would."""

    def __init__(self, rooms: LocalRooms) -> None:
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self._join = rooms.join
        rooms.join = self.join  # type: ignore[method-assign]

    async def join(self, *arguments: Any) -> None:
        self.begun.set()
        await self.gate.wait()
        await self._join(*arguments)


def test_records_after_a_waiting_request_keep_their_order(tmp_path: Path) -> None:
    """They are handled after its reply, and other workers are not delayed."""

    async def test(running: RunningRelay) -> None:
        slow = SlowJoins(running.rooms)
        peer, other = await running.worker(), await running.worker()
        publishing = records.Publish(time.monotonic() + 60, [1], [draft("hi")]).encode()
        await peer.send(joining(1), publishing)
        await slow.begun.wait()
        await peer.send(joining(2, "Eve"), records.Ping(5).encode())
        await other.send(records.Ping(6).encode())
        assert await other.read_record() == records.Pong(6)
        assert running.history.position("a").offset == 0
        slow.gate.set()
        received = [await peer.read_record() for _ in range(5)]
        assert [type(each).__name__ for each in received] == [
            "Joined",
            "Deliver",
            "Event",
            "Joined",
            "Pong",
        ]

    run(tmp_path, test)


def test_waiting_request_of_a_closed_connection_is_undone(tmp_path: Path) -> None:
    """Its member is counted and lost, as are the members of the requests after it."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        await join(broker, "Bob")
        slow = SlowJoins(running.rooms)
        peer = await running.worker()
        await peer.send(joining(1), joining(2, "Eve"))
        await slow.begun.wait()
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert running.rooms.user_count == 1
        slow.gate.set()
        await receiver.until_events(("join", "Alice"), ("join", "Eve"))
        for _ in range(20):
            running.rooms.tick()
        await receiver.until(lambda: len(receiver.events) == 4)
        assert receiver.events[2:] == [("leave", "Alice"), ("leave", "Eve")]

    run(tmp_path, test)


def test_fault_after_a_waiting_request_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed record after a waiting request ends the connection, and the relay goes on."""

    async def test(running: RunningRelay) -> None:
        slow = SlowJoins(running.rooms)
        peer = await running.worker()
        await peer.send(joining(1))
        await slow.begun.wait()
        await peer.send(HELLO, joining(2, "Eve"))
        slow.gate.set()
        await peer.await_end()
        assert "an unexpected Hello record" in caplog.text
        assert running.rooms.user_count == 1

    run(tmp_path, test)


def test_searches_of_a_closed_connection_are_cancelled(tmp_path: Path) -> None:
    """A search is cancelled when its worker's connection ends."""

    async def test(running: RunningRelay) -> None:
        cancelled = asyncio.Event()

        async def search(*_: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        searching = records.Search(1, time.monotonic() + 60, "a", "x", 9).encode()
        running.rooms.pages.search = search  # type: ignore[assignment,method-assign]
        peer = await running.worker()
        await peer.send(searching, records.Ping(5).encode())
        assert await peer.read_record() == records.Pong(5)
        peer.writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await cancelled.wait()

    run(tmp_path, test)


# Waiting for all workers


def test_workers_are_welcomed_once_all_are_there_or_time_is_over(tmp_path: Path) -> None:
    """A connection that asks for the status is not counted as a worker."""

    async def test(running: RunningRelay) -> None:
        status = await running.peer(ASK_STATUS)
        await status.read_record()
        begun = time.monotonic()
        peer = await running.peer(HELLO, records.Ping(1).encode())
        assert await peer.read_record() == records.Pong(
            1
        )  # the record was handled, and the worker is not welcome yet
        assert await peer.read_record() == records.Welcome()
        assert time.monotonic() - begun > 0.05
        late = await running.peer(HELLO)
        assert await late.read_record() == records.Welcome()

    run(tmp_path, test, workers=2, gathering_s=0.1)


def test_room_that_cannot_be_resumed_is_lost_before_the_welcome(tmp_path: Path) -> None:
    """Other rooms are resumed, and their missed publications are sent before the welcome, too."""

    async def test(running: RunningRelay) -> None:
        running.history.append([draft("1"), draft("2")])
        epoch = running.history.position("a").epoch
        peer = await running.peer(
            records.Hello("worker-9", 1, rooms=2).encode(),
            records.Restore("b", Position("other", 3), [(ALICE, 1)], []).encode(),
            records.Restore("a", Position(epoch, 1), [(ALICE, 1)], []).encode(),
        )
        assert await peer.read_record() == records.Lost("b")
        while (record := await peer.read_record()) != records.Welcome():
            if not isinstance(record, records.Event):
                assert isinstance(record, records.Deliver)
                ((room, offset, payloads, _),) = record.runs
                assert (room, offset, len(payloads)) == ("a", 2, 1)
        assert running.rooms.room_count == 1

    run(tmp_path, test)


# Status


def test_status_is_answered_to_any_client(tmp_path: Path) -> None:
    """The answer has the last report of each worker and the relay's own counts, however often it is
    requested."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        peer = await running.peer(ASK_STATUS)
        assert set((await peer.status()).parts) == {"relay"}
        broker.report({"pid": 1, "x": 1})
        broker.report({"pid": 1, "x": 2})
        await join(broker)
        broker.publish(draft())
        await receiver.until_delivered(1)
        await peer.send(ASK_STATUS)
        parts = (await peer.status()).parts
        assert parts["good"] == {"pid": 1, "x": 2}
        own = parts["relay"]
        assert (own["rooms"], own["users"], own["pid"]) == (1, 1, os.getpid())
        await broker.close()
        await asyncio.sleep(0.02)
        await peer.send(ASK_STATUS)
        assert set((await peer.status()).parts) == {"relay"}

    run(tmp_path, test)


def test_status_of_a_replaced_worker_is_that_of_its_successor(tmp_path: Path) -> None:
    """During a rolling restart both workers are connected, and the newer one's report is shown."""

    async def test(running: RunningRelay) -> None:
        peers = []
        for pid in range(1, 9):
            peers.append(await running.worker())
            await peers[-1].send(records.Report({"pid": pid}).encode(), ASK_STATUS)
            status = await peers[-1].status()
            assert status.parts["worker-9"] == {"pid": pid}

    run(tmp_path, test)


# Heartbeat


def test_exception_in_a_tick_is_logged_and_skips_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next tick runs as usual; while the exception persists the relay sends no heartbeat."""
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

    async def test(running: RunningRelay) -> None:
        monkeypatch.setattr(running.rooms, "tick", tick)
        ticking = asyncio.create_task(
            relay_process._tick_forever(running.relay, Beats(), interval_s=0.001)  # type: ignore[arg-type]
        )
        async with asyncio.timeout(PATIENCE_S):
            while len(beats) < 3:  # noqa: ASYNC110 there is no event to wait for
                await asyncio.sleep(0.001)
        ticking.cancel()

    run(tmp_path, test)
    assert beats[:3] == [1, 3, 4]
    assert "a planted fault" in caplog.text


def test_unusable_directory_is_reported_in_one_sentence(tmp_path: Path) -> None:
    """The error is a sentence and no traceback, whatever is in place of the socket."""
    (tmp_path / SOCKET_NAME).mkdir()
    settings = Settings(data=str(tmp_path), workers=2, history="memory")
    ours, theirs = socket.socketpair()
    channel = Channel(theirs.detach())
    with ours, pytest.raises(SettingError, match=r"^--data .* cannot hold the relay's socket: "):
        relay_process.run(settings, channel, workers=2)
    channel._socket.close()
