"""One transport, and two who write to it: a hub, and the library of a WebSocket.

During a membership the library has a `LibraryTransport` in the place of its transport, the hub has
the `SharedTransport`, and the transport calls a `Callbacks` in the place of the library's protocol.

These rules keep the bytes on the wire intact:

* **Frames stay whole.** While the transport holds bytes of either writer, the connection is
  blocked: the hub writes to the descriptor only if the kernel has all bytes that were written
  before. The connection is also blocked while the library is within a frame, or within a message
  of several fragments. What the hub writes nevertheless (replies, and what a member that leaves has
  yet to get) is put off until the message has ended.
* **Order.** Before a message of the library, the hub sends what is pending for the connection.
* **The first close frame is the last frame.** If the library writes it, the connection leaves the
  hub before. If the hub writes it, what the library writes afterwards is dropped, until the
  connection ends.

The library keeps its own flow control. It is resumed before the hub, so that it can write a message
each time the transport was empty. Its bytes do not count for the bounds of the hub; only the time
does during which the transport is not empty (`max_lag_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fastchat._fanout import Connection, Hub
from fastchat.membership.finding import Endpoint
from fastchat.membership.frames import Buffer, Frames


def share(hub: Hub, endpoint: Endpoint, owner: object) -> SharedTransport:
    """Let a hub write to a WebSocket beside its library, if it does not do so already.

    Raises RuntimeError if another hub does, or if the hub is closed.
    """
    transport = endpoint.writers[0].transport
    if isinstance(transport, LibraryTransport):
        if transport.shared.hub is not hub:
            raise RuntimeError("the WebSocket is a member of another hub")
        return transport.shared
    return SharedTransport(hub, endpoint, transport, owner)


def ended_connection(hub: Hub, owner: object) -> Connection:
    """A closed connection, for a WebSocket that has ended before it became a member.

    Raises RuntimeError if the hub is closed.
    """
    connection = hub.attach(_NoTransport(), owner)
    hub.detach(connection)
    return connection


class SharedTransport:
    """The transport, as the hub has it, and what both writers have to know of each other.

    `connection` is None after the library has ended the connection, or the last membership has
    ended.
    """

    def __init__(self, hub: Hub, endpoint: Endpoint, transport: Any, owner: object) -> None:
        self.hub = hub
        self.transport = transport
        self._protocol = endpoint.protocol
        self._writers = endpoint.writers
        self._owner = owner
        self._rooms: dict[str, int] = {}  # how many memberships there are of each room
        self._frames = Frames(is_message_open=endpoint.is_message_open)
        self._put_off: list[bytes | memoryview] = []
        self._put_off_bytes = 0
        self._unsent_bytes = 0  # what the hub has written since the transport was empty
        self._is_closed_by_hub = False
        low, high = transport.get_write_buffer_limits()
        self.limits: tuple[int | None, int | None] = (high, low)
        self._library_side = LibraryTransport(self)
        self.connection: Connection | None = hub.attach(self, owner)
        for writer in self._writers:
            writer.transport = self._library_side
        transport.set_protocol(Callbacks(self, self._protocol))

    # Memberships

    def enter(self, room: str) -> Connection:
        """Begin a membership. A room can have several; the last one that ends leaves it."""
        if self.connection is None:
            self.connection = self.hub.attach(self, self._owner)
        self.hub.join(self.connection, room)  # nothing happens if the hub has closed the connection
        self._rooms[room] = self._rooms.get(room, 0) + 1
        return self.connection

    def leave(self, room: str) -> None:
        """End a membership, and with the last one the hub's part in the connection."""
        self._rooms[room] -= 1
        if self._rooms[room]:
            return
        del self._rooms[room]
        if self.connection is None or self.connection.closed:
            return
        self.hub.leave(self.connection, room)
        if not self._rooms:
            self._detach(leaves=True)
            if self.connection is None and self._frames.is_whole:
                self._give_back()

    def _detach(self, *, leaves: bool) -> None:
        """Take the connection out of the hub, unless the hub closes it.

        If it `leaves` its rooms before, it gets what is pending for it there, and the hub can evict
        it because that is too much.
        """
        connection = self.connection
        if connection is None:
            return
        if leaves:
            for room in connection.rooms:
                self.hub.leave(connection, room)
        if not self._is_closed_by_hub:
            self.hub.detach(connection)
            self.connection = None

    def _give_back(self) -> None:
        """Let the library and its transport work without the hub again."""
        for writer in self._writers:
            if writer.transport is self._library_side:
                writer.transport = self.transport
        if not self.transport.is_closing():
            self.transport.set_protocol(self._protocol)
            self.transport.set_write_buffer_limits(*self.limits)

    # The library's part

    def write_of_library(self, data: Buffer) -> None:
        """Write a frame of the library, a part of one, or several."""
        self._held_bytes()
        was_whole = self._frames.is_whole
        if was_whole and self.connection is not None:
            self.connection.flush()
        if self._is_closed_by_hub:
            # RFC 6455 §5.5.1: "The application MUST NOT send any more data frames after sending
            # a Close frame." The library does not know of this one.
            return
        self._frames.feed(data)
        if self._frames.closes:
            self.end(leaves=was_whole)
            if not self._is_closed_by_hub:
                self.transport.write(data)
            return
        self.transport.write(data)
        if not self._frames.is_whole:
            if self.connection is not None:
                self.connection.pause_writing()
        elif not was_whole:
            self._release()

    def end(self, *, leaves: bool = False) -> None:
        """End the hub's part, because the library ends the connection."""
        self._detach(leaves=leaves)
        if self.connection is None:
            self._give_back()

    def _release(self) -> None:
        """Write what the hub has yet to write, after a message of the library has ended."""
        put_off, self._put_off, self._put_off_bytes = self._put_off, [], 0
        for data in put_off:
            self._unsent_bytes += len(data)
            self.transport.write(data)
        if self.connection is None:
            self._give_back()  # the last membership has ended within the message
        else:
            self.connection.resume_writing()

    # The transport's part

    def is_emptied(self) -> None:
        """Let the hub catch up, as far as `get_write_buffer_size` lets it."""
        if self.connection is not None:
            self.connection.resume_writing()

    def is_lost(self) -> None:
        """Forget a connection that has ended; its descriptor is about to be closed."""
        if self.connection is not None:
            self.hub.detach(self.connection)
            self.connection = None
        self._give_back()

    # The hub's part: see `fastchat._fanout.Transport`

    def write(self, data: bytes | memoryview, /) -> None:
        if self.connection is not None and self.connection.closed:
            self._is_closed_by_hub = True  # this is its close frame, or bytes in front of it
        if not self._frames.is_whole and (self._put_off or not self._is_closed_by_hub):
            self._put_off.append(data)
            self._put_off_bytes += len(data)
            return
        # RFC 6455 §5.4: "Control frames MAY be injected in the middle of a fragmented message."
        self._held_bytes()
        self._unsent_bytes += len(data)
        self.transport.write(data)

    def get_write_buffer_size(self) -> int:
        """How many bytes of the hub wait; at least 1 while the hub must not write directly."""
        size = self._held_bytes()
        waiting = min(size, self._unsent_bytes) + self._put_off_bytes
        return waiting or int(size > 0 or not self._frames.is_whole)

    def _held_bytes(self) -> int:
        """How many bytes of both writers the transport holds.

        It is called before each write, so that `_unsent_bytes` begins anew if there are none.
        """
        size: int = self.transport.get_write_buffer_size()
        if size == 0:
            self._unsent_bytes = 0
        return size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None, /) -> Any:
        return self.transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return bool(self.transport.is_closing())

    def abort(self) -> None:
        self.transport.abort()


