"""Servers whose data directory is removed, moved, replaced, closed or locked while they run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.raw_websocket import Client, connected
from support.server import running_server


def say(client: Client, text: str) -> dict[str, object]:
    """Send a message and return the server's reply: the publication, an ack or an error."""
    client.send({"type": "message", "text": text, "id": text})
    while (answer := client.receive()).get("id") != text:
        pass
    return answer


# Stopping


def made_read_only(directory: Path) -> None:
    directory.chmod(0o500)


def closed(directory: Path) -> None:
    directory.chmod(0)


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def replaced_by_a_file(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.touch()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("break_it", [made_read_only, closed, removed, replaced_by_a_file])
def test_server_stops_in_order_without_its_directory(
    tmp_path: Path, break_it: Callable[[Path], None], workers: str
) -> None:
    """If the server cannot remove its socket, it says so in one line, tells its clients to come
    back, and ends with status 0."""
    directory = tmp_path / "data"
    arguments = ("--data", str(directory), "--workers", workers)
    with running_server(*arguments, as_root=False) as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "one")["type"] == "message"
            break_it(directory)
            server.process.terminate()
            assert alice.receive_type("closing")["code"] == 1012
            assert alice.receive_close() == 1012
            alice.send_close(1012)
        try:
            assert server.stop() == 0
        finally:
            if break_it is not removed:
                directory.chmod(0o700)
        assert "Traceback" not in server.errors
        expected = 0 if break_it is removed else 1
        assert server.errors.count("fastchat.sock cannot be removed") == expected
    if break_it in (made_read_only, closed):
        with running_server(*arguments, as_root=False) as server, connected(server.port) as alice:
            assert [each["text"] for each in alice.join(username="Alice")["messages"]] == ["one"]
            assert say(alice, "two")["type"] == "message"
