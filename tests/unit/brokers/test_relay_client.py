"""The broker of one worker among several: the contract, and what it does when things break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import (
    PATIENCE_S,
    Faulty,
    Receiver,
    SeveralBrokersContract,
    join,
    leave,
    member,
    new_rooms,
    run_in_loop,
    texts,
)
from contracts.history import draft, edit, react
from fastchat import protocol
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.relay import records
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import GATHERING_S, MAX_BACKLOG_BYTES, Relay
from fastchat.brokers.relay.wire import SOCKET_NAME
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate, History, Outcome
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Position
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.members import CROWD, GRACE_TICKS
from fastchat.rooms.restoring import MAX_RESUMED


def new_history() -> MemoryHistory:
    numbers = itertools.count(1)
    return MemoryHistory(max_messages=100_000, new_epoch=lambda: f"epoch-{next(numbers)}")


class Mortal(Faulty):
    """The history as one relay's life sees it: nothing reaches it after that."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self.on_appended: Callable[[], None] | None = None

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        outcomes = super().append(drafts)
        if self.on_appended is not None:
            self.on_appended()
        return outcomes

    def prune(self) -> None:
        pass


class Rig:
    """A relay that may be killed and started anew, and brokers that outlive it."""

    relay: Relay

    def __init__(self, directory: Path, history: History, **bounds: Any) -> None:
        self.directory = directory
        self.history = history
        #: Nobody waits long for a relay that is started anew.
        self.bounds = Bounds(**{"retry_s": 0.005, **bounds})
        self.max_peer_backlog_bytes = MAX_BACKLOG_BYTES
        self.brokers: list[RelayBroker] = []
        self.receivers: list[Receiver] = []

    async def start(self, *, workers: int | None = None, gathering_s: float = GATHERING_S) -> None:
        """A relay, which waits for all brokers that there are."""
        self.mortal = Mortal(self.history)
        rooms = new_rooms(self.mortal)
        self.relay = Relay(
            self.directory,
            rooms,
            Metrics(),
            workers=workers or len(self.brokers) or 1,
            gathering_s=gathering_s,
            max_backlog_bytes=self.max_peer_backlog_bytes,
        )
        await self.relay.start()

    def kill(self) -> None:
        """As SIGKILL does: what has not been written is lost, and so is what was not read."""
        self.mortal.failing = {"append", "read"}
        assert self.relay._server is not None
        self.relay._server.close()
        self.relay.opened = lambda peer: peer._transport.abort()  # type: ignore[method-assign]
        for peer in tuple(self.relay._peers):
            peer._transport.abort()

    def kill_after_keeping(self) -> None:
        """Kill the relay when it has kept what comes next, before it tells anybody."""
        self.mortal.on_appended = self.kill

    async def restart(self, *, workers: int | None = None) -> None:
        self.kill()
        await self.start(workers=workers)
        await self.connected()

    def broker(self) -> tuple[RelayBroker, Receiver]:
        """One more, which is not started yet."""
        name = f"worker-{len(self.brokers) + 1}"
        broker = RelayBroker(self.directory, name=name, metrics=Metrics(), bounds=self.bounds)
        receiver = Receiver()
        broker.open(delivery=receiver, receiver=receiver)
        self.brokers.append(broker)
        self.receivers.append(receiver)
        return broker, receiver

    async def several(self, count: int) -> list[tuple[RelayBroker, Receiver]]:
        """A relay and so many brokers, connected."""
        pairs = [self.broker() for _ in range(count)]
        await self.start()
        await asyncio.gather(*(broker.start() for broker, _ in pairs))
        return pairs

    async def connected(self) -> None:
        """Wait until all brokers have been welcomed, and had a turn to say what they had to."""
        await until(lambda: all(broker.connected for broker in self.brokers))
        await self.said()

    async def said(self) -> None:
        """Wait until all that was said has been heard by everybody."""
        for _ in range(2):
            for broker in self.brokers:
                await RelayPages(broker).before("elsewhere", None, 1)

    async def abandon(self, broker: RelayBroker) -> None:
        """A worker is killed."""
        index = self.brokers.index(broker)
        del self.brokers[index], self.receivers[index]
        if broker._link._connecting is not None:
            broker._link._connecting.cancel()
        if broker._link._connection is not None:
            broker._link._connection.transport.abort()
        await asyncio.sleep(0.01)

    def cut(self, broker: RelayBroker) -> None:
        """The connection ends as if the relay had hung up: what was on its way is lost."""
        for peer in self.relay._peers:
            if peer.name == broker._name:
                peer._transport.abort()

    def tick(self, times: int = GRACE_TICKS) -> None:
        for _ in range(times):
            self.relay.rooms.tick()

    def names(self, room: str = "a") -> list[str]:
        return self.relay.rooms.users(room).names(1000)

    async def end(self) -> None:
        for broker in self.brokers:
            await broker.close()
            broker._timer.cancel()
        self.relay.close()
        await asyncio.sleep(0.01)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.001)


