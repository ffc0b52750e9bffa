"""The operation that stores a file, without a WebSocket and without a ticket."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message

from fastchat.api.requests import Answer, Field, Handler, Request, answer, bad_request, refusal
from fastchat.errors import CommandError, ErrorCode
from fastchat.files import File, Files, busy
from fastchat.limits.connections import ConnectionCount

__all__ = ["TransferHandlers"]

#: The longest name, in UTF-8, as in the protocol's `upload`.
MAX_NAME_BYTES = 1024


class TransferHandlers:
    """Stores files; `files` is None if the server takes none. `receiving` limits the uploads."""

    def __init__(self, files: Files | None, receiving: ConnectionCount) -> None:
        self._files = files
        self._receiving = receiving

    def handlers(self) -> Mapping[str, Handler]:
        return {"uploadFile": self._upload}

    async def _upload(self, request: Request) -> Answer:
        if self._files is None:
            raise CommandError(ErrorCode.FORBIDDEN, "This server takes no files.")
        room, name = request.room(), _name(request)
        size = request.header(b"content-length")
        if not size or size == "0":
            raise bad_request("The request has no body. Send the file.")
        if request.header(b"content-encoding") not in (None, "identity"):
            raise bad_request("Send the file without a Content-Encoding.")
        address = request.context.address
        if self._receiving.enter(address) is not None:
            raise refusal(busy(), ends=True)
        try:
            file = await self._store(self._files, request, room, name, int(size))
        except CommandError as error:
            raise refusal(error, ends=True) from None  # the rest of the file may be on its way
        finally:
            self._receiving.leave(address, "")
        return answer(file.described(), 201)

    async def _store(self, files: Files, request: Request, room: str, name: str, size: int) -> File:
        writer = await files.reserve(room, request.key.speaker.user, name, size)
        try:
            async for data in request.chunks():
                await writer.write(data)
            return await writer.finish()
        finally:
            await writer.abandon()


def _name(request: Request) -> str:
    """The name of the file: the parameter `name`, or that of Content-Disposition (RFC 6266)."""
    name: str | None = request.query(Field("name")).get("name")
    if name is None and (disposition := request.header(b"content-disposition")) is not None:
        parsed = Message()
        parsed["content-disposition"] = disposition
        name = parsed.get_filename()
    # Names in headers can have bytes that are not UTF-8, which are surrogates here.
    if not name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise bad_request(
            f"The file needs a name of at most {MAX_NAME_BYTES:,} bytes. Send it as the parameter "
            "`name`, or in Content-Disposition."
        )
    return name.encode("utf-8", "replace").decode()
