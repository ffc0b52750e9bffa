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
from fastchat.protocol import Draft, Position
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.members import CROWD, GRACE_TICKS
from fastchat.rooms.restoring import MAX_RESUMED, Returning
from fastchat.rooms.rooms import Rooms
from fastchat.rooms.subscribers import PresenceChange


class Subscriber:
    """A process; keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.changes: list[PresenceChange] = []
        self.known: dict[str, dict[str, str]] = {}

    def deliver(
        self,
        room: str,
        offset: int,
        payload: bytes,
        draft_key: Any,
        change: PresenceChange | None = None,
    ) -> None:
        event = json.loads(payload)
        assert event["room"] == room
        if offset:
            assert event["offset"] == offset
            self.told.append(("publication", offset, event["text"], draft_key))
            return
        assert draft_key is None
        self.told.append((event["type"], event.get("username"), event.get("online")))
        if change is not None:
            self.changes.append(change)

    def kept(self, draft_key: Any, offset: int) -> None:
        self.told.append(("kept", draft_key, offset))

    def know(self, room: str, users: Mapping[str, str]) -> None:
        self.known[room] = dict(users)

    def answer(self, draft_key: Any, outcome: Duplicate | CommandError) -> None:
        self.told.append(("answer", draft_key, outcome))

    def end_turn(self) -> None:
        self.told.append(("end of turn",))

    def news(self) -> list[tuple[Any, ...]]:
        """What it was told since it was last asked, but for the ends of turns."""
        news = [each for each in self.told if each != ("end of turn",)]
        self.told.clear()
        return news


class Rig:
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

    def publish(self, *drafts: Draft, subscriber: Subscriber | None = None) -> None:
        """All in one turn, which ends; each draft is its own key."""
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
        return self.rooms.users(room).names(1000)

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
                Returning(
                    room,
                    since or self.history.position(room),
                    [(each, 1) for each in members(who)],
                    members(who if known is None else known),
                ),
                gathering=gathering,
            )
        )
        told = subscriber.told[before:]
        missed = [each for each in told if each[0] == "publication"]
        subscriber.told[before:] = [each for each in told if each[0] != "publication"]
        assert resumed or not told
        return [text for _, _, text, _ in missed] if resumed else None


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Turns


def test_end_of_a_turn_is_asked_for_once_a_turn(rig: Rig) -> None:
    """However much is published in it; and by the next turn again."""
    for _ in range(2):
        for _ in range(3):
            rig.rooms.publish(rig.subscriber, None, draft())
        assert rig.asked == [rig.rooms.commit]
        rig.turn()
    assert rig.subscriber.told.count(("end of turn",)) == 2
    assert rig.faulty.batches == [3, 3]


def test_end_of_a_turn_of_nothing_is_silent(rig: Rig) -> None:
    """What was committed earlier in the turn is not committed again."""
    rig.rooms.publish(rig.subscriber, "key", draft())
    rig.rooms.commit()
    rig.turn()
    assert rig.subscriber.told == [("kept", "key", 1), ("end of turn",)]


def test_only_the_origin_gets_the_key_of_a_draft(rig: Rig) -> None:
    """Each subscriber with members is told each publication once, and of each turn's end once."""
    rig.join("Alice")
    rig.join("Eve")
    rig.join("Bob", subscriber=rig.other)
    rig.subscriber.news(), rig.other.news()
    first, second = draft("1"), draft("2", by="Bob")
    rig.rooms.publish(rig.subscriber, "first", first)
    rig.rooms.publish(rig.other, "second", second)
    rig.turn()
    assert rig.subscriber.told == [
        ("publication", 1, "1", "first"),
        ("publication", 2, "2", None),
        ("end of turn",),
    ]
    assert rig.other.told == [
        ("publication", 1, "1", None),
        ("publication", 2, "2", "second"),
        ("end of turn",),
    ]


def test_subscriber_without_members_hears_that_its_draft_is_kept(rig: Rig) -> None:
    """And no more: the room is delivered where somebody is."""
    rig.join("Bob", subscriber=rig.other)
    rig.rooms.publish(rig.subscriber, "key", draft("1"))
    rig.turn()
    assert rig.subscriber.told == [("kept", "key", 1), ("end of turn",)]
    assert rig.other.news() == [("publication", 1, "1", None)]


