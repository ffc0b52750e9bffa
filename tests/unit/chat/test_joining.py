"""Clients join rooms, under names that nobody else has there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Position
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.members import GRACE_TICKS
from fastchat.rooms.presence import author_of
from support.chat import TIMESTAMP, Talk, run

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
