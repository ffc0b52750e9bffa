"""Signatures of webhooks."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from fastchat.webhooks.signing import signed

OLD, NEW, OTHER = (bytes([number]) * 24 for number in (1, 2, 3))
BODY = b'{"type":"message","text":"\xc3\xa9"}'


def verifies(secret: bytes, headers: dict[str, str], body: bytes = BODY) -> bool:
    try:
        Webhook(base64.b64encode(secret).decode()).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def test_signature_is_the_one_of_the_specification() -> None:
    """The example of the reference implementation has the signature that it gives there."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs() -> None:
    """While a secret is replaced, receivers with the old or with the new one accept a request."""
    headers = signed("id", int(time.time()), BODY, [OLD, NEW])
    assert verifies(OLD, headers)
    assert verifies(NEW, headers)
    assert not verifies(OTHER, headers)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", "other"),
        ("webhook-timestamp", "1"),
        ("webhook-signature", "v1,AAAA"),
    ],
)
def test_changed_request_does_not_verify(header: str, value: str) -> None:
    """The id, the time and the body are signed."""
    headers = signed("id", int(time.time()), BODY, [OLD])
    assert verifies(OLD, headers)
    assert not verifies(OLD, {**headers, header: value})
    assert not verifies(OLD, headers, BODY + b" ")


def test_replayed_request_does_not_verify() -> None:
    """A receiver refuses an old timestamp, which cannot be replaced by a newer one."""
    assert not verifies(OLD, signed("id", int(time.time()) - 600, BODY, [OLD]))


def test_request_without_a_secret_is_identified() -> None:
    """A hook need not have a secret."""
    assert signed("id", 1, BODY, []) == {"webhook-id": "id", "webhook-timestamp": "1"}
