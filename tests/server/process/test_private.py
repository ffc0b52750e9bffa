"""Other users of the machine cannot read what the server and the commands write."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_websocket import Client, connected
from support.server import TIMEOUT_UNIT_S, Server, running_server

WARNING = "other users of this machine can enter"


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Processes that a test starts have the most generous umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def fastchat(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "fastchat", *arguments],
        check=True,
        capture_output=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )


def modes(directory: Path) -> dict[str, str]:
    """The mode of everything in a directory and of the directory itself, if it is not private."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        expected = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
        if stat.S_IMODE(status.st_mode) != expected:
            found[str(path)] = stat.filemode(status.st_mode)
    return found


def share(server: Server, client: Client) -> None:
    """Send one file in a binary message, and begin another."""
    client.send({"type": "upload", "name": "a.txt", "size": 7})
    client.receive_type("upload")
    client.send_frame(2, b"content")
    link = client.receive_type("file")["link"]
    client.send({"type": "message", "text": link, "id": "link"})
    client.receive_type("message")
    with urllib.request.urlopen(server.url + link, timeout=10 * TIMEOUT_UNIT_S) as answer:
        assert answer.read() == b"content"
    client.send({"type": "upload", "name": "b.txt", "size": 9})
    client.receive_type("upload")
    client.send_frame(2, b"begun")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_creates_private_files_and_directories(tmp_path: Path, workers: str) -> None:
    """All directories that the server creates have mode 0700, and all files and sockets 0600: of
    the history, its log, the search index, uploads and contents."""
    data = tmp_path / "var" / "lib" / "data"
    with running_server("--data", str(data), "--workers", workers) as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            share(server, alice)
            alice.send({"type": "search", "query": "content"})
            alice.receive_type("results")
            names = {path.name for path in data.rglob("*")}
            assert {"history.db", "history.db-wal", "history.db-shm", "search.db"} <= names
            assert {"index.sqlite3", "incoming", "lock", "fastchat.sock"} <= names
            assert modes(tmp_path / "var") == {}
        assert server.stop() == 0
        assert WARNING not in server.errors
    assert modes(tmp_path / "var") == {}


def test_export_and_import_create_private_files(tmp_path: Path) -> None:
    """An export and an imported history have the modes of the server's files, and so has an export
    that replaces a file that everybody could read."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"username":"Alice","text":"Hello"}\n', "utf-8")
    fastchat("import", "--data", str(tmp_path / "data"), str(lines))
    assert modes(tmp_path / "data") == {}
    output = tmp_path / "export.jsonl"
    for leftover in ("export.jsonl", "export.jsonl.part"):
        (tmp_path / leftover).write_text("for everybody", "utf-8")
    fastchat("export", "--data", str(tmp_path / "data"), "--output", str(output))
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert "Hello" in output.read_text("utf-8")
    assert not (tmp_path / "export.jsonl.part").exists()
    assert modes(tmp_path / "data") == {}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o770])
def test_directory_that_others_can_enter_is_kept_with_a_warning(tmp_path: Path, mode: int) -> None:
    """The server does not change the mode of a directory that exists, but says once how to."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(mode)
    with running_server("--data", str(data)) as server:
        assert server.stop() == 0
    assert stat.S_IMODE(data.stat().st_mode) == mode
    assert server.errors.count(WARNING) == 1
    assert f"run: chmod go= {data}" in server.errors
    data.chmod(0o700)
    with running_server("--data", str(data)) as server:
        assert server.stop() == 0
    assert WARNING not in server.errors
