"""Migrates histories and exports of an earlier version, by replacing authors and names by users.

In the first version, a publication had an author, which was a credential and not public, and a
reaction had only the name of its user. Now publications and reactions have the user's public id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import apsw
import orjson

from fastchat.database import select
from fastchat.history.rows import OFFSET_BITS, OFFSET_MASK, dump_reactions
from fastchat.protocol import Reactor
from fastchat.protocol.users import import_of

__all__ = ["name_users"]

#: Messages with reactions that are in memory at once.
_STEP = 200
#: Users whose ids are in memory meanwhile.
_CACHED = 4096
_LAST_KEY = (1 << 63) - 1


def name_users(
    db: apsw.Connection,
    user_of: Callable[[str], str],
    ranges: Sequence[tuple[int, int]] = ((0, _LAST_KEY),),
) -> None:
    """Replace the authors of publications, and the names in reactions; call it in a transaction.

    `user_of` makes a public id of a credential. `ranges` are the first and the last key of each
    range of publications; by default, it is all of them. A publication that was imported from
    another program has no author, so its user is derived from the name. The same is true for a
    reaction whose `react` is not stored any more. The memory for this does not grow with the number
    of publications.
    """
    user_of = lru_cache(maxsize=_CACHED)(user_of)  # most users have many publications
    with _function(db, "user_of", lambda author, name: user_of(author or import_of(name))):
        db.executemany(
            "UPDATE publications SET user = user_of(user, username) WHERE key BETWEEN ? AND ?",
            ranges,
        )
    db.execute(f"CREATE INDEX reacts ON publications (key >> {OFFSET_BITS}, target) WHERE kind = 3")
    for first, last in ranges:
        _name_reactors(db, user_of, first, last)
    db.execute("DROP INDEX reacts")


def _name_reactors(
    db: apsw.Connection, user_of: Callable[[str], str], first: int, last: int
) -> None:
    while rows := select(
        db,
        "SELECT key, reactions FROM publications "
        "WHERE key BETWEEN ? AND ? AND reactions IS NOT NULL ORDER BY key LIMIT ?",
        first,
        last,
        _STEP,
    ):
        db.executemany(
            "UPDATE publications SET reactions = ? WHERE key = ?",
            [(_named(db, user_of, key, orjson.loads(names)), key) for key, names in rows],
        )
        first = rows[-1][0] + 1


def _named(
    db: apsw.Connection, user_of: Callable[[str], str], key: int, reactions: dict[str, list[Any]]
) -> str | None:
    """The reactions of the message at `key`, with a user for each name.

    A reaction is a name in the file of a history, or an empty user and a name in an import.
    """
    users = {
        (emoji, name): user
        for emoji, name, user in select(
            db,
            "SELECT emoji, username, user FROM publications "  # noqa: S608
            f"WHERE kind = 3 AND key >> {OFFSET_BITS} = ? AND target = ? ORDER BY key",
            key >> OFFSET_BITS,
            key & OFFSET_MASK,
        )
    }
    reactors: dict[str, tuple[Reactor, ...]] = {}
    for emoji, names in reactions.items():
        by_user: dict[str, str] = {}
        for each in names:
            name = each if type(each) is str else each[1]
            user = users.get((emoji, name)) or user_of(import_of(name))
            # The user reacted under another name before; the last reaction counts.
            by_user.pop(user, None)
            by_user[user] = name
        reactors[emoji] = tuple(map(Reactor._make, by_user.items()))
    return dump_reactions(reactors)


@contextmanager
def _function(db: apsw.Connection, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Add a function to SQL for the length of a `with` block."""
    db.create_scalar_function(name, function, deterministic=True)
    try:
        yield
    finally:
        db.create_scalar_function(name, None)
