"""`fastchat_client.Chat` with real servers, and with scripted ones for what those seldom do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastchat_client import (
    Chat,
    ChatError,
    Closed,
    Delete,
    Disconnected,
    Edit,
    Erase,
    Event,
    Gap,
    Join,
    Leave,
    Message,
    Options,
    OptionsChange,
    Position,
    Presence,
    React,
    Refused,
    Rejoined,
    Room,
    Status,
    Typing,
)
from support.scripted import EPOCH, USER, Peer, message, scripted
from support.server import PATIENCE_S, running_server
from support.server_in_thread import Server, serving


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * PATIENCE_S))


async def events_of(room: Room, *kinds: type[Event], count: int) -> list[Any]:
    """The next events of these types."""
    found = []
    async for event in room:
        if isinstance(event, kinds):
            found.append(event)
            if len(found) == count:
                break
    return found


def cut(chat: Chat) -> None:
    """End the connection of a chat without a close frame."""
    assert chat._link is not None
    chat._link.abort()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}"


# What happens in a room


def test_everything_in_a_room_is_a_typed_event(url: str) -> None:
    """Messages, changes, joins, leaves and typing arrive in order, with their authors."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("typed")
            async with Chat(url, username="Bob") as bob:
                there = await bob.join("typed")
                await there.typing()
                sent = await there.send("Hello", id="first")
                await there.edit(sent.offset, "Hello!")
                await there.react(sent.offset, "👋")
                await there.react(sent.offset, "👋", remove=True)
                await there.delete(sent.offset)
                assert (sent.room, sent.offset, sent.id) == ("typed", 1, "first")
            events = [each async for each in _until(room, Leave)]
        kinds = [Join, Typing, Message, Edit, React, React, Delete, Leave]
        assert [type(each) for each in events if not isinstance(each, Presence)] == kinds
        came, typing, said, edited, reacted, taken_back, deleted, gone = events
        assert {each.user for each in events} == {there.user}
        assert (came.username, came.online, typing.username) == ("Bob", 2, "Bob")
        assert (said.text, said.id, said.timestamp) == ("Hello", "first", sent.timestamp)
        assert (edited.target, edited.text) == (1, "Hello!")
        assert (reacted.target, reacted.emoji, reacted.remove) == (1, "👋", False)
        assert taken_back.remove
        assert (deleted.target, gone.online) == (1, 1)

    async def _until(room: Room, last: type[Event]) -> Any:
        async for event in room:
            yield event
            if isinstance(event, last):
                return

    run(main())


