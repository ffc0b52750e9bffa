"""Who comes in where tokens are asked for, and what he may do: over real connections."""

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
    """A client that offers these subprotocols."""
    with connected(
        server.port, target, headers={"Sec-WebSocket-Protocol": ", ".join(names)}
    ) as client:
        yield client


def refused(client: Client) -> tuple[str, int]:
    """The error's code, and the close code after it."""
    error = client.receive_type("error")
    return error["code"], client.receive_end()


# Without a token


@pytest.mark.parametrize("command", EVERY_COMMAND.values(), ids=EVERY_COMMAND.keys())
def test_nothing_is_done_without_a_token(
    server: server_in_thread.Server, command: dict[str, Any]
) -> None:
    """`unauthorized`, and 4501: whatever it was, nothing has happened."""
    before = server.call(lambda: (server.rooms.room_count, server.rooms.user_count))
    with connected(server.port) as client:
        client.send({**command, "ref": "1"})
        error = client.receive()
        assert (error["type"], error["code"], error["ref"]) == ("error", "unauthorized", "1")
        assert not error["temporary"]
        assert client.receive_end() == 4501
    assert server.call(lambda: (server.rooms.room_count, server.rooms.user_count)) == before


def test_what_comes_after_a_refusal_is_not_done(server: server_in_thread.Server) -> None:
    """Also in the same segment, and with a token."""
    with connected(server.port) as client:
        client.send({"text": "Hello", "room": "lobby"})
        client.send({"type": "join", "room": "late", "token": token()})
        assert refused(client) == ("unauthorized", 4501)
    assert server.names("late") == []


def test_shortcut_needs_a_token_too(server: server_in_thread.Server) -> None:
    """And never one in the address."""
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
def test_bad_token_is_the_end(server: server_in_thread.Server, bad: str) -> None:
    """4501; test_tokens has the long table."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": bad})
        assert refused(client) == ("unauthorized", 4501)
    if len(bad) < 8000:
        with offering(server, "fastchat.v1", f"fastchat.token.{bad}") as client:
            assert refused(client) == ("unauthorized", 4501)


def test_token_that_is_no_text_is_a_bad_command(server: server_in_thread.Server) -> None:
    """It is not even looked at."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": 5})
        assert client.receive()["code"] == "bad_command"


# With one


def test_token_is_who_somebody_is(server: server_in_thread.Server) -> None:
    """Its name, whatever the client says; `joined` tells."""
    with connected(server.port) as client:
        joined = client.join(room="names", username="Mallory", token=token())
        assert joined["username"] == "Alice"
        assert joined["users"] == ["Alice"]
        client.send({"text": "Hello", "username": "Mallory", "author": "sub:x", "moderated": True})
        assert client.receive_type("message")["username"] == "Alice"


def test_token_comes_as_an_offered_subprotocol(server: server_in_thread.Server) -> None:
    """It is never selected and never echoed."""
    offered = f"fastchat.token.{token()}"
    target = "/ws?username=Somebody&room=offered"
    with offering(server, "fastchat.v1", offered, target=target) as client:
        assert client.response.headers["sec-websocket-protocol"] == "fastchat.v1"
        assert offered not in str(client.response)
        assert client.receive_type("joined")["username"] == "Alice"
    with offering(server, offered) as client:
        assert "sec-websocket-protocol" not in client.response.headers
        assert client.join(room="offered")["username"] == "Alice"


def test_user_has_one_name_however_often_he_comes(server: server_in_thread.Server) -> None:
    """The same `sub` is the same user, without any `session`; another one is not."""
    with connected(server.port) as first, connected(server.port) as second:
        first.join(room="tabs", token=token())
        assert second.join(room="tabs", token=token())["online"] == 1
        for name in ("Alice", "ALICE", "А1iсе"):
            with connected(server.port) as other:
                other.send({"type": "join", "room": "tabs", "token": token("u-2", name)})
                assert other.receive()["code"] == "username_taken"


def test_author_and_sender_are_the_subject(server: server_in_thread.Server) -> None:
    """From any device one may edit what one wrote; nobody else may, under the same name."""
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
        (["read"], {"typing", "history", "search"}),
        (
            ["read", "write"],
            {"typing", "history", "search", "message", "edit", "delete", "react", "upload"},
        ),
        (["read", "moderate"], {"typing", "history", "search", "edit", "delete", "remove"}),
    ],
    ids=["reads", "writes", "moderates"],
)
def test_rights_are_what_one_may_do(
    server: server_in_thread.Server, rights: list[str], allowed: set[str]
) -> None:
    """`forbidden`, and nothing else, for what one may not."""
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


def test_rooms_without_the_right_to_read_are_all_the_same(server: server_in_thread.Server) -> None:
    """Whether there is somebody in a room is not given away."""
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


# The end of a token


def test_expired_token_is_told(server: server_in_thread.Server) -> None:
    """4011: whoever comes with an old one is to get a new one."""
    with connected(server.port) as client:
        client.send({"type": "join", "token": token(lasts_s=-60)})
        assert refused(client) == ("unauthorized", 4011)


def test_connection_ends_with_its_token(server: server_in_thread.Server) -> None:
    """4011 within 5 s, after a `closing`; the others stay."""
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


def test_token_is_renewed_on_a_live_connection(server: server_in_thread.Server) -> None:
    """By a `join` for a room one is in; nothing else happens in it."""
    with connected(server.port) as client:
        client.join(room="renewed", token=token(lasts_s=3))
        client.send({"type": "join", "room": "renewed", "token": token(lasts_s=600), "ref": "1"})
        renewed = client.receive()
        assert (renewed["type"], renewed["username"], renewed["ref"]) == ("renewed", "Alice", "1")
        assert renewed["expires"].endswith("Z")
        time.sleep(4.5)
        client.send({"type": "ping"})
        assert client.receive()["type"] == "pong"


def test_renewal_may_come_with_another_room(server: server_in_thread.Server) -> None:
    """The reply is that of any `join`."""
    with connected(server.port) as client:
        client.join(room="one", token=token(rooms={"one": "read"}))
        client.send({"type": "join", "room": "two"})
        assert client.receive()["code"] == "forbidden"
        assert client.join(room="two", token=token())["room"] == "two"


def test_renewal_is_for_the_same_user_and_his_rooms(server: server_in_thread.Server) -> None:
    """Another's token ends the connection; one that is for other rooms changes nothing."""
    with connected(server.port) as client:
        client.join(room="mine", token=token())
        client.send({"type": "join", "room": "mine", "token": token(rooms={"other": "read"})})
        assert client.receive()["code"] == "forbidden"
        client.send({"text": "still here"})
        client.receive_type("message")
        client.send({"type": "join", "room": "mine", "token": token("u-2")})
        assert refused(client) == ("unauthorized", 4501)


# As it is run


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_token_is_in_what_a_server_says(key: str, tmp_path: Path, workers: str) -> None:
    """Good or bad, offered or in a command, in an address even: the log has none of them."""
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
    """One sentence and status 2, whichever process has read it."""
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


def test_keys_are_read_where_the_server_was_started(key: str, tmp_path: Path) -> None:
    """A path is that of the command line, and may be one of several in the environment."""
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


def test_token_command_complains_in_a_sentence(key: str, tmp_path: Path) -> None:
    """Status 2."""
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
