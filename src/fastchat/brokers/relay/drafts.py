"""Drafts that a relay has, or may have, and has not confirmed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import orjson

from fastchat.brokers import OnOutcome
from fastchat.protocol import Publication

__all__ = ["Unconfirmed", "Waiting"]

Room = TypeVar("Room")


class Waiting(NamedTuple, Generic[Room]):
    """A draft, its callback, until when its sender waits (monotonic time), and its room."""

    draft: Publication
    outcome: OnOutcome | None
    deadline: float
    room: Room


class Unconfirmed(Generic[Room]):
    """By ticket, in the order in which they were published, which is that of their deadlines."""

    def __init__(self) -> None:
        self._drafts: dict[int, Waiting[Room]] = {}
        self._unsure: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        self._newest = 0

    def __len__(self) -> int:
        return len(self._drafts)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._drafts

    def __getitem__(self, ticket: int) -> Waiting[Room]:
        return self._drafts[ticket]

    def get(self, ticket: int) -> Waiting[Room] | None:
        return self._drafts.get(ticket)

    def items(self) -> Sequence[tuple[int, Waiting[Room]]]:
        """As they are now: some may be taken out meanwhile."""
        return tuple(self._drafts.items())

    def tickets(self) -> list[int]:
        return list(self._drafts)

    def add(self, waiting: Waiting[Room]) -> int:
        """Returns its ticket."""
        self._newest += 1
        self._drafts[self._newest] = waiting
        return self._newest

    def take(self, ticket: int) -> Waiting[Room] | None:
        """Out with one that is decided; None if it has been before."""
        return self._drafts.pop(ticket, None)

    def overdue(self, now: float) -> Iterator[int]:
        for ticket, waiting in self.items():
            if waiting.deadline > now:
                return
            yield ticket

    @property
    def first_deadline(self) -> float | None:
        return next(iter(self._drafts.values())).deadline if self._drafts else None

    # Those that a relay which is gone may have kept

    def doubt(self) -> None:
        """From now on what is missed may be one of them."""
        self._unsure.clear()
        for ticket, waiting in self._drafts.items():
            self._unsure[_mark(waiting.draft._asdict())].append(ticket)

    def end_doubt(self) -> None:
        self._unsure.clear()

    def recognise(self, payload: bytes) -> int | None:
        """The ticket of a publication that we missed, if it is one of them.

        A message may have been changed since it was published.
        """
        said = orjson.loads(payload)
        text = said.get("text", "")
        changed = "edited" in said or not text
        for ticket in self._unsure.get(_mark(said), ()):
            waiting = self._drafts.get(ticket)
            if waiting is not None and (changed or waiting.draft.text == text):
                return ticket
        return None


def _mark(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a draft, and its publication whatever became of it, have in common."""
    kind = fields.get("kind") or fields.get("type")
    more = ("room", "username", "timestamp", "id", "target", "emoji")
    return (kind, fields.get("remove", False), *map(fields.get, more))
