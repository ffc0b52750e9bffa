"""The rooms of the whole server, as subscribers see them: their users and the order of events."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from contracts.broker import Faulty, at_once, member, names, offsets, texts
from contracts.history import GENERATION, NOW_S, TIMESTAMP, draft, edit
from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.history.epochs import epoch_of
from fastchat.history.memory import MemoryHistory
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Position
from fastchat.protocol.names import MAX_USERNAME_CHARS
from fastchat.protocol.users import holder_of
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.local import STORED_AT_ONCE, STORED_PART, LocalRooms
from fastchat.rooms.members import GRACE_TICKS, MAX_LISTED_USERS
from fastchat.rooms.restoring import MAX_RESUMED, Returning
from fastchat.rooms.subscribers import MAX_RUN, PresenceChange


class Subscriber:
    """A subscriber that records every call in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        #: The number of publications of each delivery.
        self.runs: list[int] = []
        self.changes: list[PresenceChange] = []
        self.known: dict[str, Sequence[Member] | None] = {}
        #: The lists in `presence` events, as names; None if a list has ended.
        self.lists: list[list[str] | None] = []

    def deliver(
        self,
        room: str,
        offset: int,
        payloads: Sequence[bytes],
        draft_keys: Sequence[Any] | None,
    ) -> None:
        self.runs.append(len(payloads))
        for payload, draft_key in zip(payloads, draft_keys or [None] * len(payloads), strict=True):
            event = json.loads(payload)
            assert (event["room"], event["offset"]) == (room, offset)
            self.calls.append(("publication", offset, event["text"], draft_key))
            offset += 1

    def announce(self, room: str, payload: bytes, change: PresenceChange | None = None) -> None:
        event = json.loads(payload)
        assert event["room"] == room
        self.calls.append((event["type"], event.get("username"), event.get("online")))
        if event["type"] == "presence" and "users" in event:
            listed = event["users"]
            self.lists.append(listed and [user["username"] for user in listed])
        if change is not None:
            self.changes.append(change)

    def kept(self, draft_key: Any, offset: int) -> None:
        self.calls.append(("kept", draft_key, offset))

    def know(self, room: str, users: Sequence[Member] | None) -> None:
        self.known[room] = users

    def expel(self, room: str, user: str, seconds: int) -> None:
        self.calls.append(("expel", user))

    def answer(self, draft_key: Any, outcome: Duplicate | CommandError) -> None:
        self.calls.append(("answer", draft_key, outcome))

    def end_turn(self) -> None:
        self.calls.append(("end of turn",))

    def news(self) -> list[tuple[Any, ...]]:
        """The calls since the last time, without the ends of turns."""
        news = [each for each in self.calls if each != ("end of turn",)]
        self.calls.clear()
        return news


class Rig:
    """Rooms in a loop that a test turns by hand, and two subscribers."""

    def __init__(self, max_messages: int = 5000) -> None:
        self.history = MemoryHistory(max_messages=max_messages, new_generation=lambda: GENERATION)
        self.faulty = Faulty(self.history)
        self.scheduled: list[Callable[[], None]] = []
        self.postponed: list[Callable[[], None]] = []
        self.metrics = Metrics()
        self.rooms = LocalRooms(
            self.faulty,
            at_end_of_turn=self.scheduled.append,
            soon=self.postponed.append,
            clock=lambda: NOW_S,
            metrics=self.metrics,
            user_of=lambda credential: credential,
        )
        self.subscriber, self.other = Subscriber(), Subscriber()

    def history_is_busy(self, is_busy: bool) -> None:
        self.faulty.is_busy = is_busy

    def turn(self) -> None:
        """End the loop's turn."""
        scheduled, self.scheduled[:] = list(self.scheduled), []
        for callback in scheduled:
            callback()

    def publish(self, *drafts: Draft, subscriber: Subscriber | None = None) -> None:
        """Publish drafts in one turn, and end it; each draft is its own key."""
        for each in drafts:
            self.rooms.publish(subscriber or self.subscriber, each, each)
        self.turn()

    def join(
        self,
        user: Member | str,
        room: str = "a",
        *,
        subscriber: Subscriber | None = None,
        since: Position | None = None,
    ) -> Entry:
        user = member(user) if isinstance(user, str) else user
        entries: list[Entry] = []
        entrance = Entrance(room, *user, since, 50)
        at_once(self.rooms.join(subscriber or self.subscriber, entrance, entries.append))
        (entry,) = entries
        return entry

    def leave(self, user: str, room: str = "a", *, subscriber: Subscriber | None = None) -> None:
        subscriber = subscriber or self.subscriber
        left: list[None] = []
        at_once(self.rooms.leave(subscriber, room, member(user), lambda: left.append(None)))
        assert len(left) == 1

    def lose(self, user: str, room: str = "a", *, subscriber: Subscriber | None = None) -> None:
        self.rooms.lose(subscriber or self.subscriber, room, member(user))

    def tick(self, times: int = GRACE_TICKS) -> None:
        for _ in range(times):
            self.rooms.tick()

    def names(self, room: str = "a") -> list[str]:
        return [user.name for user in self.rooms.users(room)]

    def restore(
        self,
        subscriber: Subscriber,
        *users: Member | str,
        since: Position | None = None,
        room: str = "a",
        known: tuple[Member | str, ...] | None = None,
        gathering: bool = True,
        crowd: bool = False,
    ) -> list[str] | None:
        """Bring a process back with members of one connection each; returns the missed texts."""

        def members(those: tuple[Member | str, ...]) -> list[Member]:
            return [member(each) if isinstance(each, str) else each for each in those]

        before = len(subscriber.calls)
        resumed = at_once(
            self.rooms.restore(
                subscriber,
                Returning(
                    room,
                    since or self.history.position(room),
                    [(each, 1) for each in members(users)],
                    None
                    if crowd
                    else [each for each in members(known or users) if each.name is not None],
                ),
                gathering=gathering,
            )
        )
        calls = subscriber.calls[before:]
        missed = [each for each in calls if each[0] == "publication"]
        subscriber.calls[before:] = [each for each in calls if each[0] != "publication"]
        assert resumed or not calls
        return [text for _, _, text, _ in missed] if resumed else None


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Turns


