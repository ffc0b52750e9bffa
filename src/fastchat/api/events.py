"""Streams of events: what happens in rooms, for backends that cannot be called.

The format is that of Server-Sent Events (the HTML standard, §9.2). A stream has a position in each
of its rooms, and reads from there. The id of each event says all positions (`cursor`), so a client
that comes back with the last one gets every publication that it has missed. If some of them are not
stored any more, it gets a `gap`.

A client that reads too slowly holds nothing: its stream does not read on, and its connection ends
when a piece has waited for as long as any answer may (`web.http`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from time import monotonic

import orjson

from fastchat.api.cursor import decode_cursor, encode_cursor, resumed
from fastchat.api.keys import ActiveKey, ApiKeys, check_patterns
from fastchat.api.listing import ListedRooms
from fastchat.api.requests import ApiError, Field, Handler, Request, Stream, bad_request
from fastchat.api.watching import Follower, Watcher
from fastchat.chat.operations import Operations
from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Position

__all__ = ["EventHandlers"]

#: Rooms of one stream. Each takes some 16 characters of every event's id.
MAX_ROOMS = 50
#: Streams that a key can have in one process.
MAX_STREAMS = 32
#: Proxies close connections on which nothing is sent, often after a minute.
HEARTBEAT_S = 15.0
#: How soon a room that is new is found.
DISCOVER_S = 2.0
#: If the rooms cannot be reached, a stream tries again after this time.
RETRY_S = 1.0
#: Publications that are read and sent at once.
AT_ONCE = 100
#: How long a client should wait before it connects again, in milliseconds.
RECONNECT_MS = 2000
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would keep the events until it has a buffer full of them.
    (b"x-accel-buffering", b"no"),
)
_TYPE = len(b'{"type":"')


class EventHandlers:
    """Carries out the operation that streams events."""

    def __init__(
        self, operations: Operations, rooms: ListedRooms, watcher: Watcher, keys: ApiKeys
    ) -> None:
        self._operations = operations
        self._rooms = rooms
        self._watcher = watcher
        self._keys = keys

    def handlers(self) -> Mapping[str, Handler]:
        return {"streamEvents": self._stream}

    async def _stream(self, request: Request) -> Stream:
        text = request.query(Field("rooms")).get("rooms")
        patterns = _patterns(request.key, text)
        names = await self._matching(patterns)
        if len(names) > MAX_ROOMS:
            raise ApiError(400, ErrorCode.TOO_MANY_ROOMS, _too_many())
        last = request.header(b"last-event-id")
        try:
            cursor = decode_cursor(last) if last else None
        except ValueError:
            raise bad_request("Last-Event-ID must be the id of an event of a stream.") from None
        positions, gaps = {}, []
        for name in names:
            end = await self._operations.position(name)
            positions[name] = Position(end.epoch, end.offset)
            if cursor is not None:
                positions[name], has_gap = resumed(cursor, name, end.epoch)
                if has_gap:
                    gaps.append(name)
        if request.key.streams >= MAX_STREAMS:
            raise ApiError(
                429,
                ErrorCode.RATE_LIMITED,
                f"The key has {MAX_STREAMS} streams already. Close one first.",
                temporary=True,
                retry_after_ms=1000,
            )
        news = self._events(request.key, patterns, positions, gaps)
        return Stream(news, _HEADERS, is_endless=True)

    async def _matching(self, patterns: Sequence[str]) -> list[str]:
        """The rooms of a stream: those that are named, even if they do not exist, and others."""
        named = [each for each in patterns if not each.endswith("*")]
        starred = [each for each in patterns if each.endswith("*")]
        found = await self._rooms.page(starred, "", "", MAX_ROOMS + 1) if starred else []
        return list(dict.fromkeys([*named, *(room.room for room in found)]))

    async def _events(
        self,
        key: ActiveKey,
        patterns: Sequence[str],
        positions: dict[str, Position],
        gaps: Sequence[str],
    ) -> AsyncGenerator[bytes]:
        beginnings = tuple(each[:-1] for each in patterns if each.endswith("*"))
        follower = Follower(beginnings)
        key.streams += 1
        try:
            self._watcher.seek(follower)
            for room in positions:
                self._watcher.follow(room, follower)
            await self._watcher.prepare(positions)
            ready = orjson.dumps({"type": "ready", "rooms": list(positions)})
            yield b"retry: %d\n" % RECONNECT_MS + _event(b"ready", ready, positions)
            for room in gaps:
                yield _gap(room, positions)
            sent_s = discovered_s = monotonic()
            while self._keys.is_active(key):
                due_s = sent_s + HEARTBEAT_S
                if beginnings:
                    due_s = min(due_s, discovered_s + DISCOVER_S)
                await follower.wait(max(0.0, due_s - monotonic()))
                if beginnings and monotonic() >= discovered_s + DISCOVER_S:
                    discovered_s = monotonic()
                    await self._discover(follower, patterns, positions)
                async for chunk in self._news(follower, positions):
                    sent_s = monotonic()
                    yield chunk
                if len(positions) > MAX_ROOMS:
                    error = {"type": "error", "code": "too_many_rooms", "message": _too_many()}
                    yield _event(b"error", orjson.dumps(error), None)
                    return
                if monotonic() >= sent_s + HEARTBEAT_S:
                    sent_s = monotonic()
                    yield b": \n\n"
        finally:
            key.streams -= 1
            self._watcher.unfollow(follower)

    async def _discover(
        self, follower: Follower, patterns: Sequence[str], positions: Mapping[str, Position]
    ) -> None:
        """Find rooms that are new, and not known in this process."""
        with contextlib.suppress(CommandError):  # the rooms cannot be reached for a while
            for name in await self._matching(patterns):
                if name not in positions:
                    follower.wake(name)

    async def _news(
        self, follower: Follower, positions: dict[str, Position]
    ) -> AsyncGenerator[bytes]:
        """What has happened since the last time, in pieces."""
        while follower.presence:
            kind, payload = follower.presence.popleft()
            yield _event(kind.encode(), payload, None)
        while follower.changed:
            room = next(iter(follower.changed))
            del follower.changed[room]
            try:
                if room not in positions:  # it is new, and read from its beginning
                    end = await self._operations.position(room)
                    positions[room] = Position(end.epoch, 0)
                    self._watcher.follow(room, follower)
                    if len(positions) > MAX_ROOMS:
                        return
                async for chunk in self._publications(room, positions):
                    yield chunk
            except CommandError:
                # The rooms cannot be reached. Nothing else would say that the room must be read.
                asyncio.get_running_loop().call_later(RETRY_S, follower.wake, room)
                return

    async def _publications(
        self, room: str, positions: dict[str, Position]
    ) -> AsyncGenerator[bytes]:
        while True:
            payloads = await self._operations.since(room, positions[room], AT_ONCE)
            if payloads is None:
                end = await self._operations.position(room)
                is_anew = end.epoch != positions[room].epoch
                positions[room] = Position(end.epoch, 0 if is_anew else end.offset)
                yield _gap(room, positions)
                continue
            if not payloads:
                return
            chunk = []
            for payload in payloads:
                epoch, offset, _ = positions[room]
                positions[room] = Position(epoch, offset + 1)
                kind = payload[_TYPE : payload.index(b'"', _TYPE)]
                chunk.append(_event(kind, payload, positions))
            yield b"".join(chunk)


def _patterns(key: ActiveKey, text: str | None) -> Sequence[str]:
    """The rooms that a client asks for, or all rooms of its key."""
    if text is None:
        return key.key.rooms
    try:
        patterns = check_patterns(text.split(","))
    except ValueError as error:
        raise bad_request(f"`rooms`: {error}.") from None
    for pattern in patterns:
        is_covered = (
            key.covers(pattern.removesuffix("*")) if pattern.endswith("*") else key.matches(pattern)
        )
        if not is_covered:
            raise ApiError(
                403, ErrorCode.FORBIDDEN, f"The key is not for all rooms in `rooms`: {pattern}."
            )
    return patterns


def _too_many() -> str:
    return f"A stream can have {MAX_ROOMS} rooms. Follow fewer, in several streams."


def _gap(room: str, positions: Mapping[str, Position]) -> bytes:
    epoch, offset, _ = positions[room]
    payload = orjson.dumps({"type": "gap", "room": room, "epoch": epoch, "offset": offset})
    return _event(b"gap", payload, positions)


def _event(kind: bytes, payload: bytes, positions: Mapping[str, Position] | None) -> bytes:
    """An event in the format of the standard. Without positions, it has no id."""
    id = b"" if positions is None else b"id: %b\n" % encode_cursor(positions).encode()
    # A payload is JSON in one line.
    return b"event: %b\n%bdata: %b\n\n" % (kind, id, payload)
