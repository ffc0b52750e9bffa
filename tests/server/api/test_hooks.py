"""Incoming webhooks of a running server, and the programs that use them."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from slack_sdk.models.attachments import Attachment, AttachmentField
from slack_sdk.models.blocks import HeaderBlock, MarkdownTextObject, SectionBlock
from slack_sdk.webhook import WebhookClient

from fastchat.api.hook_file import revoke_hook
from fastchat.api.hooks import BUDGET
from support.hooks import JSON, Posted, made_hook, post
from support.raw_websocket import connected
from support.server import TIMEOUT_UNIT_S, lasting_port, running_server, wait_until
from support.server_in_thread import Server, serving

ROOT = Path(__file__).parents[3]
#: Where `make prometheus-alertmanager` unpacks it.
UNPACKED = ROOT / "build/prometheus-alertmanager/usr"
ALERTMANAGER = shutil.which(
    "prometheus-alertmanager", path=f"{os.environ.get('PATH', '')}:{UNPACKED / 'bin'}"
)
#: Its templates, which it finds at this path only. A namespace can show the unpacked ones there.
TEMPLATES = Path("/usr/share/prometheus/alertmanager/default.tmpl")
AS_INSTALLED = (
    *("unshare", "--mount", "--map-root-user", "sh", "-c"),
    f'mount --bind "{UNPACKED / "share"}" /usr/share && exec "$@"',
    "sh",
)
FORM = {"content-type": "application/x-www-form-urlencoded"}
_numbers = itertools.count()


class Place(NamedTuple):
    """A server with incoming webhooks, and their file."""

    server: Server
    file: Path

    def hook(self) -> tuple[str, str]:
        """A room and the path of a hook of it, which no other test uses."""
        room = f"room-{next(_numbers)}"
        path = made_hook(self.file, room)
        self.server.call(self.server.reload)
        return room, path

    def post(self, path: str, body: Any, headers: Any = JSON, **options: Any) -> Posted:
        return post(self.server.port, path, body, headers, **options)

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    def texts(self, room: str) -> list[str]:
        return texts(self.server.port, room)


def messages(port: int, room: str) -> list[dict[str, Any]]:
    """The messages of a room, as somebody who joins gets them."""
    with connected(port, f"/ws?room={room}&history=300") as reader:
        found: list[dict[str, Any]] = reader.receive_type("joined")["messages"]
        return found


def texts(port: int, room: str) -> list[str]:
    return [message["text"] for message in messages(port, room)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    file = tmp_path_factory.mktemp("hooks") / "hooks.json"
    made_hook(file, "lobby")
    with serving(hook_file=str(file), trusted_proxy=("127.0.0.1",)) as server:
        yield Place(server, file)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients connect to this machine, whatever proxy the environment names."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_message_of_a_hook(place: Place) -> None:
    """Members see the operator's name in the operator's room, and nobody joins or leaves."""
    room, path = place.hook()
    with connected(place.server.port, f"/ws?room={room}&username=Bob") as bob:
        bob.receive_type("joined")
        body = {"text": "Disk &gt; 90 %", "channel": "#lobby", "username": "Bob"}
        reply = place.post(path, body)
        assert (reply.status, reply.word) == (200, "ok")
        assert reply.headers["content-type"].startswith("text/plain")
        assert reply.headers["cache-control"] == "no-store"
        event = bob.receive()
    assert event["type"] == "message"
    assert (event["username"], event["room"], event["text"]) == ("Grafana", room, "Disk > 90 %")
    assert event["user"].startswith("h_grafana")
    assert place.texts("lobby") == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        ({"text": "a"}, {}, 200, "ok"),
        ({"text": "a"}, {"content-type": "Application/JSON; charset=utf-8"}, 200, "ok"),
        ({"text": "a"}, FORM, 200, "ok"),  # as `curl -d` sends it
        (b"payload=%7B%22text%22%3A%22a%22%7D", FORM, 200, "ok"),
        ({"text": " "}, JSON, 400, "no_text"),
        ({}, JSON, 400, "no_text"),
        (b"", JSON, 400, "invalid_payload"),
        (None, {}, 400, "invalid_payload"),
        ([], JSON, 400, "invalid_payload"),
        ({"text": 5}, JSON, 400, "invalid_payload"),
        (b"a", {"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        (b"a", {"content-type": "application/xml"}, 415, "unsupported_media_type"),
        (b"a", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"text": "a" * 65536}, JSON, 413, "payload_too_large"),
    ],
)
def test_answers(place: Place, body: Any, headers: Any, status: int, word: str) -> None:
    """Each answer is a word, and only what is stored is `ok`."""
    room, path = place.hook()
    reply = place.post(path, body, headers)
    assert (reply.status, reply.word) == (status, word)
    assert place.texts(room) == ["a"] * (status == 200)


def test_addresses_of_no_hook(place: Place) -> None:
    """All paths that are no hook's look alike, and other methods say nothing about a secret."""
    _, path = place.hook()
    for wrong in (path[:-1], path + "/", path + "/slack", "/hooks/", "/hooks/x%2Fy"):
        assert place.post(wrong, {"text": "a"}).status == 404
    assert place.post(path[:-1], {"text": "a"}).word == "no_service"
    for each in (path, path[:-1]):
        for method in ("GET", "HEAD", "PUT"):
            reply = place.post(each, None, method=method)
            assert (reply.status, reply.headers["allow"]) == (405, "OPTIONS, POST")
        assert place.post(each, None, method="OPTIONS").status == 204
    assert place.post(path + "?wait=true&thread_id=1", {"content": "a"}).status == 200


