"""`fastchat_client.API` and `SyncAPI` against a running server."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from fastchat.api.keys import ApiRight
from fastchat.auth.issuing import create_secret
from fastchat_client import (
    API,
    Chat,
    Closed,
    Delete,
    Disconnected,
    Edit,
    Gap,
    Join,
    Message,
    Options,
    Position,
    React,
    Refused,
    SyncAPI,
    SyncChat,
)
from support.api import made_key
from support.server import PATIENCE_S, lasting_port, running_server
from support.server import Server as ServerProcess
from support.server_in_thread import Server, serving

_numbers = itertools.count()

#: The method for each operation of openapi.json.
METHODS = {
    "publishMessage": "publish",
    "publishToRooms": "publish_to",
    "listMessages": "messages",
    "editMessage": "edit",
    "deleteMessage": "delete",
    "addReaction": "react",
    "removeReaction": "react",
    "uploadFile": "upload",
    "listRooms": "rooms",
    "getRoom": "options",
    "changeRoom": "set_options",
    "deleteRoom": "delete_room",
    "listUsers": "users",
    "getUser": "find_user",
    "disconnectUser": "disconnect",
    "banUser": "ban",
    "unbanUser": "unban",
    "listBans": "bans",
    "exportUser": "export",
    "eraseUser": "erase",
    "createToken": "create_token",
    "streamEvents": "events",
    "getDescription": "description",
}


class Place(NamedTuple):
    """A server with an API, and the file of its keys."""

    server: Server
    keys: Path
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def new_key(self, *rights: ApiRight, rate: int | None = None) -> str:
        """A new key, which the server knows."""
        key = made_key(self.keys, f"key-{next(_numbers)}", rights=rights, rate=rate)
        self.server.call(self.server.reload)
        return key


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("api")
    create_secret(folder / "secret")
    key = made_key(folder / "keys.json")
    settings: dict[str, Any] = {
        "history": "sqlite",
        "data": str(folder / "data"),
        "auth": "optional",
        "jwt_key_file": (str(folder / "secret"),),
        "max_file_bytes": 600_000,
        "api_key_file": str(folder / "keys.json"),
    }
    with serving(**settings) as server:
        yield Place(server, folder / "keys.json", key)


@pytest.fixture
def api(place: Place) -> Iterator[SyncAPI]:
    with SyncAPI(place.url, key=place.key) as api:
        yield api


@pytest.fixture
def room() -> str:
    """The name of a room that no other test uses."""
    return f"room-{next(_numbers)}"


def run(place: Place, work: Callable[[API], Any]) -> Any:
    """Run a coroutine function with an API."""

    async def main() -> Any:
        async with API(place.url, key=place.key) as api, asyncio.timeout(PATIENCE_S):
            return await work(api)

    return asyncio.run(main())


async def first(stream: AsyncIterator[Any], kind: type) -> Any:
    async for event in stream:
        if isinstance(event, kind):
            return event
    raise AssertionError("the stream has ended")


def test_every_operation_has_a_method_in_both_classes() -> None:
    """No operation of the description is missing, and the classes have the same methods."""
    described = json.loads((files("fastchat.api") / "openapi.json").read_text("utf-8"))
    operations = {
        operation["operationId"]
        for methods in described["paths"].values()
        for operation in methods.values()
    }
    assert operations == set(METHODS)
    for name in METHODS.values():
        assert callable(getattr(API, name))
    public = [{name for name in dir(kind) if name[0] != "_"} for kind in (API, SyncAPI)]
    assert public[0] == public[1]


def test_messages_are_published_read_and_changed(api: SyncAPI, room: str) -> None:
    """Each call has its effect when it returns."""
    sent = api.publish(room, "one")
    assert (sent.room, sent.offset, sent.repeated) == (room, 1, False)
    assert sent.timestamp is not None
    api.publish(room, "two", user="u_17", username="Ann", reply_to=1)
    api.edit(room, 1, "one!")
    api.react(room, 2, "👍", user="u_18", username="Bob")
    api.react(room, 2, "👍")
    api.react(room, 2, "👍", remove=True)
    page = api.messages(room)
    assert [each.own_text for each in page.messages] == ["one!", "two"]
    assert page.messages[1].user == "u_17"
    assert [each.user for each in page.messages[1].reactions["👍"]] == ["u_18"]
    assert (page.more, page.position) == (False, Position(sent.epoch, 6))
    assert api.messages(room, before=2, limit=1).messages[0].offset == 1
    assert [each.offset for each in api.search(room, "two")] == [2]
    api.delete(room, 1)
    assert api.messages(room).messages[0].deleted


def test_room_is_followed_by_position(api: SyncAPI, room: str) -> None:
    """`since` gives publications of every kind, and says where to go on."""
    sent = api.publish(room, "one")
    api.edit(room, 1, "two")
    api.react(room, 1, "👍")
    api.delete(room, 1)
    page = api.since(room, Position(sent.epoch, 0), limit=3)
    assert [type(each) for each in page.publications] == [Message, Edit, React]
    assert (page.more, page.position.offset) == (True, 3)
    page = api.since(room, page.position)
    assert [type(each) for each in page.publications] == [Delete]
    assert (page.more, page.position) == (False, Position(sent.epoch, 4))
    with pytest.raises(Refused) as refused:
        api.since(room, Position("another", 1))
    assert refused.value.code == "gone"


def test_same_id_is_published_once(api: SyncAPI, room: str) -> None:
    """The second call gets the result of the first one."""
    sent = api.publish(room, "paid", id="order-1")
    again = api.publish(room, "paid", id="order-1")
    assert (again.offset, again.id, again.repeated) == (sent.offset, "order-1", True)


def test_message_to_many_rooms_can_fail_in_some(api: SyncAPI, room: str) -> None:
    """Each room has its own result."""
    api.set_options(f"{room}-2", closed=True)
    good, bad = api.publish_to([f"{room}-1", "No Room"], "hello")
    assert good.published is not None
    assert (good.published.offset, good.error) == (1, None)
    assert bad.error is not None
    assert (bad.error.code, bad.published) == ("bad_room", None)
    assert f"{room}-1" in {each.room for each in api.publish_to(None, "everybody")}


def test_names_with_special_characters_reach_their_room(api: SyncAPI) -> None:
    """No part of a path becomes another path."""
    for name in ("..", ".", "käse", "a.b"):
        assert api.publish(name, "hello").room == name
        assert api.messages(name).messages[0].text == "hello"
    assert api.find_user("u_a/../b?c#d%2F") == ()
    with pytest.raises(ValueError, match="empty"):
        api.publish("", "hello")


def test_rooms_are_listed_and_administered(api: SyncAPI, room: str) -> None:
    """Options that are not set have their defaults, and a deleted room is gone."""
    for number in range(3):
        api.publish(f"{room}-{number}", "hello")
    listed = tuple(api.rooms(f"{room}-"))
    assert [each.room for each in listed] == [f"{room}-{number}" for number in range(3)]
    assert (listed[0].head, listed[0].online) == (1, 0)
    assert listed[0].last_at is not None
    assert api.options(room) == Options()
    assert api.set_options(room, title="Orders", slow_s=5) == Options(title="Orders", slow_s=5)
    assert api.set_options(room, title="", read_only=True) == Options(read_only=True, slow_s=5)
    api.delete_room(room)
    with pytest.raises(Refused) as refused:
        api.delete_room(room)
    assert refused.value.code == "not_found"


def test_rooms_are_read_in_pages(api: SyncAPI, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The iteration goes on after the first page."""
    monkeypatch.setattr("fastchat_client.api.ROOMS_AT_ONCE", 2)
    names = [f"{room}-{number}" for number in range(5)]
    api.publish_to(names, "hello")
    assert [each.room for each in api.rooms(room)] == names


