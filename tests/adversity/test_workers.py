"""Servers of several processes, any of which can die, hang or be replaced at any time.

The short run is part of every test run; environment variables make it longer (`make soak`):
SOAK_WORKERS, _PART_KILLS, _PART_CLIENTS, _PART_LIBRARY_CLIENTS, _PART_ROOMS, _PART_FREEZES,
_ROLLS, _DISCONNECTS (a second) and _SEED.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checker import check
from checker.parts import client_ports, figures, is_alive, parts_of, percentile_back_s, unexplained
from checker.run import Plan, run, summary
from fastchat.brokers.relay.wire import SOCKET_NAME
from support.raw_websocket import Client, connected, request, wired
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

#: Within this time, 99 of 100 clients are back. A quiet machine needs less than 3 s.
BACK_S = 30


def setting(name: str, default: int) -> int:
    return int(os.environ.get(f"SOAK_{name}", default))


def test_no_anomaly_when_processes_are_killed(tmp_path: Path) -> None:
    """Killed, stopped and replaced workers and relays cause no anomaly.

    Only the clients of a killed worker lose their connections, and they reconnect soon.
    """
    plan = Plan(
        seed=setting("SEED", random.randrange(1 << 32)),
        workers=setting("WORKERS", 2),
        clients=setting("PART_CLIENTS", 40),
        library_clients=setting("PART_LIBRARY_CLIENTS", 6),
        rooms=setting("PART_ROOMS", 6),
        kills=setting("PART_KILLS", 8),
        rolls=setting("ROLLS", 1),
        freezes=setting("PART_FREEZES", 2),
        disconnects_per_s=setting("DISCONNECTS", 10),
        uptime_s=(0.2, 1.5),
        # The checker shares the machine with the server, so each client pauses longer if there are
        # many.
        interval_s=max(0.3, setting("PART_CLIENTS", 40) / 400),
    )
    print(f"SOAK_SEED={plan.seed}")
    records = asyncio.run(run(plan, tmp_path / "data"))
    print(summary(records))
    print(figures(records))
    anomalies = check(records)
    assert not anomalies, "\n".join(map(str, anomalies[:20]))
    assert not unexplained(records)
    assert "Traceback" not in records.log, records.log
    assert percentile_back_s(records, 0.99) < BACK_S * TIMEOUT_UNIT_S
    assert sum(len(final.rows) for final in records.final.values()) > 10 * plan.kills


# One failure at a time


@contextlib.contextmanager
def running_cluster(
    data: Path, *arguments: str, port: int = 0, workers: int = 2
) -> Iterator[Server]:
    """Run a server of several processes, and check at the end that none of them is left."""
    always = ("--data", str(data), "--workers", str(workers), "--limits", "off")
    arguments = (*always, *arguments)
    with running_server(*arguments, port=port) as server:
        parts = parts_of(server.pid)
        assert sorted(parts.values()) == ["relay", *(f"worker {n + 1}" for n in range(workers))]
        yield server
        parts |= parts_of(server.pid)
    wait_until(lambda: not any(map(is_alive, parts)))


def process_named(server: Server, name: str) -> int:
    """Return the id of the process with this name."""
    (pid,) = [pid for pid, its_name in parts_of(server.pid).items() if its_name == name]
    return pid


@contextlib.contextmanager
def on_worker(server: Server, number: int) -> Iterator[Client]:
    """Connect a client to this worker; the kernel chooses the worker, so this takes several
    attempts."""
    pid = process_named(server, f"worker {number}")
    for _ in range(100):
        with connected(server.port) as client:
            if client.socket.getsockname()[1] in client_ports(pid, server.port):
                yield client
                return
    raise AssertionError(f"no connection of 100 came to worker {number}")


def say(client: Client, text: str, id: str) -> dict[str, Any]:
    """Send a message and return the server's reply: the publication, an ack or an error."""
    client.send({"type": "message", "text": text, "id": id})
    while (answer := client.receive()).get("id") != id:
        pass
    return answer


