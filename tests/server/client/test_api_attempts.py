"""Which requests `fastchat_client.SyncAPI` sends again, by a server that answers as a test says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from fastchat_client import Disconnected, Refused, SyncAPI


class Answer(NamedTuple):
    status: int
    json: Any = None
    headers: Mapping[str, str] = {}


LOST = Answer(0)  # the connection is closed without an answer
STORED = Answer(201, {"room": "a", "epoch": "E", "offset": 1, "timestamp": None, "id": "i"})
MISSING = Answer(404, {"code": "not_found", "message": "There is none.", "temporary": False})


def busy(retry_after_ms: int) -> Answer:
    fields = {"code": "unavailable", "message": "Wait.", "temporary": True}
    return Answer(503, {**fields, "retry_after_ms": retry_after_ms})


@contextlib.contextmanager
def answering(*answers: Answer, max_wait: float = 5.0) -> Iterator[tuple[SyncAPI, list[bytes]]]:
    """An API whose server gives these answers, and the bodies of the requests that it got."""
    waiting, bodies = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
            status, fields, headers = waiting.pop(0)
            if not status:
                self.close_connection = True
                return
            content = b"" if fields is None else json.dumps(fields).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of the library

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with SyncAPI(url, key="secret", timeout=10, max_wait=max_wait) as api:
                yield api, bodies
        finally:
            server.shutdown()
            thread.join()


def ids(bodies: Sequence[bytes]) -> set[str]:
    return {json.loads(body)["id"] for body in bodies}


def test_message_whose_answer_was_lost_is_sent_again_with_its_id() -> None:
    """It is published once, because the server knows the id."""
    with answering(LOST, busy(20), STORED) as (api, bodies):
        assert api.publish("a", "hello").offset == 1
    assert len(bodies) == 3
    assert len(ids(bodies)) == 1


def test_messages_have_different_ids() -> None:
    """Two calls with the same text are two messages."""
    with answering(STORED, STORED) as (api, bodies):
        api.publish("a", "hello")
        api.publish("a", "hello")
    assert len(ids(bodies)) == 2


def test_wait_beyond_the_limit_is_left_to_the_program() -> None:
    """The call raises at once, and says how long the server asks to wait."""
    with answering(busy(60_000)) as (api, bodies), pytest.raises(Refused) as refused:
        api.bans()
    assert (refused.value.code, refused.value.retry_after) == ("unavailable", 60.0)
    assert len(bodies) == 1


@pytest.mark.parametrize("answer", [LOST, busy(1)])
def test_request_that_is_not_idempotent_is_sent_once(answer: Answer) -> None:
    """Its effect can have happened."""
    for call in (
        lambda api: api.upload("a", ("a.txt", b"notes")),
        lambda api: api.disconnect("u_17", room="a"),
    ):
        with answering(answer) as (api, bodies), pytest.raises((Disconnected, Refused)):
            call(api)
        assert len(bodies) == 1


def test_quick_key_sends_a_file_again() -> None:
    """After 429, nothing has happened."""
    fields = {"code": "rate_limited", "message": "Wait.", "temporary": True, "retry_after_ms": 1}
    stored = Answer(201, {"link": "/files/x", "name": "a.txt", "size": 5, "media_type": "t"})
    with answering(Answer(429, fields), stored) as (api, bodies):
        assert api.upload("a", ("a.txt", b"notes")).link == "/files/x"
    assert bodies == [b"notes", b"notes"]


def test_removal_whose_answer_was_lost_is_done() -> None:
    """The second attempt finds nothing, because the first one has removed it."""
    with answering(LOST, MISSING, MISSING) as (api, _):
        api.delete_room("a")
        with pytest.raises(Refused, match="none"):
            api.delete_room("a")


def test_redirect_is_not_followed() -> None:
    """The key must reach no other server."""
    with answering(STORED) as (_, bodies):
        moved = Answer(307, headers={"location": "http://127.0.0.1:1/elsewhere"})
        with answering(moved) as (api, _), pytest.raises(Disconnected, match="elsewhere") as error:
            api.publish("a", "hello")
        assert (error.value.code, error.value.temporary) == ("unreachable", False)
    assert bodies == []


def test_answer_of_a_proxy_is_temporary() -> None:
    """A gateway without a server behind it is asked again; a page is no API."""
    with answering(Answer(502), Answer(200, {"bans": []})) as (api, _):
        assert api.bans() == ()
    with answering(Answer(200, ["a page"])) as (api, _), pytest.raises(Disconnected) as error:
        api.bans()
    assert error.value.code == "unreachable"
    with answering(Answer(200, {})) as (api, _), pytest.raises(Disconnected) as error:
        next(api.events("a"))
    assert error.value.code == "unreachable"
