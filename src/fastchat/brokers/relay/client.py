"""The broker of one worker among several: a connection to the relay, which has the rooms.

Theory
------
All records pass through one Unix socket, in order. Therefore the events of a room arrive in the
order in which they happened, and a reply arrives at its exact place between the deliveries. The
worker sends the records of one turn of the loop in one write.

The relay can end at any moment. The worker stores what a new relay needs: the rooms with their
positions and members (`worker_rooms`), the drafts without an outcome (`drafts`), and the requests
without a reply (`requests`). A new connection starts with the rooms (RESTORE). The relay returns
the publications that the worker has missed. The worker looks for its own drafts among them,
because the old relay can have stored a draft without a reply. After WELCOME, the worker sends the
remaining drafts and the requests again.

A draft or a request that has waited too long is refused as `unavailable` (`deadlines`). It carries
its deadline. If a relay reads it after the deadline, the relay does not carry it out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, assert_never

from fastchat.brokers import Delivery, OnOutcome, Receiver
from fastchat.brokers.relay import records
from fastchat.brokers.relay.bounds import Bounds
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.deadlines import DeadlineTimer
from fastchat.brokers.relay.drafts import Drafts
from fastchat.brokers.relay.link import Link
from fastchat.brokers.relay.outbox import Outbox
from fastchat.brokers.relay.records import FromRelay, FromWorker
from fastchat.brokers.relay.requests import Requests
from fastchat.brokers.relay.wire import BadRecord
from fastchat.brokers.relay.worker_rooms import WorkerRooms
from fastchat.errors import CloseReason, CommandError
from fastchat.metrics import Metrics
from fastchat.protocol import Draft, Position
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.refusals import unavailable
from fastchat.rooms.sending_away import SendingAway

__all__ = ["RelayBroker"]

logger = logging.getLogger("fastchat.broker")

#: A relay that was killed is replaced within a second or two. After this many seconds without one,
#: an operator has to know.
AWAY_TICKS = 3

Reply = TypeVar("Reply", bound=records.Reply)
Make = Callable[[int, float], records.Request]


class RelayBroker:
    """Implements `fastchat.brokers.Broker` and `Presence` for the worker `name`.

    The relay's socket is in `directory`. With `counts`, the relay also counts the connections of
    this worker. `send_away` is called with a share of the connections that must be closed, because
    the rooms cannot be reached: if the relay says so, and if there has been no relay for
    `patience_s` seconds; None to wait for it for ever.

    Its states follow the link:

    * away: there is no connection, `_link` tries to connect, and drafts and requests wait;
    * introduced (`_link.is_up`): the worker has sent its rooms and receives what it has missed;
    * connected (`connected`): WELCOME has arrived, and drafts and requests are sent.
    """

    _delivery: Delivery
    _receiver: Receiver

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        metrics: Metrics,
        counts: Counts | None = None,
        bounds: Bounds | None = None,
        send_away: Callable[[float], object] = lambda share: None,
        patience_s: float | None = None,
    ) -> None:
        self.bounds = Bounds() if bounds is None else bounds
        self._name = name
        self._metrics = metrics
        self._counts = counts
        self._send_away = send_away
        self._sending_away = (
            None if patience_s is None else SendingAway(patience_s, "the relay of this machine")
        )
        self._link = Link(
            directory,
            self,
            retry_s=self.bounds.retry_s,
            max_backlog_bytes=self.bounds.max_backlog_bytes,
            max_record_bytes=self.bounds.max_record_bytes,
        )
        self._outbox = Outbox(self._flush)
        self._timer = DeadlineTimer(self._give_up)
        self._rooms = WorkerRooms()
        self._drafts = Drafts(self._rooms, self.bounds.max_drafts)
        self._draft_deadline = 0.0  # of the drafts of this turn
        self._requests = Requests(self._say, self._timer)
        self._welcome = asyncio.Event()
        self._away_ticks = 0
        #: Called whenever a relay has welcomed this worker, before clients hear anything from it.
        self.on_welcome: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        """Whether the relay has sent WELCOME, and accepts drafts and requests."""
        return self._welcome.is_set()

    @property
    def failure(self) -> str:
        """Why the last attempt to connect to the relay failed, as a part of a sentence."""
        return self._link.failure

    def open(self, *, delivery: Delivery, receiver: Receiver) -> None:
        self._delivery = delivery
        self._receiver = receiver

    async def start(self) -> None:
        """Connect, and wait for the relay's welcome. Later connections are made automatically.

        It waits without a limit; the caller sets a timeout.
        """
        if self._counts is not None:
            self._counts.open(self._say_introduced)
        self._link.start()
        await self._welcome.wait()

    async def close(self) -> None:
        """Send what is pending, give the relay a moment to read it, and disconnect."""
        self._flush()
        await self._link.close()

    # As a broker and as presence

    def publish(self, draft: Draft, outcome: OnOutcome | None = None) -> None:
        if not self._drafts.has_new:  # all that follow in this turn have the same deadline
            self._draft_deadline = time.monotonic() + self.bounds.answer_s
            self._outbox.schedule()
            self._timer.watch(self._draft_deadline)
        self._drafts.add(draft, outcome, self._draft_deadline)

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        def joined(reply: records.Joined) -> None:
            self._rooms.count_in(reply)
            enter(reply.entry)

        await self.ask(
            lambda number, deadline: records.Join(number, deadline, entrance),
            records.Joined,
            joined,
        )

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        state = self._rooms.get(room)
        if state is None:  # the room's stream was lost, and the member was evicted
            left()
            return
        state.count_out(member)
        state.pending += 1

        def goodbye(reply: records.Left | None = None) -> None:
            left()
            self._rooms.settle(room, state)

        try:
            # `self.ask` would refuse a request to a relay that does not read. A leave must be sent
            # in any case, because the relay has counted the member.
            await self._requests.ask(
                lambda number, deadline: records.Leave(number, deadline, room, member),
                records.Left,
                goodbye,
                self.bounds.answer_s,
            )
        except CommandError:
            # The relay did not reply in time. If it reads the record later, it counts the member
            # out. A new relay does not learn of the member at all.
            goodbye()

    def lose(self, room: str, member: Member) -> None:
        state = self._rooms.get(room)
        if state is None:
            return
        state.count_out(member)
        self._say_introduced(records.Lose(room, member))
        self._rooms.drop_if_empty(room, state)

    async def remove(self, removal: Removal) -> Member:
        members: list[Member] = []
        await self.ask(
            lambda number, deadline: records.Remove(number, deadline, removal),
            records.Removed,
            lambda reply: members.append(reply.member),
        )
        return members[0]

    def tell(self, room: str, payload: bytes) -> None:
        if not self._link.is_clogged:
            self._say(records.Tell(room, payload))

    def tick(self) -> None:
        """Measure the round trip to the relay; log if there has been none for a while.

        Call it once a second.
        """
        self._say(records.Ping(time.monotonic()))
        if self.connected:
            if self._away_ticks >= AWAY_TICKS:
                logger.warning("%s is connected to the relay again", self._name)
            self._away_ticks = 0
            self._send_some_away()
            return
        self._away_ticks += 1
        self._send_some_away()
        if self._away_ticks == AWAY_TICKS:
            logger.error(
                "%s has had no relay for %d s, so its clients get `unavailable`: %s",
                self._name,
                AWAY_TICKS,
                self._link.failure,
            )

    def _send_some_away(self) -> None:
        if self._sending_away is None:
            return
        if share := self._sending_away.share(float(self._away_ticks)):
            self._send_away(share)

    def report(self, snapshot: dict[str, Any]) -> None:
        """Send the relay this worker's counters, for `fastchat status` and the metrics."""
        self._say(records.Report(snapshot))

    async def ask(
        self,
        make: Make,
        expected: type[Reply],
        replied: Callable[[Reply], None],
        patience_s: float | None = None,
    ) -> None:
        """Send a request and wait for its reply; see `Requests.ask`.

        `patience_s` is None for the usual time, `Bounds.answer_s`. Raises CommandError
        `unavailable` at once if the relay has too much still to read.
        """
        if self._link.is_clogged:
            raise unavailable()
        await self._requests.ask(make, expected, replied, patience_s or self.bounds.answer_s)

    def _give_up(self) -> None:
        """Refuse the drafts and requests whose deadline has passed."""
        now = time.monotonic()
        self._drafts.give_up(now)
        for record in self._requests.give_up(now):
            if isinstance(record, records.Leave):
                self._on_late_leave(record)
        for deadline in (self._drafts.first_deadline, self._requests.first_deadline):
            if deadline is not None:
                self._timer.watch(deadline)

    def _on_late_leave(self, record: records.Leave) -> None:
        """Send a LOSE record in place of a LEAVE that will not be sent again.

        The member left after the introduction. Therefore a relay that has read the introduction
        has counted the member.
        """
        if not self.connected and record.member is not None:
            self._say_introduced(records.Lose(record.room, record.member))

    # To the relay

    def _say(self, record: FromWorker) -> None:
        if self.connected:
            self._add_drafts()  # earlier drafts go first
            self._outbox.add(record.encode())
            self._outbox.schedule()

    def _say_introduced(self, record: FromWorker) -> None:
        """Send a record that changes what the introduction said, also before the welcome.

        Without a connection nothing is sent: the next introduction contains the change.
        """
        if self._link.is_up and not self.connected:
            self._outbox.add(record.encode())
        else:
            self._say(record)

    def _flush(self) -> None:
        """Send all records of the turn in one write."""
        if not self.connected:
            self._drafts.keep_new()
            return
        self._add_drafts()
        data = self._outbox.take()
        if data:
            self._link.write(data)

    def _add_drafts(self) -> None:
        if self._link.is_clogged:
            self._drafts.refuse_new()
            return
        for record in self._drafts.send_new():
            self._outbox.add(record.encode())

    # As the owner of the link

    def introduction(self) -> Iterator[bytes]:
        """Yield HELLO, the rooms without the members that are leaving, and the connections."""
        self._requests.forget_leaving_members()
        self._drafts.doubt()
        yield records.Hello(self._name, os.getpid(), len(self._rooms)).encode()
        for record in self._rooms.introduction():
            yield record.encode()
        if self._counts is not None:
            yield self._counts.introduction().encode()

    def on_end(self) -> None:
        if self.connected and not self._link.closing:
            logger.warning("the connection to the relay is lost; reconnecting")
        self._welcome.clear()
        self._outbox.clear()

    def on_record(self, record: FromRelay) -> None:
        """Handle a record of the relay."""
        match record:
            case records.Deliver(runs):
                self._on_deliver(runs)
            case records.Event():
                self._on_event(record)
            case records.Answer():
                self._drafts.on_answer(record)
            case (
                records.Joined()
                | records.Left()
                | records.Page()
                | records.Removed()
                | records.Administered()
            ):
                self._on_reply(record)
            case records.Refused():
                self._requests.on_refused(record)
            case records.Expel():
                self._receiver.expel(*record)
            case records.Know():
                self._on_know(record)
            case records.Lost(room):
                self._on_lost(room)
            case records.Restarted(room, position):
                self._on_restarted(room, position)
            case _:
                self._on_aside(record)

    def _on_aside(self, record: records.Aside) -> None:
        """Handle a record that concerns no room."""
        match record:
            case records.Pong(sent):
                self._metrics.relay_lag_s.observe(time.monotonic() - sent)
            case records.TurnAway():
                if self._counts is not None:
                    self._counts.turn_away(record)
            case records.SendAway(share):
                self._send_away(share)
            case records.Welcome():
                self._on_welcome()
            case records.Status() | records.Operated():
                raise BadRecord(f"a {type(record).__name__} record without a request")
            case _:
                assert_never(record)

    def _on_welcome(self) -> None:
        """Send the open drafts and requests: the relay has sent all that was missed."""
        self.on_welcome()
        self._welcome.set()
        self._drafts.end_doubt()
        # Drafts go before requests: a message that was sent before a leave is published before it.
        for batch in self._drafts.send_all():
            self._outbox.add(batch.encode())
        for request in self._requests.open_requests():
            self._outbox.add(request.encode())
        self._flush()

    def _on_deliver(self, runs: Sequence[records.Run]) -> None:
        publish = self._delivery.publish
        for name, offset, payloads, draft_numbers in runs:
            if draft_numbers is not None:
                self._drafts.decide_published(draft_numbers, offset)
            room = self._rooms.get(name)
            if room is None:
                continue  # the room's last member here has left
            following = room.offset + 1
            if offset > following:
                self._on_hole(name)
            elif offset < following:  # the first ones were delivered before
                payloads = payloads[following - offset :]
                offset = following
                if not payloads:
                    continue
            if not self.connected:
                self._drafts.recognise(payloads, offset)
            room.offset, room.newest = offset + len(payloads) - 1, payloads[-1]
            for payload in payloads:
                publish(name, payload)
        self._delivery.end_turn()

    def _on_event(self, event: records.Event) -> None:
        name, change, payload = event
        room = self._rooms.get(name)
        if room is not None and (change is None or room.note(change)):
            # The hub writes it at the end of the turn, together with the turn's other events.
            self._delivery.publish(name, payload)

    def _on_know(self, record: records.Know) -> None:
        if (room := self._rooms.get(record.room)) is not None:
            room.know(record.users)

    def _on_hole(self, name: str) -> None:
        logger.error("publications of a room are missing; closing its members' connections")
        self._evict(name)

    def _on_lost(self, name: str) -> None:
        """Evict a room whose stream the relay cannot resume. Its clients reconnect and recover."""
        room = self._rooms.pop(name, None)
        if room is not None:
            logger.warning("a room could not be resumed; closing its members' connections")
            self._evict(name)
            self._drafts.on_lost(room)

    def _on_restarted(self, name: str, position: Position) -> None:
        """Follow a room's new stream. Its members go, and come back into the new room."""
        if (room := self._rooms.get(name)) is not None:
            room.start(position)
            # The members have been told why, and eviction would drop what is not written yet.
            self._delivery.end_turn()
            self._evict(name)

    def _evict(self, name: str) -> None:
        reason = CloseReason.LOST_CONTINUITY
        self._delivery.evict(name, reason.code, reason.text)

    def _on_reply(self, reply: records.Reply) -> None:
        if not self._requests.on_reply(reply) and isinstance(reply, records.Joined):
            # The join has timed out, but the relay has counted the member in.
            self._say(records.Lose(reply.room, reply.entry.member))
