"""Tests of servers that require tokens, over real connections."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from support import server_in_thread
from support.raw_websocket import Client, connected
from support.server import TIMEOUT_UNIT_S, running_server

SECRET = "an-Elephant-never-forgets-32-bytes"

EVERY_COMMAND: dict[str, dict[str, Any]] = {
    "join": {"type": "join", "username": "Alice"},
    "join with an empty token": {"type": "join", "username": "Alice", "token": ""},
    "message": {"text": "Hello", "room": "lobby"},
    "edit": {"type": "edit", "offset": 1, "text": "x", "room": "lobby"},
    "delete": {"type": "delete", "offset": 1, "room": "lobby"},
    "react": {"type": "react", "offset": 1, "emoji": "👋", "room": "lobby"},
    "typing": {"type": "typing", "room": "lobby"},
    "history": {"type": "history", "room": "lobby"},
    "search": {"type": "search", "query": "x", "room": "lobby"},
    "remove": {"type": "remove", "username": "Bob", "room": "lobby"},
    "upload": {"type": "upload", "name": "a.txt", "size": 1, "room": "lobby"},
    "leave": {"type": "leave", "room": "lobby"},
    "ping": {"type": "ping"},
}


def token(
    sub: str = "u-1", name: str | None = "Alice", *, lasts_s: float = 600, **more: Any
) -> str:
    claims = {"sub": sub, "exp": int(time.time() + lasts_s), **more}
    if name is not None:
        claims["name"] = name
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("keys") / "secret"
    file.write_text(SECRET + "\n", "ascii")
    return str(file)


@pytest.fixture(scope="module")
def server(key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[server_in_thread.Server]:
    data = str(tmp_path_factory.mktemp("data"))  # in memory there would be no files
    with server_in_thread.serving(
        auth="jwt", jwt_key_file=(key,), history="sqlite", data=data
    ) as server:
        yield server


@contextlib.contextmanager
def offering(server: Any, *names: str, target: str = "/ws") -> Iterator[Client]:
    """A client whose handshake offers these subprotocols."""
    with connected(
        server.port, target, headers={"Sec-WebSocket-Protocol": ", ".join(names)}
    ) as client:
        yield client


def refused(client: Client) -> tuple[str, int]:
    """The code of the client's next error, and the close code that follows it."""
    error = client.receive_type("error")
    return error["code"], client.receive_end()


# Without a token


@pytest.mark.parametrize("command", EVERY_COMMAND.values(), ids=EVERY_COMMAND.keys())
def test_commands_without_a_token_are_refused(
    server: server_in_thread.Server, command: dict[str, Any]
) -> None:
    """Each command gets `unauthorized` and 4501, and has no effect."""
    before = server.call(lambda: server.rooms.occupancy[:2])  # rooms and users
    with connected(server.port) as client:
        client.send({**command, "ref": "1"})
        error = client.receive()
        assert (error["type"], error["code"], error["ref"]) == ("error", "unauthorized", "1")
        assert not error["temporary"]
        assert client.receive_end() == 4501
    assert server.call(lambda: server.rooms.occupancy[:2]) == before


def test_commands_behind_a_refused_one_have_no_effect(server: server_in_thread.Server) -> None:
    """Commands in the same segment are not run, not even a `join` with a token."""
    with connected(server.port) as client:
        client.send({"text": "Hello", "room": "lobby"})
        client.send({"type": "join", "room": "late", "token": token()})
        assert refused(client) == ("unauthorized", 4501)
    assert server.names("late") == []


