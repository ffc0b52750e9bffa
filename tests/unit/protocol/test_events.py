"""Tests of the encoding of publications and events."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat import protocol
from fastchat.errors import CloseCode, CommandError, ErrorCode
from fastchat.protocol import (
    Change,
    Kind,
    Message,
    Position,
    Reactor,
    Send,
)
from fastchat.protocol.options import RoomOptions
from fastchat.protocol.parsing import parse

TIMESTAMP = "2025-01-18T10:30:00.123Z"
MESSAGE = Message("lobby", 42, "Alice", "Hello", TIMESTAMP, "u_1", "c7")
BOB, EVE = Reactor("u_2", "Bob"), Reactor("u_3", "Eve")
PUBLISHED = {
    "type": "message",
    "room": "lobby",
    "offset": 42,
    "user": "u_1",
    "username": "Alice",
    "text": "Hello",
    "timestamp": TIMESTAMP,
}
ENCODED = protocol.encode(MESSAGE._replace(id=None))

#: A change of the message above. Tests replace its kind.
CHANGE = Change("lobby", 43, "Bob", "", TIMESTAMP, "u_2", Kind.DELETE, target=42)
CHANGED = {
    "room": "lobby",
    "offset": 43,
    "target": 42,
    "user": "u_2",
    "username": "Bob",
    "timestamp": TIMESTAMP,
}

EVENTS: list[tuple[bytes, dict[str, Any]]] = [
    (
        protocol.encode(CHANGE._replace(kind=Kind.EDIT, text="new")),
        {"type": "edit", "text": "new", **CHANGED},
    ),
    (
        # The edit of a message that was deleted later, as a recovery has it.
        protocol.encode(CHANGE._replace(kind=Kind.EDIT)),
        {"type": "edit", "text": "", **CHANGED},
    ),
    (protocol.encode(CHANGE._replace(kind=Kind.DELETE)), {"type": "delete", **CHANGED}),
    (
        protocol.encode(CHANGE._replace(kind=Kind.REACT, emoji="👋")),
        {"type": "react", "emoji": "👋", **CHANGED},
    ),
    (
        protocol.encode(CHANGE._replace(kind=Kind.REACT, emoji="👋", remove=True)),
        {"type": "react", "emoji": "👋", "remove": True, **CHANGED},
    ),
    (
        protocol.encode(MESSAGE._replace(edited=TIMESTAMP)),
        {**PUBLISHED, "id": "c7", "edited": TIMESTAMP},
    ),
    (
        protocol.encode(MESSAGE._replace(text="", deleted=True)),
        {**PUBLISHED, "id": "c7", "text": "", "deleted": True},
    ),
    (
        protocol.encode(MESSAGE._replace(reactions={"👋": (BOB, EVE), "❤️": [BOB]})),
        {
            **PUBLISHED,
            "id": "c7",
            "reactions": {"👋": [BOB._asdict(), EVE._asdict()], "❤️": [BOB._asdict()]},
        },
    ),
    (
        protocol.results("lobby", [ENCODED], ref="r"),
        {"type": "results", "room": "lobby", "messages": [PUBLISHED], "ref": "r"},
    ),
    (
        protocol.results("lobby", [], ref=None),
        {"type": "results", "room": "lobby", "messages": []},
    ),
    (protocol.encode(MESSAGE), {**PUBLISHED, "id": "c7"}),
    (ENCODED, PUBLISHED),
    (
        protocol.joined(
            "lobby",
            "u_1",
            "Alice",
            "secret",
            Position("epoch", 42),
            recovered=False,
            messages=[ENCODED],
            users=[("Alice", "u_1"), ("Bob", "u_2")],
            online=2,
            spectators=0,
            rights={"read"},
            ref="r",
        ),
        {
            "type": "joined",
            "room": "lobby",
            "user": "u_1",
            "username": "Alice",
            "session": "secret",
            "epoch": "epoch",
            "offset": 42,
            "timestamp": None,
            "recovered": False,
            "messages": [PUBLISHED],
            "users": [
                {"user": "u_1", "username": "Alice"},
                {"user": "u_2", "username": "Bob"},
            ],
            "online": 2,
            "spectators": 0,
            "rights": ["read"],
            "ref": "r",
        },
    ),
    (
        protocol.upload("lobby", "secret", 65_536, ref="r"),
        {
            "type": "upload",
            "room": "lobby",
            "ticket": "secret",
            "url": "/files",
            "chunk_bytes": 65_536,
            "ref": "r",
        },
    ),
    (
        protocol.file({"room": "lobby", "link": "/files/i/n?size=1", "size": 1}, ref=None),
        {"type": "file", "room": "lobby", "link": "/files/i/n?size=1", "size": 1},
    ),
    (
        protocol.joined(
            "lobby",
            "u_1",
            "Alice",
            "secret",
            Position("epoch", 0),
            recovered=False,
            messages=[],
            users=[("Alice", "u_1")],
            online=1,
            spectators=7,
            rights={"write", "read"},
            max_file_bytes=1000,
            ref=None,
        ),
        {
            "type": "joined",
            "room": "lobby",
            "user": "u_1",
            "username": "Alice",
            "session": "secret",
            "epoch": "epoch",
            "offset": 0,
            "timestamp": None,
            "recovered": False,
            "messages": [],
            "users": [{"user": "u_1", "username": "Alice"}],
            "online": 1,
            "spectators": 7,
            "rights": ["read", "write"],
            "files": {"max_bytes": 1000},
        },
    ),
    (
        protocol.joined(
            "lobby",
            "g_1",
            None,
            "secret",
            Position("epoch", 0),
            recovered=True,
            messages=[],
            users=None,
            online=201,
            spectators=1,
            rights={"read"},
            ref=None,
        ),
        {
            "type": "joined",
            "room": "lobby",
            "user": "g_1",
            "username": None,
            "session": "secret",
            "epoch": "epoch",
            "offset": 0,
            "timestamp": None,
            "recovered": True,
            "messages": [],
            "users": None,
            "online": 201,
            "spectators": 1,
            "rights": ["read"],
        },
    ),
    (protocol.left("lobby", ref="r"), {"type": "left", "room": "lobby", "ref": "r"}),
    (protocol.left("lobby", ref=None), {"type": "left", "room": "lobby"}),
    (
        protocol.presence_change("join", "lobby", "u_1", "Alice", TIMESTAMP, 3),
        {
            "type": "join",
            "room": "lobby",
            "user": "u_1",
            "username": "Alice",
            "text": "Alice joined the chat",
            "timestamp": TIMESTAMP,
            "online": 3,
        },
    ),
    (
        protocol.presence_change("leave", "lobby", "u_1", "Alice", TIMESTAMP, 2),
        {
            "type": "leave",
            "room": "lobby",
            "user": "u_1",
            "username": "Alice",
            "text": "Alice left the chat",
            "timestamp": TIMESTAMP,
            "online": 2,
        },
    ),
    (
        protocol.presence("lobby", 300, 2),
        {"type": "presence", "room": "lobby", "online": 300, "spectators": 2},
    ),
    (
        protocol.room_changed("lobby", RoomOptions(title="Lobby", read_only=True)),
        {"type": "room", "room": "lobby", "options": {"title": "Lobby", "read_only": True}},
    ),
    (protocol.room_deleted("lobby"), {"type": "room_deleted", "room": "lobby"}),
    (
        protocol.user_erased("lobby", "u_1"),
        {"type": "user_erased", "room": "lobby", "user": "u_1"},
    ),
    (
        protocol.presence_list("lobby", 300, 0, None),
        {"type": "presence", "room": "lobby", "online": 300, "spectators": 0, "users": None},
    ),
    (
        protocol.presence_list("lobby", 1, 0, [("Alice", "u_1")]),
        {
            "type": "presence",
            "room": "lobby",
            "online": 1,
            "spectators": 0,
            "users": [{"user": "u_1", "username": "Alice"}],
        },
    ),
    (
        protocol.typing("lobby", "u_3", "Al"),
        {"type": "typing", "room": "lobby", "user": "u_3", "username": "Al"},
    ),
    (
        protocol.renewed("lobby", "u_1", "Alice", TIMESTAMP, rights={"write", "read"}, ref="r"),
        {
            "type": "renewed",
            "room": "lobby",
            "user": "u_1",
            "username": "Alice",
            "expires": TIMESTAMP,
            "rights": ["read", "write"],
            "ref": "r",
        },
    ),
    (
        protocol.removed("lobby", "u_2", "Bob", 60, ref=None),
        {"type": "removed", "room": "lobby", "user": "u_2", "username": "Bob", "seconds": 60},
    ),
    (protocol.ack("c7", "lobby", 4), {"type": "ack", "id": "c7", "room": "lobby", "offset": 4}),
    (
        protocol.history("lobby", [ENCODED], more=True, ref=None),
        {"type": "history", "room": "lobby", "messages": [PUBLISHED], "more": True},
    ),
    (
        protocol.error(
            CommandError(ErrorCode.BAD_ROOM, "No.", temporary=True, ref="r", id="i"),
        ),
        {
            "type": "error",
            "code": "bad_room",
            "message": "No.",
            "temporary": True,
            "ref": "r",
            "id": "i",
        },
    ),
    (
        protocol.error(CommandError(ErrorCode.BAD_JSON, "No.")),
        {"type": "error", "code": "bad_json", "message": "No.", "temporary": False},
    ),
    (protocol.pong(ref=None), {"type": "pong"}),
    (protocol.pong(ref="r"), {"type": "pong", "ref": "r"}),
    (
        protocol.closing(CloseCode.RESTART, "the server restarts", 900),
        {
            "type": "closing",
            "code": 1012,
            "reason": "the server restarts",
            "reconnect_after_ms": 900,
        },
    ),
]


@pytest.mark.parametrize(("payload", "fields"), EVENTS, ids=lambda value: repr(value)[:30])
def test_event_has_exactly_the_documented_fields(payload: bytes, fields: dict[str, Any]) -> None:
    """Each event is one JSON object without fields that are absent."""
    assert json.loads(payload) == fields
    assert type(orjson.loads(payload)) is dict


@given(st.text(min_size=1, max_size=50).map(lambda text: text.strip()).filter(bool))
def test_parsed_text_is_encoded_unchanged(text: str) -> None:
    """A text that `parse` accepted is in the payload, as one line of valid JSON."""
    try:
        command = parse(json.dumps({"text": text}).encode())
    except CommandError:
        return
    assert isinstance(command, Send)
    payload = protocol.encode(MESSAGE._replace(text=command.text))
    assert json.loads(payload.decode("utf-8"))["text"] == command.text
    assert b"\n" not in payload


# Timestamps


@pytest.mark.parametrize(
    ("seconds", "timestamp"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (0.5, "1970-01-01T00:00:00.500Z"),
        (1737196200.123, "2025-01-18T10:30:00.123Z"),
        (1709164800, "2024-02-29T00:00:00.000Z"),
        (4102444799.999, "2099-12-31T23:59:59.999Z"),
    ],
)
def test_timestamp_is_utc_with_milliseconds(seconds: float, timestamp: str) -> None:
    """A timestamp is RFC 3339 in UTC with three digits of milliseconds."""
    assert protocol.timestamp_of(seconds) == timestamp


def test_timestamps_sort_by_time() -> None:
    """Sorting timestamps as texts sorts them by time."""
    stamps = [protocol.timestamp_of(1_700_000_000 + i * 0.0337) for i in range(1000)]
    assert stamps == sorted(stamps)
