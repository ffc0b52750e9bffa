"""The records of the relay's protocol: encoding and decoding, and the refusal of malformed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastchat._codec import pack_draft
from fastchat.brokers.relay import records
from fastchat.brokers.relay.records import (
    FromRelay,
    FromWorker,
    decode_from_relay,
    decode_from_worker,
)
from fastchat.brokers.relay.wire import VERSION, BadRecord, RecordKind, RecordReader, pack
from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.connections import Limit
from fastchat.protocol import (
    ChangeDraft,
    Kind,
    MessageDraft,
    ModeratorDraft,
    Position,
    PostedDraft,
)
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.subscribers import PresenceChange

# Arbitrary records

TEXTS = st.text(max_size=5)
NUMBERS = st.integers(0, 2**53)
SECONDS = st.floats(0, 1e9)
MEMBERS = st.builds(Member, st.none() | TEXTS, TEXTS)
POSITIONS = st.builds(Position, TEXTS, NUMBERS)
PAYLOADS = st.binary(max_size=20)
SNAPSHOTS = st.dictionaries(TEXTS, st.integers(0, 9) | SECONDS | st.lists(NUMBERS, max_size=2))
KNOWN = st.none() | st.lists(MEMBERS, max_size=3)
CONNECTIONS = st.builds(records.Connection, NUMBERS, TEXTS, TEXTS)
REFUSALS = st.builds(
    records.Refusal, st.sampled_from(ErrorCode), TEXTS, st.booleans(), st.none() | NUMBERS
)
SAID = {
    "room": TEXTS,
    "username": TEXTS,
    "text": TEXTS,
    "timestamp": TEXTS,
    "user": TEXTS,
}
MESSAGES = st.builds(MessageDraft, **SAID, id=st.none() | TEXTS)
CHANGES = st.builds(
    ChangeDraft,
    **SAID,
    kind=st.sampled_from([Kind.EDIT, Kind.DELETE, Kind.REACT]),
    target=NUMBERS,
    emoji=TEXTS,
    remove=st.booleans(),
    moderated=st.booleans(),
    posted=st.booleans(),
)
ENTRANCES = st.builds(
    Entrance,
    TEXTS,
    st.none() | TEXTS,
    TEXTS,
    st.none() | POSITIONS,
    NUMBERS,
    address=TEXTS,
    connection_number=NUMBERS,
    moderates=st.booleans(),
)
OPTIONS = st.builds(
    RoomOptions, TEXTS, TEXTS, st.booleans(), st.booleans(), slow_s=NUMBERS, max_messages=NUMBERS
)
ENTRIES = st.builds(
    Entry,
    MEMBERS,
    POSITIONS,
    st.lists(PAYLOADS, max_size=3),
    st.booleans(),
    KNOWN,
    NUMBERS,
    NUMBERS,
    st.none() | OPTIONS,
)
RUNS = st.lists(st.tuples(PAYLOADS, st.none() | NUMBERS), min_size=1, max_size=3).flatmap(
    lambda publications: st.builds(
        records.Run,
        TEXTS,
        st.integers(1, 2**53),
        st.just([payload for payload, _ in publications]),
        st.none() | st.just([number for _, number in publications]),
    )
)

WORKERS: dict[RecordKind, st.SearchStrategy[FromWorker]] = {
    RecordKind.HELLO: st.builds(records.Hello, TEXTS, NUMBERS, NUMBERS),
    RecordKind.RESTORE: st.builds(
        records.Restore,
        TEXTS,
        POSITIONS,
        st.lists(st.tuples(MEMBERS, st.integers(1, 99)), max_size=3),
        KNOWN,
    ),
    RecordKind.PUBLISH: st.builds(
        lambda deadline, drafts: records.Publish(
            deadline, [number for number, _ in drafts], [draft for _, draft in drafts]
        ),
        SECONDS,
        st.lists(st.tuples(NUMBERS, MESSAGES | CHANGES), max_size=3),
    ),
    RecordKind.JOIN: st.builds(records.Join, NUMBERS, SECONDS, ENTRANCES),
    RecordKind.LEAVE: st.builds(records.Leave, NUMBERS, SECONDS, TEXTS, st.none() | MEMBERS),
    RecordKind.LOSE: st.builds(records.Lose, TEXTS, MEMBERS),
    RecordKind.TELL: st.builds(records.Tell, TEXTS, PAYLOADS),
    RecordKind.BEFORE: st.builds(
        records.Before, NUMBERS, SECONDS, TEXTS, st.none() | NUMBERS, NUMBERS
    ),
    RecordKind.AFTER: st.builds(records.After, NUMBERS, SECONDS, TEXTS, NUMBERS, NUMBERS),
    RecordKind.SEARCH: st.builds(records.Search, NUMBERS, SECONDS, TEXTS, TEXTS, NUMBERS),
    RecordKind.REPORT: st.builds(records.Report, SNAPSHOTS),
    RecordKind.PING: st.builds(records.Ping, SECONDS),
    RecordKind.STATUS: st.builds(records.AskStatus),
    RecordKind.REMOVE: st.builds(
        records.Remove,
        NUMBERS,
        SECONDS,
        st.builds(Removal, TEXTS, st.none() | TEXTS, st.none() | TEXTS, NUMBERS, TEXTS),
    ),
    RecordKind.ADMINISTER: st.builds(
        records.Administer,
        NUMBERS,
        SECONDS,
        st.sampled_from(records.Verb),
        st.lists(st.none() | TEXTS | NUMBERS | SNAPSHOTS, max_size=3),
    ),
    RecordKind.OPERATE: st.builds(
        records.Operate, TEXTS, st.dictionaries(TEXTS, TEXTS | NUMBERS, max_size=3)
    ),
    RecordKind.ENTER: st.builds(records.Enter, NUMBERS, TEXTS),
    RecordKind.IDENTIFY: st.builds(records.Identify, CONNECTIONS),
    RecordKind.EXIT: st.builds(records.Exit, CONNECTIONS),
    RecordKind.CONNECTIONS: st.builds(records.Connections, st.lists(CONNECTIONS, max_size=3)),
}
RELAYS: dict[RecordKind, st.SearchStrategy[FromRelay]] = {
    RecordKind.WELCOME: st.builds(records.Welcome),
    RecordKind.DELIVER: st.builds(records.Deliver, st.lists(RUNS, max_size=3)),
    RecordKind.EVENT: st.builds(
        records.Event,
        TEXTS,
        st.none() | st.builds(PresenceChange, st.booleans(), MEMBERS),
        PAYLOADS,
    ),
    RecordKind.ANSWER: st.builds(records.Answer, NUMBERS, NUMBERS | REFUSALS, st.booleans()),
    RecordKind.JOINED: st.builds(records.Joined, NUMBERS, TEXTS, ENTRIES),
    RecordKind.LEFT: st.builds(records.Left, NUMBERS),
    RecordKind.PAGE: st.builds(
        records.Page, NUMBERS, st.lists(PAYLOADS, max_size=3), st.booleans()
    ),
    RecordKind.REFUSED: st.builds(records.Refused, NUMBERS, REFUSALS),
    RecordKind.LOST: st.builds(records.Lost, TEXTS),
    RecordKind.SEND_AWAY: st.builds(records.SendAway, st.floats(0, 1)),
    RecordKind.PONG: st.builds(records.Pong, SECONDS),
    RecordKind.EXPEL: st.builds(records.Expel, TEXTS, TEXTS, NUMBERS),
    RecordKind.REMOVED: st.builds(records.Removed, NUMBERS, MEMBERS),
    RecordKind.ADMINISTERED: st.builds(
        records.Administered,
        NUMBERS,
        st.none() | st.booleans() | NUMBERS | SNAPSHOTS,
        st.lists(PAYLOADS, max_size=3),
    ),
    RecordKind.OPERATED: st.builds(records.Operated, st.none() | NUMBERS | SNAPSHOTS),
    RecordKind.RESTARTED: st.builds(records.Restarted, TEXTS, POSITIONS),
    RecordKind.TURN_AWAY: st.builds(records.TurnAway, NUMBERS, st.sampled_from(Limit)),
    RecordKind.KNOW: st.builds(records.Know, TEXTS, KNOWN),
    RecordKind.STATUS: st.builds(records.Status, st.dictionaries(TEXTS, SNAPSHOTS, max_size=2)),
}
Decode = Callable[[int, Any, bytes], FromWorker | FromRelay]
KINDS = [
    *(
        pytest.param(decode_from_worker, kind, WORKERS[kind], id=f"worker-{kind.name}")
        for kind in WORKERS
    ),
    *(
        pytest.param(decode_from_relay, kind, RELAYS[kind], id=f"relay-{kind.name}")
        for kind in RELAYS
    ),
]


def test_every_kind_has_a_strategy() -> None:
    """Each kind of record is generated by one of the tables above."""
    assert set(WORKERS) | set(RELAYS) == set(RecordKind)


@pytest.mark.parametrize(("decode", "kind", "strategy"), KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_decoding_returns_the_encoded_record(
    decode: Decode, kind: RecordKind, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """A decoded record has the kind, the fields and the types of the encoded one."""
    record = data.draw(strategy)
    ((found, head, tail),) = RecordReader(lambda *frame: frame).feed(record.encode())
    assert found == kind
    decoded = decode(found, head, tail)
    assert type(decoded) is type(record)
    assert decoded == record
    assert repr(decoded) == repr(record)


# Malformed records

HEADS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | SECONDS | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=9,
)


@pytest.mark.parametrize(("decode", "kind", "strategy"), KINDS)
@settings(max_examples=30)
@given(head=HEADS, tail=PAYLOADS)
def test_any_head_is_decoded_or_malformed(
    decode: Decode, kind: RecordKind, strategy: object, head: Any, tail: bytes
) -> None:
    """Any head is decoded, or raises the one documented error; a decoded record can be encoded
    again."""
    check(decode, kind, head, tail)


@pytest.mark.parametrize(("decode", "kind", "strategy"), KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_changed_field_is_decoded_or_malformed(
    decode: Decode, kind: RecordKind, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """A record with any one field changed, however deep, is decoded or raises the documented
    error."""
    ((_, head, tail),) = RecordReader(lambda *frame: frame).feed(data.draw(strategy).encode())
    places = list(places_in(head))
    if places:
        inside, key = data.draw(st.sampled_from(places))
        inside[key] = data.draw(HEADS)
    check(decode, kind, head, tail)


def check(decode: Decode, kind: int, head: Any, tail: bytes) -> None:
    try:
        record = decode(kind, head, tail)
    except BadRecord:
        return
    assert list(RecordReader(decode).feed(record.encode())) == [record]


def places_in(head: Any) -> list[tuple[Any, Any]]:
    """Yield each container in a head, with each of its keys or indexes."""
    if not isinstance(head, list | dict):
        return []
    keys = range(len(head)) if isinstance(head, list) else list(head)
    return [(head, key) for key in keys] + [place for key in keys for place in places_in(head[key])]


MESSAGE = MessageDraft("a", "Alice", "hi", "2025-01-18T10:30:00.123Z", "user")
CHANGE = ["edit", 1, None, False, False, False]
REFUSAL = ["forbidden", "No.", False, None]
JOINED = {
    "room": "a", "member": ["Alice", "user"], "position": ["epoch", 1, None], "recovered": False,
    "users": [["Alice", "user"]], "online": 1, "spectators": 0, "sizes": [],
}  # fmt: skip


def changed(fields: list[Any], index: int, value: Any) -> list[Any]:
    return [*fields[:index], value, *fields[index + 1 :]]


@pytest.mark.parametrize(
    "head",
    [
        {"version": VERSION},
        [VERSION, "worker-1", 1],
        [VERSION, "worker-1", 1, -1],
        [VERSION, "worker-1", 1.5, 1],
        [VERSION, b"worker-1".hex(), True, 1],
        [VERSION - 1, "worker-1", 1, 1],
        [],
    ],
    ids=repr,
)
def test_malformed_hello_is_refused(head: Any) -> None:
    """The version is compared before the other fields, which can differ between versions."""
    with pytest.raises(BadRecord, match=r"^HELLO: "):
        decode_from_worker(RecordKind.HELLO, head, b"")


def test_other_version_is_named_in_the_error() -> None:
    """The error has the other version, so that the log says why a worker is disconnected."""
    with pytest.raises(BadRecord, match=f"its version is 99, ours is {VERSION}"):
        decode_from_worker(RecordKind.HELLO, [99, "what", "follows", "is", "unknown"], b"")


def packed(change: object) -> bytes:
    return pack_draft(MESSAGE, orjson.dumps(change).decode())


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (None, b""),
        ([1.0], b""),
        ([None, []], b""),
        ([1.0, None], b""),
        ([1.0, {}], b""),
        ([1.0, [1]], b""),
        ([1.0, []], pack_draft(MESSAGE)),
        ([1.0, [1, 2]], pack_draft(MESSAGE)),
        ([1.0, ["1"]], pack_draft(MESSAGE)),
        ([1.0, [1.5]], pack_draft(MESSAGE)),
        ([1.0, [True]], pack_draft(MESSAGE)),
        ([1.0, [1]], pack_draft(MESSAGE)[:-1]),
        ([1.0, [1]], pack_draft(MESSAGE).replace(b"Alice", b"Alic\xff")),
        ([1.0, [1]], pack_draft(MESSAGE, "edit")),
        ([1.0, [1]], packed(None)),
        ([1.0, [1]], packed([])),
        ([1.0, [1]], packed(CHANGE[:-1])),
        *(([1.0, [1]], packed(changed(CHANGE, index, 1.5))) for index in range(len(CHANGE))),
        ([1.0, [1]], packed(changed(CHANGE, 0, "shout"))),
        ([1.0, [1]], packed(changed(CHANGE, 1, None))),
        ([1.0, [1]], pack_draft(MESSAGE._replace(id="1"), orjson.dumps(CHANGE).decode())),
    ],
    ids=repr,
)
def test_malformed_drafts_are_refused(head: Any, tail: bytes) -> None:
    """One malformed draft makes the whole record malformed."""
    assert decode_from_worker(RecordKind.PUBLISH, [1.0, [1]], packed(CHANGE))
    with pytest.raises(BadRecord, match=r"^PUBLISH: "):
        decode_from_worker(RecordKind.PUBLISH, head, tail)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        {"a": 1},
        [None],
        ["abcd"],
        [["a", 1, [5]]],
        [["a", 1, [5], None, None]],
        [[1, 1, [5], None]],
        [["a", "1", [5], None]],
        [["a", 0, [5], None]],
        [["a", 1, 5, None]],
        [["a", 1, {"5": 5}, None]],
        [["a", 1, ["5"], None]],
        [["a", 1, [5.0], None]],
        [["a", 1, [4], None]],
        [["a", 1, [6], None]],
        [["a", 1, [-1, 6], None]],
        [["a", 1, [5], None], ["a", 2, [], None]],
        [["a", 1, [5], 1]],
        [["a", 1, [5], []]],
        [["a", 1, [5], [1, 2]]],
        [["a", 1, [5], ["1"]]],
        [["a", 1, [5], [True]]],
        [],
    ],
    ids=repr,
)
def test_malformed_deliveries_are_refused(rows: Any) -> None:
    """Deliveries whose payloads do not fill the five bytes of the tail are refused, too."""
    assert decode_from_relay(RecordKind.DELIVER, [["a", 1, [2, 3], [1, None]]], b"12345")
    with pytest.raises(BadRecord, match=r"^DELIVER: "):
        decode_from_relay(RecordKind.DELIVER, rows, b"12345")


@pytest.mark.parametrize(
    ("kind", "head", "tail"),
    [
        (RecordKind.EVENT, ["a"], b"event"),
        (RecordKind.EVENT, [1, None], b"event"),
        (RecordKind.EVENT, ["a", True], b"event"),
        (RecordKind.EVENT, ["a", [True, "Alice"]], b"event"),
        (RecordKind.ANSWER, [1, None, False], b""),
        (RecordKind.ANSWER, [1, ["no_such_code", "No.", False, None], False], b""),
        (RecordKind.REFUSED, [1, [*REFUSAL, None]], b""),
        (RecordKind.REFUSED, ["1", REFUSAL], b""),
        (RecordKind.REFUSED, {}, b""),
        (RecordKind.TURN_AWAY, [1, "no such limit"], b""),
        (RecordKind.TURN_AWAY, [1, ["address"]], b""),
        (RecordKind.JOINED, [1, {}], b""),
        (RecordKind.JOINED, [1, JOINED], b"x"),
        (RecordKind.JOINED, [1, JOINED | {"sizes": [1]}], b""),
        (RecordKind.JOINED, [1, JOINED | {"users": [["Alice"]]}], b""),
        (RecordKind.PAGE, [1, [False, [1, 2]]], b"12"),
        (RecordKind.PAGE, [1, [False, [-1, 3]]], b"12"),
        (RecordKind.LEFT, [1, 1], b""),
        (RecordKind.LEFT, [1, None], b"tail"),
        (RecordKind.WELCOME, [], b""),
        (RecordKind.STATUS, {"parts": {"relay": None}}, b""),
        (RecordKind.PONG, "soon", b""),
        (RecordKind.SEND_AWAY, 1.1, b""),
        (RecordKind.SEND_AWAY, True, b""),
    ],
    ids=repr,
)
def test_malformed_record_of_the_relay_is_refused(kind: RecordKind, head: Any, tail: bytes) -> None:
    """A relay's record with a wrong field is refused."""
    with pytest.raises(BadRecord, match=f"^{kind.name}: "):
        decode_from_relay(kind, head, tail)


