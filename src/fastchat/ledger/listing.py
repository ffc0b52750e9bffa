"""Lists of what is in the ledger: rooms, users, and bans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastchat.history.epochs import epoch_of
from fastchat.ledger.connecting import fetch
from fastchat.ledger.identity import epoch_under
from fastchat.ledger.rows import escaped, unescaped
from fastchat.ledger.session import Session
from fastchat.protocol import timestamp_of
from fastchat.rooms.administration import Ban, Presence, StoredRoom
from fastchat.rooms.removals import ALL_ROOMS

__all__ = ["Listing"]

#: Every room's name is before this one, if it begins with what is before this character.
_LAST = "\U0010ffff"
#: The rooms with users are found one by one: a room can have very many.
_ROOMS = """
WITH RECURSIVE present(room) AS (
    (
        SELECT n.room FROM names n WHERE n.room >= $1::text AND n.room > $2::text
            AND n.room < $3::text ORDER BY n.room LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT n.room FROM names n WHERE n.room > p.room AND n.room < $3::text
        ORDER BY n.room LIMIT 1
    ) FROM present p WHERE p.room IS NOT NULL
), found AS (
    SELECT u.name FROM (
        (
            SELECT r.name FROM rooms r WHERE r.name >= $1::text AND r.name > $2::text
                AND r.name < $3::text AND r.head > 0 ORDER BY r.name LIMIT $4
        )
        UNION
        (
            SELECT o.room FROM options o WHERE o.room >= $1::text AND o.room > $2::text
                AND o.room < $3::text ORDER BY o.room LIMIT $4
        )
        UNION
        (SELECT p.room FROM present p WHERE p.room IS NOT NULL LIMIT $4)
    ) AS u(name) ORDER BY u.name LIMIT $4
)
SELECT f.name, r.epoch, r.token, coalesce(r.head, 0),
    (SELECT count(*) FROM names n WHERE n.room = f.name),
    (SELECT p.timestamp FROM publications p WHERE p.room = r.number AND p."offset" = r.head),
    coalesce((r.head - r.first + 1) * (
        SELECT avg(
            100 + octet_length(coalesce(p.text, '')) + octet_length(coalesce(p.reactions, ''))
        ) FROM (
            SELECT text, reactions FROM publications WHERE room = r.number
            ORDER BY "offset" DESC LIMIT 20
        ) AS p
    ), 0)::bigint
FROM found f LEFT JOIN rooms r ON r.name = f.name ORDER BY f.name
"""
_PRESENCE = """
SELECT n.room, n."user", n.name, coalesce((
    SELECT sum(a.connections) FROM attendance a
    WHERE a.room = n.room AND a.key = n.key AND a.until IS NULL
), 0)::int, extract(epoch FROM n.since)::float8 FROM names n
"""
_USERS = f"{_PRESENCE} WHERE n.room = $1 ORDER BY n.serial"
_FIND = f'{_PRESENCE} WHERE n."user" = $1 ORDER BY n.room, n.serial'
_BANS = """
SELECT "user", room, extract(epoch FROM until)::float8 FROM removals
WHERE until > clock_timestamp() ORDER BY until, room, "user"
"""


class Listing:
    """Reads lists. All methods raise LedgerError.

    `rooms` and `users` use the connection for work that takes long, because a room can have many
    users. The number of a user's connections to another machine can be a second old. After a crash
    of PostgreSQL, users have come when their machines have said them again.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def rooms(self, prefix: str, after: str, limit: int) -> list[StoredRoom]:
        """Do what `Administration.rooms` does; the sizes are estimated by the newest messages."""
        async with self._session.helping() as db:
            rows = await fetch(db, _ROOMS, prefix, after, prefix + _LAST, limit)
        identity = self._session.identity
        found = []
        for name, epoch, own, head, online, last_at, size in rows:
            epoch = epoch_of(identity.generation, name) if epoch is None else epoch
            shown = epoch_under(identity.token, epoch, own or "")
            found.append(StoredRoom(name, shown, head, online, last_at, size))
        return found

    async def users(self, room: str) -> list[Presence]:
        """Do what `Administration.users` does."""
        async with self._session.helping() as db:
            return list(map(_presence, await fetch(db, _USERS, escaped(room))))

    async def find_user(self, user: str) -> list[Presence]:
        """Do what `Administration.find_user` does."""
        return list(map(_presence, await self._session.fetch(_FIND, escaped(user))))

    async def bans(self) -> list[Ban]:
        """Do what `Administration.bans` does."""
        return [
            Ban(unescaped(user), None if room == ALL_ROOMS else room, timestamp_of(until_s))
            for user, room, until_s in await self._session.fetch(_BANS)
        ]


def _presence(row: Sequence[Any]) -> Presence:
    room, user, name, connections, since_s = row
    return Presence(
        unescaped(room), unescaped(user), unescaped(name), connections, timestamp_of(since_s)
    )
