"""Several machines on a real PostgreSQL, as clients and operators see them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import connected
from support.server import START_TIMEOUT_S, lasting_port, running_server, wait_until


@pytest.fixture
def machines(server: PostgreSQL, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """A machine of one process, and one with two workers."""
    url = chat_url(server)
    with (
        running_machine(url, "one", tmp_path) as one,
        running_machine(url, "two", tmp_path, "--workers", "2") as two,
    ):
        yield one, two


def failed(*arguments: str) -> tuple[int, str]:
    """The exit status and the complaint of a `fastchat serve` that cannot start."""
    ended = subprocess.run(
        [sys.executable, "-m", "fastchat", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    return ended.returncode, ended.stderr.splitlines()[-1]


def test_machines_are_one_chat(machines: tuple[Machine, Machine]) -> None:
    """Members on two machines see each other, the same messages, and what they missed."""
    one, two = machines
    with (
        connected(one.port, "/ws?username=Ann") as ann,
        connected(two.port) as bob,
    ):
        position = ann.receive_type("joined")
        bob.send({"type": "join", "username": "Bob"})
        assert [each["username"] for each in bob.receive_type("joined")["users"]] == ["Ann", "Bob"]
        assert ann.receive_type("join")["username"] == "Bob"
        ann.send({"text": "from one"})
        bob.receive_type("message")
        bob.send({"text": "from two"})
        texts = [ann.receive_type("message") for _ in range(2)]
        assert [each["text"] for each in texts] == ["from one", "from two"]
        bob.receive_type("message")
        bob.send({"type": "edit", "offset": 2, "text": "better"})
        assert ann.receive_type("edit")["text"] == "better"
        with connected(two.port) as eve:
            eve.send({"type": "join", "username": "ann"})
            assert eve.receive_type("error")["code"] == "username_taken"
            eve.send({"type": "join", "username": "Eve", "since": _position(position)})
            reply = eve.receive_type("joined")
            assert reply["recovered"]
            assert [each["offset"] for each in reply["messages"]] == [1, 2, 3]
            eve.send({"type": "search", "query": "better"})
            assert [each["offset"] for each in eve.receive_type("results")["messages"]] == [2]


def _position(joined: dict[str, object]) -> dict[str, object]:
    return {"epoch": joined["epoch"], "offset": joined["offset"]}


def test_user_hops_between_machines_unnoticed(machines: tuple[Machine, Machine]) -> None:
    """A machine that stops announces nobody who comes back to another one in time."""
    one, two = machines
    with connected(two.port, "/ws?username=Bob") as bob:
        bob.receive_type("joined")
        with connected(one.port, "/ws?username=Ann") as ann:
            session = ann.receive_type("joined")["session"]
            assert bob.receive_type("join")["username"] == "Ann"
            assert one.server.stop() == 0
            assert ann.receive_type("closing")["reconnect_after_ms"] > 0
        with connected(two.port) as ann:
            ann.join(username="Ann", session=session)
            ann.send({"text": "back"})
            assert bob.receive()["text"] == "back", "somebody has left, or come"


def test_status_shows_all_machines(machines: tuple[Machine, Machine]) -> None:
    """`fastchat status` on one machine has a line for each of them."""

    def status(*arguments: str) -> str:
        command = [sys.executable, "-m", "fastchat", "status", "--data", str(machines[0].directory)]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def reports() -> list[dict[str, object]]:
        found = json.loads(status("--json"))["parts"]["server"]["machine_reports"]
        return sorted(found, key=lambda each: str(each["machine"]))

    with connected(machines[1].port, "/ws?username=Bob") as bob:
        bob.receive_type("joined")
        wait_until(lambda: [each["connections"] for each in reports()] == [0, 1])
        assert [each["workers"] for each in reports()] == [1, 2]
        table = status()
    assert re.search(r"^one +[0-9]\S* +now +0 +0 ", table, re.MULTILINE)
    assert re.search(r"^two +[0-9]\S* +now +1 +1 ", table, re.MULTILINE)


def test_machine_without_its_engine_is_not_ready(own_server: PostgreSQL, tmp_path: Path) -> None:
    """Clients are told `unavailable`, then sent away; afterwards everything goes on."""
    url = chat_url(own_server)
    with ExitStack() as stack:
        for name, arguments in (("one", ()), ("two", ("--workers", "2"))):
            patience = ("--engine-patience", "5", "--join-timeout", "5", *arguments)
            machine = stack.enter_context(running_machine(url, name, tmp_path, *patience))
            client = stack.enter_context(connected(machine.port, f"/ws?username={name}"))
            assert client.receive_type("joined")
            assert machine.readiness == "ready"
            stack.callback(client.close)
            if name == "one":
                first, ann = machine, client
        own_server.kill()
        ann.send({"text": "lost", "ref": "1"})
        assert ann.receive_type("error")["code"] == "unavailable"
        for each in (first, machine):
            wait_until(lambda each=each: "PostgreSQL has not answered for" in each.readiness)
        eve = stack.enter_context(connected(first.port, "/ws?username=Eve"))
        assert eve.receive_type("error")["code"] == "unavailable"
        for each in (ann, client, eve):
            closing = each.receive_type("closing")
            assert closing["code"] == 4010
            assert closing["reconnect_after_ms"] >= 250
            assert each.receive_end() == 4010
        own_server.start()
        for each in (first, machine):
            wait_until(lambda each=each: each.readiness == "ready")
        with connected(first.port, "/ws?username=Ann") as back:
            back.receive_type("joined")
            back.send({"text": "again"})
            assert back.receive_type("message")["offset"] == 1


def test_wrong_start_is_a_sentence(server: PostgreSQL, tmp_path: Path) -> None:
    """What is wrong with the engine is said in one sentence, with one process and with workers."""
    url = chat_url(server)
    data = ("--data", str(tmp_path / "data"), "--port", "0")
    nowhere = f"postgresql://chat:secret@127.0.0.1:{lasting_port()}/chat"
    for workers in ("1", "2"):
        status, sentence = failed("--engine", nowhere, "--workers", workers, *data)
        assert status == 1
        assert "cannot be reached" in sentence
        assert "secret" not in sentence
        status, sentence = failed("--engine", f"{url}&sslmod=x", "--workers", workers, *data)
        assert (status, "did you mean 'sslmode'" in sentence) == (2, True)
    with running_machine(url, "one", tmp_path) as one:
        status, sentence = failed("--engine", url, "--data", str(one.directory), "--port", "0")
        assert (status, "is in use by another server" in sentence) == (2, True)
    server.query(
        f"UPDATE {url.partition('schema=')[2]}.identity SET version = 9, readable_from = 9"  # noqa: S608
    )
    status, sentence = failed("--engine", url, *data)
    assert (status, "needs a newer fastchat" in sentence) == (2, True)
    server.query("CREATE ROLE weak LOGIN")
    status, sentence = failed("--engine", chat_url(server).replace("postgres@", "weak@"), *data)
    assert (status, "may not make" in sentence) == (2, True)


def test_older_machines_go_on_after_a_migration(server: PostgreSQL, tmp_path: Path) -> None:
    """A newer machine has migrated the tables; one of this version serves, and can start again."""
    url = chat_url(server)
    schema = url.partition("schema=")[2]
    with running_machine(url, "one", tmp_path) as one, connected(one.port) as ann:
        ann.join(username="Ann")
        server.query(f"ALTER TABLE {schema}.publications ADD mood text")
        server.query(f"UPDATE {schema}.identity SET version = 2, readable_from = 1")  # noqa: S608
        ann.send({"text": "before"})
        assert ann.receive_type("message")["offset"] == 1
    with running_machine(url, "one", tmp_path) as one, connected(one.port) as bob:
        reply = bob.join(username="Bob")
        assert [each["text"] for each in reply["messages"]] == ["before"]


def test_machine_keeps_its_name(server: PostgreSQL, tmp_path: Path) -> None:
    """Without --machine, a name is made once, and kept in the data directory."""
    arguments = ("--engine", chat_url(server), "--data", str(tmp_path))
    names = []
    for _ in range(2):
        with running_server(*arguments):
            names.append((tmp_path / "machine").read_text())
    assert names[0] == names[1]
    assert re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{4}\n", names[0])
    (tmp_path / "machine").write_text("")
    status, sentence = failed(*arguments)
    assert (status, "has no name of a machine" in sentence) == (2, True)