@pytest.fixture
def rig(tmp_path: Path) -> Callable[..., None]:
    """Runs a test in a loop of its own, with a `Rig` that has `bounds`; ends what is left."""

    def run(test: Callable[[Rig], Coroutine[Any, Any, None]], **bounds: Any) -> None:
        async def body() -> None:
            rig = Rig(tmp_path, new_history(), **bounds)
            try:
                async with asyncio.timeout(4 * PATIENCE_S):
                    await test(rig)
            finally:
                await rig.end()

        run_in_loop(body())

    return run


Run = Callable[..., None]


class TestContract(SeveralBrokersContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    @pytest.fixture
    def history(self) -> History:
        return new_history()

    def presence_of(self, broker: Broker) -> Presence:
        assert isinstance(broker, RelayBroker)
        return broker

    def pages_of(self, broker: Broker) -> Pages:
        assert isinstance(broker, RelayBroker)
        return RelayPages(broker)

    @contextlib.asynccontextmanager
    async def brokers(self, receivers: Sequence[Receiver]) -> AsyncIterator[list[Broker]]:
        relay = Relay(self.directory, self.rooms, Metrics(), workers=len(receivers))
        await relay.start()
        made = []
        for number, receiver in enumerate(receivers, 1):
            broker = RelayBroker(
                self.directory,
                name=f"worker-{number}",
                metrics=Metrics(),
                bounds=Bounds(retry_s=0.005),
            )
            broker.open(delivery=receiver, receiver=receiver)
            made.append(broker)
        await asyncio.gather(*(broker.start() for broker in made))
        try:
            yield list(made)
        finally:
            for broker in made:
                await broker.close()
                broker._timer.cancel()
            relay.close()
            await asyncio.sleep(0.01)


# Drafts over the relay's end


@pytest.mark.parametrize("id", [None, "i"])
def test_draft_that_the_relay_never_read_is_sent_again(rig: Run, id: str | None) -> None:
    """It is delivered once, with what was published while the relay was away, in order."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("1", id=id), receiver.answer)
        rig.kill()
        await asyncio.sleep(0)
        broker.publish(draft("2", id=id and "j"), receiver.answer)
        await until(lambda: not broker.connected)
        broker.publish(draft("3", id=id and "k"), receiver.answer)
        await rig.start()
        await rig.connected()
        for each in (receiver, other):
            assert (each.texts, each.offsets) == (["1", "2", "3"], [1, 2, 3])
        assert receiver.answers == []
        assert not broker._drafts

    rig(test)


@pytest.mark.parametrize("id", [None, "i"])
def test_draft_that_was_kept_and_not_delivered_is_recognised(rig: Run, id: str | None) -> None:
    """It is delivered from the history, once, and not said again."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("0"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_keeping()
        for text in "112":  # two of them are the same
            broker.publish(draft(text, id=id and f"{id}{len(broker._drafts)}"), receiver.answer)
        await until(lambda: not broker.connected)
        broker.publish(draft("3"), receiver.answer)
        await rig.start()
        await rig.connected()
        for each in (receiver, other):
            assert each.texts == ["0", "1", "1", "2", "3"]
            assert each.offsets == [1, 2, 3, 4, 5]
        assert receiver.answers == []
        assert [offset for _, offset in receiver.kept] == [1, 2, 3, 4, 5]
        assert rig.history.position("a").offset == 5

    rig(test)


def test_changes_are_recognised_too(rig: Run) -> None:
    """An edit or a reaction is not published twice either."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        broker.publish(draft("1"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill_after_keeping()
        for each in (edit(1, "x"), react(1), react(1, remove=True)):
            broker.publish(each, receiver.answer)
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert receiver.offsets == [1, 2, 3, 4]
        assert [each["type"] for each in receiver.delivered[1:]] == ["edit", "react", "react"]

    rig(test)


@pytest.mark.parametrize("change", [edit(1, "x"), react(1)], ids=["edit", "react"])
def test_message_that_was_changed_while_we_were_away_is_recognised(rig: Run, change: Draft) -> None:
    """Another process had it delivered, and changed it before we came back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        broker.publish(draft("1"), receiver.answer)
        rig.mortal.on_appended = lambda: rig.cut(broker)
        await other.until_delivered(1)
        rig.mortal.on_appended = None
        rig.brokers[1].publish(change)
        await other.until_delivered(2)
        await rig.connected()
        assert receiver.offsets == other.offsets == [1, 2]

    rig(test, retry_s=0.1)


def test_draft_kept_without_a_member_left_is_confirmed(rig: Run) -> None:
    """Its sender is gone; over the relay's end it is neither lost nor doubled."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        await join(broker)
        rig.kill_after_keeping()
        broker.publish(draft("1"))
        broker.lose("a", member())
        await until(lambda: not broker.connected)
        await rig.start()
        await rig.connected()
        assert not broker._drafts
        assert not broker._rooms
        assert rig.history.position("a").offset == 1

    rig(test)


def test_duplicate_is_answered_over_the_relays_end(rig: Run) -> None:
    """An `id` that was published long ago is known to the next relay."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("1", id="i"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill()
        await until(lambda: not broker.connected)
        broker.publish(draft("1", id="i"), receiver.answers_to("me"))
        await rig.start()
        await receiver.until_answered(1)
        assert receiver.answers[0][0] == "me"
        assert receiver.answers[0][1] == Duplicate("a", "i", 1)
        assert receiver.texts == ["1"]

    rig(test)


def test_leave_over_the_relays_end_stays_behind_a_message(rig: Run) -> None:
    """`left` is said after what was published before has been delivered."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(broker)
        await join(rig.brokers[1], "Bob")
        rig.kill()
        await until(lambda: not broker.connected)
        known: list[list[str]] = []
        broker.publish(draft("last words"), receiver.answer)
        leaving = asyncio.create_task(
            broker.leave("a", member(), lambda: known.append(list(other.texts)))
        )
        await rig.start()
        await leaving
        await rig.connected()
        assert other.texts == ["last words"]
        assert receiver.answers == []
        assert not broker._rooms
        rig.tick()
        await rig.said()
        assert other.events == [("leave", "Alice")]

    rig(test)


def test_leave_of_one_of_two_connections_over_the_relays_end(rig: Run) -> None:
    """The other connection stays, and is delivered to."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (_, other) = await rig.several(2)
        await join(rig.brokers[1], "Bob")
        await join(broker)
        await join(broker)
        rig.kill()
        await until(lambda: not broker.connected)
        leaving = asyncio.create_task(leave(broker))
        await asyncio.sleep(0)
        await rig.start()
        await leaving
        await rig.connected()
        rig.tick(2 * GRACE_TICKS)
        rig.brokers[1].publish(draft(by="Bob"))
        await receiver.until_delivered(1)
        assert rig.names() == ["Alice", "Bob"] or rig.names() == ["Bob", "Alice"]
        assert other.events == [("join", "Alice")]
        await leave(broker)
        await rig.said()
        assert other.events == [("join", "Alice"), ("leave", "Alice")]

    rig(test)


def test_requests_are_answered_over_the_relays_end(rig: Run) -> None:
    """Joins and reads that were not answered are asked again."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("word"), receiver.answer)
        await receiver.until_delivered(1)
        requests: list[asyncio.Task[Any]] = [
            asyncio.create_task(join(broker, "Bob")),
            asyncio.create_task(RelayPages(broker).before("a", None, 9)),
            asyncio.create_task(RelayPages(broker).after("a", 0, 9)),
            asyncio.create_task(RelayPages(broker).search("a", "word", 9)),
        ]
        await asyncio.sleep(0)
        rig.kill()
        requests.append(asyncio.create_task(join(broker, "Eve", "b")))
        await rig.start()
        entry, *pages, elsewhere = await asyncio.gather(*requests)
        assert (entry.online, texts(entry)) == (2, ["word"])
        assert [texts(page) for page in pages] == 3 * [["word"]]
        assert elsewhere.online == 1
        assert sorted(rig.names()) == ["Alice", "Bob"]

    rig(test)


# Positions


@pytest.mark.parametrize("how", ["cut", "restart"])
def test_what_was_missed_is_delivered_once(rig: Run, how: str) -> None:
    """What others published while our connection was gone, and what follows."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        for number in range(3):
            second.publish(draft(str(number)))
        await receiver.until_delivered(3)
        if how == "restart":
            rig.kill()
            await rig.start()
        else:
            rig.cut(broker)
        await until(lambda: not broker.connected)
        for number in range(3, 50):
            second.publish(draft(str(number)))
        await rig.connected()
        second.publish(draft("50"))
        await receiver.until_delivered(51)
        assert receiver.delivered == other.delivered
        assert receiver.losses == other.losses == []

    rig(test, retry_s=0.1)


def test_silent_room_is_resumed(rig: Run) -> None:
    """Also one in which nothing was ever said, and which only we are in."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        assert receiver.losses == []

    rig(test)


def test_room_of_another_epoch_is_lost(rig: Run) -> None:
    """The history is gone: members come back by new joins, and the others stay."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for number in range(5):
            broker.publish(draft(str(number)), receiver.answer)
        await receiver.until_delivered(5)
        rig.history = new_history()
        rig.kill()
        await until(lambda: not broker.connected)
        broker.publish(draft("without"), receiver.answers_to("me"))
        broker.publish(draft("with", id="i"), receiver.answers_to("me too"))
        await rig.start()
        await rig.connected()
        assert receiver.losses == ["a"]
        assert [(sender, outcome.code) for sender, outcome in receiver.answers] == [
            ("me", ErrorCode.UNAVAILABLE)
        ]
        broker.lose("a", member())  # as the chat does for whoever is closed
        await leave(broker)
        entry = await join(broker)
        assert (entry.online, texts(entry)) == (1, ["with"])
        broker.publish(draft("new"), receiver.answer)
        await receiver.until_delivered(6)
        assert receiver.offsets[-1] == 2
        assert receiver.losses == ["a"]

    rig(test)


@pytest.mark.parametrize(("missed", "lost"), [(MAX_RESUMED, False), (MAX_RESUMED + 1, True)])
def test_room_in_which_too_much_was_missed_is_lost(rig: Run, missed: int, lost: bool) -> None:
    """Up to a number it is all delivered."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("first"), receiver.answer)
        await receiver.until_delivered(1)
        rig.kill()
        rig.history.append([draft(str(number)) for number in range(missed)])
        await rig.start()
        await until(lambda: not broker.connected)
        await rig.connected()
        assert receiver.losses == (["a"] if lost else [])
        assert receiver.offsets == list(range(1, 2 if lost else missed + 2))

    rig(test)


def test_more_may_be_missed_than_a_record_holds(rig: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in several records."""
    monkeypatch.setattr("fastchat.brokers.relay.wire.MAX_RECORD_BYTES", 4 * 1024 * 1024)

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        for room in "abc":
            await join(broker, room=room)
            broker.publish(draft("first", room=room), receiver.answer)
        await receiver.until_delivered(3)
        rig.kill()
        for room in "abc":
            rig.history.append([draft("x" * 10_000, room=room) for _ in range(200)])
        await rig.start()
        await until(lambda: not broker.connected)
        await rig.connected()
        assert len(receiver.delivered) == 603
        assert receiver.losses == []

    rig(test)


def test_what_was_delivered_is_not_delivered_again(rig: Run) -> None:
    """Neither shown twice nor taken for a hole, if a relay should repeat itself."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker.publish(draft("1"), receiver.answer)
        broker.publish(draft("2"), receiver.answer)
        await receiver.until_delivered(2)
        for number in (1, 2):
            payload = protocol.encode(draft(str(number)).numbered(number))
            broker.on_record(records.Deliver([records.Delivered("a", number, None, payload)]))
        broker.publish(draft("3"), receiver.answer)
        await receiver.until_delivered(3)
        assert (receiver.offsets, receiver.losses) == ([1, 2, 3], [])

    rig(test)


def test_hole_is_lost(rig: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that jumps is never shown as if it were whole."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        broker._rooms["a"].offset = 7
        rig.history.append([draft(str(number)) for number in range(8)])
        broker.publish(draft("9"), receiver.answer)
        await receiver.until(lambda: bool(receiver.losses))
        assert receiver.losses == ["a"]
        assert "hole" in caplog.text

    rig(test)


# Presence


def test_nobody_hears_of_those_who_stayed(rig: Run) -> None:
    """Neither over the relay's end nor over that of one connection."""

    async def test(rig: Rig) -> None:
        pairs = await rig.several(3)
        for number, (broker, _) in enumerate(pairs):
            for letter in "AB":
                await join(broker, f"{letter}{number}")
                await join(broker, f"{letter}{number}")
        await rig.said()
        told = [list(receiver.events) for receiver in rig.receivers]
        await rig.restart()
        rig.cut(pairs[0][0])
        await until(lambda: not pairs[0][0].connected)
        await rig.connected()
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert [receiver.events for receiver in rig.receivers] == told
        assert sorted(rig.names()) == ["A0", "A1", "A2", "B0", "B1", "B2"]
        # Each of them has two connections still.
        await leave(pairs[1][0], "A1")
        await rig.said()
        assert [receiver.events for receiver in rig.receivers] == told
        await leave(pairs[1][0], "A1")
        await rig.said()
        assert all(receiver.events[-1] == ("leave", "A1") for receiver in rig.receivers)

    rig(test)


def test_who_was_lost_while_the_relay_was_away_has_left_after_a_while(rig: Run) -> None:
    """His worker is gone too; the others know of him, and hear it after the usual time."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert rig.names() == ["Alice", "Bob"]
        rig.tick(GRACE_TICKS - 1)
        await rig.said()
        assert receiver.events == [("join", "Bob")]
        rig.tick(1)
        await rig.said()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob")]
        assert rig.names() == ["Alice"]

    rig(test)


def test_who_came_while_another_joined_late_is_known(rig: Run) -> None:
    """Whatever became of the first join of a process, it knows who is in the room."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        coming = asyncio.create_task(join(broker, "Eve"))
        await asyncio.sleep(0)
        broker.lose("a", member())  # the room is empty here when the reply comes
        await coming
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        rig.tick()
        await rig.said()
        assert ("leave", "Bob") in receiver.events

    rig(test)


def test_who_came_while_a_connection_was_gone_is_told(rig: Run) -> None:
    """The members of that process hear of it when it is back, once."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        rig.cut(broker)
        await until(lambda: not broker.connected)
        entry = await join(second, "Eve")
        assert entry.online == 3
        await rig.connected()
        assert receiver.events == [("join", "Bob"), ("join", "Eve")]
        assert receiver.heard[-1]["online"] == 3
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        assert receiver.events == [("join", "Bob"), ("join", "Eve")]
        assert other.events == [("join", "Eve")]

    rig(test, retry_s=0.1)


def test_who_was_announced_as_gone_and_is_back_is_told(rig: Run) -> None:
    """A process that was away for longer than the grace comes back with its members."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(second, "Bob")
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, "Bob")  # by now the relay has seen it
        rig.tick()
        await until(lambda: other.events[-1:] == [("leave", "Alice")])
        await rig.connected()
        assert other.events == [("join", "Alice"), ("leave", "Alice"), ("join", "Alice")]
        assert receiver.events == []
        assert rig.names() == ["Bob", "Alice"]

    rig(test, retry_s=0.1)


