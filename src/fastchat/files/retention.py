"""How long files are kept: as long as a message of their room has a link to them.

Theory
------
The process that has the history looks once a minute, in a thread, which files no message has
(any more), and deletes them: those that a message had at once, so that a file goes with its
message, and others when they are an hour old, for their sender may still be writing. A link
in another room keeps nothing. What cannot be read is kept.

A message may come and go between two looks, so the history says of each link that it came or
went (`LinkChanges`). Where one went it is looked at once, and for a file that somebody
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

from fastchat.errors import FilesError, HistoryError, SettingError
from fastchat.files.contents import Contents
from fastchat.files.index import FOLDER, FileRecord, Index
from fastchat.files.links import ids_in
from fastchat.files.space import Space, reserved_for_messages, space_of
from fastchat.history.reader import HistoryReader, Stream
from fastchat.metrics import Metrics

__all__ = ["LinkChanges", "Retention"]

logger = logging.getLogger("fastchat.files")

SWEEP_INTERVAL_S = 60.0
#: From a link that has gone to the look that follows; what goes meanwhile is one look, too.
CHANGE_DELAY_S = 2.0
#: From a file to the message that has it; whoever writes longer sends it again.
UNLINKED_LIFETIME_S = 3600.0
#: Further changes are not noted while the disk hangs; a sweep looks at all messages anyway.
MAX_CHANGES = 10_000
#: Of the history's file; this thread has more time than a client that asks for a page.
_BUSY_TIMEOUT_MS = 2000


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
        self._history = HistoryReader(data, busy_timeout_ms=_BUSY_TIMEOUT_MS)
        self._stop_requested = threading.Event()
        #: The history adds to these (`SqliteHistory.watch_links`).
        self.changes = LinkChanges(clock)
        self._swept_streams: dict[str, Stream | None] = {}
        self._is_first_sweep = True
        self._is_failing = False

    def run(self) -> None:
        due_s = 0.0
        while not self._stop_requested.is_set():
            now = time.monotonic()
            if now >= due_s:
                self.sweep()
                due_s = now + SWEEP_INTERVAL_S
            if self.changes.wait(due_s - time.monotonic()) and not self._stop_requested.wait(
                CHANGE_DELAY_S
            ):
                self.apply_changes()
        self.apply_changes()

    def stop(self) -> None:
        """End the thread, after the room that it is at; changes told by now are heeded."""
        self._stop_requested.set()
        self.changes.wake()
        self.join()

    def sweep(self) -> None:
        """Delete what nobody needs now. A failure is logged once, and tried again."""
        with self._logging_failures(), self._applying_changes():
            self._remove_leftovers()
            self._sweep_rooms(self._index.rooms())

    def apply_changes(self) -> None:
        """Heed what the history has told: delete what has lost its last message."""
        with self._logging_failures(), self._applying_changes() as changes:
            lost = changes.lost
            ours = {room: {record.id for record in self._index.files_of(room)} for room in lost}
            self._sweep_rooms([room for room, ids in lost.items() if ids & ours[room]])

    @contextmanager
    def _applying_changes(self) -> Iterator[_Changes]:
        changes = self.changes.take()
        try:
            if changes.linked:
                self._index.mark_all_linked(changes.linked)
            for room, _ in changes.linked:  # what was seen of it did not have these
                self._swept_streams.pop(room, None)
            yield changes
        except BaseException:
            self.changes.restore(changes)
            raise

    @contextmanager
    def _logging_failures(self) -> Iterator[None]:
        try:
            yield
            self._metrics.kept_files, self._metrics.kept_file_bytes = self._index.totals()
        except (FilesError, HistoryError, SettingError, OSError) as error:
            if not self._is_failing:
                logger.error("files that nobody needs stay, which is tried again: %s", error)
            self._is_failing = True
        except Exception:
            logger.exception("internal error in the retention of files")
        else:
            if self._is_failing:
                logger.info("files that nobody needs are deleted again")
            self._is_failing = False
        finally:
            self._index.close()  # its descriptors are not for a minute of waiting

    # What was left behind

    def _remove_leftovers(self) -> None:
        self._index.expire()
        numbers = {*self._contents.incoming_numbers(), *self._index.started()}
        cleared = sum(self._contents.remove_abandoned(number, self._discard) for number in numbers)
        if self._is_first_sweep:  # after a loss of power, or when an older index was restored
            cleared += sum(self._delete_stray(id) for id in self._contents.ids())
            self._is_first_sweep = False
            self._compare_with_disk()
        for room in self._swept_streams.keys() - self._index.rooms():
            del self._swept_streams[room]
        if cleared:
            logger.info("removed %d incomplete or unknown files", cleared)

    def _compare_with_disk(self) -> None:
        total, free = self._measure(self._data / FOLDER)
        _, kept = self._index.totals()
        room = max(0, free - reserved_for_messages(total))
        if self._max_total_bytes - kept > room:
            logger.warning(
                "--max-files-bytes allows %d MiB more, and the disk has room for %d; "
                "files are refused before it is full",
                (self._max_total_bytes - kept) >> 20,
                room >> 20,
            )

    def _discard(self, number: int) -> None:
        self._index.discard(number, self._contents.remove)

    def _delete_stray(self, id: str) -> bool:
        return self._index.delete_stray(id, self._contents.remove)

    # What nobody needs

    def _sweep_rooms(self, rooms: Collection[str]) -> None:
        if not rooms:
            return
        deleted = 0
        try:
            for room in rooms:
                if self._stop_requested.is_set():
                    break
                deleted += self._sweep_room(room)
        finally:
            self._history.close()  # its descriptors are not for a minute of waiting
        if deleted:
            self._metrics.deleted_files_total += deleted
            logger.info("deleted %d files that no message has", deleted)

    def _sweep_room(self, room: str) -> int:
        """Returns how many files were deleted."""
        files = self._index.files_of(room)  # before the texts: what comes later is new
        stream = self._history.stream(room)
        old = self._clock() - UNLINKED_LIFETIME_S
        unsure = any(not record.linked and record.uploaded <= old for record in files)
        if room in self._swept_streams and self._swept_streams[room] == stream and not unsure:
            return 0
        texts = self._history.texts_with_links(room)
        linked = {id for text in texts for id in ids_in(text)}
        deleted = sum(self._delete_if_unneeded(record, linked, old) for record in files)
        self._swept_streams[room] = stream
        return deleted

    def _delete_if_unneeded(self, record: FileRecord, linked: set[str], old: float) -> bool:
        """Says whether a file was deleted."""
        if record.id in linked:
            if not record.linked:
                self._index.mark_linked(record)
            return False
        if record.linked or record.uploaded <= old:
            return self._index.delete(record, self._contents.remove)
        return False


class LinkChanges:
    """The changes of links that the history has told of and that no sweep has heeded yet.

    The history adds them in the loop, and the retention takes them in its thread. A text
    without a link costs nothing, one with a link the search for it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._added = threading.Event()
        self._changes = _Changes({}, {})

    def add(self, room: str, before: str, after: str) -> None:
        """A message of a room had one text, and has another; either may be empty."""
        had, has = ids_in(before), ids_in(after)
        now = self._clock()
        with self._lock:
            if len(self._changes.linked) + len(self._changes.lost) > MAX_CHANGES:
                return
            for id in has - had:
                self._changes.linked[room, id] = now
            if gone := had - has:
                self._changes.lost.setdefault(room, set()).update(gone)
        if has != had:
            self._added.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there are some, or `wake` is called; says whether that was so."""
        return self._added.wait(max(0.0, timeout_s))

    def wake(self) -> None:
        """End a `wait`, whether there are changes or not."""
        self._added.set()

    def take(self) -> _Changes:
        with self._lock:
            self._added.clear()
            taken, self._changes = self._changes, _Changes({}, {})
        return taken

    def restore(self, taken: _Changes) -> None:
        """Return changes that could not be heeded; the next sweep takes them again."""
        with self._lock:
            newer, self._changes = self._changes, taken
            taken.linked.update(newer.linked)
            for room, ids in newer.lost.items():
                taken.lost.setdefault(room, set()).update(ids)


class _Changes(NamedTuple):
    """`linked` has when a message was seen with a file, by its room and id; `lost` has, by
    room, the ids that a message does not have any more."""

    linked: dict[tuple[str, str], float]
    lost: dict[str, set[str]]
