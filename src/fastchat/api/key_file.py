"""Changes the file of the API's keys, for the command line: `fastchat key`.

A new file takes the place of the old one in one step, so a server that reads it meanwhile finds
either all old keys or all new ones. A lock on the directory lets two commands run one after the
other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fastchat.api.keys import (
    DEFAULT_RATE,
    MAX_KEYS,
    MAX_RATE,
    ApiKey,
    ApiRight,
    check_name,
    check_patterns,
    digest_of,
    read_keys,
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
    with _changing(file) as keys:
        if any(each.name == name for each in keys):
            raise SettingError(
                f"--api-key-file {file} has a key {name!r} already; choose another name, or "
                f"revoke that key first."
            )
        if len(keys) >= MAX_KEYS:
            raise SettingError(
                f"--api-key-file {file} has {MAX_KEYS:,} keys, and can have no more."
            )
        keys.append(key)
    return text


def revoke_key(file: Path, name: str) -> None:
    """Remove the key of this name. Raises SettingError if there is none."""
    with _changing(file) as keys:
        left = [each for each in keys if each.name != name]
        if len(left) == len(keys):
            known = ", ".join(each.name for each in keys) or "none"
            raise SettingError(f"--api-key-file {file} has no key {name!r}; it has these: {known}.")
        keys[:] = left


def list_keys(file: Path) -> str:
    """A table of the keys in a file, without any secret. Raises SettingError."""
    head = ("NAME", "RIGHTS", "ROOMS", "RATE", "CREATED")
    rows = [
        (key.name, _in_order(key.rights), ",".join(key.rooms), f"{key.rate:g}/s", key.created)
        for key in read_keys(file)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))
    return "\n".join(lines)


def rights_of(text: str) -> list[ApiRight]:
    """The rights in a text such as ``publish,read``. Raises SettingError."""
    try:
        return [ApiRight(each.strip()) for each in text.split(",")]
    except ValueError:
        raise SettingError(
            f"--rights must be some of {', '.join(ApiRight)}, with commas, not {text!r}."
        ) from None


def _in_order(rights: frozenset[ApiRight]) -> str:
    return ",".join(right for right in ApiRight if right in rights)


def _rate_of(text: str | None) -> float:
    if text is None:
        return float(DEFAULT_RATE)
    rate = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
    if not 1 <= rate <= MAX_RATE:
        raise ValueError(f"--rate must be a whole number from 1 to {MAX_RATE:,}, not {text!r}")
    return rate


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[ApiKey]]:
    """The keys of a file, which are written when the block ends without an exception."""
    try:
        real = Path(os.path.realpath(file))  # a link stays a link
        directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        keys = read_keys(file) if os.path.lexists(real) else []
        yield keys
        _write(real, keys)
        os.fsync(directory)
    except OSError as error:
        raise _unwritable(file, error) from None
    finally:
        os.close(directory)


def _write(file: Path, keys: Sequence[ApiKey]) -> None:
    """Replace a file by one with these keys, for the owner of the old one only."""
    entries = [
        {
            **key._asdict(),
            "rights": _in_order(key.rights).split(",") if key.rights else [],
            "rate": int(key.rate) if key.rate.is_integer() else key.rate,
        }
        for key in keys
    ]
    new = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            # The server can run as another user than the operator, who may be root.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                owner = file.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            json.dump({"keys": entries}, opened, indent=1, ensure_ascii=False)
            opened.write("\n")
            opened.flush()
            os.fsync(descriptor)
        os.replace(new, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _unwritable(file: Path, error: OSError) -> SettingError:
    return SettingError(f"--api-key-file {file} cannot be written: {error.strerror}.")
