"""Writes log lines from a thread, so that nothing else waits for the reader of the log.

Standard error can be a pipe whose reader pauses (`| less`), a terminal that was paused by Ctrl+S,
or a slow disk. A write then waits. If the event loop waited, the whole chat would stand still until
somebody reads the log.

So a line is put into a queue, and a thread writes it. The queue has a bound: if it is full, lines
are dropped and counted. As soon as the descriptor takes lines again, a line that says how many were
dropped is written in their place. Lines keep their order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from fastchat.streams import write_some

__all__ = ["FLUSH_S", "LogWriter"]

#: The most bytes of lines that wait: a thousand of the longest lines. A reader that pauses for a
#: moment loses nothing, because a server logs at most a few hundred lines a second.
MAX_QUEUED_BYTES = 1 << 20
#: A process that ends waits at most this long for its last lines.
FLUSH_S = 0.5


class LogWriter:
    """Writes lines to `descriptor`, in order. It raises nothing, and only `flush` waits.

    `lost` returns the line that is written in place of the given number of dropped lines. A line is
    dropped if the queue would have more than `max_queued_bytes` with it, or if the descriptor does
    not take it, for example because the disk is full or the reader of a pipe has ended.
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
        #: The number of lines that were dropped, for either reason.
        self.dropped = 0
        # The rest is the thread's own.
        self._unreported = 0  # dropped lines that no written line mentions yet
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
                self._unreported += entry
                self._report()
                continue
            if not (self._report() and self._put(entry)):
                self._unreported += 1
                with self._changed:
                    self.dropped += 1
            with self._changed:
                self._queued_bytes -= len(entry)

    def _report(self) -> bool:
        """Write how many lines were dropped; returns whether none is unreported."""
        if self._unreported and self._put(self._lost(self._unreported)):
            self._unreported = 0
        return not self._unreported

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
