"""Targets for the parsers of commands, addresses, names, tokens, requests, records and answers.

A target takes any bytes. It fails if a parser raises an exception that it does not promise, if it
accepts a value beyond the protocol's limits, or if an accepted value is another one after it has
been encoded and parsed again.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import re
import tempfile
from collections.abc import Coroutine
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

from fastchat import protocol
from fastchat._codec import (
    Encoder,
    Parser,
    pack_draft,
    pack_message,
    unpack_drafts,
    unpack_message,
)
from fastchat.api.cursor import decode_cursor
from fastchat.api.incoming import InvalidPayload, NoText, text_in
from fastchat.api.keys import KEY_FILE, ActiveKey, ApiKey, ApiRight, check_patterns
from fastchat.api.paths import find
from fastchat.api.requests import ApiError, Field, Request
from fastchat.auth import Right
from fastchat.auth.tokens import TokenAuthenticator
from fastchat.brokers.relay.records import decode_from_relay, decode_from_worker
from fastchat.brokers.relay.wire import BadRecord, RecordKind, RecordReader, pack
from fastchat.errors import CommandError, ErrorCode, SettingError, Violation
from fastchat.protocol.names import (
    MAX_ROOM_BYTES,
    MAX_ROOM_CHARS,
    MAX_USERNAME_CHARS,
    check_room,
    check_username,
    name_key,
)
from fastchat.protocol.parsing import join_from_query, parse, parse_any
from fastchat.protocol.publications import encode_any
from fastchat.protocol.values import MAX_OFFSET, MAX_TEXT_CHARS, MAX_TOKEN_BYTES
from fastchat.webhooks.answers import (
    MAX_REFUSAL_CHARS,
    BadAnswer,
    Disconnect,
    JoinAnswer,
    PublishAnswer,
    Refuse,
    parse_join,
    parse_publish,
)

#: The largest text message that a parser gets.
MAX_MESSAGE_BYTES = 64 * 1024
#: The secret that tokens are signed with, and the time at which they are verified.
SECRET = b"a-secret-that-is-only-for-the-fuzzer"
NOW_S = 1_700_000_000.0
#: The `type` on the wire of each class of commands.
TYPES = {
    protocol.Send: "message", protocol.Join: "join", protocol.Leave: "leave",
    protocol.Typing: "typing", protocol.Ping: "ping", protocol.GetHistory: "history",
    protocol.Edit: "edit", protocol.Delete: "delete", protocol.React: "react",
    protocol.Search: "search", protocol.Remove: "remove", protocol.Upload: "upload",
}  # fmt: skip
#: The compiled parser and encoder alone: they return None for what they leave to the general ones.
_PARSE_PLAIN = Parser(
    lambda payload: None, protocol.Send, MAX_TEXT_CHARS, MAX_ROOM_CHARS, MAX_TOKEN_BYTES
)
_ENCODE_PLAIN = Encoder(lambda publication: None)
_FIELDS = (Field("text", str, True), Field("limit", int), Field("rooms", dict))
_FIELD_TYPES = {field.name: field.type for field in _FIELDS}
_LARGEST = {"limit": protocol.MAX_HISTORY, "history": protocol.MAX_HISTORY}


def commands(data: bytes) -> None:
    """Any payload is either a command within the limits, or refused with a valid error."""
    if len(data) > MAX_MESSAGE_BYTES:
        return
    try:
        command = parse(data)
    except CommandError as refusal:
        _check_refusal(refusal)
    except Violation as violation:
        assert violation.reason.code == 1007
        assert not _is_utf8(data), "what is UTF-8 was refused as none"
    else:
        _check_json(data)
        check_command(command)


def codec(data: bytes) -> None:
    """The compiled parser and encoder do what the general ones do, or decline."""
    plain = _PARSE_PLAIN(data)
    if plain is not None:
        assert plain == parse_any(data)
    text = data.decode("utf-8", "replace")
    room, username, user, id, *_ = [*text.split("\n", 3), "", "", "", ""]
    draft = protocol.MessageDraft(room, username, text, "2026-01-01", user, id or None)
    message = draft.numbered(len(data))
    assert message == protocol.Message(room, len(data), *draft[1:])
    payload = _ENCODE_PLAIN(message)
    if payload is not None:
        assert payload == encode_any(message)
    line = pack_message(message)
    if line is not None:
        assert unpack_message(line, room, len(data), protocol.Message) == message
    _check_unpacking(data)
    assert unpack_drafts(pack_draft(draft) * 2, protocol.MessageDraft) == [draft, draft]
    try:
        found = unpack_drafts(data, protocol.MessageDraft)
    except ValueError:
        return
    assert data == b"".join(pack_draft(each[:6], *each[6:]) for each in found)


def _check_unpacking(data: bytes) -> None:
    try:
        found = unpack_message(data, "lobby", 1, protocol.Message)
    except ValueError:
        return
    values = (found.user, found.username, found.text, found.timestamp, found.id)
    assert orjson.loads(data) == [each for each in values if each is not None]


def query(data: bytes) -> None:
    """The query of any address is either a `join` within the limits, or refused."""
    parameters = dict(parse_qsl(data.decode("latin-1"), keep_blank_values=True))
    try:
        command = join_from_query(parameters)
    except CommandError as refusal:
        _check_refusal(refusal)
    else:
        check_command(command)


def names(data: bytes) -> None:
    """Any name is refused or normalised; names that differ only in case have the same key."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    found = []
    for name in text.split("\n", 1):
        try:
            found.append(check_username(name))
        except CommandError as refusal:
            _check_refusal(refusal)
        try:
            _check_room(check_room(name))
        except CommandError as refusal:
            _check_refusal(refusal)
    for name in found:
        _check_username(name)
    for one, other in pairwise(found):
        if one.casefold() == other.casefold():
            assert name_key(one) == name_key(other)


