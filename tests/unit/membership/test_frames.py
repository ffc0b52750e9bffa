"""What is known of a library's frames, from the bytes that it writes."""

from __future__ import annotations

import pytest

from fastchat.membership.frames import Frames
from support.hub import BINARY, CLOSE, PING, TEXT, encode

CONTINUATION = 0x0


def _fragment(opcode: int, payload: bytes) -> bytes:
    """A frame without FIN, which another fragment follows."""
    frame = bytearray(encode(opcode, payload))
    frame[0] &= 0x7F
    return bytes(frame)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frame_is_followed_in_any_pieces(size: int) -> None:
    """A frame of any length is whole exactly when its last byte was written."""
    frame = encode(TEXT, b"x" * size)
    for cut in {1, 2, 3, 4, 9, 10, 11, len(frame) // 2, len(frame) - 1}:
        if 0 < cut < len(frame):
            frames = Frames()
            frames.feed(frame[:cut])
            assert not frames.is_whole
            frames.feed(frame[cut:])
            assert frames.is_whole
    frames = Frames()
    for at in range(min(len(frame), 200)):
        assert frames.is_whole == (at == 0)
        frames.feed(frame[at : at + 1])


def test_write_can_have_several_frames_and_parts_of_them() -> None:
    """The end of a frame, whole ones and the start of another can be in one write."""
    frames = Frames()
    one, two, three = encode(BINARY, b"1" * 300), encode(TEXT, b"2"), encode(TEXT, b"3" * 70_000)
    frames.feed(memoryview(one)[:100])
    frames.feed(bytearray(one[100:] + two + three[:5]))
    assert not frames.is_whole
    frames.feed(three[5:] + two)
    assert frames.is_whole
    assert not frames.closes


def test_message_of_fragments_is_whole_after_the_last_one() -> None:
    """Control frames between the fragments of a message do not end it."""
    frames = Frames()
    frames.feed(_fragment(TEXT, b"be"))
    frames.feed(encode(PING, b"?"))
    frames.feed(_fragment(CONTINUATION, b"gin"))
    assert frames.is_message_open
    assert not frames.is_whole
    frames.feed(encode(CONTINUATION, b""))
    assert frames.is_whole


def test_close_frame_is_noticed() -> None:
    """A close frame is noticed as soon as it begins, also behind another frame."""
    frames = Frames()
    frames.feed(encode(TEXT, b"bye") + encode(CLOSE, b"\x03\xe8")[:2])
    assert frames.closes


def test_message_can_be_open_at_first() -> None:
    """A membership can begin between the fragments of a message."""
    frames = Frames(is_message_open=True)
    assert not frames.is_whole
    frames.feed(encode(CONTINUATION, b"the end"))
    assert frames.is_whole
