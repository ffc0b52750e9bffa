"""Clients publish messages, and change them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastchat.protocol import Position
from support.chat import TIMESTAMP, Talk, alice_said, offsets, run, since

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