class LibraryTransport:
    """The transport, as the library has it. What is not here is the transport's own."""

    __slots__ = ("shared",)

    def __init__(self, shared: SharedTransport) -> None:
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shared.transport, name)

    def write(self, data: Buffer) -> None:
        self.shared.write_of_library(data)

    def writelines(self, parts: Iterable[Buffer]) -> None:
        self.shared.write_of_library(b"".join(parts))

    def write_eof(self) -> None:
        self.shared.end()
        self.shared.transport.write_eof()

    def close(self) -> None:
        self.shared.end()
        self.shared.transport.close()

    def abort(self) -> None:
        self.shared.end()
        self.shared.transport.abort()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits for the time after the membership; meanwhile the hub needs its own."""
        self.shared.limits = (high, low)


class Callbacks(asyncio.Protocol):
    """The protocol, as the transport has it: it tells both writers what the transport does."""

    def __init__(self, shared: SharedTransport, protocol: asyncio.Protocol) -> None:
        self._shared = shared
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    def data_received(self, data: bytes) -> None:
        if self._shared.connection is not None:
            # The library does not pass pongs on, so any bytes count as the answer to a ping.
            self._shared.connection.pong()
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        if self._shared.connection is not None:
            self._shared.connection.pause_writing()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        # The library's senders are only woken by this. They write in a later turn, behind the hub.
        self._protocol.resume_writing()
        self._shared.is_emptied()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.is_lost()
        self._protocol.connection_lost(exc)


class _NoTransport:
    """The transport of a connection that has ended before it could become a member."""

    def write(self, data: bytes | memoryview, /) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None, /) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass
