"""Chromium, and a server that misbehaves as a test tells it to."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch(playwright: Any) -> Any:
    """The system's Chromium; it has no sandbox for root."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *sandbox])


class ScriptedServer:
    """Stands in for the server, in the page's own network layer.

    It records the commands, answers a join, and says what a test tells it to.
    """

    def __init__(self, *, epoch: str = "e1", offset: int = 0) -> None:
        self.epoch = epoch
        self.offset = offset
        self.commands: list[dict[str, Any]] = []
        self.connections = 0
        self.refusal: dict[str, Any] | None = None
        self.missed: list[dict[str, Any]] = []
        self._socket: Any = None

    def connect(self, socket: Any) -> None:
        self.connections += 1
        self._socket = socket
        socket.on_message(self._received)

    def say(self, **event: Any) -> None:
        self._socket.send(json.dumps(event))

    def publish(
        self, text: str, *, offset: int, room: str, username: str = "Zoe", **fields: Any
    ) -> None:
        self.say(**publication(text, offset=offset, room=room, username=username, **fields))

    def close(self, code: int) -> None:
        self._socket.close(code=code, reason="")

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [command for command in self.commands if command["type"] == kind]

    def _received(self, frame: str) -> None:
        command = json.loads(frame)
        self.commands.append(command)
        if command["type"] == "join":
            self._join(command)

    def _join(self, command: dict[str, Any]) -> None:
        if self.refusal is not None:
            self.say(type="error", ref=command["ref"], **self.refusal)
            return
        since = command.get("since") or {}
        self.say(
            type="joined",
            ref=command["ref"],
            room=command["room"],
            username=command["username"],
            session="s" * 16,
            epoch=self.epoch,
            offset=self.offset,
            recovered=since.get("epoch") == self.epoch,
            messages=self.missed,
            users=[command["username"], "Zoe"],
            online=2,
        )


def publication(
    text: str, *, offset: int, room: str, username: str = "Zoe", **fields: Any
) -> dict[str, Any]:
    timestamp = "2025-01-18T10:30:00.123Z"
    return {
        "type": "message",
        "room": room,
        "offset": offset,
        "username": username,
        "text": text,
        "timestamp": timestamp,
        **fields,
    }
