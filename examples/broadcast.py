"""Broadcast with the hub to three plain asyncio connections, without the chat server.

Run `python examples/broadcast.py`.
"""

import asyncio

import uvloop

import fastchat


class Client(asyncio.Protocol):
    """The server's end of a connection. It passes on to the hub what its transport reports."""

    def __init__(self, hub: fastchat.Hub) -> None:
        self.hub = hub

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.connection = self.hub.register(transport)
        if self.hub.client_count() == 3:
            self.hub.broadcast_json({"hello": "everyone"})

    def connection_lost(self, error: Exception | None) -> None:
        self.hub.unregister(self.connection.transport)

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.resume_writing()


async def main() -> None:
    hub = fastchat.Hub()
    server = await asyncio.get_running_loop().create_server(lambda: Client(hub), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [await asyncio.open_connection(*address) for _ in range(3)]
    for reader, _ in clients:
        print(await reader.read(100))  # a WebSocket text frame: b'\x81…{"hello":"everyone"}'
    server.close()
    hub.close()


if __name__ == "__main__":
    uvloop.run(main())
