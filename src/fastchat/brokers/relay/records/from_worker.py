"""The records that a worker sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

import orjson

from fastchat._codec import pack_draft, unpack_drafts
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
    expect_text,
)
from fastchat.brokers.relay.wire import VERSION, BadRecord, RecordKind, pack
from fastchat.protocol import (
    ChangeDraft,
    Draft,
    Kind,
    MessageDraft,
    ModeratorDraft,
    Position,
    PostedDraft,
)
from fastchat.rooms import Entrance, Member, Removal

__all__ = [
    "Administer",
    "After",
    "AskStatus",
    "Before",
    "Connection",
    "Connections",
    "Counting",
    "Enter",
    "Exit",
    "FromWorker",
    "Hello",
    "Identify",
    "Introduction",
    "Join",
    "Leave",
    "Lose",
    "Operate",
    "Ping",
    "Publish",
    "Remove",
    "Report",
    "Request",
    "Restore",
    "Said",
    "Search",
    "Tell",
    "Verb",
]


#: Messages that are not drafts of ordinary users, by what stands in the place of their change.
_TYPES: Mapping[str, type[MessageDraft]] = {"moderator": ModeratorDraft, "posted": PostedDraft}
_NAMES = {kind: name for name, kind in _TYPES.items()}


class Verb(StrEnum):
    """The methods of `fastchat.rooms.administration.Administration`."""

    POSITION = "position"
    ROOMS = "rooms"
    OPTIONS = "options"
    SET_OPTIONS = "set_options"
    DELETE_ROOM = "delete_room"
    SINCE = "since"
    USERS = "users"
    FIND_USER = "find_user"
    DISCONNECT = "disconnect"
    BAN = "ban"
    UNBAN = "unban"
    BANS = "bans"
    MESSAGES_OF = "messages_of"
    ERASE_USER = "erase_user"


class Connection(NamedTuple):
    """A client's connection, for the count of connections: [number, address, user].

    The worker has chosen the number. The address or the user is empty if it is not known.
    """

    number: int
    address: str
    user: str


# The introduction


class Hello(NamedTuple):
    """The first record of a worker.

    Head: [version, name, pid, rooms]. The version is that of this protocol (`wire.VERSION`);
    `rooms` is the number of RESTORE records that follow.
    """

    name: str
    pid: int
    rooms: int

    def encode(self) -> bytes:
        return pack(RecordKind.HELLO, [VERSION, *self])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        # The version is checked first: a HELLO of another version can have other fields.
        if type(head) is list and head and head[0] != VERSION:
            raise BadRecord(f"its version is {head[0]!r}, ours is {VERSION}")
        _, name, pid, rooms = expect_fields(head, 4)
        return cls(expect_text(name), expect_natural(pid), expect_natural(rooms))


class Restore(NamedTuple):
    """A room in which the worker has members, or drafts or leaves without an answer.

    Head: [room, [epoch, offset, timestamp], [[member, connections], ...], [member, ...] or null].
    The position is that of the last publication that the worker received. `members` are the members
    in this worker, each with the number of its connections. `known` are the users that these
    members have been informed of; it is null in a crowd. The name of a member is null if it is a
    spectator.
    """

    room: str
    position: Position
    members: Sequence[tuple[Member, int]]
    known: Sequence[Member] | None

    def encode(self) -> bytes:
        return pack(RecordKind.RESTORE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, position, members, known = expect_fields(head, 4)
        return cls(
            expect_text(room),
            expect_position(position),
            [
                (expect_member(each), expect_positive(count))
                for each, count in expect_rows(members, 2)
            ],
            expect_members(known),
        )


class Connections(NamedTuple):
    """All connections of the worker. This record ends the introduction.

    Head: [[number, address, user], ...].
    """

    connections: Sequence[Connection]

    def encode(self) -> bytes:
        return pack(RecordKind.CONNECTIONS, self.connections)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls([_connection(row) for row in expect_list(head)])


# Drafts, members and events


class Publish(NamedTuple):
    """Drafts of one turn of the worker's loop, each with a number that the worker has chosen.

    Head: [deadline, [draft number, ...]]. Tail: the drafts, one after the other. A draft is seven
    texts: room, username, text, timestamp, user, id, change. Each of them is UTF-8 behind its
    length, 4 bytes, big-endian; for a text that is missing, these bytes are all ones. The change is
    missing in the draft of a message; it is "moderator" or "posted" if the message is one of a
    moderator or of a key. Otherwise it is JSON, [kind, target, emoji or null, remove, moderated,
    posted], and the id is missing.

    The relay replies to each draft by DELIVER with its number, or by ANSWER. If the relay reads
    the record after the deadline, it stores none of the drafts and refuses them.
    """

    deadline: float
    numbers: Sequence[int]
    drafts: Sequence[Draft]

    def encode(self) -> bytes:
        return pack(
            RecordKind.PUBLISH, (self.deadline, self.numbers), map(_pack_draft, self.drafts)
        )

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        deadline, numbers = expect_fields(head, 2)
        try:
            found = unpack_drafts(tail, MessageDraft)
        except ValueError as error:
            raise BadRecord(str(error)) from None
        drafts = [
            draft if isinstance(draft, MessageDraft) else _unusual_draft(draft) for draft in found
        ]
        # The numbers are checked without a call for each, because this runs for each message.
        if not set(map(type, expect_list(numbers))) <= {int}:
            raise BadRecord("a number of a draft is of another type")
        if len(numbers) != len(drafts):
            raise BadRecord(f"{len(numbers)} numbers for {len(drafts)} drafts")
        return cls(expect_seconds(deadline), numbers, drafts)


def _pack_draft(draft: Draft) -> bytes:
    if isinstance(draft, MessageDraft):
        return pack_draft(draft, _NAMES.get(type(draft)))
    room, username, text, timestamp, user, kind, target, emoji, remove, moderated, posted = draft
    change = orjson.dumps((kind, target, emoji or None, remove, moderated, posted)).decode()
    return pack_draft((room, username, text, timestamp, user, None), change)


def _unusual_draft(texts: tuple[str, ...]) -> Draft:
    """The draft of a change, or of a message that has a name in the place of the change."""
    room, username, text, timestamp, user, id, change = texts
    if (type_ := _TYPES.get(change)) is not None:
        return type_(room, username, text, timestamp, user, id)
    if id is not None:
        raise BadRecord("a change must not have an id")
    try:
        fields = orjson.loads(change)
    except orjson.JSONDecodeError:
        raise BadRecord("a change is not JSON") from None
    kind, target, emoji, remove, moderated, posted = expect_fields(fields, 6)
    return ChangeDraft(
        *(room, username, text, timestamp, user),
        expect_choice(Kind, kind),
        expect_natural(target),
        "" if emoji is None else expect_text(emoji),
        expect_flag(remove),
        expect_flag(moderated),
        expect_flag(posted),
    )


class Lose(NamedTuple):
    """A member has lost a connection; the user can come back.

    Head: [room, member].
    """

    room: str
    member: Member

    def encode(self) -> bytes:
        return pack(RecordKind.LOSE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        room, member = expect_fields(head, 2)
        return cls(expect_text(room), expect_member(member))


class Tell(NamedTuple):
    """An event for the members of a room in other processes. It is not stored.

    Head: [room]. Tail: the payload.
    """

    room: str
    payload: bytes

    def encode(self) -> bytes:
        return pack(RecordKind.TELL, [self.room], (self.payload,))

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        (room,) = expect_fields(head, 1)
        return cls(expect_text(room), tail)


# Requests


class Join(NamedTuple):
    """A request to count a member in. The reply is JOINED.

    Head: [number, deadline, room, name or null, credential, since, limit, address, connection,
    moderates]. The last eight fields are an Entrance; `since` is [epoch, offset, timestamp] or
    null.
    """

    number: int
    deadline: float
    entrance: Entrance

    def encode(self) -> bytes:
        return pack(RecordKind.JOIN, [self.number, self.deadline, *self.entrance])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, name, credential, since, *rest = expect_fields(head, 10)
        limit, address, connection, moderates = rest
        entrance = Entrance(
            expect_text(room),
            None if name is None else expect_text(name),
            expect_text(credential),
            None if since is None else expect_position(since),
            expect_natural(limit),
            expect_text(address),
            expect_natural(connection),
            expect_flag(moderates),
        )
        return cls(expect_natural(number), expect_seconds(deadline), entrance)


class Leave(NamedTuple):
    """A member has left. The reply is LEFT.

    The relay counts the member out even after the deadline, because the member is gone anyway.

    Head: [number, deadline, room, member]. The member is null if it left before the worker's
    introduction, so that this relay never counted it in.
    """

    number: int
    deadline: float
    room: str
    member: Member | None

    def encode(self) -> bytes:
        return pack(RecordKind.LEAVE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, member = expect_fields(head, 4)
        return cls(
            expect_natural(number),
            expect_seconds(deadline),
            expect_text(room),
            None if member is None else expect_member(member),
        )


class Remove(NamedTuple):
    """A request of a moderator to remove a user from a room. The reply is REMOVED.

    Head: [number, deadline, room, user or null, username or null, seconds, moderator]. The last
    five fields are a Removal.
    """

    number: int
    deadline: float
    removal: Removal

    def encode(self) -> bytes:
        return pack(RecordKind.REMOVE, [self.number, self.deadline, *self.removal])

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, room, user, username, seconds, moderator = expect_fields(head, 7)
        removal = Removal(
            expect_text(room),
            None if user is None else expect_text(user),
            None if username is None else expect_text(username),
            expect_natural(seconds),
            expect_text(moderator),
        )
        return cls(expect_natural(number), expect_seconds(deadline), removal)


class Administer(NamedTuple):
    """A call of `fastchat.rooms.administration.Administration`. The reply is ADMINISTERED.

    Head: [number, deadline, verb, arguments]. The arguments are those of the method, in their
    order; a position is [epoch, offset, timestamp].
    """

    number: int
    deadline: float
    verb: Verb
    arguments: Sequence[Any]

    def encode(self) -> bytes:
        return pack(RecordKind.ADMINISTER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, deadline, verb, arguments = expect_fields(head, 4)
        return cls(
            expect_natural(number),
            expect_seconds(deadline),
            expect_choice(Verb, verb),
            expect_list(arguments),
        )


class Before(NamedTuple):
    """A request for the publications before an offset, or for the newest if it is None.

    The reply is PAGE.

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
        number, deadline, room, offset, limit = expect_fields(head, 5)
        return cls(
            expect_natural(number),
            expect_seconds(deadline),
            expect_text(room),
            None if offset is None else expect_natural(offset),
            expect_natural(limit),
        )


