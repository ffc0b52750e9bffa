"""The page behind a proxy that asks for a password (HTTP Basic authentication, RFC 7617)."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import Visit, say, text_in
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

USER, PASSWORD = "alice", "open sesame"
CREDENTIALS = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
REFUSAL = (
    b"HTTP/1.1 401 Unauthorized\r\n"
    b'WWW-Authenticate: Basic realm="chat"\r\n'
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


STORED = "async () => Boolean(await caches.match('/') && await caches.match('/static/app.js'))"


class PasswordProxy:
    """A proxy on 127.0.0.1 that passes on the requests with the password; others get 401.

    Each connection carries one request or one WebSocket. `passed` and `refused` are the paths of
    the requests.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed: list[str] = []
        self.refused: list[str] = []
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *tuple(self._open)):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            data = b""
            while b"\r\n\r\n" not in data:
                received = client.recv(65536)
                if not received:
                    return
                data += received
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            path = first.split(" ")[1]
            if f"authorization: basic {CREDENTIALS}".lower() not in map(str.lower, lines):
                self.refused.append(path)
                client.sendall(REFUSAL)
                return
            self.passed.append(path)
            if not any(line.lower().startswith("upgrade:") for line in lines):
                lines = [line for line in lines if not line.lower().startswith("connection:")]
                lines.append("Connection: close")
            with socket.create_connection(("127.0.0.1", self._server.port)) as upstream:
                self._open.add(upstream)
                upstream.sendall("\r\n".join([first, *lines, "", ""]).encode("latin-1") + body)
                sending = threading.Thread(target=_copy, args=(client, upstream), daemon=True)
                sending.start()
                _copy(upstream, client)
                sending.join(10 * TIMEOUT_UNIT_S)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(tmp_path: Any) -> Iterator[PasswordProxy]:
    with running_server("--data", str(tmp_path), "--limits", "off") as server:
        proxy = PasswordProxy(server)
        yield proxy
        proxy.close()


def test_page_works_behind_a_password(visit: Visit, proxy: PasswordProxy) -> None:
    """A browser that has the password sends it with every request of the page: with the WebSocket,
    files, the service worker and the manifest, too."""
    credentials = {"username": USER, "password": PASSWORD}
    page = visit("Ann", url=proxy.url, service_workers="allow", http_credentials=credentials)
    say(page, "behind a password")
    expect(text_in(page, "behind a password")).to_be_visible()
    page.set_input_files(
        "input[type=file]", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"content"}
    )
    say(page, "with a file")
    expect(text_in(page, "with a file")).to_be_visible()
    expect(page.locator(".message--pending")).to_have_count(0)

    page.wait_for_function("() => navigator.serviceWorker.controller")
    wait_until(lambda: page.evaluate(STORED))
    manifest = page.context.new_cdp_session(page).send("Page.getAppManifest")
    assert '"start_url"' in manifest["data"]
    page.reload()
    expect(text_in(page, "with a file")).to_be_visible()
    assert {"/files", "/sw.js", "/static/manifest.webmanifest"} <= set(proxy.passed)
    assert proxy.refused == ["/"]  # the first request, before the browser knew the password
