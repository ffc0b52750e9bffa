"""The transports of the HTTP API on httpx: one for asyncio, and one that blocks."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from fastchat_client.address import is_loopback
from fastchat_client.errors import Closed, Disconnected
from fastchat_client.requests import Body, Lost, Reply, Request, SharedFile
from fastchat_client.uploads import Source, open_source

__all__ = ["AsyncTransport", "BlockingTransport"]

#: A file is sent in pieces of this size.
PIECE_BYTES = 256 * 1024


class _Settings:
    """What both transports tell httpx. It has the key, so it has no representation."""

    def __init__(self, url: str, key: str, timeout: float, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._key = key
        self._timeout = timeout
        self._verify: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            # The certificates that the system trusts, as for `Chat`; httpx has its own.
            self._verify = ssl.create_default_context() if tls is None else tls

    def client(self) -> dict[str, Any]:
        return {
            "headers": {"authorization": f"Bearer {self._key}"},
            "timeout": self._timeout,
            "verify": self._verify,
            "trust_env": not is_loopback(self._url),
            "follow_redirects": False,
        }

    def request(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self._url + request.path,
            "params": dict(request.params) or None,
            "headers": dict(request.headers),
        }
        if request.json is not None:
            arguments["json"] = dict(request.json)
        if request.file is not None:
            arguments["headers"]["content-length"] = str(request.file.size)
        if request.timeout is not None:
            arguments["timeout"] = httpx.Timeout(self._timeout, read=request.timeout)
        return arguments


class AsyncTransport:
    """Sends requests in an event loop."""

    def __init__(self, url: str, key: str, timeout: float, tls: ssl.SSLContext | None) -> None:
        self._settings = _Settings(url, key, timeout, tls)
        self._client = httpx.AsyncClient(**self._settings.client())

    async def open(self, request: Request) -> Body:
        if self._client.is_closed:
            raise _closed()
        arguments = self._settings.request(request)
        if request.file is not None:
            arguments["content"] = self._pieces(request.file)
        with _translated():
            built = self._client.build_request(**arguments)
            return _AsyncBody(await self._client.send(built, stream=True))

    async def open_file(self, source: Source) -> SharedFile:
        return SharedFile(*await asyncio.to_thread(open_source, source))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        await self._client.aclose()

    async def _pieces(self, shared: SharedFile) -> AsyncIterator[bytes]:
        pieces = _pieces(shared)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


class _AsyncBody:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._pieces = response.aiter_bytes()

    async def read(self) -> Reply:
        with _translated():
            return Reply(self.status, self.headers, await self._response.aread())

    async def next(self) -> bytes | None:
        with _translated():
            return await anext(self._pieces, None)

    async def close(self) -> None:
        await self._response.aclose()


class BlockingTransport:
    """Sends requests from any thread; none of its coroutines suspends.

    Each process has connections of its own, so a program can fork after its first request.
    """

    def __init__(self, url: str, key: str, timeout: float, tls: ssl.SSLContext | None) -> None:
        self._settings = _Settings(url, key, timeout, tls)
        self._lock = threading.Lock()
        #: By the ids of processes. Clients of the parent are kept, because to free one would end
        #: the parent's connections.
        self._clients: dict[int, httpx.Client] = {}
        self._is_closed = False

    async def open(self, request: Request) -> Body:
        client = self._client()
        arguments = self._settings.request(request)
        if request.file is not None:
            arguments["content"] = _pieces(request.file)
        with _translated():
            return _BlockingBody(client.send(client.build_request(**arguments), stream=True))

    async def open_file(self, source: Source) -> SharedFile:
        return SharedFile(*open_source(source))

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop

    async def close(self) -> None:
        self._is_closed = True
        if (client := self._clients.get(os.getpid())) is not None:
            client.close()

    def _client(self) -> httpx.Client:
        if self._is_closed:
            raise _closed()
        process = os.getpid()
        if (client := self._clients.get(process)) is None:
            with self._lock:
                client = self._clients.get(process)
                if client is None:
                    client = self._clients[process] = httpx.Client(**self._settings.client())
        return client


class _BlockingBody:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._pieces = response.iter_bytes()

    async def read(self) -> Reply:
        with _translated():
            return Reply(self.status, self.headers, self._response.read())

    async def next(self) -> bytes | None:
        with _translated():
            return next(self._pieces, None)

    async def close(self) -> None:
        self._response.close()


def _pieces(shared: SharedFile) -> Iterator[bytes]:
    """The content of a file, from its beginning. Raises OSError if the file became shorter."""
    shared.file.seek(0)
    left = shared.size
    while left:
        data = shared.file.read(min(left, PIECE_BYTES))
        if not data:
            raise OSError(f"{shared.name} became shorter while it was sent.")
        left -= len(data)
        yield data


def _closed() -> Closed:
    return Closed("The API was closed.")


@contextmanager
def _translated() -> Iterator[None]:
    """Raise Lost in place of errors of httpx."""
    try:
        yield
    except httpx.TimeoutException as error:
        was_sent = not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        late = Disconnected("The server did not answer in time.", code="timeout")
        raise Lost(late, was_sent=was_sent) from None
    except httpx.RequestError as error:
        was_sent = not isinstance(error, httpx.ConnectError | httpx.ProxyError)
        reason = f"There was no answer: {error or type(error).__name__}"
        is_final = _is_of_certificate(error)
        lost = Disconnected(
            reason.removesuffix(".") + ".",
            code="unreachable" if is_final else "disconnected",
            temporary=not is_final,
        )
        raise Lost(lost, was_sent=was_sent) from None


def _is_of_certificate(error: BaseException | None) -> bool:
    """Whether an error comes from a certificate that is not trusted."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
