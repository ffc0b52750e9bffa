"""Messages over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from fastchat.api.keys import ApiRight
from server.api.conftest import Place
from support.api import Client
from support.raw_websocket import connected

EMOJI = quote("👍")


def test_message_is_delivered_and_stored(place: Place, api: Client, room: str) -> None:
    """Members receive a message of a key under its name, and nobody joins or leaves."""
    with connected(place.server.port, f"/ws?room={room}&username=Bob") as bob:
        bob.receive_type("joined")
        reply = api("POST", f"/rooms/{room}/messages", {"text": "Sent", "id": "7"})
        event = bob.receive()
    assert reply.status == 201
    assert set(reply.json) == {"room", "epoch", "offset", "timestamp", "id"}
    assert reply.json["id"] == "7"
    assert event == {
        "type": "message",
        "room": room,
        "offset": reply.json["offset"],
        "user": "k_shop",
        "username": "shop",
        "text": "Sent",
        "timestamp": reply.json["timestamp"],
        "id": "k_shop:7",
    }


def test_same_id_is_one_message(place: Place, api: Client, room: str) -> None:
    """A second request with an id gets 200 and the first one's answer; each key has its own ids."""
    first = api("POST", f"/rooms/{room}/messages", {"text": "Once", "id": "x"})
    again = api("POST", f"/rooms/{room}/messages", {"text": "Twice", "id": "x"})
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    other = place.client(ApiRight.PUBLISH)
    assert other("POST", f"/rooms/{room}/messages", {"text": "Mine", "id": "x"}).status == 201
    other.close()
    assert len(api("GET", f"/rooms/{room}/messages").json["messages"]) == 2


def test_message_in_the_name_of_a_user(api: Client, room: str) -> None:
    """With `user` and `username`, the message is the user's; a reply quotes another message."""
    path = f"/rooms/{room}/messages"
    api("POST", path, {"text": "Who is there?"})
    assert api(
        "POST", path, {"text": "Me", "user": "u_bob", "username": "Bob", "reply_to": 1}
    ).status == 201  # fmt: skip
    _, answer = api("GET", path).json["messages"]
    assert (answer["user"], answer["username"]) == ("u_bob", "Bob")
    assert answer["text"] == "> @shop #1\n> Who is there?\n\nMe"
    assert api("POST", path, {"text": "x", "user": "k_other", "username": "o"}).status == 400
    assert api("POST", path, {"text": "x", "user": "u_bob"}).status == 400
    assert api("POST", path, {"text": "x", "username": "Bob"}).status == 400
    assert api("POST", path, {"text": "x", "reply_to": 99}).status == 404


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"", 400, "bad_json", "no body"),
        (b"{", 400, "bad_json", "JSON"),
        (b"[1]", 400, "bad_json", "object"),
        (b'{"text":"\xff"}', 400, "bad_json", "JSON"),
        (b'{"text":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "bad_json", ""),
        ({"text": [[[["x"]]]]}, 400, "bad_json", "deeply"),
        ({"text": ["x"]}, 400, "bad_command", "`text` must be a string"),
        ({"text": None}, 400, "bad_command", "needs `text`"),
        ({"txt": "x"}, 400, "bad_command", "no field `txt`"),
        ({"text": "x", "id": 7}, 400, "bad_command", "`id` must be a string"),
        ({"text": "x", "id": "y" * 60}, 400, "bad_command", "`id`"),
        ({"text": "x", "reply_to": True}, 400, "bad_command", "whole number"),
        ({"text": " \n"}, 400, "bad_command", "at least one character"),
        ({"text": "x" * 4001}, 413, "too_long", "4,000"),
        (b'{"text":"' + b"x" * 65_536 + b'"}', 413, "too_long", "65,536"),
    ],
)
def test_wrong_bodies(api: Client, room: str, body: Any, status: int, code: str, said: str) -> None:
    """A body that is not what the operation needs is refused with a sentence."""
    reply = api("POST", f"/rooms/{room}/messages", body)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert said in reply.json["message"]
    assert reply.json["temporary"] is False


def test_changes(place: Place, api: Client, room: str) -> None:
    """A key edits, deletes and reacts; each change is a publication of its own."""
    path = f"/rooms/{room}/messages"
    api("POST", path, {"text": "One"})
    assert api("PATCH", f"{path}/1", {"text": "Two"}).json["offset"] == 2
    assert api("PUT", f"{path}/1/reactions/{EMOJI}").json["offset"] == 3
    as_bob = "?user=u_bob&username=Bob"
    assert api("PUT", f"{path}/1/reactions/{EMOJI}{as_bob}").status == 200
    (message,) = api("GET", path).json["messages"]
    assert message["text"] == "Two"
    assert [each["user"] for each in message["reactions"]["👍"]] == ["k_shop", "u_bob"]
    assert api("DELETE", f"{path}/1/reactions/{EMOJI}{as_bob}").status == 200
    assert api("DELETE", f"{path}/1").status == 200
    (message,) = api("GET", path).json["messages"]
    assert message["deleted"] is True
    assert api("PATCH", f"{path}/99", {"text": "x"}).status == 404
    assert api("PATCH", f"{path}/x", {"text": "x"}).status == 400
    assert api("PUT", f"{path}/1/reactions/x").status == 400


