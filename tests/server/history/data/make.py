"""Makes a data directory and its export, as the version of fastchat that runs this writes them.

    PYTHONPATH=tests .venv/bin/python tests/server/history/data/make.py NAME

This writes NAME.tar.gz (the data directory of a server that has stopped) and NAME.jsonl (its
export) beside this script. Run it before a change of the files' schema, so that tests can open
what the last schema has left. README.md describes the people, and what they have said.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
from websockets.sync.client import ClientConnection, connect

from support.server import Server, running_server

HERE = Path(__file__).parent
SECRET = "an-Elephant-never-forgets-32-bytes"
#: The end of the removal, in seconds since 1970: in force whenever a test opens the data.
REMOVED_UNTIL_S = 4_102_444_800.0
#: Files of a running server.
LOCAL = {"lock", "fastchat.sock"}
NOTES = b"The shared notes.\n"


class User:
    """A client in a room: a guest with a session, or a user with a token."""

    def __init__(self, server: Server, room: str, name: str, **join: Any) -> None:
        self.room, self.name = room, name
        address = server.url.replace("http", "ws") + "/ws"
        self.socket: ClientConnection = connect(address, legacy=True)
        self.socket.send(json.dumps({"type": "join", "room": room, "username": name, **join}))
        self.receive("joined")

    def receive(self, reply: str, name: str | None = None) -> dict[str, Any]:
        """Wait for a reply; with a `name`, for the publication of the user with this name."""
        while True:
            event: dict[str, Any] = json.loads(self.socket.recv(timeout=10))
            assert event["type"] != "error", event
            if event["type"] == reply and name in (None, event.get("username")):
                return event

    def ask(self, reply: str, **command: Any) -> dict[str, Any]:
        self.socket.send(json.dumps({"room": self.room, **command}))
        return self.receive(reply)

    def publish(self, **command: Any) -> None:
        kind = command.setdefault("type", "message")
        self.socket.send(json.dumps({"room": self.room, **command}))
        self.receive(kind, self.name)

    def share(self, name: str, content: bytes) -> str:
        self.ask("upload", type="upload", name=name, size=len(content), ref="file")
        self.socket.send(content)
        link: str = self.receive("file")["link"]
        return link

    def close(self) -> None:
        self.socket.close()


def guest(server: Server, room: str, name: str, session: str) -> closing[User]:
    return closing(User(server, room, name, session=f"the-session-of-{session}"))


def token_user(server: Server, sub: str, name: str, *rights: str) -> closing[User]:
    claims = {"sub": sub, "name": name, "exp": int(time.time() + 600), "rooms": {"*": rights}}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    return closing(User(server, "team", name, token=token))


def guests_talk(server: Server) -> None:
    with guest(server, "lobby", "Alice", "alice-first") as alice:
        alice.publish(text="Hello", id="1")
        alice.publish(text="A secret", id="2")
        alice.publish(text="Grüße 👋")
        alice.publish(type="edit", offset=1, text="Hello, everyone!")
        alice.publish(type="edit", offset=2, text="More of the secret")
        alice.publish(type="delete", offset=2)
        with guest(server, "lobby", "Bob", "bob") as bob:
            bob.publish(type="react", offset=1, emoji="👋")
            bob.publish(type="react", offset=1, emoji="🎉")
            alice.publish(type="react", offset=1, emoji="👋")
            bob.publish(type="react", offset=1, emoji="🎉", remove=True)
            bob.publish(text=f"The notes: {bob.share('notes.txt', NOTES)}", id="1")
        alice.ask("left", type="leave")  # so that another session can take the name
    with guest(server, "lobby", "Alice", "alice-second") as alice:
        alice.publish(text="I am another Alice", id="another")
        alice.publish(type="react", offset=1, emoji="👋")
        alice.ask("left", type="leave")
    with guest(server, "lobby", "Alicia", "alice-first") as alicia:
        alicia.publish(text="I was the first Alice", id="renamed")
        alicia.publish(type="react", offset=1, emoji="👋")
        alicia.ask("left", type="leave")
    with guest(server, "team", "Olga", "olga") as olga:
        olga.publish(text="Before there were tokens")


def token_users_talk(server: Server) -> None:
    with token_user(server, "7", "Mia", "read", "write", "moderate") as mia:
        mia.publish(text="Welcome", id="1")
        with token_user(server, "user@example.org", "Tom", "read", "write") as tom:
            tom.publish(text="Thanks", id="1")
            tom.publish(type="react", offset=2, emoji="👍")
            tom.publish(text="Buy this")
            mia.publish(type="delete", offset=5)
            mia.ask("removed", type="remove", username="Tom", seconds=600)
        mia.publish(type="edit", offset=2, text="Welcome, all")


def pack(data: Path, file: Path) -> None:
    """Pack the directory without what belongs to this machine and to the person who ran this."""
    with tarfile.open(file, "w:gz", compresslevel=9) as packed:
        for path in sorted(data.rglob("*")):
            if path.is_file() and path.name not in LOCAL:
                content = path.read_bytes()
                member = tarfile.TarInfo(str(path.relative_to(data)))
                member.size, member.mode, member.mtime = len(content), 0o600, 0
                packed.addfile(member, io.BytesIO(content))


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        data, key = Path(directory, "data"), Path(directory, "key")
        key.write_text(SECRET + "\n", "ascii")
        with running_server("--data", str(data)) as server:
            guests_talk(server)
            assert server.stop() == 0
        with running_server(
            "--data", str(data), "--auth", "jwt", "--jwt-key-file", str(key)
        ) as server:
            token_users_talk(server)
            assert server.stop() == 0
        removals = data / "removals.json"
        ((room, user, _),) = json.loads(removals.read_bytes())
        removals.write_text(json.dumps([[room, user, REMOVED_UNTIL_S]]), "utf-8")
        pack(data, HERE / f"{name}.tar.gz")
        export = [sys.executable, "-m", "fastchat", "export", "--data", str(data), "--output"]
        subprocess.run([*export, str(HERE / f"{name}.jsonl")], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
