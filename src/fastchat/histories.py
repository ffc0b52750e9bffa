"""The history that the settings ask for, for whichever process keeps it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path

from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
from fastchat.settings import Settings

__all__ = ["new_secret", "open_history"]


def open_history(settings: Settings) -> History:
    """The history that the settings ask for; raises SettingError when it cannot be had."""
    if settings.history == "memory":
        return MemoryHistory(max_messages=settings.history_max_messages, new_epoch=new_secret)
    return SqliteHistory(
        Path(settings.data),
        max_messages=settings.history_max_messages,
        max_age_s=settings.history_max_age,
        sync_commits=settings.durability == "power-loss",
        new_epoch=new_secret,
        clock=_steady_clock(),
    )


def _steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as they were at the start, and since then as they pass.

    Somebody may set the machine's clock; what is kept for a time is kept for that time.
    """
    started = time.time() - time.monotonic()
    return lambda: started + time.monotonic()


def new_secret() -> str:
    """An epoch or a session: 128 random bits."""
    return secrets.token_urlsafe(16)
