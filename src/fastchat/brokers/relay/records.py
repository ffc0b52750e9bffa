"""What workers and the relay say to each other: a type for each kind of record.

`fastchat.brokers.relay.wire` frames records; here is what is in them. `encode` and `decode` of
a record stand together, and its docstring has its layout: the head, which is JSON, and the
tail if there is one. Seconds are of the machine's monotonic clock, which all processes share.

A worker begins with HELLO, a RESTORE for each of its rooms, and CONNECTIONS. The relay returns
what the worker has missed, and ends that with WELCOME. From then on the worker sends drafts
and requests; what the relay says about a room, it says in the order in which it happened.

A request carries a number that the worker has chosen, and the time when the worker gives up.
Its reply (JOINED, LEFT, PAGE, REMOVED) or its refusal (REFUSED) carries the same number.

Decoding checks everything: a record of another shape raises BadRecord, and past this module
there is no list without a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self, TypeVar

from fastchat.brokers.relay.wire import VERSION, BadRecord, RecordKind, pack
from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.connections import Limit
from fastchat.protocol import ChangeDraft, Draft, Kind, MessageDraft, Position
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.subscribers import PresenceChange

__all__ = [
    "After",
    "Answer",
    "Aside",
    "AskStatus",
    "Before",
    "Connection",
    "Connections",
    "Counting",
    "Deliver",
    "Delivered",
    "Deliveries",
    "Enter",
    "Exit",
    "Expel",
    "FromRelay",
    "FromWorker",
    "Hello",
    "Identify",
    "Introduction",
    "Join",
    "Joined",
    "Know",
    "Leave",
    "Left",
    "Lose",
    "Lost",
    "Page",
    "Ping",
    "Pong",
    "Publish",
    "Refusal",
    "Refused",
    "Remove",
    "Removed",
    "Reply",
    "Report",
    "Request",
    "Restore",
    "Said",
    "Search",
    "Status",
    "Tell",
    "TurnAway",
    "Welcome",
    "decode_from_relay",
    "decode_from_worker",
]

#: What a process counts, for `fastchat status`: `fastchat.metrics.Metrics.snapshot`.
Snapshot = Mapping[str, Any]


class Refusal(NamedTuple):
    """Why something was not done, as a client is told: [code, message, temporary, milliseconds].

    The milliseconds are after what time it may succeed; None if that is not known.
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


class Connection(NamedTuple):
    """A client's connection, as connections are counted: [number, address, author].

    The worker has chosen the number. An address or author that is empty is not known.
    """

    number: int
    address: str
    author: str


# From a worker: its introduction


class Hello(NamedTuple):
    """The first record of a worker.

    Head: [version, name, pid, rooms]. The version is this protocol's, and `rooms` the number of
    RESTORE records that follow.
    """

    name: str
    pid: int
    rooms: int

    def encode(self) -> bytes:
        return pack(RecordKind.HELLO, [VERSION, *self])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        if type(head) is list and head and head[0] != VERSION:  # the rest may be of another shape
            raise BadRecord(f"its version is {head[0]!r}, ours is {VERSION}")
        _, name, pid, rooms = _fields(head, 4)
        return cls(_text(name), _natural(pid), _natural(rooms))


