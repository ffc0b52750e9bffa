"""Streams of events from the HTTP API, which connect again and go on where they were."""

from __future__ import annotations

import json
import logging
import random
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from fastchat_client.errors import ChatError, Refused
from fastchat_client.events import (
    Delete,
    Edit,
    Gap,
    Join,
    Leave,
    Message,
    Position,
    Publication,
    React,
    movement_of,
    publication_of,
)
from fastchat_client.requests import Body, Lost, Request, Transport, error_of, unreachable
from fastchat_client.server_sent import Parser, ServerSent
from fastchat_client.waiting import result

__all__ = ["EventStream", "StreamEvent", "SyncEventStream"]

logger = logging.getLogger("fastchat_client")

#: What a stream gives.
StreamEvent = Message | Edit | Delete | React | Join | Leave | Gap

#: The server sends something at least every 15 s.
SILENCE_S = 45.0
#: Between two attempts to connect, in seconds: at first, if the server has not said, and at most.
RETRY_S, MAX_RETRY_S = 2.0, 30.0
_PUBLICATIONS = frozenset({"message", "edit", "delete", "react"})


class EventStream:
    """What happens in rooms, for `async for`; see `API.events`.

    `last_id` is the place after the event that was given last; None before the first connection.
    """

    def __init__(self, transport: Transport, rooms: tuple[str, ...], last_id: str | None) -> None:
        self.last_id = last_id
        self._transport = transport
        self._params = {"rooms": ",".join(rooms)} if rooms else {}
        self._body: Body | None = None
        self._parser = Parser()
        self._waiting: deque[ServerSent] = deque()
        self._offsets: dict[str, int] = {}
        self._retry_s = RETRY_S
        self._failures = 0
        self._is_open = False  # whether the server follows the rooms
        self._is_closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        try:
            while not self._is_closed:
                while self._waiting:
                    sent = self._waiting.popleft()
                    event = self._event_of(sent)
                    if sent.id is not None:
                        self.last_id = sent.id
                    if event is not None:
                        return event
                await self._receive()
        except ChatError:
            await self.close()
            raise
        raise StopAsyncIteration

    async def start(self) -> None:
        """Connect, unless the stream is connected, and wait until the server follows the rooms."""
        try:
            while not (self._is_closed or self._is_open):
                await self._receive()
        except ChatError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection and end the iteration. Safe to call again."""
        self._is_closed = True
        await self._disconnect()

    async def _receive(self) -> None:
        """Wait for the next piece; connect, and connect again after a while if that is lost."""
        try:
            if self._body is None:
                await self._connect()
            assert self._body is not None
            piece = await self._body.next()
            if piece is not None:
                self._take(self._parser.feed(piece))
                return
            retry_after: float | None = None
            reason = "the server has ended it"
        except Lost as lost:
            retry_after, reason = self._checked(lost.error)
        except ChatError as error:
            retry_after, reason = self._checked(error)
        await self._disconnect()
        if self._is_closed:
            return
        self._retry_s = self._parser.retry_s or self._retry_s
        backoff_s = min(MAX_RETRY_S, self._retry_s * 2.0 ** min(self._failures, 10))
        self._failures += 1
        # With jitter, so that the clients of a server that restarts do not all come at once.
        wait_s = max(backoff_s * random.uniform(0.5, 1.0), retry_after or 0.0)  # noqa: S311
        logger.info("a stream of events is opened again in %.1f s: %s", wait_s, reason)
        await self._transport.sleep(wait_s)

    def _take(self, events: list[ServerSent]) -> None:
        for sent in events:
            if sent.type != "ready":
                self._waiting.append(sent)
                continue
            self._failures = 0
            self._is_open = True
            # A stream that goes on keeps its place: gaps come after this event, and have its id.
            if self.last_id is None:
                self.last_id = sent.id

    def _checked(self, error: ChatError) -> tuple[float | None, str]:
        """The time to wait after an error, and its text. Raises it if it is not temporary."""
        if not error.temporary:
            raise error
        return error.retry_after, str(error)

    async def _connect(self) -> None:
        headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
        if self.last_id is not None:
            headers["last-event-id"] = self.last_id
        request = Request("GET", "/events", params=self._params, headers=headers, timeout=SILENCE_S)
        body = await self._transport.open(request)
        if body.status != 200:
            try:
                raise error_of(await body.read())
            finally:
                await body.close()
        if "text/event-stream" not in body.headers.get("content-type", ""):
            await body.close()
            raise unreachable("a content of another kind")
        self._parser = Parser()
        self._body = body

    async def _disconnect(self) -> None:
        body, self._body, self._is_open = self._body, None, False
        if body is not None:
            await body.close()

    def _event_of(self, sent: ServerSent) -> StreamEvent | None:
        """Parse an event; None if it is not for the program, or of a kind that is not known."""
        try:
            raw = json.loads(sent.data)
            if sent.type in _PUBLICATIONS:
                return self._publication_of(raw)
            if sent.type in ("join", "leave"):
                return movement_of(raw)
            if sent.type == "gap":
                return self._gap_of(raw)
            if sent.type == "error":
                raise Refused(str(raw["code"]), str(raw["message"]))
        except (KeyError, TypeError, ValueError):
            raise unreachable("events of another kind") from None
        return None

    def _publication_of(self, raw: Mapping[str, Any]) -> StreamEvent:
        # The server does not say the epochs of a stream's rooms, except in a gap.
        publication: Publication = publication_of(raw, "")
        assert isinstance(publication, Message | Edit | Delete | React)
        self._offsets[publication.room] = publication.offset
        return publication

    def _gap_of(self, raw: Mapping[str, Any]) -> Gap:
        room, offset = str(raw["room"]), int(raw["offset"])
        position = Position(str(raw["epoch"]), offset)
        after, self._offsets[room] = self._offsets.get(room, 0), offset
        return Gap(
            raw=raw,
            room=room,
            # A room with another history is read from its beginning.
            reason="away" if offset else "reset",
            after=after,
            before=offset + 1,
            position=position,
        )


class SyncEventStream:
    """What happens in rooms, for `for`; see `API.events`."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        result(self._stream.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def last_id(self) -> str | None:
        """The place after the event that was given last; None before the first connection."""
        return self._stream.last_id

    def __iter__(self) -> Iterator[StreamEvent]:
        return self

    def __next__(self) -> StreamEvent:
        try:
            return result(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Close the connection and end the iteration."""
        result(self._stream.close())
