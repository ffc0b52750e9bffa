"""The rooms of the whole server, as subscribers see them: their users, and the order of things."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from contracts.broker import Faulty, at_once, member, offsets, texts
from contracts.history import NOW_S, TIMESTAMP, draft, edit
from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.protocol import Position, Publication
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.rooms import CROWD, GRACE_TICKS, MAX_RESUMED, Rooms
from fastchat.rooms.subscribers import Change


class Subscriber:
    """A process; keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.changes: list[Change] = []
        self.known: dict[str, dict[str, str]] = {}

    def deliver(
        self, room: str, offset: int, payload: bytes, ticket: Any, change: Change | None = None
    ) -> None:
        event = json.loads(payload)
        assert event["room"] == room
        if offset:
            assert event["offset"] == offset
            self.told.append(("publication", offset, event["text"], ticket))
            return
        assert ticket is None
        self.told.append((event["type"], event.get("username"), event.get("online")))
        if change is not None:
            self.changes.append(change)

    def kept(self, ticket: Any, offset: int) -> None:
        self.told.append(("kept", ticket, offset))

    def know(self, room: str, users: Mapping[str, str]) -> None:
        self.known[room] = dict(users)

    def answer(self, ticket: Any, outcome: Duplicate | CommandError) -> None:
        self.told.append(("answer", ticket, outcome))

    def end_turn(self) -> None:
        self.told.append(("end of turn",))

    def news(self) -> list[tuple[Any, ...]]:
        """What it was told since it was last asked, but for the ends of turns."""
        news = [each for each in self.told if each != ("end of turn",)]
        self.told.clear()
        return news


class House:
    """Rooms, with a loop that is turned by hand, and two subscribers."""

    def __init__(self, max_messages: int = 5000) -> None:
        epochs = (f"epoch-{number}" for number in itertools.count(1))
        self.history = MemoryHistory(max_messages=max_messages, new_epoch=lambda: next(epochs))
        self.faulty = Faulty(self.history)
        self.asked: list[Callable[[], None]] = []
        self.metrics = Metrics()
        self.rooms = Rooms(
            self.faulty,
            at_end_of_turn=self.asked.append,
            clock=lambda: NOW_S,
            metrics=self.metrics,
        )
        self.subscriber, self.other = Subscriber(), Subscriber()

    def turn(self) -> None:
        """The loop's turn ends."""
        asked, self.asked[:] = list(self.asked), []
        for callback in asked:
            callback()

    def publish(self, *drafts: Publication, subscriber: Subscriber | None = None) -> None:
        """All in one turn, which ends; each draft is its own ticket."""
        for each in drafts:
            self.rooms.publish(subscriber or self.subscriber, each, each)
        self.turn()

    def join(
        self,
        who: Member | str,
        room: str = "a",
        *,
        subscriber: Subscriber | None = None,
        since: Position | None = None,
    ) -> Entry:
        who = member(who) if isinstance(who, str) else who
        entries: list[Entry] = []
        entrance = Entrance(room, who, since, 50)
        at_once(self.rooms.join(subscriber or self.subscriber, entrance, entries.append))
        (entry,) = entries
        return entry

    def leave(self, who: str, room: str = "a", *, subscriber: Subscriber | None = None) -> None:
        subscriber = subscriber or self.subscriber
        left: list[None] = []
        at_once(self.rooms.leave(subscriber, room, member(who), lambda: left.append(None)))
        assert len(left) == 1

    def lose(self, who: str, room: str = "a", *, subscriber: Subscriber | None = None) -> None:
        self.rooms.lose(subscriber or self.subscriber, room, member(who))

    def tick(self, times: int = GRACE_TICKS) -> None:
        for _ in range(times):
            self.rooms.tick()

    def names(self, room: str = "a") -> list[str]:
        return self.rooms.users(room).names(1000) if room in self.rooms._rooms else []

    def restore(
        self,
        subscriber: Subscriber,
        *who: Member | str,
        since: Position | None = None,
        room: str = "a",
        known: tuple[Member | str, ...] | None = None,
        gathering: bool = True,
    ) -> list[str] | None:
        """Come back with members of one connection each; returns the texts that were missed."""

        def members(those: tuple[Member | str, ...]) -> list[Member]:
            return [member(each) if isinstance(each, str) else each for each in those]

        before = len(subscriber.told)
        resumed = at_once(
            self.rooms.restore(
                subscriber,
                room,
                since or self.history.position(room),
                [(each, 1) for each in members(who)],
                members(who if known is None else known),
                gathering=gathering,
            )
        )
        told = subscriber.told[before:]
        missed = [each for each in told if each[0] == "publication"]
        subscriber.told[before:] = [each for each in told if each[0] != "publication"]
        assert resumed or not told
        return [text for _, _, text, _ in missed] if resumed else None


