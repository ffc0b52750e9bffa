"""Shared files whose records are missing, on real servers and with `fastchat files`."""

from __future__ import annotations

import contextlib
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from fastchat.cli import main
from support.raw_websocket import BINARY, connected
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

NOTES = b"The shared notes."


def share(server: Server, *, say: bool = True) -> str:
    """Share a file, and by default say so; returns its link."""
    with connected(server.port) as alice:
        alice.join(username="Alice")
        alice.send({"type": "upload", "name": "notes.txt", "size": len(NOTES)})
        alice.receive_type("upload")
        alice.send_frame(BINARY, NOTES)
        link: str = alice.receive_type("file")["link"]
        if say:
            alice.send({"text": link})
            alice.receive_type("message")
    return link


def back_up(history: Path, copy: Path) -> None:
    """Copy the history of a running server."""
    with (
        contextlib.closing(
            apsw.Connection(str(history), flags=apsw.SQLITE_OPEN_READONLY)
        ) as source,
        contextlib.closing(apsw.Connection(str(copy))) as target,
        target.backup("main", source, "main") as backup,
    ):
        backup.step()


def contents(data: Path) -> list[bytes]:
    return [path.read_bytes() for path in (data / "files").glob("??/*")]


def index_removed(data: Path) -> None:
    for path in (data / "files").glob("index.sqlite3*"):
        path.unlink()


def index_emptied(data: Path) -> None:
    (data / "files" / "index.sqlite3").write_bytes(b"")


def history_removed(data: Path) -> None:
    for path in data.glob("history.*"):
        path.unlink()


def history_emptied(data: Path) -> None:
    (data / "history.db").write_bytes(b"")


def only_files_restored(data: Path) -> None:
    """Everything but the shared files is lost, such as with an import that comes later."""
    for path in data.iterdir():
        if path.is_file():
            path.unlink()


def copy_of_the_history_put_back(data: Path) -> None:
    shutil.copy(data.with_name("copy"), data / "history.db")


@pytest.mark.parametrize("workers", ["1", "2"], ids=["one process", "two workers"])
@pytest.mark.parametrize(
    "lose",
    [
        index_removed,
        index_emptied,
        history_removed,
        history_emptied,
        only_files_restored,
        copy_of_the_history_put_back,
    ],
)
def test_no_file_is_deleted_because_a_record_is_missing(
    tmp_path: Path,
    lose: Callable[[Path], None],
    workers: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The log names the command that deletes the files, and the command does it."""
    data = tmp_path / "data"
    arguments = ("--data", str(data), "--workers", workers, "--limits", "off")
    with running_server(*arguments) as server:
        with connected(server.port) as bob:
            bob.join(username="Bob")
            bob.send({"text": "before"})
            bob.receive_type("message")
        back_up(data / "history.db", data.with_name("copy"))
        share(server)
        assert server.stop() == 0
    lose(data)
    with running_server(*arguments, "--files", "on") as server:
        wait_until(lambda: orphans(data, capsys) == 1)
        assert server.stop() == 0
        assert "fastchat files --data" in server.errors
        assert contents(data) == [NOTES]
    assert main(["files", "--data", str(data), "--delete-orphans"]) == 0
    assert "deleted 1 orphan (17 bytes)" in capsys.readouterr().out
    assert contents(data) == []
    assert orphans(data, capsys) == 0


def orphans(data: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """The number of orphans that `fastchat files` counts."""
    if not (data / "files" / "index.sqlite3").exists():
        return 0  # the server is starting
    assert main(["files", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    return int(out.splitlines()[1].split()[0])


def test_restored_index_serves_the_kept_files(tmp_path: Path) -> None:
    """After the index was lost and put back, links work as before."""
    index = tmp_path / "files" / "index.sqlite3"
    with running_server("--data", str(tmp_path)) as server:
        link = share(server)
        assert server.stop() == 0
    index.rename(tmp_path / "index")
    with running_server("--data", str(tmp_path)) as server:
        share(server, say=False)
        assert server.stop() == 0
    (tmp_path / "index").rename(index)
    with (
        running_server("--data", str(tmp_path)) as server,
        urllib.request.urlopen(server.url + link, timeout=10 * TIMEOUT_UNIT_S) as answer,
    ):
        assert answer.read() == NOTES


def test_files_of_a_directory_without_an_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints one sentence, and creates nothing."""
    assert main(["files", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "has no index of shared files" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
