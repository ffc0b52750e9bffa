"""Drafts of a worker, until it is known what became of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from fastchat.brokers import OnOutcome
from fastchat.brokers.relay import records
from fastchat.brokers.relay.deadlines import unavailable
from fastchat.brokers.relay.local_rooms import LocalRoom, LocalRooms
from fastchat.brokers.relay.wire import BadRecord
from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Draft, Kind, MessageDraft

__all__ = ["Drafts"]

#: Drafts of one record, and how far their deadlines may lie apart.
BATCH, BATCH_S = 1000, 0.1


class _Waiting(NamedTuple):
    """A draft, its callback, its deadline, and its room if that is here."""

    draft: Draft
    outcome: OnOutcome | None
    deadline: float
    room: LocalRoom | None


class Drafts:
    """By number, in the order in which they were published, which is that of their deadlines.

    They outlive a relay. The next relay gets them again, but for those that the last one kept: the
    worker recognises these among the publications that it has missed. At most `max_drafts` wait.
    """

    def __init__(self, rooms: LocalRooms, max_drafts: int) -> None:
        self._rooms = rooms
        self._max_drafts = max_drafts
        self._drafts: dict[int, _Waiting] = {}
        self._new: list[int] = []  # not sent yet
        self._newest = 0
        self._unsure: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._drafts)

    def add(self, draft: Draft, outcome: OnOutcome | None, deadline: float) -> None:
        """Have a draft sent; `outcome` is called once, with what became of it."""
        room = self._rooms.get(draft.room)  # None if its stream was just lost
        if room is not None:
            room.pending += 1
        self._newest += 1
        self._drafts[self._newest] = _Waiting(draft, outcome, deadline, room)
        self._new.append(self._newest)

    # To the relay

    def send_new(self) -> Iterator[records.Publish]:
        """The drafts that the relay has not got: as many in a record as it holds.

        The drafts of a record have about one deadline, which they share.
        """
        new = self._refuse_excess()
        batch: list[tuple[int, Draft]] = []
        deadline = 0.0
        for number in new:
            waiting = self._drafts.get(number)
            if waiting is None:
                continue
            if batch and (len(batch) == BATCH or waiting.deadline - deadline > BATCH_S):
                yield records.Publish(deadline, batch)
                batch = []
            if not batch:
                deadline = waiting.deadline
            batch.append((number, waiting.draft))
        if batch:
            yield records.Publish(deadline, batch)

    def send_all(self) -> Iterator[records.Publish]:
        """All drafts, for a relay that has none of them."""
        self._new = list(self._drafts)
        return self.send_new()

    def keep_new(self) -> None:
        """There is no relay: the next one gets all drafts anyway."""
        self._refuse_excess()

    def refuse_new(self) -> None:
        """The relay does not read: nothing more is sent to it."""
        new, self._new = self._new, []
        for number in new:
            self.decide(number, unavailable())

    def _refuse_excess(self) -> list[int]:
        """Take the new drafts, and refuse the last of them where more wait than may."""
        new, self._new = self._new, []
        excess = len(self._drafts) - self._max_drafts
        if excess > 0:
            for number in new[-excess:]:
                self.decide(number, unavailable())
        return new

    # What became of them

    def decide(self, number: int, outcome: int | Duplicate | CommandError) -> None:
        """Tell a draft's sender its outcome, unless that has been decided before."""
        waiting = self._drafts.pop(number, None)
        if waiting is not None:
            self._rooms.settle(waiting.draft.room, waiting.room)
            if waiting.outcome is not None:
                waiting.outcome(outcome)

    def on_answer(self, answer: records.Answer) -> None:
        number, outcome, repeated = answer
        waiting = self._drafts.get(number)
        if waiting is None:
            return
        if isinstance(outcome, records.Refusal):
            self.decide(number, outcome.error())
        elif not repeated:
            self.decide(number, outcome)
        elif (id := waiting.draft.id) is None:
            raise BadRecord("a duplicate of a draft without an id")
        else:
            self.decide(number, Duplicate(waiting.draft.room, id, outcome))

    def on_lost(self, room: LocalRoom) -> None:
        """The stream of a room is lost, and with it the answers to its drafts.

        Whether they are kept is not known. Drafts with an `id` wait: sending one again does no
        harm.
        """
        for number, waiting in tuple(self._drafts.items()):
            if waiting.room is room and waiting.draft.id is None:
                self.decide(number, unavailable())

    def give_up(self, now: float) -> None:
        """Answer `unavailable` to those whose deadline has passed."""
        for number, waiting in tuple(self._drafts.items()):
            if waiting.deadline > now:
                return
            self.decide(number, unavailable())

    @property
    def first_deadline(self) -> float | None:
        return next(iter(self._drafts.values())).deadline if self._drafts else None

    # Those that a relay which is gone may have kept

    def doubt(self) -> None:
        """From now on a publication that was missed can be one of them."""
        self._unsure.clear()
        for number, waiting in self._drafts.items():
            self._unsure[_mark_of(waiting.draft)].append(number)

    def end_doubt(self) -> None:
        self._unsure.clear()

    def recognise(self, payload: bytes, offset: int) -> None:
        """Decide the draft of a publication that was missed, if it is one of them.

        A message can have been changed since it was published.
        """
        said = orjson.loads(payload)
        text = said.get("text", "")
        changed = "edited" in said or not text
        for number in self._unsure.get(_mark_in(said), ()):
            waiting = self._drafts.get(number)
            if waiting is not None and (changed or waiting.draft.text == text):
                self.decide(number, offset)  # the last relay kept it, and could not say so
                return


def _mark_of(draft: Draft) -> tuple[Any, ...]:
    """What a draft, and its publication whatever became of it, have in common."""
    where = (draft.room, draft.username, draft.timestamp)
    if isinstance(draft, MessageDraft):
        return (*where, Kind.MESSAGE, draft.id, None, None, False)
    return (*where, draft.kind, None, draft.target, draft.emoji or None, draft.remove)


def _mark_in(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same of a publication as clients get it."""
    names = ("room", "username", "timestamp", "type", "id", "target", "emoji")
    return (*map(said.get, names), said.get("remove", False))
