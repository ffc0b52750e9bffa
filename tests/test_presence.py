"""Who is in which room."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.presence import Presence, User


def leave(presence: Presence, room: str, user: User) -> None:
    """The last connection of a user goes, and he with it."""
    assert presence.leave(user)
    presence.remove(room, user)


def test_user_is_online_from_the_first_connection_until_removed() -> None:
    """Two tabs of one session are one user, who leaves with the second."""
    presence = Presence()
    user = presence.join("a", "Alice", "secret")
    assert presence.join("a", "Alice", "secret") is user
    assert presence.online("a") == 1
    assert not presence.leave(user)
    assert presence.online("a") == 1
    assert presence.leave(user)
    assert presence.online("a") == 1
    presence.remove("a", user)
    assert presence.online("a") == 0


def test_user_without_a_connection_is_absent_and_keeps_his_name() -> None:
    """Between his last connection and `remove` only his session gets the name."""
    presence = Presence()
    user = presence.join("a", "Alice", "secret")
    assert presence.absent("a", "Alice") is None
    presence.leave(user)
    assert presence.absent("a", "ALICE") is user
    assert presence.absent("a", "Bob") is None
    assert presence.absent("b", "Alice") is None
    assert presence.names("a", 9) == ["Alice"]
    with pytest.raises(CommandError):
        presence.join("a", "Alice", "other")
    assert presence.join("a", "Alice", "secret") is user
    assert presence.absent("a", "Alice") is None
    leave(presence, "a", user)
    assert presence.absent("a", "Alice") is None


def test_author_is_told_by_the_session() -> None:
    """Two users who had one name after each other are two authors; the session is not shown."""
    presence = Presence()
    first = presence.join("a", "Alice", "secret")
    leave(presence, "a", first)
    assert presence.join("a", "Alice", "other").author != first.author
    assert presence.join("b", "Alice", "secret").author == first.author
    assert "secret" not in first.author


@pytest.mark.parametrize("name", ["Alice", "ALICE", "ａｌｉｃｅ"])
def test_name_of_somebody_else_is_taken(name: str) -> None:
    """Another session gets neither the name nor one that looks like it, for the moment."""
    presence = Presence()
    presence.join("a", "Alice", "secret")
    for session in ("other", "", "sécret"):
        with pytest.raises(CommandError) as caught:
            presence.join("a", name, session)
        assert caught.value.code == ErrorCode.USERNAME_TAKEN
        assert caught.value.temporary
    assert presence.online("a") == 1


def test_refused_join_counts_nobody() -> None:
    """After a refusal the one connection that is there is still the last."""
    presence = Presence()
    user = presence.join("a", "Alice", "secret")
    with pytest.raises(CommandError):
        presence.join("a", "alice", "other")
    assert presence.leave(user)


def test_name_is_free_again_once_its_user_is_removed() -> None:
    """Nobody keeps a name that he does not use."""
    presence = Presence()
    leave(presence, "a", presence.join("a", "Alice", "secret"))
    assert presence.join("a", "alice", "other").name == "alice"


def test_session_takes_a_name_back_under_its_first_spelling() -> None:
    """Whoever has the session is the same user, however he writes his name now."""
    presence = Presence()
    user = presence.join("a", "Alice", "secret")
    assert presence.join("a", "ALICE", "secret") is user
    assert user.name == "Alice"


def test_rooms_do_not_know_of_each_other() -> None:
    """The same name may belong to different people in different rooms."""
    presence = Presence()
    presence.join("a", "Alice", "one")
    presence.join("b", "Alice", "two")
    assert presence.online("a") == presence.online("b") == 1


def test_names_come_in_the_order_of_joining_up_to_a_limit() -> None:
    """Names are listed as they came; somebody who came back is last."""
    presence = Presence()
    users = [presence.join("a", name, "s") for name in ("C", "A", "B")]
    assert presence.names("a", 9) == ["C", "A", "B"]
    assert presence.names("a", 2) == ["C", "A"]
    leave(presence, "a", users[0])
    presence.join("a", "C", "s")
    assert presence.names("a", 9) == ["A", "B", "C"]


def test_empty_rooms_are_forgotten() -> None:
    """A room that everybody has left costs nothing."""
    presence = Presence()
    for number in range(100):
        leave(presence, f"r{number}", presence.join(f"r{number}", "A", "s"))
    assert presence._rooms == {}
    assert presence.online("r1") == 0
    assert presence.names("r1", 5) == []
