"""`fastchat serve` as a process: its clients, its files, its log, its memory and its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastchat
from fastchat.process.signals import REPEAT_S
from support.raw_websocket import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Client,
    connected,
    frame,
    request,
    text,
    wired,
)
from support.server import START_TIMEOUT_S, TIMEOUT_UNIT_S, Server, running_server, wait_until

#: The bytes by which the resident memory of an idle server varies by itself.
NOISE_BYTES = 1_500_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server("--data", str(tmp_path)) as server:
        yield server


@pytest.fixture
def unlimited_server(tmp_path: Path) -> Iterator[Server]:
    with running_server("--data", str(tmp_path), "--limits", "off") as server:
        yield server


def has_logged(server: Server, words: str) -> bool:
    """Return whether a running server has logged these words since the last call."""
    assert server.process.stderr is not None
    logged = b""
    while select.select([server.process.stderr], [], [], 0)[0]:
        if not (part := os.read(server.process.stderr.fileno(), 65536)):
            break
        logged += part
    return words in logged.decode()


def warmed_up(server: Server) -> int:
    """Return the resident bytes once every code path has run."""
    with connected(server.port, "/ws?username=Warm&room=warm") as client:
        client.receive_type("joined")
        client.send({"text": "x" * 4000})
        client.receive_type("message")
        client.send_close()
        client.receive_close()
    return server.resident_bytes()


# A minimal client


def test_minimal_client_chats(server: Server) -> None:
    """A client that uses `/ws?username=Alice` and `{"text":"Hello"}` and nothing else can chat."""
    with connected(server.port, "/ws?username=Alice") as alice:
        assert alice.receive_type("joined")["room"] == "lobby"
        alice.send('{"text":"Hello"}')
        message = alice.receive_type("message")
        assert (message["username"], message["text"]) == ("Alice", "Hello")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["timestamp"])
        with connected(server.port, "/ws?username=Bob") as bob:
            assert alice.receive_type("join")["text"] == "Bob joined the chat"
            users = bob.receive_type("joined")["users"]
            assert [user["username"] for user in users] == ["Alice", "Bob"]
        assert alice.receive_type("leave")["text"] == "Bob left the chat"


def test_history_is_sent_to_a_newcomer(unlimited_server: Server) -> None:
    """A newcomer gets the earlier messages, even if all users have left in between."""
    server = unlimited_server
    with connected(server.port, "/ws?username=Alice") as alice:
        for number in range(60):
            alice.send({"text": str(number)})
            alice.receive_type("message")
    with connected(server.port, "/ws?username=Bob") as bob:
        reply = bob.receive_type("joined")
    assert [message["text"] for message in reply["messages"]] == [str(n) for n in range(10, 60)]
    query = f"/ws?username=Eve&epoch={reply['epoch']}&offset=58"
    with connected(server.port, query) as eve:
        reply = eve.receive_type("joined")
    assert reply["recovered"]
    assert [message["offset"] for message in reply["messages"]] == [59, 60]


@pytest.mark.parametrize(("history", "most"), [("memory", 9), ("sqlite", 10)])
def test_history_setting_limits_the_stored_messages(
    history: str, most: int, tmp_path: Path
) -> None:
    """At most `--history-max-messages` messages are stored."""
    settings = ("--history", history, "--data", str(tmp_path), "--history-max-messages", "8")
    with (
        running_server(*settings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        for number in range(30):
            alice.send({"text": str(number)})
            alice.receive_type("message")
        alice.send({"type": "history", "limit": 300})
        assert 8 <= len(alice.receive_type("history")["messages"]) <= most


# The history


def test_killed_server_loses_no_message(tmp_path: Path) -> None:
    """After kill -9 a new server continues with the same messages, epoch and offsets."""
    settings = ("--data", str(tmp_path))
    with (
        running_server(*settings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        first = alice.receive_type("joined")
        for number in range(1, 11):
            alice.send({"text": str(number), "id": f"i{number}"})
            alice.receive_type("message")
        alice.send({"type": "edit", "offset": 9, "text": "nine"})
        alice.receive_type("edit")
        alice.send({"type": "delete", "offset": 1})
        alice.receive_type("delete")
        alice.send({"type": "react", "offset": 10, "emoji": "👋"})
        alice.receive_type("react")
        alice.send({"type": "history"})
        kept = alice.receive_type("history")["messages"]
        server.kill()
    with running_server(*settings) as server, connected(server.port) as alice:
        reply = alice.join(username="Alice", session=first["session"])
        assert (reply["epoch"], reply["offset"]) == (first["epoch"], 13)
        assert reply["messages"] == kept
        assert [message["text"] for message in kept][-2:] == ["nine", "10"]
        alice.send({"text": "11"})
        assert alice.receive_type("message")["offset"] == 14
        alice.send({"type": "edit", "offset": 10, "text": "ten"})
        assert alice.receive_type("edit")["target"] == 10
        alice.send({"type": "search", "query": "nine"})
        assert [each["offset"] for each in alice.receive_type("results")["messages"]] == [9]


def test_client_recovers_after_a_kill(tmp_path: Path) -> None:
    """A client that rejoins with its position and session gets exactly the messages that it has not
    seen."""
    settings = ("--data", str(tmp_path))
    with (
        running_server(*settings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
        connected(server.port, "/ws?username=Bob") as bob,
    ):
        first = alice.receive_type("joined")
        for number in range(1, 6):
            bob.send({"text": str(number)})
            bob.receive_type("message")
        bob.send({"type": "edit", "offset": 2, "text": "two"})
        bob.receive_type("edit")
        server.kill()
    since = {"epoch": first["epoch"], "offset": 3}
    with running_server(*settings) as server, connected(server.port) as alice:
        reply = alice.join(username="Alice", session=first["session"], since=since, history=0)
        assert reply["recovered"] is True
        assert reply["session"] == first["session"]
        events = [(each["type"], each["offset"], each["text"]) for each in reply["messages"]]
        assert events == [("message", 4, "4"), ("message", 5, "5"), ("edit", 6, "two")]


def test_message_sent_again_after_a_kill_is_stored_once(tmp_path: Path) -> None:
    """A message that is sent again, because its sender had no reply, is acknowledged and not stored
    twice."""
    settings = ("--data", str(tmp_path))
    with (
        running_server(*settings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
        connected(server.port, "/ws?username=Bob") as bob,
    ):
        session = alice.receive_type("joined")["session"]
        bob.receive_type("joined")
        alice.send({"text": "other"})
        alice.send({"text": "once", "id": "i"})
        while bob.receive_type("message")["text"] != "once":
            pass
        server.kill()
    with running_server(*settings) as server, connected(server.port) as alice:
        alice.join(username="Alice", session=session)
        alice.send({"text": "once", "id": "i"})
        alice.send({"text": "next", "id": "j"})
        assert alice.receive() == {"type": "ack", "id": "i", "room": "lobby", "offset": 2}
        assert alice.receive_type("message")["offset"] == 3


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty directory, where a test starts servers."""
    monkeypatch.setenv("PYTHONPATH", str(Path(fastchat.__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_history_in_memory_starts_a_new_epoch(empty_directory: Path) -> None:
    """`--history memory` writes no file, and a restart starts a new epoch."""
    epochs = []
    for _ in range(2):
        with (
            running_server("--history", "memory") as server,
            connected(server.port, "/ws?username=Alice") as alice,
        ):
            epochs.append(alice.receive_type("joined")["epoch"])
            alice.send({"text": "lost"})
            assert alice.receive_type("message")["offset"] == 1
    assert epochs[0] != epochs[1]
    assert list(empty_directory.iterdir()) == []


def printed(*arguments: str) -> list[str]:
    """Return the lines that a server has printed by its end."""
    command = [sys.executable, "-m", "fastchat", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline()]
            process.terminate()
            lines += process.stdout.readlines()
            assert process.wait(10 * TIMEOUT_UNIT_S) == 0
        finally:
            process.kill()
    return lines


def test_place_of_the_history_is_printed(empty_directory: Path) -> None:
    """The server prints its directory, by default `fastchat-data` in the current one, and nothing
    for a history in memory."""
    assert printed()[1:] == [f"messages are kept in {empty_directory / 'fastchat-data'}\n"]
    assert (empty_directory / "fastchat-data" / "history.db").is_file()
    assert printed("--data", "here")[1:] == [f"messages are kept in {empty_directory / 'here'}\n"]
    assert len(printed("--history", "memory")) == 1


def test_second_server_on_the_same_data_is_refused(server: Server, tmp_path: Path) -> None:
    """A second server names the setting and the fix, with exit status 2, and the first
    continues."""
    line = complaint(serve("serve", "--port", "0", "--data", str(tmp_path)))
    assert f"--data {tmp_path}" in line
    assert "another" in line
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.send({"text": "still here"})
        assert alice.receive_type("message")["offset"] == 1


def test_unusable_data_directory_is_refused(tmp_path: Path) -> None:
    """A directory that cannot be created, and a file that is not a history, give one sentence."""
    file = tmp_path / "file"
    file.write_text("hello")
    assert "--data" in complaint(serve("serve", "--port", "0", "--data", str(file)))
    (tmp_path / "history.db").write_text("this is no database, but a text" * 100)
    assert "--data" in complaint(serve("serve", "--port", "0", "--data", str(tmp_path)))


def test_dropped_client_that_returns_is_not_announced(server: Server) -> None:
    """A client that returns with its session within 5 s causes no leave; a client that does not
    return causes one."""
    with (
        connected(server.port, "/ws?username=Bob") as bob,
        connected(server.port) as alice,
        connected(server.port) as eve,
        connected(server.port) as again,
    ):
        bob.receive_type("joined")
        session = alice.join(username="Alice")["session"]
        eve.join(username="Eve")
        assert [bob.receive()["username"] for _ in range(2)] == ["Alice", "Eve"]
        alice.reset()
        eve.reset()
        assert again.join(username="Alice", session=session)["online"] == 3
        event = bob.receive()
        assert (event["type"], event["username"], event["online"]) == ("leave", "Eve", 2)
        again.send({"text": "I was never away"})
        assert bob.receive()["text"] == "I was never away"


# The environment


def test_variables_of_a_kubernetes_service_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server starts, and says in one line of the log which variable it has ignored."""
    monkeypatch.setenv("FASTCHAT_ADMIN_PORT", "tcp://10.0.0.1:9100")
    monkeypatch.setenv("FASTCHAT_PORT", "tcp://10.0.0.1:8080")  # a flag of `running_server` wins
    monkeypatch.setenv("FASTCHAT_SERVICE_HOST", "10.0.0.1")
    with running_server("--data", str(tmp_path), "--workers", "2") as server:
        assert server.stop() == 0
    (line,) = [line for line in server.errors.splitlines() if "ignored" in line]
    assert "WARNING fastchat: FASTCHAT_ADMIN_PORT is ignored, because it is the address" in line


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_server_sends_closing(server: Server, number: signal.Signals) -> None:
    """A stopping server sends `closing` and 1012, and ends with status 0 within 5 s."""
    with (
        connected(server.port, "/ws?username=Alice") as joined,
        connected(server.port) as silent,
        wired(server.port) as idle,
    ):
        idle.write(request("/nope"))
        idle.read_response()
        joined.receive_type("joined")
        started = time.monotonic()
        server.signal(number)
        for client in (joined, silent):
            closing = client.receive_type("closing")
            assert closing["code"] == 1012
            assert closing["reason"]
            assert 0 < closing["reconnect_after_ms"] <= 5000
            assert client.receive_end() == 1012
        assert idle.read_all() == b""
        assert server.wait() == 0
        assert time.monotonic() - started < 5 * TIMEOUT_UNIT_S


def test_stalled_clients_do_not_delay_the_end(unlimited_server: Server) -> None:
    """Clients that do not answer a close frame, do not read, or send half a request do not delay
    the end."""
    server = unlimited_server
    with contextlib.ExitStack() as stack:
        port = server.port
        silent = stack.enter_context(connected(port, "/ws?username=Silent"))
        stalled = stack.enter_context(connected(port, "/ws?username=Stalled", receive_buffer=4096))
        half = stack.enter_context(wired(port))
        half.write(b"GET / HTTP/1.1\r\n")
        unread = stack.enter_context(wired(port, receive_buffer=4096))
        unread.write(request("/static/app.css") * 30)
        post = stack.enter_context(wired(port))
        head = request("/", [("Host", "a"), ("Content-Length", "1000")], method="POST")
        post.write(head)
        writer = stack.enter_context(connected(port, "/ws?username=Writer"))
        writer.receive_type("joined")
        for _ in range(100):
            writer.send({"text": "x" * 4000})
            writer.receive_type("message")
        silent.receive_type("joined")
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - started < 5 * TIMEOUT_UNIT_S
        stalled.read_all()
    assert "Traceback" not in server.errors


def test_second_signal_ends_the_server_at_once(server: Server) -> None:
    """A second Ctrl+C ends the server without waiting for clients."""
    with connected(server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")
        server.signal(signal.SIGINT)
        client.receive_type("closing")
        time.sleep(2 * REPEAT_S)  # A signal that arrives sooner counts as the same one.
        server.signal(signal.SIGINT)
        # A server whose clients have all left ends with 0.
        assert server.process.wait(10 * TIMEOUT_UNIT_S) == 1
    assert "Traceback" not in server.process.communicate()[1]


def test_port_and_data_are_free_again_after_the_end(server: Server, tmp_path: Path) -> None:
    """A server can be started at once on the same port and data, whether or not the old one had
    connections."""
    with connected(server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")
        server.kill()
    with running_server("--data", str(tmp_path), port=server.port) as again:
        assert again.port == server.port


# The command line


def serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "fastchat", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=START_TIMEOUT_S,
        check=False,
    )


def complaint(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on standard error of a command that refuses its settings."""
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith("fastchat: ")
    assert line.endswith(".")
    return line


def test_taken_port_is_reported_in_one_sentence() -> None:
    """The sentence names the setting and the fix, with exit status 2 and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = complaint(serve("serve", "--port", port))
    assert f"--port {port}" in line
    assert "another port" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "http"], "--port"),
        (["--port", "70000"], "--port"),
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", ""], "--host"),
        (["--host", "x" * 300], "--host"),
        (["--host", "192.0.2.1"], "--host"),
        (["--log-level", "loud"], "--log-level"),
        (["--max-lag-seconds", "nan"], "--max-lag-seconds"),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ],
)
def test_invalid_flag_is_reported_in_one_sentence(arguments: list[str], named: str) -> None:
    """An invalid flag is named, with exit status 2 and no traceback."""
    assert named in complaint(serve("serve", "--port", "0", *arguments))


def test_invalid_variable_is_reported_in_one_sentence() -> None:
    """An invalid environment variable is reported like an invalid flag."""
    assert "FASTCHAT_PORT" in complaint(serve("serve", FASTCHAT_PORT="http"))


@pytest.mark.parametrize(
    "arguments", [["serve", "--prot", "1"], ["serve", "--port"], ["sreve"], [], ["serve", "x"]]
)
def test_unknown_flag_or_command_is_explained(arguments: list[str]) -> None:
    """The usage and the error are printed, with exit status 2 and no traceback."""
    finished = serve(*arguments)
    assert finished.returncode == 2
    assert "usage: fastchat" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_help_names_every_setting() -> None:
    """`fastchat serve --help` names every setting."""
    finished = serve("serve", "--help")
    assert finished.returncode == 0
    for flag in ("--host", "--port", "--max-lag-bytes", "--log-format", "--config"):
        assert flag in finished.stdout


# Memory


def test_idle_connection_costs_at_most_12_kb() -> None:
    """2,000 silent connections cost at most 12 KB each."""
    count = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    try:
        arguments = ("--history", "memory", "--max-address-connections", "0")
        arguments += ("--address-handshake-rate", "0", "--join-timeout", "0")
        with running_server(*arguments) as server, contextlib.ExitStack() as stack:
            before = warmed_up(server)
            clients = []
            for number in range(count):
                # The rooms have ten members, so that the events of a join stay small.
                query = f"/ws?username=u{number}&room=r{number // 10}"
                clients.append(stack.enter_context(connected(server.port, query)))
            for client in clients:
                client.receive_type("joined")
            each = (server.resident_bytes() - before) / count
            assert each < 12_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stalled_reader_is_evicted_and_costs_little_memory() -> None:
    """A stalled reader costs at most 1.5 MB, however much is published, and the others notice
    nothing."""
    # The history stores almost nothing, so that the memory measured is the reader's.
    arguments = ("--history", "memory", "--history-max-messages", "1", "--limits", "off")
    with running_server(*arguments) as server:
        before = warmed_up(server)
        with (
            connected(server.port, "/ws?username=Stalled", receive_buffer=4096) as stalled,
            connected(server.port, "/ws?username=Writer") as writer,
            connected(server.port, "/ws?username=Reader") as reader,
        ):
            stalled.receive_type("joined")
            reader.receive_type("joined")
            most = 0
            for number in range(1, 1501):
                writer.send({"text": "x" * 3900})
                writer.receive_type("message")
                assert reader.receive_type("message")["offset"] == number
                most = max(most, server.resident_bytes() - before)
                if has_logged(server, "evicted 'Stalled'"):
                    break
            assert reader.receive_type("leave")["username"] == "Stalled"
            assert number > 100, "it was not let lag at all"
            assert most < 1_500_000
            with contextlib.suppress(EOFError):
                assert stalled.receive_close() == 4008


def test_stopped_client_is_evicted() -> None:
    """A client process under SIGSTOP, whose kernel still acknowledges packets, is evicted, too."""
    with (
        running_server("--history", "memory", "--max-lag-bytes", "65536") as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        program = textwrap.dedent(f"""
            from support.raw_websocket import Client
            client = Client({server.port}, "/ws?username=Stopped", receive_buffer=4096)
            while True:
                client.receive()
        """)
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.DEVNULL,
        )
        try:
            alice.receive_type("join")
            process.send_signal(signal.SIGSTOP)
            for _ in range(2000):
                alice.send({"text": "x" * 4000})
                alice.receive_type("message")
                if has_logged(server, "evicted 'Stopped'"):
                    break
            assert alice.receive_type("leave")["username"] == "Stopped"
        finally:
            process.kill()
            process.wait()
        assert server.stop() == 0


def flood(server: Server, data: bytes, *, reading: bool) -> None:
    """Send the data until the server ends the connection."""
    with connected(server.port, "/ws?username=Flood", receive_buffer=4096) as client:
        with contextlib.suppress(OSError):
            client.write(data)
        if reading:
            with contextlib.suppress(OSError, EOFError):
                client.receive_close()


FLOODS = {
    "pings": frame(PING, b"x" * 125) * 50_000,
    "empty fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 500_000,
    "large fragments": frame(TEXT, b" " * 60_000, fin=False) * 100,
    "frame announced": frame(TEXT, b"x" * 4_000_000, announced=1 << 40),
    "errors": text("[") * 200_000,
    "binary": frame(BINARY, b"x" * 60_000) * 100,
    "nested lists": text("[" * 65_000) * 50,
    "many keys": text("{" + ",".join(f'"k{i}":1' for i in range(5000)) + "}") * 50,
}


def test_floods_leak_no_memory(server: Server) -> None:
    """Floods of pings, fragments, frames, errors and bombs, read or not, leave no memory behind."""
    before = warmed_up(server)
    grown = []
    with connected(server.port, "/ws?username=Bystander&room=b") as bystander:
        bystander.receive_type("joined")
        for _ in range(3):
            for name, data in FLOODS.items():
                for reading in (False, True):
                    flood(server, data, reading=reading)
                    bystander.send({"type": "ping", "ref": name})
                    assert bystander.receive_type("pong")["ref"] == name
            grown.append(server.resident_bytes() - before)
    assert grown[-1] < 10_000_000, "what parsing needs once, at most"
    # The allocator retains the memory that two connections needed at once; a leak grows with each
    # round.
    assert min(grown[1] - grown[0], grown[2] - grown[1]) < NOISE_BYTES
    assert server.stop() == 0
    assert "Traceback" not in server.errors


def test_joined_and_left_rooms_leak_no_memory(unlimited_server: Server) -> None:
    """Ten thousand rooms with one client each leave no memory behind."""
    server = unlimited_server
    with connected(server.port, "/ws?username=Alice&room=home") as client:
        client.receive_type("joined")

        def visit(first: int, last: int) -> None:
            for start in range(first, last, 100):
                rooms = [f"r{number}" for number in range(start, start + 100)]
                client.write(b"".join(text({"type": "join", "room": room}) for room in rooms))
                for _ in rooms:
                    client.receive_type("joined")
                client.write(b"".join(text({"type": "leave", "room": room}) for room in rooms))
                for _ in rooms:
                    client.receive_type("left")

        visit(0, 1000)
        before = server.resident_bytes()
        visit(1000, 10_000)
        assert server.resident_bytes() - before < NOISE_BYTES


# The log


@pytest.mark.parametrize("format", ["text", "json"])
def test_log_escapes_the_bytes_of_clients(format: str) -> None:
    """Each event is one line; names, texts and addresses can neither forge a line nor control a
    terminal."""
    hostile = 'x\n{"level":"fatal"}\x1b[2J\u202e'
    settings = ("--history", "memory", "--log-format", format, "--log-level", "debug")
    with running_server(*settings) as server:
        with connected(server.port) as client:
            for _ in range(60):
                with contextlib.suppress(OSError):
                    client.send({"type": hostile, "text": hostile, "username": hostile})
            client.receive_close()
        with connected(server.port, "/ws?username=%22%3Cb%3E%5Cn%0A") as client:
            client.send_frame(TEXT, hostile.encode() + b"\xff")
            client.receive_close()
        for line in (b"GET /\x1b[2J HTTP/1.1\r\n\r\n", b"\x16\x03\x01\n\x1b[2J", b"\x00" * 100):
            with wired(server.port) as wire:
                wire.write(line)
                wire.read_all()
        with wired(server.port) as wire:
            wire.write(request("/%1b%0aFAKE?token=secret", [("Host", "a")]))
            wire.read_response()
        assert server.stop() == 0
    assert "\x1b" not in server.errors
    assert "\u202e" not in server.errors
    assert "fatal" not in server.errors
    assert "secret" not in server.errors
    lines = server.errors.splitlines()
    assert 3 < len(lines) < 20
    for line in lines:
        if format == "json":
            assert json.loads(line)["level"] in ("debug", "info", "warning", "error")
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT\S+Z (DEBUG|INFO|WARNING|ERROR) +[\w.]+: ", line)


def test_ten_thousand_bad_handshakes_log_little(server: Server) -> None:
    """Bad handshakes log less than 100 bytes each, and do not delay other clients."""
    count = 1000
    for number in range(count):
        with wired(server.port) as wire:
            wire.write(b"nonsense\r\n\r\n" if number % 2 else request("/ws", [("Upgrade", "x")]))
            wire.read_until(b"\r\n\r\n")
    with connected(server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")
    assert server.stop() == 0
    assert len(server.errors) < 100 * count


def test_three_tabs_of_one_user_are_one_user(server: Server) -> None:
    """Three connections of one session are announced and counted as one user."""
    clients: list[Client] = []
    with connected(server.port, "/ws?username=Bob") as bob, contextlib.ExitStack() as stack:
        bob.receive_type("joined")
        session = None
        for _ in range(3):
            client = stack.enter_context(connected(server.port))
            extra = {"session": session} if session else {}
            session = client.join(username="Alice", **extra)["session"]
            clients.append(client)
        assert bob.receive()["type"] == "join"
        for client in clients:
            client.close()
        assert bob.receive()["type"] == "leave"
        bob.send({"type": "ping"})
        assert bob.receive()["type"] == "pong"


def test_name_is_free_once_its_connection_is_gone(server: Server) -> None:
    """A name can be used again as soon as the server knows that its connection has ended."""
    with connected(server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")

    def is_free() -> bool:
        with connected(server.port, "/ws?username=Alice") as client:
            return client.receive()["type"] == "joined"

    wait_until(is_free)
