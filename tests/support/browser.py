"""Chromium, users without a browser, and a server that a test scripts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.server import TIMEOUT_UNIT_S, Server, wait_until

#: How long Playwright waits for an expectation, in milliseconds. The page waits 5 s before it shows
#: that it is offline, and up to 15 s before it reconnects.
TIMEOUT_MS = 20_000 * TIMEOUT_UNIT_S

#: The type of the fixture `visit`, which opens the page as a new user and returns it.
Visit = Callable[..., Any]

#: The executables to look for. The shell without windows comes first, because tests take two thirds
#: of the time with it.
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
    """Return the arguments to launch the system's Chromium, without a sandbox for root."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    return {"executable_path": CHROMIUM, "args": [*ARGUMENTS, *sandbox]}


#: JavaScript that makes a page reconnect at once, instead of after a pause of up to 15 s. It
#: returns true when this text is in the log and no message is pending. Poll it, because an attempt
#: can fail.
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
    """Open the dialog for another name, and submit a name if one is given."""
    page.click("#preferences-open")
    page.click("#change-name")
    if name is not None:
        page.fill("#name-input", name)
        page.press("#name-input", "Enter")


def wait_for_sent(page: Any, holds: Callable[[], Any]) -> None:
    """Wait until this holds of what the page has sent to the test. Playwright delivers it only
    during calls to the page, hence the empty `evaluate`."""
    wait_until(lambda: holds() or page.evaluate("() => 0"), timeout_s=20 * TIMEOUT_UNIT_S)


def stop_clock(page: Any) -> None:
    """Stop the page's clock, which then advances by `clock.run_for` only, however slow the machine
    is.

    The stopped clock also stops animation frames. Call `clock.install` before the page starts the
    timers of the test.
    """
    # Playwright cannot stop the clock in the past, and the clock runs until it is stopped.
    page.clock.pause_at(page.evaluate("() => Date.now()") / 1000 + 5)


def text_in(page: Any, text: str) -> Any:
    return page.locator(".message__text", has_text=text)


@contextlib.contextmanager
def joined_user(
    room: str, name: str, server: Server, *, session: str | None = None
) -> Iterator[SocketUser]:
    """Join a room as another user for the length of a `with` block. With a `session`, the user
    returns as an earlier one."""
    # The test does not read what this user receives, and a full queue would block the closing.
    with connect(f"ws://127.0.0.1:{server.port}/ws", max_queue=None) as socket:
        join = {"type": "join", "room": room, "username": name, "session": session}
        socket.send(json.dumps(join))
        reply = json.loads(socket.recv(timeout=20 * TIMEOUT_UNIT_S))
        assert reply["type"] == "joined", reply
        yield SocketUser(socket)


class SocketUser:
    """A user without a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def do(self, **command: Any) -> None:
        self._socket.send(json.dumps(command))

    def say(self, *texts: str) -> None:
        for text in texts:
            self.do(text=text)

    def receive_until(self, offset: int) -> None:
        """Return when this publication has arrived, which means that it is stored."""
        while json.loads(self._socket.recv(timeout=20 * TIMEOUT_UNIT_S)).get("offset") != offset:
            pass


class ConnectionSwitch:
    """Connects the pages of a context to the real server, or refuses them."""

    def __init__(self, context: Any) -> None:
        self._open = True
        self._sockets: list[Any] = []
        context.route_web_socket("**/ws", self._connect)

    def disconnect(self) -> None:
        self._open = False
        for socket in self._sockets:
            socket.close(code=1001, reason="")
        self._sockets.clear()

    def reconnect(self) -> None:
        self._open = True

    def _connect(self, socket: Any) -> None:
        if not self._open:
            socket.close(code=1001, reason="")
            return
        socket.connect_to_server()
        self._sockets.append(socket)


class ScriptedServer:
    """Replaces the server, in the page's own network layer.

    It records the commands, answers joins, and sends what a test makes it send. `rooms` holds the
    rooms that differ from the others: each with its own `epoch`, `offset`, `timestamp`, `missed`,
    `refusal`, `user`, `username`, `users`, `online`, `rights`, or `silent`, which leaves a join
    without an answer. A user is a guest whose id follows from the name, unless a test gives another
    one.
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
            self._send_history(command)

    def _send_history(self, command: dict[str, Any]) -> None:
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
        """Answer a join with success."""
        room = self.rooms.get(command["room"], {})
        epoch = room.get("epoch", self.epoch)
        since = command.get("since") or {}
        username = room.get("username", command.get("username"))
        self.say(
            type="joined",
            ref=command["ref"],
            room=command["room"],
            user=room.get("user", user_of(username)),
            username=username,
            session="s" * 16,
            epoch=epoch,
            offset=room.get("offset", self.offset),
            timestamp=room.get("timestamp"),
            recovered=since.get("epoch") == epoch,
            messages=room.get("missed", self.missed),
            users=room.get("users", people(username, "Zoe")),
            online=room.get("online", 2),
            spectators=0,
            rights=room.get("rights", ["read", "write"]),
            files=self.files,
        )


def user_of(username: str) -> str:
    return f"g_{username}"


def people(*usernames: str) -> list[dict[str, str]]:
    """Return users as a list in an event has them."""
    return [{"user": user_of(username), "username": username} for username in usernames]


def publication(
    text: str, *, offset: int, room: str, username: str = "Zoe", **fields: Any
) -> dict[str, Any]:
    timestamp = "2025-01-18T10:30:00.123Z"
    return {
        "type": "message",
        "room": room,
        "offset": offset,
        "user": user_of(username),
        "username": username,
        "text": text,
        "timestamp": timestamp,
        **fields,
    }
