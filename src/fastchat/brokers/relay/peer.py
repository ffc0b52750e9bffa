"""A worker's connection to the relay, as the relay has it; `brokers/relay` is the other end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, cast

from fastchat.brokers.relay.wire import VERSION, BadRecord, RecordKind, RecordReader, pack
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.limits.connections import Branch, Census, Limit
from fastchat.protocol import Kind, Position, Publication
from fastchat.rooms import Entrance, Member, Messages, Removal
from fastchat.rooms.rooms import Rooms
from fastchat.rooms.subscribers import Change

__all__ = ["House", "RelayPort"]

logger = logging.getLogger("fastchat.relay")

#: A worker that does not read so much is cut off; it comes back and resumes.
MAX_BACKLOG_BYTES = 32 * 1024 * 1024
#: Payloads of one record, about: what a worker missed may be more than a record holds.
RECORD_BYTES = 1024 * 1024


class House(Protocol):
    """What a port is a port of: the relay."""

    rooms: Rooms
    census: Census
    #: Whether all workers that were to come have come.
    gathered: bool

    def opened(self, port: RelayPort, /) -> None: ...
    def restored(self, port: RelayPort, /) -> None:
        """The worker has told all it knows; `RelayPort.welcome` is to follow."""
        ...

    def closed(self, port: RelayPort, /) -> None: ...
    def status(self) -> dict[str, Any]: ...


class RelayPort(asyncio.Protocol):
    """A worker's connection; a `fastchat.rooms.subscribers.Port`."""

    def __init__(self, relay: House) -> None:
        self._relay = relay
        self._rooms = relay.rooms
        self._guests = Branch(relay.census)
        self._reader = RecordReader()
        self._members: dict[str, Counter[Member]] = {}  # of each room; and their connections
        self._items: list[tuple[Any, ...]] = []  # deliveries, not packed yet
        self._payloads: list[bytes] = []
        self._size = 0  # of the payloads
        self._outbox: list[bytes] = []
        self._flushing = False
        self._searches: set[asyncio.Task[None]] = set()
        self._to_restore: int | None = None  # rooms; None before the worker's hello
        self.name = ""
        self.report: dict[str, Any] | None = None

    @property
    def is_restored(self) -> bool:
        return self._to_restore == 0

    # As a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._loop = asyncio.get_running_loop()
        self._relay.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for record in self._reader.feed(data):
                self._on_record(*record)
        except BadRecord as error:
            logger.warning("%s is cut off: %s", self.name or "a client", error)
            self._transport.abort()
        except Exception:  # a fault of either side costs the connection, not the relay
            logger.exception("%s said something that is not understood", self.name or "a client")
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._relay.closed(self)
        self._guests.close()
        for search in self._searches:
            search.cancel()
        for room, members in self._members.items():
            for member in members.elements():
                self._rooms.lose(self, room, member)
        self._members.clear()
        if self.name:
            logger.info("%s has gone", self.name)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    # As a port

    def deliver(
        self, room: str, offset: int, payload: bytes, ticket: Any, change: Change | None = None
    ) -> None:
        self._items.append((room, offset, ticket, len(payload), change))
        self._payloads.append(payload)
        self._size += len(payload)
        if self._size > RECORD_BYTES:
            self._pack_deliveries()
        self._schedule_flush()

    def kept(self, ticket: Any, offset: int) -> None:
        self._say(pack(RecordKind.ANSWER, [ticket, offset, False]))

    def answer(self, ticket: Any, outcome: Duplicate | CommandError) -> None:
        if isinstance(outcome, Duplicate):
            answer = [ticket, outcome.offset, True]
        else:
            answer = [ticket, _fields(outcome), False]
        self._say(pack(RecordKind.ANSWER, answer))

    def know(self, room: str, users: Mapping[str, str]) -> None:
        self._say(pack(RecordKind.KNOW, [room, users]))

    def expel(self, room: str, author: str, seconds: int) -> None:
        self._say(pack(RecordKind.EXPEL, [room, author, seconds]))

    def end_turn(self) -> None:
        self._flush()

    def welcome(self) -> None:
        self._say(pack(RecordKind.WELCOME, None))

    # Out

    def _say(self, record: bytes) -> None:
        self._pack_deliveries()
        self._outbox.append(record)
        self._schedule_flush()

    def _pack_deliveries(self) -> None:
        if self._items:
            self._outbox.append(pack(RecordKind.DELIVER, self._items, self._payloads))
            self._items, self._payloads, self._size = [], [], 0

    def _schedule_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that the turn has to say."""
        self._flushing = False
        self._pack_deliveries()
        outbox, self._outbox = self._outbox, []
        if not outbox or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_BACKLOG_BYTES:
            logger.warning("%s does not read; it is cut off", self.name)
            self._transport.abort()
            return
        self._transport.write(b"".join(outbox))

    # In

    def _on_record(self, kind: int, head: Any, tail: bytes) -> None:
        if kind == RecordKind.STATUS:
            self._say(pack(RecordKind.STATUS, self._relay.status()))
            return
        if self._to_restore is None or self._to_restore:
            self._on_introduction(kind, head)
            return
        match kind:
            case RecordKind.PUBLISH:
                self._on_publish(*head)
            case RecordKind.JOIN:
                self._on_join(*head)
            case RecordKind.LEAVE:
                self._on_leave(*head)
            case RecordKind.LOSE:
                room, member = head
                self._count_out(room, Member(*member), self._rooms.lose)
            case RecordKind.TELL:
                (room,) = head
                self._rooms.tell(self, room, tail)
            case RecordKind.BEFORE | RecordKind.AFTER | RecordKind.SEARCH:
                self._on_read(kind, *head)
            case RecordKind.REMOVE:
                self._on_remove(*head)
            case RecordKind.REPORT:
                self.report = head
            case RecordKind.PING:
                self._say(pack(RecordKind.PONG, head))
            case _:
                self._on_guest(kind, head)

    def _on_guest(self, kind: int, head: Any) -> None:
        match kind:
            case RecordKind.ENTER:
                self._count_in(*head)
            case RecordKind.IDENTIFY:
                self._turn_away(head[0], self._guests.identify(*head))
            case RecordKind.EXIT:
                self._guests.leave(*head)
            case RecordKind.GUESTS:
                for guest in head:
                    self._count_in(*guest)
            case _:
                raise BadRecord(f"an unknown kind of record, {kind}")

    def _count_in(self, number: int, address: str, author: str = "") -> None:
        self._turn_away(number, self._guests.enter(number, address, author))

    def _on_introduction(self, kind: int, head: Any) -> None:
        """HELLO, and as many RESTOREs as it says."""
        if kind == RecordKind.HELLO and self._to_restore is None:
            version, self.name, pid, self._to_restore = head
            if version != VERSION:
                raise BadRecord(f"{self.name} speaks version {version}, we speak {VERSION}")
            logger.info("%s (pid %d) is here, with %d rooms", self.name, pid, self._to_restore)
        elif kind == RecordKind.RESTORE and self._to_restore:
            self._on_restore(*head)
            self._to_restore -= 1
        else:
            raise BadRecord(f"a record of kind {kind} before its time")
        if self._to_restore == 0:
            self._relay.restored(self)

    def _on_restore(self, room: str, position: Any, members: Any, known: Any) -> None:
        counts = [(Member(*member), count) for member, count in members]
        missed = self._rooms.restore(
            self,
            room,
            Position(*position),
            counts,
            [Member(*each) for each in known],
            gathering=not self._relay.gathered,
        )
        if missed is None:
            self._say(pack(RecordKind.LOST, room))
            return
        if counts:
            self._members[room] = Counter(dict(counts))
        for offset, payload in missed:
            self.deliver(room, offset, payload, None)

    def _on_publish(self, deadline: float, drafts: list[list[Any]]) -> None:
        if time.monotonic() > deadline:  # nobody waits for it any more
            for ticket, *_ in drafts:
                self._say(pack(RecordKind.ANSWER, [ticket, _fields(_too_late()), False]))
            return
        for ticket, room, username, text, timestamp, author, id, *change in drafts:
            draft = Publication(room, 0, username, text, timestamp, id, author=author)
            if change:
                kind, target, emoji, remove, moderated = change
                draft = draft._replace(
                    kind=Kind(kind), target=target, emoji=emoji, remove=remove, moderated=moderated
                )
            self._rooms.publish(self, ticket, draft)

    def _turn_away(self, number: int, limit: Limit | None) -> None:
        if limit is not None:
            self._say(pack(RecordKind.TURN_AWAY, [number, limit]))

    def _on_join(
        self,
        number: int,
        deadline: float,
        room: str,
        who: Any,
        since: Any,
        limit: int,
        *guest: Any,
    ) -> None:
        position = None if since is None else Position(*since)
        entrance = Entrance(room, Member(*who), position, limit, *guest)
        try:
            if time.monotonic() > deadline:
                raise _too_late()
            self._guests.check(entrance.guest)
            entry = self._rooms.join(self, entrance)
        except CommandError as refusal:
            self._refuse(number, refusal)
            return
        self._members.setdefault(room, Counter())[entry.member] += 1
        answer = {
            "room": room,
            "member": entry.member,
            "position": entry.position,
            "recovered": entry.recovered,
            "users": entry.users,
            "online": entry.online,
            "known": self._rooms.known(room),
            "sizes": [len(payload) for payload in entry.payloads],
        }
        self._say(pack(RecordKind.JOINED, [number, answer], entry.payloads))

    def _on_leave(self, number: int, deadline: float, room: str, who: Any) -> None:
        self._rooms.commit()  # what was published before still arrives
        self._say(pack(RecordKind.LEFT, [number, None]))
        if who is not None:  # else he was not among those that the worker came back with
            self._count_out(room, Member(*who), self._rooms.leave)

    def _on_remove(self, number: int, deadline: float, *removal: Any) -> None:
        try:
            if time.monotonic() > deadline:
                raise _too_late()
            name = self._rooms.remove(Removal(*removal))
        except CommandError as refusal:
            self._refuse(number, refusal)
        else:
            self._say(pack(RecordKind.REMOVED, [number, name]))

    def _count_out(self, room: str, member: Member, out: Any) -> None:
        members = self._members.get(room)
        if members is None or member not in members:
            return  # the stream of the room was lost, and he with it
        members[member] -= 1
        if not members[member]:
            del members[member]
            if not members:
                del self._members[room]
        out(self, room, member)

    def _on_read(
        self, kind: int, number: int, deadline: float, room: str, what: Any, limit: int
    ) -> None:
        if time.monotonic() > deadline:
            self._refuse(number, _too_late())
            return
        if kind == RecordKind.SEARCH:
            search = self._loop.create_task(self._search(number, room, what, limit))
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
            return
        read = self._rooms.before if kind == RecordKind.BEFORE else self._rooms.after
        try:
            self._reply(number, read(room, what, limit))
        except CommandError as refusal:
            self._refuse(number, refusal)

    async def _search(self, number: int, room: str, query: str, limit: int) -> None:
        try:
            self._reply(number, await self._rooms.search(room, query, limit))
        except CommandError as refusal:
            self._refuse(number, refusal)

    def _refuse(self, number: int, refusal: CommandError) -> None:
        self._say(pack(RecordKind.REFUSED, [number, _fields(refusal)]))

    def _reply(self, number: int, messages: Messages) -> None:
        sizes = [len(payload) for payload in messages.payloads]
        head = [number, [messages.more, sizes]]
        self._say(pack(RecordKind.PAGE, head, messages.payloads))


def _fields(refusal: CommandError) -> list[Any]:
    return [refusal.code, refusal.message, refusal.temporary, refusal.retry_after_ms]


def _too_late() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server is too slow at the moment; try again soon.",
        temporary=True,
    )
