"""The relay's end of a worker's connection; `fastchat.brokers.relay.client` is the other end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from fastchat.brokers.relay import records
from fastchat.brokers.relay.administration import AdministrationRequests
from fastchat.brokers.relay.counts import WorkerCount
from fastchat.brokers.relay.deadlines import check_deadline, too_late
from fastchat.brokers.relay.outbox import Outbox
from fastchat.brokers.relay.page_requests import PageRequests
from fastchat.brokers.relay.records import FromRelay, FromWorker, Refusal, decode_from_worker
from fastchat.brokers.relay.waiting import Waiting
from fastchat.brokers.relay.wire import BadRecord, RecordReader
from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.limits.connections import ConnectionCount
from fastchat.protocol import Position
from fastchat.rooms import Entry, Member
from fastchat.rooms.contract import Rooms
from fastchat.rooms.restoring import Returning
from fastchat.rooms.subscribers import PresenceChange

__all__ = ["Peer", "RelayState"]

logger = logging.getLogger("fastchat.relay")

#: When the payloads of a DELIVER record exceed this, the next run starts a new record. A returning
#: worker can have missed more than one record can hold (`wire.MAX_RECORD_BYTES`).
RECORD_BYTES = 1024 * 1024
#: While so many requests of a worker wait for the rooms, no more are read from its socket. What was
#: read before is still handled; together that is some 10 MiB. It is more than rooms on another
#: machine can have on the way at once: at 25,000 joins a second, those of 0.15 s.
MAX_WAITING = 4096
#: So many rooms of a worker are restored at once. Rooms on another machine ask for them, and for
#: their users, in statements of at most 20 rooms and 256 users, which have to become full.
MAX_RESTORING = 512


class RelayState(Protocol):
    """The relay as its peers use it."""

    rooms: Rooms
    connection_count: ConnectionCount
    #: Whether all expected workers have connected, or the time for that is over.
    gathered: bool
    #: If a worker has more than this still to read, its connection is closed. The worker
    #: reconnects and resumes its rooms.
    max_backlog_bytes: int

    def opened(self, peer: Peer, /) -> None:
        """Note a new connection."""
        ...

    def restored(self, peer: Peer, /) -> None:
        """Note that the worker has sent all its rooms; call `Peer.welcome` now or later."""
        ...

    def closed(self, peer: Peer, /) -> None:
        """Note that the connection has ended."""
        ...

    def status(self) -> records.Status:
        """Return the counters of all processes."""
        ...

    async def operate(self, verb: str, arguments: Mapping[str, Any], /) -> Any:
        """Run an operation of an operator. Raises CommandError."""
        ...


class Peer(asyncio.Protocol):
    """A worker's connection; a `fastchat.rooms.subscribers.Subscriber`.

    Its states, each of them once:

    * new, until the worker's HELLO;
    * restoring: `_to_restore` of the worker's rooms are not restored yet;
    * restored: the worker can send any record;
    * lost: the connection has ended. The members in this worker count as lost, and their users have
      the usual time to come back. A member whose join ends later is lost at once.

    Records are handled in order. A request that has to wait for the rooms begins in its order, and
    then waits beside the others (`_waiting`), so later records do not wait for it. RESTORE records
    wait beside each other as well (`_restoring`), but the first record of another kind is handled
    after all of them: it is kept in `_later`, with those behind it, and so are more RESTORE records
    than can wait at once. The peer does not read from the socket while a record is in `_later`, or
    while too many requests wait.
    """

    def __init__(self, relay: RelayState) -> None:
        self._relay = relay
        self._rooms = relay.rooms
        self._count = WorkerCount(relay.connection_count, self._say)
        self._reader = RecordReader(decode_from_worker)
        #: For each room, the members in this worker, with the number of their connections.
        self._members: dict[str, Counter[Member]] = {}
        self._deliveries = records.Deliveries()  # not encoded yet
        self._outbox = Outbox(self._flush)
        self._restoring = Waiting(MAX_RESTORING, ended=self._go_on, failed=self._fail)
        self._later: deque[FromWorker] = deque()
        self._waiting = Waiting(MAX_WAITING, ended=self._pace, failed=self._fail)
        self._page_requests = PageRequests(relay.rooms.pages, self._say)
        self._administration = AdministrationRequests(relay.rooms.administration, self._say)
        self._is_paused = False
        #: Whether the worker still gets what it has missed, and how many bytes of that it can have
        #: still to read. They can be more than `max_backlog_bytes`, so that limit comes on top.
        self._is_returning = False
        self._missed_bytes = 0
        self._lost = False
        #: The number of RESTORE records that must follow.
        self._to_follow = 0
        #: The number of rooms that are not restored yet; None before HELLO.
        self._to_restore: int | None = None
        self.name = ""
        self.report: Mapping[str, Any] | None = None

    @property
    def is_restored(self) -> bool:
        return self._to_restore == 0

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._relay.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for record in self._reader.feed(data):
                if self._restoring:
                    self._later.append(record)
                else:
                    self._on_record(record)
        except Exception as error:
            self._fail(error)
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._later.clear()
        self._relay.closed(self)
        self._count.close()
        self._waiting.cancel_reads()
        members, self._members = self._members, {}
        for room, counted in members.items():
            for member in counted.elements():
                self._rooms.lose(self, room, member)
        if self.name:
            logger.info("%s has disconnected", self.name)

    def _pace(self) -> None:
        """Stop reading from the socket, or go on, by how much waits for the rooms."""
        must_pause = bool(self._later) or self._waiting.is_full
        if must_pause is self._is_paused or self._transport.is_closing():
            return
        self._is_paused = must_pause
        if must_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _go_on(self) -> None:
        """Handle the records in `_later` that need not wait any longer."""
        try:
            while self._later and not self._must_wait(self._later[0]):
                self._on_record(self._later.popleft())
        except Exception as error:
            self._fail(error)
        self._pace()

    def _must_wait(self, record: FromWorker) -> bool:
        """Whether rooms that are being restored come before a record."""
        if isinstance(record, records.Restore):
            return self._restoring.is_full
        return bool(self._restoring)

    def _fail(self, error: BaseException) -> None:
        """Close the connection after an error of either side. The relay goes on."""
        name = self.name or "a client"
        if isinstance(error, BadRecord):
            logger.warning("closing the connection of %s: %s", name, error)
        else:
            logger.error("a record of %s could not be handled", name, exc_info=error)
        self._later.clear()
        self._transport.abort()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    # As a subscriber of the rooms

    def deliver(
        self,
        room: str,
        offset: int,
        payloads: Sequence[bytes],
        draft_numbers: Sequence[int | None] | None,
    ) -> None:
        self._outbox.schedule()
        self._deliveries.add(room, offset, payloads, draft_numbers)
        if self._deliveries.size > RECORD_BYTES:
            self._encode_deliveries()

    def announce(self, room: str, payload: bytes, change: PresenceChange | None = None) -> None:
        self._say(records.Event(room, change, payload))

    def kept(self, draft_number: int, offset: int) -> None:
        self._say(records.Answer(draft_number, offset))

    def answer(self, draft_number: int, outcome: Duplicate | CommandError) -> None:
        if isinstance(outcome, Duplicate):
            self._say(records.Answer(draft_number, outcome.offset, repeated=True))
        else:
            self._say(records.Answer(draft_number, Refusal.of(outcome)))

    def know(self, room: str, users: Sequence[Member] | None) -> None:
        self._say(records.Know(room, users))

    def lost(self, room: str) -> None:
        self._members.pop(room, None)
        self._say(records.Lost(room))

    def restarted(self, room: str, position: Position) -> None:
        self._say(records.Restarted(room, position))

    def expel(self, room: str, user: str, seconds: int) -> None:
        self._say(records.Expel(room, user, seconds))

    def send_away(self, share: float) -> None:
        self._say(records.SendAway(share))

    def end_turn(self) -> None:
        self._flush()

    def welcome(self) -> None:
        self._say(records.Welcome())

    # Sending

    def _say(self, record: FromRelay) -> None:
        self._encode_deliveries()
        self._outbox.add(record.encode())
        self._outbox.schedule()

    def _encode_deliveries(self) -> None:
        if self._deliveries:
            self._outbox.add(self._deliveries.encode())
            self._deliveries = records.Deliveries()

    def _flush(self) -> None:
        """Send all records of the turn in one write."""
        self._encode_deliveries()
        data = self._outbox.take()
        if not data or self._transport.is_closing():
            return
        backlog = self._transport.get_write_buffer_size()
        if backlog > self._relay.max_backlog_bytes + self._missed_bytes:
            logger.warning("%s does not read; closing its connection", self.name)
            self._transport.abort()
            return
        self._transport.write(data)
        if self._is_returning:
            self._missed_bytes = backlog + len(data)
            self._is_returning = not self.is_restored
        elif backlog <= self._relay.max_backlog_bytes:
            self._missed_bytes = 0

    # Receiving

    def _on_record(self, record: FromWorker) -> None:
        if isinstance(record, records.AskStatus):
            self._say(self._relay.status())
        elif isinstance(record, records.Operate):
            self._waiting.begin(self._on_operate(record))
        elif isinstance(record, (records.Hello, records.Restore)):
            self._on_introduction(record)
        elif not self.is_restored:
            raise BadRecord(f"a {type(record).__name__} record before the end of the introduction")
        else:
            self._on_said(record)

    def _on_said(self, record: records.Said) -> None:
        match record:
            case records.Publish():
                self._on_publish(record)
            case records.Join():
                self._waiting.begin(self._on_join(record))
            case records.Leave():
                self._waiting.begin(self._on_leave(record))
            case records.Lose(room, member):
                if self._count_out(room, member):
                    self._rooms.lose(self, room, member)
            case records.Tell():
                self._rooms.tell(self, record.room, record.payload)
            case records.Before() | records.After() | records.Search():
                self._waiting.begin(self._page_requests.answer(record), reads=True)
            case records.Remove():
                self._waiting.begin(self._on_remove(record))
            case records.Administer():
                self._waiting.begin(self._administration.answer(record))
            case records.Report():
                self.report = record.snapshot
            case records.Ping():
                self._say(records.Pong(record.sent))
            case _:
                self._count.handle(record)

    def _on_introduction(self, record: records.Introduction) -> None:
        """Handle a HELLO, or one of the RESTORE records that it announces."""
        match record:
            case records.Hello(name, pid, rooms) if self._to_restore is None:
                self.name = name
                logger.info("%s (pid %d) has connected with %d rooms", name, pid, rooms)
                self._to_follow = rooms
                self._expect(rooms)
            case records.Restore() if self._to_follow:
                self._to_follow -= 1
                self._restoring.begin(self._on_restore(record))
            case _:
                raise BadRecord(f"an unexpected {type(record).__name__} record")

    def _expect(self, rooms: int) -> None:
        """Note how many rooms are not restored yet; after the last, the worker is restored."""
        self._to_restore = rooms
        if self.is_restored:
            self._relay.restored(self)

    async def _on_restore(self, record: records.Restore) -> None:
        self._is_returning = True
        resumed = await self._rooms.restore(
            self,
            Returning(record.room, record.position, record.members, record.known),
            gathering=not self._relay.gathered,
        )
        if not resumed:
            self._say(records.Lost(record.room))
        for member, count in record.members if resumed else ():
            self._count_in(record.room, member, count)
        assert self._to_restore is not None
        self._expect(self._to_restore - 1)

    def _on_publish(self, record: records.Publish) -> None:
        if time.monotonic() > record.deadline:  # the worker has refused them already
            for number in record.numbers:
                self._say(records.Answer(number, Refusal.of(too_late())))
            return
        self._rooms.publish_all(self, record.numbers, record.drafts)

    async def _on_join(self, record: records.Join) -> None:
        room = record.entrance.room

        def enter(entry: Entry) -> None:
            self._count_in(room, entry.member)
            self._say(records.Joined(record.number, room, entry))

        try:
            check_deadline(record.deadline)
            self._count.check(record.entrance.connection_number)
            await self._rooms.join(self, record.entrance, enter)
        except CommandError as refusal:
            self._refuse(record.number, refusal)

    async def _on_leave(self, record: records.Leave) -> None:
        def left() -> None:
            self._say(records.Left(record.number))

        room, member = record.room, record.member
        if member is not None and not self._count_out(room, member):
            member = None  # earlier publications must arrive before the reply nevertheless
        await self._rooms.leave(self, room, member, left)

    async def _on_remove(self, record: records.Remove) -> None:
        try:
            check_deadline(record.deadline)
            member = await self._rooms.remove(record.removal)
        except CommandError as refusal:
            self._refuse(record.number, refusal)
        else:
            self._say(records.Removed(record.number, member))

    async def _on_operate(self, record: records.Operate) -> None:
        try:
            value = await self._relay.operate(record.verb, record.arguments)
        except CommandError as refusal:
            self._refuse(0, refusal)
        else:
            self._say(records.Operated(value))

    def _count_in(self, room: str, member: Member, count: int = 1) -> None:
        """Count connections that the rooms have counted, or lose them if the worker is gone."""
        if self._lost:
            for _ in range(count):
                self._rooms.lose(self, room, member)
        else:
            self._members.setdefault(room, Counter())[member] += count

    def _count_out(self, room: str, member: Member) -> bool:
        """Count a connection out; return False if the relay has not counted it.

        A member is not counted if its room could not be restored.
        """
        members = self._members.get(room)
        if members is None or member not in members:
            return False
        members[member] -= 1
        if not members[member]:
            del members[member]
            if not members:
                del self._members[room]
        return True

    def _refuse(self, number: int, refusal: CommandError) -> None:
        self._say(records.Refused(number, Refusal.of(refusal)))
