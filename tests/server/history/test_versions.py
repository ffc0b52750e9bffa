"""Data directories and exports of older versions, whose users still own what they have said."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.sync.client import ClientConnection, connect

from fastchat.history import transfer
from support.server import TIMEOUT_UNIT_S, Server, running_server

DATA = Path(__file__).with_name("data")
PATIENCE_S = 10 * TIMEOUT_UNIT_S
#: The key of the tokens in the data (`data/make.py`).
SECRET = "an-Elephant-never-forgets-32-bytes"


class Visitor:
    """A client that joins a room of a server, as a guest or with a token."""

    def __init__(self, opened: ExitStack, server: Server, room: str, **join: Any) -> None:
        self.room = room
        address = server.url.replace("http", "ws") + "/ws"
        self.socket: ClientConnection = opened.enter_context(connect(address, legacy=True))
        self.joined = self.ask(type="join", **join)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the next event, but no join or leave of another user."""
        self.socket.send(json.dumps({"room": self.room, **command}))
        return self.receive()

    def receive(self) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(self.socket.recv(timeout=PATIENCE_S))
            if event["type"] not in ("join", "leave"):
                return event


@contextmanager
def serving(directory: Path, *flags: str) -> Iterator[tuple[ExitStack, Server]]:
    with running_server("--data", str(directory), *flags) as server, ExitStack() as opened:
        yield opened, server


def unpacked(directory: Path) -> Path:
    # `tarfile` cannot do this on all Pythons without a warning.
    directory.mkdir(exist_ok=True)
    archive = str(DATA / "schema-1.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", str(directory)], check=True)
    return directory


def imported(directory: Path) -> Path:
    lines = io.BytesIO((DATA / "schema-1.jsonl").read_bytes())
    transfer.import_rooms(directory, lines, "schema-1.jsonl", "lobby")
    return directory


def guest(opened: ExitStack, server: Server, room: str, name: str, session: str) -> Visitor:
    session = f"the-session-of-{session}"
    return Visitor(opened, server, room, username=name, session=session, history=300)


def holder(opened: ExitStack, server: Server, sub: str, name: str, *rights: str) -> Visitor:
    claims = {"sub": sub, "name": name, "exp": int(time.time() + 600), "rooms": {"*": rights}}
    return Visitor(opened, server, "team", token=jwt.encode(claims, SECRET, algorithm="HS256"))


@pytest.mark.parametrize("old", [unpacked, imported])
def test_guests_own_their_messages_and_reactions(tmp_path: Path, old: Any) -> None:
    """A session has one user under all its names, and another session of the same name has none of
    that user's messages."""
    with serving(old(tmp_path)) as (opened, server):
        first = guest(opened, server, "lobby", "Anna", "alice-first")
        second = guest(opened, server, "lobby", "Alice", "alice-second")
        bob = guest(opened, server, "lobby", "Bob", "bob")
        messages = {each["offset"]: each for each in bob.joined["messages"]}
        assert {offset: each["user"] for offset, each in messages.items()} == {
            **dict.fromkeys((1, 2, 3, 14), first.joined["user"]),
            11: bob.joined["user"],
            12: second.joined["user"],
        }
        assert messages[1]["reactions"] == {
            "👋": [
                {"user": bob.joined["user"], "username": "Bob"},
                {"user": second.joined["user"], "username": "Alice"},
                {"user": first.joined["user"], "username": "Alicia"},
            ]
        }
        assert second.ask(type="edit", offset=1, text="Mine")["code"] == "forbidden"
        assert first.ask(type="edit", offset=1, text="Mine")["type"] == "edit"


def test_ids_belong_to_users(tmp_path: Path) -> None:
    """A message is a repetition for its sender, under any name, and for nobody else."""
    directory = unpacked(tmp_path)
    with serving(directory) as (opened, server):
        first = guest(opened, server, "lobby", "Anna", "alice-first")
        again = guest(opened, server, "lobby", "Anna", "alice-first")
        second = guest(opened, server, "lobby", "Alice", "alice-second")
        assert first.ask(text="new", id="mine")["offset"] == 16
        assert again.receive()["offset"] == 16
        assert again.ask(text="new", id="mine") == {
            "type": "ack", "room": "lobby", "id": "mine", "offset": 16
        }  # fmt: skip
        assert second.receive()["offset"] == 16
        assert second.ask(text="another", id="mine")["offset"] == 17


def test_holders_of_tokens_own_their_messages(tmp_path: Path) -> None:
    """Their id is the subject, or a digest of an address; a removal of before is in force."""
    key = tmp_path / "key"
    key.write_text(SECRET, "ascii")
    flags = ("--auth", "jwt", "--jwt-key-file", str(key))
    with serving(unpacked(tmp_path / "data"), *flags) as (opened, server):
        mia = holder(opened, server, "7", "Mia M.", "read", "write", "moderate")
        messages = {each["offset"]: each for each in mia.joined["messages"]}
        assert mia.joined["user"] == messages[2]["user"] == "u_7"
        tom = messages[3]["user"]
        assert tom.startswith("u_~")
        assert messages[2]["reactions"] == {"👍": [{"user": tom, "username": "Tom"}]}
        removed = holder(opened, server, "user@example.org", "Tom", "read", "write")
        assert removed.joined["code"] == "forbidden"
        assert removed.joined["retry_after_ms"] > 0


def test_shared_file_is_still_there(tmp_path: Path) -> None:
    """The link in the message works, and the file counts against the quota of its sender."""
    quota = ("--max-user-file-bytes", "4096", "--max-file-bytes", "4096")
    with serving(unpacked(tmp_path), *quota) as (opened, server):
        bob = guest(opened, server, "lobby", "Bob", "bob")
        eve = guest(opened, server, "lobby", "Eve", "nobody-before")
        announcement = {"type": "upload", "name": "a", "size": 100}
        assert eve.ask(**announcement)["type"] == "upload"
        assert bob.ask(**announcement)["code"] == "forbidden"