@pytest.fixture
def house() -> House:
    return House()


# Turns


def test_end_of_a_turn_is_asked_for_once_a_turn(house: House) -> None:
    """However much is published in it; and by the next turn again."""
    for _ in range(2):
        for _ in range(3):
            house.rooms.publish(house.subscriber, None, draft())
        assert house.asked == [house.rooms.commit]
        house.turn()
    assert house.subscriber.told.count(("end of turn",)) == 2
    assert house.faulty.batches == [3, 3]


def test_end_of_a_turn_of_nothing_is_silent(house: House) -> None:
    """What was committed earlier in the turn is not committed again."""
    house.rooms.publish(house.subscriber, "ticket", draft())
    house.rooms.commit()
    house.turn()
    assert house.subscriber.told == [("kept", "ticket", 1), ("end of turn",)]


def test_only_the_origin_gets_the_ticket(house: House) -> None:
    """Each subscriber with members is told each publication once, and of each turn's end once."""
    house.join("Alice")
    house.join("Eve")
    house.join("Bob", subscriber=house.other)
    house.subscriber.news(), house.other.news()
    first, second = draft("1"), draft("2", by="Bob")
    house.rooms.publish(house.subscriber, "first", first)
    house.rooms.publish(house.other, "second", second)
    house.turn()
    assert house.subscriber.told == [
        ("publication", 1, "1", "first"),
        ("publication", 2, "2", None),
        ("end of turn",),
    ]
    assert house.other.told == [
        ("publication", 1, "1", None),
        ("publication", 2, "2", "second"),
        ("end of turn",),
    ]


def test_subscriber_without_members_hears_that_its_draft_is_kept(house: House) -> None:
    """And no more: the room is delivered where somebody is."""
    house.join("Bob", subscriber=house.other)
    house.rooms.publish(house.subscriber, "ticket", draft("1"))
    house.turn()
    assert house.subscriber.told == [("kept", "ticket", 1), ("end of turn",)]
    assert house.other.news() == [("publication", 1, "1", None)]


def test_answers_go_to_their_origin(house: House) -> None:
    """In the order of the drafts, between what is delivered."""
    house.join("Alice")
    house.join("Bob", subscriber=house.other)
    house.subscriber.news(), house.other.news()
    first, again, refused, last = draft("1", id="i"), draft("1", id="i"), edit(9), draft("2")
    house.publish(first, again, refused, last)
    published, duplicate, refusal, other = house.subscriber.news()
    assert published == ("publication", 1, "1", first)
    assert duplicate == ("answer", again, Duplicate("a", "i", 1))
    assert refusal[:2] == ("answer", refused)
    assert refusal[2].code == ErrorCode.NOT_FOUND
    assert other == ("publication", 2, "2", last)
    assert [each[2] for each in house.other.news()] == ["1", "2"]


def test_commits_are_measured(house: House) -> None:
    """Publications that were kept count, duplicates do not; each commit is a time."""
    house.publish(draft(id="i"), draft(id="i"), draft())
    house.publish(draft())
    assert house.metrics.publications_total == 3
    assert sum(house.metrics.commit_s.counts) == 2


