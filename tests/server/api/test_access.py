"""Who can use the API: keys, rights, rooms and budgets."""

from __future__ import annotations

import http.client
from contextlib import closing

import pytest

from fastchat.api.key_file import revoke_key
from fastchat.api.keys import ApiRight
from fastchat.api.paths import OPERATIONS, Operation
from server.api.conftest import Place
from support.api import Client, api_client
from support.raw_websocket import connected
from support.server_in_thread import serving

VALUES = {"room": "r", "user": "u_a", "offset": "1", "emoji": "%F0%9F%91%8D"}
WITH_KEY = [operation for operation in OPERATIONS if operation.rights]


@pytest.mark.parametrize("operation", WITH_KEY, ids=lambda operation: operation.name)
def test_each_operation_needs_a_key_and_a_right(place: Place, operation: Operation) -> None:
    """Without a key the answer is 401, and with a key that has all other rights it is 403."""
    path = operation.path.format(**VALUES)
    with api_client(place.server.port, None) as nobody:
        reply = nobody(operation.method, path)
        assert (reply.status, reply.json["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"].startswith("Bearer")
    others = [right for right in ApiRight if right not in operation.rights]
    with closing(place.client(*others)) as client:
        reply = client(operation.method, path)
        assert (reply.status, reply.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "operation",
    [operation for operation in WITH_KEY if "{room}" in operation.path],
    ids=lambda operation: operation.name,
)
def test_key_is_for_its_rooms_only(place: Place, operation: Operation) -> None:
    """A key with all rights gets 403 in a room that it is not for."""
    with closing(place.client(*ApiRight, rooms=["order-*"])) as client:
        body = {"text": "x"} if operation.method in ("POST", "PATCH") else None
        reply = client(operation.method, operation.path.format(**VALUES), body)
        assert (reply.status, reply.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/users/u_a/ban", {"seconds": 5}),
        ("PUT", "/users/u_a/ban", {"seconds": 5, "room": "lobby"}),
        ("DELETE", "/users/u_a/ban", None),
        ("DELETE", "/users/u_a/ban?room=lobby", None),
        ("POST", "/users/u_a/disconnect", None),
        ("POST", "/users/u_a/disconnect", {"room": "lobby"}),
        ("GET", "/users/u_a/export", None),
        ("DELETE", "/users/u_a", None),
        ("POST", "/tokens", {"sub": "a"}),
        ("POST", "/tokens", {"sub": "a", "rooms": {"*": ["read"]}}),
        ("POST", "/tokens", {"sub": "a", "rooms": {"lobby": ["read"]}}),
        ("GET", "/events?rooms=lobby", None),
        ("GET", "/events?rooms=order-1,*", None),
        ("GET", "/events?rooms=o*", None),
    ],
)
def test_key_of_some_rooms_does_nothing_in_all(
    place: Place, method: str, path: str, body: object
) -> None:
    """What concerns all rooms, or another room, needs a key for these rooms."""
    with closing(place.client(*ApiRight, rooms=["order-*"])) as client:
        assert client(method, path, body).status == 403


def test_all_failures_look_alike(place: Place) -> None:
    """A missing, a malformed, an unknown and an ambiguous key get the same answer."""
    key = str(place.api.key)
    answers = set()
    with api_client(place.server.port, None) as client:
        for headers in (
            {},
            {"authorization": f"Basic {key}"},
            {"authorization": "Bearer"},
            {"authorization": f"Bearer {key[:-1]}"},
            {"authorization": f"Bearer {key[:-1]}\xe9"},
            {"x-api-key": key + "x"},
            {"x-api-key": key, "authorization": f"Bearer {key}"},
            {"x-upload-ticket": key},
        ):
            reply = client("GET", "/rooms", headers=headers)
            answers.add((reply.status, reply.body, reply.headers["www-authenticate"]))
        assert client("GET", f"/rooms?key={key}").status == 401
        assert client("GET", "/rooms", headers={"x-api-key": key}).status == 200
        assert client("GET", "/rooms", headers={"authorization": f"bEARER  {key} "}).status == 200
    assert len(answers) == 1


def test_revoked_key_gets_the_answer_of_an_unknown_one(place: Place) -> None:
    """After SIGHUP, a revoked key is unknown."""
    with closing(place.client(ApiRight.READ, name="gone")) as client:
        assert client("GET", "/rooms").status == 200
        revoke_key(place.keys, "gone")
        assert client("GET", "/rooms").status == 200
        place.reload()
        assert client("GET", "/rooms").status == 401


