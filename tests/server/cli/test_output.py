"""Commands whose standard streams are full, closed, or not read by anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastchat.auth.issuing import create_secret
from support.raw_websocket import connected
from support.server import START_TIMEOUT_S, Server, running_server

FULL = "standard output cannot be written to: No space left on device."
CLOSED = "standard output is closed."


class Place(NamedTuple):
    """A running server, its data directory, and a key."""

    server: Server
    data: Path
    key: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    create_secret(folder / "key")
    with running_server("--data", str(folder / "data"), "--limits", "off") as server:
        with connected(server.port, "/ws?username=Alice") as alice:
            alice.receive_type("joined")
            for number in range(100):  # more than a buffer
                alice.send({"text": f"{number} {'x' * 300}"})
                alice.receive_type("message")
        yield Place(server, folder / "data", folder / "key")


#: The commands whose purpose is their output.
COMMANDS: dict[str, Callable[[Place], list[str]]] = {
    "status": lambda place: ["status", "--data", str(place.data)],
    "status as JSON": lambda place: ["status", "--json", "--data", str(place.data)],
    "token": lambda place: ["token", "--sub", "u", "--jwt-key-file", str(place.key)],
    "export": lambda place: ["export", "--data", str(place.data)],
    "tail": lambda place: ["tail", f"ws://127.0.0.1:{place.server.port}"],
    "tail as JSON": lambda place: ["tail", f"ws://127.0.0.1:{place.server.port}", "--json"],
}
#: argparse prints these.
HELP = {
    "version": lambda place: ["--version"],
    "help": lambda place: ["--help"],
    "help of serve": lambda place: ["serve", "--help"],
}


def ended(arguments: list[str], redirection: str, data: bytes = b"") -> tuple[int, str]:
    """Run a command with a redirection of the shell; return its status and its errors."""
    run = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {redirection}',
            "sh",
            sys.executable,
            "-m",
            "fastchat",
            *arguments,
        ],
        input=data,
        capture_output=True,
        timeout=START_TIMEOUT_S,
    )
    return run.returncode, run.stderr.decode()


@pytest.mark.parametrize("command", [*COMMANDS, *HELP])
def test_full_disk_is_one_sentence(command: str, place: Place) -> None:
    """A command that cannot write its output ends with status 1 and a sentence."""
    arguments = (COMMANDS | HELP)[command](place)
    assert ended(arguments, "> /dev/full < /dev/null") == (1, f"fastchat: {FULL}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_closed_output_is_one_sentence(command: str, place: Place) -> None:
    """A command without standard output does not claim success."""
    assert ended(COMMANDS[command](place), ">&- < /dev/null") == (1, f"fastchat: {CLOSED}\n")


@pytest.mark.parametrize("command", [*COMMANDS, *HELP])
def test_reader_that_has_ended_is_no_error(command: str, place: Place) -> None:
    """A command whose reader has ended, such as `head`, ends with status 0 and without a word."""
    arguments = (COMMANDS | HELP)[command](place)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        run = subprocess.run(
            [sys.executable, "-m", "fastchat", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=START_TIMEOUT_S,
        )
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-", "> /dev/full 2> /dev/full"])
def test_sentence_that_cannot_be_printed_is_lost(redirection: str, tmp_path: Path) -> None:
    """If standard error cannot be written to, the exit status still says what happened."""
    assert ended(["status", "--data", str(tmp_path)], redirection) == (1, "")
    assert ended(["serve", "--port", "many"], redirection) == (2, "")
    assert ended(["serve", "--fly"], redirection) == (2, "")


def test_error_does_not_go_to_standard_output(tmp_path: Path) -> None:
    """Without standard error, nothing is printed to standard output instead."""
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "fastchat", "serve", "--port=x"],
        stdout=subprocess.PIPE,
        timeout=START_TIMEOUT_S,
    )
    assert (run.returncode, run.stdout) == (2, b"")


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-"])
def test_import_without_output_succeeds(redirection: str, tmp_path: Path) -> None:
    """The messages are imported, so the status is 0, and the report goes to standard error."""
    line = b'{"username":"Ann","text":"Hello"}\n'
    status, errors = ended(["import", "--data", str(tmp_path / "data")], redirection, line)
    assert (status, errors) == (
        0,
        f"fastchat: imported 1 publication in 1 room into {tmp_path / 'data'}\n",
    )


def test_closed_input_is_one_sentence(tmp_path: Path) -> None:
    """`import` says that there is nothing to read, and creates no directory."""
    status, errors = ended(["import", "--data", str(tmp_path / "data")], "<&-")
    assert status == 2
    assert errors == "fastchat: standard input is closed; name the file to import.\n"
    assert not (tmp_path / "data").exists()
