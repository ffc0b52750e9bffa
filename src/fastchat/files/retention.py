"""The retention of files: a file is stored as long as a message of its room links to it.

Theory
------
The retention is a thread in the process that has the history. Once a minute, it sweeps: it compares
the files of each room with the links in the room's messages.

* A file to which a message has linked, and to which no message links any more, is deleted at once.
* A file to which no message has linked yet is deleted when it is an hour old. Its sender has this
  time to write the message.
* A link in another room does not count.
* If the history or the index cannot be read, no file is deleted. The same is true if another file
  is in the place of one that the server has open.
* No file is deleted because a record is missing. A message that links to a file is known to be gone
  only if the stream in which it was (an epoch, and at least its offset) is still there. Otherwise
  the history was lost, restored or replaced, and the file is kept as an orphan
  (`fastchat.files.orphans`). So is a content that is not in the index.

A message can be sent and deleted between two sweeps. So the history reports each link that a new,
edited or deleted message adds or removes (`LinkChanges`). If a link was added, the retention marks
its file as linked. Shortly after a link was removed, it checks the files of the room, without
waiting for the next sweep. Messages that the history drops are not reported; the next sweep finds
that their links are missing.

If a room's stream has not moved since the last sweep, the room's messages are not read again.

A sweep also removes what killed processes left behind: expired announcements, and incoming files
that no process writes any more.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fastchat.errors import FilesError, HistoryError, SettingError
from fastchat.files.contents import Contents
from fastchat.files.index import FOLDER, ORPHANED, UNLINKED_LIFETIME_S, Index, Link
from fastchat.files.links import ids_in
from fastchat.files.orphans import is_orphan, linked_by, strays
from fastchat.files.space import Space, reserved_for_messages, space_of
from fastchat.history.reader import HistoryReader, Stream
from fastchat.metrics import Metrics

__all__ = ["LinkChanges", "Retention"]

logger = logging.getLogger("fastchat.files")

#: The time between two sweeps. Removed links do not wait for a sweep, so it bounds only how long
#: other files outlive their time.
SWEEP_INTERVAL_S = 60.0
#: The time between the removal of a link and the check that follows. Removals during this time are
#: covered by the same check.
CHANGE_DELAY_S = 2.0
#: The largest number of changes in memory, which is reached if the disk hangs. Further changes are
#: dropped; the next sweep compares all links anyway.
MAX_CHANGES = 10_000
#: How long a read of the history waits for a lock. It is longer than for a client that requests a
#: page, because no client waits for this thread.
_BUSY_TIMEOUT_MS = 2000


class Retention(threading.Thread):
    """Deletes the files that are not needed from the data directory `data`.

    * ``clock``: returns seconds since 1970.
    * ``ages``: returns the time from which ages are measured (`fastchat.clocks`; default: `clock`).
    * ``create``: whether `open` creates the folder and the index if they are missing.
    * ``max_total_bytes``: if the disk cannot hold so many bytes of files, the first sweep logs a
      warning.
    * ``measure``: returns the space on the disk.

    A failure of the disk or of the history is logged once, and each sweep tries again.
    """

    def __init__(
        self,
        data: Path,
        *,
        clock: Callable[[], float],
        ages: Callable[[], float] | None = None,
        metrics: Metrics,
        create: bool = True,
        max_total_bytes: int = 0,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        super().__init__(name="fastchat-retention", daemon=True)
        self._data = data
        self._ages = ages or clock
        self._metrics = metrics
        self._max_total_bytes = max_total_bytes
        self._measure = measure
        self._contents = Contents(data / FOLDER)
        self._index = Index(data / FOLDER, clock=clock, ages=ages, create=create)
        self._history = HistoryReader(data, busy_timeout_ms=_BUSY_TIMEOUT_MS)
        self._stop_requested = threading.Event()
        #: Raises HistoryError if the history in `data` is not the one that the server uses. The
        #: thread calls it (`SqliteHistory.check_directory`).
        self.check_history: Callable[[], None] = lambda: None
        #: The history adds to these (`SqliteHistory.watch_links`).
        self.changes = LinkChanges(clock)
        self._swept_streams: dict[str, Stream | None] = {}
        self._orphans: dict[str, set[str]] = {}  # by room
        self._strays: set[str] = set()  # contents that are not in the index
        self._reported = 0  # how many orphans and strays the log has reported
        self._is_first_sweep = True
        self._is_failing = False

    def open(self) -> None:
        """Open the index before the start, to find out whether it can be used.

        A failure of the disk is logged. Raises SettingError if the index cannot be used, or if this
        user has no right to write to the files.
        """
        path = self._contents.unwritable() or self._index.unwritable()
        if path is not None:
            raise SettingError(
                f"--data: this user has no right to write to {path}; give it to the user that runs "
                "the server, or switch --files off."
            )
        try:
            self._index.open()
        except FilesError as error:
            logger.error("the index of files cannot be opened: %s", error)
        finally:
            self._index.pause()

    def run(self) -> None:
        due_s = 0.0
        while not self._stop_requested.is_set():
            now = time.monotonic()
            if now >= due_s:
                self.sweep()
                due_s = now + SWEEP_INTERVAL_S
            is_changed = self.changes.wait(due_s - time.monotonic())
            if is_changed and not self._stop_requested.wait(CHANGE_DELAY_S):
                self.apply_changes()
        self.apply_changes()

    def stop(self) -> None:
        """Stop the thread after the room that it is checking, and wait for its end.

        Links that were reported before are marked in the index. Files that have lost their links
        are deleted by the first sweep after the next start.
        """
        self._stop_requested.set()
        self._index.hurry()
        self.changes.wake()
        self.join()
        self._index.close()

    def sweep(self) -> None:
        """Remove leftovers, and delete the files of all rooms that are not needed now."""
        with self._logging_failures(), self._applying_changes() as changes:
            self._remove_leftovers()
            self._sweep_rooms(self._index.rooms(), changes.lost)
            self._report_orphans()

    def apply_changes(self) -> None:
        """Apply the reported changes: delete the files that have lost their last link."""
        with self._logging_failures(), self._applying_changes() as changes:
            lost = changes.lost
            ours = {room: {record.id for record in self._index.files_of(room)} for room in lost}
            self._sweep_rooms([room for room, ids in lost.items() if ids & ours[room]], lost)

    @contextmanager
    def _applying_changes(self) -> Iterator[_Changes]:
        """Take the reported changes. If the block fails, return them for the next attempt."""
        changes = self.changes.take()
        try:
            if changes.linked:
                self._index.mark_all_linked(self._placed(changes.linked))
            for room, _ in changes.linked:  # its messages must be read again
                self._swept_streams.pop(room, None)
            yield changes
        except BaseException:
            self.changes.restore(changes)
            raise

    def _placed(
        self, linked: Mapping[tuple[str, str], tuple[float, int]]
    ) -> dict[tuple[str, str], Link]:
        """Find the streams of the messages that have added links."""
        streams = {room: self._history.stream(room) for room in {room for room, _ in linked}}
        links = {}
        for (room, id), (when, offset) in linked.items():
            stream = streams[room]
            # If the file was replaced while the server runs, it does not have the message.
            has_message = stream is not None and offset <= stream.head
            links[room, id] = Link(when, stream.epoch if stream and has_message else None, offset)
        return links

    @contextmanager
    def _logging_failures(self) -> Iterator[None]:
        """Log a failure of the block, once for several in a row, and update the metrics."""
        try:
            yield
            self._metrics.kept_files, self._metrics.kept_file_bytes = self._index.totals()
        except (FilesError, HistoryError, SettingError, OSError) as error:
            if not self._is_failing:
                logger.error(
                    "files that are not needed cannot be deleted; trying again every minute: %s",
                    error,
                )
            self._is_failing = True
        except Exception:
            logger.exception("internal error in the retention of files")
        else:
            if self._is_failing:
                logger.info("the deletion of files that no message links to works again")
            self._is_failing = False
        finally:
            self._index.pause()  # so that it has no descriptors until the next sweep
            self._history.close()

    # Leftovers

    def _remove_leftovers(self) -> None:
        self._index.expire()
        numbers = {*self._contents.incoming_numbers(), *self._index.started()}
        removed = sum(self._contents.remove_abandoned(number, self._discard) for number in numbers)
        if self._is_first_sweep or self._strays:
            self._strays = strays(self._index, self._contents)
        if self._is_first_sweep:
            self._is_first_sweep = False
            self._compare_with_disk()
        for room in self._swept_streams.keys() - self._index.rooms():
            del self._swept_streams[room]
            self._orphans.pop(room, None)
        if removed:
            logger.info("removed %d files that were incomplete", removed)

    def _report_orphans(self) -> None:
        orphans = sum(map(len, self._orphans.values()))
        kept = self._metrics.orphaned_files = orphans + len(self._strays)
        if kept > self._reported:
            logger.warning(
                "kept shared files that no message links to: %d whose messages are missing from "
                "the history, and %d that are not in the index of files. Restore what is missing "
                "from a backup, or delete the files: fastchat files --data %s --delete-orphans",
                orphans,
                len(self._strays),
                shlex.quote(str(self._data)),
            )
        self._reported = kept

    def _compare_with_disk(self) -> None:
        """Warn if the disk cannot hold all files that the settings allow."""
        total, free = self._measure(self._data / FOLDER)
        _, stored = self._index.totals()
        usable = max(0, free - reserved_for_messages(total))
        if self._max_total_bytes - stored > usable:
            logger.warning(
                "--max-files-bytes allows %d MiB more files, but the disk has space for %d MiB; "
                "uploads will be refused below the limit",
                (self._max_total_bytes - stored) >> 20,
                usable >> 20,
            )

    def _discard(self, number: int) -> None:
        self._index.discard(number, self._contents.remove)

    # Files that are not needed

    def _sweep_rooms(self, rooms: Collection[str], lost: Mapping[str, set[str]]) -> None:
        """Delete the files of some rooms that are not needed; `lost` is that of `_Changes`."""
        if not rooms:
            return
        deleted = 0
        for room in rooms:
            if self._stop_requested.is_set():
                break
            deleted += self._sweep_room(room, lost.get(room, set()))
        if deleted:
            self._metrics.deleted_files_total += deleted
            logger.info("deleted %d files that no message links to", deleted)

    def _sweep_room(self, room: str, lost: set[str]) -> int:
        """Delete the files of a room that are not needed, and return their number."""
        self.check_history()
        files = self._index.files_of(room)  # before the texts, which can link to all of these
        stream = self._history.stream(room)
        old = self._ages() - UNLINKED_LIFETIME_S
        known = self._orphans.pop(room, set())
        orphans = {each.id for each in files if each.id in known and is_orphan(each, stream, old)}
        unsure = any(
            not record.linked and record.uploaded <= old and record.id not in orphans
            for record in files
        )
        if room in self._swept_streams and self._swept_streams[room] == stream and not unsure:
            self._orphans[room] = orphans
            return 0
        linked = linked_by(self._history, room)
        self.check_history()  # what was read is not another history
        self._orphans[room] = set()
        deleted = 0
        for record in files:
            if stream is not None and record.id in linked:
                if not record.linked or record.epoch != stream.epoch:
                    self._index.mark_linked(record, stream.epoch, linked[record.id])
            elif is_orphan(record, stream, old) and record.id not in lost:
                self._orphans[room].add(record.id)
                if record.epoch not in (None, ORPHANED):
                    self._index.mark_orphan(record)
            elif record.linked or record.uploaded <= old:
                deleted += self._index.delete(record, self._contents.remove)
        self._swept_streams[room] = stream
        return deleted


class LinkChanges:
    """The changes of links that the history has reported and the retention has not applied yet.

    The history adds changes in the event loop, and the retention takes them in its thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._added = threading.Event()
        self._changes = _Changes({}, {})

    def add(self, room: str, offset: int, before: str, after: str) -> None:
        """Report that the text of the message at `offset` has changed from `before` to `after`.

        `before` is empty for a new message, and `after` is empty for a deleted one.
        """
        had, has = ids_in(before), ids_in(after)
        now = self._clock()
        with self._lock:
            if len(self._changes.linked) + len(self._changes.lost) > MAX_CHANGES:
                return
            for id in has - had:
                self._changes.linked[room, id] = now, offset
            if gone := had - has:
                self._changes.lost.setdefault(room, set()).update(gone)
        if has != had:
            self._added.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there are changes, or `wake` is called. Returns False after the timeout."""
        return self._added.wait(max(0.0, timeout_s))

    def wake(self) -> None:
        """End a `wait`, whether there are changes or not."""
        self._added.set()

    def take(self) -> _Changes:
        """Return all changes, and remove them."""
        with self._lock:
            self._added.clear()
            taken, self._changes = self._changes, _Changes({}, {})
        return taken

    def restore(self, taken: _Changes) -> None:
        """Put back changes that could not be applied. The next `take` returns them again."""
        with self._lock:
            newer, self._changes = self._changes, taken
            taken.linked.update(newer.linked)
            for room, ids in newer.lost.items():
                taken.lost.setdefault(room, set()).update(ids)


class _Changes(NamedTuple):
    """Changes of links.

    `linked` is the time of each added link, in seconds since 1970, and the offset of its message,
    by room and id. `lost` is the set of ids that a message does not link to any more, by room.
    """

    linked: dict[tuple[str, str], tuple[float, int]]
    lost: dict[str, set[str]]