def test_room_knows_its_users_and_its_messages(url: str) -> None:
    """A room has its newest messages, its users as they come and go, and the client's rights."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann, Chat(url, username="Bob") as bob:
            room = await ann.join("Küche")
            for text in ("one", "two", "three"):
                await room.send(text)
            there = await bob.join("küche", history=2)
            assert there is await bob.join("KÜCHE")
            assert (room.name, there.name) == ("küche", "küche")
            assert [each.text for each in there.messages] == ["two", "three"]
            await events_of(room, Join, count=1)
            assert [each.username for each in room.users or ()] == ["Ann", "Bob"]
            assert (room.online, room.rights) == (2, {"read", "write"})
            await there.leave()
            await events_of(room, Leave, count=1)
            assert [each.username for each in room.users or ()] == ["Ann"]
            assert [each async for each in there if not isinstance(each, Message)] == []
            with pytest.raises(Closed):
                await there.send("too late")

    run(main())


def test_history_is_read_in_pages_and_searched(url: str) -> None:
    """Pages have messages in their present state; a search finds them."""

    async def main() -> None:
        async with Chat(url, username="Ann") as chat:
            room = await chat.join("pages")
            for number in range(5):
                await room.send(f"text {number}")
            await room.react(3, "👋")
            page = await room.history(before=5, limit=2)
            assert [each.offset for each in page.messages] == [3, 4]
            assert page.more
            assert [each.username for each in page.messages[0].reactions["👋"]] == ["Ann"]
            later = await room.history(after=3)
            assert [each.text for each in later.messages] == ["text 3", "text 4"]
            assert not later.more
            assert [each.offset for each in await room.search('"text 3"')] == [4]

    run(main())


def test_reply_begins_with_a_quote(url: str) -> None:
    """A reply to a message, or to its offset, quotes it as the page does, without its own quote."""

    async def main() -> None:
        async with Chat(url, username="Ann") as chat:
            room = await chat.join("replies")
            sent = await room.send("What\n\nis this?")
            await room.send("A test.", reply_to=sent.offset)
            _, answer = await events_of(room, Message, count=2)
            await answer.reply("Of replies.")
            (last,) = await events_of(room, Message, count=1)
            assert answer.text == "> @Ann #1\n> What\n> is this?\n\nA test."
            assert answer.own_text == "A test."
            assert last.text == "> @Ann #2\n> A test.\n\nOf replies."
            with pytest.raises(Refused) as refused:
                await room.send("?", reply_to=99)
            assert refused.value.code == "not_found"

    run(main())


def test_messages_of_a_room_keep_the_order_of_the_calls(url: str) -> None:
    """Calls at the same time are sent one after the other."""

    async def main() -> None:
        async with Chat(url, username="Ann") as chat:
            room = await chat.join("order")
            sent = await asyncio.gather(*(room.send(f"{number}") for number in range(30)))
            assert [each.offset for each in sent] == list(range(1, 31))

    run(main())


def test_refusal_has_a_code_and_says_whether_it_is_temporary(url: str) -> None:
    """A refused command raises Refused and changes nothing; a second name is refused by `join`."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann, Chat(url, username="Bob") as bob:
            room, there = await ann.join("refused"), await bob.join("refused")
            await room.send("Ann's")
            with pytest.raises(Refused, match="author") as forbidden:
                await there.edit(1, "Bob's")
            assert (forbidden.value.code, forbidden.value.temporary) == ("forbidden", False)
            with pytest.raises(Refused, match="4,001 characters"):
                await room.send("x" * 4001)
            with pytest.raises(Refused, match="65,536 bytes"):
                await room.send("x" * 70_000)
            with pytest.raises(ValueError, match="surrogates"):
                await room.send("\ud800")
            async with Chat(url, username="ann") as double:
                with pytest.raises(Refused) as taken:
                    await double.join("refused")
                assert taken.value.code == "username_taken"
                assert (await double.join("another")).username == "ann"
            assert (await there.send("still there")).offset == 2

    run(main())


def test_name_of_a_function_is_replaced_if_it_is_taken(url: str) -> None:
    """A guest whose name comes from a function gets another one on the same connection."""

    async def main() -> None:
        names = iter(["Ann", "Ann", "Cem"])
        async with (
            Chat(url, username="Ann") as ann,
            Chat(url, username=lambda: next(names)) as other,
        ):
            await ann.join("names")
            assert (await other.join("names")).username == "Cem"

    run(main())


def test_message_without_a_name_is_refused(url: str) -> None:
    """Without a token and a name the client reads as a spectator."""

    async def main() -> None:
        async with Chat(url) as chat:
            room = await chat.join("spectators")
            assert room.username is None
            with pytest.raises(Refused) as refused:
                await room.send("Hello")
            assert refused.value.code == "forbidden"

    run(main())


# Files


