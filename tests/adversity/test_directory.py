"""Servers whose data directory is removed, moved, replaced, closed or locked while they run."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import apsw
import pytest

from checker.parts import parts_of
from support.probed import Probed
from support.raw_websocket import BINARY, Client, connected
from support.server import TIMEOUT_UNIT_S, running_server, wait_until, without_root
from support.server_in_thread import serving

SERVE = (sys.executable, "-m", "fastchat", "serve", "--port", "0")
FAILS = "the history fails (append)"
WORKS = "the history works again (append)"
BOTH = pytest.mark.parametrize("workers", ["1", "2"], ids=["one process", "two workers"])


def say(client: Client, text: str) -> dict[str, object]:
    """Send a message and return the server's reply: the publication, an ack or an error."""
    client.send({"type": "message", "text": text, "id": text})
    while (answer := client.receive()).get("id") != text:
        pass
    return answer


def history_of(directory: Path) -> list[object]:
    """The texts in a room after a start on `directory`."""
    with (
        serving(history="sqlite", data=str(directory)) as server,
        connected(server.port) as client,
    ):
        return [each["text"] for each in client.join(username="Reader")["messages"]]


def texts_of(client: Client) -> list[object]:
    """The texts of the newest page of history."""
    client.send({"type": "history"})
    return [each["text"] for each in client.receive_type("history")["messages"]]


# A directory or a file that is not there any more


def moved(directory: Path) -> Callable[[], object]:
    away = directory.rename(directory.with_name("away"))
    return lambda: away.rename(directory)


def replaced(directory: Path) -> Callable[[], object]:
    """An older copy takes the place of the directory."""
    away = directory.rename(directory.with_name("away"))
    shutil.copytree(away, directory, ignore=shutil.ignore_patterns("*.sock"))

    def undo() -> None:
        shutil.rmtree(directory)
        away.rename(directory)

    return undo


def without(name: str) -> Callable[[Path], Callable[[], object]]:
    def rename(directory: Path) -> Callable[[], object]:
        away = (directory / name).rename(directory / "away")
        return lambda: away.rename(directory / name)

    rename.__name__ = f"without {name}"
    return rename


def with_another(name: str) -> Callable[[Path], Callable[[], object]]:
    def replace(directory: Path) -> Callable[[], object]:
        away = (directory / name).rename(directory / "away")
        (directory / name).write_bytes(away.read_bytes())
        return lambda: away.rename(directory / name)

    replace.__name__ = f"with another {name}"
    return replace


@BOTH
@pytest.mark.parametrize(
    "break_it",
    [
        moved,
        replaced,
        *(
            change(name)
            for change in (without, with_another)
            for name in ("history.db", "history.db-wal", "history.db-shm")
        ),
    ],
    ids=lambda value: value.__name__,
)
def test_nothing_is_confirmed_while_the_history_is_away(
    tmp_path: Path, break_it: Callable[[Path], Callable[[], object]], workers: str
) -> None:
    """While the open history is not in its directory, messages are refused, the probe says why, and
    the rest goes on; when the history is back, the server goes on by itself."""
    probed = Probed(tmp_path / "data", "--workers", workers)
    with probed.running() as server:
        with connected(server.port) as alice, connected(server.port) as bob:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
            assert probed.metric("fastchat_history_writable") == 1
            undo = break_it(probed.directory)
            for number in range(3):
                refused = say(alice, f"away {number}")
                assert (refused["code"], refused["temporary"]) == ("unavailable", True)
            wait_until(lambda: not probed.is_ready)
            status, reason = probed.get("/readyz")
            assert status == 503
            assert reason.startswith(f"messages cannot be stored: {probed.directory}")
            assert "restart the server" in reason
            assert probed.get("/livez")[0] == 200
            assert len(bob.join(username="Bob", history=9)["messages"]) == 1
            alice.send({"type": "typing"})
            assert bob.receive_type("typing")["username"] == "Alice"
            undo()
            assert say(alice, "back")["type"] == "message"
            wait_until(lambda: probed.is_ready)
            if workers == "1":  # with several, this needs the socket, whose directory was replaced
                assert probed.metric("fastchat_history_writable") == 1
                assert probed.metric("fastchat_failed_commits_total") == 3
        assert server.stop() == 0
    assert server.errors.count(FAILS) == 1
    assert server.errors.count(WORKS) == 1
    assert "Traceback" not in server.errors
    assert history_of(probed.directory) == ["before", "back"]


