"""The rules of the chat, without sockets: who may do what, and who hears of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from fastchat import protocol
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.files.incoming import STALL_S
from fastchat.protocol import Chunk, Position
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.members import GRACE_TICKS
from fastchat.rooms.presence import author_of
from support.chat import TIMESTAMP, Talk, run
from support.files_in_memory import Shelf

# Joining


def test_join_reply_has_all_that_a_client_needs() -> None:
    """The reply names room, user, session, position, recovery, messages, users, number and ref."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        await talk.do("Bob", text="hi", id="i")
        reply = await talk.join("Alice", ref="r")
        assert reply == {
            "type": "joined",
            "room": "lobby",
            "username": "Alice",
            "session": "secret-of-16-bytes-1",
            "epoch": "epoch-0",
            "offset": 1,
            "recovered": False,
            "messages": [
                {
                    "type": "message",
                    "room": "lobby",
                    "offset": 1,
                    "username": "Bob",
                    "text": "hi",
                    "timestamp": TIMESTAMP,
                    "id": "i",
                }
            ],
            "users": ["Bob", "Alice"],
            "online": 2,
            "ref": "r",
        }

    run(test)


def test_join_is_reported_to_the_connection() -> None:
    """Each join that succeeds is, with its author; one that is refused is not."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice", session="a-secret-of-20-bytes")
        await talk.refused("Alice", type="join", room="lobby")
        assert talk.endpoints["Alice"].authors == [author_of("a-secret-of-20-bytes")]
        talk.broker.gate = asyncio.Event()
        joining = asyncio.create_task(talk.do("Bob", type="join", username="Bob"))
        await asyncio.sleep(0)
        talk.depart("Bob")
        talk.broker.gate.set()
        await joining
        assert talk.endpoints["Bob"].authors == []

    run(test)


def test_others_hear_of_a_join_and_the_newcomer_does_not() -> None:
    """A `join` event goes to those who were there, the reply to whoever came."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        await talk.join("Alice")
        assert talk.kinds("Alice") == ["joined"]
        assert talk.news("Bob") == [
            {
                "type": "join",
                "room": "lobby",
                "username": "Alice",
                "text": "Alice joined the chat",
                "timestamp": TIMESTAMP,
                "online": 2,
            }
        ]

    run(test)


def test_join_without_a_name_is_refused() -> None:
    """A first join needs a `username`."""

    async def test(talk: Talk) -> None:
        error = await talk.refused("nobody", type="join")
        assert error.code == ErrorCode.BAD_USERNAME
        assert talk.names() == []

    run(test)


def test_second_room_is_joined_under_the_same_name_and_session() -> None:
    """Who has joined once need not say his name again."""

    async def test(talk: Talk) -> None:
        first = await talk.join("Alice", "a")
        await talk.do("Alice", type="join", room="b")
        second = talk.inboxes.got["Alice"][-1]
        assert (second["username"], second["session"]) == ("Alice", first["session"])
        assert second["epoch"] != first["epoch"]

    run(test)


def test_joining_a_room_again_is_refused() -> None:
    """A connection is in a room once: `already_joined`, and nothing changes."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        assert (await talk.refused("Alice", type="join")).code == ErrorCode.ALREADY_JOINED
        assert talk.names() == ["Alice"]
        talk.depart("Alice")
        talk.tick()
        assert talk.names() == []

    run(test)


def test_connection_may_be_in_128_rooms() -> None:
    """One more is `too_many_rooms`; after leaving one there is a place again."""

    async def test(talk: Talk) -> None:
        for number in range(128):
            await talk.join("Alice", f"r{number}")
        error = await talk.refused("Alice", type="join", room="one-more")
        assert (error.code, error.temporary) == (ErrorCode.TOO_MANY_ROOMS, True)
        await talk.do("Alice", type="leave", room="r5")
        await talk.join("Alice", "one-more")
        talk.depart("Alice")
        talk.tick()
        assert talk.rooms.room_count == 0
        assert not any(talk.inboxes.members.values())

    run(test)


# Names


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Ａlice"])
def test_name_of_somebody_else_is_taken(name: str) -> None:
    """Without the session a name in use, or one that looks like it, is refused; nobody hears."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        talk.news("Alice")
        for extra in ({}, {"session": "another-secret-16"}):
            error = await talk.refused("Eve", type="join", username=name, **extra)
            assert (error.code, error.temporary) == (ErrorCode.USERNAME_TAKEN, True)
        assert talk.news("Alice") == []
        talk.depart("Eve")
        talk.tick()
        assert talk.names() == ["Alice"]

    run(test)


def test_session_takes_the_name_back() -> None:
    """With the session of the first connection a second one is the same user."""

    async def test(talk: Talk) -> None:
        first = await talk.join("tab 1", username="Alice")
        second = await talk.join("tab 2", username="Alice", session=first["session"])
        assert (second["username"], second["online"]) == ("Alice", 1)
        assert second["session"] == first["session"]

    run(test)


