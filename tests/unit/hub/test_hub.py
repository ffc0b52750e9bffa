"""`fastchat.Hub`: the hub as a library, without the chat server."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest

import fastchat
from fastchat.hub import DEFAULT_ROOM, Connection, Hub
from support.hub import (
    BINARY,
    CLOSE,
    LIMIT_S,
    TEXT,
    Frame,
    Rig,
    Sink,
    close_payload,
    on_loop,
    turn,
)

TYPES = Path(__file__).parents[3] / "src" / "fastchat" / "_fanout.pyi"
#: The attributes of connections that the class describes.
ATTRIBUTES = ("transport", "owner", "blocked")


def test_package_exports_the_hub() -> None:
    """`fastchat.Hub` is the public class of the compiled hub, and `Connection` of its members."""
    assert fastchat.Hub is Hub
    assert fastchat.Connection is Connection
    assert DEFAULT_ROOM == "lobby"


def test_import_loads_only_the_hub() -> None:
    """`import fastchat.hub` imports neither asyncio nor logging nor orjson."""
    code = (
        "import sys; before = set(sys.modules); import fastchat.hub;"
        "print(*(set(sys.modules) - before))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    assert "fastchat.hub" in printed
    assert not {"asyncio", "logging", "orjson", "typing"} & set(printed)


@pytest.mark.parametrize("public", [fastchat.Hub, fastchat.Connection])
def test_help_describes_every_method(public: type) -> None:
    """`help()` has a description of each public method and property."""
    for name in dir(public):
        if not name.startswith("_") and name not in ATTRIBUTES:
            assert len(getattr(public, name).__doc__ or "") > 40, name


def test_help_describes_every_argument() -> None:
    """The class describes the arguments that its types list, and the attributes of connections."""
    types = ast.parse(TYPES.read_text())
    classes = {each.name: each for each in types.body if isinstance(each, ast.ClassDef)}
    init = next(each for each in classes["Hub"].body if getattr(each, "name", "") == "__init__")
    assert isinstance(init, ast.FunctionDef)
    for argument in init.args.kwonlyargs:
        assert f"* ``{argument.arg}`` (" in (fastchat.Hub.__doc__ or "")
    for name in ATTRIBUTES:
        assert f"* ``{name}``: " in (fastchat.Connection.__doc__ or "")


@on_loop
async def test_registered_transports_get_every_broadcast() -> None:
    """Binary, text and JSON messages reach every transport in the default room, in order."""
    async with Rig() as rig:
        clients = [await rig.connect(attach=False) for _ in range(3)]
        for client in clients:
            client.served.conn = rig.hub.register(client.transport)
        rig.hub.broadcast(b"\x00\xff")
        rig.hub.broadcast_text("grüße")
        rig.hub.broadcast_text(b"utf-8 already")
        rig.hub.broadcast_json({"hello": ["everyone", 1]})
        for client in clients:
            assert await client.frames(4) == [
                Frame(BINARY, b"\x00\xff"),
                Frame(TEXT, "grüße".encode()),
                Frame(TEXT, b"utf-8 already"),
                Frame(TEXT, b'{"hello":["everyone",1]}'),
            ]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@on_loop
async def test_broadcast_copies_any_buffer(kind: type) -> None:
    """The caller can change a buffer as soon as broadcast() has returned."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink)
        data = bytearray(b"original")
        rig.hub.broadcast(kind(data))
        data[:] = b"mutation"
        await turn()
        assert sink.frames() == [Frame(BINARY, b"original")]


@on_loop
async def test_broadcast_reaches_only_its_room() -> None:
    """A broadcast reaches one room and no other; a transport can be in several rooms."""
    async with Rig() as rig:
        both, one = Sink(), Sink()
        conn = rig.hub.register(both, "a")
        assert rig.hub.register(both, "b") is conn
        assert rig.hub.register(both, "b") is conn  # a second time changes nothing
        rig.hub.register(one, "b")
        rig.hub.broadcast_text("for a", "a")
        rig.hub.broadcast_text("for b", "b")
        rig.hub.broadcast_text("for nobody", "c")
        rig.hub.broadcast_text("for nobody")
        await turn()
        assert sorted(both.payloads()) == [b"for a", b"for b"]
        assert one.payloads() == [b"for b"]
        assert conn is not None
        assert sorted(conn.rooms) == ["a", "b"]


