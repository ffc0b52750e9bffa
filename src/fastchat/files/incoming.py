"""Files that arrive by binary messages.

The binary messages of a connection belong to the file that it announced last. `fastchat.chat`
checks whether its client may send a file, and a `FileWriter` writes it. This module is responsible
for the time from the first binary message to the last:

* A started file counts as a transfer, and the number of concurrent transfers is limited.
* If a file fails, the client receives one error. Bytes that it sent before the error reached it are
  dropped, up to the size that was announced.
* A file that makes no progress is given up.

A file that has not started is not given up when its connection ends, because its client can still
send it over HTTP with the ticket. It ends when its ticket expires.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastchat.errors import CommandError
from fastchat.files import File, Files, FileWriter, busy
from fastchat.files.transfers import PROGRESS_BYTES
from fastchat.limits.connections import ConnectionCount

__all__ = ["Incoming", "IncomingFiles"]

logger = logging.getLogger("fastchat.uploads")

#: A file is given up if PROGRESS_BYTES of it take longer than this. A phone that changes its
#: network reconnects sooner, and a client without any network misses its heartbeat after 35 s.
STALL_S = 60.0


class Incoming:
    """A file that `owner` announced under `ref`. `transfers` limits it by `address`.

    Its states are:

    * announced: `_has_started` is false;
    * open: `_has_started` is true and `_is_over` is false. The file counts as a transfer;
    * over: `_is_over` is true. The file is stored, or failed, or was given up. Until `_missing` is
      0, further bytes are expected, and dropped.

    `_writing` is held during each call of the writer, so that only one is in progress.
    """

    __slots__ = (
        "_address",
        "_has_started",
        "_is_over",
        "_missing",
        "_transfers",
        "_writing",
        "owner",
        "ref",
        "writer",
    )

    def __init__(
        self,
        writer: FileWriter,
        owner: Any,
        address: str,
        ref: str | None,
        transfers: ConnectionCount,
    ) -> None:
        self.writer = writer
        self.owner = owner
        self.ref = ref
        self._address = address
        self._transfers = transfers
        self._missing = writer.size
        self._has_started = self._is_over = False
        self._writing = asyncio.Lock()

    @property
    def room(self) -> str:
        """The room in which the file is shared."""
        return self.writer.room

    @property
    def is_expected(self) -> bool:
        """Whether bytes of the file are still missing. They are expected even after a failure."""
        return self._missing > 0

    @property
    def is_open(self) -> bool:
        """Whether the file has started, and is neither stored nor abandoned."""
        return self._has_started and not self._is_over

    @property
    def received(self) -> int:
        """How many bytes of the file have arrived, including dropped ones."""
        return self.writer.size - self._missing

    async def take(self, data: bytes) -> File | None:
        """Write the next bytes. After the last bytes, store and return the file.

        Raises CommandError like `FileWriter`, or if there are too many transfers. Then the file
        has failed. The method drops its further bytes without raising again, because the client
        can have sent them before it received the error.
        """
        self._missing -= len(data)
        async with self._writing:
            if self._is_over:
                return None
            try:
                self._start()
                await self.writer.write(data)
                if self._missing > 0:
                    return None
                file = await self.writer.finish()
            except Exception as error:
                if isinstance(error, CommandError):
                    error.ref = self.ref
                await self._abandon()
                raise
            self._end()
            return file

    async def give_up(self) -> None:
        """Abandon the file if it is open. Its further bytes are dropped."""
        async with self._writing:
            if self.is_open:
                await self._abandon()

    def _start(self) -> None:
        if not self._has_started:
            if self._transfers.enter(self._address) is not None:
                raise busy()
            self._has_started = True

    async def _abandon(self) -> None:
        await self.writer.abandon()  # before `_end`, because it frees the descriptor
        self._end()

    def _end(self) -> None:
        self._is_over = True
        if self._has_started:
            self._transfers.leave(self._address, "")


class IncomingFiles:
    """The files that arrive at a process by binary messages.

    `transfers` counts the open files, and refuses those that exceed its limits. `clock` returns
    monotonic seconds. A file is given up if `PROGRESS_BYTES` of it take longer than `stall_s`
    seconds.
    """

    def __init__(
        self,
        files: Files,
        transfers: ConnectionCount,
        clock: Callable[[], float] = time.monotonic,
        stall_s: float = STALL_S,
    ) -> None:
        self._files = files
        self._transfers = transfers
        self._clock = clock
        self._stall_s = stall_s
        #: For each open file that waits for bytes: when it is given up, and how many bytes must
        #: have arrived to extend that deadline.
        self._deadlines: dict[Incoming, tuple[float, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def max_file_bytes(self) -> int:
        """The size of the largest file."""
        return self._files.max_bytes

    async def announce(
        self,
        owner: Any,
        address: str,
        room: str,
        user: str,
        name: str,
        size: int,
        ref: str | None,
    ) -> Incoming:
        """Announce a file of `size` bytes.

        `ref` is that of the command. It is also the `ref` of the event about the stored file, and
        of an error. Raises CommandError like `Files.reserve`.
        """
        writer = await self._files.reserve(room, user, name, size)
        return Incoming(writer, owner, address, ref, self._transfers)

    async def take(self, incoming: Incoming, data: bytes) -> File | None:
        """Take the next bytes, like `Incoming.take`.

        The deadline of a file does not run while its bytes are being written, so a slow disk is
        not taken for a stalled client.
        """
        due_s, enough = self._deadlines.pop(incoming, (0.0, 0))
        try:
            return await incoming.take(data)
        finally:
            if incoming.is_open:
                if incoming.received >= enough:
                    due_s = self._clock() + self._stall_s
                    enough = incoming.received + PROGRESS_BYTES
                self._deadlines[incoming] = due_s, enough

    def give_up(self, incoming: Incoming) -> None:
        """Give up a file in a task, which waits for a write in progress."""
        if incoming.is_expected:
            self._run(self._give_up(incoming))

    def withdraw(self, room: str, user: str) -> None:
        """End the tickets of a user in a room, in a task. Files that have started continue."""
        self._run(self._files.withdraw(room, user))

    def sweep(self) -> list[Incoming]:
        """Give up the files that have stalled, and return them; called every second."""
        now = self._clock()
        late = [each for each, (due_s, _) in self._deadlines.items() if due_s <= now]
        for incoming in late:
            logger.info("gave up an upload that made too little progress")
            del self._deadlines[incoming]
            self.give_up(incoming)
        return late

    async def _give_up(self, incoming: Incoming) -> None:
        await incoming.give_up()
        self._deadlines.pop(incoming, None)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop has only a weak reference to it
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal error while an upload was being given up", exc_info=error)
