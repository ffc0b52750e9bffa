"""What a SQLite history has of its rooms in memory: where they stand, and their newest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

import apsw

from fastchat.history.rows import OFFSET_BITS, disk_errors, stored
from fastchat.protocol import MAX_HISTORY, MAX_REPLY_BYTES, Publication

__all__ = ["KnownRooms", "Room", "Tail"]

#: Known rooms that are looked at, to forget some, when there are too many.
_FORGET_STEP = 8


class Room:
    """Where a room's stream stands; `number` is None until something is published."""

    __slots__ = ("epoch", "first", "head", "name", "number")

    def __init__(self, name: str, number: int | None, epoch: str, first: int, head: int) -> None:
        self.name = name
        self.number = number
        self.epoch = epoch
        self.first = first  # the oldest offset that is kept
        self.head = head

    def key(self, offset: int) -> int:
        assert self.number is not None
        return self.number << OFFSET_BITS | offset


class Tail:
    """The newest publications of a room, without a hole, up to its head.

    At least as many as a reply may hold: `MAX_HISTORY`, or `MAX_REPLY_BYTES` of text.
    """

    __slots__ = ("_chars", "publications")

    def __init__(self, publications: list[Publication]) -> None:
        self.publications = publications
        self._trim()

    def append(self, publication: Publication) -> None:
        self.publications.append(publication)
        self._chars += len(publication.text)
        if len(self.publications) > 2 * MAX_HISTORY or self._chars > 2 * MAX_REPLY_BYTES:
            self._trim()

    def _trim(self) -> None:
        kept, self._chars = 0, 0
        for publication in reversed(self.publications):
            if kept == MAX_HISTORY or self._chars >= MAX_REPLY_BYTES:
                break
            kept += 1
            self._chars += len(publication.text)
        del self.publications[: len(self.publications) - kept]

    def find(self, offset: int) -> int | None:
        """The index of a publication."""
        if not self.publications:
            return None
        index = offset - self.publications[0].offset
        return index if 0 <= index < len(self.publications) else None


class KnownRooms:
    """The rooms whose place in their stream is in memory, and the tails of those in use.

    A room is read from the file when it is asked for. Beyond `max_rooms` and `max_tails`, the
    least used are forgotten; a room in which nothing was published exists only here, and stays.
    """

    def __init__(
        self,
        db: apsw.Connection,
        new_epoch: Callable[[], str],
        *,
        max_rooms: int = 10_000,
        max_tails: int = 256,
    ) -> None:
        self._db = db
        self._new_epoch = new_epoch
        self._max_rooms = max_rooms
        self._max_tails = max_tails
        self._rooms: OrderedDict[str, Room] = OrderedDict()  # the least used first
        self._tails: OrderedDict[str, Tail] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, name: str) -> Room:
        """A room; one that is not in the file begins here, with a new epoch."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = self._load(name)
        else:
            self._rooms.move_to_end(name)
        # In a transaction, a room may be ahead of the file.
        if len(self._rooms) > self._max_rooms and not self._db.in_transaction:
            self._forget_oldest(but=name)
        return room

    def tail(self, room: Room) -> Tail:
        """A room's newest publications, read from the file if they are not here."""
        tail = self._tails.get(room.name)
        if tail is None:
            low = max(room.first, room.head - MAX_HISTORY + 1)
            tail = self._tails[room.name] = Tail(self.read(room, low))
            if len(self._tails) > self._max_tails:
                self._tails.popitem(last=False)
        else:
            self._tails.move_to_end(room.name)
        return tail

    def warm_tail(self, room: Room) -> Tail | None:
        """A room's newest publications if they are here."""
        return self._tails.get(room.name)

    def read(self, room: Room, low: int) -> list[Publication]:
        """All publications of a room from offset `low` on, from the file."""
        if room.number is None:
            return []
        with disk_errors():
            return list(stored(self._db, room.name, room.number, low, room.head))

    def forget_silent(self, name: str) -> None:
        """Forget a room in which nothing was published."""
        room = self._rooms.get(name)
        if room is not None and room.number is None:
            del self._rooms[name]
            self._tails.pop(name, None)

    def read_again(self, name: str) -> None:
        """Forget a room's state, which is not that of the file: it is read when asked for."""
        self._tails.pop(name, None)
        room = self._rooms.get(name)
        if room is not None and room.number is not None:
            del self._rooms[name]

    def _load(self, name: str) -> Room:
        with disk_errors():
            row = self._db.execute(
                "SELECT number, epoch, head FROM rooms WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return Room(name, None, self._new_epoch(), first=1, head=0)
            number, epoch, head = row
            room = Room(name, number, epoch, first=head + 1, head=head)
            ((oldest,),) = self._db.execute(
                "SELECT min(key) FROM publications WHERE key BETWEEN ? AND ?",
                (room.key(0), room.key(head)),
            )
        if oldest is not None:
            room.first = oldest - room.key(0)
        return room

    def _forget_oldest(self, *, but: str) -> None:
        for name in tuple(islice(self._rooms, _FORGET_STEP)):
            if self._rooms[name].number is None or name in self._tails:
                self._rooms.move_to_end(name)  # not to be looked at again soon
            elif name != but:
                del self._rooms[name]