@pytest.mark.parametrize("how", ["join", "leave", "lose"])
def test_nobody_overtakes_what_was_published_before(house: House, how: str) -> None:
    """Who comes or goes in the middle of a turn does so between its drafts."""
    house.join("Alice")
    house.join("Bob", subscriber=house.other)
    house.subscriber.news(), house.other.news()
    house.rooms.publish(house.other, None, draft("before", by="Bob"))
    if how == "join":
        entry = house.join("Eve")
        assert (texts(entry), entry.position.offset) == (["before"], 1)
    elif how == "leave":
        house.leave("Alice")
    else:
        house.lose("Alice")
    house.rooms.publish(house.other, None, draft("after", by="Bob"))
    house.turn()
    heard = [each[2] for each in house.subscriber.news() if each[0] == "publication"]
    assert heard == (["before", "after"] if how == "join" else ["before"])
    (before, *events, after) = house.other.news()
    assert (before[2], after[2]) == ("before", "after")
    assert [event[0] for event in events] == ([] if how == "lose" else [how])


def test_told_events_reach_other_ports_with_members(house: House) -> None:
    """Not whoever tells, nor those who are elsewhere."""
    third = Subscriber()
    house.join("Alice")
    house.join("Bob", subscriber=house.other)
    house.join("Eve", "b", subscriber=third)
    house.subscriber.news(), house.other.news()
    house.rooms.tell(house.subscriber, "a", protocol.typing("a", "Alice"))
    house.rooms.tell(house.subscriber, "nowhere", protocol.typing("nowhere", "Alice"))
    assert house.subscriber.news() == third.news() == []
    assert house.other.news() == [("typing", "Alice", None)]


# Coming and going


def test_join_event_says_who_and_how_many(house: House) -> None:
    """With the time, and for whoever keeps count, his author."""
    house.join("Bob")
    seen: list[bytes] = []
    house.subscriber.deliver = lambda *told: seen.append(told[2])  # type: ignore[method-assign]
    house.join("Alice")
    assert [json.loads(payload) for payload in seen] == [
        {
            "type": "join",
            "room": "a",
            "username": "Alice",
            "text": "Alice joined the chat",
            "timestamp": TIMESTAMP,
            "online": 2,
        }
    ]


def test_joins_and_leaves_are_told_to_all_ports_with_members(house: House) -> None:
    """Also to that of the newcomer, if it had members before."""
    house.join("Bob")
    assert house.subscriber.news() == []
    house.join("Alice", subscriber=house.other)
    assert house.subscriber.news() == [("join", "Alice", 2)]
    assert house.other.news() == []
    house.join("Eve", subscriber=house.other)
    assert house.subscriber.news() == house.other.news() == [("join", "Eve", 3)]
    house.leave("Alice", subscriber=house.other)
    assert house.subscriber.news() == house.other.news() == [("leave", "Alice", 2)]
    assert house.subscriber.changes == [
        Change(True, member("Alice")),
        Change(True, member("Eve")),
        Change(False, member("Alice")),
    ]


def test_user_is_there_from_the_first_connection_to_the_last(house: House) -> None:
    """Wherever they are; two tabs of one session are one user."""
    house.join("Bob")
    house.join("Alice")
    assert house.join("Alice", subscriber=house.other).online == 2
    assert house.rooms.user_count == 2
    house.leave("Alice")
    assert house.names() == ["Bob", "Alice"]
    house.leave("Alice", subscriber=house.other)
    assert house.subscriber.news() == [("join", "Alice", 2), ("leave", "Alice", 1)]


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Ａlice"])
def test_name_of_somebody_else_is_taken(house: House, name: str) -> None:
    """Nobody is counted, and nobody hears."""
    house.join("Alice")
    house.subscriber.news()
    for _ in range(2):
        with pytest.raises(CommandError) as caught:
            house.join(member(name, by="Eve"), subscriber=house.other)
        assert (caught.value.code, caught.value.temporary) == (ErrorCode.USERNAME_TAKEN, True)
    house.publish(draft("x"))
    assert house.other.news() == []
    assert [each[0] for each in house.subscriber.news()] == ["publication"]
    house.leave("Alice")  # and that was the last connection
    assert house.names() == []
    assert house.join(member("alice", by="Eve")).member.name == "alice"


