"""One connection of the client library."""

from __future__ import annotations

import asyncio

import pytest

from fastchat_client.link import Link, LinkLost
from support.scripted import Peer, scripted
from support.server import PATIENCE_S


def test_lost_link_says_so_at_once() -> None:
    """After a command that could not be sent the link is lost, although nobody has read the end.

    Otherwise a command that is sent again on the same link would never let the reader run.
    """

    async def script(peer: Peer) -> None:
        await peer.close(1012, "restart")

    async def main() -> None:
        async with scripted(script) as url:
            link = await Link.open(f"{url}/ws")
            await link._connection.wait_closed()
            assert not link.lost.done()
            with pytest.raises(LinkLost):
                await link.send({"type": "ping"})
            assert link.lost.done()
            with pytest.raises(LinkLost):
                await link.until(asyncio.get_running_loop().create_future())

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
