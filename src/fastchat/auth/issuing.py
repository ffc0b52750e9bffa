"""Issues tokens and secrets for the command line: `fastchat token`."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt

from fastchat.auth import ANY_ROOM
from fastchat.auth.keys import MIN_SECRET_BYTES, read_signing_key
from fastchat.auth.tokens import RIGHTS, is_subject
from fastchat.errors import CommandError, SettingError
from fastchat.protocol.names import check_room, check_username
from fastchat.protocol.users import MAX_SUBJECT_CHARS

__all__ = ["create_secret", "duration_of", "make_token", "rooms_of", "signs"]

#: The longest time that `--for` accepts: a year.
MAX_DURATION_S = 366 * 86400


def make_token(
    file: Path,
    *,
    subject: str,
    duration_s: int,
    name: str | None = None,
    rooms: Mapping[str, Sequence[str]] | None = None,
    audience: str = "",
    issuer: str = "",
    user_claim: str = "sub",
) -> str:
    """A token that is signed with the secret or the private key in `file`.

    * `subject`: the claim `sub`, which identifies the user.
    * `duration_s`: how long the token is valid from now on.
    * `name`: the name that other users see; None means that it is the subject.
    * `rooms`: the rights by room; None leaves them to the server.
    * `audience`, `issuer`: the claims `aud` and `iss`; without them if empty.
    * `user_claim`: a claim that has the subject, too, because the server identifies users by it.

    Raises SettingError if the key cannot be used, if servers would not accept the subject, or if
    they would change the name.
    """
    if not is_subject(subject):
        raise SettingError(f"--sub must have 1 to {MAX_SUBJECT_CHARS} printable characters.")
    try:
        if name is not None:
            check_username(name)
    except CommandError as refusal:
        raise SettingError(f"--name: {refusal.message}") from None
    algorithm, key, _ = read_signing_key(file)
    now = int(time.time())
    claims: dict[str, Any] = {
        user_claim: subject,
        "sub": subject,
        "iat": now,
        "exp": now + duration_s,
    }
    more = {"name": name, "rooms": rooms, "aud": audience or None, "iss": issuer or None}
    claims.update((claim, value) for claim, value in more.items() if value is not None)
    return jwt.encode(claims, key, algorithm=algorithm)


def signs(file: Path) -> bool:
    """Whether a file has a secret, which verifies tokens and signs them."""
    try:
        return read_signing_key(file).algorithm == "HS256"
    except SettingError:
        return False


def create_secret(file: Path) -> None:
    """Write a new secret to a new file that only its owner can read.

    Raises SettingError if the file exists already or cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(secrets.token_urlsafe(MIN_SECRET_BYTES) + "\n")
    except FileExistsError:
        raise SettingError(f"--new-key {file} exists already; choose another name.") from None
    except OSError as error:
        raise SettingError(f"--new-key {file} cannot be written: {error.strerror}.") from None


_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_of(text: str) -> int:
    """The seconds in a time like ``90s``, ``15m``, ``1h`` or ``7d``.

    A number without a unit is in seconds. Raises SettingError for other texts, for 0 and for
    more than a year.
    """
    found = re.fullmatch("([0-9]{1,9})([smhd]?)", text, re.ASCII)
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not 1 <= seconds <= MAX_DURATION_S:
        raise SettingError(
            f"--for must be a time like 90s, 15m, 1h or 7d, at most 366d, not {text!r}."
        )
    return seconds


def rooms_of(texts: Iterable[str]) -> dict[str, list[str]]:
    """The claim `rooms` for texts like ``lobby=read,write`` and ``*=read``.

    Raises SettingError if a text has another form, or an unknown right or room name.
    """
    rooms: dict[str, list[str]] = {}
    for text in texts:
        room, equals, given = text.partition("=")
        rights = given.split(",") if given else []
        try:
            if not equals or set(rights) - set(RIGHTS):
                raise SettingError(
                    f"--rooms must be like lobby=read,write, with rights from "
                    f"{', '.join(RIGHTS)}, not {text!r}."
                )
            rooms[room if room == ANY_ROOM else check_room(room)] = rights
        except CommandError as refusal:
            raise SettingError(f"--rooms {text!r}: {refusal.message}") from None
    return rooms
