"""The HTTP API while the server is killed: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path

import pytest

from support.api import api_client, made_key
from support.event_stream import EventStream
from support.server import PATIENCE_S, Server, lasting_port, wait_until

KILLS = 3
#: Between two kills, so many messages are published.
MESSAGES = 40


class Publisher(threading.Thread):
    """Publishes numbered messages, each with an id, and each again until it has an answer."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__()
        self._port, self._key = port, key
        self.ended = threading.Event()
        self.offsets: list[int] = []

    def run(self) -> None:
        while not self.ended.is_set():
            number = len(self.offsets)
            body = {"text": f"message {number}", "id": f"m-{number}"}
            try:
                with api_client(self._port, self._key) as client:
                    reply = client("POST", "/rooms/lobby/messages", body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # the server is down
                continue
            if reply.status in (200, 201):
                self.offsets.append(reply.json["offset"])


class Follower(threading.Thread):
    """Follows the room, and comes back with the id of the last event."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__()
        self._port, self._key = port, key
        self.ended = threading.Event()
        self.ready = threading.Event()
        self.texts: list[str] = []

    def run(self) -> None:
        last_id = None
        while not self.ended.is_set():
            try:
                stream = EventStream(self._port, self._key, "?rooms=lobby", last_id)
            except (OSError, http.client.HTTPException, AssertionError):
                time.sleep(0.02)
                continue
            try:
                for event in stream:
                    last_id = stream.last_id
                    self.ready.set()
                    if event.type == "message":
                        self.texts.append(event.data["text"])
                        if event.data["text"] == "end":
                            return
                    assert event.type in ("ready", "message")
            except (OSError, http.client.HTTPException):
                pass
            finally:
                last_id = stream.last_id
                stream.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_server_loses_and_repeats_nothing(tmp_path: Path, workers: str) -> None:
    """Messages with ids are published once, and a stream that resumes has each once, in order."""
    port, key = lasting_port(), made_key(tmp_path / "keys.json", rate=100_000)
    flags = ("--data", str(tmp_path / "data"), "--api-key-file", str(tmp_path / "keys.json"))
    server = Server((*flags, "--workers", workers), port)
    publisher, follower = Publisher(port, key), Follower(port, key)
    try:
        follower.start()
        assert follower.ready.wait(PATIENCE_S)
        publisher.start()
        for _ in range(KILLS):
            wanted = len(publisher.offsets) + MESSAGES
            wait_until(lambda: len(publisher.offsets) >= wanted)  # noqa: B023 it ends in the loop
            server.kill()
            server = Server((*flags, "--workers", workers), port)
        # A message whose answer was lost is published again, and only then it is known.
        wanted = len(publisher.offsets) + 1
        wait_until(lambda: len(publisher.offsets) >= wanted)
        publisher.ended.set()
        publisher.join(PATIENCE_S)
        with api_client(port, key) as client:
            client("POST", "/rooms/lobby/messages", {"text": "end"})
        follower.join(PATIENCE_S)
        assert not follower.is_alive()
        assert len(publisher.offsets) > KILLS * MESSAGES
        assert publisher.offsets == sorted(set(publisher.offsets))
        expected = [f"message {number}" for number in range(len(publisher.offsets))]
        assert follower.texts == [*expected, "end"]
    finally:
        publisher.ended.set()
        follower.ended.set()
        if server.process.poll() is None:
            server.kill()
