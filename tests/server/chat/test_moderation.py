"""Moderators: they delete what others wrote, and have others leave a room."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
import jwt
import pytest

from contracts.broker import Receiver, at_once, member, new_rooms, run_in_loop
from contracts.history import draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.history.memory import MemoryHistory
from fastchat.rooms import Entrance, Member, Removal
from fastchat.rooms.removals import MAX_REMOVALS, Removals
from fastchat.rooms.restoring import Returning
from fastchat.rooms.rooms import Rooms
from support import server_in_thread
from support.raw_websocket import HOST, Client, connected, request, wired
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

SECRET = "an-Elephant-never-forgets-32-bytes"


def token(sub: str, name: str, rights: str = "read write", room: str = "*") -> str:
    # Some are made when this module is imported, and all other tests may run before its own.
    expires_s = int(time.time()) + 24 * 3600
    claims = {"sub": sub, "name": name, "exp": expires_s, "rooms": {room: rights}}
    return jwt.encode(claims, SECRET, algorithm="HS256")


MODERATOR = token("m-1", "Mod", "read write moderate")
BOB = token("u-2", "Bob")
CAROL = token("u-3", "Carol")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("keys") / "secret"
    file.write_text(SECRET, "ascii")
    return str(file)


@pytest.fixture(scope="module")
def server(key: str) -> Iterator[server_in_thread.Server]:
    with server_in_thread.serving(auth="jwt", jwt_key_file=(key,)) as server:
        yield server


def entered(port: int, who: str, room: str, **more: Any) -> Client:
    client = Client(port)
    client.join(room=room, token=who, **more)
    return client


def removed(client: Client, username: str = "Bob", **more: Any) -> dict[str, Any]:
    """Have somebody removed; returns the reply, whatever it is."""
    client.send({"type": "remove", "username": username, "ref": "r", **more})
    while (answer := client.receive()).get("ref") != "r":
        pass
    return answer


# What others wrote


def test_moderator_deletes_what_anybody_wrote(server: server_in_thread.Server) -> None:
    """Everybody hears who it was; the text is gone."""
    bob, mod = entered(server.port, BOB, "texts"), entered(server.port, MODERATOR, "texts")
    bob.send({"text": "spam"})
    offset = bob.receive_type("message")["offset"]
    mod.send({"type": "delete", "offset": offset})
    deletion = bob.receive_type("delete")
    assert (deletion["target"], deletion["username"]) == (offset, "Mod")
    mod.send({"type": "history"})
    (message,) = mod.receive_type("history")["messages"]
    assert (message["deleted"], message["text"]) == (True, "")
    bob.close()
    mod.close()


def test_moderator_edits_under_his_own_name(server: server_in_thread.Server) -> None:
    """The protocol lets him; everybody hears that it was not the author."""
    bob, mod = entered(server.port, BOB, "edits"), entered(server.port, MODERATOR, "edits")
    bob.send({"text": "her address is …"})
    offset = bob.receive_type("message")["offset"]
    mod.send({"type": "edit", "offset": offset, "text": "(removed)"})
    assert bob.receive_type("edit")["username"] == "Mod"
    bob.close()
    mod.close()


def test_others_delete_only_what_they_wrote(server: server_in_thread.Server) -> None:
    """A moderator of another room is nobody here; nor does it help to say that one is."""
    elsewhere = token("u-4", "Dave", "read write moderate", room="elsewhere")
    both = {"elsewhere": "moderate", "mine": "read,write"}
    claims = jwt.decode(elsewhere, options={"verify_signature": False}) | {"rooms": both}
    dave_token = jwt.encode(claims, SECRET, algorithm="HS256")
    bob, dave = entered(server.port, BOB, "mine"), entered(server.port, dave_token, "mine")
    bob.send({"text": "Hello"})
    offset = dave.receive_type("message")["offset"]
    dave.send({"type": "delete", "offset": offset, "moderated": True})
    assert dave.receive_type("error")["code"] == "forbidden"
    assert removed(dave)["code"] == "forbidden"
    bob.close()
    dave.close()


def test_without_tokens_nobody_moderates() -> None:
    """Whoever comes in as a guest may not have others removed."""
    with (
        server_in_thread.serving() as open_server,
        connected(open_server.port) as alice,
        connected(open_server.port) as bob,
    ):
        alice.join(username="Alice")
        bob.join(username="Bob")
        assert removed(alice)["code"] == "forbidden"
        bob.send({"type": "ping"})
        bob.receive_type("pong")


# Who is removed


def test_removed_user_is_out_and_stays_out(server: server_in_thread.Server) -> None:
    """All his connections are closed with 4503; the others see him leave, at once."""
    mod, carol = entered(server.port, MODERATOR, "out"), entered(server.port, CAROL, "out")
    tabs = [entered(server.port, BOB, "out"), entered(server.port, BOB, "out")]
    tabs[0].join(room="another")
    carol.receive_type("join")
    begun = time.monotonic()
    reply = removed(mod, "ＢОВ", seconds=60)
    assert (reply["type"], reply["room"], reply["username"]) == ("removed", "out", "Bob")
    assert reply["seconds"] == 60
    for tab in tabs:
        closing = tab.receive_type("closing")
        assert (closing["code"], closing["reconnect_after_ms"]) == (4503, 60_000)
        assert tab.receive_end() == 4503
        tab.close()
    assert carol.receive_type("leave")["username"] == "Bob"
    assert time.monotonic() - begun < 4 * TIMEOUT_UNIT_S
    with connected(server.port) as bob:
        bob.send({"type": "join", "room": "out", "token": token("u-2", "Robert")})
        error = bob.receive()
        assert (error["code"], error["temporary"]) == ("forbidden", True)
        assert 50_000 < error["retry_after_ms"] <= 60_001
        assert bob.join(room="another")["username"] == "Robert"
    with connected(server.port) as namesake:
        assert namesake.join(room="out", token=token("u-9", "Bob"))["username"] == "Bob"
    mod.close()
    carol.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_removed_user_shares_nothing(key: str, tmp_path: Path, workers: str) -> None:
    """What he has announced for that room is good no more, though a ticket needs no connection;
    for another room it is."""
    arguments = ("--data", str(tmp_path), "--workers", workers, "--auth", "jwt")
    with running_server(*arguments, "--jwt-key-file", key) as server:
        mod, bob = entered(server.port, MODERATOR, "files"), entered(server.port, BOB, "files")
        bob.join(room="another")
        tickets = {}
        for name, room in (("first", "files"), ("last", "files"), ("other", "another")):
            bob.send({"type": "upload", "name": name, "size": 7, "room": room})
            tickets[name] = bob.receive_type("upload")["ticket"]
        assert removed(mod, seconds=60)["type"] == "removed"
        assert bob.receive_end() == 4503
        wait_until(lambda: announced(tmp_path) == ["other"])
        assert posted(server.port, tickets["first"], b"content") == 401
        assert posted(server.port, tickets["other"], b"content") == 201
        mod.close()
        bob.close()


def announced(data: Path) -> list[str]:
    """The names of what is announced and has not come."""
    db = apsw.Connection(str(data / "files" / "index.sqlite3"))
    try:
        return [name for (name,) in db.execute("SELECT name FROM uploads ORDER BY number")]
    finally:
        db.close()


def posted(port: int, ticket: str, content: bytes) -> int:
    """The status for a file."""
    length = ("Content-Length", str(len(content)))
    headers = [HOST, ("Authorization", f"Bearer {ticket}"), length]
    with wired(port) as wire:
        wire.write(request("/files", headers, method="POST") + content)
        return wire.read_response().status


def test_removal_for_no_time_is_a_warning(server: server_in_thread.Server) -> None:
    """With 0 seconds he may be back at once."""
    mod, bob = entered(server.port, MODERATOR, "warned"), entered(server.port, BOB, "warned")
    assert removed(mod, seconds=0)["type"] == "removed"
    assert bob.receive_end() == 4503
    bob.close()
    entered(server.port, BOB, "warned").close()
    mod.close()


def test_removal_ends(server: server_in_thread.Server) -> None:
    """After its time he comes in again."""
    mod, bob = entered(server.port, MODERATOR, "soon"), entered(server.port, BOB, "soon")
    removed(mod, seconds=1)
    bob.receive_end()
    bob.close()
    with connected(server.port) as bob:
        bob.send({"type": "join", "room": "soon", "token": BOB})
        assert bob.receive()["code"] == "forbidden"
        time.sleep(1.1)
        bob.join(room="soon")
    mod.close()


def test_who_has_just_gone_can_be_removed(server: server_in_thread.Server) -> None:
    """While the others still see him; and then he has left."""
    mod, bob = entered(server.port, MODERATOR, "gone"), entered(server.port, BOB, "gone")
    bob.close()
    wait_until(lambda: server.call(lambda: server.rooms.absent_count) > 0)
    assert removed(mod)["type"] == "removed"
    with connected(server.port) as bob:
        bob.send({"type": "join", "room": "gone", "token": BOB})
        assert bob.receive()["code"] == "forbidden"
    mod.close()


def test_who_is_back_under_another_name_is_removed_by_either(
    server: server_in_thread.Server,
) -> None:
    """A token may have a new name: who has it is still the same."""
    mod, bob = entered(server.port, MODERATOR, "alias"), entered(server.port, BOB, "alias")
    bob.close()
    wait_until(lambda: server.call(lambda: server.rooms.absent_count) > 0)
    robert = entered(server.port, token("u-2", "Robert"), "alias")
    assert removed(mod)["username"] == "Bob"
    assert robert.receive_close() == 4503
    robert.close()
    mod.close()


def test_nobody_is_not_found(server: server_in_thread.Server) -> None:
    """And a wrong command is one."""
    mod = entered(server.port, MODERATOR, "empty")
    assert removed(mod)["code"] == "not_found"
    for wrong in ({"seconds": -1}, {"seconds": 1e9}, {"seconds": "1"}, {"seconds": 2592001}):
        assert removed(mod, **wrong)["code"] == "bad_command"
    assert removed(mod, " ")["code"] == "bad_username"
    assert removed(mod, room="another")["code"] == "not_joined"
    mod.close()


def test_moderator_may_remove_himself(server: server_in_thread.Server) -> None:
    """It is a strange wish, and no fault."""
    mod = entered(server.port, MODERATOR, "own")
    mod.send({"type": "remove", "username": "Mod", "seconds": 0})
    assert mod.receive_end() == 4503
    mod.close()


# With several processes


def _on_each_worker(server: Server, who: str, room: str) -> list[Client]:
    """Connections of a user, so many that no worker is without."""
    return [entered(server.port, who, room) for _ in range(12)]


def test_removal_reaches_all_workers_and_a_restart(key: str, tmp_path: Path) -> None:
    """Wherever he is connected; a new server knows of it too."""
    arguments = ("--auth", "jwt", "--jwt-key-file", key, "--data", str(tmp_path), "--workers", "2")
    with running_server(*arguments) as server:
        mod, carol = entered(server.port, MODERATOR, "far"), entered(server.port, CAROL, "far")
        tabs = _on_each_worker(server, BOB, "far")
        carol.receive_type("join")
        tabs[0].send({"text": "spam"})
        offset = carol.receive_type("message")["offset"]
        mod.send({"type": "delete", "offset": offset})
        assert carol.receive_type("delete")["username"] == "Mod"
        assert removed(mod, seconds=600)["type"] == "removed"
        for tab in tabs:
            assert tab.receive_end() == 4503
            tab.close()
        assert carol.receive_type("leave")["username"] == "Bob"
        with connected(server.port) as bob:
            bob.send({"type": "join", "room": "far", "token": BOB})
            error = bob.receive()
            assert (error["code"], error["retry_after_ms"] > 500_000) == ("forbidden", True)
        assert removed(mod)["code"] == "not_found"
        mod.close()
        carol.close()
        assert server.stop() == 0
    assert "'Mod' removed 'Bob' from far for 600 s" in server.errors
    with running_server(*arguments[:-2], "--workers", "1") as server:
        with connected(server.port) as bob:
            bob.send({"type": "join", "room": "far", "token": BOB})
            assert bob.receive()["code"] == "forbidden"
        server.stop()


# The rooms


class Subscriber:
    """A process whose members close their connections when they are told to."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.heard: list[dict[str, Any]] = []
        self.expelled: list[tuple[str, str, int]] = []

    def deliver(self, room: str, offset: int, payload: bytes, *more: Any) -> None:
        self.heard.append(json.loads(payload))

    def expel(self, room: str, author: str, seconds: int) -> None:
        self.expelled.append((room, author, seconds))

    def end_turn(self) -> None:
        """Nothing waits for it."""

    def know(self, room: str, users: Mapping[str, str]) -> None:
        pass

    def kept(self, draft_key: Any, offset: int) -> None:
        """Nobody asks."""


