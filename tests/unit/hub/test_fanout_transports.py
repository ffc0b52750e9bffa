"""The hub over TLS, and called from other threads."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import pytest
import trustme

from support.hub import (
    BINARY,
    CLOSE,
    EVICTED,
    LIMIT_S,
    TEXT,
    TINY_BYTES,
    Client,
    Frame,
    Rig,
    Served,
    Sink,
    close_payload,
    on_loop,
    texts,
    turn,
    until,
)

# TLS


async def _connect_tls(rig: Rig, *rooms: str) -> Client:
    """Connect over TLS with small buffers; the far end is Python's own `ssl`."""
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(), ssl.create_default_context()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    served = Served(rig.hub)
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TINY_BYTES)
    server = await loop.create_server(lambda: served, sock=listener, ssl=server_side)

    def shake_hands() -> ssl.SSLSocket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
        sock.settimeout(LIMIT_S)
        sock.connect(server.sockets[0].getsockname())
        return client_side.wrap_socket(sock, server_hostname="localhost")

    far = await loop.run_in_executor(None, shake_hands)
    far.setblocking(False)
    await until(lambda: hasattr(served, "transport"))
    server.close()
    return rig.add(Client(served, far), *rooms)


@on_loop
async def test_tls_connection_gets_its_batches_through_the_transport() -> None:
    """A TLS connection gets the same frames in the same order, encrypted."""
    async with Rig() as rig:
        client, plain = await _connect_tls(rig, "a", "b"), await rig.connect("a")
        rig.hub.publish("a", b"1")
        rig.hub.broadcast(b"2" * 70_000, "a")
        rig.hub.send(client.conn, "reply")
        rig.hub.publish("a", b"3")
        frames = [Frame(TEXT, b"1"), Frame(BINARY, b"2" * 70_000), Frame(TEXT, b"3")]
        assert await plain.frames(3) == frames
        assert await client.frames(4) == [*frames[:2], Frame(TEXT, b"reply"), frames[2]]
        rig.hub.close_connection(client.conn, 1000)
        assert await client.to_close() == [Frame(CLOSE, close_payload(1000))]


@on_loop
async def test_stalled_tls_client_is_blocked_and_catches_up() -> None:
    """A TLS client that stops reading is blocked, delays no other client, and loses nothing."""
    async with Rig(max_lag_bytes=1 << 22) as rig:
        client, plain = await _connect_tls(rig, "lobby"), await rig.connect("lobby")
        published = await rig.block(client, "lobby", size=8000)
        for i in range(200):
            published.append(str(i).encode() * 700)
            rig.hub.publish("lobby", published[-1])
            await turn()
            rig.hub.verify()
        assert client.conn.blocked
        assert client.transport.get_write_buffer_size() < 400_000
        assert await plain.payloads(len(published)) == published
        assert await client.payloads(len(published)) == published
        await until(lambda: not client.conn.blocked)
        assert rig.hub.stats()["log_bytes"] == 0


@on_loop
async def test_stalled_tls_client_is_evicted() -> None:
    """A TLS client that never reads is evicted like a client without TLS."""
    async with Rig(clock=True, max_lag_bytes=100_000) as rig:
        client = await _connect_tls(rig, "lobby")
        published = await rig.block(client, "lobby", size=8000)
        while not client.conn.closed:
            published.append(b"x" * 8000)
            rig.hub.publish("lobby", published[-1])
            await turn()
        *frames, last = await client.to_close()
        assert frames == texts(*published[: len(frames)])
        assert last.payload == close_payload(EVICTED, "fell too far behind")
        await rig.sweep(3)
        await client.served.lost


# Threads


@on_loop
async def test_calls_from_other_threads_are_run_in_order() -> None:
    """Registering, publishing, replying and unregistering work from any thread, in order."""
    async with Rig() as rig:
        client = await rig.connect()
        sink = Sink()

        def elsewhere() -> list[object]:
            data = bytearray(b"copied")
            answers: list[object] = [rig.hub.register(sink), rig.hub.register(sink, "b")]
            answers.append(rig.hub.broadcast(data))
            answers.append(rig.hub.send(client.conn, data, BINARY))
            data[:] = b"mutant"
            answers.append(rig.hub.broadcast_text("text", "b"))
            answers.append(rig.hub.flush())
            answers.append(rig.hub.unregister(sink, "b"))
            return answers

        assert await asyncio.to_thread(elsewhere) == [None] * 7
        await turn(3)
        assert sorted(sink.frames()) == [Frame(TEXT, b"text"), Frame(BINARY, b"copied")]
        assert await client.frames(1) == [Frame(BINARY, b"copied")]
        assert rig.hub.client_count("b") == 0
        await asyncio.to_thread(rig.hub.unregister, sink)
        await turn()
        assert rig.hub.client_count() == 1


@on_loop
async def test_calling_thread_does_not_wait_for_the_loop() -> None:
    """A call from another thread returns while the loop is busy with other work."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        thread = threading.Thread(target=rig.hub.broadcast_text, args=("from afar",))
        thread.start()
        thread.join(LIMIT_S)  # blocks the loop, which is the point of this test
        assert not thread.is_alive()
        assert await client.payloads(1) == [b"from afar"]


@on_loop
async def test_close_from_another_thread_closes_all_connections() -> None:
    """close() from another thread closes every connection in a later turn."""
    async with Rig() as rig:
        client = await rig.connect("lobby")
        assert await asyncio.to_thread(rig.hub.close, 1012, "restart") is None
        assert await client.to_close() == [Frame(CLOSE, close_payload(1012, "restart"))]
        with pytest.raises(RuntimeError, match="the hub is closed"):
            await asyncio.to_thread(rig.hub.broadcast, b"too late")
