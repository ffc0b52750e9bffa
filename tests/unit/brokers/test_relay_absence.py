"""A worker without a relay, and random operations while relays are killed."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import (
    PATIENCE_S,
    Receiver,
    join,
    leave,
    member,
    names,
    run_in_loop,
    texts,
)
from contracts.history import draft
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import AWAY_TICKS, RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.wire import SOCKET_NAME
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.members import GRACE_TICKS
from support.relay import Rig, Run, new_history, until

# Without a relay


class Silent:
    """A listener in place of a relay: it accepts connections, and neither reads nor answers."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        path = directory / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._socket.listen()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("connected", [False, True])
def test_operations_without_a_relay_are_answered_in_time(rig: Run, connected: bool) -> None:
    """Whether the relay is gone or hangs, drafts, joins and reads are refused, and leaves succeed.

    A worker notices only after a while that a relay hangs.
    """

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, room="b")
        for peer in rig.relay._peers:
            if connected:
                peer._transport.pause_reading()
        if not connected:
            rig.kill()
            silent = Silent(rig.directory)
            await until(lambda: not broker.connected)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        requests: list[Coroutine[Any, Any, Any]] = [
            RelayPages(broker).search(
                "a", "x", 9
            ),  # has a longer deadline; its result is not awaited
            join(broker, "Bob"),
            RelayPages(broker).before("a", None, 9),
            RelayPages(broker).after("a", 0, 9),
            leave(broker),
        ]
        tasks = [asyncio.create_task(request) for request in requests]
        await asyncio.sleep(0)
        broker.publish(draft("1"), receiver.answers_to("me"))
        broker.publish(draft("2", id="i"), receiver.answers_to("me too"))
        assert receiver.answers == []
        await receiver.until_answered(2)
        assert 0.15 < loop.time() - begun < 0.35
        assert [(sender, outcome.code) for sender, outcome in receiver.answers] == [
            ("me", ErrorCode.UNAVAILABLE),
            ("me too", ErrorCode.UNAVAILABLE),
        ]
        assert all(outcome.temporary for _, outcome in receiver.answers)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(each, "code", None) for each in outcomes] == [
            *4 * [ErrorCode.UNAVAILABLE],
            None,
        ]
        assert not broker._drafts
        assert not broker._requests
        assert set(broker._rooms) == {"b"}
        if connected:
            for peer in rig.relay._peers:
                peer._transport.resume_reading()
        else:
            silent.close()
            await rig.start()
        await rig.connected()
        # Only the leave has been executed; the refused operations have not.
        assert rig.history.position("a").offset == 0
        assert rig.relay.rooms.occupancy.users == 1

    rig(test, answer_s=0.2, search_s=0.4)


def test_relay_does_not_execute_requests_that_are_late(rig: Run) -> None:
    """A join that the relay reads late is refused, and a draft is not stored."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        broker.bounds = Bounds(answer_s=5)
        await join(broker)
        broker.bounds = Bounds(answer_s=0.05)
        (peer,) = rig.relay._peers
        peer._transport.pause_reading()
        broker.publish(draft("late", id="i"), receiver.answer)
        with pytest.raises(CommandError):
            await join(broker, "Bob")
        broker.bounds = Bounds(answer_s=5)
        broker.publish(draft("in time"), receiver.answer)
        peer._transport.resume_reading()
        await receiver.until_delivered(1)
        assert receiver.texts == ["in time"]
        assert receiver.codes == [ErrorCode.UNAVAILABLE]
        assert rig.names() == ["Alice"]

    rig(test)


def test_join_whose_reply_is_late_is_undone(rig: Run) -> None:
    """A user whose join was answered with `unavailable` is not in the room."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(second, "Bob")
        assert broker._link._connection is not None
        broker.bounds = Bounds(answer_s=0.05)
        broker._link._connection.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(CommandError) as caught:
            await join(broker)
        assert caught.value.code == ErrorCode.UNAVAILABLE
        broker.bounds = Bounds(answer_s=5)
        await until(lambda: rig.names() == ["Bob", "Alice"])
        broker._link._connection.transport.resume_reading()  # type: ignore[attr-defined]
        await rig.settled()
        rig.tick()
        await rig.settled()
        assert rig.names() == ["Bob"]
        assert other.events == [("join", "Alice"), ("leave", "Alice")]
        second.publish(draft())
        await rig.settled()
        assert receiver.received == []

    rig(test)


