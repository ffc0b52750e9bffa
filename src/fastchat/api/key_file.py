"""Changes the file of the API's keys, for the command line: `fastchat key`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastchat.api.digest_file import digest_of, table
from fastchat.api.keys import (
    DEFAULT_RATE,
    KEY_FILE,
    MAX_RATE,
    ApiKey,
    ApiRight,
    check_name,
    check_patterns,
    in_order,
)
from fastchat.errors import SettingError
from fastchat.protocol import timestamp_of

__all__ = ["list_keys", "new_key", "revoke_key", "rights_of"]

#: 256 random bits.
_KEY_BYTES = 32


def new_key(
    file: Path,
    name: str,
    *,
    rights: Sequence[ApiRight],
    rooms: Sequence[str],
    rate: str | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Add a new key to a file, which is created if it does not exist; returns the key's text.

    The file has only a digest of the text. Raises SettingError if an argument is wrong, if there is
    a key of this name, or if the file cannot be read or written. Then it has not changed.
    """
    text = f"fastchat_key_{secrets.token_urlsafe(_KEY_BYTES)}"
    try:
        key = ApiKey(
            check_name(name),
            digest_of(text),
            frozenset(rights),
            check_patterns(rooms),
            _rate_of(rate),
            timestamp_of(clock()),
        )
    except ValueError as error:
        raise SettingError(f"fastchat key new: {error}.") from None
    with KEY_FILE.changing(file) as keys:
        if any(each.name == name for each in keys):
            raise KEY_FILE.error(
                file,
                f"has a key {name!r} already; choose another name, or revoke that key first",
            )
        KEY_FILE.check_room_for_more(file, keys)
        keys.append(key)
    return text


def revoke_key(file: Path, name: str) -> None:
    """Remove the key of this name. Raises SettingError if there is none."""
    with KEY_FILE.changing(file) as keys:
        left = [each for each in keys if each.name != name]
        if len(left) == len(keys):
            known = ", ".join(each.name for each in keys) or "none"
            raise KEY_FILE.error(file, f"has no key {name!r}; it has these: {known}")
        keys[:] = left


def list_keys(file: Path) -> str:
    """A table of the keys in a file, without any secret. Raises SettingError."""
    head = ("NAME", "RIGHTS", "ROOMS", "RATE", "CREATED")
    rows = [
        (
            key.name,
            ",".join(in_order(key.rights)),
            ",".join(key.rooms),
            f"{key.rate:g}/s",
            key.created,
        )
        for key in KEY_FILE.read(file)
    ]
    return table(head, rows)


def rights_of(text: str) -> list[ApiRight]:
    """The rights in a text such as ``publish,read``. Raises SettingError."""
    try:
        return [ApiRight(each.strip()) for each in text.split(",")]
    except ValueError:
        raise SettingError(
            f"--rights must be some of {', '.join(ApiRight)}, with commas, not {text!r}."
        ) from None


def _rate_of(text: str | None) -> float:
    if text is None:
        return float(DEFAULT_RATE)
    rate = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
    if not 1 <= rate <= MAX_RATE:
        raise ValueError(f"--rate must be a whole number from 1 to {MAX_RATE:,}, not {text!r}")
    return rate
