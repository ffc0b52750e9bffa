"""The HTTP client of webhooks and hooks."""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate
from typing import Any

import pytest

from fastchat.webhooks.config import Target
from fastchat.webhooks.outcome import Answer, NotDeliveredError
from fastchat.webhooks.sending import MAX_ANSWER_BYTES, PRIVATE, Sender
from support.receiver import Request, receiving, respond

NOW_S = 1_700_000_000.0


def post(url: str, *, may_be_private: bool = True, timeout_s: float = 5.0) -> Answer:
    async def run() -> Answer:
        sender = Sender(Target(url, may_be_private, ()), connections=1, clock=lambda: NOW_S)
        try:
            return await sender.post("id", b"{}", timeout_s=timeout_s)
        finally:
            await sender.close()

    return asyncio.run(run())


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_public_name_of_a_private_address_gets_no_connection(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The address is checked when the connection is made, after the name was resolved."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **keywords: Any) -> Any:
        return real(address if host == "rebound.example" else host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with receiving() as receiver:
        url = f"https://rebound.example:{receiver.port}/secret"
        with pytest.raises(NotDeliveredError) as raised:
            post(url, may_be_private=False)
        assert str(raised.value) == PRIVATE
        assert receiver.connections == 0


def test_operator_can_allow_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `allow-private`, the name can lead anywhere."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **keywords: Any) -> Any:
        return real("127.0.0.1" if host == "shop.example" else host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with receiving() as receiver:
        assert post(f"http://shop.example:{receiver.port}/").status == 200


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        (formatdate(NOW_S + 3600, usegmt=True), 3600, 3600),
        (formatdate(0, usegmt=True), 0, 0),
        ("soon", None, None),
        ("-1", None, None),
        ("9" * 50, None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(
    header: str, low: float | None, high: float | None
) -> None:
    """RFC 9110 §10.2.3; anything else is ignored."""
    with receiving(lambda *_: respond(503, headers={"Retry-After": header})) as receiver:
        answer = post(receiver.url)
    assert answer.status == 503
    if low is None or high is None:
        assert answer.retry_after_s is None
    else:
        assert answer.retry_after_s is not None
        assert low <= answer.retry_after_s <= high


def test_long_answer_is_dropped() -> None:
    """Only the first bytes are read."""
    with receiving(lambda *_: respond(body=b"x" * MAX_ANSWER_BYTES)) as receiver:
        assert post(receiver.url).body == b"x" * MAX_ANSWER_BYTES
    with receiving(lambda *_: respond(body=b"x" * (MAX_ANSWER_BYTES + 1))) as receiver:
        assert post(receiver.url).body is None


def test_redirect_is_not_followed() -> None:
    """A service cannot send the request elsewhere."""

    def redirect(request: Request, connection: socket.socket) -> bytes:
        return respond(307, headers={"Location": "/other"})

    with receiving(redirect) as receiver:
        assert post(receiver.url).status == 307
        assert len(receiver.requests) == 1


def test_compressed_answer_is_not_unpacked() -> None:
    """A small answer cannot become a large one."""
    with receiving(lambda *_: respond(body=b"zip", headers={"Content-Encoding": "gzip"})) as it:
        assert post(it.url).body == b"zip"
        assert it.requests[0].headers["accept-encoding"] == "identity"


def test_errors_do_not_name_the_address() -> None:
    """The address of a webhook can be a secret."""
    with receiving() as receiver:
        port = receiver.port
    with pytest.raises(NotDeliveredError) as raised:
        post(f"http://127.0.0.1:{port}/secret")
    assert str(raised.value) == "no connection (ClientConnectorError)"
    assert raised.value.__cause__ is raised.value.__context__ is None