def test_rooms_do_not_know_of_each_other(house: House) -> None:
    """The same name may belong to different people in different rooms."""
    house.join(member("Alice", by="one"), "a")
    house.join(member("Alice", by="two"), "b")
    assert (house.rooms.room_count, house.rooms.user_count) == (2, 2)


@pytest.mark.parametrize("absent", [False, True])
def test_join_that_fails_changes_nothing(house: House, absent: bool) -> None:
    """When the history cannot be read the name is free, and nobody was told."""
    house.join("Bob")
    if absent:
        house.join("Alice", subscriber=house.other)
        house.lose("Alice", subscriber=house.other)
    house.subscriber.news()
    house.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        house.join(member("Alice", by="Eve"), subscriber=house.other)
    assert caught.value.code == ErrorCode.UNAVAILABLE
    with pytest.raises(CommandError):
        house.join("Joe", "b")
    assert house.names() == (["Bob", "Alice"] if absent else ["Bob"])
    assert house.rooms.room_count == 1
    house.faulty.failing = set()
    assert house.subscriber.news() == []
    assert house.join(member("Alice", by="Joe"), subscriber=house.other).online == 2


def test_empty_rooms_are_forgotten(house: House) -> None:
    """A room that everybody has left costs nothing; one that was written in keeps its history."""
    for number in range(100):
        house.join("A", f"r{number}")
        house.leave("A", f"r{number}")
    house.join("A")
    house.lose("A")
    house.tick()
    assert (house.rooms.room_count, house.rooms.user_count) == (0, 0)
    assert not house.rooms._rooms
    assert not house.rooms._absent
    assert not house.history._logs
    entry = house.join("A")
    house.publish(draft("kept"))
    house.leave("A")
    assert house.join("A", since=entry.position).recovered


# Absence


def test_loss_is_told_after_5_seconds(house: House) -> None:
    """Not before; until then the user is in the room, and his name is his."""
    house.join("Bob")
    house.join("Alice")
    house.subscriber.news()
    house.tick(3)
    house.lose("Alice")
    house.tick(GRACE_TICKS - 1)
    assert house.subscriber.news() == []
    assert list(house.join("Eve").users) == ["Bob", "Alice", "Eve"]
    house.subscriber.news()
    house.tick(1)
    assert house.subscriber.news() == [("leave", "Alice", 2)]
    house.tick()
    assert house.subscriber.news() == []


def test_grace_is_5_seconds_at_least() -> None:
    """Ticks are a second apart, and the first may follow a drop at once."""
    assert GRACE_TICKS - 1 >= 5


def test_who_is_back_with_his_session_was_never_away(house: House) -> None:
    """Neither the loss nor the return is told, however often, wherever; and he is no new user."""
    house.join("Bob")
    house.join("Alice")
    house.subscriber.news()
    subscribers = [house.subscriber, house.other, house.subscriber, house.other]
    for before, after in itertools.pairwise(subscribers):
        house.lose("Alice", subscriber=before)
        house.tick(GRACE_TICKS - 1)
        entry = house.join("Alice", subscriber=after)
        assert (list(entry.users), entry.online) == (["Bob", "Alice"], 2)
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == []
    house.lose("Alice", subscriber=house.other)
    house.tick()
    assert house.subscriber.news() == [("leave", "Alice", 1)]


def test_name_of_somebody_absent_may_be_taken(house: House) -> None:
    """The others hear first that he left, then that somebody came; his time is over with it."""
    house.join("Bob")
    house.join("Alice")
    house.subscriber.news()
    house.lose("Alice")
    entry = house.join(member("ALICE", by="thief"))
    assert (entry.member.name, list(entry.users)) == ("ALICE", ["Bob", "ALICE"])
    assert house.subscriber.news() == [("leave", "Alice", 1), ("join", "ALICE", 2)]
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == []
    with pytest.raises(CommandError) as caught:
        house.join("Alice")
    assert caught.value.code == ErrorCode.USERNAME_TAKEN


def test_name_of_the_only_one_who_is_absent_may_be_taken(house: House) -> None:
    """The room stays the same, with its epoch, also if nothing was said in it."""
    position = house.join("Alice").position
    house.lose("Alice")
    entry = house.join(member("Alice", by="thief"))
    assert (entry.position, entry.online) == (position, 1)
    house.publish(draft())
    assert house.subscriber.news()[0][0] == "publication"
    assert house.join("Eve", since=position).recovered


