"""The relay: one process that has the rooms, for all workers of a machine.

Workers connect to a Unix socket in the data directory (`fastchat.brokers.relay` is their
side of it). A worker's connection is a port of the rooms. When it ends, its members are
lost, and have the usual time to come back by another worker.

A relay that takes the place of another knows nothing of who is there: it waits until all
workers have told it, and welcomes them together, so that nobody's name is given away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import uvloop

from fastchat.brokers import Entrance, Member, Messages
from fastchat.brokers.records import (
    SOCKET_NAME,
    VERSION,
    BadRecord,
    RecordKind,
    RecordReader,
    pack,
    reachable,
)
from fastchat.brokers.rooms import CROWD, Change, Rooms
from fastchat.control import Control
from fastchat.errors import CommandError, ErrorCode
from fastchat.histories import open_history
from fastchat.history import Duplicate, History
from fastchat.history.files import lock
from fastchat.metrics import Metrics, watch_lag
from fastchat.protocol import Kind, Position, Publication
from fastchat.settings import Settings

__all__ = ["Relay", "run"]

logger = logging.getLogger("fastchat.relay")

#: A worker that does not read so much is cut off; it comes back and resumes.
MAX_BACKLOG_BYTES = 32 * 1024 * 1024
#: Payloads of one record, about: what a worker missed may be more than a record holds.
RECORD_BYTES = 1024 * 1024
#: How long the first workers wait for the others.
GATHERING_S = 1.0
TICK_INTERVAL_S = 1.0
#: How long they have to end, when all are asked to.
WORKERS_STOP_S = 6.0


def run(settings: Settings, control: Control, *, workers: int) -> int:
    """Relay until SIGTERM, or until the supervisor is gone; returns the exit status.

    Raises SettingError when the data directory cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if settings.history == "memory":  # the directory is the socket's, too
            stack.callback(os.close, lock(Path(settings.data)))
        history = open_history(settings)
        stack.callback(history.close)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, history, control, workers))


async def _serve(settings: Settings, history: History, control: Control, workers: int) -> int:
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    rooms = Rooms(history, at_end_of_turn=loop.call_soon, clock=time.time, metrics=metrics)
    relay = Relay(Path(settings.data), rooms, metrics, workers=workers)
    asked, alone = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    control.open(loop, alone.set)
    await relay.start()
    control.say(ready=True)
    tasks = [
        loop.create_task(_tick_forever(relay, control)),
        loop.create_task(watch_lag(metrics.loop_lag_s)),
    ]
    gc.collect()
    gc.freeze()
    orphaned = loop.create_task(alone.wait())
    await _first_of(orphaned, asked.wait())
    # Whoever signals all processes at once means the workers first: they have something to say.
    await _first_of(orphaned, relay.deserted(), timeout_s=WORKERS_STOP_S)
    for task in tasks:
        task.cancel()
    relay.close()
    return 0