def test_session_survives_a_departure() -> None:
    """A client that comes back with its session keeps it."""

    async def test(talk: Talk) -> None:
        first = await talk.join("Alice")
        talk.depart("Alice")
        second = await talk.join("later", username="Alice", session=first["session"])
        assert second["session"] == first["session"]

    run(test)


def test_joins_and_leaves_are_told_once_a_user_and_not_once_a_tab() -> None:
    """The second tab comes silently, and the first that closes goes silently."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        first = await talk.join("tab 1", username="Alice")
        await talk.join("tab 2", username="Alice", session=first["session"])
        assert talk.kinds("Bob") == ["joined", "join"]
        talk.depart("tab 1")
        talk.tick()
        assert talk.kinds("Bob") == []
        talk.depart("tab 2")
        talk.tick()
        (event,) = talk.news("Bob")
        assert (event["type"], event["username"], event["online"]) == ("leave", "Alice", 1)
        assert event["text"] == "Alice left the chat"

    run(test)


def test_two_tabs_that_join_at_once_are_told_once() -> None:
    """While a slow history keeps both waiting, neither is taken for the second."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        talk.broker.gate = asyncio.Event()
        session = "shared-secret-16-bytes"
        tabs = [
            asyncio.create_task(talk.join(tab, username="Alice", session=session))
            for tab in ("tab 1", "tab 2")
        ]
        await asyncio.sleep(0)
        talk.broker.gate.set()
        await asyncio.gather(*tabs)
        assert talk.kinds("Bob") == ["join"]
        talk.depart("tab 1")
        talk.depart("tab 2")
        talk.tick()
        assert talk.kinds("Bob") == ["leave"]

    run(test)


def test_client_that_goes_while_it_joins_is_lost() -> None:
    """It gets nothing, nothing is left of it, and the others hear that it left."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        talk.broker.gate = asyncio.Event()
        joining = asyncio.create_task(talk.do("Alice", type="join", room="lobby", username="Alice"))
        await asyncio.sleep(0)
        talk.depart("Alice")
        talk.broker.gate.set()
        await joining
        assert talk.kinds("Bob") == ["join"]
        talk.tick()
        assert talk.kinds("Bob") == ["leave"]
        assert talk.news("Alice") == []
        assert talk.names() == ["Bob"]
        assert talk.inboxes.members == {"lobby": ["Bob"]}

    run(test)


def test_client_whose_connection_is_closed_does_not_enter() -> None:
    """The hub may know it before the session does: he is lost then, and gets nothing."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        talk.inboxes.closed.add("Alice")
        await talk.do("Alice", type="join", username="Alice")
        assert not talk.client("Alice").rooms
        talk.tick()
        assert talk.kinds("Bob") == ["join", "leave"]
        assert talk.news("Alice") == []
        talk.depart("Alice")
        assert talk.names() == ["Bob"]

    run(test)


def test_client_that_goes_while_it_leaves_has_left() -> None:
    """It gets no `left`, and the others hear of it once."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        await talk.join("Alice")
        talk.news("Bob"), talk.news("Alice")
        talk.broker.gate = asyncio.Event()
        leaving = asyncio.create_task(talk.do("Alice", type="leave"))
        await asyncio.sleep(0)
        talk.depart("Alice")
        talk.broker.gate.set()
        await leaving
        talk.tick(2 * GRACE_TICKS)
        assert talk.kinds("Bob") == ["leave"]
        assert talk.news("Alice") == []
        assert talk.names() == ["Bob"]

    run(test)


def test_broker_is_told_who_wants_to_enter() -> None:
    """His name, the digest of his session, and what he has missed; the session stays here."""

    async def test(talk: Talk) -> None:
        seen: list[Entrance] = []
        plain = talk.broker.join

        async def join(entrance: Entrance, enter: Callable[[Entry], None]) -> None:
            seen.append(entrance)
            await plain(entrance, enter)

        talk.broker.join = join  # type: ignore[method-assign]
        session = (await talk.join("Alice", history=7))["session"]
        since = {"epoch": "e", "offset": 3}
        await talk.join("tab", username="Alice", session=session, since=since)
        member = Member("Alice", author_of(session))
        assert seen == [
            Entrance("lobby", member, None, 7),
            Entrance("lobby", member, Position("e", 3), protocol.DEFAULT_HISTORY),
        ]

    run(test)


def test_last_tab_that_goes_while_it_joins_is_told() -> None:
    """Who was there by another tab leaves, also when the newer one never arrived."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        first = await talk.join("tab 1", username="Alice")
        talk.news("Bob")
        talk.broker.gate = asyncio.Event()
        joining = asyncio.create_task(
            talk.do("tab 2", type="join", username="Alice", session=first["session"])
        )
        await asyncio.sleep(0)
        talk.depart("tab 1")
        talk.depart("tab 2")
        talk.broker.gate.set()
        await joining
        assert talk.kinds("Bob") == []
        talk.tick()
        assert talk.kinds("Bob") == ["leave"]

    run(test)


