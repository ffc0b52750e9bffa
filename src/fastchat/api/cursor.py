"""The id of an event: how far a client has read in each room that it follows.

Every event has the id of the whole stream after it, because a client sends only the last one when
it comes back. So an id must be short. For each room it has digests of the room's name and of its
epoch, and the offset: 12 bytes or so. If two rooms of a stream had the same digest of 40 bits, a
client would read one of them from its beginning, or miss nothing and be told of a gap.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from functools import lru_cache

from fastchat.protocol import Position
from fastchat.protocol.values import MAX_OFFSET

__all__ = ["decode_cursor", "encode_cursor", "resumed"]

_VERSION = b"\x01"
_ROOM_BYTES, _EPOCH_BYTES = 5, 3
#: The longest id, for 50 rooms whose offsets are as large as they can be.
MAX_CHARS = 1500

Cursor = Mapping[bytes, tuple[bytes, int]]


def encode_cursor(positions: Mapping[str, Position]) -> str:
    """The id of an event after which a client is at these positions, by room."""
    parts = [_VERSION]
    for room, position in positions.items():
        parts.append(_digest(room, _ROOM_BYTES))
        parts.append(_digest(position.epoch, _EPOCH_BYTES))
        offset = position.offset
        while offset > 127:
            parts.append(bytes((offset & 127 | 128,)))
            offset >>= 7
        parts.append(bytes((offset,)))
    return base64.urlsafe_b64encode(b"".join(parts)).decode().rstrip("=")


def decode_cursor(text: str) -> Cursor:
    """What the id of an event says, for `resumed`. Raises ValueError if it is not one."""
    if len(text) > MAX_CHARS or not text.isascii():
        raise ValueError("not a cursor")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not a cursor") from error
    if data[:1] != _VERSION:
        raise ValueError("a cursor of another version")
    found: dict[bytes, tuple[bytes, int]] = {}
    at = 1
    try:
        while at < len(data):
            room = data[at : at + _ROOM_BYTES]
            epoch = data[at + _ROOM_BYTES : at + _ROOM_BYTES + _EPOCH_BYTES]
            at += _ROOM_BYTES + _EPOCH_BYTES
            offset = shift = 0
            while data[at] > 127:
                offset |= (data[at] & 127) << shift
                shift += 7
                at += 1
            offset |= data[at] << shift
            at += 1
            if offset > MAX_OFFSET:
                raise ValueError("not a cursor")
            found[room] = epoch, offset
    except IndexError:
        raise ValueError("not a cursor") from None
    return found


def resumed(cursor: Cursor, room: str, epoch: str) -> tuple[Position, bool]:
    """Where a client with a cursor goes on in a room, and whether it may have missed something.

    A room that the cursor does not have is one that did not exist, so it begins at its start. If
    the room has another epoch now, the room begins anew.
    """
    known = cursor.get(_digest(room, _ROOM_BYTES))
    if known is None:
        return Position(epoch, 0), False
    if known[0] != _digest(epoch, _EPOCH_BYTES):
        return Position(epoch, 0), True
    return Position(epoch, known[1]), False


@lru_cache(maxsize=4096)  # each event of a stream needs those of all rooms
def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()
