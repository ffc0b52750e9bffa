"""The media type of a file, by its content, and the size of an image.

The name of a file and the type that a client declares are not trusted. A file that is not one of
the images below has the type `application/octet-stream`. Browsers neither display nor run files of
that type, even if the content is HTML, SVG or PDF.
"""

from __future__ import annotations

import io
from typing import NamedTuple

__all__ = ["HEAD_BYTES", "OTHER", "Media", "sniff"]

#: The type of each file that browsers must not display.
OTHER = "application/octet-stream"
#: The number of bytes that are examined. The size of a photograph follows its preview and its
#: colour profile, so a few kilobytes are not enough.
HEAD_BYTES = 256 * 1024
#: The largest believable side of an image in pixels, which is also the largest that Firefox draws,
#: and the largest believable area. Images of cameras are smaller. An image whose header states more
#: gets a link without a size.
MAX_SIDE = 32_767
MAX_PIXELS = 1 << 28
#: From MIME Sniffing §6.1, without icons and bitmaps, which are rarely shared.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
#: The brands of a single image and of a sequence (AV1 Image File Format §6).
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


class Media(NamedTuple):
    """A media type, and the size of an image in pixels; None if there is no believable size."""

    type: str
    width: int | None = None
    height: int | None = None


def sniff(head: bytes) -> Media:
    """Return the media type and the size of a file.

    `head` is the whole file, or its first HEAD_BYTES. A damaged file raises no exception.
    """
    media_type = _type_of(head)
    if media_type == OTHER:
        return Media(OTHER)
    # The import is here because it loads an HTTP client, and many servers never receive an image.
    import imagesize

    # The search for the rotation is left out for AVIF: in a crafted file it can take minutes.
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
    """Return the brands in the first box of a file, read according to MIME Sniffing §6.2.1."""
    size = int.from_bytes(head[:4], "big")
    if size % 4 or not 16 <= size <= len(head):
        return set()
    return {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
