"""Tests of the compiled codec: it does what the general functions do, or declines."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat import protocol
from fastchat._codec import (
    Encoder,
    Parser,
    Timestamps,
    make_draft,
    message_rows,
    number_draft,
    pack_draft,
    pack_message,
    unpack_drafts,
    unpack_message,
)
from fastchat.errors import CommandError, Violation
from fastchat.history.rows import row_of
from fastchat.protocol import Change, Command, Kind, Message, MessageDraft, Send, timestamp_of
from fastchat.protocol.names import MAX_ROOM_CHARS
from fastchat.protocol.parsing import parse, parse_any
from fastchat.protocol.publications import Reactor, encode_any, packed, unpacked
from fastchat.protocol.values import MAX_TEXT_CHARS, MAX_TOKEN_BYTES

TIMESTAMP = "2025-01-18T10:30:00.123Z"


#: The compiled codec alone: it returns None for what it leaves to the general functions.
plain = Parser(lambda payload: None, Send, MAX_TEXT_CHARS, MAX_ROOM_CHARS, MAX_TOKEN_BYTES)
encode_plain = Encoder(lambda publication: None)


def parsed(payload: bytes) -> Command | type[Exception]:
    """What the general parser makes of a payload, or how it refuses it."""
    try:
        return parse_any(payload)
    except (CommandError, Violation) as refusal:
        return type(refusal)


def dumped(**fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


# Parsing


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text":"Hello"}',
        b'{"type":"message","text":"Hello"}',
        b'{"text":"Hello","type":"message"}',
        b' {\t"text" :\r\n"Hello" , "id":"1" } ',
        dumped(text="a b", room="a-room_1.x", id="i", ref="r"),
        dumped(text="~" * MAX_TEXT_CHARS, room="r" * MAX_ROOM_CHARS, id="i" * MAX_TOKEN_BYTES),
        dumped(text="ü" * MAX_TEXT_CHARS, ref="ü" * (MAX_TOKEN_BYTES // 2)),
        dumped(text="你好 👋 مرحبا", id="ид"),
        dumped(text=" begins with a space"),
        dumped(text="\u007e/"),
    ],
)
def test_plain_messages_are_parsed_as_the_general_parser_does(payload: bytes) -> None:
    found = plain(payload)
    assert found is not None
    assert type(found) is Send
    assert found == parse_any(payload) == parse(payload)
    assert found._replace(id="other").text == found.text


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"{}",
        b'{"text"',
        b'{"text":',
        b'{"text":"',
        b'{"text":"a',
        b'{"text":"a"',
        b'{"text":"a",',
        b'{"text":"a",}',
        b'{"text":"a"}}',
        b'{"text":"a"}\0',
        b'{"text":"a" "id":"b"}',
        b'{"text":"a":"id":"b"}',
        b'["text","a"]',
        b'"text"',
        b'{"text":""}',
        b'{"text":"a "}',
        b'{"text":"a\\n"}',
        b'{"text":"a\nb"}',
        b'{"text":"a\x7fb"}',
        b'{"text":"\\u0061"}',
        b'{"te\\u0078t":"a"}',
        b'{"text":1}',
        b'{"text":null}',
        b'{"text":"a","id":null}',
        b'{"text":"a","id":""}',
        b'{"text":"a","ref":""}',
        b'{"text":"a","room":""}',
        b'{"text":"a","room":"A"}',
        b'{"text":"a","type":"typing"}',
        b'{"text":"a","type":""}',
        b'{"text":"a","text":"b"}',
        b'{"id":"a","text":"b","id":"a"}',
        b'{"type":"message","type":"message","text":"b"}',
        b'{"text":"a","other":"b"}',
        b'{"text":"\xff"}',
        b'{"text":"\xed\xa0\x80"}',
        b'{"text":"a","id":"\xc0\x80"}',
        b'{"type":"message"}',
        b'{"id":"a"}',
        dumped(text="a" * (MAX_TEXT_CHARS + 1)),
        dumped(text="ü" * (MAX_TEXT_CHARS + 1)),
        dumped(text="a", room="r" * (MAX_ROOM_CHARS + 1)),
        dumped(text="a", room="räume"),
        dumped(text="a", id="i" * (MAX_TOKEN_BYTES + 1)),
        dumped(text="a", ref="ü" * (MAX_TOKEN_BYTES // 2 + 1)),
        dumped(text="a\u3000"),
        dumped(text="a\u200d"),
        dumped(text="a\u0085"),
        dumped(text="a", n=1),
    ],
)
def test_all_else_is_left_to_the_general_parser(payload: bytes) -> None:
    assert plain(payload) is None


_TEXTS = st.one_of(
    st.text(max_size=20), st.text('ab \u00fc\u3000\U0001f44b\u200d\n"\\\x00\x7f', max_size=8)
)
_FIELDS = st.dictionaries(
    st.sampled_from(["type", "text", "room", "id", "ref", "other"]),
    st.one_of(_TEXTS, st.just("message"), st.just("lobby"), st.none(), st.integers(0, 9)),
)


@given(_FIELDS, st.booleans(), st.sampled_from([None, (", ", ": "), (" ,\n", "\t:\r")]))
def test_parsers_agree_on_any_object(
    fields: dict[str, Any], ascii_only: bool, separators: tuple[str, str] | None
) -> None:
    text = json.dumps(fields, ensure_ascii=ascii_only, separators=separators)
    payload = text.encode("utf-8", "surrogatepass")
    if (found := plain(payload)) is not None:
        assert found == parsed(payload)


@given(
    st.sampled_from(
        [
            b'{"type":"message","text":"Hello","id":"a1"}',
            dumped(text="你好 👋", room="lobby", ref="r"),
        ]
    ),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(0, 60),
)
def test_parsers_agree_on_damaged_messages(
    payload: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(payload)
    for index, byte in changes:
        damaged[index % len(damaged)] = byte
    for each in (bytes(damaged), bytes(damaged[:length]), payload[:length]):
        if (found := plain(each)) is not None:
            assert found == parsed(each)


def test_arguments_of_another_type_are_refused() -> None:
    unfit: Any
    for unfit in (None, "text", bytearray(b"{}")):
        with pytest.raises(TypeError):
            plain(unfit)
    for unfit in (None, (), ("a",) * 9, ["a"] * 10):
        with pytest.raises(TypeError):
            encode_plain(unfit)
        with pytest.raises(TypeError):
            number_draft(unfit, 1, Message)
    for unfit in (None, (), [("a",)]):
        with pytest.raises(TypeError):
            message_rows(unfit, tuple, 0)


# Drafts


def test_drafts_are_what_their_types_make() -> None:
    fields = ("lobby", "Alice", "Hello", TIMESTAMP, "u_1", "c7")
    draft = make_draft(MessageDraft, *fields)
    assert type(draft) is MessageDraft
    assert draft == MessageDraft(*fields) == protocol.message_draft(*fields)
    message = number_draft(draft, 7, Message)
    assert type(message) is Message
    assert message == draft.numbered(7) == Message("lobby", 7, *fields[1:])


def test_tuples_are_freed() -> None:
    """What the codec makes owns its items, gives them back, and is known to the collector."""
    text, user = "".join(["some", "text"]), "".join(["u", "_1"])
    before = sys.getrefcount(text), sys.getrefcount(user), sys.getrefcount(Message)
    made = [
        make_draft(MessageDraft, "lobby", "Alice", text, TIMESTAMP, user, None).numbered(7)
        for _ in range(100)
    ]
    assert all(map(gc.is_tracked, made))
    assert sys.getrefcount(text) == before[0] + 100
    for each in made:
        encode_plain(each)
        encode_plain(each._replace(text="é"))
    packed = pack_draft(made[0][:1] + made[0][2:7])
    assert len(unpack_drafts(packed * 100, MessageDraft)) == 100
    del made, each
    assert (sys.getrefcount(text), sys.getrefcount(user), sys.getrefcount(Message)) == before


def test_rows_are_those_of_the_messages() -> None:
    message = Message("lobby", 7, "Alice", "Hello", TIMESTAMP, "u_1", "c7")
    edit = Change("lobby", 8, "Alice", "Hi", TIMESTAMP, "u_1", Kind.EDIT, 7)
    publications = [message, edit, message._replace(offset=2**39, id=None)]
    before = 5 << 40
    assert message_rows(publications, Message, before) == [
        row_of(before + each.offset, each)[:1] + row_of(0, each)[2:7]
        for each in publications
        if isinstance(each, Message)
    ]


# Times


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=1))
def test_timestamps_are_those_of_the_clock(milliseconds: list[int]) -> None:
    times = [(each + 0.5) / 1000 for each in milliseconds for _ in range(2)]
    clock = iter(times)
    now = protocol.timestamps(lambda: next(clock))
    assert [now() for _ in times] == list(map(timestamp_of, times))


def test_second_of_another_form_is_refused() -> None:
    for text in ("2025-01-18", "2025-01-18T10:30:0é"):
        with pytest.raises(ValueError, match="has not the form"):
            Timestamps(lambda: 1.0, lambda second, text=text: text)()


# Drafts on the way to the relay

DRAFT = MessageDraft("lobby", "Alice", "Hello", TIMESTAMP, "u_1", "c7")
_PACKABLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_DRAFTS = st.tuples(
    st.builds(MessageDraft, *[_PACKABLE] * 5, st.none() | _PACKABLE), st.none() | _PACKABLE
)


@given(st.lists(_DRAFTS, max_size=4))
def test_drafts_are_unpacked_as_they_were_packed(drafts: list[tuple[Any, str | None]]) -> None:
    """A draft with a change is a plain tuple, with the change at its end."""
    tail = b"".join(pack_draft(draft, change) for draft, change in drafts)
    found = unpack_drafts(tail, MessageDraft)
    assert found == [draft if change is None else (*draft, change) for draft, change in drafts]
    for draft, (_, change) in zip(found, drafts, strict=True):
        assert type(draft) is (MessageDraft if change is None else tuple)


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_damaged_drafts_are_refused_or_others(changes: list[tuple[int, int]], length: int) -> None:
    """Damaged bytes raise ValueError, or are those of other drafts."""
    packed = pack_draft(DRAFT) + pack_draft(DRAFT._replace(text="Grüße", id=None), "change")
    damaged = bytearray(packed)
    for index, byte in changes:
        damaged[index] = byte
    for each in (bytes(damaged), bytes(damaged[:length]), packed[:length]):
        try:
            found = unpack_drafts(each, MessageDraft)
        except ValueError:
            continue
        assert each == b"".join(pack_draft(draft[:6], *draft[6:]) for draft in found)


def test_common_texts_of_drafts_are_the_same_objects() -> None:
    """Most drafts of a turn share rooms, names and times."""
    tail = pack_draft(DRAFT) + pack_draft(DRAFT._replace(text="Bye", id="c8"))
    one, two = unpack_drafts(tail, MessageDraft)
    assert [a is b for a, b in zip(one, two, strict=True)] == [True, True, False, True, True, False]


def test_arguments_that_are_no_drafts_are_refused() -> None:
    unfit: Any
    for unfit in (None, (), ("a",) * 5, ["a"] * 6, (1,) * 6):
        with pytest.raises(TypeError):
            pack_draft(unfit)
    for unfit in (None, "text", bytearray()):
        with pytest.raises(TypeError):
            unpack_drafts(unfit, MessageDraft)
    with pytest.raises(UnicodeEncodeError):
        pack_draft(DRAFT._replace(text="\ud800"))


# Encoding

MESSAGE = Message("lobby", 42, "Alice", "Hello", TIMESTAMP, "u_1", "c7")


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        MESSAGE._replace(id=None),
        MESSAGE._replace(text="Grüße 👋 你好 \x7f\u2028", username="Zoë", user="u_zoë", id="ид"),
        MESSAGE._replace(offset=0),
        MESSAGE._replace(offset=2**53 - 1),
        MESSAGE._replace(text="x" * MAX_TEXT_CHARS),
        MESSAGE._replace(text=""),
    ],
)
def test_plain_messages_are_encoded_as_the_general_encoder_does(message: Message) -> None:
    payload = encode_plain(message)
    assert payload == encode_any(message) == protocol.encode(message)


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE._replace(edited=TIMESTAMP),
        MESSAGE._replace(text="", deleted=True),
        MESSAGE._replace(reactions={}),
        MESSAGE._replace(text='"'),
        MESSAGE._replace(text="\\"),
        MESSAGE._replace(text="a\nb"),
        MESSAGE._replace(username="\0"),
        MESSAGE._replace(id="\x1f"),
    ],
)
def test_all_else_is_left_to_the_general_encoder(message: Message) -> None:
    assert encode_plain(message) is None
    assert protocol.encode(message) == encode_any(message)


def test_changes_are_left_to_the_general_encoder() -> None:
    for kind in (Kind.EDIT, Kind.DELETE, Kind.REACT):
        change = Change("lobby", 8, "Alice", "Hi", TIMESTAMP, "u_1", kind, 7)
        assert encode_plain(change) is None
        assert json.loads(protocol.encode(change))["type"] == kind


@given(_TEXTS, _TEXTS, st.none() | _TEXTS, st.integers(0, 2**53 - 1))
def test_encoders_agree(text: str, username: str, id: str | None, offset: int) -> None:
    message = MESSAGE._replace(text=text, username=username, id=id, offset=offset)
    assert encode_plain(message) in (None, encode_any(message))
    assert unpacked(packed(message), "lobby", offset) == message


def test_lone_surrogate_is_an_error() -> None:
    """Such a string cannot come from a client, because no parser accepts it."""
    with pytest.raises(UnicodeEncodeError):
        encode_plain(MESSAGE._replace(text="\ud800"))


# Messages in notes to other machines


@pytest.mark.parametrize("id", ["c7", None])
def test_plain_message_is_packed_as_a_list(id: str | None) -> None:
    message = MESSAGE._replace(id=id, text="Grüße 👋")
    line = pack_message(message)
    assert line is not None
    assert json.loads(line) == [
        "u_1",
        "Alice",
        "Grüße 👋",
        TIMESTAMP,
        *([] if id is None else [id]),
    ]
    found = unpack_message(line, "lobby", 42, Message)
    assert found == message
    assert type(found) is Message


@pytest.mark.parametrize(
    "publication",
    [
        MESSAGE._replace(text='a "quote"\n'),
        MESSAGE._replace(edited=TIMESTAMP),
        MESSAGE._replace(text="", deleted=True),
        MESSAGE._replace(reactions={"👍": (Reactor("u_1", "Zoë"), Reactor("u_2", "Bob"))}),
        Change("lobby", 42, "Alice", "better", TIMESTAMP, "u_1", Kind.EDIT, 1),
        Change("lobby", 42, "Alice", "", TIMESTAMP, "u_1", Kind.DELETE, 1),
        Change("lobby", 42, "Alice", "", TIMESTAMP, "u_1", Kind.REACT, 1, "👍", remove=True),
    ],
)
def test_all_other_publications_are_packed_as_clients_get_them(
    publication: Message | Change,
) -> None:
    assert packed(publication) == encode_any(publication)
    found = unpacked(packed(publication), "lobby", 42)
    assert found == publication
    assert type(found) is type(publication)


LINE = packed(MESSAGE)


@given(st.lists(st.tuples(st.integers(0, len(LINE) - 1), st.integers(0, 255)), max_size=3))
def test_damaged_lines_are_refused_or_others(changes: list[tuple[int, int]]) -> None:
    """What is unpacked, JSON has as well."""
    damaged = bytearray(LINE)
    for at, byte in changes:
        damaged[at] = byte
    try:
        found = unpack_message(bytes(damaged), "lobby", 42, Message)
    except ValueError:
        return
    user, username, text, timestamp, *id = json.loads(damaged)
    assert found == MESSAGE._replace(
        user=user, username=username, text=text, timestamp=timestamp, id=id[0] if id else None
    )


@pytest.mark.parametrize("line", [b"", b"[", LINE[:-1], LINE + b" ", b'["a","b","c"]', b"[1]"])
def test_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="no packed message"):
        unpack_message(line, "lobby", 42, Message)
