"""The commands about files: `upload` announces a file, and binary messages contain its bytes.

`fastchat.files.incoming` receives the bytes.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fastchat import protocol
from fastchat.chat.client import ChatHub, Client, reply
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.files.incoming import Incoming, IncomingFiles
from fastchat.metrics import Metrics
from fastchat.protocol import Chunk, Upload

__all__ = ["UploadCommands"]


class UploadCommands:
    """Runs the commands about files, and sends the results to the clients.

    `Client.incoming` is the file that a client announced last.

    * ``incoming_files``: receives the files; None if the server accepts no files.
    * ``max_chunk_bytes``: the largest size of a binary message.
    """

    def __init__(
        self,
        incoming_files: IncomingFiles | None,
        hub: ChatHub,
        *,
        metrics: Metrics,
        max_chunk_bytes: int,
    ) -> None:
        self._incoming_files = incoming_files
        self._hub = hub
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes

    @property
    def max_file_bytes(self) -> int | None:
        """The size of the largest file; None if the server accepts no files."""
        return None if self._incoming_files is None else self._incoming_files.max_file_bytes

    async def announce(self, client: Client, command: Upload) -> None:
        """Announce a file, and send its ticket to the client.

        The client's previous file is given up if it has started. Raises CommandError if the client
        may not write in the room, or if the file cannot be announced.
        """
        room, _, user, _ = client.writer_in(command.room)
        if self._incoming_files is None:
            raise CommandError(ErrorCode.FORBIDDEN, "This server does not accept files.")
        before, client.incoming = client.incoming, None
        if before is not None:  # first, because both count against one quota
            await before.give_up()
        incoming = await self._incoming_files.announce(
            client, client.address, room, user, command.name, command.size, command.ref
        )
        if client.gone:  # no client receives the ticket
            await incoming.writer.abandon()
            return
        client.incoming = incoming
        ticket, chunk_bytes = incoming.writer.ticket, self._max_chunk_bytes
        payload = protocol.upload(room, ticket, chunk_bytes, ref=command.ref)
        reply(self._hub, client, payload)

    def receive(self, client: Client, command: Chunk) -> Coroutine[Any, Any, None]:
        """Take the next bytes of the file that a client announced last.

        Raises Violation if no bytes are expected: the client has announced no file, or has sent all
        of its bytes.
        """
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
            reply(self._hub, client, payload)

    def leave(self, client: Client, room: str) -> None:
        """Give up a client's file if it is for `room`, which the client leaves."""
        if client.incoming is not None and client.incoming.room == room:
            self.give_up(client)

    def give_up(self, client: Client) -> None:
        """Give up a client's file that has started and is incomplete.

        The ticket of a file that has not started stays valid.
        """
        incoming, client.incoming = client.incoming, None
        if incoming is not None and self._incoming_files is not None:
            self._incoming_files.give_up(incoming)

    def withdraw(self, room: str, user: str) -> None:
        """End the tickets of a user in a room.

        A ticket can be used without a connection, so it does not end with the user's connections.
        """
        if self._incoming_files is not None:
            self._incoming_files.withdraw(room, user)

    def sweep(self) -> None:
        """Give up files that have stalled, and inform their senders; called every second."""
        for incoming in () if self._incoming_files is None else self._incoming_files.sweep():
            refusal = CommandError(
                ErrorCode.UNAVAILABLE,
                "The upload stalled. Send the file again.",
                temporary=True,
                ref=incoming.ref,
            )
            self._metrics.refusals[refusal.code] += 1
            reply(self._hub, incoming.owner, protocol.error(refusal))
