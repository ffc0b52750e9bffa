"""The contract of several brokers on the same rooms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from contracts.broker.base import (
    PATIENCE_S,
    Contract,
    Receiver,
    join,
    leave,
    member,
    names,
    offsets,
    run_in_loop,
    texts,
)
from contracts.broker.single import BrokerContract
from contracts.history import draft
from fastchat import protocol
from fastchat.brokers import Broker
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.members import GRACE_TICKS


async def join_when_free(broker: Broker, user: Member) -> Entry:
    """Join under a name that its user has left a moment ago.

    The reply to a leave has a place in the stream. Rooms on another machine can free the name a
    moment later, and other processes hear of it then.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await join(broker, user)
            except CommandError as error:
                assert error.code == ErrorCode.USERNAME_TAKEN  # noqa: PT017  # else it fails
                await asyncio.sleep(0.01)


class SeveralContract(Contract):
    """What several brokers on the same rooms do for the members of all processes."""

    #: The time between two publications of a load, of which clients can recover 300.
    PACE_S = 0.0005

    def run_several(
        self, test: Callable[[list[Broker], list[Receiver]], Awaitable[None]], count: int = 2
    ) -> None:
        """Run a test in a loop of its own, with `count` open brokers."""

        async def body() -> None:
            self.rooms = self.make_rooms()
            receivers = [Receiver() for _ in range(count)]
            async with self.brokers(receivers) as brokers:
                await test(brokers, receivers)

        run_in_loop(body())

    def test_all_processes_get_the_same_stream(self) -> None:
        """Every process gets each publication once, in the same order and without holes."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            for number, broker in enumerate(brokers):
                await join(broker, f"user {number}")
            for number in range(300):
                brokers[number % 3].publish(draft(str(number)), receivers[number % 3].answer)
                if number % 7 == 0:
                    await asyncio.sleep(0)
            for receiver in receivers:
                await receiver.until_delivered(300)
                assert receiver.delivered == receivers[0].delivered
                assert receiver.offsets == list(range(1, 301))
            for origin in range(3):  # and those of each process in the order of its calls
                own = [int(text) for text in receivers[0].texts if int(text) % 3 == origin]
                assert own == sorted(own)

        self.run_several(test, 3)

    def test_removal_reaches_all_processes_with_members(self) -> None:
        """Each process with members of the room expels the user's connections; others are not
        called."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            await join(brokers[1])
            await join(brokers[2], room="b")
            await self.presence_of(brokers[2]).remove(Removal("a", None, "Alice", 60, "Mod"))
            for receiver in receivers[:2]:
                await receiver.until(lambda receiver=receiver: bool(receiver.expelled))
                assert receiver.expelled == [("a", member().user, 60)]
            assert receivers[2].expelled == []

        self.run_several(test, 3)

    def test_joins_and_leaves_reach_other_processes(self) -> None:
        """They are announced once a user, in their order among the publications."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0], "Bob")
            await join(brokers[1])
            await join(brokers[1])
            brokers[1].publish(draft("hi"), receivers[1].answer)
            await leave(brokers[1])
            await leave(brokers[1])
            await receivers[0].until(lambda: len(receivers[0].received) == 3)
            assert [each["type"] for each in receivers[0].received] == ["join", "message", "leave"]
            assert receivers[1].events == []

        self.run_several(test)

    def test_told_events_reach_other_processes_only(self) -> None:
        """A told event reaches the other processes with members in the room, and not the sending
        one."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            for number, broker in enumerate(brokers[:3]):
                await join(broker, f"user {number}")
            await join(brokers[3], "Eve", "b")
            payload = protocol.typing("a", "u", "user 1")
            brokers[1].tell("a", payload)
            brokers[1].tell("nowhere", protocol.typing("nowhere", "u", "x"))
            brokers[1].publish(draft(), receivers[1].answer)
            brokers[3].publish(draft(room="b"), receivers[3].answer)
            for receiver in receivers:
                await receiver.until_delivered(1)
            typing = [
                [event for event in receiver.received if event["type"] == "typing"]
                for receiver in receivers
            ]
            assert typing == [[json.loads(payload)], [], [json.loads(payload)], []]

        self.run_several(test, 4)

    def test_names_are_unique_over_all_processes(self) -> None:
        """Another user's name is refused in every process, and a user's own name in none."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            with pytest.raises(CommandError) as caught:
                await join(brokers[1], member("alice", by="Eve"))
            assert caught.value.code == ErrorCode.USERNAME_TAKEN
            entry = await join(brokers[1])
            assert (names(entry), entry.online) == (["Alice"], 1)
            await leave(brokers[0])
            with pytest.raises(CommandError):
                await join(brokers[0], member("alice", by="Eve"))
            await leave(brokers[1])
            assert (await join_when_free(brokers[0], member("alice", by="Eve"))).online == 1

        self.run_several(test)

    def test_user_lost_in_one_process_can_come_back_in_another(self) -> None:
        """A return in time causes no event in either process."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0], "Bob")
            await join(brokers[1], "Eve")
            await join(brokers[0])
            brokers[0].lose("a", member())
            assert (await join(brokers[0], "Bob")).online == 3  # the rooms have handled the loss
            await self.tick(GRACE_TICKS - 1)
            assert (await join(brokers[1])).online == 3
            await self.tick(2 * GRACE_TICKS)
            for broker in brokers:
                broker.publish(draft())
            for receiver in receivers:
                await receiver.until_delivered(2)
            assert receivers[0].events == [("join", "Eve"), ("join", "Alice")]
            assert receivers[1].events == [("join", "Alice")]

        self.run_several(test)

    def test_room_left_in_one_process_goes_on_in_another(self) -> None:
        """A process without members gets no deliveries, and its next entry has what was
        published."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            await join(brokers[0])
            await join(brokers[1])
            await leave(brokers[0])
            brokers[0].publish(draft("unheard here"), receivers[0].answer)
            await receivers[1].until_delivered(1)
            entry = await join(brokers[0])
            assert (entry.online, texts(entry)) == (1, ["unheard here"])
            assert receivers[0].delivered == []
            assert receivers[1].events == []

        self.run_several(test)

    def test_entries_under_load_have_neither_hole_nor_overlap(self) -> None:
        """While another process publishes, each newcomer's entry and later deliveries are the whole
        stream."""

        async def test(brokers: list[Broker], receivers: list[Receiver]) -> None:
            seen: dict[str, list[int]] = {}
            inside: set[str] = set()
            plain = receivers[0].publish

            def publish(room: str, payload: bytes) -> None:
                plain(room, payload)
                if "offset" in (event := json.loads(payload)):
                    for name in inside:
                        seen[name].append(event["offset"])

            receivers[0].publish = publish  # type: ignore[method-assign]

            async def come_and_go(name: str) -> None:
                def enter(entry: Entry) -> None:
                    first = entry.position.offset - len(entry.payloads)
                    assert offsets(entry) == list(range(first + 1, entry.position.offset + 1))
                    seen.setdefault(name, []).extend(offsets(entry))
                    inside.add(name)

                position: Position | None = None
                for _ in range(8):
                    await broker.join(Entrance("a", *member(name), position, 300), enter)
                    await asyncio.sleep(0.001)
                    inside.discard(name)
                    position = Position(epoch, seen[name][-1] if seen[name] else 0)
                    if len(name) % 2:
                        await leave(broker, name)
                    else:
                        broker.lose("a", member(name))

            broker = brokers[0]
            epoch = (await join(brokers[1], "Bob")).position.epoch
            comers = [asyncio.create_task(come_and_go(f"user {n}")) for n in range(5, 15)]
            fired = 0
            while not all(comer.done() for comer in comers):
                fired += 1
                brokers[1].publish(draft(str(fired), by="Bob"), receivers[1].answer)
                await asyncio.sleep(self.PACE_S)
            await asyncio.gather(*comers)
            await receivers[1].until_delivered(fired)
            assert len(seen) == 10
            for stream in seen.values():
                assert stream == list(range(stream[0], stream[0] + len(stream)))

        self.run_several(test)


class SeveralBrokersContract(SeveralContract, BrokerContract):
    """What each of several brokers does, and what they do together."""
