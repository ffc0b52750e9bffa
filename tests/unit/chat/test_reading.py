"""Clients search, read history, and recover missed publications."""

from __future__ import annotations

import asyncio
import json

import pytest

from fastchat import protocol
from fastchat.errors import ErrorCode
from fastchat.protocol import Position
from support.chat import TIMESTAMP, Talk, alice_said, offsets, run, since

pytestmark = pytest.mark.usefixtures("each_kind_of_rooms")

# Search


def test_search_is_answered_with_results() -> None:
    """The results are at most `limit` folded messages of the room, with the command's `ref`."""

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
                        **talk.shown("Alice"),
                        "text": "hello world",
                        "timestamp": TIMESTAMP,
                        "id": "i",
                        "reactions": {"👋": [talk.shown("Bob")]},
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
    """As many of the best results are sent as fit."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100, "word " + "😀" * 3990 + "{}")
        await talk.do("Bob", type="search", query="word", limit=100)
        (reply,) = talk.news("Bob")
        assert 0 < len(reply["messages"]) < 100
        size = len(json.dumps(reply, ensure_ascii=False).encode())
        assert size <= protocol.MAX_REPLY_BYTES * 1.1

    run(test)


# A history that fails


def test_message_that_cannot_be_stored_is_refused() -> None:
    """Each sender gets `unavailable` with its `id` and `ref`, and no member gets the message."""

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


def test_reads_are_refused_while_the_disk_fails() -> None:
    """Joins, pages and searches are `unavailable` for now; publications still arrive."""

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
    """Have Bob send `count` messages to a room; returns the position before them."""
    reply = await talk.join("Bob")
    for number in range(1, count + 1):
        await talk.do("Bob", text=text.format(number))
    talk.news("Bob")
    return Position(reply["epoch"], reply["offset"])


def test_newcomer_gets_the_requested_number_of_messages() -> None:
    """A newcomer gets 50 messages by default, or the number in `history`, oldest first."""

    async def test(talk: Talk) -> None:
        await fill(talk, 100)
        assert offsets(await talk.join("A")) == list(range(51, 101))
        assert offsets(await talk.join("B", history=2)) == [99, 100]
        assert offsets(await talk.join("C", history=0)) == []
        assert offsets(await talk.join("D", history=300)) == list(range(1, 101))

    run(test)


def test_newcomer_gets_only_later_publications() -> None:
    """After the reply a newcomer gets the publications after its offset, and no others."""

    async def test(talk: Talk) -> None:
        await fill(talk, 3)
        reply = await talk.join("Alice", history=0)
        await talk.do("Bob", text="next")
        events = talk.news("Alice")
        assert [event["type"] for event in events] == ["joined", "message"]
        assert events[1]["offset"] == reply["offset"] + 1

    run(test)


def test_recovery_has_exactly_the_missed_publications() -> None:
    """A join with a position gets all publications after it, whatever `history` is."""

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
def test_recovery_has_at_most_300_publications(missed: int, recovered: bool) -> None:
    """A client that missed more gets the newest messages, like a newcomer."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 400)
        reply = await talk.join("Alice", **since(start, 400 - missed))
        assert reply["recovered"] is recovered
        assert len(reply["messages"]) == (300 if recovered else 50)
        assert offsets(reply)[-1] == 400

    run(test)


@pytest.mark.parametrize("offset", [0, 5, 11, 2**53 - 1])
def test_position_of_another_epoch_recovers_nothing(offset: int) -> None:
    """After the history was replaced, a client gets `recovered: false` and the newest messages."""

    async def test(talk: Talk) -> None:
        await fill(talk, 10)
        reply = await talk.join("Alice", history=2, **since(Position("other", 0), offset))
        assert reply["recovered"] is False
        assert offsets(reply) == [9, 10]

    run(test)


def test_position_ahead_of_the_room_recovers_nothing() -> None:
    """An offset that the room has not reached cannot be of this history."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 10)
        reply = await talk.join("Alice", **since(start, 11))
        assert reply["recovered"] is False
        assert offsets(reply) == list(range(1, 11))

    run(test)


def test_recovery_fails_if_a_publication_was_dropped() -> None:
    """If one missed publication is gone, the reply has `recovered: false` and never a part."""

    async def test(talk: Talk) -> None:
        start = await fill(talk, 100)
        reply = await talk.join("Alice", **since(start, 50))
        assert reply["recovered"] is False
        assert offsets(reply)[-1] == 100

    run(test, max_messages=16)


def test_recovery_fails_if_it_exceeds_one_reply() -> None:
    """Too many bytes count like too many publications: the client gets the requested newest
    messages."""

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
    """A page is requested with `before`, `after` or neither, and `more` says whether another one
    follows."""

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
    """Messages that do not fit are left for the next page, and `more` is true."""

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
