"""Rooms over HTTP: lists, options and deletion."""

from __future__ import annotations

from contextlib import closing

from fastchat.api.keys import ApiRight
from fastchat.errors import CloseCode
from server.api.conftest import Place
from support.api import Client
from support.raw_websocket import connected


def test_rooms_are_listed_in_pages(place: Place, api: Client) -> None:
    """A list has the rooms that begin with a prefix, and a cursor for those after them."""
    prefix = place.room() + "-"
    names = [f"{prefix}{letter}" for letter in "abc"]
    for name in names:
        api("POST", f"/rooms/{name}/messages", {"text": "x"})
    first = api("GET", f"/rooms?prefix={prefix}&limit=2").json
    assert [each["room"] for each in first["rooms"]] == names[:2]
    assert set(first["rooms"][0]) == {"room", "epoch", "head", "online", "last_at", "bytes"}
    assert first["rooms"][0]["head"] == 1
    second = api("GET", f"/rooms?prefix={prefix}&limit=2&cursor={first['cursor']}").json
    assert [each["room"] for each in second["rooms"]] == names[2:]
    assert second["cursor"] is None
    with closing(place.client(ApiRight.READ, rooms=[names[2], f"{prefix}b*"])) as client:
        listed = client("GET", "/rooms").json["rooms"]
        assert [each["room"] for each in listed] == names[1:]
    for wrong in ("?limit=0", "?limit=1001", "?prefix=a&prefix=b", "?rooms=x"):
        assert api("GET", "/rooms" + wrong).status == 400


def test_options(place: Place, api: Client, room: str) -> None:
    """Options that are changed are told to members and apply at once; others stay."""
    assert api("GET", f"/rooms/{room}").json == {
        "room": room,
        "title": "",
        "topic": "",
        "closed": False,
        "read_only": False,
        "slow_s": 0,
        "max_messages": 0,
    }
    with connected(place.server.port, f"/ws?room={room}&username=Bob") as bob:
        bob.receive_type("joined")
        changed = api("PATCH", f"/rooms/{room}", {"title": "Orders", "read_only": True})
        assert (changed.status, changed.json["title"]) == (200, "Orders")
        assert bob.receive_type("room")["options"] == {
            "title": "Orders",
            "read_only": True,
        }
        bob.send({"text": "Hello?"})
        assert bob.receive_type("error")["code"] == "forbidden"
    # Keys are not bound by the options.
    assert api("POST", f"/rooms/{room}/messages", {"text": "x"}).status == 201
    assert api("PATCH", f"/rooms/{room}", {"read_only": False}).json["title"] == "Orders"
    for wrong in ({"closed": 1}, {"title": "x" * 81}, {"slow_s": -1}, {"colour": "red"}):
        assert api("PATCH", f"/rooms/{room}", wrong).status == 400


def test_deletion(place: Place, api: Client, room: str) -> None:
    """A deleted room is told to its members, and begins anew with another epoch."""
    before = api("POST", f"/rooms/{room}/messages", {"text": "secret"}).json
    with connected(place.server.port, f"/ws?room={room}&username=Bob") as bob:
        bob.receive_type("joined")
        reply = api("DELETE", f"/rooms/{room}")
        assert (reply.status, reply.body) == (204, b"")
        assert bob.receive_type("room_deleted")["room"] == room
        assert bob.receive_end() == CloseCode.LOST_CONTINUITY
    assert api("GET", f"/rooms/{room}/messages").json["messages"] == []
    assert api("GET", f"/rooms/{room}/messages?since={before['epoch']}:0").status == 410
    assert api("POST", f"/rooms/{room}/messages", {"text": "new"}).json["epoch"] != before["epoch"]
    assert api("DELETE", f"/rooms/{place.room()}").status == 404
