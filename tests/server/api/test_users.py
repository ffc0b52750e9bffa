"""Users over HTTP: presence, bans, export, erasure and tokens."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import jwt

from fastchat.api.keys import ApiRight
from fastchat.auth.issuing import make_token
from fastchat.errors import CloseCode
from server.api.conftest import Place
from support.api import Client, api_client, made_key
from support.raw_websocket import Client as Socket
from support.raw_websocket import connected
from support.server_in_thread import serving


def joined(place: Place, socket: Socket, room: str, subject: str) -> None:
    """Join a room as a user with a token."""
    token = make_token(place.folder / "secret", subject=subject, duration_s=60, name="Ann")
    socket.send({"type": "join", "room": room, "token": token})
    socket.receive_type("joined")


def test_presence(place: Place, api: Client, room: str) -> None:
    """A room lists its users, and a user the rooms that they are in."""
    other = place.room()
    with connected(place.server.port) as ann:
        for name in (room, other):
            joined(place, ann, name, f"ann/{room}")
        (user,) = api("GET", f"/rooms/{room}/users").json["users"]
        assert set(user) == {"user", "username", "connections", "since"}
        assert (user["user"], user["username"], user["connections"]) == (f"u_ann/{room}", "Ann", 1)
        path = f"/users/{quote(user['user'], safe='')}"
        assert [each["room"] for each in api("GET", path).json["rooms"]] == [room, other]
        with closing(place.client(ApiRight.READ, rooms=[other])) as client:
            assert [each["room"] for each in client("GET", path).json["rooms"]] == [other]
    assert api("GET", "/users/nobody").status == 400
    assert api("GET", "/users/u_nobody").json == {"user": "u_nobody", "rooms": []}


def test_ban(place: Place, api: Client, room: str) -> None:
    """A banned user is closed and kept out, even if they were away, until the ban is lifted."""
    user, path = f"u_{room}", f"/users/u_{room}/ban"
    with connected(place.server.port) as ann:
        joined(place, ann, room, room)
        assert api("PUT", path, {"seconds": 60, "room": room}).json["seconds"] == 60
        assert ann.receive_end() == CloseCode.REMOVED
    bans = [each for each in api("GET", "/bans").json["bans"] if each["user"] == user]
    assert [(each["room"], "T" in each["until"]) for each in bans] == [(room, True)]
    with closing(place.client(ApiRight.MODERATE, rooms=["other"])) as client:
        assert client("GET", "/bans").json == {"bans": []}
    with connected(place.server.port) as ann:
        token = make_token(place.folder / "secret", subject=room, duration_s=60)
        ann.send({"type": "join", "room": room, "token": token})
        assert ann.receive_type("error")["code"] == "forbidden"
        assert api("DELETE", f"{path}?room={room}").status == 204
        joined(place, ann, room, room)
    assert api("DELETE", f"{path}?room={room}").status == 404
    for wrong in ({}, {"seconds": 0}, {"seconds": "60"}, {"seconds": 1, "room": "A b"}):
        assert api("PUT", path, wrong).status == 400


def test_disconnect(place: Place, api: Client, room: str) -> None:
    """A user who is disconnected can come back at once."""
    with connected(place.server.port) as ann:
        joined(place, ann, room, room)
        path = f"/users/u_{room}/disconnect"
        assert api("POST", path, {"room": room, "reason": "cleaning"}).json == {"rooms": 1}
        ann.receive_end()
    assert api("POST", path).json == {"rooms": 0}
    with connected(place.server.port) as ann:
        joined(place, ann, room, room)


def test_export_and_erasure(place: Place, api: Client, room: str) -> None:
    """A user's messages can be exported as JSON Lines, and erased everywhere."""
    author = {"user": f"u_{room}", "username": "Ann"}
    path = f"/rooms/{room}/messages"
    for text in ("first", "second"):
        api("POST", path, {"text": text, **author})
    api("POST", path, {"text": "of another"})
    reply = api("GET", f"/users/u_{room}/export")
    assert reply.headers["content-type"].startswith("application/jsonl")
    assert [json.loads(line)["text"] for line in reply.body.splitlines()] == ["first", "second"]
    assert api("DELETE", f"/users/u_{room}").json["messages"] == 2
    texts = [each["text"] for each in api("GET", path).json["messages"]]
    assert texts == ["", "", "of another"]
    assert api("GET", f"/users/u_{room}/export").body == b""


def test_tokens(place: Place, api: Client) -> None:
    """A key makes tokens that the server accepts, with the rights that were asked for."""
    rooms = {"lobby": ["read", "write"], "*": ["read"]}
    reply = api("POST", "/tokens", {"sub": "7", "name": "Ann", "rooms": rooms, "ttl": 90})
    assert reply.status == 201
    secret = (place.folder / "secret").read_text("ascii").strip()
    claims = jwt.decode(reply.json["token"], secret, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] == 90
    assert (claims["sub"], claims["name"], claims["rooms"]) == ("7", "Ann", rooms)
    with connected(place.server.port) as ann:
        ann.send({"type": "join", "room": "lobby", "token": reply.json["token"]})
        assert ann.receive_type("joined")["user"] == "u_7"
    with closing(place.client(ApiRight.ADMIN, rooms=["a*"])) as client:
        assert client("POST", "/tokens", {"sub": "7", "rooms": {"ab": ["read"]}}).status == 201
    for wrong in (
        {"sub": ""},
        {"sub": "a\u200bb"},
        {"sub": "7", "name": "a\nb"},
        {"sub": "7", "ttl": 0},
        {"sub": "7", "ttl": 10**9},
        {"sub": "7", "rooms": {"lobby": ["admin"]}},
        {"sub": "7", "rooms": {"lobby": "read"}},
        {"sub": "7", "rooms": {"Lobby": ["read"]}},
    ):
        assert api("POST", "/tokens", wrong).status == 400, wrong


def test_no_secret_no_tokens(tmp_path: Path) -> None:
    """A server that accepts no tokens makes none."""
    key = made_key(tmp_path / "keys")
    with (
        serving(api_key_file=str(tmp_path / "keys")) as server,
        api_client(server.port, key) as api,
    ):
        reply = api("POST", "/tokens", {"sub": "7"})
        assert (reply.status, reply.json["code"]) == (409, "conflict")
        reply = api("POST", "/rooms/a/files?name=x", b"x")
        assert (reply.status, reply.json["code"]) == (403, "forbidden")
