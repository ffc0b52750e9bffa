"""Outgoing webhooks of servers with clients."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from fastchat.cli.status import table as status
from fastchat.protocol import MessageDraft
from fastchat.webhooks.config import read_config
from support.raw_websocket import connected
from support.receiver import (
    SECRET,
    Answer,
    Receiver,
    Request,
    hang,
    ok,
    receiving,
    respond,
    written_config,
)
from support.server import TIMEOUT_UNIT_S, lasting_port, running_server, wait_until
from support.server_in_thread import Server, serving


def table(receiver: Receiver, more: str = "", name: str = "shop") -> str:
    head = f'[[webhook]]\nname = "{name}"\nurl = "{receiver.url}"\n'
    return f'{head}secret-file = "{{secret}}"\n{more}\n'


@contextlib.contextmanager
def told(
    folder: Path, answer: Answer = ok, more: str = "", **settings: Any
) -> Iterator[tuple[Server, Receiver]]:
    """A server with one webhook, and its receiver."""
    with receiving(answer) as receiver:
        file = written_config(folder, table(receiver, more))
        with serving(config_file=file, **settings) as server:
            wait_until(lambda: begun(server))
            yield server, receiver


def begun(server: Server, name: str = "shop") -> bool:
    assert server.webhooks is not None
    delivery = server.webhooks._deliveries.get(name)
    return delivery is not None and delivery._is_started


def publish(server: Server, room: str, *texts: str) -> None:
    """Publish messages without a client."""

    def run() -> None:
        for text in texts:
            draft = MessageDraft(room, "Alice", text, "2026-01-01T00:00:00.000Z", "u_alice")
            server.broker.publish(draft)

    server.call(run)


def texts_of(bodies: list[dict[str, Any]], room: str = "lobby") -> list[str]:
    return [body["text"] for body in bodies if body["room"] == room and body["type"] == "message"]


def lag(server: Server) -> tuple[int, float]:
    assert server.webhooks is not None
    gauges = server.call(server.webhooks.gauges)
    return gauges["webhook_behind"]["shop"], gauges["webhook_behind_s"]["shop"]


def test_receiver_gets_everything_that_is_published(tmp_path: Path) -> None:
    """The events are those that clients see, with the epoch of the room."""
    with told(tmp_path) as (server, receiver), connected(server.port) as alice:
        joined = alice.join(username="Alice")
        seen = []
        for command in (
            {"text": "Helo", "id": "m-1"},
            {"type": "edit", "offset": 1, "text": "Hello"},
            {"type": "react", "offset": 1, "emoji": "👍"},
            {"type": "delete", "offset": 1},
        ):
            alice.send(command)
            seen.append(alice.receive())
            receiver.wait(len(seen), "message", "edit", "react", "delete")
        alice.send({"type": "leave"})
        receiver.wait(1, "leave")
    events = receiver.bodies("message", "edit", "react", "delete")
    assert events == [{**event, "epoch": joined["epoch"]} for event in seen]
    for kind, online in (("join", 1), ("leave", 0)):
        (event,) = receiver.bodies(kind)
        assert (event["user"], event["username"]) == (joined["user"], "Alice")
        assert (event["room"], event["online"], event["stored"]) == ("lobby", online, False)


def test_requests_are_signed(tmp_path: Path) -> None:
    """The reference implementation verifies them; forged and replayed ones it refuses."""
    with told(tmp_path) as (server, receiver):
        publish(server, "lobby", "Hello é", "Bye")
        receiver.wait(2)
    first, second = receiver.requests
    verify = Webhook(SECRET).verify
    assert verify(first.body, first.headers)["text"] == "Hello é"
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert first.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        verify(second.body, first.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(first.body, first.headers)
    old = {**first.headers, "webhook-timestamp": str(int(time.time()) - 600)}
    with pytest.raises(WebhookVerificationError):
        verify(first.body, old)


def test_receiver_chooses_rooms_and_events(tmp_path: Path) -> None:
    """What it has not chosen is not sent, and does not count as behind."""
    with (
        told(tmp_path, more='events = ["message"]\nrooms = ["order-*"]') as (server, receiver),
        connected(server.port) as alice,
    ):
        alice.join(username="Alice", room="order-1")
        alice.join(username="Alice", room="lobby")
        alice.send({"room": "lobby", "text": "no"})
        alice.send({"room": "order-1", "text": "yes"})
        alice.send({"room": "order-1", "type": "react", "offset": 1, "emoji": "👍"})
        alice.receive_type("react")
        receiver.wait(1)
        wait_until(lambda: lag(server)[0] == 0)
    assert texts_of(receiver.bodies(), "order-1") == ["yes"]
    assert len(receiver.requests) == 1


def test_failed_delivery_is_repeated_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing overtakes it in its room; each attempt has the same `webhook-id`."""
    caplog.set_level(logging.INFO, "fastchat.webhooks")
    failures = 2

    def fail_twice(request: Request, connection: socket.socket) -> bytes:
        nonlocal failures
        if request.json["text"] == "two" and failures:
            failures -= 1
            return respond(500)
        return respond()

    with told(tmp_path, fail_twice) as (server, receiver):
        publish(server, "lobby", "one", "two", "three")
        publish(server, "other", "four")
        receiver.wait(6)
        wait_until(lambda: lag(server) == (0, 0.0))
        gauges = server.call(server.webhooks.gauges) if server.webhooks else {}
    assert texts_of(receiver.bodies()) == ["one", "two", "two", "two", "three"]
    ids = [each.headers["webhook-id"] for each in receiver.requests if each.json["text"] == "two"]
    assert len(set(ids)) == 1
    assert (gauges["webhook_delivered"], gauges["webhook_failed"]) == ({"shop": 4}, {"shop": 2})
    assert [record.getMessage() for record in caplog.records][1:] == [
        "webhook shop: deliveries fail, and are repeated for a day: it answered with status 500",
        "webhook shop: deliveries succeed again",
    ]


