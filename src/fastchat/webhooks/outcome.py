"""What becomes of a request to a service."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Answer", "NotDeliveredError"]


class NotDeliveredError(Exception):
    """A request had no complete answer. The message says why, without the address's path."""


class Answer(NamedTuple):
    """An answer; `body` is None if it was too long. `retry_after_s` is what its header asks for."""

    status: int
    body: bytes | None
    retry_after_s: float | None
