"""The examples of docs/client-python.md run as they stand, apart from the address of the server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastchat.auth.issuing import create_secret, make_token
from fastchat_client import Join, Message, SyncAPI, SyncChat, SyncRoom
from support.api import made_key
from support.server import PATIENCE_S
from support.server_in_thread import serving

ROOT = Path(__file__).parents[3]
MANUAL = ROOT / "docs" / "client-python.md"
README = ROOT / "clients" / "python" / "README.md"


def programs(file: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", file.read_text("utf-8"), re.DOTALL)


CHAT, MIRROR, SCRIPT, BOT, BACKEND, STREAM = programs(MANUAL)
FIRST, FIRST_BACKEND = programs(README)
PROGRAMS = [CHAT, MIRROR, SCRIPT, BOT, BACKEND, STREAM, FIRST, FIRST_BACKEND]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "secret"
    create_secret(file)
    return file


@pytest.fixture(scope="module")
def api_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "keys.json"


@pytest.fixture(scope="module")
def api_key(api_keys: Path) -> str:
    return made_key(api_keys)


@pytest.fixture(scope="module")
def url(key: Path, api_keys: Path, api_key: str) -> Iterator[str]:
    settings = {"jwt_key_file": (str(key),), "api_key_file": str(api_keys)}
    with serving(auth="optional", limits="off", **settings) as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture
def room(url: str) -> Iterator[SyncRoom]:
    """The lobby, with a reader in it."""
    with SyncChat(url, username="Reader", timeout=PATIENCE_S) as chat:
        yield chat.room("lobby")


def await_event(room: SyncRoom, holds: Callable[[object], bool]) -> object:
    return next(event for event in room if holds(event))


def has_come(name: str) -> Callable[[object], bool]:
    return lambda event: isinstance(event, Join) and event.username == name


def start(program: str, url: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program.replace("https://chat.example", url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, **environment},
        text=True,
    )


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> int:
    with process:
        process.send_signal(number)
        return process.wait(PATIENCE_S)


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_short(program: str) -> None:
    """An example has at most 20 lines of code."""
    assert len([line for line in program.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("program", [CHAT, FIRST])
def test_example_of_a_chat(program: str, url: str, room: SyncRoom, tmp_path: Path) -> None:
    """It says hello, and prints what others say."""
    process = start(program, url, tmp_path)
    try:
        await_event(room, lambda event: isinstance(event, Message) and "Hello" in event.text)
        room.send("Hi, Alice!")
        assert process.stdout is not None
        assert any("Reader: Hi, Alice!" in line for line in process.stdout)
    finally:
        stop(process)


def test_example_of_a_mirror(url: str, room: SyncRoom, tmp_path: Path) -> None:
    """After a restart it goes on where it was, and prints each message once."""
    printed = []
    for number in range(2):
        process = start(MIRROR, url, tmp_path)
        try:
            if number == 0:
                await_event(room, has_come("mirror"))
            first = room.send(f"mirrored {number}")
            assert process.stdout is not None
            lines = []
            while not lines or f"{first.offset} " not in lines[-1]:
                lines.append(process.stdout.readline())
            printed += lines
            deadline = room.send("one more")
            printed.append(process.stdout.readline())
            assert f"{deadline.offset} one more" in printed[-1]
        finally:
            stop(process)
    offsets = [int(line.split()[0]) for line in printed]
    # The last line was printed before its position was written, so it can come twice.
    assert sorted(set(offsets)) == list(range(offsets[0], offsets[-1] + 1))


def test_example_of_a_script(url: str, room: SyncRoom, tmp_path: Path) -> None:
    """It sends its message and ends."""
    process = start(SCRIPT, url, tmp_path)
    with process:
        assert process.wait(PATIENCE_S) == 0
    await_event(room, lambda event: isinstance(event, Message) and event.username == "deploy")


def test_example_of_a_bot(url: str, key: Path, room: SyncRoom, tmp_path: Path) -> None:
    """It answers a command, reacts to a mention, and ends with status 0 on SIGTERM."""
    token = make_token(key, subject="17", name="Dice", duration_s=600)
    process = start(BOT, url, tmp_path, FASTCHAT_TOKEN=token)
    try:
        await_event(room, has_come("Dice"))
        room.send("!roll 1")
        answer = await_event(room, lambda event: getattr(event, "username", "") == "Dice")
        assert isinstance(answer, Message)
        assert answer.own_text == "1"
        sent = room.send("@dice hello")
        await_event(room, lambda event: getattr(event, "target", 0) == sent.offset)
    finally:
        assert stop(process, signal.SIGTERM) == 0
    assert (tmp_path / "bot.json").exists()


@pytest.mark.parametrize("program", [BACKEND, FIRST_BACKEND])
def test_examples_of_backends(program: str, url: str, api_key: str, tmp_path: Path) -> None:
    """They publish a message, and print the users of its room."""
    name = "order-17" if program == BACKEND else "lobby"
    with SyncChat(url, username="Customer", timeout=PATIENCE_S) as chat:
        room = chat.room(name)
        process = start(program, url, tmp_path, FASTCHAT_KEY=api_key)
        printed = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0
        event = await_event(room, lambda event: isinstance(event, Message))
    assert getattr(event, "username", "") == "shop"
    assert "Customer" in printed
    assert program == FIRST_BACKEND or "shop: Your order is on its way." in printed


def test_example_of_a_stream(url: str, api_key: str, tmp_path: Path) -> None:
    """It prints messages of all rooms that it follows."""
    process = start(STREAM, url, tmp_path, FASTCHAT_KEY=api_key)
    with SyncAPI(url, key=api_key) as api:
        try:
            ready = threading.Event()
            line = []

            def read() -> None:
                assert process.stdout is not None
                line.append(process.stdout.readline())
                ready.set()

            reading = threading.Thread(target=read)
            reading.start()
            while not ready.wait(0.1):  # until the program follows the rooms
                api.publish("order-18", "Paid.")
            reading.join()
            assert line == ["order-18 shop: Paid.\n"]
        finally:
            stop(process)
