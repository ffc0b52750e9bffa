"""The contract of `fastchat.history.History`, as tests that every implementation runs."""

from __future__ import annotations

import pytest

from fastchat.history import Duplicate, History, Page
from fastchat.protocol import Position, Publication


def draft(
    text: str = "hello", *, room: str = "a", by: str = "Alice", id: str | None = None
) -> Publication:
    """A publication that has no offset yet."""
    return Publication(room, 0, by, text, "2025-01-18T10:30:00.123Z", id)


def add(history: History, *texts: str, room: str = "a") -> None:
    for text in texts:
        history.append((draft(text, room=room),))


def texts(page: Page | list[Publication] | None) -> list[str]:
    assert page is not None
    return [each.text for each in (page.publications if isinstance(page, Page) else page)]


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
        assert [type(each) for each in first + second] == [Publication] * 3
        assert [each.offset for each in first + second] == [1, 2, 3]
        assert history.position("a").offset == 3

    def test_publication_is_its_draft_with_an_offset(self, history: History) -> None:
        """Nothing but the offset is changed, and that of the draft does not matter."""
        sent = Publication("a", 77, "Zoë", "x\n\0😀", "2025-01-18T10:30:00.123Z", "id")
        (published,) = history.append([sent])
        assert published == sent._replace(offset=1)
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
        assert [type(each) for each in outcomes] == [Publication, Duplicate, Publication]
        assert [each.offset for each in outcomes] == [1, 1, 2]

    def test_id_belongs_to_its_user_and_room(self, history: History) -> None:
        """The same id of another user, or in another room, is another message."""
        drafts = [draft(id="i"), draft(id="i", by="Bob"), draft(id="i", room="b")]
        assert [type(each) for each in history.append(drafts)] == [Publication] * 3

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

    def test_forgotten_room_begins_anew(self, history: History) -> None:
        """After `forget` a room has another epoch, offset 0, no publications and no ids."""
        history.append([draft(id="i"), draft(room="b")])
        epoch = history.position("a").epoch
        history.forget("a")
        assert history.before("a", None, 9) == Page([], False)
        assert history.position("a").epoch != epoch
        assert history.append([draft(id="i")]) == [draft(id="i")._replace(offset=1)]
        assert history.position("b").offset == 1

    def test_forgetting_what_is_not_known_is_no_error(self, history: History) -> None:
        """`forget` may come twice, or for nothing."""
        history.forget("nowhere")
        history.append([draft()])
        history.forget("a")
        history.forget("a")