def test_leave_is_told_at_once_also_beside_a_loss(house: House) -> None:
    """Who says that he leaves is not waited for; nor is he taken for absent."""
    house.join("Bob")
    house.join("Alice")
    house.join("Alice", subscriber=house.other)
    house.subscriber.news()
    house.lose("Alice")
    house.leave("Alice", subscriber=house.other)
    assert house.subscriber.news() == [("leave", "Alice", 1)]
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == []


def test_losses_in_many_rooms_are_told_in_each(house: House) -> None:
    """Who comes back to one of his rooms is gone from the other."""
    for room in ("a", "b"):
        house.join("Bob", room)
        house.join("Alice", room)
    house.subscriber.news()
    for room in ("a", "b"):
        house.lose("Alice", room)
    house.tick(2)
    house.join("Alice", "b")
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == [("leave", "Alice", 1)]
    assert house.names("a") == ["Bob"]
    assert house.names("b") == ["Bob", "Alice"]


def test_losses_are_told_in_their_order(house: House) -> None:
    """Each after its own time."""
    house.join("Bob")
    for name in ("A", "B", "C"):
        house.join(name)
    house.subscriber.news()
    for name in ("B", "A", "C"):
        house.lose(name)
        house.tick(1)
    told = []
    for _ in range(GRACE_TICKS):
        house.tick(1)
        told.append([name for _, name, _ in house.subscriber.news()])
    assert [names for names in told if names] == [["B"], ["A"], ["C"]]


def test_return_that_fails_does_not_end_the_grace(house: House) -> None:
    """Who cannot come back because the disk fails has his time to try again."""
    house.join("Bob")
    house.join("Alice")
    house.subscriber.news()
    house.lose("Alice")
    house.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        house.join("Alice")
    assert caught.value.code == ErrorCode.UNAVAILABLE
    house.tick(GRACE_TICKS - 1)
    house.faulty.failing = set()
    house.join("Alice")
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == []


# Crowds


def crowd(house: House, count: int) -> None:
    for number in range(count):
        house.join(f"u{number}")
    house.tick(1)
    house.subscriber.news()


def test_crowd_hears_of_numbers_once_a_tick(house: House) -> None:
    """Above 200 users joins and leaves are merged into one `presence` a tick."""
    crowd(house, CROWD - 1)
    house.join("the last that is told")
    assert house.subscriber.news() == [("join", "the last that is told", CROWD)]
    house.tick(1)
    assert house.subscriber.news() == []
    entry = house.join("first too many")
    assert len(entry.users) == protocol.MAX_USERS_LISTED
    assert entry.online == CROWD + 1
    house.join("second too many")
    house.leave("first too many")
    assert house.subscriber.news() == []
    house.tick(1)
    assert house.subscriber.news() == [("presence", None, CROWD + 1)]
    house.tick(1)
    assert house.subscriber.news() == []


def test_crowd_that_shrinks_hears_of_names_again(house: House) -> None:
    """From 200 users on down each leave is told, with the right number."""
    crowd(house, CROWD + 2)
    house.leave("u1")
    assert house.subscriber.news() == []
    house.leave("u2")
    assert house.subscriber.news() == [("leave", "u2", CROWD)]
    house.tick(1)
    assert house.subscriber.news() == [("presence", None, CROWD)]


def test_crowd_hears_of_losses_by_number(house: House) -> None:
    """In a crowd, too, who is back in time does not change the number."""
    crowd(house, CROWD + 3)
    house.lose("u1")
    house.lose("u2")
    house.join("u1")
    house.tick()
    assert house.subscriber.news() == [("presence", None, CROWD + 2)]


def test_crowd_that_is_gone_is_told_nothing(house: House) -> None:
    """Its room may be no more when its number is due."""
    crowd(house, CROWD + 2)
    for number in range(CROWD + 2):
        house.leave(f"u{number}")
    house.tick(1)
    assert house.rooms.room_count == 0


# A process that comes back


