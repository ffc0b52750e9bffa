"""Export and import of a ledger, in the format of `fastchat.history.exports`.

Theory
------
An export is a snapshot, and only reads. An import is one transaction. Until its last statement it
keeps nobody waiting: the publications get the numbers of rooms that do not exist yet, and the rooms
are inserted at the end. So machines can run meanwhile, and see all rooms at once.

An imported room keeps its epoch, because the row of the room has the token that the ledger has at
that moment. When the ledger gets another token, the room gets another epoch.

If a chat has several ledgers, each has a snapshot or a transaction of its own. Those of an import
commit one after the other at the end, when all have done everything else.

If nothing was published in any ledger, they adopt the secret of the imported users. Machines that
run would make ids with the secret that they know. So each ledger gets another token as well: with
the old one, a machine can do nothing, and connects anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import asyncpg

from fastchat.errors import SettingError
from fastchat.history.exports import Imported, LineReader, Origin, header_line, line_of
from fastchat.history.users import UserIds
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.connecting import (
    ASYNCHRONOUS,
    FAILED,
    check_server,
    connect,
    fetch,
    ledger_error,
)
from fastchat.ledger.identity import Identity, Share, Witness, draw, epoch_under, identify
from fastchat.ledger.notes import note_of_head
from fastchat.ledger.rows import (
    COLUMNS,
    STORED,
    digest_of,
    escaped,
    publication_of,
    row_of,
    unescaped,
)
from fastchat.ledger.schema import check_schema, prepare_schema
from fastchat.ledger.sharing import Target, discover, owner_of, settle
from fastchat.ledger.upkeep import REMEMBER_IDS_S
from fastchat.ledger.url import EngineUrl
from fastchat.protocol import Change, Message, Publication, timestamp_of
from fastchat.protocol.names import name_key
from fastchat.protocol.users import import_of

__all__ = ["export_rooms", "import_rooms"]

logger = logging.getLogger("fastchat.ledger")

Result = TypeVar("Result")

#: Nobody waits for these connections, and they can wait for a file for long.
_SETTINGS = {
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
    "statement_timeout": "0",
}
#: Publications in memory at once, and characters of their texts.
_CHUNK, _CHUNK_CHARS = 1000, 1 << 20
#: Publications that an export reads at once: each can have 200 kB of reactions.
_READ_AT_ONCE = 250
#: About the size of a reaction.
_REACTION_CHARS = 64
#: Users whose ids are in memory meanwhile.
_CACHED = 4096
_ROOMS = """
SELECT number, name, epoch, token, head FROM rooms
WHERE head > 0 AND name > $1 ORDER BY name LIMIT $2
"""
_ROOM = "SELECT number, name, epoch, token, head FROM rooms WHERE head > 0 AND name = $1"
_PART = f"""
SELECT {COLUMNS} FROM publications p
WHERE p.room = $1 AND p."offset" > $2 ORDER BY p."offset" LIMIT $3
"""  # noqa: S608
_NUMBER = """
SELECT nextval(pg_get_serial_sequence('rooms', 'number')),
    EXISTS (SELECT FROM rooms WHERE name = $1)
"""
_IDENTITY = "SELECT token, user_key, half FROM identity FOR UPDATE"
_ADOPT = "UPDATE identity SET user_key = $1 RETURNING token"
_TELL = "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p"
_IS_USED = "SELECT EXISTS (SELECT FROM rooms WHERE head > 0)"
_NAMES = """
SELECT "offset", username FROM publications
WHERE room = $1 AND "offset" > $2 ORDER BY "offset" LIMIT $3
"""
#: Row by row, because a join can be planned while the table is small, and be slow when it is large.
_SET_USER = 'UPDATE publications SET "user" = $3 WHERE room = $1 AND "offset" = $2'
_SET_CHANGED = 'UPDATE publications SET changed = $3 WHERE room = $1 AND "offset" = $2 AND kind = 0'
_RECENT = """
SELECT "offset", "user", id FROM publications
WHERE room = $1 AND "offset" >= $2 AND id IS NOT NULL AND timestamp >= $3 COLLATE "C"
ORDER BY "offset" LIMIT $4
"""
_REMEMBER = """
INSERT INTO ids_{} (digest, "offset")
SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT DO NOTHING
"""
_INSERT_ROOMS = """
INSERT INTO rooms (number, name, look, epoch, token, first, head) OVERRIDING SYSTEM VALUE
SELECT u.number, u.name, u.look, u.epoch, $1, u.first, u.head
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
    AS u(number, name, look, epoch, first, head)
