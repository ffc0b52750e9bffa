"""What the history tells of files: which a message has got, and which it has lost.

The history writes these notes in the loop, and the retention reads them in its thread: a text
without a link costs nothing, one with a link the search for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from fastchat.files.links import ids_in

__all__ = ["Notes", "Taken"]

#: Further ones are not noted while the disk hangs; what messages have is looked at once a minute.
MAX_NOTES = 10_000


class Taken(NamedTuple):
    """Notes that somebody heeds: `linked` has when a message was seen with a file, by its room
    and id; `lost` the ids by room that a message has not any more."""

    linked: dict[tuple[str, str], float]
    lost: dict[str, set[str]]


class Notes:
    """Those that nobody has heeded yet. `clock` returns seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written = threading.Event()
        self._notes = Taken({}, {})

    def write(self, room: str, before: str, after: str) -> None:
        """A message of a room had one text, and has another; either may be empty."""
        had, has = ids_in(before), ids_in(after)
        now = self._clock()
        with self._lock:
            if len(self._notes.linked) + len(self._notes.lost) > MAX_NOTES:
                return
            for id in has - had:
                self._notes.linked[room, id] = now
            if gone := had - has:
                self._notes.lost.setdefault(room, set()).update(gone)
        if has != had:
            self._written.set()

    def wait(self, timeout_s: float) -> bool:
        """Until there are some, or somebody is to look all the same. Says whether it was so."""
        return self._written.wait(max(0.0, timeout_s))

    def wake(self) -> None:
        self._written.set()

    def take(self) -> Taken:
        with self._lock:
            self._written.clear()
            taken, self._notes = self._notes, Taken({}, {})
        return taken

    def put_back(self, taken: Taken) -> None:
        """They could not be heeded; whoever looks next is to do so."""
        with self._lock:
            newer, self._notes = self._notes, taken
            taken.linked.update(newer.linked)
            for room, ids in newer.lost.items():
                taken.lost.setdefault(room, set()).update(ids)
