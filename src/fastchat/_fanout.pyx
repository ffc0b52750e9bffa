"""The hub: one log a room, one cursor a member.

Theory of operation
-------------------
The hub frames each *publication* once (RFC 6455 §5.2). A server's frames are not
masked, so the same bytes serve every client. The frame is appended to the pending
frames of its room. At the end of the event-loop turn the pending frames are sealed
into one immutable ``bytes`` batch, which is appended to the room's log. A *member*
is a connection in a room: a descriptor, a cursor (the number of the next batch that
the member needs) and flags, 16 bytes in a C array. A member has no queue of its own
and no copy of the bytes.

A flush visits the members in turn. To each it writes all batches between the
member's cursor and the head of the log, by one ``send()``. The loop that does this
touches no Python object and calls nothing back. It notes the members whose write was
short, and they are dealt with after the loop.

After a short write the rest of the batch is handed to the transport, which holds a
reference to the bytes and not a copy. The connection is then *blocked*: its cursors
stand still until the transport is empty again (``resume_writing``). At that point the
connection catches up from its cursors, and is unblocked at the heads of its rooms. The
hub evicts a connection if its cursor falls out of a log (``max_lag_bytes``), if it
stays blocked for too long (``max_lag_s``), or if too many replies wait in its transport.
Two more bounds are about all rooms together: `fanout/lag` describes them.

These rules keep the bytes on the wire intact:

* **One writer.** The hub calls ``send()`` on a descriptor only while the transport
  holds nothing. ``Connection.rest`` (bytes of a batch that the transport has yet to
  be given) and ``blocked`` record this, and every write checks them. A transport that
  is closing discards what it is given, so nothing is sent after that.
* **Order.** Before a reply to one connection, the hub flushes what is pending for that
  connection, so that a reply never overtakes a publication. Only a blocked connection
  gets a reply ahead of publications that it has yet to catch up with. A join seals the
  room first, so that the new member gets no older publication. Leaving and closing
  flush first, also for a blocked connection.
* **Descriptors.** A descriptor is used between ``register`` and the first of
  ``unregister``, ``close`` and eviction, never later. asyncio calls
  ``connection_lost`` before it closes the socket, so the protocol must call
  ``unregister`` there.
* **No callbacks inside the send loop.** Evictions are reported by ``call_soon``, so that
  ``on_evict`` can call any method of the hub. A transport's ``write``, however, calls its
  protocol's ``pause_writing`` at once, and the protocol can use the hub from there.
  Therefore all state is recorded before each write, and slots are looked up again after it.

The hub deliberately does not know JSON, users, history, brokers or HTTP. It knows bytes,
rooms and connections, and imports nothing else of fastchat. It never uses the descriptor
of a TLS connection or of a transport without a socket: these get the same batches through
``transport.write``.

This file holds `Hub`, the public interface. The implementation is functions that take the
hub as their first argument, in files that are included here and compiled with this one:
`fanout/wire` (frames, the send loop), `fanout/room` (`Room`: members and log),
`fanout/connection` (`Connection`, and writes to a single connection), `fanout/flush` (from
pending frames into the log, from the log to all members), `fanout/endings` (attaching,
leaving, closing, eviction, the sweep), `fanout/lag` (what is kept for slow connections,
and its bounds) and `fanout/verify` (the invariants).
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

from heapq import heapify, heappop, heappush

cdef extern from *:
    """
    #ifndef FASTCHAT_DEBUG
    #define FASTCHAT_DEBUG 0
    #endif
    """
    bint FASTCHAT_DEBUG

#: True in the build that `FASTCHAT_DEBUG=1` makes: bounds checks and assertions.
DEBUG = bool(FASTCHAT_DEBUG)

#: The room of callers that name none.
DEFAULT_ROOM = "lobby"


cdef object _logger():
    # Imported here, as asyncio in `Hub.__init__`: a program that runs an event loop has imported
    # both already, and without them `import fastchat.hub` takes a quarter of the time.
    import logging
    return logging.getLogger("fastchat.hub")


include "fanout/wire.pxi"
include "fanout/room.pxi"
include "fanout/connection.pxi"
include "fanout/flush.pxi"
include "fanout/endings.pxi"
include "fanout/lag.pxi"
include "fanout/verify.pxi"


cdef class Hub:
    """The compiled methods of `fastchat.Hub`, which documents the arguments."""
    cdef dict _rooms            # name -> Room
    cdef dict _connections      # transport -> Connection
    cdef list _by_descriptor    # descriptor -> Connection or None
    cdef list _dirty            # rooms with pending frames or unserved members
    cdef object _loop, _clock, _on_evict, _tick_callback
    cdef object _sweep_handle, _later_handle
    cdef unsigned long _thread
    cdef bint _flushing, _soon, _closed
    cdef Py_ssize_t _max_lag_bytes, _max_connection_lag_bytes, _max_lag_total_bytes, _slice_visits
    cdef double _max_lag_s, _ping_interval_s, _pong_timeout_s, _swept_at, _later_at
    cdef uint64_t _publications
    cdef Sent _sent
    cdef dict _evictions        # close code -> number of evictions
    cdef dict _slow_evictions   # the bound that was exceeded -> number of evictions with 4008
    # What is kept for slow connections: see lag.pxi.
    cdef Py_ssize_t _batch_bytes, _private_bytes, _peak_bytes, _check_step
    cdef uint64_t _appended, _dropped   # bytes of batches in all logs
    cdef uint64_t _queued               # and bytes that transports were given to hold
    cdef uint64_t _check_at
    cdef dict _lagging          # Connection -> None, in order
    cdef dict _holders          # address of a batch -> number of transports that hold it
    cdef bint _checking

    def __init__(self, *, Py_ssize_t max_lag_bytes=1 << 20,
                 Py_ssize_t max_connection_lag_bytes=4 << 20,
                 Py_ssize_t max_lag_total_bytes=48 << 20, double max_lag_s=10.0,
                 double ping_interval_s=0.0, double pong_timeout_s=10.0,
                 on_evict=None, clock=None, Py_ssize_t slice_visits=SLICE):
        if max_lag_bytes < 1024:
            raise ValueError(f"max_lag_bytes must be at least 1024, not {max_lag_bytes}")
        if max_connection_lag_bytes < 1024 or max_lag_total_bytes < 1024:
            raise ValueError("max_connection_lag_bytes and max_lag_total_bytes must be at least 1024")
        if max_lag_s <= 0 or ping_interval_s < 0 or pong_timeout_s <= 0:
            raise ValueError("max_lag_s and pong_timeout_s must be above 0, ping_interval_s not below")
        if not 1 <= slice_visits <= SLICE:
            raise ValueError(f"slice_visits must be 1 to {SLICE}, not {slice_visits}")
        import asyncio
        self._loop = asyncio.get_running_loop()
        self._clock = clock if clock is not None else self._loop.time
        self._on_evict = on_evict
        self._thread = PyThread_get_thread_ident()
        self._tick_callback = self._tick
        self._max_lag_bytes = max_lag_bytes
        self._max_connection_lag_bytes = max_connection_lag_bytes
        self._max_lag_total_bytes = max_lag_total_bytes
        self._check_step = min(
            CHECK_BYTES, max_connection_lag_bytes // 16, max_lag_total_bytes // 16)
        self._slice_visits = slice_visits
        self._max_lag_s = max_lag_s
        self._ping_interval_s = ping_interval_s
        self._pong_timeout_s = pong_timeout_s
        self._rooms = {}
        self._connections = {}
        self._by_descriptor = []
        self._dirty = []
        self._swept_at = self._clock()
        self._lagging = {}
        self._holders = {}
        self._evictions = {CLOSE_EVICTED: 0, CLOSE_HEARTBEAT: 0, CLOSE_ABNORMAL: 0}
        self._slow_evictions = {"room": 0, "connection": 0, "total": 0, "time": 0, "replies": 0}

    # Connections

    def register(self, transport, str room not None=DEFAULT_ROOM):
        """Put `transport` into `room` and return its `Connection`.

        The transport gets every publication from now on. It can be in many rooms; a
        second registration in the same room changes nothing. The hub must be the only writer
        of the transport: bytes that another writes can land in the middle of a frame. The
        transport's protocol must forward `pause_writing` and `resume_writing` to the connection,
        or the hub can do the same. (`member` sees to both for a WebSocket of another library.)
        Raises RuntimeError if the hub or the transport is closed.
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

        The protocol's `connection_lost` must call this without a room. A transport that
        leaves one room is first sent what is pending for it there. A transport that
        leaves the hub is sent nothing more. An unknown transport or room is ignored.
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
        """Add `transport` to the hub, in no room yet, and return its `Connection`.

        `owner` is any object, and is returned by ``connection.owner``. The hub must be the only
        writer of the transport, whose protocol must forward `pause_writing` and `resume_writing`
        to the connection. The method sets the transport's write-buffer limits so that
        `pause_writing` means exactly "the first byte is queued" and `resume_writing` exactly
        "empty". Raises RuntimeError if the hub is closed, or if the transport is closing or
        attached already.
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
        """Remove a connection from the hub at once; nothing more is sent to it.

        What is pending for it is dropped. What its transport holds is still sent. A second call
        does nothing.
        """
        _require_own(self, conn)
        if conn.state != DETACHED:
            _leave_all(self, conn)
            conn.state = DETACHED
            conn.rest = None
            _release(self, conn)
            self._connections.pop(conn.transport, None)
            if conn.fd >= 0 and self._by_descriptor[conn.fd] is conn:
                self._by_descriptor[conn.fd] = None

    def join(self, Connection conn not None, str name not None):
        """Make a connection a member of a room, which gets every later publication.

        Returns False, and changes nothing, if the connection is closed.
        """
        _require_own(self, conn)
        cdef Room room = self._rooms.get(name)
        if room is not None:
            _seal(self, room)
            # Sealing can run a transport's callback, or evict the last member, and
            # either can remove the room or close this connection.
            room = self._rooms.get(name)
        if conn.state != OPEN:
            return False
        if room is None:
            room = self._rooms[name] = Room(name)
        if room not in conn.seats:
            room.add(conn)
        return True

    def leave(self, Connection conn not None, str name not None):
        """End a membership. Earlier publications still arrive, even if it is blocked.

        A blocked connection that has left too much unread in its rooms is evicted.
        A room that the connection is not in is ignored.
        """
        _require_own(self, conn)
        cdef Room room = self._rooms.get(name)
        if room is None or room not in conn.seats:
            return
        _depart(self, room, conn)
        if conn.state == OPEN and conn.blocked and _backlog(self, conn) > MAX_BACKLOG_BYTES:
            _evict_slow(self, conn, "replies", "left more rooms than it read")
        if _is_check_due(self):
            _check_bounds(self)

    # Publishing

    def broadcast(self, data, str room not None=DEFAULT_ROOM):
        """Send `data` (bytes or any buffer) to all members of `room` as one binary message.

        The data is copied once, during this call, and sent at the end of the loop turn.
        A room without members is not an error. Raises RuntimeError if the hub is closed.
        """
        if isinstance(data, str):
            raise TypeError("broadcast() takes bytes; broadcast_text() takes str")
        _publish(self, OP_BINARY, data, room)

    def broadcast_text(self, text, str room not None=DEFAULT_ROOM):
        """Send `text` to all members of `room` as one text message.

        `text` is a str, or a buffer of UTF-8, which is not checked. As for `broadcast`,
        the data is copied once, and a closed hub raises RuntimeError.
        """
        _publish(self, OP_TEXT, text, room)

    def publish(self, str room not None, bytes payload not None, Connection but=None):
        """Send a text message to all members of `room`, except to the connection `but`.

        This must be called in the loop's thread. None means that no member is excluded.
        A member can be excluded only at the head of the log: a blocked one gets the
        message like all others. A room without members is not an error, so on a closed hub,
        which has no members, nothing happens.
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
        """Deliver all pending publications of all rooms now, without slices or pauses.

        A publication is delivered once it is written to the socket, or waits behind an
        earlier short write. A call from within a flush (from a transport's callback)
        does nothing.
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
        if _is_check_due(self):
            _check_bounds(self)

    def end_turn(self):
        """Flush one slice now, for a caller that knows that its loop turn is over.

        The publications then leave one callback earlier than the loop would send them.
        A call from within a flush does nothing.
        """
        if not self._flushing:
            _flush_slice(self)

    def _tick(self):
        """Flush one slice at the end of a loop turn."""
        self._soon = False
        _flush_slice(self)

    def _tick_later(self):
        self._later_handle = None
        _flush_slice(self)

    # Writing to one connection

    def send(self, Connection conn not None, data, int opcode=OP_TEXT):
        """Send one message to one connection, behind what is pending for it.

        `opcode` is the opcode of the frame (RFC 6455 §11.8): 1 (text), 2 (binary), 9
        (ping) or 10 (pong). `data` is a str, bytes or any buffer. Returns False, and sends
        nothing, if the connection is closed, or is evicted because too many replies wait
        for it. Raises ValueError for another opcode, and for a ping or a pong of more
        than 125 bytes.
        """
        _require_own(self, conn)
        if opcode not in (OP_TEXT, OP_BINARY, OP_PING, OP_PONG):
            raise ValueError(f"opcode must be 1, 2, 9 or 10, not {opcode}")
        cdef bytes frame = _frame_of(opcode, data)
        if opcode >= OP_CLOSE and PyBytes_GET_SIZE(frame) > 127:
            # RFC 6455 §5.5: "All control frames MUST have a payload length of 125 bytes
            # or less and MUST NOT be fragmented."
            raise ValueError("a control frame carries at most 125 bytes")
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
        """Close one connection: send what is pending for it, then a close frame.

        The caller must close the transport when the peer's close frame arrives. If that
        takes longer than 2 s, the sweep aborts the transport. `code` 1005 sends an empty
        close frame. `reason` is cut at 123 bytes (RFC 6455 §5.5). A second call does
        nothing. Raises ValueError for a code that a close frame cannot carry.
        """
        _require_own(self, conn)
        _close_one(self, conn, _close_frame(code, reason))

    def stop_sending(self, Connection conn not None):
        """Close one connection without a close frame, because its owner has sent one itself.

        Nothing more is sent. As after `close_connection`, the owner must close the transport,
        and the sweep aborts it after 2 s. A second call does nothing.
        """
        _require_own(self, conn)
        if conn.state == OPEN:
            _send_close(self, conn, None)

    def evict(self, str name not None, int code, str reason not None=""):
        """Close every member of a room, and report each to `on_evict`.

        Publications that the members have yet to be sent are dropped. `code` and `reason`
        are those of the close frame, as for `close_connection`. This can be called from any
        thread.
        """
        if _is_elsewhere(self):
            _hand_to_loop(self, self.evict, (name, code, reason))
            return
        cdef Room room = self._rooms.get(name)
        for conn in tuple(room.members) if room is not None else ():
            _evict(self, <Connection>conn, code, reason)

    def close(self, int code=CLOSE_GOING_AWAY, str reason not None=""):
        """Close every connection, as `close_connection` does, and the hub itself.

        Afterwards the hub accepts neither connections nor publications. As long as the loop
        runs, transports whose peers do not answer are aborted within 3 s. A second call does
        nothing. `code` and `reason` are those of the close frames.
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
        """Close the hub, abort every transport that is left, and end the sweep.

        No close frames are sent, and `on_evict` is not called. A transport that cannot be aborted
        is logged. A second call does nothing.
        """
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
        """Send due pings, evict late connections, and abort closed ones whose time is over.

        The hub calls this once a second while it has connections. So each of these times can be
        exceeded by a second. A transport that fails is logged, and its connection is lost.
        """
        cdef double now = self._clock()
        cdef Connection conn
        # After a pause of the whole process (SIGSTOP, a suspended laptop) the pongs may
        # be waiting to be read. So every connection gets its full time again.
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
        _return_memory(self)

    # Statistics and checks

    def client_count(self, room=None):
        """Return the number of members of `room`, or of all connections for None.

        A room that does not exist has 0 members.
        """
        cdef Room found
        if room is None:
            return len(self._connections)
        found = self._rooms.get(room)
        return 0 if found is None else found.size

    def stats(self):
        """Return the hub's counters since its start and its gauges, for metrics.

        Gauges are ``connections``, ``rooms``, ``blocked`` (connections), ``log_bytes``
        (over all rooms) and ``lag_bytes`` (the logs, and what transports hold; this is what
        ``max_lag_total_bytes`` bounds). Counters are ``publications``, ``deliveries``,
        ``bytes``, ``evictions`` (by close code) and ``slow_evictions`` (those with 4008, by
        the bound that was exceeded: ``room``, ``connection``, ``total``, ``time`` or
        ``replies``). A delivery is one publication handed to one member's socket or
        transport. ``bytes`` counts all bytes handed to sockets and transports, those of
        frame headers, replies and pings included.
        """
        cdef Connection conn
        cdef Py_ssize_t blocked = 0
        for conn in self._connections.values():
            blocked += conn.blocked
        return {
            "connections": len(self._connections),
            "rooms": len(self._rooms),
            "blocked": blocked,
            "log_bytes": _log_bytes(self),
            "lag_bytes": _kept(self),
            "publications": self._publications,
            "deliveries": self._sent.deliveries,
            "bytes": self._sent.bytes,
            "evictions": dict(self._evictions),
            "slow_evictions": dict(self._slow_evictions),
        }

    def verify(self):
        """Check every invariant between rooms, slots and connections, for tests.

        Raises an AssertionError that names the broken invariant.
        """
        cdef Room room
        cdef Connection conn
        for room in self._rooms.values():
            _verify_room(self, room)
        for conn in self._connections.values():
            _verify_connection(self, conn)
        _verify_lag(self)


cdef bint _is_elsewhere(Hub hub) noexcept:
    """Whether the calling thread is not the loop's."""
    return hub._thread != PyThread_get_thread_ident()


cdef _hand_to_loop(Hub hub, method, tuple arguments):
    hub._loop.call_soon_threadsafe(method, *arguments)