def test_crowd_is_told_its_number_after_a_gap(rig: Run) -> None:
    """Names are not told there."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        for number in range(CROWD + 1):
            await join(second, f"user {number}")
        rig.tick(1)
        await rig.said()
        receiver.heard.clear()
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await rig.connected()
        rig.tick(1)
        await rig.said()
        assert [event.get("online") for event in receiver.heard] == [CROWD + 2]

    rig(test)


def test_room_that_was_a_crowd_is_resumed_in_silence(rig: Run) -> None:
    """Those who came and went in the crowd, of whom nobody was told, are no news later."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(CROWD + 20)]
        for name in names:
            await join(second, name)
        for name in names[:40]:
            await leave(second, name)
        await rig.said()
        left = len(rig.names())
        assert left < CROWD
        assert len(broker._rooms["a"].known) == len(second._rooms["a"].known) == left
        receiver.heard.clear()
        other.heard.clear()
        await rig.restart()
        assert len(rig.names()) == left
        rig.tick()
        await rig.said()
        assert receiver.heard == other.heard == []

    rig(test)


def test_crowd_is_not_resumed_with_those_who_have_left(rig: Run) -> None:
    """Of whom nobody was told."""

    async def test(rig: Rig) -> None:
        (broker, _), (second, _) = await rig.several(2)
        await join(broker)
        names = [f"user {number}" for number in range(CROWD + 20)]
        for name in names:
            await join(second, name)
        for name in names[:10]:
            await leave(second, name)
        await rig.restart()
        assert len(rig.names()) == CROWD + 11

    rig(test)


