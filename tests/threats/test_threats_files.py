"""Attacks with files, on the server and on users who open them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from checker.nemesis import can_mount, fill
from fastchat.files.retention import Retention
from fastchat.metrics import Metrics
from support.browser import CHROMIUM, launch
from support.raw_websocket import BINARY, HOST, Client, Response, ask, connected, request, wired
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until


def announce(client: Client, size: int, name: str = "a.bin") -> dict[str, Any]:
    """Announce a file and return the server's reply: a ticket or an error."""
    client.send({"type": "upload", "name": name, "size": size, "ref": "r"})
    while (answer := client.receive()).get("ref") != "r":
        pass
    return answer


def head(ticket: str, size: int) -> bytes:
    length = ("Content-Length", str(size))
    return request("/files", [HOST, ("Authorization", f"Bearer {ticket}"), length], method="POST")


def post(port: int, ticket: str, content: bytes) -> Response:
    with wired(port) as wire:
        wire.write(head(ticket, len(content)) + content)
        return wire.read_response()


def share(client: Client, port: int, content: bytes, name: str = "a.bin") -> str:
    """Share a new file and return its link."""
    response = post(port, announce(client, len(content), name)["ticket"], content)
    assert response.status == 201, response
    link: str = json.loads(response.body)["link"]
    return link


def contents(data: Path) -> list[Path]:
    """List all contents on the disk, complete or not."""
    found = (data / "files").rglob("*")
    return [file for file in found if file.is_file() and not file.name.startswith("index.")]


@contextlib.contextmanager
def joined(server: Server, name: str = "Alice") -> Iterator[Client]:
    with connected(server.port) as client:
        client.join(username=name)
        yield client


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ["POST", "binary messages"])
def test_killed_server_leaves_no_incomplete_file(tmp_path: Path, workers: str, how: str) -> None:
    """T34. If the server is killed during an upload, the next server frees its bytes and the
    sender's quota, and complete files are unchanged."""
    arguments = ("--data", str(tmp_path), "--workers", workers, "--max-user-file-bytes", "1000000")
    content = os.urandom(100_000)
    with running_server(*arguments) as server, joined(server) as alice:
        link = share(alice, server.port, content)
        alice.send({"text": link})
        alice.receive_type("message")
        ticket = announce(alice, 700_000)["ticket"]
        with wired(server.port) as wire:
            if how == "POST":
                wire.write(head(ticket, 700_000) + bytes(300_000))
            else:
                alice.send_frame(BINARY, bytes(60_000))
            wait_until(lambda: any((tmp_path / "files" / "incoming").iterdir()))
            server.kill()
    with running_server(*arguments) as server:
        wait_until(lambda: len(contents(tmp_path)) == 1)
        with joined(server) as alice, wired(server.port) as wire:
            assert ask(wire, link).body == content
            assert share(alice, server.port, bytes(700_000))


def test_sweep_removes_the_incomplete_files_of_a_killed_worker(tmp_path: Path) -> None:
    """T34. The next sweep removes incomplete files that no process writes; uploads to other workers
    continue."""
    arguments = ("--data", str(tmp_path), "--workers", "2", "--limits", "off")
    with running_server(*arguments) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(joined(server, f"U{n}")) for n in range(12)]
        for client in clients:
            assert "ticket" in announce(client, 9)
            client.send_frame(BINARY, b"begun")
        wait_until(lambda: len(contents(tmp_path)) == 12)
        victim = worker_pids(server)[0]
        os.kill(victim, 9)
        wait_until(lambda: any(has_ended(client) for client in clients))
        continuing = [client for client in clients if not has_ended(client)]
        retention = Retention(tmp_path, clock=time.time, metrics=Metrics())
        retention.sweep()
        assert len(contents(tmp_path)) == len(continuing) < 12
        for client in continuing:
            client.send_frame(BINARY, b" now")
            assert client.receive_type("file")["size"] == 9


def worker_pids(server: Server) -> list[int]:
    children = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(server.pid)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in children.stdout.splitlines() if " worker " in line]


