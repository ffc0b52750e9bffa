"""Machines whose rooms are spread over two PostgreSQLs, as clients and operators see them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastchat.ledger.sharing import owner_of
from fastchat.ledger.url import parse_url
from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import BINARY, Client, Response, ask, connected, wired
from support.server import START_TIMEOUT_S, wait_until


class Chat(NamedTuple):
    """A machine of one process, and one with two workers, which has the URLs in another order.

    The room `here` is on a server that lasts, and `there` on one that a test can kill.
    """

    urls: list[str]
    one: Machine
    two: Machine
    here: str
    there: str
    mortal: PostgreSQL


@pytest.fixture
def chat(server: PostgreSQL, own_server: PostgreSQL, tmp_path: Path) -> Iterator[Chat]:
    urls = [chat_url(server), chat_url(own_server)]
    with (
        running_machine(urls, "one", tmp_path) as one,
        running_machine(urls[::-1], "two", tmp_path, "--workers", "2") as two,
    ):
        schema = parse_url(urls[0]).schema
        ledger, ledgers = (
            server.query(f"SELECT {column} FROM {schema}.identity")  # noqa: S608
            for column in ("ledger", "array_to_string(ledgers, ' ')")
        )
        owners = {room: owner_of(room, ledgers.split()) for room in map(str, range(100))}
        here = next(room for room, owner in owners.items() if owner == ledger)
        there = next(room for room, owner in owners.items() if owner != ledger)
        yield Chat(urls, one, two, here, there, own_server)


def share(client: Client, room: str, content: bytes) -> str:
    """Send a file and a message with its link; returns the link."""
    client.send({"type": "upload", "name": "a.bin", "size": len(content), "room": room})
    client.receive_type("upload")
    client.send_frame(BINARY, content)
    link = str(client.receive_type("file")["link"])
    client.send({"text": link, "room": room})
    assert client.receive_type("message")["text"] == link
    return link


def get(machine: Machine, link: str) -> Response:
    with wired(machine.port) as wire:
        return ask(wire, link)


def fastchat(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastchat", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


def status(machine: Machine) -> dict[str, Any]:
    """What the process with the rooms says of itself."""
    done = fastchat("status", "--data", str(machine.directory), "--json")
    parts = json.loads(done.stdout)["parts"]
    found: dict[str, Any] = parts.get("relay") or parts["server"]
    return found


def test_killed_postgresql_takes_away_its_rooms_only(chat: Chat) -> None:
    """Its rooms are unavailable; everything else goes on, on both machines, with files; clients
    stay where they are, and operators see what is missing."""
    with ExitStack() as stack:
        people = []
        for machine, name in ((chat.one, "Ann"), (chat.two, "Bob")):
            client = stack.enter_context(connected(machine.port))
            for room in (chat.here, chat.there):
                client.join(room=room, username=name)
            people.append(client)
        ann, bob = people
        assert ann.receive_type("join")["username"] == "Bob"
        assert ann.receive_type("join")["username"] == "Bob"
        links = [share(ann, room, room.encode() * 100) for room in (chat.here, chat.there)]
        for link in links:
            assert bob.receive_type("message")["text"] == link
        for machine in (chat.one, chat.two, chat.two, chat.two):
            assert [get(machine, link).status for link in links] == [200, 200]
        assert get(chat.one, links[0].replace("/files/", "/files/a")).status == 404
        places = [parse_url(url).place for url in chat.urls]
        for machine in (chat.one, chat.two):
            wait_until(lambda m=machine: len(status(m)["machine_reports"]) == 2)
            assert status(machine)["engine_up"] == dict.fromkeys(places, 1)

        chat.mortal.kill()
        ann.send({"text": "lost", "room": chat.there, "ref": "1"})
        assert ann.receive_type("error")["code"] == "unavailable"
        ann.send({"text": "here", "room": chat.here})
        for client in (ann, bob):
            assert client.receive_type("message")["text"] == "here"
        assert [get(chat.two, link).status for link in links] == [200, 503]
        for machine in (chat.one, chat.two):
            wait_until(lambda m=machine: status(m)["engine_up"] == {places[0]: 1, places[1]: 0})
            assert machine.readiness == "ready"
        table = fastchat("status", "--data", str(chat.one.directory)).stdout
        assert f"{places[1]} cannot be used: PostgreSQL has not answered" in table
        assert "Messages cannot be stored" not in table

        chat.mortal.start()
        wait_until(lambda: status(chat.one)["engine_up"] == dict.fromkeys(places, 1))
        wait_until(lambda: status(chat.two)["engine_up"] == dict.fromkeys(places, 1))
        bob.send({"text": "back", "room": chat.there})
        for client in (ann, bob):
            assert client.receive_type("message")["text"] == "back"
        assert get(chat.two, links[1]).status == 200


def test_wrong_sets_are_refused(server: PostgreSQL, tmp_path: Path) -> None:
    """The sentence says what is wrong, with one process and with workers."""
    urls = [chat_url(server) for _ in range(3)]
    with running_machine(urls[:2], "one", tmp_path):
        pass
    for given, words in (
        (urls[:1], "it is one of 2 ledgers that share the rooms of a chat; give the URLs of all"),
        (urls, "is not one of the 2 that share the chat"),
        (urls[1:], "is not one of the 2 that share the chat"),
        ([urls[0], f"{urls[0]}&sslmode=disable"], "are the same ledger; give each one once"),
    ):
        workers = str(1 + len(given) % 2)
        data = ("--data", str(tmp_path / "data"), "--port", "0", "--workers", workers)
        done = fastchat("serve", *data, FASTCHAT_ENGINE=" ".join(given))
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
