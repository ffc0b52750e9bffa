"""Clients publish messages, and change them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastchat.protocol import Position
from support.chat import TIMESTAMP, Talk, alice_said, offsets, run, since

# Messages


def test_message_is_one_publication_to_everyone_in_the_room() -> None:
    """The sender and the others get the same publication, with the server's name and time."""

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
            **talk.shown("Alice"),
            "text": "hi",
            "timestamp": TIMESTAMP,
            "id": "i",
        }
        assert talk.news("Alice") == talk.news("Bob") == [expected]
        assert talk.news("Eve") == []

    run(test)


def test_message_sent_again_is_acknowledged_and_not_repeated() -> None:
    """The sender of a second message with the same `id` gets an `ack` with the first one's
    offset."""

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
    """A user cannot suppress another user's message by sending its `id` first."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Bob", text="b", id="i")
        await talk.do("Alice", text="a", id="i")
        assert talk.history.position("lobby").offset == 2

    run(test)


def test_message_sent_twice_in_a_turn_is_published_once() -> None:
    """The `ack` follows the publication that it refers to."""

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
    """Messages of all senders are delivered in order, and the hub is informed once that the turn is
    over."""

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
    """The sender gets the message before `left`, and the others before `leave`."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        talk.news("Alice"), talk.news("Bob")
        talk.begin("Alice", text="bye")
        await talk.do("Alice", type="leave")
        assert talk.kinds("Alice") == ["message", "left"]
        assert talk.kinds("Bob") == ["message", "leave"]

    run(test)


def test_message_just_before_a_disconnection_is_published() -> None:
    """The message is published even if its sender has disconnected before the turn is over."""

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


def test_typing_is_sent_to_the_others_and_not_stored() -> None:
    """The typing client itself gets no event."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        talk.news("Alice"), talk.news("Bob")
        await talk.do("Alice", type="typing")
        assert talk.news("Alice") == []
        typing = {"type": "typing", "room": "lobby", **talk.shown("Alice")}
        assert talk.news("Bob") == [typing]
        assert talk.broker.told == [("lobby", typing)]
        assert talk.history.position("lobby").offset == 0

    run(test)


def test_ping_is_answered_in_any_state() -> None:
    """A client gets `pong` with the ping's `ref`, whether or not it has joined a room."""

    async def test(talk: Talk) -> None:
        await talk.do("Alice", type="ping", ref="r")
        await talk.do("Alice", type="ping")
        assert talk.news("Alice") == [{"type": "pong", "ref": "r"}, {"type": "pong"}]

    run(test)


# Changes


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
    """The publication names its message in `target`, and has the user, the time and the
    change."""
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
            **talk.shown(name),
            "timestamp": TIMESTAMP,
            **published,
        }
        assert talk.news("Alice") == talk.news("Bob") == talk.news("Eve") == [expected]

    run(test)


def test_newcomer_gets_messages_with_their_changes_applied() -> None:
    """`joined` and `history` have folded messages; a recovery has each change."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        await talk.do("Alice", text="gone")
        await talk.do("Alice", type="edit", offset=1, text="better")
        await talk.do("Bob", type="react", offset=1, emoji="👋")
        await talk.do("Alice", type="delete", offset=2)
        base = {
            "type": "message",
            "room": "lobby",
            **talk.shown("Alice"),
            "timestamp": TIMESTAMP,
        }
        now = [
            {
                **base,
                "offset": 1,
                "text": "better",
                "id": "i",
                "edited": TIMESTAMP,
                "reactions": {"👋": [talk.shown("Bob")]},
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
def test_refused_change_is_an_error_to_its_sender(fields: dict[str, Any], code: str) -> None:
    """The error has the `ref`; the others get nothing, and the message stays as it was."""

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


def test_author_can_change_a_message_from_any_tab_and_later() -> None:
    """Any client with the session is the author."""

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


def test_later_user_of_a_name_is_not_the_author() -> None:
    """The name without the session does not permit a change of the message."""

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
    """A message has at most 20 different reactions."""

    async def test(talk: Talk) -> None:
        await alice_said(talk)
        for number in range(20):
            await talk.do("Bob", type="react", offset=1, emoji=chr(0x1F600 + number))
        talk.news("Bob")
        await talk.do("Bob", type="react", offset=1, emoji="👋", ref="r")
        (error,) = talk.news("Bob")
        assert (error["code"], error["ref"]) == ("forbidden", "r")

    run(test)
