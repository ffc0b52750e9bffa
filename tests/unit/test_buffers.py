"""Buffers that WebSockets share."""

from __future__ import annotations

import asyncio

import pytest

from fastchat._buffers import SharedBuffers
from fastchat.web.websocket import READ_BYTES
from support.buffers import HANDSHAKE, Peer, exercise, frame


@pytest.mark.parametrize("seed", range(6))
def test_frames_arrive_in_pieces_from_many_clients(seed: int) -> None:
    """Each protocol gets its own frames, whatever others receive between two pieces of one."""
    asyncio.run(exercise(seed))


def test_only_an_unfinished_frame_needs_a_buffer_of_its_own() -> None:
    """A connection has a buffer of its own from the beginning of a frame to its end."""

    async def check() -> None:
        buffers = SharedBuffers(READ_BYTES)
        peer = Peer(buffers)
        assert buffers.is_sharing(peer.protocol)
        peer.receive(HANDSHAKE)
        assert buffers.is_sharing(peer.protocol)
        data = frame(b"x" * 1000)
        peer.receive(data[:-1])
        assert not buffers.is_sharing(peer.protocol)
        assert peer.payloads == []
        peer.receive(data[-1:])
        assert buffers.is_sharing(peer.protocol)
        assert peer.payloads == [b"x" * 1000]
        peer.close()

    asyncio.run(check())


def test_close_frames_of_picows_are_whole() -> None:
    """Connections that write from one buffer each send their own bytes."""

    async def check() -> None:
        buffers = SharedBuffers(READ_BYTES)
        peers = [Peer(buffers) for _ in range(2)]
        for peer in peers:
            peer.receive(HANDSHAKE)
            assert peer.client.recv(4096).startswith(b"HTTP/1.1 101 ")
        for number, peer in enumerate(peers):
            peer.protocol.transport.send_close(1000 + number, b"bye" * 40)
        for number, peer in enumerate(peers):
            expected = b"\x88\x7a" + (1000 + number).to_bytes(2, "big") + b"bye" * 40
            assert peer.client.recv(4096) == expected
            peer.close()

    asyncio.run(check())


def test_other_objects_are_refused() -> None:
    """The fields of an object that is not picows' are never touched."""
    buffers = SharedBuffers(READ_BYTES)
    for call in (buffers.settle, buffers.share_writing, buffers.is_sharing):
        with pytest.raises(TypeError):
            call(object())
