"""`fastchat.Hub`: the hub as a library, without the chat server."""

from __future__ import annotations

import asyncio
import threading

import orjson
import pytest

import fastchat
from fastchat.hub import DEFAULT_ROOM, Hub
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


def test_hub_is_what_the_package_offers() -> None:
    """`fastchat.Hub` is the library face of the compiled hub."""
    assert fastchat.Hub is Hub
    assert DEFAULT_ROOM == "lobby"


@on_loop
async def test_registered_transports_get_every_broadcast() -> None:
    """Binary, text and JSON arrive as such, in order, at everybody in the default room."""
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
    """A buffer may be changed as soon as broadcast() has returned."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink)
        data = bytearray(b"original")
        rig.hub.broadcast(kind(data))
        data[:] = b"mutation"
        await turn()
        assert sink.frames() == [Frame(BINARY, b"original")]


@on_loop
async def test_rooms_are_apart() -> None:
    """A broadcast reaches its room and no other; a transport may be in several."""
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
async def test_unregistering_from_one_room_or_from_all() -> None:
    """A transport leaves one room, with what was broadcast before, or the hub at once."""
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
async def test_client_count() -> None:
    """Connections are counted once, members by room, and those who went not at all."""
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
async def test_a_lost_connection_leaves_by_itself() -> None:
    """A client that goes away is unregistered from connection_lost; the others stay."""
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
    """A transport that is closing already is refused, and nothing is kept of it."""
    async with Rig() as rig:
        sink = Sink()
        sink.abort()
        with pytest.raises(RuntimeError, match="closing"):
            rig.hub.register(sink)
        assert rig.hub.client_count() == 0
        assert rig.hub.stats()["rooms"] == 0


@on_loop
async def test_a_value_that_is_no_json_reaches_nobody() -> None:
    """broadcast_json() of what cannot be encoded raises TypeError and sends nothing."""
    async with Rig() as rig:
        sink = Sink()
        rig.hub.register(sink)
        with pytest.raises(TypeError):
            rig.hub.broadcast_json({1, 2})
        await turn()
        assert sink.written == []


@on_loop
async def test_close_says_goodbye_and_refuses_the_rest() -> None:
    """close() sends what is pending and the code and reason; then the hub is closed."""
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
async def test_threads_broadcast_side_by_side() -> None:
    """Several threads broadcast at once; each one's messages arrive complete and in order."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        count, threads = 200, 4

        def speak(who: int) -> None:
            for i in range(count):
                rig.hub.broadcast_json([who, i])

        running = [threading.Thread(target=speak, args=(who,)) for who in range(threads)]
        for thread in running:
            thread.start()
        arrived = [orjson.loads(payload) for payload in await client.payloads(count * threads)]
        for thread in running:
            await asyncio.to_thread(thread.join, LIMIT_S)
        for who in range(threads):
            assert [i for other, i in arrived if other == who] == list(range(count))


@on_loop
async def test_threads_register_and_unregister() -> None:
    """Registrations and broadcasts of one thread take effect in the order it made them."""
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