def test_budget(place: Place) -> None:
    """A hook that posts too quickly is told when to come back, and others are served."""
    room, path = place.hook()
    replies = [place.post(path, {"text": "a"}) for _ in range(int(BUDGET.burst) + 20)]
    served = [reply.status for reply in replies].count(200)
    assert BUDGET.burst <= served < len(replies)
    refused = next(reply for reply in replies if reply.status != 200)
    assert (refused.status, refused.word) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    assert len(place.texts(room)) == served
    _, other = place.hook()
    assert place.post(other, {"text": "a"}).status == 200


def test_limits_can_be_switched_off(tmp_path: Path) -> None:
    """With --limits off, a hook has no budget."""
    path = made_hook(tmp_path / "h", "ops")
    with serving(hook_file=str(tmp_path / "h"), limits="off") as server:
        statuses = {post(server.port, path, {"text": "a"}).status for _ in range(40)}
    assert statuses == {200}


def test_requests_are_counted_by_hook(place: Place) -> None:
    """Metrics have the ids of hooks, and nothing that a request says."""
    before = place.server.metrics.incoming_requests.copy()
    place.post("/hooks/x", {"text": "a"})
    _, path = place.hook()
    place.post(path, {"text": "a"})
    counted = place.server.metrics.incoming_requests - before
    assert counted["-", "404"] == 1
    assert sorted(counted.values()) == [1, 1]
    assert all(hook == "-" or hook.startswith("grafana") for hook, _ in counted)


def test_slack_sdk(place: Place) -> None:
    """The client of Slack's own library posts texts, blocks and attachments."""
    room, path = place.hook()
    client = WebhookClient(place.address(path))
    answer = client.send(text="Deployed <https://shop.example|the shop>")
    assert (answer.status_code, answer.body) == (200, "ok")
    section = SectionBlock(
        text=MarkdownTextObject(text="*Ready*"), fields=[MarkdownTextObject(text="*Took:* 31 s")]
    )
    assert client.send(text="-", blocks=[HeaderBlock(text="Deploy"), section]).status_code == 200
    fields = [AttachmentField(title="Host", value="web-1", short=True)]
    attachment = Attachment(
        text="Down", title="CPU", title_link="https://a.example", fallback="-", fields=fields
    )
    assert client.send(attachments=[attachment]).status_code == 200
    answer = client.send(text="")
    assert (answer.status_code, answer.body) == (400, "no_text")
    assert place.texts(room) == [
        "Deployed the shop (https://shop.example)",
        "Deploy\n*Ready*\n*Took:* 31 s",
        "CPU (https://a.example)\nDown\nHost: web-1",
    ]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_apprise(place: Place) -> None:
    """Apprise posts as it does to Mattermost, with the secret as its token."""
    import apprise  # takes a second

    room, path = place.hook()
    secret = path.removeprefix("/hooks/")
    notifier = apprise.Apprise()
    assert notifier.add(f"mmost://127.0.0.1:{place.server.port}/{secret}?image=no")
    assert notifier.notify(title="Backup", body="took 31 s & is done")
    (text,) = place.texts(room)
    assert "Backup" in text
    assert "took 31 s & is done" in text
    wrong = apprise.Apprise()
    assert wrong.add(f"mmost://127.0.0.1:{place.server.port}/{secret[:-1]}")
    assert not wrong.notify(body="x")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(place: Place) -> None:
    """The commands of Slack's documentation, and the shortest one, work."""
    room, path = place.hook()
    for arguments in (
        ("--json", '{"text":"one"}'),
        ("-X", "POST", "-H", "Content-type: application/json", "--data", '{"text":"two"}'),
        ("-X", "POST", "--data-urlencode", 'payload={"text":"three & 3"}'),
        ("-d", '{"text":"four"}'),
    ):
        ran = subprocess.run(
            ["curl", "-sS", "--fail-with-body", *arguments, place.address(path)],
            capture_output=True,
            text=True,
            timeout=10 * TIMEOUT_UNIT_S,
        )
        assert (ran.returncode, ran.stdout) == (0, "ok"), ran.stderr
    assert place.texts(room) == ["one", "two", "three & 3", "four"]