def test_answers_go_to_their_origin(rig: Rig) -> None:
    """In the order of the drafts, between what is delivered."""
    rig.join("Alice")
    rig.join("Bob", subscriber=rig.other)
    rig.subscriber.news(), rig.other.news()
    first, again, refused, last = draft("1", id="i"), draft("1", id="i"), edit(9), draft("2")
    rig.publish(first, again, refused, last)
    published, duplicate, refusal, other = rig.subscriber.news()
    assert published == ("publication", 1, "1", first)
    assert duplicate == ("answer", again, Duplicate("a", "i", 1))
    assert refusal[:2] == ("answer", refused)
    assert refusal[2].code == ErrorCode.NOT_FOUND
    assert other == ("publication", 2, "2", last)
    assert [each[2] for each in rig.other.news()] == ["1", "2"]


def test_commits_are_measured(rig: Rig) -> None:
    """Publications that were kept count, duplicates do not; each commit is a time."""
    rig.publish(draft(id="i"), draft(id="i"), draft())
    rig.publish(draft())
    assert rig.metrics.publications_total == 3
    assert sum(rig.metrics.commit_s.counts) == 2


@pytest.mark.parametrize("how", ["join", "leave", "lose"])
def test_nobody_overtakes_what_was_published_before(rig: Rig, how: str) -> None:
    """Who comes or goes in the middle of a turn does so between its drafts."""
    rig.join("Alice")
    rig.join("Bob", subscriber=rig.other)
    rig.subscriber.news(), rig.other.news()
    rig.rooms.publish(rig.other, None, draft("before", by="Bob"))
    if how == "join":
        entry = rig.join("Eve")
        assert (texts(entry), entry.position.offset) == (["before"], 1)
    elif how == "leave":
        rig.leave("Alice")
    else:
        rig.lose("Alice")
    rig.rooms.publish(rig.other, None, draft("after", by="Bob"))
    rig.turn()
    heard = [each[2] for each in rig.subscriber.news() if each[0] == "publication"]
    assert heard == (["before", "after"] if how == "join" else ["before"])
    (before, *events, after) = rig.other.news()
    assert (before[2], after[2]) == ("before", "after")
    assert [event[0] for event in events] == ([] if how == "lose" else [how])


def test_told_events_reach_other_ports_with_members(rig: Rig) -> None:
    """Not whoever tells, nor those who are elsewhere."""
    third = Subscriber()
    rig.join("Alice")
    rig.join("Bob", subscriber=rig.other)
    rig.join("Eve", "b", subscriber=third)
    rig.subscriber.news(), rig.other.news()
    rig.rooms.tell(rig.subscriber, "a", protocol.typing("a", "Alice"))
    rig.rooms.tell(rig.subscriber, "nowhere", protocol.typing("nowhere", "Alice"))
    assert rig.subscriber.news() == third.news() == []
    assert rig.other.news() == [("typing", "Alice", None)]


# Coming and going


def test_join_event_says_who_and_how_many(rig: Rig) -> None:
    """With the time, and for whoever keeps count, his author."""
    rig.join("Bob")
    seen: list[bytes] = []
    rig.subscriber.deliver = lambda *told: seen.append(told[2])  # type: ignore[method-assign]
    rig.join("Alice")
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


