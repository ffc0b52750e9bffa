"""Files that the clients of several machines share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.machines import Machine, chat_url, running_machine
from support.postgresql import PostgreSQL
from support.raw_websocket import (
    BINARY,
    HOST,
    Client,
    Response,
    ask,
    connected,
    request,
    wired,
)
from support.server import wait_until


class Chat(NamedTuple):
    """A machine of one process, and one with two workers, on the PostgreSQL at `url`."""

    url: str
    one: Machine
    two: Machine


@pytest.fixture(scope="module")
def chat(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    url, folder = chat_url(server), tmp_path_factory.mktemp("machines")
    with (
        running_machine(url, "one", folder) as one,
        running_machine(url, "two", folder, "--workers", "2") as two,
    ):
        yield Chat(url, one, two)


def share(client: Client, content: bytes) -> str:
    """Send a file by binary messages, and return its link."""
    client.send({"type": "upload", "name": "a b.bin", "size": len(content)})
    chunk_bytes = client.receive_type("upload")["chunk_bytes"]
    for start in range(0, len(content), chunk_bytes):
        client.send_frame(BINARY, content[start : start + chunk_bytes])
    return str(client.receive_type("file")["link"])


def get(machine: Machine, link: str, *headers: tuple[str, str], method: str = "GET") -> Response:
    with wired(machine.port) as wire:
        return ask(wire, link, *headers, method=method)


def test_file_is_on_all_machines(chat: Chat) -> None:
    """A file that one machine has received can be read on each, until its message is deleted."""
    _, one, two = chat
    content = os.urandom(700_000)
    with (
        connected(one.port, "/ws?username=Ann") as ann,
        connected(two.port, "/ws?username=Bob") as bob,
    ):
        assert ann.receive_type("joined")["files"]["max_bytes"] > len(content)
        bob.receive_type("joined")
        link = share(ann, content)
        ann.send({"text": link})
        said = bob.receive_type("message")
        assert said["text"] == link
        for machine in (one, two, two, two):
            whole = get(machine, link)
            assert (whole.status, whole.body) == (200, content)
            part = get(machine, link, ("Range", "bytes=300000-300999"))
            assert (part.status, part.body) == (206, content[300_000:301_000])
            head = get(machine, link, method="HEAD")
            assert head.headers["content-length"] == "700000"
            cached = get(machine, link, ("If-None-Match", head.headers["etag"]))
            assert cached.status == 304
        ann.send({"type": "delete", "offset": said["offset"]})
        bob.receive_type("delete")
        for machine in (one, two, two):
            assert get(machine, link).status == 404
            assert get(machine, link, method="HEAD").status == 404


def test_ticket_is_valid_on_all_machines(chat: Chat) -> None:
    """A file can be announced on one machine and sent over HTTP to another, once."""
    _, one, two = chat
    with connected(one.port, "/ws?username=Cid") as cid:
        cid.receive_type("joined")
        cid.send({"type": "upload", "name": "a.bin", "size": 7})
        ticket = cid.receive_type("upload")["ticket"]
        headers = [HOST, ("Authorization", f"Bearer {ticket}"), ("Content-Length", "7")]
        answers: list[dict[str, Any]] = []
        for machine in (two, one):
            with wired(machine.port) as wire:
                wire.write(request("/files", headers, method="POST") + b"content")
                answer = wire.read_response()
                answers.append({"status": answer.status, **json.loads(answer.body)})
        assert [each["status"] for each in answers] == [201, 401]
        assert get(one, answers[0]["link"]).body == b"content"


def test_upload_to_a_killed_machine_is_removed(
    chat: Chat, server: PostgreSQL, tmp_path: Path
) -> None:
    """When a machine is killed in the middle of an upload, another one removes what is left."""
    schema = chat.url.partition("schema=")[2]

    def query(statement: str) -> str:
        url = f"{server.url}?options=-csearch_path%3D{schema}"
        return server.run("psql", "-XAtc", statement, url).strip()

    content = "SELECT number FROM uploads JOIN pieces ON content = number"
    with (
        running_machine(chat.url, "three", tmp_path) as three,
        connected(three.port, "/ws?username=Eve") as eve,
    ):
        eve.receive_type("joined")
        eve.send({"type": "upload", "name": "a.bin", "size": 600_000})
        chunk_bytes = eve.receive_type("upload")["chunk_bytes"]
        for _ in range(300_000 // chunk_bytes + 1):
            eve.send_frame(BINARY, bytes(chunk_bytes))
        wait_until(lambda: query(content) != "")
        number = int(query(content))
        three.server.kill()
    query("UPDATE uploads SET heard = heard - interval '1 min'")  # as if it were a while ago
    wait_until(lambda: query("SELECT count(*) FROM uploads WHERE claim IS NOT NULL") == "0")
    query("UPDATE discarded SET at = at - interval '1 min'")
    wait_until(lambda: str(number) not in query("SELECT content FROM pieces").split())
