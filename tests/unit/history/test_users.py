"""Public ids of users, made with the secret of a history."""

from __future__ import annotations

import logging

import pytest

from fastchat.history.users import UserIds, new_user_key
from fastchat.protocol.users import check_user, guest_of, holder_of, import_of

KEY, OTHER_KEY = bytes(32), bytes(31) + b"\1"
user_of = UserIds(KEY).user_of


def test_same_secret_and_credential_give_the_same_id() -> None:
    """An id is stable, and another secret gives another one."""
    guest = guest_of("a-session-of-many-bytes")
    assert user_of(guest) == UserIds(KEY).user_of(guest) == "g_f1fkdhrT-VU_2TN-"
    assert user_of(guest) != UserIds(OTHER_KEY).user_of(guest)
    assert new_user_key() != new_user_key()


@pytest.mark.parametrize(
    "credential",
    [guest_of("x"), import_of("Zoë"), holder_of("u-1"), holder_of("a@b.example"), holder_of("~x")],
)
def test_id_has_the_form_of_the_protocol(credential: str) -> None:
    """Every id passes the check of `remove` and of imports."""
    assert check_user(user_of(credential)) == user_of(credential)


def test_subject_is_shown() -> None:
    """The id of a token's user is the subject, so that a backend recognises it."""
    assert user_of(holder_of("u-1")) == "u_u-1"


def test_address_is_shown_as_a_digest(caplog: pytest.LogCaptureFixture) -> None:
    """No part of an address is public, and the log says so once, without the address."""
    caplog.set_level(logging.INFO, logger="fastchat.auth")
    users = UserIds(KEY)
    shown = {users.user_of(holder_of(f"{name}@example.org")) for name in ("alice", "bob")}
    assert len(shown) == 2
    assert all(user.startswith("u_~") and "@" not in user for user in shown)
    (record,) = caplog.records
    assert "digest" in record.getMessage()
    assert "example.org" not in record.getMessage()


def test_subject_cannot_be_chosen_to_equal_another_ones_digest() -> None:
    """A subject that looks like a digest is itself shown as a digest."""
    victim = user_of(holder_of("alice@example.org"))
    attacker = user_of(holder_of(victim.removeprefix("u_")))
    assert attacker.startswith("u_~")
    assert attacker != victim


def test_guest_is_never_the_sender_of_an_imported_message() -> None:
    """Nobody can own the messages of another program by a name or a session."""
    assert user_of(import_of("Alice")) != user_of(guest_of("Alice"))
    assert user_of(import_of("Alice")).startswith("g_")
