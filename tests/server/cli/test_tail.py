"""`fastchat tail` as a process, connected to real servers and to scripted ones."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from fastchat.auth.issuing import create_secret, make_token
from fastchat.cli.tail import Address, Refused, parse_address
from support.server import TIMEOUT_UNIT_S, Server, running_server

PATIENCE_S = 15 * TIMEOUT_UNIT_S
NAME_TAKEN = "A user in this room has this name, or one that looks like it. Choose another name."


class Tail:
    """`fastchat tail` as a child process, whose output is read as it arrives."""

    def __init__(
        self, url: str, *arguments: str, stdin: int = subprocess.PIPE, token: str = ""
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastchat", "tail", url, *arguments],
            env={**os.environ, "FASTCHAT_TOKEN": token},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._queues: dict[Any, queue.Queue[str]] = {}
        self._threads = []
        for stream in (self.process.stdout, self.process.stderr):
            lines = self._queues[stream] = queue.Queue()
            reader = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            reader.start()
            self._threads.append(reader)

    def _read(self, stream: Any, lines: queue.Queue[str]) -> None:
        for line in stream:
            lines.put(line)

    def await_line(self, part: str) -> str:
        """Return the next line of standard output that contains `part`."""
        return self._await(self.process.stdout, part)

    def await_notice(self, part: str) -> str:
        return self._await(self.process.stderr, part)

    def _await(self, stream: Any, part: str) -> str:
        while True:
            line = self._queues[stream].get(timeout=PATIENCE_S)
            if part in line:
                return line

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """End its input, wait for its end, and return the status and the unread output."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join()
        rest = ["".join(lines.queue) for lines in (self._queues[each] for each in self._streams())]
        return status, rest[0], rest[1]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        for stream in self._streams():
            stream.close()

    def _streams(self) -> tuple[Any, Any]:
        return self.process.stdout, self.process.stderr


@contextlib.contextmanager
def tailing(
    url: str, *arguments: str, stdin: int = subprocess.PIPE, token: str = ""
) -> Iterator[Tail]:
    tail = Tail(url, *arguments, stdin=stdin, token=token)
    with contextlib.closing(tail):
        yield tail


def history(server: Server) -> list[tuple[str, str]]:
    """Return the authors and texts of the lobby's messages."""
    with connect(f"ws://127.0.0.1:{server.port}/ws?username=reader&history=300") as reader:
        joined = json.loads(reader.recv(timeout=PATIENCE_S))
        return [(each["username"], each["text"]) for each in joined["messages"]]


