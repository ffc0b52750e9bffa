"""The relay's Unix socket, and the frames of the records that workers and the relay send over it.

A record is

    length    4 bytes, big-endian: the number of bytes that follow
    kind      1 byte: a `RecordKind`
    size      4 bytes, big-endian: the number of bytes of the head
    head      JSON
    tail      the other bytes: payloads, whose sizes are in the head

The relay encodes the payload of a publication once and puts it into the tail. Workers pass it on
to clients without decoding it. `fastchat.brokers.relay.records` has the layout of each kind.
"""

from __future__ import annotations

import contextlib
import logging
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
    "remove_socket",
    "socket_path",
]

logger = logging.getLogger("fastchat.relay")

#: The version of the protocol. A relay refuses a worker of another version, for example one that
#: still runs after an upgrade of the server.
VERSION = 9
#: The name of the socket in the data directory.
SOCKET_NAME = "fastchat.sock"
#: The largest record. It bounds the memory that a reader needs for an incomplete record. A DELIVER
#: record has about 1 MiB of payloads (`peer.RECORD_BYTES`).
MAX_RECORD_BYTES = 64 * 1024 * 1024

_PREFIX = struct.Struct("!IBI")
_LENGTH = struct.Struct("!I")
#: The longest path that is passed to the kernel: `sun_path` holds 108 bytes (unix(7)).
_UNIX_PATH_BYTES = 100
#: Only the user that runs the server can connect to the socket.
_UMASK = 0o177


class RecordKind(IntEnum):
    """The kind of a record; `fastchat.brokers.relay.records` has a type for each.

    STATUS is sent in both directions: it is a request, and the reply to the request.
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
    ADMINISTER = 19
    OPERATE = 20
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
    EVENT = 77
    SEND_AWAY = 78
    RESTARTED = 79
    ADMINISTERED = 80
    OPERATED = 81


class BadRecord(Exception):
    """The other process does not follow this protocol. The connection must be closed."""


Record = TypeVar("Record")


def pack(kind: RecordKind, head: object, tail: Iterable[bytes] = ()) -> bytes:
    """Return the bytes of a record."""
    # orjson calls `default` for types that it does not know, which here are named tuples.
    encoded = orjson.dumps(head, default=tuple)
    body = b"".join((encoded, *tail))
    return _PREFIX.pack(5 + len(body), kind, len(encoded)) + body


class RecordReader(Generic[Record]):
    """Cuts a stream of bytes into records.

    `decode` takes the kind, the decoded head and the tail of a record, and returns a record of the
    type that the reader yields. A record of more than `max_record_bytes` raises BadRecord.
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
        """Yield the records that `data` completes; an incomplete one stays in the buffer.

        Raises BadRecord after the records before the wrong one. The reader must not be used again.
        """
        # The bytes are copied to the buffer only if they are not whole records.
        buffer = self._buffer
        stream: bytes | bytearray = data
        if buffer:
            buffer += data
            stream = buffer
        start, end = 0, len(stream)
        longest = self._max_record_bytes
        try:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(stream, start)
                if not 5 <= length <= longest:
                    raise BadRecord(f"a record cannot have {length} bytes")
                if end - start < 4 + length:
                    break
                _, kind, size = _PREFIX.unpack_from(stream, start)
                if size > length - 5:
                    raise BadRecord("the head of a record is longer than the record")
                head_at = start + _PREFIX.size
                tail_at = head_at + size
                start += 4 + length
                try:
                    head = orjson.loads(stream[head_at:tail_at])
                except orjson.JSONDecodeError:
                    raise BadRecord("the head of a record is not JSON") from None
                yield self._decode(kind, head, bytes(stream[tail_at:start]))
        finally:
            if stream is buffer:
                del buffer[:start]
            else:
                buffer += data[start:]


def reachable(directory: Path, descriptor: int) -> str:
    """Return a path of the socket that `connect` and `bind` accept.

    If the path in `directory` is too long, the returned path leads through `descriptor`, an open
    descriptor of the directory.
    """
    path = str(directory / SOCKET_NAME)
    if len(path.encode()) <= _UNIX_PATH_BYTES:
        return path
    return f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"


@contextlib.contextmanager
def socket_path(directory: Path) -> Iterator[str]:
    """A path of the socket that `connect` and `bind` accept, valid inside the `with` block.

    Raises OSError if the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield reachable(directory, descriptor)
    finally:
        os.close(descriptor)


def bind_socket(directory: Path) -> socket.socket:
    """Return the bound socket, to which only this user can connect.

    A socket of an earlier process is removed first. Therefore the caller must hold the directory's
    lock. Raises OSError if the directory cannot hold a socket.
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


def remove_socket(directory: Path) -> None:
    """Remove the socket of a process that stops. If that fails, log why.

    A socket that stays does no harm: `bind_socket` replaces it.
    """
    try:
        (directory / SOCKET_NAME).unlink(missing_ok=True)
    except OSError as error:
        logger.warning(
            "%s cannot be removed, and the next server will replace it: %s",
            directory / SOCKET_NAME,
            error.strerror,
        )