def test_files_are_sent_with_a_message_and_read(tmp_path: Path) -> None:
    """Files of any origin are sent in pieces, stand in the text as links, and can be read back."""
    picture = tmp_path / "a picture.bin"
    picture.write_bytes(bytes(range(256)) * 1000)

    async def main(url: str) -> None:
        async with Chat(url, username="Ann") as chat:
            room = await chat.join("files")
            await room.send("Look:", files=[picture, ("note.txt", b"A note.")])
            (said,) = await events_of(room, Message, count=1)
            assert said.text.startswith("Look:\n/files/")
            assert [(each.name, each.size) for each in said.files] == [
                ("a picture.bin", 256_000),
                ("note.txt", 7),
            ]
            assert await chat.download(said.files[0]) == picture.read_bytes()
            assert await chat.download(said.files[1].link) == b"A note."
            with pytest.raises(Refused) as too_long:
                await chat.download(said.files[0], max_bytes=1000)
            with pytest.raises(Refused) as missing:
                await chat.download(said.files[0].link.replace("/files/", "/files/a", 1))
            assert (too_long.value.code, missing.value.code) == ("too_long", "not_found")
            with pytest.raises(ValueError, match="not the link"):
                await chat.download("http://127.0.0.1/files/x")
            with pytest.raises(FileNotFoundError):
                await room.send(files=[tmp_path / "missing"])
            with pytest.raises(Refused, match="is empty"):
                await room.send(files=[("empty", b"")])
            with pytest.raises(Refused, match="not a regular file"):
                await room.send(files=[tmp_path])
            with pytest.raises(Refused, match="at most 300,000 bytes"):
                await room.send(files=[("big", bytes(300_001))])

    with running_server("--data", str(tmp_path / "data"), "--max-file-bytes", "300000") as server:
        run(main(server.url))


def test_file_is_sent_again_after_a_lost_connection() -> None:
    """A file whose connection is lost is announced and sent anew, from its start."""
    seen: list[Any] = []

    async def script(peer: Peer) -> None:
        await peer.welcome(files={"max_bytes": 100})
        upload = await peer.receive()
        await peer.say(type="upload", room="lobby", chunk_bytes=4, ref=upload["ref"])
        seen.append([await peer._connection.recv() for _ in range(2)])
        if peer.number == 1:
            peer.cut()
            return
        seen.append(await peer._connection.recv())
        await peer.say(type="file", room="lobby", link="/files/x", ref=upload["ref"])
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            assert (await room.upload(("name", b"0123456789"))).link == "/files/x"
        assert seen == [[b"0123", b"4567"], [b"0123", b"4567"], b"89"]

    run(main())


# Lost connections


def test_missed_publications_come_once_and_in_order(url: str) -> None:
    """After lost connections nothing is missing and nothing double."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann, Chat(url, username="Bob") as bob:
            room, there = await ann.join("recovery"), await bob.join("recovery")
            await there.send("0")
            cut(ann)
            await there.send("1")
            await there.send("2")
            await events_of(room, Rejoined, count=1)
            cut(ann)
            cut(bob)
            sent = await there.send("3")  # it waits for the connection
            await there.send("4")
            assert sent.offset == 4
            found = [*await events_of(room, Message, count=4)]
            assert [each.offset for each in found] == [2, 3, 4, 5]
            assert room.position.offset == 5
            assert room.position.epoch == found[0].epoch

    run(main())


def test_position_of_an_earlier_program_is_resumed(url: str) -> None:
    """With `since`, the events go on after the last one that was taken."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("resumed")
            for number in range(4):
                await room.send(f"{number}")
            await events_of(room, Message, count=2)
            place, session = room.position, ann.session
        async with Chat(url, username="Ann", session=session) as ann:
            room = await ann.join("resumed", since=place)
            found = await events_of(room, Message, count=2)
            assert [each.text for each in found] == ["2", "3"]
            assert room.messages == ()

    run(main())


