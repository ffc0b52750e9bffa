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
from fastchat.brokers.relay import peer as peer_module
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
from fastchat.rooms import Entrance, Member, Removal
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

    @property
    def has_data(self) -> bool:
        """Whether a record, or a part of one, has arrived and was not read."""
        return bool(self._received or self._reader._buffer)  # type: ignore[attr-defined]

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
        assert running.rooms.occupancy.users == 1
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
        assert running.rooms.occupancy.users == 0

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
        assert running.rooms.occupancy.rooms == 0

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
        assert running.rooms.occupancy.users == 3
        for _ in range(20):
            running.rooms.tick()
        await receiver.until_events(
            ("join", "Alice"), ("join", "Eve"), ("leave", "Alice"), ("leave", "Eve")
        )
        await leave(broker, "Bob")
        assert running.rooms.occupancy.rooms == 0

    run(tmp_path, test)


class Gates:
    """Makes calls of the rooms wait for a gate, as rooms on another machine would wait.

    A call of `method` whose number is in `gates` waits for its event. `begun` are the numbers of
    all calls that have begun, and `done` of those that have ended. A call that has to `fail` raises
    an exception after its gate.
    """

    def __init__(self, rooms: LocalRooms, method: str, count: int = 1) -> None:
        self.gates = {number: asyncio.Event() for number in range(1, count + 1)}
        self.begun: list[int] = []
        self.done: list[int] = []
        self._failing: set[int] = set()
        self._call = getattr(rooms, method)
        setattr(rooms, method, self._wait)

    def fail(self, number: int) -> None:
        self._failing.add(number)

    async def _wait(self, *arguments: Any, **named: Any) -> Any:
        number = len(self.begun) + 1
        self.begun.append(number)
        if number in self.gates:
            await self.gates[number].wait()
        if number in self._failing:
            raise RuntimeError("a planted fault")
        try:
            return await self._call(*arguments, **named)
        finally:
            self.done.append(number)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.001)


def test_records_behind_a_waiting_request_are_handled(tmp_path: Path) -> None:
    """Joins, publications and pages do not wait for it, and its reply comes when it has ended."""

    async def test(running: RunningRelay) -> None:
        joins = Gates(running.rooms, "join")
        peer = await running.worker()
        later = time.monotonic() + 60
        await peer.send(
            joining(1),
            joining(2, "Eve"),
            records.Publish(later, [1], [draft("hi")]).encode(),
            records.Leave(3, later, "nowhere", ALICE).encode(),
            records.Before(4, later, "a", None, 9).encode(),
        )
        replies = [await peer.read_record() for _ in range(4)]
        assert [type(each).__name__ for each in replies] == ["Joined", "Deliver", "Left", "Page"]
        assert replies[0][0] == 2
        joins.gates[1].set()
        event, joined = await peer.read_record(), await peer.read_record()
        assert isinstance(event, records.Event)
        assert isinstance(joined, records.Joined)
        assert (joined.number, joined.entry.position.offset) == (1, 1)

    run(tmp_path, test)


