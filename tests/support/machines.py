"""Machines of one chat: servers that share a PostgreSQL, each with a data directory of its own."""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

from support.postgresql import PostgreSQL
from support.server import Server, lasting_port, running_server

__all__ = ["Machine", "chat_url", "running_machine"]


class Machine:
    """A running machine; `readiness` asks its admin port."""

    def __init__(self, server: Server, name: str, directory: Path, admin_port: int) -> None:
        self.server = server
        self.port = server.port
        self.name = name
        self.directory = directory
        self._admin_port = admin_port

    @property
    def readiness(self) -> str:
        """What /readyz answers."""
        url = f"http://127.0.0.1:{self._admin_port}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode().strip())
        except HTTPError as error:
            return str(error.read().decode().strip())


def chat_url(server: PostgreSQL) -> str:
    """The URL of a chat that nobody has used yet."""
    return f"{server.url}?schema=chat_{secrets.token_hex(4)}"


@contextmanager
def running_machine(
    url: str | Sequence[str], name: str, folder: Path, *arguments: str, port: int = 0
) -> Iterator[Machine]:
    """A machine during a `with` block, with one or more URLs and more `arguments` of `serve`."""
    directory, admin_port = folder / name, lasting_port()
    engines = [("--engine", each) for each in ([url] if isinstance(url, str) else url)]
    with running_server(
        *(argument for engine in engines for argument in engine),
        *("--machine", name, "--data", str(directory)),
        *("--admin-port", str(admin_port), *arguments),
        port=port,
    ) as server:
        yield Machine(server, name, directory, admin_port)
