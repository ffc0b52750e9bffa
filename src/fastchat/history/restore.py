"""Import of rooms from another history, with their offsets, epochs, ids and users unchanged.

`exports` reads the rooms from an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import apsw

from fastchat.database import select, transaction
from fastchat.errors import SettingError
from fastchat.history.authors import name_users
from fastchat.history.directory import HistoryFile
from fastchat.history.exports import Origin
from fastchat.history.ids import Ids
from fastchat.history.rows import INSERT, OFFSET_BITS, OFFSET_MASK, disk_errors, row_of
from fastchat.history.schema import add_look
from fastchat.history.users import UserIds, set_user_key, user_key_of
from fastchat.protocol import Publication

__all__ = ["restore"]


def restore(
    directory: Path,
    publications: Iterable[Publication],
    origins: Mapping[str, Origin],
    *,
    clock: Callable[[], float],
) -> bool:
    """Store all `publications` in the history in `directory`, in one transaction.

    `origins` has the origin of each room. It is read after `publications`, so the iterator can fill
    it. Recent ids are remembered as if the messages had been published here. If `publications`
    raises, nothing is stored.

    A history without publications adopts the first `user_key` in `origins`. Returns whether some
    rooms have users of another secret than the history.

    Raises SettingError if the directory cannot be used or has publications in one of the
    rooms, and HistoryError if the disk fails.
    """
    with (
        closing(HistoryFile(directory, sync_commits=True)) as file,
        disk_errors(),
        transaction(file.db),
    ):
        return _restore(file.db, directory, publications, origins, Ids(file.db, clock, clock))


def _restore(
    db: apsw.Connection,
    directory: Path,
    publications: Iterable[Publication],
    origins: Mapping[str, Origin],
    ids: Ids,
) -> bool:
    is_new = not select(db, "SELECT 1 FROM streams WHERE head > 0 LIMIT 1")
    numbers: dict[str, int] = {}
    for each in publications:
        number = numbers.get(each.room)
        if number is None:
            number = numbers[each.room] = _begin(db, directory, each.room)
        db.execute(INSERT, row_of(number << OFFSET_BITS | each.offset, each))
    keys = [origin.user_key for origin in origins.values() if origin.user_key is not None]
    if is_new and keys:
        set_user_key(db, keys[0])
    user_key = user_key_of(db)
    with_authors: list[tuple[int, int]] = []
    for name, ((epoch, head, _), _, has_authors) in origins.items():
        if name not in numbers:
            numbers[name] = _begin(db, directory, name)
        db.execute(
            "UPDATE rooms SET epoch = ?, least_head = ? WHERE number = ?",
            (epoch, head, numbers[name]),
        )
        if has_authors:
            with_authors.append(_keys(numbers[name]))
    if with_authors:
        name_users(db, UserIds(user_key).user_of, with_authors)
    for number in numbers.values():
        ids.add_restored(number)
    ids.sort()
    return any(key != user_key for key in keys)


def _keys(number: int) -> tuple[int, int]:
    """The first and the last key that a room can have."""
    return number << OFFSET_BITS, number << OFFSET_BITS | OFFSET_MASK


def _begin(db: apsw.Connection, directory: Path, name: str) -> int:
    """Give a room its row and return its number; raise if the room has publications."""
    db.execute("INSERT OR IGNORE INTO rooms (name, epoch, least_head) VALUES (?, '', 0)", (name,))
    ((number, head),) = select(db, "SELECT number, head FROM streams WHERE name = ?", name)
    add_look(db, int(number), name)
    if head:
        raise SettingError(
            f"--data {directory} has a room “{name}” already; import into another directory."
        )
    return int(number)