def say_until_stored(client: Client, text: str, id: str) -> dict[str, Any]:
    """Send a message as the page does: again, as long as the error is temporary."""
    while (answer := say(client, text, id))["type"] == "error":
        assert (answer["code"], answer["temporary"]) == ("unavailable", True)
    return answer


def texts(client: Client) -> list[str]:
    """Return the texts of the room's whole history, which must be short."""
    client.send({"type": "history", "limit": 300})
    return [message["text"] for message in client.receive_type("history")["messages"]]


def test_clients_of_different_workers_share_everything(tmp_path: Path) -> None:
    """Clients of different workers share messages, changes, typing, presence, names, pages and
    search as if they were on one worker."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 1) as alice,
        on_worker(server, 2) as bob,
    ):
        session = alice.join(username="Alice")["session"]
        joined = bob.join(username="Bob")
        names = [user["username"] for user in joined["users"]]
        assert (names, joined["online"]) == (["Alice", "Bob"], 2)
        came = alice.receive_type("join")
        assert (came["username"], came["online"]) == ("Bob", 2)

        alice.send({"type": "typing"})
        assert bob.receive_type("typing")["username"] == "Alice"
        offset = say(alice, "Hello there", "1")["offset"]
        assert bob.receive_type("message")["offset"] == offset
        bob.send({"type": "react", "offset": offset, "emoji": "👋"})
        assert alice.receive_type("react")["target"] == offset
        alice.send({"type": "edit", "offset": offset, "text": "Hello everybody"})
        assert bob.receive_type("edit")["text"] == "Hello everybody"
        bob.send({"type": "edit", "offset": offset, "text": "not mine"})
        assert bob.receive_type("error")["code"] == "forbidden"
        bob.send({"type": "search", "query": "every*"})
        (found,) = bob.receive_type("results")["messages"]
        assert found["text"] == "Hello everybody"
        assert [each["username"] for each in found["reactions"]["👋"]] == ["Bob"]
        alice.send({"type": "delete", "offset": offset})
        assert bob.receive_type("delete")["target"] == offset
        assert texts(bob) == [""]

        with on_worker(server, 2) as another:
            another.send({"type": "join", "username": "alice"})
            assert another.receive_type("error")["code"] == "username_taken"
            # Alice opens a second tab, and both tabs send the same message.
            assert another.join(username="Alice", session=session)["online"] == 2
            assert say(alice, "once", "2")["type"] == "message"
            assert say(another, "once", "2")["type"] in ("message", "ack")
            assert texts(bob) == ["", "once"]
        alice.send({"type": "leave"})
        alice.receive_type("left")
        # The second tab was closed without leaving the room, so its user leaves only 5 s later.
        left = bob.receive_type("leave")
        assert (left["username"], left["online"]) == ("Alice", 1)


def test_message_waits_for_a_killed_relay(tmp_path: Path) -> None:
    """If the relay is killed, no connection ends, no user leaves, and every message is published
    once."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 1) as alice,
        on_worker(server, 2) as bob,
    ):
        alice.join(username="Alice")
        bob.join(username="Bob")
        say(alice, "before", "before")
        bob.receive()
        for number in range(3):
            os.kill(process_named(server, "relay"), signal.SIGKILL)
            answer = say_until_stored(alice, f"text {number}", f"{number}")
            assert answer["offset"] == number + 2
            message = bob.receive()
            assert (message["type"], message["text"]) == ("message", f"text {number}")
            wait_until(lambda: "relay" in parts_of(server.pid).values())
        assert texts(alice) == texts(bob) == ["before", "text 0", "text 1", "text 2"]
        with on_worker(server, 2) as another:
            another.send({"type": "join", "username": "Alice"})
            assert another.receive_type("error")["code"] == "username_taken"