def test_backlog_for_a_stalled_relay_is_bounded(rig: Run) -> None:
    """Drafts beyond the bound are refused at once, and accepted again later."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        (peer,) = rig.relay._peers
        peer._transport.pause_reading()
        sent = 0
        while not receiver.answers:
            assert sent < 1000
            broker.publish(draft(f"{sent} " + "x" * 10_000), receiver.answer)
            sent += 1
            await asyncio.sleep(0)
        assert 100 < sent < 300
        assert set(receiver.codes) == {ErrorCode.UNAVAILABLE}
        peer._transport.resume_reading()
        await receiver.until_delivered(sent - len(receiver.answers))
        broker.publish(draft("again"), receiver.answer)
        await receiver.until(lambda: receiver.texts[-1] == "again")
        assert len(receiver.answers) + len(receiver.delivered) == sent + 1

    rig(test, max_backlog_bytes=1024 * 1024)


def test_unconfirmed_drafts_are_bounded_in_number(rig: Run) -> None:
    """The number of unconfirmed drafts is bounded, however small the drafts are."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for number in range(100):
            broker.publish(draft(str(number)), receiver.answer)
        await asyncio.sleep(0)
        broker.publish(draft("too many"), receiver.answer)
        await rig.settled()
        assert (len(receiver.answers), len(receiver.delivered)) == (1, 100)

    rig(test, max_drafts=100)


def test_unconfirmed_drafts_are_bounded_without_a_relay(rig: Run) -> None:
    """Drafts beyond the bound are refused at once; the next relay stores the others."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        rig.kill()
        await until(lambda: not broker.connected)
        for number in range(150):
            broker.publish(draft(str(number)), receiver.answer)
        await asyncio.sleep(0)
        assert receiver.codes == 50 * [ErrorCode.UNAVAILABLE]
        await rig.start()
        await rig.connected()
        assert receiver.texts == [str(number) for number in range(100)]
        assert len(receiver.answers) == 50

    rig(test, max_drafts=100)


def test_all_that_waits_for_a_relay_is_bounded(rig: Run) -> None:
    """Beyond the bound events are lost and requests refused; leaves are announced later."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        await join(broker)
        await join(broker, room="b")
        (peer,) = rig.relay._peers
        peer._transport.pause_reading()
        for _ in range(500):
            broker.tell("a", b"x" * 10_000)
            await asyncio.sleep(0)
        assert broker._link.backlog_bytes < 1.1 * 1024 * 1024
        with pytest.raises(CommandError) as caught:
            await asyncio.wait_for(RelayPages(broker).before("a", None, 9), 0.1)
        assert caught.value.code == ErrorCode.UNAVAILABLE
        leaving = asyncio.create_task(leave(broker))
        broker.lose("b", member("Alice"))
        await asyncio.sleep(0)
        peer._transport.resume_reading()
        await leaving
        await until(lambda: not peer._members)

    rig(test, max_backlog_bytes=1024 * 1024)


