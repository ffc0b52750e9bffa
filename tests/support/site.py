"""Another site, whose pages use the chat."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator


class Site(socketserver.ThreadingTCPServer):
    """Another site, at localhost and not at 127.0.0.1, so that its host differs.

    `pages` holds its answers by path: each a body, or a function that returns one.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, str | Callable[[], str]] = {}
        self.headers: dict[str, str] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://localhost:{self.server_address[1]}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        page = self.server.pages.get(self.path)
        body = page() if callable(page) else page
        self.send_response(404 if body is None else 200)
        self.send_header("content-type", "text/html; charset=utf-8")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving_site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()
