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
from fastchat.files.incoming import Incoming, IncomingFiles
from fastchat.metrics import Metrics
from fastchat.protocol import Chunk, Upload

__all__ = ["UploadCommands"]


class UploadCommands:
    """Runs the commands about files. `Client.incoming` is the file that a client announced last.

    * ``incoming_files``: takes the files; None if the server takes none.
    * ``max_chunk_bytes``: how much of a file one binary message can hold.
    """

    def __init__(
        self,
        incoming_files: IncomingFiles | None,
        delivery: Delivery,
        *,
        metrics: Metrics,
        max_chunk_bytes: int,
    ) -> None:
        self._incoming_files = incoming_files
        self._delivery = delivery
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes

    @property
    def max_file_bytes(self) -> int | None:
        """The size of the largest file; None if the server takes none."""
        return None if self._incoming_files is None else self._incoming_files.max_file_bytes

    async def announce(self, client: Client, command: Upload) -> None:
        """Reserve room for a file, and give the client its ticket."""
        room = client.room_of(command.room, Right.WRITE)
        if self._incoming_files is None:
            raise CommandError(ErrorCode.FORBIDDEN, "This server takes no files.")
        author = client.rooms[room].author
        before, client.incoming = client.incoming, None
        if before is not None:  # this file may need the room of the one before
            await before.give_up()
        incoming = await self._incoming_files.announce(
            client, client.address, room, author, command.name, command.size, command.ref
        )
        if client.gone:  # nobody will know the ticket
            await incoming.writer.abandon()
            return
        client.incoming = incoming
        ticket, chunk_bytes = incoming.writer.ticket, self._max_chunk_bytes
        payload = protocol.upload(room, ticket, chunk_bytes, ref=command.ref)
        reply(self._delivery, client, payload)

    def receive(self, client: Client, command: Chunk) -> Coroutine[Any, Any, None]:
        """Take the next bytes of a client's file. Raises Violation if it has announced none."""
        if client.incoming is None or self._incoming_files is None:
            raise Violation(CloseReason.UNEXPECTED_BINARY)
        return self._receive(client, client.incoming, command.data, self._incoming_files)

    async def _receive(
        self, client: Client, incoming: Incoming, data: bytes, incoming_files: IncomingFiles
    ) -> None:
        try:
            file = await incoming_files.take(incoming, data)
        finally:
            if client.incoming is incoming and not incoming.is_expected:
                client.incoming = None
        if file is not None:
            payload = protocol.file(file.described(), ref=incoming.ref)
            reply(self._delivery, client, payload)

    def leave(self, client: Client, room: str) -> None:
        """Give up a client's file if it is for a room that the client leaves."""
        if client.incoming is not None and client.incoming.room == room:
            self.give_up(client)

    def give_up(self, client: Client) -> None:
        """Keep nothing of a client's file that has not arrived completely."""
        incoming, client.incoming = client.incoming, None
        if incoming is not None and self._incoming_files is not None:
            self._incoming_files.give_up(incoming)

    def withdraw(self, room: str, author: str) -> None:
        """Withdraw the tickets of a user in a room: a ticket needs no connection."""
        if self._incoming_files is not None:
            self._incoming_files.withdraw(room, author)

    def sweep(self) -> None:
        """Give up files that have stalled, and tell their senders; once a second."""
        for incoming in () if self._incoming_files is None else self._incoming_files.sweep():
            refusal = CommandError(
                ErrorCode.UNAVAILABLE,
                "The upload stalled; send the file again.",
                temporary=True,
                ref=incoming.ref,
            )
            self._metrics.refusals[refusal.code] += 1
            reply(self._delivery, incoming.owner, protocol.error(refusal))