def rooms_with(*names: str) -> tuple[Rooms, Subscriber]:
    rooms = new_rooms(MemoryHistory(max_messages=10, new_epoch=lambda: "epoch"))
    subscriber = Subscriber(rooms)
    for name in names:
        at_once(rooms.join(subscriber, Entrance("a", member(name), None, 0), lambda entry: None))
    return rooms, subscriber


def left(subscriber: Subscriber) -> list[str]:
    return [event["username"] for event in subscriber.heard if event["type"] == "leave"]


def test_expelled_user_has_left_when_his_last_connection_is_gone() -> None:
    """Without the usual time to come back; and a room without users is forgotten."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Alice", "Bob", "Bob")
        assert await rooms.remove(Removal("a", "bob", 5, "Alice")) == "Bob"
        assert subscriber.expelled == [("a", "author Bob", 5)]
        rooms.lose(subscriber, "a", member("Bob"))
        assert left(subscriber) == []
        rooms.lose(subscriber, "a", member("Bob"))
        assert left(subscriber) == ["Bob"]
        with pytest.raises(CommandError) as caught:
            await rooms.join(subscriber, Entrance("a", member("Bob"), None, 0), lambda entry: None)
        assert caught.value.code == ErrorCode.FORBIDDEN
        assert caught.value.retry_after_ms == 5001
        await rooms.remove(Removal("a", "Alice", 0, "Alice"))
        rooms.lose(subscriber, "a", member("Alice"))
        assert (rooms.room_count, rooms.user_count) == (0, 0)

    run_in_loop(body())


def test_who_is_absent_leaves_when_he_is_removed() -> None:
    """There is nothing to close; a room of which he was the last is forgotten."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Bob")
        rooms.lose(subscriber, "a", member("Bob"))
        assert await rooms.remove(Removal("a", "Bob", 5, "Alice")) == "Bob"
        assert subscriber.expelled == []
        assert rooms.room_count == 0
        rooms.tick()

    run_in_loop(body())


