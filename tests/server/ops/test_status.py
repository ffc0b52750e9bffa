"""The status of a running server: the socket that provides it, the client, and the table."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from fastchat.brokers.relay.records import Status, decode_from_relay
from fastchat.brokers.relay.wire import SOCKET_NAME, RecordKind, RecordReader, pack
from fastchat.cli import main
from fastchat.cli import status as status_command
from fastchat.cli.status import table
from fastchat.errors import SettingError
from fastchat.metrics import Histogram, Metrics
from fastchat.ops.status import SILENCE_S, NotAnswering, StatusServer, ask, collect
from support.server import TIMEOUT_UNIT_S, running_server

LIMIT_S = 10 * TIMEOUT_UNIT_S
QUESTION = pack(RecordKind.STATUS, None)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a test on the event loop of `fastchat status` and on a server's."""

    def run_bounded(test: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * LIMIT_S):
                await test

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_bounded


Run = Callable[[Coroutine[Any, Any, None]], None]


async def no_operation(verb: str, arguments: Mapping[str, Any]) -> Any:
    raise AssertionError("no operation is expected")


@contextlib.asynccontextmanager
async def answering(
    directory: Path,
    snapshot: Callable[[], Mapping[str, Any]] = lambda: {"rooms": 3},
    operate: Callable[[str, Mapping[str, Any]], Awaitable[Any]] = no_operation,
    **bounds: Any,
) -> AsyncIterator[StatusServer]:
    server = StatusServer(directory, snapshot, operate, **bounds)
    await server.open()
    try:
        yield server
    finally:
        server.close()


async def exchange(directory: Path, *said: bytes) -> bytes:
    """Send these pieces one after the other, and return all bytes until the connection ends."""
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET_NAME))
        received = b""
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            for each in said:
                writer.write(each)
                await asyncio.sleep(0.02)
            while more := await reader.read(1 << 16):
                received += more
        return received


@contextlib.contextmanager
def listening(directory: Path, answer: bytes | None) -> Iterator[None]:
    """Listen at the socket, send `answer` and close; with None, send nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / SOCKET_NAME))
        listener.listen()
        client: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                client.append(connection)
                if answer is not None:
                    connection.recv(100)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)
            for each in client:
                each.close()


# A server of one process


def test_request_gets_the_current_snapshot(run: Run, tmp_path: Path) -> None:
    """Each request gets the current snapshot, over one connection, too."""
    rooms = iter(range(10))

    async def test() -> None:
        async with answering(tmp_path, lambda: {"rooms": next(rooms)}):
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 0}}
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 1}}
            answers = await exchange(tmp_path, QUESTION[:5], QUESTION[5:], QUESTION, b"?")
            assert list(RecordReader(decode_from_relay).feed(answers)) == [
                Status({"server": {"rooms": number}}) for number in (2, 3)
            ]

    run(test())


def test_long_path_of_a_socket_works(run: Run, tmp_path: Path) -> None:
    """The path of a socket can be longer than the 108 bytes that the kernel takes."""
    directory = tmp_path / ("d" * 100) / ("ä" * 60)
    directory.mkdir(parents=True)
    descriptors = len(os.listdir("/proc/self/fd"))

    async def test() -> None:
        async with answering(directory):
            assert await ask(directory, LIMIT_S) == {"server": {"rooms": 3}}
        assert not (directory / SOCKET_NAME).exists()

    run(test())
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_socket_is_private(run: Run, tmp_path: Path) -> None:
    """The socket has mode 0600, whatever the umask is, and the umask is unchanged afterwards."""

    async def test() -> None:
        async with answering(tmp_path):
            mode = (tmp_path / SOCKET_NAME).stat().st_mode
            assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)

    before = os.umask(0)
    try:
        run(test())
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert not (tmp_path / SOCKET_NAME).exists()


def test_stale_socket_is_replaced(run: Run, tmp_path: Path) -> None:
    """A server replaces the socket that a killed server has left behind."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET_NAME))

    async def test() -> None:
        async with answering(tmp_path):
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 3}}

    run(test())


