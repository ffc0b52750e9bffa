"""A client of another database that does not read its notifications."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import connected
from support.server import wait_until

#: Each takes almost a page of PostgreSQL's queue, which has a million of them.
PAYLOAD = "SELECT count(pg_notify('x', g || repeat('x', 7900))) FROM generate_series(1, 10000) AS g"
USAGE = "SELECT pg_notification_queue_usage()"


async def fill(url: str, until: float) -> asyncpg.Connection:
    """Fill the queue up to this share; returns the connection whose end frees it."""
    idle = await asyncpg.connect(url)
    await idle.execute("LISTEN x")
    await idle.execute("BEGIN")  # it reads nothing from now on
    teller = await asyncpg.connect(url)
    while await teller.fetchval(USAGE) < until:
        await teller.execute(PAYLOAD)
    teller.terminate()
    return idle


@pytest.mark.soak
def test_crowded_queue_delays_messages_only(own_server: PostgreSQL, tmp_path: Path) -> None:
    """If a quarter of the queue of notifications is full, messages, joins and leaves of other
    machines arrive all the same, and notifications are used again when the queue is free."""
    own_server.query("CREATE DATABASE other")
    url = chat_url(own_server)
    with (
        running_machine(url, "one", tmp_path, "--limits", "off") as one,
        running_machine(url, "two", tmp_path, "--limits", "off", "--workers", "2") as two,
        asyncio.Runner() as runner,
    ):
        other = own_server.url.rpartition("/")[0] + "/other"
        idle = runner.run(fill(other, 0.26))
        assert (one.readiness, two.readiness) == ("ready", "ready")
        speak(one, two)
        idle.terminate()
        wait_until(lambda: float(own_server.query(USAGE)) < 0.01)
        speak(one, two)


def speak(one: Machine, two: Machine) -> None:
    """Let clients of two machines hear each other."""
    with connected(one.port) as ann, connected(two.port) as bob:
        bob.join(username="Bob")
        ann.join(username="Ann")
        assert bob.receive_type("join")["username"] == "Ann"
        for number in range(20):
            ann.send({"type": "message", "text": f"text {number}"})
            assert bob.receive_type("message")["text"] == f"text {number}"
        ann.send({"type": "leave"})
        assert bob.receive_type("leave")["username"] == "Ann"
        bob.send({"type": "leave"})
        bob.receive_type("left")