@contextlib.contextmanager
def scripted_server(
    handler: Callable[[ServerConnection], None], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run a WebSocket server that does what `handler` does, and yield its address."""

    def handle(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            handler(connection)

    with serve(handle, "127.0.0.1", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            scheme = "ws" if context is None else "wss"
            yield f"{scheme}://localhost:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def receive(connection: ServerConnection) -> dict[str, Any]:
    command: dict[str, Any] = json.loads(connection.recv(timeout=PATIENCE_S))
    return command


def welcome(connection: ServerConnection, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Answer a `join`, and return that command."""
    join = receive(connection)
    reply = {"type": "joined", "room": "lobby", "username": join["username"], "ref": "join"}
    reply |= {"session": "s" * 16, "epoch": "E", "offset": 0, "recovered": False}
    connection.send(json.dumps({**reply, "messages": messages, **more}))
    return join


def message(offset: int, text: str, **more: Any) -> dict[str, Any]:
    fields = {"type": "message", "room": "lobby", "offset": offset, "username": "Eve"}
    return {**fields, "text": text, "timestamp": "2025-01-18T10:30:00.123Z", **more}


# With a real server


def test_lines_of_a_pipe_are_sent_in_order(tmp_path: Path) -> None:
    """Every line except empty ones is a message, and tail ends when all are confirmed."""
    lines = [f"line {number}" for number in range(200)]
    with (
        running_server("--data", str(tmp_path), "--limits", "off") as server,
        tailing(server.url, "--username", "Pipe") as tail,
    ):
        tail.type("\n".join(lines) + "\n\nthe last has no end")
        status, out, err = tail.end()
        assert (status, err) == (0, "")
        assert history(server) == [("Pipe", text) for text in [*lines, "the last has no end"]]
    assert [line.split(" ", 1)[1] for line in out.splitlines()[-2:]] == [
        "Pipe: line 199",
        "Pipe: the last has no end",
    ]


def test_pipe_obeys_the_rate_limit(tmp_path: Path) -> None:
    """A server with a rate limit gets all lines, in order."""
    lines = [f"line {number}" for number in range(20)]
    limits = ("--message-rate", "20", "--message-burst", "3")
    with (
        running_server("--data", str(tmp_path), *limits) as server,
        tailing(server.url, "--username", "Pipe") as tail,
    ):
        tail.type("\n".join(lines) + "\n")
        status, _, _ = tail.end()
        assert status == 0
        assert history(server) == [("Pipe", text) for text in lines]


def test_standard_input_can_be_a_file(tmp_path: Path) -> None:
    """The lines of a file are sent like those of a pipe."""
    file = tmp_path / "lines"
    file.write_text("one\ntwo\n", "utf-8")
    with (
        running_server("--history", "memory") as server,
        file.open() as stdin,
        tailing(server.url, "--username", "File", stdin=stdin.fileno()) as tail,
    ):
        assert tail.end()[0] == 0
        assert history(server) == [("File", "one"), ("File", "two")]


def test_history_is_printed_before_events() -> None:
    """The newest messages are printed, then joins and leaves, messages and changes, a line each."""
    with running_server("--history", "memory") as server:
        url = f"ws://127.0.0.1:{server.port}/ws?username=Alice"
        with connect(url) as alice:
            for text in ("first", "second"):
                alice.send(json.dumps({"text": text}))
            with tailing(server.url, "--history", "1", stdin=subprocess.DEVNULL) as tail:
                assert " Alice: second\n" in tail.await_line("Alice")
                with connect(url.replace("Alice", "Bob")) as bob:
                    tail.await_line(" Bob joined the chat")
                    bob.send('{"type":"leave"}')
                    tail.await_line(" Bob left the chat")
                alice.send('{"text":"two\\n12:00:00 Bob: lines"}')
                assert tail.await_line("Alice").endswith(" Alice: two\n")
                assert tail.await_line("Bob") == "         12:00:00 Bob: lines\n"
                alice.send('{"type":"edit","offset":3,"text":"third"}')
                tail.await_line(" Alice (edited): third")
                alice.send('{"type":"react","offset":3,"emoji":"👋"}')
                tail.await_line(" Alice reacted with 👋")
                alice.send('{"type":"delete","offset":3}')
                tail.await_line(" Alice deleted a message")


def test_address_of_a_room_on_the_page_is_joined() -> None:
    """`tail` follows the room that the address in the browser names, or the room of a flag."""
    with running_server("--history", "memory") as server:
        page = f"http://127.0.0.1:{server.port}/#ops/42"
        for arguments, room in (((), "ops"), (("--room", "lobby"), "lobby")):
            with (
                connect(f"ws://127.0.0.1:{server.port}/ws?username=Alice&room={room}") as alice,
                tailing(page, *arguments, stdin=subprocess.DEVNULL) as tail,
            ):
                alice.send(json.dumps({"text": f"in {room}"}))
                assert tail.await_line(f"Alice: in {room}")


def test_json_prints_events_as_received() -> None:
    """`--json` prints the server's events unchanged, a line each."""
    with (
        running_server("--history", "memory") as server,
        tailing(server.url, "--json", "--room", "r", "--username", "Me") as tail,
    ):
        tail.type("hello\n")
        sent = json.loads(tail.await_line("hello"))
        assert (sent["type"], sent["room"], sent["offset"], sent["username"]) == (
            "message", "r", 1, "Me"
        )  # fmt: skip
        with connect(f"ws://127.0.0.1:{server.port}/ws?username=Bob&room=r"):
            assert json.loads(tail.await_line("join"))["username"] == "Bob"


def test_messages_survive_a_killed_server_once(tmp_path: Path) -> None:
    """Tail reconnects by itself, recovers missed messages, and sends the lines that were typed
    meanwhile."""
    arguments = ("--data", str(tmp_path))
    with running_server(*arguments) as server, tailing(server.url, "--username", "Me") as tail:
        tail.type("before\n")
        tail.await_line("Me: before")
        server.kill()
        tail.await_notice("trying again")
        tail.type("meanwhile\n")
        with running_server(*arguments, port=server.port) as again:
            tail.await_line("Me: meanwhile")
            tail.type("after\n")
            status, out, err = tail.end()
            assert status == 0
            assert "missing" not in err
            assert "Me: after" in out
            assert "before" not in out
            assert history(again) == [("Me", text) for text in ("before", "meanwhile", "after")]


def test_interrupt_leaves_the_room() -> None:
    """Ctrl+C ends tail with status 0, and the others see the leave at once."""
    with (
        running_server("--history", "memory") as server,
        connect(f"ws://127.0.0.1:{server.port}/ws?username=Alice") as alice,
        tailing(server.url, "--username", "Me") as tail,
    ):
        while json.loads(alice.recv(timeout=PATIENCE_S))["type"] != "join":
            pass
        tail.process.send_signal(signal.SIGINT)
        assert tail.process.wait(PATIENCE_S) == 0
        # Without the `leave` command it would be announced after 5 s.
        assert json.loads(alice.recv(timeout=4 * TIMEOUT_UNIT_S))["type"] == "leave"
        assert tail.end() == (0, "", "")


def test_taken_name_ends_tail() -> None:
    """A chosen name that is taken ends tail with a sentence and status 1."""
    with (
        running_server("--history", "memory") as server,
        connect(f"ws://127.0.0.1:{server.port}/ws?username=Alice") as alice,
    ):
        alice.recv(timeout=PATIENCE_S)
        with tailing(server.url, "--username", "alice") as tail:
            status, out, err = tail.end()
    assert (status, out) == (1, "")
    assert err == f"fastchat: {NAME_TAKEN}\n"


def test_line_that_is_too_long_is_reported(tmp_path: Path) -> None:
    """A line that is too long is not sent; the rest is, and the status is 1."""
    with (
        running_server("--data", str(tmp_path)) as server,
        tailing(server.url, "--username", "Me") as tail,
    ):
        tail.type("x" * 4001 + "\n" + "y" * 200_000 + "\nfine\n")
        status, _, err = tail.end()
        assert status == 1
        assert "a line was not sent: The message has 4,001 characters" in err
        assert ("Me", "fine") in history(server)


def test_terminal_sends_lines_and_dims_joins() -> None:
    """On a terminal typed lines are sent, and joins are dimmed."""
    with (
        running_server("--history", "memory") as server,
        connect(f"ws://127.0.0.1:{server.port}/ws?username=Alice") as alice,
    ):
        terminal, its_end = pty.openpty()
        command = [sys.executable, "-m", "fastchat", "tail", server.url, "--username", "Me"]
        environment = {**os.environ, "TERM": "xterm"}
        environment.pop("NO_COLOR", None)
        with subprocess.Popen(
            command, stdin=its_end, stdout=its_end, stderr=its_end, env=environment
        ) as tail:
            os.close(its_end)
            try:
                seen = b""
                os.write(terminal, b"hi\n")
                while b"Me: hi" not in seen:
                    seen += os.read(terminal, 1000)
                with connect(f"ws://127.0.0.1:{server.port}/ws?username=Bob"):
                    while b"Bob joined the chat\x1b[22m" not in seen:
                        seen += os.read(terminal, 1000)
                assert b"\x1b[2m" in seen
                os.write(terminal, b"\x04")  # Ctrl+D.
                assert tail.wait(PATIENCE_S) == 0
            finally:
                tail.kill()
                os.close(terminal)
        alice.close()


def test_closed_output_ends_tail_without_an_error() -> None:
    """If the reader of the output ends, tail ends at the next line without an error."""
    with (
        running_server("--history", "memory") as server,
        connect(f"ws://127.0.0.1:{server.port}/ws?username=Alice") as alice,
    ):
        command = [sys.executable, "-m", "fastchat", "tail", server.url]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as tail:
            assert tail.stdout is not None
            assert tail.stderr is not None
            while json.loads(alice.recv(timeout=PATIENCE_S))["type"] != "join":
                pass
            tail.stdout.close()
            alice.send('{"text":"hello"}')
            assert tail.wait(PATIENCE_S) == 0
            assert tail.stderr.read() == b""


# With a scripted server


def test_controls_never_reach_the_terminal() -> None:
    """Escapes, C1, bidirectional and line controls are printed visibly, in JSON, too."""
    evil = "\x1b\x9b\x07\u202e\u2028\x7f"

    def handler(connection: ServerConnection) -> None:
        welcome(connection, message(1, evil, username="E" + evil), offset=1)
        error = {"type": "error", "code": "x", "message": evil, "temporary": False}
        connection.send(json.dumps(error))
        connection.send(json.dumps(message(2, "done")))
        connection.recv()

    with scripted_server(handler) as url:
        for arguments in ([], ["--json"]):
            with tailing(url, *arguments) as tail:
                shown = tail.await_line("E\\") + tail.await_line("done")
                notice = tail.await_notice("\\x1b")
                assert not set(shown + notice) & set(evil)
        assert json.loads(shown.splitlines()[0])["text"] == evil


def test_unconfirmed_line_is_sent_again_under_its_id() -> None:
    """An unconfirmed line is sent again under its id, an `ack` confirms it, and no message is
    doubled."""
    seen: list[dict[str, Any]] = []

    def handler(connection: ServerConnection) -> None:
        seen.append(welcome(connection, offset=5))
        seen.append(receive(connection))
        if len(seen) == 2:
            closing = {"type": "closing", "code": 1012, "reason": "", "reconnect_after_ms": 1}
            connection.send(json.dumps(closing))
            connection.close(1012)
            return
        connection.send(json.dumps({"type": "ack", "id": seen[3]["id"], "room": "lobby"}))
        connection.recv()

    with scripted_server(handler) as url, tailing(url) as tail:
        tail.type("once\n")
        assert tail.end()[0] == 0
    first, sent, second, again = seen
    assert sent == again
    assert (first["history"], first.get("since"), first.get("session")) == (50, None, None)
    assert second["since"] == {"epoch": "E", "offset": 5, "timestamp": None}
    assert second["session"] == "s" * 16


def test_hole_is_recovered_and_duplicates_are_dropped() -> None:
    """After a missing offset tail joins again with its position, and prints no message twice."""

    def handler(connection: ServerConnection) -> None:
        if first:
            first.pop()
            welcome(connection, message(1, "one"), offset=1)
            connection.send(json.dumps(message(1, "one")))
            connection.send(json.dumps(message(3, "three")))
        else:
            missed = [message(2, "two"), message(3, "three")]
            welcome(connection, *missed, offset=3, recovered=True)
        connection.recv()

    first = [True]
    with scripted_server(handler) as url, tailing(url, "--json", stdin=subprocess.DEVNULL) as tail:
        assert [json.loads(tail.await_line("{"))["text"] for _ in range(3)] == [
            "one", "two", "three"
        ]  # fmt: skip


def test_unrecoverable_messages_are_reported_as_missing() -> None:
    """After `recovered: false` tail prints a notice and the new messages only."""

    def handler(connection: ServerConnection) -> None:
        if first:
            first.pop()
            welcome(connection, message(1, "one"), offset=1)
            connection.close(4008)
            return
        welcome(connection, message(1, "one"), message(400, "late"), offset=400)
        connection.recv()

    first = [True]
    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        tail.await_line("one")
        assert "one" not in tail.await_line("Eve")
        tail.await_notice("some messages may be missing")


def test_new_messages_at_old_offsets_are_printed() -> None:
    """If an older copy of the history was put back, an offset can belong to another message."""
    later = "2025-01-18T11:00:00.000Z"
    positions: list[dict[str, Any]] = []

    def handler(connection: ServerConnection) -> None:
        if not positions:
            stamp = message(2, "two")["timestamp"]
            old = [message(1, "one"), message(2, "two")]
            positions.append(welcome(connection, *old, offset=2, timestamp=stamp))
            connection.send(json.dumps(message(3, "lost", timestamp="2025-01-18T10:40:00.000Z")))
            connection.close(4008)
            return
        new = [message(1, "one"), message(2, "new", timestamp=later)]
        positions.append(welcome(connection, *new, offset=2, timestamp=later)["since"])
        connection.recv()

    with scripted_server(handler) as url, tailing(url, "--json", stdin=subprocess.DEVNULL) as tail:
        assert [json.loads(tail.await_line("{"))["text"] for _ in range(4)] == [
            "one", "two", "lost", "new"
        ]  # fmt: skip
    assert positions[1] == {"epoch": "E", "offset": 3, "timestamp": "2025-01-18T10:40:00.000Z"}


def test_line_is_resent_after_a_temporary_error() -> None:
    """After a temporary error the same line is sent again, and a permanent one gives status 1."""
    seen: list[dict[str, Any]] = []

    def handler(connection: ServerConnection) -> None:
        welcome(connection)
        for temporary in (True, False):
            seen.append(receive(connection))
            error = {"type": "error", "code": "rate_limited", "message": "No.", "id": seen[0]["id"]}
            connection.send(json.dumps({**error, "temporary": temporary, "retry_after_ms": 1}))
        connection.recv()

    with scripted_server(handler) as url, tailing(url) as tail:
        tail.type("hello\n")
        status, _, err = tail.end()
    assert (status, err) == (1, "fastchat: a line was not sent: No.\n")
    assert seen[0] == seen[1]


# Files

TAKES_FILES = {"max_bytes": 200_000}


@contextlib.contextmanager
def terminal_and_tail(url: str) -> Iterator[tuple[Tail, int]]:
    """Run tail in a terminal, and yield it and the other end of the terminal."""
    terminal, its_end = pty.openpty()
    try:
        with tailing(url, stdin=its_end) as tail:
            os.close(its_end)
            yield tail, terminal
    finally:
        os.close(terminal)


def take_file(connection: ServerConnection, chunk_bytes: int) -> tuple[dict[str, Any], list[Any]]:
    """Accept an `upload` and its binary messages, and return both; then they are a file."""
    upload = receive(connection)
    grant = {"type": "upload", "room": "lobby", "ticket": "t", "url": "/files"}
    connection.send(json.dumps({**grant, "chunk_bytes": chunk_bytes, "ref": upload["ref"]}))
    pieces: list[Any] = []
    while sum(map(len, pieces)) < upload["size"]:
        pieces.append(connection.recv(timeout=PATIENCE_S))
    return upload, pieces


def test_share_command_sends_a_file_and_its_link(tmp_path: Path) -> None:
    """`/share FILE` sends the file in pieces of the size that the server names, then its link."""
    seen: list[Any] = []

    def handler(connection: ServerConnection) -> None:
        welcome(connection, files=TAKES_FILES)
        seen.extend(take_file(connection, 64_000))
        file = {"type": "file", "link": "/files/id/cat.png?size=150000", "ref": seen[0]["ref"]}
        connection.send(json.dumps(file))
        sent = receive(connection)
        connection.send(json.dumps(message(1, sent["text"], id=sent["id"])))
        connection.recv()

    content = os.urandom(150_000)
    (tmp_path / "my cat.png").write_bytes(content)
    with scripted_server(handler) as url, terminal_and_tail(url) as (tail, terminal):
        os.write(terminal, f"/share {tmp_path}/my cat.png\n".encode())
        tail.await_line("Eve: /files/id/cat.png?size=150000")
        os.write(terminal, b"\x04")  # Ctrl+D.
        assert tail.end()[0] == 0
    upload, pieces = seen
    assert (upload["type"], upload["name"], upload["size"]) == ("upload", "my cat.png", 150_000)
    assert [len(piece) for piece in pieces] == [64_000, 64_000, 22_000]
    assert b"".join(pieces) == content


def test_file_is_sent_again_after_a_reconnect(tmp_path: Path) -> None:
    """After a lost connection the file is sent again from its start."""
    seen: list[Any] = []

    def handler(connection: ServerConnection) -> None:
        welcome(connection, files=TAKES_FILES)
        seen.append(take_file(connection, 50))
        if len(seen) == 1:
            closing = {"type": "closing", "code": 1012, "reason": "", "reconnect_after_ms": 1}
            connection.send(json.dumps(closing))
            connection.close(1012)
            return
        file = {"type": "file", "link": "/files/id/a?size=100", "ref": seen[1][0]["ref"]}
        connection.send(json.dumps(file))
        seen.append(receive(connection))
        connection.send(json.dumps({"type": "ack", "id": seen[2]["id"], "room": "lobby"}))
        connection.recv()

    (tmp_path / "a").write_bytes(b"a" * 100)
    with scripted_server(handler) as url, terminal_and_tail(url) as (tail, terminal):
        os.write(terminal, f"/share {tmp_path}/a\n\x04".encode())
        assert tail.end()[0] == 0
    first, second, said = seen
    assert first == second
    assert said["text"] == "/files/id/a?size=100"


@pytest.mark.parametrize(
    ("file", "why", "takes"),
    [
        ("missing", "No such file or directory", TAKES_FILES),
        (".", "it is not a regular file", TAKES_FILES),
        ("big", "the server accepts files of at most 200,000 bytes", TAKES_FILES),
        ("empty", "whole number from 1", TAKES_FILES),
        ("big", "the server accepts no files", None),
    ],
)
def test_unreadable_file_is_reported(
    tmp_path: Path, file: str, why: str, takes: dict[str, int] | None
) -> None:
    """A file that cannot be shared is reported like an unsent line, nothing reaches the server, and
    the status is 1."""
    said: list[Any] = []

    def handler(connection: ServerConnection) -> None:
        welcome(connection, **({} if takes is None else {"files": takes}))
        said.extend(connection)

    (tmp_path / "big").write_bytes(bytes(200_001))
    (tmp_path / "empty").touch()
    with scripted_server(handler) as url, terminal_and_tail(url) as (tail, terminal):
        os.write(terminal, f"/share {tmp_path}/{file}\n".encode())
        assert "a line was not sent: " in tail.await_notice(why)
        os.write(terminal, b"\x04")
        assert tail.end()[0] == 1
    assert [json.loads(each)["type"] for each in said] == ["leave"]


def test_file_that_the_server_refuses_is_reported(tmp_path: Path) -> None:
    """Tail prints the server's sentence, and sends no link."""

    def handler(connection: ServerConnection) -> None:
        welcome(connection, files=TAKES_FILES)
        error = {"type": "error", "code": "forbidden", "message": "Too many files.", "ref": "r"}
        ref = receive(connection)["ref"]
        connection.send(json.dumps({**error, "temporary": False, "ref": ref}))
        assert receive(connection)["type"] == "leave"

    (tmp_path / "a").write_bytes(b"a")
    with scripted_server(handler) as url, terminal_and_tail(url) as (tail, terminal):
        os.write(terminal, f"/share {tmp_path}/a\n".encode())
        tail.await_notice("a line was not sent: Too many files.")
        os.write(terminal, b"\x04")
        assert tail.end()[0] == 1


def test_share_command_in_a_pipe_is_text(tmp_path: Path) -> None:
    """A pipe can hold lines of other authors, which must not choose a file of the user who pipes
    them."""
    (tmp_path / "secret").write_bytes(b"secret")
    line = f"/share {tmp_path}/secret"
    with running_server("--history", "memory") as server, tailing(server.url) as tail:
        tail.type(line + "\n")
        tail.await_line(line)
        assert tail.end()[0] == 0


@pytest.mark.parametrize("code", [1002, 1009, 4501, 4503, 4504, 4999])
def test_final_close_code_ends_tail(code: int) -> None:
    """A close code that forbids a reconnect gives one sentence and status 1."""

    def handler(connection: ServerConnection) -> None:
        receive(connection)
        connection.close(code, "go away")

    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        expected = f"fastchat: The server closed the connection: go away ({code}).\n"
        assert tail.end() == (1, "", expected)


@pytest.mark.parametrize("code", [1001, 1011, 1013, 4008, 4010, 4499])
def test_other_close_codes_reconnect(code: int) -> None:
    """After any other close code, including an unknown one, tail reconnects by itself."""

    def handler(connection: ServerConnection) -> None:
        if first:
            first.pop()
            receive(connection)
            connection.close(code)
            return
        welcome(connection, message(1, "back"), offset=1)
        connection.recv()

    first = [True]
    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        tail.await_line("back")


def test_generated_name_that_is_taken_is_replaced() -> None:
    """Without `--username` tail generates another name."""
    names: list[str] = []

    def handler(connection: ServerConnection) -> None:
        names.append(receive(connection)["username"])
        error = {"type": "error", "code": "username_taken", "message": "", "temporary": True}
        connection.send(json.dumps({**error, "ref": "join"}))
        names.append(welcome(connection, message(1, "in"), offset=1)["username"])
        connection.recv()

    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        tail.await_line("in")
    assert all(name.startswith("tail-") for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize("payload", ["[]", "{}", "x", '{"type":"joined"}', '{"type":"message"}'])
def test_server_of_another_protocol_is_refused(payload: str) -> None:
    """If the server speaks another protocol, tail ends with a sentence."""

    def handler(connection: ServerConnection) -> None:
        welcome(connection)
        connection.send(payload)
        connection.recv()

    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        expected = "fastchat: The server does not speak fastchat's protocol.\n"
        assert tail.end() == (1, "", expected)


def test_tls_needs_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wss` works with a certificate that the system trusts, and not without."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def handler(connection: ServerConnection) -> None:
        welcome(connection, message(1, "secret"), offset=1)
        connection.recv()

    with scripted_server(handler, context) as url:
        with tailing(url, stdin=subprocess.DEVNULL) as tail:
            status, _, err = tail.end()
            assert status == 1
            assert "the certificate is not valid" in err
        certificates = tmp_path / "authority.pem"
        authority.cert_pem.write_to_path(certificates)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
        with tailing(url.replace("wss", "https"), stdin=subprocess.DEVNULL) as tail:
            tail.await_line("secret")


# With tokens


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "secret"
    create_secret(file)
    return file


@pytest.fixture(scope="module")
def server_with_tokens(key: Path) -> Iterator[Server]:
    """A server that asks for tokens."""
    with running_server(
        "--history", "memory", "--auth", "jwt", "--jwt-key-file", str(key)
    ) as server:
        yield server


def token_of(key: Path, name: str, *, lasts_s: int = 600, **more: Any) -> str:
    return make_token(key, subject=f"u-{name}", name=name, duration_s=lasts_s, **more)


def test_token_joins_under_its_name(server_with_tokens: Server, key: Path, tmp_path: Path) -> None:
    """The token is read from a file or else from the environment, and shows in no process list."""
    file = tmp_path / "token"
    file.write_text(token_of(key, "Alice") + "\n")
    rooms = ["--room", "names"]
    with (
        tailing(
            server_with_tokens.url, *rooms, "--token-file", str(file), token="no token"
        ) as alice,
        tailing(server_with_tokens.url, *rooms, token=token_of(key, "Bob")) as bob,
    ):
        alice.type("hello\n")
        bob.await_line("Alice: hello")
        bob.type("hi\n")
        alice.await_line("Bob: hi")
        shown = Path(f"/proc/{alice.process.pid}/cmdline").read_text()
        assert file.read_text().strip() not in shown
        assert alice.end() == (0, "", "")
        assert bob.end()[0] == 0


def test_missing_token_is_reported_with_the_flag(server_with_tokens: Server) -> None:
    """The sentence names the flag and the variable."""
    with tailing(server_with_tokens.url, stdin=subprocess.DEVNULL) as tail:
        assert tail.end() == (
            1,
            "",
            "fastchat: The server requires a token: "
            "give --token-file FILE or set FASTCHAT_TOKEN.\n",
        )  # fmt: skip


def test_refused_token_ends_tail(server_with_tokens: Server) -> None:
    """A refused token gives the server's sentence and status 1."""
    with tailing(server_with_tokens.url, stdin=subprocess.DEVNULL, token="a.b.c") as tail:
        assert tail.end() == (1, "", "fastchat: The token is not valid. Get a new one.\n")


def test_forbidden_room_ends_tail(server_with_tokens: Server, key: Path) -> None:
    """A room that the token does not allow gives the server's sentence and status 1."""
    token = token_of(key, "Alice", rooms={"other": ["read"]})
    with tailing(server_with_tokens.url, stdin=subprocess.DEVNULL, token=token) as tail:
        assert tail.end() == (1, "", "fastchat: You are not allowed to do this in this room.\n")


def test_expired_token_is_read_again(server_with_tokens: Server, key: Path, tmp_path: Path) -> None:
    """After expiry tail continues with a new token from the file and misses no message, and ends
    without one."""
    file, old_file = tmp_path / "token", tmp_path / "old"
    rooms = ["--room", "expiry"]
    began = time.monotonic()
    with tailing(server_with_tokens.url, *rooms, token=token_of(key, "Bob")) as bob:
        bob.type("begin\n")
        bob.await_line("Bob: begin")
        # Two more processes have to start before the tokens expire, so slow machines get more time.
        lasts_s = 4 + int(3 * (time.monotonic() - began))
        for each in (file, old_file):
            each.write_text(token_of(key, "Alice", lasts_s=lasts_s))
        carols = token_of(key, "Carol", lasts_s=lasts_s)
        with (
            tailing(server_with_tokens.url, *rooms, "--token-file", str(file)) as alice,
            tailing(server_with_tokens.url, *rooms, token=carols) as carol,
        ):
            alice.await_line("Bob: begin")
            carol.await_line("Bob: begin")
            file.write_text(token_of(key, "Alice"))
            assert carol.await_notice("expired") == "fastchat: The token has expired.\n"
            assert carol.process.wait(PATIENCE_S) == 1
            alice.await_notice("the token has expired (4011); trying again")
            bob.type("still there?\n")
            alice.await_line("Bob: still there?")
            alice.type("yes\n")
            bob.await_line("Alice: yes")
    with tailing(server_with_tokens.url, "--token-file", str(old_file)) as late:
        sentence = f"fastchat: The token has expired, and {old_file} still holds the same token.\n"
        assert late.end() == (1, "", sentence)


@pytest.mark.parametrize("content", [None, b"", b"two words", "tökèn".encode(), b"x" * 8193])
def test_file_without_a_token_is_an_invalid_setting(tmp_path: Path, content: bytes | None) -> None:
    """A file without a token gives one sentence and status 2, before any connection."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with tailing("ws://127.0.0.1:1", "--token-file", str(file), stdin=subprocess.DEVNULL) as tail:
        status, out, err = tail.end()
    what = "cannot be read" if content is None else "holds no token"
    assert (status, out) == (2, "")
    assert err.startswith(f"fastchat: --token-file {file} {what}")
    assert err.count("\n") == 1


def test_taken_name_of_a_token_gets_a_number(server_with_tokens: Server, key: Path) -> None:
    """Another user with a token of the same name is in the room under a name with a number."""
    rooms = ["--room", "taken"]
    with tailing(server_with_tokens.url, *rooms, token=token_of(key, "Alice")) as alice:
        alice.type("here\n")
        alice.await_line("Alice: here")
        other = make_token(key, subject="u-other", name="Alice", duration_s=600)
        with tailing(server_with_tokens.url, *rooms, token=other) as tail:
            tail.await_line("Alice: here")
            tail.type("me too\n")
            alice.await_line("Alice (2): me too")


@pytest.mark.parametrize(("code", "retries"), [("rate_limited", True), ("forbidden", False)])
def test_join_is_retried_unless_the_user_was_removed(code: str, retries: bool) -> None:
    """A join is tried again after the time that the server names, and a removal ends tail."""

    def handler(connection: ServerConnection) -> None:
        receive(connection)
        error = {
            "type": "error",
            "ref": "join",
            "code": code,
            "message": "Wait.",
            "temporary": True,
        }
        connection.send(json.dumps({**error, "retry_after_ms": 7200}))
        connection.recv()

    with scripted_server(handler) as url, tailing(url, stdin=subprocess.DEVNULL) as tail:
        if retries:
            assert tail.await_notice("Wait") == "fastchat: Wait; trying again in 7.2 s\n"
        else:
            assert tail.end() == (1, "", "fastchat: Wait.\n")


# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ws://host:8080", "ws://host:8080/ws"),
        ("ws://host:8080/", "ws://host:8080/ws"),
        ("http://host", "ws://host/ws"),
        ("https://host/chat/ws", "wss://host/chat/ws"),
        ("https://host/chat/", "wss://host/chat/ws"),
        ("wss://[::1]:1", "wss://[::1]:1/ws"),
    ],
)
def test_address_of_a_page_becomes_that_of_its_websocket(address: str, expected: str) -> None:
    """The page's address gives the WebSocket's, and an explicit path stays."""
    assert parse_address(address) == Address(expected, None)


@pytest.mark.parametrize(
    ("fragment", "room"),
    [
        ("#ops", "ops"),
        ("#Ops", "ops"),
        ("#ops/42", "ops"),
        ("#a%2Db", "a-b"),
        ("#Кухня/42", "кухня"),
        ("#%D0%9A%D1%83%D1%85%D0%BD%D1%8F", "кухня"),
        ("#42", "42"),
        ("#", None),
        ("#/42", None),
    ],
)
def test_address_of_a_room_names_the_room(fragment: str, room: str | None) -> None:
    """What the browser shows as the address of a room, or of a message in it, names the room."""
    assert parse_address(f"http://host:8080/{fragment}") == Address("ws://host:8080/ws", room)
    assert parse_address(f"wss://host{fragment}") == Address("wss://host/ws", room)
    assert parse_address(f"https://host/chat/{fragment}") == Address("wss://host/chat/ws", room)


@pytest.mark.parametrize(
    "address",
    [
        "", "host", "host:80", "ftp://host", "ws://", "ws://:80", "ws://host:port", "ws://[::1",
        "ws://host:99999", "ws://host/ws?username=x", "ws://user:secret@host", "ws://host/\n",
        "http://host/#a b", "http://host/#%00", "http://host/#a/b", "http://host/#lobby/42/43",
    ],
)  # fmt: skip
def test_invalid_address_is_refused(address: str) -> None:
    """An invalid address gives a sentence, without an attempt to connect."""
    with pytest.raises(Refused):
        parse_address(address)


def test_address_without_a_chat_ends_tail() -> None:
    """A wrong path, a server without TLS, or an unknown host gives one sentence and status 1."""
    with running_server("--history", "memory") as server:
        addresses = [f"{server.url}/nothing", f"wss://127.0.0.1:{server.port}", "ws://x.invalid"]
        for address in addresses:
            with tailing(address, stdin=subprocess.DEVNULL) as tail:
                status, out, err = tail.end()
            assert (status, out) == (1, "")
            assert err.startswith("fastchat: No chat server answers at ws")
            assert err.count("\n") == 1
