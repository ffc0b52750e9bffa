"""The HTTP API of several machines: each of them answers for all."""

from __future__ import annotations

from pathlib import Path

from support.api import api_client, made_key
from support.event_stream import event_stream
from support.machines import chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import connected


def test_every_machine_answers_for_all(server: PostgreSQL, tmp_path: Path) -> None:
    """What a program does at one machine, programs and clients at another one see."""
    key = made_key(tmp_path / "keys.json")
    flags = ("--api-key-file", str(tmp_path / "keys.json"))
    url = chat_url(server)
    with (
        running_machine(url, "one", tmp_path, *flags) as one,
        running_machine(url, "two", tmp_path, *flags, "--workers", "2") as two,
        api_client(one.port, key) as first,
        api_client(two.port, key) as second,
        connected(two.port, "/ws?room=lobby&username=Bob") as bob,
    ):
        bob.receive_type("joined")
        path = "/rooms/lobby/messages"
        with event_stream(two.port, key, "?rooms=lobby,order-*") as stream:
            last_id = stream.next("ready").id
            sent = first("POST", path, {"text": "Hello", "id": "1"})
            assert sent.status == 201
            again = second("POST", path, {"text": "Hello", "id": "1"})
            assert (again.status, again.json["offset"]) == (200, sent.json["offset"])
            assert bob.receive_type("message")["text"] == "Hello"
            assert stream.next("message").data["text"] == "Hello"
            first("POST", "/rooms/order-7/messages", {"text": "Paid"})
            assert stream.next("message").data["room"] == "order-7"
        with event_stream(one.port, key, "?rooms=lobby,order-*", last_id) as stream:
            stream.next("ready")
            texts = {stream.next("message").data["text"] for _ in range(2)}
            assert texts == {"Hello", "Paid"}
        assert [each["username"] for each in first("GET", "/rooms/lobby/users").json["users"]] == [
            "Bob"
        ]
        rooms = {each["room"]: each["head"] for each in second("GET", "/rooms").json["rooms"]}
        assert rooms == {"lobby": 1, "order-7": 1}
        since = f"{path}?since={sent.json['epoch']}:0"
        assert second("GET", since).json["messages"] == first("GET", since).json["messages"]
        assert first("PATCH", "/rooms/lobby", {"title": "Lobby"}).status == 200
        assert bob.receive_type("room")["options"] == {"title": "Lobby"}
        (user,) = second("GET", "/rooms/lobby/users").json["users"]
        assert first("PUT", f"/users/{user['user']}/ban", {"seconds": 60}).status == 200
        bob.receive_end()
        assert [each["user"] for each in second("GET", "/bans").json["bans"]] == [user["user"]]
