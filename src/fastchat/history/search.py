"""Full-text search (SQLite's FTS5) over the messages of rooms.

The index is in a file of its own, and all of it can be derived from the history. A search in a
room first reads the room's stream from where the index stopped. Edits and deletions are
publications of that stream, so the index follows them too. Appending a message does not touch
the index, so a burst of messages costs it nothing. If the history deletes texts, they are
deleted from the index at once, without a search.

An operator can remove the file at any time; the next search builds the index again. If the index
was made by an older fastchat, by other rules for words (`fastchat.history.words`), the thread of
the index builds it again in the background, room by room. A search does not wait for that, except
in a room whose turn has not come: it then brings that room up to date itself.

All access to the index runs on one thread, so that the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import apsw

from fastchat.database import select
from fastchat.directory import create_private
from fastchat.errors import HistoryError
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK
from fastchat.history.words import FOLDING, words_of

__all__ = ["SearchIndex", "matcher", "terms_of", "to_match"]

logger = logging.getLogger("fastchat.history")

FILE_NAME = "search.db"
#: Publications that one transaction of the index takes over; they are in memory at once.
_CHUNK = 500
#: How long the thread works in the background before it pauses for as long: a part of a turn that
#: people do not notice, and long enough for a chunk.
_STEP_S = 0.02
#: The index is damaged or is no database, its file was removed while it was open
#: (ReadOnlyError), or its tables are missing (SQLError). In each case it is built again.
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.SQLError)
#: The index's thread waits at most this long for another program that has locked a file.
_BUSY_TIMEOUT_MS = 1000
#: Further terms of a query are ignored: each term makes a search slower.
MAX_TERMS = 16

# The texts are stored as their words, with a space between two words, so FTS5 only has to divide
# them. Its own tokenizers find no words in scripts without spaces, and fold less.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS indexed (
    room INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS folding (name TEXT NOT NULL) STRICT;
"""
_START_AGAIN = """
DROP TABLE IF EXISTS texts;
CREATE VIRTUAL TABLE texts USING fts5 (text, tokenize = "ascii", columnsize = 0);
INSERT INTO texts (texts, rank) VALUES ('secure-delete', 1);
UPDATE indexed SET offset = 0;
DELETE FROM folding;
"""

_TERM = re.compile(r'"([^"]*)"(\*?)|(\S+)')


def terms_of(query: str) -> list[tuple[list[str], bool]]:
    """The words and phrases of a query, each as a list of words, and whether it is a prefix."""
    terms = []
    for phrase, phrase_star, word in _TERM.findall(query):
        if words := words_of(phrase or word):
            terms.append((words, bool(phrase_star) or word.endswith(("*", "＊"))))
    return terms[:MAX_TERMS]


def to_match(query: str) -> str:
    """The FTS5 query for a user's query of words, "quoted phrases" and prefix* terms.

    A text matches if it has all terms, in any order. All other syntax of FTS5 is taken as text.
    A query without any word gives an empty string.
    """
    return " ".join(
        '"{}"{}'.format(" ".join(words), "*" if prefix else "") for words, prefix in terms_of(query)
    )


def matcher(query: str) -> Callable[[str], bool]:
    """A function that says whether a text matches a query, by the same rules as `to_match`."""
    terms = terms_of(query)

    def matches(text: str) -> bool:
        words = words_of(text)
        return bool(terms) and all(_occurs(term, words, prefix) for term, prefix in terms)

    return matches


def _occurs(term: list[str], words: list[str], prefix: bool) -> bool:
    """Whether a term's words occur in a row; with `prefix`, the last one as part of a word."""
    *first, last = term
    size = len(first)
    return any(
        words[at : at + size] == first
        and (words[at + size] == last or (prefix and words[at + size].startswith(last)))
        for at in range(len(words) - size)
    )


