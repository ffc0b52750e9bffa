"""What a file is, by its content: which images may be shown, and how large they are.

A name and a type that a client claims say nothing. What is not one of these images is
`application/octet-stream`, which no browser shows or runs, be it HTML, SVG or PDF.
"""

from __future__ import annotations

import io
from typing import NamedTuple

__all__ = ["HEAD_BYTES", "OTHER", "Media", "sniff"]

#: Of what nobody is to show.
OTHER = "application/octet-stream"
#: What is looked at. A photograph's size stands behind its preview and its colour profile.
HEAD_BYTES = 256 * 1024
#: More than any camera takes; Firefox draws no more of a side.
MAX_SIDE = 32_767
MAX_PIXELS = 1 << 28
#: MIME Sniffing §6.1; without the icons and bitmaps, which nobody shares.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
#: One picture, and a sequence (AV1 Image File Format §6).
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


class Media(NamedTuple):
    """A media type; of an image whose size can be believed, that in pixels."""

    type: str
    width: int | None = None
    height: int | None = None


def sniff(head: bytes) -> Media:
    """What a file is that begins with `head`: all of it, or its first HEAD_BYTES."""
    media_type = _type_of(head)
    if media_type == OTHER:
        return Media(OTHER)
    # Imported here: it brings a whole HTTP client, and a server may never see an image.
    import imagesize

    # Where the rotation of an AVIF stands may take minutes to find, if somebody wants it to.
    width, height = imagesize.get(io.BytesIO(head), exif_rotation=media_type != "image/avif")
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        return Media(media_type)
    return Media(media_type, int(width), int(height))


def _type_of(head: bytes) -> str:
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    if head[:4] == b"RIFF" and head[8:14] == b"WEBPVP":
        return "image/webp"
    if head[4:8] == b"ftyp" and not _AVIF_BRANDS.isdisjoint(_brands(head)):
        return "image/avif"
    return OTHER


def _brands(head: bytes) -> set[bytes]:
    """Of the box at the beginning, as MIME Sniffing §6.2.1 reads it."""
    size = int.from_bytes(head[:4], "big")
    if size % 4 or not 16 <= size <= len(head):
        return set()
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
