"""The public `Hub`, which other programs can use without the chat server."""

from __future__ import annotations

from fastchat import _fanout

__all__ = ["DEFAULT_ROOM", "Hub"]

DEFAULT_ROOM = _fanout.DEFAULT_ROOM


class Hub(_fanout.Hub):
    """The compiled hub with JSON. `fastchat._fanout.Hub` documents all other methods.

    >>> hub = Hub()                       # inside a running event loop
    >>> hub.register(transport)           # in connection_made
    >>> hub.broadcast_json({"hello": "everyone"})
    >>> hub.unregister(transport)         # in connection_lost
    """

    __slots__ = ()

    def broadcast_json(self, value: object, room: str = DEFAULT_ROOM) -> None:
        """Encode `value` once with orjson, and send it to all members of `room` as text.

        This can be called from any thread. If `value` cannot be encoded, the method raises
        TypeError (orjson.JSONEncodeError) and sends nothing. If the hub is closed, it raises
        RuntimeError.
        """
        import orjson  # here, because it imports much, and only this method needs it

        self.broadcast_text(orjson.dumps(value), room)
