"""Orphans: files that no message seems to need, while the records about them may be incomplete.

An orphan is one of these:

* A file of the index to which a message has linked and no message links now, if the stream of that
  message is not there any more: the history was lost, restored, replaced or imported. The index
  notes that the file is an orphan, because an imported stream can reach the offset of the lost
  message again.
* A content that is not in the index (a stray): the index was lost or restored, or the machine
  crashed before the index was on the disk.

The server keeps orphans and says so, because the missing records may come back from a backup. Only
`fastchat files --delete-orphans` deletes them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastchat.errors import SettingError
from fastchat.files.contents import Contents
from fastchat.files.index import FILE_NAME, FOLDER, UNLINKED_LIFETIME_S, FileRecord, Index
from fastchat.files.links import ids_in
from fastchat.history.directory import FILE_NAME as HISTORY_NAME
from fastchat.history.reader import HistoryReader, Stream

__all__ = ["OrphanFinder", "Orphans", "is_orphan", "linked_by", "strays"]

#: How long a read of the history waits while SQLite recovers the log of a killed server.
_BUSY_TIMEOUT_MS = 2000


def is_orphan(record: FileRecord, stream: Stream | None, old: float) -> bool:
    """Whether a file to which no message links is an orphan, because its message may be missing.

    Otherwise its message was deleted, or has not been sent yet. `stream` is the present stream of
    the file's room. A file that was sent after the time `old` (seconds since 1970) can still get a
    message.
    """
    if not record.linked and (record.epoch is None or record.uploaded > old):
        return False
    if stream is None or record.offset is None:
        return True
    return record.epoch != stream.epoch or record.offset > stream.head


def linked_by(history: HistoryReader, room: str) -> dict[str, int]:
    """The ids of all files to which messages of a room link, and an offset of such a message."""
    return {id: offset for offset, text in history.texts_with_links(room) for id in ids_in(text)}


def strays(index: Index, contents: Contents) -> set[str]:
    """The ids of the contents that are not in the index."""
    found = {*contents.ids()}  # before the index is read, which has a file before its content
    return found - index.ids()


class Orphans(NamedTuple):
    """Some orphans: how many are files of the index, how many are strays, and their bytes."""

    files: int
    strays: int
    bytes: int


class OrphanFinder:
    """Finds and deletes the orphans in the data directory `data`. A server can be running on it.

    `clock` returns seconds since 1970. Raises SettingError if the directory has no index of files
    or no history. Each method raises FilesError or HistoryError if the index or the history cannot
    be read, and OSError if the disk fails.
    """

    def __init__(self, data: Path, clock: Callable[[], float] = time.time) -> None:
        if not (data / FOLDER / FILE_NAME).is_file():
            raise SettingError(
                f"--data {data} has no index of shared files: "
                f"there is no {FOLDER}/{FILE_NAME} in it."
            )
        if not (data / HISTORY_NAME).is_file():
            raise SettingError(
                f"--data {data} holds no history: there is no {HISTORY_NAME} in it, "
                "so every shared file would count as an orphan."
            )
        self._contents = Contents(data / FOLDER)
        self._clock = clock
        self._index = Index(data / FOLDER, clock=clock, create=False)
        self._history = HistoryReader(data, busy_timeout_ms=_BUSY_TIMEOUT_MS)

    def close(self) -> None:
        self._index.close()
        self._history.close()

    def totals(self) -> tuple[int, int]:
        """The number of all files of the index, and how many bytes they count in quotas."""
        return self._index.totals()

    def count(self) -> Orphans:
        """The present orphans."""
        ids = [record.id for record in self._files()]
        lost = strays(self._index, self._contents)
        return Orphans(len(ids), len(lost), sum(map(self._size, {*ids, *lost})))

    def delete(self) -> Orphans:
        """Delete all orphans, and return what was deleted.

        A file that is sent again in the meantime is kept.
        """
        files, freed = 0, 0
        for record in self._files():
            size = self._size(record.id)
            if self._index.delete(record, self._contents.remove):
                files, freed = files + 1, freed + size
        lost = 0
        for id in strays(self._index, self._contents):
            size = self._size(id)
            if self._index.delete_stray(id, self._contents.remove):
                lost, freed = lost + 1, freed + size
        return Orphans(files, lost, freed)

    def _files(self) -> Iterator[FileRecord]:
        old = self._clock() - UNLINKED_LIFETIME_S
        for room in self._index.rooms():
            records = self._index.files_of(room)
            stream = self._history.stream(room)
            linked = linked_by(self._history, room)
            yield from (
                each for each in records if each.id not in linked and is_orphan(each, stream, old)
            )

    def _size(self, id: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._contents.path_of(id).stat().st_size
        return 0
