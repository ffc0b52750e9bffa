"""A history in a SQLite file, with the newest publications of rooms in use in memory.

Theory
------
The history has one file and one writer, the event loop's thread. One call of `append` is one
transaction, which is committed before any of its publications is delivered. In WAL mode, a
commit is a write to the page cache, so it survives if the process is killed. With
`sync_commits` a commit is also a sync, and survives a power loss. Checkpoints run on a thread
of their own (`checkpoints`).

The key of a publication's row is one integer: the room's number in the upper bits and the
offset in the lower bits. The row of a message always has the message's present state. An edit,
a deletion or a reaction has a row of its own in the stream, and the same transaction changes
the row of its message. So pages can be read without applying changes, and a deleted text is no
longer in the file.

The newest publications of the rooms in use are also in memory (`Tail`), where almost all reads
are answered: if a thousand clients recover the same room, the disk is read once.

Memory changes during a transaction, before the commit. If the transaction fails, the state of
its rooms in memory is dropped and read from the file again (`_forget_uncommitted`).

The event loop never waits for another program that has locked the file: the transaction fails at
once. Before each commit, `Guard` checks that the file is still in its directory. Otherwise SQLite
would go on writing to a file that is removed already.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import apsw

from fastchat._codec import message_rows
from fastchat.clocks import AgeClock
from fastchat.database import select
from fastchat.errors import CommandError, HistoryError
from fastchat.history import Cursor, Duplicate, Erasure, Outcome, Page, StoredStream
from fastchat.history.ages import StoredLeads
from fastchat.history.changes import amend
from fastchat.history.checkpoints import Checkpointer
from fastchat.history.directory import HistoryFile
from fastchat.history.erasing import Eraser
from fastchat.history.ids import Ids
from fastchat.history.options import StoredOptions
from fastchat.history.pruning import PRUNED_AT_ONCE, Pruner
from fastchat.history.reader import list_streams, read_page
from fastchat.history.rows import (
    INSERT,
    INSERT_MESSAGE,
    LINK,
    SELECT,
    disk_errors,
    dump_reactions,
    history_error,
    publication_of,
    row_of,
)
from fastchat.history.schema import add_look, write_same_page
from fastchat.history.search import SearchIndex
from fastchat.history.tails import KnownRooms, Room
from fastchat.history.users import user_key_of
from fastchat.protocol import (
    Change,
    ChangeDraft,
    Draft,
    Kind,
    Message,
    MessageDraft,
    Position,
    Publication,
    timestamp_of,
)
from fastchat.protocol.names import name_key
from fastchat.protocol.options import RoomOptions

__all__ = ["SqliteHistory"]

T = TypeVar("T")

logger = logging.getLogger("fastchat.history")

#: After a failure, the disk counts as full until it has this much free space: more than the largest
#: message needs.
_MIN_FREE_BYTES = 1 << 20
#: Rooms whose heads one `prune` writes, which takes well under 1 ms.
_HEADS_AT_ONCE = 256


class SqliteHistory:
    """Implements `fastchat.history.History` with a file in `directory`, which it locks.

    * `max_messages`: the newest publications that each room stores; `pruning` allows for a
      few more.
    * `max_age_s`: publications older than this are dropped; 0 means that age does not matter.
    * `sync_commits`: whether each commit waits until the disk has it.
    * `clock`: returns seconds since 1970, as the timestamps of drafts have them.
    * `ages`: returns the time from which ages are measured (`fastchat.clocks`); `clock` if None.
      It goes on from the steps that the file knows of, and the file keeps its own.
    * `max_known_rooms`: how many rooms can have their position in memory.
    * `max_warm_rooms`: how many rooms can have their newest publications in memory.

    Raises SettingError if the directory cannot be used, is locked by another process, or has
    a file that is damaged, not a history, or not writable. A full disk is not an error at the
    start; `check` reports it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_messages: int,
        max_age_s: float,
        sync_commits: bool,
        clock: Callable[[], float],
        ages: AgeClock | None = None,
        max_known_rooms: int = 10_000,
        max_warm_rooms: int = 256,
    ) -> None:
        self._max_age_s = max_age_s
        #: The time from which ages are measured.
        self.ages = ages or AgeClock(0.0, wall=clock, steady=clock)
        self._open_file = HistoryFile(directory, sync_commits=sync_commits)
        self.file, self._db = self._open_file.path, self._open_file.db
        self._db.set_busy_timeout(0)  # the event loop waits for no lock
        self._guard = self._open_file.guard
        self._is_suspect = not self._open_file.is_writable
        self._rooms = KnownRooms(
            self._db,
            self._open_file.generation,
            max_rooms=max_known_rooms,
            max_tails=max_warm_rooms,
        )
        self._leads = StoredLeads(self._db, self.ages)
        self._ids = Ids(self._db, clock, self.ages)
        #: The secret that makes public ids of users.
        self.user_key = user_key_of(self._db)
        self._options = StoredOptions(self._db)
        self._pruner = Pruner(self._db, self._rooms, max_messages, self._options)
        self._eraser = Eraser(self._db, self._rooms, self._note_erased, self._note_links)
        # State of the present transaction; both are empty between transactions.
        self._erased: list[tuple[Room, int, int]] = []  # room, first and last deleted offset
        self._links: list[tuple[str, int, str, str]] = []  # room, offset, text before and after
        self._links_changed: Callable[[str, int, str, str], None] = lambda *change: None
        self._ahead: dict[str, None] = {}  # rooms whose head is not in the file, in order
        self._pruning_fails = False
        self._search = SearchIndex(directory, self._guard.check)
        self._checkpointer = Checkpointer(self.file, self._open_file.main)
        self._checkpointer.start()

    def close(self) -> None:
        with suppress(HistoryError):
            self._commit(set(), partial(self._write_heads, len(self._ahead)))
        self._search.close()
        self._checkpointer.stop()
        self._open_file.close()

    # Writing

    def watch_links(self, changed: Callable[[str, int, str, str], None]) -> None:
        """Call `changed` after each commit that may add or remove a link to a file.

        It is called with the message's room and offset, and its text before and after the change.
        The text before is empty for a new message, the text after for a deletion.
        """
        self._links_changed = changed

    def check_directory(self) -> None:
        """Raise HistoryError if the open file is not in its directory any more.

        Threads can call it.
        """
        self._guard.compare()

    def check(self) -> None:
        self._guard.compare()
        self._open_file.check_content()
        if self._is_suspect:
            with disk_errors():
                write_same_page(self._db)
            self._check_space()
            self._is_suspect = False

    def _check_space(self) -> None:
        """Raise HistoryError if a page can be written, but a long message could not."""
        try:
            disk = os.statvfs(self.file.parent)
        except OSError as error:
            raise HistoryError(f"the disk cannot be measured: {error.strerror}") from None
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES:
            raise HistoryError("the disk is full")

    @property
    def is_busy(self) -> bool:
        return self._checkpointer.is_busy

    def append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        touched = {draft.room for draft in drafts}
        outcomes = self._commit(touched, partial(self._append_all, drafts, touched))
        self._report_links()
        return outcomes

    def _report_links(self) -> None:
        links, self._links = self._links, []
        for each in links:
            self._links_changed(*each)

    def _append_all(self, drafts: Sequence[Draft], touched: set[str]) -> list[Outcome]:
        """Apply drafts within a transaction; `_insert` writes what they add to the streams."""
        outcomes: list[Outcome] = []
        room: Room | None = None
        for draft in drafts:
            if room is None or room.name != draft.room:
                room = self._rooms.get(draft.room)
            refusal: Duplicate | CommandError | None = None
            # Most drafts are messages that need nothing but their offset.
            if not isinstance(draft, MessageDraft):
                refusal = self._amend(room, draft)
            elif draft.id is not None or room.number is None or LINK in draft.text:
                refusal = self._note(room, draft)
            if refusal is None:
                room.head += 1
                publication = draft.numbered(room.head)
                room.fresh.append(publication)
                outcomes.append(publication)
            else:
                outcomes.append(refusal)
        for name in touched:
            self._settle(self._rooms.get(name))
        if self._ids.has_expired:
            self._ids.expire(4 * len(drafts))
        return outcomes

    def _note(self, room: Room, draft: MessageDraft) -> Duplicate | None:
        """Note a message's `id`, its link, and its room if this is the room's first publication.

        The message gets the offset after the room's head. Returns a Duplicate if the history has
        the `id` already.
        """
        number = self._create(room) if room.number is None else room.number
        if draft.id is not None:
            known = self._ids.add(number, draft.user, draft.id, room.head + 1)
            if known is not None:
                return Duplicate(draft.room, draft.id, known)
        if LINK in draft.text:
            self._links.append((draft.room, room.head + 1, "", draft.text))
        return None

    def _amend(self, room: Room, draft: ChangeDraft) -> CommandError | None:
        """Change the message that a draft is about; returns the refusal if it may not do so."""
        found = self._find(room, draft.target)
        amended = amend(found, draft)
        if isinstance(amended, CommandError):
            return amended
        before = found.text if found is not None and draft.kind is not Kind.REACT else ""
        if LINK in draft.text or LINK in before:
            self._links.append((draft.room, draft.target, before, draft.text))
        self._change(room, amended)
        return None

    def _create(self, room: Room) -> int:
        """Insert the row of a room, which gives the room its number."""
        self._db.execute(
            "INSERT INTO rooms (name, epoch, least_head) VALUES (?, ?, 0)", (room.name, room.epoch)
        )
        room.number = self._db.last_insert_rowid()
        self._rooms.add(room)
        add_look(self._db, room.number, room.name)
        return room.number

    def _change(self, room: Room, message: Message) -> None:
        """Write a message's new state to the file and to memory; `_find` must have read it.

        If the message is deleted, the texts of its edits are deleted too.
        """
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
        self._rooms.replace(room, message)

    def _settle(self, room: Room) -> None:
        """Write a room's publications of a transaction, and drop its oldest ones if need be."""
        if room.number is not None:
            self._insert(room)
            self._pruner.shorten(room)

    def prune(self) -> None:
        """Forget some expired ids, and drop publications of some rooms that are too old.

        It also stores the steps of the clock, and the heads of some rooms.
        """
        touched: set[str] = set()
        try:
            self._commit(touched, partial(self._prune, touched))
        except HistoryError as error:
            if not self._pruning_fails:
                logger.warning("old messages could not be deleted; will retry: %s", error)
            self._pruning_fails = True
        else:
            # If nothing was due, the success does not show that deleting works again.
            self._pruning_fails = self._pruning_fails and not touched

    def _prune(self, touched: set[str]) -> None:
        self._ids.expire(8 * PRUNED_AT_ONCE)
        self._eraser.prune()
        self._leads.save()
        self._write_heads(_HEADS_AT_ONCE)
        if not self._max_age_s:
            return
        before = timestamp_of(self.ages() - self._max_age_s)
        for room, first in self._pruner.find_aged(before):
            touched.add(room.name)
            self._erased.append((room, 0, first - 1))
            self._pruner.drop(room, first)

    def _write_heads(self, limit: int) -> None:
        """Write the heads of up to `limit` rooms to the file, within a transaction.

        An append does not write its room's head, because that would cost a second page: the newest
        key says the same. But if another program deletes the newest rows, only this head keeps
        their offsets from being used again. If the transaction fails, the rooms' next heads are
        written later.
        """
        for name in tuple(islice(self._ahead, limit)):
            del self._ahead[name]
            self._rooms.write_head(self._rooms.get(name))

    # Rooms and users

    @property
    def options(self) -> Mapping[str, RoomOptions]:
        return self._options

    def set_options(self, room: str, options: RoomOptions) -> None:
        def write() -> None:
            self._options.write(room, options)
            self._options.note(room, options)
            self._settle(self._rooms.get(room))  # it may keep fewer from now on

        before = self._options.get(room, RoomOptions())
        try:
            self._commit({room}, write)
        except BaseException:
            self._options.note(room, before)
            raise

    def streams(self, prefix: str, after: str, limit: int) -> list[StoredStream]:
        with disk_errors():
            stored = list_streams(self._db, prefix, after, limit)
        missing = {name for name in self._options if name.startswith(prefix) and name > after}
        for name in missing.difference(each.room for each in stored):
            found = self._rooms.get(name)
            if found.number is None:  # otherwise it is behind the last of `stored`
                stored.append(StoredStream(name, found.epoch, 0, None, 0))
        return sorted(stored)[:limit]

    def delete_room(self, room: str) -> bool:
        def delete() -> bool:
            self._options.write(room, RoomOptions())
            return self._eraser.delete_room(self._rooms.get(room))

        is_deleted = self._commit({room}, delete)
        self._ahead.pop(room, None)
        self._report_links()
        had_options = self._options.pop(room, None) is not None
        return is_deleted or had_options

    def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        with disk_errors():
            found, last = self._eraser.published_by(user, _key_after(after), limit)
        return found, None if last is None else [last]

    def erase_user(self, user: str, after: Cursor | None) -> tuple[Erasure, Cursor | None]:
        erasure, last = self._commit(set(), partial(self._eraser.erase, user, _key_after(after)))
        self._report_links()
        return erasure, None if last is None else [last]

    def _note_erased(self, room: Room, first: int, last: int) -> None:
        self._erased.append((room, first, last))

    def _note_links(self, room: str, offset: int, before: str, after: str) -> None:
        self._links.append((room, offset, before, after))

    # Reading

    def position(self, room: str) -> Position:
        found = self._rooms.get(room)
        return Position(found.epoch, found.head, found.timestamp)

    def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        found = self._rooms.get(room)
        missing = found.head - position.offset
        if position.epoch != found.epoch or not 0 <= missing <= limit:
            return None
        if position.offset + 1 < found.first:
            return None
        if position.timestamp is not None and position.is_contradicted_by(
            self._find(found, position.offset)
        ):
            return None
        if missing == 0:
            return []
        publications = self._rooms.tail(found).publications
        if missing > len(publications):
            publications = self._rooms.read(found, position.offset + 1)
        missed = publications[-missing:]
        # Another program can have deleted rows, or written an older copy over the file.
        is_whole = len(missed) == missing and missed[0].offset == position.offset + 1
        return missed if is_whole else None

    def following(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        found = self._rooms.get(room)
        if found.head - position.offset <= limit:
            return self.since(room, position, limit)
        if position.epoch != found.epoch or position.offset + 1 < found.first:
            return None
        if position.timestamp is not None and position.is_contradicted_by(
            self._find(found, position.offset)
        ):
            return None
        following = self._rooms.read(found, position.offset + 1, position.offset + limit)
        return following if len(following) == limit else None

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

    def find_alike(self, room: str) -> str | None:
        with disk_errors():
            if select(self._db, "SELECT 1 FROM rooms WHERE name = ?", room):
                return room
            statement = "SELECT name FROM looks JOIN rooms ON room = number WHERE look = ? LIMIT 1"
            found = select(self._db, statement, name_key(room))
        return found[0][0] if found else None

    def _read_page(self, room: Room, low: int, high: int, limit: int, *, newest: bool) -> Page:
        if room.number is None:
            return Page([], more=False)
        with disk_errors():
            return read_page(self._db, room.name, room.number, low, high, limit, newest=newest)

    def _find(self, room: Room, offset: int) -> Publication | None:
        """A publication, from memory or from the file; None if there is none."""
        self._insert(room)
        tail = self._rooms.warm_tail(room)
        index = tail.find(offset) if tail else None
        if tail is not None and index is not None:
            return tail.publications[index]
        if room.number is None or not room.first <= offset <= room.head:
            return None
        with disk_errors():
            row = self._db.execute(SELECT, (room.key(offset), room.key(offset))).fetchone()
        return publication_of(room.name, row) if row else None

    # The file

    def _commit(self, touched: set[str], change: Callable[[], T]) -> T:
        """Commit what `change` does; if it raises, undo it in the file and in memory.

        `touched` has the names of the rooms that are changed; `change` can add to it. Raises
        HistoryError if the disk fails, if another program has locked the file, or if the file is
        not in its directory any more.
        """
        self._open_file.check_content_lately()
        try:
            self._checkpointer.begin_write()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                result = change()
                self._guard.check()
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._checkpointer.end_write()
        except apsw.Error as error:
            self._is_suspect = True
            self._forget_uncommitted(touched)
            raise history_error(error) from error
        except BaseException as error:
            self._is_suspect |= isinstance(error, HistoryError)
            self._forget_uncommitted(touched)
            raise
        self._is_suspect = False
        erased, self._erased = self._erased, []
        for room, first, last in erased:
            self._search.erase(room.key(first), room.key(last))
        return result

    def _forget_uncommitted(self, names: Iterable[str]) -> None:
        """Undo a failed transaction in memory; `names` are the rooms that it changed."""
        self._erased.clear()
        self._links.clear()
        for name in names:
            self._rooms.read_again(name)

    def _insert(self, room: Room) -> None:
        """Write a room's fresh publications, all at once, which is faster than one by one."""
        if fresh := room.fresh:
            before = room.key(0)
            rows = message_rows(fresh, Message, before)
            self._db.executemany(INSERT_MESSAGE, rows)
            if len(rows) < len(fresh):
                changes = (each for each in fresh if type(each) is Change)
                self._db.executemany(INSERT, (row_of(before + c.offset, c) for c in changes))
            self._rooms.extend(room, fresh)
            room.timestamp = fresh[-1].timestamp
            room.fresh = []
            self._ahead[room.name] = None


def _key_after(cursor: Cursor | None) -> int:
    """The key in a cursor, or one that is smaller than all others."""
    return -1 if cursor is None else int(cursor[0])
