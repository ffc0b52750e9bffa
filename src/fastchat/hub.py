"""The public `Hub`, which other programs can use without the chat server."""

from __future__ import annotations

from fastchat import _fanout

TYPE_CHECKING = False  # mypy takes this for True; the import of `typing` would take long
if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["DEFAULT_ROOM", "Connection", "Hub"]

DEFAULT_ROOM = _fanout.DEFAULT_ROOM

Connection = _fanout.Connection


class Hub(_fanout.Hub):
    """Sends each message once to all members of a room, without a queue for each member.

    >>> hub = Hub()                                  # inside a running event loop
    >>> async with hub.member(ws, room="news"):      # for each WebSocket
    ...     hub.broadcast_json({"hello": "everyone"}, room="news")

    A hub must be created inside a running event loop, and belongs to that loop.
    `broadcast`, `broadcast_text`, `broadcast_json`, `flush`, `register`, `unregister`,
    `send`, `evict` and `close` can be called from other threads too: the call is handed to
    the loop and returns None at once. All other methods must be called in the loop's thread.
    A method that takes a connection raises ValueError if it is another hub's.

    Arguments (all keyword-only):

    * ``max_lag_bytes`` (1 MiB): how many bytes a member can fall behind before it is evicted,
      at least 1024. Outside a flush a room's log never holds more.
    * ``max_connection_lag_bytes`` (4 MiB): how many bytes the hub keeps for one connection, over
      all its rooms and in its transport, before it is evicted; at least 1024. Bytes that
      are kept for several connections count for each of them.
    * ``max_lag_total_bytes`` (48 MiB): how many bytes the hub keeps for all connections together,
      at least 1024; bytes that are kept for several connections count once. Above it, the
      hub evicts the connections for which most is kept. Both bounds can be exceeded by
      64 KiB, or by one publication or reply if that is larger.
    * ``max_lag_s`` (10): how many seconds a connection can stay blocked without its
      transport being empty once.
    * ``ping_interval_s`` (0): seconds between two pings to each connection; 0 means no
      pings. If it is above 0, the owner of the protocols must forward pongs to
      `Connection.pong`; `member` does so.
    * ``pong_timeout_s`` (10): how many seconds a pong can take before the connection is
      closed.
    * ``on_evict`` (None): ``on_evict(connection, code, reason)``, called in a later turn after
      the hub has closed a connection on its own account: 4008 (read too slowly), 4009
      (missed its heartbeat), 1006 (the socket failed; no frame was sent) or the code of
      `evict`. None means that nothing is called.
    * ``clock`` (None): returns monotonic seconds, for the sweep; None means the loop's clock.
    * ``slice_visits`` (256): how many members are visited in one loop turn, 1 to 256.

    Raises ValueError for a value out of its range, and RuntimeError outside a loop.
    """

    __slots__ = ()

    def member(
        self, ws: object, room: str = DEFAULT_ROOM
    ) -> AbstractAsyncContextManager[Connection]:
        """Make a WebSocket of another library a member of `room` during an `async with` block.

        `ws` is the WebSocket of FastAPI or Starlette on uvicorn (with any of its WebSocket
        implementations), `ServerConnection` of websockets, or `WebSocketResponse` of aiohttp. It
        must be accepted. The block gets its `Connection`, whose `owner` is `ws`.

        During the block two write to the WebSocket: the application through `ws`, and the hub.
        Their frames never mix. Publications and the application's messages arrive in the order of
        their calls, except that a message can overtake publications for which the client is too
        slow. While the application sends a message in several fragments, publications wait.

        The membership ends with the block, also if it ends by an exception or is cancelled. What
        was published before is still sent, and `ws` works on. (A client that has yet to read more
        than 320 KiB by then is evicted.) A WebSocket can be in several
        rooms, by several blocks or by `join`, and in the same room by several blocks; the last one
        leaves it.

        If `ws` closes or loses its connection, it leaves the hub at once. If the hub closes it
        (`close`, `close_connection`, `evict`, a client that reads too slowly), the client gets the
        hub's close frame, what the application sends afterwards is dropped, and receiving from
        `ws` ends as if the client had closed: within 3 s, even if the client does not answer. A
        message of the application does not count as lag, however large; but the client must have
        read it within `max_lag_s`.

        If the connection has ended before the block begins, the block runs all the same: its
        `Connection` is closed, and receiving from `ws` ends.

        Raises TypeError, with the list of what is supported, for any other object or server;
        RuntimeError if `ws` is not accepted yet, if it is a member of another hub, or if this hub
        is closed. They are raised when the block begins.
        """
        from fastchat.membership import Membership  # here, because it imports asyncio

        return Membership(self, ws, room)

    def broadcast_json(self, value: object, room: str = DEFAULT_ROOM) -> None:
        """Encode `value` once with orjson, and send it to all members of `room` as text.

        This can be called from any thread. If `value` cannot be encoded, the method raises
        TypeError (orjson.JSONEncodeError) and sends nothing. If the hub is closed, it raises
        RuntimeError.
        """
        import orjson  # here, because it imports much, and only this method needs it

        self.broadcast_text(orjson.dumps(value), room)
