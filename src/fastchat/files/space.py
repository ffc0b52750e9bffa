"""The space on the disk that files leave free for messages.

If the disk is full, messages cannot be stored. They cannot even be deleted, which would free the
files that they link to. So files are refused before the disk is full, and the rest of the disk is
reserved for the history.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastchat.files.refusals import disk_full
from fastchat.metrics import Metrics

__all__ = ["Disk", "Space", "reserved_for_messages", "space_of"]

logger = logging.getLogger("fastchat.files")

#: The bounds of the reserved space. The smaller one holds the history's log and its checkpoint, the
#: search index, and some 200,000 messages: a day or two of a busy server, in which its operator can
#: read the error in the log. The larger one lasts for weeks, so more would be wasted.
MIN_RESERVED_BYTES, MAX_RESERVED_BYTES = 64 << 20, 1 << 30
#: Between these bounds, 1/50 of the disk is reserved. On small disks, at most 1/4 is reserved, even
#: if that is less than the lower bound.
RESERVED_PARTS, SMALL_DISK_PARTS = 50, 4


class Space(NamedTuple):
    """The size of a disk, and the part that is free for our user, in bytes."""

    total: int
    free: int


def space_of(folder: Path) -> Space:
    """Return the space on the disk of a folder. Raises OSError."""
    found = os.statvfs(folder)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def reserved_for_messages(total: int) -> int:
    """Return how many bytes files leave free on a disk of `total` bytes."""
    wanted = min(max(MIN_RESERVED_BYTES, total // RESERVED_PARTS), MAX_RESERVED_BYTES)
    return min(wanted, total // SMALL_DISK_PARTS)


class Disk:
    """The disk of `folder`. Threads can share it.

    `measure` returns the space on the disk, and can raise OSError.
    """

    def __init__(self, folder: Path, measure: Callable[[Path], Space], metrics: Metrics) -> None:
        self._folder = folder
        self._measure = measure
        self._metrics = metrics
        self._lock = threading.Lock()
        #: The size of the smallest file that was refused, until a file of this size fits again;
        #: None while files are accepted.
        self._refused: int | None = None

    def check(self, size: int, missing: int) -> None:
        """Check that the disk has space for a file of `size` bytes.

        `missing` is the number of bytes of incoming files that have not arrived yet. Raises
        CommandError (`unavailable`, temporary) if there is too little space, or OSError if it
        cannot be measured.
        """
        total, free = self._measure(self._folder)
        reserved = reserved_for_messages(total)
        fits = free - missing - size >= reserved
        self._log_change(size, fits, free, reserved)
        if not fits:
            self._metrics.full_disk_refusals_total += 1
            raise disk_full()

    def _log_change(self, size: int, fits: bool, free: int, reserved: int) -> None:
        """Log once that files are refused, and once that files of this size are accepted again."""
        with self._lock:
            before = self._refused
            if not fits:
                self._refused = size if before is None else min(before, size)
            elif before is not None and size >= before:
                self._refused = None
            after = self._refused
        if before is None and after is not None:
            logger.error(
                "files are refused: the disk has %d MiB free, and %d MiB are reserved for messages",
                free >> 20,
                reserved >> 20,
            )
        elif before is not None and after is None:
            logger.info("the disk has space for files again")