def test_end_of_a_turn_is_scheduled_once(rig: Rig) -> None:
    """The rooms schedule one callback a turn, however much is published, and another in the next
    turn."""
    for _ in range(2):
        for _ in range(3):
            rig.rooms.publish(rig.subscriber, None, draft())
        assert len(rig.scheduled) == 1
        rig.turn()
    assert rig.subscriber.calls.count(("end of turn",)) == 2
    assert rig.faulty.batches == [3, 3]


def test_turn_whose_drafts_are_committed_already_ends_silently(rig: Rig) -> None:
    """Drafts that were committed earlier in the turn are not committed again."""
    rig.rooms.publish(rig.subscriber, "key", draft())
    rig.rooms.commit()
    rig.turn()
    assert rig.subscriber.calls == [("kept", "key", 1), ("end of turn",)]


def test_turn_stores_a_bounded_number_of_publications(rig: Rig) -> None:
    """The publications of a very large turn are stored in several turns, in order."""
    many = STORED_AT_ONCE + 10
    for number in range(many):
        rig.rooms.publish(rig.subscriber, number, draft(str(number)))
    rig.turn()
    assert rig.faulty.batches == [STORED_AT_ONCE]
    rig.publish(draft("later"))
    assert rig.faulty.batches == [STORED_AT_ONCE, 11]
    assert rig.scheduled == []
    calls = rig.subscriber.calls
    assert calls.count(("end of turn",)) == 2
    offsets = [offset for kind, *_, offset in rig.subscriber.news() if kind == "kept"]
    assert offsets == list(range(1, many + 2))


def test_number_of_waiting_publications_is_bounded(rig: Rig) -> None:
    """If clients send more than turns usually store, turns store more."""
    a_turn = 4 * STORED_AT_ONCE
    for _ in range(10 * STORED_PART):
        rig.publish(*[draft()] * a_turn)
    stored = sum(rig.faulty.batches)
    assert 10 * STORED_PART * a_turn - stored <= STORED_PART * a_turn
    assert rig.faulty.batches[-1] >= 0.9 * a_turn


def test_busy_history_puts_publications_off(rig: Rig) -> None:
    """While the history would wait for the disk, publications wait without stopping the loop."""
    rig.history_is_busy(True)
    rig.publish(draft("one"))
    for _ in range(2):
        (again,), rig.postponed[:] = rig.postponed, []
        again()
    rig.publish(draft("two"))
    rig.rooms.publish_all(rig.subscriber, [None, None], [draft("three"), draft("four")])
    assert rig.faulty.batches == []
    assert rig.scheduled == []
    rig.history_is_busy(False)
    (again,), rig.postponed[:] = rig.postponed, []
    again()
    assert rig.faulty.batches == [4]
    assert (rig.scheduled, rig.postponed) == ([], [])


def test_drafts_of_a_record_are_stored_at_the_end_of_the_turn(rig: Rig) -> None:
    """A record of many drafts is stored in several turns, like single drafts."""
    many = STORED_AT_ONCE + 10
    rig.rooms.publish_all(rig.subscriber, range(many), [draft()] * many)
    rig.rooms.publish_all(rig.subscriber, [], [])
    assert len(rig.scheduled) == 1
    rig.turn()
    rig.turn()
    assert rig.faulty.batches == [STORED_AT_ONCE, 10]
    assert rig.scheduled == []