@pytest.mark.parametrize(
    ("kind", "head", "tail"),
    [
        (RecordKind.RESTORE, ["a", ["epoch", 1, None], [[["Alice", "user"], 0]], []], b""),
        (RecordKind.RESTORE, ["a", ["epoch", 1, None], {}, []], b""),
        (RecordKind.RESTORE, ["a", ["epoch", 1, None], [], [["Alice"]]], b""),
        (RecordKind.RESTORE, ["a", ["epoch", 1, None], [], []], b"tail"),
        (RecordKind.JOIN, [1, 1.0, "a", ["Alice", "credential"], None, 50, "", 0], b""),
        (RecordKind.JOIN, [1, None, "a", "Alice", "credential", None, 50, "", 0], b""),
        (RecordKind.JOIN, [1, 1.0, "a", "Alice", None, None, 50, "", 0], b""),
        (RecordKind.JOIN, [1, 1.0, "a", "Alice", "credential", [1, "epoch"], 50, "", 0], b""),
        (RecordKind.LEAVE, [1, 1.0, "a"], b""),
        (RecordKind.TELL, ["a", "b"], b"payload"),
        (RecordKind.REPORT, [1], b""),
        (RecordKind.STATUS, {}, b""),
        (RecordKind.CONNECTIONS, [[1, "192.0.2.1"]], b""),
    ],
    ids=repr,
)
def test_malformed_record_of_a_worker_is_refused(kind: RecordKind, head: Any, tail: bytes) -> None:
    """A worker's record with a wrong field is refused."""
    with pytest.raises(BadRecord, match=f"^{kind.name}: "):
        decode_from_worker(kind, head, tail)