ON CONFLICT (name) DO NOTHING RETURNING name
"""


class _Steps:
    """A connection whose calls are run one by one, between reads or writes of a file.

    No task is under way meanwhile. So Ctrl+C also ends a command that a file keeps waiting.
    """

    def __init__(self, url: EngineUrl, share: Share | None) -> None:
        self.url = url
        self._share = share
        self._runner = asyncio.Runner()
        self._db: asyncpg.Connection | None = None

    def __enter__(self) -> _Steps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._db is not None:
            self._db.terminate()
        self._runner.close()

    @property
    def db(self) -> asyncpg.Connection:
        assert self._db is not None
        return self._db

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run one step. Raises LedgerError in place of what asyncpg raises.

        If there are several ledgers, the error names this one.
        """
        try:
            return self._runner.run(work)
        except (*FAILED, LedgerError) as error:
            meaning = ledger_error(error)
            if self._share is not None:
                meaning.args = (f"--engine {self.url.shown}: {meaning}",)
            raise meaning from error

    def open(
        self, prepare: Callable[[asyncpg.Connection, str], Coroutine[Any, Any, Any]]
    ) -> Identity:
        """Connect, and `prepare` the schema.

        If the server has been replaced, and no machine has noticed, the ledger gets another token.
        """
        self._db = db = self.run(connect(self.url, _SETTINGS))
        self.run(check_server(db, self.url))
        self.run(prepare(db, self.url.schema))
        return self.run(identify(db, Witness(), self._share))

    def fetch(self, query: str, *arguments: Any) -> Sequence[Any]:
        return self.run(fetch(self.db, query, *arguments))

    def fetch_each(self, query: str, arguments: Sequence[Sequence[Any]]) -> None:
        """Run a query once for each row of arguments."""
        self.run(self.db.executemany(query, arguments))

    def execute(self, statements: str) -> None:
        self.run(self.db.execute(statements))

    def commit(self) -> None:
        """Commit, without ever asking the server to cancel that."""
        self.run(_commit(self.db))


async def _commit(db: asyncpg.Connection) -> None:
    commit = asyncio.get_running_loop().create_task(fetch(db, "COMMIT"))
    try:
        await asyncio.shield(commit)
    except asyncio.CancelledError:
        db.terminate()
        await asyncio.gather(commit, return_exceptions=True)
        raise


# Export


def export_rooms(urls: Sequence[EngineUrl], room: str | None, out: BinaryIO) -> None:
    """Write a room, or all rooms (`None`), in their state at the time of the call.

    Machines that use the ledgers continue. If only one of several ledgers is named, its rooms are
    written, because the others can be lost; the log says so.

    Raises SettingError if the room or a ledger does not exist, LedgerError if a server cannot be
    read, and OSError if `out` cannot be written.
    """
    for url, share in asyncio.run(_sources(urls)):
        is_owner = share is None or room is None or owner_of(room, share.ledgers) == share.ledger
        if is_owner or len(urls) == 1:
            _export(url, share, room, out)


