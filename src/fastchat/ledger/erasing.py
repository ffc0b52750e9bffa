"""Deletes rooms, and what users have said, from the ledger.

Theory
------
A deleted room loses its publications at once, because another row has its name from then on. They
are deleted in small steps (`purge`), by whichever machine comes first.

Nothing in the ledger leads from a user to their publications. So a search for them goes through all
publications, in the order of the numbers of rooms. Each step is one short transaction, so nobody
waits for it. A cursor has the number of a room and an offset.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from fastchat.history import Cursor, Erasure
from fastchat.history.epochs import epoch_of, new_generation
from fastchat.ledger.connecting import fetch
from fastchat.ledger.rows import COLUMNS, escaped, publication_of
from fastchat.ledger.session import Session, Store
from fastchat.protocol import Publication
from fastchat.protocol.names import name_key
from fastchat.protocol.users import ERASED_NAME, ERASED_USER

__all__ = ["Deletion", "Eraser", "new_erasure", "purge"]

#: Publications that one step looks at, and rows that one step deletes.
LOOKED_AT, DELETED_AT_ONCE = 500, 1000
#: Steps that delete rooms, in a second at most.
PURGES = 8
_DELETE = "SELECT number, line FROM delete_room_1($1, $2, $3, $4)"
_RELEASE = "SELECT release_1($1, $2)"
_PURGE = "SELECT purge_1($1)"
_ERASE = """
SELECT room, "offset", messages, reactions, names, lines
FROM erase_1($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_SAID = f"""
WITH part AS MATERIALIZED (
    SELECT * FROM publications p WHERE (p.room, p."offset") > ($2, $3)
    ORDER BY p.room, p."offset" LIMIT $4
), last AS (
    SELECT room, "offset" FROM part ORDER BY room DESC, "offset" DESC LIMIT 1
)
SELECT l.room, l."offset", p.room, r.name, {COLUMNS} FROM last l
LEFT JOIN (part p JOIN rooms r ON r.number = p.room) ON p."user" = $1
ORDER BY p.room, p."offset" LIMIT $5
"""  # noqa: S608


class Deletion(NamedTuple):
    """A deleted room: the number that it had, if it had one, and the notice, if it had anything."""

    number: int | None
    notice: str | None


class Eraser:
    """All methods raise LedgerError; then the call can have had its effect."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def delete_room(self, room: str) -> Deletion:
        """Delete a room and its options. `release` follows."""
        epoch = epoch_of(new_generation(), room)
        (row,) = await self._session.store(_DELETE, room, name_key(room), epoch)
        return Deletion(*row)

    async def release(self, number: int) -> None:
        """Release the files that messages of a deleted room have linked to, in steps."""
        released = DELETED_AT_ONCE
        while released == DELETED_AT_ONCE:
            async with self._session.helping() as db:
                ((released,),) = await fetch(db, _RELEASE, number, DELETED_AT_ONCE)

    async def published_by(
        self, user: str, after: Cursor | None, limit: int
    ) -> tuple[list[Publication], Cursor | None]:
        """Do what `History.published_by` does."""
        async with self._session.helping() as db:
            rows = await fetch(db, _SAID, escaped(user), *_place_after(after), LOOKED_AT, limit)
        if not rows:
            return [], None
        found = [publication_of(row[3], row[4:]) for row in rows if row[2] is not None]
        if len(found) < limit:
            return found, [rows[0][0], rows[0][1]]
        return found, [rows[-1][2], found[-1].offset]

    async def erase(
        self, store: Store, user: str, erasure: int, after: Cursor | None
    ) -> tuple[Erasure, Sequence[str], Cursor | None]:
        """Do a step of `History.erase_user`, by a connection that `Session.storing` has made.

        The second result has the notices. `erasure` is a number of `new_erasure`.
        """
        (row,) = await store(
            _ERASE,
            escaped(user),
            orjson.dumps(user).decode(),  # as `dump_reactions` has it
            ERASED_USER,
            ERASED_NAME,
            erasure,
            *_place_after(after),
            LOOKED_AT,
        )
        room, offset, messages, reactions, names, lines = row
        if room is None:
            return Erasure(0, 0, frozenset()), (), None
        return Erasure(messages, reactions, frozenset(names or ())), lines or (), [room, offset]


def new_erasure() -> int:
    """A number that no other erasure has."""
    return secrets.randbits(62)


def _place_after(after: Cursor | None) -> tuple[int, int]:
    if after is None:
        return 0, 0
    room, offset = map(int, after)
    return room, offset


async def purge(session: Session) -> None:
    """Delete some of what is left of deleted rooms. Raises LedgerError."""
    for _ in range(PURGES):
        async with session.helping() as db:
            ((has_more,),) = await fetch(db, _PURGE, DELETED_AT_ONCE)
        if not has_more:
            break