def test_budget_of_a_key(place: Place) -> None:
    """A key that has used its budget is told when to come back; others are not affected."""
    with closing(place.client(ApiRight.READ, rate=1)) as client:
        assert client("GET", "/rooms").status == 200
        replies = (client("GET", "/rooms") for _ in range(100))
        last = next(reply for reply in replies if reply.status != 200)
        assert (last.status, last.json["code"]) == (429, "rate_limited")
        assert 0 < last.json["retry_after_ms"] <= 1000
        assert last.headers["retry-after"] == "1"
        assert place.api("GET", "/rooms").status == 200


def test_publishing_to_many_rooms_costs_the_budget(place: Place) -> None:
    """A request that publishes to many rooms costs as much as so many requests."""
    with closing(place.client(ApiRight.PUBLISH, rate=1)) as client:
        rooms = [place.room() for _ in range(10)]
        assert client("POST", "/messages", {"rooms": rooms, "text": "x"}).status == 200
        refused = client("POST", f"/rooms/{rooms[0]}/messages", {"text": "x"})
        assert refused.status == 429
        assert refused.json["retry_after_ms"] > 1000


def test_name_of_a_key_is_reserved(place: Place) -> None:
    """In a key's rooms, a guest cannot take its name, and a token's user gets a number."""
    from pathlib import Path

    from fastchat.auth.issuing import make_token

    with closing(place.client(ApiRight.PUBLISH, rooms=["held"], name="robot")):
        port = place.server.port
        with connected(port) as guest:
            guest.send({"type": "join", "room": "held", "username": "R0bot"})
            assert guest.receive()["code"] == "username_taken"
            guest.send({"type": "join", "room": "free", "username": "robot"})
            assert guest.receive_type("joined")["username"] == "robot"
        secret: Path = place.folder / "secret"
        token = make_token(secret, subject="7", duration_s=60, name="robot")
        with connected(port) as holder:
            holder.send({"type": "join", "room": "held", "token": token})
            assert holder.receive_type("joined")["username"] == "robot (2)"


@pytest.mark.parametrize("path", ["/nothing", "/rooms/", "/rooms//messages", "/", "/rooms/a/b/c"])
def test_unknown_addresses(api: Client, path: str) -> None:
    """An address that is none of the API's gets 404 as JSON, with a key and without one."""
    reply = api("GET", path)
    assert (reply.status, reply.json["code"]) == (404, "not_found")


def test_methods(api: Client) -> None:
    """OPTIONS lists the methods, HEAD has no body, and another method gets 405 with `Allow`."""
    reply = api("OPTIONS", "/rooms/a/messages")
    assert (reply.status, reply.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert "access-control-allow-origin" not in reply.headers
    reply = api("PUT", "/rooms/a/messages")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    get, head = api("GET", "/rooms?prefix=none"), api("HEAD", "/rooms?prefix=none")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert "content-security-policy" in get.headers
    assert "date" in get.headers
    assert get.headers["cache-control"] == "no-store"


def test_no_cookie_and_no_origin_matters(api: Client) -> None:
    """No answer allows a page of another origin, and none sets a cookie."""
    reply = api("GET", "/rooms", headers={"origin": "https://evil.example", "cookie": "a=b"})
    assert reply.status == 200
    assert not {"access-control-allow-origin", "set-cookie"} & set(reply.headers)


def test_names_in_addresses(place: Place, api: Client) -> None:
    """A room's name can have any script, percent-encoded; what is not UTF-8 is refused."""
    reply = api("POST", "/rooms/%E6%97%A5%E6%9C%AC/messages", {"text": "x"})
    assert (reply.status, reply.json["room"]) == (201, "日本")
    assert api("GET", "/rooms/%ff/messages").status == 400
    assert api("GET", "/rooms/a%2Fb/messages").json["code"] == "bad_room"
    assert api("GET", "/rooms/%00/messages").json["code"] == "bad_room"
    assert api("GET", "/rooms?prefix=%ff").status == 400


def test_off_without_a_key_file() -> None:
    """A server without keys has no API: its paths are unknown ones."""
    with serving() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with closing(connection):
            connection.request("GET", "/api/v1/rooms")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (404, b"Not found\n")
