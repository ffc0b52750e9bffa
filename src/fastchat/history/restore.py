"""Rooms of another history, put into a directory as they are (`transfer` reads them)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import apsw

from fastchat.database import select, transaction
from fastchat.errors import SettingError
from fastchat.history.directory import FILE_NAME, lock, open_database
from fastchat.history.ids import Ids
from fastchat.history.rows import INSERT, OFFSET_BITS, disk_errors, row_of
from fastchat.protocol import Position, Publication

__all__ = ["restore"]


def restore(
    directory: Path,
    publications: Iterable[Publication],
    positions: Mapping[str, Position],
    *,
    clock: Callable[[], float],
) -> None:
    """Keep what another history held; all of it, or none.

    `positions` says where each room stands in the end: it is read after `publications`, and
    may be filled meanwhile. Nothing is kept when `publications` raises. The `id` of a
    message counts as if the message had been published here. Raises SettingError when the
    directory cannot be used or one of the rooms has publications there, HistoryError when
    the disk fails.
    """
    descriptor = lock(directory)
    try:
        with (
            closing(open_database(directory / FILE_NAME, sync_commits=True)) as db,
            disk_errors(),
            transaction(db),
        ):
            _restore(db, directory, publications, positions, Ids(db, clock))
    finally:
        os.close(descriptor)


def _restore(
    db: apsw.Connection,
    directory: Path,
    publications: Iterable[Publication],
    positions: Mapping[str, Position],
    ids: Ids,
) -> None:
    numbers: dict[str, int] = {}
    for each in publications:
        number = numbers.get(each.room)
        if number is None:
            number = numbers[each.room] = _begin(db, directory, each.room)
        db.execute(INSERT, row_of(number << OFFSET_BITS | each.offset, each))
    for name, (epoch, head) in positions.items():
        if name not in numbers:
            numbers[name] = _begin(db, directory, name)
        db.execute(
            "UPDATE rooms SET epoch = ?, head = ? WHERE number = ?", (epoch, head, numbers[name])
        )
    for number in numbers.values():
        ids.add_restored(number)
    ids.sort()


def _begin(db: apsw.Connection, directory: Path, name: str) -> int:
    """The number of a room in which nothing was published yet."""
    db.execute("INSERT OR IGNORE INTO rooms (name, epoch, head) VALUES (?, '', 0)", (name,))
    ((number, head),) = select(db, "SELECT number, head FROM rooms WHERE name = ?", name)
    if head:
        raise SettingError(
            f"--data {directory} has a room “{name}” already; import into another directory."
        )
    return int(number)