def test_fault_of_a_turn_does_not_stop_later_ones(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the end of a turn raises, what waits and what follows is still stored."""
    rig.join("Alice")
    for _ in range(STORED_AT_ONCE + 1):
        rig.rooms.publish(rig.subscriber, None, draft())
    with monkeypatch.context() as patch:
        patch.setattr(rig.subscriber, "deliver", lambda *delivery: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rig.turn()
    rig.turn()
    rig.publish(draft("later"))
    assert rig.faulty.batches == [STORED_AT_ONCE, 1, 1]


def test_client_that_joins_while_the_history_is_busy_gets_what_waits(rig: Rig) -> None:
    """A publication has its place when it is stored: whoever has joined before that receives it."""
    rig.join("Alice")
    rig.history_is_busy(True)
    rig.publish(draft("one"))
    assert rig.join("Bob", subscriber=rig.other).position.offset == 0
    rig.lose("Alice")
    assert rig.faulty.batches == []
    rig.history_is_busy(False)
    rig.postponed.pop()()
    assert ("publication", 1, "one", None) in rig.other.calls


def test_leaving_waits_for_a_busy_history(rig: Rig) -> None:
    """The answer to a client that leaves promises that its messages have arrived."""
    rig.join("Alice")
    rig.subscriber.calls.clear()
    rig.history_is_busy(True)
    rig.publish(draft("one"))
    rig.leave("Alice")
    assert rig.subscriber.calls[0][:3] == ("publication", 1, "one")


def test_only_the_origin_gets_the_key_of_a_draft(rig: Rig) -> None:
    """Each subscriber with members gets each publication once, and the end of each turn once."""
    rig.join("Alice")
    rig.join("Eve")
    rig.join("Bob", subscriber=rig.other)
    rig.subscriber.news(), rig.other.news()
    first, second = draft("1"), draft("2", by="Bob")
    rig.rooms.publish(rig.subscriber, "first", first)
    rig.rooms.publish(rig.other, "second", second)
    rig.turn()
    assert rig.subscriber.calls == [
        ("publication", 1, "1", "first"),
        ("publication", 2, "2", None),
        ("end of turn",),
    ]
    assert rig.other.calls == [
        ("publication", 1, "1", None),
        ("publication", 2, "2", "second"),
        ("end of turn",),
    ]


def test_publications_of_a_room_are_delivered_in_runs(rig: Rig) -> None:
    """A run ends at a publication of another room, at a refusal, and at its greatest length. The
    order of the drafts is kept."""
    rig.join("Alice")
    rig.join("Bob", "b")
    rig.subscriber.news()
    twice = draft("2", id="2")
    rig.publish(draft("1"), twice, draft("1", room="b"), draft("3"), twice, draft("4"))
    rig.publish(*(draft(str(number)) for number in range(5, 6 + MAX_RUN)))
    assert rig.subscriber.runs == [2, 1, 1, 1, MAX_RUN, 1]
    told = [(call[0], call[1]) for call in rig.subscriber.news()]
    assert told[:6] == [
        *(("publication", 1), ("publication", 2), ("publication", 1), ("publication", 3)),
        ("answer", twice),
        ("publication", 4),
    ]
    assert told[6:] == [("publication", number) for number in range(5, 6 + MAX_RUN)]


def test_subscriber_without_members_gets_the_offset_of_its_draft(rig: Rig) -> None:
    """It gets no delivery; the publication is delivered to subscribers with members."""
    rig.join("Bob", subscriber=rig.other)
    rig.rooms.publish(rig.subscriber, "key", draft("1"))
    rig.turn()
    assert rig.subscriber.calls == [("kept", "key", 1), ("end of turn",)]
    assert rig.other.news() == [("publication", 1, "1", None)]


def test_answers_are_sent_to_the_origin_of_their_drafts(rig: Rig) -> None:
    """Answers are sent in the order of the drafts, between the deliveries."""
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
    """Stored publications are counted and duplicates are not; each commit adds one duration."""
    rig.publish(draft(id="i"), draft(id="i"), draft())
    rig.publish(draft())
    assert rig.metrics.publications_total == 3
    assert sum(rig.metrics.commit_s.counts) == 2


@pytest.mark.parametrize("how", ["join", "leave", "lose"])
def test_joins_and_leaves_keep_their_place_among_the_drafts(rig: Rig, how: str) -> None:
    """A join or a leave in the middle of a turn takes effect between the drafts before and after
    it."""
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


def test_told_events_reach_other_subscribers_with_members(rig: Rig) -> None:
    """The sending subscriber and those without members in the room do not get the event."""
    third = Subscriber()
    rig.join("Alice")
    rig.join("Bob", subscriber=rig.other)
    rig.join("Eve", "b", subscriber=third)
    rig.subscriber.news(), rig.other.news()
    rig.rooms.tell(rig.subscriber, "a", protocol.typing("a", "u", "Alice"))
    rig.rooms.tell(rig.subscriber, "nowhere", protocol.typing("nowhere", "u", "Alice"))
    assert rig.subscriber.news() == third.news() == []
    assert rig.other.news() == [("typing", "Alice", None)]


# Joining and leaving


def test_join_event_has_the_user_and_the_number(rig: Rig) -> None:
    """The event has the time, and for subscribers that count users, the user."""
    rig.join("Bob")
    seen: list[bytes] = []
    rig.subscriber.announce = lambda *calls: seen.append(calls[1])  # type: ignore[method-assign]
    rig.join("Alice")
    assert [json.loads(payload) for payload in seen] == [
        {
            "type": "join",
            "room": "a",
            "user": "user Alice",
            "username": "Alice",
            "text": "Alice joined the chat",
            "timestamp": TIMESTAMP,
            "online": 2,
        }
    ]


def test_joins_and_leaves_are_sent_to_all_subscribers_with_members(rig: Rig) -> None:
    """The newcomer's own subscriber gets the event if it had members before."""
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


def test_user_is_present_from_the_first_connection_to_the_last(rig: Rig) -> None:
    """Connections in all processes count, and two tabs of one session are one user."""
    rig.join("Bob")
    rig.join("Alice")
    assert rig.join("Alice", subscriber=rig.other).online == 2
    assert rig.rooms.occupancy.users == 2
    rig.leave("Alice")
    assert rig.names() == ["Bob", "Alice"]
    rig.leave("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == [("join", "Alice", 2), ("leave", "Alice", 1)]


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Ａlice"])
def test_name_of_another_user_is_refused(rig: Rig, name: str) -> None:
    """The refused user is not counted, and no subscriber gets an event."""
    rig.join("Alice")
    rig.subscriber.news()
    for _ in range(2):
        with pytest.raises(CommandError) as caught:
            rig.join(member(name, by="Eve"), subscriber=rig.other)
        assert (caught.value.code, caught.value.temporary) == (ErrorCode.USERNAME_TAKEN, True)
    rig.publish(draft("x"))
    assert rig.other.news() == []
    assert [each[0] for each in rig.subscriber.news()] == ["publication"]
    rig.leave("Alice")  # the last connection
    assert rig.names() == []
    assert rig.join(member("alice", by="Eve")).member.name == "alice"


def test_name_is_unique_within_its_room_only(rig: Rig) -> None:
    """Different users can have the same name in different rooms."""
    rig.join(member("Alice", by="one"), "a")
    rig.join(member("Alice", by="two"), "b")
    assert rig.rooms.occupancy[:2] == (2, 2)


@pytest.mark.parametrize("absent", [False, True])
def test_failed_join_changes_nothing(rig: Rig, absent: bool) -> None:
    """If the history cannot be read, the name keeps its state and no subscriber gets an event."""
    rig.join("Bob")
    if absent:
        rig.join("Alice", subscriber=rig.other)
        rig.lose("Alice", subscriber=rig.other)
    rig.subscriber.news()
    rig.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        rig.join(member("Alice"), subscriber=rig.other)
    assert caught.value.code == ErrorCode.UNAVAILABLE
    with pytest.raises(CommandError):
        rig.join("Joe", "b")
    assert rig.names() == (["Bob", "Alice"] if absent else ["Bob"])
    assert rig.rooms.occupancy.rooms == 1
    rig.faulty.failing = set()
    assert rig.subscriber.news() == []
    assert rig.join(member("Alice"), subscriber=rig.other).online == 2


def refused_room(rig: Rig, room: str) -> bool:
    """Whether a join that creates a room is refused because of its look."""
    before = rig.rooms.occupancy.rooms
    refusal = None
    try:
        rig.join(member("Eve", by=room), room)
    except CommandError as error:
        refusal = error
    assert refusal is None or refusal.code == ErrorCode.BAD_ROOM
    assert rig.rooms.occupancy.rooms == before + (refusal is None)
    return refusal is not None


@pytest.mark.parametrize("said", [False, True])
def test_new_room_that_looks_like_another_is_refused(rig: Rig, said: bool) -> None:
    """A name with other than ASCII characters must not look like that of a room."""
    rig.join("Alice", "kitchen")
    rig.join("Alice", "кухня")
    if said:
        rig.publish(draft("hello", room="kitchen"), draft("hello", room="кухня"))
        rig.leave("Alice", "kitchen")
        rig.leave("Alice", "кухня")
    for room in ("kitсhen", "ｋitchen", "kıtchen", "kухня"):
        assert refused_room(rig, room), room
    for room in ("küche", "кухни", "k1tchen", "mitchen"):
        assert not refused_room(rig, room), room
    rig.join("Bob", "kitchen")
    rig.join("Bob", "кухня")


def test_name_of_an_empty_room_becomes_free(rig: Rig) -> None:
    """If nothing was said in a room, a room that looks like it can follow."""
    rig.join("Alice", "kitchen")
    assert refused_room(rig, "kitсhen")
    rig.leave("Alice", "kitchen")
    assert not refused_room(rig, "kitсhen")
    # An ASCII name is never refused.
    rig.join("Alice", "kitchen")
    rig.join("Alice", "kitсhen")


def test_no_room_looks_like_the_first_one(rig: Rig) -> None:
    """The room that clients join by default is protected even if nobody is there."""
    assert refused_room(rig, "lоbby")
    assert refused_room(rig, "ĺobby".replace("ĺ", "ӏ"))


def test_room_that_exists_can_be_joined_beside_one_that_looks_like_it(rig: Rig) -> None:
    """The look matters only when a room is created; an import can bring both."""
    rig.history.append([draft("hello", room="kitchen"), draft("hello", room="kitсhen")])
    assert not refused_room(rig, "kitсhen")
    assert not refused_room(rig, "kitchen")


def test_look_cannot_be_checked_while_the_disk_cannot_be_read(rig: Rig) -> None:
    """The room is not created, and the client can try again."""
    rig.faulty.failing = {"read"}
    with pytest.raises(CommandError) as caught:
        rig.join("Alice", "кухня")
    assert caught.value.code == ErrorCode.UNAVAILABLE
    assert rig.rooms.occupancy.rooms == 0


def test_restored_room_is_protected(rig: Rig) -> None:
    """After a new relay has taken a process back, the names of its rooms are known."""
    assert rig.restore(rig.subscriber, "Alice", room="kitchen") == []
    assert refused_room(rig, "kitсhen")


def test_empty_rooms_are_forgotten(rig: Rig) -> None:
    """A room without users takes no memory; if it has messages, its history stays."""
    for number in range(100):
        rig.join("A", f"r{number}")
        rig.leave("A", f"r{number}")
    rig.join("A")
    rig.lose("A")
    rig.tick()
    assert rig.rooms.occupancy[:2] == (0, 0)
    assert (rig.rooms.occupancy.rooms, rig.rooms.occupancy.absent) == (0, 0)
    assert not rig.history._logs
    entry = rig.join("A")
    rig.publish(draft("kept"))
    rig.leave("A")
    assert rig.join("A", since=entry.position).recovered


# Absence


def test_loss_is_announced_after_5_seconds(rig: Rig) -> None:
    """Until then the user is in the room and keeps their name."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    rig.tick(3)
    rig.lose("Alice")
    rig.tick(GRACE_TICKS - 1)
    assert rig.subscriber.news() == []
    assert names(rig.join("Eve")) == ["Bob", "Alice", "Eve"]
    rig.subscriber.news()
    rig.tick(1)
    assert rig.subscriber.news() == [("leave", "Alice", 2)]
    rig.tick()
    assert rig.subscriber.news() == []


def test_grace_period_is_at_least_5_seconds() -> None:
    """A tick is a second, and the first one can follow a loss at once."""
    assert GRACE_TICKS - 1 >= 5


def test_user_who_comes_back_with_their_session_is_not_announced(rig: Rig) -> None:
    """Neither losses nor returns cause an event, in whichever process, and the user is not new."""
    rig.join("Bob")
    rig.join("Alice")
    rig.subscriber.news()
    subscribers = [rig.subscriber, rig.other, rig.subscriber, rig.other]
    for before, after in itertools.pairwise(subscribers):
        rig.lose("Alice", subscriber=before)
        rig.tick(GRACE_TICKS - 1)
        entry = rig.join("Alice", subscriber=after)
        assert (names(entry), entry.online) == (["Bob", "Alice"], 2)
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []
    rig.lose("Alice", subscriber=rig.other)
    rig.tick()
    assert rig.subscriber.news() == [("leave", "Alice", 1)]


def test_name_of_a_removed_user_is_free_while_absent(rig: Rig) -> None:
    """A moderator's removal of an absent user frees the name at once."""
    rig.join("Bob")
    rig.join("Alice")
    rig.lose("Alice")
    at_once(rig.rooms.remove(Removal("a", member().user, None, 0, "Bob")))
    assert names(rig.join(member("ALICE", by="other"))) == ["Bob", "ALICE"]


def test_number_of_a_name_fits_into_the_longest_name(rig: Rig) -> None:
    """The name is cut, and thousands of users can have it."""
    name = "x" * MAX_USERNAME_CHARS
    given = [rig.join(Member(name, holder_of(str(number)))).member.name for number in range(12)]
    assert given[:2] == [name, "x" * (MAX_USERNAME_CHARS - 4) + " (2)"]
    assert given[11] == "x" * (MAX_USERNAME_CHARS - 5) + " (12)"
    assert rig.join(Member(name, holder_of("11"))).online == 12


def test_number_of_another_name_is_not_mistaken(rig: Rig) -> None:
    """A token with another name gives another member of the room."""
    first, second = holder_of("1"), holder_of("2")
    assert rig.join(Member("Jo", first)).member.name == "Jo"
    assert rig.join(Member("Jo", second)).member.name == "Jo (2)"
    assert rig.join(Member("John", second)).member.name == "John"
    assert rig.join(Member("Jo", second)).member.name == "Jo (2)"


def test_leave_is_announced_at_once_beside_a_loss(rig: Rig) -> None:
    """A user who leaves has no grace period, even if another connection of theirs was lost."""
    rig.join("Bob")
    rig.join("Alice")
    rig.join("Alice", subscriber=rig.other)
    rig.subscriber.news()
    rig.lose("Alice")
    rig.leave("Alice", subscriber=rig.other)
    assert rig.subscriber.news() == [("leave", "Alice", 1)]
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == []


def test_leave_of_nobody_is_confirmed_after_earlier_publications(rig: Rig) -> None:
    """No connection is counted out, and no other member hears of it."""
    rig.join("Bob")
    known: list[list[tuple[Any, ...]]] = []
    rig.rooms.publish(rig.subscriber, "key", draft("last words"))
    at_once(rig.rooms.leave(rig.subscriber, "a", None, lambda: known.append(rig.subscriber.news())))
    assert [[each[:1] for each in news] for news in known] == [[("publication",)]]
    assert rig.subscriber.news() == []
    assert rig.names() == ["Bob"]


def test_close_stores_what_was_published(rig: Rig) -> None:
    """Publications of the last turn are stored and delivered, and it is safe to close again."""
    rig.join("Bob")
    rig.rooms.publish(rig.subscriber, "key", draft("last words"))
    for _ in range(2):
        at_once(rig.rooms.close())
    assert rig.faulty.batches == [1]
    assert [each[0] for each in rig.subscriber.news()] == ["publication"]


def test_losses_in_several_rooms_are_announced_in_each(rig: Rig) -> None:
    """A user who returns to one of the rooms has left the other."""
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


def test_losses_are_announced_in_their_order(rig: Rig) -> None:
    """Each loss is announced after its own grace period."""
    rig.join("Bob")
    for name in ("A", "B", "C"):
        rig.join(name)
    rig.subscriber.news()
    for name in ("B", "A", "C"):
        rig.lose(name)
        rig.tick(1)
    calls = []
    for _ in range(GRACE_TICKS):
        rig.tick(1)
        calls.append([name for _, name, _ in rig.subscriber.news()])
    assert [names for names in calls if names] == [["B"], ["A"], ["C"]]


def test_failed_return_does_not_end_the_grace_period(rig: Rig) -> None:
    """A user whose return fails because of the disk can try again until the period is over."""
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


def test_crowd_gets_its_number_once_a_tick(rig: Rig) -> None:
    """Above 200 users there is no list any more, and joins and leaves are merged into one
    `presence` event a tick."""
    crowd(rig, MAX_LISTED_USERS - 1)
    assert names(rig.join("the last to be announced"))[-1] == "the last to be announced"
    assert rig.subscriber.news() == [("join", "the last to be announced", MAX_LISTED_USERS)]
    rig.tick(1)
    assert rig.subscriber.news() == []
    entry = rig.join("first too many")
    assert (entry.users, entry.online) == (None, MAX_LISTED_USERS + 1)
    assert rig.subscriber.news() == [("presence", None, MAX_LISTED_USERS + 1)]
    assert (rig.subscriber.lists, rig.subscriber.known) == ([None], {"a": None})
    rig.join("second too many")
    rig.leave("first too many")
    assert rig.subscriber.news() == []
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, MAX_LISTED_USERS + 1)]
    rig.tick(1)
    assert rig.subscriber.news() == []
    assert rig.subscriber.lists == [None]