def test_user_is_seen_disconnected_and_banned(place: Place, api: SyncAPI, room: str) -> None:
    """A banned user cannot join until the ban is lifted."""
    token = api.create_token("ann/1", name="Ann", ttl=600)
    assert token.expires > datetime.now(UTC)
    assert token.token not in repr(token)
    user = "u_ann/1"
    with SyncChat(place.url, token=token.token) as chat:
        chat.room(room)
        (seen,) = api.users(room)
        assert (seen.user, seen.username, seen.connections) == (user, "Ann", 1)
        assert api.find_user(user) == (seen,)
        assert api.disconnect(user, room=room, reason="a test") == 1
        api.ban(user, seconds=600, room=room)
        (ban,) = [each for each in api.bans() if each.user == user]
        assert (ban.room, ban.until > datetime.now(UTC)) == (room, True)
    with SyncChat(place.url, token=token.token) as chat, pytest.raises(Refused):
        chat.room(room)
    api.unban(user, room=room)
    with pytest.raises(Refused, match="not banned"):
        api.unban(user, room=room)
    with SyncChat(place.url, token=token.token) as chat:
        chat.room(room)


def test_token_has_the_rights_that_it_was_given(place: Place, api: SyncAPI, room: str) -> None:
    """A token for reading cannot write."""
    token = api.create_token("reader", name="Reader", rooms={room: ["read"]})
    with SyncChat(place.url, token=token.token) as chat:
        assert chat.room(room).rights == {"read"}


def test_user_is_exported_and_erased(api: SyncAPI, room: str) -> None:
    """The export has everything, and separators in a text do not break it."""
    user = f"u_{room}"
    texts = ["one\u2028two\u2029three", "four"]
    for text in texts:
        api.publish(room, text, user=user, username="Ann")
    assert [each["text"] for each in api.export(user)] == texts
    assert next(api.export(user))["room"] == room  # which can be left before its end
    assert api.erase(user).messages == 2
    assert list(api.export(user)) == []


