"""A client of Server-Sent Events."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from support.server import TIMEOUT_UNIT_S

__all__ = ["Event", "EventStream", "event_stream"]


class Event(NamedTuple):
    """An event: its type, its id or None, and its data as JSON."""

    type: str
    id: str | None
    data: Any


class EventStream:
    """A stream of events. `last_id` is that of the last event that had one."""

    def __init__(self, port: int, key: str, query: str, last_id: str | None = None) -> None:
        timeout_s = 10 * TIMEOUT_UNIT_S
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        headers = {"x-api-key": key}
        if last_id is not None:
            headers["last-event-id"] = last_id
        self._connection.request("GET", f"/api/v1/events{query}", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.last_id = last_id

    def __iter__(self) -> Iterator[Event]:
        """The events until the server ends the stream."""
        fields: dict[str, str] = {}
        for line in self._answer:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}

    def next(self, *types: str) -> Event:
        """The next event of one of these types, or of any."""
        for event in self:
            if not types or event.type in types:
                return event
        raise AssertionError("the stream has ended")

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


@contextlib.contextmanager
def event_stream(
    port: int, key: str, query: str = "", last_id: str | None = None
) -> Iterator[EventStream]:
    """A stream during a `with` block."""
    stream = EventStream(port, key, query, last_id)
    try:
        yield stream
    finally:
        stream.close()