@pytest.mark.parametrize("failure", [CommandError(ErrorCode.BAD_COMMAND, "No."), OSError("disk")])
def test_join_that_fails_changes_nothing(failure: Exception) -> None:
    """When the history cannot be read the name is free, and nobody was told."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        talk.broker.failure = failure
        with pytest.raises(type(failure)):
            await talk.do("Alice", type="join", username="Alice")
        talk.broker.failure = None
        assert talk.news("Bob") == []
        assert (await talk.join("Eve", username="Alice"))["online"] == 2

    run(test)


# Leaving

#: Commands that are about a room, by their types.
IN_A_ROOM: dict[str, dict[str, Any]] = {
    "message": {"text": "x"},
    "edit": {"type": "edit", "offset": 1, "text": "x"},
    "delete": {"type": "delete", "offset": 1},
    "react": {"type": "react", "offset": 1, "emoji": "👋"},
    "typing": {"type": "typing"},
    "leave": {"type": "leave"},
    "history": {"type": "history"},
    "search": {"type": "search", "query": "x"},
}


def test_leave_is_answered_and_told() -> None:
    """Who leaves gets `left`, the others `leave`; both get nothing else."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        await talk.join("Alice")
        talk.news("Alice"), talk.news("Bob")
        await talk.do("Alice", type="leave", room="lobby", ref="r")
        assert talk.news("Alice") == [{"type": "left", "room": "lobby", "ref": "r"}]
        assert talk.kinds("Bob") == ["leave"]
        await talk.do("Bob", text="anybody?")
        assert talk.news("Alice") == []

    run(test)


def test_departure_is_told_in_every_room_once() -> None:
    """A connection that ends leaves all its rooms; a second end changes nothing."""

    async def test(talk: Talk) -> None:
        for room in ("a", "b"):
            await talk.join("Bob", room)
            await talk.join("Alice", room)
        talk.news("Bob")
        talk.depart("Alice")
        talk.depart("Alice")
        talk.tick(2 * GRACE_TICKS)
        told = [(event["type"], event["room"]) for event in talk.news("Bob")]
        assert sorted(told) == [("leave", "a"), ("leave", "b")]

    run(test)


def test_commands_after_a_departure_reach_nobody() -> None:
    """What is still to be run for a client that is gone is refused, or leaves no trace."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        await talk.join("Alice")
        talk.depart("Alice")
        talk.tick()
        talk.news("Bob"), talk.news("Alice")
        for fields in IN_A_ROOM.values():
            assert (await talk.refused("Alice", **fields)).code == ErrorCode.NOT_JOINED
        await talk.do("Alice", type="join", username="Alice")
        assert talk.news("Bob") == talk.news("Alice") == []
        assert talk.names() == ["Bob"]

    run(test)


# Rooms


@pytest.mark.parametrize("fields", IN_A_ROOM.values(), ids=IN_A_ROOM)
def test_room_may_be_left_out_in_exactly_one(fields: dict[str, Any]) -> None:
    """In no room it is `not_joined`, in one it is meant, in two it must be said."""

    async def test(talk: Talk) -> None:
        assert (await talk.refused("Alice", **fields)).code == ErrorCode.NOT_JOINED
        await talk.join("Alice", "a")
        await talk.join("Alice", "b")
        assert (await talk.refused("Alice", **fields)).code == ErrorCode.BAD_COMMAND
        error = await talk.refused("Alice", room="elsewhere", **fields)
        assert error.code == ErrorCode.NOT_JOINED
        await talk.do("Alice", type="leave", room="a")
        await talk.do("Alice", **fields)

    run(test)


# Messages


def test_message_is_one_publication_to_everyone_in_the_room() -> None:
    """The sender gets the same as the others, with the name and the time that the server knows."""

    async def test(talk: Talk) -> None:
        for name in ("Alice", "Bob"):
            await talk.join(name)
        await talk.join("Eve", "elsewhere")
        talk.news("Alice"), talk.news("Bob"), talk.news("Eve")
        await talk.do("Alice", text="hi", id="i", username="Eve", timestamp="x", offset=9)
        expected = {
            "type": "message",
            "room": "lobby",
            "offset": 1,
            "username": "Alice",
            "text": "hi",
            "timestamp": TIMESTAMP,
            "id": "i",
        }
        assert talk.news("Alice") == talk.news("Bob") == [expected]
        assert talk.news("Eve") == []

    run(test)


def test_message_sent_again_is_acknowledged_and_not_repeated() -> None:
    """A second message with its `id` makes an `ack` with the first one's offset, to the sender."""

    async def test(talk: Talk) -> None:
        first = await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Alice", text="other")
        await talk.do("Alice", text="hi", id="i")
        talk.depart("Alice")
        await talk.join("again", username="Alice", session=first["session"])
        talk.news("Bob"), talk.news("again")
        await talk.do("again", text="hi", id="i")
        assert talk.news("again") == [{"type": "ack", "id": "i", "room": "lobby", "offset": 2}]
        assert talk.news("Bob") == []
        assert talk.history.position("lobby").offset == 2

    run(test)


