"""Files that come by binary messages: of each connection the one that it has announced last.

`fastchat.chat` decides who may send one, `fastchat.files` keeps it. Here is what lies between
the first of its messages and the last: whether there is a place for it, how much is missing,
what still comes of one that has failed, and when it is given up. One that has not begun may
come by HTTP instead, with its ticket, and for that the connection is not needed: so it ends
when its ticket does.
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

#: An upload is given up if PROGRESS_BYTES of it take longer than this. A phone that changes its
#: network comes back sooner, and a client without any network misses its heartbeat after 35 s.
STALL_S = 60.0


class Incoming:
    """A file that `owner` has announced under `ref`, as far as it has come.

    From its first bytes on it has one of `transfers`, which counts by `address`.
    """

    __slots__ = (
        "_address",
        "_has_begun",
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
        self._has_begun = self._is_over = False
        self._writing = asyncio.Lock()

    @property
    def room(self) -> str:
        """The room in which the file is shared."""
        return self.writer.room

    @property
    def is_expected(self) -> bool:
        """Whether more of it is to come, also if that is dropped."""
        return self._missing > 0

    @property
    def is_open(self) -> bool:
        return self._has_begun and not self._is_over

    @property
    def received(self) -> int:
        """How many bytes have come of it."""
        return self.writer.size - self._missing

    async def take(self, data: bytes) -> File | None:
        """Keep the next bytes; returns the file with the last of them.

        Raises CommandError when it cannot be kept: once, for who sends does not wait to hear
        of it. What comes then is dropped, up to the size that was announced.
        """
        self._missing -= len(data)
        async with self._writing:
            if self._is_over:
                return None
            try:
                self._begin()
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
        """Free what is kept of it, if it has begun and is not complete."""
        async with self._writing:
            if self.is_open:
                await self._abandon()

    def _begin(self) -> None:
        if not self._has_begun:
            if self._transfers.enter(self._address) is not None:
                raise busy()
            self._has_begun = True

    async def _abandon(self) -> None:
        await self.writer.abandon()  # its place is free when its descriptor is
        self._end()

    def _end(self) -> None:
        self._is_over = True
        if self._has_begun:
            self._transfers.leave(self._address, "")


class IncomingFiles:
    """All that come to a process, no more at once than `transfers` has.

    `clock` returns monotonic seconds. An upload is given up if `PROGRESS_BYTES` of it take
    longer than `stall_s`.
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
        #: Of those that wait for more: when they are given up, unless so much has come by then.
        self._deadlines: dict[Incoming, tuple[float, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def max_file_bytes(self) -> int:
        return self._files.max_bytes

    async def announce(
        self,
        owner: Any,
        address: str,
        room: str,
        author: str,
        name: str,
        size: int,
        ref: str | None,
    ) -> Incoming:
        """Raises CommandError where there is no room for it."""
        writer = await self._files.reserve(room, author, name, size)
        return Incoming(writer, owner, address, ref, self._transfers)

    async def take(self, incoming: Incoming, data: bytes) -> File | None:
        """As `Incoming.take`; while the disk has it, nobody's time passes."""
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
        """In a moment: what is being written is waited for."""
        if incoming.is_expected:
            self._begin(self._give_up(incoming))

    def withdraw(self, room: str, author: str) -> None:
        """In a moment: what somebody has announced in a room, and not begun, is good no more."""
        self._begin(self._files.withdraw(room, author))

    def sweep(self) -> list[Incoming]:
        """Give up those of which nothing comes any more, and return them; once a second."""
        now = self._clock()
        late = [each for each, (due_s, _) in self._deadlines.items() if due_s <= now]
        for incoming in late:
            logger.info("gave up a file: it came too slowly")
            del self._deadlines[incoming]
            self.give_up(incoming)
        return late

    async def _give_up(self, incoming: Incoming) -> None:
        await incoming.give_up()
        self._deadlines.pop(incoming, None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop holds it by a weak reference
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal error while an upload was given up", exc_info=error)
