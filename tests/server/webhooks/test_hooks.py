"""The hooks before publishing and before joining, of servers with clients."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from support.raw_websocket import Client, connected
from support.receiver import (
    SECRET,
    Answer,
    Receiver,
    Request,
    hang,
    receiving,
    reset,
    respond,
    written_config,
)
from support.server import TIMEOUT_UNIT_S, running_server, wait_until
from support.server_in_thread import Server, serving


def answering(body: Any, status: int = 200) -> Answer:
    return lambda request, connection: respond(status, body)


ALLOW = answering({"allow": True})


@contextlib.contextmanager
def asked(
    folder: Path,
    answer: Answer = ALLOW,
    hook: str = "before-publish",
    more: str = "",
    **settings: Any,
) -> Iterator[tuple[Server, Receiver]]:
    """A server with one hook, and the service that it asks."""
    with receiving(answer) as receiver:
        file = written_config(folder, f'[{hook}]\nurl = "{receiver.url}"\n{more}')
        with serving(config_file=file, **settings) as server:
            yield server, receiver


def refusal(client: Client) -> tuple[str, str]:
    event = client.receive_type("error")
    return event["code"], event["message"]


def test_hook_sees_a_message_before_it_is_published(tmp_path: Path) -> None:
    """The question has the action, the room, the user, the text and the message's id."""
    with asked(tmp_path) as (server, receiver), connected(server.port) as alice:
        user = alice.join(username="Alice")["user"]
        alice.send({"text": "Hello", "id": "m-1"})
        assert alice.receive_type("message")["text"] == "Hello"
    (question,) = receiver.bodies()
    assert question == {
        "action": "message",
        "room": "lobby",
        "user": {"user": user, "username": "Alice", "address": "127.0.0.1"},
        "text": "Hello",
        "id": "m-1",
    }


def test_hook_sees_edits_reactions_and_files_too(tmp_path: Path) -> None:
    """Other commands are not asked about: a deletion takes nothing but one's own words back."""
    settings = {"history": "sqlite", "data": str(tmp_path / "data")}
    with asked(tmp_path, **settings) as (server, receiver), connected(server.port) as alice:
        alice.join(username="Alice")
        alice.send({"text": "Helo"})
        alice.receive_type("message")
        alice.send({"type": "edit", "offset": 1, "text": "Hello"})
        alice.receive_type("edit")
        alice.send({"type": "react", "offset": 1, "emoji": "👍"})
        alice.receive_type("react")
        alice.send({"type": "upload", "name": "a.txt", "size": 3})
        alice.receive_type("upload")
        alice.send({"type": "delete", "offset": 1})
        alice.receive_type("delete")
    _, *questions = receiver.bodies()
    for question in questions:
        del question["room"], question["user"]
    assert questions == [
        {"action": "edit", "offset": 1, "text": "Hello"},
        {"action": "react", "offset": 1, "emoji": "👍", "remove": False},
        {"action": "file", "name": "a.txt", "size": 3},
    ]


def test_hook_changes_a_text(tmp_path: Path) -> None:
    """Everybody, the sender too, receives the text of the answer."""

    def hide(request: Request, connection: socket.socket) -> bytes:
        return respond(body={"allow": True, "text": request.json["text"].replace("555", "***")})

    with asked(tmp_path, hide) as (server, _), connected(server.port) as alice:
        alice.join(username="Alice")
        alice.send({"text": "Call 555"})
        assert alice.receive_type("message")["text"] == "Call ***"
        alice.send({"type": "edit", "offset": 1, "text": "555!"})
        assert alice.receive_type("edit")["text"] == "***!"


def test_hook_refuses_a_message(tmp_path: Path) -> None:
    """The sender gets the hook's sentence with the id of the message, and nobody the message."""
    no = answering({"allow": False, "message": "No phone numbers, please."})
    with asked(tmp_path, no) as (server, _), connected(server.port) as alice:
        alice.join(username="Alice")
        alice.send({"text": "555-1234", "id": "m-1", "ref": "r-1"})
        event = alice.receive_type("error")
        assert (event["code"], event["message"]) == ("forbidden", "No phone numbers, please.")
        assert (event["id"], event["ref"]) == ("m-1", "r-1")
        assert server.history.position("lobby").offset == 0


def test_hook_disconnects_a_user(tmp_path: Path) -> None:
    """All connections of the user to the room end, and they stay out for the given time."""
    out = answering({"disconnect": True, "seconds": 600})
    with asked(tmp_path, out) as (server, _), contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(connected(server.port)) for _ in range(2))
        session = first.join(username="Alice")["session"]
        second.join(username="Alice", session=session)
        first.send({"text": "spam"})
        for client in (first, second):
            assert client.receive_type("closing")["reconnect_after_ms"] == 600_000
            assert client.receive_close() == 4503
        with connected(server.port) as third:
            third.send({"type": "join", "username": "Alice", "session": session})
            assert refusal(third)[0] == "forbidden"
        assert server.history.position("lobby").offset == 0


