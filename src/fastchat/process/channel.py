"""The channel between a child process and its supervisor: the child's end.

The channel is a socket pair, with lines of JSON. The supervisor sends one line:

    {"settings": {...}, "workers": 4, "again": false}

`again` says whether the child takes the place of another one. For the relay, the line also has the
`user_key` of a history in memory, in hexadecimal. The child sends:

    {"ready": true}                     it serves
    {"failed": "--data x is in use."}   instead of `ready`: why the child ends; with status 2, a
                                        setting is wrong
    {"beat": true, "relay": true}       every second; `relay`: whether it is connected to the relay.
                                        The relay adds `fault`: why messages cannot be stored

When the channel ends, the child ends. It outlives its supervisor by END_S at most, however the
supervisor has ended. That also holds if a signal has stopped the child, or if its loop hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from fastchat.logs import flush_log

__all__ = ["Channel"]

#: A child has this long to end by itself once its supervisor is gone.
END_S = 0.8
#: The part of it in which the last lines of the log are written.
_LOG_S = 0.1


class Channel:
    """A child's end of its channel to the supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lost = threading.Event()
        self._lock = threading.Lock()
        self._on_lost: Callable[[], object] | None = None

    def start(self) -> dict[str, Any]:
        """Wait for the first line and return it; from then on watch for the channel's end.

        Raises EOFError if the supervisor is gone already.
        """
        line = b""
        while not line.endswith(b"\n"):
            if not (data := self._socket.recv(65536)):
                raise EOFError
            line += data
        threading.Thread(target=self._watch, name="channel", daemon=True).start()
        first: dict[str, Any] = json.loads(line)
        return first

    def open(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[], object]) -> None:
        """Call `on_lost` in the loop, once, when the supervisor is gone."""
        with self._lock:
            self._on_lost = lambda: loop.call_soon_threadsafe(on_lost)
            if self._lost.is_set():
                self._on_lost()

    def say(self, **message: Any) -> None:
        """Send a line. Never waits and never raises: a line that cannot be sent is dropped."""
        line = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):  # the supervisor hangs, or is gone
            self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _watch(self) -> None:
        """Wait for the channel's end, in a thread of its own: it also runs if the loop hangs."""
        with contextlib.suppress(OSError):
            while self._socket.recv(65536):
                pass
        with self._lock:
            self._lost.set()
            if self._on_lost is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended already
                    self._on_lost()
        time.sleep(END_S - _LOG_S)
        flush_log(_LOG_S)
        os._exit(1)
