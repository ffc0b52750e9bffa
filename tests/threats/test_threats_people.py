"""Impersonation, names that look alike, and secrets that could be guessed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import jwt
import pytest

from support.raw_websocket import connected
from support.server import Server, running_server

SECRET = "a-Secret-of-more-than-32-bytes-in-all"
COMMANDS: list[dict[str, Any] | str] = [
    {"text": "injected"},
    {"text": "injected", "token": SECRET},
    {"type": "message", "room": "lobby", "text": "injected", "id": "1"},
    {"type": "edit", "room": "lobby", "offset": 1, "text": "injected"},
    {"type": "delete", "room": "lobby", "offset": 1},
    {"type": "react", "room": "lobby", "offset": 1, "emoji": "👋"},
    {"type": "typing", "room": "lobby"},
    {"type": "history", "room": "lobby"},
    {"type": "search", "room": "lobby", "query": "first"},
    {"type": "leave", "room": "lobby"},
    {"type": "remove", "room": "lobby", "username": "Alice"},
    {"type": "ping"},
    {"type": "join", "room": "lobby", "username": "Alice"},
    {"type": "join", "room": "lobby", "username": "Alice", "session": "s" * 20},
    {"type": "join", "room": "lobby", "token": None, "username": "Alice"},
    {"type": "connect", "data": {}},
]


def token(sub: str, name: str, **more: Any) -> str:
    claims = {"sub": sub, "name": name, "exp": int(time.time()) + 600, **more}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("keys") / "secret"
    file.write_text(SECRET, "ascii")
    return str(file)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--data", str(tmp_path_factory.mktemp("data")), "--limits", "off")
    with running_server(*arguments) as server:
        yield server
        assert server.stop() == 0
    assert "Traceback" not in server.errors


@pytest.mark.parametrize("workers", ["1", "2"])
def test_client_without_a_token_leaves_no_trace(workers: str, key: str, tmp_path: Path) -> None:
    """T2. A client whose first command has no token gets 4501, and the room, its history and its
    members are as before."""
    arguments = ("--data", str(tmp_path), "--auth", "jwt", "--jwt-key-file", key)
    with (
        running_server(*arguments, "--workers", workers) as server,
        connected(server.port) as alice,
    ):
        alice.join(room="lobby", token=token("u-1", "Alice"))
        alice.send({"text": "first"})
        first = alice.receive_type("message")
        for command in COMMANDS:
            with connected(server.port) as stranger:
                stranger.send(command)
                stranger.send({"text": "injected", "room": "lobby"})
                error = stranger.receive()
                assert (error["type"], error["code"]) in {
                    ("error", "unauthorized"),
                    ("error", "bad_command"),
                }
                assert stranger.receive_end() == 4501
        alice.send({"type": "history", "ref": "r"})
        heard = alice.receive()
        assert heard["type"] == "history", "and nothing before it"
        assert heard["messages"] == [first]


FORGED: dict[str, Any] = {
    "username": "Admin",
    "from": "Admin",
    "user": {"name": "Admin"},
    "author": "0" * 18,
    "timestamp": "1999-01-01T00:00:00.000Z",
    "ts": 0,
    "epoch": "forged",
    "session": "f" * 20,
    "moderated": True,
    "edited": "1999-01-01T00:00:00.000Z",
    "deleted": True,
    "reactions": {"👋": "Admin"},
    "kind": "delete",
    "target": 1,
    "online": 99,
    "token": "x.y.z",
    "__proto__": {"admin": True},
}


def test_forged_fields_are_not_delivered(server: Server) -> None:
    """T3. Forged fields of messages, changes and events are not delivered."""
    with connected(server.port) as mallory, connected(server.port) as bob:
        mallory.join(room="forged", username="Mallory")
        bob.join(room="forged", username="Bob")
        mallory.receive_type("join")
        mallory.send({**FORGED, "text": "Hello", "offset": 77, "id": "mine"})
        published = bob.receive_type("message")
        assert set(published) == {
            *("type", "room", "offset", "id", "user", "username", "text", "timestamp"),
        }
        assert (published["username"], published["offset"]) == ("Mallory", 1)
        assert re.fullmatch("g_[A-Za-z0-9_-]{16}", published["user"])
        assert published["timestamp"] > "2020"
        for command in (
            {"type": "react", "emoji": "👀"},
            {"type": "edit", "text": "Hello!"},
            {"type": "delete"},
        ):
            mallory.send({**FORGED, **command, "offset": 1})
            heard = bob.receive()
            assert heard["type"] == command["type"]
            assert heard["username"] == "Mallory"
            assert set(heard) <= {
                *("type", "room", "offset", "target", "user", "username"),
                *("timestamp", "emoji", "text"),
            }
        mallory.send({**FORGED, "type": "typing"})
        who = {"user": published["user"], "username": "Mallory"}
        assert bob.receive() == {"type": "typing", "room": "forged", **who}
        mallory.send({**FORGED, "type": "leave", "room": "forged"})
        left = bob.receive()
        assert (left["type"], left["username"], left["online"]) == ("leave", "Mallory", 1)
        assert set(left) == {"type", "room", *who, "text", "timestamp", "online"}


def test_new_user_of_a_freed_name_cannot_change_its_messages(server: Server) -> None:
    """T3. The new user of a freed name can neither edit nor delete the earlier user's messages."""
    with connected(server.port) as alice:
        alice.join(room="freed", username="Alice")
        alice.send({"text": "mine", "id": "m-1"})
        alice.receive_type("message")
        alice.send({"type": "leave"})
        alice.receive_type("left")
        with connected(server.port) as mallory:
            mallory.join(room="freed", username="Alice", session="guessed-session-of-hers")
            for command in ({"type": "edit", "text": "yours"}, {"type": "delete"}):
                mallory.send({**command, "offset": 1})
                assert mallory.receive()["code"] == "forbidden"