def slowly(request: Request, connection: socket.socket) -> None:
    """Answer one byte at a time, for longer than a test takes."""
    for byte in respond():
        connection.sendall(bytes([byte]))
        time.sleep(0.5)


@pytest.mark.parametrize("fault", [hang, slowly], ids=["hangs", "bytewise"])
def test_room_that_hangs_holds_up_no_other(tmp_path: Path, fault: Answer) -> None:
    """Rooms are delivered at the same time, and clients notice nothing."""

    def answer(request: Request, connection: socket.socket) -> bytes | None:
        return fault(request, connection) if request.json["room"] == "bad" else respond()

    with told(tmp_path, answer) as (server, receiver), connected(server.port) as alice:
        publish(server, "bad", "x")
        wait_until(lambda: bool(receiver.requests))
        alice.join(username="Alice")
        for number in range(20):
            alice.send({"text": str(number)})
            assert alice.receive_type("message")["text"] == str(number)
        wait_until(lambda: len(texts_of(receiver.bodies("message"))) == 20)
        assert texts_of(receiver.bodies("message")) == [str(number) for number in range(20)]
        wait_until(lambda: lag(server)[0] == 1)


def test_receiver_that_does_not_read_is_answered(tmp_path: Path) -> None:
    """An answer that comes before the request was read whole counts."""

    def early(connection: socket.socket) -> None:
        connection.sendall(respond(headers={"Connection": "close"}))

    with receiving() as receiver:
        file = written_config(tmp_path, table(receiver))
        receiver.on_connect = early
        with serving(config_file=file) as server:
            wait_until(lambda: begun(server))
            publish(server, "lobby", *("x" * 4000 for _ in range(3)))
            wait_until(lambda: lag(server)[0] == 0)