def test_shrinking_crowd_gets_its_list_again(rig: Rig) -> None:
    """At 200 users and below the next tick brings the whole list, and then each leave is
    announced."""
    crowd(rig, MAX_LISTED_USERS + 2)
    rig.leave("u1")
    rig.leave("u2")
    assert rig.join("u3").users is None
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, MAX_LISTED_USERS)]
    assert rig.subscriber.lists == [None, rig.names()]
    assert rig.subscriber.known["a"] == rig.rooms.users("a").members()
    rig.leave("u4")
    assert rig.subscriber.news() == [("leave", "u4", MAX_LISTED_USERS - 1)]
    rig.tick(1)
    assert rig.subscriber.news() == []


def test_list_is_sent_at_most_once_a_tick(rig: Rig) -> None:
    """Users who come and go at the limit cannot have lists sent faster."""
    crowd(rig, MAX_LISTED_USERS)
    for _ in range(5):
        rig.join("one too many")
        rig.leave("one too many")
    assert rig.subscriber.lists == [None]
    rig.tick(1)
    assert rig.subscriber.lists == [None, rig.names()]


@pytest.mark.parametrize("gathering", [False, True])
def test_process_is_told_whether_there_is_a_list(rig: Rig, gathering: bool) -> None:
    """Its members may have missed the begin or the end of a crowd."""
    rig.join("Bob")
    rig.restore(rig.other, "Alice", crowd=True, gathering=gathering)
    rig.tick(1)
    assert rig.other.lists[-1] == ["Bob", "Alice"]
    crowd(rig, MAX_LISTED_USERS)
    third = Subscriber()
    rig.restore(third, "Eve", known=("Eve", "Alice"), gathering=gathering)
    assert third.lists == [None]
    assert third.known == {"a": None}


