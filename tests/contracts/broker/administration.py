"""The contract of `fastchat.rooms.administration.Administration`, whatever the broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from contracts.broker.base import Contract, Receiver, decoded, join, leave, member
from contracts.history import draft, edit, react
from fastchat.brokers import Broker
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import ModeratorDraft, Position, PostedDraft
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.administration import Administration, Erased

Test = Callable[[Broker, Receiver, Administration], Awaitable[None]]


class AdministrationContract(Contract):
    """What backends and operators can have done in rooms."""

    def run_with(self, test: Test) -> None:
        """Run a test with a broker and its administration."""

        async def body(broker: Broker, receiver: Receiver) -> None:
            await test(broker, receiver, self.administration_of(broker))

        self.run(body)

    # Options

    def test_options_are_told_to_members_and_to_those_who_join(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            assert (await join(broker)).options is None
            set_ = await rooms.set_options("a", {"title": "Lobby", "slow_s": 5}, "shop")
            assert set_ == RoomOptions(title="Lobby", slow_s=5)
            await receiver.until(lambda: bool(receiver.received))
            assert receiver.received == [
                {"type": "room", "room": "a", "options": {"title": "Lobby", "slow_s": 5}}
            ]
            assert (await join(broker, "Bob")).options == set_
            again = await rooms.set_options("a", {"slow_s": 0}, "shop")
            assert again == RoomOptions(title="Lobby") == await rooms.options("a")
            assert await rooms.options("b") == RoomOptions()

        self.run_with(test)

    def test_nobody_joins_a_closed_room_but_moderators(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            await rooms.set_options("a", {"closed": True}, "shop")
            with pytest.raises(CommandError) as caught:
                await join(broker, "Bob")
            assert caught.value.code is ErrorCode.FORBIDDEN
            entries: list[Entry] = []
            moderator = Entrance("a", *member("Mo"), None, 50, moderates=True)
            await broker.join(moderator, entries.append)
            assert len(entries) == 1
            broker.publish(draft(), receiver.answer)
            await receiver.until_answered(1)
            assert receiver.codes == [ErrorCode.FORBIDDEN]

        self.run_with(test)

    def test_only_moderators_and_keys_write_in_a_read_only_room(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            broker.publish(draft("before"), receiver.answer)
            await rooms.set_options("a", {"read_only": True}, "shop")
            for each in (draft("no"), react(1), edit(1)):
                broker.publish(each, receiver.answer)
            broker.publish(ModeratorDraft(*draft("moderator")), receiver.answer)
            broker.publish(PostedDraft(*draft("key")), receiver.answer)
            broker.publish(edit(1, "moderated")._replace(moderated=True), receiver.answer)
            await receiver.until_delivered(4)
            await receiver.until_answered(3)
            assert receiver.texts == ["before", "moderator", "key", "moderated"]
            assert receiver.codes == [ErrorCode.FORBIDDEN] * 3

        self.run_with(test)

    def test_user_of_a_slow_room_waits_between_messages(self) -> None:
        """Others, changes, and other rooms are not slowed."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            await join(broker, "Alice", "b")
            await rooms.set_options("a", {"slow_s": 60}, "shop")
            broker.publish(draft("first"), receiver.answer)
            broker.publish(draft("too soon"), receiver.answer)
            broker.publish(draft("another's", by="Bob"), receiver.answer)
            broker.publish(react(1, by="Alice"), receiver.answer)
            broker.publish(draft("elsewhere", room="b"), receiver.answer)
            await receiver.until_delivered(4)
            await receiver.until_answered(1)
            ((_, refusal),) = receiver.answers
            assert isinstance(refusal, CommandError)
            assert (refusal.code, refusal.temporary) == (ErrorCode.RATE_LIMITED, True)
            assert refusal.retry_after_ms is not None
            assert 0 < refusal.retry_after_ms <= 60_000

        self.run_with(test)

    # Rooms

    def test_rooms_are_listed_by_name(self) -> None:
        """Rooms with publications, with options, and with users only."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker, "Alice", "b")
            await join(broker, "Bob", "b")
            await join(broker, "Alice", "c")
            await rooms.set_options("a", {"topic": "x"}, "shop")
            broker.publish(draft(room="b"), receiver.answer)
            await receiver.until_delivered(1)
            found = await rooms.rooms("", "", 10)
            assert [(each.room, each.head, each.online) for each in found] == [
                ("a", 0, 0),
                ("b", 1, 2),
                ("c", 0, 1),
            ]
            assert found[1].last_at == receiver.delivered[0]["timestamp"]
            assert found[1].bytes > 0
            assert found[1].epoch == (await rooms.position("b")).epoch
            assert [each.room for each in await rooms.rooms("", "a", 1)] == ["b"]
            assert [each.room for each in await rooms.rooms("c", "", 9)] == ["c"]

        self.run_with(test)

    def test_members_of_a_deleted_room_come_back_to_an_empty_one(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            broker.publish(draft("old"), receiver.answer)
            await receiver.until_delivered(1)
            before = await rooms.position("a")
            await rooms.set_options("a", {"title": "Old"}, "shop")
            assert await rooms.delete_room("a", "shop")
            await receiver.until(lambda: bool(receiver.losses))
            assert receiver.losses == ["a"]
            types = [event["type"] for event in receiver.received]
            assert types == ["message", "room", "room_deleted"]
            broker.lose("a", member())
            back = await join(broker, since=before)
            assert (back.recovered, back.payloads, back.options) == (False, [], None)
            assert back.position.offset == 0
            assert (back.online, len(back.users or ())) == (1, 1)
            broker.publish(draft("new"), receiver.answer)
            await receiver.until_delivered(2)
            assert (receiver.texts, receiver.offsets) == (["old", "new"], [1, 1])
            assert not await rooms.delete_room("nowhere", "shop")

        self.run_with(test)

    def test_publications_are_read_from_a_position_on(self) -> None:
        """The oldest come first, and a position of another stream gives none."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            start = await rooms.position("a")
            await join(broker)
            for number in range(5):
                broker.publish(draft(str(number)), receiver.answer)
            broker.publish(edit(1, "edited"), receiver.answer)
            await receiver.until_delivered(6)
            first = decoded(await rooms.since("a", start, 2) or ())
            assert [each["offset"] for each in first] == [1, 2]
            rest = decoded(await rooms.since("a", start._replace(offset=2), 50) or ())
            assert [each["type"] for each in rest] == ["message"] * 3 + ["edit"]
            assert await rooms.since("a", await rooms.position("a"), 50) == []
            assert await rooms.since("a", start._replace(epoch="another"), 50) is None

        self.run_with(test)

    # Users

    def test_users_are_found_in_their_rooms(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            await join(broker)
            await join(broker, "Bob")
            await join(broker, member("Al", by="Alice"), "b")
            found = [(each.username, each.connections) for each in await rooms.users("a")]
            assert found == [("Alice", 2), ("Bob", 1)]
            everywhere = await rooms.find_user("user Alice")
            assert {(each.room, each.username) for each in everywhere} == {
                ("a", "Alice"),
                ("b", "Al"),
            }
            assert all(each.user == "user Alice" and each.since for each in everywhere)
            assert await rooms.users("nowhere") == []
            assert await rooms.find_user("nobody") == []

        self.run_with(test)

    def test_disconnected_user_can_come_back(self) -> None:
        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            await join(broker, "Bob")
            await join(broker, room="b")
            assert await rooms.disconnect("user Alice", "b", "shop") == 1
            await receiver.until(lambda: bool(receiver.expelled))
            assert await rooms.disconnect("user Alice", None, "shop") == 2
            await receiver.until(lambda: len(receiver.expelled) == 3)
            assert set(receiver.expelled) == {("a", "user Alice", 0), ("b", "user Alice", 0)}
            broker.lose("a", member())
            await receiver.until(lambda: ("leave", "Alice") in receiver.events)
            await join(broker)
            assert await rooms.disconnect("nobody", None, "shop") == 0

        self.run_with(test)

    def test_banned_user_stays_out(self) -> None:
        """Of one room or of all, also if the user is not here."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await rooms.ban("user Alice", "a", 600, "shop")
            with pytest.raises(CommandError) as caught:
                await join(broker)
            assert caught.value.code is ErrorCode.FORBIDDEN
            await join(broker, room="b")
            await rooms.ban("user Alice", None, 1200, "shop")
            await receiver.until(lambda: bool(receiver.expelled))
            ((room, user, seconds),) = receiver.expelled
            assert (room, user) == ("b", "user Alice")
            assert 1190 <= seconds <= 1200
            broker.lose("b", member())
            with pytest.raises(CommandError):
                await join(broker, room="c")
            await join(broker, "Bob", "c")
            bans = await rooms.bans()
            assert [(each.user, each.room) for each in bans] == [
                ("user Alice", "a"),
                ("user Alice", None),
            ]
            assert bans[0].until < bans[1].until
            assert await rooms.unban("user Alice", None, "shop")
            assert not await rooms.unban("user Alice", None, "shop")
            await join(broker, room="c")
            with pytest.raises(CommandError):
                await join(broker)
            assert await rooms.unban("user Alice", "a", "shop")
            await join(broker)
            assert await rooms.bans() == []

        self.run_with(test)

    def test_user_can_be_exported_and_erased(self) -> None:
        """Members hear that the user was erased, in each room where something was."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            await join(broker)
            await join(broker, room="b")
            for room in ("a", "b"):
                broker.publish(draft("mine", room=room), receiver.answer)
            broker.publish(draft("Bob's", by="Bob"), receiver.answer)
            broker.publish(react(2, by="Alice"), receiver.answer)
            await receiver.until_delivered(4)
            said, cursor = await rooms.messages_of("user Alice", None, 100)
            while cursor is not None:
                more, cursor = await rooms.messages_of("user Alice", cursor, 100)
                said = [*said, *more]
            assert {(each["room"], each["type"]) for each in decoded(said)} == {
                ("a", "message"),
                ("a", "react"),
                ("b", "message"),
            }
            assert await rooms.erase_user("user Alice", "shop") == Erased(2, 1)
            await receiver.until(lambda: len(receiver.events) == 2)
            told = {(each["type"], each["room"], each["user"]) for each in receiver.received[-2:]}
            assert told == {("user_erased", room, "user Alice") for room in ("a", "b")}
            first, second = decoded((await join(broker, "Carol")).payloads)
            assert (first["deleted"], first["user"], first["text"]) == (True, "e_", "")
            assert (second["text"], "reactions" in second) == ("Bob's", False)
            await leave(broker)

        self.run_with(test)

    def test_failing_disk_is_said(self) -> None:
        """Nothing has changed after a refusal."""

        async def test(broker: Broker, receiver: Receiver, rooms: Administration) -> None:
            self.faulty.failing = {"append", "read"}
            for call in (
                rooms.set_options("a", {"title": "x"}, "shop"),
                rooms.delete_room("a", "shop"),
                rooms.rooms("", "", 10),
                rooms.since("a", Position("epoch", 0), 10),
                rooms.erase_user("user Alice", "shop"),
            ):
                with pytest.raises(CommandError) as caught:
                    await call
                assert caught.value.code is ErrorCode.UNAVAILABLE
            self.faulty.failing = set()
            assert await rooms.options("a") == RoomOptions()

        self.run_with(test)
