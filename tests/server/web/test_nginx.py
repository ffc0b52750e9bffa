"""The server behind a real nginx, configured as docs/operations.md says; skipped without nginx."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_websocket import HANDSHAKE, ask, connected, request, wired
from support.server import lasting_port, wait_until
from support.server_in_thread import Server, serving

ROOT = Path(__file__).parents[3]
#: `make nginx` unpacks it under `build`.
NGINX = shutil.which(
    "nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{ROOT / 'build/nginx/usr/sbin'}"
)
DOCS = ROOT / "docs" / "operations.md"
CONFIGURATION = """
daemon off;
{user}
pid {directory}/pid;
error_log {directory}/errors;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def documented() -> str:
    found = re.search(r"```nginx\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def nginx(directory: Path, server: Server, servers: str) -> Iterator[int]:
    """Run nginx in front of the server, and yield its port."""
    port = lasting_port()
    assert "listen 80;" in servers
    servers = servers.replace("listen 80;", f"listen 127.0.0.1:{port};")
    servers = servers.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{server.port}")
    file = directory / "nginx.conf"
    # Its workers would run as another user, who cannot write to the test's directory.
    user = "" if os.geteuid() else "user root;"
    content = CONFIGURATION.format(user=user, directory=directory, servers=servers)
    file.write_text(content, "utf-8")
    assert NGINX is not None
    command = [NGINX, "-p", str(directory), "-e", str(directory / "errors"), "-c", str(file)]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, (directory / "errors").read_text("utf-8")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), wired(port):
        return True
    return False


def test_documented_configuration_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The page, a WebSocket of the host's own page and an upload pass, and nothing is logged."""
    caplog.set_level(logging.WARNING)
    data = str(tmp_path / "data")
    page = {"Host": "chat.example", "Origin": "http://chat.example"}
    client = {**page, "X-Forwarded-For": "192.0.2.1"}
    with (
        serving(history="sqlite", data=data, trusted_proxy=("127.0.0.1",)) as server,
        nginx(tmp_path, server, documented()) as port,
        wired(port) as wire,
        connected(port, "/ws?username=Alice", headers=client) as alice,
    ):
        assert ask(wire, "/").status == 200
        alice.receive_type("joined")
        content = os.urandom(2_000_000)
        alice.send({"type": "upload", "name": "a.bin", "size": len(content)})
        ticket = alice.receive_type("upload")["ticket"]
        headers = [
            ("Host", "chat.example"),
            ("X-Upload-Ticket", ticket),
            ("Content-Length", str(len(content))),
        ]
        wire.write(request("/files", headers, method="POST") + content)
        uploaded = wire.read_response()
        assert uploaded.status == 201
        assert ask(wire, json.loads(uploaded.body)["link"]).body == content
    assert not caplog.records


def test_bare_proxy_is_explained_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With `proxy_pass` alone the page loads, /ws gets 426, and the log says what is missing."""
    bare = "server { listen 80; location / { proxy_pass http://127.0.0.1:8080; } }"
    with (
        serving() as server,
        nginx(tmp_path, server, bare) as port,
        wired(port) as wire,
    ):
        assert ask(wire, "/").status == 200
        wire.write(request("/ws?username=Alice", HANDSHAKE.items()))
        assert wire.read_response().status == 426
    (record,) = caplog.records
    assert "HTTP/1.1, Upgrade: websocket, Connection: Upgrade" in record.getMessage()
