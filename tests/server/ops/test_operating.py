"""Operations of an operator over the socket in the data directory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastchat.brokers.relay.records import AskStatus, Operate
from fastchat.brokers.relay.wire import SOCKET_NAME
from fastchat.errors import CommandError, ErrorCode
from fastchat.ops.status import NotAnswering, StatusServer, ask, operate
from support.raw_websocket import connected
from support.server import TIMEOUT_UNIT_S, running_server

LIMIT_S = 5 * TIMEOUT_UNIT_S


@contextlib.asynccontextmanager
async def answering(
    directory: Path, run: Callable[[str, Mapping[str, Any]], Awaitable[Any]], **bounds: Any
) -> AsyncIterator[None]:
    server = StatusServer(directory, dict, run, **bounds)
    await server.open()
    try:
        yield
    finally:
        server.close()


def test_result_and_refusal_come_back(tmp_path: Path) -> None:
    """The caller gets the result, or the refusal as it is; an internal error tells nothing."""

    async def run(verb: str, arguments: Mapping[str, Any]) -> Any:
        if verb == "refuse":
            raise CommandError(ErrorCode.NOT_FOUND, "No.", retry_after_ms=5)
        if verb == "fail":
            raise ZeroDivisionError
        return {"verb": verb, "arguments": dict(arguments)}

    async def test() -> None:
        async with answering(tmp_path, run):
            result = await operate(tmp_path, "ban", {"user": "u_1", "seconds": 5}, LIMIT_S)
            assert result == {"verb": "ban", "arguments": {"user": "u_1", "seconds": 5}}
            with pytest.raises(CommandError) as caught:
                await operate(tmp_path, "refuse", {}, LIMIT_S)
            assert (caught.value.code, caught.value.message) == (ErrorCode.NOT_FOUND, "No.")
            assert caught.value.retry_after_ms == 5
            with pytest.raises(NotAnswering, match="cannot be asked"):
                await operate(tmp_path, "fail", {}, LIMIT_S)
            assert await ask(tmp_path, LIMIT_S) == {"server": {}}

    asyncio.run(test())


def test_operation_can_take_longer_than_a_silence(tmp_path: Path) -> None:
    """The deadline for the next request begins with the answer."""

    async def run(verb: str, arguments: Mapping[str, Any]) -> Any:
        await asyncio.sleep(0.3)
        return "done"

    async def test() -> None:
        async with answering(tmp_path, run, silence_s=0.1):
            assert await operate(tmp_path, "erase", {}, LIMIT_S) == "done"

    asyncio.run(test())


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 64,
        b"\xff" * 64,
        Operate("a", {}).encode() * 2,
        Operate("a", {}).encode() + AskStatus().encode(),
        Operate("a", {"text": "x" * 300_000}).encode(),
    ],
    ids=["zeros", "ones", "two", "status", "long"],
)
def test_client_that_sends_anything_else_is_dropped(tmp_path: Path, said: bytes) -> None:
    """Others are answered nevertheless."""

    async def run(verb: str, arguments: Mapping[str, Any]) -> Any:
        await asyncio.sleep(LIMIT_S)

    async def test() -> None:
        async with answering(tmp_path, run), asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET_NAME))
            with contextlib.closing(writer), contextlib.suppress(ConnectionError):
                writer.write(said)
                assert await reader.read() == b""
            assert await ask(tmp_path, LIMIT_S) == {"server": {}}

    asyncio.run(test())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_operator_moderates_a_running_server(tmp_path: Path, workers: str) -> None:
    """An operator publishes, sets options, bans and finds users, with one process and several."""

    def run(verb: str, **arguments: Any) -> Any:
        return asyncio.run(operate(tmp_path / "data", verb, arguments, LIMIT_S))

    flags = ("--data", str(tmp_path / "data"), "--workers", workers)
    with (
        running_server(*flags) as server,
        connected(server.port, "/ws?room=lobby&username=Bob") as bob,
    ):
        joined = bob.receive_type("joined")
        sent = run("publish", room="lobby", text="Maintenance at noon.", id="1")
        assert (sent["offset"], sent["is_repeated"]) == (1, False)
        assert run("publish", room="lobby", text="again", id="1")["is_repeated"]
        message = bob.receive_type("message")
        assert (message["user"], message["username"]) == ("o_", "operator")
        assert run("set", room="lobby", changes={"topic": "News"})["topic"] == "News"
        assert bob.receive_type("room")["options"] == {"topic": "News"}
        assert [each["username"] for each in run("users", room="lobby")] == ["Bob"]
        assert [each["room"] for each in run("find", user=joined["user"])] == ["lobby"]
        assert run("ban", user=joined["user"], seconds=60) is None
        bob.receive_end()
        assert [each["user"] for each in run("bans")] == [joined["user"]]
        assert run("unban", user=joined["user"]) is True
        assert run("erase", user="o_") == {"messages": 1, "reactions": 0}
        assert [each["room"] for each in run("rooms")] == ["lobby"]
        assert run("delete", room="lobby") is True
        with pytest.raises(CommandError, match="There is no operation `shout`"):
            run("shout")
