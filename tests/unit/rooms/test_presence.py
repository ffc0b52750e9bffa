"""Who is in a room: one user a name, whatever it looks like."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.rooms.presence import Roster, User, author_of


def joined(roster: Roster, name: str, author: str) -> User:
    """Somebody who is in the room with one more connection."""
    user = roster.check(name, author) or roster.add(name, author)
    user.connections += 1
    return user


def test_author_is_told_by_the_session() -> None:
    """The same for the same session, another for another; the session is not shown."""
    assert author_of("secret") == author_of("secret")
    assert author_of("secret") != author_of("other")
    assert "secret" not in author_of("secret")


def test_name_is_free_before_somebody_has_it() -> None:
    """Nobody is found; who is added counts, without a connection."""
    roster = Roster()
    assert roster.check("Alice", "a") is None
    assert roster.find("Alice") is None
    user = roster.add("Alice", "a")
    assert (user.name, user.author, user.connections) == ("Alice", "a", 0)
    assert len(roster) == 1
    assert roster.find("ALICE") is user


@pytest.mark.parametrize("name", ["Alice", "ALICE", "ａｌｉｃｅ"])
def test_name_of_somebody_else_is_taken(name: str) -> None:
    """Another author gets neither the name nor one that looks like it, for the moment."""
    roster = Roster()
    joined(roster, "Alice", "secret")
    for author in ("other", ""):
        with pytest.raises(CommandError) as caught:
            roster.check(name, author)
        assert caught.value.code == ErrorCode.USERNAME_TAKEN
        assert caught.value.temporary
    assert len(roster) == 1


def test_author_takes_his_name_back_under_its_first_spelling() -> None:
    """Whoever has the session is the same user, however he writes his name now."""
    roster = Roster()
    user = joined(roster, "Alice", "secret")
    assert roster.check("ALICE", "secret") is user
    assert user.name == "Alice"


def test_name_of_somebody_without_a_connection_may_be_taken() -> None:
    """He is found, for whoever takes it to remove him; himself he gets it back."""
    roster = Roster()
    user = joined(roster, "Alice", "secret")
    user.connections -= 1
    assert roster.check("Alice", "other") is user
    assert not user.is_author("other")
    assert roster.check("Alice", "secret") is user
    assert user.is_author("secret")
    assert roster.names(9) == ["Alice"]


def test_name_is_free_again_once_its_user_is_removed() -> None:
    """Nobody keeps a name that he does not use."""
    roster = Roster()
    roster.remove(joined(roster, "Alice", "secret"))
    assert len(roster) == 0
    assert joined(roster, "alice", "other").name == "alice"


def test_names_come_in_the_order_of_joining_up_to_a_limit() -> None:
    """Names are listed as they came; somebody who came back is last."""
    roster = Roster()
    users = [joined(roster, name, "s") for name in ("C", "A", "B")]
    assert list(roster) == users
    assert roster.names(9) == ["C", "A", "B"]
    assert roster.names(2) == ["C", "A"]
    roster.remove(users[0])
    joined(roster, "C", "s")
    assert roster.names(9) == ["A", "B", "C"]
