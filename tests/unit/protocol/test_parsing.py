"""Tests of parsing: commands that clients can send, and payloads that are refused."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat import protocol
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.protocol import (
    Delete,
    Edit,
    GetHistory,
    Join,
    Leave,
    Ping,
    Position,
    React,
    Search,
    Send,
    Typing,
    Upload,
)
from fastchat.protocol.parsing import join_from_query, parse
from support.server import TIMEOUT_UNIT_S

#: No payload may block the event loop for longer. It is processor time, because other processes
#: can run at the same time.
PARSE_TIMEOUT_S = 0.2 * TIMEOUT_UNIT_S


def parsed(**fields: Any) -> protocol.Command:
    return parse(json.dumps(fields).encode())


def refusal(payload: bytes | dict[str, Any]) -> CommandError:
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    with pytest.raises(CommandError) as caught:
        parse(payload)
    return caught.value


# Commands


def test_command_without_a_type_is_a_message() -> None:
    """`{"text":"Hello"}` is a complete command."""
    assert parse(b'{"text":"Hello"}') == Send("Hello")


COMMANDS = [
    ({"type": "message", "text": "hi"}, Send("hi")),
    (
        {"type": "message", "text": "hi", "room": "a", "id": "i", "ref": "r"},
        Send("hi", "a", "i", "r"),
    ),
    ({"type": "join"}, Join("lobby")),
    (
        {
            "type": "join",
            "room": "a.b-c_1",
            "username": "Alice",
            "history": 0,
            "since": {"epoch": "e", "offset": 7},
            "session": "s" * 16,
            "ref": "r",
        },
        Join("a.b-c_1", "Alice", 0, Position("e", 7), "s" * 16, "r"),
    ),
    ({"type": "join", "history": 300}, Join("lobby", history=300)),
    ({"type": "leave"}, Leave(None)),
    ({"type": "leave", "room": "a", "ref": "r"}, Leave("a", "r")),
    ({"type": "typing"}, Typing(None)),
    ({"type": "typing", "room": "a", "ref": "r"}, Typing("a", "r")),
    ({"type": "history"}, GetHistory(None, None, None, 50)),
    ({"type": "history", "before": 9, "limit": 300}, GetHistory(None, 9, None, 300)),
    ({"type": "history", "room": "a", "after": 0, "limit": 1}, GetHistory("a", None, 0, 1)),
    ({"type": "edit", "offset": 1, "text": "hi"}, Edit(1, "hi")),
    (
        {"type": "edit", "offset": 2**53 - 1, "text": "a \n", "room": "a", "ref": "r"},
        Edit(2**53 - 1, "a", "a", "r"),
    ),
    ({"type": "delete", "offset": 1}, Delete(1)),
    ({"type": "delete", "offset": 0, "room": "a", "ref": "r"}, Delete(0, "a", "r")),
    ({"type": "react", "offset": 1, "emoji": "👋"}, React(1, "👋", False)),
    (
        {"type": "react", "offset": 1, "emoji": "👋", "remove": True, "room": "a", "ref": "r"},
        React(1, "👋", True, "a", "r"),
    ),
    ({"type": "react", "offset": 1, "emoji": "👋", "remove": False}, React(1, "👋", False)),
    ({"type": "search", "query": "x"}, Search("x", 50)),
    (
        {"type": "search", "query": ' "a b" c* ', "limit": 300, "room": "a", "ref": "r"},
        Search(' "a b" c* ', 300, "a", "r"),
    ),
    ({"type": "search", "query": "é" * 200, "limit": 1}, Search("é" * 200, 1)),
    ({"type": "upload", "name": "cat.png", "size": 1}, Upload("cat.png", 1)),
    (
        {"type": "upload", "name": " Καλή.txt ", "size": 2**53 - 1, "room": "a", "ref": "r"},
        Upload("Καλή.txt", 2**53 - 1, "a", "r"),
    ),
    ({"type": "upload", "name": "é" * 512, "size": 9}, Upload("é" * 512, 9)),
    ({"type": "ping"}, Ping()),
    ({"type": "ping", "ref": "r"}, Ping("r")),
]


@pytest.mark.parametrize(("fields", "command"), COMMANDS)
def test_command_is_parsed_into_its_type(fields: dict[str, Any], command: object) -> None:
    """Each command is parsed with as few and with as many fields as it can have."""
    found = parsed(**fields)
    assert found == command
    assert type(found) is type(command)


def test_fields_that_the_server_sets_are_ignored() -> None:
    """A client cannot set the `username`, `timestamp` or `offset` of a message."""
    command = parsed(text="hi", username="Eve", timestamp="1999", offset=3, epoch="e")
    assert command == Send("hi")


def test_null_stands_for_an_absent_field() -> None:
    """A field with the value null is the same as an absent field."""
    fields = {"room": None, "username": None, "since": None, "session": None, "ref": None}
    assert parsed(type="join", **fields) == Join("lobby")


BAD_COMMANDS: list[tuple[dict[str, Any], str]] = [
    ({"type": "nonsense"}, "bad_command"),
    ({"type": "Message", "text": "x"}, "bad_command"),
    ({"type": None, "text": "x"}, "bad_command"),
    ({"type": 1}, "bad_command"),
    ({"type": ["join"]}, "bad_command"),
    ({"type": {"join": 1}}, "bad_command"),
    ({}, "bad_command"),
    ({"text": None}, "bad_command"),
    ({"text": 5}, "bad_command"),
    ({"text": True}, "bad_command"),
    ({"text": ["x"]}, "bad_command"),
    ({"text": {"x": 1}}, "bad_command"),
    ({"text": "x", "room": 5}, "bad_room"),
    ({"text": "x", "room": "A"}, "bad_room"),
    ({"text": "x", "room": ""}, "bad_room"),
    ({"text": "x", "room": True}, "bad_room"),
    ({"text": "x", "id": 5}, "bad_command"),
    ({"text": "x", "id": ""}, "bad_command"),
    ({"text": "x", "id": False}, "bad_command"),
    ({"text": "x", "id": ["a"]}, "bad_command"),
    ({"text": "x", "ref": 5}, "bad_command"),
    ({"text": "x", "ref": {}}, "bad_command"),
    ({"type": "join", "room": 1}, "bad_room"),
    ({"type": "join", "room": "a b"}, "bad_room"),
    ({"type": "join", "username": 1}, "bad_username"),
    ({"type": "join", "username": ""}, "bad_username"),
    ({"type": "join", "username": True}, "bad_username"),
    ({"type": "join", "history": "5"}, "bad_command"),
    ({"type": "join", "history": -1}, "bad_command"),
    ({"type": "join", "history": 301}, "bad_command"),
    ({"type": "join", "history": 1.5}, "bad_command"),
    ({"type": "join", "history": 5.0}, "bad_command"),
    ({"type": "join", "history": True}, "bad_command"),
    ({"type": "join", "since": 5}, "bad_command"),
    ({"type": "join", "since": []}, "bad_command"),
    ({"type": "join", "since": True}, "bad_command"),
    ({"type": "join", "since": {}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e"}}, "bad_command"),
    ({"type": "join", "since": {"offset": 1}}, "bad_command"),
    ({"type": "join", "since": {"epoch": 1, "offset": 1}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "", "offset": 1}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": "1"}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": True}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": -1}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": 1.0}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": 2**53}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": 2**64}}, "bad_command"),
    ({"type": "join", "since": {"epoch": "e", "offset": 1, "x": {"y": 1}}}, "bad_command"),
    ({"type": "join", "session": 1}, "bad_command"),
    ({"type": "join", "session": "short"}, "bad_command"),
    ({"type": "join", "session": "s" * 65}, "bad_command"),
    ({"type": "leave", "room": []}, "bad_room"),
    ({"type": "typing", "room": 0}, "bad_room"),
    ({"type": "history", "before": 1, "after": 1}, "bad_command"),
    ({"type": "history", "before": "1"}, "bad_command"),
    ({"type": "history", "before": True}, "bad_command"),
    ({"type": "history", "after": -1}, "bad_command"),
    ({"type": "history", "after": 0.5}, "bad_command"),
    ({"type": "history", "limit": 0}, "bad_command"),
    ({"type": "history", "limit": 301}, "bad_command"),
    ({"type": "history", "limit": True}, "bad_command"),
    ({"type": "history", "limit": "9"}, "bad_command"),
    ({"type": "edit", "text": "x"}, "bad_command"),
    ({"type": "edit", "offset": 1}, "bad_command"),
    ({"type": "edit", "offset": 1, "text": ""}, "bad_command"),
    ({"type": "edit", "offset": 1, "text": " \x00"}, "bad_command"),
    ({"type": "edit", "offset": 1, "text": 5}, "bad_command"),
    ({"type": "edit", "offset": 1, "text": "x" * 4001}, "too_long"),
    ({"type": "edit", "offset": None, "text": "x"}, "bad_command"),
    ({"type": "edit", "offset": "1", "text": "x"}, "bad_command"),
    ({"type": "edit", "offset": True, "text": "x"}, "bad_command"),
    ({"type": "edit", "offset": 1.0, "text": "x"}, "bad_command"),
    ({"type": "edit", "offset": 1, "text": "x", "room": "A"}, "bad_room"),
    ({"type": "delete"}, "bad_command"),
    ({"type": "delete", "offset": -1}, "bad_command"),
    ({"type": "delete", "offset": 2**53}, "bad_command"),
    ({"type": "delete", "offset": [1]}, "bad_command"),
    ({"type": "delete", "offset": 1, "room": 5}, "bad_room"),
    ({"type": "react", "offset": 1}, "bad_command"),
    ({"type": "react", "emoji": "👋"}, "bad_command"),
    ({"type": "react", "offset": 1, "emoji": 5}, "bad_command"),
    ({"type": "react", "offset": 1, "emoji": ["👋"]}, "bad_command"),
    ({"type": "react", "offset": 1, "emoji": "👋", "remove": 1}, "bad_command"),
    ({"type": "react", "offset": 1, "emoji": "👋", "remove": "true"}, "bad_command"),
    ({"type": "react", "offset": 1, "emoji": "👋", "remove": None}, "bad_command"),
    ({"type": "search"}, "bad_command"),
    ({"type": "search", "query": ""}, "bad_command"),
    ({"type": "search", "query": 5}, "bad_command"),
    ({"type": "search", "query": ["x"]}, "bad_command"),
    ({"type": "search", "query": "x" * 201}, "bad_command"),
    ({"type": "search", "query": "x", "limit": 0}, "bad_command"),
    ({"type": "search", "query": "x", "limit": 301}, "bad_command"),
    ({"type": "search", "query": "x", "limit": "9"}, "bad_command"),
    ({"type": "search", "query": "x", "room": ""}, "bad_room"),
    ({"type": "upload"}, "bad_command"),
    ({"type": "upload", "name": "cat.png"}, "bad_command"),
    ({"type": "upload", "size": 1}, "bad_command"),
    ({"type": "upload", "name": "", "size": 1}, "bad_command"),
    ({"type": "upload", "name": " ", "size": 1}, "bad_command"),
    ({"type": "upload", "name": 5, "size": 1}, "bad_command"),
    ({"type": "upload", "name": ["a"], "size": 1}, "bad_command"),
    ({"type": "upload", "name": "é" * 512 + "e", "size": 1}, "bad_command"),
    ({"type": "upload", "name": "a", "size": 0}, "bad_command"),
    ({"type": "upload", "name": "a", "size": -1}, "bad_command"),
    ({"type": "upload", "name": "a", "size": "1"}, "bad_command"),
    ({"type": "upload", "name": "a", "size": 1.0}, "bad_command"),
    ({"type": "upload", "name": "a", "size": True}, "bad_command"),
    ({"type": "upload", "name": "a", "size": 2**53}, "bad_command"),
    ({"type": "upload", "name": "a", "size": 1, "room": "A"}, "bad_room"),
    ({"type": "chunk", "data": "x"}, "bad_command"),
    ({"type": "ping", "ref": 1}, "bad_command"),
    ({"text": "x", "extra": {"a": {"b": 1}}}, "bad_command"),
    ({"text": "x", "extra": [[1]]}, "bad_command"),
    ({"text": "x", **{f"k{i}": 1 for i in range(32)}}, "bad_command"),
]


@pytest.mark.parametrize(("fields", "code"), BAD_COMMANDS, ids=lambda value: repr(value)[:60])
def test_bad_command_is_refused_with_its_code(fields: dict[str, Any], code: str) -> None:
    """A wrong or missing field is refused with a code; a boolean is not a number."""
    error = refusal(fields)
    assert error.code == code
    assert error.message.endswith(".")
    assert not error.temporary


NOT_OBJECTS = [b"null", b"true", b"5", b'"text"', b"[]", b'[{"text":"x"}]', b"-0", b"1e5"]


@pytest.mark.parametrize("payload", NOT_OBJECTS)
def test_json_that_is_no_object_is_a_bad_command(payload: bytes) -> None:
    """Valid JSON that is no object is `bad_command`, not `bad_json`."""
    assert refusal(payload).code == ErrorCode.BAD_COMMAND


NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b"{'text':'x'}",
    b'{"text":"x"',
    b'{"text":"x",}',
    b'{text:"x"}',
    b'{"text":"x"}{"text":"y"}',
    b'{"text":"x"} trailing',
    b'{"text":"\x01"}',
    b'{"text":"a\nb"}',
    b'{"text":"\\x41"}',
    b'{"text":"\\u12"}',
    b'{"text":01}',
    b'{"text":+1}',
    b'{"text":.5}',
    b'{"text":0x1}',
    b"hello",
    b"\xef\xbb\xbf{}",
    b"{\x00}",
    b'\x00{"text":"x"}',
]


@pytest.mark.parametrize("payload", NOT_JSON)
def test_invalid_json_is_bad_json(payload: bytes) -> None:
    """Text that is not JSON is `bad_json`."""
    assert refusal(payload).code == ErrorCode.BAD_JSON


NOT_UTF8 = [
    b"\xff",
    b'{"text":"\xff"}',
    b'{"text":"\xc3"}',
    b'{"text":"\xed\xa0\x80"}',  # a surrogate
    b'{"text":"\xc0\xaf"}',  # overlong
    b'{"text":"\xf4\x90\x80\x80"}',  # above U+10FFFF
    b'{"\xc3":1}',
]


@pytest.mark.parametrize("payload", NOT_UTF8)
def test_invalid_utf8_closes_with_1007(payload: bytes) -> None:
    """RFC 6455 §8.1: a text message that is not UTF-8 fails the connection."""
    with pytest.raises(Violation) as caught:
        parse(payload)
    assert caught.value.reason is CloseReason.INVALID_UTF8


REPEATED_KEYS = [
    b'{"text":"a","text":"b"}',
    b'{"text":"a","te\\u0078t":"b"}',
    b'{"text":"a","\\u0074\\u0065\\u0078\\u0074":"b"}',
    b'{"type":"ping","text":"a","type":"message"}',
    b'{"text":"a","x":1,"x":1}',
    b'{"text":"a","x":"\\"","x":"\\""}',
    b'{"text":"\\"\\"","x":1,"x":1}',
    b'{"text":"a","\\"":1,"\\"":2}',
    b'{"text":"a","x":{"y":1},"x":1}',
    b'{"text":"a","x":["y"],"x":1}',
    b'{"text":"a","":1,"":2}',
    b'{"text":"a","x":{"y":1,"y":1}}',
    b'{"type":"join","since":{"epoch":"a","epoch":"b","offset":1}}',
    b'{"type":"join","since":{"epoch":"a","offset":1,"offset":2}}',
    b'{"type":"join","since":{"epoch":"a","offset":1,"\\u006fffset":2}}',
    b'{"type":"join","since":{"epoch":"a","offset":1},"since":{"epoch":"a","offset":2}}',
    b'{"type":"join","since":{"epoch":"a","offset":1},"since":null}',
]


@pytest.mark.parametrize("payload", REPEATED_KEYS)
def test_repeated_key_is_a_bad_command(payload: bytes) -> None:
    """A repeated key is refused, however the repetition is written."""
    assert refusal(payload).code == ErrorCode.BAD_COMMAND


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text":"say \\"text\\": no"}',
        b'{"text":"a \\u0022quoted\\u0022 word"}',
        b'{"te\\u0078t":"a"}',
        b'{"text":"\\\\"}',
        b'{"text":"\\\\\\"\\\\"}',
        b'{"text":"a","x":["text","text"]}',
        b'{"text":"a","x":{"text":1}}',
    ],
)
def test_quotes_within_strings_are_no_repeated_keys(payload: bytes) -> None:
    """A text that looks like a repeated key is accepted and not changed."""
    assert parse(payload) == Send(json.loads(payload)["text"])


OUT_OF_RANGE = [
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"1" * 400,
    b"1" * 5000,
    b"1" * 60_000,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"a\\udfffb"',
]


@pytest.mark.parametrize("value", OUT_OF_RANGE, ids=lambda value: value[:12].decode())
@pytest.mark.parametrize("template", [b'{"text":%s}', b'{"text":"x","unknown":%s}'])
def test_value_out_of_range_is_a_bad_command(template: bytes, value: bytes) -> None:
    """NaN, infinities, huge numbers and lone surrogates are refused in each field."""
    assert refusal(template % value).code == ErrorCode.BAD_COMMAND


@pytest.mark.parametrize("digits", [20, 21, 100, 300])
def test_integer_beyond_64_bits_is_no_offset(digits: int) -> None:
    """An integer that the parser turns into a float is not accepted as an offset."""
    payload = b'{"type":"history","before":%s}' % (b"9" * digits)
    assert refusal(payload).code == ErrorCode.BAD_COMMAND


HEAVY = {
    "open lists": b"[" * 100_000,
    "open objects": b'{"a":' * 20_000,
    "lists in a field": b'{"text":"x","a":' + b"[" * 500 + b"]" * 500 + b"}",
    "many lists in a field": b'{"text":"x","a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "lists after an escaped quote": b'{"text":"\\"","a":' + b"[" * 500 + b"]" * 500 + b"}",
    "quotes": b'"' * 65_536,
    "backslashes": b'{"text":"' + b"\\" * 65_500,
    "many keys": b"{" + b",".join(b'"%d":1' % i for i in range(6000)) + b"}",
    "one key repeated": b"{" + b",".join([b'"a":1'] * 9000) + b"}",
    "many elements": b'{"text":"x","a":[' + b",".join([b"1"] * 30_000) + b"]}",
    "digits": b'{"text":"x","a":' + b"9" * 65_000 + b"}",
    "exponent": b'{"text":"x","a":1e' + b"9" * 65_000 + b"}",
    "blanks": b" " * 65_536,
    "blank text": b'{"text":"' + b" " * 65_000 + b'"}',
    "escaped controls": b'{"text":"' + b"\\u0001" * 10_000 + b'"}',
    "long name": b'{"type":"join","username":"' + b"a\xcc\x81" * 20_000 + b'"}',
    "long room": b'{"type":"join","room":"' + b"a" * 60_000 + b'"}',
    "long ref": b'{"type":"ping","ref":"' + b"a" * 60_000 + b'"}',
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_payload_is_parsed_or_refused_in_bounded_time(name: str) -> None:
    """A payload that is made to be expensive neither raises nor blocks the event loop."""
    payload = HEAVY[name]
    started = time.thread_time()
    with contextlib.suppress(CommandError):
        parse(payload)
    assert time.thread_time() - started < PARSE_TIMEOUT_S


def test_refusal_has_the_commands_ref_and_id() -> None:
    """A client can tell which of its commands was refused."""
    error = refusal({"text": "", "ref": "r1", "id": "i1"})
    assert (error.ref, error.id) == ("r1", "i1")
    error = refusal({"type": "nonsense", "ref": "r2"})
    assert (error.ref, error.id) == ("r2", None)


def test_refusal_does_not_echo_an_invalid_ref() -> None:
    """A `ref` that is no string, or has too many bytes, is not echoed."""
    for ref in (5, "", "r" * 65, "é" * 33, ["r"]):
        assert refusal({"type": "ping", "ref": ref}).ref is None


@pytest.mark.parametrize("name", ["id", "ref"])
def test_length_of_id_and_ref_is_counted_in_bytes(name: str) -> None:
    """64 bytes of UTF-8 are accepted, and 65 are not."""
    for value in ("a" * 64, "é" * 32, "😀" * 16):
        assert getattr(parsed(text="x", **{name: value}), name) == value
    for value in ("a" * 65, "é" * 32 + "a", "é" * 33, "😀" * 17):
        assert refusal({"text": "x", name: value}).code == ErrorCode.BAD_COMMAND


# Text


def text_of(text: str) -> str:
    command = parsed(text=text)
    assert isinstance(command, Send)
    return command.text


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("hello  \n\t ", "hello"),
        ("  hello", "  hello"),
        ("a\nb", "a\nb"),
        ("a\tb", "a\tb"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "ab"),
        ("a\x00b", "ab"),
        ("a\x1b[31mb", "a[31mb"),
        ("a\x7fb\x80c\x9fd", "abcd"),
        ("a \x00", "a"),
        ("a\u3000", "a"),
        ("\u202eabc", "\u202eabc"),
        ("👨‍👩‍👧", "👨‍👩‍👧"),
        ("e\u0301", "e\u0301"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_text_loses_controls_and_trailing_white_space(sent: str, kept: str) -> None:
    """Control characters, and white space at the end, are removed from a text."""
    assert text_of(sent) == kept


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "\t", "\x00", "\x1b\x07", " \x00 ", "\u2003", "\r"]
)
def test_empty_text_is_a_bad_command(text: str) -> None:
    """A text that is empty after trimming is refused."""
    assert refusal({"text": text}).code == ErrorCode.BAD_COMMAND


@pytest.mark.parametrize("char", ["a", "é", "€", "😀"])
def test_text_has_at_most_4000_code_points(char: str) -> None:
    """4,000 code points are accepted, and 4,001 are `too_long`."""
    assert text_of(char * 4000) == char * 4000
    assert refusal({"text": char * 4001}).code == ErrorCode.TOO_LONG


def test_length_of_a_text_is_counted_after_trimming() -> None:
    """Removed white space and control characters do not count."""
    assert text_of("a" * 4000 + " " * 9) == "a" * 4000
    assert text_of("\x01" * 9 + "a" * 4000) == "a" * 4000


def test_text_of_an_edit_obeys_the_rules_of_messages() -> None:
    """The text of an edit is trimmed and cleaned like that of a message."""
    command = parsed(type="edit", offset=1, text="a\r\n\x1bb  ")
    assert isinstance(command, Edit)
    assert command.text == "a\nb"


# Emoji

EMOJI = [
    "👍",
    "❤️",
    "❤",
    "👍🏽",
    "👩‍👩‍👧‍👦",
    "👩🏿‍❤️‍💋‍👩🏻",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🏳️‍🌈",
    "🧑‍🧑‍🧒‍🧒",
    "1️⃣",
    "#️⃣",
    "*⃣",
    "🇩🇪",
    "‼️",
    "™️",
    "©️",
    "ℹ️",
    "〰️",
    "㊗️",
    "🅰️",
    "↔️",
    "♾️",
    "☠️",
    "⌛",
    "🀄",
    "👍👍",
]
NO_EMOJI = [
    "",
    "a",
    "+1",
    ":)",
    "!",
    "1",
    "1\ufe0f",
    "^",
    "é",
    "漢",
    "ア",
    "٣",
    "אב",
    " ",
    "👍 ",
    " 👍",
    "👍\n",
    "👍\u2003",
    "👍a",
    "👍1",
    "👍!",
    "👍<b>",
    "\x00",
    "👍\x00",
    "👍\x1b",
    "\u200b",
    "\u200d",
    "\ufe0f",
    "\u200d\ufe0f",
    "\U000e0067\U000e007f",
    "\u202e👍",
    "e\u0301",
    "👍\u0301",
    "\ue000",
    "\ufffe",
    "👍" * 17,
    "👍" + "\u200d" * 16,
]


#: Emoji that are newer than the Unicode of some Pythons: of Unicode 15, 15.1, 16 and 17, and of
#: the future.
NEW_EMOJI = ["🩷", "🫨", "🐦\u200d🔥", "\U0001fae9", "\U0001facd", "\U0001faff", "\U0001f8ff"]


@pytest.mark.parametrize("emoji", EMOJI + NEW_EMOJI)
def test_emoji_of_all_kinds_are_valid_reactions(emoji: str) -> None:
    """Skin tones, families, flags, keycaps and old symbols are accepted."""
    assert parsed(type="react", offset=1, emoji=emoji) == React(1, emoji, False)


@pytest.mark.parametrize("emoji", NO_EMOJI, ids=ascii)
def test_reaction_that_is_no_emoji_is_refused(emoji: str) -> None:
    """Letters, ASCII, spaces, controls, invisible and too long texts are refused."""
    error = refusal({"type": "react", "offset": 1, "emoji": emoji})
    assert error.code == ErrorCode.BAD_COMMAND


# The query


def test_query_with_a_username_joins_the_lobby() -> None:
    """`/ws?username=Alice` joins the lobby with the default history."""
    assert join_from_query({"username": "Alice"}) == Join("lobby", "Alice")


def test_query_can_have_room_position_and_history() -> None:
    """A query can have all fields of a `join` that are not secret."""
    query = {"username": "Al", "room": "r", "epoch": "e", "offset": "7", "history": "0"}
    assert join_from_query(query) == Join("r", "Al", 0, Position("e", 7))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"username": ""}, "bad_username"),
        ({"username": "a\u200b"}, "bad_username"),
        ({"username": "a", "room": ""}, "bad_room"),
        ({"username": "a", "room": "A"}, "bad_room"),
        ({"username": "a", "history": ""}, "bad_command"),
        ({"username": "a", "history": "-1"}, "bad_command"),
        ({"username": "a", "history": "301"}, "bad_command"),
        ({"username": "a", "history": "1.0"}, "bad_command"),
        ({"username": "a", "history": "٣"}, "bad_command"),
        ({"username": "a", "history": "9" * 5000}, "bad_command"),
        ({"username": "a", "epoch": "e"}, "bad_command"),
        ({"username": "a", "offset": "1"}, "bad_command"),
        ({"username": "a", "epoch": "e", "offset": "x"}, "bad_command"),
        ({"username": "a", "epoch": "", "offset": "1"}, "bad_command"),
    ],
)
def test_bad_query_is_refused_like_a_join(query: dict[str, str], code: str) -> None:
    """A query obeys the rules of `join`."""
    with pytest.raises(CommandError) as caught:
        join_from_query(query)
    assert caught.value.code == code


# Arbitrary payloads

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TYPES = ["message", "join", "leave", "typing", "history", "ping", "nonsense", "", None, 3]
TYPES += ["edit", "delete", "react", "search", "upload"]
FIELDS = ["text", "room", "id", "ref", "username", "history", "session", "before", "after", "limit"]
FIELDS += ["offset", "emoji", "remove", "query", "name", "size"]
commands = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(TYPES),
        "since": st.dictionaries(st.sampled_from(["epoch", "offset"]), json_values),
        **dict.fromkeys(FIELDS, json_values),
    },
)


def is_handled(payload: bytes) -> bool:
    """Whether `parse` returns a command, or raises an error that can be sent."""
    try:
        command = parse(payload)
    except CommandError as error:
        return json.loads(protocol.error(error))["code"] in list(ErrorCode)
    except Violation as violation:
        return violation.reason is CloseReason.INVALID_UTF8
    return isinstance(command, protocol.Command)


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(payload: bytes) -> None:
    """For any bytes, `parse` returns a command or raises one of its two errors."""
    assert is_handled(payload)


@given(json_values | commands)
def test_any_json_is_parsed_or_refused(value: object) -> None:
    """For any JSON value, `parse` returns a command or raises one of its two errors."""
    assert is_handled(json.dumps(value).encode("utf-8", "surrogatepass"))


@given(commands, st.integers(0, 200), st.binary(max_size=3))
def test_any_damaged_command_is_parsed_or_refused(
    fields: dict[str, Any], position: int, damage: bytes
) -> None:
    """A command with overwritten bytes is parsed, or refused with one of the two errors."""
    payload = bytearray(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"))
    payload[position : position + len(damage)] = damage
    assert is_handled(bytes(payload))


def pairs_of(keys: list[str]) -> bytes:
    return b"{%s}" % ",".join(f"{json.dumps(key)}:1" for key in keys).encode()


@given(st.lists(st.text('ab"\\', max_size=3), max_size=5))
def test_all_repeated_keys_are_found(keys: list[str]) -> None:
    """A command is refused for repeated keys exactly if it has some."""
    payload = pairs_of(["text", *keys]).replace(b":1", b':"x"')
    if len({"text", *keys}) == len(keys) + 1:
        assert parse(payload) == Send("x")
    else:
        assert refusal(payload).code == ErrorCode.BAD_COMMAND
