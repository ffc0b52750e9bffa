"""Incoming webhooks for tests, and requests to them."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastchat.api.hook_file import new_hook
from support.server import TIMEOUT_UNIT_S

__all__ = ["JSON", "Posted", "made_hook", "post"]

JSON = {"content-type": "application/json"}
_numbers = itertools.count(1)


class Posted(NamedTuple):
    """An answer to a webhook's request."""

    status: int
    word: str
    headers: Mapping[str, str]


def made_hook(file: Path, room: str, name: str = "Grafana") -> str:
    """Add a hook to a file; returns the path of its address."""
    return new_hook(file, room=room, name=name)[1]


def post(
    port: int,
    path: str,
    body: Any,
    headers: Mapping[str, str] = JSON,
    *,
    method: str = "POST",
    address: str | None = None,
) -> Posted:
    """Send a request on a connection of its own; `body` becomes JSON unless it is bytes or None.

    It says that it comes from `address`, or from one that no other request comes from, for servers
    that trust this machine.
    """
    number = next(_numbers)
    sent = {"x-forwarded-for": address or f"198.19.{number // 256 % 256}.{number % 256}", **headers}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * TIMEOUT_UNIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        content = answer.read().decode()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Posted(answer.status, content, fields)
