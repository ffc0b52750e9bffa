"""How long files are kept: as long as a message of their room has a link to them.

Theory
------
The process that has the history looks once a minute, in a thread, which files no message has
(any more), and deletes them: those that a message had at once, so that a file goes with its
message, and others when they are an hour old, for their sender may still be writing. A link
in another room keeps nothing. What cannot be read is kept.

A message may come and go between two looks, so the history says of each link that it came or
went (`fastchat.files.notes`). Where one went it is looked at once, and for a file that somebody
has taken out of a message it does not take a minute, nor an hour.

Rooms whose stream has not moved are passed over. It also clears away what was left behind by
processes that were killed while a file came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from fastchat.database import open_to_read, select
from fastchat.errors import FilesError, HistoryError, SettingError
from fastchat.files.contents import Contents
from fastchat.files.disk import Space, kept_for_messages, space_of
from fastchat.files.index import FOLDER, Index, Known
from fastchat.files.links import ids_in
from fastchat.files.notes import Notes, Taken
from fastchat.history.directory import FILE_NAME
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK, disk_errors
from fastchat.metrics import Metrics
from fastchat.protocol import FILES_URL

__all__ = ["Retention"]

logger = logging.getLogger("fastchat.files")

INTERVAL_S = 60.0
#: From a link that has gone to the look that follows; what goes meanwhile is one look, too.
SOON_S = 2.0
#: From a file to the message that has it; whoever writes longer sends it again.
UNLINKED_S = 3600.0
_BUSY_TIMEOUT_MS = 2000


class _Stream(NamedTuple):
    """Where a room's stream stands: what is in it depends on that alone."""

    number: int
    epoch: str
    head: int
    first: int