def test_joins_and_leaves_are_told_to_all_ports_with_members(rig: Rig) -> None:
    """Also to that of the newcomer, if it had members before."""
    rig.join("Bob")
    assert rig.subscriber.news() == []
    rig.join("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == [("join", "Alice", 2)]
    assert rig.other.news() == []
    rig.join("Eve", subscriber=rig.other)
    assert rig.subscriber.news() == rig.other.news() == [("join", "Eve", 3)]
    rig.leave("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == rig.other.news() == [("leave", "Alice", 2)]
    assert rig.subscriber.changes == [
        PresenceChange(True, member("Alice")),
        PresenceChange(True, member("Eve")),
        PresenceChange(False, member("Alice")),
    ]


def test_user_is_there_from_the_first_connection_to_the_last(rig: Rig) -> None:
    """Wherever they are; two tabs of one session are one user."""
    rig.join("Bob")
    rig.join("Alice")
    assert rig.join("Alice", subscriber=rig.other).online == 2
    assert rig.rooms.user_count == 2
    rig.leave("Alice")
    assert rig.names() == ["Bob", "Alice"]
    rig.leave("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == [("join", "Alice", 2), ("leave", "Alice", 1)]


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Ａlice"])
def test_name_of_somebody_else_is_taken(rig: Rig, name: str) -> None:
    """Nobody is counted, and nobody hears."""
    rig.join("Alice")
    rig.subscriber.news()
    for _ in range(2):
        with pytest.raises(CommandError) as caught:
            rig.join(member(name, by="Eve"), subscriber=rig.other)
        assert (caught.value.code, caught.value.temporary) == (ErrorCode.USERNAME_TAKEN, True)
    rig.publish(draft("x"))
    assert rig.other.news() == []
    assert [each[0] for each in rig.subscriber.news()] == ["publication"]
    rig.leave("Alice")  # and that was the last connection
    assert rig.names() == []
    assert rig.join(member("alice", by="Eve")).member.name == "alice"


def test_rooms_do_not_know_of_each_other(rig: Rig) -> None:
    """The same name may belong to different people in different rooms."""
    rig.join(member("Alice", by="one"), "a")
    rig.join(member("Alice", by="two"), "b")
    assert (rig.rooms.room_count, rig.rooms.user_count) == (2, 2)


@pytest.mark.parametrize("absent", [False, True])
def test_join_that_fails_changes_nothing(rig: Rig, absent: bool) -> None:
    """When the history cannot be read the name is free, and nobody was told."""
    rig.join("Bob")
    if absent:
        rig.join("Alice", subscriber=rig.other)
        rig.lose("Alice", subscriber=rig.other)
    rig.subscriber.news()
    rig.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        rig.join(member("Alice", by="Eve"), subscriber=rig.other)
    assert caught.value.code == ErrorCode.UNAVAILABLE
    with pytest.raises(CommandError):
        rig.join("Joe", "b")
    assert rig.names() == (["Bob", "Alice"] if absent else ["Bob"])
    assert rig.rooms.room_count == 1
    rig.faulty.failing = set()
    assert rig.subscriber.news() == []
    assert rig.join(member("Alice", by="Joe"), subscriber=rig.other).online == 2


def test_empty_rooms_are_forgotten(rig: Rig) -> None:
    """A room that everybody has left costs nothing; one that was written in keeps its history."""
    for number in range(100):
        rig.join("A", f"r{number}")
        rig.leave("A", f"r{number}")
    rig.join("A")
    rig.lose("A")
    rig.tick()
    assert (rig.rooms.room_count, rig.rooms.user_count) == (0, 0)
    assert (rig.rooms.room_count, rig.rooms.absent_count) == (0, 0)
    assert not rig.history._logs
    entry = rig.join("A")
    rig.publish(draft("kept"))
    rig.leave("A")
    assert rig.join("A", since=entry.position).recovered


# Absence


def test_loss_is_told_after_5_seconds(rig: Rig) -> None:
    """Not before; until then the user is in the room, and his name is his."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    rig.tick(3)
    rig.lose("Alice")
    rig.tick(GRACE_TICKS - 1)
    assert rig.subscriber.news() == []
    assert list(rig.join("Eve").users) == ["Bob", "Alice", "Eve"]
    rig.subscriber.news()
    rig.tick(1)
    assert rig.subscriber.news() == [("leave", "Alice", 2)]
    rig.tick()
    assert rig.subscriber.news() == []


def test_grace_is_5_seconds_at_least() -> None:
    """Ticks are a second apart, and the first may follow a drop at once."""
    assert GRACE_TICKS - 1 >= 5


def test_who_is_back_with_his_session_was_never_away(rig: Rig) -> None:
    """Neither the loss nor the return is told, however often, wherever; and he is no new user."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    subscribers = [rig.subscriber, rig.other, rig.subscriber, rig.other]
    for before, after in itertools.pairwise(subscribers):
        rig.lose("Alice", subscriber=before)
        rig.tick(GRACE_TICKS - 1)
        entry = rig.join("Alice", subscriber=after)
        assert (list(entry.users), entry.online) == (["Bob", "Alice"], 2)
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []
    rig.lose("Alice", subscriber=rig.other)
    rig.tick()
    assert rig.subscriber.news() == [("leave", "Alice", 1)]


def test_name_of_somebody_absent_may_be_taken(rig: Rig) -> None:
    """The others hear first that he left, then that somebody came; his time is over with it."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    rig.lose("Alice")
    entry = rig.join(member("ALICE", by="thief"))
    assert (entry.member.name, list(entry.users)) == ("ALICE", ["Bob", "ALICE"])
    assert rig.subscriber.news() == [("leave", "Alice", 1), ("join", "ALICE", 2)]
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []
    with pytest.raises(CommandError) as caught:
        rig.join("Alice")
    assert caught.value.code == ErrorCode.USERNAME_TAKEN


def test_name_of_the_only_one_who_is_absent_may_be_taken(rig: Rig) -> None:
    """The room stays the same, with its epoch, also if nothing was said in it."""
    position = rig.join("Alice").position
    rig.lose("Alice")
    entry = rig.join(member("Alice", by="thief"))
    assert (entry.position, entry.online) == (position, 1)
    rig.publish(draft())
    assert rig.subscriber.news()[0][0] == "publication"
    assert rig.join("Eve", since=position).recovered


def test_leave_is_told_at_once_also_beside_a_loss(rig: Rig) -> None:
    """Who says that he leaves is not waited for; nor is he taken for absent."""
    rig.join("Bob")
    rig.join("Alice")
    rig.join("Alice", subscriber=rig.other)
    rig.subscriber.news()
    rig.lose("Alice")
    rig.leave("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == [("leave", "Alice", 1)]
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []


def test_losses_in_many_rooms_are_told_in_each(rig: Rig) -> None:
    """Who comes back to one of his rooms is gone from the other."""
    for room in ("a", "b"):
        rig.join("Bob", room)
        rig.join("Alice", room)
    rig.subscriber.news()
    for room in ("a", "b"):
        rig.lose("Alice", room)
    rig.tick(2)
    rig.join("Alice", "b")
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == [("leave", "Alice", 1)]
    assert rig.names("a") == ["Bob"]
    assert rig.names("b") == ["Bob", "Alice"]


def test_losses_are_told_in_their_order(rig: Rig) -> None:
    """Each after its own time."""
    rig.join("Bob")
    for name in ("A", "B", "C"):
        rig.join(name)
    rig.subscriber.news()
    for name in ("B", "A", "C"):
        rig.lose(name)
        rig.tick(1)
    told = []
    for _ in range(GRACE_TICKS):
        rig.tick(1)
        told.append([name for _, name, _ in rig.subscriber.news()])
    assert [names for names in told if names] == [["B"], ["A"], ["C"]]


def test_return_that_fails_does_not_end_the_grace(rig: Rig) -> None:
    """Who cannot come back because the disk fails has his time to try again."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    rig.lose("Alice")
    rig.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        rig.join("Alice")
    assert caught.value.code == ErrorCode.UNAVAILABLE
    rig.tick(GRACE_TICKS - 1)
    rig.faulty.failing = set()
    rig.join("Alice")
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []


# Crowds


def crowd(rig: Rig, count: int) -> None:
    for number in range(count):
        rig.join(f"u{number}")
    rig.tick(1)
    rig.subscriber.news()


def test_crowd_hears_of_numbers_once_a_tick(rig: Rig) -> None:
    """Above 200 users joins and leaves are merged into one `presence` a tick."""
    crowd(rig, CROWD - 1)
    rig.join("the last that is told")
    assert rig.subscriber.news() == [("join", "the last that is told", CROWD)]
    rig.tick(1)
    assert rig.subscriber.news() == []
    entry = rig.join("first too many")
    assert len(entry.users) == protocol.MAX_USERS_LISTED
    assert entry.online == CROWD + 1
    rig.join("second too many")
    rig.leave("first too many")
    assert rig.subscriber.news() == []
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, CROWD + 1)]
    rig.tick(1)
    assert rig.subscriber.news() == []


def test_crowd_that_shrinks_hears_of_names_again(rig: Rig) -> None:
    """From 200 users on down each leave is told, with the right number."""
    crowd(rig, CROWD + 2)
    rig.leave("u1")
    assert rig.subscriber.news() == []
    rig.leave("u2")
    assert rig.subscriber.news() == [("leave", "u2", CROWD)]
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, CROWD)]


