"""Reads of the ledger: ends of rooms, what was missed, and pages. Each is one statement.

A read that found the head in one statement and the rows in another could miss publications that
were stored in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from fastchat.history import Page
from fastchat.history.epochs import epoch_of
from fastchat.ledger.appending import State, Target
from fastchat.ledger.identity import Identity, epoch_under
from fastchat.ledger.rows import COLUMNS, publication_of
from fastchat.ledger.streams import Loaded
from fastchat.protocol import Message, Position, Publication
from fastchat.protocol.names import name_key

__all__ = ["Reader"]

_POSITION = """
SELECT r.epoch, r.token, r.head, p.timestamp FROM rooms r
LEFT JOIN publications p ON p.room = r.number AND p."offset" = r.head
WHERE r.name = $1
"""
_SINCE = f"""
SELECT r.epoch, r.token, r.head, {COLUMNS} FROM rooms r
LEFT JOIN LATERAL (
    SELECT * FROM publications p WHERE p.room = r.number AND p."offset" >= $2
    ORDER BY p."offset" LIMIT $3
) p ON true
WHERE r.name = $1 ORDER BY p."offset"
"""  # noqa: S608
_BEFORE = f"""
SELECT {COLUMNS} FROM rooms r JOIN publications p ON p.room = r.number
WHERE r.name = $1 AND p."offset" < $2 AND p.kind = 0 ORDER BY p."offset" DESC LIMIT $3
"""  # noqa: S608
_AFTER = f"""
SELECT {COLUMNS} FROM rooms r JOIN publications p ON p.room = r.number
WHERE r.name = $1 AND p."offset" > $2 AND p.kind = 0 ORDER BY p."offset" LIMIT $3
"""  # noqa: S608
_STATES = f"""
SELECT u.n, p.changed, {COLUMNS}
FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS u(room, target, n)
JOIN rooms r ON r.name = u.room
JOIN publications p ON p.room = r.number AND p."offset" = u.target
"""  # noqa: S608
_LOAD = f"""
SELECT u.n, r.epoch, r.token, r.first, r.head, p.changed, {COLUMNS}
FROM unnest($1::text[]) WITH ORDINALITY AS u(room, n) JOIN rooms r ON r.name = u.room
LEFT JOIN LATERAL (
    SELECT * FROM publications p WHERE p.room = r.number AND p."offset" > r.head - $2
) p ON true
ORDER BY u.n, p."offset"
"""  # noqa: S608
_MISSED = f"""
SELECT r.epoch, r.token, r.first, r.head, p.changed, {COLUMNS} FROM rooms r
LEFT JOIN LATERAL (
    SELECT * FROM publications p WHERE p.room = r.number AND p."offset" > $2
    ORDER BY p."offset" LIMIT $3
) p ON true
WHERE r.name = $1 ORDER BY p."offset"
"""  # noqa: S608
_HEADS = "SELECT name, head FROM rooms WHERE name = ANY ($1::text[])"
_ALIKE = "SELECT name FROM rooms WHERE look = $1 AND head > 0 ORDER BY name <> $2 LIMIT 1"
#: Larger than any offset.
_END = 2**62

Fetch = Callable[..., Awaitable[Sequence[Any]]]


class Reader:
    """Reads the ledger with `fetch`, a query that returns rows. `identity` says what is read.

    The methods do what those of `fastchat.history.History` with the same names do, and raise what
    `fetch` raises.
    """

    def __init__(self, fetch: Fetch, identity: Callable[[], Identity]) -> None:
        self._fetch = fetch
        self._identity = identity

    def _shown(self, epoch: str, own: str = "") -> str:
        """The epoch of a room's row as clients know it."""
        return epoch_under(self._identity().token, epoch, own)

    def _epoch_of_silence(self, room: str) -> str:
        """The epoch of a room in which nothing was published."""
        return self._shown(epoch_of(self._identity().generation, room))

    async def position(self, room: str) -> Position:
        rows = await self._fetch(_POSITION, room)
        if not rows:
            return Position(self._epoch_of_silence(room), 0)
        epoch, own, head, timestamp = rows[0]
        return Position(self._shown(epoch, own), head, timestamp)

    async def since(self, room: str, position: Position, limit: int) -> list[Publication] | None:
        rows = await self._fetch(_SINCE, room, position.offset, min(limit, _END - 2) + 2)
        if not rows:
            is_start = position[:2] == (self._epoch_of_silence(room), 0)
            return [] if is_start else None
        epoch, own, head = rows[0][:3]
        missing = head - position.offset
        if position.epoch != self._shown(epoch, own) or not 0 <= missing <= limit:
            return None
        found = _publications(room, (row[3:] for row in rows))
        if found and found[0].offset == position.offset:
            if position.is_contradicted_by(found[0]):
                return None
            del found[0]
        offsets = [each.offset for each in found]
        return found if offsets == list(range(position.offset + 1, head + 1)) else None

    async def following(
        self, room: str, position: Position, limit: int
    ) -> list[Publication] | None:
        rows = await self._fetch(_SINCE, room, position.offset, limit + 1)
        if not rows:
            is_start = position[:2] == (self._epoch_of_silence(room), 0)
            return [] if is_start else None
        epoch, own, head = rows[0][:3]
        if position.epoch != self._shown(epoch, own) or position.offset > head:
            return None
        found = _publications(room, (row[3:] for row in rows))
        if found and found[0].offset == position.offset:
            if position.is_contradicted_by(found[0]):
                return None
            del found[0]
        del found[limit:]
        offsets = [each.offset for each in found]
        end = min(position.offset + limit, head)
        return found if offsets == list(range(position.offset + 1, end + 1)) else None

    async def before(self, room: str, offset: int | None, limit: int) -> Page:
        rows = await self._fetch(_BEFORE, room, _END if offset is None else offset, limit + 1)
        found = _messages(room, rows[:limit])
        found.reverse()
        return Page(found, len(rows) > limit)

    async def after(self, room: str, offset: int, limit: int) -> Page:
        rows = await self._fetch(_AFTER, room, offset, limit + 1)
        return Page(_messages(room, rows[:limit]), len(rows) > limit)

    async def find_alike(self, room: str) -> str | None:
        rows = await self._fetch(_ALIKE, name_key(room), room)
        return rows[0][0] if rows else None

    async def load(self, rooms: Sequence[str], limit: int) -> dict[str, Loaded]:
        """The ends of rooms' streams, with the newest `limit` publications of each."""
        rows_of: dict[str, list[Sequence[Any]]] = {room: [] for room in rooms}
        for number, *row in await self._fetch(_LOAD, list(rooms), limit):
            rows_of[rooms[number - 1]].append(row)
        return {room: self._loaded(room, rows) for room, rows in rows_of.items()}

    async def missed(self, room: str, offset: int, limit: int) -> Loaded:
        """The extent of a room's stream, with the oldest `limit` publications after `offset`."""
        return self._loaded(room, await self._fetch(_MISSED, room, offset, limit))

    async def heads(self, rooms: Sequence[str]) -> dict[str, int]:
        """The newest offsets of those rooms in which something was published."""
        return dict(await self._fetch(_HEADS, list(rooms)))

    def _loaded(self, room: str, rows: Sequence[Any]) -> Loaded:
        if not rows:
            return Loaded(self._epoch_of_silence(room), 1, 0, ())
        epoch, own, first, head = rows[0][:4]
        found = [(row[4], publication_of(room, row[5:])) for row in rows if row[5] is not None]
        return Loaded(self._shown(epoch, own), first, head, found)

    async def states(self, targets: Sequence[Target]) -> dict[Target, State]:
        """The present states of some publications."""
        found = dict.fromkeys(targets, State(None, None))
        if not found:
            return found
        asked = list(found)
        rows = await self._fetch(_STATES, [room for room, _ in asked], [at for _, at in asked])
        for number, changed, *row in rows:
            target = asked[number - 1]
            found[target] = State(publication_of(target[0], row), changed)
        return found


def _publications(room: str, rows: Iterable[Sequence[Any]]) -> list[Publication]:
    return [publication_of(room, row) for row in rows if row[0] is not None]


def _messages(room: str, rows: Iterable[Sequence[Any]]) -> list[Message]:
    found = (publication_of(room, row) for row in rows)
    return [each for each in found if isinstance(each, Message)]
