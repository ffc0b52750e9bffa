"""The API of a real server: several workers, a port of its own, signals and the log."""

from __future__ import annotations

import http.client
import signal
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fastchat.api.key_file import revoke_key
from fastchat.api.keys import ApiRight
from support.api import api_client, made_key
from support.event_stream import event_stream
from support.raw_websocket import connected
from support.server import lasting_port, running_server, wait_until


@pytest.mark.parametrize("workers", ["1", "2"])
def test_port_of_its_own(tmp_path: Path, workers: str) -> None:
    """At --api-port is only the API, and not at --port; all processes serve it alike."""
    file, port = tmp_path / "keys.json", lasting_port()
    key, other = made_key(file), made_key(file, "leaving", rights=[ApiRight.READ])
    flags = ("--workers", workers, "--data", str(tmp_path / "data"), "--api-key-file", str(file))
    with ExitStack() as stack:
        server = stack.enter_context(running_server(*flags, "--api-port", str(port)))
        apis = [stack.enter_context(api_client(port, key)) for _ in range(6)]
        stream = stack.enter_context(event_stream(port, key, "?rooms=lobby"))
        stream.next("ready")
        with connected(server.port, "/ws?room=lobby&username=Bob") as bob:
            bob.receive_type("joined")
            for number, api in enumerate(apis):  # the kernel shares them among the workers
                reply = api("POST", "/rooms/lobby/messages", {"text": str(number), "id": "same"})
                assert reply.status == (200 if number else 201)
            assert bob.receive_type("message")["text"] == "0"
            users = [each("GET", "/rooms/lobby/users").json["users"] for each in apis]
            assert [[user["username"] for user in each] for each in users] == [["Bob"]] * len(apis)
            assert stream.next("message").data["text"] == "0"
            assert apis[0]("PATCH", "/rooms/lobby", {"title": "Lobby"}).status == 200
            assert all(each("GET", "/rooms/lobby").json["title"] == "Lobby" for each in apis)
            assert apis[0]("DELETE", "/rooms/lobby").status == 204
            assert bob.receive_type("room_deleted")["room"] == "lobby"
            assert stream.next("gap").data["room"] == "lobby"
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as page:
            page.request("GET", "/api/v1/rooms", headers={"x-api-key": key})
            assert page.getresponse().status == 404
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as own:
            own.request("GET", "/")
            answer = own.getresponse()
            assert (answer.status, answer.read()) == (404, b"Not found\n")
        with pytest.raises(AssertionError, match="404"), connected(port, "/ws"):
            pass
        leaving = stack.enter_context(api_client(port, other))
        revoke_key(file, "leaving")
        server.signal(signal.SIGHUP)
        wait_until(lambda: leaving("GET", "/rooms").status == 401)
        assert server.stop() == 0
        assert list(stream) == []
    assert f"serving the API at http://127.0.0.1:{port}/api/v1" in server.errors
    assert key not in server.errors
    assert other not in server.errors
    assert "'shop' has set options of room lobby: title" in server.errors


def test_wrong_key_file(tmp_path: Path) -> None:
    """A server does not start with a key file that it cannot use, and says why."""
    (tmp_path / "keys.json").write_text("{}")
    flags = ("--history", "memory", "--api-key-file", str(tmp_path / "keys.json"))
    with pytest.raises(RuntimeError, match="must be a JSON object"), running_server(*flags):
        pass
