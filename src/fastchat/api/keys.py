"""The keys of the API: who they are, and what they can do.

A key is 256 random bits, so nobody can guess one, and nobody can try all of them. That is why the
file has the plain SHA-256 of each key: a slow hash such as bcrypt protects passwords, which people
choose, and would cost each request some 50 ms here.

A key is found by its digest, and then compared in constant time. The time of the search tells
nothing: to have a digest that begins like that of a key, one has to try hashes, and knows no more
of the key afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from fastchat.chat.operations import Speaker
from fastchat.errors import CommandError, SettingError
from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.protocol.names import check_room, name_key
from fastchat.protocol.users import KEY_PREFIX, check_user

__all__ = [
    "DEFAULT_RATE",
    "KEY",
    "MAX_KEYS",
    "MAX_RATE",
    "ActiveKey",
    "ApiKey",
    "ApiKeys",
    "ApiRight",
    "check_name",
    "check_patterns",
    "digest_of",
    "parse_keys",
    "read_keys",
]

logger = logging.getLogger("fastchat.api")

#: The text of a key. Programs that look for secrets in sources find it by its beginning.
KEY = re.compile("fastchat_key_[A-Za-z0-9_-]{43}")
#: Requests a second of a key for which nothing else is said, and at most.
DEFAULT_RATE, MAX_RATE = 1000, 1_000_000
MAX_KEYS = 1000
MAX_PATTERNS = 100
#: A key with MAX_PATTERNS long patterns has some 10 kB, and most keys have 300 bytes.
MAX_FILE_BYTES = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")
_FIELDS = ("name", "sha256", "rights", "rooms", "rate", "created")


class ApiRight(StrEnum):
    """A right that a key can have in its rooms. No right includes another."""

    PUBLISH = "publish"
    READ = "read"
    MODERATE = "moderate"
    ADMIN = "admin"


class ApiKey(NamedTuple):
    """A key as its file has it.

    * `sha256`: the digest of the key's text, in hexadecimal digits.
    * `rooms`: names of rooms, and beginnings of names followed by `*`; `*` alone is every room.
    * `rate`: requests a second; as many can come at once.
    * `created`: a time (RFC 3339).
    """

    name: str
    sha256: str
    rights: frozenset[ApiRight]
    rooms: Sequence[str]
    rate: float
    created: str

    @property
    def speaker(self) -> Speaker:
        """Whom members see if the key publishes in its own name."""
        return Speaker(KEY_PREFIX + self.name, self.name)

    @property
    def has_all_rooms(self) -> bool:
        return "*" in self.rooms


class ActiveKey:
    """A key that requests can use, with its budget, and the streams that it has in this process."""

    __slots__ = ("_exact", "_prefixes", "budget", "key", "speaker", "streams")

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        self.speaker = key.speaker
        self.budget = TokenBuckets(Budget(key.rate, key.rate))
        self.streams = 0
        self._exact = frozenset(each for each in key.rooms if not each.endswith("*"))
        self._prefixes = tuple(each[:-1] for each in key.rooms if each.endswith("*"))

    def has(self, right: ApiRight) -> bool:
        return right in self.key.rights

    def matches(self, room: str) -> bool:
        """Whether the key is for this room, by its checked name."""
        return room in self._exact or room.startswith(self._prefixes)

    def covers(self, beginning: str) -> bool:
        """Whether the key is for all rooms whose names begin like this."""
        return beginning.startswith(self._prefixes)


class ApiKeys:
    """The keys in a file, which `reload` reads again. Raises SettingError if it cannot be used."""

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file).absolute()  # the directory of the process can change
        self._by_digest: dict[bytes, ActiveKey] = {}
        #: The keys by what their names look like; every join looks a name up.
        self._by_look: dict[str, list[ActiveKey]] = {}
        self._take(read_keys(self._file))

    def reload(self) -> None:
        """Read the file again. If that fails, it is logged, and the old keys stay in use."""
        try:
            keys = read_keys(self._file)
        except SettingError as error:
            logger.error("the API's keys could not be read again; the old ones stay: %s", error)
        else:
            self._take(keys)
            logger.info("the API's keys were read again: %d", len(keys))

    def find(self, text: bytes) -> ActiveKey | None:
        """The key with this text; None if there is none."""
        digest = hashlib.sha256(text).digest()
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(bytes.fromhex(found.key.sha256), digest):
            return None
        return found

    def is_active(self, key: ActiveKey) -> bool:
        """Whether a key, or another one with the same text, has not been revoked."""
        return bytes.fromhex(key.key.sha256) in self._by_digest

    def reserves(self, room: str, username: str) -> bool:
        """Whether a username looks like the name of a key that can speak in a room."""
        return any(each.matches(room) for each in self._by_look.get(name_key(username), ()))

    def _take(self, keys: Iterable[ApiKey]) -> None:
        before = {active.key: active for active in self._by_digest.values()}
        # A key that has not changed keeps what it has used of its budget.
        self._by_digest = {
            bytes.fromhex(key.sha256): before.get(key) or ActiveKey(key) for key in keys
        }
        self._by_look = {}
        for active in self._by_digest.values():
            self._by_look.setdefault(name_key(active.key.name), []).append(active)


def digest_of(text: str) -> str:
    """The digest of a key's text, as files have it."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_keys(file: Path) -> list[ApiKey]:
    """Read the keys in a file, and warn if others can read it. Raises SettingError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
            mode = os.fstat(opened.fileno()).st_mode
    except FileNotFoundError:
        raise _bad(file, "does not exist; `fastchat key new` makes it") from None
    except OSError as error:
        raise _bad(file, f"cannot be read: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning(
            "other users of this machine can use %s, which has the API's keys; run: chmod go= %s",
            file,
            shlex.quote(str(file)),
        )
    return parse_keys(file, data)


def parse_keys(file: Path, data: bytes) -> list[ApiKey]:
    """The keys in the content of a file. Raises SettingError with a sentence about the file."""
    if len(data) > MAX_FILE_BYTES:
        raise _bad(file, f"has more than {MAX_FILE_BYTES:,} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad(file, "is not valid JSON") from None
    if type(content) is not dict or set(content) != {"keys"} or type(content["keys"]) is not list:
        raise _bad(file, 'must be a JSON object with one field, "keys", which is an array')
    if len(content["keys"]) > MAX_KEYS:
        raise _bad(file, f"has more than {MAX_KEYS:,} keys")
    keys = [_parse(file, number, fields) for number, fields in enumerate(content["keys"], 1)]
    for what in ("name", "sha256"):
        values = [getattr(key, what) for key in keys]
        if len(set(values)) < len(values):
            raise _bad(file, f"has two keys with the same {what}")
    return keys


def _parse(file: Path, number: int, fields: Any) -> ApiKey:
    """One key of a file; `number` names it in errors, which show no value of the file."""
    if type(fields) is not dict or set(fields) != set(_FIELDS):
        raise _bad(file, f"has a key, number {number}, whose fields are not {', '.join(_FIELDS)}")
    name, sha256, rights, rooms, rate, created = (fields[field] for field in _FIELDS)
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("sha256", lambda: type(sha256) is str and bool(_DIGEST.fullmatch(sha256))),
        ("rights", lambda: type(rights) is list and set(rights) <= set(ApiRight)),
        ("rate", lambda: type(rate) in (int, float) and 0 < rate <= MAX_RATE),
        ("created", lambda: type(created) is str and created.isprintable()),
    )
    for field, is_right in checks:
        try:
            holds = is_right()
        except TypeError:  # an array of arrays
            holds = False
        if not holds:
            raise _bad(file, f"has a key, number {number}, whose {field} is wrong")
    try:
        return ApiKey(
            check_name(name),
            sha256,
            frozenset(map(ApiRight, rights)),
            check_patterns(rooms),
            float(rate),
            created,
        )
    except ValueError as error:
        raise _bad(file, f"has a key, number {number}, which is wrong: {error}") from None


def check_name(name: object) -> str:
    """Return the name of a key unchanged. Raises ValueError."""
    try:
        check_user(f"{KEY_PREFIX}{name}")
    except CommandError:
        name = None
    if type(name) is not str:
        raise ValueError(
            "a name must have 1 to 32 of the characters a-z, 0-9, - and _, and begin with one of "
            "a-z or 0-9"
        )
    return name


def check_patterns(patterns: object) -> tuple[str, ...]:
    """Return patterns of rooms as they are compared with the names of rooms. Raises ValueError.

    A pattern is the name of a room, or the beginning of names followed by `*`. Other places for the
    `*` would be of little use, and could not be looked up among the rooms.
    """
    if not (type(patterns) in (list, tuple) and 1 <= len(patterns) <= MAX_PATTERNS):  # type: ignore[arg-type]
        raise ValueError(f"rooms must be a list of 1 to {MAX_PATTERNS} names or patterns")
    return tuple(dict.fromkeys(map(_check_pattern, patterns)))  # type: ignore[call-overload]


def _check_pattern(pattern: object) -> str:
    if type(pattern) is not str:
        raise ValueError("the name of a room must be a string")
    beginning = pattern.removesuffix("*")
    try:
        if beginning != pattern and "*" not in beginning:
            return (check_room(beginning) if beginning else "") + "*"
        return check_room(pattern)
    except CommandError as refusal:
        raise ValueError(
            f"{pattern[:80]!r} is neither the name of a room nor the beginning of names "
            f"followed by * ({refusal.message.rstrip('.')})"
        ) from None


def _bad(file: Path, what: str) -> SettingError:
    return SettingError(f"--api-key-file {file} {what}.")
