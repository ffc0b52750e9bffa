"""Clients that read without a name, and the rights of guests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastchat.auth import Identity, Right, unauthorized
from fastchat.errors import CloseReason, ErrorCode
from fastchat.protocol import Position
from fastchat.protocol.users import holder_of
from support.chat import Talk, run, since, user_of
from support.files_in_memory import FilesInMemory

pytestmark = pytest.mark.usefixtures("each_kind_of_rooms")

READ, WRITE = frozenset({Right.READ}), frozenset({Right.READ, Right.WRITE})

WRITING: dict[str, dict[str, Any]] = {
    "message": {"text": "hi"},
    "edit": {"offset": 1, "text": "hi"},
    "delete": {"offset": 1},
    "react": {"offset": 1, "emoji": "👋"},
    "typing": {},
    "upload": {"name": "a", "size": 1},
}


class Tokens:
    """An `Authenticator` whose tokens are like `ann:read,write`; the subject is also the name."""

    def verify(self, token: str) -> Identity:
        name, colon, rights = token.partition(":")
        if not colon:
            raise unauthorized("The token is not valid. Get a new one.")
        granted = frozenset(map(Right, rights.split(",")))
        return Identity(holder_of(name), name, 1e12, {"*": granted})

    def reload(self) -> None:
        """Do nothing."""


async def spectate(talk: Talk, name: str = "Zoe", **fields: Any) -> dict[str, Any]:
    await talk.do(name, type="join", **fields)
    return talk.inboxes.got[name][-1]


def test_client_without_a_name_reads() -> None:
    """It gets messages, history and results, and is not listed."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", text="hello")
        reply = await spectate(talk)
        assert (reply["username"], reply["user"]) == (None, user_of(reply["session"]))
        assert (reply["online"], reply["spectators"]) == (1, 1)
        assert reply["users"] == [talk.shown("Alice")]
        assert reply["rights"] == ["read"]
        assert [each["text"] for each in reply["messages"]] == ["hello"]
        talk.news("Zoe"), talk.news("Alice")
        await talk.do("Alice", text="news")
        await talk.do("Zoe", type="history")
        await talk.do("Zoe", type="search", query="hello")
        assert talk.kinds("Zoe") == ["message", "history", "results"]
        assert talk.kinds("Alice") == ["message"]
        talk.tick(1)
        (event,) = talk.news("Alice")
        assert event == {"type": "presence", "room": "lobby", "online": 1, "spectators": 1}
        talk.depart("Zoe")
        assert talk.kinds("Alice") == []
        talk.tick(1)
        assert talk.news("Alice")[0]["spectators"] == 0

    run(test)


@pytest.mark.parametrize("kind", WRITING)
def test_spectator_is_told_to_give_a_name(kind: str) -> None:
    """Nothing is published, and the error says how."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", text="hello")
        await spectate(talk)
        talk.news("Alice")
        error = await talk.refused("Zoe", type=kind, **WRITING[kind])
        assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, False)
        assert "`username`" in error.message
        assert talk.news("Alice") == []

    run(test, files=FilesInMemory())


def test_spectator_becomes_a_member() -> None:
    """The same connection joins the room again with a name, and misses and repeats nothing."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        first = await spectate(talk)
        assert (await talk.refused("Zoe", type="join")).code == ErrorCode.ALREADY_JOINED
        await talk.do("Alice", text="one")
        talk.news("Zoe"), talk.news("Alice")
        position = Position(first["epoch"], 0)
        await talk.do("Zoe", type="join", username="Zoe", **since(position, 1))
        own, reply = talk.news("Zoe")  # it is in the room's stream already
        assert (own["type"], own["user"]) == ("join", first["user"])
        assert (reply["username"], reply["user"]) == ("Zoe", first["user"])
        assert (reply["online"], reply["spectators"]) == (2, 0)
        assert (reply["recovered"], reply["messages"]) == (True, [])
        assert reply["rights"] == ["read", "write"]
        assert talk.kinds("Alice") == ["join"]
        await talk.do("Zoe", text="two")
        assert talk.kinds("Zoe") == talk.kinds("Alice") == ["message"]
        assert talk.rooms.occupancy.spectators == 0
        assert (await talk.refused("Zoe", type="join")).code == ErrorCode.ALREADY_JOINED
        talk.depart("Zoe")
        talk.tick()
        assert talk.names() == ["Alice"]

    run(test)


def test_spectator_stays_one_if_the_name_is_taken() -> None:
    """The refusal changes nothing, and another name works."""

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await spectate(talk)
        error = await talk.refused("Zoe", type="join", username="Alice")
        assert error.code == ErrorCode.USERNAME_TAKEN
        assert talk.rooms.occupancy.spectators == 1
        await talk.do("Zoe", type="join", username="Zoe")
        assert talk.names() == ["Alice", "Zoe"]

    run(test)


