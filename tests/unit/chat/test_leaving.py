"""Clients leave rooms, or lose their connection."""

from __future__ import annotations

from typing import Any

import pytest

from fastchat.errors import ErrorCode
from fastchat.rooms.members import GRACE_TICKS
from support.chat import Talk, run

pytestmark = pytest.mark.usefixtures("each_kind_of_rooms")

# Leaving

#: Commands that concern a room, by their types.
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


def test_leave_is_confirmed_and_announced() -> None:
    """The leaving client gets `left`, the others `leave`, and neither gets anything else."""

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


def test_disconnection_is_announced_once_in_every_room() -> None:
    """A client that disconnects leaves all its rooms; a second end changes nothing."""

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


def test_commands_after_a_disconnection_have_no_effect() -> None:
    """A command that runs after its client has disconnected is refused, or leaves no trace."""

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
def test_room_can_be_omitted_in_exactly_one_room(fields: dict[str, Any]) -> None:
    """Without a room a command is `not_joined` in no room, meant for the only one, and refused in
    two."""

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