class After(NamedTuple):
    """A request for the publications after an offset. The reply is PAGE.

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
        number, deadline, room, offset, limit = expect_fields(head, 5)
        return cls(
            expect_natural(number),
            expect_seconds(deadline),
            expect_text(room),
            expect_natural(offset),
            expect_natural(limit),
        )


class Search(NamedTuple):
    """A request to search a room. The reply is PAGE.

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
        number, deadline, room, query, limit = expect_fields(head, 5)
        return cls(
            expect_natural(number),
            expect_seconds(deadline),
            expect_text(room),
            expect_text(query),
            expect_natural(limit),
        )


# The connections and the counters of the worker


class Enter(NamedTuple):
    """A client has connected. If the connection exceeds a limit, the relay sends TURN_AWAY.

    Head: [number, address].
    """

    number: int
    address: str

    def encode(self) -> bytes:
        return pack(RecordKind.ENTER, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        number, address = expect_fields(head, 2)
        return cls(expect_natural(number), expect_text(address))


class Identify(NamedTuple):
    """The user of a connection is known. If it exceeds a limit, the relay sends TURN_AWAY.

    Head: [number, address, user].
    """

    connection: Connection

    def encode(self) -> bytes:
        return pack(RecordKind.IDENTIFY, self.connection)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_connection(head))


