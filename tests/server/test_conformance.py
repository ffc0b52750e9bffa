"""RFC 6455 as the independent Autobahn|Testsuite checks it, and the echo endpoint that the suite
needs."""

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


def test_suite_finds_no_failure(tmp_path: Path) -> None:
    """Each case of sections 1 to 7 and 10 of the Autobahn|Testsuite passes."""
    try:
        set_up()
    except NotHere as reason:
        pytest.skip(str(reason))
    cases = run(SECTIONS, tmp_path / "report")
    assert len(cases) == 247
    assert {name.split(".")[0] for name in cases} == {*"1234567", "10"}
    assert set(failures(cases)) <= KNOWN


def test_failed_case_is_reported() -> None:
    """A failure, of a case or of its close, is reported; a case that is only non-strict is not."""
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


def test_missing_python_2_is_reported(tmp_path: Path) -> None:
    """Without Python 2.7 the suite says what is missing, with an exit status of its own."""
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
def test_message_is_echoed(client: Client, opcode: int, size: int) -> None:
    """A message is echoed with its own type, in one frame."""
    payload = (b"\xff\x00\xfe" if opcode == BINARY else b"abc") * (size // 3 + 1)
    client.send_frame(opcode, payload[:size])
    assert client.receive_frame() == Frame(opcode, payload[:size])


def test_fragments_are_echoed_as_one_message(client: Client) -> None:
    """The echo has the first fragment's type, and a ping between fragments is answered between
    them."""
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
def test_echo_refuses_what_the_chat_refuses(
    server: Server, frames: list[tuple[int, bytes, bool]], code: int
) -> None:
    """Invalid frames close the echo's connection, as they close the chat's."""
    with connected(server.port, "/_echo") as client:
        for opcode, payload, fin in frames:
            client.send_frame(opcode, payload, fin=fin)
        assert client.receive_end() == code


def test_echo_has_no_deadline_for_a_join() -> None:
    """The deadline for joining a room does not apply to the echo."""
    with (
        serving(debug_echo=True, join_timeout=0.1) as server,
        connected(server.port, "/_echo") as client,
    ):
        assert not ends_within(client, 1.5)


@pytest.mark.parametrize("fin", [True, False])
def test_chat_beside_the_echo_refuses_binary_messages(server: Server, fin: bool) -> None:
    """`/ws` behaves as usual under `--debug-echo`."""
    with connected(server.port, f"/ws?username=Alice-{fin}") as client:
        client.receive_type("joined")
        client.send_frame(BINARY, b"{}", fin=fin)
        assert client.receive_end() == 1003


def test_echo_is_off_by_default() -> None:
    """By default the echo's path gets 404, as any other path."""
    with serving() as server, wired(server.port) as wire:
        wire.write(request("/_echo", HANDSHAKE.items()))
        response = wire.read_response()
        assert response.status == 404
        assert all(response.headers[name] == value for name, value in SECURITY_HEADERS)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_echo_is_refused_on_public_addresses(host: str, workers: str, tmp_path: Path) -> None:
    """With `--debug-echo` on a public address the server does not start."""
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
