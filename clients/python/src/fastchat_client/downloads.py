"""Shared files, read from the server over HTTP."""

from __future__ import annotations

import ssl

from fastchat_client.errors import Disconnected, Refused

__all__ = ["MAX_DOWNLOAD_BYTES", "download"]

#: The largest file that is read if the caller names no limit. The server's own default for shared
#: files is 25 MiB.
MAX_DOWNLOAD_BYTES = 64 * 1024 * 1024
#: The longest wait for the connection, and for each piece of the file, in seconds.
TIMEOUT_S = 15.0


async def download(
    origin: str, link: str, max_bytes: int, tls: ssl.SSLContext | None = None
) -> bytes:
    """Read a shared file of a server. `Chat.download` says what it raises."""
    # A text can name any address; only links of the server itself are read.
    if not link.startswith("/files/"):
        raise ValueError(f"{link!r} is not the link of a shared file.")
    import httpx  # a tenth of a second, for programs that read no file

    content = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, verify=True if tls is None else tls) as client,
            client.stream("GET", origin + link) as answer,
        ):
            if answer.status_code in (404, 410):
                raise Refused("not_found", "The file does not exist any more.")
            if answer.status_code != 200:
                raise Disconnected(f"The answer has the HTTP status {answer.status_code}.")
            async for piece in answer.aiter_raw():
                content += piece
                if len(content) > max_bytes:
                    raise Refused("too_long", f"The file has more than {max_bytes:,} bytes.")
    except httpx.HTTPError as error:
        raise Disconnected(f"The file could not be read: {error}.") from None
    return bytes(content)