class Exit(NamedTuple):
    """A connection has ended. The worker sends this also if the relay turned it away.

    Head: [number, address, user].
    """

    connection: Connection

    def encode(self) -> bytes:
        return pack(RecordKind.EXIT, self.connection)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(_connection(head))


class Report(NamedTuple):
    """The worker's counters. A worker sends them once a second.

    Head: the snapshot, which is an object.
    """

    snapshot: Snapshot

    def encode(self) -> bytes:
        return pack(RecordKind.REPORT, self.snapshot)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(expect_object(head))


class Ping(NamedTuple):
    """A request that measures the round trip to the relay, once a second. The reply is PONG.

    Head: the time at which the worker sent it, in seconds.
    """

    sent: float

    def encode(self) -> bytes:
        return pack(RecordKind.PING, self.sent)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        return cls(expect_seconds(head))


class AskStatus(NamedTuple):
    """A request for the status of the server. The reply is STATUS.

    Any process that can connect to the socket can send it, without HELLO.

    Head: null. Therefore the request always has the same bytes, and a server without a relay can
    recognise it without a decoder (`fastchat.ops.status`).
    """

    def encode(self) -> bytes:
        return pack(RecordKind.STATUS, None)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        expect_null(head)
        return cls()


class Operate(NamedTuple):
    """An operation of an operator (`fastchat.chat.operations.Operations.run`).

    The reply is OPERATED, or REFUSED with the number 0. Any process that can connect to the socket
    can send it, without HELLO.

    Head: [verb, arguments]; the arguments are an object.
    """

    verb: str
    arguments: Mapping[str, Any]

    def encode(self) -> bytes:
        return pack(RecordKind.OPERATE, self)

    @classmethod
    def decode(cls, head: Any, tail: bytes) -> Self:
        verb, arguments = expect_fields(head, 2)
        return cls(expect_text(verb), expect_object(arguments))


# Any record


Introduction = Hello | Restore
Request = Join | Leave | Remove | Administer | Before | After | Search
Counting = Connections | Enter | Identify | Exit
Said = Publish | Request | Lose | Tell | Counting | Report | Ping

FromWorker = Introduction | Said | AskStatus | Operate


def _connection(value: Any) -> Connection:
    number, address, user = expect_fields(value, 3)
    return Connection(expect_natural(number), expect_text(address), expect_text(user))
