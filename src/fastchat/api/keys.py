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
import logging
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from fastchat.api.digest_file import DigestFile, check_created, check_digest
from fastchat.chat.operations import Speaker
from fastchat.errors import CommandError, SettingError
from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.protocol.names import check_room, name_key
from fastchat.protocol.users import KEY_PREFIX, check_user

__all__ = [
    "DEFAULT_RATE",
    "KEY",
    "KEY_FILE",
    "MAX_RATE",
    "ActiveKey",
    "ApiKey",
    "ApiKeys",
    "ApiRight",
    "check_name",
    "check_patterns",
    "in_order",
]

logger = logging.getLogger("fastchat.api")

#: The text of a key. Programs that look for secrets in sources find it by its beginning.
KEY = re.compile("fastchat_key_[A-Za-z0-9_-]{43}")
#: Requests a second of a key for which nothing else is said, and at most.
DEFAULT_RATE, MAX_RATE = 1000, 1_000_000
MAX_PATTERNS = 100


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
        self._take(KEY_FILE.read(self._file))

    def reload(self) -> None:
        """Read the file again. If that fails, it is logged, and the old keys stay in use."""
        try:
            keys = KEY_FILE.read(self._file)
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


def _describe(key: ApiKey) -> dict[str, Any]:
    """The fields of a key in its file."""
    return {
        **key._asdict(),
        "rights": in_order(key.rights),
        "rate": int(key.rate) if key.rate.is_integer() else key.rate,
    }


def in_order(rights: Iterable[ApiRight]) -> list[ApiRight]:
    """Rights in the order in which people read them."""
    return sorted(rights, key=list(ApiRight).index)


def _parse(
    *, name: object, sha256: object, rights: object, rooms: object, rate: object, created: object
) -> ApiKey:
    """A key of the values of its fields. Raises ValueError."""
    try:
        known = frozenset(map(ApiRight, rights)) if type(rights) is list else None
    except ValueError:
        known = None
    if known is None:
        raise ValueError(f"rights must be an array of some of {', '.join(ApiRight)}")
    if not (isinstance(rate, (int, float)) and type(rate) is not bool and 0 < rate <= MAX_RATE):
        raise ValueError(f"rate must be a number above 0, and at most {MAX_RATE:,}")
    return ApiKey(
        check_name(name),
        check_digest(sha256),
        known,
        check_patterns(rooms),
        float(rate),
        check_created(created),
    )


#: The files of keys, for reading and for changing them.
KEY_FILE = DigestFile(
    "--api-key-file",
    "key",
    fields=ApiKey._fields,
    unique=("name", "sha256"),
    parse=_parse,
    describe=_describe,
)


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
