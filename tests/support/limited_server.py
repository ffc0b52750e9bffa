"""Servers with limits, clients that reach them, and what the server has counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.ops.status import ask
from support.raw_websocket import Client, text
from support.server import TIMEOUT_UNIT_S, Server, running_server

#: The session of a user who connects several times.
SESSION = "s" * 16
#: A server of one process, and one of several, where the counts are in another process.
SERVERS = pytest.mark.parametrize("workers", ["1", "2"])


@contextlib.contextmanager
def limited_server(data: Path, *arguments: str, workers: str = "1") -> Iterator[Server]:
    with running_server("--data", str(data), "--workers", workers, *arguments) as server:
        yield server
        server.stop()


def enter(
    server: Server, name: str, room: str = "lobby", forwarded: str | None = None, **fields: Any
) -> Client:
    """Join a room, with `forwarded` as the client's address; raises AssertionError if refused."""
    headers = None if forwarded is None else {"X-Forwarded-For": forwarded}
    client = Client(server.port, headers=headers)
    client.join(username=name, room=room, **fields)
    return client


def snapshots(server: Server) -> dict[str, dict[str, Any]]:
    """Return the snapshots of the counters of all processes."""
    arguments = server.process.args
    assert isinstance(arguments, list)
    data = Path(arguments[arguments.index("--data") + 1])
    return asyncio.run(ask(data, 5 * TIMEOUT_UNIT_S))


def connection_state(client: Client) -> str:
    """Return whether a connection is live, or else why it ended."""
    client.send({"type": "ping", "ref": "fate"})
    while True:
        event = client.receive()
        if event["type"] == "closing":
            assert event["code"] == client.receive_close() == 1013
            assert event["reconnect_after_ms"] > 1000
            return str(event["reason"])
        if event["type"] == "pong":
            return "lives"


def say(client: Client, *texts: str) -> None:
    client.write(b"".join(text({"text": each, "id": each}) for each in texts))


def outcomes(client: Client, count: int) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the outcomes of this number of a client's messages: the publications and the
    refusals."""
    published: list[str] = []
    refused: dict[str, dict[str, Any]] = {}
    while len(published) + len(refused) < count:
        event = client.receive()
        if event["type"] == "message":
            published.append(event["text"])
        elif event["type"] == "error":
            assert (event["code"], event["temporary"]) == ("rate_limited", True)
            assert event["retry_after_ms"] > 0
            refused[event["id"]] = event
    return published, refused


def refusals(server: Server, limit: str) -> int:
    """Return the number of connections that this limit has refused."""
    parts = snapshots(server).values()
    return sum(part.get("turned_away", {}).get(limit, 0) for part in parts)
