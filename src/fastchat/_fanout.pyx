"""The hub: one log a room, one cursor a member.

Theory of operation
-------------------
A *publication* is framed once (RFC 6455 §5.2; a server's frames are not masked,
so the same bytes serve every client) and appended to its room's pending frames.
At the end of the event-loop turn the pending frames are sealed into one
immutable ``bytes`` batch and the batch is appended to the room's log. A *member*
is a connection in a room: a descriptor, a cursor (the next batch it needs) and a
flag, 16 bytes in a C array. Nobody has a queue, nobody has a copy.

A flush visits the members in turn and writes to each, by one ``send()``, all that
lies between its cursor and the head of the log. The loop that does it touches no
Python object and calls nothing back; it notes who was short, and those are dealt
with afterwards.

A short write hands the rest of that batch to the transport, which holds a
reference to it and not a copy, and blocks the connection: its cursors stand still
until the transport is empty again (``resume_writing``). Then it catches up from
its cursors and is unblocked at the heads. A connection whose cursor falls out of
a log (``max_lag_bytes``), that stays blocked (``max_lag_s``), or for which too
much was sent that is for it alone, is evicted.

The rules that keep the wire intact:

* **One writer.** A direct ``send()`` happens only while the transport holds
  nothing. ``Connection.rest`` (handed over, but not written yet) and ``blocked``
  say so; every write passes through them. A transport that is closing throws away
  what it is given: nothing is sent behind that.
* **Order.** A reply to one connection first flushes what is pending for it, so
  it never overtakes a publication. Only a blocked connection gets a reply ahead
  of publications it has yet to catch up with. Joining seals first: a new member
  gets nothing older. Leaving and closing flush first, also when blocked.
* **Descriptors.** A descriptor is used between ``register`` and the first of
  ``unregister``, ``close`` and eviction, never later; asyncio calls
  ``connection_lost`` before it closes the socket, and there ``unregister`` belongs.
* **No callbacks inside the send loop.** Evictions are reported by ``call_soon``, so
  that whoever hears of one may do as he likes. A transport's ``write`` does call its
  protocol's ``pause_writing`` at once, and that may use the hub: hence what is on
  record before each write, and what is looked up again after it.

What it deliberately does not do: JSON, users, history, brokers, HTTP. It knows
bytes, rooms and connections, and imports nothing of ours. TLS connections, and
any transport without a socket, never use a descriptor: they take the same batches
through ``transport.write``.

Where things are: this file holds `Hub`, which is what others call. How it does it are
functions that take the hub, in files that are included here and compiled with it:
`fanout/wire` (frames, the send loop), `fanout/room` (`Room`: members and log),
`fanout/connection` (`Connection`, and what is written to one), `fanout/flush` (from
pending frames into the log, from the log to everybody), `fanout/endings` (how
connections come and go) and `fanout/verify` (the invariants).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

import asyncio
import logging

cdef extern from *:
    """
    #ifndef FASTCHAT_DEBUG
    #define FASTCHAT_DEBUG 0
    #endif
    """
    bint FASTCHAT_DEBUG

logger = logging.getLogger("fastchat.hub")

#: True in the build that `FASTCHAT_DEBUG=1` makes: bounds checks and assertions.
DEBUG = bool(FASTCHAT_DEBUG)

#: The room of those who do not name one.
DEFAULT_ROOM = "lobby"

include "fanout/wire.pxi"
include "fanout/room.pxi"
include "fanout/connection.pxi"
include "fanout/flush.pxi"
include "fanout/endings.pxi"
include "fanout/verify.pxi"


cdef class Hub:
    """Fans publications out to the members of rooms. See the head of this module.

    Made inside a running event loop, to which it belongs. `broadcast*`, `flush`,
    `register`, `unregister`, `send` and `close` may be called from other threads
    too: the call is handed to the loop and returns None at once.

    Arguments (all keyword-only):

    * ``max_lag_bytes``: how far a member may fall behind; a room's log never
      holds more.
    * ``max_lag_s``: how long a connection may stay blocked without its transport
      emptying once.
    * ``ping_interval_s``: a ping to everybody this often, 0 for none; whoever
      forwards pongs to `Connection.pong` sets it.
    * ``pong_timeout_s``: how long a pong may take before the connection is closed.
    * ``on_evict``: ``on_evict(connection, code, reason)``, called in a later turn
      when the hub closes a connection on its own account: 4008 (read too slowly),
      4009 (missed its heartbeat) or 1006 (the socket failed; no frame was sent).
    * ``clock``: seconds, monotonic; for the sweep.
    * ``slice_visits``: how many members are visited in one loop turn, 1 to 256.
    """
    cdef dict _rooms            # name -> Room
    cdef dict _connections      # transport -> Connection
    cdef list _by_descriptor    # descriptor -> Connection or None
    cdef list _dirty            # rooms with something pending or unserved
    cdef object _loop, _clock, _on_evict, _tick_callback
    cdef object _sweep_handle, _later_handle
    cdef unsigned long _thread
    cdef bint _flushing, _soon, _closed
    cdef Py_ssize_t _max_lag_bytes, _slice_visits
    cdef double _max_lag_s, _ping_interval_s, _pong_timeout_s, _swept_at, _later_at
    cdef uint64_t _publications
    cdef Sent _sent
    cdef dict _evictions        # close code -> how many

    def __init__(self, *, Py_ssize_t max_lag_bytes=1 << 20, double max_lag_s=10.0,
                 double ping_interval_s=0.0, double pong_timeout_s=10.0,
                 on_evict=None, clock=None, Py_ssize_t slice_visits=SLICE):
        if max_lag_bytes < 1024:
            raise ValueError(f"max_lag_bytes must be at least 1024, not {max_lag_bytes}")
        if max_lag_s <= 0 or ping_interval_s < 0 or pong_timeout_s <= 0:
            raise ValueError("max_lag_s and pong_timeout_s must be above 0, ping_interval_s not below")
        if not 1 <= slice_visits <= SLICE:
            raise ValueError(f"slice_visits must be 1 to {SLICE}, not {slice_visits}")
        self._loop = asyncio.get_running_loop()
        self._clock = clock if clock is not None else self._loop.time
        self._on_evict = on_evict
        self._thread = PyThread_get_thread_ident()
        self._tick_callback = self._tick
        self._max_lag_bytes = max_lag_bytes
        self._slice_visits = slice_visits
        self._max_lag_s = max_lag_s
        self._ping_interval_s = ping_interval_s
        self._pong_timeout_s = pong_timeout_s
        self._rooms = {}
        self._connections = {}
        self._by_descriptor = []
        self._dirty = []
        self._swept_at = self._clock()
        self._evictions = {CLOSE_EVICTED: 0, CLOSE_HEARTBEAT: 0, CLOSE_ABNORMAL: 0}

    # Connections

    def register(self, transport, str room not None=DEFAULT_ROOM):
        """Put `transport` into `room` and return its `Connection`.

        It gets what is broadcast from now on. A transport may be in many rooms; a
        second registration in the same room changes nothing. Raises RuntimeError
        when the hub or the transport is closed.
        """
        if _is_elsewhere(self):
            _hand_to_loop(self, self.register, (transport, room))
            return None
        cdef Connection conn = self._connections.get(transport)
        if conn is None:
            conn = self.attach(transport)
        if not self.join(conn, room):
            raise RuntimeError("the transport is closed")
        return conn

    def unregister(self, transport, str room=None):
        """Take `transport` out of `room`, or with None out of the hub.

        The latter belongs into the protocol's `connection_lost`. What is pending
        for the room is sent first if it is left alone, and dropped if the
        transport goes. An unknown transport or room is ignored.
        """
        if _is_elsewhere(self):
            _hand_to_loop(self, self.unregister, (transport, room))
            return
        cdef Connection conn = self._connections.get(transport)
        if conn is None:
            return
        if room is None:
            self.detach(conn)
        else:
            self.leave(conn, room)

    def attach(self, transport, owner=None):
        """Take `transport` into the hub, in no room yet; returns its `Connection`.

        `owner` is anything the caller wants to find again in ``connection.owner``.
        Sets the transport's write-buffer limits so that `pause_writing` means "the
        first byte is queued" and `resume_writing` "empty", exactly.
        """
        cdef Connection conn
        if self._closed:
            raise RuntimeError("the hub is closed")
        if transport in self._connections or transport.is_closing():
            raise RuntimeError("the transport is closing, or attached already")
        conn = Connection.__new__(Connection)
        conn.hub = self
        conn.transport = transport
        conn.owner = owner
        conn.seats = {}
        conn.fd = _descriptor(self, transport)
        if conn.fd < 0:
            conn.write = transport.write
        # uvloop's TLS transport pauses at `>= high`, its TCP transport above it.
        transport.set_write_buffer_limits(0 if conn.fd >= 0 else 1, 0)
        if conn.fd >= 0:
            _claim_descriptor(self, conn)
        if transport.get_write_buffer_size() > 0:
            _block(self, conn)
        conn.ping_due = <double>self._clock() + self._ping_interval_s
        self._connections[transport] = conn
        if self._sweep_handle is None:
            self._sweep_handle = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)
        return conn

    def detach(self, Connection conn not None):
        """Forget a connection at once, sending nothing. Safe to call again."""
        _require_own(self, conn)
        if conn.state != DETACHED:
            _leave_all(self, conn)
            conn.state = DETACHED
            conn.rest = None
            self._connections.pop(conn.transport, None)
            if conn.fd >= 0 and self._by_descriptor[conn.fd] is conn:
                self._by_descriptor[conn.fd] = None

    def join(self, Connection conn not None, str name not None):
        """Make a connection a member of a room: it gets what is published from now on.

        False when the connection is closed; nothing has happened then.
        """
        _require_own(self, conn)
        cdef Room room = self._rooms.get(name)
        if room is not None:
            _seal(self, room)
            # That may have run a transport's callback, or evicted the last member.
            room = self._rooms.get(name)
        if conn.state != OPEN:
            return False
        if room is None:
            room = self._rooms[name] = Room(name)
        if room not in conn.seats:
            room.add(conn)
        return True

    def leave(self, Connection conn not None, str name not None):
        """End a membership; what was published before still arrives, also when blocked."""
        _require_own(self, conn)
        cdef Room room = self._rooms.get(name)
        if room is None or room not in conn.seats:
            return
        _depart(self, room, conn)
        if conn.state == OPEN and conn.blocked and _backlog(self, conn) > MAX_BACKLOG_BYTES:
            _evict(self, conn, CLOSE_EVICTED, "left more rooms than it read")

    # Publishing

    def broadcast(self, data, str room not None=DEFAULT_ROOM):
        """Send `data` (bytes or any buffer) to all members of `room` as one binary message.

        The data is copied once, here. It goes out at the end of this loop turn.
        A room without members is no error. Raises RuntimeError once the hub is closed.
        """
        if isinstance(data, str):
            raise TypeError("broadcast() takes bytes; broadcast_text() takes str")
        _publish(self, OP_BINARY, data, room)

    def broadcast_text(self, text, str room not None=DEFAULT_ROOM):
        """Send `text` (str, or bytes that are UTF-8 already) as one text message."""
        _publish(self, OP_TEXT, text, room)

    def publish(self, str room not None, bytes payload not None, Connection but=None):
        """`broadcast_text` for the loop's own thread, optionally to all `but` one.

        The one left out must be at the head for that: while it is blocked it gets
        the message like the others.
        """
        cdef Room target = self._rooms.get(room)
        if target is None:
            return
        if but is not None:
            _require_own(self, but)
            if target not in but.seats:
                but = None
            else:
                _seal(self, target)
                if not but.blocked:
                    _serve_one(self, target, but)
                _seal(self, target)     # a transport's callback may have published
        _append(self, target, _frame_of(OP_TEXT, payload), but)

    def _publish_framed(self, bytes frame, str room):
        cdef Room target = self._rooms.get(room)
        if target is not None:
            _append(self, target, frame)

    # Flushing

    def flush(self):
        """Deliver everything pending now, completely, without waiting for the turn's end.

        "Delivered" is written to the socket, or waiting behind an earlier short
        write. Called from within a flush (a transport's callback) it does nothing.
        """
        if _is_elsewhere(self):
            _hand_to_loop(self, self.flush, ())
            return
        cdef Room room
        if self._flushing:
            return
        while self._dirty:
            room = self._dirty.pop()
            room.dirty = False
            _seal(self, room)
            _serve_all(self, room)
            _pace(self, room)

    def end_turn(self):
        """Flush a slice now, as at the end of the loop's turn: for whoever knows that it is.

        Called from within a flush it does nothing.
        """
        if not self._flushing:
            _flush_slice(self)

    def _tick(self):
        """The end of a loop turn: one slice of all there is to flush."""
        self._soon = False
        _flush_slice(self)

    def _tick_later(self):
        self._later_handle = None
        _flush_slice(self)

    # Writing to one connection

    def send(self, Connection conn not None, data, int opcode=OP_TEXT):
        """Send one message to one connection, behind what is pending for it.

        `opcode` is the frame's (RFC 6455 §11.8), any but that of a close frame;
        `data` str, bytes or a buffer. Returns False, and sends nothing, when the
        connection is closed, or when so much waits for it that it is evicted instead.
        """
        _require_own(self, conn)
        if opcode not in (OP_TEXT, OP_BINARY, OP_PING, OP_PONG):
            raise ValueError(f"opcode must be 1, 2, 9 or 10, not {opcode}")
        cdef bytes frame = _frame_of(opcode, data)
        if opcode >= OP_CLOSE and PyBytes_GET_SIZE(frame) > 127:
            raise ValueError("a control frame carries at most 125 bytes")   # RFC 6455 §5.5
        if _is_elsewhere(self):
            _hand_to_loop(self, self._send_framed, (conn, frame))
            return None
        return self._send_framed(conn, frame)

    def _send_framed(self, Connection conn, bytes frame):
        _flush_to(self, conn)
        return _write(self, conn, frame)

    # Endings

    def close_connection(self, Connection conn not None, int code=CLOSE_GOING_AWAY,
                         str reason not None=""):
        """Close one connection: what is pending, then a close frame, then nothing.

        The transport is closed by whoever sees the peer's close frame, and aborted
        by the sweep if that takes longer than 2 s. `code` 1005 sends an empty close
        frame. `reason` is cut at 123 bytes (RFC 6455 §5.5). Safe to call again.
        """
        _require_own(self, conn)
        _close_one(self, conn, _close_frame(code, reason))

    def evict(self, str name not None, int code, str reason not None=""):
        """Close every member of a room, on the hub's own account: `on_evict` is called.

        What they have yet to read is dropped. `code` and `reason` as in `close_connection`.
        Callable from any thread.
        """
        if _is_elsewhere(self):
            _hand_to_loop(self, self.evict, (name, code, reason))
            return
        cdef Room room = self._rooms.get(name)
        for conn in tuple(room.members) if room is not None else ():
            _evict(self, <Connection>conn, code, reason)

    def close(self, int code=CLOSE_GOING_AWAY, str reason not None=""):
        """Close every connection (see `close_connection`) and stop.

        The hub refuses everything afterwards. Transports whose peers do not answer
        are aborted within 3 s, as long as the loop runs.
        """
        cdef bytes frame = _close_frame(code, reason)
        if _is_elsewhere(self):
            _hand_to_loop(self, self.close, (code, reason))
            return
        if self._closed:
            return
        self._closed = True
        for conn in tuple(self._connections.values()):
            _close_one(self, <Connection>conn, frame)

    def abort(self):
        """Abort every transport that is left and end the sweep: nothing waits any more."""
        self._closed = True
        for conn in tuple(self._connections.values()):
            _abort_one(self, <Connection>conn)
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()

    # The sweep: one timer for all connections

    def _sweep_again(self):
        self._sweep_handle = None
        try:
            self.sweep()
        finally:
            if self._connections:
                self._sweep_handle = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)

    def sweep(self):
        """Pings, evictions and deadlines of all connections; runs by itself once a second."""
        cdef double now = self._clock()
        cdef Connection conn
        # After a pause of the whole process (SIGSTOP, a sleeping laptop) the answers
        # to our pings may be waiting to be read: nobody is blamed for that.
        cdef bint overslept = now - self._swept_at > 3 * SWEEP_INTERVAL_S
        self._swept_at = now
        for conn in tuple(self._connections.values()):
            if overslept:
                conn.blocked_since = now
                conn.ping_due = max(conn.ping_due, now + self._pong_timeout_s)
            if conn.state == CLOSING:
                if now >= conn.close_deadline:
                    _abort_one(self, conn)
            elif conn.state == OPEN:
                _sweep_one(self, conn, now)

    # Looking in

    def client_count(self, room=None):
        """How many members `room` has; with None, how many connections the hub has."""
        cdef Room found
        if room is None:
            return len(self._connections)
        found = self._rooms.get(room)
        return 0 if found is None else found.size

    def stats(self):
        """Counters since the start, and gauges: what an operator would graph.

        A delivery is one publication handed to one member's socket or transport. Bytes
        are all that sockets and transports were handed: also headers, replies and pings.
        """
        cdef Connection conn
        cdef Room room
        cdef Py_ssize_t blocked = 0, log_bytes = 0
        for conn in self._connections.values():
            blocked += conn.blocked
        for room in self._rooms.values():
            log_bytes += room.log_bytes
        return {
            "connections": len(self._connections),
            "rooms": len(self._rooms),
            "blocked": blocked,
            "log_bytes": log_bytes,
            "publications": self._publications,
            "deliveries": self._sent.deliveries,
            "bytes": self._sent.bytes,
            "evictions": dict(self._evictions),
        }

    def verify(self):
        """Check every invariant between rooms, slots and connections; for tests.

        Raises AssertionError that names the one that is broken.
        """
        cdef Room room
        cdef Connection conn
        for room in self._rooms.values():
            _verify_room(self, room)
        for conn in self._connections.values():
            _verify_connection(self, conn)


cdef bint _is_elsewhere(Hub hub) noexcept:
    """Whether this is another thread than the loop's."""
    return hub._thread != PyThread_get_thread_ident()


cdef _hand_to_loop(Hub hub, method, tuple arguments):
    hub._loop.call_soon_threadsafe(method, *arguments)