def test_warned_user_who_is_back_is_as_any_other() -> None:
    """He has the usual time again, when his connection drops."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Alice", "Bob")
        await rooms.remove(Removal("a", "Bob", 0, "Alice"))
        await rooms.join(subscriber, Entrance("a", member("Bob"), None, 0), lambda entry: None)
        rooms.lose(subscriber, "a", member("Bob"))
        rooms.lose(subscriber, "a", member("Bob"))
        assert left(subscriber) == []

    run_in_loop(body())


def test_removal_is_carried_out_by_the_next_relay() -> None:
    """A worker that comes back with a removed user has him leave."""

    async def body() -> None:
        removals = Removals(lambda: 1_000.0)
        removals.add("a", "author Bob", 60)
        history = MemoryHistory(max_messages=10, new_epoch=lambda: "epoch")
        rooms = new_rooms(history, removals)
        subscriber = Subscriber(rooms)
        position = history.position("a")
        members = [(member("Alice"), 1), (member("Bob"), 2)]
        returning = Returning("a", position, members, [member("Alice")])
        assert await rooms.restore(subscriber, returning, gathering=True)
        assert subscriber.expelled == [("a", "author Bob", 60)]
        rooms.lose(subscriber, "a", member("Bob"))
        rooms.lose(subscriber, "a", member("Bob"))
        assert left(subscriber) == ["Bob"]

    run_in_loop(body())


def test_what_was_said_before_a_removal_arrives() -> None:
    """Also in the same turn; the one process tells the chat at once."""

    async def body() -> None:
        told: list[Any] = []

        class Told(Receiver):
            def publish(self, room: str, payload: bytes) -> None:
                told.append(json.loads(payload)["type"])

            def expel(self, room: str, author: str, seconds: int) -> None:
                told.append((room, author, seconds))

        history = MemoryHistory(max_messages=9, new_epoch=lambda: "e")
        rooms, receiver = new_rooms(history), Told()
        broker = MemoryBroker(rooms)
        broker.open(delivery=receiver, receiver=receiver)
        await broker.join(Entrance("a", Member("Bob", "x"), None, 0), lambda entry: None)
        broker.publish(draft("hello"), receiver.answer)
        assert await rooms.remove(Removal("a", "Bob", 1, "Mod")) == "Bob"
        assert told == ["message", ("a", "x", 1)]

    run_in_loop(body())


# What is kept of it


def test_removals_are_kept_in_a_private_file(tmp_path: Path) -> None:
    """Until they end, by the clock; who is in it is nobody else's business."""
    file, now = tmp_path / "removals.json", [1_000.0]
    removals = Removals(lambda: now[0], file)
    assert not file.exists()
    removals.add("a", "sub:1", 60)
    removals.add("b", "sub:1", 5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    now[0] += 10
    again = Removals(lambda: now[0], file)
    assert again.remaining_s("a", "sub:1") == 50
    assert again.remaining_s("b", "sub:1") == 0
    assert again.remaining_s("a", "sub:2") == 0
    again.add("c", "sub:3", 1)
    assert len(again) == 2


@pytest.mark.parametrize(
    "content", ["", "{}x", "[5]", '{"a": 1}', '[["a", "b", "soon"]]', "[" * 9999]
)
def test_broken_file_of_removals_is_no_reason_not_to_start(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in the log."""
    file = tmp_path / "removals.json"
    file.write_text(content, "ascii")
    assert len(Removals(time.time, file)) == 0
    assert "cannot be read" in caplog.text


def test_removal_that_cannot_be_written_holds_nevertheless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Until the process ends; it is said in the log."""
    removals = Removals(lambda: 1.0, tmp_path / "no" / "removals.json")
    removals.add("a", "sub:1", 60)
    assert removals.remaining_s("a", "sub:1") == 60
    assert "cannot be written" in caplog.text


def test_removals_are_bounded() -> None:
    """Beyond that, those that end soonest are forgotten."""
    removals = Removals(lambda: 0.0)
    removals._until_s = {("a", str(number)): 10.0 + number for number in range(MAX_REMOVALS)}
    removals.add("a", "new", 100)
    assert len(removals) == MAX_REMOVALS
    assert removals.remaining_s("a", "new") == 100
    assert removals.remaining_s("a", "0") == 0
