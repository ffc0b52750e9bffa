"""Full-text search in the ledger, over the messages of rooms.

The table `texts` has the words of messages, by the rules of `fastchat.history.words`, in the form
that PostgreSQL indexes. A search in a room first reads the room's stream from where the table
stopped, so a message that nobody searches for costs nothing. Several machines can do it at the same
time: one of them works, and the others wait. A commit that changes or deletes a text deletes its
words at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import asyncpg

from fastchat.history.search import matcher, terms_of
from fastchat.history.words import FOLDING, words_of
from fastchat.ledger.rows import COLUMNS, publication_of, unescaped
from fastchat.protocol import Message

__all__ = ["Search"]

#: Publications whose words one transaction takes over.
_CHUNK = 500
#: A longer word is cut, in texts and in queries. PostgreSQL's limit is 2,046 bytes.
_MAX_WORD_CHARS = 200
#: PostgreSQL stores no higher position.
_MAX_POSITION = 16_383
_ROOM = "SELECT number, head FROM rooms WHERE name = $1"
_INDEXED = """
INSERT INTO indexed (room, upto, rules) VALUES ($1, 0, $2)
ON CONFLICT (room) DO UPDATE SET room = EXCLUDED.room RETURNING upto, rules
"""
#: The messages in a part of a stream, and those that are changed in it, with their present texts.
_PART = """
WITH part AS (
    SELECT p."offset", p.kind, p.target FROM publications p
    WHERE p.room = $1 AND p."offset" > $2 ORDER BY p."offset" LIMIT $3
)
SELECT part."offset", m."offset", m.text FROM part
LEFT JOIN publications m ON m.room = $1 AND part.kind < 3
    AND m."offset" = CASE part.kind WHEN 0 THEN part."offset" ELSE part.target END
ORDER BY 1
"""
_STORE = """
INSERT INTO texts (room, "offset", words)
SELECT $1, o, w::tsvector FROM unnest($2::bigint[], $3::text[]) AS u(o, w)
ON CONFLICT (room, "offset") DO UPDATE SET words = EXCLUDED.words
"""
_SEARCH = f"""
SELECT {COLUMNS} FROM texts t JOIN publications p ON p.room = t.room AND p."offset" = t."offset"
WHERE t.room = $1 AND t.words @@ $2::text::tsquery AND p.text <> ''
ORDER BY t."offset" DESC LIMIT $3
"""  # noqa: S608

Helper = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


class Search:
    """Searches with a connection of `helper`, which nobody waits for."""

    def __init__(self, helper: Helper) -> None:
        self._helper = helper

    async def search(self, room: str, query: str, limit: int) -> list[Message]:
        """Do what `History.search` does. Raises LedgerError."""
        terms = terms_of(query)
        if not terms:
            return []
        async with self._helper() as db:
            known = await db.fetchrow(_ROOM, room)
            if known is None:
                return []
            number, head = known
            while not await self._follow(db, number, head):
                pass
            rows = await db.fetch(_SEARCH, number, _query(number, terms), limit)
        matches = matcher(query)
        found = (publication_of(room, row) for row in rows)
        return [each for each in found if isinstance(each, Message) and matches(each.text)]

    async def _follow(self, db: asyncpg.Connection, room: int, head: int) -> bool:
        """Bring the words of a room nearer to `head`; returns whether they have reached it."""
        async with db.transaction():
            upto, rules = await db.fetchrow(_INDEXED, room, FOLDING)
            if _is_newer(FOLDING, rules):
                await db.execute("DELETE FROM texts WHERE room = $1", room)
                upto = 0
            if upto >= head:
                return True
            rows = await db.fetch(_PART, room, upto, _CHUNK)
            upto = rows[-1][0] if rows else head
            texts = {at: unescaped(text) for _, at, text in rows if text}
            await db.execute(
                _STORE, room, list(texts), [_vector(room, text) for text in texts.values()]
            )
            await db.execute(
                "UPDATE indexed SET upto = $2, rules = $3 WHERE room = $1",
                room,
                upto,
                max(FOLDING, rules, key=_version),
            )
        return bool(upto >= head)


def _version(rules: str) -> tuple[int, ...]:
    return tuple(map(int, rules.replace(".", " ").split()))


def _is_newer(rules: str, others: str) -> bool:
    """Whether rules for words are newer. Older ones read what newer ones have written."""
    return _version(rules) > _version(others)


def _vector(room: int, text: str) -> str:
    """The words of a text as a tsvector, with a word that only texts of this room have.

    Words consist of letters, marks and digits, so that nothing has to be escaped.
    """
    words = (
        f"'{word[:_MAX_WORD_CHARS]}':{min(position, _MAX_POSITION)}"
        for position, word in enumerate(words_of(text), 1)
    )
    return " ".join((_word_of_room(room), *words))


def _query(room: int, terms: Sequence[tuple[Sequence[str], bool]]) -> str:
    """The tsquery for terms; see `terms_of`."""
    parts = [_word_of_room(room)]
    for words, is_prefix in terms:
        phrase = " <-> ".join(f"'{word[:_MAX_WORD_CHARS]}'" for word in words)
        parts.append(f"({phrase}{':*' if is_prefix else ''})")
    return " & ".join(parts)


def _word_of_room(room: int) -> str:
    return f"'#{room}'"
