"""The records that the relay sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from fastchat.brokers.relay.records.fields import (
    Snapshot,
    expect_choice,
    expect_fields,
    expect_flag,
    expect_list,
    expect_member,
    expect_members,
    expect_natural,
    expect_null,
    expect_object,
    expect_position,
    expect_positive,
    expect_rows,
    expect_seconds,
    expect_share,
    expect_text,
)
from fastchat.brokers.relay.wire import BadRecord, RecordKind, pack
from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.connections import Limit
from fastchat.protocol import Position
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entry, Member
from fastchat.rooms.subscribers import PresenceChange

__all__ = [
    "Administered",
    "Answer",
    "Aside",
    "Deliver",
    "Deliveries",
    "Event",
    "Expel",
    "FromRelay",
    "Joined",
    "Know",
    "Left",
    "Lost",
    "Operated",
    "Page",
    "Pong",
    "Refusal",
    "Refused",
    "Removed",
    "Reply",
    "Restarted",
    "Run",
    "Status",
    "TurnAway",
    "Welcome",
]


class Refusal(NamedTuple):
    """The refusal of a draft or a request: [code, message, temporary, milliseconds or null].

    A worker passes it on to the client as an `error` event. The client can try again after the
    milliseconds; they are None if that time is not known.
    """

    code: ErrorCode
    message: str
    temporary: bool
    retry_after_ms: int | None

    @classmethod
    def of(cls, error: CommandError) -> Self:
        return cls(error.code, error.message, error.temporary, error.retry_after_ms)

    def error(self) -> CommandError:
        return CommandError(
            self.code, self.message, temporary=self.temporary, retry_after_ms=self.retry_after_ms
        )


#: The types of the draft numbers of a run.
_NUMBERS = frozenset({int, type(None)})


# The stream of a worker's rooms


class Welcome(NamedTuple):
    """The worker has received all that it had missed. The relay accepts drafts and requests now.

    Head: null.
    """

    def encode(self) -> bytes:
        return pack(RecordKind.WELCOME, None)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        expect_null(head)
        return cls()


class Run(NamedTuple):
    """Publications of a room whose offsets follow each other, from `offset` on.

    For each of them, `draft_numbers` has the number of its draft if the draft came from this
    worker, and None otherwise. It is None if no draft came from this worker.
    """

    room: str
    offset: int
    payloads: Sequence[bytes]
    draft_numbers: Sequence[int | None] | None = None


class Deliver(NamedTuple):
    """Publications of the worker's rooms, in the order in which they happened.

    Head: [[room, offset, [size, ...], [draft number or null, ...] or null], ...]. Tail: the
    payloads, one after the other, of these sizes in bytes.
    """

    runs: Sequence[Run]

    def encode(self) -> bytes:
        record = Deliveries()
        for run in self.runs:
            record.add(*run)
        return record.encode()

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        runs = []
        start = 0
        for room, offset, sizes, numbers in expect_rows(head, 4):
            payloads, start = _cut(tail, start, sizes)
            if not payloads:
                raise BadRecord("a run without a publication")
            if numbers is not None and (
                type(numbers) is not list
                or len(numbers) != len(payloads)
                or not _NUMBERS.issuperset(map(type, numbers))
            ):
                raise BadRecord("the draft numbers do not match the publications")
            runs.append(Run(expect_text(room), expect_positive(offset), payloads, numbers))
        _expect_end(tail, start)
        return cls(runs)


class Deliveries:
    """A DELIVER record under construction. `size` is the size of its payloads, in bytes."""

    __slots__ = ("_payloads", "_rows", "size")

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, list[int], Sequence[int | None] | None]] = []
        self._payloads: list[bytes] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        room: str,
        offset: int,
        payloads: Sequence[bytes],
        draft_numbers: Sequence[int | None] | None,
    ) -> None:
        sizes = list(map(len, payloads))
        self._rows.append((room, offset, sizes, draft_numbers))
        self._payloads += payloads
        self.size += sum(sizes)

    def encode(self) -> bytes:
        return pack(RecordKind.DELIVER, self._rows, self._payloads)


class Event(NamedTuple):
    """An event for the members of a room, which is not stored.

    Head: [room, [came, member] or null]. A join or leave event has its `change`. Tail: the payload.
    """

    room: str
    change: PresenceChange | None
    payload: bytes

    def encode(self) -> bytes:
        return pack(RecordKind.EVENT, (self.room, self.change), (self.payload,))

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, change = expect_fields(head, 2)
        return cls(expect_text(room), None if change is None else _change(change), tail)


class Answer(NamedTuple):
    """The outcome of a draft, if no DELIVER record carries the draft's number.

    Head: [draft number, outcome, repeated]. The outcome is a Refusal or an offset. If `repeated`
    is true, the offset is that of an earlier publication with the same `id`. If it is false, the
    draft was published in a room in which the worker has no member any more.
    """

    draft_number: int
    outcome: int | Refusal
    repeated: bool = False

    def encode(self) -> bytes:
        return pack(RecordKind.ANSWER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, outcome, repeated = expect_fields(head, 3)
        return cls(
            expect_natural(number),
            _refusal(outcome) if type(outcome) is list else expect_natural(outcome),
            expect_flag(repeated),
        )


class Know(NamedTuple):
    """The users that the members of a room know of from now on.

    Head: [room, [member, ...] or null]. It is null in a crowd.
    """

    room: str
    users: Sequence[Member] | None

    def encode(self) -> bytes:
        return pack(RecordKind.KNOW, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, users = expect_fields(head, 2)
        return cls(expect_text(room), expect_members(users))


class Expel(NamedTuple):
    """A moderator has removed a user from a room: the worker must close the user's connections.

    Head: [room, user, seconds]. The user must stay out of the room for this many seconds.
    """

    room: str
    user: str
    seconds: int

    def encode(self) -> bytes:
        return pack(RecordKind.EXPEL, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, user, seconds = expect_fields(head, 3)
        return cls(expect_text(room), expect_text(user), expect_natural(seconds))


class Lost(NamedTuple):
    """The reply to a RESTORE that fails: the relay has not counted the room's members in.

    Head: the room.
    """

    room: str

    def encode(self) -> bytes:
        return pack(RecordKind.LOST, self.room)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(expect_text(head))


class Restarted(NamedTuple):
    """A room's stream was deleted and begins anew: the worker closes the members' connections.

    Head: [room, position].
    """

    room: str
    position: Position

    def encode(self) -> bytes:
        return pack(RecordKind.RESTARTED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, position = expect_fields(head, 2)
        return cls(expect_text(room), expect_position(position))


# Replies


class Joined(NamedTuple):
    """The reply to JOIN: the entry.

    Head: [number, {room, member, position, recovered, users, online, spectators, options, sizes}];
    `users` is null in a crowd, and `options` if nothing was set. Tail: the payloads, one after the
    other, of these sizes in bytes.
    """

    number: int
    room: str
    entry: Entry

    def encode(self) -> bytes:
        member, position, payloads, recovered, users, online, spectators, options = self.entry
        answer = {
            "room": self.room,
            "member": member,
            "position": position,
            "recovered": recovered,
            "users": users,
            "online": online,
            "spectators": spectators,
            "options": options,
            "sizes": [len(payload) for payload in payloads],
        }
        return pack(RecordKind.JOINED, [self.number, answer], payloads)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, answer = expect_fields(head, 2)
        get = expect_object(answer).get
        entry = Entry(
            expect_member(get("member")),
            expect_position(get("position")),
            _payloads(tail, get("sizes")),
            expect_flag(get("recovered")),
            expect_members(get("users")),
            expect_natural(get("online")),
            expect_natural(get("spectators")),
            _options(get("options")),
        )
        return cls(expect_natural(number), expect_text(get("room")), entry)


class Left(NamedTuple):
    """The reply to LEAVE. It follows every publication that the member must receive.

    Head: [number, null].
    """

    number: int

    def encode(self) -> bytes:
        return pack(RecordKind.LEFT, [self.number, None])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, nothing = expect_fields(head, 2)
        expect_null(nothing)
        return cls(expect_natural(number))


class Page(NamedTuple):
    """The reply to BEFORE, AFTER and SEARCH: encoded publications, and whether there are more.

    Head: [number, [more, [size, ...]]]. Tail: the payloads, one after the other, of these sizes in
    bytes.
    """

    number: int
    payloads: Sequence[bytes]
    more: bool

    def encode(self) -> bytes:
        sizes = [len(payload) for payload in self.payloads]
        return pack(RecordKind.PAGE, [self.number, [self.more, sizes]], self.payloads)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, page = expect_fields(head, 2)
        more, sizes = expect_fields(page, 2)
        return cls(expect_natural(number), _payloads(tail, sizes), expect_flag(more))


class Removed(NamedTuple):
    """The reply to REMOVE: the user, with the name in the user's own spelling.

    Head: [number, member].
    """

    number: int
    member: Member

    def encode(self) -> bytes:
        return pack(RecordKind.REMOVED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, member = expect_fields(head, 2)
        return cls(expect_natural(number), expect_member(member))


class Administered(NamedTuple):
    """The reply to ADMINISTER: what the method returned, and encoded publications if there are any.

    Head: [number, value, [size, ...]]. Tail: the payloads, one after the other, of these sizes in
    bytes.
    """

    number: int
    value: Any
    payloads: Sequence[bytes] = ()

    def encode(self) -> bytes:
        sizes = [len(payload) for payload in self.payloads]
        return pack(RecordKind.ADMINISTERED, [self.number, self.value, sizes], self.payloads)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, value, sizes = expect_fields(head, 3)
        return cls(expect_natural(number), value, _payloads(tail, sizes))


class Operated(NamedTuple):
    """The reply to OPERATE: the result of the operation.

    Head: [result].
    """

    value: Any

    def encode(self) -> bytes:
        return pack(RecordKind.OPERATED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        (value,) = expect_fields(head, 1)
        return cls(value)


class Refused(NamedTuple):
    """The reply to a request that failed.

    Head: [number, [code, message, temporary, milliseconds or null]].
    """

    number: int
    refusal: Refusal

    def encode(self) -> bytes:
        return pack(RecordKind.REFUSED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, refusal = expect_fields(head, 2)
        return cls(expect_natural(number), _refusal(refusal))


# Connections, measurements and status


class TurnAway(NamedTuple):
    """A connection exceeds a limit of the whole server: the worker must close it.

    Head: [number, limit].
    """

    number: int
    limit: Limit

    def encode(self) -> bytes:
        return pack(RecordKind.TURN_AWAY, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, limit = expect_fields(head, 2)
        return cls(expect_natural(number), expect_choice(Limit, limit))


class SendAway(NamedTuple):
    """The worker must close this share of its connections, from 0 to 1.

    Head: the share.
    """

    share: float

    def encode(self) -> bytes:
        return pack(RecordKind.SEND_AWAY, self.share)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(expect_share(head))


class Pong(NamedTuple):
    """The reply to PING. It repeats the time in the PING record.

    Head: the time, in seconds.
    """

    sent: float

    def encode(self) -> bytes:
        return pack(RecordKind.PONG, self.sent)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(expect_seconds(head))


class Status(NamedTuple):
    """The reply to STATUS: the counters of each process of the server, by the process's name.

    Head: {"parts": {name: snapshot, ...}}.
    """

    parts: Mapping[str, Snapshot]

    def encode(self) -> bytes:
        return pack(RecordKind.STATUS, {"parts": self.parts})

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        parts = expect_object(expect_object(head).get("parts"))
        return cls({name: expect_object(snapshot) for name, snapshot in parts.items()})


# Any record


Reply = Joined | Left | Page | Removed | Administered
Aside = Welcome | TurnAway | SendAway | Pong | Status | Operated
FromRelay = Deliver | Event | Answer | Know | Expel | Lost | Restarted | Reply | Refused | Aside


def _change(value: Any) -> PresenceChange:
    came, member = expect_fields(value, 2)
    return PresenceChange(expect_flag(came), expect_member(member))


def _options(value: Any) -> RoomOptions | None:
    """The options of a room, in their order, or null."""
    if value is None:
        return None
    title, topic, closed, read_only, slow_s, max_messages = expect_fields(value, 6)
    return RoomOptions(
        expect_text(title),
        expect_text(topic),
        expect_flag(closed),
        expect_flag(read_only),
        expect_natural(slow_s),
        expect_natural(max_messages),
    )


def _refusal(value: Any) -> Refusal:
    code, message, temporary, retry_after_ms = expect_fields(value, 4)
    return Refusal(
        expect_choice(ErrorCode, code),
        expect_text(message),
        expect_flag(temporary),
        None if retry_after_ms is None else expect_natural(retry_after_ms),
    )


def _payloads(tail: bytes, sizes: Any) -> list[bytes]:
    """Cut a tail into payloads of these sizes; the payloads must fill the tail."""
    payloads, end = _cut(tail, 0, sizes)
    _expect_end(tail, end)
    return payloads


def _cut(tail: bytes, start: int, sizes: Any) -> tuple[list[bytes], int]:
    """Cut payloads of these sizes out of a tail; return them, and the end of the last one."""
    payloads = []
    for size in expect_list(sizes):
        # The type is checked without a call, because this runs for each delivery.
        if type(size) is not int or size < 0:
            raise BadRecord("a size is not a number from 0")
        end = start + size
        payloads.append(tail[start:end])
        start = end
    return payloads, start


def _expect_end(tail: bytes, end: int) -> None:
    if end != len(tail):
        raise BadRecord("the sizes of the payloads do not add up to the size of the tail")