LOOKS = [
    "Admin", "ADMIN", "аdmin", "аdmіn", "admіn", "adm1n", "admln", "adm|n", "adrnin", "ａdmin",
    "ａｄｍｉｎ", "𝐚𝐝𝐦𝐢𝐧", "𝖆𝖉𝖒𝖎𝖓", "ⓐdmin", "ᵃdmin", "αdmin", "admiո", "admⅰn", "ɑdmin",
    "admın", "adｍin", "𝘢𝘥𝘮𝘪𝘯", "𝚊dmin", "admin\ufe0f", "аdmіn\ufe0f", "Аdmin", "ΑDMIN", "ADМIN",
    "ADMІN",     "ᎪDMIN", "aⅾⅿin",
]  # fmt: skip
UNSEEN = [
    *("admin\u200b", "\u200badmin", "ad\u200dmin", "admin\u2060", "ad\u00admin", "admin\ufeff"),
    *("\u202enimda", "\u2066admin\u2069", "admin\u200f", "admin\u061c", "admin\u034f"),
    *("admin\u3164", "admin\u115f", " admin", "admin ", "admin\u00a0", "\u3000admin"),
    *("admin\n", "admin\x00", "admin\x7f", "admin\x85", "admin\U000e0061", "ad\ufe00min"),
]


def test_names_that_look_alike_are_refused(server: Server) -> None:
    """T25. Thirty look-alikes of `admin` are refused as taken, and invisible characters are not a
    name."""
    with connected(server.port) as admin, connected(server.port) as mallory:
        admin.join(room="alike", username="admin")
        for name in [*LOOKS, *UNSEEN]:
            mallory.send({"type": "join", "room": "alike", "username": name})
            answer = mallory.receive()
            wanted = "bad_username" if name in UNSEEN else "username_taken"
            assert (answer["type"], answer.get("code")) == ("error", wanted), ascii(name)
        assert len(set(LOOKS)) >= 30


# Timing


def median_times(count: int, *tries: Callable[[], None]) -> list[float]:
    """Return the median time of each function, measured in turns."""
    taken: list[list[float]] = [[] for _ in tries]
    for _ in range(count):
        for index, attempt in enumerate(tries):
            begun = time.perf_counter()
            attempt()
            taken[index].append(time.perf_counter() - begun)
    return [median(times) for times in taken]


def take_the_same_time(count: int, *tries: Callable[[], None]) -> bool:
    """Return whether all functions take the same time, within a twentieth; repeats if the machine
    was busy."""
    for _ in range(4):
        medians = median_times(count, *tries)
        if max(medians) < 1.05 * min(medians) + 2e-6:
            return True
    return False