def test_status_works_after_the_socket_was_removed(run: Run, tmp_path: Path) -> None:
    """A server whose socket was removed creates another within a second."""

    async def test() -> None:
        async with answering(tmp_path) as server:
            (tmp_path / SOCKET_NAME).unlink()
            server.check()
            async with asyncio.timeout(LIMIT_S):
                while not (tmp_path / SOCKET_NAME).exists():  # noqa: ASYNC110 nothing to wait for
                    await asyncio.sleep(0.01)
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 3}}

    run(test())


def test_directory_of_another_server_is_refused(run: Run, tmp_path: Path) -> None:
    """A server does not take the socket of one that runs, even if the lock's file is gone."""

    async def test() -> None:
        async with answering(tmp_path):
            with pytest.raises(SettingError, match="is in use by another server"):
                await StatusServer(tmp_path, dict, no_operation).open()
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 3}}

    run(test())


def test_directory_without_sockets_disables_the_status_only(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the directory cannot hold a socket, the server runs, and the log says that the status is
    not available."""
    (tmp_path / SOCKET_NAME).mkdir()

    async def test() -> None:
        async with answering(tmp_path):
            pass

    run(test())
    assert "cannot hold a socket: Is a directory" in caplog.text
    assert (tmp_path / SOCKET_NAME).is_dir()


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "zeros": b"\0" * 100,
    "a length and nothing": b"\x03\xff\xff\xff",
    "another record": pack(RecordKind.HELLO, {"version": 1}),
    "a question with a head": pack(RecordKind.STATUS, {"all": True}),
    "two at once": QUESTION * 2,
    "one byte too many": QUESTION + b"\0",
    "a megabyte": b"x" * 1_000_000,
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE)
def test_client_with_an_unknown_request_is_dropped(run: Run, tmp_path: Path, said: bytes) -> None:
    """An unknown request ends its connection at once and without an answer; other clients are
    served."""

    async def test() -> None:
        async with answering(tmp_path) as server:
            begun = time.monotonic()
            assert await exchange(tmp_path, said) == b""
            assert time.monotonic() - begun < SILENCE_S / 2
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 3}}
            assert len(server.clients) <= 1

    run(test())


def test_silent_client_is_dropped(run: Run, tmp_path: Path) -> None:
    """A silent client is dropped before a request, in the middle of one, and after an answer."""

    async def test() -> None:
        async with answering(tmp_path, silence_s=0.2) as server:
            assert await exchange(tmp_path) == b""
            assert await exchange(tmp_path, QUESTION[:3]) == b""
            assert len(await exchange(tmp_path, QUESTION)) > len(QUESTION)
            assert not server.clients

    run(test())


def test_client_that_reads_nothing_is_dropped(run: Run, tmp_path: Path) -> None:
    """An answer that the client does not read is dropped at its deadline, and is not made twice."""
    asked: list[bool] = []

    def snapshot() -> dict[str, Any]:
        asked.append(True)
        return {"closes": {str(code): code for code in range(100_000)}}

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with answering(tmp_path, snapshot, silence_s=0.3) as server:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await loop.sock_connect(client, str(tmp_path / SOCKET_NAME))
                for _ in range(2):
                    await loop.sock_sendall(client, QUESTION)
                    await asyncio.sleep(0.05)
                async with asyncio.timeout(LIMIT_S):
                    while server.clients:  # noqa: ASYNC110 no event
                        await asyncio.sleep(0.01)
        assert len(asked) == 1

    run(test())


def test_clients_are_limited(run: Run, tmp_path: Path) -> None:
    """A client above the limit is dropped at once, and others are accepted once clients have
    gone."""

    async def test() -> None:
        async with answering(tmp_path, max_clients=2) as server:
            path = str(tmp_path / SOCKET_NAME)
            silent = [await asyncio.open_unix_connection(path) for _ in range(2)]
            while len(server.clients) < 2:  # noqa: ASYNC110 no event
                await asyncio.sleep(0.001)
            with pytest.raises(NotAnswering):
                await ask(tmp_path, LIMIT_S)
            silent[0][1].close()
            while len(server.clients) > 1:  # noqa: ASYNC110 no event
                await asyncio.sleep(0.001)
            assert await ask(tmp_path, LIMIT_S) == {"server": {"rooms": 3}}
            server.close()
            assert await silent[1][0].read() == b""
            silent[1][1].close()

    run(test())


# The client


@pytest.mark.parametrize("directory", ["", "missing", "file"])
def test_missing_server_is_reported(run: Run, tmp_path: Path, directory: str) -> None:
    """A missing directory, a file in its place, or a directory without a server gives a
    sentence."""
    (tmp_path / "file").write_text("")

    async def test() -> None:
        with pytest.raises(NotAnswering, match=r"^no server is running on --data .*; .*\.$"):
            await ask(tmp_path / directory, LIMIT_S)

    run(test())


def test_killed_server_is_reported(run: Run, tmp_path: Path) -> None:
    """A killed server's socket still exists, and gives the same sentence."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET_NAME))

    async def test() -> None:
        with pytest.raises(NotAnswering, match="no server is running"):
            await ask(tmp_path, LIMIT_S)

    run(test())


def test_hanging_server_is_reported_after_a_timeout(run: Run, tmp_path: Path) -> None:
    """If the server does not answer within the caller's time, the result is a sentence."""

    async def test() -> None:
        begun = time.monotonic()
        with pytest.raises(
            NotAnswering, match=r"^the server on --data .* did not answer within .* s\.$"
        ):
            await ask(tmp_path, 0.2)
        assert 0.1 < time.monotonic() - begun < LIMIT_S / 2

    with listening(tmp_path, None):
        run(test())


@pytest.mark.parametrize(
    "answer",
    [b"", pack(RecordKind.STATUS, {})[:-1], b"HTTP/1.1 400 Bad", pack(RecordKind.REFUSED, {})]
    + [
        pack(RecordKind.STATUS, head) for head in (None, [1], {}, {"parts": 1}, {"parts": {"a": 1}})
    ],
)
def test_invalid_answer_is_reported(run: Run, tmp_path: Path, answer: bytes) -> None:
    """An answer of another program or version gives a sentence."""

    async def test() -> None:
        with pytest.raises(NotAnswering, match=r"^the server on --data .* cannot be asked: .*\.$"):
            await ask(tmp_path, LIMIT_S)

    with listening(tmp_path, answer):
        run(test())


def test_reports_add_to_known_values(run: Run, tmp_path: Path) -> None:
    """A report adds to the known values of a process, and a report of a replaced process is
    ignored."""
    known = {"supervisor": {"pid": 1}, "server": {"pid": 2, "up": 1, "restarts": 3}}
    replaced = {"server": {"pid": 5, "up": 0}}

    async def test() -> None:
        async with answering(tmp_path, lambda: {"pid": 2, "rooms": 3}):
            parts = await collect(tmp_path, known)
            assert parts == {
                "supervisor": {"pid": 1},
                "server": {"pid": 2, "up": 1, "restarts": 3, "rooms": 3},
            }
            assert await collect(tmp_path, replaced) == replaced
            assert await collect(tmp_path, {}) == {"server": {"pid": 2, "rooms": 3}}
        assert await collect(tmp_path, known) == known
        assert "rooms" not in known["server"]

    run(test())


def test_hanging_relay_delays_a_scrape_only_briefly(run: Run, tmp_path: Path) -> None:
    """If the relay hangs, the supervisor answers with the values that it knows itself."""

    async def test() -> None:
        known = {"relay": {"up": 1}}
        assert await collect(tmp_path, known, timeout_s=0.2) == known

    with listening(tmp_path, None):
        run(test())


# The table


def lag(*seconds: float) -> dict[str, Any]:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    return histogram.snapshot()


def two_snapshots() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two snapshots of a server with a relay and two workers, two seconds apart."""
    relay = {"pid": 4243, "uptime_s": 273_600.0, "rooms": 118, "users": 9873, "connections": 2}
    relay |= {"publications_total": 1000, "commit_s": lag(3), "loop_lag_s": lag()}
    relay |= {"cpu_s": 10.0, "resident_bytes": 61_000_000}
    first = {"pid": 4244, "uptime_s": 273_600.0, "connections": 5133, "deliveries": 10**6}
    first |= {"loop_lag_s": lag(3), "relay_lag_s": lag(3), "cpu_s": 1.0}
    first |= {"resident_bytes": 148_400_000}
    second = {**first, "pid": 4245, "connections": 5107, "deliveries": 0}
    later = {
        "worker-2": {**second, "uptime_s": 273_601.0, "deliveries": 200_000},
        "worker-1": {**first, "uptime_s": 273_602.0, "deliveries": 1_376_100, "cpu_s": 2.48},
        "relay": {**relay, "uptime_s": 273_602.0, "publications_total": 1824, "cpu_s": 10.18},
    }
    later["relay"]["commit_s"] = lag(3, *[0.00009] * 99, 9)
    later["worker-1"]["loop_lag_s"] = lag(3, 0.002)
    later["worker-1"]["relay_lag_s"] = lag(3, 1.5)
    later["worker-2"]["loop_lag_s"] = lag(3, 9)
    return {"worker-1": first, "worker-2": second, "relay": relay}, later


def test_table_says_that_messages_cannot_be_stored() -> None:
    """If the history cannot be written, a sentence below the server's line says so."""
    earlier, later = two_snapshots()
    for is_writable in (1, 0):
        later["relay"]["history_writable"] = is_writable
        lines = table(earlier, later, 2.0).splitlines()
        sentence = "Messages cannot be stored at the moment; the log says why."
        assert (lines[2] == sentence) is (is_writable == 0)
        assert len(lines) == 8 - is_writable


def test_table_shows_rates_between_two_snapshots() -> None:
    """The table has a line for the server and for each process, with rates and p99 of the time
    between."""
    assert table(*two_snapshots(), 2.0) == (
        "uptime  workers  clients  rooms  users  published/s  delivered/s  commit p99\n"
        "3d 04h        2   10,240    118  9,873          412      388,050      0.1 ms\n"
        "\n"
        "part       pid  uptime  clients  loop p99  relay p99  cpu  memory\n"
        "relay     4243  3d 04h        2         -          -   9%   61 MB\n"
        "worker-1  4244  3d 04h    5,133    2.5 ms      2.5 s  74%  148 MB\n"
        "worker-2  4245  3d 04h    5,107     > 5 s          -   0%  148 MB\n"
    )


def test_table_has_the_machines_that_share_an_engine() -> None:
    """Each machine has a line; one that is silent has no values, but the time since its report."""
    earlier, later = two_snapshots()
    here = {"machine": "chat-1", "version": "1.2.0", "age_s": 0.4, "is_silent": False}
    here |= {"uptime_s": 10.0, "connections": 5_133, "rooms": 118, "publications_total": 100}
    here |= {"deliveries": 1_000, "commit_s": lag(3)}
    gone = {**here, "machine": "chat-2", "age_s": 130.0, "is_silent": True}
    earlier["relay"] |= {"machine_reports": [here, gone]}
    now = {**here, "uptime_s": 12.0, "publications_total": 900, "deliveries": 401_000}
    now |= {"commit_s": lag(3, 0.0008)}
    later["relay"] |= {"machine_reports": [now, gone]}
    assert table(earlier, later, 2.0).splitlines()[3:6] == [
        "machine  version       heard  clients  rooms  published/s  delivered/s  commit",
        "chat-1   1.2.0           now    5,133    118          400      200,000    1 ms",
        "chat-2   1.2.0    2m 10s ago        -      -            -            -       -",
    ]


def test_unknown_values_are_dashes() -> None:
    """A worker that was restarted between the snapshots, and processes of other versions, have
    dashes."""
    earlier, later = two_snapshots()
    later["worker-1"] = {**later["worker-1"], "pid": 9999, "deliveries": 5, "uptime_s": 0.5}
    del later["worker-1"]["loop_lag_s"]
    lines = table(earlier, later, 2.0).splitlines()
    assert lines[1].split()[-4:] == ["412", "-", "0.1", "ms"]  # A partial sum would mislead.
    assert lines[5].split() == [
        *("worker-1", "9999", "0m", "00s", "5,133"),
        *("-", "5", "s", "-", "148", "MB"),
    ]
    bare = table({}, {"server": {}}, 1.0).splitlines()
    assert bare[1].split() == ["-", "1", *"------"]
    assert bare[4].split() == ["server", *"-------"]
    assert table({}, {}, 1.0).splitlines()[1].split() == ["-", "0", *"------"]


def test_workers_are_in_order() -> None:
    """Worker 10 stands after worker 9."""
    names = [f"worker-{number}" for number in range(1, 12)]
    lines = table({}, {name: {} for name in [*reversed(names), "relay"]}, 1.0).splitlines()
    assert [line.split()[0] for line in lines[4:]] == ["relay", *names]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0m 00s"), (61.9, "1m 01s"), (3599, "59m 59s"), (3600, "1h 00m")),
        *((86399, "23h 59m"), (86400, "1d 00h"), (99 * 86400, "99d 00h"), (100 * 86400, "100d  ")),
    ],
)
def test_uptime_is_short(seconds: float, text: str) -> None:
    """Uptime has at most two units."""
    assert (
        table({}, {"server": {"uptime_s": seconds}}, 1.0).splitlines()[1].lstrip().startswith(text)
    )


