"""Spectators, guests and users of tokens on running servers of one and of several processes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from checker.parts import parts_of
from fastchat.auth.issuing import create_secret, make_token
from support.raw_websocket import Client, connected
from support.server import Server, running_server, wait_until


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for guests and users with a token, who find each other in all its processes."""
    data = tmp_path_factory.mktemp("data")
    create_secret(data / "key")
    arguments = ("--auth", "optional", "--jwt-key-file", str(data / "key"))
    with running_server(
        "--data", str(data / "data"), "--workers", str(request.param), *arguments
    ) as server:
        server.key = data / "key"  # type: ignore[attr-defined]
        yield server


def token(server: Server, sub: str, **more: Any) -> str:
    file: Path = server.key  # type: ignore[attr-defined]
    return make_token(file, subject=sub, duration_s=600, **more)


def test_address_without_a_name_is_a_spectators(server: Server) -> None:
    """It reads at once, and becomes a member by a `join` with a name."""
    with connected(server.port) as alice, connected(server.port, "/ws?room=reads") as zoe:
        joined = zoe.receive_type("joined")
        assert (joined["username"], joined["users"], joined["online"]) == (None, [], 0)
        assert (joined["spectators"], joined["rights"]) == (1, ["read"])
        first = alice.join(room="reads", username="Alice")
        assert (first["online"], first["spectators"]) == (1, 1)
        alice.send({"text": "hello"})
        assert zoe.receive_type("message")["user"] == first["user"]
        zoe.send({"text": "hi", "ref": "r"})
        assert zoe.receive_type("error")["code"] == "forbidden"
        zoe.send({"type": "join", "room": "reads", "username": "Zoe"})
        again = zoe.receive_type("joined")
        assert (again["user"], again["username"]) == (joined["user"], "Zoe")
        assert alice.receive_type("join")["user"] == joined["user"]
        zoe.send({"text": "hi"})
        assert alice.receive_type("message")["username"] == "Zoe"
        while alice.receive_type("presence")["spectators"] != 0:
            pass


def test_spectators_of_all_processes_are_counted(server: Server) -> None:
    """The members hear of each, and of its end without a close frame."""
    with connected(server.port) as alice, ExitStack() as opened:
        alice.join(room="many", username="Alice")
        zoes = [opened.enter_context(connected(server.port, "/ws?room=many")) for _ in range(6)]
        while alice.receive_type("presence")["spectators"] != 6:
            pass
        zoes[0].close()
        assert alice.receive_type("presence")["spectators"] == 5


def test_guest_and_users_of_tokens_share_a_name(server: Server) -> None:
    """The guest keeps the name, and each token gets a number of its own in all tabs."""
    with ExitStack() as opened:

        def client() -> Client:
            return opened.enter_context(connected(server.port))

        assert client().join(room="names", username="Ann")["username"] == "Ann"
        for sub, name in (("1", "Ann (2)"), ("2", "Ann (3)"), ("1", "Ann (2)")):
            joined = client().join(room="names", token=token(server, sub, name="Ann"))
            assert (joined["user"], joined["username"]) == (f"u_{sub}", name)
        taken = client()
        taken.send({"type": "join", "room": "names", "username": "Ann (2)"})
        assert taken.receive_type("error")["code"] == "username_taken"


def test_moderator_removes_a_guest_by_their_id(server: Server) -> None:
    """All connections of the session end, under all names and without one."""
    rooms = {"*": ["read", "write", "moderate"]}
    with ExitStack() as opened:

        def client() -> Client:
            return opened.enter_context(connected(server.port))

        tabs = [client() for _ in range(3)]
        joined = tabs[0].join(room="removals", username="Spam")
        session = joined["session"]
        assert tabs[1].join(room="removals", username="Ham", session=session)["online"] == 2
        tabs[2].join(room="removals", session=session)
        mod = client()
        assert mod.join(room="removals", token=token(server, "m", rooms=rooms))["online"] == 3
        mod.send({"type": "remove", "user": joined["user"], "seconds": 60})
        assert mod.receive_type("removed")["username"] == "Spam"
        assert [tab.receive_end() for tab in tabs] == [4503] * 3
        again = client()
        again.send({"type": "join", "room": "removals", "session": session})
        assert again.receive_type("error")["code"] == "forbidden"


def test_address_in_a_token_is_not_shown(server: Server) -> None:
    """Everybody sees a digest, and the log says so without the address."""
    with connected(server.port) as client:
        joined = client.join(room="mail", token=token(server, "bob@example.org"))
        assert re.fullmatch("u_~[A-Za-z0-9_-]{16}", joined["user"])
        assert joined["username"] == "bob"
        client.send({"text": "hello"})
        message = client.receive_type("message")
    assert "example.org" not in str(message)


def kill_relay(server: Server) -> None:
    (relay,) = (pid for pid, name in parts_of(server.pid).items() if name == "relay")
    os.kill(relay, signal.SIGKILL)


def test_spectators_outlive_the_relay(tmp_path: Path) -> None:
    """The next relay counts those of all workers, and none of them is disconnected."""
    with running_server("--workers", "2", "--data", str(tmp_path)) as server, ExitStack() as opened:
        zoes = [opened.enter_context(connected(server.port, "/ws?room=a")) for _ in range(5)]
        for zoe in zoes:
            zoe.receive_type("joined")
        kill_relay(server)

        def counted() -> bool:
            with connected(server.port, "/ws?room=a") as other:
                event = other.receive()
                return event["type"] == "joined" and event["spectators"] == 6

        wait_until(counted)
        alice = opened.enter_context(connected(server.port))
        alice.join(room="a", username="Alice")
        alice.send({"text": "hello"})
        for zoe in zoes:
            assert zoe.receive_type("message")["text"] == "hello"


def test_ids_outlive_the_relay_of_a_history_in_memory(tmp_path: Path) -> None:
    """The supervisor gives the next relay the same secret, so a guest is still the same user."""
    arguments = ("--workers", "2", "--history", "memory", "--data", str(tmp_path))
    with running_server(*arguments) as server:
        with connected(server.port) as alice:
            joined = alice.join(room="a", username="Alice")
        kill_relay(server)

        def is_the_same() -> bool:
            with connected(server.port) as again:
                join = {"type": "join", "username": "Alice", "session": joined["session"]}
                again.send(join)
                return again.receive().get("user") == joined["user"]

        wait_until(is_the_same)


def test_spectators_can_be_switched_off() -> None:
    """A join without a name is refused then, also by the address."""
    with (
        running_server("--history", "memory", "--spectators", "off") as server,
        connected(server.port, "/ws?room=a") as client,
    ):
        assert client.receive_type("error")["code"] == "bad_username"
        assert client.join(room="a", username="Alice")["spectators"] == 0
