"""Builds the history, the files and the rooms.

The only process has all of these, and so has the relay.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import time
from functools import partial
from pathlib import Path

from fastchat.clocks import AgeClock, steady
from fastchat.directory import is_open_to_others
from fastchat.errors import SettingError
from fastchat.files import TICKET_S, UNLINKED_LIFETIME_S, Files
from fastchat.files.retention import Retention
from fastchat.files.store import FileStore
from fastchat.history import History
from fastchat.history.directory import FILE_NAME as HISTORY_NAME
from fastchat.history.epochs import new_generation
from fastchat.history.ids import REMEMBER_IDS_S
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
from fastchat.history.users import UserIds
from fastchat.metrics import Metrics
from fastchat.process.assembly.limits import room_limits_of
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.members import GRACE_TICKS
from fastchat.rooms.removals import FILE_NAME as REMOVALS_NAME
from fastchat.rooms.removals import Removals
from fastchat.settings import Settings

__all__ = [
    "build_rooms",
    "new_secret",
    "open_files",
    "open_history",
    "open_retention",
]

logger = logging.getLogger("fastchat")

#: The time between two attempts to store publications while the history is busy with the disk.
BUSY_INTERVAL_S = 0.001


def build_rooms(
    settings: Settings,
    history: History,
    metrics: Metrics,
    *,
    grace_ticks: int = GRACE_TICKS,
) -> LocalRooms:
    """Build the rooms, in the running loop.

    Removals are kept in a file if there is a directory for it: if the history is on disk, or if
    several workers share the rooms, because the relay's socket needs a directory as well.
    """
    user_of = UserIds(history.user_key).user_of
    loop = asyncio.get_running_loop()
    return LocalRooms(
        history,
        at_end_of_turn=loop.call_soon,
        soon=partial(loop.call_later, BUSY_INTERVAL_S),
        clock=time.time,
        metrics=metrics,
        user_of=user_of,
        removals=Removals(
            time.time,
            Path(settings.data) / REMOVALS_NAME if settings.has_directory else None,
            user_of=user_of,
            steady=steady,
        ),
        limits=room_limits_of(settings),
        grace_ticks=grace_ticks,
    )


def open_history(
    settings: Settings, *, user_key: bytes | None = None, again: bool = False
) -> History:
    """Open the history that the settings ask for. Raises SettingError if it cannot be opened.

    A history in memory gets the `user_key`, or a new one if it is None. A history in a file has its
    own. `again` is whether the server has had it open before. Then the file must be there: an empty
    history in its place would lose every message without a word.
    """
    if settings.history == "memory":
        return MemoryHistory(
            max_messages=settings.history_max_messages,
            new_generation=new_generation,
            user_key=user_key,
        )
    directory = Path(settings.data)
    if again and not (directory / HISTORY_NAME).exists():
        raise SettingError(
            f"--data: {directory / HISTORY_NAME} is missing; put it back, or restart the server "
            "to start with an empty history."
        )
    history = SqliteHistory(
        directory,
        max_messages=settings.history_max_messages,
        max_age_s=settings.history_max_age,
        sync_commits=settings.durability == "power-loss",
        clock=time.time,
        # Both the history and the retention use it. Their shorter times are those of ids and of
        # files without a message.
        ages=AgeClock(
            max(settings.history_max_age, REMEMBER_IDS_S, UNLINKED_LIFETIME_S), on_step=_log_step
        ),
    )
    if is_open_to_others(directory):
        logger.warning(
            "other users of this machine can enter %s, where the messages and files are; if they "
            "should not, run: chmod go= %s",
            directory,
            shlex.quote(str(directory)),
        )
    return history


def open_files(settings: Settings, metrics: Metrics) -> Files | None:
    """Open the files of a process with clients; None if files are off, or if nothing is kept.

    With an engine they are in PostgreSQL. On the disk, among several processes, only the relay
    creates what is missing, when it starts (`open_retention`). Raises SettingError if existing
    files cannot be used.
    """
    if settings.engine and settings.files != "off":
        from fastchat.process.assembly.engine import open_ledger_files  # as in `build_standalone`

        return open_ledger_files(settings, metrics)
    if not _keeps_files(settings):
        return None
    return FileStore(
        Path(settings.data),
        max_bytes=settings.max_file_bytes,
        max_user_bytes=settings.max_user_file_bytes,
        max_total_bytes=settings.max_files_bytes,
        sync=settings.durability == "power-loss",
        clock=time.time,
        ages=AgeClock(TICKET_S),
        metrics=metrics,
        create=settings.workers == 1,
    )


def open_retention(
    settings: Settings, metrics: Metrics, history: History, *, create: bool = True
) -> Retention | None:
    """Make the thread that deletes files without a message; None if there are no files.

    It belongs to the process with the `history`, which starts it. With `create`, the folder and
    the index of files are created if they are missing. Raises SettingError if they cannot be used.
    """
    if settings.files == "on" and not _keeps_files(settings):
        logger.warning("--files on has no effect with --history memory: nothing is kept on disk")
    if not (_keeps_files(settings) and isinstance(history, SqliteHistory)):
        return None
    retention = Retention(
        Path(settings.data),
        clock=time.time,
        ages=history.ages,
        metrics=metrics,
        create=create,
        max_total_bytes=settings.max_files_bytes,
    )
    retention.check_history = history.check_directory
    history.watch_links(retention.changes.add)
    retention.open()
    return retention


def _keeps_files(settings: Settings) -> bool:
    return settings.files != "off" and settings.has_history_file


def _log_step(seconds: float) -> None:
    logger.warning(
        "the clock of this machine was set %s by %.0f s; nothing is deleted early because of that",
        "forward" if seconds > 0 else "back",
        abs(seconds),
    )


def new_secret() -> str:
    """A new session: 128 random bits."""
    return secrets.token_urlsafe(16)