def test_restored_members_are_told_nothing_that_they_know(house: House) -> None:
    """New rooms after the old ones: all come back, nobody hears of it, names are theirs."""
    assert house.restore(house.subscriber, "Alice", "Eve", known=("Alice", "Eve", "Bob")) == []
    assert house.restore(house.other, "Bob", known=("Alice", "Eve", "Bob")) == []
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == house.other.news() == []
    assert set(house.names()) == {"Alice", "Eve", "Bob"}
    with pytest.raises(CommandError):
        house.join(member("bob", by="thief"))


def test_restored_process_is_given_what_it_missed(house: House) -> None:
    """All since its position, in order; then what is published follows."""
    position = house.join("Alice").position
    house.publish(draft("1"), draft("2"), draft("3"))
    house.subscriber.news()
    house.rooms.publish(house.subscriber, None, draft("4"))  # in the turn in which it comes
    since = Position(position.epoch, 1)
    assert house.restore(house.other, "Bob", since=since) == ["2", "3", "4"]
    house.other.news()
    house.publish(draft("5"))
    assert [each[2] for each in house.other.news()] == ["5"]


@pytest.mark.parametrize("missed", [MAX_RESUMED, MAX_RESUMED + 1])
def test_process_that_missed_too_much_is_lost(house: House, missed: int) -> None:
    """Nothing is counted then, and nobody is in the room by it."""
    position = house.join("Bob").position
    house.publish(*(draft(str(number)) for number in range(missed)))
    house.subscriber.news()
    restored = house.restore(house.other, "Alice", since=position)
    if missed == MAX_RESUMED:
        assert restored == [str(number) for number in range(missed)]
    else:
        assert restored is None
        assert house.names() == ["Bob"]
        house.publish(draft())
        assert house.other.news() == []


@pytest.mark.parametrize("position", [Position("other", 0), Position("epoch-1", 3)])
def test_process_of_another_history_is_lost(house: House, position: Position) -> None:
    """Another epoch, or a position ahead."""
    house.join("Bob")
    house.publish(draft())
    assert house.restore(house.other, "Alice", since=position) is None
    assert house.names() == ["Bob"]


def test_process_is_lost_while_nothing_can_be_read(house: House) -> None:
    """It works again later, by joins."""
    position = house.join("Bob").position
    house.faulty.failing = {"read"}
    assert house.restore(house.other, "Alice", since=position) is None
    house.faulty.failing = set()
    assert house.join("Alice", subscriber=house.other).online == 2


def test_names_in_conflict_make_a_process_lost(house: House) -> None:
    """Who is there keeps his name; none of the process is counted."""
    house.join("Alice")
    house.subscriber.news()
    assert house.restore(house.other, "Eve", member("ALICE", by="other")) is None
    assert house.names() == ["Alice"]
    assert house.subscriber.news() == []


def test_member_takes_his_name_from_somebody_absent(house: House) -> None:
    """That one has left then; the room goes on, also if he was the last."""
    house.join(member("ALICE", by="other"))
    house.rooms.lose(house.subscriber, "a", member("ALICE", by="other"))
    assert house.restore(house.other, "Alice") == []
    assert house.names() == ["Alice"]
    house.publish(draft("x"), subscriber=house.other)
    assert house.other.news()[-1][0] == "publication"
    house.leave("Alice", subscriber=house.other)
    assert house.rooms.room_count == 0


def test_users_that_do_not_come_back_leave_after_a_while(house: House) -> None:
    """Until then they are as anybody absent."""
    house.restore(house.subscriber, "Alice", known=("Alice", "Bob", "Eve", "Joe"))
    assert house.names() == ["Alice", "Bob", "Eve", "Joe"]
    assert house.join("Bob", subscriber=house.other).online == 4
    house.join(member("eve", by="thief"), subscriber=house.other)
    assert house.subscriber.news() == [("leave", "Eve", 3), ("join", "eve", 4)]
    house.tick(GRACE_TICKS - 1)
    assert house.subscriber.news() == []
    house.tick(1)
    assert house.subscriber.news() == [("leave", "Joe", 3)]


