"""A client that sends, disconnects, returns, and records everything.

It has its own WebSocket implementation on asyncio's sockets, so that several hundred clients fit
into one process beside the server that they test.
"""

from __future__ import annotations

import asyncio
import base64
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from sys import intern
from typing import Any, ClassVar

import orjson

from checker.records import (
    Acked,
    Break,
    Event,
    Joined,
    Live,
    Lost,
    Moved,
    Position,
    Seen,
    Sent,
    SentOnce,
    seen,
)

#: The shortest and the longest pause after a connection ended or was refused.
BACKOFF_S = (0.02, 1.0)
#: A message that is unconfirmed for this long is sent again.
RESEND_S = 2.0
#: For this long after the client stopped reading, the server can have ended the connection for it.
LATE_S = 5.0
#: A client with an unconfirmed message of this age, or without an answer to its handshake for this
#: time, tries another connection, if there are several machines.
PATIENCE_S = 6.0
#: How often a client comes back to another machine, although it could use the last one.
HOPS = 0.3
#: The close code of a client that reads too slowly.
EVICTED = 4008
EMOJI = ("👍", "🎉", "🙂")


class Wire(asyncio.Protocol):
    """One WebSocket connection, with the parts of RFC 6455 that fastchat uses."""

    def __init__(
        self,
        opened: Callable[[], None],
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._opened, self._received, self._ended = opened, received, ended
        self._buffer = bytearray()
        self._upgraded = False
        self.closed = True  # not connected yet
        self.port = 0  # the client's own
        self.status: int | None = None  # of the handshake
        self.code: int | None = None  # of the server's close frame
        self.announced = False  # whether a `closing` event arrived
        self.ours = False  # whether the client ended the connection
        self.stalled_at: float | None = None  # when the client last stopped reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.closed = False
        peer = transport.get_extra_info("peername")
        if peer is None:  # the server has gone in the meantime
            transport.abort()
            return
        host, port = peer[:2]
        self.port = transport.get_extra_info("sockname")[1]
        key = base64.b64encode(random.randbytes(16)).decode()
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._ended()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._upgraded:
            head, found, rest = bytes(buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head[9:12])
            if self.status != 101:
                self.transport.abort()
                return
            buffer[:] = rest
            self._upgraded = True
            self._opened()
        while not self.closed and (frame := self._take_frame()):
            opcode, payload = frame
            if opcode == 0x1:
                self._received(payload)
            elif opcode == 0x9:
                self._send_frame(0xA, payload)
            elif opcode == 0x8:
                self.code = int.from_bytes(payload[:2], "big")
                self.transport.close()

    def send(self, fields: dict[str, Any]) -> None:
        """Send a command, unless the connection is closing."""
        if not self.transport.is_closing():
            self._send_frame(0x1, orjson.dumps(fields))

    def _take_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1], 2
        if size == 126:
            start = 4
        elif size == 127:
            start = 10
        if len(buffer) < start:
            return None
        if start > 2:
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return None
        opcode, payload = buffer[0] & 0xF, bytes(buffer[start : start + size])
        del buffer[: start + size]
        return opcode, payload

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | min(size, 126))
        if size > 125:
            head += struct.pack("!H", size)
        # A mask of zeros leaves the payload as it is (RFC 6455 §5.3 asks for random ones
        # to protect proxies, of which there are none here).
        self.transport.write(head + bytes(4) + payload)


#: An address and a port.
Place = tuple[str, int]


def _same(wire: Wire) -> Wire:
    return wire


