"""Tests of the contract `fastchat.history.History`, which every implementation must pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate, History, Page
from fastchat.protocol import (
    Change,
    ChangeDraft,
    Draft,
    Kind,
    Message,
    MessageDraft,
    Position,
    Publication,
)
from fastchat.protocol.options import RoomOptions

#: The time of every draft: in seconds since 1970, and as a timestamp.
NOW_S = 1737196200.123
TIMESTAMP = "2025-01-18T10:30:00.123Z"
#: The generation of a history in memory.
GENERATION = b"generation"
#: The time of every change.
LATER = "2025-01-18T10:31:00.456Z"


def draft(
    text: str = "hello", *, room: str = "a", by: str = "Alice", id: str | None = None
) -> MessageDraft:
    return MessageDraft(room, by, text, TIMESTAMP, f"user {by}", id)


def edit(target: int, text: str = "edited", *, by: str = "Alice", room: str = "a") -> ChangeDraft:
    return _change(Kind.EDIT, target, by, room, text=text)


def delete(target: int, *, by: str = "Alice", room: str = "a") -> ChangeDraft:
    return _change(Kind.DELETE, target, by, room)


def react(
    target: int, emoji: str = "👋", *, by: str = "Bob", remove: bool = False, room: str = "a"
) -> ChangeDraft:
    return _change(Kind.REACT, target, by, room, emoji=emoji, remove=remove)


def _change(
    kind: Kind, target: int, by: str, room: str, text: str = "", **more: Any
) -> ChangeDraft:
    return ChangeDraft(room, by, text, LATER, f"user {by}", kind, target, **more)


def add(history: History, *texts: str, room: str = "a") -> None:
    for text in texts:
        history.append((draft(text, room=room),))


def change(history: History, *changes: Draft) -> None:
    """Append changes that must not be refused."""
    for outcome in history.append(changes):
        assert isinstance(outcome, Message | Change), outcome


def refused(history: History, change: ChangeDraft) -> ErrorCode:
    """The code with which a change is refused; the refusal must not change the room."""
    position = history.position(change.room)
    before = history.since(change.room, position._replace(timestamp=None, offset=0), 10_000)
    (outcome,) = history.append([change])
    assert isinstance(outcome, CommandError)
    assert outcome.message.endswith(".")
    assert not outcome.temporary
    assert history.position(change.room) == position
    assert history.since(change.room, position._replace(timestamp=None, offset=0), 10_000) == before
    return outcome.code


def message(history: History, offset: int, room: str = "a") -> Message:
    """A message in its present state."""
    (found,) = history.before(room, offset + 1, 1).publications
    assert found.offset == offset
    return found


def reactions(message: Message) -> dict[str, list[str]]:
    """The names of the users who reacted, for each emoji."""
    return {
        emoji: [reactor.username for reactor in reactors]
        for emoji, reactors in (message.reactions or {}).items()
    }


def texts(page: Page | Sequence[Publication] | None) -> list[str]:
    assert page is not None
    return [each.text for each in (page.publications if isinstance(page, Page) else page)]


def offsets(page: Page | Sequence[Publication] | None) -> list[int]:
    assert page is not None
    return [each.offset for each in (page.publications if isinstance(page, Page) else page)]


def found(history: History, query: str, *, room: str = "a", limit: int = 50) -> set[str]:
    """The texts that a search finds."""
    return set(texts(asyncio.run(history.search(room, query, limit))))


class HistoryContract:
    """The tests of the contract.

    A subclass provides the fixture `history`: a new history that stores `KEPT` publications of
    each room, and at most `SLACK` more.
    """

    KEPT = 40
    SLACK = 5

    @pytest.fixture
    def history(self) -> History:
        raise NotImplementedError

    # Offsets

    def test_new_room_starts_at_offset_0(self, history: History) -> None:
        """A room without publications has an epoch and the offset 0."""
        position = history.position("a")
        assert position.offset == 0
        assert position.epoch
        assert history.position("a") == position

    def test_publications_are_numbered_without_gaps(self, history: History) -> None:
        """Offsets are 1, 2, 3 … in the order of appending, within and across calls."""
        first = history.append([draft("one"), draft("two")])
        second = history.append([draft("three")])
        assert [type(each) for each in first + second] == [Message] * 3
        assert [each.offset for each in first + second] == [1, 2, 3]
        assert history.position("a").offset == 3

    def test_publication_is_its_draft_with_an_offset(self, history: History) -> None:
        """Only the offset is added to a draft."""
        sent = MessageDraft("a", "Zoë", "x\n\0😀", "2025-01-18T10:30:00.123Z", "user", "id")
        (published,) = history.append([sent])
        assert published == Message("a", 1, *sent[1:])
        assert history.before("a", None, 9).publications == [published]

    def test_check_finds_no_fault_in_a_history_that_works(self, history: History) -> None:
        """A history that can be written passes the check, which changes nothing."""
        history.check()
        add(history, "one")
        before = history.position("a")
        history.check()
        assert history.position("a") == before

    def test_empty_batch_changes_nothing(self, history: History) -> None:
        """An empty batch is allowed."""
        assert history.append([]) == []
        assert history.position("a").offset == 0

    def test_each_room_has_its_own_offsets(self, history: History) -> None:
        """Each room has its own epoch and offsets, even within one call."""
        outcomes = history.append([draft(room="a"), draft(room="b"), draft(room="a")])
        assert [(each.room, each.offset) for each in outcomes] == [("a", 1), ("b", 1), ("a", 2)]
        assert history.position("a").epoch != history.position("b").epoch

    def test_epoch_stays_while_the_room_grows(self, history: History) -> None:
        """Neither publications nor the loss of the oldest ones change the epoch."""
        epoch = history.position("a").epoch
        for number in range(self.KEPT * 3):
            add(history, str(number))
        assert history.position("a") == Position(epoch, self.KEPT * 3, TIMESTAMP)

    # Duplicates

    def test_second_draft_with_an_id_is_a_duplicate(self, history: History) -> None:
        """A repeated message is not published; the outcome has the first one's offset."""
        history.append([draft("other"), draft("first", id="i")])
        assert history.append([draft("again", id="i")]) == [Duplicate("a", "i", 2)]
        assert history.position("a").offset == 2
        assert texts(history.before("a", None, 9)) == ["other", "first"]

    def test_duplicate_within_one_call_is_found(self, history: History) -> None:
        """A batch can have a message and its repetition."""
        outcomes = history.append([draft(id="i"), draft(id="i"), draft()])
        assert [type(each) for each in outcomes] == [Message, Duplicate, Message]
        assert [each.offset for each in outcomes] == [1, 1, 2]

    def test_id_belongs_to_its_user_and_room(self, history: History) -> None:
        """The same id from another user, or in another room, is another message. The name does not
        matter: one of another user is not a repetition, and one of the same user is."""
        namesake = draft(id="i", by="Bob")._replace(username="Alice")
        drafts = [draft(id="i"), namesake, draft(id="i", room="b")]
        assert [type(each) for each in history.append(drafts)] == [Message] * 3
        renamed = draft(id="i")._replace(username="Alicia")
        assert history.append([renamed]) == [Duplicate("a", "i", 1)]

    def test_drafts_without_id_are_never_duplicates(self, history: History) -> None:
        """The same text can be published twice."""
        assert len({each.offset for each in history.append([draft(), draft()])}) == 2

    # Recovery

    def test_since_returns_all_missed_publications(self, history: History) -> None:
        """A recovery has every publication after the position, oldest first."""
        add(history, "1", "2", "3", "4")
        epoch = history.position("a").epoch
        assert texts(history.since("a", Position(epoch, 2), 9)) == ["3", "4"]
        assert texts(history.since("a", Position(epoch, 0), 4)) == ["1", "2", "3", "4"]
        assert history.since("a", Position(epoch, 4), 9) == []
        assert history.since("a", Position(epoch, 4), 0) == []

    def test_since_returns_none_instead_of_a_part(self, history: History) -> None:
        """Too many publications, another epoch, or a position ahead of the room give None."""
        add(history, "1", "2", "3", "4")
        epoch = history.position("a").epoch
        assert history.since("a", Position(epoch, 1), 2) is None
        assert history.since("a", Position(epoch, 5), 9) is None
        assert history.since("a", Position(epoch, 2**53 - 1), 9) is None
        assert history.since("a", Position("other", 2), 9) is None
        assert history.since("a", Position("", 0), 9) is None

    def test_since_returns_none_if_some_publications_were_dropped(self, history: History) -> None:
        """The result is None as soon as the publication after the position was dropped."""
        for number in range(1, self.KEPT * 3 + 1):
            add(history, str(number))
        epoch, newest, _ = history.position("a")
        assert history.since("a", Position(epoch, 0), 10_000) is None
        found = history.since("a", Position(epoch, newest - self.KEPT), 10_000)
        assert texts(found) == [str(n) for n in range(newest - self.KEPT + 1, newest + 1)]
        assert (
            history.since("a", Position(epoch, newest - self.KEPT - self.SLACK - 1), 10_000) is None
        )

    def test_position_has_the_timestamp_of_its_publication(self, history: History) -> None:
        """A position is that of the newest publication, of whatever kind; at first it has none."""
        assert history.position("a").timestamp is None
        add(history, "1")
        assert history.position("a").timestamp == TIMESTAMP
        change(history, edit(1))
        assert history.position("a").timestamp == LATER

    def test_since_compares_timestamps(self, history: History) -> None:
        """A position whose publication has another timestamp here is of another stream."""
        add(history, "1")
        change(history, edit(1))
        add(history, "3")
        epoch = history.position("a").epoch
        other = "2025-01-18T10:30:00.124Z"
        for offset, timestamp in ((1, TIMESTAMP), (2, LATER), (3, TIMESTAMP)):
            position = Position(epoch, offset, timestamp)
            assert offsets(history.since("a", position, 9)) == [*range(offset + 1, 4)]
            assert history.since("a", position._replace(timestamp=other), 9) is None
            assert offsets(history.since("a", position._replace(timestamp=None), 9)) == [
                *range(offset + 1, 4)
            ]
        assert offsets(history.since("a", Position(epoch, 0, other), 9)) == [1, 2, 3]

    def test_since_accepts_a_timestamp_that_it_cannot_compare(self, history: History) -> None:
        """A client has everything up to a publication that was dropped, and gets all after it."""
        for number in range(1, self.KEPT * 3 + 1):
            add(history, str(number))
        first = history.after("a", 0, 1).publications[0].offset
        epoch = history.position("a").epoch
        missed = history.since("a", Position(epoch, first - 1, TIMESTAMP), 10_000)
        assert offsets(missed) == [*range(first, self.KEPT * 3 + 1)]

    def test_since_in_an_unknown_room_is_none(self, history: History) -> None:
        """A room that was lost cannot be recovered, not even from offset 0."""
        assert history.since("nowhere", Position("epoch", 0), 9) is None

    # Pages

    def test_before_without_offset_returns_the_newest(self, history: History) -> None:
        """Without an offset, the page is the end of the room; `more` announces older messages."""
        add(history, "1", "2", "3")
        assert history.before("a", None, 2) == Page(
            history.before("a", None, 9).publications[1:], True
        )
        assert texts(history.before("a", None, 3)) == ["1", "2", "3"]
        assert not history.before("a", None, 3).more
        assert not history.before("a", None, 300).more

    def test_before_an_offset_returns_the_messages_below_it(self, history: History) -> None:
        """The message at the offset is not on the page."""
        add(history, "1", "2", "3", "4")
        page = history.before("a", 4, 2)
        assert (texts(page), page.more) == (["2", "3"], True)
        page = history.before("a", 3, 2)
        assert (texts(page), page.more) == (["1", "2"], False)
        assert history.before("a", 1, 9) == Page([], False)
        assert history.before("a", 0, 9) == Page([], False)
        assert texts(history.before("a", 99, 9)) == ["1", "2", "3", "4"]

    def test_after_an_offset_returns_the_messages_above_it(self, history: History) -> None:
        """The page has the oldest messages above the offset; `more` announces newer ones."""
        add(history, "1", "2", "3", "4")
        page = history.after("a", 1, 2)
        assert (texts(page), page.more) == (["2", "3"], True)
        page = history.after("a", 2, 2)
        assert (texts(page), page.more) == (["3", "4"], False)
        assert history.after("a", 4, 9) == Page([], False)
        assert history.after("a", 2**53 - 1, 9) == Page([], False)
        assert texts(history.after("a", 0, 9)) == ["1", "2", "3", "4"]

    def test_pages_of_an_empty_room_are_empty(self, history: History) -> None:
        """Reading a room without publications is no error."""
        assert history.before("a", None, 9) == Page([], False)
        assert history.before("a", 5, 9) == Page([], False)
        assert history.after("a", 0, 9) == Page([], False)

    def test_paging_back_returns_each_message_once(self, history: History) -> None:
        """Paging with `before` reaches the first message."""
        for number in range(23):
            add(history, str(number))
        met: list[str] = []
        page = history.before("a", None, 5)
        met = texts(page)
        while page.more:
            page = history.before("a", page.publications[0].offset, 5)
            met = texts(page) + met
        assert met == [str(number) for number in range(23)]

    def test_paging_forward_returns_each_message_once(self, history: History) -> None:
        """Paging with `after` from the oldest stored message reaches the newest."""
        for number in range(1, self.KEPT * 2 + 1):
            add(history, str(number))
        page = history.after("a", 0, 7)
        met = page.publications
        while page.more:
            page = history.after("a", page.publications[-1].offset, 7)
            met = met + page.publications
        offsets = [each.offset for each in met]
        assert offsets == list(range(offsets[0], self.KEPT * 2 + 1))
        assert self.KEPT <= len(offsets) <= self.KEPT + self.SLACK

    def test_returned_page_is_independent_of_the_history(self, history: History) -> None:
        """Later publications do not change a page, and its caller can change it."""
        add(history, "1")
        page = history.before("a", None, 9)
        add(history, "2")
        assert texts(page) == ["1"]
        page.publications.clear()
        assert texts(history.before("a", None, 9)) == ["1", "2"]

    # Limits

    def test_oldest_publications_are_dropped_first(self, history: History) -> None:
        """A room stores its newest publications with their offsets."""
        for number in range(1, self.KEPT * 3 + 1):
            add(history, str(number))
        kept = history.before("a", None, 10_000).publications
        assert self.KEPT <= len(kept) <= self.KEPT + self.SLACK
        assert [each.offset for each in kept][-1] == self.KEPT * 3
        assert [str(each.offset) for each in kept] == texts(kept)

    def test_changes_count_towards_the_limit(self, history: History) -> None:
        """The limit counts publications of all kinds, so a room can have fewer messages."""
        add(history, "old")
        for number in range(self.KEPT // 2):
            add(history, str(number))
            change(history, react(2 * number + 2))
        for number in range(self.SLACK):
            add(history, f"later {number}")
        assert "old" not in texts(history.before("a", None, 10_000))
        kept = history.since(
            "a", history.position("a")._replace(timestamp=None, offset=1 + self.SLACK), 10_000
        )
        assert kept is not None
        assert len(history.before("a", None, 10_000).publications) < len(kept)

    def test_change_of_a_dropped_message_is_not_found(self, history: History) -> None:
        """Not even its user can change a message that was dropped."""
        for number in range(self.KEPT * 2):
            add(history, str(number))
        assert refused(history, edit(1)) == ErrorCode.NOT_FOUND
        assert refused(history, react(1)) == ErrorCode.NOT_FOUND
        assert refused(history, delete(1)) == ErrorCode.NOT_FOUND

    def test_edit_outlives_its_dropped_message(self, history: History) -> None:
        """An edit is stored as long as any publication of its age."""
        add(history, "first")
        for number in range(self.KEPT - 1):
            add(history, str(number))
        change(history, edit(1))
        for number in range(self.SLACK + 1):
            add(history, f"later {number}")
        epoch, newest, _ = history.position("a")
        assert 1 not in offsets(history.before("a", None, 10_000))
        kept = history.since("a", Position(epoch, self.KEPT), 10_000)
        assert kept is not None
        assert kept[0] == edit(1).numbered(self.KEPT + 1)
        assert offsets(kept) == list(range(self.KEPT + 1, newest + 1))

    def test_pruning_without_a_limit_of_age_drops_nothing(self, history: History) -> None:
        """Without a limit of age, `prune` changes nothing."""
        history.prune()
        add(history, "1", "2", "3")
        change(history, edit(1), react(2), delete(3))
        everything = history.since(
            "a", history.position("a")._replace(timestamp=None, offset=0), 300
        )
        for _ in range(3):
            history.prune()
        assert (
            history.since("a", history.position("a")._replace(timestamp=None, offset=0), 300)
            == everything
        )

    def test_room_without_publications_keeps_its_epoch(self, history: History) -> None:
        """The epoch of a new room is that of its first publication, and no other room has it."""
        silent = history.position("a")
        add(history, "elsewhere", room="b")
        assert history.position("a") == silent
        assert history.since("a", silent, 9) == []
        add(history, "first")
        assert history.position("a").epoch == silent.epoch
        assert texts(history.since("a", silent, 9)) == ["first"]

    def test_room_that_looks_alike_is_found(self, history: History) -> None:
        """Only rooms with publications are found, and the room of that name before others."""
        history.position("lоbby")
        assert history.find_alike("lobby") is None
        add(history, "hello", room="lobby")
        assert history.find_alike("lоbby") == "lobby"
        assert history.find_alike("ｌｏｂｂｙ") == "lobby"
        assert history.find_alike("lobby") == "lobby"
        assert history.find_alike("lobbi") is None
        add(history, "hello", room="lоbby")
        assert history.find_alike("lоbby") == "lоbby"
        assert history.find_alike("lobby") == "lobby"
        assert history.find_alike("ｌｏｂｂｙ") in ("lobby", "lоbby")

    def test_reading_a_room_publishes_nothing(self, history: History) -> None:
        """Reads and refused changes leave a room empty."""
        assert refused(history, edit(1)) == ErrorCode.NOT_FOUND
        assert history.position("a").offset == 0
        assert found(history, "x") == set()
        assert history.since("a", history.position("a"), 9) == []

    # Changes

    def test_edit_is_a_publication_and_changes_its_message(self, history: History) -> None:
        """The stream has the edit and the message in its present state."""
        add(history, "first", "second")
        (published,) = history.append([edit(1, "better")])
        assert published == edit(1, "better").numbered(3)
        expected = draft("first").numbered(1)._replace(text="better", edited=LATER)
        assert message(history, 1) == expected
        assert message(history, 2).edited is None
        missed = history.since("a", history.position("a")._replace(timestamp=None, offset=0), 9)
        assert missed == [expected, draft("second").numbered(2), published]

    def test_last_edit_determines_the_text(self, history: History) -> None:
        """A message can be edited any number of times."""
        add(history, "1")
        change(history, edit(1, "2"), edit(1, "3"))
        change(history, edit(1, "4"))
        assert texts(history.before("a", None, 9)) == ["4"]
        assert offsets(
            history.since("a", history.position("a")._replace(timestamp=None, offset=0), 9)
        ) == [*(1, 2, 3, 4)]

    def test_deleted_text_is_in_no_read(self, history: History) -> None:
        """Neither the message nor its edits have the text, in any kind of read."""
        add(history, "secret one", "harmless")
        change(history, edit(1, "secret two"), react(1))
        assert found(history, "secret") == {"secret two"}
        change(history, edit(1, "secret three"))
        change(history, delete(1))
        start = history.position("a")._replace(timestamp=None, offset=0)
        for read in (
            history.since("a", start, 300),
            history.before("a", None, 300).publications,
            history.after("a", 0, 300).publications,
        ):
            assert read is not None
            assert "secret" not in repr(read)
            assert read[0] == draft("").numbered(1)._replace(deleted=True)
        assert found(history, "secret") == set()
        assert offsets(history.since("a", start, 300)) == [1, 2, 3, 4, 5, 6]

    def test_deletion_is_a_publication_without_text(self, history: History) -> None:
        """A deletion names its message and has no text."""
        add(history, "secret")
        assert history.append([delete(1)]) == [delete(1).numbered(2)]

    def test_only_the_user_can_change_a_message(self, history: History) -> None:
        """Another user cannot, even under the same name; afterwards the user still can."""
        add(history, "mine")
        impostor = {"user": "user of another session"}
        for forbidden in (
            edit(1, by="Bob"),
            delete(1, by="Bob"),
            edit(1)._replace(**impostor),
            delete(1)._replace(**impostor),
        ):
            assert refused(history, forbidden) == ErrorCode.FORBIDDEN
        assert texts(history.before("a", None, 9)) == ["mine"]
        change(history, edit(1, "still mine"), delete(1))

    def test_change_of_anything_but_a_message_is_not_found(self, history: History) -> None:
        """An unused offset, another kind and another room's offset are not found."""
        add(history, "1")
        add(history, "1", "2", "3", "4", room="b")
        change(history, edit(1), react(1))
        for target in (0, 2, 3, 4, 5, 2**53 - 1):
            for wrong in (edit(target), delete(target), react(target), react(target, remove=True)):
                assert refused(history, wrong) == ErrorCode.NOT_FOUND

    def test_deleted_message_is_not_found(self, history: History) -> None:
        """A deleted message can no longer be edited, deleted or reacted to."""
        add(history, "1")
        change(history, delete(1))
        for late in (edit(1), delete(1), react(1), react(1, remove=True), edit(1, by="Bob")):
            assert refused(history, late) == ErrorCode.NOT_FOUND

    def test_id_of_a_deleted_message_is_remembered(self, history: History) -> None:
        """A deleted message that is sent again is a duplicate."""
        history.append([draft("gone", id="i")])
        change(history, delete(1))
        assert history.append([draft("gone", id="i")]) == [Duplicate("a", "i", 1)]

    def test_changes_within_one_call_see_each_other(self, history: History) -> None:
        """A batch can have a message and its changes, with refused ones in between."""
        outcomes = history.append(
            [
                draft("1", id="i"),
                edit(1, "2"),
                react(1),
                edit(1, "3", by="Bob"),
                draft("1", id="i"),
                react(9),
                draft("next"),
                delete(1),
                edit(1, "4"),
            ]
        )
        kinds = [type(each) for each in outcomes]
        no = CommandError
        assert kinds == [Message, Change, Change, no, Duplicate, no, Message, Change, no]
        offsets = [each.offset for each in outcomes if isinstance(each, Message | Change)]
        assert offsets == [1, 2, 3, 4, 5]
        codes = [each.code for each in outcomes if isinstance(each, no)]
        assert codes == [ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.NOT_FOUND]
        assert texts(history.before("a", None, 9)) == ["", "next"]

    def test_change_affects_its_room_only(self, history: History) -> None:
        """The same offset in another room is another message."""
        add(history, "a")
        add(history, "b", room="b")
        change(history, edit(1, "changed", room="b"), react(1, room="b"))
        assert message(history, 1) == draft("a").numbered(1)
        assert texts(history.before("b", None, 9)) == ["changed"]

    # Reactions

    def test_reactions_have_the_names_for_each_emoji(self, history: History) -> None:
        """Every user can react with several emoji, also to their own message."""
        add(history, "1")
        change(history, react(1, "👍"), react(1, "👍", by="Alice"), react(1, "❤️"))
        assert reactions(message(history, 1)) == {"👍": ["Bob", "Alice"], "❤️": ["Bob"]}
        assert message(history, 1).edited is None
        assert texts(history.before("a", None, 9)) == ["1"]

    def test_repeated_reaction_counts_once(self, history: History) -> None:
        """A repeated reaction is published, but has no effect."""
        add(history, "1")
        change(history, react(1), react(1))
        assert reactions(message(history, 1)) == {"👋": ["Bob"]}
        assert history.position("a").offset == 3

    def test_user_can_remove_their_own_reaction(self, history: History) -> None:
        """The reactions of other users stay; the last removal removes the emoji."""
        add(history, "1")
        change(history, react(1), react(1, by="Eve"), react(1, remove=True))
        assert reactions(message(history, 1)) == {"👋": ["Eve"]}
        change(history, react(1, remove=True))
        assert reactions(message(history, 1)) == {"👋": ["Eve"]}
        change(history, react(1, by="Eve", remove=True))
        assert message(history, 1) == draft("1").numbered(1)

    def test_reaction_survives_an_edit(self, history: History) -> None:
        """An edit leaves the reactions of its message."""
        add(history, "1")
        change(history, react(1), edit(1, "2"))
        assert reactions(message(history, 1)) == {"👋": ["Bob"]}
        assert texts(history.before("a", None, 9)) == ["2"]

    def test_message_has_at_most_20_different_reactions(self, history: History) -> None:
        """A 21st emoji is refused; after one is removed, another one is accepted."""
        add(history, "1")
        emoji = [chr(0x1F600 + number) for number in range(21)]
        change(history, *(react(1, each) for each in emoji[:20]))
        assert refused(history, react(1, emoji[20])) == ErrorCode.FORBIDDEN
        change(history, react(1, emoji[0], by="Eve"))
        change(history, react(1, emoji[20], remove=True))
        change(history, react(1, emoji[1], remove=True), react(1, emoji[20]))
        assert len(reactions(message(history, 1))) == 20

    # Pages of changed messages

    def test_pages_have_messages_only(self, history: History) -> None:
        """The limit and `more` count messages only."""
        add(history, "1")
        change(history, *(react(1) for _ in range(5)))
        add(history, "7", "8")
        change(history, edit(7, "seven"))
        page = history.before("a", None, 2)
        assert (offsets(page), texts(page), page.more) == ([7, 8], ["seven", "8"], True)
        page = history.before("a", 7, 2)
        assert (offsets(page), page.more) == ([1], False)
        page = history.before("a", None, 3)
        assert (offsets(page), page.more) == ([1, 7, 8], False)
        page = history.after("a", 0, 1)
        assert (offsets(page), page.more) == ([1], True)
        page = history.after("a", 1, 2)
        assert (offsets(page), page.more) == ([7, 8], False)
        assert history.after("a", 8, 9) == Page([], False)

    def test_deleted_messages_are_on_pages(self, history: History) -> None:
        """A deleted message is on its page, so that clients learn of the deletion."""
        add(history, "1", "2")
        change(history, delete(2))
        page = history.before("a", None, 9)
        assert [(each.offset, each.deleted) for each in page.publications] == [
            (1, False),
            (2, True),
        ]

    def test_recovery_has_all_kinds_of_publications(self, history: History) -> None:
        """A recovery has messages and changes, numbered without gaps."""
        add(history, "1", "2")
        change(history, edit(1), react(2), delete(1))
        start = history.position("a")._replace(timestamp=None, offset=2)
        assert history.since("a", start, 9) == [
            edit(1, "").numbered(3),  # its message is deleted
            react(2).numbered(4),
            delete(1).numbered(5),
        ]
        assert history.since("a", start, 2) is None

    def test_returned_messages_do_not_change(self, history: History) -> None:
        """Later changes do not affect messages that were returned."""
        add(history, "1")
        change(history, react(1))
        page = history.before("a", None, 9)
        missed = history.since("a", history.position("a")._replace(timestamp=None, offset=0), 9)
        change(history, react(1, by="Eve"), edit(1, "2"), delete(1))
        assert texts(page) == ["1"]
        assert missed is not None
        for read in (page.publications, missed):
            assert (read[0].text, read[0].deleted) == ("1", False)
            assert reactions(read[0]) == {"👋": ["Bob"]}

    # Search

    def test_search_finds_all_words_in_any_order(self, history: History) -> None:
        """A text matches if it has all words, whatever their case and accents."""
        add(history, "The quick brown fox", "A brown bear", "Crème brûlée", "brownish")
        assert found(history, "brown") == {"The quick brown fox", "A brown bear"}
        assert found(history, "FOX quick") == {"The quick brown fox"}
        assert found(history, "creme brulee") == {"Crème brûlée"}
        assert found(history, "brown nothing") == set()

    def test_search_supports_phrases_and_prefixes(self, history: History) -> None:
        """`"…"` matches consecutive words, and `wor*` the start of a word."""
        add(history, "hello every body", "every hello body", "a world", "worse words")
        assert found(history, '"hello every"') == {"hello every body"}
        assert found(history, "wor*") == {"a world", "worse words"}
        assert found(history, "wor") == set()

    @pytest.mark.parametrize(
        "query", ["", " ", "*", '"', '""', "-", "AND", "(", "text:x", "NEAR(a b)", "'; --", "\0"]
    )
    def test_query_syntax_is_taken_as_text(self, history: History, query: str) -> None:
        """Only quotes and stars are special, and no query raises an error."""
        add(history, "hello")
        assert found(history, query) == set()

    def test_search_finds_the_present_text(self, history: History) -> None:
        """An edited message is found by its new words only, and returned in its present state."""
        add(history, "before")
        assert found(history, "before") == {"before"}
        change(history, edit(1, "after 👋"), react(1))
        assert found(history, "before") == set()
        (result,) = asyncio.run(history.search("a", "after", 9))
        assert result == message(history, 1)
        assert reactions(result) == {"👋": ["Bob"]}

    def test_search_returns_the_newest_first(self, history: History) -> None:
        """The order depends on age only; the limit leaves out the oldest."""
        add(history, "word word", "word 2", "word and much else", "other", "word 5")
        results = asyncio.run(history.search("a", "word", 3))
        assert [each.offset for each in results] == [5, 3, 2]

    def test_search_is_limited_to_one_room_and_a_number(self, history: History) -> None:
        """Messages of other rooms are not found, and at most `limit` are returned."""
        for number in range(10):
            add(history, f"word {number}")
        add(history, "word elsewhere", room="b")
        assert len(found(history, "word")) == 10
        assert len(found(history, "word", limit=3)) == 3
        assert found(history, "word", room="b") == {"word elsewhere"}
        assert found(history, "word", room="nowhere") == set()

    def test_search_finds_stored_messages_only(self, history: History) -> None:
        """A dropped message is not found."""
        add(history, "oldest")
        assert found(history, "oldest") == {"oldest"}
        for number in range(self.KEPT * 2):
            add(history, f"newer {number}")
        assert found(history, "oldest") == set()
        kept = history.before("a", None, 10_000).publications
        assert found(history, "newer", limit=300) == set(texts(kept))

    # Rooms and users

    def test_following_returns_the_oldest_first(self, history: History) -> None:
        """Publications after a position come in pieces, and none instead of a hole."""
        start = history.position("a")
        add(history, *map(str, range(1, 8)))
        change(history, edit(2))
        first = history.following("a", start, 3)
        assert first is not None
        assert [each.offset for each in first] == [1, 2, 3]
        rest = history.following("a", start._replace(offset=3), 300)
        assert rest is not None
        assert [each.offset for each in rest] == [4, 5, 6, 7, 8]
        assert history.following("a", history.position("a"), 3) == []
        assert history.following("a", start._replace(epoch="another"), 3) is None
        assert history.following("a", start._replace(offset=9), 3) is None
        for number in range(self.KEPT * 2):
            add(history, f"newer {number}")
        assert history.following("a", start, 3) is None

    def test_options_are_kept_without_publications(self, history: History) -> None:
        """Options that are those of every room take nothing."""
        assert history.options == {}
        options = RoomOptions(title="Lobby", slow_s=5)
        history.set_options("a", options)
        assert history.options == {"a": options}
        history.set_options("a", RoomOptions())
        assert history.options == {}

    def test_room_keeps_as_many_publications_as_its_options_say(self, history: History) -> None:
        """A number in the options holds at once, and for publications to come."""
        for number in range(self.KEPT):
            add(history, str(number))
        history.set_options("a", RoomOptions(max_messages=2))
        add(history, "last")
        kept = texts(history.before("a", None, 300).publications)
        assert kept[-1] == "last"
        assert 2 <= len(kept) <= 4

    def test_streams_lists_rooms_by_name(self, history: History) -> None:
        """Rooms with publications or options, from a name on, and only with a prefix."""
        add(history, "one", "two", room="b")
        add(history, "one", room="c-1")
        add(history, "one", room="c-2")
        history.set_options("a", RoomOptions(topic="empty"))
        history.set_options("b", RoomOptions(topic="full"))
        everything = history.streams("", "", 300)
        assert [each.room for each in everything] == ["a", "b", "c-1", "c-2"]
        a, b, *_ = everything
        assert (a.head, a.last_at, a.size) == (0, None, 0)
        assert (b.head, b.last_at, b.epoch) == (2, TIMESTAMP, history.position("b").epoch)
        assert b.size > 6
        assert [each.room for each in history.streams("c-", "", 300)] == ["c-1", "c-2"]
        assert [each.room for each in history.streams("", "b", 1)] == ["c-1"]
        assert history.streams("d", "", 300) == []

    def test_deleted_room_begins_anew(self, history: History) -> None:
        """Nothing of the room is read any more, and what follows has another epoch."""
        add(history, "old word", "older", room="a")
        add(history, "other word", room="b")
        before = history.position("a")
        history.set_options("a", RoomOptions(title="Old"))
        assert history.delete_room("a")
        assert history.options == {}
        position = history.position("a")
        assert position.offset == 0
        assert position.epoch != before.epoch
        assert history.before("a", None, 300).publications == []
        assert history.since("a", before, 300) is None
        assert found(history, "word") == set()
        add(history, "new word")
        assert found(history, "word") == {"new word"}
        assert history.position("a").offset == 1
        assert texts(history.before("b", None, 300).publications) == ["other word"]
        assert [each.room for each in history.streams("", "", 300)] == ["a", "b"]
        assert not history.delete_room("nowhere")

    def test_id_in_a_deleted_room_is_new_again(self, history: History) -> None:
        history.append([draft(id="1")])
        history.delete_room("a")
        (outcome,) = history.append([draft(id="1")])
        assert isinstance(outcome, Message)

    def test_publications_of_a_user_are_found_in_all_rooms(self, history: History) -> None:
        """They come in the order of rooms and offsets, in steps."""
        for room in ("b", "a"):
            add(history, "one", "two", room=room)
            history.append([draft("of Bob", room=room, by="Bob")])
            change(history, react(1, room=room), edit(1, room=room))
        mine = published_by(history, "user Alice", limit=2)
        assert sorted((each.room, each.offset) for each in mine) == [
            *(("a", 1), ("a", 2), ("a", 5)),
            *(("b", 1), ("b", 2), ("b", 5)),
        ]
        by_rooms = [each.room for each in mine]
        assert by_rooms in (["a"] * 3 + ["b"] * 3, ["b"] * 3 + ["a"] * 3)
        assert published_by(history, "nobody", limit=2) == []

    def test_erased_user_has_said_nothing(self, history: History) -> None:
        """Messages are deleted, names and ids replaced, reactions taken back; others' stay."""
        history.append([draft("secret word", id="1"), draft("of Bob", by="Bob")])
        change(history, react(1), react(2, by="Alice"), react(2, "🎉", by="Carol"))
        change(history, edit(1, "another secret"))
        add(history, "elsewhere secret", room="b")
        head = history.position("a")
        assert erase(history, "user Alice") == (2, 1, {"a", "b"})
        assert history.position("a") == head
        first, second = history.before("a", None, 300).publications
        assert (first.text, first.deleted, first.username) == ("", True, "(erased)")
        assert (first.user, first.id, first.reactions) == ("e_", None, None)
        assert second.text == "of Bob"
        assert reactions(second) == {"🎉": ["Carol"]}
        everything = history.since("a", head._replace(offset=0, timestamp=None), 300)
        assert everything is not None
        said = [(each.user, each.username, each.text) for each in everything]
        assert not [each for each in said if "Alice" in str(each) or "secret" in str(each)]
        assert found(history, "secret") == set()
        assert found(history, "Bob") == {"of Bob"}
        assert erase(history, "user Alice") == (0, 0, set())
        (outcome,) = history.append([draft(id="1")])
        assert isinstance(outcome, Message)


def published_by(history: History, user: str, limit: int) -> list[Publication]:
    """All publications of a user, read in steps."""
    everything: list[Publication] = []
    found, cursor = history.published_by(user, None, limit)
    everything += found
    while cursor is not None:
        found, cursor = history.published_by(user, cursor, limit)
        assert len(found) <= limit
        everything += found
    return everything


def erase(history: History, user: str) -> tuple[int, int, set[str]]:
    """Erase a user in steps; returns the sums of the steps."""
    messages, reactions, rooms = 0, 0, set[str]()
    erasure, cursor = history.erase_user(user, None)
    while True:
        messages, reactions = messages + erasure.messages, reactions + erasure.reactions
        rooms |= erasure.rooms
        if cursor is None:
            return messages, reactions, rooms
        erasure, cursor = history.erase_user(user, cursor)