def test_too_much_to_recover_is_a_gap() -> None:
    """If the server cannot send what was missed, a gap says so and has the newest messages."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome(message(1, "one"), offset=1, timestamp=message(1, "")["timestamp"])
            peer.cut()
            return
        join = await peer.welcome(message(1, "one"), message(9, "nine"), offset=9)
        assert join["since"]["offset"] == 1
        assert join["history"] == 300
        await peer.say(**message(10, "ten"))
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            rejoined, gap, said = [await anext(room) for _ in range(3)]
            assert isinstance(rejoined, Rejoined)
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.after, gap.before) == ("away", 1, 10)
            assert gap.position == Position(EPOCH, 9, None)
            assert [each.text for each in gap.messages] == ["one", "nine"]
            assert isinstance(said, Message)
            assert said.text == "ten"

    run(main())


@pytest.mark.parametrize("change", ["epoch", "offset", "copy"])
def test_other_history_is_a_gap_of_its_own_kind(change: str) -> None:
    """Another epoch, an end before the position, or an old offset with a new message is a reset."""
    now: dict[str, Any] = {
        "epoch": {"epoch": "F", "offset": 7},
        "offset": {"offset": 3},
        "copy": {"offset": 7},
    }[change]

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome(offset=5, timestamp=message(5, "")["timestamp"])
            peer.cut()
            return
        new = message(3, "new", timestamp="2025-01-19T10:00:00.000Z")
        await peer.welcome(*([new] if change == "copy" else []), **now)
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            (gap,) = await events_of(room, Gap, count=1)
            assert (gap.reason, gap.after, gap.before) == ("reset", 0, now["offset"] + 1)

    run(main())


def test_hole_in_the_stream_is_recovered() -> None:
    """If an offset is missing, the client joins again, and gets what was missing."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome(offset=0)
            await peer.say(**message(1, "one"))
            await peer.say(**message(1, "one"))
            await peer.say(**message(3, "three"))
        else:
            missed = [message(2, "two"), message(3, "three")]
            await peer.welcome(*missed, offset=3, recovered=True)
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            found = await events_of(await chat.join(), Message, count=3)
            assert [each.text for each in found] == ["one", "two", "three"]

    run(main())


def test_program_that_is_too_slow_is_told_of_a_gap(url: str) -> None:
    """The oldest events are dropped, a gap takes their place, and the newest ones follow."""

    async def main() -> None:
        async with Chat(url, username="Ann") as chat:
            room = await chat.join("slow", buffer=5)
            for number in range(1, 21):
                await room.send(f"{number}")
            gap = await anext(room)
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.after, gap.before) == ("slow", 0, 16)
            found = await events_of(room, Message, count=5)
            assert [each.offset for each in found] == [16, 17, 18, 19, 20]
            page = await room.history(after=gap.after, limit=gap.before - 1)
            assert [each.offset for each in page.messages] == list(range(1, 16))

    run(main())


# Messages that are sent again


@pytest.mark.parametrize("answer", ["publication", "recovered", "page", "ack"])
def test_unconfirmed_message_is_sent_again_once(answer: str) -> None:
    """After a lost connection a message is sent again under its id, unless it is among what was
    missed; each kind of confirmation ends the call."""
    commands: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        own = message(1, "once", user=USER, id=commands[0]["id"]) if commands else {}
        if peer.number == 2 and answer == "recovered":
            await peer.welcome(own, offset=1, recovered=True)
        elif peer.number == 2 and answer == "page":
            await peer.welcome(own, offset=400, recovered=False)
        else:
            await peer.welcome()
        if peer.number == 1 or answer in ("publication", "ack"):
            commands.append(await peer.receive())
        if peer.number == 1:
            peer.cut()
        elif answer == "publication":
            await peer.say(**message(1, "once", user="u_eve", id=commands[0]["id"]))
            await peer.say(**message(2, "once", user=USER, id=commands[0]["id"]))
        elif answer == "ack":
            await peer.say(type="ack", room="lobby", id=commands[0]["id"], offset=1)
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            sent = await (await chat.join()).send("once")
            assert sent.id == commands[0]["id"]
            assert sent.offset == (2 if answer == "publication" else 1)
            assert (sent.timestamp is None) == (answer == "ack")
        assert len(commands) == (2 if answer in ("publication", "ack") else 1)
        assert all(each == commands[0] for each in commands)

    run(main())


def test_change_is_sent_again_after_a_lost_connection() -> None:
    """An edit and a deletion are sent again; one that turns out to be done is a success."""
    commands: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        commands.append(command := await peer.receive())
        if peer.number == 1:
            peer.cut()
        else:
            error = {"code": "not_found", "message": "No.", "temporary": False}
            await peer.say(type="error", ref=command["ref"], **error)
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            await room.delete(7)
        assert commands[0] == commands[1]

    run(main())


