"""The epochs of rooms.

An epoch names one course of a room's stream: within an epoch no offset is used twice. So a client
that knows an epoch and an offset knows which publications it has.

A history has a secret and random `generation`. The epoch of a new room is a digest of the
generation and the room's name. Nothing has to be stored for a room that is only joined: its epoch
is the same in each process and after a restart. The epoch is stored when something is published.

If a history may have lost publications that clients have seen, its generation changes, and with it
all epochs.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode

__all__ = ["epoch_of", "new_generation"]

#: 128 bits: two generations are never the same, and two rooms never have the same epoch.
_GENERATION_BYTES = _EPOCH_BYTES = 16


def new_generation() -> bytes:
    """A generation that no history has had."""
    return secrets.token_bytes(_GENERATION_BYTES)


def epoch_of(generation: bytes, room: str) -> str:
    """The epoch of a room that begins in this generation."""
    digest = hashlib.blake2b(room.encode(), key=generation, digest_size=_EPOCH_BYTES)
    return urlsafe_b64encode(digest.digest()).rstrip(b"=").decode("ascii")