async def _first_of(
    task: asyncio.Task[Any], other: Coroutine[Any, Any, Any], timeout_s: float | None = None
) -> None:
    second = asyncio.ensure_future(other)
    await asyncio.wait({task, second}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()


async def _tick_forever(relay: Relay, control: Control) -> None:
    while True:
        await asyncio.sleep(TICK_INTERVAL_S)
        relay.rooms.tick()
        control.say(beat=True, relay=True)


class Relay:
    """The rooms, offered to workers in `directory`. Waits for `workers` of them at first."""

    def __init__(self, directory: Path, rooms: Rooms, metrics: Metrics, *, workers: int) -> None:
        self.rooms = rooms
        self._directory = directory
        self._metrics = metrics
        self._expected = workers
        self.gathered = False
        self._ports: set[_Port] = set()
        self._server: asyncio.AbstractServer | None = None
        self._left = asyncio.Event()  # whenever a port has

    async def start(self) -> None:
        """Listen. The directory's lock is ours: a socket that is there is a dead relay's."""
        loop = asyncio.get_running_loop()
        descriptor = os.open(self._directory, os.O_PATH | os.O_CLOEXEC)
        path = reachable(self._directory, descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(functools.partial(_Port, self), path)
        finally:
            os.umask(before)
            os.close(descriptor)
        loop.call_later(GATHERING_S, self._end_gathering)

    def close(self) -> None:
        """Hang up; what has been kept is kept."""
        self.rooms.commit()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / SOCKET_NAME)
        if self._server is not None:
            self._server.close()
        for port in tuple(self._ports):
            port.close()

    async def deserted(self) -> None:
        """Wait until no worker is connected."""
        while any(port.name for port in self._ports):
            self._left.clear()
            await self._left.wait()

    def status(self) -> dict[str, Any]:
        """The last report of each worker, and our own."""
        own = self._metrics.snapshot(rooms=self.rooms.room_count, users=self.rooms.user_count)
        return {
            "parts": {
                "relay": own,
                **{port.name: port.report for port in self._ports if port.report is not None},
            }
        }

    # Of the ports

    def opened(self, port: _Port) -> None:
        self._ports.add(port)

    def closed(self, port: _Port) -> None:
        self._ports.discard(port)
        self._left.set()

    def restored(self, port: _Port) -> None:
        """A worker has told all it knows."""
        if self.gathered:
            port.welcome()
        elif sum(each.is_restored for each in self._ports) >= self._expected:
            self._end_gathering()

    def _end_gathering(self) -> None:
        if not self.gathered:
            self.gathered = True
            for port in self._ports:
                if port.is_restored:
                    port.welcome()


class _Port(asyncio.Protocol):
    """A worker's connection; a `fastchat.brokers.rooms.Port`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._rooms = relay.rooms
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

    def kept(self, ticket: Any) -> None:
        self._say(pack(RecordKind.ANSWER, [ticket, None]))

    def answer(self, ticket: Any, draft: Publication, outcome: Duplicate | CommandError) -> None:
        answer = outcome.offset if isinstance(outcome, Duplicate) else _fields(outcome)
        self._say(pack(RecordKind.ANSWER, [ticket, answer]))

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
            case RecordKind.REPORT:
                self.report = head
            case RecordKind.PING:
                self._say(pack(RecordKind.PONG, head))
            case _:
                raise BadRecord(f"an unknown kind of record, {kind}")

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
                self._say(pack(RecordKind.ANSWER, [ticket, _fields(_too_late())]))
            return
        for ticket, room, username, text, timestamp, author, id, *change in drafts:
            draft = Publication(room, 0, username, text, timestamp, id, author=author)
            if change:
                kind, target, emoji, remove = change
                draft = draft._replace(kind=Kind(kind), target=target, emoji=emoji, remove=remove)
            self._rooms.publish(self, ticket, draft)

    def _on_join(
        self, number: int, deadline: float, room: str, who: Any, since: Any, limit: int
    ) -> None:
        member = Member(*who)
        entrance = Entrance(room, member, None if since is None else Position(*since), limit)
        try:
            if time.monotonic() > deadline:
                raise _too_late()
            entry = self._rooms.join(self, entrance)
        except CommandError as refusal:
            self._say(pack(RecordKind.REFUSED, [number, _fields(refusal)]))
            return
        self._members.setdefault(room, Counter())[entry.member] += 1
        answer = {
            "room": room,
            "member": entry.member,
            "position": entry.position,
            "recovered": entry.recovered,
            "users": entry.users,
            "online": entry.online,
            "known": self._known(room),
            "sizes": [len(payload) for payload in entry.payloads],
        }
        self._say(pack(RecordKind.JOINED, [number, answer], entry.payloads))

    def _known(self, room: str) -> dict[str, str]:
        """Whom those who join here come to know of; a crowd is told by number."""
        users = self._rooms.users(room)
        return {user.name: user.author for user in users} if len(users) <= CROWD else {}

    def _on_leave(self, number: int, deadline: float, room: str, who: Any) -> None:
        self._rooms.commit()  # what was published before still arrives
        self._say(pack(RecordKind.LEFT, [number, None]))
        if who is not None:  # else he was not among those that the worker came back with
            self._count_out(room, Member(*who), self._rooms.leave)

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
        if kind == RecordKind.SEARCH:
            search = self._loop.create_task(self._search(number, room, what, limit))
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
            return
        read = self._rooms.before if kind == RecordKind.BEFORE else self._rooms.after
        try:
            self._reply(number, read(room, what, limit))
        except CommandError as refusal:
            self._say(pack(RecordKind.REFUSED, [number, _fields(refusal)]))

    async def _search(self, number: int, room: str, query: str, limit: int) -> None:
        try:
            self._reply(number, await self._rooms.search(room, query, limit))
        except CommandError as refusal:
            self._say(pack(RecordKind.REFUSED, [number, _fields(refusal)]))

    def _reply(self, number: int, messages: Messages) -> None:
        sizes = [len(payload) for payload in messages.payloads]
        head = [number, [messages.more, sizes]]
        self._say(pack(RecordKind.PAGE, head, messages.payloads))


def _fields(refusal: CommandError) -> list[Any]:
    return [refusal.code, refusal.message, refusal.temporary]


def _too_late() -> CommandError:
    return CommandError(
        ErrorCode.UNAVAILABLE,
        "The server is too slow at the moment; try again soon.",
        temporary=True,
    )