@on_loop
async def test_transport_leaves_one_room_or_the_hub() -> None:
    """A transport that leaves a room gets its earlier broadcasts; one that leaves the hub gets
    nothing more."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink, "a")
        rig.hub.register(sink, "b")
        rig.hub.broadcast_text("before", "a")
        rig.hub.unregister(sink, "a")
        rig.hub.broadcast_text("after", "a")
        rig.hub.broadcast_text("still", "b")
        await turn()
        assert sink.payloads() == [b"before", b"still"]
        rig.hub.broadcast_text("dropped", "b")
        rig.hub.unregister(sink)
        await turn()
        assert sink.payloads() == [b"before", b"still"]


@on_loop
async def test_client_count_covers_connections_and_members() -> None:
    """Connections are counted once, members by room, and unregistered ones not at all."""
    async with Rig() as rig:
        first, second = Sink(), Sink()
        for sink, room in ((first, "a"), (first, "b"), (second, "b")):
            rig.hub.register(sink, room)
        assert rig.hub.client_count() == 2
        assert [rig.hub.client_count(room) for room in ("a", "b", "c")] == [1, 2, 0]
        rig.hub.unregister(first)
        assert rig.hub.client_count() == 1
        assert [rig.hub.client_count(room) for room in ("a", "b")] == [0, 1]


@on_loop
async def test_lost_connection_is_unregistered() -> None:
    """A client that disconnects is unregistered from connection_lost; the others stay."""
    async with Rig() as rig:
        gone, stays = await rig.connect("lobby"), await rig.connect("lobby")
        gone.sock.close()
        await gone.served.lost
        rig.hub.verify()
        assert rig.hub.client_count("lobby") == 1
        rig.hub.broadcast_text("hello")
        assert await stays.payloads(1) == [b"hello"]


@on_loop
async def test_registering_a_closing_transport_is_refused() -> None:
    """A transport that is closing already is refused, and the hub stores nothing about it."""
    async with Rig() as rig:
        sink = Sink()
        sink.abort()
        with pytest.raises(RuntimeError, match="closing"):
            rig.hub.register(sink)
        assert rig.hub.client_count() == 0
        assert rig.hub.stats()["rooms"] == 0


@on_loop
async def test_value_that_cannot_be_encoded_is_not_sent() -> None:
    """broadcast_json() with a value that cannot be encoded raises TypeError and sends nothing."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink)
        with pytest.raises(TypeError):
            rig.hub.broadcast_json({1, 2})
        await turn()
        assert sink.written == []


@on_loop
async def test_close_sends_code_and_reason_and_refuses_later_calls() -> None:
    """close() sends the pending messages, then the code and reason; later calls are refused."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        rig.hub.broadcast_json("last words")
        rig.hub.close(1012, "service restart")
        expected = [
            Frame(TEXT, b'"last words"'),
            Frame(CLOSE, close_payload(1012, "service restart")),
        ]
        assert await client.to_close() == expected
        for call in (
            lambda: rig.hub.broadcast_json("too late"),
            lambda: rig.hub.register(Sink()),
        ):
            with pytest.raises(RuntimeError, match="the hub is closed"):
                call()
        rig.hub.unregister(client.transport)  # as in connection_lost
        assert rig.hub.client_count() == 0


@on_loop
async def test_concurrent_threads_broadcast_in_order() -> None:
    """Several threads broadcast at once, and each thread's messages arrive complete and in
    order."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        count, threads = 200, 4

        def broadcast_all(who: int) -> None:
            for i in range(count):
                rig.hub.broadcast_json([who, i])

        running = [threading.Thread(target=broadcast_all, args=(who,)) for who in range(threads)]
        for thread in running:
            thread.start()
        arrived = [orjson.loads(payload) for payload in await client.payloads(count * threads)]
        for thread in running:
            await asyncio.to_thread(thread.join, LIMIT_S)
        for who in range(threads):
            assert [i for other, i in arrived if other == who] == list(range(count))


@on_loop
async def test_calls_of_one_thread_take_effect_in_order() -> None:
    """Registrations and broadcasts of one thread take effect in the order of its calls."""
    async with Rig() as rig:
        sink = Sink()

        def elsewhere() -> None:
            rig.hub.register(sink, "room")
            rig.hub.broadcast_text("heard", "room")
            rig.hub.unregister(sink, "room")
            rig.hub.broadcast_text("not heard", "room")

        await asyncio.to_thread(elsewhere)
        await turn(3)
        assert sink.payloads() == [b"heard"]
        assert rig.hub.client_count("room") == 0
