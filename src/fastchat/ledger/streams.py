"""A room's stream as a machine follows it: what is delivered next, and the newest publications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastchat.errors import CommandError
from fastchat.history import Page
from fastchat.history.changes import amend, without_said
from fastchat.history.tails import Tail
from fastchat.ledger.appending import State
from fastchat.protocol import Change, ChangeDraft, Kind, Message, Position, Publication

__all__ = ["Loaded", "Stream"]

#: `changed` has the offset of a message's last change below this number, and erasures above it.
_ERASURES = 1 << 54


class Loaded(NamedTuple):
    """A part of a stream as the ledger has it.

    `first` is the oldest stored offset and `head` the newest. Each publication comes with the
    offset of its last change, or 0. The epoch is the one that clients know.
    """

    epoch: str
    first: int
    head: int
    publications: Sequence[tuple[int, Publication]]


class Stream:
    """The stream of a room, without a gap up to `head`.

    What is offered with larger offsets waits until the publications before it are offered. So
    publications can come in any order and several times, from this machine's own commits, from the
    notes of others, and from the ledger.
    """

    def __init__(self, room: str, loaded: Loaded) -> None:
        self.room = room
        self.epoch = loaded.epoch
        self.first = loaded.first
        self.head = loaded.head
        self._tail = Tail([publication for _, publication in loaded.publications])
        #: The last changes of messages in the tail that were changed.
        self._changed = {each.offset: at for at, each in loaded.publications if at}
        self._waiting: dict[int, Publication] = {}

    @property
    def has_gap(self) -> bool:
        """Whether publications wait for others that have not been offered."""
        return bool(self._waiting)

    @property
    def position(self) -> Position:
        newest = self._tail.publications[-1] if self._tail.publications else None
        return Position(self.epoch, self.head, None if newest is None else newest.timestamp)

    def offer(self, publications: Sequence[Publication]) -> list[Publication]:
        """Take publications in; returns those that are to be delivered now, in their order."""
        waiting = self._waiting
        if not waiting and publications and publications[0].offset == self.head + 1:
            run = list(publications)  # in almost all cases
        else:
            for each in publications:
                if each.offset > self.head:
                    waiting.setdefault(each.offset, each)
            run = []
            while (following := waiting.pop(self.head + len(run) + 1, None)) is not None:
                run.append(following)
        if run:
            self.head = run[-1].offset
            self._extend(run)
        return run

    def _extend(self, run: Sequence[Publication]) -> None:
        start = 0
        for index, each in enumerate(run):
            if isinstance(each, Change):
                self._tail.extend(run[start:index])
                start = index
                self._apply(each)
        self._tail.extend(run[start:])
        if len(self._changed) > 2 * len(self._tail.publications):
            kept = self._tail.publications[0].offset
            self._changed = {at: by for at, by in self._changed.items() if at >= kept}

    def _apply(self, change: Change) -> None:
        """Change a message in the tail; one that was read can have the change already."""
        index = self._tail.find(change.target)
        if index is None:
            return
        found = self._tail.publications[index]
        is_known = self._changed.get(change.target, 0) % _ERASURES >= change.offset
        if isinstance(found, Message) and change.kind is Kind.DELETE:
            # Even if it is known: it also deletes the texts of edits, which can be heard later.
            changed: Message | CommandError = found._replace(
                text="", deleted=True, edited=None, reactions=None
            )
        elif is_known:
            return
        else:
            _, _, username, text, timestamp, user, kind, target, emoji, remove = change
            values = (username, text, timestamp, user, kind, target, emoji, remove, True)
            changed = amend(found, ChangeDraft(change.room, *values))
        if isinstance(changed, Message):
            self._tail.replace(changed)
            if not is_known:
                self._changed[change.target] = change.offset

    def erase(self, user: str) -> None:
        """Forget what a user has said, which was erased from the ledger.

        The versions of these messages are not known then, so a change of one asks the ledger.
        """
        for index, each in enumerate(self._tail.publications):
            if (erased := without_said(each, user)) is each:
                continue
            if isinstance(erased, Message):
                self._tail.replace(erased)
            else:
                self._tail.publications[index] = erased
        self._waiting = {at: without_said(each, user) for at, each in self._waiting.items()}

    # Reading; None means that the ledger has to be asked

    def state(self, offset: int) -> State | None:
        """A publication in its present state, as far as this machine knows."""
        index = self._tail.find(offset)
        if index is None:
            return None
        return State(self._tail.publications[index], self._changed.get(offset, 0))

    def has(self, offset: int) -> bool:
        """Whether the tail has everything after this offset, or knows that it cannot."""
        tail = self._tail.publications
        return offset >= self.head or bool(tail and tail[0].offset <= offset + 1)

    def since(self, position: Position, limit: int) -> list[Publication] | None:
        """What `History.since` returns; `has` must be true for the position's offset."""
        missing = self.head - position.offset
        if position.epoch != self.epoch or not 0 <= missing <= limit:
            return None
        index = self._tail.find(position.offset)
        if index is not None and position.is_contradicted_by(self._tail.publications[index]):
            return None
        tail = self._tail.publications
        return tail[len(tail) - missing :] if missing else []

    def before(self, offset: int | None, limit: int) -> Page | None:
        """What `History.before` returns; None if the tail has too little for it."""
        tail = self._tail.publications
        if not tail:
            return Page([], False) if self.first > self.head else None
        end = len(tail) if offset is None else max(0, offset - tail[0].offset)
        messages = [each for each in tail[:end] if isinstance(each, Message)]
        if len(messages) > limit or tail[0].offset <= self.first:
            return Page(messages[max(0, len(messages) - limit) :], len(messages) > limit)
        return None