def test_names_stay_taken_while_the_workers_gather(rig: Run) -> None:
    """A name is not given away before its owner's worker has come back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob", "b")
        rig.kill()
        await until(lambda: not second.connected)
        coming = asyncio.create_task(join(second, member("alice", by="thief")))
        await rig.start()
        with pytest.raises(CommandError) as caught:
            await coming
        assert caught.value.code == ErrorCode.USERNAME_TAKEN
        await rig.connected()
        assert receiver.losses == []
        assert rig.names() == ["Alice"]

    rig(test)


def test_member_known_only_by_others_may_come_back_silently(rig: Run) -> None:
    """As somebody in his grace: his author gets the name back, without a word."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert (await join(broker, "Bob")).online == 2
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert receiver.events == [("join", "Bob")]

    rig(test)


def test_name_of_a_member_known_only_by_others_may_be_taken(rig: Run) -> None:
    """As that of somebody in his grace: it is told that he left, and that another came."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        await join(second, "Bob")
        await rig.said()
        rig.kill()
        await rig.abandon(second)
        await rig.start(workers=1)
        await rig.connected()
        assert (await join(broker, member("bob", by="thief"))).online == 2
        rig.tick(2 * GRACE_TICKS)
        await rig.said()
        assert receiver.events == [("join", "Bob"), ("leave", "Bob"), ("join", "bob")]

    rig(test)


def test_name_that_was_given_away_makes_its_room_lost(rig: Run) -> None:
    """A worker that came too late finds another there: its members must come back."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, other) = await rig.several(2)
        await join(broker)
        await join(broker, "Eve")
        await join(broker, room="b")
        await join(second, "Bob")
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, member("ALICE", by="thief"))
        await rig.connected()
        assert receiver.losses == ["a"]
        broker.lose("a", member())
        broker.lose("a", member("Eve"))
        with pytest.raises(CommandError):
            await join(broker)
        assert (await join(broker, "Eve")).online == 3
        assert set(broker._rooms) == {"a", "b"}
        assert other.events[-2:] == [("leave", "Alice"), ("join", "ALICE")]

    rig(test, retry_s=0.1)