def test_same_id_of_another_user_is_another_message() -> None:
    """Nobody can keep another's message out by taking its `id`."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Bob", text="b", id="i")
        await talk.do("Alice", text="a", id="i")
        assert talk.history.position("lobby").offset == 2

    run(test)


def test_message_sent_twice_in_a_turn_is_published_once() -> None:
    """The `ack` follows the publication that it is about."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        talk.begin("Alice", text="hi", id="i")
        talk.begin("Alice", text="hi", id="i")
        talk.news("Alice")
        await asyncio.sleep(0)
        message, ack = talk.news("Alice")
        assert (message["type"], message["offset"]) == ("message", 1)
        assert ack == {"type": "ack", "id": "i", "room": "lobby", "offset": 1}

    run(test)


def test_messages_of_a_turn_are_delivered_at_its_end() -> None:
    """In their order, whoever sent them, and the hub is told once that it is over."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        talk.news("Alice"), talk.news("Bob")
        turns = talk.inboxes.turns
        for number in range(6):
            talk.begin(("Alice", "Bob")[number % 2], text=str(number))
        assert talk.news("Alice") == []
        await asyncio.sleep(0)
        assert [event["text"] for event in talk.news("Alice")] == list("012345")
        assert talk.inboxes.turns == turns + 1

    run(test)


def test_message_just_before_leaving_arrives() -> None:
    """Its sender gets it before `left`, the others before `leave`."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        talk.news("Alice"), talk.news("Bob")
        talk.begin("Alice", text="bye")
        await talk.do("Alice", type="leave")
        assert talk.kinds("Alice") == ["message", "left"]
        assert talk.kinds("Bob") == ["message", "leave"]

    run(test)


def test_message_just_before_a_drop_is_published_and_answered_to_nobody() -> None:
    """What was sent counts, also when its sender is gone before the turn is over."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Alice", text="one", id="i")
        talk.news("Alice"), talk.news("Bob")
        talk.begin("Alice", text="two")
        talk.begin("Alice", text="one", id="i")
        talk.begin("Alice", type="edit", offset=9, text="x")
        talk.depart("Alice")
        await asyncio.sleep(0)
        assert [event["text"] for event in talk.news("Bob")] == ["two"]
        assert {event["type"] for event in talk.news("Alice")} <= {"message"}

    run(test)


def test_typing_goes_to_the_others_and_is_not_stored() -> None:
    """Whoever types does not hear of it."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        talk.news("Alice"), talk.news("Bob")
        await talk.do("Alice", type="typing")
        assert talk.news("Alice") == []
        typing = {"type": "typing", "room": "lobby", "username": "Alice"}
        assert talk.news("Bob") == [typing]
        assert talk.broker.told == [("lobby", typing)]
        assert talk.history.position("lobby").offset == 0

    run(test)


def test_ping_is_answered_in_any_state() -> None:
    """`pong` with the ping's `ref`, joined or not."""

    async def test(talk: Talk) -> None:
        await talk.do("Alice", type="ping", ref="r")
        await talk.do("Alice", type="ping")
        assert talk.news("Alice") == [{"type": "pong", "ref": "r"}, {"type": "pong"}]

    run(test)


# Changes


async def alice_said(talk: Talk, text: str = "hello") -> dict[str, Any]:
    """Alice has said something to Bob and Eve; returns the reply to her `join`."""
    reply = await talk.join("Alice")
    await talk.join("Bob")
    await talk.join("Eve")
    await talk.do("Alice", text=text, id="i")
    for name in ("Alice", "Bob", "Eve"):
        talk.news(name)
    return reply


CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "edit": ("Alice", {"text": "better"}, {"text": "better"}),
    "delete": ("Alice", {}, {}),
    "react": ("Bob", {"emoji": "👋"}, {"emoji": "👋"}),
    "react, removing": (
        "Bob",
        {"emoji": "👋", "remove": True},
        {"emoji": "👋", "remove": True},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_one_publication_to_everyone_in_the_room(change: str) -> None:
    """It names its message in `target`, and says who changed it, when and how."""
    name, fields, published = CHANGES[change]
    kind = change.partition(",")[0]

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        await talk.do(name, type=kind, offset=1, ref="r", **fields)
        expected = {
            "type": kind,
            "room": "lobby",
            "offset": 2,
            "target": 1,
            "username": name,
            "timestamp": TIMESTAMP,
            **published,
        }
        assert talk.news("Alice") == talk.news("Bob") == talk.news("Eve") == [expected]

    run(test)


def test_newcomer_gets_messages_as_they_are_now() -> None:
    """`joined` and `history` hold messages only, folded; a recovery holds the changes."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        await talk.do("Alice", text="gone")
        await talk.do("Alice", type="edit", offset=1, text="better")
        await talk.do("Bob", type="react", offset=1, emoji="👋")
        await talk.do("Alice", type="delete", offset=2)
        base = {"type": "message", "room": "lobby", "username": "Alice", "timestamp": TIMESTAMP}
        now = [
            {
                **base,
                "offset": 1,
                "text": "better",
                "id": "i",
                "edited": TIMESTAMP,
                "reactions": {"👋": ["Bob"]},
            },
            {**base, "offset": 2, "text": "", "deleted": True},
        ]
        reply = await talk.join("New")
        assert (reply["messages"], reply["offset"]) == (now, 5)
        await talk.do("New", type="history")
        assert talk.news("New")[-1]["messages"] == now
        reply = await talk.join("Back", **since(Position(reply["epoch"], 0), 1))
        assert reply["recovered"] is True
        assert offsets(reply) == [2, 3, 4, 5]
        assert [each["type"] for each in reply["messages"]] == [
            *("message", "edit", "react", "delete")
        ]

    run(test)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "edit", "offset": 1, "text": "x"}, "forbidden"),
        ({"type": "delete", "offset": 1}, "forbidden"),
        ({"type": "edit", "offset": 9, "text": "x"}, "not_found"),
        ({"type": "delete", "offset": 0}, "not_found"),
        ({"type": "react", "offset": 9, "emoji": "👋"}, "not_found"),
    ],
    ids=repr,
)
def test_refused_change_is_an_error_to_whoever_wanted_it(fields: dict[str, Any], code: str) -> None:
    """With its `ref`; the others hear nothing, and the message stays as it is."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        await talk.do("Bob", ref="r", **fields)
        (error,) = talk.news("Bob")
        assert error.pop("message").endswith(".")
        assert error == {"type": "error", "code": code, "temporary": False, "ref": "r"}
        assert talk.news("Alice") == talk.news("Eve") == []
        (message,) = (await talk.join("New"))["messages"]
        assert message["text"] == "hello"
        assert not {"edited", "deleted", "reactions"} & set(message)

    run(test)


def test_author_may_change_from_any_tab_and_after_coming_back() -> None:
    """Whoever has the name and the session is the author."""

    async def test(talk: Talk) -> None:
        session = (await alice_said(talk))["session"]
        await talk.join("tab", username="Alice", session=session)
        await talk.do("tab", type="edit", offset=1, text="from a tab")
        talk.depart("Alice"), talk.depart("tab")
        talk.tick()
        await talk.join("later", username="Alice", session=session)
        await talk.do("later", type="edit", offset=1, text="later")
        edits = [event["text"] for event in talk.news("Bob") if event["type"] == "edit"]
        assert edits == ["from a tab", "later"]

    run(test)


def test_whoever_has_the_name_later_is_not_the_author() -> None:
    """The name alone does not open another's messages."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        await talk.do("Alice", type="leave")
        await talk.join("thief", username="Alice")
        talk.news("thief")
        for fields in ({"type": "edit", "text": "x"}, {"type": "delete"}):
            await talk.do("thief", offset=1, **fields)
            assert talk.news("thief")[0]["code"] == "forbidden"

    run(test)


def test_21st_reaction_is_refused() -> None:
    """A message has 20 different reactions at most."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        for number in range(20):
            await talk.do("Bob", type="react", offset=1, emoji=chr(0x1F600 + number))
        talk.news("Bob")
        await talk.do("Bob", type="react", offset=1, emoji="👋", ref="r")
        (error,) = talk.news("Bob")
        assert (error["code"], error["ref"]) == ("forbidden", "r")

    run(test)


# Search


def test_search_is_answered_with_results() -> None:
    """Of the room, as the messages are now, at most `limit`; with the command's `ref`."""

    async def test(talk: Talk) -> None:
        await alice_said(talk, "hello world")
        await talk.do("Alice", text="hello moon")
        await talk.do("Bob", type="react", offset=1, emoji="👋")
        await talk.join("Eve", "elsewhere")
        await talk.do("Eve", text="hello elsewhere", room="elsewhere")
        talk.news("Bob")
        await talk.do("Bob", type="search", query="WORLD", ref="r")
        assert talk.news("Bob") == [
            {
                "type": "results",
                "room": "lobby",
                "messages": [
                    {
                        "type": "message",
                        "room": "lobby",
                        "offset": 1,
                        "username": "Alice",
                        "text": "hello world",
                        "timestamp": TIMESTAMP,
                        "id": "i",
                        "reactions": {"👋": ["Bob"]},
                    }
                ],
                "ref": "r",
            }
        ]
        for fields, count in (({}, 2), ({"limit": 1}, 1), ({"query": "nothing"}, 0)):
            await talk.do("Bob", **{"type": "search", "query": "hello", **fields})
            (reply,) = talk.news("Bob")
            assert len(reply["messages"]) == count
            assert "ref" not in reply

    run(test)


def test_results_are_bounded_in_bytes() -> None:
    """The best are sent, as many as fit."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100, "word " + "😀" * 3990 + "{}")
        await talk.do("Bob", type="search", query="word", limit=100)
        (reply,) = talk.news("Bob")
        assert 0 < len(reply["messages"]) < 100
        size = len(json.dumps(reply, ensure_ascii=False).encode())
        assert size <= protocol.MAX_REPLY_BYTES * 1.1

    run(test)


# A history that fails


def test_message_that_cannot_be_kept_is_unavailable() -> None:
    """An error with its `id` and `ref`, to each sender; nobody sees the message."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        talk.faulty.failing = {"append"}
        talk.begin("Alice", text="lost", id="a", ref="r")
        talk.begin("Bob", type="react", offset=1, emoji="👋", ref="s")
        await asyncio.sleep(0)
        (error,) = talk.news("Alice")
        assert error.pop("message").endswith(".")
        expected = {"type": "error", "code": "unavailable", "temporary": True}
        assert error == {**expected, "id": "a", "ref": "r"}
        (error,) = talk.news("Bob")
        del error["message"]
        assert error == {**expected, "ref": "s"}
        assert talk.news("Eve") == []
        talk.faulty.failing = set()
        await talk.do("Alice", text="not lost", id="a")
        assert [event["offset"] for event in talk.news("Eve")] == [2]

    run(test)


def test_what_cannot_be_read_is_unavailable() -> None:
    """Joins, pages and searches are refused for now; what is published still arrives."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        talk.faulty.failing = {"read"}
        for name, fields in (
            ("New", {"type": "join", "username": "New"}),
            ("Bob", {"type": "history"}),
            ("Bob", {"type": "search", "query": "x"}),
        ):
            error = await talk.refused(name, **fields)
            assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        await talk.do("Alice", text="still")
        assert [event["text"] for event in talk.news("Bob")] == ["still"]
        assert talk.names() == ["Alice", "Bob", "Eve"]
        await talk.do("Eve", type="leave")
        assert talk.kinds("Eve") == ["message", "left"]
        talk.faulty.failing = set()
        assert (await talk.join("New"))["online"] == 3

    run(test)


# History and recovery


async def fill(talk: Talk, count: int, text: str = "{}") -> Position:
    """A room in which `count` messages were sent by Bob; returns where it stood before."""
    reply = await talk.join("Bob")
    for number in range(1, count + 1):
        await talk.do("Bob", text=text.format(number))
    talk.news("Bob")
    return Position(reply["epoch"], reply["offset"])


def offsets(event: dict[str, Any]) -> list[int]:
    return [message["offset"] for message in event["messages"]]


def since(position: Position, offset: int) -> dict[str, Any]:
    return {"since": {"epoch": position.epoch, "offset": offset}}


def test_newcomer_gets_the_newest_as_many_as_asked_for() -> None:
    """50 by default, as many as `history` says otherwise, oldest first."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100)
        assert offsets(await talk.join("A")) == list(range(51, 101))
        assert offsets(await talk.join("B", history=2)) == [99, 100]
        assert offsets(await talk.join("C", history=0)) == []
        assert offsets(await talk.join("D", history=300)) == list(range(1, 101))

    run(test)


def test_newcomer_hears_nothing_of_what_came_before() -> None:
    """After the reply come the publications behind its offset, and no others."""

    async def test(talk: Talk) -> None:
        await fill(talk, 3)
        reply = await talk.join("Alice", history=0)
        await talk.do("Bob", text="next")
        events = talk.news("Alice")
        assert [event["type"] for event in events] == ["joined", "message"]
        assert events[1]["offset"] == reply["offset"] + 1

    run(test)


def test_recovery_is_exactly_what_was_missed() -> None:
    """With a position all publications after it come, and `history` does not matter."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 100)
        for missed in (0, 1, 99, 100):
            name = f"A{missed}"
            reply = await talk.join(name, history=0, **since(start, 100 - missed))
            assert reply["recovered"] is True
            assert offsets(reply) == list(range(101 - missed, 101))
            assert reply["offset"] == 100

    run(test)


@pytest.mark.parametrize(("missed", "recovered"), [(300, True), (301, False)])
def test_recovery_is_of_300_at_most(missed: int, recovered: bool) -> None:
    """Beyond that the newest come, as for a newcomer."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 400)
        reply = await talk.join("Alice", **since(start, 400 - missed))
        assert reply["recovered"] is recovered
        assert len(reply["messages"]) == (300 if recovered else 50)
        assert offsets(reply)[-1] == 400

    run(test)


@pytest.mark.parametrize("offset", [0, 5, 11, 2**53 - 1])
def test_position_of_another_epoch_recovers_nothing(offset: int) -> None:
    """A history that was replaced gives `recovered: false` and its newest."""

    async def test(talk: Talk) -> None:
        await fill(talk, 10)
        reply = await talk.join("Alice", history=2, **since(Position("other", 0), offset))
        assert reply["recovered"] is False
        assert offsets(reply) == [9, 10]

    run(test)


def test_position_ahead_of_the_room_recovers_nothing() -> None:
    """An offset that the room has not reached is none of this history."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 10)
        reply = await talk.join("Alice", **since(start, 11))
        assert reply["recovered"] is False
        assert offsets(reply) == list(range(1, 11))

    run(test)


def test_recovery_of_what_is_no_longer_kept_is_none() -> None:
    """One missing publication is enough: `recovered: false`, never a part."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 100)
        reply = await talk.join("Alice", **since(start, 50))
        assert reply["recovered"] is False
        assert offsets(reply)[-1] == 100

    run(test, max_messages=16)


def test_recovery_too_large_for_one_reply_is_none() -> None:
    """Too many bytes count like too many publications: the newest come, as many as asked for."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 100, "😀" * 3990 + "{}")
        reply = await talk.join("A", **since(start, 50))
        assert reply["recovered"] is False
        assert 0 < len(reply["messages"]) < 50
        assert offsets(reply)[-1] == 100
        size = sum(
            len(json.dumps(message, ensure_ascii=False).encode()) for message in reply["messages"]
        )
        assert size <= protocol.MAX_REPLY_BYTES * 1.1
        for limit in (0, 3):
            reply = await talk.join(f"B{limit}", history=limit, **since(start, 50))
            assert reply["recovered"] is False
            assert offsets(reply) == list(range(101 - limit, 101))

    run(test)


def test_history_pages_back_and_forth() -> None:
    """`before`, `after` or neither; `more` says whether it goes on in that direction."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100)
        for fields, expected, more in (
            ({}, range(51, 101), True),
            ({"limit": 3}, range(98, 101), True),
            ({"before": 98, "limit": 3}, range(95, 98), True),
            ({"before": 4, "limit": 3}, range(1, 4), False),
            ({"after": 0, "limit": 3}, range(1, 4), True),
            ({"after": 97, "limit": 3}, range(98, 101), False),
            ({"after": 100}, range(0), False),
        ):
            await talk.do("Bob", type="history", ref="r", **fields)
            (reply,) = talk.news("Bob")
            assert (reply["type"], reply["room"], reply["ref"]) == ("history", "lobby", "r")
            assert (offsets(reply), reply["more"]) == (list(expected), more)

    run(test)


def test_history_page_is_bounded_in_bytes() -> None:
    """What does not fit is left for the next page, and `more` says so."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100, "😀" * 3990 + "{}")
        await talk.do("Bob", type="history", limit=100)
        (reply,) = talk.news("Bob")
        assert offsets(reply)[-1] == 100
        assert 0 < len(reply["messages"]) < 100
        assert reply["more"] is True
        await talk.do("Bob", type="history", after=0, limit=100)
        (reply,) = talk.news("Bob")
        assert offsets(reply)[0] == 1
        assert 0 < len(reply["messages"]) < 100
        assert reply["more"] is True

    run(test)


# Files


async def send(talk: Talk, name: str, data: bytes) -> None:
    """A binary message."""
    work = talk.chat.handle(talk.client(name), Chunk(data))
    assert work is not None
    await work


def test_announced_file_comes_in_pieces() -> None:
    """A ticket for what is announced, and with the last piece the file, both with the `ref`."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        assert (await talk.join("Alice"))["files"] == {"max_bytes": 1_000_000}
        talk.news("Alice")
        await talk.do("Alice", type="upload", name="a.txt", size=6, ref="r")
        (announced,) = talk.news("Alice")
        assert announced == {
            "type": "upload",
            "room": "lobby",
            "ticket": "ticket-0",
            "url": "/files",
            "chunk_bytes": 100,
            "ref": "r",
        }
        for data in (b"abc", b"", b"de"):
            await send(talk, "Alice", data)
            assert talk.news("Alice") == []
        await send(talk, "Alice", b"f")
        (file,) = talk.news("Alice")
        assert file == {
            "type": "file",
            "room": "lobby",
            "link": f"/files/{'i' * 32}/a.txt?size=6",
            "name": "a.txt",
            "size": 6,
            "media_type": "text/plain",
            "ref": "r",
        }
        (upload,) = shelf.uploads
        assert (upload.author, upload.data) == (
            talk.client("Alice").rooms["lobby"].author,
            b"abcdef",
        )

    run(test, files=shelf)


def test_binary_message_without_a_file_is_a_violation() -> None:
    """Before one is announced, after its last byte, and after its room was left."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        async def is_violation() -> bool:
            with pytest.raises(Violation) as caught:
                await send(talk, "Alice", b"x")
            return caught.value.reason is CloseReason.UNEXPECTED_BINARY

        await talk.join("Alice")
        assert await is_violation()
        await talk.do("Alice", type="upload", name="a", size=1)
        await send(talk, "Alice", b"a")
        assert await is_violation()
        await talk.do("Alice", type="upload", name="b", size=2)
        await send(talk, "Alice", b"b")
        await talk.do("Alice", type="leave")
        assert await is_violation()
        await shelf.until(lambda: shelf.states() == ["finished", "abandoned"])

    run(test, files=shelf)


def test_server_without_files_says_so() -> None:
    """`joined` does not offer them, an `upload` is forbidden, a binary message a violation."""

    async def test(talk: Talk) -> None:
        assert "files" not in await talk.join("Alice")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert (refusal.code, refusal.temporary) == ("forbidden", False)
        with pytest.raises(Violation):
            await send(talk, "Alice", b"x")

    run(test)


def test_file_is_for_a_room_that_one_is_in() -> None:
    """An `upload` is held to what a message is; nothing is reserved."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert refusal.code == "not_joined"
        await talk.join("Alice")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1, room="other")
        assert refusal.code == "not_joined"
        await talk.join("Alice", "other")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert refusal.code == "bad_command"
        assert shelf.uploads == []

    run(test, files=shelf)