@pytest.mark.parametrize("kind", [0, 40, 99, 255])
def test_unknown_kind_is_refused(kind: int) -> None:
    """A record of an unknown kind is refused."""
    for decode in (decode_from_worker, decode_from_relay):
        with pytest.raises(BadRecord, match=f"unknown kind of record, {kind}$"):
            decode(kind, None, b"")


def test_each_side_accepts_only_the_other_sides_records() -> None:
    """Only STATUS is accepted by both sides, because it is a question and its answer."""
    for kind in set(WORKERS) - {RecordKind.STATUS}:
        with pytest.raises(BadRecord, match="unknown kind"):
            decode_from_relay(kind, None, b"")
    for kind in set(RELAYS) - {RecordKind.STATUS}:
        with pytest.raises(BadRecord, match="unknown kind"):
            decode_from_worker(kind, None, b"")


# The fixed layout


def test_layout_of_a_draft_is_fixed() -> None:
    """A text is UTF-8 behind its length; the change is missing in the draft of a message."""
    said = MessageDraft("a", "Zoë", "hi", "t", "user", "1")
    change = ChangeDraft(*said[:5], Kind.EDIT, target=1)
    encoded = records.Publish(1.0, [7, 8], [said, change]).encode()
    ((_, head, tail),) = RecordReader(lambda *frame: frame).feed(encoded)
    assert head == [1.0, [7, 8]]
    texts = b"\0\0\0\1a\0\0\0\4Zo\xc3\xab\0\0\0\2hi\0\0\0\1t\0\0\0\4user"
    missing = b"\xff\xff\xff\xff"
    changed = b"\0\0\0\x21" + b'["edit",1,null,false,false,false]'
    assert tail == texts + b"\0\0\0\x011" + missing + texts + missing + changed


