"""Chromium, users without one, and a server that misbehaves as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.server import TIMEOUT_UNIT_S, Server, wait_until

#: How long Playwright waits for what a test expects: the page waits 5 s before it says that it is
#: offline, and up to 15 s before it tries again.
TIMEOUT_MS = 20_000 * TIMEOUT_UNIT_S

#: The fixture `visit`: opens the page as a new user, and returns it.
Visit = Callable[..., Any]

#: The one without windows takes two thirds of the time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch(playwright: Any) -> Any:
    return playwright.chromium.launch(**launch_options())


def launch_options() -> dict[str, Any]:
    """The system's Chromium; it has no sandbox for root."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    return {"executable_path": CHROMIUM, "args": [*ARGUMENTS, *sandbox]}


#: Has a page that has lost its server try now, instead of at the end of a pause of up to 15 s, and
#: again while that is in vain. True when this text is in its log, and nothing is on its way.
BACK_WITH = """(text) => {
  dispatchEvent(new Event("online"));
  const log = document.getElementById("log");
  return log.textContent.includes(text) && !log.querySelector(".message--pending");
}"""
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href='javascript:alert(1)'>x</a>",
    "javascript:alert(1)",
    "'\"><b onmouseover=alert(1)>",
    "</template><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<style>*{display:none}</style>",
    "<base href=//evil.example>",
    "<form action=//evil.example><input>",
    "<meta http-equiv=refresh content=0>",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202eevil\u2066",
]


def say(page: Any, text: str) -> None:
    page.fill("#composer", text)
    page.press("#composer", "Enter")


def change_name(page: Any, name: str | None = None) -> None:
    """Open the question for another name, and answer it if one is given."""
    page.click("#preferences-open")
    page.click("#change-name")
    if name is not None:
        page.fill("#name-input", name)
        page.press("#name-input", "Enter")


def attend(page: Any, holds: Callable[[], Any]) -> None:
    """Wait for what the page sends to the test, which hears of it only while it asks the page."""
    wait_until(lambda: holds() or page.evaluate("() => 0"), timeout_s=20 * TIMEOUT_UNIT_S)


def stop_clock(page: Any) -> None:
    """Let the page's time pass by `clock.run_for` only, however long the machine takes.

    Frames are made by that clock too. Call `clock.install` before the page begins to wait for what
    the test is about.
    """
    # The clock cannot be stopped in the past, and runs until it is stopped.
    page.clock.pause_at(page.evaluate("() => Date.now()") / 1000 + 5)


def text_in(page: Any, text: str) -> Any:
    return page.locator(".message__text", has_text=text)


@contextlib.contextmanager
def guest_in(
    room: str, name: str, server: Server, *, session: str | None = None
) -> Iterator[Guest]:
    """Another user for the length of a `with` block; with a `session`, one who was here before."""
    # Nobody reads what a guest receives, and a full queue would keep him from closing.
    with connect(f"ws://127.0.0.1:{server.port}/ws", max_queue=None) as socket:
        join = {"type": "join", "room": room, "username": name, "session": session}
        socket.send(json.dumps(join))
        reply = json.loads(socket.recv(timeout=20 * TIMEOUT_UNIT_S))
        assert reply["type"] == "joined", reply
        yield Guest(socket)


class Guest:
    """A user without a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def do(self, **command: Any) -> None:
        self._socket.send(json.dumps(command))

    def say(self, *texts: str) -> None:
        for text in texts:
            self.do(text=text)

    def see(self, offset: int) -> None:
        """Return when he has received this publication: then it is kept."""
        while json.loads(self._socket.recv(timeout=20 * TIMEOUT_UNIT_S)).get("offset") != offset:
            pass


class Gate:
    """Stands before the real server, and lets a context's pages through or not."""

    def __init__(self, context: Any) -> None:
        self._open = True
        self._sockets: list[Any] = []
        context.route_web_socket("**/ws", self._connect)

    def shut(self) -> None:
        self._open = False
        for socket in self._sockets:
            socket.close(code=1001, reason="")
        self._sockets.clear()

    def open(self) -> None:
        self._open = True

    def _connect(self, socket: Any) -> None:
        if not self._open:
            socket.close(code=1001, reason="")
            return
        socket.connect_to_server()
        self._sockets.append(socket)


class ScriptedServer:
    """Stands in for the server, in the page's own network layer.

    It records the commands, answers a join, and says what a test tells it to. In `rooms` are those
    that differ from the others: each with its own `epoch`, `offset`, `missed`, `refusal`, or
    `silent`, where a join gets no answer.
    """

    def __init__(self, *, epoch: str = "e1", offset: int = 0) -> None:
        self.epoch = epoch
        self.offset = offset
        self.commands: list[dict[str, Any]] = []
        self.connections = 0
        self.refusal: dict[str, Any] | None = None
        self.files: dict[str, Any] | None = None
        self.missed: list[dict[str, Any]] = []
        self.past: list[dict[str, Any]] = []
        self.rooms: dict[str, dict[str, Any]] = {}
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
        elif command["type"] == "history":
            self._tell_past(command)

    def _tell_past(self, command: dict[str, Any]) -> None:
        older = [each for each in self.past if each["offset"] < command["before"]]
        page = older[-command["limit"] :]
        more = len(page) < len(older)
        self.say(type="history", ref=command["ref"], room=command["room"], messages=page, more=more)

    def _join(self, command: dict[str, Any]) -> None:
        room = self.rooms.get(command["room"], {})
        refusal = room.get("refusal", self.refusal)
        if room.get("silent"):
            return
        if refusal is not None:
            self.say(type="error", ref=command["ref"], **refusal)
            return
        self.answer(command)

    def answer(self, command: dict[str, Any]) -> None:
        """Let somebody in who asked."""
        room = self.rooms.get(command["room"], {})
        epoch = room.get("epoch", self.epoch)
        since = command.get("since") or {}
        self.say(
            type="joined",
            ref=command["ref"],
            room=command["room"],
            username=command["username"],
            session="s" * 16,
            epoch=epoch,
            offset=room.get("offset", self.offset),
            recovered=since.get("epoch") == epoch,
            messages=room.get("missed", self.missed),
            users=[command["username"], "Zoe"],
            online=2,
            files=self.files,
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
