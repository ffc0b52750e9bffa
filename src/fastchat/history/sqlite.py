"""A history in SQLite: durable, and read from memory as far as it is warm.

Theory
------
One file, one writer: the loop's thread. All that a turn of the loop publishes is one
transaction, committed before any of it is delivered. In WAL mode a commit is a write
to the page cache, so it survives a killed process; with `sync_commits` it is a sync as
well, and survives a power loss. Checkpoints run elsewhere (`checkpoints`).

A publication's row has one integer for a key, the room's number in the upper bits and
the offset in the lower. A message's row always holds its present state: an edit, a
deletion or a reaction has a row of its own in the stream, and in the same transaction
changes the row of its message. So a page needs no folding when it is read, and a
deleted text is gone.

The newest publications of the rooms in use are in memory too (`Tail`), which is where
almost all reads end: a thousand clients that recover the same room read the disk once.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from fastchat.database import select
from fastchat.errors import HistoryError, SettingError
from fastchat.history import Duplicate, Outcome, Page
from fastchat.history.changes import amend, put, refusal
from fastchat.history.checkpoints import Checkpointer
from fastchat.history.directory import FILE_NAME, lock, open_database
from fastchat.history.reader import read_page
from fastchat.history.rows import (
    INSERT,
    LINK,
    OFFSET_BITS,
    OFFSET_MASK,
    SELECT,
    disk_errors,
    dump_reactions,
    publication_of,
    row_of,
)
from fastchat.history.search import SearchIndex
from fastchat.history.tails import Room, Tail
from fastchat.protocol import (
    MAX_HISTORY,
    Kind,
    Position,
    Publication,
    numbered,
    timestamp_of,
)

__all__ = ["SqliteHistory"]

logger = logging.getLogger("fastchat.history")

#: Rooms whose place in their stream is in memory, and rooms whose newest publications are.
_KNOWN_ROOMS, _WARM_ROOMS = 10_000, 256
#: Known rooms that are looked at, to forget some, when there are too many.
_FORGET_STEP = 8
#: Rows that one step of pruning deletes: well under 1 ms.
_PRUNE_STEP = 256
#: Rooms in which one step looks for what is too old.
_AGED_STEP = 64
#: An `id` is remembered this long (docs/protocol.md, "Sending twice").
REMEMBER_IDS_S = 600.0

# The ids of restored publications, and then all ids in the order of time again.
_REMEMBER_RESTORED = f"""
INSERT OR IGNORE INTO ids (room, username, id, offset, timestamp)
SELECT ?1, username, id, key & {OFFSET_MASK}, timestamp FROM publications
WHERE key BETWEEN ?1 << {OFFSET_BITS} AND (?1 + 1 << {OFFSET_BITS}) - 1
AND id IS NOT NULL AND timestamp >= ?2
"""  # noqa: S608
_SORT_IDS = """
CREATE TEMP TABLE remembered AS SELECT room, username, id, offset, timestamp FROM ids;
DELETE FROM ids;
INSERT INTO ids (room, username, id, offset, timestamp)
SELECT room, username, id, offset, timestamp FROM remembered ORDER BY timestamp;
DROP TABLE remembered;
"""


class SqliteHistory:
    """Implements `fastchat.history.History` on a file in `directory`, which it locks.

    Keeps about the newest `max_messages` publications a room, none older than
    `max_age_s` (0: however old). Raises SettingError with one sentence when the
    directory cannot be used, is in use, or its file is damaged.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_messages: int,
        max_age_s: float,
        sync_commits: bool,
        new_epoch: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._max_messages = max_messages
        self._slack = min(max_messages // 8 + 1, _PRUNE_STEP)
        self._max_age_s = max_age_s
        self._new_epoch = new_epoch
        self._clock = clock
        self._lock = lock(directory)
        self.file = directory / FILE_NAME
        try:
            self._db = open_database(self.file, sync_commits)
        except SettingError:
            os.close(self._lock)
            raise
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._tails: OrderedDict[str, Tail] = OrderedDict()
        self._rows: list[tuple[Any, ...]] = []  # of the transaction, not inserted yet
        self._created: list[Room] = []  # by the transaction
        self._erased: list[tuple[Room, int, int]] = []  # by it: room, first and last offset
        self._links_changed: Callable[[str, str, str], None] = lambda *change: None
        self._links: list[tuple[str, str, str]] = []  # by it: room, text before and after
        self._pruning_fails = False
        self._ids_expired = False  # more of them than a step of pruning takes
        self._aged = 0  # number of the room that was last looked at for its age
        self._search = SearchIndex(directory)
        self._checkpointer = Checkpointer(self.file)
        self._checkpointer.start()

    def close(self) -> None:
        self._search.close()
        self._checkpointer.stop()
        self._db.close()
        os.close(self._lock)

    # Writing

    def watch_links(self, changed: Callable[[str, str, str], None]) -> None:
        """Have it called with a room and a message's text before and after each change, once
        that is kept, if either has a link to a file."""
        self._links_changed = changed

    def append(self, drafts: Sequence[Publication]) -> list[Outcome]:
        touched = {draft.room for draft in drafts}
        with self._transaction(touched):
            outcomes = [self._append(draft) for draft in drafts]
            self._insert_rows()
            for name in touched:
                self._settle(self._room(name))
            if self._ids_expired:
                self._prune_ids(4 * len(drafts))
        links, self._links = self._links, []
        for each in links:
            self._links_changed(*each)
        return outcomes

    def _append(self, draft: Publication) -> Outcome:
        room = self._room(draft.room)
        message = None
        if draft.kind is not Kind.MESSAGE:
            assert draft.target is not None
            message = self._find(room, draft.target)
            refused = refusal(message, draft)
            if refused is not None:
                return refused
        if room.number is None:
            self._create(room)
        offset = room.head + 1
        if draft.id is not None:
            known = self._remember(room, draft, offset)
            if known is not None:
                return Duplicate(draft.room, draft.id, known)
        before = "" if message is None or draft.kind is Kind.REACT else message.text
        if LINK in draft.text or LINK in before:
            self._links.append((draft.room, before, draft.text))
        if message is not None:
            self._change(room, amend(message, draft))
        publication = numbered(draft, offset)
        self._rows.append(row_of(room.key(offset), publication))
        room.head = offset
        tail = self._tails.get(draft.room)
        if tail is not None:
            tail.append(publication)
        return publication

    def _create(self, room: Room) -> None:
        self._created.append(room)
        self._db.execute(
            "INSERT INTO rooms (name, epoch, head) VALUES (?, ?, 0)", (room.name, room.epoch)
        )
        room.number = self._db.last_insert_rowid()

    def _remember(self, room: Room, draft: Publication, offset: int) -> int | None:
        """Note an id; returns the offset that it stands for, if it was known."""
        self._db.execute(
            "INSERT OR IGNORE INTO ids (room, username, id, offset, timestamp) "
            "VALUES (?, ?, ?, ?, ?)",
            (room.number, draft.owner, draft.id, offset, timestamp_of(self._clock())),
        )
        if self._db.changes():
            return None
        ((known,),) = select(
            self._db,
            "SELECT offset FROM ids WHERE room = ? AND username = ? AND id = ?",
            room.number,
            draft.owner,
            draft.id,
        )
        return int(known)

    def _change(self, room: Room, message: Publication) -> None:
        """Write a message's new state, here and in memory; the edits of a deleted one go too."""
        self._insert_rows()
        key = room.key(message.offset)
        self._db.execute(
            "UPDATE publications SET text = ?, edited = ?, deleted = ?, reactions = ? "
            "WHERE key = ?",
            (message.text, message.edited, message.deleted or None, dump_reactions(message), key),
        )
        if message.deleted:
            self._erased.append((room, message.offset, message.offset))
            self._db.execute(
                "UPDATE publications SET text = NULL "
                "WHERE key BETWEEN ? AND ? AND kind = 1 AND target = ?",
                (key, room.key(room.head), message.offset),
            )
        tail = self._tails.get(room.name)
        index = tail.find(message.offset) if tail else None
        if tail is not None and index is not None:
            put(tail.publications, index, message)

    def _settle(self, room: Room) -> None:
        """At the end of a transaction: the room's head, and its oldest over the bound."""
        if room.number is None:
            return
        self._db.execute("UPDATE rooms SET head = ? WHERE number = ?", (room.head, room.number))
        kept = room.head - room.first + 1
        if kept > self._max_messages + self._slack:
            # More than one turn can bring, and yet a short turn.
            excess = min(kept - self._max_messages, 2 * _PRUNE_STEP)
            self._drop(room, room.first + excess)

    def _drop(self, room: Room, first: int) -> None:
        """Delete what is older than offset `first`."""
        self._db.execute(
            "DELETE FROM publications WHERE key BETWEEN ? AND ?",
            (room.key(0), room.key(first - 1)),
        )
        room.first = first
        tail = self._tails.get(room.name)
        index = tail.find(first) if tail else None
        if tail is not None and index:
            del tail.publications[:index]

    def prune(self) -> None:
        """One small step of pruning by age; to be called about once a second."""
        now = self._clock()
        touched: set[str] = set()
        try:
            with self._transaction(touched):
                self._prune_ids(8 * _PRUNE_STEP)
                if self._max_age_s:
                    self._prune_aged(timestamp_of(now - self._max_age_s), touched)
        except HistoryError as error:
            if not self._pruning_fails:
                logger.warning("what is too old cannot be dropped, and is tried again: %s", error)
            self._pruning_fails = True
        else:
            # A step in which nothing was due proves nothing.
            self._pruning_fails = self._pruning_fails and not touched

    def _prune_ids(self, limit: int) -> None:
        before = timestamp_of(self._clock() - REMEMBER_IDS_S)
        ((last, expired),) = select(
            self._db,
            "SELECT max(number), count(*) "
            "FROM (SELECT number, timestamp FROM ids ORDER BY number LIMIT ?) WHERE timestamp < ?",
            limit,
            before,
        )
        self._ids_expired = expired == limit
        if expired:
            self._db.execute("DELETE FROM ids WHERE number <= ?", (last,))

    def _prune_aged(self, before: str, touched: set[str]) -> None:
        rooms = select(
            self._db,
            "SELECT number, name FROM rooms WHERE number > ? ORDER BY number LIMIT ?",
            self._aged,
            _AGED_STEP,
        )
        self._aged = rooms[-1][0] if len(rooms) == _AGED_STEP else 0
        for _, name in rooms:
            room = self._room(name)
            last = 0
            for key, timestamp in select(
                self._db,
                "SELECT key, timestamp FROM publications WHERE key BETWEEN ? AND ? "
                "ORDER BY key LIMIT ?",
                room.key(room.first),
                room.key(room.head),
                _PRUNE_STEP,
            ):
                if timestamp >= before:
                    break
                last = key & OFFSET_MASK
            if last:
                touched.add(name)
                self._erased.append((room, 0, last))
                self._drop(room, last + 1)

    # Restoring

    def restore(
        self, publications: Iterable[Publication], positions: Mapping[str, Position]
    ) -> None:
        """Keep what another history held, as it is (`transfer`); all of it, or none.

        `positions` says where each room stands in the end: it is read after
        `publications`, and may be filled meanwhile. Nothing is kept when
        `publications` raises. Raises SettingError when a room has publications here,
        HistoryError when the disk fails. A draft's `id` counts as if it had been
        published here.
        """
        numbers: dict[str, int] = {}
        with self._transaction(set()):
            for each in publications:
                number = numbers.get(each.room)
                if number is None:
                    number = numbers[each.room] = self._begin(each.room)
                self._db.execute(INSERT, row_of(number << OFFSET_BITS | each.offset, each))
            for name, (epoch, head) in positions.items():
                if name not in numbers:
                    numbers[name] = self._begin(name)
                self._db.execute(
                    "UPDATE rooms SET epoch = ?, head = ? WHERE number = ?",
                    (epoch, head, numbers[name]),
                )
            self._remember_restored(numbers.values())
        for name in numbers:
            self._rooms.pop(name, None)
            self._tails.pop(name, None)

    def _begin(self, name: str) -> int:
        """The number of a room in which nothing was published yet."""
        self._db.execute(
            "INSERT OR IGNORE INTO rooms (name, epoch, head) VALUES (?, '', 0)", (name,)
        )
        ((number, head),) = select(self._db, "SELECT number, head FROM rooms WHERE name = ?", name)
        if head:
            raise SettingError(
                f"--data {self.file.parent} has a room “{name}” already; "
                "import into another directory."
            )
        return int(number)

    def _remember_restored(self, numbers: Iterable[int]) -> None:
        since = timestamp_of(self._clock() - REMEMBER_IDS_S)
        for number in numbers:
            self._db.execute(_REMEMBER_RESTORED, (number, since))
        self._db.execute(_SORT_IDS)

    # Reading

    def position(self, room: str) -> Position:
        found = self._room(room)
        return Position(found.epoch, found.head)

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        found = self._room(room)
        missing = found.head - position.offset
        if position.epoch != found.epoch or not 0 <= missing <= limit:
            return None
        if missing == 0:
            return []
        publications = self._tail(found).publications
        if missing <= len(publications):
            return publications[-missing:]
        if position.offset + 1 < found.first:
            return None
        return self._read(found, position.offset + 1)

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        found = self._room(room)
        end = found.head + 1 if offset is None else min(offset, found.head + 1)
        if end <= found.first or not limit:
            return Page([], more=end > found.first)
        tail = self._tail(found).publications
        if tail and end > tail[0].offset:
            messages = [each for each in tail[: end - tail[0].offset] if each.kind is Kind.MESSAGE]
            if len(messages) > limit or tail[0].offset <= found.first:
                return Page(messages[-limit:], more=len(messages) > limit)
        return self._read_page(found, found.first, end - 1, limit, newest=True)

    def after(self, room: str, offset: int, limit: int) -> Page:
        found = self._room(room)
        start = max(offset + 1, found.first)
        if start > found.head:
            return Page([], more=False)
        return self._read_page(found, start, found.head, limit, newest=False)

    async def search(self, room: str, query: str, limit: int) -> list[Publication]:
        found = self._room(room)
        if found.number is None:
            return []
        with disk_errors():
            offsets = await self._search.search(found.number, query, limit)
        messages = (self._find(found, offset) for offset in offsets)
        return [
            each for each in messages if each and each.kind is Kind.MESSAGE and not each.deleted
        ]

    def adopt(self, room: str, epoch: str) -> None:
        found = self._room(room)
        if found.number is None:
            found.epoch = epoch

    def forget(self, room: str) -> None:
        found = self._rooms.get(room)
        if found is not None and found.number is None:
            del self._rooms[room]
            self._tails.pop(room, None)

    def _read_page(self, room: Room, low: int, high: int, limit: int, *, newest: bool) -> Page:
        if room.number is None:
            return Page([], more=False)
        with disk_errors():
            return read_page(self._db, room.name, room.number, low, high, limit, newest=newest)

    def _find(self, room: Room, offset: int) -> Publication | None:
        """A kept publication, from memory or from the file."""
        tail = self._tails.get(room.name)
        index = tail.find(offset) if tail else None
        if tail is not None and index is not None:
            return tail.publications[index]
        if room.number is None or not room.first <= offset <= room.head:
            return None
        self._insert_rows()
        with disk_errors():
            row = self._db.execute(SELECT, (room.key(offset), room.key(offset))).fetchone()
        return publication_of(room.name, row) if row else None

    # What is known in memory

    def _room(self, name: str) -> Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = self._load(name)
        else:
            self._rooms.move_to_end(name)
        # In a transaction, a room may be ahead of the file.
        if len(self._rooms) > _KNOWN_ROOMS and not self._db.in_transaction:
            self._forget_oldest(but=name)
        return room

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
        """Make room for others; what has no row yet exists only here, and stays."""
        for name in tuple(islice(self._rooms, _FORGET_STEP)):
            if self._rooms[name].number is None or name in self._tails:
                self._rooms.move_to_end(name)  # not to be looked at again soon
            elif name != but:
                del self._rooms[name]

    def _forget_uncommitted(self, names: Iterable[str]) -> None:
        """After a failed transaction: what it changed in memory is read again."""
        self._rows.clear()
        for room in self._created:  # nothing of them was ever kept but the epoch, here
            room.number, room.first, room.head = None, 1, 0
        self._created.clear()
        self._erased.clear()
        self._links.clear()
        for name in names:
            self._tails.pop(name, None)
            room_known = self._rooms.get(name)
            if room_known is not None and room_known.number is not None:
                del self._rooms[name]

    def _tail(self, room: Room) -> Tail:
        tail = self._tails.get(room.name)
        if tail is None:
            low = max(room.first, room.head - MAX_HISTORY + 1)
            tail = self._tails[room.name] = Tail(self._read(room, low))
            if len(self._tails) > _WARM_ROOMS:
                self._tails.popitem(last=False)
        else:
            self._tails.move_to_end(room.name)
        return tail

    def _read(self, room: Room, low: int) -> list[Publication]:
        """All publications from offset `low` on, from the file."""
        if room.number is None:
            return []
        with disk_errors():
            rows = self._db.execute(f"{SELECT} ORDER BY key", (room.key(low), room.key(room.head)))
            return [publication_of(room.name, row) for row in rows]

    # The file

    @contextmanager
    def _transaction(self, touched: set[str]) -> Iterator[None]:
        """All of it or nothing, in the file and here; `touched` names the rooms it changes.

        Raises HistoryError when the disk fails.
        """
        try:
            with disk_errors():
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
        except BaseException:
            self._forget_uncommitted(touched)
            raise
        self._created.clear()
        erased, self._erased = self._erased, []
        for room, first, last in erased:
            self._search.erase(room.key(first), room.key(last))

    def _insert_rows(self) -> None:
        if self._rows:
            self._db.executemany(INSERT, self._rows)
            self._rows.clear()