@BOTH
def test_directory_in_place_of_another_stays_as_it_is(tmp_path: Path, workers: str) -> None:
    """If another directory is in the place of the data directory, the server neither writes into it
    nor creates its socket there, and uses none of its files."""
    probed = Probed(tmp_path / "data", "--workers", workers)
    with probed.running() as server, connected(server.port) as alice:
        alice.join(username="Alice")
        assert say(alice, "before")["type"] == "message"
        replaced(probed.directory)
        paths = sorted(probed.directory.rglob("*"))
        before = {path: (path.stat(), path.is_file() and path.read_bytes()) for path in paths}
        wait_until(lambda: not probed.is_ready)
        assert say(alice, "away")["code"] == "unavailable"
        for command in (
            {"type": "search", "query": "before"},
            {"type": "upload", "name": "a.txt", "size": 7},
        ):
            alice.send({**command, "ref": "refused"})
            while (answer := alice.receive()).get("ref") != "refused":
                pass
            assert answer["code"] == "unavailable"
        time.sleep(2.5)  # the socket is looked after once a second
        assert sorted(probed.directory.rglob("*")) == paths
        assert server.stop() == 0
    after = {path: (path.stat(), path.is_file() and path.read_bytes()) for path in paths}
    assert {path: found[1] for path, found in after.items()} == {
        path: found[1] for path, found in before.items()
    }
    assert {path: found[0].st_mtime_ns for path, found in after.items()} == {
        path: found[0].st_mtime_ns for path, found in before.items()
    }


@BOTH
def test_removed_directory_is_noticed_without_a_message(tmp_path: Path, workers: str) -> None:
    """If the data directory is removed, the server says so within seconds, even if nobody sends
    anything; nothing is confirmed, and nothing is created in place of the directory."""
    probed = Probed(tmp_path / "data", "--workers", workers)
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "a")["type"] == "message"
            shutil.rmtree(probed.directory)
            wait_until(lambda: not probed.is_ready)
            assert "cannot be reached" in probed.get("/readyz")[1]
            assert say(alice, "b")["code"] == "unavailable"
            alice.send({"type": "upload", "name": "a.txt", "size": 7, "ref": "upload"})
            while (answer := alice.receive()).get("ref") != "upload":
                pass
            assert answer["code"] == "unavailable"
        assert server.stop() == 0
    assert server.errors.count(FAILS) == 1
    assert not probed.directory.exists()
    assert history_of(probed.directory) == []


def test_new_relay_creates_no_history_in_place_of_one_that_is_away(tmp_path: Path) -> None:
    """If the relay is killed while the directory is away, its successors wait for the directory;
    they create nothing in its place, and nothing that was confirmed is lost."""
    probed = Probed(tmp_path / "data", "--workers", "2")
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
            away = probed.directory.rename(tmp_path / "away")
            (relay,) = [pid for pid, name in parts_of(server.pid).items() if name == "relay"]
            os.kill(relay, signal.SIGKILL)
            wait_until(lambda: probed.get("/readyz") == (503, "no relay\n"))
            for number in range(3):
                assert say(alice, f"away {number}")["code"] == "unavailable"
            assert not probed.directory.exists()
            away.rename(probed.directory)
            wait_until(lambda: probed.is_ready)
            assert say(alice, "back")["type"] == "message"
        assert server.stop() == 0
    assert "history.db is missing; put it back, or restart the server" in server.errors
    assert history_of(probed.directory) == ["before", "back"]


def test_workers_read_the_file_of_a_new_relay(tmp_path: Path) -> None:
    """If the relay is killed after a copy was put in the place of the directory, its successor uses
    the copy, and so do the workers: no page shows messages that the history does not have."""
    probed = Probed(tmp_path / "data", "--workers", "2")
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
        shutil.copytree(probed.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("*.s*"))
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(server.port)) for _ in range(8)]
            for number, client in enumerate(clients):  # both workers have some of them
                client.join(username=f"User {number}")
                assert say(client, f"lost {number}")["type"] == "message"
                assert texts_of(client)[0] == "before"
            probed.directory.rename(tmp_path / "away")
            (tmp_path / "copy").rename(probed.directory)
            (relay,) = [pid for pid, name in parts_of(server.pid).items() if name == "relay"]
            os.kill(relay, signal.SIGKILL)
            wait_until(lambda: relay not in parts_of(server.pid))
            wait_until(lambda: probed.is_ready)
        with ExitStack() as stack:
            for number in range(8):
                client = stack.enter_context(connected(server.port))
                client.join(username=f"Reader {number}")
                assert texts_of(client) == ["before"]
        assert server.stop() == 0
    assert server.errors.count("new epochs") == 1


