"""Moderators delete messages of others and remove users from a room."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
import jwt
import pytest

from contracts.broker import Receiver, at_once, member, new_rooms, run_in_loop
from contracts.history import GENERATION, draft
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.history.memory import MemoryHistory
from fastchat.rooms import Entrance, Member, Removal
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.removals import MAX_REMOVALS, Removals
from fastchat.rooms.restoring import Returning
from support import server_in_thread
from support.raw_websocket import HOST, Client, connected, request, wired
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

SECRET = "an-Elephant-never-forgets-32-bytes"


def new_removals(clock: Callable[[], float], file: Path | None = None) -> Removals:
    return Removals(clock, file, user_of=lambda credential: f"user of {credential}")


def token(sub: str, name: str, rights: str = "read write", room: str = "*") -> str:
    # Some tokens are made when this module is imported, and all other tests can run before its own,
    # hence the long lifetime.
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


def join_as(port: int, user_token: str, room: str, **more: Any) -> Client:
    client = Client(port)
    client.join(room=room, token=user_token, **more)
    return client


def remove_user(client: Client, username: str = "Bob", **more: Any) -> dict[str, Any]:
    """Remove a user, and return the reply."""
    client.send({"type": "remove", "username": username, "ref": "r", **more})
    while (answer := client.receive()).get("ref") != "r":
        pass
    return answer


# Messages of others


def test_moderator_deletes_messages_of_others(server: server_in_thread.Server) -> None:
    """All users see who deleted the message, and its text is gone."""
    bob, mod = join_as(server.port, BOB, "texts"), join_as(server.port, MODERATOR, "texts")
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


def test_edit_by_a_moderator_carries_their_name(server: server_in_thread.Server) -> None:
    """The protocol allows a moderator to edit, and all users see that the editor is not the
    user."""
    bob, mod = join_as(server.port, BOB, "edits"), join_as(server.port, MODERATOR, "edits")
    bob.send({"text": "her address is …"})
    offset = bob.receive_type("message")["offset"]
    mod.send({"type": "edit", "offset": offset, "text": "(removed)"})
    assert bob.receive_type("edit")["username"] == "Mod"
    bob.close()
    mod.close()


def test_other_users_delete_their_own_messages_only(server: server_in_thread.Server) -> None:
    """A moderator of another room, and a user who claims to be a moderator, cannot delete others'
    messages."""
    elsewhere = token("u-4", "Dave", "read write moderate", room="elsewhere")
    both = {"elsewhere": "moderate", "mine": "read,write"}
    claims = jwt.decode(elsewhere, options={"verify_signature": False}) | {"rooms": both}
    dave_token = jwt.encode(claims, SECRET, algorithm="HS256")
    bob, dave = join_as(server.port, BOB, "mine"), join_as(server.port, dave_token, "mine")
    bob.send({"text": "Hello"})
    offset = dave.receive_type("message")["offset"]
    dave.send({"type": "delete", "offset": offset, "moderated": True})
    assert dave.receive_type("error")["code"] == "forbidden"
    assert remove_user(dave)["code"] == "forbidden"
    bob.close()
    dave.close()


def test_users_without_tokens_cannot_moderate() -> None:
    """A user without a token cannot remove other users."""
    with (
        server_in_thread.serving() as open_server,
        connected(open_server.port) as alice,
        connected(open_server.port) as bob,
    ):
        alice.join(username="Alice")
        bob.join(username="Bob")
        assert remove_user(alice)["code"] == "forbidden"
        bob.send({"type": "ping"})
        bob.receive_type("pong")


# Removed users


def test_removed_user_is_closed_and_cannot_rejoin(server: server_in_thread.Server) -> None:
    """All connections of a removed user are closed with 4503, and the others see the leave at
    once."""
    mod, carol = join_as(server.port, MODERATOR, "out"), join_as(server.port, CAROL, "out")
    tabs = [join_as(server.port, BOB, "out"), join_as(server.port, BOB, "out")]
    tabs[0].join(room="another")
    carol.receive_type("join")
    begun = time.monotonic()
    reply = remove_user(mod, "ＢОВ", seconds=60)
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
def test_removal_withdraws_announced_files(key: str, tmp_path: Path, workers: str) -> None:
    """After a removal, files announced for that room cannot be uploaded, although a ticket needs no
    connection; files for another room can."""
    arguments = ("--data", str(tmp_path), "--workers", workers, "--auth", "jwt")
    with running_server(*arguments, "--jwt-key-file", key) as server:
        mod, bob = join_as(server.port, MODERATOR, "files"), join_as(server.port, BOB, "files")
        bob.join(room="another")
        tickets = {}
        for name, room in (("first", "files"), ("last", "files"), ("other", "another")):
            bob.send({"type": "upload", "name": name, "size": 7, "room": room})
            tickets[name] = bob.receive_type("upload")["ticket"]
        assert remove_user(mod, seconds=60)["type"] == "removed"
        assert bob.receive_end() == 4503
        wait_until(lambda: announced_names(tmp_path) == ["other"])
        assert post_status(server.port, tickets["first"], b"content") == 401
        assert post_status(server.port, tickets["other"], b"content") == 201
        mod.close()
        bob.close()


def announced_names(data: Path) -> list[str]:
    """Return the names of announced files that have not arrived."""
    db = apsw.Connection(str(data / "files" / "index.sqlite3"))
    try:
        return [name for (name,) in db.execute("SELECT name FROM uploads ORDER BY number")]
    finally:
        db.close()


def post_status(port: int, ticket: str, content: bytes) -> int:
    """Return the status of an upload."""
    length = ("Content-Length", str(len(content)))
    headers = [HOST, ("Authorization", f"Bearer {ticket}"), length]
    with wired(port) as wire:
        wire.write(request("/files", headers, method="POST") + content)
        return wire.read_response().status


def test_removal_for_no_time_is_a_warning(server: server_in_thread.Server) -> None:
    """A user removed for 0 seconds can join again at once."""
    mod, bob = join_as(server.port, MODERATOR, "warned"), join_as(server.port, BOB, "warned")
    assert remove_user(mod, seconds=0)["type"] == "removed"
    assert bob.receive_end() == 4503
    bob.close()
    join_as(server.port, BOB, "warned").close()
    mod.close()


def test_removal_ends(server: server_in_thread.Server) -> None:
    """A removed user can join again after the given time."""
    mod, bob = join_as(server.port, MODERATOR, "soon"), join_as(server.port, BOB, "soon")
    remove_user(mod, seconds=1)
    bob.receive_end()
    bob.close()
    with connected(server.port) as bob:
        bob.send({"type": "join", "room": "soon", "token": BOB})
        assert bob.receive()["code"] == "forbidden"
        time.sleep(1.1)
        bob.join(room="soon")
    mod.close()


def test_disconnected_user_can_be_removed(server: server_in_thread.Server) -> None:
    """A user who has disconnected but is still shown can be removed, and then has left."""
    mod, bob = join_as(server.port, MODERATOR, "gone"), join_as(server.port, BOB, "gone")
    bob.close()
    wait_until(lambda: server.call(lambda: server.rooms.occupancy.absent) > 0)
    assert remove_user(mod)["type"] == "removed"
    with connected(server.port) as bob:
        bob.send({"type": "join", "room": "gone", "token": BOB})
        assert bob.receive()["code"] == "forbidden"
    mod.close()


def test_renamed_user_is_removed_by_either_name(
    server: server_in_thread.Server,
) -> None:
    """A user who returned with a new name in their token can be removed by the old and the new
    name."""
    mod, bob = join_as(server.port, MODERATOR, "alias"), join_as(server.port, BOB, "alias")
    bob.close()
    wait_until(lambda: server.call(lambda: server.rooms.occupancy.absent) > 0)
    robert = join_as(server.port, token("u-2", "Robert"), "alias")
    assert remove_user(mod)["username"] == "Bob"
    assert robert.receive_close() == 4503
    robert.close()
    mod.close()


def test_unknown_user_is_not_found(server: server_in_thread.Server) -> None:
    """The removal of an unknown user gets `not_found`, and an invalid command gets its own
    error."""
    mod = join_as(server.port, MODERATOR, "empty")
    assert remove_user(mod)["code"] == "not_found"
    for wrong in ({"seconds": -1}, {"seconds": 1e9}, {"seconds": "1"}, {"seconds": 2592001}):
        assert remove_user(mod, **wrong)["code"] == "bad_command"
    assert remove_user(mod, " ")["code"] == "bad_username"
    assert remove_user(mod, room="another")["code"] == "not_joined"
    mod.close()


def test_moderator_can_remove_themselves(server: server_in_thread.Server) -> None:
    """A moderator who removes themselves is removed as any other user."""
    mod = join_as(server.port, MODERATOR, "own")
    mod.send({"type": "remove", "username": "Mod", "seconds": 0})
    assert mod.receive_end() == 4503
    mod.close()


# With several processes


def connect_to_every_worker(server: Server, user_token: str, room: str) -> list[Client]:
    """Connect a user often enough that every worker has a connection."""
    return [join_as(server.port, user_token, room) for _ in range(12)]


def test_removal_reaches_all_workers_and_a_restart(key: str, tmp_path: Path) -> None:
    """A removal reaches the user's connections to every worker, and holds after a restart."""
    arguments = ("--auth", "jwt", "--jwt-key-file", key, "--data", str(tmp_path), "--workers", "2")
    with running_server(*arguments) as server:
        mod, carol = join_as(server.port, MODERATOR, "far"), join_as(server.port, CAROL, "far")
        tabs = connect_to_every_worker(server, BOB, "far")
        carol.receive_type("join")
        tabs[0].send({"text": "spam"})
        offset = carol.receive_type("message")["offset"]
        mod.send({"type": "delete", "offset": offset})
        assert carol.receive_type("delete")["username"] == "Mod"
        assert remove_user(mod, seconds=600)["type"] == "removed"
        for tab in tabs:
            assert tab.receive_end() == 4503
            tab.close()
        assert carol.receive_type("leave")["username"] == "Bob"
        with connected(server.port) as bob:
            bob.send({"type": "join", "room": "far", "token": BOB})
            error = bob.receive()
            assert (error["code"], error["retry_after_ms"] > 500_000) == ("forbidden", True)
        assert remove_user(mod)["code"] == "not_found"
        mod.close()
        carol.close()
        assert server.stop() == 0
    assert "'Mod' removed 'Bob' (u_u-2) from far for 600 s" in server.errors
    with running_server(*arguments[:-2], "--workers", "1") as server:
        with connected(server.port) as bob:
            bob.send({"type": "join", "room": "far", "token": BOB})
            assert bob.receive()["code"] == "forbidden"
        server.stop()


