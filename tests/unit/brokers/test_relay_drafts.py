"""Drafts of a worker: each is sent, and decided once."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.history import draft, edit
from fastchat import protocol
from fastchat.brokers.relay import records
from fastchat.brokers.relay.drafts import BATCH, BATCH_S, Drafts
from fastchat.brokers.relay.local_rooms import LocalRoom, LocalRooms
from fastchat.brokers.relay.wire import BadRecord
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.protocol import Position

REFUSAL = records.Refusal(ErrorCode.RATE_LIMITED, "Slow down.", True, 5)


class Told:
    """Drafts with outcomes that are written down."""

    def __init__(self, *, max_drafts: int = 10_000) -> None:
        self.rooms = LocalRooms()
        self.drafts = Drafts(self.rooms, max_drafts=max_drafts)
        self.outcomes: dict[str, Any] = {}

    def add(self, *texts: str, deadline: float = 0.0, id: str | None = None) -> None:
        for text in texts:

            def outcome(outcome: Any, text: str = text) -> None:
                assert text not in self.outcomes, "a draft is decided once"
                self.outcomes[text] = outcome

            self.drafts.add(draft(text, id=id), outcome, deadline)

    def sent(self) -> list[list[str]]:
        return [[each.text for _, each in record.drafts] for record in self.drafts.send_new()]


@pytest.fixture
def told() -> Told:
    return Told()


def test_draft_is_sent_once(told: Told) -> None:
    """With the other ones of its turn; another relay gets all that are not decided."""
    told.add("1", "2")
    assert told.sent() == [["1", "2"]]
    told.add("3")
    assert told.sent() == [["3"]]
    assert told.sent() == []
    told.drafts.decide(1, 7)
    (record,) = told.drafts.send_all()
    assert [number for number, _ in record.drafts] == [2, 3]


def test_batches_have_a_deadline_and_a_size(told: Told) -> None:
    """A draft that may wait longer is not given up with the first."""
    told.add(*map(str, range(BATCH + 1)))
    told.add("soon", deadline=BATCH_S)
    told.add("later", deadline=2 * BATCH_S + 0.001)
    batches = list(told.drafts.send_new())
    assert [len(each.drafts) for each in batches] == [BATCH, 2, 1]
    assert [each.deadline for each in batches] == [0.0, 0.0, 2 * BATCH_S + 0.001]


def test_draft_is_decided_once(told: Told) -> None:
    """What comes later of it is nobody's."""
    told.add("1", "2", "3", "4", id="i")
    for answer in (
        records.Answer(1, 7),
        records.Answer(2, 5, repeated=True),
        records.Answer(3, REFUSAL),
    ) * 2:
        told.drafts.on_answer(answer)
    refusal = told.outcomes.pop("3")
    assert isinstance(refusal, CommandError)
    assert records.Refusal.of(refusal) == REFUSAL
    assert told.outcomes == {"1": 7, "2": Duplicate("a", "i", 5)}
    assert len(told.drafts) == 1


def test_duplicate_of_a_draft_without_an_id_is_bad(told: Told) -> None:
    """No history says that."""
    told.add("1")
    with pytest.raises(BadRecord):
        told.drafts.on_answer(records.Answer(1, 5, repeated=True))


def test_drafts_are_given_up_in_their_order(told: Told) -> None:
    """Up to the first that has time left."""
    told.add("1", deadline=1.0)
    told.add("2", deadline=2.0)
    assert told.drafts.first_deadline == 1.0
    told.drafts.give_up(1.5)
    assert set(told.outcomes) == {"1"}
    assert told.drafts.first_deadline == 2.0
    told.drafts.give_up(2.0)
    assert told.drafts.first_deadline is None


def test_too_many_are_refused_at_once() -> None:
    """The last of them; those that were taken wait on, whether there is a relay or not."""
    told = Told(max_drafts=3)
    told.add("1", "2")
    told.drafts.keep_new()
    told.add("3", "4", "5")
    assert told.sent() == [["3"]]
    assert set(told.outcomes) == {"4", "5"}
    told.add("6")
    told.drafts.keep_new()
    assert set(told.outcomes) == {"4", "5", "6"}


def test_relay_that_does_not_read_gets_nothing_more(told: Told) -> None:
    """The new ones are refused; those before may be on their way."""
    told.add("1")
    assert told.sent() == [["1"]]
    told.add("2")
    told.drafts.refuse_new()
    assert set(told.outcomes) == {"2"}


def test_draft_is_pending_in_its_room(told: Told) -> None:
    """Until it is decided; then a room without members is dropped."""
    told.rooms["a"] = room = LocalRoom(Position("epoch", 1))
    told.add("1", "2")
    assert room.pending == 2
    told.drafts.decide(1, 7)
    assert told.rooms["a"] is room
    told.drafts.decide(2, 8)
    assert told.rooms == {}


def test_drafts_of_a_lost_room_are_unavailable(told: Told) -> None:
    """But for those with an id, which can be sent again without harm."""
    told.rooms["a"] = room = LocalRoom(Position("epoch", 1))
    told.add("1")
    told.add("2", id="i")
    told.drafts.on_lost(room)
    assert set(told.outcomes) == {"1"}


def test_missed_publication_decides_its_draft(told: Told) -> None:
    """Of two that are the same, one each; also where it was edited meanwhile."""
    told.add("1", id=None)
    told.drafts.doubt()
    other = protocol.encode(draft("2").numbered(1))
    told.drafts.recognise(other, 1)
    assert told.outcomes == {}
    edited = draft("changed").numbered(2)._replace(edited="2025-01-18T10:30:01.000Z")
    told.drafts.recognise(protocol.encode(edited), 2)
    assert told.outcomes == {"1": 2}
    told.add("3")
    told.drafts.recognise(protocol.encode(draft("3").numbered(3)), 3)
    assert "3" not in told.outcomes, "it was published after the relay had gone"


def test_missed_change_decides_its_draft(told: Told) -> None:
    """After the doubt has ended, nothing is taken for it any more."""
    seen: list[Any] = []
    for text in ("x", "y"):
        told.drafts.add(edit(1, text), seen.append, 0.0)
    told.drafts.doubt()
    told.drafts.recognise(protocol.encode(edit(1, "x").numbered(2)), 2)
    told.drafts.end_doubt()
    told.drafts.recognise(protocol.encode(edit(1, "y").numbered(3)), 3)
    assert seen == [2]
