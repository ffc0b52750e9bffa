"""A client that sends, breaks, comes back, and writes everything down.

It speaks WebSocket by itself, over asyncio's sockets: some hundred of them fit into one
process beside the server that they exercise.
"""

from __future__ import annotations

import asyncio
import base64
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import orjson

from checker.records import Acked, Event, Joined, Live, Lost, Position, Seen, Sent, seen

#: After a connection ended, or was refused.
BACKOFF_S = (0.02, 1.0)
#: What is not confirmed after this long is sent again.
RESEND_S = 2.0
EMOJI = ("👍", "🎉", "🙂")


class Wire(asyncio.Protocol):
    """One WebSocket connection, as RFC 6455 has it, as far as our server uses it."""

    def __init__(
        self,
        opened: Callable[[], None],
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._opened, self._received, self._ended = opened, received, ended
        self._buffer = bytearray()
        self._upgraded = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        host, port = transport.get_extra_info("peername")[:2]
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
            if not head.startswith(b"HTTP/1.1 101 "):
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
                self.transport.close()

    def send(self, fields: dict[str, Any]) -> None:
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


class Client:
    """A member of some rooms under one name, however often its connection breaks.

    `events` is its record. It sends something about every `interval_s`, until `settle`;
    from then on only what is not confirmed.
    """

    def __init__(
        self,
        name: str,
        rooms: Sequence[str],
        port: int,
        *,
        seed: int,
        interval_s: float,
        shared: dict[Seen, Seen],
    ) -> None:
        self.name = name
        self.rooms = rooms
        self.events: list[Event] = []
        self.refusals: Counter[str] = Counter()
        self.positions: dict[str, Position] = {}
        self.unconfirmed: dict[tuple[str, str], tuple[str, float]] = {}  # text; when sent last
        self._port = port
        self._random = random.Random(seed)
        self._interval_s = interval_s
        self._shared = shared  # equal publications are kept once
        self._session = base64.urlsafe_b64encode(self._random.randbytes(18)).decode()
        self._count = 0
        self._since: dict[str, Position | None] = {}  # of joins that are not answered
        self._joined: set[str] = set()
        self._own: list[tuple[str, int]] = []
        self._heads: dict[str, int] = {}
        self._settling = False
        self._stalled = False
        self._wire: Wire | None = None
        self._lost = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    # What others do to it

    def disconnect(self) -> None:
        """The connection breaks, without a word."""
        if self._wire is not None and not self._wire.closed:
            self._wire.transport.abort()

    def stall(self, seconds: float) -> None:
        """Do and read nothing for a while, as a stopped process."""
        wire = self._wire
        if wire is None or wire.closed or self._stalled:
            return
        self._stalled = True
        wire.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._continue, wire)

    def _continue(self, wire: Wire) -> None:
        self._stalled = False
        if not wire.closed:
            wire.transport.resume_reading()

    def settle(self) -> None:
        """Send nothing new any more."""
        self._settling = True

    def behind(self, heads: dict[str, int]) -> str | None:
        """What this client still misses of rooms that end at `heads`, in words."""
        for room in self.rooms:
            position = self.positions.get(room)
            if room not in self._joined or position is None or position.offset != heads[room]:
                return f"{self.name} is at {position} in {room}, which ends at {heads[room]}"
        if self.unconfirmed:
            return f"{self.name} has no confirmation of {sorted(self.unconfirmed)}"
        return None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.disconnect()

    # Its life

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_S[0]
        while True:
            try:
                self._lost.clear()
                _, self._wire = await loop.create_connection(
                    lambda: Wire(self._on_open, self._on_text, self._on_end),
                    "127.0.0.1",
                    self._port,
                )
            except OSError:
                backoff = min(2 * backoff, BACKOFF_S[1])
            else:
                backoff = BACKOFF_S[0]
                acting = asyncio.create_task(self._act_forever())
                await self._lost.wait()
                acting.cancel()
            await asyncio.sleep(backoff * self._random.uniform(0.5, 1.5))

    def _on_open(self) -> None:
        if self._random.random() < 0.05:  # as somebody who has never been here
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
        self.events.append(Lost())
        self._joined.clear()
        self._since.clear()
        self._lost.set()

    async def _act_forever(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._interval_s))
            if self._stalled or not self._joined:
                continue
            if not self._settling:
                self._act(self._random.choice(sorted(self._joined)))
            self._send_again()

    def _act(self, room: str) -> None:
        dice = self._random.random()
        if dice < 0.8 or not self._own:
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
        self.unconfirmed[room, id] = (text, asyncio.get_running_loop().time())
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

    # What it gets

    def _on_text(self, payload: bytes) -> None:
        fields = orjson.loads(payload)
        handler = self._HANDLERS.get(fields["type"])
        if handler is not None:
            handler(self, fields)

    def _on_publication(self, fields: dict[str, Any]) -> None:
        publication = self._note(fields)
        self.events.append(Live(publication))
        known = self.positions.get(publication.room)
        if known is not None:
            self.positions[publication.room] = Position(known.epoch, publication.offset)

    def _note(self, fields: dict[str, Any]) -> Seen:
        publication = seen(fields)
        publication = self._shared.setdefault(publication, publication)
        room, id = publication.room, publication.id
        self._heads[room] = max(self._heads.get(room, 0), publication.offset)
        own = id is not None and publication.username == self.name
        if own and self.unconfirmed.pop((room, id or ""), None):
            self._own.append((room, publication.offset))
        return publication

    def _on_joined(self, fields: dict[str, Any]) -> None:
        room, position = fields["room"], Position(fields["epoch"], fields["offset"])
        publications = tuple(map(self._note, fields["messages"]))
        since = self._since.pop(room, None)
        self.events.append(Joined(room, since, position, fields["recovered"], publications))
        self.positions[room] = position
        self._joined.add(room)
        self._send_again(older_than_s=0, only=room)

    def _on_ack(self, fields: dict[str, Any]) -> None:
        room, id = fields["room"], fields["id"]
        self.events.append(Acked(room, self.name, id, fields["offset"]))
        self.unconfirmed.pop((room, id), None)

    def _on_error(self, fields: dict[str, Any]) -> None:
        self.refusals[fields["code"]] += 1
        room = fields.get("ref")
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
        "ack": _on_ack,
        "error": _on_error,
    }