def test_silent_rooms_outlive_the_relay(tmp_path: Path) -> None:
    """In a room without messages, too, no connection ends if the relay is killed."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 1) as alice,
        on_worker(server, 2) as bob,
    ):
        epoch = alice.join(username="Alice")["epoch"]
        bob.join(username="Bob")
        assert alice.receive_type("join")["username"] == "Bob"
        os.kill(process_named(server, "relay"), signal.SIGKILL)
        assert say_until_stored(alice, "first", "first")["offset"] == 1
        assert bob.receive()["text"] == "first"
        with connected(server.port) as another:
            joined = another.join(username="Another", since={"epoch": epoch, "offset": 0})
            assert joined["recovered"]


def test_client_lost_while_the_relay_was_down_leaves_once(tmp_path: Path) -> None:
    """If a worker and the relay are killed at once, a user who does not come back is announced as
    gone, once."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 2) as bob,
        on_worker(server, 2) as neighbour,
        contextlib.ExitStack() as stack,
    ):
        bob.join(username="Bob")
        neighbour.join(username="Neighbour")
        with on_worker(server, 1) as alice, on_worker(server, 1) as cem:
            alice.join(username="Alice")
            session = cem.join(username="Cem")["session"]
            say(cem, "before", "before")
            begun = time.monotonic()
            for name in ("worker 1", "relay"):
                os.kill(process_named(server, name), signal.SIGKILL)
        again = stack.enter_context(connected(server.port))
        assert again.join(username="Cem", session=session)["online"] == 4
        left = bob.receive_type("leave")
        assert (left["username"], left["online"]) == ("Alice", 3)
        assert time.monotonic() - begun > 5
        say(neighbour, "after", "after")
        events = [bob.receive()]
        while events[-1].get("text") != "after":
            events.append(bob.receive())
        assert {each["type"] for each in events} == {"message"}


