"""The broker of a single process: a turn's publications are one call of the history."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastchat.brokers import Answer, Deliver, Snapshot
from fastchat.errors import CommandError, ErrorCode, HistoryError
from fastchat.history import History, Page
from fastchat.protocol import Position, Publication

__all__ = ["MemoryBroker"]

logger = logging.getLogger("fastchat.broker")


class MemoryBroker:
    """Implements `fastchat.brokers.Broker` by function calls on one history.

    ``at_end_of_turn`` calls a function at the end of the loop's turn (`call_soon`).
    Of each operation of the history it is said once in the log that it fails, and once
    that it works again.
    """

    _deliver: Deliver
    _answer: Answer
    _delivered: Callable[[], None]

    def __init__(
        self, history: History, *, at_end_of_turn: Callable[[Callable[[], None]], object]
    ) -> None:
        self._history_of_rooms = history
        self._at_end_of_turn = at_end_of_turn
        self._subscribers: dict[str, int] = {}
        self._drafts: list[Publication] = []
        self._senders: list[object] = []
        self._failing: set[str] = set()  # operations

    def open(self, deliver: Deliver, answer: Answer, delivered: Callable[[], None]) -> None:
        self._deliver = deliver
        self._answer = answer
        self._delivered = delivered

    def publish(self, draft: Publication, sender: object) -> None:
        if not self._drafts:
            self._at_end_of_turn(self.commit)
        self._drafts.append(draft)
        self._senders.append(sender)

    def commit(self) -> None:
        """Keep and deliver what this turn has published; at the end of the turn, or before."""
        if not self._drafts:
            return
        drafts, self._drafts = self._drafts, []
        senders, self._senders = self._senders, []
        try:
            with self._history("append") as history:
                outcomes = history.append(drafts)
        except CommandError as refusal:
            for sender, draft in zip(senders, drafts, strict=True):
                self._answer(sender, draft, refusal)
            return
        subscribers, deliver = self._subscribers, self._deliver
        for index, outcome in enumerate(outcomes):
            if not isinstance(outcome, Publication):
                self._answer(senders[index], drafts[index], outcome)
            elif outcome.room in subscribers:
                deliver(outcome)
        self._delivered()

    async def subscribe(
        self, room: str, since: Position | None, limit: int, max_missed: int
    ) -> Snapshot:
        # What was published in this turn is delivered to those who were here before.
        self.commit()
        with self._history("join") as history:
            position = history.position(room)
            missed = None if since is None else history.since(room, since, max_missed)
            recovered = missed is not None
            if missed is None:
                missed = history.before(room, None, limit).publications if limit else []
        self._subscribers[room] = self._subscribers.get(room, 0) + 1
        return Snapshot(position, missed, recovered)

    def unsubscribe(self, room: str) -> None:
        self.commit()  # what was published before still arrives
        count = self._subscribers.get(room, 0) - 1
        if count > 0:
            self._subscribers[room] = count
            return
        self._subscribers.pop(room, None)
        try:
            with self._history("join") as history:
                if history.position(room).offset == 0:
                    # Nothing was ever said here: rooms that are only entered leave no trace.
                    history.forget(room)
        except CommandError:
            pass  # it is remembered a while longer

    async def search(self, room: str, query: str, limit: int) -> list[Publication]:
        with self._history("search") as history:
            return await history.search(room, query, limit)

    async def before(self, room: str, offset: int | None, limit: int) -> Page:
        with self._history("before") as history:
            return history.before(room, offset, limit)

    async def after(self, room: str, offset: int, limit: int) -> Page:
        with self._history("after") as history:
            return history.after(room, offset, limit)

    @contextmanager
    def _history(self, operation: str) -> Iterator[History]:
        """The history; what fails there is `unavailable` to clients.

        On a full disk reading works, mostly from memory, while appending does not.
        """
        try:
            yield self._history_of_rooms
        except HistoryError as error:
            if operation not in self._failing:
                self._failing.add(operation)
                logger.error("the history fails (%s), clients are told so: %s", operation, error)
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                "The server cannot store messages at the moment; try again soon."
                if operation == "append"
                else "The server cannot read its messages at the moment; try again soon.",
                temporary=True,
            ) from None
        if operation in self._failing:
            self._failing.discard(operation)
            logger.info("the history works again (%s)", operation)