def test_next_upload_ends_the_one_that_has_begun() -> None:
    """Also where it is refused; one that has not begun may still be posted."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        await talk.do("Alice", type="upload", name="b", size=2)
        assert shelf.states() == ["reserved", "reserved"]
        await send(talk, "Alice", b"b")
        assert [upload.data for upload in shelf.uploads] == [b"", b"b"]
        refusal = await talk.refused("Alice", type="upload", name="c", size=2_000_000)
        assert refusal.code == "too_long"
        assert shelf.states() == ["reserved", "abandoned"]
        with pytest.raises(Violation):
            await send(talk, "Alice", b"b")

    run(test, files=shelf)


def test_failed_file_is_told_once_and_what_still_comes_is_dropped() -> None:
    """Whoever sends does not wait to hear of each piece; it is not 1003 that he gets for them."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=4, ref="r")
        await send(talk, "Alice", b"a")
        shelf.failure = CommandError(ErrorCode.UNAVAILABLE, "Disk.", temporary=True)
        with pytest.raises(CommandError) as caught:
            await send(talk, "Alice", b"b")
        assert (caught.value.code, caught.value.ref) == ("unavailable", "r")
        talk.news("Alice")
        shelf.failure = None
        await send(talk, "Alice", b"c")
        await send(talk, "Alice", b"d")
        assert talk.news("Alice") == []
        assert (shelf.states(), shelf.uploads[0].data) == (["abandoned"], b"a")
        with pytest.raises(Violation):
            await send(talk, "Alice", b"e")

    run(test, files=shelf)