def test_client_waits_as_long_as_the_server_asks() -> None:
    """After `rate_limited` the same message is sent again; after other errors it is not."""
    commands: list[dict[str, Any]] = []
    times: list[float] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        for code, temporary in (("rate_limited", True), ("unavailable", True), ("forbidden", True)):
            commands.append(await peer.receive())
            times.append(asyncio.get_running_loop().time())
            error = {"code": code, "message": "Wait.", "temporary": temporary}
            await peer.say(type="error", id=commands[0]["id"], retry_after_ms=50, **error)
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            with pytest.raises(Refused) as refused:
                await room.send("patience")
            assert refused.value.code == "forbidden"
            assert refused.value.retry_after == 0.05
        assert commands[0] == commands[1] == commands[2]
        assert times[1] - times[0] > 0.045

    run(main())


# Tokens


def test_token_is_asked_for_at_each_connection_and_when_it_expires() -> None:
    """A function is called once for each connection, whether it waits or not; the newest token is
    sent."""
    tokens: list[str] = []
    joins: list[str] = []
    statuses: list[str] = []

    async def script(peer: Peer) -> None:
        joins.append((await peer.welcome())["token"])
        if peer.number == 1:
            peer.cut()
        elif peer.number == 2:
            await peer.close(4011, "the token has expired")
        else:
            await peer.say(**message(1, "in"))
            await peer.stay()

    def next_token() -> str:
        tokens.append(f"token {len(tokens)}")
        return tokens[-1]

    async def awaited_token() -> str:
        return next_token()

    async def main(function: Any) -> None:
        async with (
            scripted(script) as url,
            Chat(url, token=function, on_status=lambda each: statuses.append(each.state)) as chat,
        ):
            await events_of(await chat.join(), Message, count=1)

    for function in (next_token, awaited_token):
        run(main(function))
        assert joins == tokens == ["token 0", "token 1", "token 2"]
        assert statuses.count("renewing") == 1
        for each in (tokens, joins, statuses):
            each.clear()


def test_failing_token_function_ends_only_the_first_join() -> None:
    """Its exception is raised by `join`; later the chat calls the function again."""
    failures = iter([False, True, False])

    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number == 1:
            peer.cut()
        else:
            await peer.say(**message(1, "back"))
            await peer.stay()

    def token() -> str:
        if next(failures):
            raise OSError("no network")
        return "token"

    def broken() -> str:
        raise LookupError("no account")

    async def main() -> None:
        async with scripted(script) as url:
            async with Chat(url, token=broken) as chat:
                with pytest.raises(LookupError, match="no account"):
                    await chat.join()
            async with Chat(url, token=token) as chat:
                await events_of(await chat.join(), Message, count=1)

    run(main())


def test_expired_token_without_a_successor_ends_the_chat() -> None:
    """A token that is only a string cannot be renewed."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4011, "the token has expired")

    async def main() -> None:
        async with scripted(script) as url, Chat(url, token="token") as chat:
            room = await chat.join()
            with pytest.raises(ChatError, match="The token has expired") as expired:
                await anext(room)
            assert expired.value.code == "token_expired"

    run(main())


# The operator


def test_options_and_deletions_of_rooms_are_told() -> None:
    """Options are in the room and in an event; a deleted room ends, and the chat goes on."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.welcome(options={"title": "Lobby", "slow_s": 5, "new": 1})
            await peer.welcome()
            await peer.say(type="room", room="lobby", options={"read_only": True})
            await peer.say(type="user_erased", room="lobby", user="u_eve")
            await peer.say(type="room_deleted", room="lobby")
            await peer.close(4010, "the room was deleted")
        else:
            join = await peer.welcome()
            await peer.say(**message(1, "still here", room=join["room"]))
            await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            assert room.options == Options(title="Lobby", slow_s=5)
            other = await chat.join("other")
            change, erased = await anext(room), await anext(room)
            assert isinstance(change, OptionsChange)
            assert change.options == room.options == Options(read_only=True)
            assert isinstance(erased, Erase)
            assert erased.user == "u_eve"
            with pytest.raises(Refused, match="deleted") as deleted:
                await anext(room)
            assert deleted.value.code == "room_deleted"
            (said,) = await events_of(other, Message, count=1)
            assert said.text == "still here"

    run(main())


