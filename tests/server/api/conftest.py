"""One server for the tests of the API; each test has rooms of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from fastchat.api.keys import ApiRight
from fastchat.auth.issuing import create_secret
from support.api import Client, api_client, made_key, serving_api
from support.server_in_thread import Server

_numbers = itertools.count()


class Place(NamedTuple):
    """A server with an API, its files, and a client whose key has all rights in all rooms."""

    server: Server
    folder: Path
    api: Client

    @property
    def keys(self) -> Path:
        return self.folder / "keys.json"

    def room(self) -> str:
        """The name of a room that no other test uses."""
        return f"room-{next(_numbers)}"

    def client(
        self,
        *rights: ApiRight,
        rooms: Sequence[str] = ("*",),
        rate: int | None = None,
        name: str | None = None,
    ) -> Client:
        """A client with a new key, which the server knows. The test must close it."""
        key = made_key(
            self.keys, name or f"key-{next(_numbers)}", rights=rights, rooms=rooms, rate=rate
        )
        self.reload()
        return Client(self.server.port, key)

    def reload(self) -> None:
        """Have the server read its keys again, as at SIGHUP."""
        self.server.call(self.server.reload)


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("api")
    create_secret(folder / "secret")
    settings = {
        "history": "sqlite",
        "data": str(folder / "data"),
        "auth": "optional",
        "jwt_key_file": (str(folder / "secret"),),
        "max_file_bytes": 100_000,
        "trusted_proxy": ("127.0.0.1",),
    }
    with serving_api(folder, **settings) as (server, api):
        yield Place(server, folder, api)


@pytest.fixture
def api(place: Place) -> Iterator[Client]:
    """A client of its own, because a test can break its connection."""
    with api_client(place.server.port, place.api.key) as client:
        yield client


@pytest.fixture
def room(place: Place) -> str:
    return place.room()
