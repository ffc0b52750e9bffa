"""The history's file as other threads and processes read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.history import NOW_S, delete, draft, edit, texts
from fastchat.errors import HistoryError
from fastchat.history.reader import HistoryReader, Stream
from fastchat.history.sqlite import SqliteHistory


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    history = SqliteHistory(
        tmp_path,
        max_messages=1000,
        max_age_s=0,
        sync_commits=False,
        new_epoch=lambda: "E1",
        clock=lambda: NOW_S,
    )
    yield history
    history.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[HistoryReader]:
    reader = HistoryReader(tmp_path)
    yield reader
    reader.close()


def test_stream_moves_with_each_publication(history: SqliteHistory, reader: HistoryReader) -> None:
    """A reader sees what is committed; a room in which nothing was published has no stream."""
    assert reader.stream("a") is None
    history.append([draft("one")])
    assert reader.stream("a") == Stream("E1", head=1, first=1)
    history.append([edit(1, "two")])
    assert reader.stream("a") == Stream("E1", head=2, first=1)


def test_texts_with_links_are_those_of_the_present(
    history: SqliteHistory, reader: HistoryReader
) -> None:
    """An edit and a deletion take links away; other rooms, and texts without one, do not count."""
    history.append([draft(f"{number} /files/id/name") for number in range(1, 4)])
    history.append([draft("no link"), draft("/files/other", room="b")])
    history.append([delete(1), edit(2, "nothing")])
    assert list(reader.texts_with_links("a")) == ["3 /files/id/name"]
    assert list(reader.texts_with_links("nowhere")) == []


def test_closed_reader_opens_its_file_again(history: SqliteHistory, reader: HistoryReader) -> None:
    """Whoever reads once a minute keeps no descriptors meanwhile."""
    history.append([draft("one")])
    assert texts(reader.before("a", None, 9)) == ["one"]
    reader.close()
    assert texts(reader.before("a", None, 9)) == ["one"]


def test_missing_file_is_an_error_of_the_history(tmp_path: Path) -> None:
    """SQLite's own errors stay inside the history."""
    with pytest.raises(HistoryError):
        HistoryReader(tmp_path / "nowhere").stream("a")