def test_join_by_address_needs_a_token(server: server_in_thread.Server) -> None:
    """The address can join a room, but cannot contain a token."""
    for target in ("/ws?username=Alice", f"/ws?username=Alice&token={token()}"):
        with connected(server.port, target) as client:
            assert refused(client) == ("unauthorized", 4501)


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        jwt.encode({"sub": "x", "exp": 9_999_999_999}, "another" * 6, algorithm="HS256"),
        jwt.encode({"sub": "x"}, SECRET, algorithm="HS256"),
        "x" * 60_000,
    ],
    ids=["nonsense", "wrong key", "no exp", "huge"],
)
def test_bad_token_closes_the_connection(server: server_in_thread.Server, bad: str) -> None:
    """The connection is closed with 4501; test_tokens has the table of bad tokens."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": bad})
        assert refused(client) == ("unauthorized", 4501)
    if len(bad) < 8000:
        with offering(server, "fastchat.v1", f"fastchat.token.{bad}") as client:
            assert refused(client) == ("unauthorized", 4501)


def test_token_that_is_no_string_is_a_bad_command(server: server_in_thread.Server) -> None:
    """A token of another JSON type is refused before it is verified."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": 5})
        assert client.receive()["code"] == "bad_command"


# With a token


def test_token_determines_the_users_name(server: server_in_thread.Server) -> None:
    """The name in `joined` is the token's, whatever the client sends."""
    with connected(server.port) as client:
        joined = client.join(room="names", username="Mallory", token=token())
        assert joined["username"] == "Alice"
        assert joined["users"] == [{"user": "u_u-1", "username": "Alice"}]
        client.send({"text": "Hello", "username": "Mallory", "user": "u_x", "moderated": True})
        message = client.receive_type("message")
        assert (message["user"], message["username"]) == ("u_u-1", "Alice")


def test_token_can_be_an_offered_subprotocol(server: server_in_thread.Server) -> None:
    """The subprotocol with the token is neither selected nor echoed."""
    offered = f"fastchat.token.{token()}"
    target = "/ws?username=Somebody&room=offered"
    with offering(server, "fastchat.v1", offered, target=target) as client:
        assert client.response.headers["sec-websocket-protocol"] == "fastchat.v1"
        assert offered not in str(client.response)
        assert client.receive_type("joined")["username"] == "Alice"
    # The token has a name, so its user is never a spectator.
    with offering(server, offered, target="/ws?room=offered") as client:
        assert client.receive_type("joined")["username"] == "Alice"
    with offering(server, offered) as client:
        assert "sec-websocket-protocol" not in client.response.headers
        assert client.join(room="offered")["username"] == "Alice"


def test_connections_with_one_subject_are_one_user(server: server_in_thread.Server) -> None:
    """The same `sub` is the same user without a `session`; another one is another user."""
    with connected(server.port) as first, connected(server.port) as second:
        first.join(room="tabs", token=token())
        assert second.join(room="tabs", token=token())["online"] == 1
        for name in ("Alice", "ALICE", "А1iсе"):
            with connected(server.port) as other:
                joined = other.join(room="tabs", token=token("u-2", name))
                assert joined["username"] == f"{name} (2)"
                assert joined["online"] == 2
                other.send({"type": "leave"})
                other.receive_type("left")


def test_subject_is_the_author_of_messages(server: server_in_thread.Server) -> None:
    """A user can edit their messages from any device; another user cannot, under any name."""
    message = {"text": "Hello", "id": "m-1"}
    with connected(server.port) as client:
        client.join(room="authors", token=token())
        client.send(message)
        offset = client.receive_type("message")["offset"]
        client.send({"type": "leave"})
        client.receive_type("left")
    with connected(server.port) as client:
        client.join(room="authors", token=token(name="Alicia"))
        client.send(message)
        assert client.receive_type("ack")["offset"] == offset
        client.send({"type": "edit", "offset": offset, "text": "Hello!"})
        assert client.receive_type("edit")["target"] == offset
        client.send({"type": "leave"})
        client.receive_type("left")
    with connected(server.port) as client:
        client.join(room="authors", token=token("u-2"))
        client.send({"type": "edit", "offset": offset, "text": "Bye"})
        assert client.receive_type("error")["code"] == "forbidden"
        client.send(message)
        assert client.receive_type("message")["id"] == "m-1"


