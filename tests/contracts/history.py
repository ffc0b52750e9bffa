"""The contract of `fastchat.history.History`, as tests that every implementation runs."""

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

#: When every draft is published, in seconds and as it is written.
NOW_S = 1737196200.123
TIMESTAMP = "2025-01-18T10:30:00.123Z"
#: When every change is made.
LATER = "2025-01-18T10:31:00.456Z"


def draft(
    text: str = "hello", *, room: str = "a", by: str = "Alice", id: str | None = None
) -> MessageDraft:
    return MessageDraft(room, by, text, TIMESTAMP, f"author {by}", id)


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
    return ChangeDraft(room, by, text, LATER, f"author {by}", kind, target, **more)


def add(history: History, *texts: str, room: str = "a") -> None:
    for text in texts:
        history.append((draft(text, room=room),))


def change(history: History, *changes: Draft) -> None:
    """Append what is not refused."""
    for outcome in history.append(changes):
        assert isinstance(outcome, Message | Change), outcome


def refused(history: History, change: ChangeDraft) -> ErrorCode:
    """The code with which a change is refused, which leaves no trace."""
    position = history.position(change.room)
    before = history.since(change.room, position._replace(offset=0), 10_000)
    (outcome,) = history.append([change])
    assert isinstance(outcome, CommandError)
    assert outcome.message.endswith(".")
    assert not outcome.temporary
    assert history.position(change.room) == position
    assert history.since(change.room, position._replace(offset=0), 10_000) == before
    return outcome.code


def message(history: History, offset: int, room: str = "a") -> Message:
    """A message as it is now."""
    (found,) = history.before(room, offset + 1, 1).publications
    assert found.offset == offset
    return found


