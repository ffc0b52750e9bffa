"""What backends and operators ask of all ledgers, with rooms in memory in the place of ledgers."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.broker import new_rooms
from contracts.history import NOW_S, draft
from fastchat.errors import CommandError
from fastchat.history.memory import MemoryHistory
from fastchat.ledger.spread_administration import SpreadAdministration
from fastchat.protocol import timestamp_of
from fastchat.rooms.administration import Ban, Erased
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.refusals import unavailable
from support.ledger import in_loop


class Two:
    """Two ledgers with two rooms each: "a" and "c" are in one of them, "b" and "d" in the other."""

    def __init__(self) -> None:
        self.ledgers: dict[str, LocalRooms] = {}
        for id, rooms in (("one", "ac"), ("two", "bd")):
            history = MemoryHistory(max_messages=100, new_generation=id.encode)
            history.append([draft(f"{room}{n}", room=room) for room in rooms for n in range(2)])
            self.ledgers[id] = new_rooms(history)
        self.all = SpreadAdministration(
            lambda room: self.ledgers["one" if room in "ac" else "two"].administration,
            lambda: {id: rooms.administration for id, rooms in self.ledgers.items()},
        )


@in_loop
async def test_rooms_are_listed_in_one_order() -> None:
    """Each answer has the next rooms of all ledgers."""
    two = Two()
    assert [each.room for each in await two.all.rooms("", "", 3)] == ["a", "b", "c"]
    assert [each.room for each in await two.all.rooms("", "c", 3)] == ["d"]
    assert [each.room for each in await two.all.rooms("b", "", 3)] == ["b"]


@in_loop
async def test_calls_about_a_room_reach_its_ledger() -> None:
    """No other one does anything."""
    two = Two()
    position = await two.all.position("d")
    assert position.offset == 2
    assert await two.all.since("d", position, 10) == []
    await two.all.set_options("d", {"title": "D"}, "key")
    assert (await two.all.options("d")).title == "D"
    assert not await two.ledgers["one"].administration.delete_room("d", "key")
    assert await two.all.delete_room("d", "key")
    assert [each.room for each in await two.all.rooms("", "", 9)] == ["a", "b", "c"]


@in_loop
async def test_ban_from_all_rooms_is_in_each_ledger() -> None:
    """It is one ban for whoever asks, and is lifted everywhere."""
    two = Two()
    await two.all.ban("u_1", None, 60, "key")
    await two.all.ban("u_1", "b", 30, "key")
    until = timestamp_of(NOW_S + 60)
    assert await two.all.bans() == [
        Ban("u_1", "b", timestamp_of(NOW_S + 30)),
        Ban("u_1", None, until),
    ]
    for rooms in two.ledgers.values():
        assert Ban("u_1", None, until) in await rooms.administration.bans()
    assert await two.all.unban("u_1", None, "key")
    assert await two.all.unban("u_1", "b", "key")
    assert not await two.all.unban("u_1", None, "key")
    assert await two.all.bans() == []
    assert await two.all.disconnect("u_1", None, "key") == 0
    assert await two.all.find_user("u_1") == await two.all.users("b") == []


@in_loop
async def test_messages_of_a_user_come_ledger_by_ledger() -> None:
    """The cursor leads through all of them, whatever the limit is; then all can be erased."""
    user = draft("x").user
    for limit in (1, 3, 100):
        two = Two()
        found: list[bytes] = []
        after: Any = None
        while True:
            part, after = await two.all.messages_of(user, after, limit)
            found += part
            if after is None:
                break
        assert len(found) == len(set(found)) == 8
    assert await two.all.erase_user(user, "key") == Erased(8, 0)
    assert (await two.all.messages_of(user, None, 100))[0] == []


@in_loop
async def test_one_ledger_that_fails_does_not_keep_the_others() -> None:
    """The error is `unavailable`, and the call can be made again."""
    two = Two()

    async def failing(*arguments: object) -> None:
        raise unavailable()

    two.ledgers["one"].administration.ban = failing  # type: ignore[method-assign]
    with pytest.raises(CommandError):
        await two.all.ban("u_1", None, 60, "key")
    assert len(await two.ledgers["two"].administration.bans()) == 1