def test_who_left_in_the_meantime_has_left(house: House) -> None:
    """The process that comes back hears it at once, the others have heard it."""
    house.join("Bob")
    house.subscriber.news()
    house.restore(house.other, "Alice", known=("Alice", "Bob", "Eve"), gathering=False)
    assert house.other.news() == [("leave", "Eve", 2)]
    assert house.subscriber.news() == [("join", "Alice", 2)]
    assert house.names() == ["Bob", "Alice"]
    house.tick(2 * GRACE_TICKS)
    assert house.subscriber.news() == house.other.news() == []


def test_user_of_whom_only_some_know_is_told_to_the_rest(house: House) -> None:
    """So all know the same, whether he comes back or not."""
    house.restore(house.subscriber, "Alice", known=("Alice",))
    house.restore(house.other, "Bob", known=("Alice", "Bob", "Eve"))
    assert house.subscriber.news() == [("join", "Bob", 2), ("join", "Eve", 3)]
    assert house.other.news() == []
    house.tick()
    assert house.subscriber.news() == house.other.news() == [("leave", "Eve", 2)]


def test_who_came_in_the_meantime_is_told_to_whoever_comes_back(house: House) -> None:
    """And those who are there hear of members that they do not know, from rooms that do not."""
    house.join("Bob")
    house.join("Eve")
    house.subscriber.news()
    assert house.restore(house.other, "Alice", known=("Alice", "Bob")) == []
    assert house.other.changes == [Change(True, member("Eve"))]
    assert house.subscriber.news() == [("join", "Alice", 3)]


def test_crowd_that_comes_back_is_told_its_number(house: House) -> None:
    """No names."""
    crowd(house, CROWD + 1)
    house.restore(house.other, "Alice")
    assert house.other.news() == house.subscriber.news() == []
    house.tick(1)
    assert house.other.news() == house.subscriber.news() == [("presence", None, CROWD + 2)]


def test_silent_room_is_known_by_the_epoch_of_its_members(house: House) -> None:
    """No file has it; the first process that comes back says which it is."""
    silent = Position("theirs", 0)
    assert house.restore(house.subscriber, "Alice", since=silent) == []
    assert house.restore(house.other, "Bob", since=Position("another", 0)) is None
    assert house.join("Carol").position == silent


def test_process_may_come_back_without_members(house: House) -> None:
    """It hears what it missed, for what it has yet to learn; it is no subscriber of the room."""
    position = house.join("Bob").position
    house.publish(draft("1"))
    house.subscriber.news()
    assert house.restore(house.other, since=position) == ["1"]
    house.publish(draft("2"))
    assert house.other.news() == []
    elsewhere = position._replace(offset=1)
    assert house.restore(house.other, since=elsewhere, room="b") is None
    assert house.rooms.room_count == 1


# Reading


def test_newcomer_is_given_no_more_than_fits(house: House) -> None:
    """Too many bytes count like too many publications: the newest come."""
    position = house.join("Bob").position
    house.publish(*(draft("😀" * 3990) for _ in range(100)))
    entry = house.join("Alice", since=position)
    assert not entry.recovered
    assert 0 < len(entry.payloads) < 100
    assert offsets(entry)[-1] == 100
    assert sum(map(len, entry.payloads)) <= protocol.MAX_REPLY_BYTES


def test_failing_history_is_logged_once_and_once_when_it_works_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk under a busy server does not fill it with log lines, too."""

    async def search() -> object:
        return await house.rooms.search("a", "x", 9)

    def read(operation: Callable[[], Awaitable[object]]) -> None:
        try:
            asyncio.run(operation())  # type: ignore[arg-type]
        except CommandError:
            assert house.faulty.failing

    with caplog.at_level(logging.INFO, "fastchat.broker"):
        for _ in range(2):
            caplog.clear()
            house.faulty.failing = {"append", "read"}
            for _ in range(5):
                house.publish(draft())
                read(search)
            assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
            assert "disk I/O error" in caplog.text
            caplog.clear()
            house.faulty.failing = set()
            for _ in range(5):
                house.publish(draft())
                read(search)
            assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
            assert "works again" in caplog.text
