"""Tests of the data directory: private files, and files that are not at their paths any more."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from fastchat.directory import Displaced, Watch, create_private, is_open_to_others, make_private

FILES = ("history.db", "history.db-wal", "history.db-shm", "lock")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def filled(directory: Path) -> Path:
    directory.mkdir()
    for name in FILES:
        (directory / name).write_bytes(b"content")
    age(directory)
    return directory


def age(directory: Path) -> None:
    """Make the last change of a directory so old that a watch relies on its time."""
    os.utime(directory, (1_700_000_000, 1_700_000_000))


@contextmanager
def watching(directory: Path) -> Iterator[Watch]:
    watch = Watch(directory, directory / "history.db", directory / "lock")
    try:
        watch.check()
        yield watch
    finally:
        watch.close()


# Modes


def test_directories_and_files_are_private(tmp_path: Path) -> None:
    """A new directory, its new parents and a new file are for this user only; existing ones keep
    their modes and contents."""
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "c")
        create_private(tmp_path / "a" / "file")
        (tmp_path / "shared").mkdir(mode=0o755)
        make_private(tmp_path / "shared")
        (tmp_path / "other").write_text("content", "utf-8")
        create_private(tmp_path / "other")
    finally:
        os.umask(before)
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(tmp_path / "a" / "file") == 0o600
    assert mode(tmp_path / "shared") == 0o755
    assert (tmp_path / "other").read_text("utf-8") == "content"
    assert not is_open_to_others(tmp_path / "a")
    assert is_open_to_others(tmp_path / "shared")
    assert not is_open_to_others(tmp_path / "nowhere")


def test_file_in_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    """A directory is not created in place of a file, or below one."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private(tmp_path / "file" / "a" / "b")


# Files that are not at their paths


def directory_moved(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))


def directory_removed(directory: Path) -> None:
    shutil.rmtree(directory)


def directory_replaced(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))
    shutil.copytree(directory.with_name("moved"), directory)
    age(directory)


def directory_replaced_by_a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.touch()


def directory_replaced_by_a_link(directory: Path) -> None:
    copy = filled(directory.with_name("copy"))
    shutil.rmtree(directory)
    directory.symlink_to(copy)


@pytest.mark.parametrize(
    "displace",
    [
        directory_moved,
        directory_removed,
        directory_replaced,
        directory_replaced_by_a_file,
        directory_replaced_by_a_link,
    ],
)
@pytest.mark.parametrize("method", ["check", "compare"])
def test_displaced_directory_is_found(
    tmp_path: Path, displace: Callable[[Path], None], method: str
) -> None:
    """A directory that was removed, moved or replaced is found every time."""
    directory = filled(tmp_path / "data")
    with watching(directory) as watch:
        displace(directory)
        for _ in range(3):
            with pytest.raises(Displaced, match=str(directory)):
                getattr(watch, method)()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("method", ["check", "compare"])
def test_displaced_file_is_found_until_it_is_back(tmp_path: Path, name: str, method: str) -> None:
    """A file that was removed, renamed or replaced is found every time, until it is back."""
    directory = filled(tmp_path / "data")
    with watching(directory) as watch:
        check = getattr(watch, method)
        (directory / name).rename(directory / "away")
        for _ in range(3):
            with pytest.raises(Displaced, match=f"{name} is missing") as raised:
                check()
            assert raised.value.path == directory / name
        shutil.copy(directory / "away", directory / name)
        for _ in range(3):
            with pytest.raises(Displaced, match=f"{name} was replaced"):
                check()
        (directory / "away").rename(directory / name)
        for _ in range(3):
            check()


@pytest.mark.parametrize(
    ("changed_ns", "age_ns", "found"),
    [
        (1_700_000_000_000_000_000, 1_900_000_000, True),
        (1_700_000_000_000_000_000, 2_100_000_000, False),
        (1_700_000_000_250_000_000, 19_000_000, True),
        (1_700_000_000_250_000_000, 21_000_000, False),
    ],
    ids=["coarse and young", "coarse and old", "fine and young", "fine and old"],
)
def test_time_of_a_directory_is_trusted_after_a_step_of_its_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed_ns: int, age_ns: int, found: bool
) -> None:
    """A file that is removed right after the comparison is found, even if the time of the directory
    does not show it, because the clock of the file system is too coarse."""
    monkeypatch.setattr(time, "time_ns", lambda: changed_ns + age_ns)
    directory = filled(tmp_path / "data")
    os.utime(directory, ns=(changed_ns, changed_ns))
    with watching(directory) as watch:
        watch.compare()
        (directory / "history.db").unlink()
        os.utime(directory, ns=(changed_ns, changed_ns))
        with pytest.raises(Displaced) if found else nullcontext():
            watch.check()


def test_unchanged_directory_is_looked_up_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the directory does not change, a check is one `stat`, while a comparison looks at
    each file."""
    directory = filled(tmp_path / "data")
    looked: list[object] = []
    original = os.stat

    def counting(path: object, **options: object) -> os.stat_result:
        looked.append(path)
        return original(path, **options)  # type: ignore[arg-type]

    with watching(directory) as watch:
        monkeypatch.setattr(os, "stat", counting)
        watch.check()
        assert looked == [str(directory)]
        watch.compare()
        assert len(looked) == 2 + len(FILES)


def test_emptied_database_is_found_by_a_comparison(tmp_path: Path) -> None:
    """An emptied log is not a fault: SQLite empties it too."""
    directory = filled(tmp_path / "data")
    with watching(directory) as watch:
        os.truncate(directory / "history.db-wal", 0)
        watch.compare()
        os.truncate(directory / "history.db", 0)
        with pytest.raises(Displaced, match=r"history\.db was emptied"):
            watch.compare()


def test_files_behind_symbolic_links_are_watched(tmp_path: Path) -> None:
    """SQLite has its log beside the target of a link, in another directory."""
    directory = filled(tmp_path / "data")
    real = filled(tmp_path / "real")
    for name in FILES[:3]:
        (directory / name).unlink()
    (directory / "history.db").symlink_to(real / "history.db")
    age(directory)
    with watching(directory) as watch:
        (real / "history.db-wal").rename(real / "away")
        with pytest.raises(Displaced, match=r"history\.db-wal is missing"):
            watch.check()
        (real / "away").rename(real / "history.db-wal")
        watch.check()
        (directory / "history.db").unlink()
        shutil.copy(real / "history.db", directory / "history.db")
        with pytest.raises(Displaced, match=r"history\.db was replaced"):
            watch.check()


def test_unreachable_directory_is_an_error(tmp_path: Path) -> None:
    """A link that leads to itself cannot be followed; the sentence gives the system's reason."""
    directory = filled(tmp_path / "data")
    with watching(directory) as watch:
        directory.rename(tmp_path / "moved")
        directory.symlink_to(directory)
        with pytest.raises(Displaced, match="symbolic links"):
            watch.compare()


def test_missing_file_cannot_be_watched(tmp_path: Path) -> None:
    """A watch begins only if all files are there."""
    directory = filled(tmp_path / "data")
    (directory / "lock").unlink()
    with pytest.raises(FileNotFoundError):
        Watch(directory, directory / "history.db", directory / "lock")