async def _sources(urls: Sequence[EngineUrl]) -> list[Target]:
    """The ledgers of an export."""
    if len(urls) > 1:
        return await settle(urls, check_schema)
    found = await discover(urls[0], check_schema)
    if found.identity is None or len(found.identity.ledgers) == 1:
        return [(urls[0], None)]
    share = Share(found.identity.ledger, found.identity.ledgers)
    logger.warning(
        "%s is one of %d ledgers that share the rooms of a chat; only its rooms are exported",
        urls[0].shown,
        len(share.ledgers),
    )
    return [(urls[0], share)]


def _export(url: EngineUrl, share: Share | None, room: str | None, out: BinaryIO) -> None:
    with _Steps(url, share) as steps:
        steps.open(check_schema)
        steps.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((token, user_key),) = steps.fetch("SELECT token, user_key FROM identity")
        for number, name, epoch, own, head in _rooms(steps, url, room):
            rows = steps.fetch(_PART, number, 0, _READ_AT_ONCE)
            first = rows[0][0] if rows else head + 1
            out.write(header_line(name, epoch_under(token, epoch, own), first, head, user_key))
            while rows:
                out.writelines(line_of(publication_of(name, row)) for row in rows)
                rows = steps.fetch(_PART, number, rows[-1][0], _READ_AT_ONCE)


def _rooms(steps: _Steps, url: EngineUrl, room: str | None) -> Iterator[Sequence[Any]]:
    if room is not None:
        rows = steps.fetch(_ROOM, room)
        if not rows:
            raise SettingError(f"--room: there is no room “{room}” in {url.shown}.")
        yield from rows
        return
    name = ""
    while rows := steps.fetch(_ROOMS, name, _CHUNK):
        yield from rows
        name = rows[-1][1]


# Import


def import_rooms(
    urls: Sequence[EngineUrl], lines: BinaryIO, name: str, default_room: str
) -> Imported:
    """Import all rooms in `lines` into the ledgers of a chat, or none of them.

    A ledger that is missing is made, whether the import succeeds or not. `name` is the name of the
    file for error sentences. Foreign lines without a `room` are messages in `default_room`.

    Raises SettingError, with the number of the line if a line is bad, and LedgerError if a server
    cannot be used. If the connection is lost while the server commits, nobody knows whether the
    rooms are there; the error says so. If a ledger fails after another one has committed, the error
    says which rooms are there.
    """
    reader = LineReader(lines, name, default_room, knows_authors=False)
    with ExitStack() as stack:
        try:
            importing = _Importing(stack, asyncio.run(settle(urls)))
            for chunk in _chunks(reader.publications()):
                importing.store(chunk)
            has_strangers = importing.end(reader.origins)
        except LedgerError as error:
            raise LedgerError(f"{error}; nothing was imported") from error
        importing.commit()
        importing.tell(reader.origins)
        return Imported(len(reader.origins), reader.count, has_strangers)


