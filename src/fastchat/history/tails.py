"""The rooms of a SQLite history in memory: their positions and their newest publications."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from sys import getsizeof

import apsw

from fastchat.history.changes import put
from fastchat.history.epochs import epoch_of
from fastchat.history.rows import OFFSET_BITS, disk_errors, stored
from fastchat.protocol import MAX_HISTORY, MAX_REPLY_BYTES, Message, Publication

__all__ = ["KnownRooms", "Room", "Tail"]

#: The memory of a publication beside its text: a tuple and its other strings (measured).
PUBLICATION_BYTES = 512
#: The memory of a user's reaction: two strings and their container (measured).
REACTION_BYTES = 256
#: The memory of all tails: enough for some forty rooms with short messages, or fifteen with long
#: ones.
MAX_TAIL_BYTES = 16 * 1024 * 1024
#: Rooms that one call examines to forget some, if too many are known. It is more than one, so
#: that the number of rooms falls although some of them have to stay.
_FORGET_STEP = 8


class Room:
    """The extent of a room's stream.

    `number` is the room's number in the file, and None until something is published. `first`
    is the oldest stored offset, `head` the newest; if nothing is stored, `first` is `head` + 1.
    `timestamp` is that of the publication at `head`; None if that is not stored.

    `fresh` has the publications that the present transaction has numbered, and not yet written to
    the file and to the tail; it is empty between transactions.
    """

    __slots__ = ("epoch", "first", "fresh", "head", "name", "number", "timestamp")

    def __init__(self, name: str, number: int | None, epoch: str, first: int, head: int) -> None:
        self.name = name
        self.number = number
        self.epoch = epoch
        self.first = first
        self.head = head
        self.timestamp: str | None = None
        self.fresh: list[Publication] = []

    def key(self, offset: int) -> int:
        """The key of a publication in the file; the room must have a number."""
        assert self.number is not None
        return self.number << OFFSET_BITS | offset


class Tail:
    """The newest publications of a room up to its head, without a gap.

    There are at least as many as fit into a reply: `MAX_HISTORY` of them, or `MAX_REPLY_BYTES`
    of text. There are at most twice as many, so that not every `extend` has to trim.

    `memory_bytes` is about what the tail takes in memory.
    """

    __slots__ = ("_chars", "memory_bytes", "publications")

    def __init__(self, publications: list[Publication]) -> None:
        self.publications = publications
        self._trim()

    def extend(self, fresh: Sequence[Publication]) -> None:
        """Add publications that were just made, so that nobody has reacted to them."""
        self.publications += fresh
        texts = [publication.text for publication in fresh]
        self._chars += sum(map(len, texts))
        self.memory_bytes += PUBLICATION_BYTES * len(texts) + sum(map(getsizeof, texts))
        if len(self.publications) > 2 * MAX_HISTORY or self._chars > 2 * MAX_REPLY_BYTES:
            self._trim()

    def replace(self, message: Message) -> None:
        """Replace a message by its new state, if the tail has it."""
        index = self.find(message.offset)
        if index is not None:
            for before, after in put(self.publications, index, message):
                self._count(before, -1)
                self._count(after, 1)

    def drop_before(self, offset: int) -> None:
        """Drop the publications before this offset."""
        index = self.find(offset)
        if index:
            for publication in self.publications[:index]:
                self._count(publication, -1)
            del self.publications[:index]

    def _trim(self) -> None:
        del self.publications[:-MAX_HISTORY]
        texts = [publication.text for publication in self.publications]
        self._chars = sum(map(len, texts))
        if self._chars >= MAX_REPLY_BYTES:
            chars = kept = 0
            while chars < MAX_REPLY_BYTES:
                kept += 1
                chars += len(texts[-kept])
            del self.publications[:-kept], texts[:-kept]
            self._chars = chars
        reactions = sum(map(_reaction_count, self.publications))
        self.memory_bytes = (
            PUBLICATION_BYTES * len(texts) + sum(map(getsizeof, texts)) + REACTION_BYTES * reactions
        )

    def _count(self, publication: Publication, sign: int) -> None:
        self._chars += sign * len(publication.text)
        self.memory_bytes += sign * _memory_bytes(publication)

    def find(self, offset: int) -> int | None:
        """The index of a publication; None if the tail does not have it."""
        if not self.publications:
            return None
        index = offset - self.publications[0].offset
        return index if 0 <= index < len(self.publications) else None


def _whole(publications: list[Publication], head: int) -> list[Publication]:
    """The last of some publications, up to `head`, without a gap.

    A gap is there only if another program has deleted rows, or has written an older copy over the
    file.
    """
    first = next_offset = head + 1
    for publication in reversed(publications):
        next_offset -= 1
        if publication.offset != next_offset:
            break
        first = next_offset
    return publications[len(publications) - (head + 1 - first) :]


def _memory_bytes(publication: Publication) -> int:
    """About what a publication takes in memory; an emoji makes each character take four bytes."""
    reactions = _reaction_count(publication)
    return PUBLICATION_BYTES + getsizeof(publication.text) + REACTION_BYTES * reactions


def _reaction_count(publication: Publication) -> int:
    reactions = publication.reactions if isinstance(publication, Message) else None
    return sum(map(len, reactions.values())) if reactions else 0


class KnownRooms:
    """The rooms whose positions are in memory, and the tails of those in use.

    A room is read from the file when it is first asked for. If there are more than `max_rooms`
    rooms or `max_tails` tails, or the tails take more than `max_tail_bytes`, the least recently
    used ones are forgotten. Reading a tail is a use; adding a publication to it is not. A room
    without publications is neither in the file nor here, so that strangers who name rooms fill no
    memory; its epoch comes from the file's `generation`.
    """

    def __init__(
        self,
        db: apsw.Connection,
        generation: bytes,
        *,
        max_rooms: int = 10_000,
        max_tails: int = 256,
        max_tail_bytes: int = MAX_TAIL_BYTES,
    ) -> None:
        self._db = db
        self._generation = generation
        self._max_rooms = max_rooms
        self._max_tails = max_tails
        self._max_tail_bytes = max_tail_bytes
        self._rooms: OrderedDict[str, Room] = OrderedDict()  # least recently used first
        self._tails: OrderedDict[str, Tail] = OrderedDict()
        self._tail_bytes = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, name: str) -> Room:
        """The room of this name; if the file does not have it, nothing was published in it."""
        room = self._rooms.get(name)
        if room is None:
            room = self._load(name)
            if room.number is None:
                return room
            self._rooms[name] = room
        else:
            self._rooms.move_to_end(name)
        # During a transaction a room can be ahead of the file, and would be read back wrongly.
        if len(self._rooms) > self._max_rooms and not self._db.in_transaction:
            self._forget_oldest(but=name)
        return room

    def add(self, room: Room) -> None:
        """Keep a room that got its number in this transaction."""
        self._rooms[room.name] = room

    def tail(self, room: Room) -> Tail:
        """A room's newest publications; they are read from the file if they are not in memory."""
        if room.number is None:
            return Tail([])
        tail = self._tails.get(room.name)
        if tail is None:
            low = max(room.first, room.head - MAX_HISTORY + 1)
            tail = self._tails[room.name] = Tail(_whole(self.read(room, low), room.head))
            self._tail_bytes += tail.memory_bytes
            self._forget_tails()
        else:
            self._tails.move_to_end(room.name)
        return tail

    def warm_tail(self, room: Room) -> Tail | None:
        """A room's newest publications if they are in memory, otherwise None."""
        return self._tails.get(room.name)

    def extend(self, room: Room, fresh: Sequence[Publication]) -> None:
        """Add a room's newest publications to its tail, if the tail is in memory."""
        tail = self._tails.get(room.name)
        if tail is not None:
            self._tail_bytes -= tail.memory_bytes
            tail.extend(fresh)
            self._tail_bytes += tail.memory_bytes
            self._forget_tails()

    def replace(self, room: Room, message: Message) -> None:
        """Replace a message by its new state, if it is in memory."""
        tail = self._tails.get(room.name)
        if tail is not None:
            self._tail_bytes -= tail.memory_bytes
            tail.replace(message)
            self._tail_bytes += tail.memory_bytes
            self._forget_tails()

    def drop_before(self, room: Room, offset: int) -> None:
        """Drop a room's publications before this offset from memory."""
        tail = self._tails.get(room.name)
        if tail is not None:
            self._tail_bytes -= tail.memory_bytes
            tail.drop_before(offset)
            self._tail_bytes += tail.memory_bytes

    def write_head(self, room: Room) -> None:
        """Write a room's head to the file, within a transaction."""
        self._db.execute(
            "UPDATE rooms SET least_head = ? WHERE number = ?", (room.head, room.number)
        )

    def read(self, room: Room, low: int, high: int | None = None) -> list[Publication]:
        """All publications of a room from offset `low` to `high`, or to its head, in the file."""
        if room.number is None:
            return []
        high = room.head if high is None else high
        with disk_errors():
            return list(stored(self._db, room.name, room.number, low, high))

    def read_again(self, name: str) -> None:
        """Forget a room's state because it differs from the file; `get` reads it again."""
        self._forget_tail(name)
        self._rooms.pop(name, None)

    def _load(self, name: str) -> Room:
        """Read a room's position from the file, or start a new room."""
        with disk_errors():
            row = self._db.execute(
                "SELECT number, epoch, head FROM streams WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return Room(name, None, epoch_of(self._generation, name), first=1, head=0)
            number, epoch, head = row
            room = Room(name, number, epoch, first=head + 1, head=head)
            ((oldest,),) = self._db.execute(
                "SELECT min(key) FROM publications WHERE key BETWEEN ? AND ?",
                (room.key(0), room.key(head)),
            )
            if oldest is not None:
                room.first = oldest - room.key(0)
                newest = self._db.execute(
                    "SELECT timestamp FROM publications WHERE key = ?", (room.key(head),)
                ).fetchone()
                room.timestamp = None if newest is None else newest[0]
        return room

    def _forget_tails(self) -> None:
        """Forget the least recently used tails that are too many or too large, but not the last."""
        while len(self._tails) > self._max_tails or (
            self._tail_bytes > self._max_tail_bytes and len(self._tails) > 1
        ):
            self._forget_tail(next(iter(self._tails)))

    def _forget_tail(self, name: str) -> None:
        tail = self._tails.pop(name, None)
        if tail is not None:
            self._tail_bytes -= tail.memory_bytes

    def _forget_oldest(self, *, but: str) -> None:
        """Forget some of the least recently used rooms without a tail; `but` stays."""
        for name in tuple(islice(self._rooms, _FORGET_STEP)):
            if name in self._tails:
                self._rooms.move_to_end(name)  # so that the next call examines other rooms
            elif name != but:
                del self._rooms[name]
