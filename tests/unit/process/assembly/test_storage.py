"""Which history and which files the settings ask for, and the clock that they go by."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contracts.history import draft
from fastchat.history import Duplicate
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
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


@pytest.mark.parametrize("hours", [2, -2])
def test_id_is_remembered_though_the_clock_is_set(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes are ten minutes, whatever the machine takes for the time."""
    history = open_history(Settings(data=str(tmp_path)))
    wall = time.time
    try:
        history.append([draft("1", id="before")])
        monkeypatch.setattr(time, "time", lambda: wall() + hours * 3600)
        history.append([draft("2", id="after")])
        history.prune()
        for id in ("before", "after"):
            assert isinstance(history.append([draft("again", id=id)])[0], Duplicate)
    finally:
        history.close()


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
    kept = open_history(settings)
    try:
        assert (open_retention(settings, Metrics(), kept) is not None) == taken
    finally:
        kept.close()
    assert ("--files on has no effect" in caplog.text) == ((files, history) == ("on", "memory"))
    if store is not None:
        assert store.max_bytes == 7
        store.close()
    assert (store is not None) == (tmp_path / "files").exists() == taken
