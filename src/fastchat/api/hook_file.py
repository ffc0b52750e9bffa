"""Changes the file of incoming webhooks, for the command line: `fastchat hook`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from fastchat.api.digest_file import digest_of, table
from fastchat.api.hooks import HOOK_FILE, PREFIX, Hook, new_id
from fastchat.errors import CommandError, SettingError
from fastchat.protocol import check_room, check_username, timestamp_of

__all__ = ["list_hooks", "new_hook", "revoke_hook"]

#: 256 random bits.
_SECRET_BYTES = 32


def new_hook(
    file: Path, *, room: str, name: str, clock: Callable[[], float] = time.time
) -> tuple[str, str]:
    """Add a new hook to a file, which is created if it does not exist.

    Returns the id of the hook and the path of its address. The file has only a digest of the
    secret in the path. Raises SettingError if an argument is wrong, or if the file cannot be read
    or written; then it has not changed.
    """
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    try:
        room = check_room(room)
    except CommandError as refusal:
        raise SettingError(f"--room: {refusal.message}") from None
    try:
        name = check_username(name)
    except CommandError as refusal:
        raise SettingError(f"--name: {refusal.message}") from None
    with HOOK_FILE.changing(file) as hooks:
        HOOK_FILE.check_room_for_more(file, hooks)
        id = new_id(name, {each.id for each in hooks})
        hooks.append(Hook(id, name, room, digest_of(secret), timestamp_of(clock())))
    return id, PREFIX + secret


def revoke_hook(file: Path, which: str) -> str:
    """Remove the hook with this id, or with this name if only one has it; returns its id.

    Raises SettingError if there is none, or if several hooks have the name.
    """
    with HOOK_FILE.changing(file) as hooks:
        found = [each for each in hooks if each.id == which]
        found = found or [each for each in hooks if each.name == which]
        if not found:
            known = ", ".join(each.id for each in hooks) or "none"
            raise HOOK_FILE.error(file, f"has no hook {which!r}; it has these: {known}")
        if len(found) > 1:
            ids = ", ".join(f"{each.id} in {each.room}" for each in found)
            raise HOOK_FILE.error(file, f"has several hooks {which!r}; name one by its id: {ids}")
        hooks.remove(found[0])
        return found[0].id


def list_hooks(file: Path) -> str:
    """A table of the hooks in a file, without any secret. Raises SettingError."""
    rows = [(hook.id, hook.room, hook.name, hook.created) for hook in HOOK_FILE.read(file)]
    return table(("ID", "ROOM", "NAME", "CREATED"), rows)