def test_new_workers_wait_for_a_directory_that_is_away(tmp_path: Path) -> None:
    """If all workers are killed while the directory is away, the new ones create nothing in its
    place, and serve messages and files once it is back."""
    probed = Probed(tmp_path / "data", "--workers", "2")
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
        away = probed.directory.rename(tmp_path / "away")
        workers = {pid for pid, name in parts_of(server.pid).items() if name != "relay"}
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(parts_of(server.pid).keys() - workers) == 3)
        wait_until(lambda: not probed.is_ready)
        assert not probed.directory.exists()
        away.rename(probed.directory)
        wait_until(lambda: probed.is_ready)
        with connected(server.port) as bob:
            assert len(bob.join(username="Bob")["messages"]) == 1
            assert say(bob, "back")["type"] == "message"
            bob.send({"type": "upload", "name": "a.txt", "size": 7})
            bob.receive_type("upload")
            bob.send_frame(BINARY, b"content")
            assert bob.receive_type("file")["size"] == 7
        assert server.stop() == 0


def test_removed_lock_is_replaced_and_keeps_other_servers_out(tmp_path: Path) -> None:
    """If the file of the lock is removed, the server locks the directory again, and a second server
    is refused."""
    probed = Probed(tmp_path / "data")
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            (probed.directory / "lock").unlink()
            assert say(alice, "a")["type"] == "message"
            refused = start("--data", str(probed.directory))
            assert refused.returncode == 2
            assert "is in use by another server" in refused.stderr
        assert server.stop() == 0
    assert server.errors.count("it was created again") == 1


def test_second_server_that_took_a_removed_lock_stops_the_first(tmp_path: Path) -> None:
    """Two servers never write to one history: the first stores nothing any more if a second one has
    locked the directory."""
    probed = Probed(tmp_path / "data")
    with probed.running() as server, connected(server.port) as alice:
        alice.join(username="Alice")
        assert say(alice, "a")["type"] == "message"
        (probed.directory / "lock").unlink()
        (probed.directory / "lock").touch()  # as a second server does when it starts
        assert say(alice, "b")["code"] == "unavailable"
        wait_until(lambda: not probed.is_ready)
        assert "lock was replaced by another file" in probed.get("/readyz")[1]


# A history that another program has locked


@BOTH
def test_locked_history_stops_only_publishing(tmp_path: Path, workers: str) -> None:
    """While another program has locked the history, messages are refused at once, everything else
    is as fast as ever, no process is replaced, and the end of the lock is noticed."""
    probed = Probed(tmp_path / "data", "--workers", workers)
    with probed.running() as server:
        with connected(server.port) as alice, connected(server.port) as bob:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
            other = apsw.Connection(str(probed.directory / "history.db"))
            other.execute("BEGIN IMMEDIATE")
            try:
                # The supervisor kills a process that has not reported for six seconds.
                ends = time.monotonic() + 7
                count = 0
                while time.monotonic() < ends:
                    count += 1
                    begun = time.monotonic()
                    assert say(alice, f"during {count}")["code"] == "unavailable"
                    room = f"room-{count}"
                    bob.join(username="Bob", room=room)
                    bob.send({"type": "leave", "room": room})
                    bob.receive_type("left")
                    assert len(bob.join(username="Bob")["messages"]) == 1
                    bob.send({"type": "history", "before": 9, "room": "lobby"})
                    assert len(bob.receive_type("history")["messages"]) == 1
                    bob.send({"type": "search", "query": "before", "room": "lobby"})
                    assert len(bob.receive_type("results")["messages"]) == 1
                    bob.send({"type": "leave", "room": "lobby"})
                    bob.receive_type("left")
                    assert time.monotonic() - begun < 1 * TIMEOUT_UNIT_S
                    time.sleep(0.25)
                assert not probed.is_ready
                assert "another program has locked" in probed.get("/readyz")[1]
            finally:
                other.close()
            assert say(alice, "after")["type"] == "message"
            wait_until(lambda: probed.is_ready)
        assert server.stop() == 0
    assert server.errors.count(FAILS) == 1
    assert server.errors.count(WORKS) == 1
    assert "hangs" not in server.errors
    assert "starting another" not in server.errors
    assert history_of(probed.directory) == ["before", "after"]


def test_server_starts_on_a_locked_history(tmp_path: Path) -> None:
    """A server that starts while another program has locked the history serves it, is not ready,
    and becomes ready when the lock ends."""
    probed = Probed(tmp_path / "data")
    assert history_of(probed.directory) == []
    other = apsw.Connection(str(probed.directory / "history.db"))
    other.execute("BEGIN IMMEDIATE")
    try:
        with probed.running() as server, connected(server.port) as alice:
            assert "another program has locked" in probed.get("/readyz")[1]
            alice.join(username="Alice")
            assert say(alice, "during")["code"] == "unavailable"
            other.close()
            wait_until(lambda: probed.is_ready)
            assert say(alice, "after")["type"] == "message"
            assert server.stop() == 0
    finally:
        other.close()
    assert server.errors.count(FAILS) == 1


