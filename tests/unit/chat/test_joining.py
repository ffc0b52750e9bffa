"""Clients join rooms, under names that no other user has there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from contracts.history import GENERATION
from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.history.epochs import epoch_of
from fastchat.protocol import Position
from fastchat.protocol.users import guest_of
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.members import GRACE_TICKS
from support.chat import TIMESTAMP, Talk, run, user_of

pytestmark = pytest.mark.usefixtures("each_kind_of_rooms")

# Joining


def test_join_reply_has_all_that_a_client_needs() -> None:
    """The reply has the room, user, session, position, recovery, messages, users, number and
    `ref`."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        await talk.do("Bob", text="hi", id="i")
        reply = await talk.join("Alice", ref="r")
        assert reply == {
            "type": "joined",
            "room": "lobby",
            **talk.shown("Alice"),
            "session": "secret-of-16-bytes-1",
            "epoch": epoch_of(GENERATION, "lobby"),
            "offset": 1,
            "timestamp": TIMESTAMP,
            "recovered": False,
            "messages": [
                {
                    "type": "message",
                    "room": "lobby",
                    "offset": 1,
                    **talk.shown("Bob"),
                    "text": "hi",
                    "timestamp": TIMESTAMP,
                    "id": "i",
                }
            ],
            "users": [talk.shown("Bob"), talk.shown("Alice")],
            "online": 2,
            "spectators": 0,
            "rights": ["read", "write"],
            "ref": "r",
        }

    run(test)


def test_join_is_reported_to_the_connection() -> None:
    """Each successful join is reported with its user, and a refused one is not."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice", session="a-secret-of-20-bytes")
        await talk.refused("Alice", type="join", room="lobby")
        assert talk.endpoints["Alice"].users == [user_of("a-secret-of-20-bytes")]
        talk.broker.gate = asyncio.Event()
        joining = asyncio.create_task(talk.do("Bob", type="join", username="Bob"))
        await asyncio.sleep(0)
        talk.depart("Bob")
        talk.broker.gate.set()
        await joining
        assert talk.endpoints["Bob"].users == []

    run(test)


def test_join_event_is_sent_to_the_other_members() -> None:
    """The earlier members get a `join` event, and the newcomer only the reply."""

    async def test(talk: Talk) -> None:
        await talk.join("Bob")
        talk.news("Bob")
        await talk.join("Alice")
        assert talk.kinds("Alice") == ["joined"]
        assert talk.news("Bob") == [
            {
                "type": "join",
                "room": "lobby",
                **talk.shown("Alice"),
                "text": "Alice joined the chat",
                "timestamp": TIMESTAMP,
                "online": 2,
            }
        ]

    run(test)


def test_second_room_is_joined_under_the_same_name_and_session() -> None:
    """A client that has joined one room joins the next without a name."""

    async def test(talk: Talk) -> None:
        first = await talk.join("Alice", "a")
        await talk.do("Alice", type="join", room="b")
        second = talk.inboxes.got["Alice"][-1]
        assert (second["username"], second["session"]) == ("Alice", first["session"])
        assert second["epoch"] != first["epoch"]

    run(test)


def test_joining_a_room_again_is_refused() -> None:
    """A second join of one connection is `already_joined`, and changes nothing."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        assert (await talk.refused("Alice", type="join")).code == ErrorCode.ALREADY_JOINED
        assert talk.names() == ["Alice"]
        talk.depart("Alice")
        talk.tick()
        assert talk.names() == []

    run(test)


def test_connection_can_be_in_128_rooms() -> None:
    """One more is `too_many_rooms`; after a leave another room can be joined."""

    async def test(talk: Talk) -> None:
        for number in range(128):
            await talk.join("Alice", f"r{number}")
        error = await talk.refused("Alice", type="join", room="one-more")
        assert (error.code, error.temporary) == (ErrorCode.TOO_MANY_ROOMS, True)
        await talk.do("Alice", type="leave", room="r5")
        await talk.join("Alice", "one-more")
        talk.depart("Alice")
        talk.tick()
        assert talk.rooms.occupancy.rooms == 0
        assert not any(talk.inboxes.members.values())

    run(test)


# Names


@pytest.mark.parametrize("name", ["Alice", "ALICE", "Ａlice"])
def test_name_of_another_user_is_refused(name: str) -> None:
    """Without the session, a used name or one that looks like it is refused, and no member is
    informed."""

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


def test_session_gives_access_to_its_name() -> None:
    """A second connection with the first one's session is the same user."""

    async def test(talk: Talk) -> None:
        first = await talk.join("tab 1", username="Alice")
        second = await talk.join("tab 2", username="Alice", session=first["session"])
        assert (second["username"], second["online"]) == ("Alice", 1)
        assert second["session"] == first["session"]

    run(test)


def test_session_is_valid_after_a_disconnection() -> None:
    """A client that returns with its session keeps it."""

    async def test(talk: Talk) -> None:
        first = await talk.join("Alice")
        talk.depart("Alice")
        second = await talk.join("later", username="Alice", session=first["session"])
        assert second["session"] == first["session"]

    run(test)


def test_joins_and_leaves_are_announced_once_a_user() -> None:
    """A user's second tab causes no event, nor does the first tab that is closed."""

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


def test_two_tabs_that_join_at_once_are_announced_once() -> None:
    """While a slow history delays both joins, neither counts as the user's second."""

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


def test_client_that_disconnects_during_its_join_is_lost() -> None:
    """It gets no reply, the server forgets it, and the others get its leave."""

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


def test_client_with_a_closed_connection_does_not_join() -> None:
    """If the hub has closed a connection before its session notices, its client is lost and gets
    nothing."""

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


def test_client_that_disconnects_during_its_leave_has_left() -> None:
    """It gets no `left`, and the others get one `leave`."""

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


def test_broker_gets_the_user_and_the_position_of_a_join() -> None:
    """It gets the name, the digest of the session, and the position; the session itself stays in
    the chat."""

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
        credential = guest_of(session)
        assert seen == [
            Entrance("lobby", "Alice", credential, None, 7),
            Entrance("lobby", "Alice", credential, Position("e", 3), protocol.DEFAULT_HISTORY),
        ]

    run(test)


def test_leave_is_announced_after_a_tab_disconnects_during_its_join() -> None:
    """A user whose other tab was in the room leaves, even if the newer tab's join never ended."""

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
def test_failed_join_changes_nothing(failure: Exception) -> None:
    """If the history cannot be read, the name stays free and no member gets an event."""

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
