"""How far each webhook has got in each room: a small SQLite file, and what is about to be written.

The receiver's answer comes before the cursor is written. So after a crash the last publications,
which were delivered within `SAVE_INTERVAL_S`, are delivered again, and none is left out.

All use of the file is in one thread, so the loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import apsw

from fastchat.database import Schema, open_to_write, select, transaction
from fastchat.protocol import Position

__all__ = ["FILE_NAME", "Cursor", "Cursors"]

logger = logging.getLogger("fastchat.webhooks")

FILE_NAME = "webhooks.db"
SAVE_INTERVAL_S = 0.1
#: The time until another attempt if the file cannot be written.
RETRY_S = 1.0
#: Cursors that are kept in memory, beside those that are not written yet.
MAX_RECENT = 4096
#: Names in one statement; SQLite takes 32,766 parameters.
_NAMES_AT_ONCE = 500

_TABLES = """
CREATE TABLE webhooks (
    name TEXT PRIMARY KEY,
    rooms TEXT NOT NULL -- the pattern for which the cursors were begun
) WITHOUT ROWID;
CREATE TABLE cursors (
    webhook TEXT NOT NULL,
    room TEXT NOT NULL,
    epoch TEXT NOT NULL,
    offset INTEGER NOT NULL,
    timestamp TEXT,
    failing_since REAL, -- seconds since 1970; NULL if the last delivery has succeeded
    PRIMARY KEY (webhook, room)
) WITHOUT ROWID;
"""
_SCHEMA = Schema(
    application_id=0x66634877,  # "fcHw"
    name="a file of fastchat's webhooks",
    migrations=(_TABLES,),
    way_out="move it away, and the webhooks begin with what is published from then on.",
)

Result = TypeVar("Result")


class Cursor(NamedTuple):
    """The last publication of a room that a webhook was told of.

    `failing_since` is when the delivery of the next one failed first, in seconds since 1970; None
    if it did not.
    """

    position: Position
    failing_since: float | None = None


class Cursors:
    """The cursors in a file; in memory if it is None.

    `load` and `begin` raise apsw.Error if the file cannot be read or written; a write of `note` is
    repeated until it succeeds. The constructor raises SettingError if the file cannot be used.
    """

    def __init__(self, file: Path | None, *, sync_commits: bool = False) -> None:
        if file is None:
            self._db = apsw.Connection(":memory:")
            self._db.execute(_TABLES)
        else:
            self._db = open_to_write(file, _SCHEMA, busy_timeout_ms=1000, sync_commits=sync_commits)
        self._thread = ThreadPoolExecutor(1, "webhooks")
        self._unsaved: dict[tuple[str, str], Cursor] = {}
        self._recent: dict[tuple[str, str], Cursor] = {}
        self._saving: asyncio.Task[None] | None = None
        self._is_failing = False

    async def is_begun(self, webhook: str, rooms: str) -> bool:
        """Whether `begin` was called for a webhook and a pattern of rooms."""
        found = await self._run(
            lambda: select(
                self._db, "SELECT 1 FROM webhooks WHERE name = ? AND rooms = ?", webhook, rooms
            )
        )
        return bool(found)

    async def begin(self, webhook: str, rooms: str, positions: Mapping[str, Position]) -> None:
        """Let a webhook begin at positions in rooms where it has no cursor, all or none."""

        def write() -> None:
            with transaction(self._db):
                self._db.execute("REPLACE INTO webhooks VALUES (?, ?)", (webhook, rooms))
                self._db.executemany(
                    "INSERT OR IGNORE INTO cursors VALUES (?, ?, ?, ?, ?, NULL)",
                    ((webhook, room, *position) for room, position in positions.items()),
                )

        await self._run(write)

    async def load(self, webhook: str, rooms: Sequence[str]) -> dict[str, Cursor]:
        """The cursors of a webhook in rooms; a room without one is left out."""
        found, missing = {}, []
        for room in rooms:
            key = webhook, room
            cursor = self._unsaved.get(key) or self._recent.get(key)
            if cursor is None:
                missing.append(room)
            else:
                found[room] = cursor

        def read() -> None:
            for start in range(0, len(missing), _NAMES_AT_ONCE):
                names = missing[start : start + _NAMES_AT_ONCE]
                marks = ", ".join("?" * len(names))
                for room, epoch, offset, timestamp, failing_since in select(
                    self._db,
                    "SELECT room, epoch, offset, timestamp, failing_since FROM cursors "  # noqa: S608
                    f"WHERE webhook = ? AND room IN ({marks})",
                    webhook,
                    *names,
                ):
                    found[room] = Cursor(Position(epoch, offset, timestamp), failing_since)

        if missing:
            await self._run(read)
        return found

    def note(self, webhook: str, room: str, cursor: Cursor) -> None:
        """Remember a cursor, and write it soon."""
        self._unsaved[webhook, room] = cursor
        if self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save_soon())

    async def close(self) -> None:
        """Write what is not written yet, and close the file."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait((self._saving,))
        try:
            await self._save()
        except apsw.Error as error:
            logger.error("the last cursors of webhooks could not be written: %s", error)
        await self._run(self._db.close)
        self._thread.shutdown()

    async def _save_soon(self) -> None:
        interval_s = SAVE_INTERVAL_S
        while self._unsaved:
            await asyncio.sleep(interval_s)
            interval_s = SAVE_INTERVAL_S
            try:
                await self._save()
            except apsw.Error as error:
                interval_s = RETRY_S
                if not self._is_failing:
                    logger.error("the cursors of webhooks cannot be written: %s", error)
                self._is_failing = True
            else:
                if self._is_failing:
                    logger.info("the cursors of webhooks can be written again")
                self._is_failing = False
        self._saving = None

    async def _save(self) -> None:
        saved = dict(self._unsaved)
        if not saved:
            return

        def write() -> None:
            with transaction(self._db):
                self._db.executemany(
                    "REPLACE INTO cursors VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (*key, *cursor.position, cursor.failing_since)
                        for key, cursor in saved.items()
                    ),
                )

        await self._run(write)
        for key, cursor in saved.items():
            if self._unsaved.get(key) is cursor:
                del self._unsaved[key]
            self._recent.pop(key, None)
            self._recent[key] = cursor
        while len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]

    async def _run(self, function: Callable[[], Result]) -> Result:
        # Shielded: a write that was given up half-way would still happen.
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._thread, function)
        )