# The rooms


class Subscriber:
    """A process whose members close their connections when they are expelled."""

    def __init__(self, rooms: LocalRooms) -> None:
        self.rooms = rooms
        self.heard: list[dict[str, Any]] = []
        self.expelled: list[tuple[str, str, int]] = []

    def deliver(self, room: str, offset: int, payloads: Sequence[bytes], keys: Any) -> None:
        self.heard += map(json.loads, payloads)

    def announce(self, room: str, payload: bytes, change: Any = None) -> None:
        self.heard.append(json.loads(payload))

    def expel(self, room: str, user: str, seconds: int) -> None:
        self.expelled.append((room, user, seconds))

    def end_turn(self) -> None:
        """Nothing waits for the end of a turn."""

    def know(self, room: str, users: Mapping[str, str]) -> None:
        pass

    def kept(self, draft_key: Any, offset: int) -> None:
        """Nothing asks for outcomes."""


def rooms_with(*names: str) -> tuple[LocalRooms, Subscriber]:
    rooms = new_rooms(MemoryHistory(max_messages=10, new_generation=lambda: GENERATION))
    subscriber = Subscriber(rooms)
    for name in names:
        at_once(rooms.join(subscriber, Entrance("a", *member(name), None, 0), lambda entry: None))
    return rooms, subscriber


