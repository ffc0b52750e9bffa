"""Users whom a moderator has removed stay out on all machines, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import jwt

from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import Client, connected
from support.server import wait_until

SECRET = "a-Secret-of-more-than-32-bytes-in-all"
LISTENERS = (
    "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity "
    "WHERE application_name = 'fastchat' AND query LIKE '%pg_notify($1, $2)%'"
)


def token(user: str, *rights: str) -> str:
    claims = {"sub": user, "name": user, "exp": int(time.time()) + 600}
    claims["rooms"] = {"lobby": ["read", "write", *rights]}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def is_refused(machine: Machine) -> bool:
    """Whether Eve is refused as a member and as a spectator, as somebody who was removed."""
    for username in ("Eve", None):
        with connected(machine.port) as eve:
            command = {"type": "join", "room": "lobby", "token": token("Eve")}
            eve.send({**command, "username": username} if username else command)
            answer = eve.receive()
            if answer["type"] != "error" or "has removed you" not in answer["message"]:
                return False
    return True


def remove(moderator: Client, name: str) -> None:
    moderator.send({"type": "remove", "room": "lobby", "username": name, "seconds": 600})
    assert moderator.receive_type("removed")["username"] == name


def test_removed_user_gets_in_nowhere(own_server: PostgreSQL, tmp_path: Path) -> None:
    """A removal closes the user's connections to all machines, also to those that did not hear of
    it, and outlives a crash of PostgreSQL."""
    (tmp_path / "key").write_text(SECRET)
    url = chat_url(own_server)
    arguments = ("--auth", "optional", "--jwt-key-file", str(tmp_path / "key"), "--limits", "off")
    with (
        running_machine(url, "one", tmp_path, *arguments) as one,
        running_machine(url, "two", tmp_path, *arguments, "--workers", "2") as two,
        connected(one.port) as moderator,
        connected(two.port) as eve,
        connected(two.port) as bob,
    ):
        moderator.join(token=token("Mod", "moderate"))
        eve.join(token=token("Eve"))
        bob.join(username="Bob")
        # The machines do not hear of the removal.
        wait_until(lambda: len(own_server.query(LISTENERS).split()) == 2)
        listeners = [int(pid) for pid in own_server.query(LISTENERS).split()]
        for pid in listeners:
            os.kill(pid, signal.SIGSTOP)
        try:
            remove(moderator, "Eve")
            assert eve.receive_end() == 4503
        finally:
            for pid in listeners:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert all(map(is_refused, (one, two)))
        own_server.crash()
        own_server.start()
        for machine in (one, two):
            wait_until(lambda machine=machine: machine.readiness == "ready")
            assert is_refused(machine)
        with running_machine(url, "three", tmp_path, *arguments) as three:
            assert is_refused(three)
        bob.send({"type": "message", "text": "done"})
        assert bob.receive_type("message")["text"] == "done"