def test_crowd_hears_of_losses_by_number(rig: Rig) -> None:
    """In a crowd, too, who is back in time does not change the number."""
    crowd(rig, CROWD + 3)
    rig.lose("u1")
    rig.lose("u2")
    rig.join("u1")
    rig.tick()
    assert rig.subscriber.news() == [("presence", None, CROWD + 2)]


def test_crowd_that_is_gone_is_told_nothing(rig: Rig) -> None:
    """Its room may be no more when its number is due."""
    crowd(rig, CROWD + 2)
    for number in range(CROWD + 2):
        rig.leave(f"u{number}")
    rig.tick(1)
    assert rig.rooms.room_count == 0


# A process that comes back


def test_restored_members_are_told_nothing_that_they_know(rig: Rig) -> None:
    """New rooms after the old ones: all come back, nobody hears of it, names are theirs."""
    assert rig.restore(rig.subscriber, "Alice", "Eve", known=("Alice", "Eve", "Bob")) == []
    assert rig.restore(rig.other, "Bob", known=("Alice", "Eve", "Bob")) == []
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == rig.other.news() == []
    assert set(rig.names()) == {"Alice", "Eve", "Bob"}
    with pytest.raises(CommandError):
        rig.join(member("bob", by="thief"))


def test_restored_process_is_given_what_it_missed(rig: Rig) -> None:
    """All since its position, in order; then what is published follows."""
    position = rig.join("Alice").position
    rig.publish(draft("1"), draft("2"), draft("3"))
    rig.subscriber.news()
    rig.rooms.publish(rig.subscriber, None, draft("4"))  # in the turn in which it comes
    since = Position(position.epoch, 1)
    assert rig.restore(rig.other, "Bob", since=since) == ["2", "3", "4"]
    rig.other.news()
    rig.publish(draft("5"))
    assert [each[2] for each in rig.other.news()] == ["5"]


