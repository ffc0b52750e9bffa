"""Opens the SQLite files of fastchat, after it has checked and migrated them.

The checks find files of other programs, damaged files, and files of a newer fastchat. If a file
cannot be used, not a byte of it changes, so that the program to which it belongs can still use
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fastchat.directory import create_private
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
    """The contents of one kind of file, and the migrations that bring an older file to them.

    * `application_id`: the number in the file's header (`PRAGMA application_id`) that marks
      this kind of file.
    * `name`: what such a file is, for errors ("a history of fastchat").
    * `migrations`: scripts or functions in order; number i takes a file from version i to
      version i + 1. The version is `PRAGMA user_version`.
    * `way_out`: what a person can do about an unusable file, for errors.
    """

    application_id: int
    name: str
    migrations: Sequence[str | Callable[[apsw.Connection], object]]
    way_out: str


class Unusable(Exception):
    """A file cannot be used: it is another program's, damaged, or newer than this program.

    The message is a predicate that completes a sentence which starts with the file's name.
    """


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
    """Open a file in WAL mode with the newest schema.

    If the file is missing, it is created, for this user only.

    * `busy_timeout_ms`: a statement waits at most this long for locks of other connections.
    * `sync_commits`: whether each commit waits until the disk has it.
    * `max_checked_bytes`: all of a file up to this size is read, to find damage.

    Raises SettingError if the file cannot be used, and apsw.Error or OSError if the disk fails.
    """
    create_private(file)
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
    """Open a file read-only, even while another process writes to it.

    Even to read a file in WAL mode, SQLite must write a file beside it. If the directory does
    not allow that and `or_immutable` is set, the file is read on the assumption that no process
    changes it. Raises apsw.Error if the file cannot be opened.
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
    """Raise Unusable if a file is not of this schema, or is newer than this program.

    The check only reads. An empty file passes: it can become a file of any schema.
    """
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    empty = not (version or application or select(connection, "SELECT 1 FROM sqlite_schema"))
    if application != schema.application_id and not empty:
        raise Unusable(f"is not {schema.name}")
    if version > len(schema.migrations):
        raise Unusable(f"was written by a newer fastchat (its schema is version {version})")


def is_current(connection: apsw.Connection, schema: Schema) -> bool:
    """Whether a file that has passed `check` needs no migration."""
    version: int = connection.pragma("user_version")
    return version == len(schema.migrations)


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Commit the changes of the block; if it raises, undo them.

    No other connection can write until the block ends.
    """
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
    # Until the file is known to be fastchat's and whole, nothing may write into it: not the
    # change to WAL mode, and not the checkpoint that SQLite runs when it closes a file.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.set_busy_timeout(busy_timeout_ms)
    check(connection, schema)
    if file.stat().st_size <= max_checked_bytes and connection.pragma("quick_check") != "ok":
        raise Unusable("is damaged")
    connection.pragma("secure_delete", True)
    if connection.pragma("journal_mode", "wal") != "wal":
        raise Unusable("is on a file system without the shared memory that SQLite's log needs")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)


def _migrate(connection: apsw.Connection, schema: Schema) -> None:
    """Bring a file to the newest version, in one transaction."""
    if is_current(connection, schema):
        return  # without a write, so that a server can start on a full disk
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
