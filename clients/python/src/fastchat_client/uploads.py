"""Files on their way to the server, in binary messages on the chat's connection."""

from __future__ import annotations

import asyncio
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fastchat_client.commands import Commands, reply_to
from fastchat_client.errors import Refused
from fastchat_client.events import File, file_of
from fastchat_client.link import Link

__all__ = ["Source", "Upload", "open_source"]

#: A file to send: its path, or a pair of a name and the content.
Source = str | os.PathLike[str] | tuple[str, bytes]


def open_source(source: Source) -> tuple[str, int, BinaryIO]:
    """Open a file; returns its name, its size in bytes, and the file.

    Raises OSError if it cannot be read, and Refused if it is not a regular file.
    """
    if isinstance(source, tuple):
        name, content = source
        return name, len(content), io.BytesIO(content)
    path = Path(source).expanduser()
    if path.exists() and not path.is_file():  # to open a pipe could wait for ever
        raise Refused("bad_command", f"{path.name}: it is not a regular file.")
    file = path.open("rb")
    status = os.fstat(file.fileno())
    assert stat.S_ISREG(status.st_mode)
    return path.name, status.st_size, file


class Upload:
    """An open file, which can be sent several times."""

    def __init__(self, name: str, size: int, file: BinaryIO) -> None:
        self._name = name
        self._size = size
        self._file = file

    @classmethod
    async def open(cls, source: Source, max_bytes: int) -> Upload:
        """Open a file. Raises OSError if it cannot be read, and Refused if it cannot be sent."""
        upload = cls(*await asyncio.to_thread(open_source, source))
        try:
            upload._check(max_bytes)
        except Refused:
            upload.close()
            raise
        return upload

    def _check(self, max_bytes: int) -> None:
        if not max_bytes:
            raise Refused("forbidden", f"{self._name}: the server accepts no files.")
        if self._size > max_bytes:
            bound = f"the server accepts files of at most {max_bytes:,} bytes"
            raise Refused("too_long", f"{self._name}: {bound}.")
        if not self._size:
            rule = "the size must be a whole number from 1"
            raise Refused("bad_command", f"{self._name}: the file is empty, and {rule}.")

    async def send(self, link: Link, room: str, commands: Commands, ref: str) -> File:
        """Send the file on a connection that is in the room. `ref` is that of the command.

        Raises LinkLost, Refused, and OSError if the file became shorter.
        """
        announcement = {"type": "upload", "room": room, "name": self._name, "size": self._size}
        with commands.replies(ref) as replies:
            await link.send({**announcement, "ref": ref})
            granted = await reply_to(link, replies)
            await asyncio.to_thread(self._file.seek, 0)
            left = self._size
            while left and replies.empty():  # a reply before the end is an error
                data = await asyncio.to_thread(self._file.read, min(left, granted["chunk_bytes"]))
                if not data:
                    link.abort()  # the server waits for bytes that do not exist
                    raise OSError(f"{self._name} became shorter while it was sent.")
                await link.send_bytes(data)
                left -= len(data)
            return file_of(await reply_to(link, replies), self._name, self._size)

    def close(self) -> None:
        self._file.close()
