"""Incoming webhooks: the addresses at which other programs post to a room.

The operator makes a hook for one room and one name. Its secret is the last part of its address,
because that is where all programs have it that post to Slack, Mattermost and Discord. As for keys
(`fastchat.api.keys`), the secret is 256 random bits, and the file has only its digest.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from fastchat.api.digest_file import DigestFile, check_created, check_digest
from fastchat.chat.operations import Speaker
from fastchat.errors import CommandError, SettingError
from fastchat.limits.buckets import Budget, TokenBuckets
from fastchat.protocol.names import check_room, check_username, name_key
from fastchat.protocol.users import HOOK_PREFIX, check_user

__all__ = ["BUDGET", "HOOK_FILE", "PREFIX", "ActiveHook", "Hook", "IncomingHooks", "new_id"]

logger = logging.getLogger("fastchat.api")

#: The path below which the addresses are; apprise appends it to the host that it is given.
PREFIX = "/hooks/"
#: Messages a second of a hook, and at once. Slack takes one a second, and "short bursts".
BUDGET = Budget(1.0, 30.0)
MAX_ID_CHARS = 32


class Hook(NamedTuple):
    """A hook as its file has it.

    * `id`: the name of the hook among all of the file; users see it as `h_` and the id.
    * `name`: the username of its messages.
    * `sha256`: the digest of its secret, in hexadecimal digits.
    * `created`: a time (RFC 3339).
    """

    id: str
    name: str
    room: str
    sha256: str
    created: str

    @property
    def speaker(self) -> Speaker:
        """Whom members see as the author."""
        return Speaker(HOOK_PREFIX + self.id, self.name)


class ActiveHook:
    """A hook that programs can use, with its budget in this process."""

    __slots__ = ("budget", "hook", "speaker")

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.speaker = hook.speaker
        self.budget = TokenBuckets(BUDGET)


class IncomingHooks:
    """The hooks in a file, which `reload` reads again. Raises SettingError if it cannot be used."""

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file).absolute()  # the directory of the process can change
        self._by_digest: dict[bytes, ActiveHook] = {}
        #: Rooms with what the names of hooks in them look like.
        self._names: frozenset[tuple[str, str]] = frozenset()
        self._take(HOOK_FILE.read(self._file))

    def reload(self) -> None:
        """Read the file again. If that fails, it is logged, and the old hooks stay in use."""
        try:
            hooks = HOOK_FILE.read(self._file)
        except SettingError as error:
            logger.error("the webhooks could not be read again; the old ones stay: %s", error)
        else:
            self._take(hooks)
            logger.info("the webhooks were read again: %d", len(hooks))

    def find(self, secret: bytes) -> ActiveHook | None:
        """The hook with this secret; None if there is none."""
        digest = hashlib.sha256(secret).digest()
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(bytes.fromhex(found.hook.sha256), digest):
            return None
        return found

    def reserves(self, room: str, username: str) -> bool:
        """Whether a username looks like the name of a hook of a room."""
        return (room, name_key(username)) in self._names

    def _take(self, hooks: Iterable[Hook]) -> None:
        before = {active.hook: active for active in self._by_digest.values()}
        # A hook that has not changed keeps what it has used of its budget.
        self._by_digest = {
            bytes.fromhex(hook.sha256): before.get(hook) or ActiveHook(hook) for hook in hooks
        }
        self._names = frozenset(
            (active.hook.room, name_key(active.hook.name)) for active in self._by_digest.values()
        )


def new_id(name: str, taken: Collection[str]) -> str:
    """An id that reads like a name, and that is not taken: `grafana`, `grafana-2`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:MAX_ID_CHARS].rstrip("-") or "hook"
    number, id = 1, slug
    while id in taken:
        number += 1
        ending = f"-{number}"
        id = slug[: MAX_ID_CHARS - len(ending)] + ending
    return id


def _parse(*, id: object, name: object, room: object, sha256: object, created: object) -> Hook:
    """A hook of the values of its fields. Raises ValueError."""
    try:
        named, checked = check_username(name), check_room(room)
    except CommandError as refusal:
        raise ValueError(f"its name or room cannot be used: {refusal.message[:-1]}") from None
    try:
        check_user(f"{HOOK_PREFIX}{id}")
    except CommandError:
        raise ValueError(
            "its id must have 1 to 32 of the characters a-z, 0-9, - and _, and begin with one of "
            "a-z or 0-9"
        ) from None
    return Hook(str(id), named, checked, check_digest(sha256), check_created(created))


#: The files of hooks, for reading and for changing them.
HOOK_FILE = DigestFile(
    "--hook-file",
    "hook",
    fields=Hook._fields,
    unique=("id", "sha256"),
    parse=_parse,
    describe=Hook._asdict,
)
