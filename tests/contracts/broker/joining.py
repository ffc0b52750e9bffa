"""The contract of brokers: joins, and the entries that they give."""

from __future__ import annotations

import asyncio

from contracts.broker.base import (
    Contract,
    Receiver,
    decoded,
    join,
    leave,
    member,
    names,
    offsets,
    texts,
)
from contracts.history import TIMESTAMP, draft, edit, react
from fastchat import protocol
from fastchat.brokers import Broker
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Entry


class JoiningContract(Contract):
    """An entry and the later deliveries are the whole stream."""

    def test_entry_and_deliveries_meet_without_hole_or_overlap(self) -> None:
        """The first delivery after a join follows the entry's last publication, while others
        publish."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for round_ in range(20):
                broker.publish(draft(f"before {round_}"), receiver.answer)
                entry = await join(broker, limit=300)
                assert len(entry.payloads) == entry.position.offset
                known = len(receiver.delivered)
                broker.publish(draft(f"after {round_}"), receiver.answer)
                await receiver.until(lambda known=known: len(receiver.delivered) > known)
                later = [each for each in receiver.offsets if each > entry.position.offset]
                seen = offsets(entry) + later
                assert seen == list(range(1, seen[-1] + 1))
                await leave(broker)

        self.run(test)

    def test_entry_is_given_at_its_position_in_the_stream(self) -> None:
        """When an entry is given, exactly the publications up to its position have been
        delivered."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            positions: list[tuple[int, int]] = []

            def enter(entry: Entry) -> None:
                positions.append((entry.position.offset, max(receiver.offsets, default=0)))

            async def come_and_go(name: str) -> None:
                for _ in range(10):
                    await broker.join(Entrance("a", *member(name), None, 0), enter)
                    await asyncio.sleep(0)
                    await leave(broker, name)

            broker.publish(draft("first"), receiver.answer)
            comers = [asyncio.create_task(come_and_go(f"user {n}")) for n in range(10)]
            while not all(comer.done() for comer in comers):
                broker.publish(draft("fire"), receiver.answer)
                await asyncio.sleep(0)
            await asyncio.gather(*comers)
            assert len(positions) == 100
            assert [position for position, _ in positions] == [newest for _, newest in positions]

        self.run(test)

    def test_entry_of_a_newcomer_has_the_newest_messages(self) -> None:
        """A newcomer gets at most `limit` messages from the end of the stream, oldest first."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for number in range(1, 11):
                broker.publish(draft(str(number)), receiver.answer)
            entry = await join(broker, limit=3)
            assert texts(entry) == ["8", "9", "10"]
            assert entry.position.offset == 10
            assert not entry.recovered
            assert texts(await join(broker, "Bob", limit=0)) == []

        self.run(test)

    def test_entry_since_a_known_position_has_all_missed_publications(self) -> None:
        """A recovery is complete, whatever the limit for newcomers is."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            first = await join(broker)
            for number in range(1, 11):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(10)
            epoch = first.position.epoch
            entry = await join(broker, "Bob", since=Position(epoch, 4), limit=2)
            assert entry.recovered
            assert offsets(entry) == [5, 6, 7, 8, 9, 10]
            assert entry.position == Position(epoch, 10, TIMESTAMP)
            entry = await join(broker, "Eve", since=entry.position)
            assert (entry.recovered, list(entry.payloads)) == (True, [])

        self.run(test)

    def test_entry_without_recovery_has_the_newest_messages(self) -> None:
        """After another epoch, too many publications or a position ahead, a client is a
        newcomer."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            epoch = (await join(broker)).position.epoch
            newest = protocol.MAX_HISTORY + 10
            for number in range(newest):
                broker.publish(draft(str(number)), receiver.answer)
            await receiver.until_delivered(newest)
            for name, since in (
                ("Bob", Position("x", newest - 1)),
                ("Eve", Position(epoch, 9)),
                ("Joe", Position(epoch, newest + 1)),
            ):
                entry = await join(broker, name, since=since, limit=2)
                assert not entry.recovered
                assert offsets(entry) == [newest - 1, newest]
                assert entry.position == Position(epoch, newest, TIMESTAMP)
            assert (await join(broker, "Ann", since=Position(epoch, 10))).recovered

        self.run(test)

    def test_entry_of_a_newcomer_has_folded_messages(self) -> None:
        """A newcomer gets messages with their changes applied; a recovery has each change."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for each in (draft("1"), draft("2"), edit(1, "one"), react(2), draft("5")):
                broker.publish(each, receiver.answer)
            entry = await join(broker, limit=2)
            assert offsets(entry) == [2, 5]
            assert decoded(entry.payloads)[0]["reactions"] == {
                "👋": [{"user": "user Bob", "username": "Bob"}]
            }
            assert entry.position.offset == 5
            entry = await join(broker, "Bob", since=Position(entry.position.epoch, 2), limit=2)
            assert entry.recovered
            assert offsets(entry) == [3, 4, 5]

        self.run(test)

    def test_entry_lists_the_users_of_the_room(self) -> None:
        """The entry has the users in the order of joining, the new one among them, and their
        number."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for count, name in enumerate(("C", "A", "B"), 1):
                entry = await join(broker, name)
                assert entry.member == member(name)
                assert (names(entry), entry.online) == (["C", "A", "B"][:count], count)
            entry = await join(broker, member("ａ", by="A"))
            assert entry.member == member("A"), "under its first spelling"
            assert (names(entry), entry.online) == (["C", "A", "B"], 3)

        self.run(test)
