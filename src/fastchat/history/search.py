"""Full-text search (SQLite's FTS5) over the messages of rooms.

The index is in a file of its own, and all of it can be derived from the history. A search in a
room first reads the room's stream from where the index stopped. Edits and deletions are
publications of that stream, so the index follows them too. Appending a message does not touch
the index, so a burst of messages costs it nothing. If the history deletes texts, they are
deleted from the index at once, without a search.

An operator can remove the file at any time; the next search builds the index again.

All access to the index runs on one thread, so that the event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

import apsw

from fastchat.database import select
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK

__all__ = ["SearchIndex", "matcher", "to_match"]

logger = logging.getLogger("fastchat.history")

FILE_NAME = "search.db"
#: Publications that one transaction of the index takes over; they are in memory at once.
_CHUNK = 500
#: The index is damaged or is no database, its file was removed while it was open
#: (ReadOnlyError), or its tables are missing (SQLError). In each case it is built again.
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.ReadOnlyError, apsw.SQLError)
#: Further terms of a query are ignored: each term makes a search slower.
MAX_TERMS = 16

_TOKENIZER = ("unicode61", ["remove_diacritics", "2"])
_SCHEMA = """
CREATE TABLE IF NOT EXISTS indexed (
    room INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER NOT NULL
) STRICT;
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (
    text, tokenize = "unicode61 remove_diacritics 2"  -- as _TOKENIZER
);
INSERT INTO texts (texts, rank) VALUES ('secure-delete', 1);
"""

_TERM = re.compile(r'"([^"]*)"(\*?)|(\S+)')


def _terms(query: str) -> list[tuple[str, bool]]:
    """The words and phrases of a query, and whether each is a prefix."""
    terms = []
    for phrase, phrase_star, word in _TERM.findall(query.replace("\0", " ")):
        text = phrase or word.rstrip("*")
        if _words(text):
            terms.append((text, bool(phrase_star) or word.endswith("*")))
    return terms[:MAX_TERMS]


def to_match(query: str) -> str:
    """The FTS5 query for a user's query of words, "quoted phrases" and prefix* terms.

    A text matches if it has all terms, in any order. All other syntax of FTS5 is taken as text.
    A query without any word gives an empty string.
    """
    return " ".join(
        '"{}"{}'.format(text.replace('"', '""'), "*" if prefix else "")
        for text, prefix in _terms(query)
    )


def matcher(query: str) -> Callable[[str], bool]:
    """A function that says whether a text matches a query, by the same rules as `to_match`."""
    terms = [(_words(text), prefix) for text, prefix in _terms(query)]

    def matches(text: str) -> bool:
        words = _words(text)
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


def _words(text: str) -> list[str]:
    """The words of a text as FTS5's tokenizer makes them: without case and diacritics."""
    words = _tokenizer()(
        text.encode(),
        apsw.FTS5_TOKENIZE_DOCUMENT,
        None,
        include_offsets=False,
        include_colocated=False,
    )
    return cast(list[str], words)


@cache
def _tokenizer() -> apsw.FTS5Tokenizer:
    return apsw.Connection(":memory:").fts5_tokenizer(*_TOKENIZER)


class SearchIndex:
    """The index of `history.db` in `directory`. It must be closed before the history is.

    Public methods are called on the event loop; those below "On the thread" run on the
    index's own thread, which alone uses the two connections.
    """

    def __init__(self, directory: Path) -> None:
        self._history_file = directory / "history.db"
        self._file = directory / FILE_NAME
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fastchat-search")
        self._index: apsw.Connection | None = None
        self._history: apsw.Connection | None = None

    async def search(self, room: int, query: str, limit: int) -> list[int]:
        """The offsets of the newest `limit` messages of a room that match, newest first.

        `room` is the room's number. Raises apsw.Error if a file cannot be read.
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
        """Close the files once all searches and deletions have ended, and stop the thread."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    # On the thread

    def _search(self, room: int, match: str, limit: int) -> list[int]:
        try:
            return self._search_in(*self._connect(), room, match, limit)
        except _DAMAGED:
            self._discard_index()
            return self._search_in(*self._connect(), room, match, limit)

    def _search_in(
        self, index: apsw.Connection, history: apsw.Connection, room: int, match: str, limit: int
    ) -> list[int]:
        self._follow(index, history, room)
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

    def _follow(self, index: apsw.Connection, history: apsw.Connection, room: int) -> None:
        """Bring the index of a room up to the room's present state."""
        base = room << OFFSET_BITS
        ((epoch, head),) = select(history, "SELECT epoch, head FROM rooms WHERE number = ?", room)
        known = select(index, "SELECT epoch, offset FROM indexed WHERE room = ?", room)
        at = known[0][1] if known and known[0][0] == epoch else 0
        if at == 0:
            index.execute(
                "DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (base, base | OFFSET_MASK)
            )
        while at < head:
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
        statement = "SELECT min(key) FROM publications WHERE key > ? AND key <= ?"
        ((oldest,),) = select(history, statement, base, base + head)
        first_kept = base + head + 1 if oldest is None else oldest
        index.execute("DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (base, first_kept - 1))

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
            index.execute("INSERT OR REPLACE INTO texts (rowid, text) VALUES (?, ?)", (key, text))

    def _erase(self, first: int, last: int) -> None:
        try:
            index, _ = self._connect()
            index.execute("DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (first, last))
        except _DAMAGED:
            self._discard_index()
        except apsw.Error as error:
            logger.warning(
                "a deleted text stays in the search index until the next search in its room: %s",
                error,
            )

    def _connect(self) -> tuple[apsw.Connection, apsw.Connection]:
        if self._history is None:
            self._history = apsw.Connection(
                str(self._history_file), flags=apsw.SQLITE_OPEN_READWRITE
            )
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
    index = apsw.Connection(str(file))
    index.pragma("secure_delete", True)
    # A lost index is built again, so it is not worth a sync.
    index.pragma("journal_mode", "truncate")
    index.pragma("synchronous", "OFF")
    index.execute(_SCHEMA)
    return index