def leaves(subscriber: Subscriber) -> list[str]:
    return [event["username"] for event in subscriber.heard if event["type"] == "leave"]


def test_expelled_user_leaves_with_their_last_connection() -> None:
    """An expelled user leaves without the time to come back, and a room without users is
    forgotten."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Alice", "Bob", "Bob")
        assert await rooms.remove(Removal("a", None, "bob", 5, "Alice")) == member("Bob")
        assert subscriber.expelled == [("a", "user Bob", 5)]
        rooms.lose(subscriber, "a", member("Bob"))
        assert leaves(subscriber) == []
        rooms.lose(subscriber, "a", member("Bob"))
        assert leaves(subscriber) == ["Bob"]
        with pytest.raises(CommandError) as caught:
            await rooms.join(subscriber, Entrance("a", *member("Bob"), None, 0), lambda entry: None)
        assert caught.value.code == ErrorCode.FORBIDDEN
        assert caught.value.retry_after_ms == 5001
        await rooms.remove(Removal("a", None, "Alice", 0, "Alice"))
        rooms.lose(subscriber, "a", member("Alice"))
        assert rooms.occupancy[:2] == (0, 0)

    run_in_loop(body())


def test_absent_user_leaves_when_removed() -> None:
    """An absent user has no connection to close and leaves at once; the room is forgotten if they
    were the last."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Bob")
        rooms.lose(subscriber, "a", member("Bob"))
        assert await rooms.remove(Removal("a", None, "Bob", 5, "Alice")) == member("Bob")
        assert subscriber.expelled == []
        assert rooms.occupancy.rooms == 0
        rooms.tick()

    run_in_loop(body())