@pytest.mark.parametrize("missed", [MAX_RESUMED, MAX_RESUMED + 1])
def test_process_that_missed_too_much_is_lost(rig: Rig, missed: int) -> None:
    """Nothing is counted then, and nobody is in the room by it."""
    position = rig.join("Bob").position
    rig.publish(*(draft(str(number)) for number in range(missed)))
    rig.subscriber.news()
    restored = rig.restore(rig.other, "Alice", since=position)
    if missed == MAX_RESUMED:
        assert restored == [str(number) for number in range(missed)]
    else:
        assert restored is None
        assert rig.names() == ["Bob"]
        rig.publish(draft())
        assert rig.other.news() == []


@pytest.mark.parametrize("position", [Position("other", 0), Position("epoch-1", 3)])
def test_process_of_another_history_is_lost(rig: Rig, position: Position) -> None:
    """Another epoch, or a position ahead."""
    rig.join("Bob")
    rig.publish(draft())
    assert rig.restore(rig.other, "Alice", since=position) is None
    assert rig.names() == ["Bob"]


def test_process_is_lost_while_nothing_can_be_read(rig: Rig) -> None:
    """It works again later, by joins."""
    position = rig.join("Bob").position
    rig.faulty.failing = {"read"}
    assert rig.restore(rig.other, "Alice", since=position) is None
    rig.faulty.failing = set()
    assert rig.join("Alice", subscriber=rig.other).online == 2


def test_names_in_conflict_make_a_process_lost(rig: Rig) -> None:
    """Who is there keeps his name; none of the process is counted."""
    rig.join("Alice")
    rig.subscriber.news()
    assert rig.restore(rig.other, "Eve", member("ALICE", by="other")) is None
    assert rig.names() == ["Alice"]
    assert rig.subscriber.news() == []


def test_member_takes_his_name_from_somebody_absent(rig: Rig) -> None:
    """That one has left then; the room goes on, also if he was the last."""
    rig.join(member("ALICE", by="other"))
    rig.rooms.lose(rig.subscriber, "a", member("ALICE", by="other"))
    assert rig.restore(rig.other, "Alice") == []
    assert rig.names() == ["Alice"]
    rig.publish(draft("x"), subscriber=rig.other)
    assert rig.other.news()[-1][0] == "publication"
    rig.leave("Alice", subscriber=rig.other)
    assert rig.rooms.room_count == 0


def test_users_that_do_not_come_back_leave_after_a_while(rig: Rig) -> None:
    """Until then they are as anybody absent."""
    rig.restore(rig.subscriber, "Alice", known=("Alice", "Bob", "Eve", "Joe"))
    assert rig.names() == ["Alice", "Bob", "Eve", "Joe"]
    assert rig.join("Bob", subscriber=rig.other).online == 4
    rig.join(member("eve", by="thief"), subscriber=rig.other)
    assert rig.subscriber.news() == [("leave", "Eve", 3), ("join", "eve", 4)]
    rig.tick(GRACE_TICKS - 1)
    assert rig.subscriber.news() == []
    rig.tick(1)
    assert rig.subscriber.news() == [("leave", "Joe", 3)]