# The end


def test_final_close_code_ends_everything() -> None:
    """After a code that forbids a reconnect, iterations, calls that wait and new calls raise."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.receive()
        await peer.close(4503, "removed by a moderator")

    async def main() -> None:
        statuses: list[Status] = []
        async with scripted(script) as url:
            chat = Chat(url, username="Me", on_status=statuses.append)
            room = await chat.join()
            sending = asyncio.create_task(room.send("Hello"))
            with pytest.raises(Closed, match="removed by a moderator") as closed:
                await anext(room)
            assert closed.value.close_code == 4503
            for work in (sending, room.send("again"), chat.join("other")):
                with pytest.raises(Closed, match="removed by a moderator"):
                    await work
            await chat.close()
        assert [each.state for each in statuses] == ["connecting", "connected", "closed"]
        assert statuses[-1].error is closed.value

    run(main())


def test_close_ends_iterations_and_calls_at_once(url: str) -> None:
    """The others see the leave at once; events that had come are still taken."""

    async def main() -> None:
        async with Chat(url, username="Ann") as ann, Chat(url, username="Bob") as bob:
            room, there = await ann.join("closing"), await bob.join("closing")
            await room.send("last")
            await events_of(there, Message, count=1)
            await ann.close()
            assert [each.text async for each in room if isinstance(each, Message)] == ["last"]
            with pytest.raises(Closed):
                await room.send("too late")
            async with asyncio.timeout(4):  # without the `leave` it would take 5 s
                await events_of(there, Leave, count=1)
            await ann.close()

    run(main())


def test_address_without_a_chat_is_an_error(url: str) -> None:
    """A wrong address ends `join`; a server that is not there yet is waited for."""

    async def main() -> None:
        for wrong in (f"{url}/nothing", url.replace("ws:", "wss:"), "ws://x.invalid"):
            async with Chat(wrong) as chat:
                with pytest.raises(Disconnected, match="No chat server answers") as unreachable:
                    await chat.join()
                assert unreachable.value.code == "unreachable"
        statuses: list[Status] = []
        async with Chat("ws://127.0.0.1:1", on_status=statuses.append) as chat:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await chat.join()
        waiting = [each for each in statuses if each.state == "waiting"]
        assert 0.25 <= (waiting[0].retry_in or 0) <= 0.5
        with pytest.raises(ValueError, match="not an address"):
            Chat("chat.example")

    run(main())


def test_events_of_a_newer_protocol_are_ignored() -> None:
    """Unknown types and keys change nothing; what is no event of the protocol ends the chat."""

    async def script(peer: Peer) -> None:
        await peer.welcome(news=1)
        await peer.say(type="weather", room="lobby")
        await peer.say(**message(1, "one", colour="red"))
        await peer.say(type="message")
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url, Chat(url, username="Me") as chat:
            room = await chat.join()
            said = await anext(room)
            assert said.raw["colour"] == "red"
            with pytest.raises(ChatError, match="does not speak fastchat's protocol"):
                await anext(room)

    run(main())


def test_join_that_was_given_up_is_left(url: str) -> None:
    """If a program stops waiting for a join, the client is not in the room afterwards."""

    async def main() -> None:
        async with Chat(url, username="Ann") as chat:
            await chat.join("first")
            joining = asyncio.create_task(chat.join("given-up"))
            for _ in range(3):  # the `join` is on its way then
                await asyncio.sleep(0)
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            room = await chat.join("given-up")
            assert room.online == 1
            await room.leave()
            await room.leave()
            assert set(chat.rooms) == {"first"}

    run(main())
