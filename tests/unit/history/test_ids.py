"""Tests of the table of ids, which recognises repeated messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.history import draft
from fastchat.database import select
from fastchat.history.directory import open_database
from fastchat.history.ids import REMEMBER_IDS_S, Ids
from fastchat.history.rows import INSERT, OFFSET_BITS, row_of
from fastchat.protocol import timestamp_of

START_S = 1_750_000_000.0


class Table:
    """A table of ids in a file, and the clock that it reads."""

    def __init__(self, file: Path) -> None:
        self.now = START_S
        self.db = open_database(file, sync_commits=False)
        self.ids = Ids(self.db, lambda: self.now, lambda: self.now)

    def offsets(self) -> list[int]:
        """The offsets in the order of the table's rows."""
        return [offset for (offset,) in select(self.db, "SELECT offset FROM ids ORDER BY number")]


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    table = Table(tmp_path / "history.db")
    yield table
    table.db.close()


def test_new_id_is_remembered(table: Table) -> None:
    """The second `add` of an id returns the offset of the first; a new id returns None."""
    assert table.ids.add(1, "Alice", "i", 5) is None
    assert table.ids.add(1, "Alice", "i", 6) == 5
    assert table.ids.add(1, "Alice", "j", 6) is None


def test_id_belongs_to_its_owner_and_room(table: Table) -> None:
    """The same id of another owner, or in another room, is new."""
    assert table.ids.add(1, "Alice", "i", 5) is None
    assert table.ids.add(1, "Bob", "i", 6) is None
    assert table.ids.add(2, "Alice", "i", 1) is None


def test_expired_ids_are_forgotten_up_to_the_limit(table: Table) -> None:
    """`has_expired` says whether the limit can have left expired ids."""
    for offset in range(1, 6):
        table.ids.add(1, "Alice", str(offset), offset)
    table.now += REMEMBER_IDS_S
    table.ids.add(1, "Alice", "late", 6)
    table.ids.expire(3)
    assert table.offsets() == [1, 2, 3, 4, 5, 6]
    table.now += 1
    table.ids.expire(3)
    assert (table.offsets(), table.ids.has_expired) == ([4, 5, 6], True)
    table.ids.expire(3)
    assert (table.offsets(), table.ids.has_expired) == ([6], False)


def test_ids_of_restored_publications_are_remembered(table: Table) -> None:
    """Recent ids of a restored room are added in the order of time; old ones are left out."""
    table.ids.add(2, "Alice", "newest", 30)
    for offset, age_s in ((1, REMEMBER_IDS_S + 1), (2, 300), (3, 200)):
        message = draft(id=str(offset)).numbered(offset)
        message = message._replace(timestamp=timestamp_of(START_S - age_s))
        table.db.execute(INSERT, row_of(1 << OFFSET_BITS | offset, message))
    table.ids.add_restored(1)
    assert table.offsets() == [30, 2, 3]
    table.ids.sort()
    assert table.offsets() == [2, 3, 30]
    assert table.ids.add(1, draft().user, "3", 4) == 3


def test_table_can_be_sorted_in_a_transaction(table: Table) -> None:
    """`sort` runs within the transaction of an import, and is undone with it."""
    table.ids.add(1, "Alice", "i", 5)
    table.db.execute("BEGIN")
    table.ids.sort()
    table.ids.add(1, "Alice", "j", 6)
    table.db.execute("ROLLBACK")
    assert table.offsets() == [5]