def test_nobody_else_waits_for_a_hook(tmp_path: Path) -> None:
    """A sender's commands wait in order; others, and the sender's room, go on."""
    go = threading.Event()

    def slow(request: Request, connection: socket.socket) -> bytes:
        if request.json["text"] == "slow":
            assert go.wait(10 * TIMEOUT_UNIT_S)
        return respond(body={"allow": True})

    with (
        asked(tmp_path, slow, more="timeout-ms = 5000") as (server, receiver),
        connected(server.port) as alice,
        connected(server.port) as bob,
    ):
        alice.join(username="Alice")
        bob.join(username="Bob")
        alice.send({"text": "slow"})
        alice.send({"text": "next"})
        receiver.wait(1)
        for number in range(20):
            bob.send({"text": f"fast {number}"})
            assert bob.receive_type("message")["text"] == f"fast {number}"
        assert not any(body["text"] == "next" for body in receiver.bodies())
        go.set()
        assert bob.receive_type("message")["text"] == "slow"
        assert bob.receive_type("message")["text"] == "next"


def bytewise(request: Request, connection: socket.socket) -> None:
    """Answer one byte at a time, for longer than anybody waits."""
    for byte in respond(body={"allow": False}):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def endless(request: Request, connection: socket.socket) -> None:
    """Answer with a body that does not end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def headers_without_end(request: Request, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Header: " + b"x" * 1000 + b"\r\n")


def redirect(request: Request, connection: socket.socket) -> bytes:
    return respond(302, {"allow": False}, {"Location": "/elsewhere"})


def torn(request: Request, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    reset(connection)


FAULTS = {
    "hangs": hang,
    "bytewise": bytewise,
    "endless": endless,
    "headers": headers_without_end,
    "redirects": redirect,
    "torn": torn,
    "error": answering({"allow": False}, 500),
    "empty": answering(b""),
    "not JSON": answering(b"allow"),
    "not an object": answering([{"allow": False}]),
    "no verdict": answering({"text": "x"}),
    "wrong type": answering({"allow": "no"}),
    "too long": answering({"allow": True, "text": "x" * 4001}),
    "not HTTP": lambda request, connection: b"220 mail.example ESMTP\r\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_hook_allows_or_refuses(tmp_path: Path, fault: str) -> None:
    """Without a valid answer, the operator's `on-failure` decides, within the timeout."""
    for on_failure in ("allow", "refuse"):
        more = f'timeout-ms = 150\non-failure = "{on_failure}"'
        with (
            asked(tmp_path, FAULTS[fault], more=more) as (server, receiver),
            connected(server.port) as alice,
        ):
            alice.join(username="Alice")
            alice.send({"text": "Hello", "id": "m-1"})
            event = alice.receive()
            assert receiver.requests
            if on_failure == "allow":
                assert (event["type"], event["text"]) == ("message", "Hello")
            else:
                assert (event["code"], event["temporary"]) == ("unavailable", True)
                assert event["id"] == "m-1"
            assert server.metrics.before_publish["failed"] == 1
            assert {request.target for request in receiver.requests} == {"/events"}


def test_hook_that_keeps_failing_is_not_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After five failures nobody waits for it; one line says so, and one that it works again."""
    caplog.set_level(logging.INFO, "fastchat.webhooks")
    with asked(tmp_path, answering(b"", 500)) as (server, receiver):
        hook = server.hooks.before_publish
        assert hook is not None
        with connected(server.port) as alice:
            alice.join(username="Alice")
            for number in range(8):
                alice.send({"text": str(number)})
                alice.receive_type("message")
            assert len(receiver.requests) == 5
            assert server.hooks.gauges() == {"hooks_failing": {"before-publish": 1}}
            receiver.answer = answering({"allow": True})
            server.call(hook.breaker.retry_now)
            alice.send({"text": "again"})
            alice.receive_type("message")
            assert server.hooks.gauges() == {"hooks_failing": {"before-publish": 0}}
            assert dict(server.metrics.before_publish) == {"failed": 5, "skipped": 3, "allowed": 1}
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("before-publish")] == [
        "before-publish: the service has failed 5 times in a row (it answered with status 500); "
        "commands are allowed until it answers",
        "before-publish: the service answers again",
    ]


def test_connections_to_a_hook_are_kept(tmp_path: Path) -> None:
    """A client's questions use one connection."""
    with asked(tmp_path) as (server, receiver), connected(server.port) as alice:
        alice.join(username="Alice")
        for number in range(10):
            alice.send({"text": str(number)})
            alice.receive_type("message")
        assert (len(receiver.requests), receiver.connections) == (10, 1)


def test_kept_connection_that_was_closed_costs_no_answer(tmp_path: Path) -> None:
    """If the service has closed a kept connection, the question is asked over another one."""
    with asked(tmp_path, more='on-failure = "refuse"') as (server, receiver):
        closes = 3

        def answer(request: Request, connection: socket.socket) -> bytes | None:
            nonlocal closes
            if len(receiver.requests) > 1 and closes and connection in used:
                closes -= 1
                return None
            used.add(connection)
            return respond(body={"allow": True})

        used: set[socket.socket] = set()
        receiver.answer = answer
        with connected(server.port) as alice:
            alice.join(username="Alice")
            for number in range(4):
                alice.send({"text": str(number)})
                assert alice.receive()["type"] == "message"


def test_question_is_signed_if_there_is_a_secret(tmp_path: Path) -> None:
    """A service can verify that the server asks."""
    with (
        asked(tmp_path, more='secret-file = "{secret}"') as (server, receiver),
        connected(server.port) as alice,
    ):
        alice.join(username="Alice")
        alice.send({"text": "Hello"})
        alice.receive_type("message")
    (request,) = receiver.requests
    assert Webhook(SECRET).verify(request.body, request.headers)["text"] == "Hello"


# Joining


def test_hook_before_joining_sees_the_handshake(tmp_path: Path) -> None:
    """It gets `Cookie` and `Authorization`, which the page of the application has sent."""
    headers = {"Cookie": "sid=abc", "Authorization": "Basic eDp5"}
    with (
        asked(tmp_path, hook="before-join") as (server, receiver),
        connected(server.port, headers=headers) as alice,
    ):
        alice.join(username="Alice", room="kitchen")
    assert receiver.bodies() == [
        {
            "action": "join",
            "room": "kitchen",
            "user": {"user": None, "username": "Alice", "address": "127.0.0.1"},
            "cookie": "sid=abc",
            "authorization": "Basic eDp5",
        }
    ]


def test_cookie_is_not_used_if_every_page_can_connect(tmp_path: Path) -> None:
    """With `--allow-origin *`, any page could join in the name of somebody who visits it."""
    headers = {"Cookie": "sid=abc", "Authorization": "Basic eDp5", "Origin": "https://evil.example"}
    with (
        asked(tmp_path, hook="before-join", allow_origin=("*",)) as (server, receiver),
        connected(server.port, headers=headers) as alice,
    ):
        alice.join(username="Alice")
    (question,) = receiver.bodies()
    assert "cookie" not in question
    assert question["authorization"] == "Basic eDp5"


def test_session_of_an_application_needs_no_token(tmp_path: Path) -> None:
    """The hook says who the user is, and what they may do."""

    def log_in(request: Request, connection: socket.socket) -> bytes:
        if request.json.get("cookie") != "sid=abc":
            return respond(body={"allow": False, "message": "Log in first."})
        rights = ["read"] if request.json["room"] == "news" else ["read", "write", "moderate"]
        body = {"allow": True, "user": "17", "username": "Alice Smith", "rights": rights}
        return respond(body=body)

    with asked(tmp_path, log_in, "before-join") as (server, _):
        with connected(server.port) as stranger:
            stranger.send({"type": "join", "username": "Alice"})
            assert refusal(stranger) == ("forbidden", "Log in first.")
        with connected(server.port, headers={"Cookie": "sid=abc"}) as alice:
            joined = alice.join(username="Mallory")
            assert (joined["user"], joined["username"]) == ("u_17", "Alice Smith")
            assert sorted(joined["rights"]) == ["moderate", "read", "write"]
            assert alice.join(room="news")["rights"] == ["read"]
            alice.send({"text": "Hello", "room": "news"})
            assert refusal(alice)[0] == "forbidden"
            alice.send({"text": "Hello", "room": "lobby"})
            assert alice.receive_type("message")["user"] == "u_17"


def test_moderator_of_a_hook_removes_a_user(tmp_path: Path) -> None:
    """The rights of a hook are those of a token, also for a removal."""

    def roles(request: Request, connection: socket.socket) -> bytes:
        name = request.json["user"]["username"]
        rights = ["read", "write", *(["moderate"] if name == "Mod" else [])]
        return respond(body={"allow": True, "user": name, "username": name, "rights": rights})

    with (
        asked(tmp_path, roles, "before-join") as (server, _),
        connected(server.port) as moderator,
        connected(server.port) as bob,
    ):
        moderator.join(username="Mod")
        bob.join(username="Bob")
        bob.send({"type": "remove", "username": "Mod"})
        assert refusal(bob)[0] == "forbidden"
        moderator.send({"type": "remove", "username": "Bob"})
        assert moderator.receive_type("removed")["username"] == "Bob"
        assert bob.receive_close() == 4503


def test_guest_never_moderates(tmp_path: Path) -> None:
    """Rights without a user are those of a guest."""
    answer = answering({"allow": True, "rights": ["read", "moderate"]})
    with asked(tmp_path, answer, "before-join") as (server, _), connected(server.port) as alice:
        assert alice.join(username="Alice")["rights"] == ["read"]


def test_connection_belongs_to_one_user(tmp_path: Path) -> None:
    """If the hook names another user for a later room, the connection is closed."""

    def other(request: Request, connection: socket.socket) -> bytes:
        user = request.json["room"]
        return respond(body={"allow": True, "user": user, "username": user})

    with asked(tmp_path, other, "before-join") as (server, _), connected(server.port) as alice:
        assert alice.join(room="one")["user"] == "u_one"
        alice.send({"type": "join", "room": "two"})
        assert refusal(alice)[0] == "unauthorized"
        assert alice.receive_close() == 4501


def test_hook_before_joining_closes_a_connection(tmp_path: Path) -> None:
    """`disconnect` ends the connection, and says when to come back."""
    answer = answering({"disconnect": True, "seconds": 60})
    with asked(tmp_path, answer, "before-join") as (server, _), connected(server.port) as alice:
        alice.send({"type": "join", "username": "Alice"})
        assert alice.receive_type("error")["retry_after_ms"] == 60_000
        assert alice.receive_close() == 4503


def test_join_is_refused_if_the_hook_fails(tmp_path: Path) -> None:
    """By default nobody joins without the hook's word; the client can try again."""
    with (
        asked(tmp_path, answering(b"", 500), "before-join") as (server, _),
        connected(server.port) as alice,
    ):
        alice.send({"type": "join", "username": "Alice"})
        assert refusal(alice)[0] == "unavailable"


# The process


def test_headers_are_kept_for_a_hook_only_and_never_logged(tmp_path: Path) -> None:
    """A server without the hook forgets them; one with it logs neither them nor its address."""
    headers = {"Cookie": "sid=secret-cookie", "Authorization": "Bearer secret-bearer"}
    with receiving(answering(b"", 500)) as receiver:
        file = written_config(
            tmp_path, f'[before-join]\nurl = "{receiver.url}/secret-path"\non-failure = "allow"\n'
        )
        arguments = ("--config", file, "--data", str(tmp_path / "data"), "--log-level", "debug")
        with running_server(*arguments) as server:
            for number in range(6):
                with connected(server.port, headers=headers) as client:
                    client.join(username=f"Client {number}")
            server.stop()
        assert receiver.bodies()[0]["cookie"] == "sid=secret-cookie"
    assert "before-join: the service has failed 5 times" in server.errors
    assert "secret-" not in server.errors
    with serving() as plain, connected(plain.port, headers=headers) as bob:
        bob.join(username="Bob")
        (session,) = plain.call(lambda: list(plain.sessions._all))
        assert not session._client.handshake


@pytest.mark.parametrize("workers", ["1", "2"])
def test_hooks_are_read_again_at_sighup(tmp_path: Path, workers: str) -> None:
    """A hook can be set and removed while the server runs; a wrong file changes nothing."""
    no = answering({"allow": False, "message": "No."})
    with receiving(no) as receiver:
        file = Path(written_config(tmp_path, ""))
        arguments = ("--config", str(file), "--data", str(tmp_path / "data"), "--workers", workers)
        with running_server(*arguments) as server, connected(server.port) as alice:
            alice.join(username="Alice")

            def outcome() -> str:
                alice.send({"text": "Hello"})
                while (event := alice.receive())["type"] not in ("message", "error"):
                    pass
                return str(event["type"])

            assert outcome() == "message"
            file.write_text(f'[before-publish]\nurl = "{receiver.url}"\n', "utf-8")
            server.signal(signal.SIGHUP)
            wait_until(lambda: outcome() == "error")
            file.write_text('[before-publish]\nurl = "ftp://x"\n', "utf-8")
            server.signal(signal.SIGHUP)
            assert outcome() == "error"
            file.write_text("", "utf-8")
            server.signal(signal.SIGHUP)
            wait_until(lambda: outcome() == "message")
            server.stop()
        assert "hooks stay as they were" in server.errors


def test_wrong_table_ends_the_start(tmp_path: Path) -> None:
    """The error names the file, the table and the key."""
    for workers in ("1", "2"):
        file = written_config(tmp_path, "[before-publish]\nurl = 'http://shop.example/'\n")
        arguments = ("--config", file, "--data", str(tmp_path / "data"), "--workers", workers)
        with pytest.raises(RuntimeError, match="before-publish: `url` must begin with https://"):
            running_server(*arguments).__enter__()