def reactions(message: Message) -> dict[str, list[str]]:
    return {emoji: list(names) for emoji, names in (message.reactions or {}).items()}


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
    """A subclass gives the fixture `history`: a new one that keeps `KEPT` publications a room,
    and at most `SLACK` more."""

    KEPT = 40
    SLACK = 5

    @pytest.fixture
    def history(self) -> History:
        raise NotImplementedError

    # Numbers

    def test_room_begins_at_offset_0(self, history: History) -> None:
        """A room nobody has written in has an epoch and stands at 0."""
        position = history.position("a")
        assert position.offset == 0
        assert position.epoch
        assert history.position("a") == position

    def test_publications_are_numbered_without_holes(self, history: History) -> None:
        """Offsets are 1, 2, 3 …, in the order of appending, within and across calls."""
        first = history.append([draft("one"), draft("two")])
        second = history.append([draft("three")])
        assert [type(each) for each in first + second] == [Message] * 3
        assert [each.offset for each in first + second] == [1, 2, 3]
        assert history.position("a").offset == 3

    def test_publication_is_its_draft_with_an_offset(self, history: History) -> None:
        """Nothing but the offset is added."""
        sent = MessageDraft("a", "Zoë", "x\n\0😀", "2025-01-18T10:30:00.123Z", "author", "id")
        (published,) = history.append([sent])
        assert published == Message("a", 1, *sent[1:])
        assert history.before("a", None, 9).publications == [published]

    def test_nothing_appended_changes_nothing(self, history: History) -> None:
        """An empty batch is allowed."""
        assert history.append([]) == []
        assert history.position("a").offset == 0

    def test_rooms_are_numbered_by_themselves(self, history: History) -> None:
        """Each room has its own epoch and offsets, also within one call."""
        outcomes = history.append([draft(room="a"), draft(room="b"), draft(room="a")])
        assert [(each.room, each.offset) for each in outcomes] == [("a", 1), ("b", 1), ("a", 2)]
        assert history.position("a").epoch != history.position("b").epoch

    def test_epoch_stays_while_the_room_grows(self, history: History) -> None:
        """The epoch changes with a loss only, not with publications or with trimming."""
        epoch = history.position("a").epoch
        for number in range(self.KEPT * 3):
            add(history, str(number))
        assert history.position("a") == Position(epoch, self.KEPT * 3)

    # Duplicates

    def test_second_draft_with_an_id_is_a_duplicate(self, history: History) -> None:
        """Sending again makes no publication, and tells where the first one is."""
        history.append([draft("other"), draft("first", id="i")])
        assert history.append([draft("again", id="i")]) == [Duplicate("a", "i", 2)]
        assert history.position("a").offset == 2
        assert texts(history.before("a", None, 9)) == ["other", "first"]

    def test_duplicate_within_one_call_is_found(self, history: History) -> None:
        """A batch may hold a message and its repetition."""
        outcomes = history.append([draft(id="i"), draft(id="i"), draft()])
        assert [type(each) for each in outcomes] == [Message, Duplicate, Message]
        assert [each.offset for each in outcomes] == [1, 1, 2]

    def test_id_belongs_to_its_user_and_room(self, history: History) -> None:
        """The same id of another user, or in another room, is another message."""
        drafts = [draft(id="i"), draft(id="i", by="Bob"), draft(id="i", room="b")]
        assert [type(each) for each in history.append(drafts)] == [Message] * 3

    def test_drafts_without_id_are_never_duplicates(self, history: History) -> None:
        """Saying the same twice is allowed."""
        assert len({each.offset for each in history.append([draft(), draft()])}) == 2

    # Recovery

    def test_since_returns_all_that_is_missing(self, history: History) -> None:
        """A recovery is every publication after the position, oldest first."""
        add(history, "1", "2", "3", "4")
        epoch = history.position("a").epoch
        assert texts(history.since("a", Position(epoch, 2), 9)) == ["3", "4"]
        assert texts(history.since("a", Position(epoch, 0), 4)) == ["1", "2", "3", "4"]
        assert history.since("a", Position(epoch, 4), 9) == []
        assert history.since("a", Position(epoch, 4), 0) == []

    def test_since_never_returns_a_part(self, history: History) -> None:
        """Too many, another epoch, or a position ahead: None."""
        add(history, "1", "2", "3", "4")
        epoch = history.position("a").epoch
        assert history.since("a", Position(epoch, 1), 2) is None
        assert history.since("a", Position(epoch, 5), 9) is None
        assert history.since("a", Position(epoch, 2**53 - 1), 9) is None
        assert history.since("a", Position("other", 2), 9) is None
        assert history.since("a", Position("", 0), 9) is None

    def test_since_returns_nothing_when_some_are_no_longer_kept(self, history: History) -> None:
        """A position whose successor is gone gives None, the oldest that is kept gives all."""
        for number in range(1, self.KEPT * 3 + 1):
            add(history, str(number))
        epoch, newest = history.position("a")
        assert history.since("a", Position(epoch, 0), 10_000) is None
        found = history.since("a", Position(epoch, newest - self.KEPT), 10_000)
        assert texts(found) == [str(n) for n in range(newest - self.KEPT + 1, newest + 1)]
        assert (
            history.since("a", Position(epoch, newest - self.KEPT - self.SLACK - 1), 10_000) is None
        )

    def test_since_in_an_unknown_room_is_none(self, history: History) -> None:
        """A room that was lost recovers nobody, not even from 0."""
        assert history.since("nowhere", Position("epoch", 0), 9) is None

    # Pages

    def test_before_returns_the_newest(self, history: History) -> None:
        """Without an offset it is the end of the stream; `more` tells of older ones."""
        add(history, "1", "2", "3")
        assert history.before("a", None, 2) == Page(
            history.before("a", None, 9).publications[1:], True
        )
        assert texts(history.before("a", None, 3)) == ["1", "2", "3"]
        assert not history.before("a", None, 3).more
        assert not history.before("a", None, 300).more

    def test_before_an_offset_returns_what_is_below_it(self, history: History) -> None:
        """The offset itself is not on the page."""
        add(history, "1", "2", "3", "4")
        page = history.before("a", 4, 2)
        assert (texts(page), page.more) == (["2", "3"], True)
        page = history.before("a", 3, 2)
        assert (texts(page), page.more) == (["1", "2"], False)
        assert history.before("a", 1, 9) == Page([], False)
        assert history.before("a", 0, 9) == Page([], False)
        assert texts(history.before("a", 99, 9)) == ["1", "2", "3", "4"]

    def test_after_an_offset_returns_the_oldest_above_it(self, history: History) -> None:
        """`more` tells of newer ones."""
        add(history, "1", "2", "3", "4")
        page = history.after("a", 1, 2)
        assert (texts(page), page.more) == (["2", "3"], True)
        page = history.after("a", 2, 2)
        assert (texts(page), page.more) == (["3", "4"], False)
        assert history.after("a", 4, 9) == Page([], False)
        assert history.after("a", 2**53 - 1, 9) == Page([], False)
        assert texts(history.after("a", 0, 9)) == ["1", "2", "3", "4"]

    def test_pages_of_an_empty_room_are_empty(self, history: History) -> None:
        """A room nobody has written in is no error."""
        assert history.before("a", None, 9) == Page([], False)
        assert history.before("a", 5, 9) == Page([], False)
        assert history.after("a", 0, 9) == Page([], False)

    def test_walking_back_page_by_page_meets_everything_once(self, history: History) -> None:
        """`before` the oldest of each page leads to the beginning."""
        for number in range(23):
            add(history, str(number))
        met: list[str] = []
        page = history.before("a", None, 5)
        met = texts(page)
        while page.more:
            page = history.before("a", page.publications[0].offset, 5)
            met = texts(page) + met
        assert met == [str(number) for number in range(23)]

    def test_walking_on_page_by_page_meets_everything_once(self, history: History) -> None:
        """`after` the newest of each page leads to the end, from the oldest that is kept."""
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

    def test_pages_are_the_callers_own(self, history: History) -> None:
        """What was returned does not change with the history, nor the other way round."""
        add(history, "1")
        page = history.before("a", None, 9)
        add(history, "2")
        assert texts(page) == ["1"]
        page.publications.clear()
        assert texts(history.before("a", None, 9)) == ["1", "2"]

    # Bounds

    def test_newest_are_kept_and_the_oldest_go(self, history: History) -> None:
        """A room keeps its newest publications, and their offsets."""
        for number in range(1, self.KEPT * 3 + 1):
            add(history, str(number))
        kept = history.before("a", None, 10_000).publications
        assert self.KEPT <= len(kept) <= self.KEPT + self.SLACK
        assert [each.offset for each in kept][-1] == self.KEPT * 3
        assert [str(each.offset) for each in kept] == texts(kept)

    def test_changes_count_among_what_is_kept(self, history: History) -> None:
        """A room is bounded in publications of all kinds; its messages may be fewer."""
        add(history, "old")
        for number in range(self.KEPT // 2):
            add(history, str(number))
            change(history, react(2 * number + 2))
        for number in range(self.SLACK):
            add(history, f"later {number}")
        assert "old" not in texts(history.before("a", None, 10_000))
        kept = history.since("a", history.position("a")._replace(offset=1 + self.SLACK), 10_000)
        assert kept is not None
        assert len(history.before("a", None, 10_000).publications) < len(kept)

    def test_change_of_what_is_no_longer_kept_is_not_found(self, history: History) -> None:
        """The author himself cannot change what is gone."""
        for number in range(self.KEPT * 2):
            add(history, str(number))
        assert refused(history, edit(1)) == ErrorCode.NOT_FOUND
        assert refused(history, react(1)) == ErrorCode.NOT_FOUND
        assert refused(history, delete(1)) == ErrorCode.NOT_FOUND

    def test_changes_of_what_goes_next_are_kept_themselves(self, history: History) -> None:
        """An edit outlives its message, as any publication does that is newer."""
        add(history, "first")
        for number in range(self.KEPT - 1):
            add(history, str(number))
        change(history, edit(1))
        for number in range(self.SLACK + 1):
            add(history, f"later {number}")
        epoch, newest = history.position("a")
        assert 1 not in offsets(history.before("a", None, 10_000))
        kept = history.since("a", Position(epoch, self.KEPT), 10_000)
        assert kept is not None
        assert kept[0] == edit(1).numbered(self.KEPT + 1)
        assert offsets(kept) == list(range(self.KEPT + 1, newest + 1))

    def test_pruning_drops_nothing_that_is_to_be_kept(self, history: History) -> None:
        """Without a bound on age `prune` may be called at any time, and changes nothing."""
        history.prune()
        add(history, "1", "2", "3")
        change(history, edit(1), react(2), delete(3))
        everything = history.since("a", history.position("a")._replace(offset=0), 300)
        for _ in range(3):
            history.prune()
        assert history.since("a", history.position("a")._replace(offset=0), 300) == everything

    def test_forgotten_room_begins_anew(self, history: History) -> None:
        """A room in which nothing was said has another epoch after `forget`; others stay."""
        history.append([draft(room="b")])
        epoch = history.position("a").epoch
        history.forget("a")
        assert history.before("a", None, 9) == Page([], False)
        assert history.position("a").epoch != epoch
        assert history.position("a").offset == 0
        assert history.since("a", Position(epoch, 0), 9) is None
        assert history.position("b").offset == 1

    def test_epoch_of_a_silent_room_may_be_adopted(self, history: History) -> None:
        """What its members know counts until something is published; later it does not."""
        history.adopt("a", "theirs")
        assert history.position("a") == Position("theirs", 0)
        history.append([draft()])
        assert history.position("a") == Position("theirs", 1)
        history.adopt("a", "another")
        assert history.position("a") == Position("theirs", 1)

    def test_forgetting_what_is_not_known_is_no_error(self, history: History) -> None:
        """`forget` may come twice, or for nothing."""
        history.forget("nowhere")
        history.position("a")
        history.forget("a")
        history.forget("a")

    def test_room_that_was_only_looked_at_is_empty(self, history: History) -> None:
        """Reading a room, or changing nothing in it, is no error and publishes nothing."""
        assert refused(history, edit(1)) == ErrorCode.NOT_FOUND
        assert history.position("a").offset == 0
        assert found(history, "x") == set()
        assert history.since("a", history.position("a"), 9) == []

    # Changes

    def test_edit_is_a_publication_and_changes_its_message(self, history: History) -> None:
        """The stream has both, the message in its present state."""
        add(history, "first", "second")
        (published,) = history.append([edit(1, "better")])
        assert published == edit(1, "better").numbered(3)
        expected = draft("first").numbered(1)._replace(text="better", edited=LATER)
        assert message(history, 1) == expected
        assert message(history, 2).edited is None
        missed = history.since("a", history.position("a")._replace(offset=0), 9)
        assert missed == [expected, draft("second").numbered(2), published]

    def test_last_edit_counts(self, history: History) -> None:
        """A message may be edited any number of times."""
        add(history, "1")
        change(history, edit(1, "2"), edit(1, "3"))
        change(history, edit(1, "4"))
        assert texts(history.before("a", None, 9)) == ["4"]
        assert offsets(history.since("a", history.position("a")._replace(offset=0), 9)) == [
            *(1, 2, 3, 4)
        ]

    def test_deleted_text_is_nowhere_any_more(self, history: History) -> None:
        """Neither in the message nor in its edits, whichever way one reads."""
        add(history, "secret one", "harmless")
        change(history, edit(1, "secret two"), react(1))
        assert found(history, "secret") == {"secret two"}
        change(history, edit(1, "secret three"))
        change(history, delete(1))
        start = history.position("a")._replace(offset=0)
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
        """It names its message, and says nothing of it."""
        add(history, "secret")
        assert history.append([delete(1)]) == [delete(1).numbered(2)]

    def test_only_its_author_may_change_a_message(self, history: History) -> None:
        """Somebody else may not, under the same name neither; and the author still may."""
        add(history, "mine")
        impostor = {"author": "author of another session"}
        for forbidden in (
            edit(1, by="Bob"),
            delete(1, by="Bob"),
            edit(1)._replace(**impostor),
            delete(1)._replace(**impostor),
        ):
            assert refused(history, forbidden) == ErrorCode.FORBIDDEN
        assert texts(history.before("a", None, 9)) == ["mine"]
        change(history, edit(1, "still mine"), delete(1))

    def test_change_of_what_is_no_message_is_not_found(self, history: History) -> None:
        """Not an offset without a publication, nor another kind, nor another room's."""
        add(history, "1")
        add(history, "1", "2", "3", "4", room="b")
        change(history, edit(1), react(1))
        for target in (0, 2, 3, 4, 5, 2**53 - 1):
            for wrong in (edit(target), delete(target), react(target), react(target, remove=True)):
                assert refused(history, wrong) == ErrorCode.NOT_FOUND

    def test_deleted_message_is_not_found(self, history: History) -> None:
        """It cannot be edited, deleted again, or reacted to; not even by its author."""
        add(history, "1")
        change(history, delete(1))
        for late in (edit(1), delete(1), react(1), react(1, remove=True), edit(1, by="Bob")):
            assert refused(history, late) == ErrorCode.NOT_FOUND

    def test_id_of_a_deleted_message_is_still_known(self, history: History) -> None:
        """What its author deleted does not come back when it is sent again."""
        history.append([draft("gone", id="i")])
        change(history, delete(1))
        assert history.append([draft("gone", id="i")]) == [Duplicate("a", "i", 1)]

    def test_changes_within_one_call_see_each_other(self, history: History) -> None:
        """A batch may hold a message and what becomes of it, and a refusal among them."""
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

    def test_changes_in_many_rooms_stay_in_theirs(self, history: History) -> None:
        """The same offset in another room is another message."""
        add(history, "a")
        add(history, "b", room="b")
        change(history, edit(1, "changed", room="b"), react(1, room="b"))
        assert message(history, 1) == draft("a").numbered(1)
        assert texts(history.before("b", None, 9)) == ["changed"]

    # Reactions

    def test_reactions_are_names_by_emoji(self, history: History) -> None:
        """Anybody may react, with several emoji, to his own message too."""
        add(history, "1")
        change(history, react(1, "👍"), react(1, "👍", by="Alice"), react(1, "❤️"))
        assert reactions(message(history, 1)) == {"👍": ["Bob", "Alice"], "❤️": ["Bob"]}
        assert message(history, 1).edited is None
        assert texts(history.before("a", None, 9)) == ["1"]

    def test_reaction_twice_counts_once(self, history: History) -> None:
        """It is a publication all the same, without effect."""
        add(history, "1")
        change(history, react(1), react(1))
        assert reactions(message(history, 1)) == {"👋": ["Bob"]}
        assert history.position("a").offset == 3

    def test_reaction_is_taken_back_by_whoever_made_it(self, history: History) -> None:
        """The others' stay; the last one takes the emoji with it."""
        add(history, "1")
        change(history, react(1), react(1, by="Eve"), react(1, remove=True))
        assert reactions(message(history, 1)) == {"👋": ["Eve"]}
        change(history, react(1, remove=True))
        assert reactions(message(history, 1)) == {"👋": ["Eve"]}
        change(history, react(1, by="Eve", remove=True))
        assert message(history, 1) == draft("1").numbered(1)

    def test_reaction_survives_an_edit(self, history: History) -> None:
        """Only a deletion takes it away."""
        add(history, "1")
        change(history, react(1), edit(1, "2"))
        assert reactions(message(history, 1)) == {"👋": ["Bob"]}
        assert texts(history.before("a", None, 9)) == ["2"]

    def test_message_has_at_most_20_different_reactions(self, history: History) -> None:
        """One more is forbidden; a known one is not, nor one for which there is a place again."""
        add(history, "1")
        emoji = [chr(0x1F600 + number) for number in range(21)]
        change(history, *(react(1, each) for each in emoji[:20]))
        assert refused(history, react(1, emoji[20])) == ErrorCode.FORBIDDEN
        change(history, react(1, emoji[0], by="Eve"))
        change(history, react(1, emoji[20], remove=True))
        change(history, react(1, emoji[1], remove=True), react(1, emoji[20]))
        assert len(reactions(message(history, 1))) == 20

    # Pages of changed messages

    def test_pages_hold_messages_only(self, history: History) -> None:
        """Limits count messages, and `more` is about them."""
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
        """So that a client that has them learns of it."""
        add(history, "1", "2")
        change(history, delete(2))
        page = history.before("a", None, 9)
        assert [(each.offset, each.deleted) for each in page.publications] == [
            (1, False),
            (2, True),
        ]

    def test_recovery_holds_all_kinds(self, history: History) -> None:
        """After a position every publication comes, numbered without holes."""
        add(history, "1", "2")
        change(history, edit(1), react(2), delete(1))
        start = history.position("a")._replace(offset=2)
        assert history.since("a", start, 9) == [
            edit(1, "").numbered(3),  # its message is deleted
            react(2).numbered(4),
            delete(1).numbered(5),
        ]
        assert history.since("a", start, 2) is None

    def test_pages_do_not_change_with_later_changes(self, history: History) -> None:
        """What was read is what it was."""
        add(history, "1")
        change(history, react(1))
        page = history.before("a", None, 9)
        missed = history.since("a", history.position("a")._replace(offset=0), 9)
        change(history, react(1, by="Eve"), edit(1, "2"), delete(1))
        assert texts(page) == ["1"]
        assert missed is not None
        for read in (page.publications, missed):
            assert (read[0].text, read[0].deleted) == ("1", False)
            assert reactions(read[0]) == {"👋": ["Bob"]}

    # Search

    def test_search_finds_all_words_in_any_order(self, history: History) -> None:
        """Whole words, without regard to case and accents."""
        add(history, "The quick brown fox", "A brown bear", "Crème brûlée", "brownish")
        assert found(history, "brown") == {"The quick brown fox", "A brown bear"}
        assert found(history, "FOX quick") == {"The quick brown fox"}
        assert found(history, "creme brulee") == {"Crème brûlée"}
        assert found(history, "brown nothing") == set()

    def test_search_knows_phrases_and_prefixes(self, history: History) -> None:
        """`"…"` stands together, `wor*` is how a word begins."""
        add(history, "hello every body", "every hello body", "a world", "worse words")
        assert found(history, '"hello every"') == {"hello every body"}
        assert found(history, "wor*") == {"a world", "worse words"}
        assert found(history, "wor") == set()

    @pytest.mark.parametrize(
        "query", ["", " ", "*", '"', '""', "-", "AND", "(", "text:x", "NEAR(a b)", "'; --", "\0"]
    )
    def test_query_is_text_whatever_it_holds(self, history: History, query: str) -> None:
        """No syntax but quotes and stars; nothing fails over a query."""
        add(history, "hello")
        assert found(history, query) == set()

    def test_search_finds_the_present_text(self, history: History) -> None:
        """An edit is found by its new words only, and comes folded; reactions are no text."""
        add(history, "before")
        assert found(history, "before") == {"before"}
        change(history, edit(1, "after 👋"), react(1))
        assert found(history, "before") == set()
        (result,) = asyncio.run(history.search("a", "after", 9))
        assert result == message(history, 1)
        assert reactions(result) == {"👋": ["Bob"]}

    def test_search_finds_the_newest_first(self, history: History) -> None:
        """However often an older one has the word; with a limit the oldest are left out."""
        add(history, "word word", "word 2", "word and much else", "other", "word 5")
        results = asyncio.run(history.search("a", "word", 3))
        assert [each.offset for each in results] == [5, 3, 2]

    def test_search_is_of_one_room_and_limited(self, history: History) -> None:
        """What others say elsewhere is not found; of many as many as asked for."""
        for number in range(10):
            add(history, f"word {number}")
        add(history, "word elsewhere", room="b")
        assert len(found(history, "word")) == 10
        assert len(found(history, "word", limit=3)) == 3
        assert found(history, "word", room="b") == {"word elsewhere"}
        assert found(history, "word", room="nowhere") == set()

    def test_search_finds_what_is_kept_only(self, history: History) -> None:
        """What is no longer kept is not found either."""
        add(history, "oldest")
        assert found(history, "oldest") == {"oldest"}
        for number in range(self.KEPT * 2):
            add(history, f"newer {number}")
        assert found(history, "oldest") == set()
        kept = history.before("a", None, 10_000).publications
        assert found(history, "newer", limit=300) == set(texts(kept))
