"""Tests of reading a history's file from other threads and processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.history import NOW_S, delete, draft, edit, texts
from fastchat.errors import HistoryError
from fastchat.history.reader import HistoryReader, Stream
from fastchat.history.sqlite import SqliteHistory
from support.sqlite_history import opened


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SqliteHistory]:
    with opened(tmp_path, clock=lambda: NOW_S) as history:
        yield history


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[HistoryReader]:
    reader = HistoryReader(tmp_path)
    yield reader
    reader.close()


def test_reader_sees_each_committed_publication(
    history: SqliteHistory, reader: HistoryReader
) -> None:
    """The stream's extent follows each commit; a room without publications has no stream."""
    assert reader.stream("a") is None
    epoch = history.position("a").epoch
    history.append([draft("one")])
    assert reader.stream("a") == Stream(epoch, head=1, first=1)
    history.append([edit(1, "two")])
    assert reader.stream("a") == Stream(epoch, head=2, first=1)


def test_texts_with_links_are_in_their_present_state(
    history: SqliteHistory, reader: HistoryReader
) -> None:
    """Edits and deletions remove links; other rooms and texts without links are left out."""
    history.append([draft(f"{number} /files/id/name") for number in range(1, 4)])
    history.append([draft("no link"), draft("/files/other", room="b")])
    history.append([delete(1), edit(2, "nothing")])
    assert list(reader.texts_with_links("a")) == [(3, "3 /files/id/name")]
    assert list(reader.texts_with_links("nowhere")) == []


def test_closed_reader_opens_its_file_again(history: SqliteHistory, reader: HistoryReader) -> None:
    """A reader can be closed between two reads, so that it keeps no descriptor open."""
    history.append([draft("one")])
    assert texts(reader.before("a", None, 9)) == ["one"]
    reader.close()
    assert texts(reader.before("a", None, 9)) == ["one"]


def test_missing_file_raises_history_error(tmp_path: Path) -> None:
    """SQLite's own errors do not leave the history."""
    with pytest.raises(HistoryError):
        HistoryReader(tmp_path / "nowhere").stream("a")
