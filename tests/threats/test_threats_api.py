"""Attacks on the HTTP API: guesses, floods, bodies, secrets in logs, and keys of other rooms."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from fastchat.api.keys import ApiRight
from fastchat.process.timings import WorkerTimings
from fastchat.web.context import HttpTimings
from support.api import Client, api_client, made_key, serving_api
from support.raw_websocket import connected, wired
from support.server import Server, running_server

HEAD = "POST /api/v1/rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n"


class Target(NamedTuple):
    """A server with default limits, and its keys: one for all rooms, and one for order-*."""

    server: Server
    key: str
    limited: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("api")
    file = folder / "keys.json"
    key = made_key(file)
    limited = made_key(file, "orders", rooms=["order-*"], rate=5)
    flags = ("--data", str(folder / "data"), "--api-key-file", str(file), "--log-level", "debug")
    with running_server(*flags) as server:
        yield Target(server, key, limited)
        with connected(server.port, "/ws?username=Alice") as alice:
            assert alice.receive()["type"] == "joined"
        assert server.stop() == 0
    # T41. No key, and no part of one, is ever in the log.
    for secret in (key, limited):
        assert secret[13:33] not in server.errors
    assert "Traceback" not in server.errors


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    with api_client(target.server.port, target.key) as client:
        yield client


def sent(target: Target, data: bytes, *, ends: bool = True) -> bytes:
    """Send these bytes, and return all that the server sends until it closes the connection."""
    with wired(target.server.port) as wire:
        wire.write(data)
        if ends:
            wire.socket.shutdown(socket.SHUT_WR)
        return wire.read_all()


def test_guessing_is_slow_and_hurts_nobody(target: Target, client: Client) -> None:
    """T38. After some failures an address gets 429, and a valid key from there still works."""
    with api_client(target.server.port, None) as guesser:
        statuses = []
        for number in range(60):
            guess = f"{target.key[:-3]}{number:03d}"
            statuses.append(guesser("GET", "/rooms", headers={"x-api-key": guess}).status)
    assert statuses[0] == 401
    assert statuses.count(429) > 30
    assert set(statuses) == {401, 429}
    assert client("GET", "/rooms").status == 200


def test_flood_of_one_key(target: Target, client: Client) -> None:
    """T39. A key that sends far more than its budget is refused, and others are served."""
    with ExitStack() as stack:
        flooding = [
            stack.enter_context(api_client(target.server.port, target.limited)) for _ in range(4)
        ]
        statuses = [each("GET", "/rooms").status for _ in range(50) for each in flooding]
        assert 5 <= statuses.count(200) < 200
        assert set(statuses) == {200, 429}
        assert client("POST", "/rooms/lobby/messages", {"text": "x"}).status == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 65537\r\n", b"413"),
        ("Content-Length: 99999999999999\r\n", b"413"),
        ("Transfer-Encoding: chunked\r\n", b"411"),
    ],
)
def test_long_body_is_not_read(target: Target, headers: str, status: bytes) -> None:
    """T40. A body that is too long, or of no known length, is refused before it arrives."""
    head = HEAD.format(key=target.key) + headers + "\r\n"
    answer = sent(target, head.encode(), ends=False)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in answer


def test_deep_and_wide_bodies(client: Client) -> None:
    """T40. Bodies that are costly to parse, as far as they fit into 64 KiB, are refused at once."""
    path = "/rooms/lobby/messages"
    for body in (
        b"[" * 65_536,
        b'{"text":' * 8000,
        b'{"text":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        json.dumps({f"k{number}": 1 for number in range(5000)}).encode(),
        b'{"text":"x","id":' + b"9" * 60_000 + b"}",
    ):
        assert client("POST", path, body).status == 400


def test_slow_body_ends(tmp_path: Path) -> None:
    """T40. A body that arrives byte by byte has one deadline, and then the connection ends."""
    timings = WorkerTimings(sweep_interval_s=0.05, http=HttpTimings(body_s=0.2))
    with serving_api(tmp_path, timings=timings) as (server, api), wired(server.port) as wire:
        head = HEAD.format(key=api.key) + "Content-Length: 1000\r\n\r\n"
        wire.write(head.encode())
        wire.socket.settimeout(0.02)
        ended = False
        for _ in range(1000):
            try:
                wire.write(b"x")
                ended = not wire.socket.recv(1)
            except TimeoutError:
                continue
            except OSError:  # reset, or a broken pipe
                ended = True
            if ended:
                break
        assert ended


def test_slow_reader_of_events_ends(tmp_path: Path) -> None:
    """T40. A stream whose client reads nothing ends, and costs no memory meanwhile."""
    http = dataclasses.replace(HttpTimings(), answer_s=0.3)
    timings = WorkerTimings(sweep_interval_s=0.05, http=http)
    with serving_api(tmp_path, timings=timings) as (server, api), wired(server.port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.write(
            f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {api.key}\r\n\r\n".encode()
        )
        wire.read_until(b"ready")
        stuck = 0
        for _ in range(2000):
            api("POST", "/rooms/lobby/messages", {"text": "x" * 4000})
            connections = server.call(server.connections)
            stuck = max(stuck, *(each.transport.get_write_buffer_size() for each in connections))
            if len(connections) < 2:
                break
        else:
            raise AssertionError("the stream has not ended")
        assert stuck < 1 << 20


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 4\r\nContent-Length: 60\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4, 60\r\n",
        "Content-Length: +4\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 4\r\nX: a\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_smuggled_request_is_not_answered(target: Target, head: str) -> None:
    """T42. After a body whose length is ambiguous, nothing is read as another request."""
    smuggled = "DELETE /api/v1/rooms/lobby HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n"
    data = HEAD + head + "\r\n0\r\n\r\n" + smuggled
    answer = sent(target, data.format(key=target.key).encode())
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b" 204 " not in answer


@pytest.mark.parametrize(
    "room",
    [
        *("lobby", "%6cobby", "LOBBY", "order", "order-%00", "order-/../lobby"),
        *("order-%2F..%2Flobby", "..%2Flobby", "xorder-1", "%EF%BD%8Forder-1", "order%E2%80%90x"),
    ],
)
def test_key_of_some_rooms_reaches_no_other(target: Target, room: str) -> None:
    """T43. However a room is written, a key for others neither reads nor changes it."""
    allowed = "order-"
    with api_client(target.server.port, target.limited) as client:
        for method, path, body in (
            ("POST", f"/rooms/{room}/messages", {"text": "mine"}),
            ("GET", f"/rooms/{room}/messages", None),
            ("GET", f"/rooms/{room}", None),
            ("DELETE", f"/rooms/{room}", None),
        ):
            reply = client(method, path, body)
            if reply.status in (200, 201):
                assert reply.json.get("room", allowed).startswith(allowed)
            else:
                assert reply.status in (400, 403, 404, 405, 429)


def test_one_key_cannot_do_what_it_has_no_right_to(target: Target, tmp_path: Path) -> None:
    """T43. A key that can only read changes nothing, by no method and no path."""
    with serving_api(tmp_path) as (server, admin):
        reader = made_key(tmp_path / "keys.json", "reader", rights=[ApiRight.READ])
        server.call(server.reload)
        admin("POST", "/rooms/lobby/messages", {"text": "x"})
        with api_client(server.port, reader) as client:
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                for path in ("/rooms/lobby", "/rooms/lobby/messages", "/rooms/lobby/messages/1",
                             "/users/u_a", "/users/u_a/ban", "/tokens", "/messages"):  # fmt: skip
                    assert client(method, path, {"text": "x"}).status in (403, 405)
        (message,) = admin("GET", "/rooms/lobby/messages").json["messages"]
        assert message["text"] == "x"
