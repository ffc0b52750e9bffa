"""Tests of opening SQLite files: creation, checks, migrations, and files of other programs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from fastchat.database import Schema, Unusable, check, open_to_read, open_to_write, select
from fastchat.errors import SettingError

FIRST = Schema(
    application_id=0x12345678,
    name="a file of a test",
    migrations=("CREATE TABLE rows (value)",),
    way_out="choose another.",
)
SECOND = FIRST._replace(migrations=(*FIRST.migrations, "CREATE TABLE later (value)"))


def opened(file: Path, schema: Schema) -> closing[apsw.Connection]:
    return closing(open_to_write(file, schema, busy_timeout_ms=100, sync_commits=False))


def filled(tmp_path: Path) -> Path:
    file = tmp_path / "file.db"
    with opened(file, FIRST) as connection:
        connection.execute("INSERT INTO rows VALUES (7)")
    return file


def test_older_file_is_migrated(tmp_path: Path) -> None:
    """A file of the first version gets the later tables and keeps its rows."""
    file = filled(tmp_path)
    for _ in range(2):  # the second time, no migration is missing
        with opened(file, SECOND) as connection:
            assert select(connection, "SELECT value FROM rows") == [(7,)]
            assert select(connection, "SELECT value FROM later") == []
            assert connection.pragma("user_version") == 2


def test_migration_can_be_a_function(tmp_path: Path) -> None:
    """A function can write what a script cannot, for example a new secret."""

    def add_secret(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO rows VALUES (?)", (b"secret",))

    schema = FIRST._replace(migrations=(*FIRST.migrations, add_secret))
    with opened(filled(tmp_path), schema) as connection:
        assert select(connection, "SELECT value FROM rows") == [(7,), (b"secret",)]


def test_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """If one migration fails, none is applied, and the older program can use the file."""
    file = filled(tmp_path)
    broken = SECOND._replace(migrations=(*SECOND.migrations, "CREATE TABLE rows (value)"))
    with pytest.raises(apsw.SQLError):
        open_to_write(file, broken, busy_timeout_ms=100, sync_commits=False)
    with opened(file, FIRST) as connection:
        assert select(connection, "SELECT name FROM sqlite_schema") == [("rows",)]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (FIRST._replace(application_id=1), "is not a file of a test"),
        (FIRST._replace(migrations=()), "was written by a newer fastchat"),
    ],
)
def test_file_of_another_program_is_not_changed(tmp_path: Path, schema: Schema, why: str) -> None:
    """The error names the file, its fault and a way out; no byte changes."""
    file = filled(tmp_path)
    before = file.read_bytes()
    with pytest.raises(SettingError, match=f"{file} {why}.*; choose another\\.$"):
        open_to_write(file, schema, busy_timeout_ms=100, sync_commits=False)
    assert file.read_bytes() == before
    with (
        closing(open_to_read(file, busy_timeout_ms=100)) as connection,
        pytest.raises(Unusable, match=why),
    ):
        check(connection, schema)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file that is no database, and one with a damaged page, are refused."""
    file = filled(tmp_path)
    file.write_bytes(file.read_bytes()[:4096] + bytes(4096))
    with pytest.raises(SettingError, match="is damaged"):
        open_to_write(
            file, FIRST, busy_timeout_ms=100, sync_commits=False, max_checked_bytes=1 << 20
        )
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(SettingError, match="is damaged"):
        open_to_write(file, FIRST, busy_timeout_ms=100, sync_commits=False)


def test_reader_sees_commits_and_cannot_write(tmp_path: Path) -> None:
    """A read-only connection sees each commit of another connection."""
    file = filled(tmp_path)
    with (
        opened(file, FIRST) as writer,
        closing(open_to_read(file, busy_timeout_ms=100, or_immutable=True)) as reader,
    ):
        writer.execute("INSERT INTO rows VALUES (8)")
        assert select(reader, "SELECT value FROM rows") == [(7,), (8,)]
        with pytest.raises(apsw.ReadOnlyError):
            reader.execute("DELETE FROM rows")
