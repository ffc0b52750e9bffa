"""Delivers publications to the processes of this machine, and tells them what became of drafts.

Theory
------
A publication of this machine is delivered when the stream of its room has come to it (`following`),
like those of all machines. Until then its sender is kept here: the process and the draft's key.
After a commit, the stream can have passed the publication already, because a read was faster than
the commit's answer, or nobody here follows the room. Then the sender learns only that it was
stored. So each draft has exactly one outcome.

The end of a turn is reported to a process once, in the next step of the loop, however much the
process was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.ledger.appending import Committed
from fastchat.ledger.following import Following
from fastchat.ledger.notes import notes_of
from fastchat.ledger.reading import Reader
from fastchat.ledger.session import Session
from fastchat.ledger.streams import Stream
from fastchat.metrics import Metrics
from fastchat.protocol import Publication
from fastchat.rooms.members import Room
from fastchat.rooms.subscribers import MAX_RUN, Subscriber, deliver_run

__all__ = ["Deliveries", "Sender"]

#: The process that a draft came from, and the draft's key.
Sender = tuple[Subscriber, Any]
#: The sender of what another machine has published.
_ELSEWHERE = (None, None)


class Deliveries:
    """The deliveries to the processes that are in `rooms`.

    `lost` is called with a room whose stream cannot be continued; see `Following`. `delivered` is
    called with a room and the publications that were delivered there.
    """

    def __init__(
        self,
        session: Session,
        reader: Reader,
        rooms: Mapping[str, Room],
        metrics: Metrics,
        *,
        lost: Callable[[str], None],
        delivered: Callable[[str, Sequence[Publication]], None],
    ) -> None:
        self._session = session
        self._rooms = rooms
        self._metrics = metrics
        self._delivered = delivered
        #: The senders of what is committed and not delivered, by room and offset.
        self._senders: dict[str, dict[int, Sender]] = {}
        self._told: set[Subscriber] = set()  # and their turn has not ended
        #: The streams of which everything new is delivered.
        self.following = Following(
            reader, deliver=self._deliver, lost=lost, machine=lambda: session.machine
        )

    def committed(
        self, rooms: Mapping[str, tuple[Committed, Sequence[Sender | None]]], seconds: float
    ) -> None:
        """Deliver what this machine has committed, and tell the other machines; see `Publishing`.

        If a part of a room's stream is missing here, it is delivered when that was read.
        """
        runs = {room: committed.publications for room, (committed, _) in rooms.items()}
        for room, (committed, senders) in rooms.items():
            first = committed.publications[0].offset
            self._senders.setdefault(room, {}).update(
                (offset, sender)
                for offset, sender in enumerate(senders, first)
                if sender is not None
            )
            self.following.offer(room, committed.publications)
            stream = self.following.get(room)
            self._keep(room, None if stream is None else stream.head)
        session = self._session
        session.tell(notes_of(session.machine, session.last_commit, runs))
        self._metrics.committed(sum(map(len, runs.values())), seconds)

    def answer(self, sender: Sender, outcome: Duplicate | CommandError) -> None:
        """Tell a sender, soon, why the draft became no publication."""
        subscriber, draft_key = sender
        asyncio.get_running_loop().call_soon(subscriber.answer, draft_key, outcome)
        self.end_turn((subscriber,))

    def end_turn(self, told: Iterable[Subscriber]) -> None:
        """Report the end of the turn, once, to processes that were told something."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._report_end)
        self._told.update(told)

    def forget(self, room: str) -> None:
        """Tell the senders that wait for the stream of a room, which is not followed any more."""
        self._keep(room, None)

    def _deliver(self, stream: Stream, publications: Sequence[Publication]) -> None:
        name = stream.room
        room = self._rooms.get(name)
        subscribers = room.subscribers.copy() if room is not None else {}
        told = set(subscribers)
        waiting = self._senders.get(name)
        for start in range(0, len(publications), MAX_RUN):
            run = publications[start : start + MAX_RUN]
            senders: Sequence[tuple[Subscriber | None, Any]] = ()
            if waiting:
                senders = [waiting.pop(each.offset, _ELSEWHERE) for each in run]
                told.update(origin for origin, _ in senders if origin is not None)
            deliver_run(name, subscribers, run, senders)
        self._delivered(name, publications)
        if told:
            self.end_turn(told)

    def _keep(self, room: str, head: int | None) -> None:
        """Tell the senders of what will not be delivered to them: it is not after `head`.

        If that is None, nothing of the room will be delivered.
        """
        waiting = self._senders.get(room)
        if waiting is None:
            return
        for offset in [each for each in waiting if head is None or each <= head]:
            if (sender := waiting.pop(offset, None)) is not None:
                subscriber, draft_key = sender
                subscriber.kept(draft_key, offset)
                self.end_turn((subscriber,))
        if not waiting:
            self._senders.pop(room, None)

    def _report_end(self) -> None:
        told, self._told = self._told, set()
        for subscriber in told:
            subscriber.end_turn()