def test_who_left_in_the_meantime_has_left(rig: Rig) -> None:
    """The process that comes back hears it at once, the others have heard it."""
    rig.join("Bob")
    rig.subscriber.news()
    rig.restore(rig.other, "Alice", known=("Alice", "Bob", "Eve"), gathering=False)
    assert rig.other.news() == [("leave", "Eve", 2)]
    assert rig.subscriber.news() == [("join", "Alice", 2)]
    assert rig.names() == ["Bob", "Alice"]
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == rig.other.news() == []


def test_user_of_whom_only_some_know_is_told_to_the_rest(rig: Rig) -> None:
    """So all know the same, whether he comes back or not."""
    rig.restore(rig.subscriber, "Alice", known=("Alice",))
    rig.restore(rig.other, "Bob", known=("Alice", "Bob", "Eve"))
    assert rig.subscriber.news() == [("join", "Bob", 2), ("join", "Eve", 3)]
    assert rig.other.news() == []
    rig.tick()
    assert rig.subscriber.news() == rig.other.news() == [("leave", "Eve", 2)]


def test_who_came_in_the_meantime_is_told_to_whoever_comes_back(rig: Rig) -> None:
    """And those who are there hear of members that they do not know, from rooms that do not."""
    rig.join("Bob")
    rig.join("Eve")
    rig.subscriber.news()
    assert rig.restore(rig.other, "Alice", known=("Alice", "Bob")) == []
    assert rig.other.changes == [PresenceChange(True, member("Eve"))]
    assert rig.subscriber.news() == [("join", "Alice", 3)]


def test_crowd_that_comes_back_is_told_its_number(rig: Rig) -> None:
    """No names."""
    crowd(rig, CROWD + 1)
    rig.restore(rig.other, "Alice")
    assert rig.other.news() == rig.subscriber.news() == []
    rig.tick(1)
    assert rig.other.news() == rig.subscriber.news() == [("presence", None, CROWD + 2)]


def test_silent_room_is_known_by_the_epoch_of_its_members(rig: Rig) -> None:
    """No file has it; the first process that comes back says which it is."""
    silent = Position("theirs", 0)
    assert rig.restore(rig.subscriber, "Alice", since=silent) == []
    assert rig.restore(rig.other, "Bob", since=Position("another", 0)) is None
    assert rig.join("Carol").position == silent


def test_process_may_come_back_without_members(rig: Rig) -> None:
    """It hears what it missed, for what it has yet to learn; it is no subscriber of the room."""
    position = rig.join("Bob").position
    rig.publish(draft("1"))
    rig.subscriber.news()
    assert rig.restore(rig.other, since=position) == ["1"]
    rig.publish(draft("2"))
    assert rig.other.news() == []
    elsewhere = position._replace(offset=1)
    assert rig.restore(rig.other, since=elsewhere, room="b") is None
    assert rig.rooms.room_count == 1


# Reading


def test_newcomer_is_given_no_more_than_fits(rig: Rig) -> None:
    """Too many bytes count like too many publications: the newest come."""
    position = rig.join("Bob").position
    rig.publish(*(draft("😀" * 3990) for _ in range(100)))
    entry = rig.join("Alice", since=position)
    assert not entry.recovered
    assert 0 < len(entry.payloads) < 100
    assert offsets(entry)[-1] == 100
    assert sum(map(len, entry.payloads)) <= protocol.MAX_REPLY_BYTES


def test_failing_history_is_logged_once_and_once_when_it_works_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk under a busy server does not fill it with log lines, too."""

    async def search() -> object:
        return await rig.rooms.pages.search("a", "x", 9)

    def read(operation: Callable[[], Awaitable[object]]) -> None:
        try:
            asyncio.run(operation())  # type: ignore[arg-type]
        except CommandError:
            assert rig.faulty.failing

    with caplog.at_level(logging.INFO, "fastchat.broker"):
        for _ in range(2):
            caplog.clear()
            rig.faulty.failing = {"append", "read"}
            for _ in range(5):
                rig.publish(draft())
                read(search)
            assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
            assert "disk I/O error" in caplog.text
            caplog.clear()
            rig.faulty.failing = set()
            for _ in range(5):
                rig.publish(draft())
                read(search)
            assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
            assert "works again" in caplog.text