def test_user_who_returned_after_a_removal_can_drop_as_usual() -> None:
    """A user who returned after a removal has the usual time to come back when their connection
    drops."""

    async def body() -> None:
        rooms, subscriber = rooms_with("Alice", "Bob")
        await rooms.remove(Removal("a", None, "Bob", 0, "Alice"))
        await rooms.join(subscriber, Entrance("a", *member("Bob"), None, 0), lambda entry: None)
        rooms.lose(subscriber, "a", member("Bob"))
        rooms.lose(subscriber, "a", member("Bob"))
        assert leaves(subscriber) == []

    run_in_loop(body())


def test_removal_is_carried_out_by_the_next_relay() -> None:
    """If a worker registers a removed user with a new relay, the relay makes the user leave."""

    async def body() -> None:
        removals = new_removals(lambda: 1_000.0)
        removals.add("a", "user Bob", 60)
        history = MemoryHistory(max_messages=10, new_generation=lambda: GENERATION)
        rooms = new_rooms(history, removals)
        subscriber = Subscriber(rooms)
        position = history.position("a")
        members = [(member("Alice"), 1), (member("Bob"), 2)]
        returning = Returning("a", position, members, [member("Alice")])
        assert await rooms.restore(subscriber, returning, gathering=True)
        assert subscriber.expelled == [("a", "user Bob", 60)]
        rooms.lose(subscriber, "a", member("Bob"))
        rooms.lose(subscriber, "a", member("Bob"))
        assert leaves(subscriber) == ["Bob"]

    run_in_loop(body())


def test_messages_before_a_removal_are_delivered_first() -> None:
    """Messages that were sent before a removal, even in the same turn, are delivered before it."""

    async def body() -> None:
        told: list[Any] = []

        class Recorder(Receiver):
            def publish(self, room: str, payload: bytes) -> None:
                told.append(json.loads(payload)["type"])

            def expel(self, room: str, user: str, seconds: int) -> None:
                told.append((room, user, seconds))

        history = MemoryHistory(max_messages=9, new_generation=lambda: GENERATION)
        rooms, receiver = new_rooms(history), Recorder()
        broker = MemoryBroker(rooms)
        broker.open(delivery=receiver, receiver=receiver)
        await broker.join(Entrance("a", *Member("Bob", "x"), None, 0), lambda entry: None)
        broker.publish(draft("hello"), receiver.answer)
        assert await rooms.remove(Removal("a", None, "Bob", 1, "Mod")) == Member("Bob", "x")
        assert told == ["message", ("a", "x", 1)]

    run_in_loop(body())