# Spectators


def spectate(rig: Rig, *, by: str = "Zoe", subscriber: Subscriber | None = None) -> Entry:
    return rig.join(spectator(by), subscriber=subscriber)


def spectator(by: str = "Zoe") -> Member:
    return Member(None, member(by).user)


def test_spectator_is_counted_and_not_listed(rig: Rig) -> None:
    """The members hear of the number once a tick, and of no user."""
    rig.join("Bob")
    entry = spectate(rig)
    assert (entry.member, names(entry)) == (spectator(), ["Bob"])
    assert (entry.online, entry.spectators) == (1, 1)
    assert spectate(rig, by="Yan").spectators == 2
    assert rig.subscriber.news() == []
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, 1)]
    assert rig.subscriber.lists == []
    assert (rig.rooms.occupancy.users, rig.rooms.occupancy.spectators) == (1, 2)
    rig.rooms.lose(rig.subscriber, "a", spectator())
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, 1)]
    assert rig.rooms.occupancy.spectators == 1


def test_room_with_only_a_spectator_exists(rig: Rig) -> None:
    """Publications are delivered to it, and it is gone with the last spectator."""
    spectate(rig, subscriber=rig.other)
    rig.join("Bob")
    rig.leave("Bob")
    rig.publish(draft())
    assert rig.other.news()[-1][0] == "publication"
    assert rig.rooms.occupancy.rooms == 1
    rig.rooms.lose(rig.other, "a", spectator())
    assert rig.rooms.occupancy.rooms == 0


