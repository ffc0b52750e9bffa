"""The broker of one worker among several: a connection to the relay, which has the rooms.

Theory
------
Everything goes over one Unix socket, in order: so what the relay says about a room
is in the order in which it happened, and a reply stands where it belongs between
the deliveries. What a turn of the loop has to say is one write.

The relay may go away at any moment. What is kept here outlives it: the rooms with their
positions and members, drafts that are not known to be kept, requests that are not
answered. A new connection begins with the rooms (RESTORE); the relay returns what was
missed, and then (WELCOME) drafts and requests are sent again. A draft that turns out to
be among what was missed is not.

Whatever waits longer than its time is answered `unavailable`; the relay, should it get to it
later, knows by the stamp that nobody waits any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_never

from fastchat.brokers import Delivery, OnOutcome, Receiver
from fastchat.brokers.relay import records
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.drafts import Unconfirmed, Waiting
from fastchat.brokers.relay.link import Link
from fastchat.brokers.relay.outbox import Outbox
from fastchat.brokers.relay.records import FromRelay, FromWorker, Refusal
from fastchat.brokers.relay.wire import BadRecord
from fastchat.errors import CloseReason, CommandError, ErrorCode, HistoryError
from fastchat.history import Duplicate
from fastchat.history.reader import HistoryReader
from fastchat.metrics import Metrics
from fastchat.protocol import Position, Publication
from fastchat.rooms import Entrance, Entry, Member, Messages, Removal
from fastchat.rooms.messages import page_of
from fastchat.rooms.subscribers import Change

__all__ = ["PATIENCE_S", "RelayBroker"]

logger = logging.getLogger("fastchat.broker")

#: What waits longer for the relay is answered `unavailable`.
PATIENCE_S = 2.0
#: A search may read a lot.
SEARCH_PATIENCE_S = 5.0
#: What may wait for a relay that does not read; more is `unavailable` at once.
MAX_BACKLOG_BYTES = 8 * 1024 * 1024
#: Drafts that may wait for a relay, whether there is one or not.
MAX_UNCONFIRMED = 20_000
#: Drafts of one record, and how far their deadlines may lie apart.
BATCH, BATCH_S = 1000, 0.1


Reply = TypeVar("Reply", bound=records.Reply)


class _Room:
    """A room with members in this process."""

    __slots__ = ("epoch", "known", "members", "offset", "pending")

    def __init__(self, position: Position) -> None:
        self.epoch, self.offset = position
        self.members: dict[Member, int] = {}  # and their connections
        self.known: dict[str, str] = {}  # names that our members were told of, and their authors
        self.pending = 0  # drafts and leaves that the relay has not answered


class _Request(Generic[Reply]):
    """A request that awaits a reply of the type `expected`.

    `replied` is called with the reply at its place in the stream.
    """

    __slots__ = ("expected", "future", "record", "replied")

    def __init__(
        self, record: records.Request, expected: type[Reply], replied: Callable[[Reply], None]
    ) -> None:
        self.record = record
        self.expected = expected
        self.replied = replied
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_reply(self, reply: records.Reply) -> None:
        if not isinstance(reply, self.expected):
            raise BadRecord(f"{type(reply).__name__} for {type(self.record).__name__}")
        self.replied(reply)


class RelayBroker:
    """Implements `fastchat.brokers.Broker` for the worker `name` on the relay in `directory`.

    With a `reader`, pages of the history are read past the relay, whether it lives or not.
    With `counts`, the relay counts the connections of all workers.
    """

    _delivery: Delivery
    _receiver: Receiver

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        metrics: Metrics,
        reader: HistoryReader | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._counts = counts
        self._reader = reader
        self._name = name
        self._metrics = metrics
        self._rooms: dict[str, _Room] = {}
        self._drafts: Unconfirmed[_Room | None] = Unconfirmed()
        self._requests: dict[int, _Request[Any]] = {}
        self._numbers = 0
        self._link = Link(directory, self)
        self._new: list[int] = []  # tickets of this turn
        self._outbox = Outbox(self._flush)
        self._giving_up: asyncio.Handle | None = None
        self._giving_up_at = 0.0
        self._welcome = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def connected(self) -> bool:
        """Whether the relay takes what we have to say."""
        return self._welcome.is_set()

    def open(self, *, delivery: Delivery, receiver: Receiver) -> None:
        self._delivery = delivery
        self._receiver = receiver

    async def start(self) -> None:
        """Connect, and wait until the relay is there; from then on it is found again."""
        if self._counts is not None:
            self._counts.open(self._say_introduced)
        self._link.start()
        await self._welcome.wait()

    async def close(self) -> None:
        """Let the relay read what is pending, and hang up."""
        self._flush()
        await self._link.close()
        if self._reader is not None:
            self._reader.close()

    # What the chat asks for

    def publish(self, draft: Publication, outcome: OnOutcome | None = None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        room = self._rooms.get(draft.room)  # None if its stream was just lost
        if room is not None:
            room.pending += 1
        self._new.append(self._drafts.add(Waiting(draft, outcome, deadline, room)))
        self._outbox.schedule()
        self._watch(deadline)

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        def joined(reply: records.Joined) -> None:
            self._count_in(reply)
            enter(reply.entry)

        await self._request(
            lambda number, deadline: records.Join(number, deadline, entrance),
            records.Joined,
            joined,
        )

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        state = self._rooms.get(room)
        if state is None:  # its stream was lost, and he with it
            left()
            return
        self._count_out(state, member)
        state.pending += 1

        def goodbye(reply: records.Left | None = None) -> None:
            left()
            self._settle(room, state)

        try:
            await self._request(
                lambda number, deadline: records.Leave(number, deadline, room, member),
                records.Left,
                goodbye,
            )
        except CommandError:
            # The relay is away. A new one is not told of him; this one reads it later.
            goodbye()

    def lose(self, room: str, member: Member) -> None:
        state = self._rooms.get(room)
        if state is None:
            return
        self._count_out(state, member)
        self._say_introduced(records.Lose(room, member))
        self._drop_if_empty(room, state)

    async def remove(self, removal: Removal) -> str:
        names: list[str] = []
        await self._request(
            lambda number, deadline: records.Remove(number, deadline, removal),
            records.Removed,
            lambda reply: names.append(reply.name),
        )
        return names[0]

    def tell(self, room: str, payload: bytes) -> None:
        if not self._is_clogged:
            self._say(records.Tell(room, payload))

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return await self._page(
            lambda number, deadline: records.Search(number, deadline, room, query, limit),
            SEARCH_PATIENCE_S,
        )

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        if self._reader is None:
            return await self._page(
                lambda number, deadline: records.Before(number, deadline, room, offset, limit)
            )
        with _reading():
            return page_of(self._reader.before(room, offset, limit), newest_first=True)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        if self._reader is None:
            return await self._page(
                lambda number, deadline: records.After(number, deadline, room, offset, limit)
            )
        with _reading():
            return page_of(self._reader.after(room, offset, limit), newest_first=False)

    def tick(self) -> None:
        """Measure how long the relay takes."""
        self._say(records.Ping(time.monotonic()))

    def report(self, snapshot: dict[str, Any]) -> None:
        """Tell the relay what this worker counts, for those who ask it."""
        self._say(records.Report(snapshot))

    # Requests

    async def _page(
        self, make: Callable[[int, float], records.Request], patience_s: float = PATIENCE_S
    ) -> Messages:
        pages: list[Messages] = []
        await self._request(
            make,
            records.Page,
            lambda reply: pages.append(Messages(reply.payloads, reply.more)),
            patience_s,
        )
        return pages[0]

    async def _request(
        self,
        make: Callable[[int, float], records.Request],
        expected: type[Reply],
        replied: Callable[[Reply], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Send a request and wait for its reply; raises CommandError.

        `make` is called with the request's number and its deadline. A relay that does not read is
        asked nothing more, but has to hear of members that leave.
        """
        deadline = time.monotonic() + patience_s
        self._numbers += 1
        record = make(self._numbers, deadline)
        if self._is_clogged and not isinstance(record, records.Leave):
            raise _unavailable()
        request = self._requests[self._numbers] = _Request(record, expected, replied)
        self._watch(deadline)
        self._say(record)
        await request.future

    def _count_in(self, reply: records.Joined) -> None:
        member, position, *_ = reply.entry
        room = self._rooms.get(reply.room)
        if room is None:
            room = self._rooms[reply.room] = _Room(position)
        elif not room.members:  # something is pending; what came without members is not missed
            room.epoch, room.offset = position
        room.known = dict(reply.known)
        room.members[member] = room.members.get(member, 0) + 1

    def _count_out(self, room: _Room, member: Member) -> None:
        room.members[member] -= 1
        if not room.members[member]:
            del room.members[member]

    def _settle(self, name: str, room: _Room | None) -> None:
        """Something that was pending in a room has its answer."""
        if room is not None:
            room.pending -= 1
            self._drop_if_empty(name, room)

    def _drop_if_empty(self, name: str, room: _Room) -> None:
        if not room.members and not room.pending and self._rooms.get(name) is room:
            del self._rooms[name]

    # Time

    def _watch(self, deadline: float) -> None:
        if self._giving_up is not None:
            if self._giving_up_at <= deadline:
                return
            self._giving_up.cancel()  # a search waits longer than what came after it
        self._giving_up_at = deadline
        delay_s = max(0.0, deadline - time.monotonic())
        self._giving_up = self._loop.call_later(delay_s, self._give_up)

    def _give_up(self) -> None:
        """Answer `unavailable` to whatever has waited too long."""
        self._giving_up = None
        now = time.monotonic()
        for ticket in self._drafts.overdue(now):
            self._decide(ticket, _unavailable())
        for number, request in tuple(self._requests.items()):
            record = request.record
            if record.deadline <= now:
                del self._requests[number]
                if isinstance(record, records.Leave):
                    self._on_late_leave(record)
                if not request.future.done():
                    request.future.set_exception(_unavailable())
        deadlines = [request.record.deadline for request in self._requests.values()]
        if self._drafts.first_deadline is not None:
            deadlines.append(self._drafts.first_deadline)
        if deadlines:
            self._watch(min(deadlines))

    def _on_late_leave(self, record: records.Leave) -> None:
        """Nobody awaits its reply any more; a relay that has counted the member must hear of it."""
        if not self.connected and record.member is not None:
            self._say_introduced(records.Lose(record.room, record.member))

    def _decide(self, ticket: int, outcome: int | Duplicate | CommandError) -> None:
        """Tell a draft's sender its outcome, unless that has been decided before."""
        waiting = self._drafts.take(ticket)
        if waiting is not None:
            self._settle(waiting.draft.room, waiting.room)
            if waiting.outcome is not None:
                waiting.outcome(outcome)

    # To the relay

    def _say(self, record: FromWorker) -> None:
        if self.connected:
            self._encode_drafts()  # they were published before
            self._outbox.add(record.encode())
            self._outbox.schedule()

    def _say_introduced(self, record: FromWorker) -> None:
        """What a relay that has heard our introduction must hear, also before its welcome."""
        if self._link.is_up and not self.connected:
            self._outbox.add(record.encode())
        else:
            self._say(record)

    def _flush(self) -> None:
        """One write for all that the turn has to say."""
        if not self.connected:
            tickets, self._new = self._new, []  # at the next welcome, drafts are sent anyway
            self._refuse_excess(tickets)
            return
        self._encode_drafts()
        data = self._outbox.take()
        if data:
            self._link.write(data)

    def _encode_drafts(self) -> None:
        tickets, self._new = self._new, []
        if self._is_clogged:
            for ticket in tickets:
                self._decide(ticket, _unavailable())
            return
        self._refuse_excess(tickets)
        for batch in self._batches(tickets):
            drafts = [(ticket, self._drafts[ticket].draft) for ticket in batch]
            deadline = self._drafts[batch[0]].deadline
            self._outbox.add(records.Publish(deadline, drafts).encode())

    def _batches(self, tickets: list[int]) -> Iterator[list[int]]:
        """For one record each: as many as it holds, of about one deadline, which they share."""
        batch: list[int] = []
        for ticket in tickets:
            if ticket not in self._drafts:
                continue
            late_s = self._drafts[ticket].deadline - self._drafts[batch[0]].deadline if batch else 0
            if len(batch) == BATCH or late_s > BATCH_S:
                yield batch
                batch = []
            batch.append(ticket)
        if batch:
            yield batch

    @property
    def _is_clogged(self) -> bool:
        return self._link.backlog_bytes > MAX_BACKLOG_BYTES

    def _refuse_excess(self, tickets: list[int]) -> None:
        """Of a turn's drafts the last are refused, where more wait than may."""
        excess = len(self._drafts) - MAX_UNCONFIRMED
        if excess > 0:
            for ticket in tickets[-excess:]:
                self._decide(ticket, _unavailable())

    # As the owner of the link

    def introduction(self) -> Iterator[bytes]:
        """Who we are, and the rooms as they are here: without those who are about to leave."""
        for request in self._requests.values():
            if isinstance(request.record, records.Leave):
                request.record = request.record._replace(member=None)
        self._drafts.doubt()
        yield records.Hello(self._name, os.getpid(), len(self._rooms)).encode()
        for name, room in self._rooms.items():
            members = list(room.members.items())
            known = [Member(*each) for each in room.known.items()]
            position = Position(room.epoch, room.offset)
            yield records.Restore(name, position, members, known).encode()
        if self._counts is not None:
            yield self._counts.introduction().encode()

    def on_end(self) -> None:
        if self.connected and not self._link.closing:
            logger.warning("the relay is gone; looking for it")
        self._welcome.clear()
        self._outbox.clear()

    def on_record(self, record: FromRelay) -> None:
        """A record of the relay."""
        match record:
            case records.Deliver(deliveries):
                self._on_deliver(deliveries)
            case records.Answer():
                self._on_answer(record)
            case records.Joined() | records.Left() | records.Page() | records.Removed():
                self._on_reply(record)
            case records.Refused():
                self._on_refused(record)
            case records.Expel():
                self._receiver.expel(*record)
            case records.Know():
                self._on_know(record)
            case records.Lost(room):
                self._on_lost(room)
            case _:
                self._on_aside(record)

    def _on_aside(self, record: records.Aside) -> None:
        """A record that is about no room."""
        match record:
            case records.Pong(sent):
                self._metrics.relay_lag_s.observe(time.monotonic() - sent)
            case records.TurnAway():
                if self._counts is not None:
                    self._counts.turn_away(record)
            case records.Welcome():
                self._on_welcome()
            case records.Status():
                raise BadRecord("a status that was not asked for")
            case _:
                assert_never(record)

    def _on_welcome(self) -> None:
        """The relay has given us all that we missed; now it gets what is still open."""
        self._welcome.set()
        self._drafts.end_doubt()
        self._new = self._drafts.tickets()
        self._encode_drafts()  # before the requests: what was said before a leave goes before it
        for request in self._requests.values():
            self._outbox.add(request.record.encode())
        self._flush()

    def _on_deliver(self, deliveries: Sequence[records.Delivered]) -> None:
        rooms, deliver, connected = self._rooms, self._delivery.publish, self.connected
        for name, offset, ticket, payload, change in deliveries:
            if ticket is not None:
                self._decide(ticket, offset)
            room = rooms.get(name)
            if room is None:
                continue  # its last member has left
            if offset:
                if offset != room.offset + 1:
                    if offset <= room.offset:
                        continue
                    self._on_hole(name)
                room.offset = offset
                if not connected and (own := self._drafts.recognise(payload)) is not None:
                    self._decide(own, offset)  # the last relay kept it, and could not say so
            elif change is not None and not _note(room, change):
                continue
            deliver(name, payload)
        self._delivery.end_turn()

    def _on_know(self, record: records.Know) -> None:
        if (room := self._rooms.get(record.room)) is not None:
            room.known = dict(record.users)

    def _on_hole(self, name: str) -> None:
        logger.error("the stream of a room has a hole; its members are to recover")
        self._evict(name)

    def _on_lost(self, name: str) -> None:
        """The relay cannot go on where we were: the members come back by themselves."""
        room = self._rooms.pop(name, None)
        if room is not None:
            logger.warning("a room's stream could not be resumed; its members are to recover")
            self._evict(name)
            for ticket, waiting in self._drafts.items():
                # Whether it is kept is not known; with an `id`, sending it again does no harm.
                if waiting.room is room and waiting.draft.id is None:
                    self._decide(ticket, _unavailable())

    def _evict(self, name: str) -> None:
        reason = CloseReason.LOST_CONTINUITY
        self._delivery.evict(name, reason.code, reason.text)

    def _on_answer(self, answer: records.Answer) -> None:
        ticket, outcome, repeated = answer
        waiting = self._drafts.get(ticket)
        if waiting is None:
            return
        if isinstance(outcome, Refusal):
            self._decide(ticket, outcome.error())
        elif not repeated:
            self._decide(ticket, outcome)
        elif (id := waiting.draft.id) is None:
            raise BadRecord("a duplicate of a draft without an id")
        else:
            self._decide(ticket, Duplicate(waiting.draft.room, id, outcome))

    def _on_refused(self, record: records.Refused) -> None:
        request = self._requests.pop(record.number, None)
        if request is not None and not request.future.done():
            request.future.set_exception(record.refusal.error())

    def _on_reply(self, reply: records.Reply) -> None:
        request = self._requests.pop(reply.number, None)
        if request is None:
            if isinstance(reply, records.Joined):  # nobody waits for it any more
                self._say(records.Lose(reply.room, reply.entry.member))
            return
        try:
            request.on_reply(reply)
        except Exception as error:  # a fault of ours costs a connection, not all of them
            if request.future.done():
                raise
            request.future.set_exception(error)
        if not request.future.done():
            request.future.set_result(None)


def _note(room: _Room, change: Change) -> bool:
    """Keep count of who is there; False if our members were told already, by a relay before."""
    came, (name, author) = change
    if came:
        if room.known.get(name) == author:
            return False
        room.known[name] = author
    else:
        room.known.pop(name, None)
    return True


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except HistoryError as error:
        logger.warning("a page of the history cannot be read: %s", error)
        raise _unavailable() from None


def _unavailable() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server cannot do this at the moment; try again soon.",
        temporary=True,
    )