def _check_room(key: str) -> None:
    assert check_room(key) == key
    assert 1 <= len(key) <= MAX_ROOM_CHARS
    assert len(key.encode()) <= MAX_ROOM_BYTES
    assert not re.search(r"[\s\x00-,/:-`{-\x9f]", key.replace("_", "")), "a separator"


def requests(data: bytes) -> None:
    """A path, a query and a body of the API, and its cursors and keys, are parsed or refused."""
    head, _, body = data.partition(b"\n")
    path, _, query = head.partition(b"?")
    with contextlib.suppress(UnicodeDecodeError):
        resource = find(b"/api/v1/" + path)
        assert resource is None or all(resource.variables.values())
    key = ActiveKey(ApiKey("shop", "0" * 64, frozenset(ApiRight), ("order-*",), 1.0, ""))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"headers": [], "state": {"context": None}, "query_string": query}
    request = Request(key, {}, scope, receive, lambda tokens: None)
    with contextlib.suppress(ApiError, CommandError):
        parameters = request.query(*_FIELDS[:2])
        assert all(type(value) is _FIELD_TYPES[name] for name, value in parameters.items())
    with contextlib.suppress(ApiError):
        fields = _result_of(request.body(*_FIELDS))
        assert all(type(value) is _FIELD_TYPES[name] for name, value in fields.items())
        assert "text" in fields
    with contextlib.suppress(ValueError):
        decode_cursor(body.decode("latin-1"))
    with contextlib.suppress(SettingError):
        for each in KEY_FILE.parse(Path("keys.json"), body):
            assert check_patterns(each.rooms) == each.rooms
    with contextlib.suppress(ApiError, CommandError):
        assert request.check_room(body.decode("latin-1")).startswith("order-")


def payloads(data: bytes) -> None:
    """The body of an incoming webhook has a text that a message can have, or is refused."""
    if len(data) > MAX_MESSAGE_BYTES:
        return
    try:
        text = text_in(data)
    except (InvalidPayload, NoText):
        return
    _check_field("text", text)
    if len(text) < MAX_TEXT_CHARS:
        assert text_in(orjson.dumps({"content": text})) == text.strip()


def _result_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("the coroutine waits")


def tokens(data: bytes) -> None:
    """The bytes are a token; or, if they begin with `{`, a header and claims that we sign."""
    signed = data[:1] == b"{"
    if signed:
        header, _, claims = data.partition(b"\n")
        parts = b".".join(map(_base64url, (header, claims)))
        token = parts + b"." + _base64url(hmac.digest(SECRET, parts, "sha256"))
    else:
        token = data
    try:
        identity = _authenticator().verify(token.decode("latin-1"))
    except CommandError as refusal:
        assert refusal.code == ErrorCode.UNAUTHORIZED
        _check_refusal(refusal)
        return
    assert signed, "somebody has guessed the signature"
    assert json.loads(header)["alg"] == "HS256", "a token chose another algorithm"
    assert identity.expires_s > NOW_S, "a token without an end, or after it"
    assert identity.credential
    _check_username(identity.name)
    assert all(rights <= set(Right) for rights in identity.rights.values())


def answers(data: bytes) -> None:
    """Any answer of a hook is either a verdict within the limits, or refused."""
    for parse_answer in (parse_publish, parse_join):
        try:
            answer = parse_answer(data)
        except BadAnswer as error:
            assert str(error).isascii()
            continue
        _check_keys(data)
        match answer:
            case PublishAnswer(text):
                assert text is None or not _check_field("text", text)
            case JoinAnswer(subject, username, rights):
                assert subject is None or (1 <= len(subject) <= 255 and username is not None)
                assert rights is None or rights <= set(Right)
                if username is not None:
                    _check_username(username)
            case Refuse(message):
                assert 1 <= len(message) <= MAX_REFUSAL_CHARS
                assert "\n" not in message
            case Disconnect(seconds):
                assert 0 <= seconds <= 30 * 86400


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@cache
def _authenticator() -> TokenAuthenticator:
    with tempfile.NamedTemporaryFile() as file:
        file.write(SECRET)
        file.flush()
        return TokenAuthenticator([file.name], clock=lambda: NOW_S)


