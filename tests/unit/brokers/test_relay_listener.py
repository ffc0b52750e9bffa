"""The socket in the data directory: a file that is removed or replaced while a process listens."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop

from fastchat.brokers.relay.listener import UnixListener
from fastchat.brokers.relay.wire import SOCKET_NAME
from support.server import TIMEOUT_UNIT_S

LIMIT_S = 10 * TIMEOUT_UNIT_S


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


@contextlib.asynccontextmanager
async def listening(directory: Path) -> AsyncIterator[UnixListener]:
    listener = UnixListener(directory, Echo)
    await listener.open()
    try:
        async with asyncio.timeout(LIMIT_S):
            yield listener
    finally:
        listener.close()
        await asyncio.sleep(0.02)  # the connections' other ends are closed


@contextlib.asynccontextmanager
async def connection(
    directory: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET_NAME))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"hello")
    return await reader.readexactly(5) == b"hello"


async def check(listener: UnixListener) -> None:
    """Check the socket, and wait until it is bound again if it has to be."""
    listener.check()
    if listener._binding is not None:
        await listener._binding


Run = Callable[..., None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_in_loop(test: object) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(test)  # type: ignore[arg-type]

    return run_in_loop


def remove(path: Path) -> None:
    path.unlink()


def replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("something else")


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


@pytest.mark.parametrize("happens", [remove, replace_by_file, rename])
def test_socket_that_is_gone_is_bound_again(
    happens: Callable[[Path], None], run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """New connections are possible, those that exist go on, and the log says so once."""

    async def test() -> None:
        async with listening(tmp_path) as listener, connection(tmp_path) as old:
            assert await echoes(*old)
            for _ in range(3):
                await check(listener)
            assert caplog.messages == []
            happens(tmp_path / SOCKET_NAME)
            for _ in range(3):
                await check(listener)
            assert caplog.messages == [f"{tmp_path / SOCKET_NAME} was gone, and was created again"]
            async with connection(tmp_path) as new:
                assert await echoes(*new)
            assert await echoes(*old)
            assert os.stat(tmp_path / SOCKET_NAME).st_mode & 0o777 == 0o600
        assert not (tmp_path / SOCKET_NAME).exists()

    run(test())


def test_socket_is_bound_again_every_time(run: Run, tmp_path: Path) -> None:
    """A second removal is noticed like the first, and no descriptor is left behind."""

    async def test() -> None:
        async with listening(tmp_path) as listener:
            counts = []
            for _ in range(5):
                (tmp_path / SOCKET_NAME).unlink()
                await check(listener)
                async with connection(tmp_path) as new:
                    assert await echoes(*new)
                await asyncio.sleep(0.01)
                counts.append(len(os.listdir("/proc/self/fd")))
            assert counts[-1] <= counts[0]

    run(test())


def test_directory_that_is_gone_is_told_once(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the directory is missing, each check tries again; a new directory gets a socket."""
    directory = tmp_path / "data"
    directory.mkdir()

    async def test() -> None:
        async with listening(directory) as listener:
            shutil.rmtree(directory)
            for _ in range(3):
                await check(listener)
            (message,) = caplog.messages
            assert "cannot be created again" in message
            assert "No such file or directory" in message
            directory.mkdir()
            await check(listener)
            assert "was created again" in caplog.messages[-1]
            async with connection(directory) as new:
                assert await echoes(*new)

    run(test())


def test_directory_that_comes_back_is_told(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory that is moved away and back has its socket again, which is still in use."""
    directory, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    directory.mkdir()

    async def test() -> None:
        async with listening(directory) as listener:
            directory.rename(elsewhere)
            await check(listener)
            elsewhere.rename(directory)
            for _ in range(2):
                await check(listener)
            assert caplog.messages[1:] == [f"{directory / SOCKET_NAME} is back"]
            async with connection(directory) as new:
                assert await echoes(*new)

    run(test())


def test_socket_in_use_is_not_taken(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process never takes a socket on which another one accepts connections, neither at its
    start nor later."""

    async def test() -> None:
        async with listening(tmp_path) as first:
            with pytest.raises(OSError, match="in use") as caught:
                await UnixListener(tmp_path, Echo).open()
            assert caught.value.errno == errno.EADDRINUSE
            (tmp_path / SOCKET_NAME).unlink()
            async with listening(tmp_path):
                await check(first)
                assert "Address already in use" in caplog.text
                async with connection(tmp_path) as new:
                    assert await echoes(*new)
                first.close()
                assert (tmp_path / SOCKET_NAME).is_socket()  # the second one's

    run(test())


def test_socket_without_an_owner_is_replaced(run: Run, tmp_path: Path) -> None:
    """The socket of a killed process is replaced at the start."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / SOCKET_NAME))
        stale.listen()

    async def test() -> None:
        async with listening(tmp_path), connection(tmp_path) as new:
            assert await echoes(*new)

    run(test())


def test_listener_that_is_not_open_checks_nothing(run: Run, tmp_path: Path) -> None:
    """A listener that could not be opened, or is closed, creates no socket."""

    async def test() -> None:
        listener = UnixListener(tmp_path, Echo)
        await check(listener)
        await listener.open()
        listener.close()
        await check(listener)
        assert not (tmp_path / SOCKET_NAME).exists()

    run(test())
