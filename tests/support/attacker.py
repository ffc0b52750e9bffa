"""An attacker in a process of its own: it floods a server until it is killed.

    python attacker.py KIND PORT      (or `all` for all kinds)

Whenever the server disconnects it, it comes back. It connects from 127.0.0.2 and further addresses,
so that a server on the loopback address sees several clients with limits of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]

from support.raw_websocket import CONTINUATION, HANDSHAKE, PING, PONG, TEXT, frame, request, text  # noqa: E402

ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
#: The pause between two attempts, because the other clients run on the same machine.
PAUSE_S = 0.005
CHUNK_BYTES = 1 << 16
UPGRADE = request("/ws", HANDSHAKE.items())

_numbers = itertools.count()


def join(room: str = "attack") -> bytes:
    return text({"type": "join", "room": room, "username": f"x{os.getpid()}-{next(_numbers)}"})


def rooms() -> bytes:
    """A thousand joins of rooms with new names."""
    return b"".join(join(os.urandom(12).hex()) for _ in range(1000))


def many(command: dict[str, object]) -> Callable[[], tuple[bytes, bytes]]:
    data = text(command) * 3000
    return lambda: (join(), data)


def raw(begin: bytes, data: bytes) -> Callable[[], tuple[bytes, bytes]]:
    return lambda: (begin, data)


PINGS, PONGS = frame(PING, b"x" * 125) * 5000, frame(PONG, b"x" * 125) * 5000
BEGUN = frame(TEXT, b"", fin=False)
BOMB = "{" + ",".join(f'"k{number}":{{"a":1}}' for number in range(4000)) + "}"
BOMBS = text(BOMB) * 20

#: Bytes after a handshake: those that are sent once, and those that are repeated without end.
FRAMES: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "pings": lambda: (join(), PINGS),
    "pongs": lambda: (join(), PONGS),
    "empty fragments": raw(BEGUN, frame(CONTINUATION, b"", fin=False) * 100_000),
    "fragments of a byte": raw(BEGUN, frame(CONTINUATION, b"x", fin=False) * 100_000),
    "messages": many({"text": "x" * 500}),
    "messages of 16 kB": many({"text": "😀" * 4000}),
    "edits": many({"type": "edit", "offset": 1, "text": "x"}),
    "typing": many({"type": "typing"}),
    "history": many({"type": "history", "limit": 300}),
    "searches": many({"type": "search", "query": "x* y* z*", "limit": 300}),
    "errors": many({"type": "nonsense"}),
    "bombs": lambda: (join(), BOMBS),
    "rooms": lambda: (rooms(), b""),
    "nothing": raw(b"", b""),
}
#: Bytes that are sent in place of a handshake.
HEADS = {
    "bad handshakes": request("/ws", [(name, "x") for name in HANDSHAKE]),
    "pages of others": request("/ws", [*HANDSHAKE.items(), ("Origin", "https://evil.example")]),
    "no HTTP": b"\x16\x03\x01" + b"\xff" * 500 + b"\r\n\r\n",
    "huge heads": b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000,
    "downloads": request("/") * 20,
}
KINDS = [*FRAMES, *HEADS]


def attack(kind: str, port: int, address: str) -> None:
    """Connect, send the flood until the server ends the connection, and start again."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            client = socket.socket()
            held.append(client)
            client.settimeout(0.2)
            client.bind((address, 0))
            client.connect(("127.0.0.1", port))
            if kind in FRAMES:
                client.sendall(UPGRADE)
                client.recv(1 << 16)
            first, more = FRAMES[kind]() if kind in FRAMES else (HEADS[kind], b"")
            client.sendall(first)
            if kind != "nothing":
                pour(client, more)
                held.pop().close()
        if len(held) > 500:
            held.pop(0).close()
        time.sleep(PAUSE_S)


def pour(client: socket.socket, data: bytes) -> None:
    """Send without end, and discard what is received; OSError once the server has ended the
    connection."""
    sent = 0
    while True:
        if data:
            sent += client.send(memoryview(data)[sent : sent + CHUNK_BYTES])
            sent %= len(data)
        with contextlib.suppress(BlockingIOError):
            while True:
                if not client.recv(1 << 18, socket.MSG_DONTWAIT if data else 0):
                    return


def main() -> None:
    os.nice(19)  # as on a machine of its own: the attacker's CPU time must not slow the server
    kind, port = sys.argv[1], int(sys.argv[2])
    for each in KINDS if kind == "all" else [kind]:
        for address in ADDRESSES:
            threading.Thread(target=attack, args=(each, port, address), daemon=True).start()
    print(json.dumps(kind), flush=True)
    sys.stdin.read()  # until the process that started it has ended


if __name__ == "__main__":
    main()