# The file of removals


def test_removals_are_stored_in_a_private_file(tmp_path: Path) -> None:
    """Removals are stored until they end, in a file that only the server's user can read."""
    file, now = tmp_path / "removals.json", [1_000.0]
    removals = new_removals(lambda: now[0], file)
    assert not file.exists()
    removals.add("a", "sub:1", 60)
    removals.add("b", "sub:1", 5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    now[0] += 10
    again = new_removals(lambda: now[0], file)
    assert again.remaining_s("a", "sub:1") == 50
    assert again.remaining_s("b", "sub:1") == 0
    assert again.remaining_s("a", "sub:2") == 0
    again.add("c", "sub:3", 1)
    assert len(again) == 2


@pytest.mark.parametrize("step_s", [10_800.0, -10_800.0])
def test_removal_lasts_as_long_as_said_when_the_clock_is_set(tmp_path: Path, step_s: float) -> None:
    """The file has the time of day, so that the removal outlives a restart."""
    file = tmp_path / "removals.json"
    wall, uptime = [1_750_000_000.0], [50.0]

    def after(seconds: float, step_s: float = 0.0) -> None:
        uptime[0] += seconds
        wall[0] += seconds + step_s

    removals = Removals(lambda: wall[0], file, user_of=str, steady=lambda: uptime[0])
    removals.add("lobby", "u-1", 600)
    after(10, step_s)
    assert removals.remaining_s("lobby", "u-1") == 590
    removals.add("lobby", "u-2", 600)  # so that the file is written again
    again = Removals(lambda: wall[0], file, user_of=str, steady=lambda: uptime[0] + 77)
    assert again.remaining_s("lobby", "u-1") == pytest.approx(590)
    after(590)
    assert removals.remaining_s("lobby", "u-1") == 0


@pytest.mark.parametrize(
    "content", ["", "{}x", "[5]", '{"a": 1}', '[["a", "b", "soon"]]', "[" * 9999]
)
def test_server_starts_with_a_broken_file_of_removals(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken file of removals is logged, and the server starts without it."""
    file = tmp_path / "removals.json"
    file.write_text(content, "ascii")
    assert len(new_removals(time.time, file)) == 0
    assert "cannot be read" in caplog.text


def test_removal_that_cannot_be_written_holds_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A removal that cannot be written holds until the process ends, and is logged."""
    removals = new_removals(lambda: 1.0, tmp_path / "no" / "removals.json")
    removals.add("a", "sub:1", 60)
    assert removals.remaining_s("a", "sub:1") == 60
    assert "cannot be written" in caplog.text


def test_authors_of_the_first_version_become_users(tmp_path: Path) -> None:
    """A removal that an earlier version has written stays in force."""
    file = tmp_path / "removals.json"
    file.write_text('[["a", "sub:1", 100.0]]', "ascii")
    removals = new_removals(lambda: 40.0, file)
    assert removals.remaining_s("a", "user of sub:1") == 60
    removals.add("b", "u_2", 5)
    again = new_removals(lambda: 40.0, file)
    assert [again.remaining_s(*each) for each in (("a", "user of sub:1"), ("b", "u_2"))] == [60, 5]


def test_file_of_a_newer_version_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why its removals are lost."""
    file = tmp_path / "removals.json"
    file.write_text('{"version": 3, "removals": [["a", "u_1", 100.0]]}', "ascii")
    assert len(new_removals(lambda: 40.0, file)) == 0
    assert "newer" in caplog.text


def test_removals_are_bounded() -> None:
    """Beyond the limit, the removals that end soonest are forgotten."""
    removals = new_removals(lambda: 0.0)
    removals._until_s = {("a", str(number)): 10.0 + number for number in range(MAX_REMOVALS)}
    removals.add("a", "new", 100)
    assert len(removals) == MAX_REMOVALS
    assert removals.remaining_s("a", "new") == 100
    assert removals.remaining_s("a", "0") == 0
