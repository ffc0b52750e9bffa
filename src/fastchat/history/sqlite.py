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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastchat.errors import CommandError, HistoryError, SettingError
from fastchat.history import Duplicate, Outcome, Page
from fastchat.history.changes import amend, put
from fastchat.history.checkpoints import Checkpointer
from fastchat.history.directory import FILE_NAME, lock, open_database
from fastchat.history.ids import Ids
from fastchat.history.pruning import PRUNED_AT_ONCE, Pruner
from fastchat.history.reader import read_page
from fastchat.history.rows import (
    INSERT,
    LINK,
    SELECT,
    disk_errors,
    dump_reactions,
    publication_of,
    row_of,
)
from fastchat.history.search import SearchIndex
from fastchat.history.tails import KnownRooms, Room
from fastchat.protocol import (
    Draft,
    Kind,
    Message,
    MessageDraft,
    Position,
    Publication,
    timestamp_of,
)

__all__ = ["SqliteHistory"]

logger = logging.getLogger("fastchat.history")


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
        max_known_rooms: int = 10_000,
        max_warm_rooms: int = 256,
    ) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = lock(directory)
        self.file = directory / FILE_NAME
        try:
            self._db = open_database(self.file, sync_commits)
        except SettingError:
            os.close(self._lock)
            raise
        self._rooms = KnownRooms(
            self._db, new_epoch, max_rooms=max_known_rooms, max_tails=max_warm_rooms
        )
        self._ids = Ids(self._db, clock)
        self._pruner = Pruner(self._db, self._rooms, max_messages)
        self._rows: list[tuple[Any, ...]] = []  # of the transaction, not inserted yet
        self._created: list[Room] = []  # by the transaction
        self._erased: list[tuple[Room, int, int]] = []  # by it: room, first and last offset
        self._links_changed: Callable[[str, str, str], None] = lambda *change: None
        self._links: list[tuple[str, str, str]] = []  # by it: room, text before and after
        self._pruning_fails = False
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

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        touched = {draft.room for draft in drafts}
        with self._transaction(touched):
            outcomes = [self._append(draft) for draft in drafts]
            self._insert_rows()
            for name in touched:
                self._settle(self._rooms.get(name))
            if self._ids.has_expired:
                self._ids.expire(4 * len(drafts))
        links, self._links = self._links, []
        for each in links:
            self._links_changed(*each)
        return outcomes

    def _append(self, draft: Draft) -> Outcome:
        room = self._rooms.get(draft.room)
        if isinstance(draft, MessageDraft):
            number = self._create(room) if room.number is None else room.number
            if draft.id is not None:
                known = self._ids.add(number, draft.owner, draft.id, room.head + 1)
                if known is not None:
                    return Duplicate(draft.room, draft.id, known)
            if LINK in draft.text:
                self._links.append((draft.room, "", draft.text))
        else:
            found = self._find(room, draft.target)
            amended = amend(found, draft)
            if isinstance(amended, CommandError):
                return amended
            before = found.text if found is not None and draft.kind is not Kind.REACT else ""
            if LINK in draft.text or LINK in before:
                self._links.append((draft.room, before, draft.text))
            self._change(room, amended)
        offset = room.head + 1
        publication = draft.numbered(offset)
        self._rows.append(row_of(room.key(offset), publication))
        room.head = offset
        tail = self._rooms.warm_tail(room)
        if tail is not None:
            tail.append(publication)
        return publication

    def _create(self, room: Room) -> int:
        """Give a room its row and its number."""
        self._created.append(room)
        self._db.execute(
            "INSERT INTO rooms (name, epoch, head) VALUES (?, ?, 0)", (room.name, room.epoch)
        )
        room.number = self._db.last_insert_rowid()
        return room.number

    def _change(self, room: Room, message: Message) -> None:
        """Write a message's new state, here and in memory; the edits of a deleted one go too."""
        self._insert_rows()
        key = room.key(message.offset)
        self._db.execute(
            "UPDATE publications SET text = ?, edited = ?, deleted = ?, reactions = ? "
            "WHERE key = ?",
            (
                message.text,
                message.edited,
                message.deleted or None,
                dump_reactions(message.reactions),
                key,
            ),
        )
        if message.deleted:
            self._erased.append((room, message.offset, message.offset))
            self._db.execute(
                "UPDATE publications SET text = NULL "
                "WHERE key BETWEEN ? AND ? AND kind = 1 AND target = ?",
                (key, room.key(room.head), message.offset),
            )
        tail = self._rooms.warm_tail(room)
        index = tail.find(message.offset) if tail else None
        if tail is not None and index is not None:
            put(tail.publications, index, message)

    def _settle(self, room: Room) -> None:
        """At the end of a transaction: write the room's head, and drop its oldest if need be."""
        if room.number is not None:
            statement = "UPDATE rooms SET head = ? WHERE number = ?"
            self._db.execute(statement, (room.head, room.number))
            self._pruner.shorten(room)

    def prune(self) -> None:
        """One small step of pruning by age; to be called about once a second."""
        touched: set[str] = set()
        try:
            with self._transaction(touched):
                self._ids.expire(8 * PRUNED_AT_ONCE)
                if self._max_age_s:
                    self._drop_aged(touched)
        except HistoryError as error:
            if not self._pruning_fails:
                logger.warning("what is too old cannot be dropped, and is tried again: %s", error)
            self._pruning_fails = True
        else:
            # A step in which nothing was due proves nothing.
            self._pruning_fails = self._pruning_fails and not touched

    def _drop_aged(self, touched: set[str]) -> None:
        before = timestamp_of(self._clock() - self._max_age_s)
        for room, first in self._pruner.find_aged(before):
            touched.add(room.name)
            self._erased.append((room, 0, first - 1))
            self._pruner.drop(room, first)

    # Reading

    def position(self, room: str) -> Position:
        found = self._rooms.get(room)
        return Position(found.epoch, found.head)

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        found = self._rooms.get(room)
        missing = found.head - position.offset
        if position.epoch != found.epoch or not 0 <= missing <= limit:
            return None
        if missing == 0:
            return []
        publications = self._rooms.tail(found).publications
        if missing <= len(publications):
            return publications[-missing:]
        if position.offset + 1 < found.first:
            return None
        return self._rooms.read(found, position.offset + 1)

    def before(self, room: str, offset: int | None, limit: int) -> Page:
        found = self._rooms.get(room)
        end = found.head + 1 if offset is None else min(offset, found.head + 1)
        if end <= found.first or not limit:
            return Page([], more=end > found.first)
        tail = self._rooms.tail(found).publications
        if tail and end > tail[0].offset:
            messages = [each for each in tail[: end - tail[0].offset] if isinstance(each, Message)]
            if len(messages) > limit or tail[0].offset <= found.first:
                return Page(messages[-limit:], more=len(messages) > limit)
        return self._read_page(found, found.first, end - 1, limit, newest=True)

    def after(self, room: str, offset: int, limit: int) -> Page:
        found = self._rooms.get(room)
        start = max(offset + 1, found.first)
        if start > found.head:
            return Page([], more=False)
        return self._read_page(found, start, found.head, limit, newest=False)

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        found = self._rooms.get(room)
        if found.number is None:
            return []
        with disk_errors():
            offsets = await self._search.search(found.number, query, limit)
        publications = (self._find(found, offset) for offset in offsets)
        return [each for each in publications if isinstance(each, Message) and not each.deleted]

    def adopt(self, room: str, epoch: str) -> None:
        found = self._rooms.get(room)
        if found.number is None:
            found.epoch = epoch

    def forget(self, room: str) -> None:
        self._rooms.forget_silent(room)

    def _read_page(self, room: Room, low: int, high: int, limit: int, *, newest: bool) -> Page:
        if room.number is None:
            return Page([], more=False)
        with disk_errors():
            return read_page(self._db, room.name, room.number, low, high, limit, newest=newest)

    def _find(self, room: Room, offset: int) -> Publication | None:
        """A kept publication, from memory or from the file."""
        tail = self._rooms.warm_tail(room)
        index = tail.find(offset) if tail else None
        if tail is not None and index is not None:
            return tail.publications[index]
        if room.number is None or not room.first <= offset <= room.head:
            return None
        self._insert_rows()
        with disk_errors():
            row = self._db.execute(SELECT, (room.key(offset), room.key(offset))).fetchone()
        return publication_of(room.name, row) if row else None

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

    def _forget_uncommitted(self, names: Iterable[str]) -> None:
        """After a failed transaction: what it changed in memory is read again."""
        self._rows.clear()
        for room in self._created:  # nothing of them was ever kept but the epoch, here
            room.number, room.first, room.head = None, 1, 0
        self._created.clear()
        self._erased.clear()
        self._links.clear()
        for name in names:
            self._rooms.read_again(name)

    def _insert_rows(self) -> None:
        if self._rows:
            self._db.executemany(INSERT, self._rows)
            self._rows.clear()