def _chunks(publications: Iterable[Publication]) -> Iterator[list[Publication]]:
    """The publications, in lists that do not take much memory."""
    chunk: list[Publication] = []
    size = 0
    for each in publications:
        chunk.append(each)
        size += len(each.text)
        if isinstance(each, Message) and each.reactions:
            size += _REACTION_CHARS * sum(map(len, each.reactions.values()))
        if len(chunk) >= _CHUNK or size >= _CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Importing:
    """An import into the ledgers of a chat, each with a transaction of its own."""

    def __init__(self, stack: ExitStack, targets: Sequence[Target]) -> None:
        self._ids = [] if targets[0][1] is None else targets[0][1].ledgers
        self._parts: dict[str, _Import] = {}
        for url, share in targets:
            steps = stack.enter_context(_Steps(url, share))
            self._parts["" if share is None else share.ledger] = _Import(steps)

    def _owner(self, room: str) -> str:
        return owner_of(room, self._ids) if self._ids else ""

    def store(self, chunk: Sequence[Publication]) -> None:
        owners = {room: self._owner(room) for room in {each.room for each in chunk}}
        for id, part in self._parts.items():
            if found := [each for each in chunk if owners[each.room] == id]:
                part.store(found)

    def end(self, origins: Mapping[str, Origin]) -> bool:
        """Do everything but commit; returns whether some rooms have users of another secret."""
        parts = self._parts.values()
        keys = [each.user_key for each in origins.values() if each.user_key is not None]
        adopted = keys[0] if keys else None
        if not (
            all(part.can_adopt(adopted) for part in parts)
            and all(part.will_adopt() for part in parts)
        ):
            adopted = None
        have_strangers = [
            part.end(origins_of, adopted)
            for origins_of, part in zip(self._divided(origins), parts, strict=True)
        ]
        return any(have_strangers)

    def _divided(self, origins: Mapping[str, Origin]) -> list[dict[str, Origin]]:
        """The origins of each ledger's rooms."""
        divided: dict[str, dict[str, Origin]] = {id: {} for id in self._parts}
        for room, origin in origins.items():
            divided[self._owner(room)][room] = origin
        return list(divided.values())

    def commit(self) -> None:
        done: list[str] = []
        for part in self._parts.values():
            others = f"only the rooms of {' and '.join(done)} were" if done else "nothing was"
            try:
                part.commit()
            except NotCommittedError as error:
                raise LedgerError(f"{error}; {others} imported") from error
            except LedgerError as error:
                raise LedgerError(
                    f"{error}; nobody knows whether the rooms were imported, so export one of them "
                    "to find out" + (f"; {others} imported for certain" if done else "")
                ) from error
            done.append(part.place)

    def tell(self, origins: Mapping[str, Origin]) -> None:
        for origins_of, part in zip(self._divided(origins), self._parts.values(), strict=True):
            part.tell(origins_of)