def test_member_comes_back_over_somebody_absent_of_his_name(rig: Run) -> None:
    """Who took it has gone in the meantime, and nobody else is there."""

    async def test(rig: Rig) -> None:
        (broker, receiver), (second, _) = await rig.several(2)
        await join(broker)
        rig.cut(broker)
        await until(lambda: not broker.connected)
        await join(second, member("ALICE", by="thief"))
        second.lose("a", member("ALICE", by="thief"))
        await rig.connected()
        assert rig.names() == ["Alice"]
        broker.publish(draft(), receiver.answer)
        await receiver.until_delivered(1)
        await leave(broker)
        assert rig.relay.rooms.room_count == 0

    rig(test, retry_s=0.1)


@pytest.mark.parametrize("how", ["lose", "leave"])
def test_who_goes_while_the_workers_gather_is_gone(rig: Run, how: str) -> None:
    """Between a broker's introduction and its welcome; no ghost of him stays."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        await join(broker, "Bob")
        rig.kill()
        await until(lambda: not broker.connected)
        await rig.start(workers=2, gathering_s=0.1)
        await until(lambda: rig.relay.rooms.user_count == 2)
        assert not broker.connected
        if how == "lose":
            broker.lose("a", member())
        else:
            await leave(broker)
        await rig.connected()
        rig.tick()
        await rig.said()
        assert rig.names() == ["Bob"]
        assert receiver.events[-1] == ("leave", "Alice")
        broker.lose("a", member("Bob"))
        await rig.said()
        rig.tick()
        assert rig.relay.rooms.room_count == 0

    rig(test)


# Gathering


def test_workers_are_welcomed_together(rig: Run) -> None:
    """When all that were expected are there, not before."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=60)
        starting = asyncio.create_task(first.start())
        await until(lambda: any(peer.is_restored for peer in rig.relay._peers))
        await asyncio.sleep(0.02)
        assert not first.connected
        await second.start()
        await starting
        await rig.said()

    rig(test)