@pytest.mark.parametrize("kind", [ModeratorDraft, PostedDraft])
def test_who_a_message_is_from_stands_in_the_place_of_a_change(kind: type[MessageDraft]) -> None:
    """A message of a moderator or of a key reaches the relay as what it is."""
    said = kind("a", "Zoë", "hi", "t", "user", "1")
    (record,) = RecordReader(decode_from_worker).feed(records.Publish(1.0, [7], [said]).encode())
    assert [(type(each), each) for each in record.drafts] == [(kind, said)]


def test_incrementally_encoded_deliveries_decode_to_the_record() -> None:
    """Deliveries that are encoded one by one decode to the same record."""
    filled = records.Deliveries()
    assert not filled
    filled.add("a", 1, [b"one", b"two"], [7, None])
    filled.add("b", 2, [b"three"], None)
    assert (len(filled), filled.size) == (2, 11)
    (record,) = RecordReader(decode_from_relay).feed(filled.encode())
    assert record == records.Deliver(
        [
            records.Run("a", 1, [b"one", b"two"], [7, None]),
            records.Run("b", 2, [b"three"]),
        ]
    )


def test_refusal_keeps_the_fields_of_its_error() -> None:
    """A refusal that was encoded and decoded has every field that a client is sent."""
    error = CommandError(ErrorCode.RATE_LIMITED, "Slow down.", temporary=True, retry_after_ms=1500)
    again = records.Refusal.of(error).error()
    assert (again.code, again.message) == (ErrorCode.RATE_LIMITED, "Slow down.")
    assert (again.temporary, again.retry_after_ms) == (True, 1500)


def test_status_question_has_fixed_bytes() -> None:
    """A server of one process compares the bytes of the question."""
    assert records.AskStatus().encode() == pack(RecordKind.STATUS, None)
    assert records.AskStatus().encode() == b"\0\0\0\x09\x0d\0\0\0\x04null"


def head_of(record: FromWorker) -> Any:
    ((_, head, _),) = RecordReader(lambda *frame: frame).feed(record.encode())
    assert orjson.dumps(head) in record.encode()
    return head
