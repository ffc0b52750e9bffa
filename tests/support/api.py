"""A server with an API, and a client of it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastchat.api.key_file import new_key
from fastchat.api.keys import ApiRight
from support.server import TIMEOUT_UNIT_S
from support.server_in_thread import Server, serving

__all__ = ["Client", "Reply", "api_client", "made_key", "serving_api"]

_numbers = itertools.count(1)
ALL_RIGHTS = tuple(ApiRight)


class Reply(NamedTuple):
    """An answer of the API; `json` is its body, or None if it is not JSON."""

    status: int
    json: Any
    headers: Mapping[str, str]
    body: bytes


class Client:
    """A connection to an API, which is kept alive, with a key.

    Each client says that it comes from another address, for servers that trust this one.
    """

    def __init__(self, port: int, key: str | None) -> None:
        self.port = port
        self.key = key
        number = next(_numbers)
        self.address = f"198.18.{number // 256 % 256}.{number % 256}"
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=10 * TIMEOUT_UNIT_S
        )

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request below /api/v1; `body` becomes JSON unless it is bytes."""
        sent = {"x-forwarded-for": self.address, **(headers or {})}
        if self.key is not None:
            sent.setdefault("authorization", f"Bearer {self.key}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, "/api/v1" + path, data, sent)
        answer = self._connection.getresponse()
        content = answer.read()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        is_json = fields.get("content-type") == "application/json" and content
        return Reply(answer.status, json.loads(content) if is_json else None, fields, content)

    def close(self) -> None:
        self._connection.close()


def made_key(
    file: Path,
    name: str = "shop",
    *,
    rights: Sequence[ApiRight] = ALL_RIGHTS,
    rooms: Sequence[str] = ("*",),
    rate: int | None = None,
) -> str:
    """Add a key to a file; returns its text."""
    return new_key(file, name, rights=rights, rooms=rooms, rate=None if rate is None else str(rate))


@contextlib.contextmanager
def api_client(port: int, key: str | None) -> Iterator[Client]:
    """A client during a `with` block."""
    client = Client(port, key)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def serving_api(folder: Path, **settings: Any) -> Iterator[tuple[Server, Client]]:
    """A server in a thread with the keys in `folder`, and a client with a key of all rights."""
    key = made_key(folder / "keys.json")
    with (
        serving(api_key_file=str(folder / "keys.json"), **settings) as server,
        api_client(server.port, key) as client,
    ):
        yield server, client
