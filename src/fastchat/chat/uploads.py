"""The commands about files: who may share one, and what its sender hears of it.

Where the bytes go is said by `fastchat.files.incoming`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fastchat import protocol
from fastchat.auth import Right
from fastchat.chat.client import Client, Delivery, reply
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.files.incoming import Incoming, Uploads
from fastchat.metrics import Metrics
from fastchat.protocol import Chunk, Upload

__all__ = ["UploadCommands"]


class UploadCommands:
    """Runs the commands about files. `Client.upload` is the file that a client announced last.

    * ``uploads``: takes the files; None if the server takes none.
    * ``max_chunk_bytes``: how much of a file one binary message can hold.
    """

    def __init__(
        self,
        uploads: Uploads | None,
        delivery: Delivery,
        *,
        metrics: Metrics,
        max_chunk_bytes: int,
    ) -> None:
        self._uploads = uploads
        self._delivery = delivery
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes

    @property
    def max_file_bytes(self) -> int | None:
        """The size of the largest file; None if the server takes none."""
        return None if self._uploads is None else self._uploads.max_file_bytes

    async def announce(self, client: Client, command: Upload) -> None:
        """Reserve room for a file, and give the client its ticket."""
        room = client.room_of(command.room, Right.WRITE)
        if self._uploads is None:
            raise CommandError(ErrorCode.FORBIDDEN, "This server takes no files.")
        author = client.rooms[room].author
        before, client.upload = client.upload, None
        if before is not None:  # this file may need the room of the one before
            await before.give_up()
        incoming = await self._uploads.announce(
            client, client.address, room, author, command.name, command.size, command.ref
        )
        if client.gone:  # nobody will know the ticket
            await incoming.writer.abandon()
            return
        client.upload = incoming
        ticket, chunk_bytes = incoming.writer.ticket, self._max_chunk_bytes
        payload = protocol.upload(room, ticket, chunk_bytes, ref=command.ref)
        reply(self._delivery, client, payload)

    def receive(self, client: Client, command: Chunk) -> Coroutine[Any, Any, None]:
        """Take the next bytes of a client's file. Raises Violation if it has announced none."""
        if client.upload is None or self._uploads is None:
            raise Violation(CloseReason.UNEXPECTED_BINARY)
        return self._receive(client, client.upload, command.data, self._uploads)

    async def _receive(
        self, client: Client, incoming: Incoming, data: bytes, uploads: Uploads
    ) -> None:
        try:
            file = await uploads.take(incoming, data)
        finally:
            if client.upload is incoming and not incoming.is_expected:
                client.upload = None
        if file is not None:
            payload = protocol.file(file.described(), ref=incoming.ref)
            reply(self._delivery, client, payload)

    def leave(self, client: Client, room: str) -> None:
        """Give up a client's file if it is for a room that the client leaves."""
        if client.upload is not None and client.upload.writer.room == room:
            self.give_up(client)

    def give_up(self, client: Client) -> None:
        """Keep nothing of a client's file that has not arrived completely."""
        incoming, client.upload = client.upload, None
        if incoming is not None and self._uploads is not None:
            self._uploads.give_up(incoming)

    def withdraw(self, room: str, author: str) -> None:
        """Withdraw the tickets of a user in a room: a ticket needs no connection."""
        if self._uploads is not None:
            self._uploads.withdraw(room, author)

    def sweep(self) -> None:
        """Give up files that have stalled, and tell their senders; once a second."""
        for incoming in () if self._uploads is None else self._uploads.sweep():
            refusal = CommandError(
                ErrorCode.UNAVAILABLE,
                "The upload stalled; send the file again.",
                temporary=True,
                ref=incoming.ref,
            )
            self._metrics.refusals[refusal.code] += 1
            reply(self._delivery, incoming.owner, protocol.error(refusal))