class _Room:
    """A room that is being imported.

    `recent` is the offset of the first message whose `id` has to be remembered.
    """

    __slots__ = ("first", "number", "recent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.first: int | None = None
        self.recent: int | None = None


class _Import:
    """The transaction of an import in one ledger, which begins here."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps
        self.place = steps.url.shown
        self._identity = steps.open(prepare_schema)
        self._token = self._identity.token
        self._rooms: dict[str, _Room] = {}
        self._recent = timestamp_of(time.time() - REMEMBER_IDS_S)
        steps.execute("BEGIN")

    def store(self, chunk: Sequence[Publication]) -> None:
        rows: dict[tuple[int, int], list[Any]] = {}  # by the number of the room and the offset
        changed: dict[tuple[int, int], int] = {}  # messages of earlier chunks
        for each in chunk:
            room = self._room(each.room)
            if room.first is None:
                room.first = each.offset
            if isinstance(each, Change):
                target = room.number, each.target
                if target in rows:
                    rows[target][-1] = each.offset
                else:
                    changed[target] = each.offset
            elif each.id is not None and room.recent is None and each.timestamp >= self._recent:
                room.recent = each.offset
            rows[room.number, each.offset] = [*row_of(room.number, each), 0]
        copying = self._steps.db.copy_records_to_table(
            "publications", records=rows.values(), columns=(*STORED, "changed")
        )
        self._steps.run(copying)
        if changed:
            self._steps.fetch_each(_SET_CHANGED, [(*at, last) for at, last in changed.items()])

    def _room(self, name: str) -> _Room:
        room = self._rooms.get(name)
        if room is None:
            ((number, exists),) = self._steps.fetch(_NUMBER, name)
            if exists:
                raise self._refusal(name)
            room = self._rooms[name] = _Room(number)
        return room

    def _refusal(self, name: str) -> SettingError:
        return SettingError(
            f"--engine: {self.place} has a room “{name}” already; import into another schema, "
            "which the URL can name (?schema=…)."
        )

    def can_adopt(self, user_key: bytes | None) -> bool:
        """Whether the ledger can adopt a secret of users: it has another, and nothing was published
        in it."""
        return user_key not in (None, self._identity.user_key) and not self._is_used()

    def will_adopt(self) -> bool:
        """Let nobody publish any more until the end, which is near; returns whether nobody has."""
        self._steps.execute("LOCK TABLE rooms IN SHARE ROW EXCLUSIVE MODE")
        return not self._is_used()

    def end(self, origins: Mapping[str, Origin], adopted: bytes | None) -> bool:
        """Do everything but commit, and adopt a secret of users if one is given.

        Returns whether some rooms have users of another secret.
        """
        names = sorted(origins)
        half, user_key = self._settle_users(adopted)
        user_of = lru_cache(maxsize=_CACHED)(UserIds(user_key).user_of)
        for name in names:
            room = self._room(name)
            if origins[name].has_authors:
                self._name_users(room, user_of)
            if room.recent is not None:
                self._remember_ids(name, room, room.recent, half)
        for start in range(0, len(names), _CHUNK):
            self._insert_rooms({name: origins[name] for name in names[start : start + _CHUNK]})
        return any(each.user_key not in (None, user_key) for each in origins.values())

    def commit(self) -> None:
        self._steps.commit()

    def _settle_users(self, adopted: bytes | None) -> tuple[int, bytes]:
        """The half of the ids that is in use, and the secret of the users, from now on."""
        ((self._token, user_key, half),) = self._steps.fetch(_IDENTITY)
        if adopted is not None:
            self._steps.run(draw(self._steps.db, self._identity._replace(token=self._token)))
            ((self._token,),) = self._steps.fetch(_ADOPT, adopted)
            user_key = adopted
        return half, user_key

    def _is_used(self) -> bool:
        """Whether something was published in the ledger."""
        ((is_used,),) = self._steps.fetch(_IS_USED)
        return bool(is_used)

    def _name_users(self, room: _Room, user_of: Callable[[str], str]) -> None:
        """Give messages of another program the users that are made of their names."""
        last = 0
        while rows := self._steps.fetch(_NAMES, room.number, last, _CHUNK):
            numbers, offsets = [room.number] * len(rows), [offset for offset, _ in rows]
            users = [escaped(user_of(import_of(unescaped(name)))) for _, name in rows]
            self._steps.fetch_each(_SET_USER, list(zip(numbers, offsets, users, strict=True)))
            last = offsets[-1]

    def _remember_ids(self, name: str, room: _Room, first: int, half: int) -> None:
        while rows := self._steps.fetch(_RECENT, room.number, first, self._recent, _CHUNK):
            digests = [digest_of(name, unescaped(user), unescaped(id)) for _, user, id in rows]
            offsets = [offset for offset, *_ in rows]
            self._steps.fetch(_REMEMBER.format(half), digests, offsets)
            first = offsets[-1] + 1

    def _insert_rooms(self, origins: Mapping[str, Origin]) -> None:
        names = list(origins)
        positions = [origin.position for origin in origins.values()]
        rooms = [self._rooms[name] for name in names]
        heads = [position.offset for position in positions]
        firsts = [
            head + 1 if room.first is None else room.first
            for room, head in zip(rooms, heads, strict=True)
        ]
        inserted = self._steps.fetch(
            _INSERT_ROOMS,
            self._token,
            [room.number for room in rooms],
            names,
            [name_key(name) for name in names],
            [position.epoch for position in positions],
            firsts,
            heads,
        )
        missing = set(names).difference(name for (name,) in inserted)
        if missing:
            raise self._refusal(min(missing))

    def tell(self, origins: Mapping[str, Origin]) -> None:
        """Have the machines look at those rooms that they follow; call it after the commit.

        It does not matter if this fails: they look as soon as somebody publishes there.
        """
        notes = [note_of_head(name, origin.position.offset) for name, origin in origins.items()]
        with suppress(LedgerError):
            for setting, value in ASYNCHRONOUS.items():
                self._steps.fetch("SELECT set_config($1, $2, false)", setting, value)
            for start in range(0, len(notes), _CHUNK):
                self._steps.fetch(_TELL, self._identity.channel, notes[start : start + _CHUNK])