class Restore(NamedTuple):
    """A room that the worker has members in, or something pending.

    Head: [room, [epoch, offset], [[member, connections], ...], [member, ...]]. The position is
    of what the worker was delivered last. `members` are the worker's, each with the number of its
    connections; `known` are the users that they have been told of.
    """

    room: str
    position: Position
    members: Sequence[tuple[Member, int]]
    known: Sequence[Member]

    def encode(self) -> bytes:
        return pack(RecordKind.RESTORE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, position, members, known = _fields(head, 4)
        return cls(
            _text(room),
            _position(position),
            [(_member(each), _positive(count)) for each, count in _rows(members, 2)],
            [Member(_text(name), _text(author)) for name, author in _rows(known, 2)],
        )


class Connections(NamedTuple):
    """All connections of the worker, at the end of its introduction.

    Head: [[number, address, author], ...].
    """

    connections: Sequence[Connection]

    def encode(self) -> bytes:
        return pack(RecordKind.CONNECTIONS, self.connections)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls([_connection(row) for row in _list(head)])


# From a worker: drafts, members and events


class Publish(NamedTuple):
    """Drafts of one turn of the worker's loop, each with a number that the worker has chosen.

    Head: [deadline, [draft, ...]]. A message is [draft number, room, username, text, timestamp,
    author, id or null]; a change of a message has null there, and then [kind, target, emoji or
    null, remove, moderated]. A relay that reads the record after its deadline keeps none of them.

    Each is answered by ANSWER, or by DELIVER with its number.
    """

    deadline: float
    drafts: Sequence[tuple[int, Draft]]

    def encode(self) -> bytes:
        drafts = [_draft_fields(number, draft) for number, draft in self.drafts]
        return pack(RecordKind.PUBLISH, (self.deadline, drafts))

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        deadline, rows = _fields(head, 2)
        drafts: list[tuple[int, Draft]] = []
        for row in _list(rows):
            # No call for each field: messages are many.
            if type(row) is not list or len(row) != 7:
                drafts.append(_draft_of_change(row))
                continue
            number, room, username, text, timestamp, author, id = row
            if not (
                type(number) is int
                and type(room) is str
                and type(username) is str
                and type(text) is str
                and type(timestamp) is str
                and type(author) is str
                and (id is None or type(id) is str)
            ):
                raise BadRecord("a field of a message is of another type")
            drafts.append((number, MessageDraft(room, username, text, timestamp, author, id)))
        return cls(_seconds(deadline), drafts)


def _draft_fields(number: int, draft: Draft) -> tuple[object, ...]:
    if isinstance(draft, MessageDraft):
        return (number, *draft)
    room, username, text, timestamp, author, kind, target, emoji, remove, moderated = draft
    return (
        *(number, room, username, text, timestamp, author, None),
        *(kind, target, emoji or None, remove, moderated),
    )


def _draft_of_change(row: Any) -> tuple[int, ChangeDraft]:
    number, room, username, text, timestamp, author, id, *change = _fields(row, 12)
    if id is not None:
        raise BadRecord("a change with an id")
    kind, target, emoji, remove, moderated = change
    return _natural(number), ChangeDraft(
        _text(room),
        _text(username),
        _text(text),
        _text(timestamp),
        _text(author),
        _member_of(Kind, kind),
        _natural(target),
        "" if emoji is None else _text(emoji),
        _flag(remove),
        _flag(moderated),
    )


#: A tuple of a named class, without its arguments' defaults: in a quarter of the time.
_new_tuple = tuple.__new__


class Lose(NamedTuple):
    """A member has lost a connection, and may come back.

    Head: [room, member].
    """

    room: str
    member: Member

    def encode(self) -> bytes:
        return pack(RecordKind.LOSE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, member = _fields(head, 2)
        return cls(_text(room), _member(member))


class Tell(NamedTuple):
    """An event for the members of a room in other processes; it is not kept.

    Head: [room]. Tail: the payload.
    """

    room: str
    payload: bytes

    def encode(self) -> bytes:
        return pack(RecordKind.TELL, [self.room], (self.payload,))

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        (room,) = _fields(head, 1)
        return cls(_text(room), tail)


# From a worker: requests


class Join(NamedTuple):
    """A member is to be counted in. Replied to by JOINED.

    Head: [number, deadline, room, member, since, limit, address, connection], of which the last
    six are an Entrance; `since` is [epoch, offset] or null.
    """

    number: int
    deadline: float
    entrance: Entrance

    def encode(self) -> bytes:
        return pack(RecordKind.JOIN, [self.number, self.deadline, *self.entrance])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, member, since, limit, address, connection = _fields(head, 8)
        entrance = Entrance(
            _text(room),
            _member(member),
            None if since is None else _position(since),
            _natural(limit),
            _text(address),
            _natural(connection),
        )
        return cls(_natural(number), _seconds(deadline), entrance)


class Leave(NamedTuple):
    """A member has left, and is counted out also after the deadline. Replied to by LEFT.

    Head: [number, deadline, room, member]. The member is null if this relay never counted it in:
    it left before the worker's introduction.
    """

    number: int
    deadline: float
    room: str
    member: Member | None

    def encode(self) -> bytes:
        return pack(RecordKind.LEAVE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, member = _fields(head, 4)
        return cls(
            _natural(number),
            _seconds(deadline),
            _text(room),
            None if member is None else _member(member),
        )


class Remove(NamedTuple):
    """A moderator removes a user from a room. Replied to by REMOVED.

    Head: [number, deadline, room, username, seconds, moderator], of which the last four are a
    Removal.
    """

    number: int
    deadline: float
    removal: Removal

    def encode(self) -> bytes:
        return pack(RecordKind.REMOVE, [self.number, self.deadline, *self.removal])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, username, seconds, moderator = _fields(head, 6)
        removal = Removal(_text(room), _text(username), _natural(seconds), _text(moderator))
        return cls(_natural(number), _seconds(deadline), removal)


class Before(NamedTuple):
    """A page of publications before an offset, or of the newest if it is None. Replied to by PAGE.

    Head: [number, deadline, room, offset or null, limit].
    """

    number: int
    deadline: float
    room: str
    offset: int | None
    limit: int

    def encode(self) -> bytes:
        return pack(RecordKind.BEFORE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, offset, limit = _fields(head, 5)
        return cls(
            _natural(number),
            _seconds(deadline),
            _text(room),
            None if offset is None else _natural(offset),
            _natural(limit),
        )


class After(NamedTuple):
    """A page of publications after an offset. Replied to by PAGE.

    Head: [number, deadline, room, offset, limit].
    """

    number: int
    deadline: float
    room: str
    offset: int
    limit: int

    def encode(self) -> bytes:
        return pack(RecordKind.AFTER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, offset, limit = _fields(head, 5)
        return cls(
            _natural(number), _seconds(deadline), _text(room), _natural(offset), _natural(limit)
        )


class Search(NamedTuple):
    """A search of a room. Replied to by PAGE.

    Head: [number, deadline, room, query, limit].
    """

    number: int
    deadline: float
    room: str
    query: str
    limit: int

    def encode(self) -> bytes:
        return pack(RecordKind.SEARCH, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, query, limit = _fields(head, 5)
        return cls(_natural(number), _seconds(deadline), _text(room), _text(query), _natural(limit))


# From a worker: its connections, and how it is


class Enter(NamedTuple):
    """A client has connected. If that is one too many, the relay says TURN_AWAY.

    Head: [number, address].
    """

    number: int
    address: str

    def encode(self) -> bytes:
        return pack(RecordKind.ENTER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, address = _fields(head, 2)
        return cls(_natural(number), _text(address))


class Identify(NamedTuple):
    """Whose a connection is, is known now. If that is one too many, the relay says TURN_AWAY.

    Head: [number, address, author].
    """

    connection: Connection

    def encode(self) -> bytes:
        return pack(RecordKind.IDENTIFY, self.connection)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_connection(head))


class Exit(NamedTuple):
    """A connection has ended, also if the relay has turned it away.

    Head: [number, address, author].
    """

    connection: Connection

    def encode(self) -> bytes:
        return pack(RecordKind.EXIT, self.connection)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_connection(head))


class Report(NamedTuple):
    """What the worker counts, once a second.

    Head: the snapshot, an object.
    """

    snapshot: Snapshot

    def encode(self) -> bytes:
        return pack(RecordKind.REPORT, self.snapshot)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_object(head))


class Ping(NamedTuple):
    """Once a second, to measure how long the relay takes. Replied to by PONG.

    Head: the time, in seconds.
    """

    sent: float

    def encode(self) -> bytes:
        return pack(RecordKind.PING, self.sent)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_seconds(head))


class AskStatus(NamedTuple):
    """How the server is; from anybody who can connect, also without HELLO. Replied to by STATUS.

    Head: null, so that the question is always the same bytes.
    """

    def encode(self) -> bytes:
        return pack(RecordKind.STATUS, None)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        _null(head)
        return cls()


# From the relay: the stream of a worker's rooms


class Welcome(NamedTuple):
    """The end of what the worker has missed; the relay takes drafts and requests from now on.

    Head: null.
    """

    def encode(self) -> bytes:
        return pack(RecordKind.WELCOME, None)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        _null(head)
        return cls()


class Delivered(NamedTuple):
    """A publication, or an event: that has the offset 0.

    `draft_number` is that of the draft, if it came from this worker. `change` is what a join or
    leave event says.
    """

    room: str
    offset: int
    draft_number: int | None
    payload: bytes
    change: PresenceChange | None = None


class Deliver(NamedTuple):
    """What happened in the worker's rooms, in order.

    Head: [[room, offset, draft number or null, size, change or null], ...]; a change is
    [came, member]. Tail: the payloads, one behind the other, each of `size` bytes.
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
            # No call for each field: deliveries are many.
            for room, offset, number, size, change in _list(head):
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
            raise BadRecord("a delivery has 5 fields") from None
        if start != len(tail):
            raise BadRecord("the tail is not as long as its payloads")
        return cls(deliveries)


class Deliveries:
    """A DELIVER record that is being filled. `size` is that of its payloads, in bytes."""

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
    """What became of a draft that is not delivered with its number.

    Head: [draft number, outcome, repeated]. The outcome is a Refusal, or an offset: of the draft's
    publication, in a room where the worker has no member any more; or of the earlier publication
    with the same `id`, which the draft has `repeated`.
    """

    draft_number: int
    outcome: int | Refusal
    repeated: bool = False

    def encode(self) -> bytes:
        return pack(RecordKind.ANSWER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, outcome, repeated = _fields(head, 3)
        return cls(
            _natural(number),
            _refusal(outcome) if type(outcome) is list else _natural(outcome),
            _flag(repeated),
        )


class Know(NamedTuple):
    """The users that members of a room are to know of from now on, and their authors.

    Head: [room, {name: author, ...}].
    """

    room: str
    users: Mapping[str, str]

    def encode(self) -> bytes:
        return pack(RecordKind.KNOW, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, users = _fields(head, 2)
        return cls(_text(room), _texts_by_name(users))


class Expel(NamedTuple):
    """A user was removed from a room: the user's connections at this worker are to be closed.

    Head: [room, author, seconds], of which the last is how long the user must stay out.
    """

    room: str
    author: str
    seconds: int

    def encode(self) -> bytes:
        return pack(RecordKind.EXPEL, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, author, seconds = _fields(head, 3)
        return cls(_text(room), _text(author), _natural(seconds))


class Lost(NamedTuple):
    """The reply to a RESTORE that cannot be obeyed: the room's members are not counted in.

    Head: the room.
    """

    room: str

    def encode(self) -> bytes:
        return pack(RecordKind.LOST, self.room)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_text(head))


# From the relay: replies


class Joined(NamedTuple):
    """The reply to JOIN: what the member gets, and the users that it knows of from now on.

    Head: [number, {room, member, position, recovered, users, online, known, sizes}], of which
    `known` is {name: author, ...}. Tail: the payloads, one behind the other, of these sizes.
    """

    number: int
    room: str
    entry: Entry
    known: Mapping[str, str]

    def encode(self) -> bytes:
        member, position, payloads, recovered, users, online = self.entry
        answer = {
            "room": self.room,
            "member": member,
            "position": position,
            "recovered": recovered,
            "users": users,
            "online": online,
            "known": self.known,
            "sizes": [len(payload) for payload in payloads],
        }
        return pack(RecordKind.JOINED, [self.number, answer], payloads)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, answer = _fields(head, 2)
        get = _object(answer).get
        entry = Entry(
            _member(get("member")),
            _position(get("position")),
            _payloads(tail, get("sizes")),
            _flag(get("recovered")),
            [_text(name) for name in _list(get("users"))],
            _natural(get("online")),
        )
        return cls(_natural(number), _text(get("room")), entry, _texts_by_name(get("known")))


class Left(NamedTuple):
    """The reply to LEAVE, behind all that the member was to get.

    Head: [number, null].
    """

    number: int

    def encode(self) -> bytes:
        return pack(RecordKind.LEFT, [self.number, None])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, nothing = _fields(head, 2)
        _null(nothing)
        return cls(_natural(number))


class Page(NamedTuple):
    """The reply to BEFORE, AFTER and SEARCH: encoded publications, and whether there are more.

    Head: [number, [more, [size, ...]]]. Tail: the payloads, one behind the other, of these sizes.
    """

    number: int
    payloads: Sequence[bytes]
    more: bool

    def encode(self) -> bytes:
        sizes = [len(payload) for payload in self.payloads]
        return pack(RecordKind.PAGE, [self.number, [self.more, sizes]], self.payloads)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, page = _fields(head, 2)
        more, sizes = _fields(page, 2)
        return cls(_natural(number), _payloads(tail, sizes), _flag(more))


class Removed(NamedTuple):
    """The reply to REMOVE: the user's name, as the user writes it.

    Head: [number, name].
    """

    number: int
    name: str

    def encode(self) -> bytes:
        return pack(RecordKind.REMOVED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, name = _fields(head, 2)
        return cls(_natural(number), _text(name))


class Refused(NamedTuple):
    """A request was not obeyed.

    Head: [number, [code, message, temporary, milliseconds or null]].
    """

    number: int
    refusal: Refusal

    def encode(self) -> bytes:
        return pack(RecordKind.REFUSED, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, refusal = _fields(head, 2)
        return cls(_natural(number), _refusal(refusal))


# From the relay: the rest


class TurnAway(NamedTuple):
    """A connection is one too many on the machine: the worker is to close it.

    Head: [number, limit].
    """

    number: int
    limit: Limit

    def encode(self) -> bytes:
        return pack(RecordKind.TURN_AWAY, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, limit = _fields(head, 2)
        return cls(_natural(number), _member_of(Limit, limit))


class Pong(NamedTuple):
    """The reply to PING, with the time that was in it.

    Head: the time, in seconds.
    """

    sent: float

    def encode(self) -> bytes:
        return pack(RecordKind.PONG, self.sent)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_seconds(head))


class Status(NamedTuple):
    """How the server is: what each of its processes counts, by the process's name.

    Head: {"parts": {name: snapshot, ...}}.
    """

    parts: Mapping[str, Snapshot]

    def encode(self) -> bytes:
        return pack(RecordKind.STATUS, {"parts": self.parts})

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        parts = _object(_object(head).get("parts"))
        return cls({name: _object(snapshot) for name, snapshot in parts.items()})


# Any record


Introduction = Hello | Restore
Request = Join | Leave | Remove | Before | After | Search
Counting = Connections | Enter | Identify | Exit
Said = Publish | Request | Lose | Tell | Counting | Report | Ping
Reply = Joined | Left | Page | Removed

FromWorker = Introduction | Said | AskStatus
Aside = Welcome | TurnAway | Pong | Status
FromRelay = Deliver | Answer | Know | Expel | Lost | Reply | Refused | Aside

_FROM_WORKER: Mapping[int, Callable[[Any, bytes], FromWorker]] = {
    RecordKind.HELLO: Hello.decode,
    RecordKind.RESTORE: Restore.decode,
    RecordKind.PUBLISH: Publish.decode,
    RecordKind.JOIN: Join.decode,
    RecordKind.LEAVE: Leave.decode,
    RecordKind.LOSE: Lose.decode,
    RecordKind.TELL: Tell.decode,
    RecordKind.BEFORE: Before.decode,
    RecordKind.AFTER: After.decode,
    RecordKind.SEARCH: Search.decode,
    RecordKind.REPORT: Report.decode,
    RecordKind.PING: Ping.decode,
    RecordKind.STATUS: AskStatus.decode,
    RecordKind.REMOVE: Remove.decode,
    RecordKind.ENTER: Enter.decode,
    RecordKind.IDENTIFY: Identify.decode,
    RecordKind.EXIT: Exit.decode,
    RecordKind.CONNECTIONS: Connections.decode,
}
_FROM_RELAY: Mapping[int, Callable[[Any, bytes], FromRelay]] = {
    RecordKind.WELCOME: Welcome.decode,
    RecordKind.DELIVER: Deliver.decode,
    RecordKind.ANSWER: Answer.decode,
    RecordKind.JOINED: Joined.decode,
    RecordKind.LEFT: Left.decode,
    RecordKind.PAGE: Page.decode,
    RecordKind.REFUSED: Refused.decode,
    RecordKind.LOST: Lost.decode,
    RecordKind.PONG: Pong.decode,
    RecordKind.EXPEL: Expel.decode,
    RecordKind.REMOVED: Removed.decode,
    RecordKind.TURN_AWAY: TurnAway.decode,
    RecordKind.KNOW: Know.decode,
    RecordKind.STATUS: Status.decode,
}
_WITH_TAIL = {RecordKind.TELL, RecordKind.DELIVER, RecordKind.JOINED, RecordKind.PAGE}

Record = TypeVar("Record")


def decode_from_worker(kind: int, head: Any, tail: bytes) -> FromWorker:
    """A worker's record, of what `RecordReader` has read; raises BadRecord."""
    return _decode(_FROM_WORKER, kind, head, tail)


def decode_from_relay(kind: int, head: Any, tail: bytes) -> FromRelay:
    """A record of the relay, of what `RecordReader` has read; raises BadRecord."""
    return _decode(_FROM_RELAY, kind, head, tail)


def _decode(
    decoders: Mapping[int, Callable[[Any, bytes], Record]], kind: int, head: Any, tail: bytes
) -> Record:
    decode = decoders.get(kind)
    if decode is None:
        raise BadRecord(f"an unknown kind of record, {kind}")
    try:
        if tail and kind not in _WITH_TAIL:
            raise BadRecord("a tail where there is none")
        return decode(head, tail)
    except BadRecord as error:
        raise BadRecord(f"{RecordKind(kind).name}: {error}") from None


# Checks of what JSON has decoded; each raises BadRecord


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _unexpected("a list", value)
    return value


def _fields(value: Any, count: int) -> list[Any]:
    """A list of so many fields."""
    if type(value) is not list or len(value) != count:
        raise _unexpected(f"{count} fields", value)
    return value


def _rows(value: Any, count: int) -> list[list[Any]]:
    """A list of lists of so many fields."""
    for row in _list(value):
        if type(row) is not list or len(row) != count:
            raise _unexpected(f"{count} fields", row)
    return value  # type: ignore[no-any-return]  # it is a list now


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _unexpected("an object", value)
    return value


def _texts_by_name(value: Any) -> dict[str, str]:
    texts = _object(value)
    for text in texts.values():
        _text(text)
    return texts


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _unexpected("a text", value)
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _unexpected("a number from 0", value)
    return value


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _unexpected("a number from 1", value)
    return value


def _seconds(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _unexpected("seconds", value)
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected("true or false", value)
    return value


def _null(value: Any) -> None:
    if value is not None:
        raise _unexpected("null", value)


Choice = TypeVar("Choice", bound=StrEnum)


def _member_of(choices: type[Choice], value: Any) -> Choice:
    try:
        return choices(value)
    except ValueError:
        raise _unexpected(f"one of {choices.__name__}", value) from None


def _member(value: Any) -> Member:
    name, author = _fields(value, 2)
    return Member(_text(name), _text(author))


def _position(value: Any) -> Position:
    epoch, offset = _fields(value, 2)
    return Position(_text(epoch), _natural(offset))


def _change(value: Any) -> PresenceChange:
    came, member = _fields(value, 2)
    return PresenceChange(_flag(came), _member(member))


def _connection(value: Any) -> Connection:
    number, address, author = _fields(value, 3)
    return Connection(_natural(number), _text(address), _text(author))


def _refusal(value: Any) -> Refusal:
    code, message, temporary, retry_after_ms = _fields(value, 4)
    return Refusal(
        _member_of(ErrorCode, code),
        _text(message),
        _flag(temporary),
        None if retry_after_ms is None else _natural(retry_after_ms),
    )


def _payloads(tail: bytes, sizes: Any) -> list[bytes]:
    """The parts of a tail, which they take up entirely."""
    payloads = []
    start = 0
    for size in _list(sizes):
        end = start + _natural(size)
        payloads.append(tail[start:end])
        start = end
    if start != len(tail):
        raise BadRecord("the tail is not as long as its payloads")
    return payloads


def _unexpected(expected: str, found: Any) -> BadRecord:
    return BadRecord(f"{expected} expected, not {type(found).__name__}")
