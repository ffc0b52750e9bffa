"""A fault that comes again and again leaves nothing behind.

SOAK_REPEATS says how often each fault comes (`make soak`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checker.parts import parts_of
from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import Client, connected
from support.server import wait_until

REPEATS = int(os.environ.get("SOAK_REPEATS", "2"))
#: What a process may grow by: its first reconnection loads code and fills caches.
MAX_GROWTH = 8 << 20
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fastchat'"
#: Locks of connections that do nothing. While they work, they take some for a moment.
LOCKS = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE a.application_name = 'fastchat' AND a.state_change < now() - interval '3 s'
"""
LISTENER = (
    "SELECT min(pid) FROM pg_stat_activity "
    "WHERE application_name = 'fastchat' AND query LIKE '%pg_notify($1, $2)%'"
)


def crash(server: PostgreSQL) -> None:
    server.crash()
    server.start()


def terminate(server: PostgreSQL) -> None:
    server.query(CONNECTIONS.replace("count(*)", "count(pg_terminate_backend(pid))"))


def freeze(server: PostgreSQL) -> None:
    """Stop the process of a listener until its machine has replaced it."""
    wait_until(lambda: server.query(LISTENER) != "")
    pid = int(server.query(LISTENER))
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(6.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def machines(own_server: PostgreSQL, tmp_path: Path) -> Iterator[list[Machine]]:
    url = chat_url(own_server)
    with (
        running_machine(url, "one", tmp_path, "--limits", "off") as one,
        running_machine(url, "two", tmp_path, "--limits", "off", "--workers", "2") as two,
    ):
        yield [one, two]


def say(client: Client, id: str) -> None:
    """Send a message as the page does: again, as long as the error is temporary."""
    while True:
        client.send({"type": "message", "text": id, "id": id})
        while (answer := client.receive()).get("id") != id:
            pass
        if answer["type"] != "error":
            return
        time.sleep(0.05)


def descriptors(machines: list[Machine]) -> dict[int, int]:
    """The number of open files of each process."""
    pids = [pid for each in machines for pid in (each.server.pid, *parts_of(each.server.pid))]
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def settled(server: PostgreSQL, machines: list[Machine]) -> tuple[str, dict[int, int]]:
    """The connections and the open files, when they have been the same for 3 s."""
    found, since = None, 0.0

    def are_the_same() -> bool:
        nonlocal found, since
        if (now := (server.query(CONNECTIONS), descriptors(machines))) != found:
            found, since = now, time.monotonic()
        return time.monotonic() - since > 3

    wait_until(are_the_same)
    assert found is not None
    return found


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("fault", [crash, terminate, pytest.param(freeze, marks=pytest.mark.soak)])
def test_repeated_fault_leaves_nothing_behind(
    own_server: PostgreSQL,
    machines: list[Machine],
    fault: Callable[[PostgreSQL], None],
) -> None:
    """However often PostgreSQL or its connections are lost, the machines have as many connections,
    open files and as much memory as after the first time, and hold no lock."""

    def recover(number: int) -> None:
        with connected(machines[0].port) as ann, connected(machines[1].port) as bob:
            clients = {f"ann {number}": ann, f"bob {number}": bob}
            for name, client in clients.items():
                client.join(username=name)
            fault(own_server)
            for name, client in clients.items():
                say(client, name)
        wait_until(lambda: int(own_server.query(CONNECTIONS)) >= 4 * len(machines))

    recover(0)
    connections, files = settled(own_server, machines)
    memory = {pid: resident(pid) for pid in files}
    for number in range(1, 1 + REPEATS):
        recover(number)
    wait_until(lambda: own_server.query(LOCKS) == "0")
    wait_until(lambda: descriptors(machines) == files)
    grown = {pid: resident(pid) - before for pid, before in memory.items()}
    print({pid: f"{growth >> 10} KiB" for pid, growth in grown.items()})
    assert max(grown.values()) < MAX_GROWTH
    wait_until(lambda: own_server.query(CONNECTIONS) == connections)