def test_spectator_that_goes_while_it_gets_a_name_is_gone() -> None:
    """Neither the spectator nor the member is counted afterwards."""

    async def test(talk: Talk) -> None:
        await spectate(talk)
        talk.broker.gate = asyncio.Event()
        joining = asyncio.create_task(talk.do("Zoe", type="join", username="Zoe"))
        await asyncio.sleep(0)
        talk.depart("Zoe")
        talk.broker.gate.set()
        await joining
        talk.tick()
        assert (talk.rooms.occupancy.rooms, talk.rooms.occupancy.spectators) == (0, 0)

    run(test)


def test_spectator_leaves() -> None:
    """The room is gone with the last of them."""

    async def test(talk: Talk) -> None:
        await spectate(talk)
        await talk.do("Zoe", type="leave")
        assert talk.kinds("Zoe")[-1] == "left"
        assert (talk.rooms.occupancy.rooms, talk.rooms.occupancy.spectators) == (0, 0)

    run(test)


def test_name_of_one_room_is_used_in_the_next() -> None:
    """Only a client that has never had a name is a spectator."""

    async def test(talk: Talk) -> None:
        await spectate(talk)
        await talk.join("Zoe", "other")
        await talk.do("Zoe", type="join", room="third")
        assert talk.news("Zoe")[-1]["username"] == "Zoe"
        await talk.do("Zoe", type="join", room="lobby")
        assert talk.news("Zoe")[-1]["username"] == "Zoe"

    run(test)


def test_spectators_can_be_refused() -> None:
    """Then a client's first join needs a `username`."""

    async def test(talk: Talk) -> None:
        error = await talk.refused("nobody", type="join")
        assert error.code == ErrorCode.BAD_USERNAME
        assert talk.rooms.occupancy.rooms == 0

    run(test, admits_spectators=False)


# Guests and tokens


@pytest.mark.parametrize("kind", WRITING)
def test_guests_can_have_only_the_right_to_read(kind: str) -> None:
    """They are listed, and `joined` says what they can do."""

    async def test(talk: Talk) -> None:
        reply = await talk.join("Alice")
        assert reply["rights"] == ["read"]
        error = await talk.refused("Alice", type=kind, **WRITING[kind])
        assert error.code == ErrorCode.FORBIDDEN
        assert "username" not in error.message
        await talk.do("Alice", type="history")

    run(test, guest_rights=READ, files=FilesInMemory())


def test_guests_and_tokens_meet_in_a_room() -> None:
    """A token has its own rights, and a moderator with a token removes guests."""

    async def test(talk: Talk) -> None:
        guest = await talk.join("Alice")
        assert guest["rights"] == ["read", "write"]
        await talk.do("mod", type="join", token="mia:read,moderate")
        mod = talk.news("mod")[-1]
        assert (mod["user"], mod["username"]) == ("u_mia", "mia")
        assert mod["rights"] == ["moderate", "read"]
        assert (await talk.refused("mod", text="hi")).code == ErrorCode.FORBIDDEN
        await talk.do("Alice", text="spam")
        await talk.do("mod", type="delete", offset=1)
        await talk.do("mod", type="remove", user=guest["user"], seconds=60)
        assert talk.news("mod")[-1] == {
            "type": "removed",
            "room": "lobby",
            "user": guest["user"],
            "username": "Alice",
            "seconds": 60,
        }
        assert talk.endpoints["Alice"].dismissals == [(CloseReason.REMOVED, 60_000)]
        talk.depart("Alice")
        again = {"username": "Alice", "session": guest["session"]}
        error = await talk.refused("again", type="join", **again)
        assert error.code == ErrorCode.FORBIDDEN

    run(test, authenticator=Tokens())


def test_bad_token_is_not_a_guest() -> None:
    """A client that sends a token wants to be its user."""

    async def test(talk: Talk) -> None:
        error = await talk.refused("x", type="join", username="Alice", token="bad")
        assert error.code == ErrorCode.UNAUTHORIZED
        assert talk.rooms.occupancy.rooms == 0

    run(test, authenticator=Tokens())


def test_spectator_can_sign_in() -> None:
    """A token makes the spectator a member; a guest must open a new connection."""

    async def test(talk: Talk) -> None:
        await spectate(talk)
        await talk.do("Zoe", type="join", token="zoe:read,write")
        reply = talk.news("Zoe")[-1]
        assert (reply["type"], reply["user"], reply["spectators"]) == ("joined", "u_zoe", 0)
        assert talk.rooms.occupancy.spectators == 0
        await talk.join("Alice")
        error = await talk.refused("Alice", type="join", token="ann:read")
        assert (error.code, error.close_code) == (ErrorCode.FORBIDDEN, None)
        await talk.do("Alice", text="still here")

    run(test, authenticator=Tokens())


def test_renewed_token_says_its_rights() -> None:
    """The reply has the user, the name in the room, and what the new token grants there."""

    async def test(talk: Talk) -> None:
        await talk.do("Ann", type="join", token="ann:read,write")
        talk.news("Ann")
        await talk.do("Ann", type="join", token="ann:read")
        (reply,) = talk.news("Ann")
        assert reply.pop("expires")
        assert reply == {
            "type": "renewed",
            "room": "lobby",
            "user": "u_ann",
            "username": "ann",
            "rights": ["read"],
        }

    run(test, authenticator=Tokens(), admits_guests=False)