def has_ended(client: Client) -> bool:
    """Return whether the server has closed the connection; reads nothing."""
    try:
        return client.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount an empty disk of 8 MB."""
    if not can_mount(tmp_path):
        pytest.skip("needs root, to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_files_leave_the_disk_to_messages(disk: Path) -> None:
    """T34. Before files fill the disk they are refused; messages and deletions are accepted, and
    deletions make room for files again."""
    with running_server("--data", str(disk / "data"), "--limits", "off") as server:
        with joined(server) as alice:
            refused = announce(alice, 9_000_000)
            assert (refused["code"], refused["temporary"]) == ("unavailable", True)
            said = []
            while (answer := announce(alice, 500_000))["type"] == "upload":
                response = post(server.port, answer["ticket"], os.urandom(500_000))
                alice.send({"text": json.loads(response.body)["link"]})
                said.append(alice.receive_type("message")["offset"])
            assert (answer["code"], answer["temporary"]) == ("unavailable", True)
            assert len(said) > 5
            for number in range(50):
                alice.send({"text": "x" * 3000, "id": f"more {number}"})
                assert alice.receive_type("message")["id"] == f"more {number}"
            for offset in said[:5]:
                alice.send({"type": "delete", "offset": offset})
                assert alice.receive_type("delete")["target"] == offset
            wait_until(lambda: len(contents(disk / "data")) == len(said) - 5)
            assert share(alice, server.port, os.urandom(100_000))
        assert server.stop() == 0
    assert server.errors.count("files are refused: the disk has") == 1
    assert server.errors.count("--max-files-bytes") == 1


def test_full_disk_refuses_files_only_while_it_is_full(disk: Path) -> None:
    """T34. If another program fills the disk during an upload, the upload gets a temporary error
    and its bytes are removed; stored files are served, and once there is room uploads work again.
    """
    with running_server("--data", str(disk / "data"), "--limits", "off") as server:
        with joined(server) as alice, joined(server, "Bob") as bob:
            content = os.urandom(1_000_000)
            link = share(alice, server.port, content)
            announce(bob, 1_500_000)
            bob.send_frame(BINARY, bytes(60_000))
            with wired(server.port) as wire:
                wire.write(head(announce(alice, 1_500_000)["ticket"], 1_500_000) + bytes(60_000))
                wait_until(lambda: len(contents(disk / "data")) == 3)
                filler = fill(disk)
                wire.write(bytes(1_440_000))
                response = wire.read_response()
                assert response.status == 503
                assert json.loads(response.body)["code"] == "unavailable"
                assert int(response.headers["retry-after"]) > 0
            for _ in range(24):
                bob.send_frame(BINARY, bytes(60_000))
            error = bob.receive_type("error")
            assert (error["code"], error["temporary"]) == ("unavailable", True)
            with wired(server.port) as wire:
                assert ask(wire, link).body == content
            wait_until(lambda: len(contents(disk / "data")) == 1)
            filler.unlink()
            assert share(alice, server.port, os.urandom(1_500_000))
            alice.send({"text": "and on"})
            assert alice.receive_type("message")["text"] == "and on"
        assert server.stop() == 0
    assert "cannot store or read a file" in server.errors
    assert len(server.errors) < 20_000


def test_quota_cannot_be_evaded(tmp_path: Path) -> None:
    """T34. A user cannot exceed the quota by many connections, by announcing many files at once, or
    by files of one byte."""
    arguments = ("--max-user-file-bytes", "40960", "--max-files-bytes", "81920")
    with running_server("--data", str(tmp_path), *arguments) as server:
        with joined(server) as alice:
            answers = [announce(alice, 1, f"{number}.bin") for number in range(12)]
            assert [answer["type"] for answer in answers] == ["upload"] * 10 + ["error"] * 2
            assert answers[-1]["code"] == "forbidden"
            answers[0] = announce(alice, 1, "0.bin")  # It replaces the first announcement.
            for answer in answers[:10]:
                assert post(server.port, answer["ticket"], os.urandom(1)).status in (201, 401)
            assert announce(alice, 40_961)["code"] == "too_long"
        refused = 0
        for number in range(8):  # Other names meet the limit for all users together.
            with joined(server, f"User {number}") as other:
                for _ in range(5):
                    answer = announce(other, 4096)
                    if answer["type"] == "upload":
                        response = post(server.port, answer["ticket"], os.urandom(4096))
                        refused += response.status == 403
                    else:
                        refused += answer["code"] == "forbidden"
        assert refused >= 20
        assert sum(file.stat().st_size for file in contents(tmp_path)) <= 81_920


def test_slow_binary_uploads_leave_room_for_others(tmp_path: Path) -> None:
    """T34. An address that starts a file on each of its connections gets only its share of the
    concurrent uploads."""
    arguments = ("--data", str(tmp_path), "--trusted-proxy", "127.0.0.1")
    with running_server(*arguments, open_files=512) as server, contextlib.ExitStack() as stack:
        answers = []
        for number in range(16):
            header = {"X-Forwarded-For": "203.0.113.1"}
            mallory = stack.enter_context(
                connected(server.port, f"/ws?username=M{number}", headers=header)
            )
            mallory.receive_type("joined")
            assert announce(mallory, 1000)["type"] == "upload"
            mallory.send_frame(BINARY, b"x")
            mallory.send({"type": "ping"})
            while (event := mallory.receive())["type"] not in ("pong", "error"):
                pass
            answers.append(event["type"])
        assert answers == ["pong"] * 2 + ["error"] * 14
        with joined(server) as alice:
            announce(alice, 3)
            alice.send_frame(BINARY, b"abc")
            assert alice.receive_type("file")["size"] == 3


def test_stalled_uploads_leave_room_for_others(tmp_path: Path) -> None:
    """T34. An address that starts uploads and lets them stall gets only its share of the concurrent
    uploads; other users chat and share files."""
    with running_server("--data", str(tmp_path)) as server, contextlib.ExitStack() as stack:
        mallory = stack.enter_context(joined(server, "Mallory"))
        for _ in range(60):
            ticket = announce(mallory, 1_000_000)["ticket"]
            sender = stack.enter_context(connect_from("127.0.0.2", server.port))
            sender.sendall(head(ticket, 1_000_000) + bytes(1000))
        began = time.monotonic()
        with joined(server) as alice:
            link = share(alice, server.port, b"content")
            alice.send({"text": link})
            assert alice.receive_type("message")["text"] == link
        assert time.monotonic() - began < 3 * TIMEOUT_UNIT_S
        assert 1 < len(contents(tmp_path)) < 60


def test_uploads_without_a_ticket_take_no_place(tmp_path: Path) -> None:
    """T34. Four addresses that post without a ticket, as often as there are concurrent uploads,
    take none of them."""
    with running_server("--data", str(tmp_path)) as server, contextlib.ExitStack() as stack:
        for number in range(128):
            sender = stack.enter_context(connect_from(f"127.0.0.{2 + number % 4}", server.port))
            sender.sendall(head("nonsense", 25 << 20) + bytes(1000))
        with joined(server) as alice:
            link = share(alice, server.port, b"content")
            with wired(server.port) as wire:
                assert ask(wire, link).body == b"content"


def connect_from(address: str, port: int) -> socket.socket:
    client = socket.socket()
    client.bind((address, 0))
    client.connect(("127.0.0.1", port))
    return client


# In a browser

_SCRIPT = "<script>document.title = 'ran'; opener && (opener.ran = true)</script>"
_POLYGLOT = b"GIF89a/*" + bytes(8) + b"*/=1;document.title='ran';"
HOSTILE = [
    ("a.html", f"<!doctype html>{_SCRIPT}".encode()),
    ("a.svg", f'<svg xmlns="http://www.w3.org/2000/svg">{_SCRIPT}</svg>'.encode()),
    ("a.xhtml", f'<html xmlns="http://www.w3.org/1999/xhtml">{_SCRIPT}</html>'.encode()),
    ("a.js", b"document.title = 'ran';"),
    ("a.gif", _POLYGLOT),
    ("a.png", b"\x89PNG\r\n\x1a\n" + _SCRIPT.encode()),
]


def test_no_script_in_a_file_runs(tmp_path: Path) -> None:
    """T34. Hostile files that are opened, framed, embedded or loaded as scripts on the page's own
    origin are saved or shown as images, and none runs."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with running_server("--data", str(tmp_path)) as server, joined(server) as alice:
        links = {name: share(alice, server.port, data, name) for name, data in HOSTILE}
        with sync_playwright() as playwright, contextlib.closing(launch(playwright)) as browser:
            page = browser.new_page(service_workers="block")
            page.route("**/blank", lambda route: route.fulfill(body="<title>blank</title>"))
            for name, link in links.items():
                page.goto(f"{server.url}/blank")  # This page has the same origin and no policy.
                page.evaluate(_LOAD, link)
                assert page.title() == "blank", name
                assert page.evaluate("window.ran") is None
                opened = browser.new_page(service_workers="block")
                with contextlib.suppress(Exception):  # Playwright raises "Download is starting".
                    opened.goto(f"{server.url}{link}")
                assert opened.title() != "ran", name
                opened.close()


_LOAD = """async (link) => {
    for (const tag of ["script", "iframe", "embed", "object", "img"]) {
        const element = document.createElement(tag);
        element[tag === "object" ? "data" : "src"] = link;
        const over = new Promise((resolve) => {
            element.onload = element.onerror = resolve;
            setTimeout(resolve, 500);
        });
        document.body.append(element);
        await over;
    }
}"""