def test_hanging_relay_delays_publishing_only(tmp_path: Path) -> None:
    """While the relay hangs, commands that need it are refused after some 2 s and others work;
    later each message is published once."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 1) as alice,
        on_worker(server, 1) as neighbour,
        on_worker(server, 2) as bob,
    ):
        for name, client in (("Alice", alice), ("Neighbour", neighbour), ("Bob", bob)):
            client.join(username=name)
        assert say(alice, "before", "before")["offset"] == 1
        relay = process_named(server, "relay")
        os.kill(relay, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            alice.send({"type": "typing"})
            neighbour.receive_type("typing")
            for client in (alice, bob):
                client.send({"type": "ping"})
                client.receive_type("pong")
            assert time.monotonic() - begun < 1 * TIMEOUT_UNIT_S
            assert texts(bob) == ["before"]  # A worker reads pages without the relay.
            with connected(server.port) as newcomer:
                newcomer.send({"type": "join", "username": "Newcomer", "ref": "join"})
                refused = [say(alice, "meanwhile", "meanwhile"), newcomer.receive_type("error")]
            assert 1.5 < time.monotonic() - begun < 3 + 1 * TIMEOUT_UNIT_S
        finally:
            os.kill(relay, signal.SIGCONT)
        assert {each["code"] for each in refused} == {"unavailable"}
        assert all(each["temporary"] for each in refused)
        say_until_stored(alice, "meanwhile", "meanwhile")
        say_until_stored(alice, "after", "after")
        assert texts(bob) == texts(alice) == ["before", "meanwhile", "after"]
        assert process_named(server, "relay") == relay


@pytest.mark.parametrize("name", ["relay", "worker 1"])
def test_process_that_hangs_for_long_is_replaced(tmp_path: Path, name: str) -> None:
    """A process that hangs for long is killed and replaced, and its clients are served again."""
    with (
        running_cluster(tmp_path) as server,
        on_worker(server, 2) as bob,
    ):
        bob.join(username="Bob")
        say(bob, "before", "before")
        stopped = process_named(server, name)
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: not is_alive(stopped), timeout_s=10 + 5 * TIMEOUT_UNIT_S)
        wait_until(lambda: name in parts_of(server.pid).values())
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)  # The killed process must not wake up.
        say_until_stored(bob, "after", "after")
        for number in range(10):
            with connected(server.port) as client:
                joined = client.join(username=f"Client {number}")
                assert [each["text"] for each in joined["messages"]] == ["before", "after"]


def test_killed_supervisor_leaves_no_process(tmp_path: Path) -> None:
    """If the supervisor is killed, its children end within 1 s, even if they are stopped; then a
    server can start on the same port."""
    with running_cluster(tmp_path) as server:
        with on_worker(server, 1) as alice, on_worker(server, 2) as bob:
            alice.join(username="Alice")
            bob.join(username="Bob")
            for number in range(20):
                say((alice, bob)[number % 2], f"text {number}", f"{number}")
        parts = parts_of(server.pid)
        os.kill(process_named(server, "worker 1"), signal.SIGSTOP)
        begun = time.monotonic()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, parts)))
        assert time.monotonic() - begun < 1 + 0.5 * TIMEOUT_UNIT_S
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        server.wait()
    with running_cluster(tmp_path, port=server.port) as again, connected(again.port) as alice:
        joined = alice.join(username="Alice")
        assert [each["text"] for each in joined["messages"]] == [f"text {n}" for n in range(20)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_sends_every_client_a_time_to_reconnect(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A stop sends every client a reason and a time to reconnect, leaves no process and returns
    status 0.

    Ctrl+C signals the supervisor's process group, and none of its children is in that group.
    """
    with running_cluster(tmp_path) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(server.port)) for _ in range(20)]
        for index, client in enumerate(clients):
            client.join(username=f"Client {index}")
        say(clients[0], "last", "last")
        parts = parts_of(server.pid)
        assert os.getpgid(server.pid) not in set(map(os.getpgid, parts))
        begun = time.monotonic()
        server.signal(number)
        for client in clients:
            closing = client.receive_type("closing")
            assert closing["code"] == 1012
            assert closing["reconnect_after_ms"] > 0
            assert client.receive_end() == 1012
        assert server.wait() == 0
        assert time.monotonic() - begun < 5 * TIMEOUT_UNIT_S
        assert not any(map(is_alive, parts))
        assert "Traceback" not in server.errors
        assert not (tmp_path / "fastchat.sock").exists()


def test_stop_kills_processes_that_hang(tmp_path: Path) -> None:
    """A stop kills a worker and a relay that hang, so that no process is left."""
    with running_cluster(tmp_path) as server:
        parts = parts_of(server.pid)
        for name in ("relay", "worker 2"):
            os.kill(process_named(server, name), signal.SIGSTOP)
        assert server.stop(timeout_s=10 + 5 * TIMEOUT_UNIT_S) == 0
        assert not any(map(is_alive, parts))