def test_file_is_stored(place: Place, api: SyncAPI, room: str, tmp_path: Path) -> None:
    """A path and a pair of a name and bytes are files; one that is too large is refused."""
    path = tmp_path / "a b.txt"
    path.write_bytes(b"notes" * 100_000)  # in several pieces
    file = api.upload(room, path)
    assert (file.name, file.size) == ("a b.txt", 500_000)
    api.publish(room, file.link)
    assert api.messages(room).messages[0].files[0].link == file.link
    with SyncChat(place.url) as chat:
        assert chat.download(file) == path.read_bytes()
    assert run(place, lambda each: each.upload(room, ("b.txt", b"notes"))).size == 5
    with pytest.raises(Refused) as refused:
        api.upload(room, ("c.txt", b"x" * 700_000))
    assert refused.value.code == "too_long"
    with pytest.raises(FileNotFoundError):
        api.upload(room, tmp_path / "missing")


def test_events_are_followed_in_an_event_loop(place: Place, room: str) -> None:
    """All kinds of events come in order; another stream continues after the last id."""

    async def follow(api: API) -> None:
        async with api.events(room) as stream:
            await api.publish(room, "one\u2028two")
            message = await anext(stream)
            assert isinstance(message, Message)
            assert (message.text, message.room) == ("one\u2028two", room)
            async with Chat(place.url, username="Ann") as chat:
                await chat.join(room)
                assert (await first(stream, Join)).username == "Ann"
            await api.edit(room, 1, "three")
            assert (await first(stream, Edit)).target == 1
            last_id = stream.last_id
        await api.react(room, 1, "👍")
        await api.delete(room, 1)
        async with api.events(room, last_id=last_id) as stream:
            assert [type(await anext(stream)) for _ in range(2)] == [React, Delete]
        assert [each async for each in stream] == []

    run(place, follow)


