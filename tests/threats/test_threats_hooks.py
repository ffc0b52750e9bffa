"""Attacks on incoming webhooks: guesses, floods, bodies, names, and secrets in logs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastchat.api.hooks import BUDGET
from fastchat.process.timings import WorkerTimings
from fastchat.web.context import HttpTimings
from support.hooks import made_hook, post
from support.raw_websocket import connected, wired
from support.server import Server, running_server
from support.server_in_thread import serving


class Target(NamedTuple):
    """A server with default limits, and the paths of three hooks."""

    server: Server
    path: str
    flooded: str
    broken: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hooks")
    paths = [made_hook(folder / "h", "ops", name) for name in ("Grafana", "Flooded", "Broken")]
    flags = ("--history", "memory", "--hook-file", str(folder / "h"), "--log-level", "debug")
    with running_server(*flags, "--trusted-proxy", "127.0.0.1") as server:
        yield Target(server, *paths)
        assert server.stop() == 0
    # T46. No secret, no part of one, and no guess is ever in the log.
    for path in paths:
        assert path[12:32] not in server.errors
    assert "hooks/" not in server.errors
    assert "Traceback" not in server.errors


def test_guessing_is_slow_and_hurts_nobody(target: Target) -> None:
    """T46. After some failures an address gets 429, and a valid secret from there still works."""
    port, address = target.server.port, "198.51.100.7"
    statuses = [
        post(port, f"{target.path[:-3]}{number:03d}", {"text": "x"}, address=address).status
        for number in range(60)
    ]
    assert statuses[0] == 404
    assert statuses.count(429) > 30
    assert set(statuses) == {404, 429}
    assert post(port, target.path, {"text": "x"}, address=address).status == 200
    assert post(port, "/hooks/x", {"text": "x"}).status == 404  # from another address


def test_flood_of_one_hook(target: Target) -> None:
    """T46. A program that posts far too much is refused, and another hook is served."""
    port = target.server.port
    statuses = [post(port, target.flooded, {"text": "x"}).status for _ in range(100)]
    assert BUDGET.burst <= statuses.count(200) < 100
    assert set(statuses) == {200, 429}
    assert post(port, target.path, {"text": "x"}).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 10_000,
        b"[" * 65_536,
        json.dumps({"attachments": [{}] * 15_000}).encode(),
        json.dumps({"text": "<" * 60_000}).encode(),
        json.dumps({"text": "\\ud800"}).encode().replace(b"\\\\", b"\\"),
        b"payload=" + b"%7B" * 20_000,
        b"&" * 65_536,
        b"\x00" * 65_536,
    ],
    ids=["objects", "arrays", "attachments", "markup", "surrogate", "form", "fields", "zeros"],
)
def test_hostile_bodies(target: Target, body: bytes) -> None:
    """T46. A body is refused, or is a message that is cut, and the server goes on."""
    reply = post(target.server.port, target.broken, body)
    assert (reply.status, reply.word) in {(200, "ok"), (400, "invalid_payload"), (400, "no_text")}


def test_body_of_unknown_or_large_size(target: Target) -> None:
    """T46. A body above 64 KiB, or of unknown length, is refused by its head."""
    for head, status in (
        ("Content-Length: 65537", b" 413 "),
        ("Transfer-Encoding: chunked", b" 411 "),
        ("Content-Length: 1\r\nContent-Length: 2", b" 400 "),
    ):
        with wired(target.server.port) as wire:
            wire.write(f"POST {target.path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
            wire.socket.shutdown(socket.SHUT_WR)
            assert status in wire.read_all().split(b"\r\n")[0]


def test_slow_body(tmp_path: Path) -> None:
    """T46. A body that does not arrive in time ends its connection, and stores nothing."""
    path = made_hook(tmp_path / "h", "ops")
    timings = WorkerTimings(http=HttpTimings(body_s=0.2), sweep_interval_s=0.05)
    with serving(hook_file=str(tmp_path / "h"), timings=timings) as server:
        with wired(server.port) as wire:
            wire.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{{".encode())
            wire.read_all()
        assert server.metrics.publications_total == 0


def test_name_of_a_hook_cannot_be_taken(target: Target) -> None:
    """T46. A name that looks like a hook's is refused in its room, and free in another."""
    for name in ("Grafana", "grafana", "Gr%D0%B0fana"):
        with connected(target.server.port, f"/ws?room=ops&username={name}") as impostor:
            assert impostor.receive()["code"] == "username_taken"
    with connected(target.server.port, "/ws?room=lobby&username=Grafana") as other:
        assert other.receive()["type"] == "joined"
