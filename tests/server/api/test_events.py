"""Streams of events."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fastchat.api import events
from fastchat.api.key_file import revoke_key
from fastchat.api.keys import ApiRight
from server.api.conftest import Place
from support.api import Client, api_client, made_key
from support.event_stream import event_stream
from support.raw_websocket import connected
from support.server import wait_until
from support.server_in_thread import serving


def test_publications_of_every_kind(place: Place, api: Client, room: str) -> None:
    """A stream begins with `ready`, and has each publication as members receive it."""
    with event_stream(place.server.port, str(api.key), f"?rooms={room}") as stream:
        assert stream.next().data == {"type": "ready", "rooms": [room]}
        path = f"/rooms/{room}/messages"
        api("POST", path, {"text": "One"})
        api("PATCH", f"{path}/1", {"text": "Two"})
        api("PUT", f"{path}/1/reactions/%F0%9F%91%8D")
        api("DELETE", f"{path}/1")
        found = [stream.next() for _ in range(4)]
    assert [event.type for event in found] == ["message", "edit", "react", "delete"]
    assert [event.data["offset"] for event in found] == [1, 2, 3, 4]
    assert all(event.data["type"] == event.type and event.id for event in found)


def test_messages_of_users_and_their_presence(place: Place, api: Client, room: str) -> None:
    """A stream has what users write at once, and their joins and leaves, without ids."""
    with event_stream(place.server.port, str(api.key), f"?rooms={room}") as stream:
        stream.next("ready")
        with connected(place.server.port, f"/ws?room={room}&username=Bob") as bob:
            bob.receive_type("joined")
            event = stream.next("join")
            assert (event.id, event.data["username"], event.data["online"]) == (None, "Bob", 1)
            bob.send({"text": "Hello"})
            assert stream.next("message").data["text"] == "Hello"
            bob.send({"type": "leave"})
            bob.receive_type("left")
        event = stream.next("leave")
        assert (event.id, event.data["username"], event.data["online"]) == (None, "Bob", 0)


def test_stream_resumes_without_loss(place: Place, api: Client) -> None:
    """A client that comes back gets what it missed in all of its rooms, also in new ones."""
    prefix = place.room()
    one, two = f"{prefix}-1", f"{prefix}-2"
    api("POST", f"/rooms/{one}/messages", {"text": "before"})
    query = f"?rooms={prefix}-*"
    with event_stream(place.server.port, str(api.key), query) as stream:
        assert stream.next("ready").data["rooms"] == [one]
        api("POST", f"/rooms/{one}/messages", {"text": "seen"})
        assert stream.next("message").data["text"] == "seen"
        last_id = stream.last_id
    for text in ("missed", "missed too"):
        api("POST", f"/rooms/{one}/messages", {"text": text})
    api("POST", f"/rooms/{two}/messages", {"text": "of a new room"})
    with event_stream(place.server.port, str(api.key), query, last_id) as stream:
        stream.next("ready")
        texts = {stream.next("message").data["text"] for _ in range(3)}
        assert texts == {"missed", "missed too", "of a new room"}
        api("POST", f"/rooms/{two}/messages", {"text": "live"})
        assert stream.next("message").data["text"] == "live"


def test_new_room_is_found_at_once(place: Place, api: Client) -> None:
    """A stream of a pattern has the first message of a room that did not exist."""
    prefix = place.room()
    with event_stream(place.server.port, str(api.key), f"?rooms={prefix}*") as stream:
        assert stream.next("ready").data["rooms"] == []
        api("POST", f"/rooms/{prefix}-a/messages", {"text": "first"})
        event = stream.next("message")
        assert (event.data["room"], event.data["text"]) == (f"{prefix}-a", "first")


def test_gap(place: Place, api: Client, room: str) -> None:
    """If a room was deleted, its stream has a gap and goes on in the new epoch."""
    with event_stream(place.server.port, str(api.key), f"?rooms={room}") as stream:
        stream.next("ready")
        api("POST", f"/rooms/{room}/messages", {"text": "old"})
        stream.next("message")
        last_id = stream.last_id
        api("DELETE", f"/rooms/{room}")
        epoch = api("POST", f"/rooms/{room}/messages", {"text": "new"}).json["epoch"]
        gap = stream.next("gap")
        assert gap.data == {"type": "gap", "room": room, "epoch": epoch, "offset": 0}
        assert stream.next("message").data["text"] == "new"
    with event_stream(place.server.port, str(api.key), f"?rooms={room}", last_id) as stream:
        stream.next("ready")
        assert stream.next("gap").data["epoch"] == epoch
        assert stream.next("message").data["text"] == "new"


def test_publications_that_are_not_stored_any_more(tmp_path: Path) -> None:
    """A client that was away for too long gets a gap, and then what is published from then on."""
    key = made_key(tmp_path / "keys")
    with (
        serving(api_key_file=str(tmp_path / "keys"), history_max_messages=5) as server,
        api_client(server.port, key) as api,
    ):
        with event_stream(server.port, key, "?rooms=lobby") as stream:
            last_id = stream.next("ready").id
        for number in range(400):
            api("POST", "/rooms/lobby/messages", {"text": str(number)})
        with event_stream(server.port, key, "?rooms=lobby", last_id) as stream:
            stream.next("ready")
            assert stream.next().data["offset"] == 400
            api("POST", "/rooms/lobby/messages", {"text": "live"})
            assert stream.next().data["text"] == "live"


def test_wrong_requests(place: Place, api: Client) -> None:
    """Wrong rooms and wrong ids are refused before the stream begins."""
    for query in ("?rooms=", "?rooms=A", "?rooms=a*b", "?rooms=" + ",".join(["a"] * 101), "?x=1"):
        assert api("GET", "/events" + query).status == 400, query
    many = ",".join(f"room-{number}" for number in range(events.MAX_ROOMS + 1))
    reply = api("GET", f"/events?rooms={many}")
    assert (reply.status, reply.json["code"]) == (400, "too_many_rooms")
    reply = api("GET", "/events?rooms=a", headers={"last-event-id": "no cursor"})
    assert (reply.status, reply.json["code"]) == (400, "bad_command")
    head = api("HEAD", "/events?rooms=a")
    assert (head.status, head.headers["content-type"][:17]) == (200, "text/event-stream")


def test_heartbeat(place: Place, api: Client, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream on which nothing happens gets a comment now and then."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    with event_stream(place.server.port, str(api.key), f"?rooms={room}") as stream:
        stream.next("ready")
        lines = [stream._answer.readline() for _ in range(4)]
    assert lines == [b": \n", b"\n", b": \n", b"\n"]


def test_streams_of_a_key_are_limited(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key can have a number of streams at a time; a closed one makes room for another."""
    monkeypatch.setattr(events, "MAX_STREAMS", 2)
    with closing(place.client(ApiRight.READ)) as client, ExitStack() as stack:
        key = str(client.key)
        for _ in range(2):
            stream = stack.enter_context(event_stream(place.server.port, key, "?rooms=a"))
            stream.next("ready")
        reply = client("GET", "/events?rooms=a")
        assert (reply.status, reply.json["code"]) == (429, "rate_limited")
        stream.close()
        wait_until(lambda: client("HEAD", "/events?rooms=a").status == 200)


def test_revoked_key_ends_its_streams(
    place: Place, api: Client, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams of a key that was revoked end."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    key = made_key(place.keys, "leaving")
    place.reload()
    with event_stream(place.server.port, key, f"?rooms={room}") as stream:
        stream.next("ready")
        revoke_key(place.keys, "leaving")
        place.reload()
        assert list(stream) == []


def test_stopping_server_ends_its_streams(tmp_path: Path) -> None:
    """A server that stops ends its streams at once, so that clients come back."""
    key = made_key(tmp_path / "keys")
    with ExitStack() as stack:
        with serving(api_key_file=str(tmp_path / "keys")) as server:
            stream = stack.enter_context(event_stream(server.port, key, "?rooms=a"))
            stream.next("ready")
        assert list(stream) == []