# A disk that fails


def test_failing_disk_stops_only_publishing(tmp_path: Path) -> None:
    """While writes fail with an I/O error, messages are refused and the probe says why; when the
    disk works again, so does the server."""
    probed = Probed(tmp_path / "data")
    with probed.running() as server:
        with connected(server.port) as alice:
            alice.join(username="Alice")
            assert say(alice, "before")["type"] == "message"
            # Beyond the limit, writes to files fail with EFBIG.
            before = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1000, before[1]))
            assert say(alice, "during")["code"] == "unavailable"
            assert probed.get("/readyz") == (503, "messages cannot be stored: disk I/O error\n")
            alice.send({"type": "history", "limit": 9})
            assert len(alice.receive_type("history")["messages"]) == 1
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, before)
            wait_until(lambda: probed.is_ready)
            assert say(alice, "after")["type"] == "message"
        assert server.stop() == 0
    assert server.errors.count(FAILS) == 1
    assert server.errors.count(WORKS) == 1
    assert history_of(probed.directory) == ["before", "after"]


def test_server_does_not_start_on_a_disk_that_fails(tmp_path: Path) -> None:
    """If the first write to the history fails with an I/O error, one sentence says so."""
    assert history_of(tmp_path / "data") == []
    limit = (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    child = subprocess.Popen(
        ["sh", "-c", 'read go; exec "$@"', "sh", *SERVE, "--data", str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, limit)
    _, errors = child.communicate("go\n", timeout=20 * TIMEOUT_UNIT_S)
    assert child.returncode == 2, errors
    assert errors.startswith("fastchat: --data")
    assert "disk I/O error" in errors
    assert errors.count("\n") == 1


# A history that cannot be written


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a server without root's rights that is expected to refuse, and return its result."""
    return subprocess.run(
        [*without_root(), *SERVE, *arguments],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a server that was killed, so that the log of the history remains."""
    directory = tmp_path_factory.mktemp("killed") / "data"
    with running_server("--data", str(directory)) as server, connected(server.port) as alice:
        alice.join(username="Alice")
        assert say(alice, "a")["type"] == "message"
        server.kill()
    return directory


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        *("", "lock", "history.db", "history.db-wal", "history.db-shm", "removals.json"),
        *("files", "files/index.sqlite3", "files/incoming"),
    ],
)
def test_server_refuses_files_that_it_has_no_right_to_write(
    killed: Path, tmp_path: Path, name: str, workers: str
) -> None:
    """If the server may not write to one of its files, it does not start, and one sentence names
    the file."""
    directory = tmp_path / "data"
    shutil.copytree(killed, directory, ignore=shutil.ignore_patterns("*.sock"))
    if not name:  # otherwise, no file would have to be created
        (directory / "history.db-shm").unlink()
    (directory / "files" / "incoming").mkdir()
    (directory / "removals.json").write_text("[]", "ascii")
    (directory / name).chmod(0o500 if (directory / name).is_dir() else 0o000)
    try:
        refused = start("--data", str(directory), "--workers", workers)
        assert refused.returncode == 2, refused.stderr
        *_, sentence = refused.stderr.splitlines()
        assert sentence.startswith("fastchat: --data")
        assert str(directory / name) in sentence
        assert "Traceback" not in refused.stderr
    finally:
        directory.chmod(0o700)
    (directory / name).chmod(0o700)
    assert history_of(directory) == ["a"]


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


@BOTH
@pytest.mark.parametrize("break_it", [made_read_only, closed, removed, replaced_by_a_file])
def test_server_stops_in_order_without_its_directory(
    tmp_path: Path, break_it: Callable[[Path], None], workers: str
) -> None:
    """A server without its directory tells its clients to come back, and ends with status 0. If it
    cannot remove its socket, it says so in one line."""
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
        # Where the directory cannot be looked into, nobody knows whether the socket is still there.
        expected = 1 if break_it is made_read_only else 0
        assert server.errors.count("fastchat.sock cannot be removed") == expected
    if break_it in (made_read_only, closed):
        with running_server(*arguments, as_root=False) as server, connected(server.port) as alice:
            assert [each["text"] for each in alice.join(username="Alice")["messages"]] == ["one"]
            assert say(alice, "two")["type"] == "message"
