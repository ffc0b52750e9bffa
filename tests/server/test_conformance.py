"""RFC 6455 as an independent suite sees it, and the echo that it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.run import KNOWN, SECTIONS, NotHere, failures, run, set_up
from fastchat.web.headers import SECURITY_HEADERS
from support.raw_websocket import (
    BINARY,
    CONTINUATION,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Client,
    Frame,
    connected,
    ends_within,
    request,
    wired,
)
from support.server import TIMEOUT_UNIT_S
from support.server_in_thread import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(debug_echo=True) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with connected(server.port, "/_echo") as client:
        yield client


# The suite


def test_suite_finds_nothing(tmp_path: Path) -> None:
    """Sections 1 to 7 and 10 of the Autobahn|Testsuite, each case as it should be."""
    try:
        set_up()
    except NotHere as reason:
        pytest.skip(str(reason))
    cases = run(SECTIONS, tmp_path / "report")
    assert len(cases) == 247
    assert {name.split(".")[0] for name in cases} == {*"1234567", "10"}
    assert set(failures(cases)) <= KNOWN


def test_wrong_case_is_found() -> None:
    """A failure, of a case or of its close, is told; what is only strict is none."""
    right = {"behavior": "OK", "behaviorClose": "OK"}
    cases = {
        "10.1.1": {**right, "behavior": "FAILED"},
        "1.1.1": right,
        "6.4.1": {**right, "behavior": "NON-STRICT"},
        "7.1.6": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"},
        "2.1": {**right, "behaviorClose": "WRONG CODE"},
        "2.10": {**right, "behaviorClose": "UNCLEAN"},
    }
    assert failures(cases) == ["2.1", "2.10", "10.1.1"]


def test_suite_without_python_2_says_so(tmp_path: Path) -> None:
    """Who has no Python 2.7 is told what is missing, by a status of its own."""
    script = Path(__file__).parents[2] / "conformance" / "run.py"
    environment = {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, "PYTHON27": "/nowhere/python2.7"},
        capture_output=True,
        text=True,
        timeout=30 * TIMEOUT_UNIT_S,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("conformance: there is no Python 2.7")


# The echo


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_message_comes_back(client: Client, opcode: int, size: int) -> None:
    """Of its kind, in one frame."""
    payload = (b"\xff\x00\xfe" if opcode == BINARY else b"abc") * (size // 3 + 1)
    client.send_frame(opcode, payload[:size])
    assert client.receive_frame() == Frame(opcode, payload[:size])


def test_fragments_come_back_as_one(client: Client) -> None:
    """The kind is the first fragment's; a ping in between is answered in between."""
    for opcode, parts in ((BINARY, [b"\xff", b"\x00", b""]), (TEXT, [b"\xc3", b"", b"\xa9"])):
        client.send_frame(opcode, parts[0], fin=False)
        client.send_frame(PING, b"now")
        client.send_frame(CONTINUATION, parts[1], fin=False)
        client.send_frame(CONTINUATION, parts[2])
        assert client.receive_frame() == Frame(PONG, b"now")
        assert client.receive_frame() == Frame(opcode, b"".join(parts))
        client.send_frame(TEXT, b"whole")
        assert client.receive_frame() == Frame(TEXT, b"whole")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(TEXT, b"\xff", True)], 1007),
        ([(TEXT, b"\xc3", False), (CONTINUATION, b"(", True)], 1007),
        ([(TEXT, b"", False), (BINARY, b"", True)], 1002),
        ([(BINARY, b"", False), (TEXT, b"", True)], 1002),
        ([(BINARY, b"", False), (BINARY, b"", False)], 1002),
        ([(CONTINUATION, b"", True)], 1002),
        ([(BINARY, b"x" * 40000, False), (CONTINUATION, b"x" * 40000, True)], 1009),
        ([(BINARY, b"x", False), *[(CONTINUATION, b"x", False)] * 64], 4504),
    ],
    ids=str,
)
def test_echo_is_as_strict_as_the_chat(
    server: Server, frames: list[tuple[int, bytes, bool]], code: int
) -> None:
    """What it does not give back it closes, as the session of the chat does."""
    with connected(server.port, "/_echo") as client:
        for opcode, payload, fin in frames:
            client.send_frame(opcode, payload, fin=fin)
        assert client.receive_end() == code


def test_echo_outlives_the_deadline_of_a_join() -> None:
    """Nothing can be joined here."""
    with (
        serving(debug_echo=True, join_timeout=0.1) as server,
        connected(server.port, "/_echo") as client,
    ):
        assert not ends_within(client, 1.5)


@pytest.mark.parametrize("fin", [True, False])
def test_chat_beside_it_takes_nothing_binary(server: Server, fin: bool) -> None:
    """`/ws` is what it always is, also under `--debug-echo`."""
    with connected(server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")
        client.send_frame(BINARY, b"{}", fin=fin)
        assert client.receive_end() == 1003


def test_echo_is_not_there_unless_asked_for() -> None:
    """404, as for any other path."""
    with serving() as server, wired(server.port) as wire:
        wire.write(request("/_echo", HANDSHAKE.items()))
        response = wire.read_response()
        assert response.status == 404
        assert all(response.headers[name] == value for name, value in SECURITY_HEADERS)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_echo_is_for_this_machine_only(host: str, workers: str, tmp_path: Path) -> None:
    """Where others could reach it the server does not start."""
    arguments = ["--host", host, "--port", "0", "--workers", workers, "--data", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "fastchat", "serve", "--debug-echo", *arguments],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "fastchat: --debug-echo is for tests; it needs --host 127.0.0.1 or ::1."
    )
