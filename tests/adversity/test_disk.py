"""Servers whose disk is full, or whose history file disappears or is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checker.nemesis import can_mount, fill
from support.probed import Probed
from support.raw_websocket import Client, connected
from support.server import TIMEOUT_UNIT_S, running_server, wait_until

LONG = "x" * 3000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount an empty disk of 4 MB."""
    if not can_mount(tmp_path):
        pytest.skip("needs root, to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def say(client: Client, text: str, id: str) -> dict[str, object]:
    """Send a message and return the server's reply: the publication, an ack or an error."""
    client.send({"type": "message", "text": text, "id": id})
    while (answer := client.receive()).get("id") != id:
        pass
    return answer


def offsets(messages: list[dict[str, object]]) -> list[object]:
    return [message["offset"] for message in messages]


def test_full_disk_stops_only_publishing_and_only_while_it_is_full(disk: Path) -> None:
    """While the disk is full, messages get a temporary error, the rest of the server works, and no
    acknowledged message is lost."""
    data = ("--data", str(disk / "data"), "--limits", "off")
    with running_server(*data) as server, connected(server.port) as alice:
        session = alice.join(username="Alice")["session"]
        acknowledged = [say(alice, LONG, f"before {n}")["offset"] for n in range(10)]
        filler = fill(disk)
        number = 0
        while (answer := say(alice, LONG, f"during {number}"))["type"] == "message":
            acknowledged.append(answer["offset"])  # It still fitted into a page.
            number += 1
        for newcomer in range(5):
            refused = say(alice, LONG, f"during {number}")
            assert refused["type"] == "error"
            assert (refused["code"], refused["temporary"]) == ("unavailable", True)
            with connected(server.port) as bob:  # A newcomer can read, too.
                joined = bob.join(username=f"Bob {newcomer}", history=300)
                assert offsets(joined["messages"]) == acknowledged
                bob.send({"type": "history", "limit": 3})
                assert offsets(bob.receive_type("history")["messages"]) == acknowledged[-3:]
                bob.send({"type": "history", "after": 2, "limit": 3})
                assert offsets(bob.receive_type("history")["messages"]) == acknowledged[2:5]
                bob.send({"type": "typing"})
                assert alice.receive_type("typing")["username"] == f"Bob {newcomer}"
        filler.unlink()
        after = say(alice, LONG, f"during {number}")
        assert (after["type"], after["offset"]) == ("message", len(acknowledged) + 1)
        assert server.stop() == 0
        log = server.errors.splitlines()
        assert len([line for line in log if "the history fails" in line]) == 1
        assert len([line for line in log if "the history works again" in line]) == 1
        assert "Traceback" not in server.errors
    with running_server(*data) as server, connected(server.port) as alice:
        joined = alice.join(username="Alice", session=session, history=300)
        assert offsets(joined["messages"]) == [*acknowledged, after["offset"]]
        assert say(alice, LONG, f"during {number}")["type"] == "ack"


def test_server_is_not_ready_while_its_disk_is_full(disk: Path) -> None:
    """The probe says that the disk is full until there is space again, also if nobody sends a
    message meanwhile."""
    probed = Probed(disk / "data")
    with probed.running() as server, connected(server.port) as alice:
        alice.join(username="Alice")
        assert probed.is_ready
        filler = fill(disk)
        ids = map(str, range(1000))
        while say(alice, LONG, next(ids))["type"] == "message":
            pass  # It still fits into a page.
        status, reason = probed.get("/readyz")
        assert (status, "full" in reason) == (503, True)
        assert probed.metric("fastchat_history_writable") == 0
        assert probed.metric("fastchat_failed_commits_total") == 1
        time.sleep(2.5)  # the server tries to write once a second
        assert not probed.is_ready
        filler.unlink()
        wait_until(lambda: probed.is_ready)
        assert say(alice, LONG, next(ids))["type"] == "message"
        assert server.stop() == 0
    assert server.errors.count("the history fails (append)") == 1
    assert server.errors.count("the history works again (append)") == 1


def test_killed_server_starts_again_on_a_full_disk(disk: Path) -> None:
    """A server that was killed on a full disk starts again, serves its history, and publishes once
    there is room."""
    data = ("--data", str(disk / "data"), "--limits", "off")
    with running_server(*data) as server, connected(server.port) as alice:
        alice.join(username="Alice")
        kept = say(alice, LONG, "kept")["offset"]
        filler = fill(disk)
        server.kill()
    with running_server(*data) as server, connected(server.port) as alice:
        assert offsets(alice.join(username="Alice")["messages"]) == [kept]
        ids = map(str, range(100))
        while (answer := say(alice, LONG, next(ids)))["type"] == "message":
            pass  # It still fits into a page.
        assert answer["code"] == "unavailable"
        filler.unlink()
        assert say(alice, "at last", "at last")["type"] == "message"


def test_stopped_server_refuses_to_start_on_a_full_disk(disk: Path) -> None:
    """A server without room for its write-ahead log refuses to start with one sentence, and loses
    nothing."""
    data = ("--data", str(disk / "data"), "--limits", "off")
    with running_server(*data) as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            kept = say(alice, LONG, "kept")["offset"]
        assert server.stop() == 0
    filler = fill(disk)
    refused = start(*data)
    assert refused.returncode == 2
    assert_is_one_sentence(refused.stderr, "cannot be opened")
    filler.unlink()
    with running_server(*data) as server, connected(server.port) as alice:
        assert offsets(alice.join(username="Alice")["messages"]) == [kept]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is expected to refuse, and return its result."""
    return subprocess.run(
        [sys.executable, "-m", "fastchat", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )


def assert_is_one_sentence(errors: str, reason: str) -> None:
    assert errors.startswith("fastchat: --data")
    assert reason in errors
    assert errors.count("\n") == 1


# History files that disappear


def removed(directory: Path) -> None:
    (directory / "history.db").unlink()


def all_removed(directory: Path) -> None:
    shutil.rmtree(directory / "files")
    for file in directory.iterdir():
        file.unlink()


def moved(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))


def unreadable(directory: Path) -> None:
    for file in directory.iterdir():
        file.chmod(0)


def truncated(directory: Path) -> None:
    os.truncate(directory / "history.db", 0)


@pytest.mark.parametrize("break_it", [removed, all_removed, moved, unreadable, truncated])
def test_server_survives_the_loss_of_its_history_file(
    tmp_path: Path, break_it: Callable[[Path], None]
) -> None:
    """If the history file is removed, moved, truncated or made unreadable, the server still
    replies: it delivers, or says `unavailable`."""
    directory = tmp_path / "data"
    with running_server("--data", str(directory), "--limits", "off") as server:
        with connected(server.port) as alice, connected(server.port) as bob:
            alice.join(username="Alice")
            for number in range(5):
                say(alice, f"before {number}", f"before {number}")
            bob.join(username="Bob", room="another")
            break_it(directory)
            for number in range(5):
                answer = say(alice, LONG, f"after {number}")
                assert answer["type"] == "message" or answer["code"] == "unavailable"
            for command in (
                {"type": "history", "after": 0},
                {"type": "search", "query": "before"},
                {"type": "join", "room": "third", "ref": "join"},
                {"type": "ping"},
            ):
                bob.send(command)
            bob.receive_type("pong")
        assert server.stop() == 0
        assert "Traceback" not in server.errors


# Damaged files


@pytest.mark.parametrize("part", ["beginning", "middle", "end"])
def test_server_refuses_a_damaged_file_and_does_not_touch_it(tmp_path: Path, part: str) -> None:
    """A damaged history file ends the start with one sentence and exit status 2; the file is
    neither replaced nor changed."""
    directory = tmp_path / "data"
    with running_server("--data", str(directory), "--limits", "off") as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            for number in range(60):
                say(alice, LONG, f"{number}")
        assert server.stop() == 0
    file = directory / "history.db"
    content = bytearray(file.read_bytes())
    start_of = {"beginning": 0, "middle": len(content) // 2, "end": len(content) - 40_960}[part]
    content[start_of : start_of + 40_960] = b"\xa5" * 40_960
    file.write_bytes(content)
    refused = start("--data", str(directory))
    assert refused.returncode == 2
    assert_is_one_sentence(refused.stderr, "is damaged; restore it from a copy, or move it away")
    assert file.read_bytes() == content
