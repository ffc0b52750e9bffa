"""Broadcast with the hub in a bare picows server: every client gets each message of every client.

Run `python examples/picows_server.py [PORT]`, then connect WebSocket clients to
ws://127.0.0.1:9001/.
"""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

import fastchat


class Client(WSListener):
    """The server's end of a connection. It passes on to the hub what picows reports."""

    def __init__(self, hub: fastchat.Hub) -> None:
        self.hub = hub

    def on_ws_connected(self, transport):
        self.connection = self.hub.register(transport.underlying_transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            self.hub.broadcast_text(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.hub.close_connection(self.connection, 1000)
            transport.disconnect()

    def on_ws_disconnected(self, transport):
        self.hub.unregister(transport.underlying_transport)

    def pause_writing(self):
        self.connection.pause_writing()

    def resume_writing(self):
        self.connection.resume_writing()


async def main(port: int) -> None:
    hub = fastchat.Hub()
    server = await ws_create_server(lambda request: Client(hub), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9001))
