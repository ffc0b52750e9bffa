"""Follows the streams of rooms, whatever of it is heard, lost, or heard in another order.

A machine hears of commits by the notes of others. Each commit of a machine has the number after its
last one, and each beat says which number every machine has reached. If a number was not heard, the
heads of all followed rooms are looked at, and what is missing is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastchat.ledger import LedgerError
from fastchat.ledger.gathering import MANY_ROOMS, ROOMS_AT_ONCE, Gathering
from fastchat.ledger.notes import Note, machine_of, note_of
from fastchat.ledger.reading import Reader
from fastchat.ledger.streams import Loaded, Stream
from fastchat.protocol import MAX_HISTORY, Publication

__all__ = ["Following"]

logger = logging.getLogger("fastchat.ledger")

#: A gap in a stream is read after this time, if the notes for it have not come by then.
GAP_S = 0.05
#: The most publications that one statement reads.
READ_AT_ONCE = 2000


class Following:
    """The streams that a machine follows. All methods are called in the loop's thread.

    * `deliver` is called with the publications of a room, in the order of their offsets, without a
      gap, from the position on that the stream has when `follow` returns.
    * `lost` is called if that cannot go on: publications are gone that this machine has not had, or
      the room has another epoch. The stream is not followed any more then.
    * `machine` returns this machine's own number. Its own notes are ignored.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        deliver: Callable[[Stream, Sequence[Publication]], None],
        lost: Callable[[str], None],
        machine: Callable[[], int],
    ) -> None:
        self._reader = reader
        self._deliver = deliver
        self._lost = lost
        self._machine = machine
        self._loads = Gathering[str, Loaded](
            lambda rooms: reader.load(rooms, MAX_HISTORY), most=ROOMS_AT_ONCE, busy=MANY_ROOMS
        )
        self._streams: dict[str, Stream] = {}
        self._loading: dict[str, asyncio.Task[Stream]] = {}
        self._early: dict[str, list[Publication]] = {}  # offered while the room is loaded
        self._reading: set[Stream] = set()  # those of which a gap is being read
        self._gaps: set[Stream] = set()  # those whose gap is waited for
        self._must_look = False  # whether a read has failed that has to be made again
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: dict[int, int] = {}  # the last commit of each machine that was heard of
        self._reached: dict[int, int] = {}  # and that the beat before this one has said
        self.gaps_total = 0
        self.reads_total = 0

    def close(self) -> None:
        for task in (*self._tasks, *self._loading.values()):
            task.cancel()

    def get(self, room: str) -> Stream | None:
        """The stream of a room that is followed; None if it is not, or not yet."""
        return self._streams.get(room)

    async def follow(self, room: str) -> Stream:
        """Follow a room from now on. Raises LedgerError if the ledger cannot be read."""
        stream = self._streams.get(room)
        if stream is not None:
            return stream
        loading = self._loading.get(room)
        if loading is None:
            loading = asyncio.get_running_loop().create_task(self._load(room))
            self._loading[room] = loading
        return await asyncio.shield(loading)

    async def _load(self, room: str) -> Stream:
        early = self._early[room] = []
        try:
            loaded = await self._loads.get(room)
        finally:
            if self._early.get(room) is early:  # otherwise the room is not followed any more
                del self._early[room], self._loading[room]
        stream = self._streams[room] = Stream(room, loaded)
        self._offer(stream, early)
        return stream

    def unfollow(self, room: str) -> None:
        """Stop to follow a room. Those who wait in `follow` for it are cancelled."""
        self._streams.pop(room, None)
        self._early.pop(room, None)
        if (loading := self._loading.pop(room, None)) is not None:
            loading.cancel()

    def erase(self, room: str, user: str) -> None:
        """Forget what a user has said in a room, which was erased from the ledger."""
        if (stream := self._streams.get(room)) is not None:
            stream.erase(user)
        elif (loading := self._loading.get(room)) is not None:
            # It can be loaded as it was before.
            loading.add_done_callback(lambda _: self._erase_loaded(room, user))

    def _erase_loaded(self, room: str, user: str) -> None:
        if (stream := self._streams.get(room)) is not None:
            stream.erase(user)

    # What is heard

    def connected(self) -> None:
        """Begin to listen anew: what was told before is not known."""
        self._heard.clear()
        self._reached.clear()
        self._start(self._look())

    def heard(self, payload: str) -> None:
        """Take in a note of another machine; one that cannot be read is logged."""
        try:
            if machine_of(payload) == self._machine():
                return
            note = note_of(payload)
            is_followed = note.room in self._streams or note.room in self._early
            publications = note.publications if is_followed else []
        except (ValueError, TypeError, AttributeError, LookupError):
            logger.warning("a notification cannot be read: %.80r", payload)
            return
        self._on_note(note, publications)

    def _on_note(self, note: Note, publications: Sequence[Publication]) -> None:
        heard = self._heard.get(note.machine)
        if heard is None or note.commit > heard + 1:
            # The first notes after a connection was made can be lost as well.
            self._start(self._look())
        self._heard[note.machine] = max(note.commit, heard or 0)
        if note.lines:
            self.offer(note.room, publications)
        elif note.room in self._loading:
            self._start(self._look())
        elif note.size:
            self.behind(note.room, note.first + note.size - 1)

    def beaten(self, machines: Sequence[Sequence[Any]]) -> None:
        """Compare what was heard with what the machines had committed a beat before."""
        own = self._machine()
        reached = {number: last for number, _, last in machines if number != own}
        missed = [
            number for number, last in self._reached.items() if self._heard.get(number, 0) < last
        ]
        # The note of what a machine has committed can be lost before anything was heard of it.
        missed += [number for number in reached if number not in self._heard]
        for number, last in reached.items():
            self._heard.setdefault(number, last)
        for number in self._reached.keys() & missed:
            self._heard[number] = self._reached[number]
        if missed or self._must_look:
            self._start(self._look())
        self._reached = reached

    def offer(self, room: str, publications: Sequence[Publication]) -> None:
        """Take in publications of a room, if it is followed."""
        if (early := self._early.get(room)) is not None:
            early += publications
        elif (stream := self._streams.get(room)) is not None:
            self._offer(stream, publications)

    def _offer(self, stream: Stream, publications: Sequence[Publication]) -> None:
        run = stream.offer(publications)
        if run:
            self._deliver(stream, run)
        if stream.has_gap and stream not in self._reading and stream not in self._gaps:
            self.gaps_total += 1
            self._gaps.add(stream)
            self._await_gap(stream)

    def _await_gap(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(GAP_S, self._read_gap, stream, stream.head)

    def _read_gap(self, stream: Stream, head: int) -> None:
        """Read a gap that has not been closed meanwhile."""
        if stream.has_gap and stream.head != head and self._streams.get(stream.room) is stream:
            self._await_gap(stream)  # another one
            return
        self._gaps.discard(stream)
        if stream.has_gap:
            self.behind(stream.room, head + 1)

    def behind(self, room: str, head: int) -> None:
        """Read a room up to this offset at least, if it is followed and has not come so far."""
        stream = self._streams.get(room)
        if stream is not None and stream.head < head and stream not in self._reading:
            self._reading.add(stream)
            self._start(self._read(stream, head))

    async def _read(self, stream: Stream, head: int) -> None:
        room = stream.room
        try:
            while self._streams.get(room) is stream and stream.head < head:
                self.reads_total += 1
                loaded = await self._reader.missed(room, stream.head, READ_AT_ONCE)
                if self._streams.get(room) is not stream:
                    return
                found = [each for _, each in loaded.publications]
                before = stream.head
                if loaded.epoch == stream.epoch and found:
                    self._offer(stream, found)
                if stream.head == before and stream.head < head:
                    self._lose(room)
                    return
                head = max(head, loaded.head)
        finally:
            self._reading.discard(stream)

    async def _look(self) -> None:
        """Look at the heads of all followed rooms, and read what is missing."""
        self._must_look = False
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        asked = {room: stream.head for room, stream in self._streams.items()}
        heads = await self._reader.heads(list(asked))
        for room, head in asked.items():
            if heads.get(room, 0) < head:
                self._lose(room)
            else:
                self.behind(room, heads.get(room, 0))

    def _lose(self, room: str) -> None:
        if self._streams.pop(room, None) is not None:
            self._lost(room)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LedgerError as error:
            logger.info("the ledger cannot be read, and is tried again: %s", error)
            self._must_look = True
