"""Signatures of Standard Webhooks (https://www.standardwebhooks.com), version 1."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence

__all__ = ["signed"]


def signed(id: str, timestamp_s: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers that identify and sign a request; without secrets they only identify it.

    "The signature scheme": the signed content is `{msg_id}.{timestamp}.{payload}`, and the header
    has one signature for each secret, separated by spaces.
    """
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp_s)}
    if secrets:
        content = b"%s.%d.%s" % (id.encode(), timestamp_s, body)
        headers["webhook-signature"] = " ".join(
            f"v1,{base64.b64encode(hmac.digest(secret, content, 'sha256')).decode()}"
            for secret in secrets
        )
    return headers
