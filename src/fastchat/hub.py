"""The hub's library face: `Hub`, usable without the chat server."""

from __future__ import annotations

from typing import Any

import orjson

from fastchat import _fanout

__all__ = ["DEFAULT_ROOM", "Hub"]

DEFAULT_ROOM = _fanout.DEFAULT_ROOM


class Hub(_fanout.Hub):
    """The compiled hub, and JSON. See `fastchat._fanout.Hub` for the rest.

    >>> hub = Hub()                       # inside a running event loop
    >>> hub.register(transport)           # in connection_made
    >>> hub.broadcast_json({"hello": "everyone"})
    >>> hub.unregister(transport)         # in connection_lost
    """

    __slots__ = ()

    def broadcast_json(self, value: Any, room: str = DEFAULT_ROOM) -> None:
        """Encode `value` once (orjson) and send it to all members of `room` as text.

        Callable from any thread. Raises TypeError (orjson.JSONEncodeError) when
        `value` cannot be encoded; nothing is sent then.
        """
        self.broadcast_text(orjson.dumps(value), room)
