"""Deletes rooms, and what a user has said, from the file of a history.

Theory
------
A room that is deleted loses its name at once, so nobody can read it any more. Its publications are
deleted in small steps (`prune`), because a room can have very many. A new room gets the name, with
another number and another epoch.

Nothing in the file leads from a user to their publications. So a search for them goes through the
keys of all rooms, in steps that each take a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apsw
import orjson

from fastchat.database import select
from fastchat.history import Erasure
from fastchat.history.changes import without_user
from fastchat.history.epochs import epoch_of, new_generation
from fastchat.history.rows import (
    FIRST_NAME,
    LINK,
    OFFSET_BITS,
    OFFSET_MASK,
    SELECT,
    dump_reactions,
    message_of,
    publication_of,
)
from fastchat.history.schema import add_look
from fastchat.history.tails import KnownRooms, Room
from fastchat.protocol import Message, Publication
from fastchat.protocol.users import ERASED_NAME, ERASED_USER

__all__ = ["Eraser"]

#: Publications that one step looks at, and that one step deletes of a room without a name.
LOOKED_AT = 2000
DELETED_AT_ONCE = 512
#: The name of a deleted room is this and its number.
_DELETED = "\x01"


class Eraser:
    """Each method must be called within a transaction.

    `note_erased` is called with a room and the first and the last offset whose texts are gone, and
    `note_links` with a room's name, an offset, and the text before and after a change of links.
    """

    def __init__(
        self,
        db: apsw.Connection,
        rooms: KnownRooms,
        note_erased: Callable[[Room, int, int], object],
        note_links: Callable[[str, int, str, str], object],
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._note_erased = note_erased
        self._note_links = note_links

    def delete_room(self, room: Room) -> bool:
        """Delete a room, and begin it anew; returns False if nothing was published in it."""
        if room.number is None:
            return False
        for key, text in select(
            self._db,
            "SELECT key, text FROM publications "
            "WHERE key BETWEEN ? AND ? AND kind = 0 AND instr(text, ?)",
            *(room.key(0), room.key(OFFSET_MASK), LINK),
        ):
            self._note_links(room.name, key & OFFSET_MASK, text, "")
        self._note_erased(room, 0, room.head)
        db, number = self._db, room.number
        db.execute("UPDATE rooms SET name = ? WHERE number = ?", (f"{_DELETED}{number}", number))
        db.execute("DELETE FROM looks WHERE room = ?", (number,))
        db.execute("DELETE FROM ids WHERE room = ?", (number,))
        db.execute(
            "INSERT INTO rooms (name, epoch, least_head) VALUES (?, ?, 0)",
            (room.name, epoch_of(new_generation(), room.name)),
        )
        add_look(db, db.last_insert_rowid(), room.name)
        self._rooms.read_again(room.name)
        return True

    def prune(self) -> None:
        """Delete some publications of a room without a name, and the room after the last one."""
        rows = select(self._db, "SELECT number FROM rooms WHERE name < ? LIMIT 1", FIRST_NAME)
        for (number,) in rows:
            low = number << OFFSET_BITS
            self._db.execute(
                "DELETE FROM publications WHERE key IN ("
                "SELECT key FROM publications WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?)",
                (low, low | OFFSET_MASK, DELETED_AT_ONCE),
            )
            if not self._db.changes():
                self._db.execute("DELETE FROM rooms WHERE number = ?", (number,))

    def published_by(
        self, user: str, after: int, limit: int
    ) -> tuple[list[Publication], int | None]:
        """At most `limit` publications of a user after a key, and the key to go on from."""
        last = self._step(after)
        if last is None:
            return [], None
        found: list[Publication] = []
        statement = f"{SELECT} AND user = ? ORDER BY key LIMIT ?"
        for row in select(self._db, statement, after + 1, last, user, limit):
            if (name := self._name_of(row[0])) is not None:
                found.append(publication_of(name, row))
            if len(found) == limit:
                return found, row[0]
        return found, last

    def erase(self, user: str, after: int) -> tuple[Erasure, int | None]:
        """Erase what a user has said in the publications after a key, as far as one step goes."""
        last = self._step(after)
        if last is None:
            self._db.execute("DELETE FROM ids WHERE user = ?", (user,))
            return Erasure(0, 0, frozenset()), None
        messages = reactions = 0
        touched: set[str] = set()
        for name, row in self._rows_about(user, after + 1, last):
            touched.add(name)
            room = self._rooms.get(name)
            if row[1] == 0:
                message = message_of(name, row)
                if message.user == user:
                    messages += not message.deleted
                    self._erase_message(room, message)
                elif (kept := without_user(message, user)) != message:
                    reactions += 1
                    self._db.execute(
                        "UPDATE publications SET reactions = ? WHERE key = ?",
                        (dump_reactions(kept.reactions), row[0]),
                    )
            else:
                self._db.execute(
                    "UPDATE publications SET user = ?, username = ?, text = NULL WHERE key = ?",
                    (ERASED_USER, ERASED_NAME, row[0]),
                )
        for name in touched:
            self._rooms.read_again(name)
        return Erasure(messages, reactions, frozenset(touched)), last

    def _erase_message(self, room: Room, message: Message) -> None:
        key = room.key(message.offset)
        self._db.execute(
            "UPDATE publications SET user = ?, username = ?, text = '', id = NULL, edited = NULL, "
            "deleted = 1, reactions = NULL WHERE key = ?",
            (ERASED_USER, ERASED_NAME, key),
        )
        self._db.execute(
            "UPDATE publications SET text = NULL "
            "WHERE key BETWEEN ? AND ? AND kind = 1 AND target = ?",
            (key, room.key(room.head), message.offset),
        )
        self._note_erased(room, message.offset, message.offset)
        if LINK in message.text:
            self._note_links(room.name, message.offset, message.text, "")

    def _rows_about(
        self, user: str, first: int, last: int
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The rows of a user's publications, and of messages that the user may have reacted to."""
        statement = f"{SELECT} AND (user = ? OR instr(reactions, ?)) ORDER BY key"
        needle = orjson.dumps(user).decode()  # as `dump_reactions` has it
        for row in select(self._db, statement, first, last, user, needle):
            if (name := self._name_of(row[0])) is not None:
                yield name, row

    def _step(self, after: int) -> int | None:
        """The last key that a step looks at; None if there is none."""
        statement = (
            "SELECT max(key) FROM (SELECT key FROM publications WHERE key > ? ORDER BY key LIMIT ?)"
        )
        ((last,),) = select(self._db, statement, after, LOOKED_AT)
        return None if last is None else int(last)

    def _name_of(self, key: int) -> str | None:
        """The name of a publication's room; None if the room is deleted."""
        statement = "SELECT name FROM rooms WHERE number = ? AND name >= ?"
        rows = select(self._db, statement, key >> OFFSET_BITS, FIRST_NAME)
        return rows[0][0] if rows else None
