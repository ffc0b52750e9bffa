"""What clients see of a data directory that was stopped, killed, moved, copied or restored."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastchat.cli import main
from support.raw_websocket import Client, connected
from support.server import Server, running_server

#: Of all clients, so that they can come back under their names at once.
SESSION = "a-session-of-all-clients"


@pytest.fixture(params=["1", "2"], ids=["one process", "two workers"])
def workers(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def serving(data: Path, workers: str = "1") -> Iterator[Server]:
    arguments = ("--data", str(data), "--workers", workers, "--limits", "off")
    with running_server(*arguments) as server:
        yield server


def say(client: Client, *texts: str, room: str = "lobby") -> None:
    for each in texts:
        client.send({"text": each, "room": room})
        while client.receive_type("message")["text"] != each:
            pass


def position_of(joined: dict[str, Any]) -> dict[str, Any]:
    return {name: joined[name] for name in ("epoch", "offset", "timestamp")}


def join(
    server: Server, since: dict[str, Any] | None = None, room: str = "lobby"
) -> dict[str, Any]:
    """Join with a position; returns the reply."""
    with connected(server.port) as client:
        return client.join(username="Reader", session=SESSION, room=room, since=since)


def talk(server: Server, *texts: str) -> dict[str, Any]:
    """Say something in the lobby; returns the position after it."""
    with connected(server.port) as client:
        client.join(username="Writer", session=SESSION)
        say(client, *texts)
    return position_of(join(server))


def talk_around_a_copy(
    data: Path, copy: Path, workers: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Talk, copy the data of the stopped server, and talk on; returns both positions."""
    with serving(data, workers) as server:
        before = talk(server, "kept")
        assert server.stop() == 0
    shutil.copytree(data, copy)
    with serving(data, workers) as server:
        lost = talk(server, "lost 1", "lost 2")
        assert server.stop() == 0
    return before, lost


def texts(joined: dict[str, Any]) -> list[str]:
    return [each["text"] for each in joined["messages"]]


def test_position_is_valid_after_a_stop_and_a_kill(tmp_path: Path, workers: str) -> None:
    """Clients recover in rooms with messages, and in a room where nothing was said yet."""
    data = tmp_path / "data"
    with serving(data, workers) as server:
        lobby = talk(server, "one")
        silent = position_of(join(server, room="silent"))
        talk(server, "two")
        assert server.stop() == 0
    for _ in range(2):
        with serving(data, workers) as server:
            joined = join(server, lobby)
            assert (joined["recovered"], texts(joined)[0]) == (True, "two")
            assert join(server, silent, room="silent")["recovered"]
            lobby = position_of(joined)
            talk(server, "two")
            server.kill()


def test_position_in_a_silent_room_is_valid_for_its_first_message(tmp_path: Path) -> None:
    """A client that joined before a restart gets what was said after it."""
    with serving(tmp_path) as server:
        silent = position_of(join(server))
        assert (silent["offset"], silent["timestamp"]) == (0, None)
        assert server.stop() == 0
    with serving(tmp_path) as server:
        talk(server, "first")
        joined = join(server, silent)
        assert (joined["recovered"], texts(joined)) == (True, ["first"])


def test_copy_that_is_put_back_is_not_recovered(tmp_path: Path, workers: str) -> None:
    """Whether or not a client sends a timestamp, it is told that its messages are missing."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    before, lost = talk_around_a_copy(data, copy, workers)
    shutil.rmtree(data)
    copy.rename(data)
    with serving(data, workers) as server:
        talk(server, "new 1", "new 2", "new 3")
        for since in (before, lost, {**lost, "timestamp": None}):
            joined = join(server, since)
            assert not joined["recovered"]
            assert joined["epoch"] != since["epoch"]
            assert texts(joined) == ["kept", "new 1", "new 2", "new 3"]
        assert server.stop() == 0
    assert "the history may lack messages" in server.errors
    with serving(data, workers) as server:
        assert join(server, position_of(joined))["recovered"]
        assert server.stop() == 0
    assert "the history may lack messages" not in server.errors


def test_snapshot_of_a_volume_is_found_by_the_timestamp(tmp_path: Path, workers: str) -> None:
    """A snapshot keeps all that the system knows of the files, so only positions show it."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    before, lost = talk_around_a_copy(data, copy, workers)
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    file = os.stat(data / "history.db")
    notes = json.loads((data / "history.state").read_bytes())
    notes["history"] = [file.st_dev, file.st_ino, file.st_ctime_ns, file.st_size]
    (data / "history.state").write_text(json.dumps(notes))
    with serving(data, workers) as server:
        assert not join(server, lost)["recovered"], "the position is ahead of the room"
        talk(server, "new 1", "new 2", "new 3")
        joined = join(server, lost)
        assert (joined["recovered"], joined["epoch"]) == (False, lost["epoch"])
        assert texts(joined) == ["kept", "new 1", "new 2", "new 3"]
        joined = join(server, before)
        assert (joined["recovered"], texts(joined)) == (True, ["new 1", "new 2", "new 3"])


def test_directory_can_be_moved_while_the_server_runs(tmp_path: Path) -> None:
    """Away and back, nothing is lost and no epoch changes."""
    data, away = tmp_path / "data", tmp_path / "away"
    with serving(data) as server, connected(server.port) as alice:
        since = position_of(alice.join(username="Alice"))
        data.rename(away)
        away.rename(data)
        say(alice, "one")
        assert server.stop() == 0
    with serving(data) as server:
        joined = join(server, since)
        assert (joined["recovered"], texts(joined)) == (True, ["one"])


def test_import_into_a_used_directory_keeps_its_epochs(tmp_path: Path) -> None:
    """The import notes that it has changed the file, as a server does."""
    with serving(tmp_path / "data") as server:
        since = talk(server, "one")
        assert server.stop() == 0
    lines = tmp_path / "lines"
    lines.write_text('{"username":"Ann","text":"old","room":"imported"}\n')
    assert main(["import", "--data", str(tmp_path / "data"), str(lines)]) == 0
    with serving(tmp_path / "data") as server:
        assert join(server, since)["recovered"]