def test_workers_are_not_waited_for_long(rig: Run) -> None:
    """One that does not come back keeps the others out for a while only; late, it is welcome."""

    async def test(rig: Rig) -> None:
        first, second = rig.broker()[0], rig.broker()[0]
        await rig.start(gathering_s=0.05)
        await first.start()
        assert (await join(first)).online == 1
        await second.start()
        assert (await join(second, "Bob")).online == 2

    rig(test)


# Without a relay


class Silent:
    """What listens where a relay should: accepts, and never answers; nor does it read."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        path = directory / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._socket.listen()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("connected", [False, True])
def test_without_an_answer_everything_is_unavailable_in_time(rig: Run, connected: bool) -> None:
    """Whether the relay is gone or hangs: drafts, joins and reads are answered, leaves succeed.

    It is known after a while only that it hangs.
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
            RelayPages(broker).search("a", "x", 9),  # waits longer, and nobody for it
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
        # What was answered has not been done, but for the leave.
        assert rig.history.position("a").offset == 0
        assert rig.relay.rooms.user_count == 1

    rig(test, answer_s=0.2, search_s=0.4)


def test_what_was_not_read_by_the_relay_in_time_is_not_done(rig: Run) -> None:
    """A join that comes late is refused, a draft that comes late is not kept."""

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
    """Who was told `unavailable` is not in the room."""

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
        await rig.said()
        rig.tick()
        await rig.said()
        assert rig.names() == ["Bob"]
        assert other.events == [("join", "Alice"), ("leave", "Alice")]
        second.publish(draft())
        await rig.said()
        assert receiver.heard == []

    rig(test)


