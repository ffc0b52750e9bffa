"""The contract of brokers: the users of a room, and their removal."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from contracts.broker.base import Contract, Receiver, join, leave, member, names, texts
from contracts.history import draft
from fastchat.brokers import Broker
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.users import holder_of
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.members import GRACE_TICKS, MAX_LISTED_USERS


class PresenceContract(Contract):
    """Joins, leaves, losses and removals are announced once a user."""

    # Presence

    def test_name_of_another_user_is_refused(self) -> None:
        """The refused user is not counted, gets no deliveries, and no member hears of the
        attempt."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob", "b")
            await join(broker, "Alice")
            for _ in range(2):
                with pytest.raises(CommandError) as caught:
                    await join(broker, member("ALICE", by="Eve"))
                refusal = caught.value
                assert (refusal.code, refusal.temporary) == (ErrorCode.USERNAME_TAKEN, True)
            assert (await join(broker, "Joe")).online == 2
            await receiver.until_events(("join", "Joe"))
            await leave(broker, "Alice")
            await leave(broker, "Joe")
            broker.publish(draft("unheard"), receiver.answer)
            broker.publish(draft("heard", room="b"), receiver.answer)
            await receiver.until_delivered(1)

        self.run(test)

    def test_joins_and_leaves_are_announced_once_a_user(self) -> None:
        """A user's second connection causes no event, nor does the end of the first of two."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker, "Alice")
            await join(broker, "Alice")
            await receiver.until_events(("join", "Alice"))
            await leave(broker)
            assert (await join(broker, "Eve")).online == 3
            await leave(broker)
            await receiver.until_events(("join", "Alice"), ("join", "Eve"), ("leave", "Alice"))

        self.run(test)

    def test_join_is_announced_before_the_entry_is_given(self) -> None:
        """A newcomer does not receive the event of their own join."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            known: list[list[tuple[str, str]]] = []
            await broker.join(
                Entrance("a", *member(), None, 50), lambda entry: known.append(receiver.events)
            )
            assert known == [[("join", "Alice")]]

        self.run(test)

    def test_publication_just_before_a_leave_still_arrives(self) -> None:
        """A publication in the same turn arrives before the leave is confirmed and announced."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            known: list[list[str]] = []

            def left() -> None:
                known.append([event["type"] for event in receiver.received])

            broker.publish(draft("last words"), receiver.answer)
            await broker.leave("a", member(), left)
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"))
            assert known == [["join", "message"]]
            assert [event["type"] for event in receiver.received] == ["join", "message", "leave"]

        self.run(test)

    def test_publication_just_before_a_loss_still_arrives(self) -> None:
        """A publication of a member that is lost is stored, and delivered to the others."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.publish(draft("last words"), receiver.answer)
            broker.lose("a", member())
            await receiver.until_delivered(1)
            broker.publish(draft("last one's", by="Bob"), receiver.answer)
            broker.lose("a", member("Bob"))
            assert texts(await join(broker, "Eve")) == ["last words", "last one's"]

        self.run(test)

    def test_entry_has_publications_of_the_same_turn(self) -> None:
        """They are in the newcomer's entry, and delivered to the earlier members first."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            broker.publish(draft("before"), receiver.answer)
            known: list[list[str]] = []
            entries: list[Entry] = []

            def enter(entry: Entry) -> None:
                known.append(receiver.texts)
                entries.append(entry)

            await broker.join(Entrance("a", *member(), None, 50), enter)
            assert texts(entries[0]) == ["before"]
            assert known == [["before"]], "delivered before the entry is given"

        self.run(test)

    def test_user_who_comes_back_in_time_is_not_announced(self) -> None:
        """A lost user stays in the room until their time is over, and their return causes no
        event."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            entry = await join(broker, "Eve")
            assert names(entry) == ["Bob", "Alice", "Eve"]
            await self.tick(GRACE_TICKS - 1)
            assert (await join(broker)).online == 3
            await self.tick(2 * GRACE_TICKS)
            broker.publish(draft(), receiver.answer)
            await receiver.until_delivered(1)
            assert receiver.events == [("join", "Alice"), ("join", "Eve")]

        self.run(test)

    def test_user_who_does_not_come_back_has_left(self) -> None:
        """The leave is announced once, after the time to come back."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            assert (await join(broker, "Bob")).online == 2  # and the broker has handled the loss
            await self.tick(GRACE_TICKS - 1)
            assert (await join(broker, "Bob")).online == 2
            await self.tick(2)
            assert (await join(broker, "Bob")).online == 1
            assert receiver.events == [("join", "Alice"), ("leave", "Alice")]

        self.run(test)

    def test_name_of_a_lost_user_is_kept_for_them(self) -> None:
        """Another user learns when to try again, and can have the name once its user has left."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            for ticks in (GRACE_TICKS, 1):
                with pytest.raises(CommandError) as caught:
                    await join(broker, member("ALICE", by="thief"))
                refusal = caught.value
                assert (refusal.code, refusal.temporary) == (ErrorCode.USERNAME_TAKEN, True)
                assert refusal.retry_after_ms == 1000 * ticks
                await self.tick(ticks - 1)
            await self.tick(1)
            entry = await join(broker, member("ALICE", by="thief"))
            assert names(entry) == ["Bob", "ALICE"]
            with pytest.raises(CommandError) as caught:
                await join(broker)
            assert caught.value.retry_after_ms is None  # the user is here
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"), ("join", "ALICE"))

        self.run(test)

    def test_lost_user_comes_back_after_somebody_wanted_the_name(self) -> None:
        """The others receive no event."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            broker.lose("a", member())
            with pytest.raises(CommandError):
                await join(broker, member("ALICE", by="thief"))
            assert names(await join(broker)) == ["Bob", "Alice"]
            await self.tick(2 * GRACE_TICKS)
            await receiver.until_events(("join", "Alice"))

        self.run(test)

    def test_users_with_tokens_of_one_name_get_numbers(self) -> None:
        """Nobody with a token is refused because of the name, not even beside a guest; a user has
        one name in all their connections."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Ann")
            for sub, name in (("1", "Ann (2)"), ("2", "Ann (3)"), ("1", "Ann (2)")):
                entry = await join(broker, Member("Ann", holder_of(sub)))
                assert entry.member == Member(name, holder_of(sub))
            broker.lose("a", Member("Ann (3)", holder_of("2")))
            assert (await join(broker, Member("ANN", holder_of("3")))).member.name == "ANN (4)"
            assert (await join(broker, Member("Ann", holder_of("2")))).member.name == "Ann (3)"
            await leave(broker, "Ann")
            assert (await join(broker, Member("Ann", holder_of("1")))).member.name == "Ann (2)"
            with pytest.raises(CommandError):
                await join(broker, "Ann (4)")

        self.run(test)

    # Calls that have not ended

    def test_name_of_a_leaving_user_can_be_taken_at_once(self) -> None:
        """A join of another user need not wait for the reply to the leave."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            users = [member("Alice"), member("ALICE", by="Eve"), member("alice", by="Joe")]
            await join(broker, "Bob")
            await join(broker, users[0])
            for leaver, comer in itertools.pairwise(users):
                leaving = asyncio.create_task(leave(broker, leaver))
                await asyncio.sleep(0)  # it has begun
                assert names(await join(broker, comer)) == ["Bob", comer.name]
                await leaving

        self.run(test)

    def test_removed_user_cannot_join_at_once(self) -> None:
        """A join that begins behind the removal is refused, before the removal is confirmed."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            await join(broker)
            presence = self.presence_of(broker)
            removing = asyncio.create_task(presence.remove(Removal("a", None, "Alice", 60, "Mod")))
            await asyncio.sleep(0)  # it has begun
            with pytest.raises(CommandError) as caught:
                await join(broker, member("Other", by="Alice"))
            assert caught.value.code == ErrorCode.FORBIDDEN
            assert await removing == member()

        self.run(test)

    def test_many_users_can_join_and_leave_at_once(self) -> None:
        """Each of them is announced once, and the last entry has all of them."""
        count = MAX_LISTED_USERS - 1

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            users = [f"user {number}" for number in range(count)]
            entries = await asyncio.gather(*(join(broker, user) for user in users))
            assert max(entry.online for entry in entries) == count + 1
            await receiver.until(lambda: len(receiver.events) == count)
            await asyncio.gather(*(leave(broker, user) for user in users))
            await receiver.until(lambda: len(receiver.events) == 2 * count)
            assert sorted(receiver.events) == sorted(
                (event, user) for event in ("join", "leave") for user in users
            )
            assert (await join(broker, "Bob")).online == 1

        self.run(test)

    # Spectators

    def test_spectator_receives_publications_and_is_not_announced(self) -> None:
        """It has a public id, and the members hear only of the number, once a second."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker, "Bob")
            zoe = Member(None, member("Zoe").user)
            entry = await join(broker, zoe)
            assert (entry.member, names(entry)) == (zoe, ["Bob"])
            assert (entry.online, entry.spectators) == (1, 1)
            await leave(broker, "Bob")
            broker.publish(draft("still read"), receiver.answer)
            await receiver.until_delivered(1)
            await self.tick(1)
            await receiver.until(lambda: len(receiver.events) == 2)
            assert receiver.received[-1] == {
                "type": "presence", "room": "a", "online": 0, "spectators": 1
            }  # fmt: skip
            broker.lose("a", zoe)
            assert (await join(broker, "Bob", "a")).spectators == 0
            with pytest.raises(CommandError):
                await self.presence_of(broker).remove(Removal("a", zoe.user, None, 60, "Mod"))

        self.run(test)

    def test_crowd_has_no_list_until_it_ends(self) -> None:
        """The members hear when it begins, and get the whole list a tick after it has ended."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            for number in range(MAX_LISTED_USERS):
                assert len(names(await join(broker, f"user {number}"))) == number + 1
            assert (await join(broker, "one more")).users is None
            await leave(broker, "user 7")
            await self.tick(1)
            await receiver.until(lambda: receiver.received[-1].get("users") is not None)
            begin, end = (each for each in receiver.received if each["type"] == "presence")
            assert (begin["online"], begin["users"]) == (MAX_LISTED_USERS + 1, None)
            assert end["online"] == len(end["users"]) == MAX_LISTED_USERS
            assert end["users"][-1] == {"user": member("one more").user, "username": "one more"}
            assert names(await join(broker, "one more")) == [
                each["username"] for each in end["users"]
            ]

        self.run(test)

    # Removals

    def test_removed_user_is_expelled_and_stays_out(self) -> None:
        """Earlier publications arrive, the leave is announced after the last connection, and a join
        is refused."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            presence = self.presence_of(broker)
            await join(broker, "Bob")
            await join(broker)
            broker.publish(draft("spam"), receiver.answer)
            assert await presence.remove(Removal("a", None, "alice", 60, "Mod")) == member()
            await receiver.until(lambda: bool(receiver.expelled))
            assert receiver.expelled == [("a", member().user, 60)]
            assert receiver.texts == ["spam"]
            assert receiver.events == [("join", "Alice")]
            broker.lose("a", member())
            await receiver.until_events(("join", "Alice"), ("leave", "Alice"))
            with pytest.raises(CommandError) as caught:
                await join(broker)
            assert caught.value.code == ErrorCode.FORBIDDEN

        self.run(test)

    def test_removal_of_an_absent_user_is_refused(self) -> None:
        """The moderator gets `not_found`, and no user is expelled."""

        async def test(broker: Broker, receiver: Receiver) -> None:
            await join(broker)
            for room, name in (("a", "Bob"), ("b", "Alice")):
                with pytest.raises(CommandError) as caught:
                    await self.presence_of(broker).remove(Removal(room, None, name, 60, "Mod"))
                assert caught.value.code == ErrorCode.NOT_FOUND
            assert (await join(broker, "Eve")).online == 2
            assert receiver.expelled == []

        self.run(test)
