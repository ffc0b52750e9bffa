"""Histories of the earlier version: publications had authors, and reactions had names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from fastchat.database import select
from fastchat.errors import SettingError
from fastchat.history import schema
from fastchat.history.directory import open_database
from fastchat.history.users import UserIds, user_key_of
from fastchat.protocol.users import guest_of, holder_of, import_of

STAMP = "2025-01-18T10:30:00.123Z"
ALICE, BOB = guest_of("alices-session-of-many-bytes"), guest_of("bobs-session-of-many-bytes")
EVE = holder_of("eve@example.org")


class OldFile:
    """A history of the version before users."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db

    def add_room(self, number: int, head: int) -> None:
        self.db.execute("INSERT INTO rooms VALUES (?, ?, 'E', ?)", (number, f"room-{number}", head))

    def add(self, room: int, offset: int, author: str, name: str, **more: Any) -> None:
        fields = {
            "key": room << 40 | offset,
            "kind": 0,
            "author": author,
            "username": name,
            "text": "text",
            "timestamp": STAMP,
            **more,
        }
        columns, marks = ", ".join(fields), ", ".join("?" * len(fields))
        self.db.execute(
            f"INSERT INTO publications ({columns}) VALUES ({marks})",  # noqa: S608
            tuple(fields.values()),
        )

    def add_react(self, room: int, offset: int, author: str, name: str, target: int) -> None:
        self.add(room, offset, author, name, kind=3, text="", target=target, emoji="👋")

    def add_id(self, room: int, owner: str, id: str, offset: int) -> None:
        self.db.execute(
            "INSERT INTO ids (room, username, id, offset, timestamp) VALUES (?, ?, ?, ?, ?)",
            (room, owner, id, offset, STAMP),
        )


@contextmanager
def old_file(directory: Path) -> Iterator[OldFile]:
    """Make a file as the version before users did."""
    with closing(apsw.Connection(str(directory / "history.db"))) as db:
        db.pragma("journal_mode", "wal")
        first, add_facts = schema.HISTORY.migrations[:2]
        assert isinstance(first, str)
        assert callable(add_facts)
        db.execute(first)
        add_facts(db)
        db.pragma("application_id", schema.HISTORY.application_id)
        db.pragma("user_version", 2)
        yield OldFile(db)


@contextmanager
def migrated(directory: Path) -> Iterator[apsw.Connection]:
    with closing(open_database(directory / "history.db", sync_commits=False)) as db:
        yield db


def test_publications_get_the_users_of_their_authors(tmp_path: Path) -> None:
    """A guest with the session, and a token's subject, still own what they have published."""
    with old_file(tmp_path) as old:
        old.add_room(1, 4)
        old.add(1, 1, ALICE, "Guest")
        old.add(1, 2, BOB, "Guest")
        old.add(1, 3, EVE, "Eve")
        old.add(1, 4, EVE, "Eve", kind=1, target=3)
        old.add(1, 5, "", "Zoë")
    with migrated(tmp_path) as db:
        user_of = UserIds(user_key_of(db)).user_of
        found = [user for (user,) in select(db, "SELECT user FROM publications ORDER BY key")]
    assert found == [user_of(each) for each in (ALICE, BOB, EVE, EVE, import_of("Zoë"))]
    assert len(set(found)) == 4


def test_reactions_get_the_users_who_reacted(tmp_path: Path) -> None:
    """The last `react` with a name decides; without one, the name gives a user of its own."""
    with old_file(tmp_path) as old:
        for room in (1, 2):
            old.add_room(room, 5)
            old.add(room, 1, ALICE, "Alice", reactions=json.dumps({"👋": ["Guest", "Gone"]}))
            old.add(room, 2, BOB, "Bob", reactions=json.dumps({"👋": ["Guest"]}))
        old.add_react(1, 3, ALICE, "Guest", 1)
        old.add_react(1, 4, BOB, "Guest", 1)
        old.add_react(1, 5, ALICE, "Guest", 2)
        old.add_react(2, 3, EVE, "Guest", 1)
    with migrated(tmp_path) as db:
        user_of = UserIds(user_key_of(db)).user_of
        rows = select(
            db, "SELECT reactions FROM publications WHERE reactions IS NOT NULL ORDER BY key"
        )
        assert not select(db, "SELECT 1 FROM sqlite_schema WHERE name = 'reacts'")
    gone = [user_of(import_of("Gone")), "Gone"]
    assert [json.loads(reactions)["👋"] for (reactions,) in rows] == [
        [[user_of(BOB), "Guest"], gone],
        [[user_of(ALICE), "Guest"]],
        [[user_of(EVE), "Guest"], gone],
        [[user_of(import_of("Guest")), "Guest"]],
    ]


