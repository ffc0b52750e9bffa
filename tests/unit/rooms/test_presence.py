"""The users of a room: one user a name, however the name is written."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.rooms.presence import Roster, User


def joined(roster: Roster, name: str, id: str) -> User:
    """Add a user, or one more connection of theirs, to the room; returns the member."""
    user = roster.check(name, id) or roster.add(name, id)
    user.connections += 1
    return user


def test_unused_name_is_free() -> None:
    """A search for an unused name finds no user; an added user counts even without a connection."""
    roster = Roster()
    assert roster.check("Alice", "a") is None
    assert roster.find("Alice") is None
    user = roster.add("Alice", "a")
    assert (user.name, user.id, user.connections) == ("Alice", "a", 0)
    assert len(roster) == 1
    assert roster.find("ALICE") is user


@pytest.mark.parametrize("name", ["Alice", "ALICE", "ａｌｉｃｅ"])
def test_name_of_another_user_is_taken(name: str) -> None:
    """Another user gets neither the name nor one that looks like it, and the refusal is
    temporary."""
    roster = Roster()
    joined(roster, "Alice", "secret")
    for id in ("other", ""):
        with pytest.raises(CommandError) as caught:
            roster.check(name, id)
        assert caught.value.code == ErrorCode.USERNAME_TAKEN
        assert caught.value.temporary
    assert len(roster) == 1


def test_user_keeps_the_first_spelling_of_a_name() -> None:
    """A client with the session is the same user, however the name is written now."""
    roster = Roster()
    user = joined(roster, "Alice", "secret")
    assert roster.check("ALICE", "secret") is user
    assert user.name == "Alice"


def test_name_of_an_absent_user_can_be_taken() -> None:
    """The absent user is returned to be removed; the same user gets the name back."""
    roster = Roster()
    user = joined(roster, "Alice", "secret")
    user.connections -= 1
    assert roster.check("Alice", "other") is user
    assert roster.check("Alice", "secret") is user
    assert roster.members(9) == [("Alice", "secret")]


def test_name_is_free_again_once_its_user_is_removed() -> None:
    """A removed user's name can be used by another user."""
    roster = Roster()
    roster.remove(joined(roster, "Alice", "secret"))
    assert len(roster) == 0
    assert joined(roster, "alice", "other").name == "alice"


def test_names_are_listed_in_the_order_of_joining() -> None:
    """Names are listed up to a limit; a user who left and joined again is last."""
    roster = Roster()
    users = [joined(roster, name, "s") for name in ("C", "A", "B")]
    assert list(roster) == users
    assert roster.members(9) == [("C", "s"), ("A", "s"), ("B", "s")]
    assert roster.members(2) == [("C", "s"), ("A", "s")]
    roster.remove(users[0])
    joined(roster, "C", "s")
    assert roster.members(9) == [("A", "s"), ("B", "s"), ("C", "s")]


def test_one_user_is_found_under_each_of_their_names() -> None:
    """A user with two names is in the room twice, in the order of joining."""
    roster = Roster()
    users = [joined(roster, name, id) for name, id in (("A", "s"), ("B", "t"), ("C", "s"))]
    assert roster.find_all("s") == [users[0], users[2]]
    assert roster.find_all("u") == []