class SearchIndex:
    """The index of `history.db` in `directory`. It must be closed before the history is.

    `check` raises HistoryError if the directory is not the one in which the history was opened.
    Then nothing in it is read or changed.

    Public methods are called on the event loop; those below "On the thread" run on the
    index's own thread, which alone uses the two connections.
    """

    def __init__(self, directory: Path, check: Callable[[], None]) -> None:
        self._check = check
        self._history_file = directory / "history.db"
        self._file = directory / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastchat-search")
        self._is_closing = False
        self._index: apsw.Connection | None = None
        self._history: apsw.Connection | None = None
        #: The numbers of rooms that may have to be brought up to date in the background.
        self._behind: list[int] = []
        if self._file.exists():
            self._thread.submit(self._begin_catching_up)

    async def search(self, room: int, query: str, limit: int) -> list[int]:
        """The offsets of the newest `limit` messages of a room that match, newest first.

        `room` is the room's number. Raises apsw.Error if a file cannot be read, and HistoryError
        as `check` does.
        """
        match = to_match(query)
        if not match:
            return []
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._search, room, match, limit)

    def erase(self, first: int, last: int) -> None:
        """Delete the texts from key `first` to `last`, which the history has deleted.

        It returns at once. If the index cannot be written, that is logged, and the next search
        in the room deletes the texts.
        """
        self._thread.submit(self._erase, first, last)

    def close(self) -> None:
        """Close the files once all searches and deletions have ended, and stop the thread.

        If the index is being built, the next start continues.
        """
        self._is_closing = True
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    # On the thread

    def _search(self, room: int, match: str, limit: int) -> list[int]:
        self._check()
        try:
            return self._search_in(*self._connect(), room, match, limit)
        except _DAMAGED:
            self._discard_index()
            return self._search_in(*self._connect(), room, match, limit)

    def _search_in(
        self, index: apsw.Connection, history: apsw.Connection, room: int, match: str, limit: int
    ) -> list[int]:
        while not self._follow(index, history, room):
            pass
        base = room << OFFSET_BITS
        rows = select(
            index,
            "SELECT rowid FROM texts WHERE texts MATCH ? AND rowid BETWEEN ? AND ? "
            "ORDER BY rowid DESC LIMIT ?",
            match,
            base,
            base | OFFSET_MASK,
            limit,
        )
        return [key & OFFSET_MASK for (key,) in rows]

    def _begin_catching_up(self) -> None:
        """Begin to bring all rooms up to date in which somebody has searched before."""
        try:
            index, _ = self._connect()
            self._behind = [room for (room,) in select(index, "SELECT room FROM indexed")]
        except apsw.Error:
            return  # the next search finds the same error, and deals with it
        self._catch_up()

    def _catch_up(self) -> None:
        """Take the next step of bringing rooms up to date, and leave the others to later calls.

        Searches and deletions that were asked for in the meantime come before the next call.
        """
        begun = time.monotonic()
        try:
            while self._behind and time.monotonic() < begun + _STEP_S:
                if self._is_closing:
                    return
                if self._follow(*self._connect(), self._behind[-1]):
                    self._behind.pop()
        except apsw.Error as error:
            logger.warning(
                "the search index cannot be updated in the background, so the next search in a "
                "room can take longer: %s",
                error,
            )
            return
        if self._behind:
            time.sleep(_STEP_S)  # the thread and the event loop share one lock, and the disk
            with suppress(RuntimeError):  # the index was closed in the meantime
                self._thread.submit(self._catch_up)

    def _follow(self, index: apsw.Connection, history: apsw.Connection, room: int) -> bool:
        """Bring the index of a room nearer to the room's present state, by `_CHUNK` publications.

        Returns whether the index has everything.
        """
        base = room << OFFSET_BITS
        found = select(history, "SELECT epoch, head FROM streams WHERE number = ?", room)
        epoch, head = found[0] if found else ("", 0)
        known = select(index, "SELECT epoch, offset FROM indexed WHERE room = ?", room)
        at = known[0][1] if known and known[0][0] == epoch else 0
        if at > head:  # an older snapshot of the history was restored, without the index
            at = 0
        if at == 0:
            index.execute(
                "DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (base, base | OFFSET_MASK)
            )
        if at < head:
            rows = select(
                history,
                "SELECT key, kind, text, target FROM publications "
                "WHERE key > ? AND key <= ? ORDER BY key LIMIT ?",
                base + at,
                base + head,
                _CHUNK,
            )
            at = rows[-1][0] & OFFSET_MASK if rows else head
            with index:
                for key, kind, text, target in rows:
                    self._apply(index, history, key if kind == 0 else base + target, text, kind)
                index.execute(
                    "INSERT OR REPLACE INTO indexed (room, epoch, offset) VALUES (?, ?, ?)",
                    (room, epoch, at),
                )
            if at < head:
                return False
        statement = "SELECT min(key) FROM publications WHERE key > ? AND key <= ?"
        ((oldest,),) = select(history, statement, base, base + head)
        first_kept = base + head + 1 if oldest is None else oldest
        index.execute("DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (base, first_kept - 1))
        return True

    def _apply(
        self, index: apsw.Connection, history: apsw.Connection, key: int, text: str, kind: int
    ) -> None:
        """Index one publication; `key` is that of the message that it is or changes."""
        if kind == 3:  # a reaction changes no text
            return
        if kind != 0:  # an edit or a deletion: the message's row has its present text, if any
            index.execute("DELETE FROM texts WHERE rowid = ?", (key,))
            found = select(history, "SELECT text FROM publications WHERE key = ?", key)
            text = found[0][0] if found else ""
        if text:
            index.execute(
                "INSERT OR REPLACE INTO texts (rowid, text) VALUES (?, ?)",
                (key, " ".join(words_of(text))),
            )

    def _erase(self, first: int, last: int) -> None:
        try:
            self._check()
            index, _ = self._connect()
            index.execute("DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (first, last))
        except _DAMAGED:
            self._discard_index()
        except (apsw.Error, HistoryError) as error:
            logger.warning(
                "a deleted text stays in the search index until the next search in its room: %s",
                error,
            )

    def _connect(self) -> tuple[apsw.Connection, apsw.Connection]:
        if self._history is None:
            self._history = apsw.Connection(
                str(self._history_file), flags=apsw.SQLITE_OPEN_READWRITE
            )
            self._history.set_busy_timeout(_BUSY_TIMEOUT_MS)
            self._history.pragma("query_only", True)
        if self._index is None:
            try:
                self._index = _open_index(self._file)
            except _DAMAGED:
                self._discard_index()
                self._index = _open_index(self._file)
        return self._index, self._history

    def _discard_index(self) -> None:
        logger.warning("the search index is missing or damaged and will be rebuilt")
        if self._index is not None:
            self._index.close()
            self._index = None
        for name in (FILE_NAME, FILE_NAME + "-journal"):
            with suppress(OSError):  # a file that cannot be removed is found damaged again
                self._file.with_name(name).unlink()

    def _disconnect(self) -> None:
        for connection in (self._index, self._history):
            if connection is not None:
                connection.close()


def _open_index(file: Path) -> apsw.Connection:
    try:
        create_private(file)
    except OSError as error:
        raise apsw.CantOpenError(f"{file} cannot be created: {error.strerror}") from None
    index = apsw.Connection(str(file))
    index.set_busy_timeout(_BUSY_TIMEOUT_MS)
    index.pragma("secure_delete", True)
    # A lost index is built again, so it is not worth a sync.
    index.pragma("journal_mode", "truncate")
    index.pragma("synchronous", "OFF")
    index.execute(_SCHEMA)
    made_by = select(index, "SELECT name FROM folding")
    if made_by != [(FOLDING,)]:
        if select(index, "SELECT 1 FROM indexed LIMIT 1"):
            logger.info(
                "the search index was made by an older or newer version and is being built again"
            )
        with index:
            index.execute(_START_AGAIN)
            index.execute("INSERT INTO folding (name) VALUES (?)", (FOLDING,))
    return index
