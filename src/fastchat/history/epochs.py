"""The epochs of rooms.

An epoch is the name of one sequence of a room's publications: within an epoch, no offset is used
twice. So an epoch and an offset together say which publications a client has.

A history has a `generation`, which is random and secret. The epoch of a new room is a digest of the
generation and the room's name. So it is the same in each process and after a restart, and nothing
has to be stored for a room that is only joined. The first publication of a room stores its epoch.

If a history may lack publications that clients have seen, it gets another generation, and all its
rooms get new epochs.
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
    """The epoch of a room whose first publication is in this generation."""
    digest = hashlib.blake2b(room.encode(), key=generation, digest_size=_EPOCH_BYTES)
    return urlsafe_b64encode(digest.digest()).rstrip(b"=").decode("ascii")