def test_worker_that_does_not_read_is_cut_off_and_resumes(
    rig: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The relay disconnects a worker with a large backlog; the worker returns and misses
    nothing."""

    async def test(rig: Rig) -> None:
        rig.max_peer_backlog_bytes = 256 * 1024
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        assert broker._link._connection is not None
        broker._link._connection.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(200):
            second.publish(draft(f"{number} " + "x" * 10_000))
            await asyncio.sleep(0.0005)
        await other.until_delivered(200)
        await until(lambda: "does not read" in caplog.text)
        broker._link._connection.transport.resume_reading()  # type: ignore[attr-defined]
        await receiver.until_delivered(200)
        assert receiver.delivered == other.delivered
        assert receiver.losses == []
        assert receiver.events == [("join", "Bob")]
        assert other.events == []

    rig(test)


def test_worker_reconnects_after_a_malformed_record(
    rig: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed record of the relay ends the connection, and nothing is lost."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for nonsense in (b"\xff\xff\xff\xff....", b"\x00\x00\x00\x09\x63\x00\x00\x00\x04null"):
            (peer,) = rig.relay._peers
            peer._transport.write(nonsense)
            await until(lambda: not broker.connected)
            await rig.connected()
        broker.publish(draft("still"), receiver.answer)
        await receiver.until_delivered(1)
        assert (receiver.losses, receiver.events) == ([], [])

    rig(test)


def test_closing_broker_sends_its_last_drafts(rig: Run) -> None:
    """The relay reads all records of a worker that stops, and then its members are lost."""

    async def test(rig: Rig) -> None:
        (broker, _), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        for number in range(100):
            broker.publish(draft(str(number)))
        await broker.close()
        await other.until_delivered(100)
        await until(lambda: len(rig.relay._peers) == 1)
        rig.tick()
        await until(lambda: other.events == [("leave", "Alice")])

    rig(test)


def test_round_trip_is_measured(rig: Run) -> None:
    """Each tick adds one round-trip time."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        for _ in range(3):
            broker.tick()
        await rig.settled()
        assert sum(broker._metrics.relay_lag_s.counts) == 3

    rig(test)


# Random operations

ROOMS = ("a", "b")
NAMES = tuple(f"user {number}" for number in range(5))


class Process:
    """A broker and the state of its members; checks every delivery and event against that state."""

    def __init__(self, rig: Rig, broker: RelayBroker, receiver: Receiver) -> None:
        self.rig = rig
        self.broker = broker
        self.inside: Counter[tuple[str, str]] = Counter()  # connections by room and name
        self.at: dict[str, Position] = {}  # positions of rooms with members
        self.known: dict[str, Counter[str]] = {}
        self.said: dict[str, list[str]] = {room: [] for room in ROOMS}
        self.seen: dict[str, dict[int, str]] = {room: {} for room in ROOMS}
        self.receiver = receiver
        self._plain = receiver.publish
        receiver.publish = self.deliver  # type: ignore[method-assign]

    def members(self, room: str) -> list[str]:
        return [name for (where, name), count in self.inside.items() if where == room and count]

    def deliver(self, room: str, payload: bytes) -> None:
        self._plain(room, payload)
        if room not in self.at:
            return  # the last member has left
        event = self.receiver.received[-1]
        if "offset" in event:
            epoch, newest, _ = self.at[room]
            assert event["offset"] == newest + 1
            self.at[room] = Position(epoch, newest + 1, event["timestamp"])
            assert self.seen[room].setdefault(newest + 1, event["text"]) == event["text"]
        elif event["type"] == "join":
            assert not self.known[room][event["username"]], "the user is in the room already"
            self.known[room][event["username"]] = 1
        else:
            self.known[room][event["username"]] = 0

    async def join(self, room: str, name: str) -> None:
        def enter(entry: Entry) -> None:
            if not self.members(room):
                self.known[room] = Counter(names(entry))
                self.at[room] = entry.position
            self.inside[room, name] += 1
            assert self.at[room] == entry.position, "it is where the others are"
            assert {user for user in self.known[room] if self.known[room][user]} == set(
                names(entry)
            )
            newest = self.rig.history.before(room, entry.position.offset + 1, 5).publications
            assert texts(entry) == [each.text for each in newest]

        await self.broker.join(Entrance(room, *member(name), None, 5), enter)

    def _out(self, room: str, name: str) -> None:
        self.inside[room, name] -= 1
        if not self.members(room):
            del self.at[room], self.known[room]

    def leave(self, room: str, name: str) -> Coroutine[Any, Any, None]:
        self._out(room, name)
        return leave(self.broker, name, room)

    def lose(self, room: str, name: str) -> None:
        self._out(room, name)
        self.broker.lose(room, member(name))

    def publish(self, room: str, name: str, text: str, id: str | None) -> None:
        self.said[room].append(text)
        self.broker.publish(draft(text, room=room, by=name, id=id), self.receiver.answer)


class Life:
    """Random operations on several processes and their relay."""

    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self.rig = rig
        self.chance = chance
        self.texts = itertools.count()
        self.tasks: list[asyncio.Task[None]] = []
        self.processes: list[Process] = []
        self.restarts: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        pairs = await self.rig.several(self.chance.randint(2, 3))
        self.processes = [Process(self.rig, *pair) for pair in pairs]
        for _ in range(60):
            self._step()
            if self.chance.random() < 0.4:
                await asyncio.sleep(self.chance.choice((0, 0, 0.0005, 0.003)))
        await asyncio.gather(*self.tasks, *self.restarts)
        await until(lambda: not any(broker._drafts for broker in self.rig.brokers))
        await self.rig.connected()
        self.rig.tick(2 * GRACE_TICKS)
        await self.rig.settled()
        self._check()

    def _step(self) -> None:
        chance = self.chance
        process, room, name = (
            chance.choice(self.processes),
            chance.choice(ROOMS),
            chance.choice(NAMES),
        )
        members = process.members(room)
        what = chance.choices(
            ("join", "publish", "leave", "lose", "cut", "kill", "tick"), (8, 16, 4, 4, 1, 0.7, 1)
        )[0]
        if what == "join":
            self.tasks.append(asyncio.create_task(process.join(room, name)))
        elif what == "tick":
            self.rig.tick(chance.choice((1, GRACE_TICKS)))
        elif what == "cut":
            self.rig.cut(process.broker)
        elif what == "kill":
            if all(restart.done() for restart in self.restarts):
                self.restarts.append(asyncio.create_task(self._restart()))
        elif members:
            name = chance.choice(members)
            if what == "leave":
                self.tasks.append(asyncio.create_task(process.leave(room, name)))
            elif what == "lose":
                process.lose(room, name)
            else:
                for _ in range(chance.choice((1, 1, 3))):
                    text = str(next(self.texts))
                    process.publish(room, name, text, chance.choice((None, f"id {text}")))

    async def _restart(self) -> None:
        relay = self.rig.relay
        if self.chance.random() < 0.5:
            self.rig.kill_after_storing()
            await asyncio.sleep(0.003)
            self.rig.relay_history.on_appended = None
        if relay is self.rig.relay:
            self.rig.kill()
        await asyncio.sleep(self.chance.choice((0, 0.002)))
        await self.rig.start()

    def _check(self) -> None:
        for room in ROOMS:
            kept = self.rig.history.before(room, None, 100_000).publications
            assert [each.offset for each in kept] == list(range(1, len(kept) + 1))
            order = [each.text for each in kept]
            assert len(set(order)) == len(order), "none is doubled"
            said = [text for process in self.processes for text in process.said[room]]
            assert sorted(order) == sorted(said), "none is lost"
            inside: Counter[str] = Counter()
            for process in self.processes:
                own = set(process.said[room])
                assert [text for text in order if text in own] == process.said[room]
                for offset, text in process.seen[room].items():
                    assert order[offset - 1] == text
                for name in process.members(room):
                    inside[name] += process.inside[room, name]
            there = {user.name: user.connections for user in self.rig.relay.rooms.users(room)}
            assert there == dict(inside)
            for process in self.processes:
                if process.members(room):
                    assert process.at[room].offset == len(order), "all has been delivered"
                    assert {n for n, c in process.known[room].items() if c} == set(inside)
        for process in self.processes:
            assert process.receiver.answers == []
            assert process.receiver.losses == []
            assert {room for room in ROOMS if process.members(room)} == set(process.broker._rooms)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_random_operations_keep_streams_whole_and_presence_right(
    tmp_path: Path,
    first: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While relays are killed and connections cut, no publication is lost, and presence is
    right."""

    async def live(seed: int) -> None:
        rig = Rig(tmp_path, new_history(), retry_s=0.001)
        try:
            async with asyncio.timeout(4 * PATIENCE_S):
                await Life(rig, random.Random(seed)).run()
            # An assertion in a receiver only costs the broker its connection, so it is raised here.
            assert [each for each in caplog.records if each.exc_info] == []
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            await rig.end()

    for seed in range(first, first + 50):
        run_in_loop(live(seed))


def test_worker_without_a_relay_says_so_once(rig: Run, caplog: pytest.LogCaptureFixture) -> None:
    """After some seconds the log says which worker has no relay, and why; and when it has one."""

    async def test(rig: Rig) -> None:
        broker, _ = rig.broker()
        starting = asyncio.get_running_loop().create_task(broker.start())
        await until(lambda: "No such file" in broker.failure)
        for _ in range(AWAY_TICKS + 3):
            broker.tick()
        assert caplog.messages == [
            f"worker-1 has had no relay for {AWAY_TICKS} s, so its clients get `unavailable`: "
            "No such file or directory"
        ]
        await rig.start()
        await starting
        for _ in range(3):
            broker.tick()
        assert caplog.messages[1:] == ["worker-1 is connected to the relay again"]

    rig(test)


def test_short_absence_of_the_relay_is_not_told_twice(
    rig: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay that is replaced at once causes one line."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        broker.tick()
        await rig.restart()
        broker.tick()
        lines = [message for message in caplog.messages if "relay" in message]
        assert lines == ["the connection to the relay is lost; reconnecting"]

    rig(test)