def test_rolling_restart_replaces_workers_and_keeps_the_port_open(tmp_path: Path) -> None:
    """SIGUSR2 makes all clients reconnect, while the port accepts connections all the time."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        admin_port = probe.getsockname()[1]
    with (
        running_cluster(tmp_path, "--admin-port", str(admin_port)) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server.port)) for _ in range(20)]
        joined = [client.join(username=f"C{n}") for n, client in enumerate(clients)]
        for n, client in enumerate(clients):
            say(client, f"text {n}", f"{n}")
        old = parts_of(server.pid)
        relay = process_named(server, "relay")
        with connecting(server.port) as faults, probing(admin_port) as answers:
            server.signal(signal.SIGUSR2)
            for n, client in enumerate(clients):
                closing = client.receive_type("closing")
                assert closing["code"] == 1012
                assert client.receive_end() == 1012
                back = stack.enter_context(connected(server.port))
                since = {"epoch": joined[n]["epoch"], "offset": joined[n]["offset"]}
                again = back.join(username=f"C{n}", session=joined[n]["session"], since=since)
                assert again["recovered"]
                assert [e["id"] for e in again["messages"]] == [f"{m}" for m in range(20)]
            wait_until(
                lambda: (
                    len(parts_of(server.pid)) == 3 and {*parts_of(server.pid)} & {*old} == {relay}
                ),
                timeout_s=20 * TIMEOUT_UNIT_S,
            )
        assert set(answers) == {200}
        assert not faults, faults
        assert say(stack.enter_context(rejoined(server, joined[0])), "last", "20")["offset"] == 21


@contextlib.contextmanager
def rejoined(server: Server, joined: dict[str, Any]) -> Iterator[Client]:
    with connected(server.port) as client:
        client.join(username=joined["username"], session=joined["session"])
        yield client


@contextlib.contextmanager
def in_background(once: Any) -> Iterator[None]:
    """Call a function over and over, as long as the `with` block runs."""
    ended = threading.Event()

    def over_and_over() -> None:
        while not ended.wait(0.005):
            once()

    thread = threading.Thread(target=over_and_over)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def connecting(port: int) -> Iterator[list[str]]:
    """Connect and shake hands all the time; yield the failures."""
    faults: list[str] = []

    def once() -> None:
        try:
            with connected(port):
                pass
        except (OSError, EOFError, AssertionError) as error:
            faults.append(f"{type(error).__name__}: {error}"[:100])

    with in_background(once):
        yield faults


@contextlib.contextmanager
def probing(admin_port: int) -> Iterator[list[int]]:
    """Ask all the time whether the server is ready; yield the answers."""
    answers: list[int] = []

    def once() -> None:
        with wired(admin_port) as wire:
            wire.write(request("/readyz"))
            answers.append(wire.read_response().status)

    with in_background(once):
        yield answers


# The relay's socket


def test_workers_reach_the_relay_after_its_socket_was_removed(tmp_path: Path) -> None:
    """The relay creates its socket again, so a rolling restart succeeds and clients can chat."""
    data = tmp_path / "data"
    with running_cluster(data) as server:
        (data / SOCKET_NAME).unlink()
        await_log(server, f"{data / SOCKET_NAME} was gone, and was created again")
        server.signal(signal.SIGUSR2)
        await_log(server, "all workers are new")
        for number in (1, 2):
            with on_worker(server, number) as client:
                assert client.join(username="Alice", room=f"r{number}")["online"] == 1
                assert say(client, "hello", "1")["type"] == "message"


def test_worker_whose_successor_has_no_relay_stays(tmp_path: Path) -> None:
    """If the socket cannot be created again, a rolling restart changes nothing, and the clients of
    the old workers go on."""
    data = tmp_path / "data"
    with running_cluster(data) as server, on_worker(server, 1) as alice:
        alice.join(username="Alice")
        before = parts_of(server.pid)
        (data / SOCKET_NAME).unlink()
        (data / SOCKET_NAME).mkdir()
        server.signal(signal.SIGUSR2)
        line = await_log(server, "the rolling restart stopped")
        assert "worker 1 keeps its old process" in line
        assert "the relay cannot be reached" in line
        assert parts_of(server.pid) == before
        assert say(alice, "still here", "1")["type"] == "message"
        with on_worker(server, 2) as bob:
            assert bob.join(username="Bob")["online"] == 2
        (data / SOCKET_NAME).rmdir()
        await_log(server, "was created again")
        server.signal(signal.SIGUSR2)
        await_log(server, "all workers are new")


def await_log(server: Server, words: str) -> str:
    """Wait for a line of the log with these words, and return it; lines before it are dropped."""
    stream = server.process.stderr
    assert stream is not None
    logged = ""
    found: list[str] = []

    def is_logged() -> bool:
        nonlocal logged
        while select.select([stream], [], [], 0)[0]:
            if not (part := os.read(stream.fileno(), 65536)):
                break
            logged += part.decode()
        found[:] = [line for line in logged.splitlines() if words in line]
        return bool(found)

    wait_until(is_logged, timeout_s=60 * TIMEOUT_UNIT_S)
    return found[0]
