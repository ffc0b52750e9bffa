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
    expect_seconds,
    expect_text,
)
from fastchat.brokers.relay.wire import BadRecord, RecordKind, pack
from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.connections import Limit
from fastchat.rooms import Entry, Member
from fastchat.rooms.subscribers import PresenceChange

__all__ = [
    "Answer",
    "Aside",
    "Deliver",
    "Delivered",
    "Deliveries",
    "Expel",
    "FromRelay",
    "Joined",
    "Know",
    "Left",
    "Lost",
    "Page",
    "Pong",
    "Refusal",
    "Refused",
    "Removed",
    "Reply",
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


#: A tuple of a named class, without its arguments' defaults: in a quarter of the time.
_new_tuple = tuple.__new__


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


class Delivered(NamedTuple):
    """A publication, or an event that is not stored; an event has the offset 0.

    If the publication's draft came from this worker, `draft_number` is the draft's number;
    otherwise it is None. A join or leave event has its `change`.
    """

    room: str
    offset: int
    draft_number: int | None
    payload: bytes
    change: PresenceChange | None = None


class Deliver(NamedTuple):
    """Publications and events of the worker's rooms, in the order in which they happened.

    Head: [[room, offset, draft number or null, size, change or null], ...]. A change is
    [came, member]. Tail: the payloads, one after the other, each of `size` bytes.
    """

    deliveries: Sequence[Delivered]

    def encode(self) -> bytes:
        record = Deliveries()
        for delivery in self.deliveries:
            record.add(*delivery)
        return record.encode()

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        deliveries = []
        start = 0
        try:
            # The types are checked without a call for each field, because this runs for each
            # delivery.
            for room, offset, number, size, change in expect_list(head):
                if not (
                    type(room) is str
                    and type(offset) is int
                    and type(size) is int
                    and size >= 0
                    and (number is None or type(number) is int)
                ):
                    raise BadRecord("a field of a delivery is of another type")
                if change is not None:
                    change = _change(change)
                end = start + size
                fields = (room, offset, number, tail[start:end], change)
                deliveries.append(_new_tuple(Delivered, fields))
                start = end
        except (TypeError, ValueError):
            raise BadRecord("a delivery must have 5 fields") from None
        if start != len(tail):
            raise BadRecord("the sizes of the payloads do not add up to the size of the tail")
        return cls(deliveries)


class Deliveries:
    """A DELIVER record under construction. `size` is the size of its payloads, in bytes."""

    __slots__ = ("_payloads", "_rows", "size")

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int | None, int, PresenceChange | None]] = []
        self._payloads: list[bytes] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        room: str,
        offset: int,
        draft_number: int | None,
        payload: bytes,
        change: PresenceChange | None = None,
    ) -> None:
        size = len(payload)
        self._rows.append((room, offset, draft_number, size, change))
        self._payloads.append(payload)
        self.size += size

    def encode(self) -> bytes:
        return pack(RecordKind.DELIVER, self._rows, self._payloads)


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


# Replies


class Joined(NamedTuple):
    """The reply to JOIN: the entry.

    Head: [number, {room, member, position, recovered, users, online, spectators, sizes}]; `users`
    is null in a crowd. Tail: the payloads, one after the other, of these sizes in bytes.
    """

    number: int
    room: str
    entry: Entry

    def encode(self) -> bytes:
        member, position, payloads, recovered, users, online, spectators = self.entry
        answer = {
            "room": self.room,
            "member": member,
            "position": position,
            "recovered": recovered,
            "users": users,
            "online": online,
            "spectators": spectators,
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


Reply = Joined | Left | Page | Removed
Aside = Welcome | TurnAway | Pong | Status
FromRelay = Deliver | Answer | Know | Expel | Lost | Reply | Refused | Aside


def _change(value: Any) -> PresenceChange:
    came, member = expect_fields(value, 2)
    return PresenceChange(expect_flag(came), expect_member(member))


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
    payloads = []
    start = 0
    for size in expect_list(sizes):
        end = start + expect_natural(size)
        payloads.append(tail[start:end])
        start = end
    if start != len(tail):
        raise BadRecord("the sizes of the payloads do not add up to the size of the tail")
    return payloads