# Rights


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        (["read"], {"history", "search"}),
        (
            ["read", "write"],
            {"typing", "history", "search", "message", "edit", "delete", "react", "upload"},
        ),
        (["read", "moderate"], {"history", "search", "edit", "delete", "remove"}),
    ],
    ids=["reads", "writes", "moderates"],
)
def test_command_without_the_right_is_forbidden(
    server: server_in_thread.Server, rights: list[str], allowed: set[str]
) -> None:
    """A command for which the token gives no right gets `forbidden` and has no effect."""
    room = "rights-" + "-".join(rights)
    with connected(server.port) as owner, connected(server.port) as client:
        owner.join(room=room, token=token("owner", "Owner"))
        owner.send({"text": "first"})
        owner.receive_type("message")
        client.join(room=room, token=token(rooms={room: rights}))
        for kind, command in EVERY_COMMAND.items():
            if kind in ("ping", "leave") or kind.startswith("join"):
                continue
            client.send({**command, "room": room, "offset": 99, "ref": kind})
            client.send({"type": "ping", "ref": "end"})
            codes = []
            while (answer := client.receive()).get("ref") != "end":
                codes.append(answer.get("code"))
            assert ("forbidden" not in codes) == (kind in allowed), (kind, codes)


def test_refusal_does_not_reveal_whether_a_room_exists(server: server_in_thread.Server) -> None:
    """A room with users and one without give the same error."""
    with connected(server.port) as other, connected(server.port) as client:
        other.join(room="secret", token=token("u-2", "Bob"))
        client.join(room="lobby", token=token(rooms={"lobby": "read", "*": []}))
        answers = []
        for room in ("secret", "nobody-here"):
            client.send({"type": "join", "room": room})
            answers.append(client.receive())
            client.send({"text": "x", "room": room})
            answers.append(client.receive())
        assert answers[0] == answers[2]
        assert answers[0]["code"] == "forbidden"
        assert answers[1]["code"] == answers[3]["code"] == "not_joined"


# Expiry and renewal


def test_expired_token_closes_with_4011(server: server_in_thread.Server) -> None:
    """The close code tells a client to get a new token."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": token(lasts_s=-60)})
        assert refused(client) == ("unauthorized", 4011)


def test_connection_ends_with_its_token(server: server_in_thread.Server) -> None:
    """When the token expires, its connection gets `closing` and 4011; others stay."""
    with connected(server.port) as other, connected(server.port) as client:
        other.join(room="ends", token=token("u-2", "Bob"))
        short = token(lasts_s=3)
        expires_s = jwt.decode(short, options={"verify_signature": False})["exp"]
        client.join(room="ends", token=short)
        closing = client.receive_type("closing")
        assert (closing["code"], client.receive_end()) == (4011, 4011)
        assert expires_s <= time.time() < expires_s + 5
        other.send({"type": "ping"})
        other.receive_type("pong")


def test_token_can_be_renewed_on_a_connection(server: server_in_thread.Server) -> None:
    """A `join` for a room that the client is in renews its token without other effects."""
    with connected(server.port) as client:
        client.join(room="renewed", token=token(lasts_s=3))
        client.send({"type": "join", "room": "renewed", "token": token(lasts_s=600), "ref": "1"})
        renewed = client.receive()
        assert (renewed["type"], renewed["username"], renewed["ref"]) == ("renewed", "Alice", "1")
        assert renewed["expires"].endswith("Z")
        time.sleep(4.5)
        client.send({"type": "ping"})
        assert client.receive()["type"] == "pong"


def test_join_of_another_room_renews_the_token(server: server_in_thread.Server) -> None:
    """The reply to a `join` with a new token for another room is `joined`."""
    with connected(server.port) as client:
        client.join(room="one", token=token(rooms={"one": "read"}))
        client.send({"type": "join", "room": "two"})
        assert client.receive()["code"] == "forbidden"
        assert client.join(room="two", token=token())["room"] == "two"


def test_renewal_must_be_for_the_same_user_and_rooms(server: server_in_thread.Server) -> None:
    """Another user's token closes the connection; a token for other rooms changes nothing."""
    with connected(server.port) as client:
        client.join(room="mine", token=token())
        client.send({"type": "join", "room": "mine", "token": token(rooms={"other": "read"})})
        assert client.receive()["code"] == "forbidden"
        client.send({"text": "still here"})
        client.receive_type("message")
        client.send({"type": "join", "room": "mine", "token": token("u-2")})
        assert refused(client) == ("unauthorized", 4501)


