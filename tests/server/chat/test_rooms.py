"""Rooms with names in any script, on a real server: one room for all forms of a name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.sync.client import ClientConnection, connect

from fastchat.history import transfer
from support.server import TIMEOUT_UNIT_S, Server, running_server

PATIENCE_S = 10 * TIMEOUT_UNIT_S


class Client:
    """A connection to a server."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def receive(self, *types: str) -> dict[str, Any]:
        """The next event of one of these types."""
        while True:
            event: dict[str, Any] = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if event["type"] in types:
                return event

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command, and return the event that answers it."""
        self._socket.send(json.dumps(command))
        return self.receive("joined", "error", "message", "left", "results")

    def join(self, room: str, name: str) -> dict[str, Any]:
        """Join a room. While a relay starts, a join is `unavailable`, and is tried again."""
        while True:
            event = self.ask(type="join", room=room, username=name)
            if event.get("code") != "unavailable":
                return event


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def client(opened: ExitStack, server: Server, query: str = "") -> Client:
    address = server.url.replace("http", "ws") + "/ws" + query
    return Client(opened.enter_context(connect(address)))


def test_forms_of_a_name_are_one_room(opened: ExitStack) -> None:
    """Clients that write a name in other cases, or decomposed, meet in one room."""
    server = opened.enter_context(running_server("--history", "memory"))
    ann, bob = client(opened, server), client(opened, server)
    assert ann.join("Café-КУХНЯ", "Ann")["room"] == "café-кухня"
    assert bob.join("cafe\u0301-кухня", "Bob")["online"] == 2
    assert ann.ask(text="hello", room="CAFÉ-Кухня")["room"] == "café-кухня"
    assert bob.receive("message")["text"] == "hello"
    assert bob.ask(type="search", query="hello", room="café-кухня")["messages"]
    assert ann.ask(type="leave", room="CAFÉ-кухня")["type"] == "left"


@pytest.mark.parametrize("room", ["Кухня", "厨房", "مطبخ", "Straße", "ครัว", "부엌"])
def test_room_in_the_address_is_percent_encoded(opened: ExitStack, room: str) -> None:
    """The query of an address names the room in percent-encoded UTF-8."""
    server = opened.enter_context(running_server("--history", "memory"))
    query = f"?username=Ann&room={quote(room)}"
    assert client(opened, server, query).receive("joined", "error")["room"] == room.casefold()
    wrong = "?username=Ann&room=%D0%9A%D1"
    assert client(opened, server, wrong).receive("joined", "error")["code"] == "bad_room"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_new_room_cannot_look_like_a_stored_one(
    opened: ExitStack, tmp_path: Path, workers: str
) -> None:
    """Neither while members are there, nor later, nor after a restart, in any worker."""
    options = ("--data", str(tmp_path / "data"), "--workers", workers)
    with running_server(*options) as server, ExitStack() as closing:
        ann = client(closing, server)
        assert ann.join("kitchen", "Ann")["type"] == "joined"
        for _ in range(4):  # both workers get a connection
            eve = client(closing, server)
            assert eve.join("kit\u0441hen", "Eve")["code"] == "bad_room"
        assert ann.ask(text="hello", room="kitchen")["offset"] == 1
        assert ann.join("кухня", "Ann")["type"] == "joined"
        assert ann.ask(text="привет", room="кухня")["offset"] == 1
    with running_server(*options) as server:
        eve = client(opened, server)
        assert eve.join("kit\u0441hen", "Eve")["code"] == "bad_room"
        assert eve.join("Kухня", "Eve")["code"] == "bad_room"  # a Latin K
        assert eve.join("l\u043ebby", "Eve")["code"] == "bad_room"
        assert eve.join("Кухня", "Eve")["offset"] == 1
        assert eve.join("кухни", "Eve")["type"] == "joined"


def imported(directory: Path, lines: bytes) -> tuple[int, int]:
    """Import lines into a directory; return the numbers of rooms and publications."""
    rooms, publications, *_ = transfer.import_rooms(directory, io.BytesIO(lines), "a file", "lobby")
    return rooms, publications


def test_rooms_are_exported_and_imported_under_their_keys(tmp_path: Path) -> None:
    """A copy has the same rooms; lines of other programs can have a name in any form."""
    lines = [
        {"username": "Ann", "text": "привет", "room": "Кухня"},
        {"username": "Bob", "text": "hello", "room": "кухня"},
        {"username": "Bob", "text": "你好", "room": "厨房"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    first, second = tmp_path / "first", tmp_path / "second"
    out, again = io.BytesIO(), io.BytesIO()
    assert imported(first, text.encode()) == (2, 3)
    transfer.export_rooms(first, None, out)
    assert imported(second, out.getvalue()) == (2, 3)
    transfer.export_rooms(second, None, again)
    assert again.getvalue() == out.getvalue()
    # A header that a person has written, with another form of the name.
    third, spelt = tmp_path / "third", out.getvalue().decode().replace("кухня", "Кухня")
    assert imported(third, spelt.encode()) == (2, 3)