class Retention(threading.Thread):
    """Deletes files of `data` that nobody needs. `clock` returns seconds since 1970.

    Once, it says in the log if `max_total_bytes` are more than the disk has.
    """

    def __init__(
        self,
        data: Path,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        max_total_bytes: int = 0,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        super().__init__(name="fastchat-retention", daemon=True)
        self._data = data
        self._clock = clock
        self._metrics = metrics
        self._max_total_bytes = max_total_bytes
        self._measure = measure
        self._contents = Contents(data / FOLDER)
        self._index = Index(data / FOLDER, clock=clock)
        self._ended = threading.Event()
        #: For the history to write.
        self.notes = Notes(clock)
        self._seen: dict[str, _Stream | None] = {}
        self._is_first = True
        self._failing = False

    def run(self) -> None:
        due_s = 0.0
        while not self._ended.is_set():
            now = time.monotonic()
            if now >= due_s:
                self.sweep()
                due_s = now + INTERVAL_S
            if self.notes.wait(due_s - time.monotonic()) and not self._ended.wait(SOON_S):
                self.settle()
        self.settle()

    def stop(self) -> None:
        """End the thread, after the room that it is at. What is noted by now is kept."""
        self._ended.set()
        self.notes.wake()
        self.join()

    def sweep(self) -> None:
        """Delete what nobody needs now. A failure is logged once, and tried again."""
        with self._reported(), self._heeding():
            self._clear()
            self._sweep_rooms(self._index.rooms())

    def settle(self) -> None:
        """Heed what the history has told: delete what has lost its last message."""
        with self._reported(), self._heeding() as notes:
            ours = {room: {known.id for known in self._index.files_of(room)} for room in notes.lost}
            self._sweep_rooms([room for room, ids in notes.lost.items() if ids & ours[room]])

    @contextmanager
    def _heeding(self) -> Iterator[Taken]:
        notes = self.notes.take()
        try:
            if notes.linked:
                self._index.link_all(notes.linked)
            for room, _ in notes.linked:  # what was seen of it did not have these
                self._seen.pop(room, None)
            yield notes
        except BaseException:
            self.notes.put_back(notes)
            raise

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
            self._metrics.kept_files, self._metrics.kept_file_bytes = self._index.totals()
        except (FilesError, HistoryError, SettingError, OSError) as error:
            if not self._failing:
                logger.error("files that nobody needs stay, which is tried again: %s", error)
            self._failing = True
        except Exception:
            logger.exception("internal error in the retention of files")
        else:
            if self._failing:
                logger.info("files that nobody needs are deleted again")
            self._failing = False
        finally:
            self._index.close()  # its descriptors are not for a minute of waiting

    # What was left behind

    def _clear(self) -> None:
        self._index.expire()
        numbers = {*self._contents.coming(), *self._index.begun()}
        cleared = sum(self._contents.clear(number, self._forget) for number in numbers)
        if self._is_first:  # after a loss of power, or when an older index was restored
            cleared += sum(self._clear_stray(id) for id in self._contents.ids())
            self._is_first = False
            self._compare_with_disk()
        for room in self._seen.keys() - self._index.rooms():
            del self._seen[room]
        if cleared:
            logger.info("removed %d incomplete or unknown files", cleared)

    def _compare_with_disk(self) -> None:
        total, free = self._measure(self._data / FOLDER)
        _, kept = self._index.totals()
        room = max(0, free - kept_for_messages(total))
        if self._max_total_bytes - kept > room:
            logger.warning(
                "--max-files-bytes allows %d MiB more, and the disk has room for %d; "
                "files are refused before it is full",
                (self._max_total_bytes - kept) >> 20,
                room >> 20,
            )

    def _forget(self, number: int) -> None:
        self._index.drop(number, self._contents.remove)

    def _clear_stray(self, id: str) -> bool:
        return self._index.delete_stray(id, self._contents.remove)

    # What nobody needs

    def _sweep_rooms(self, rooms: Collection[str]) -> None:
        if not rooms:
            return
        deleted = 0
        with disk_errors():
            history = open_to_read(self._data / FILE_NAME, busy_timeout_ms=_BUSY_TIMEOUT_MS)
            try:
                for room in rooms:
                    if self._ended.is_set():
                        break
                    deleted += self._sweep_room(history, room)
            finally:
                history.close()
        if deleted:
            self._metrics.deleted_files_total += deleted
            logger.info("deleted %d files that no message has", deleted)

    def _sweep_room(self, history: apsw.Connection, room: str) -> int:
        """Returns how many files were deleted."""
        files = self._index.files_of(room)  # before the texts: what comes later is new
        stream = _stream_of(history, room)
        old = self._clock() - UNLINKED_S
        unsure = any(not known.linked and known.uploaded <= old for known in files)
        if room in self._seen and self._seen[room] == stream and not unsure:
            return 0
        linked = set() if stream is None else _linked_in(history, stream)
        deleted = sum(self._settle(known, linked, old) for known in files)
        self._seen[room] = stream
        return deleted

    def _settle(self, known: Known, linked: set[str], old: float) -> bool:
        """Says whether a file was deleted."""
        if known.id in linked:
            if not known.linked:
                self._index.link(known)
            return False
        if known.linked or known.uploaded <= old:
            return self._index.delete(known, self._contents.remove)
        return False


def _stream_of(history: apsw.Connection, room: str) -> _Stream | None:
    """None for a room in which nothing was ever published."""
    found = select(history, "SELECT number, epoch, head FROM rooms WHERE name = ?", room)
    if not found:
        return None
    number, epoch, head = found[0]
    low = number << OFFSET_BITS
    statement = "SELECT min(key) FROM publications WHERE key BETWEEN ? AND ?"
    ((oldest,),) = select(history, statement, low, low | OFFSET_MASK)
    return _Stream(number, epoch, head, head + 1 if oldest is None else oldest & OFFSET_MASK)


def _linked_in(history: apsw.Connection, stream: _Stream) -> set[str]:
    """The files that the messages of a room have, in their present state."""
    low = stream.number << OFFSET_BITS
    rows = history.execute(
        "SELECT text FROM publications WHERE key BETWEEN ? AND ? AND kind = 0 AND instr(text, ?)",
        (low, low | OFFSET_MASK, FILES_URL + "/"),
    )
    return {id for (text,) in rows for id in ids_in(text)}
