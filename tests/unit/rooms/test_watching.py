"""What the rooms tell a watcher."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastchat.rooms.members import MAX_LISTED_USERS
from support.chat import Talk, run


class Watching:
    """A `Watcher` that records its calls."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, int]] = []
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def published(self, room: str, head: int, /) -> None:
        self.heads.append((room, head))

    def announced(self, event: str, room: str, payload: bytes, /) -> None:
        self.events.append((event, room, json.loads(payload)))


def test_watcher_learns_the_newest_offset_of_each_room() -> None:
    """It is told once a commit for each room, and not of drafts that became no publication."""

    async def test(talk: Talk) -> None:
        watching = Watching()
        talk.rooms.watch(watching)
        await talk.join("alice", "one")
        await talk.join("bob", "two")
        for name, text in (("alice", "a"), ("alice", "b"), ("bob", "c")):
            talk.begin(name, text=text, id=text)
        await asyncio.sleep(0)
        assert watching.heads == [("one", 2), ("two", 1)]
        await talk.do("alice", text="b", id="b")  # a repetition
        assert len(watching.heads) == 2
        talk.rooms.watch(None)
        await talk.do("alice", text="d")
        assert len(watching.heads) == 2

    run(test)


def test_watcher_learns_who_comes_and_goes() -> None:
    """It is told in a crowd, too, although the members are not."""

    async def test(talk: Talk) -> None:
        watching = Watching()
        talk.rooms.watch(watching)
        for number in range(MAX_LISTED_USERS + 2):
            await talk.join(f"user-{number}")
        await talk.do("user-0", type="leave")
        *joins, (kind, room, event) = watching.events
        assert {each[:2] for each in joins} == {("join", "lobby")}
        assert [each[2]["online"] for each in joins] == list(range(1, MAX_LISTED_USERS + 3))
        assert (kind, room, event["username"]) == ("leave", "lobby", "user-0")

    run(test)