def test_number_of_waiting_requests_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While so many wait, the relay reads nothing more from this worker; other workers go on."""
    limit = 8
    monkeypatch.setattr(peer_module, "MAX_WAITING", limit)

    async def test(running: RunningRelay) -> None:
        joins = Gates(running.rooms, "join", limit)
        peer, other = await running.worker(), await running.worker()
        await peer.send(*(joining(number) for number in range(1, limit + 1)))
        await until(lambda: len(joins.begun) == limit)
        await peer.send(joining(limit + 1), records.Ping(5).encode())
        await other.send(records.Ping(6).encode())
        assert await other.read_record() == records.Pong(6)
        assert not peer.has_data
        assert len(joins.begun) == limit
        joins.gates[3].set()
        received = [await peer.read_record() for _ in range(3)]
        assert isinstance(received[0], records.Joined)
        assert isinstance(received[1], records.Joined)
        assert [each[0] for each in received[:2]] == [3, limit + 1]
        assert received[2] == records.Pong(5)
        for gate in joins.gates.values():
            gate.set()
        await until(lambda: len(joins.done) == limit + 1)

    run(tmp_path, test)


def test_waiting_join_of_a_closed_connection_is_undone(tmp_path: Path) -> None:
    """Its member is lost as soon as it is counted, and the relay forgets the worker at once."""

    async def test(running: RunningRelay) -> None:
        broker, receiver = await running.broker()
        await join(broker, "Bob")
        joins = Gates(running.rooms, "join", 2)
        peer = await running.worker()
        await peer.send(joining(1), joining(2, "Eve"), joining(3, "Joe"))
        await until(lambda: joins.done == [3])
        peer.writer.transport.abort()
        await until(lambda: running.rooms.occupancy.absent == 1)
        assert len(running.relay._peers) == 1
        for gate in joins.gates.values():
            gate.set()
        await until(lambda: running.rooms.occupancy.absent == 3)
        for _ in range(20):
            running.rooms.tick()
        await receiver.until(lambda: len(receiver.events) == 6)
        assert receiver.events[3:] == [("leave", "Joe"), ("leave", "Alice"), ("leave", "Eve")]
        assert running.rooms.occupancy.users == 1

    run(tmp_path, test)


def test_waiting_leave_of_a_closed_connection_is_finished(tmp_path: Path) -> None:
    """Its member leaves at once, and is not lost a second time."""

    async def test(running: RunningRelay) -> None:
        leaves = Gates(running.rooms, "leave")
        peer = await running.worker()
        await peer.send(joining(1), records.Leave(2, time.monotonic() + 60, "a", ALICE).encode())
        await until(lambda: leaves.begun == [1])
        peer.writer.transport.abort()
        await until(lambda: not running.relay._peers)
        assert running.rooms.occupancy[1:3] == (1, 0)
        leaves.gates[1].set()
        await until(lambda: running.rooms.occupancy.rooms == 0)

    run(tmp_path, test)


def test_fault_behind_a_waiting_request_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed record ends the connection at once, and the relay goes on."""

    async def test(running: RunningRelay) -> None:
        joins = Gates(running.rooms, "join")
        peer = await running.worker()
        await peer.send(joining(1), HELLO, joining(2, "Eve"))
        await peer.await_end()
        assert "an unexpected Hello record" in caplog.text
        joins.gates[1].set()
        await until(lambda: joins.done == [1])
        assert running.rooms.occupancy[1:3] == (1, 1)

    run(tmp_path, test)


def test_exception_in_a_waiting_request_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, and the worker's members are lost."""

    async def fail(*_: Any) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a planted fault")

    async def test(running: RunningRelay) -> None:
        monkeypatch.setattr(running.rooms, "remove", fail)
        peer = await running.worker()
        removal = Removal("a", None, "Alice", 60, "Mod")
        await peer.send(joining(1), records.Remove(2, time.monotonic() + 60, removal).encode())
        assert isinstance(await peer.read_record(), records.Joined)
        await peer.await_end()
        assert "a planted fault" in caplog.text
        await until(lambda: running.rooms.occupancy.absent == 1)

    run(tmp_path, test)


def restoring(running: RunningRelay, room: str, *members: tuple[Member, int]) -> bytes:
    position = running.history.position(room)
    known = [member for member, _ in members if member.name is not None]
    return records.Restore(room, position, list(members), known).encode()


def introduction(rooms: int) -> bytes:
    return records.Hello("worker-9", 1, rooms=rooms).encode()


def test_rooms_are_restored_side_by_side(tmp_path: Path) -> None:
    """Other records wait for all of them, and the worker is welcomed after the last one ends."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 3)
        peer = await running.peer(
            introduction(4),
            restoring(running, "a", (ALICE, 1)),
            restoring(running, "b", (ALICE, 2)),
            restoring(running, "c", (ALICE, 1)),
            restoring(running, "d", (ALICE, 1)),
            records.Lose("a", ALICE).encode(),
            records.Ping(5).encode(),
        )
        await until(lambda: restores.done == [4])
        assert restores.begun == [1, 2, 3, 4]
        for number in (3, 1):
            restores.gates[number].set()
            await until(lambda number=number: restores.done[-1] == number)
        await asyncio.sleep(0)
        assert not any(each.is_restored for each in running.relay._peers)
        assert running.rooms.occupancy[1:3] == (3, 0)
        restores.gates[2].set()
        received = [await peer.read_record(), await peer.read_record()]
        assert received == [records.Welcome(), records.Pong(5)]
        assert running.rooms.occupancy[1:3] == (4, 1)

    run(tmp_path, test)


def test_order_of_records_among_restores_is_kept(tmp_path: Path) -> None:
    """A record between RESTORE records waits for those before it, and those behind it wait too."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 2)
        peer = await running.peer(
            introduction(2),
            restoring(running, "a", (ALICE, 1)),
            ASK_STATUS,
            restoring(running, "b", (ALICE, 1)),
        )
        await until(lambda: restores.begun == [1])
        restores.gates[1].set()
        assert (await peer.status()).parts["relay"]["rooms"] == 1
        assert restores.begun == [1, 2]
        restores.gates[2].set()
        assert await peer.read_record() == records.Welcome()

    run(tmp_path, test)


