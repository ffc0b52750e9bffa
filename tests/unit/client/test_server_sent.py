"""Server-Sent Events, in pieces of any size."""

from __future__ import annotations

import pytest

from fastchat_client.requests import Lost
from fastchat_client.server_sent import MAX_LINE_BYTES, Lines, Parser, ServerSent

STREAM = (
    "retry: 1500\nevent: ready\nid: a\ndata: {}\n\n: \n\nevent: message\r\nid: b\r\n"
    'data: "one\u2028two"\r\n\r\ndata: 1\ndata:2\n\nevent: join\n\n'
).encode()
EVENTS = [
    ServerSent("ready", "a", "{}"),
    ServerSent("message", "b", '"one\u2028two"'),
    ServerSent("message", None, "1\n2"),
]


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_events_are_parsed_from_pieces(size: int) -> None:
    """Comments and events without data are skipped; other separators are no line feeds."""
    parser = Parser()
    found = []
    for start in range(0, len(STREAM), size):
        found += parser.feed(STREAM[start : start + size])
    assert found == EVENTS
    assert parser.retry_s == 1.5


def test_line_without_an_end_is_an_error() -> None:
    """Memory stays bounded."""
    with pytest.raises(Lost):
        Lines().feed(b"x" * (MAX_LINE_BYTES + 1))
