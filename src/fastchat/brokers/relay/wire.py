"""The relay's Unix socket, and the frames of the records that workers and the relay send over it.

A record is

    length    4 bytes, big-endian: of all that follows
    kind      1 byte: a `RecordKind`
    size      4 bytes, big-endian: of the head
    head      JSON
    tail      bytes, which the head says how to cut

Payloads for clients travel in the tail as they are: encoded once, by the relay,
and never decoded by a worker. `fastchat.brokers.relay.records` has the layout of each kind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

__all__ = [
    "SOCKET_NAME",
    "VERSION",
    "BadRecord",
    "RecordKind",
    "RecordReader",
    "bind_socket",
    "pack",
    "reachable",
    "socket_path",
]

#: Both sides must speak the same; a worker that outlives an upgrade is refused.
VERSION = 5
#: In the data directory.
SOCKET_NAME = "fastchat.sock"
#: A record is never larger than this; a peer that announces a larger one is not one of ours.
MAX_RECORD_BYTES = 64 * 1024 * 1024

_PREFIX = struct.Struct("!IBI")
_LENGTH = struct.Struct("!I")
_UNIX_PATH_BYTES = 100
#: The socket is for its owner only.
_UMASK = 0o177


class RecordKind(IntEnum):
    """What a record is about; `fastchat.brokers.relay.records` has a type for each.

    STATUS goes both ways: the question, and its answer.
    """

    # From a worker
    HELLO = 1
    RESTORE = 2
    PUBLISH = 3
    JOIN = 4
    LEAVE = 5
    LOSE = 6
    TELL = 7
    BEFORE = 8
    AFTER = 9
    SEARCH = 10
    REPORT = 11
    PING = 12
    STATUS = 13
    REMOVE = 14
    ENTER = 15
    IDENTIFY = 16
    EXIT = 17
    CONNECTIONS = 18
    # From the relay
    WELCOME = 64
    DELIVER = 65
    ANSWER = 66
    JOINED = 67
    LEFT = 68
    PAGE = 69
    REFUSED = 70
    LOST = 71
    PONG = 72
    EXPEL = 73
    REMOVED = 74
    TURN_AWAY = 75
    KNOW = 76


class BadRecord(Exception):
    """The peer does not speak this protocol; the connection cannot go on."""


Record = TypeVar("Record")


def pack(kind: RecordKind, head: object, tail: Iterable[bytes] = ()) -> bytes:
    """A record as it is sent."""
    encoded = orjson.dumps(head, default=tuple)  # named tuples, which orjson does not know
    body = b"".join((encoded, *tail))
    return _PREFIX.pack(5 + len(body), kind, len(encoded)) + body


class RecordReader(Generic[Record]):
    """Cuts a stream of bytes into records.

    `decode` makes a record of its kind, its head as JSON has decoded it, and its tail. A record
    of more than `max_record_bytes` is refused.
    """

    def __init__(
        self,
        decode: Callable[[int, Any, bytes], Record],
        *,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self._decode = decode
        self._max_record_bytes = max_record_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that are complete now; raises BadRecord."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        longest = self._max_record_bytes
        try:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if not 5 <= length <= longest:
                    raise BadRecord("a record of an impossible length")
                if end - start < 4 + length:
                    break
                _, kind, size = _PREFIX.unpack_from(buffer, start)
                if size > length - 5:
                    raise BadRecord("a head that is longer than its record")
                head_at = start + _PREFIX.size
                start += 4 + length
                with memoryview(buffer) as view:
                    try:
                        head = orjson.loads(view[head_at : head_at + size])
                    except orjson.JSONDecodeError:
                        raise BadRecord("a head that is not JSON") from None
                    tail = bytes(view[head_at + size : start])
                yield self._decode(kind, head, tail)
        finally:
            del buffer[:start]


def reachable(directory: Path, descriptor: int) -> str:
    """The socket's path; by way of an open `descriptor` of its directory where it is too long.

    `sun_path` holds 108 bytes (unix(7)).
    """
    path = str(directory / SOCKET_NAME)
    if len(path.encode()) <= _UNIX_PATH_BYTES:
        return path
    return f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"


@contextlib.contextmanager
def socket_path(directory: Path) -> Iterator[str]:
    """A path of the socket that is short enough, for as long as the block. Raises OSError."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield reachable(directory, descriptor)
    finally:
        os.close(descriptor)


def bind_socket(directory: Path) -> socket.socket:
    """The socket, bound, for this user only; one that was left behind is removed.

    The caller must hold the directory's lock. Raises OSError.
    """
    (directory / SOCKET_NAME).unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_UMASK)
    try:
        with socket_path(directory) as path:
            bound.bind(path)
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(before)
    bound.setblocking(False)
    return bound
