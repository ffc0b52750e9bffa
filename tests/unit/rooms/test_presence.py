"""The users of a room: one user a name, however the name is written."""

from __future__ import annotations

import pytest

from fastchat.rooms.presence import Roster, User


def joined(roster: Roster, name: str, id: str) -> User:
    """Add a user, or one more connection of theirs, to the room; returns the user."""
    user = roster.find(name) or roster.add(name, id)
    user.connections += 1
    return user


def test_unused_name_is_free() -> None:
    """A search for an unused name finds no user; an added user counts even without a connection."""
    roster = Roster()
    assert roster.find("Alice") is None
    user = roster.add("Alice", "a")
    assert (user.member, user.connections) == (("Alice", "a"), 0)
    assert len(roster) == 1
    assert roster.find("ALICE") is user


@pytest.mark.parametrize("name", ["Alice", "ALICE", "ａｌｉｃｅ"])
def test_user_is_found_by_a_name_that_looks_alike(name: str) -> None:
    """The user keeps the first spelling."""
    roster = Roster()
    user = joined(roster, "Alice", "secret")
    assert roster.find(name) is user
    assert user.name == "Alice"


def test_name_is_free_again_once_its_user_is_removed() -> None:
    """A removed user's name can be used by another user."""
    roster = Roster()
    roster.remove(joined(roster, "Alice", "secret"))
    assert len(roster) == 0
    assert roster.find_all("secret") == []
    assert joined(roster, "alice", "other").name == "alice"


def test_number_is_found_among_many_names() -> None:
    """It is the smallest one if no smaller one is free."""
    roster = Roster()
    roster.add("Alice", "0")
    for number in range(2, 100):
        assert roster.free_name("Alice") == f"Alice ({number})"
        roster.add(f"Alice ({number})", str(number))


def test_names_are_listed_in_the_order_of_joining() -> None:
    """A user who left and joined again is last."""
    roster = Roster()
    users = [joined(roster, name, "s") for name in ("C", "A", "B")]
    assert list(roster) == users
    assert roster.members() == [("C", "s"), ("A", "s"), ("B", "s")]
    roster.remove(users[0])
    joined(roster, "C", "s")
    assert roster.members() == [("A", "s"), ("B", "s"), ("C", "s")]


def test_one_user_is_found_under_each_of_their_names() -> None:
    """A user with two names is in the room twice, in the order of joining."""
    roster = Roster()
    users = [joined(roster, name, id) for name, id in (("A", "s"), ("B", "t"), ("C", "s"))]
    assert roster.find_all("s") == [users[0], users[2]]
    assert roster.find_all("u") == []