@pytest.mark.skipif(ALERTMANAGER is None, reason="prometheus-alertmanager is not installed")
def test_alertmanager(place: Place, tmp_path: Path) -> None:
    """Alertmanager posts an alert as it does to Slack."""
    before = () if TEMPLATES.exists() else AS_INSTALLED
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user cannot make a namespace, and prometheus-alertmanager is unpacked")
    room, path = place.hook()
    (tmp_path / "config.yml").write_text(
        "route: {receiver: chat, group_wait: 0s}\n"
        "receivers:\n"
        "- name: chat\n"
        f"  slack_configs: [{{api_url: '{place.address(path)}', channel: '#ops'}}]\n",
        "ascii",
    )
    port = lasting_port()
    assert ALERTMANAGER is not None
    process = subprocess.Popen(
        [
            *before,
            ALERTMANAGER,
            f"--config.file={tmp_path / 'config.yml'}",
            f"--storage.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        alert = {"labels": {"alertname": "DiskFull", "severity": "critical", "host": "db-1"}}

        def sent() -> bool:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/v2/alerts", json.dumps([alert]).encode(), JSON
            )
            try:
                with urllib.request.urlopen(request, timeout=5 * TIMEOUT_UNIT_S) as answer:
                    return bool(answer.status == 200)
            except OSError:  # it has not started yet
                assert process.poll() is None
                return False

        wait_until(sent)
        wait_until(lambda: len(place.texts(room)) > 0)
    finally:
        process.kill()
        process.wait(10)
    text = place.texts(room)[0]
    assert text.startswith("[FIRING:1]  (DiskFull db-1 critical) (http://")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_processes_and_signals(tmp_path: Path, workers: str) -> None:
    """All workers take a hook's messages; after SIGHUP they know a new one, and no revoked one."""
    file = tmp_path / "h"
    path = made_hook(file, "ops")
    flags = ("--workers", workers, "--data", str(tmp_path / "data"), "--hook-file", str(file))
    with running_server(*flags) as server:
        with connected(server.port, "/ws?room=ops&username=Bob") as bob:
            bob.receive_type("joined")
            for number in range(8):  # the kernel shares the connections among the workers
                assert post(server.port, path, {"text": str(number)}).status == 200
                assert bob.receive_type("message")["text"] == str(number)
        with connected(server.port, "/ws?room=ops&username=grafana") as impostor:
            assert impostor.receive()["code"] == "username_taken"
        new = made_hook(file, "ops", "GitHub")
        revoke_hook(file, "grafana")
        server.signal(signal.SIGHUP)
        for _ in range(4):
            wait_until(lambda: post(server.port, path, {"text": "x"}).status in (404, 429))
        wait_until(lambda: post(server.port, new, {"text": "y"}).status == 200)
        assert server.stop() == 0
    for secret in (path, new):
        assert secret[10:30] not in server.errors


def test_what_was_answered_survives_a_killed_server(tmp_path: Path) -> None:
    """Each message that was answered `ok` is there after kill -9."""
    file, port = tmp_path / "h", lasting_port()
    path = made_hook(file, "ops")
    flags = ("--data", str(tmp_path / "data"), "--hook-file", str(file), "--limits", "off")
    answered: list[str] = []

    def keep_posting(name: str) -> None:
        for number in itertools.count():
            try:
                reply = post(port, path, {"text": f"{name}-{number}"})
            except (OSError, http.client.HTTPException):  # killed, perhaps within the answer
                return
            assert reply.word == "ok"
            answered.append(f"{name}-{number}")

    for kill in range(3):
        with ExitStack() as stack:
            server = stack.enter_context(running_server(*flags, port=port))
            posting = [
                threading.Thread(target=keep_posting, args=(f"{kill}-{name}",)) for name in "ab"
            ]
            for thread in posting:
                thread.start()
            wanted = len(answered) + 20
            wait_until(lambda wanted=wanted: len(answered) >= wanted)
            server.kill()
            for thread in posting:
                thread.join()
    with running_server(*flags, port=port) as server:
        stored = texts(server.port, "ops")
    assert set(answered[-100:]) <= set(stored)
    assert len(stored) == len(set(stored))


def test_message_that_cannot_be_stored(tmp_path: Path) -> None:
    """While the data directory is gone, the answer is 503, and nobody sees the message."""
    path, data = made_hook(tmp_path / "h", "ops"), tmp_path / "data"
    with serving(hook_file=str(tmp_path / "h"), history="sqlite", data=str(data)) as server:
        assert post(server.port, path, {"text": "before"}).status == 200
        data.rename(tmp_path / "away")
        reply = post(server.port, path, {"text": "meanwhile"})
        assert (reply.status, reply.word) == (503, "unavailable")
        assert reply.headers["retry-after"] == "1"
        (tmp_path / "away").rename(data)
        wait_until(lambda: post(server.port, path, {"text": "after"}).status == 200)
        assert texts(server.port, "ops") == ["before", "after"]


def test_wrong_file(tmp_path: Path) -> None:
    """A server does not start with a file that it cannot use, and says why."""
    (tmp_path / "h").write_text("{}")
    flags = ("--history", "memory", "--hook-file", str(tmp_path / "h"))
    with pytest.raises(RuntimeError, match="must be a JSON object"), running_server(*flags):
        pass