def test_table_fits_a_terminal() -> None:
    """The table fits 80 columns, with larger values than a machine has."""
    slow = lag(*[4.0] * 100)
    part = {"pid": 4194304, "uptime_s": 1.0, "connections": 999_999, "deliveries": 0}
    part |= {"rooms": 99_999, "users": 999_999, "publications_total": 0, "cpu_s": 0.0}
    later = {"uptime_s": 3e7, "deliveries": 9e13, "publications_total": 9e11, "cpu_s": 2.0}
    later |= {"commit_s": slow, "loop_lag_s": slow, "relay_lag_s": slow}
    names = ["relay", "worker-100"]
    text = table(
        {name: {**part} for name in names},
        {name: {**part, **later, "resident_bytes": 99_999e6} for name in names},
        1.0,
    )
    assert max(map(len, text.splitlines())) <= 80


# The command


@contextlib.contextmanager
def served(directory: Path) -> Iterator[Metrics]:
    """Run a status server with an event loop and a thread of its own."""
    counted = Metrics()
    started, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with answering(directory, lambda: counted.snapshot(connections=7, users=4)):
            loops.append(asyncio.get_running_loop())
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert started.wait(LIMIT_S)
        yield counted
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(LIMIT_S)


def test_status_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows the rates between two requests."""
    with served(tmp_path) as counted:
        timer = threading.Timer(0.1, counted.committed, (1000, 0.0001))
        timer.start()
        assert status_command.run(tmp_path, json=False, interval_s=0.3) == 0
        timer.join()
    _, server, _, _, part, *rest = capsys.readouterr().out.split("\n")
    assert re.fullmatch(r"0m \d\ds +1 +7 +- +4 +[\d,]{3,} +- +0\.1 ms", server)
    assert re.fullmatch(rf"server +{os.getpid()} +0m \d\ds +7 +- +- +\d+% +\d+ MB", part)
    assert rest == [""]


def test_status_json_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints one line with the counters, memory and CPU time of each process."""
    with served(tmp_path):
        assert main(["status", "--data", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    part = orjson.loads(out)["parts"]["server"]
    assert (part["pid"], part["connections"], part["users"]) == (os.getpid(), 7, 4)
    assert part["resident_bytes"] > 1_000_000
    assert part["cpu_s"] > 0


def test_status_without_a_server_is_a_sentence(tmp_path: Path) -> None:
    """Without a server the command prints a sentence on standard error, with status 1, also for a
    directory from the environment."""
    ran = subprocess.run(
        [sys.executable, "-m", "fastchat", "status"],
        env={**os.environ, "FASTCHAT_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"fastchat: no server is running on --data {tmp_path}; "
        "give the directory of a running server.\n"
    )


def test_status_of_a_hanging_server_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a hanging server the command prints a sentence, and no table without values."""
    with listening(tmp_path, None):
        assert main(["status", "--data", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"fastchat: the server on --data {tmp_path} did not answer within 2 s.\n"
    assert captured.out == ""


def test_real_server_answers_and_removes_its_socket(tmp_path: Path) -> None:
    """A server answers while it runs, and removes its socket when it stops."""
    command = [sys.executable, "-m", "fastchat", "status", "--json", "--data", str(tmp_path)]
    with running_server("--data", str(tmp_path)) as server:
        ran = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
        assert (ran.returncode, ran.stderr) == (0, b"")
        part = orjson.loads(ran.stdout)["parts"]["server"]
        assert (part["pid"], part["connections"], part["publications_total"]) == (server.pid, 0, 0)
        assert server.stop() == 0
    assert not (tmp_path / SOCKET_NAME).exists()
    assert subprocess.run(command, capture_output=True, timeout=LIMIT_S).returncode == 1
