"""Drafts of a worker, until their outcome is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from fastchat.brokers import OnOutcome
from fastchat.brokers.relay import records
from fastchat.brokers.relay.wire import BadRecord
from fastchat.brokers.relay.worker_rooms import WorkerRoom, WorkerRooms
from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Draft, Kind, MessageDraft
from fastchat.rooms.refusals import unavailable

__all__ = ["Drafts"]

#: The most drafts of one record, and the most by which their deadlines can differ. A record has one
#: deadline, so the drafts of a record share the earliest.
BATCH, BATCH_S = 1000, 0.1


class _Waiting(NamedTuple):
    """A draft, its callback, its deadline, and its room if this process has the room."""

    draft: Draft
    outcome: OnOutcome | None
    deadline: float
    room: WorkerRoom | None


#: A tuple of a named class, without its arguments' names: in a quarter of the time.
_new_tuple = tuple.__new__


class Drafts:
    """The drafts without an outcome, by number, in the order of publishing and of deadlines.

    They outlive a relay: the worker sends them to the next relay again. The old relay can have
    stored some of them without a reply. The worker recognises those among the publications that it
    has missed, and does not send them again. At most `max_drafts` wait.
    """

    def __init__(self, rooms: WorkerRooms, max_drafts: int) -> None:
        self._rooms = rooms
        self._max_drafts = max_drafts
        self._drafts: dict[int, _Waiting] = {}
        self._new: list[int] = []  # numbers of the drafts that were not sent yet
        self._newest = 0
        #: Numbers of the drafts that an old relay can have stored, by their marks (`_mark_of`).
        self._unsure: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._drafts)

    def add(self, draft: Draft, outcome: OnOutcome | None, deadline: float) -> None:
        """Add a draft, to be sent later; `outcome` is called once, with its outcome."""
        room = self._rooms.get(draft.room)  # None if the room's stream was just lost
        if room is not None:
            room.pending += 1
        self._newest += 1
        self._drafts[self._newest] = _new_tuple(_Waiting, (draft, outcome, deadline, room))
        self._new.append(self._newest)

    # To the relay

    @property
    def has_new(self) -> bool:
        """Whether there are drafts that were not sent yet."""
        return bool(self._new)

    def send_new(self) -> Iterator[records.Publish]:
        """Yield the drafts that were not sent yet, in as few records as possible."""
        waiting = self._drafts
        new = [number for number in self._refuse_excess() if number in waiting]
        while new:
            deadline = waiting[new[0]].deadline
            numbers = new[:BATCH]
            if waiting[numbers[-1]].deadline - deadline > BATCH_S:
                latest = deadline + BATCH_S
                numbers = [number for number in numbers if waiting[number].deadline <= latest]
            drafts = [waiting[number].draft for number in numbers]
            yield records.Publish(deadline, numbers, drafts)
            new = new[len(numbers) :]

    def send_all(self) -> Iterator[records.Publish]:
        """Yield all drafts, for a new relay."""
        self._new = list(self._drafts)
        return self.send_new()

    def keep_new(self) -> None:
        """Keep the new drafts for the next relay, which receives all drafts (`send_all`)."""
        self._refuse_excess()

    def refuse_new(self) -> None:
        """Refuse the new drafts, because the relay has too much still to read."""
        new, self._new = self._new, []
        for number in new:
            self.decide(number, unavailable())

    def _refuse_excess(self) -> list[int]:
        """Return the new drafts; if more than `max_drafts` wait, the newest are refused."""
        new, self._new = self._new, []
        excess = len(self._drafts) - self._max_drafts
        if excess > 0:
            for number in new[-excess:]:
                self.decide(number, unavailable())
        return new

    # Outcomes

    def decide(self, number: int, outcome: int | Duplicate | CommandError) -> None:
        """Give a draft its outcome, unless it has one already."""
        waiting = self._drafts.pop(number, None)
        if waiting is not None:
            self._rooms.settle(waiting.draft.room, waiting.room)
            if waiting.outcome is not None:
                waiting.outcome(outcome)

    def decide_published(self, numbers: Sequence[int | None], offset: int) -> None:
        """Give drafts their offsets, which follow each other; None is another worker's draft."""
        pop, settle = self._drafts.pop, self._rooms.settle
        for each, number in enumerate(numbers, offset):
            waiting = pop(number, None) if number is not None else None
            if waiting is not None:
                draft, outcome, _, room = waiting
                settle(draft.room, room)
                if outcome is not None:
                    outcome(each)

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
            raise BadRecord("an ANSWER calls a draft without an id a duplicate")
        else:
            self.decide(number, Duplicate(waiting.draft.room, id, outcome))

    def on_lost(self, room: WorkerRoom) -> None:
        """Refuse the drafts without an `id` of a room whose stream is lost.

        The worker cannot find out whether they were stored. A draft with an `id` can be sent
        again, because the history recognises the `id`.
        """
        for number, waiting in tuple(self._drafts.items()):
            if waiting.room is room and waiting.draft.id is None:
                self.decide(number, unavailable())

    def give_up(self, now: float) -> None:
        """Refuse the drafts whose deadline has passed."""
        for number, waiting in tuple(self._drafts.items()):
            if waiting.deadline > now:
                return
            self.decide(number, unavailable())

    @property
    def first_deadline(self) -> float | None:
        return next(iter(self._drafts.values())).deadline if self._drafts else None

    # Drafts that an old relay can have stored

    def doubt(self) -> None:
        """Start to look for drafts among the publications that the worker has missed."""
        self._unsure.clear()
        for number, waiting in self._drafts.items():
            self._unsure[_mark_of(waiting.draft)].append(number)

    def end_doubt(self) -> None:
        self._unsure.clear()

    def recognise(self, payloads: Sequence[bytes], offset: int) -> None:
        """Give drafts their outcomes whose publications are among these missed ones.

        The offsets of the publications follow each other, from `offset` on.
        """
        for each, payload in enumerate(payloads, offset):
            self._recognise(payload, each)

    def _recognise(self, payload: bytes, offset: int) -> None:
        """Look for the draft of a missed publication.

        A message can have been edited or deleted since it was published. In that case the text is
        not compared.
        """
        event = orjson.loads(payload)
        text = event.get("text", "")
        changed = "edited" in event or not text
        for number in self._unsure.get(_mark_in(event), ()):
            waiting = self._drafts.get(number)
            if waiting is not None and (changed or waiting.draft.text == text):
                self.decide(number, offset)
                return


def _mark_of(draft: Draft) -> tuple[Any, ...]:
    """The fields by which a draft and its publication are matched; no change affects them."""
    where = (draft.room, draft.username, draft.timestamp)
    if isinstance(draft, MessageDraft):
        return (*where, Kind.MESSAGE, draft.id, None, None, False)
    return (*where, draft.kind, None, draft.target, draft.emoji or None, draft.remove)


def _mark_in(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same fields of a publication, from its decoded payload."""
    names = ("room", "username", "timestamp", "type", "id", "target", "emoji")
    return (*map(event.get, names), event.get("remove", False))