def test_number_of_rooms_restored_at_once_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While so many wait, the relay reads nothing more from this worker; the next one follows."""
    monkeypatch.setattr(peer_module, "MAX_RESTORING", 2)

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 4)
        names = "abcd"
        peer = await running.peer(
            introduction(len(names)), *(restoring(running, name, (ALICE, 1)) for name in names)
        )
        await until(lambda: restores.begun == [1, 2])
        (relay_peer,) = running.relay._peers
        assert relay_peer._is_paused
        for number, begun in ((2, 3), (3, 4), (1, 4)):
            restores.gates[number].set()
            await until(lambda number=number: number in restores.done)
            await until(lambda begun=begun: len(restores.begun) == begun)
        assert not relay_peer._is_paused
        restores.gates[4].set()
        assert await peer.read_record() == records.Welcome()
        assert running.rooms.occupancy.users == len(names)

    run(tmp_path, test)


def test_room_that_cannot_be_restored_is_lost_alone(tmp_path: Path) -> None:
    """The rooms beside it are restored, and the worker is welcomed."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 3)
        peer = await running.peer(
            introduction(3),
            restoring(running, "a", (ALICE, 1)),
            records.Restore("b", Position("other", 3), [(ALICE, 1)], []).encode(),
            restoring(running, "c", (ALICE, 1)),
        )
        await until(lambda: restores.begun == [1, 2, 3])
        restores.gates[2].set()
        assert await peer.read_record() == records.Lost("b")
        restores.gates[3].set()
        restores.gates[1].set()
        assert await peer.read_record() == records.Welcome()
        assert running.rooms.occupancy.rooms == 2

    run(tmp_path, test)


def test_exception_in_a_restore_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, and what is restored before or afterwards is lost."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 3)
        restores.fail(2)
        peer = await running.peer(
            introduction(4),
            *(restoring(running, name, (ALICE, 1)) for name in "abcd"),
            records.Ping(5).encode(),
        )
        await until(lambda: restores.done == [4])
        restores.gates[2].set()
        await peer.await_end()
        assert "a planted fault" in caplog.text
        restores.gates[1].set()
        restores.gates[3].set()
        await until(lambda: running.rooms.occupancy.absent == 3)
        assert running.rooms.occupancy.rooms == 3
        assert not running.relay._peers

    run(tmp_path, test)


def test_more_restores_than_announced_end_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is restored already is lost when it ends."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore")
        peer = await running.peer(
            introduction(1), *(restoring(running, name, (ALICE, 1)) for name in "ab")
        )
        await peer.await_end()
        assert "an unexpected Restore record" in caplog.text
        restores.gates[1].set()
        await until(lambda: running.rooms.occupancy.absent == 1)
        assert restores.begun == [1]

    run(tmp_path, test)


def test_restore_of_a_closed_connection_is_undone(tmp_path: Path) -> None:
    """The members of each room are lost as soon as they are counted."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore", 2)
        peer = await running.peer(
            introduction(4),
            restoring(running, "a", (ALICE, 2), (Member(None, "user Eve"), 1)),
            restoring(running, "b", (ALICE, 1)),
            restoring(running, "c", (ALICE, 1)),
        )
        await until(lambda: restores.done == [3])
        peer.writer.transport.abort()
        await until(lambda: not running.relay._peers)
        assert running.rooms.occupancy[1:3] == (1, 1)
        restores.gates[2].set()
        restores.gates[1].set()
        await until(lambda: running.rooms.occupancy.absent == 3)
        assert running.rooms.occupancy.spectators == 0

    run(tmp_path, test)


def test_fault_behind_a_waiting_restore_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The room's members are lost."""

    async def test(running: RunningRelay) -> None:
        restores = Gates(running.rooms, "restore")
        peer = await running.peer(
            records.Hello("worker-9", 1, rooms=2).encode(),
            restoring(running, "a", (ALICE, 1)),
            HELLO,
            restoring(running, "b", (ALICE, 1)),
        )
        await until(lambda: restores.begun == [1])
        restores.gates[1].set()
        await peer.await_end()
        assert "an unexpected Hello record" in caplog.text
        await until(lambda: running.rooms.occupancy.absent == 1)
        assert (running.rooms.occupancy.rooms, restores.begun) == (1, [1])

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
        assert running.rooms.occupancy.rooms == 1

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