def test_more_than_was_announced_is_refused() -> None:
    """Nothing of the file is kept, and no more of it is expected."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        with pytest.raises(CommandError) as caught:
            await send(talk, "Alice", b"abc")
        assert caught.value.code == "too_long"
        assert shelf.states() == ["abandoned"]
        with pytest.raises(Violation):
            await send(talk, "Alice", b"d")

    run(test, files=shelf)


@pytest.mark.parametrize("begun", [True, False])
def test_departure_gives_up_a_file_that_has_begun(begun: bool) -> None:
    """A ticket that was not used for binary messages is still good for a POST."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        if begun:
            await send(talk, "Alice", b"a")
        talk.depart("Alice")
        await asyncio.sleep(0)
        if begun:
            await shelf.until(lambda: shelf.states() == ["abandoned"])
        else:
            for _ in range(9):
                await asyncio.sleep(0)
        assert shelf.states() == ["abandoned" if begun else "reserved"]

    run(test, files=shelf)


def test_departure_within_a_piece_waits_for_it() -> None:
    """What is being written is not taken away from under it."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        shelf.gate = asyncio.Event()
        writing = asyncio.create_task(send(talk, "Alice", b"a"))
        await shelf.until(lambda: shelf.uploads[0].writes == 1)
        talk.depart("Alice")
        for _ in range(3):
            await asyncio.sleep(0)
        assert shelf.states() == ["reserved"]
        shelf.gate.set()
        await writing
        await shelf.until(lambda: shelf.states() == ["abandoned"])
        assert shelf.uploads[0].data == b"a"

    run(test, files=shelf)


def test_departure_while_a_file_is_announced_frees_its_place() -> None:
    """Nobody knows the ticket."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        shelf.gate = asyncio.Event()
        announcing = asyncio.create_task(talk.do("Alice", type="upload", name="a", size=2))
        await asyncio.sleep(0)
        talk.depart("Alice")
        shelf.gate.set()
        await announcing
        assert shelf.states() == ["abandoned"]
        assert "upload" not in talk.kinds("Alice")

    run(test, files=shelf)


def test_file_that_does_not_go_on_is_given_up() -> None:
    """Its sender is told, with the `ref`; others go on."""
    shelf = Shelf()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Alice", type="upload", name="a", size=3, ref="r")
        await talk.do("Bob", type="upload", name="b", size=2)
        talk.chat.sweep()
        assert "error" not in talk.kinds("Alice")  # it may still be posted
        await send(talk, "Alice", b"a")
        talk.now_s = STALL_S / 2
        await send(talk, "Bob", b"b")
        talk.chat.sweep()
        assert talk.kinds("Alice") == []
        talk.now_s = STALL_S
        talk.chat.sweep()
        (error,) = talk.news("Alice")
        assert (error["code"], error["temporary"], error["ref"]) == ("unavailable", True, "r")
        await shelf.until(lambda: shelf.states() == ["abandoned", "reserved"])
        await send(talk, "Alice", b"bc")
        talk.chat.sweep()
        await send(talk, "Bob", b"b")
        assert talk.kinds("Alice") == []
        assert shelf.states() == ["abandoned", "finished"]
        assert talk.metrics.refusals == {"unavailable": 1}

    run(test, files=shelf)
