"""Which history and which files the settings ask for, and the clock that they go by."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from fastchat.clocks import AgeClock
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
from fastchat.ledger.files import LedgerFiles
from fastchat.metrics import Metrics
from fastchat.process.assembly.storage import open_files, open_history, open_retention
from fastchat.settings import Settings


def test_settings_choose_the_history(tmp_path: Path) -> None:
    """In memory nothing is written."""
    history = open_history(Settings(data=str(tmp_path / "none"), history="memory"))
    assert isinstance(history, MemoryHistory)
    assert not (tmp_path / "none").exists()
    history = open_history(Settings(data=str(tmp_path / "some")))
    assert isinstance(history, SqliteHistory)
    history.close()


def test_ages_are_measured_by_the_clock_of_the_timestamps(tmp_path: Path) -> None:
    """The clock notices steps of the time of day (`fastchat.clocks`)."""
    with contextlib.closing(open_history(Settings(data=str(tmp_path)))) as history:
        assert isinstance(history, SqliteHistory)
        assert isinstance(history.ages, AgeClock)
        assert history.ages() == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize(
    ("files", "history", "taken"),
    [
        ("auto", "sqlite", True),
        ("on", "sqlite", True),
        ("off", "sqlite", False),
        ("auto", "memory", False),
        ("on", "memory", False),
    ],
)
def test_settings_choose_whether_there_are_files(
    files: str, history: str, taken: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside a history on disk, unless they are switched off; who asks in vain is told."""
    settings = Settings(data=str(tmp_path), files=files, history=history, max_file_bytes=7)
    store = open_files(settings, Metrics())
    with contextlib.closing(open_history(settings)) as kept:
        assert (open_retention(settings, Metrics(), kept) is not None) == taken
    assert ("--files on has no effect" in caplog.text) == ((files, history) == ("on", "memory"))
    if store is not None:
        assert store.max_bytes == 7
        store.close()
    assert (store is not None) == (tmp_path / "files").exists() == taken


@pytest.mark.parametrize(("files", "taken"), [("auto", True), ("on", True), ("off", False)])
def test_files_are_in_the_engine_if_there_is_one(files: str, taken: bool, tmp_path: Path) -> None:
    """Nothing is on disk, and nothing is connected before a file is used."""
    engine = ("postgresql://nobody@127.0.0.1:1/none",)
    settings = Settings(data=str(tmp_path), files=files, engine=engine, max_file_bytes=7)
    found = open_files(settings, Metrics())
    assert (found is not None) == taken
    if found is not None:
        assert isinstance(found, LedgerFiles)
        assert found.max_bytes == 7
        found.close()
    assert list(tmp_path.iterdir()) == []
