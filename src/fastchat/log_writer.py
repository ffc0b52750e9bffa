"""Writes log lines from a thread, so that nothing else waits for the reader of the log.

Standard error can be a pipe whose reader pauses (`| less`), a terminal that was paused by Ctrl+S,
or a slow disk. A write to it waits then. If the event loop waited, the whole chat would stand
still until somebody reads the log.

So a line is put into a queue, and a thread writes it. The queue has a bound: if it is full, lines
are dropped and counted. A line about their number is written at their place as soon as the
descriptor takes lines again. Lines keep their order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from fastchat.streams import write_some

__all__ = ["FLUSH_S", "LogWriter"]

#: The bytes of the lines that wait, as the size of a thousand of the longest lines. A reader that
#: pauses for a moment loses nothing: a server logs at most a few hundred lines a second.
MAX_QUEUED_BYTES = 1 << 20
#: A process that ends waits at most this long for its last lines.
FLUSH_S = 0.5


class LogWriter:
    """Writes lines to `descriptor`, in order. It raises nothing, and only `flush` waits.

    `lost` returns the line that is written in place of so many lines: those that found more than
    `max_queued_bytes` in the queue, and those that the descriptor did not take, for example because
    the disk was full or the reader of a pipe had ended.
    """

    def __init__(
        self,
        descriptor: int,
        lost: Callable[[int], bytes],
        *,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._lost = lost
        self._max_queued_bytes = max_queued_bytes
        # Its lock is reentrant: the garbage collector can run code that logs while it is held.
        self._changed = threading.Condition()
        self._queue: deque[bytes | int] = deque()  # lines, and numbers of lines that were dropped
        self._queued_bytes = 0
        self._is_idle = True  # nothing is queued or being written
        self._has_ended = False
        #: The lines that were dropped so far, for whatever reason.
        self.dropped = 0
        # The rest is the thread's own.
        self._untold = 0  # lines that were dropped and not written about yet
        self._is_torn = False  # the last line was written in part
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: bytes) -> None:
        """Queue a line, which ends with a line feed; or drop it."""
        with self._changed:
            if self._queued_bytes + len(line) <= self._max_queued_bytes:
                self._queue.append(line)
                self._queued_bytes += len(line)
            elif self._queue and isinstance(last := self._queue[-1], int):
                self._queue[-1] = last + 1
                self.dropped += 1
            else:
                self._queue.append(1)
                self.dropped += 1
            self._is_idle = False
            self._changed.notify_all()

    def flush(self, within_s: float = FLUSH_S) -> bool:
        """Wait until all lines are written, at most for `within_s`; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_idle, within_s)

    def close(self, within_s: float = FLUSH_S) -> None:
        """Flush, and end the thread when it has written what is left."""
        self.flush(within_s)
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    # In the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._is_idle = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._queue or self._has_ended)
                    if not self._queue:
                        return
                entry = self._queue.popleft()
            if isinstance(entry, int):
                self._untold += entry
                self._tell()
                continue
            if not (self._tell() and self._put(entry)):
                self._untold += 1
                with self._changed:
                    self.dropped += 1
            with self._changed:
                self._queued_bytes -= len(entry)

    def _tell(self) -> bool:
        """Write how many lines were dropped; returns whether nothing is left to tell."""
        if self._untold and self._put(self._lost(self._untold)):
            self._untold = 0
        return not self._untold

    def _put(self, line: bytes) -> bool:
        """Write a line, after a line feed if the last one was cut off; returns success."""
        if self._is_torn:
            line = b"\n" + line
        written = 0
        try:
            while written < len(line):
                written += write_some(self._descriptor, line[written:])
        except OSError:  # no space, no reader, no such file: the next line can succeed
            if written:
                self._is_torn = line[written - 1] != ord("\n")
            return False
        self._is_torn = False
        return True