def test_spectators_of_a_process_are_restored(rig: Rig) -> None:
    """They are counted again, and the members hear of the number."""
    assert rig.restore(rig.subscriber, "Alice", spectator()) == []
    assert rig.names() == ["Alice"]
    assert rig.rooms.occupancy.spectators == 1
    rig.tick(1)
    assert rig.subscriber.news() == [("presence", None, 1)]
    assert rig.restore(rig.other, spectator("Yan")) == []
    assert rig.rooms.occupancy.spectators == 2


def test_removed_user_cannot_be_a_spectator(rig: Rig) -> None:
    """A user who only reads can be removed by their id, and stays out under any name."""
    rig.join("Bob")
    spectate(rig)
    removal = Removal("a", spectator().user, None, 60, "Bob")
    assert at_once(rig.rooms.remove(removal)) == spectator()
    assert ("expel", spectator().user) in rig.subscriber.news()
    rig.rooms.lose(rig.subscriber, "a", spectator())
    for name in ("Zoe", None):
        with pytest.raises(CommandError) as caught:
            rig.join(Member(name, spectator().user))
        assert caught.value.code == ErrorCode.FORBIDDEN
    assert rig.restore(rig.other, spectator()) == []
    assert rig.other.news()[-1] == ("expel", spectator().user)


