"""A chat on socketify (uWebSockets, in C++), beside which the server is measured.

It does the least that a chat has to do: it parses a message, numbers it, and publishes it to all
clients. It stores nothing, checks nothing, limits nothing, and names nobody.
`python bench/broadcast/peers.py` prints its address and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.report import BenchError, MissingError
from harness.served import Served, stop

START_TIMEOUT_S = 10.0


def require_socketify() -> None:
    """Raise MissingError if socketify is not installed."""
    if importlib.util.find_spec("socketify") is None:
        raise MissingError("socketify: it is not installed (pip install -e '.[bench]')")


@asynccontextmanager
async def running_peer() -> AsyncIterator[Served]:
    """Start the chat on a free port; it is stopped at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line.strip().isdigit():
            raise BenchError("the chat on socketify did not start")
        yield Served(int(line), process.pid)
    except TimeoutError:
        raise BenchError("the chat on socketify did not start in time") from None
    finally:
        await stop(process)


def serve() -> None:
    import orjson
    from socketify import App, OpCode

    app = App()
    offset = 0

    def on_open(client) -> None:  # type: ignore[no-untyped-def]  # socketify has no types
        client.subscribe("room")
        client.send('{"type":"joined"}', OpCode.TEXT)

    def on_message(client, message, opcode) -> None:  # type: ignore[no-untyped-def]
        nonlocal offset
        offset += 1
        event = {
            "type": "message",
            "offset": offset,
            "text": orjson.loads(message)["text"],
            "timestamp": time.time(),
        }
        app.publish("room", orjson.dumps(event).decode(), OpCode.TEXT)

    app.ws("/*", {"open": on_open, "message": on_message, "idle_timeout": 0})
    app.listen({"host": "127.0.0.1", "port": 0}, lambda config: print(config.port, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    app.run()


if __name__ == "__main__":
    serve()
