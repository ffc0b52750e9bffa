"""The media type of a file, by its content, and the size of an image."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.files.media import HEAD_BYTES, OTHER, sniff
from support.file_store import PNG_HEAD, png


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def full_box(kind: bytes, payload: bytes) -> bytes:
    return box(kind, bytes(4) + payload)


def avif(width: int, height: int, brand: bytes = b"avif") -> bytes:
    """Return a minimal AVIF that has a size (ISO/IEC 23008-12)."""
    size = full_box(b"ispe", struct.pack(">II", width, height))
    association = full_box(b"ipma", struct.pack(">IHBB", 1, 1, 1, 1))
    properties = box(b"iprp", box(b"ipco", size) + association)
    meta = full_box(b"meta", full_box(b"pitm", struct.pack(">H", 1)) + properties)
    return box(b"ftyp", brand + bytes(4) + b"mif1miaf") + meta + box(b"mdat", b"x" * 9)


def jpeg(width: int, height: int, *, orientation: int = 1, before: bytes = b"") -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + tiff
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes(9)
    return (
        b"\xff\xd8\xff\xe1"
        + struct.pack(">H", 2 + len(exif))
        + exif
        + before
        + b"\xff\xc0"
        + struct.pack(">H", 2 + len(frame))
        + frame
        + b"\xff\xd9"
    )


def gif(version: bytes) -> bytes:
    return version + struct.pack("<HH", 640, 480) + bytes(3) + b";"


def webp() -> bytes:
    frame = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 480) + bytes(8)
    body = b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


IMAGES = [
    (png(640, 480), "image/png"),
    (jpeg(640, 480), "image/jpeg"),
    (jpeg(480, 640, orientation=6), "image/jpeg"),
    (gif(b"GIF87a"), "image/gif"),
    (gif(b"GIF89a"), "image/gif"),
    (webp(), "image/webp"),
    (avif(640, 480), "image/avif"),
    (avif(640, 480, b"avis"), "image/avif"),
]


@pytest.mark.parametrize(("head", "media_type"), IMAGES)
def test_image_is_recognized_with_its_size(head: bytes, media_type: str) -> None:
    """The size is that of the displayed image: the sides of a rotated photograph are exchanged."""
    assert sniff(head) == (media_type, 640, 480)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><script>alert(1)</script>",
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
        b'<?xml version="1.0"?><svg width="640" height="480"/>',
        b"%PDF-1.7",
        b"BM" + bytes(60),
        b"\0\0\1\0" + bytes(60),
        b"II*\0" + bytes(60),
        b"GIF88a" + bytes(60),
        b"\xff\xd8",
        b"\x89PNG\n\x1a\n" + bytes(60),
        b"RIFF\0\0\0\0WAVEfmt ",
        box(b"ftyp", b"heic" + bytes(4) + b"mif1"),
        box(b"ftyp", b"isom" + bytes(4) + b"mp42"),
        box(b"ftyp", b"avif"),
        b"\xff\xff\xff\xfcftypavif" + bytes(60),
        b" " + png(1, 1),
    ],
)
def test_other_content_is_octet_stream(content: bytes) -> None:
    """Content that browsers can run, or that some cannot display, gets no type of its own."""
    assert sniff(content) == (OTHER, None, None)


@pytest.mark.parametrize(
    "head",
    [
        png(0, 480),
        png(640, 0),
        png(0xFFFFFFFF, 480),
        png(32_768, 1),
        png(32_767, 32_767),
        png(640, 480)[:20],
        PNG_HEAD,
        jpeg(0, 480),
        avif(640, 480)[:30],
    ],
)
def test_unbelievable_size_is_ignored(head: bytes) -> None:
    """An image whose header states an impossible size is an image without a size."""
    media = sniff(head)
    assert media.type != OTHER
    assert (media.width, media.height) == (None, None)


@given(st.sampled_from([head for head, _ in IMAGES]), st.binary(max_size=400), st.integers(0, 60))
def test_damaged_image_is_harmless(head: bytes, noise: bytes, at: int) -> None:
    """A damaged image raises no exception, and has a believable size or none."""
    media = sniff(head[:at] + noise + head[at + len(noise) // 2 :])
    assert media.width is None or 0 < media.width < 32_768
    assert (media.width is None) == (media.height is None)


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff" + b"\xff\xfe\0\2" * (HEAD_BYTES // 4),
        b"\xff\xd8\xff\xe0\0\2" + bytes(HEAD_BYTES),
        PNG_HEAD + (bytes(4) + b"tEXt" + bytes(4)) * (HEAD_BYTES // 12),
        avif(640, 480)[:24] + box(b"free", b"") * (HEAD_BYTES // 8),
    ],
)
def test_endless_header_is_read_quickly(head: bytes) -> None:
    """A header without an end takes less than a second."""
    start_s = time.process_time()
    sniff(head[:HEAD_BYTES])
    assert time.process_time() - start_s < 1.0
