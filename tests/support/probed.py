"""A server with an admin port, and its answers to probes and scrapes."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from support.server import TIMEOUT_UNIT_S, Server, lasting_port, running_server


class Probed:
    """A running server and its admin port."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.admin_port = lasting_port()
        self.arguments = ("--data", str(directory), "--limits", "off", *arguments)
        self.arguments += ("--admin-port", str(self.admin_port))

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        with running_server(*self.arguments) as server:
            yield server

    def get(self, path: str) -> tuple[int, str]:
        address = f"http://127.0.0.1:{self.admin_port}{path}"
        try:
            with urllib.request.urlopen(address, timeout=10 * TIMEOUT_UNIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    @property
    def is_ready(self) -> bool:
        return self.get("/readyz") == (200, "ready\n")

    def metric(self, name: str) -> float:
        """The value of a metric of the process that has the history."""
        lines = self.get("/metrics")[1].splitlines()
        (value,) = [line.split()[-1] for line in lines if line.startswith(f"{name}{{")]
        return float(value)
