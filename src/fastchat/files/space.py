"""How much of the disk files may take: messages come first.

A disk that is full has no place for messages, nor for the deletion of one, which is what would
free a file. So files end before the disk does, and what is left is for the history.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastchat.errors import CommandError, ErrorCode
from fastchat.metrics import Metrics

__all__ = ["Disk", "Space", "reserved_for_messages", "space_of"]

logger = logging.getLogger("fastchat.files")

#: The history's log and its checkpoint, the search index and some 200,000 messages: a day or two of
#: a busy server, until somebody has read what the log says. A gigabyte is weeks, and more is waste.
MIN_RESERVED_BYTES, MAX_RESERVED_BYTES = 64 << 20, 1 << 30
#: Between the two, one of so many parts; and never more than one of so few, for small disks.
RESERVED_PARTS, SMALL_DISK_PARTS = 50, 4


class Space(NamedTuple):
    """Of a disk, in bytes: what there is, and what is free for us."""

    total: int
    free: int


def space_of(folder: Path) -> Space:
    """Raises OSError."""
    found = os.statvfs(folder)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def reserved_for_messages(total: int) -> int:
    """What files leave free on a disk of `total` bytes."""
    wanted = min(max(MIN_RESERVED_BYTES, total // RESERVED_PARTS), MAX_RESERVED_BYTES)
    return min(wanted, total // SMALL_DISK_PARTS)


class Disk:
    """The disk of `folder`; threads may share it. `measure` may raise OSError."""

    def __init__(self, folder: Path, measure: Callable[[Path], Space], metrics: Metrics) -> None:
        self._folder = folder
        self._measure = measure
        self._metrics = metrics
        self._lock = threading.Lock()
        self._refused: int | None = None  # the least that was too much

    def check(self, size: int, coming: int) -> None:
        """Whether `size` bytes more may come besides the `coming` of others.

        Raises CommandError; and OSError where that cannot be known.
        """
        total, free = self._measure(self._folder)
        kept = reserved_for_messages(total)
        fits = free - coming - size >= kept
        self._tell(size, fits, free, kept)
        if not fits:
            self._metrics.full_disk_refusals_total += 1
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                "The server's disk has no room for this file at the moment; try again later.",
                temporary=True,
            )

    def _tell(self, size: int, fits: bool, free: int, kept: int) -> None:
        """Once that files are refused, and once that such are taken again."""
        with self._lock:
            before = self._refused
            if not fits:
                self._refused = size if before is None else min(before, size)
            elif before is not None and size >= before:
                self._refused = None
            after = self._refused
        if before is None and after is not None:
            logger.error(
                "files are refused, for the disk has %d MiB free, of which %d are for messages",
                free >> 20,
                kept >> 20,
            )
        elif before is not None and after is None:
            logger.info("the disk has room for files again")