# The command line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tokens_are_not_logged(key: str, tmp_path: Path, workers: str) -> None:
    """Valid or not, in a header, a command or an address: the log has no token."""
    arguments = ("--auth", "jwt", "--jwt-key-file", key, "--workers", workers)
    more = ("--data", str(tmp_path / "data"), "--log-level", "debug")
    good, bad = token(name="Good"), token(name="Bad")[:-4] + "AAAA"
    with running_server(*arguments, *more) as server:
        for each, code in ((good, None), (bad, 4501), (token(lasts_s=-60), 4011)):
            with connected(server.port) as client:
                client.send({"type": "join", "token": each})
                if code is None:
                    client.receive_type("joined")
                else:
                    assert refused(client) == ("unauthorized", code)
            offered = f"fastchat.token.{each}"
            with offering(server, "fastchat.v1", offered) as client:
                if code is None:
                    client.join()
                else:
                    assert refused(client) == ("unauthorized", code)
            with connected(server.port, f"/ws?username=x&token={each}") as client:
                assert refused(client)[0] == "unauthorized"
            with connected(server.port) as client:
                client.write(b"\x81\x85\x00\x00\x00\x00" + each.encode()[:5])
        assert server.stop() == 0
    said = server.output + server.errors
    assert "a token is refused" in said
    for each in (good, bad):
        for part in each.split("."):
            assert part not in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_does_not_start_with_a_bad_key(tmp_path: Path, workers: str) -> None:
    """The server ends with one sentence and status 2, whichever process reads the key."""
    file = tmp_path / "key"
    file.write_text("short", "ascii")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "fastchat", "serve", "--port", "0", "--workers", workers),
            *("--data", str(tmp_path / "data"), "--auth", "jwt", "--jwt-key-file", str(file)),
        ],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "32 are needed" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_relative_key_paths_start_at_the_working_directory(key: str, tmp_path: Path) -> None:
    """Paths on the command line and in the environment can be relative."""
    os.link(key, tmp_path / "linked")
    environment = {**os.environ, "FASTCHAT_JWT_KEY_FILE": f"{key}, {tmp_path / 'linked'}"}
    ended = subprocess.run(
        [sys.executable, "-m", "fastchat", "token", "--sub", "alice", "--rooms", "lobby=read"],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
        check=True,
        env=environment,
    )
    made = jwt.decode(ended.stdout.strip(), SECRET, algorithms=["HS256"])
    assert (made["sub"], made["rooms"]) == ("alice", {"lobby": ["read"]})


def test_token_command_refuses_bad_arguments_in_one_sentence(key: str, tmp_path: Path) -> None:
    """Bad arguments end `fastchat token` with status 2."""
    for arguments, words in (
        (["--jwt-key-file", key], "--sub is missing"),
        (["--sub", "alice"], "--jwt-key-file"),
        (["--jwt-key-file", key, "--sub", "alice", "--for", "soon"], "--for"),
        (["--jwt-key-file", key, "--sub", "alice", "--rooms", "lobby=all"], "--rooms"),
        (["--jwt-key-file", key, "--sub", "alice", "--name", " "], "--name"),
        (["--new-key", key], "exists already"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "fastchat", "token", *arguments],
            capture_output=True,
            text=True,
            timeout=20 * TIMEOUT_UNIT_S,
            check=False,
            cwd=tmp_path,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert words in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
