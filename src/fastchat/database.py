"""A SQLite file of ours: opened, checked to be ours and whole, brought to its newest schema.

A file that cannot be used stays as it was, to the byte, so that the program to which it belongs,
or a newer fastchat, finds it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fastchat.errors import SettingError

__all__ = [
    "Schema",
    "Unusable",
    "check",
    "is_current",
    "open_to_read",
    "open_to_write",
    "select",
    "transaction",
]


class Schema(NamedTuple):
    """What a kind of file contains, and how older files of this kind become like it.

    `application_id` is in the file's header (`PRAGMA application_id`). `migrations` are in
    order: number i, a script or a function, takes a file from version i to i + 1. `name` and
    `way_out` are for errors: what the file should be, and what can be done if it is not.
    """

    application_id: int
    name: str
    migrations: Sequence[str | Callable[[apsw.Connection], object]]
    way_out: str


class Unusable(Exception):
    """A file is not ours, damaged, or newer than this program; says so after the file's name."""


def select(connection: apsw.Connection, statement: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(statement, bindings).fetchall()


def open_to_write(
    file: Path,
    schema: Schema,
    *,
    busy_timeout_ms: int,
    sync_commits: bool,
    max_checked_bytes: int = 0,
) -> apsw.Connection:
    """Open a file, which is made if it is missing, in WAL mode and with the newest schema.

    With `sync_commits`, each commit is on the disk before it returns. A file of up to
    `max_checked_bytes` is read through, to see that it is not damaged. Raises SettingError
    when the file cannot be used, and apsw.Error or OSError when the disk fails.
    """
    connection = apsw.Connection(str(file))
    try:
        _prepare(connection, file, schema, busy_timeout_ms, max_checked_bytes)
        connection.pragma("synchronous", "FULL" if sync_commits else "NORMAL")
        _migrate(connection, schema)
    except (apsw.CorruptError, apsw.NotADBError):
        connection.close()
        raise _refusal(file, "is damaged", schema) from None
    except Unusable as error:
        connection.close()
        raise _refusal(file, str(error), schema) from None
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(
    file: Path, *, busy_timeout_ms: int, or_immutable: bool = False
) -> apsw.Connection:
    """Open a file that another process may be writing, without any change to it.

    SQLite needs to write beside a file in WAL mode even for reading. With `or_immutable`, a
    file in a directory where that is not allowed is read as one that nobody changes. Raises
    apsw.Error.
    """
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(busy_timeout_ms)
    if or_immutable:
        try:
            connection.pragma("user_version")
        except (apsw.ReadOnlyError, apsw.CantOpenError):
            connection.close()
            uri = f"{file.absolute().as_uri()}?immutable=1"
            return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    return connection


def check(connection: apsw.Connection, schema: Schema) -> None:
    """Raise Unusable when a file is not of this schema, or newer than this program.

    It only reads. An empty file can become anything.
    """
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    empty = not (version or application or select(connection, "SELECT 1 FROM sqlite_schema"))
    if application != schema.application_id and not empty:
        raise Unusable(f"is not {schema.name}")
    if version > len(schema.migrations):
        raise Unusable(f"was written by a newer fastchat (its schema is version {version})")


def is_current(connection: apsw.Connection, schema: Schema) -> bool:
    """Whether no migration is missing in a file that passed `check`."""
    version: int = connection.pragma("user_version")
    return version == len(schema.migrations)


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All of the block or nothing; no other connection writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # SQLite may have ended it itself
            connection.execute("ROLLBACK")


def _prepare(
    connection: apsw.Connection,
    file: Path,
    schema: Schema,
    busy_timeout_ms: int,
    max_checked_bytes: int,
) -> None:
    # Until the file is known to be ours and whole, nothing may write into it: not the
    # change to WAL mode, and not the checkpoint of a log at closing.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.set_busy_timeout(busy_timeout_ms)
    check(connection, schema)
    if file.stat().st_size <= max_checked_bytes and connection.pragma("quick_check") != "ok":
        raise Unusable("is damaged")
    connection.pragma("secure_delete", True)
    if connection.pragma("journal_mode", "wal") != "wal":
        raise Unusable("is on a file system that has no shared memory for its log")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)


def _migrate(connection: apsw.Connection, schema: Schema) -> None:
    """Bring a file to the newest version, in one transaction."""
    if is_current(connection, schema):
        return  # nothing is written: a server starts on a full disk, too
    with connection:
        for migration in schema.migrations[connection.pragma("user_version") :]:
            if isinstance(migration, str):
                connection.execute(migration)
            else:
                migration(connection)
        connection.pragma("application_id", schema.application_id)
        connection.pragma("user_version", len(schema.migrations))


def _refusal(file: Path, why: str, schema: Schema) -> SettingError:
    return SettingError(f"--data: {file} {why}; {schema.way_out}")