class Client:
    """A member of some rooms under one name, across all its connections to any of these places.

    `events` is its record, and `breaks` are the ends of its connections. It sends a command about
    every `interval_s` until `settle`, and afterwards only unconfirmed messages.
    """

    def __init__(
        self,
        name: str,
        rooms: Sequence[str],
        places: Sequence[Place],
        *,
        seed: int,
        interval_s: float,
        shared: dict[Seen, Live],
    ) -> None:
        self.name = name
        self.rooms = rooms
        self.events: list[Event] = []
        self.breaks: list[Break] = []
        self.refusals: Counter[str] = Counter()
        self.positions: dict[str, Position] = {}
        self.unconfirmed: dict[
            tuple[str, str], tuple[str, float]
        ] = {}  # text, and the time of the last sending
        #: When each message was first sent, how long it took, and on which machine.
        self.delays: list[tuple[float, float, int]] = []
        self._places = places
        self._random = random.Random(seed)
        self._machine = self._random.randrange(len(places))
        self._interval_s = interval_s
        self._shared = shared  # equal publications are stored once
        self._session = base64.urlsafe_b64encode(self._random.randbytes(18)).decode()
        self._notes_times = self._random.random() < 0.5
        self._count = 0
        self._since: dict[str, Position | None] = {}  # of unanswered joins
        self._joined: set[str] = set()
        self._own: list[tuple[str, int]] = []
        self._first_sent: dict[tuple[str, str], float] = {}
        self._once: set[tuple[str, str]] = set()  # messages without an id, and without an answer
        self._heads: dict[str, int] = {}
        self._users: dict[str, set[str]] = {}  # as the server announced them
        self._settling = False
        self._stalled = False
        self._wire: Wire | None = None
        self._lost = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    # Faults, called from outside

    def disconnect(self) -> None:
        """End the connection without a close frame."""
        if self._wire is not None and not self._wire.closed:
            self._wire.ours = True
            self._wire.transport.abort()

    def stall(self, seconds: float) -> None:
        """Read and send nothing for some seconds, like a stopped process."""
        wire = self._wire
        if wire is None or wire.closed or self._stalled:
            return
        self._stalled = True
        wire.transport.pause_reading()
        loop = asyncio.get_running_loop()
        wire.stalled_at = loop.time()
        loop.call_later(seconds, self._continue, wire)

    def _continue(self, wire: Wire) -> None:
        self._stalled = False
        if not wire.closed:
            wire.transport.resume_reading()

    def settle(self) -> None:
        """Stop sending new messages and changes."""
        self._settling = True

    def behind(self, heads: dict[str, int], users: dict[str, set[str]]) -> str | None:
        """A sentence that says what this client still lacks, or None.

        `heads` are the last offsets of the rooms, and `users` the users in them.
        """
        for room in self.rooms:
            position = self.positions.get(room)
            if room not in self._joined or position is None or position.offset != heads[room]:
                return f"{self.name} is at {position} in {room}, which ends at {heads[room]}"
            if self._users.get(room, users[room]) != users[room]:
                differing = sorted(self._users[room] ^ users[room])
                return f"{self.name} is wrong about {differing} in {room}"
        unconfirmed = [*self.unconfirmed, *self._once]
        if unconfirmed:
            return f"{self.name} has no confirmation of {sorted(unconfirmed)}"
        return None

    @property
    def waits(self) -> bool:
        """Whether a message has no answer yet."""
        return bool(self.unconfirmed or self._once)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.disconnect()

    # Life cycle

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_S[0]
        while True:
            try:
                self._lost.clear()
                wire = self._wire = Wire(self._on_open, self._on_text, self._on_end)
                if len(self._places) > 1 and self._random.random() < HOPS:
                    self._machine = self._random.randrange(len(self._places))
                await loop.create_connection(partial(_same, wire), *self._places[self._machine])
            except OSError:
                backoff = min(2 * backoff, BACKOFF_S[1])
                self._machine = self._random.randrange(len(self._places))
            else:
                backoff = BACKOFF_S[0]
                acting = asyncio.create_task(self._act_forever(loop.time()))
                await self._lost.wait()
                acting.cancel()
            await asyncio.sleep(backoff * self._random.uniform(0.5, 1.5))

    def _on_open(self) -> None:
        if self._random.random() < 0.05:  # return as a new client, without positions
            self.positions.clear()
        for room in self.rooms:
            self._join(room)

    def _join(self, room: str) -> None:
        since = self._since[room] = self.positions.get(room)
        command = {"type": "join", "room": room, "username": self.name, "session": self._session}
        if since is not None:
            command |= {"since": since._asdict()}  # type: ignore[dict-item]
        self._send({**command, "ref": room})

    def _on_end(self) -> None:
        wire, now = self._wire, asyncio.get_running_loop().time()
        # The server can have dropped the client as soon as it stopped reading.
        gone_at = now
        if wire is not None:
            stalled_at = wire.stalled_at
            if stalled_at is not None and now - stalled_at < LATE_S:
                gone_at = stalled_at
            ours = wire.ours or (stalled_at is not None and wire.code == EVICTED)
            self.breaks.append(
                Break(self.name, now, wire.port, wire.status, wire.code, wire.announced, ours)
            )
        self.events.append(Lost(gone_at))
        self._users.clear()
        self._joined.clear()
        self._since.clear()
        self._once.clear()
        self._lost.set()

    async def _act_forever(self, began: float) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._interval_s))
            if len(self._places) > 1 and self._is_tired(began):
                self._machine = self._random.randrange(len(self._places))
                self.disconnect()
            if self._stalled or not self._joined:
                continue
            if not self._settling:
                self._act(self._random.choice(sorted(self._joined)))
            self._send_again()

    def _is_tired(self, began: float) -> bool:
        """Whether the server has answered nothing for long, on a connection that began then."""
        if self._stalled:
            return False
        latest = asyncio.get_running_loop().time() - PATIENCE_S
        is_silent = len(self._joined) < len(self.rooms) and began < latest
        return is_silent or any(max(began, sent) < latest for sent in self._first_sent.values())

    def _act(self, room: str) -> None:
        dice = self._random.random()
        if dice < 0.1:
            self._count += 1
            text = f"{self.name}~{self._count}"
            self._once.add((room, text))
            self.events.append(SentOnce(room, self.name, text))
            self._send({"type": "message", "room": room, "text": text, "ref": text})
        elif dice < 0.8 or not self._own:
            self._count += 1
            id = f"{self.name}-{self._count}"
            self._send_message(room, id, f"{id} says {self._random.random()}")
        elif dice < 0.9 and self._heads.get(room):
            offset = self._random.randint(1, self._heads[room])
            remove = self._random.random() < 0.3
            emoji = self._random.choice(EMOJI)
            self._send(
                {"type": "react", "room": room, "offset": offset, "emoji": emoji, "remove": remove}
            )
        else:
            own_room, offset = self._random.choice(self._own[-20:])
            command = {"type": "delete", "room": own_room, "offset": offset}
            if dice < 0.97:
                command |= {"type": "edit", "text": f"edited {self._random.random()}"}
            if own_room in self._joined:
                self._send(command)

    def _send_message(self, room: str, id: str, text: str) -> None:
        now = asyncio.get_running_loop().time()
        self.unconfirmed[room, id] = (text, now)
        self._first_sent.setdefault((room, id), now)
        self.events.append(Sent(room, self.name, id, text))
        self._send({"type": "message", "room": room, "id": id, "text": text})

    def _send_again(self, *, older_than_s: float = RESEND_S, only: str | None = None) -> None:
        due = asyncio.get_running_loop().time() - older_than_s
        for (room, id), (text, sent) in tuple(self.unconfirmed.items()):
            if sent <= due and room in self._joined and only in (None, room):
                self._send_message(room, id, text)

    def _send(self, fields: dict[str, Any]) -> None:
        if self._wire is not None and not self._wire.closed:
            self._wire.send(fields)

    # Received events

    def _on_text(self, payload: bytes) -> None:
        fields = orjson.loads(payload)
        handler = self._HANDLERS.get(fields["type"])
        if handler is not None:
            handler(self, fields)

    def _on_publication(self, fields: dict[str, Any]) -> None:
        live = self._note(fields)
        self.events.append(live)
        publication = live.publication
        known = self.positions.get(publication.room)
        if known is not None:
            timestamp = publication.facts[1] if self._notes_times else None
            self.positions[publication.room] = Position(known.epoch, publication.offset, timestamp)

    def _note(self, fields: dict[str, Any]) -> Live:
        publication = seen(fields)
        live = self._shared.get(publication)
        if live is None:
            live = self._shared[publication] = Live(publication)
        publication = live.publication
        room, id = publication.room, publication.id
        self._heads[room] = max(self._heads.get(room, 0), publication.offset)
        if publication.username != self.name:
            return live
        if id is None:
            self._once.discard((room, publication.text))
        elif self.unconfirmed.pop((room, id), None):
            self._own.append((room, publication.offset))
            self._note_delay(room, id)
        return live

    def _note_delay(self, room: str, id: str) -> None:
        sent = self._first_sent.pop((room, id), None)
        if sent is not None:
            delay = asyncio.get_running_loop().time() - sent
            self.delays.append((sent, delay, self._machine))

    def _on_joined(self, fields: dict[str, Any]) -> None:
        timestamp = fields["timestamp"] if self._notes_times else None
        room, position = fields["room"], Position(fields["epoch"], fields["offset"], timestamp)
        publications = tuple(self._note(each).publication for each in fields["messages"])
        since = self._since.pop(room, None)
        now = asyncio.get_running_loop().time()
        users = tuple(intern(user["username"]) for user in fields["users"] or ())
        self.events.append(
            Joined(
                room,
                since,
                position,
                fields["recovered"],
                publications,
                now,
                users,
                fields["online"],
                self._machine,
            )
        )
        self.positions[room] = position
        self._joined.add(room)
        if len(users) == fields["online"]:
            self._users[room] = {*users}
        if len(self._joined) == len(self.rooms):
            self._note_return(now)
        self._send_again(older_than_s=0, only=room)

    def _note_return(self, now: float) -> None:
        for ended in reversed(self.breaks):
            if ended.back_s is not None:
                break
            ended.back_s = now - ended.at

    def _on_ack(self, fields: dict[str, Any]) -> None:
        room, id = fields["room"], fields["id"]
        self.events.append(Acked(room, self.name, id, fields["offset"]))
        self.unconfirmed.pop((room, id), None)
        self._note_delay(room, id)

    def _on_moved(self, fields: dict[str, Any]) -> None:
        # These events are many and have few different names.
        room, name = intern(fields["room"]), intern(fields["username"])
        came = fields["type"] == "join"
        now = asyncio.get_running_loop().time()
        self.events.append(Moved(room, name, came, fields["online"], now))
        if (users := self._users.get(room)) is not None:
            (users.add if came else users.discard)(name)

    def _on_presence(self, fields: dict[str, Any]) -> None:
        self._users.pop(fields["room"], None)  # the room is a crowd now, so users are not announced

    def _on_closing(self, fields: dict[str, Any]) -> None:
        if self._wire is not None:
            self._wire.announced = True

    def _on_error(self, fields: dict[str, Any]) -> None:
        self.refusals[fields["code"]] += 1
        room = fields.get("ref")
        self._once = {each for each in self._once if each[1] != room}
        if room in self._since and fields["temporary"]:
            asyncio.get_running_loop().call_later(0.2, self._join_again, room, self._wire)

    def _join_again(self, room: str, wire: Wire) -> None:
        if wire is self._wire and not wire.closed:
            self._join(room)

    _HANDLERS: ClassVar = {
        "message": _on_publication,
        "edit": _on_publication,
        "delete": _on_publication,
        "react": _on_publication,
        "joined": _on_joined,
        "join": _on_moved,
        "leave": _on_moved,
        "presence": _on_presence,
        "closing": _on_closing,
        "ack": _on_ack,
        "error": _on_error,
    }