@pytest.mark.parametrize(
    "answer",
    [
        lambda *_: respond(302, headers={"Location": "/elsewhere"}),
        lambda *_: respond(404),
        lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx",
        lambda *_: b"SSH-2.0-OpenSSH_9.2\r\n",
        lambda *_: b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    ],
    ids=["redirects", "404", "torn", "ssh", "continues"],
)
def test_answer_that_is_no_success_is_a_failure(tmp_path: Path, answer: Answer) -> None:
    """A delivery counts only with a whole answer of the class 2xx."""

    def once(request: Request, connection: socket.socket) -> bytes | None:
        receiver.answer = ok
        found = answer(request, connection)
        assert found is not None
        connection.sendall(found)
        return None

    with told(tmp_path, once) as (server, receiver):
        publish(server, "lobby", "one")
        receiver.wait(2)
        wait_until(lambda: lag(server)[0] == 0)
    assert texts_of(receiver.bodies()) == ["one", "one"]
    assert {request.target for request in receiver.requests} == {"/events"}


def test_endless_answer_is_cut(tmp_path: Path) -> None:
    """Its status counts, and the rest is not read."""

    def endless(request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    with told(tmp_path, endless) as (server, receiver):
        publish(server, "lobby", "one", "two")
        receiver.wait(2)
        wait_until(lambda: lag(server)[0] == 0)
    assert texts_of(receiver.bodies()) == ["one", "two"]


def test_retry_after_pauses_all_rooms(tmp_path: Path) -> None:
    """The receiver says when it wants the next event."""

    def busy(request: Request, connection: socket.socket) -> bytes:
        receiver.answer = ok
        return respond(429, headers={"Retry-After": "1"})

    with told(tmp_path, busy) as (server, receiver):
        publish(server, "lobby", "one")
        receiver.wait(1)
        begun_s = time.monotonic()
        publish(server, "other", "two")
        receiver.wait(3)
        assert time.monotonic() - begun_s > 0.9
    assert sorted(texts_of(receiver.bodies())) == ["one", "one"]


def test_receiver_that_is_gone_gets_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """410 ends a webhook until the file is read again; its cursor stays where it was."""
    with told(tmp_path, lambda *_: respond(410)) as (server, receiver):
        publish(server, "lobby", "one")
        receiver.wait(1)
        webhooks = server.webhooks
        assert webhooks is not None
        wait_until(lambda: webhooks.gauges()["webhook_ended"] == {"shop": 1})
        publish(server, "lobby", "two")
        receiver.answer = ok
        time.sleep(0.1)
        assert len(receiver.requests) == 1
        server.call(webhooks.use, read_config(str(tmp_path / "fastchat.toml")))
        receiver.wait(3)
    assert texts_of(receiver.bodies()) == ["one", "one", "two"]
    assert "the receiver wants no events any more (410)" in caplog.text


def test_publications_that_were_dropped_are_one_gap(tmp_path: Path) -> None:
    """The receiver learns which offsets it will never see."""
    settings = {"history_max_messages": 5, "limits": "off"}
    with told(tmp_path, lambda *_: respond(500), **settings) as (server, receiver):
        publish(server, "lobby", "1")
        receiver.wait(1)
        for number in range(2, 401):
            publish(server, "lobby", str(number))
        wait_until(lambda: server.history.position("lobby").offset == 400)
        epoch = server.history.position("lobby").epoch
        receiver.answer = ok
        wait_until(lambda: "400" in texts_of(receiver.bodies("message")))
    (gap,) = receiver.bodies("gap")
    first = gap["to"]["offset"]
    assert gap == {
        "type": "gap",
        "room": "lobby",
        "from": {"epoch": epoch, "offset": 0},
        "to": {"epoch": epoch, "offset": first},
    }
    delivered = [int(text) for text in texts_of(receiver.bodies("message")) if text != "1"]
    assert delivered == list(range(first + 1, 401))
    assert 5 <= len(delivered) < 300


def test_deleted_room_is_a_gap(tmp_path: Path) -> None:
    """A room of the same name begins anew."""
    with told(tmp_path) as (server, receiver):
        publish(server, "lobby", "old", "older")
        receiver.wait(2)
        old = server.history.position("lobby").epoch
        server.await_(server.rooms.administration.delete_room("lobby", "test"))
        publish(server, "lobby", "new")
        receiver.wait(2, "gap", "message")
        wait_until(lambda: "new" in texts_of(receiver.bodies("message")))
        new = server.history.position("lobby").epoch
    (gap,) = receiver.bodies("gap")
    assert gap["from"] == {"epoch": old, "offset": 2}
    assert gap["to"] == {"epoch": new, "offset": 0}


def test_many_rooms_and_publications(tmp_path: Path) -> None:
    """Every publication of every room arrives once, in the order of its room."""
    rooms = [f"room-{number}" for number in range(50)]
    expected = [str(number) for number in range(20)]
    with told(tmp_path, limits="off") as (server, receiver):
        for text in expected:
            for room in rooms:
                publish(server, room, text)
        bodies = receiver.wait(1000)
        wait_until(lambda: lag(server)[0] == 0)
        assert len(receiver.requests) == 1000
        assert receiver.connections <= 10
    for room in rooms:
        assert texts_of(bodies, room) == expected


# The server


def chat(port: int, room: str, *texts: str) -> None:
    with connected(port) as client:
        client.join(username="Alice", session="s" * 16, room=room)
        for text in texts:
            client.send({"text": text})
            while client.receive().get("text") != text:
                pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_webhook_begins_at_the_present_and_resumes(tmp_path: Path, workers: str) -> None:
    """What was published before is not sent; what was published while it was down is."""
    with receiving() as receiver:
        data = ("--data", str(tmp_path / "data"), "--workers", workers)
        with running_server(*data) as server:
            chat(server.port, "lobby", "before")
            server.stop()
        file = written_config(tmp_path, table(receiver))
        with running_server(*data, "--config", file) as server:
            wait_until(lambda: is_begun(tmp_path / "data"))
            chat(server.port, "lobby", "one")
            chat(server.port, "new-room", "first")
            receiver.wait(2, "message")
            server.stop()
        assert texts_of(receiver.bodies("message")) == ["one"]
        assert texts_of(receiver.bodies("message"), "new-room") == ["first"]
        with running_server(*data) as server:
            chat(server.port, "lobby", "two")
            server.stop()
        with running_server(*data, "--config", file) as server:
            chat(server.port, "lobby", "three")
            wait_until(lambda: "three" in texts_of(receiver.bodies("message")))
            server.stop()
        assert texts_of(receiver.bodies("message")) == ["one", "two", "three"]


def is_begun(data: Path) -> bool:
    try:
        db = apsw.Connection(str(data / "webhooks.db"), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(db):
            return bool(db.execute("SELECT 1 FROM webhooks").fetchall())
    except apsw.Error:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_webhooks_are_read_again_at_sighup(tmp_path: Path, workers: str) -> None:
    """A webhook can be added, changed and removed while the server runs."""
    with receiving() as receiver:
        file = Path(written_config(tmp_path, ""))
        arguments = ("--config", str(file), "--data", str(tmp_path / "data"), "--workers", workers)
        with running_server(*arguments) as server:
            chat(server.port, "lobby", "before")
            written_config(tmp_path, table(receiver))
            server.signal(signal.SIGHUP)
            wait_until(lambda: is_begun(tmp_path / "data"))
            chat(server.port, "lobby", "one")
            receiver.wait(1, "message")
            written_config(tmp_path, "")
            server.signal(signal.SIGHUP)
            count = 0

            def is_silent() -> bool:
                nonlocal count
                count += 1
                chat(server.port, "lobby", f"more {count}")
                time.sleep(0.1)
                return f"more {count}" not in texts_of(receiver.bodies("message"))

            wait_until(is_silent)
            server.stop()
        assert texts_of(receiver.bodies("message"))[0] == "one"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_while_a_receiver_hangs(tmp_path: Path, workers: str) -> None:
    """The server stops in time, and delivers again at the next start."""
    with receiving(hang) as receiver:
        file = written_config(tmp_path, table(receiver, 'events = ["message"]'))
        arguments = ("--config", file, "--data", str(tmp_path / "data"), "--workers", workers)
        with running_server(*arguments) as server:
            wait_until(lambda: is_begun(tmp_path / "data"))
            chat(server.port, "lobby", "one", "two")
            receiver.wait(1)
            assert server.stop() == 0
        receiver.answer = ok
        with running_server(*arguments):
            receiver.wait(3)
    assert texts_of(receiver.bodies()) == ["one", "one", "two"]


def test_kills_lose_nothing(tmp_path: Path) -> None:
    """After kill -9, deliveries go on at the cursor: all arrive, in order."""
    with receiving() as receiver:
        file = written_config(tmp_path, table(receiver, 'events = ["message"]'))
        arguments = ("--config", file, "--data", str(tmp_path / "data"))
        sent = []
        for turn in range(4):
            with running_server(*arguments) as server:
                wait_until(lambda: is_begun(tmp_path / "data"))
                texts = [f"{turn}-{number}" for number in range(30)]
                chat(server.port, "lobby", *texts)
                sent += texts
                server.kill()
        with running_server(*arguments):
            wait_until(lambda: sent[-1] in texts_of(receiver.bodies()))
    received = texts_of(receiver.bodies())
    assert list(dict.fromkeys(received)) == sent


def test_status_and_metrics_show_webhooks(tmp_path: Path) -> None:
    """`fastchat status` has a line for each."""
    with told(tmp_path, lambda *_: respond(500)) as (server, receiver):
        publish(server, "lobby", "one", "two")
        receiver.wait(1)
        wait_until(lambda: bool(lag(server)[1]))
        assert server.webhooks is not None
        part = {"server": {"pid": 1, **server.call(server.webhooks.gauges)}}
    lines = status(part, part, 1.0).splitlines()
    at = lines.index(next(line for line in lines if line.startswith("webhook")))
    assert lines[at].split()[:3] == ["webhook", "delivered", "failed"]
    name, delivered, failed, given_up, behind, *_ = lines[at + 1].split()
    assert (name, delivered, failed, given_up, behind) == ("shop", "0", "1", "0", "2")


def test_webhooks_do_not_work_with_an_engine(tmp_path: Path) -> None:
    """The server says so and does not start."""
    with receiving() as receiver:
        file = written_config(tmp_path, table(receiver))
        for workers in ("1", "2"):
            arguments = ("--engine", "postgresql://127.0.0.1:1/x", "--workers", workers)
            with pytest.raises(RuntimeError, match="does not work with --engine"):
                running_server(
                    *arguments, "--config", file, "--data", str(tmp_path / "data")
                ).__enter__()


def test_receiver_of_the_documentation_works(tmp_path: Path) -> None:
    """It has at most 20 lines, and stores every event once."""
    document = Path(__file__).parents[3] / "docs" / "webhooks.md"
    code = document.read_text("utf-8").partition("```python\nimport http.server")[2]
    code = "import http.server" + code.partition("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    port = lasting_port()
    program = [sys.executable, "-c", code.replace("9000", str(port))]
    environment = {**os.environ, "SECRET": SECRET}
    process = subprocess.Popen(program, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port), timeout_s=20 * TIMEOUT_UNIT_S)
        file = written_config(
            tmp_path,
            '[[webhook]]\nname = "shop"\nsecret-file = "{secret}"\n'
            f'url = "http://127.0.0.1:{port}/"\n',
        )
        with serving(config_file=file) as server:
            wait_until(lambda: begun(server))
            publish(server, "lobby", "one", "two")
            wait_until(lambda: lag(server)[0] == 0)
    finally:
        process.terminate()
        process.wait(10 * TIMEOUT_UNIT_S)
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as db:
        events = [json.loads(event) for (event,) in db.execute("SELECT event FROM events")]
    assert sorted(event["text"] for event in events) == ["one", "two"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
