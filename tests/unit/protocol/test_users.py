"""Credentials, and the form of public ids."""

from __future__ import annotations

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.users import check_user, guest_of, holder_of, import_of, subject_of


def test_credential_of_a_guest_is_a_digest_of_the_session() -> None:
    """One session always gives the same credential, another gives another, and the session is not
    in it."""
    assert guest_of("secret") == guest_of("secret")
    assert guest_of("secret") != guest_of("other")
    assert "secret" not in guest_of("secret")


def test_credentials_of_different_kinds_are_different() -> None:
    """No session gives the credential of a token or of an imported name."""
    assert subject_of(holder_of("u-1")) == "u-1"
    assert subject_of(guest_of("u-1")) is None
    assert subject_of(import_of("sub:u-1")) is None
    assert len({guest_of("x"), holder_of("x"), import_of("x")}) == 3


@pytest.mark.parametrize(
    "user", ["u_1", "u_auth0|5f7c", "u_Zoë B", f"u_{'x' * 255}", f"u_~{'x' * 16}", f"g_{'-' * 16}"]
)
def test_public_id_is_returned_unchanged(user: str) -> None:
    """Ids of guests have 16 characters, and those of tokens a subject or a digest."""
    assert check_user(user) == user


@pytest.mark.parametrize(
    "user",
    [
        *(None, 7, "", "u_", "g_", "Alice", f"g_{'-' * 15}", f"g_{'-' * 17}", f"g_{'/' * 16}"),
        *("u_a@b.example", "u_~x", "u_a\nb", f"u_{'x' * 256}", "sub:u-1", "u_\ud800"),
    ],
)
def test_anything_else_is_refused(user: object) -> None:
    """Such an id is `bad_command`, and the error names the field."""
    with pytest.raises(CommandError, match="`user`") as caught:
        check_user(user)
    assert caught.value.code == ErrorCode.BAD_COMMAND
