"""Import of rooms from another history, with their offsets, epochs and ids unchanged.

`transfer` reads the rooms from an export.
"""

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
    """Store all `publications` in the history in `directory`, in one transaction.

    `positions` has the final position of each room. It is read after `publications`, so the
    iterator can fill it. Recent ids are remembered as if the messages had been published here.
    If `publications` raises, nothing is stored.

    Raises SettingError if the directory cannot be used or has publications in one of the
    rooms, and HistoryError if the disk fails.
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
    """Give a room its row and return its number; raise if the room has publications."""
    db.execute("INSERT OR IGNORE INTO rooms (name, epoch, head) VALUES (?, '', 0)", (name,))
    ((number, head),) = select(db, "SELECT number, head FROM rooms WHERE name = ?", name)
    if head:
        raise SettingError(
            f"--data {directory} has a room “{name}” already; import into another directory."
        )
    return int(number)