def test_only_moderating_keys_change_messages_of_others(place: Place, api: Client) -> None:
    """A key changes its own messages and those of `user`; with `moderate`, it changes any."""
    room = place.room()
    path = f"/rooms/{room}/messages"
    api("POST", path, {"text": "Mine", "user": "u_bob", "username": "Bob"})
    other, moderator = place.client(ApiRight.PUBLISH), place.client(ApiRight.MODERATE)
    as_bob = {"user": "u_bob", "username": "Bob"}
    assert other("PATCH", f"{path}/1", {"text": "x"}).status == 403
    assert other("DELETE", f"{path}/1").status == 403
    assert other("PATCH", f"{path}/1", {"text": "y", **as_bob}).status == 200
    assert moderator("PATCH", f"{path}/1", {"text": "z", **as_bob}).status == 403
    assert moderator("PATCH", f"{path}/1", {"text": "z"}).status == 200
    assert moderator("POST", path, {"text": "x"}).status == 403
    assert moderator("DELETE", f"{path}/1").status == 200
    other.close()
    moderator.close()


def test_pages(api: Client, room: str) -> None:
    """Pages go back and forth from an offset, and say where the room ends."""
    path = f"/rooms/{room}/messages"
    for number in range(1, 6):
        api("POST", path, {"text": f"message {number}"})

    def offsets(query: str) -> tuple[list[int], bool]:
        reply = api("GET", path + query)
        assert reply.status == 200
        assert reply.json["offset"] == 5
        return [each["offset"] for each in reply.json["messages"]], reply.json["more"]

    assert offsets("") == ([1, 2, 3, 4, 5], False)
    assert offsets("?limit=2") == ([4, 5], True)
    assert offsets("?before=3&limit=1") == ([2], True)
    assert offsets("?after=3") == ([4, 5], False)
    assert offsets("?q=message+4") == ([4], False)
    wrong_ones = (
        *("?limit=0", "?limit=301", "?limit=x", "?limit=1&limit=2", "?after=1&before=3"),
        *("?before=-1", "?q=", "?x=1", "?since=5", "?since=:5", "?since=a:x"),
    )
    for wrong in wrong_ones:
        assert api("GET", path + wrong).status == 400, wrong


def test_publications_since_a_position(api: Client, room: str) -> None:
    """`since` has publications of every kind, in order, and goes on at its own `offset`."""
    path = f"/rooms/{room}/messages"
    first = api("POST", path, {"text": "One"}).json
    api("PATCH", f"{path}/1", {"text": "Two"})
    api("PUT", f"{path}/1/reactions/{EMOJI}")
    epoch = first["epoch"]
    page = api("GET", f"{path}?since={epoch}:0&limit=2").json
    assert [each["type"] for each in page["messages"]] == ["message", "edit"]
    assert (page["more"], page["epoch"], page["offset"]) == (True, epoch, 2)
    page = api("GET", f"{path}?since={epoch}:{page['offset']}").json
    assert [each["type"] for each in page["messages"]] == ["react"]
    assert (page["more"], page["offset"]) == (False, 3)
    page = api("GET", f"{path}?since={epoch}:3").json
    assert (page["messages"], page["more"], page["offset"]) == ([], False, 3)
    for gone in (f"{epoch}:4", "another:0"):
        reply = api("GET", f"{path}?since={gone}")
        assert (reply.status, reply.json["code"]) == (410, "gone")


def test_many_rooms(place: Place, api: Client) -> None:
    """One request publishes to many rooms; a room that fails does not keep others from it."""
    one, two = place.room(), place.room()
    body = {"rooms": [one, "Bad Room", two], "text": "All", "id": "b"}
    results = api("POST", "/messages", body).json["results"]
    assert [each["room"] for each in results] == [one, "Bad Room", two]
    assert [each["status"] for each in results] == [201, 400, 201]
    assert results[1]["error"]["code"] == "bad_room"
    again = api("POST", "/messages", body).json["results"]
    assert [each["status"] for each in again] == [200, 400, 200]
    limited = place.client(ApiRight.PUBLISH, rooms=[f"{one}*", two])
    results = limited("POST", "/messages", {"rooms": "*", "text": "Mine"}).json["results"]
    assert [(each["room"], each["status"]) for each in results] == [(one, 201), (two, 201)]
    results = limited("POST", "/messages", {"rooms": ["other"], "text": "x"}).json["results"]
    assert results[0]["status"] == 403
    limited.close()
    for wrong in (one, {}, 7, [one] * 1001):
        assert api("POST", "/messages", {"rooms": wrong, "text": "x"}).status == 400


def test_file(place: Place, api: Client, room: str) -> None:
    """A file is stored under the name in the address or in Content-Disposition."""
    path = f"/rooms/{room}/files"
    data = b"x" * 70_000  # more than the limit of other bodies
    reply = api("POST", f"{path}?name=a%20b.txt", data)
    assert reply.status == 201
    assert (reply.json["name"], reply.json["size"]) == ("a b.txt", len(data))
    with connected(place.server.port, "/ws") as wire:
        wire.close()
    named = {"content-disposition": "attachment; filename*=UTF-8''r%C3%A9sum%C3%A9.pdf"}
    assert api("POST", path, b"y", named).json["name"] == "résumé.pdf"
    assert api("POST", path, b"y").status == 400
    assert api("POST", f"{path}?name=empty", b"").status == 400
    assert api("POST", f"{path}?name=large", b"x" * 100_001).status == 413