def test_user_who_reacted_under_two_names_counts_once(tmp_path: Path) -> None:
    """The last name stays, in its place."""
    with old_file(tmp_path) as old:
        old.add_room(1, 4)
        old.add(1, 1, EVE, "Eve", reactions=json.dumps({"👋": ["Alice", "Bob", "Alicia"]}))
        old.add_react(1, 2, ALICE, "Alice", 1)
        old.add_react(1, 3, BOB, "Bob", 1)
        old.add_react(1, 4, ALICE, "Alicia", 1)
    with migrated(tmp_path) as db:
        user_of = UserIds(user_key_of(db)).user_of
        ((found,),) = select(db, "SELECT reactions FROM publications WHERE kind = 0")
    assert json.loads(found) == {"👋": [[user_of(BOB), "Bob"], [user_of(ALICE), "Alicia"]]}


def test_reactions_of_many_messages_are_migrated(tmp_path: Path) -> None:
    """Messages are read in several steps, and none is left out."""
    with old_file(tmp_path) as old:
        old.add_room(1, 1000)
        for offset in range(1, 1000, 2):
            old.add(1, offset, ALICE, "Alice", reactions=json.dumps({"👋": ["Bob"]}))
            old.add_react(1, offset + 1, BOB, "Bob", offset)
    with migrated(tmp_path) as db:
        user_of = UserIds(user_key_of(db)).user_of
        found = select(db, "SELECT DISTINCT reactions FROM publications WHERE kind = 0")
    assert [json.loads(reactions) for (reactions,) in found] == [{"👋": [[user_of(BOB), "Bob"]]}]


def test_ids_get_the_users_of_their_messages(tmp_path: Path) -> None:
    """An id is forgotten if its message is gone, and two names of one user keep the first one."""
    with old_file(tmp_path) as old:
        old.add_room(1, 9)
        old.add(1, 3, ALICE, "Alice", id="i")
        old.add(1, 4, EVE, "Eve", id="i")
        old.add(1, 5, ALICE, "Alicia", id="i")
        old.add_id(1, "Gone", "i", 2)
        old.add_id(1, "Alice", "i", 3)
        old.add_id(1, EVE, "i", 4)
        old.add_id(1, "Alicia", "i", 5)
    with migrated(tmp_path) as db:
        user_of = UserIds(user_key_of(db)).user_of
        found = select(db, "SELECT room, user, id, offset, timestamp FROM ids ORDER BY number")
    assert found == [
        (1, user_of(ALICE), "i", 3, STAMP),
        (1, user_of(EVE), "i", 4, STAMP),
    ]


def test_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start migrates the file, which is still one of the old version."""
    with old_file(tmp_path) as old:
        old.add_room(1, 1)
        old.add(1, 1, ALICE, "Alice")

    def fail(*arguments: object) -> None:
        raise apsw.FullError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "name_users", fail)
        with pytest.raises(SettingError, match="full"), migrated(tmp_path):
            pass
    with closing(apsw.Connection(str(tmp_path / "history.db"))) as db:
        assert db.pragma("user_version") == 2
        assert select(db, "SELECT author FROM publications") == [(ALICE,)]
    with migrated(tmp_path) as db:
        (user,) = select(db, "SELECT user FROM publications")
        assert user == (UserIds(user_key_of(db)).user_of(ALICE),)
