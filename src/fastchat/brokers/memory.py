"""The broker of a single process: publishing is a call, delivery another."""

from __future__ import annotations

from fastchat.brokers import Answer, Deliver, Snapshot
from fastchat.history import Duplicate, History, Page
from fastchat.protocol import Position, Publication

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Implements `fastchat.brokers.Broker` by function calls on one history."""

    _deliver: Deliver
    _answer: Answer

    def __init__(self, history: History) -> None:
        self._history = history
        self._subscribers: dict[str, int] = {}

    def open(self, deliver: Deliver, answer: Answer) -> None:
        self._deliver = deliver
        self._answer = answer

    def publish(self, draft: Publication, sender: object) -> None:
        (outcome,) = self._history.append((draft,))
        if type(outcome) is Duplicate:
            self._answer(sender, draft, outcome)
        elif type(outcome) is Publication and draft.room in self._subscribers:
            self._deliver(outcome)

    async def subscribe(
        self, room: str, since: Position | None, limit: int, max_missed: int
    ) -> Snapshot:
        position = self._history.position(room)
        missed = None if since is None else self._history.since(room, since, max_missed)
        recovered = missed is not None
        if missed is None:
            missed = self._history.before(room, None, limit).publications if limit else []
        self._subscribers[room] = self._subscribers.get(room, 0) + 1
        return Snapshot(position, missed, recovered)

    def unsubscribe(self, room: str) -> None:
        count = self._subscribers.get(room, 0) - 1
        if count > 0:
            self._subscribers[room] = count
            return
        self._subscribers.pop(room, None)
        if self._history.position(room).offset == 0:
            # Nothing was ever said here: rooms that are only entered leave no trace.
            self._history.forget(room)

    async def before(self, room: str, offset: int | None, limit: int) -> Page:
        return self._history.before(room, offset, limit)

    async def after(self, room: str, offset: int, limit: int) -> Page:
        return self._history.after(room, offset, limit)