def records(data: bytes) -> None:
    """A stream has the same records however it is cut into pieces.

    Each record is decoded as a worker's and as the relay's. If it is accepted, it is the same after
    it has been encoded and decoded again.
    """
    if not data:
        return
    step, stream = data[0] or 1, data[1:]
    whole, broken = _read(stream, len(stream) or 1)
    pieces, broken_too = _read(stream, step)
    assert whole == pieces, "where a stream is cut changes what it says"
    assert broken == broken_too
    at = 0
    for kind, head, tail in whole:
        at = _check_record(stream, at, kind, head, tail)
        if kind in set(RecordKind):
            again = list(_new_reader().feed(pack(RecordKind(kind), head, [tail])))
            assert again == [(kind, head, tail)], "a record does not survive being said again"
        for decode in (decode_from_worker, decode_from_relay):
            try:
                record = decode(kind, head, tail)
            except BadRecord:
                continue
            again = list(RecordReader(decode).feed(record.encode()))
            assert again == [record], f"{record} became {again}"


def _check_record(stream: bytes, at: int, kind: int, head: Any, tail: bytes) -> int:
    """Check a record against its prefix in the stream; returns the offset of its end."""
    length, size = int.from_bytes(stream[at : at + 4]), int.from_bytes(stream[at + 5 : at + 9])
    body = stream[at + 9 : at + 4 + length]
    assert len(body) == length - 5, "a record that is not complete"
    assert size <= len(body), "a head that is longer than its record"
    assert (kind, tail) == (stream[at + 4], body[size:])
    assert orjson.loads(body[:size]) == head
    return at + 4 + length


def _read(stream: bytes, step: int) -> tuple[list[tuple[int, Any, bytes]], bool]:
    reader, found = _new_reader(), []
    try:
        for start in range(0, len(stream), step):
            found += reader.feed(stream[start : start + step])
    except BadRecord:
        return found, True
    return found, False


def _new_reader() -> RecordReader[tuple[int, Any, bytes]]:
    """A reader that returns frames without decoding their records."""
    return RecordReader(lambda *frame: frame)


# Checks of accepted values


def check_command(command: protocol.Command) -> None:
    """Check that a command is within the limits, and stays the same when it is parsed again."""
    fields = {key: value for key, value in command._asdict().items() if value is not None}
    for key, value in fields.items():
        _check_field(key, value)
    if "since" in fields:
        fields["since"] = fields["since"]._asdict()
    payload = orjson.dumps({"type": TYPES[type(command)], **fields})
    assert parse(payload) == command, f"{command} became {parse(payload)}"


def _check_field(key: str, value: Any) -> None:
    match key:
        case "text":
            assert 1 <= len(value) <= MAX_TEXT_CHARS
            assert value == value.rstrip()
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", value), "a control character"
        case "room":
            _check_room(value)
        case "username":
            _check_username(value)
        case "user":
            assert re.match("[gu]_", value)
            assert "@" not in value
            assert value.isprintable()
        case "ref" | "id" | "session":
            assert 1 <= len(value.encode()) <= 64
        case "offset" | "before" | "after" | "size" | "limit" | "history":
            assert type(value) is int
            assert (key == "size") <= value <= _LARGEST.get(key, MAX_OFFSET)
        case "since":
            assert value.epoch
            _check_field("id", value.epoch)
            _check_field("offset", value.offset)
        case "emoji":
            assert 1 <= len(value) <= 16
            assert not value.isalnum()
            assert value == "".join(value.split())
        case "query":
            assert 1 <= len(value) <= 200
        case "remove":
            assert type(value) is bool
        case "name":
            assert 1 <= len(value.encode()) <= 1024
            assert value == value.strip()


def _check_username(name: str) -> None:
    assert 1 <= len(name) <= MAX_USERNAME_CHARS
    assert name == name.strip()
    name.encode()  # no lone surrogate
    assert check_username(name) == name, "a name's one form has another"
    assert name_key(name), "a name that looks like nothing"
    assert name_key(name_key(name)) == name_key(name), "a key has another key"


def _check_refusal(refusal: CommandError) -> None:
    assert refusal.code in set(ErrorCode)
    event = orjson.loads(protocol.error(refusal))  # the error can be encoded
    assert event["type"] == "error"
    for echoed in (refusal.ref, refusal.id):
        assert echoed is None or 1 <= len(echoed.encode()) <= 64


def _check_json(data: bytes) -> None:
    """Check that accepted JSON is an object without repeated keys, nested one level at most."""
    fields = _check_keys(data)
    assert len(fields) <= 32
    for value in fields.values():
        for inner in value if isinstance(value, list) else _values(value):
            assert not isinstance(inner, dict | list), "deep nesting was accepted"


def _check_keys(data: bytes) -> dict[str, Any]:
    """The fields of accepted JSON, which must have no repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a repeated key was accepted"
        return dict(pairs)

    fields: dict[str, Any] = json.loads(data, object_pairs_hook=unique)
    return fields


def _values(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else ()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
