"""Two machines behind a real HAProxy, exactly as docs/machines.md says; skipped without it."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from support.namespaces import in_own_network, why_no_networks
from support.postgresql import PostgreSQL, postgresql
from support.server import TIMEOUT_UNIT_S, wait_until

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "machines.md").read_text("utf-8")
#: `make haproxy` unpacks it under `build`.
UNPACKED = ROOT / "build/haproxy/usr"
HAPROXY = shutil.which(
    "haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{UNPACKED / 'sbin'}"
)
BALANCER, DATABASE, ONE, TWO = "10.0.0.10", "10.0.0.5", "10.0.0.11", "10.0.0.12"
PATIENCE_S = 20 * TIMEOUT_UNIT_S

pytestmark = [
    pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed"),
    pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks()),
]


def documented(language: str, number: int = 0) -> str:
    """The example in a language; the first one has the number 0."""
    found: str = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)[number]
    return found


@contextmanager
def database() -> Iterator[PostgreSQL]:
    """The database of the example."""
    settings = documented("conf").splitlines()
    with postgresql(*settings, "port = 5432") as server:
        place = f"postgresql://postgres@/postgres?host={server.home}&port=5432"
        for statement in documented("sql").split(";"):
            server.run("psql", "-XAtc", statement, place)
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write(documented("conf", 1))
        server.run("pg_ctl", "reload", "-s", "-D", str(server.data))
        yield server


@contextmanager
def started(
    command: list[str], folder: Path, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def machine(address: str, folder: Path) -> Any:
    """A machine of the example, which has only one of them."""
    script = documented("sh").replace(ONE, address).replace("fastchat serve", "exec fastchat serve")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return started(["sh", "-c", script], folder / address, PATH=path)


def balancer(folder: Path) -> Any:
    file = folder / "haproxy.cfg"
    file.write_text(documented("haproxy"))
    assert HAPROXY is not None
    libraries = ":".join(map(str, UNPACKED.glob("lib/*-linux-gnu")))
    return started([HAPROXY, "-db", "-f", str(file)], folder, LD_LIBRARY_PATH=libraries)


def readiness(address: str) -> str:
    try:
        with urlopen(f"http://{address}:9100/readyz", timeout=PATIENCE_S) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return str(error.read().decode())
    except OSError as error:
        return str(error)


def is_served() -> bool:
    try:
        with urlopen(f"http://{BALANCER}/", timeout=PATIENCE_S) as answer:
            return b"<html" in answer.read()
    except OSError:
        return False


def clients_of(address: str, folder: Path) -> int:
    """The number of clients of a machine."""
    command = [sys.executable, "-m", "fastchat", "status", "--json", "--data"]
    data = str(folder / address / "fastchat-data")
    answer = subprocess.run([*command, data], capture_output=True, text=True, check=True).stdout
    return int(json.loads(answer)["parts"]["server"]["connections"])


class Client:
    """A client that comes back through the balancer, as the page does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._session: dict[str, str] = {}
        self._connection = ExitStack()
        self._come()

    def _come(self) -> None:
        self._socket: ClientConnection = self._connection.enter_context(
            connect(f"ws://{BALANCER}/ws", open_timeout=PATIENCE_S, compression=None)
        )
        self.say(type="join", username=self.name, **self._session)
        self._session = {"session": self.receive("joined")["session"]}

    def say(self, **command: Any) -> None:
        self._socket.send(json.dumps(command))

    def receive(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message["type"] == kind:
                return message

    def come_back(self) -> None:
        """Wait for the end of the connection, and come back."""
        with suppress(ConnectionClosed):
            collections.deque(self._socket, maxlen=0)
        self.close()
        self._come()

    def is_sent_away(self) -> bool:
        """Whether the next message says that the server stops; False if there is none."""
        try:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=2))
        except TimeoutError:
            return False
        return message["type"] == "closing"

    def close(self) -> None:
        self._connection.close()


def chat_through_the_balancer(folder: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(database())
        one = stack.enter_context(machine(ONE, folder))
        stack.enter_context(machine(TWO, folder))
        wait_until(lambda: readiness(ONE) == readiness(TWO) == "ready\n", timeout_s=PATIENCE_S)
        stack.enter_context(balancer(folder))
        wait_until(is_served, timeout_s=PATIENCE_S)
        ann, bob = Client("Ann"), Client("Bob")
        stack.callback(bob.close)
        stack.callback(ann.close)
        assert clients_of(ONE, folder) == clients_of(TWO, folder) == 1
        ann.say(text="hello")
        for each in (ann, bob):
            assert each.receive("message")["text"] == "hello"

        # A machine that stops takes nobody along.
        one.terminate()
        (moved,) = [each for each in (ann, bob) if each.is_sent_away()]
        moved.come_back()
        wait_until(lambda: clients_of(TWO, folder) == 2, timeout_s=PATIENCE_S)
        moved.say(text="from the other machine")
        for each in (ann, bob):
            assert each.receive("message")["text"] == "from the other machine"
        assert one.wait(PATIENCE_S) == 0


def test_two_machines_behind_a_balancer(tmp_path: Path) -> None:
    """The example of docs/machines.md works literally, also when a machine is stopped."""
    in_own_network((BALANCER, DATABASE, ONE, TWO), lambda: chat_through_the_balancer(tmp_path))