def test_nearly_valid_token_takes_as_long_to_refuse(key: str) -> None:
    """T28. A signature whose first or last character is wrong, and one of another key, take equally
    long to refuse."""
    from fastchat.auth.tokens import TokenAuthenticator
    from fastchat.errors import CommandError

    authenticator = TokenAuthenticator([key])
    good = token("u-1", "Alice")
    head, body, signature = good.split(".")
    wrong = {"A": "B"}.get(signature[0], "A")
    middle = {"A": "E"}.get(signature[-3], "A")
    tokens = [
        f"{head}.{body}.{wrong}{signature[1:]}",
        f"{head}.{body}.{signature[:-3]}{middle}{signature[-2:]}",
        f"{head}.{body}." + jwt.encode({}, "x" * 40, algorithm="HS256").rpartition(".")[2],
    ]

    def attempt(bad: str) -> Callable[[], None]:
        def verify() -> None:
            with contextlib.suppress(CommandError):
                authenticator.verify(bad)
                raise AssertionError("it was let in")

        return verify

    assert authenticator.verify(good)
    assert take_the_same_time(1500, *map(attempt, tokens))


def test_secrets_are_compared_in_constant_time() -> None:
    """T28. No module compares sessions or tokens by `==`. A session is only made into a digest."""
    sources = Path(__file__).parents[2] / "src" / "fastchat"
    compared = re.compile(
        r"(session|token|secret|signature)\s*(==|!=)|(==|!=)\s*\w*\.?(session|token|secret)"
    )
    client = sources / "cli" / "tail.py"
    # The token of a ledger is no secret: it is a part of the epochs that clients get.
    ledger = {*(sources / "ledger").glob("*.py")}
    for file in {*sources.rglob("*.py")} - ledger - {client}:
        for line in file.read_text("utf-8").splitlines():
            assert not compared.search(line.partition("#")[0]), (file, line)


def test_forbidden_rooms_cannot_be_told_apart(key: str, tmp_path: Path) -> None:
    """T28. Forbidden rooms give the same answer in the same time, whether they are full, empty or
    unknown."""
    arguments = ("--data", str(tmp_path), "--auth", "jwt", "--jwt-key-file", key)
    with (
        running_server(*arguments, "--limits", "off") as server,
        connected(server.port) as owner,
        connected(server.port) as spy,
    ):
        owner.join(room="full", token=token("u-1", "Owner"))
        for _ in range(50):
            owner.send({"text": "secret"})
            owner.receive_type("message")
        spy.join(room="mine", token=token("u-2", "Spy", rooms={"mine": "read write", "*": ""}))

        def answers(room: str) -> list[dict[str, Any]]:
            found = []
            for command in ("join", "history", "search", "typing", "leave", "remove", "message"):
                fields = {"query": "x", "username": "Owner", "text": "x"}
                spy.send({"type": command, "room": room, **fields, "token": None})
                found.append(json.loads(json.dumps(spy.receive()).replace(room, "ROOM")))
            return found

        assert answers("full") == answers("void")

        def asking(room: str) -> Callable[[], None]:
            def ask() -> None:
                spy.send({"type": "join", "room": room})
                assert spy.receive()["code"] == "forbidden"

            return ask

        full, void = asking("full"), asking("void")
        for _ in range(4):
            medians = median_times(400, full, void)
            if abs(medians[0] - medians[1]) < 0.05 * min(medians) + 20e-6:
                break
        else:
            raise AssertionError(medians)


def test_sessions_cannot_be_guessed_from_one_another(server: Server) -> None:
    """T28. Each session has at least 128 random bits and is sent to its owner only."""
    sessions = set()
    for number in range(30):
        with connected(server.port) as client, connected(server.port) as other:
            other.join(room=f"s{number}", username="Other")
            session = client.join(room=f"s{number}", username=os.urandom(4).hex())["session"]
            assert len(session) >= 22
            sessions.add(session)
            assert session not in str(other.receive_type("join"))
    assert len(sessions) == 30
    assert len({session[:6] for session in sessions}) == 30
