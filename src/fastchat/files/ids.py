"""The ids of files: keyed digests of a room and a content.

Without the key, the id of a content cannot be computed. So it cannot be checked, either, whether an
id belongs to a guessed content.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode

__all__ = ["KEY_BYTES", "hasher", "id_of"]

#: The length of a new key.
KEY_BYTES = 32
#: An id is a digest of 160 bits, which are exactly 32 characters of base32 (`links.is_id`).
_ID_BYTES = 20


def hasher(key: bytes, room: str) -> hashlib.blake2b:
    """Return the hash that makes the id of a file in a room from its content.

    It includes the room, so the same content in two rooms is two files.
    """
    return hashlib.blake2b(room.encode() + b"\0", key=key, digest_size=_ID_BYTES)


def id_of(hash: hashlib.blake2b) -> str:
    """Return the id of the content that a hash was updated with."""
    return b32encode(hash.digest()).decode("ascii").lower()