def test_stream_goes_on_after_its_connection_is_lost(
    place: Place, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published meanwhile comes once."""
    monkeypatch.setattr("fastchat_client.stream.MAX_RETRY_S", 0.05)

    async def follow(api: API) -> list[str]:
        texts = []
        async with api.events(room) as stream:
            for number in range(3):
                await api.publish(room, f"message {number}")
                texts.append((await first(stream, Message)).text)
                cut(place.server)
        return texts

    assert run(place, follow) == ["message 0", "message 1", "message 2"]


def cut(server: Server) -> None:
    """Drop all HTTP connections of a server, which goes on."""

    def abort() -> None:
        for connection in server.connections():
            assert connection.transport is not None
            connection.transport.abort()

    server.call(abort)


def test_stream_can_be_closed_while_a_task_waits(place: Place, room: str) -> None:
    """The iteration ends."""

    async def follow(api: API) -> list[object]:
        stream = api.events(room)
        await stream.start()

        async def read() -> list[object]:
            return [event async for event in stream]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await stream.close()
        return await reading

    assert run(place, follow) == []


def test_cancelled_wait_loses_no_event(place: Place, room: str) -> None:
    """A program can give a wait up, and wait again."""

    async def follow(api: API) -> str:
        async with api.events(room) as stream:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(stream)
            await api.publish(room, "kept")
            text: str = (await first(stream, Message)).text
            return text

    assert run(place, follow) == "kept"


def test_blocking_stream_says_what_is_missing(place: Place, api: SyncAPI, room: str) -> None:
    """A room with another history is read from its beginning, after a gap."""
    api.publish(room, "old")
    with api.events(room) as stream:
        last_id = stream.last_id
    api.delete_room(room)
    api.publish(room, "new")
    with api.events(room, last_id=last_id) as stream:
        assert stream.last_id == last_id  # the gap was not given yet
        gap, message = next(stream), next(stream)
    assert isinstance(gap, Gap)
    assert (gap.room, gap.reason, gap.after) == (room, "reset", 0)
    assert isinstance(message, Message)
    assert message.text == "new"
    assert list(stream) == []


def test_refusals_are_raised(place: Place, room: str) -> None:
    """A key without a right, a wrong key, and a stream of too many rooms are no reason to wait."""
    with SyncAPI(place.url, key=place.new_key(ApiRight.READ)) as reader:
        with pytest.raises(Refused) as refused:
            reader.publish(room, "hello")
        assert (refused.value.code, refused.value.temporary) == ("forbidden", False)
        with pytest.raises(Refused, match="50 rooms"):
            next(reader.events(*(f"{room}-{number}" for number in range(51))))
    with SyncAPI(place.url, key="fastchat_key_wrong") as stranger:
        with pytest.raises(Refused) as refused:
            stranger.publish(room, "hello")
        assert refused.value.code == "unauthorized"


def test_call_waits_when_the_key_is_too_quick(place: Place, room: str) -> None:
    """It obeys the server within its limit; beyond, it raises and says how long to wait."""
    key = place.new_key(ApiRight.READ, rate=2)
    with SyncAPI(place.url, key=key) as patient:
        for _ in range(4):
            patient.messages(room)
    with SyncAPI(place.url, key=key, max_wait=0) as hasty, pytest.raises(Refused) as refused:
        _ = [hasty.messages(room) for _ in range(4)]
    assert (refused.value.code, refused.value.temporary) == ("rate_limited", True)
    assert 0 < (refused.value.retry_after or 0) <= 1


def test_key_is_in_no_representation_and_no_log(
    place: Place, room: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the library nor httpx writes it, whatever is logged."""
    caplog.set_level(logging.DEBUG)
    with SyncAPI(f"{place.url}/#lobby", key=place.key + "\n") as api:
        api.publish(room, "hello")
        assert repr(api) == f"SyncAPI('{place.url}/api/v1')"
        assert len(caplog.records) > 0
        assert place.key not in caplog.text
        assert place.key not in repr(vars(api))
    with pytest.raises(ValueError, match="not one of") as wrong:
        SyncAPI(place.url, key="a secret")
    assert "secret" not in str(wrong.value)


def test_connection_is_kept_and_a_fork_gets_its_own(place: Place, api: SyncAPI, room: str) -> None:
    """Calls share one connection; a child does not write to that of its parent."""
    before = set(place.server.call(place.server.connections))
    for _ in range(3):
        api.publish(room, "hello")
    assert len(set(place.server.call(place.server.connections)) - before) == 1
    child = os.fork()
    if child == 0:
        try:
            api.publish(room, "child")
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    api.publish(room, "parent")
    texts = [each.text for each in api.messages(room).messages]
    assert texts == ["hello"] * 3 + ["child", "parent"]


def test_closed_api_is_an_error(place: Place, room: str) -> None:
    """A call after the end says so."""
    with SyncAPI(place.url, key=place.key) as api:
        pass
    with pytest.raises(Closed, match="closed"):
        api.publish(room, "hello")

    async def use() -> None:
        async with API(place.url, key=place.key) as api:
            pass
        await api.publish(room, "hello")

    with pytest.raises(Closed, match="closed"):
        asyncio.run(use())


def test_address_without_an_api_is_an_error() -> None:
    """Neither a server without keys nor a closed port is tried for ever."""
    with serving() as server, SyncAPI(f"http://127.0.0.1:{server.port}", key="k") as api:
        with pytest.raises(Disconnected, match="--api-key-file") as error:
            api.bans()
        assert (error.value.code, error.value.temporary) == ("unreachable", False)
    with SyncAPI("http://127.0.0.1:1", key="k", max_wait=0.2) as api:
        with pytest.raises(Disconnected) as error:
            api.bans()
        assert error.value.temporary


def test_certificate_that_is_not_trusted_is_an_error(tmp_path: Path) -> None:
    """The call raises at once, and says why; `tls` trusts other certificates."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    key = made_key(tmp_path / "keys.json")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with serving(
        api_key_file=str(tmp_path / "keys.json"), ssl_certfile=str(tmp_path / "server.pem")
    ) as server:
        url = f"https://127.0.0.1:{server.port}"
        with SyncAPI(url, key=key, tls=trusting) as api:
            assert api.bans() == ()
        with SyncAPI(url, key=key) as api, pytest.raises(Disconnected, match="certif") as error:
            api.bans()
    assert (error.value.code, error.value.temporary) == ("unreachable", False)


def test_killed_server_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Each call ends well after the restart; the stream has each message once, and in order."""
    port, key = lasting_port(), made_key(tmp_path / "keys.json")
    flags = ("--data", str(tmp_path / "data"), "--api-key-file", str(tmp_path / "keys.json"))
    count = 60
    url = f"http://127.0.0.1:{port}"

    async def use(server: ServerProcess) -> list[str]:
        async with (
            asyncio.timeout(PATIENCE_S),
            API(url, key=key, max_wait=PATIENCE_S) as api,
            api.events("lobby") as stream,
        ):

            async def publish() -> None:
                for number in range(count):
                    await api.publish("lobby", f"message {number}")

            publishing = asyncio.create_task(publish())
            texts = [(await first(stream, Message)).text]
            await asyncio.to_thread(server.kill)
            with running_server(*flags, port=port):
                await publishing
                texts += [(await first(stream, Message)).text for _ in range(count - 1)]
                page = await api.messages("lobby", limit=300)
        assert [each.text for each in page.messages] == texts
        return texts

    with running_server(*flags, port=port) as server:
        texts = asyncio.run(use(server))
    assert texts == [f"message {number}" for number in range(count)]