def test_connections_of_spectators_count_for_the_price(rig: Rig) -> None:
    """A message is sent to them as well."""
    rig.join("Bob")
    for _ in range(1000):
        spectate(rig)
    assert rig.rooms._rooms["a"].price == 2


# Losses in crowds


def test_crowd_gets_losses_as_a_number(rig: Rig) -> None:
    """In a crowd, a user who returns in time does not change the number."""
    crowd(rig, MAX_LISTED_USERS + 3)
    rig.lose("u1")
    rig.lose("u2")
    rig.join("u1")
    rig.tick()
    assert rig.subscriber.news() == [("presence", None, MAX_LISTED_USERS + 2)]


def test_removed_crowd_gets_no_event(rig: Rig) -> None:
    """The room can be gone by the time that its number is due."""
    crowd(rig, MAX_LISTED_USERS + 2)
    for number in range(MAX_LISTED_USERS + 2):
        rig.leave(f"u{number}")
    rig.tick(1)
    assert rig.rooms.occupancy.rooms == 0


# Restored processes


def test_restored_members_get_no_event_that_they_know(rig: Rig) -> None:
    """When all processes return to new rooms, no event is sent and every user keeps their name."""
    assert rig.restore(rig.subscriber, "Alice", "Eve", known=("Alice", "Eve", "Bob")) == []
    assert rig.restore(rig.other, "Bob", known=("Alice", "Eve", "Bob")) == []
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == rig.other.news() == []
    assert set(rig.names()) == {"Alice", "Eve", "Bob"}
    with pytest.raises(CommandError):
        rig.join(member("bob", by="thief"))


def test_restored_process_gets_missed_publications(rig: Rig) -> None:
    """It gets all publications since its position in order, and then new ones."""
    position = rig.join("Alice").position
    rig.publish(draft("1"), draft("2"), draft("3"))
    rig.subscriber.news()
    rig.rooms.publish(rig.subscriber, None, draft("4"))  # in the turn of its return
    since = Position(position.epoch, 1)
    assert rig.restore(rig.other, "Bob", since=since) == ["2", "3", "4"]
    rig.other.news()
    rig.publish(draft("5"))
    assert [each[2] for each in rig.other.news()] == ["5"]


@pytest.mark.parametrize("missed", [MAX_RESUMED, MAX_RESUMED + 1])
def test_process_that_missed_too_much_is_lost(rig: Rig, missed: int) -> None:
    """The process's members are not counted, and the room stays as it was."""
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


@pytest.mark.parametrize("position", [Position("other", 0), Position(epoch_of(GENERATION, "a"), 3)])
def test_process_of_another_history_is_lost(rig: Rig, position: Position) -> None:
    """A process is lost if its epoch is another, or its position is ahead of the room."""
    rig.join("Bob")
    rig.publish(draft())
    assert rig.restore(rig.other, "Alice", since=position) is None
    assert rig.names() == ["Bob"]


def test_process_is_lost_while_the_disk_cannot_be_read(rig: Rig) -> None:
    """Its members can join again later."""
    position = rig.join("Bob").position
    rig.faulty.failing = {"read"}
    assert rig.restore(rig.other, "Alice", since=position) is None
    rig.faulty.failing = set()
    assert rig.join("Alice", subscriber=rig.other).online == 2


def test_process_with_a_taken_name_is_lost(rig: Rig) -> None:
    """The present user keeps the name, and no member of the process is counted."""
    rig.join("Alice")
    rig.subscriber.news()
    assert rig.restore(rig.other, "Eve", member("ALICE", by="other")) is None
    assert rig.names() == ["Alice"]
    assert rig.subscriber.news() == []