def test_backlog_is_bounded(rig: Run) -> None:
    """Too much for a relay that does not read is answered at once, and works again later."""

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


def test_unconfirmed_drafts_are_bounded(rig: Run) -> None:
    """However small they are."""

    async def test(rig: Rig) -> None:
        ((broker, receiver),) = await rig.several(1)
        await join(broker)
        for number in range(100):
            broker.publish(draft(str(number)), receiver.answer)
        await asyncio.sleep(0)
        broker.publish(draft("too many"), receiver.answer)
        await rig.said()
        assert (len(receiver.answers), len(receiver.delivered)) == (1, 100)

    rig(test, max_drafts=100)


def test_unconfirmed_drafts_are_bounded_without_a_relay(rig: Run) -> None:
    """Those that are too many are refused at once; the others are kept by the next relay."""

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
    """Events get lost, and questions are refused; who leaves is heard of later."""

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
    """The relay does not hold for it what it does not want; it misses nothing."""

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


def test_relay_that_talks_nonsense_is_left_and_found_again(
    rig: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection is lost, and nothing else."""

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


def test_close_lets_the_relay_read_what_was_said(rig: Run) -> None:
    """A worker that stops loses nothing, and its members are lost by the relay."""

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
    """Each tick adds a time."""

    async def test(rig: Rig) -> None:
        ((broker, _),) = await rig.several(1)
        for _ in range(3):
            broker.tick()
        await rig.said()
        assert sum(broker._metrics.relay_lag_s.counts) == 3

    rig(test)


# Anything at all

ROOMS = ("a", "b")
NAMES = tuple(f"user {number}" for number in range(5))


class Process:
    """A broker, and what a chat upon it would know: checks all it is told."""

    def __init__(self, rig: Rig, broker: RelayBroker, receiver: Receiver) -> None:
        self.rig = rig
        self.broker = broker
        self.inside: Counter[tuple[str, str]] = Counter()  # connections by room and name
        self.at: dict[str, Position] = {}  # of rooms with members
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
            return  # the last member has gone
        event = self.receiver.heard[-1]
        if "offset" in event:
            epoch, newest = self.at[room]
            assert event["offset"] == newest + 1
            self.at[room] = Position(epoch, newest + 1)
            assert self.seen[room].setdefault(newest + 1, event["text"]) == event["text"]
        elif event["type"] == "join":
            assert not self.known[room][event["username"]], "he is there already"
            self.known[room][event["username"]] = 1
        else:
            self.known[room][event["username"]] = 0

    async def join(self, room: str, name: str) -> None:
        def enter(entry: Entry) -> None:
            if not self.members(room):
                self.known[room] = Counter(entry.users)
                self.at[room] = entry.position
            self.inside[room, name] += 1
            assert self.at[room] == entry.position, "it is where the others are"
            assert {user for user in self.known[room] if self.known[room][user]} == set(entry.users)
            newest = self.rig.history.before(room, entry.position.offset + 1, 5).publications
            assert texts(entry) == [each.text for each in newest]

        await self.broker.join(Entrance(room, member(name), None, 5), enter)

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
    """Random operations on some processes and their relay."""

    def __init__(self, rig: Rig, chance: random.Random) -> None:
        self.rig = rig
        self.chance = chance
        self.texts = itertools.count()
        self.tasks: list[asyncio.Task[None]] = []
        self.processes: list[Process] = []
        self.restarts: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        # A room in which nothing was said is forgotten when it is empty, epoch and all.
        self.rig.history.append([draft("first", room=room) for room in ROOMS])
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
        await self.rig.said()
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
            self.rig.kill_after_keeping()
            await asyncio.sleep(0.003)
            self.rig.mortal.on_appended = None
        if relay is self.rig.relay:
            self.rig.kill()
        await asyncio.sleep(self.chance.choice((0, 0.002)))
        await self.rig.start()

    def _check(self) -> None:
        for room in ROOMS:
            kept = self.rig.history.before(room, None, 100_000).publications
            assert [each.offset for each in kept] == list(range(1, len(kept) + 1))
            order = [each.text for each in kept]
            assert order[0] == "first"
            assert len(set(order)) == len(order), "none is doubled"
            said = [text for process in self.processes for text in process.said[room]]
            assert sorted(order[1:]) == sorted(said), "none is lost"
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
def test_whatever_happens_streams_are_whole_and_presence_is_true(
    tmp_path: Path,
    first: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Publishing, coming and going while relays are killed and connections cut."""

    async def live(seed: int) -> None:
        rig = Rig(tmp_path, new_history(), retry_s=0.001)
        try:
            async with asyncio.timeout(4 * PATIENCE_S):
                await Life(rig, random.Random(seed)).run()
            # What the receivers did not expect costs the broker its connection only.
            assert [each for each in caplog.records if each.exc_info] == []
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            await rig.end()

    for seed in range(first, first + 50):
        run_in_loop(live(seed))
