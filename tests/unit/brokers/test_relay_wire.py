"""Frames of records: any cut of a stream gives the same records, within limits of length."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastchat.brokers.relay.wire import BadRecord, RecordKind, RecordReader, pack, reachable

HEADS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=9,
)
RECORDS = st.lists(
    st.tuples(st.sampled_from(RecordKind), HEADS, st.lists(st.binary(max_size=40), max_size=4)),
    max_size=9,
)


def as_framed(kind: int, head: Any, tail: bytes) -> tuple[int, Any, bytes]:
    return kind, head, tail


def new_reader() -> RecordReader[tuple[int, Any, bytes]]:
    """A reader that returns records as they are in their frames."""
    return RecordReader(lambda *record: record)


def read(*chunks: bytes) -> list[tuple[int, Any, bytes]]:
    reader = new_reader()
    return [record for chunk in chunks for record in reader.feed(chunk)]


@settings(max_examples=300)
@given(RECORDS, st.data())
def test_any_cut_of_a_stream_gives_the_same_records(
    said: list[tuple[RecordKind, Any, list[bytes]]], data: st.DataObject
) -> None:
    """Each record is returned once, in order, as soon as it is whole."""
    stream = b"".join(pack(*record) for record in said)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    chunks = [
        stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
    ]
    assert read(*chunks) == [(kind, head, b"".join(tail)) for kind, head, tail in said]


def test_record_is_returned_with_its_last_byte() -> None:
    """A record is not returned before its last byte, and part of the next one changes nothing."""
    reader = new_reader()
    record = pack(RecordKind.TELL, ["a"], (b"payload",))
    for byte in record[:-1]:
        assert list(reader.feed(bytes([byte]))) == []
    assert list(reader.feed(record[-1:] + record[:7])) == [(RecordKind.TELL, ["a"], b"payload")]
    assert list(reader.feed(record[7:])) == [(RecordKind.TELL, ["a"], b"payload")]


@pytest.mark.parametrize("length", [0, 4, 2**31])
def test_impossible_length_is_refused(length: int) -> None:
    """An impossible length is refused at once, before the reader waits for the bytes."""
    with pytest.raises(BadRecord):
        read(length.to_bytes(4, "big"))


def test_record_above_the_maximum_is_refused() -> None:
    """A record of exactly the maximum is accepted, and one byte more is refused."""
    longest = pack(RecordKind.TELL, [], (b"x" * (100 - 5 - 2),))
    assert len(list(RecordReader(as_framed, max_record_bytes=100).feed(longest))) == 1
    too_long = pack(RecordKind.TELL, [], (b"x" * (100 - 5 - 1),))
    with pytest.raises(BadRecord):
        list(RecordReader(as_framed, max_record_bytes=100).feed(too_long))


@pytest.mark.parametrize(
    "record",
    [
        b"\x00\x00\x00\x09\x01\x00\x00\x00\x05null",  # the head extends past its record
        b"\x00\x00\x00\x09\x01\xff\xff\xff\xffnull",
        b"\x00\x00\x00\x09\x01\x00\x00\x00\x04nul!",
        b"\x00\x00\x00\x05\x01\x00\x00\x00\x00",  # no head
        b"\x00\x00\x00\x07\x01\x00\x00\x00\x02\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=repr,
)
def test_malformed_record_is_refused_after_its_predecessors(record: bytes) -> None:
    """The records before a malformed one are returned first."""
    reader = new_reader()
    found = reader.feed(pack(RecordKind.PING, 1) + record)
    assert next(found) == (RecordKind.PING, 1, b"")
    with pytest.raises(BadRecord):
        next(found)


def test_long_socket_path_is_reached_through_its_directory() -> None:
    """The length of a path is counted in bytes and not in characters."""
    assert reachable(Path("/short"), 7) == "/short/fastchat.sock"
    for long in ("/" + "x" * 100, "/" + "ä" * 50):
        assert reachable(Path(long), 7) == "/proc/self/fd/7/fastchat.sock"
    with tempfile.TemporaryDirectory() as directory:
        assert reachable(Path(directory), 7).startswith(directory)