def test_restored_member_regains_a_name_from_an_absent_user(rig: Rig) -> None:
    """The absent user has left; the room continues, even if that user was the last."""
    rig.join(member("ALICE", by="other"))
    rig.rooms.lose(rig.subscriber, "a", member("ALICE", by="other"))
    assert rig.restore(rig.other, "Alice") == []
    assert rig.names() == ["Alice"]
    rig.publish(draft("x"), subscriber=rig.other)
    assert rig.other.news()[-1][0] == "publication"
    rig.leave("Alice", subscriber=rig.other)
    assert rig.rooms.occupancy.rooms == 0


def test_users_who_do_not_come_back_leave_after_the_grace_period(rig: Rig) -> None:
    """Until then they are absent users like all others."""
    rig.restore(rig.subscriber, "Alice", known=("Alice", "Bob", "Eve", "Joe"))
    assert rig.names() == ["Alice", "Bob", "Eve", "Joe"]
    assert rig.join("Bob", subscriber=rig.other).online == 4
    with pytest.raises(CommandError):
        rig.join(member("eve", by="thief"), subscriber=rig.other)
    rig.tick(GRACE_TICKS - 1)
    assert rig.subscriber.news() == []
    rig.tick(1)
    assert rig.subscriber.news() == [("leave", "Eve", 3), ("leave", "Joe", 2)]


def test_leave_during_a_process_absence_is_announced_to_it(rig: Rig) -> None:
    """The process gets the leave as soon as it is back; the others have had it."""
    rig.join("Bob")
    rig.subscriber.news()
    rig.restore(rig.other, "Alice", known=("Alice", "Bob", "Eve"), gathering=False)
    assert rig.other.news() == [("leave", "Eve", 2)]
    assert rig.subscriber.news() == [("join", "Alice", 2)]
    assert rig.names() == ["Bob", "Alice"]
    rig.tick(2 * GRACE_TICKS)
    assert rig.subscriber.news() == rig.other.news() == []


def test_user_known_to_some_processes_is_announced_to_the_rest(rig: Rig) -> None:
    """All processes then know the same users, whether that user comes back or not."""
    rig.restore(rig.subscriber, "Alice", known=("Alice",))
    rig.restore(rig.other, "Bob", known=("Alice", "Bob", "Eve"))
    assert rig.subscriber.news() == [("join", "Bob", 2), ("join", "Eve", 3)]
    assert rig.other.news() == []
    rig.tick()
    assert rig.subscriber.news() == rig.other.news() == [("leave", "Eve", 2)]


def test_join_during_a_process_absence_is_announced_to_it(rig: Rig) -> None:
    """The process gets the joins that it missed, and the others get its members' if unknown."""
    rig.join("Bob")
    rig.join("Eve")
    rig.subscriber.news()
    assert rig.restore(rig.other, "Alice", known=("Alice", "Bob")) == []
    assert rig.other.changes == [PresenceChange(True, member("Eve"))]
    assert rig.subscriber.news() == [("join", "Alice", 3)]


def test_restored_crowd_gets_its_number(rig: Rig) -> None:
    """A process that comes back to a crowd gets the number and no names."""
    crowd(rig, MAX_LISTED_USERS + 1)
    rig.restore(rig.other, "Alice", crowd=True)
    assert rig.other.news() == rig.subscriber.news() == []
    rig.tick(1)
    assert rig.other.news() == rig.subscriber.news() == [("presence", None, MAX_LISTED_USERS + 2)]


def test_process_returns_to_a_room_without_messages(rig: Rig) -> None:
    """The epoch does not depend on a stored message; that of another history is refused."""
    silent = Position(epoch_of(GENERATION, "a"), 0)
    assert rig.restore(rig.subscriber, "Alice", since=silent) == []
    assert rig.restore(rig.other, "Bob", since=Position("another", 0)) is None
    assert rig.join("Carol").position == silent


def test_process_can_come_back_without_members(rig: Rig) -> None:
    """It gets missed publications to settle its drafts, and does not subscribe to the room."""
    position = rig.join("Bob").position
    rig.publish(draft("1"))
    rig.subscriber.news()
    assert rig.restore(rig.other, since=position) == ["1"]
    rig.publish(draft("2"))
    assert rig.other.news() == []
    elsewhere = position._replace(timestamp=None, offset=1)
    assert rig.restore(rig.other, since=elsewhere, room="b") is None
    assert rig.rooms.occupancy.rooms == 1


# Reading


def test_entry_is_bounded_in_bytes(rig: Rig) -> None:
    """If the newest messages have too many bytes, a newcomer gets fewer of them."""
    position = rig.join("Bob").position
    rig.publish(*(draft("😀" * 3990) for _ in range(100)))
    entry = rig.join("Alice", since=position)
    assert not entry.recovered
    assert 0 < len(entry.payloads) < 100
    assert offsets(entry)[-1] == 100
    assert sum(map(len, entry.payloads)) <= protocol.MAX_REPLY_BYTES


def test_failing_history_is_logged_once_per_change(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk under load causes one log line, and its end another."""

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
