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
  say so; every write passes through them.
* **Order.** A reply to one connection first flushes what is pending for it, so
  it never overtakes a publication. Only a blocked connection gets a reply ahead
  of publications it has yet to catch up with. Joining seals first: a new member
  gets nothing older. Leaving and closing flush first, also when blocked.
* **Descriptors.** A descriptor is used between ``register`` and the first of
  ``unregister``, ``close`` and eviction, never later; asyncio calls
  ``connection_lost`` before it closes the socket, and there ``unregister`` belongs.
* **No callbacks inside the send loop**, and evictions are reported by
  ``call_soon``, so that whoever hears of one may do as he likes.

What it deliberately does not do: JSON, users, history, brokers, HTTP. It knows
bytes, rooms and connections, and imports nothing of ours. TLS connections, and
any transport without a socket, never use a descriptor: they take the same batches
through ``transport.write``.
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

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr *message, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

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

# RFC 6455 §11.8
cdef enum:
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA

# The hub's own close codes, from the range for private use (RFC 6455 §7.4.2).
cdef enum:
    CLOSE_GOING_AWAY = 1001
    CLOSE_ABNORMAL = 1006      # never on the wire: the connection is lost already
    CLOSE_EVICTED = 4008
    CLOSE_HEARTBEAT = 4009

cdef enum:
    # Visits a loop turn: about 1 ms of sends at 3.3 µs each, so that reading,
    # pings and other rooms go on while a big room is flushed.
    SLICE = 256
    # A batch is sealed early at this size: it is what a transport may hold for
    # one blocked connection, and the grain in which a log is trimmed.
    MAX_BATCH_BYTES = 65536
    # Batches in one sendmsg(): enough to fill a socket buffer, small on the stack.
    MAX_IOVECS = 64
    # What a batch costs beyond its bytes (object header, log entry), counted so
    # that a log of tiny batches keeps to its bound in real memory.
    BATCH_OVERHEAD = 80
    # What may wait in a transport for one connection alone: replies and pongs.
    MAX_BACKLOG_BYTES = 327680
    # Rooms whose flush is worth pacing; smaller ones take well under 1 ms.
    PACED_MEMBERS = 256

# A closed connection is aborted when its transport has not ended by then.
cdef double CLOSE_GRACE_S = 2.0
cdef double SWEEP_INTERVAL_S = 1.0
# Flushes shorter than this are not paced: the loop's timers count milliseconds.
cdef double MIN_PACED_S = 0.001

cdef enum:
    BLOCKED = 1

cdef enum:
    DONE = -1       # at the head
    DEAD = -2       # send() failed for good

cdef enum State:
    OPEN = 0
    CLOSING = 1     # in no room; its close frame is on the way
    DETACHED = 2    # the hub does not touch it any more

cdef struct Slot:
    int fd          # -1: through its transport
    uint32_t flags
    uint64_t cursor # number of the next batch it needs

cdef struct Batch:
    const char *data
    size_t size
    size_t frames


cdef inline double _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef bytes _frame(int opcode, const char *payload, Py_ssize_t size):
    """One unfragmented, unmasked frame (RFC 6455 §5.2)."""
    cdef Py_ssize_t header = 2 if size < 126 else 4 if size < 65536 else 10
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, header + size)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(frame)
    cdef int shift
    out[0] = <uint8_t>(0x80 | opcode)
    if header == 2:
        out[1] = <uint8_t>size
    elif header == 4:
        out[1] = 126
        out[2] = <uint8_t>(size >> 8)
        out[3] = <uint8_t>size
    else:
        out[1] = 127
        for shift in range(8):
            out[2 + shift] = <uint8_t>(<uint64_t>size >> (56 - 8 * shift))
    memcpy(out + header, payload, size)
    return frame


cdef bytes _frame_of(int opcode, object data):
    """Frame ``str`` (as UTF-8), ``bytes`` or anything else with a buffer."""
    cdef Py_buffer view
    cdef const char *text
    cdef Py_ssize_t size
    if isinstance(data, bytes):
        return _frame(opcode, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    if isinstance(data, str):
        text = PyUnicode_AsUTF8AndSize(data, &size)
        return _frame(opcode, text, size)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return _frame(opcode, <const char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef ssize_t _send_from(
    Slot *slot, const Batch *log, uint64_t base, uint64_t head, uint64_t *deliveries
) noexcept nogil:
    """Write what lies between a member's cursor and the head of its room's log.

    Moves the cursor over the batches that went out whole. Returns DONE, DEAD, or
    how many bytes of the batch at the cursor went out before the socket was full.
    """
    cdef iovec vectors[MAX_IOVECS]
    cdef msghdr message
    cdef const Batch *batch
    cdef ssize_t sent
    cdef Py_ssize_t count, i
    while slot.cursor < head:
        batch = log + (slot.cursor - base)
        count = <Py_ssize_t>(head - slot.cursor)
        if count == 1:
            sent = c_send(slot.fd, batch.data, batch.size, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            if count > MAX_IOVECS:
                count = MAX_IOVECS
            for i in range(count):
                vectors[i].iov_base = <void *>batch[i].data
                vectors[i].iov_len = batch[i].size
            memset(&message, 0, sizeof(message))
            message.msg_iov = vectors
            message.msg_iovlen = count
            sent = c_sendmsg(slot.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN or errno == ENOBUFS:
                return 0
            return DEAD
        for i in range(count):
            if <size_t>sent < batch[i].size:
                return sent
            sent -= <ssize_t>batch[i].size
            slot.cursor += 1
            deliveries[0] += batch[i].frames
    return DONE


cdef Py_ssize_t _send_slice(
    Slot *slots, Py_ssize_t start, Py_ssize_t stop,
    const Batch *log, uint64_t base, uint64_t head,
    int32_t *who, ssize_t *outcome, uint64_t *deliveries
) noexcept nogil:
    """The send loop. Returns how many members need more than it may do.

    `who` and `outcome` have room for `stop - start` entries: a member's index,
    and what `_send_from` said of it.
    """
    cdef Py_ssize_t i, short_count = 0
    cdef ssize_t sent
    for i in range(start, stop):
        if slots[i].cursor == head or slots[i].flags & BLOCKED:
            continue
        sent = 0
        if slots[i].fd >= 0:
            sent = _send_from(&slots[i], log, base, head, deliveries)
            if sent == DONE:
                continue
        who[short_count] = <int32_t>i
        outcome[short_count] = sent
        short_count += 1
    return short_count


@cython.final
cdef class Room:
    """A room's members, its pending frames and its log. Private to the hub."""
    cdef readonly str name
    # members: slots[i] and members[i] belong together; removal swaps the last in
    cdef Slot *slots
    cdef Py_ssize_t size, capacity
    cdef list members
    cdef Py_ssize_t blocked         # how many slots carry BLOCKED
    # frames of this turn, not in the log yet
    cdef list pending
    cdef Py_ssize_t pending_bytes
    # the log: batches[i] and log[i] belong together and have number base + i
    cdef list batches
    cdef Batch *log
    cdef Py_ssize_t log_capacity, log_bytes
    cdef uint64_t base, head
    # the round: `unserved` members from `next` on, in a circle, are still to visit
    cdef Py_ssize_t next, unserved
    cdef bint dirty                 # in the hub's list of rooms to flush
    # pacing
    cdef double spent_s, not_before
    cdef uint64_t round_frames

    def __cinit__(self, str name):
        self.name = name
        self.members = []
        self.pending = []
        self.batches = []

    def __dealloc__(self):
        free(self.slots)
        free(self.log)

    cdef int add(self, Connection conn) except -1:
        """A new member, at the head: it gets what is published from now on."""
        cdef Py_ssize_t capacity
        cdef void *grown
        if self.size == self.capacity:
            capacity = self.capacity * 2 if self.capacity else 4
            grown = realloc(self.slots, capacity * sizeof(Slot))
            if grown == NULL:
                raise MemoryError
            self.slots = <Slot *>grown
            self.capacity = capacity
        self.members.append(conn)
        self.slots[self.size].fd = conn.fd
        self.slots[self.size].flags = BLOCKED if conn.blocked else 0
        self.slots[self.size].cursor = self.head
        self.blocked += conn.blocked
        conn.seats[self] = self.size
        self.size += 1
        if self.unserved:
            self.unserved = self.size   # the circle has grown: go round once more
        return 0

    cdef int remove(self, Connection conn) except -1:
        """Swap the last member into the place of the one that goes."""
        cdef Py_ssize_t i = conn.seats.pop(self), last = self.size - 1
        cdef Connection moved = self.members.pop()
        assert moved.seats.get(self, i) == (last if moved is not conn else i)
        if self.slots[i].flags & BLOCKED:
            self.blocked -= 1
        if i != last:
            self.slots[i] = self.slots[last]
            self.members[i] = moved
            moved.seats[self] = i
        self.size = last
        if self.unserved:
            self.unserved = last
        if self.next >= last:
            self.next = 0
        return 0

    cdef int append(self, bytes batch, size_t frames) except -1:
        """Append a batch to the log and begin a new round."""
        cdef Py_ssize_t count = len(self.batches), capacity
        cdef void *grown
        if count == self.log_capacity:
            capacity = self.log_capacity * 2 if self.log_capacity else 4
            grown = realloc(self.log, capacity * sizeof(Batch))
            if grown == NULL:
                raise MemoryError
            self.log = <Batch *>grown
            self.log_capacity = capacity
        self.batches.append(batch)
        self.log[count].data = PyBytes_AS_STRING(batch)
        self.log[count].size = PyBytes_GET_SIZE(batch)
        self.log[count].frames = frames
        self.log_bytes += PyBytes_GET_SIZE(batch) + BATCH_OVERHEAD
        self.head += 1
        self.unserved = self.size
        return 0

    cdef int drop(self, Py_ssize_t count) except -1:
        """Drop the oldest `count` batches of the log."""
        cdef Py_ssize_t i, left = len(self.batches) - count
        assert 0 <= count <= len(self.batches)
        if left == 0:
            self.batches.clear()
            self.log_bytes = 0
            if self.log_capacity > 64:      # after a long lag, give the array back
                free(self.log)
                self.log = NULL
                self.log_capacity = 0
        else:
            for i in range(count):
                self.log_bytes -= self.log[i].size + BATCH_OVERHEAD
            memmove(self.log, self.log + count, left * sizeof(Batch))
            del self.batches[:count]
        self.base += count
        return 0

    cdef uint64_t lowest(self, uint32_t skip) noexcept:
        """The lowest cursor among the members without a flag of `skip`."""
        cdef uint64_t low = self.head
        cdef Py_ssize_t i
        for i in range(self.size):
            if not self.slots[i].flags & skip and self.slots[i].cursor < low:
                low = self.slots[i].cursor
        return low


@cython.final
cdef class Connection:
    """One transport that the hub writes to, in any number of rooms.

    Made by `Hub.register` or `Hub.attach`. Whoever owns the transport's protocol
    forwards `pause_writing` and `resume_writing` to it. The hub holds a strong
    reference to it, and it to its transport, until `Hub.unregister` or eviction.
    """
    cdef readonly object transport
    cdef readonly object owner
    cdef Hub hub
    cdef object write           # transport.write, where there is no descriptor
    cdef int fd
    cdef dict seats             # Room -> index of its slot
    cdef object rest            # of a batch: to be handed to the transport before anything else
    cdef State state
    cdef bint awaits_pong
    cdef readonly bint blocked
    cdef double blocked_since, ping_due, close_deadline

    @property
    def closed(self):
        """True once it is closed, evicted or unregistered: nothing more is sent to it."""
        return self.state != OPEN

    @property
    def rooms(self):
        """The names of the rooms it is in."""
        return [(<Room>room).name for room in self.seats]

    def pause_writing(self):
        """To be called from the protocol's `pause_writing`."""
        if self.state == OPEN:
            self.hub._block(self)

    def resume_writing(self):
        """To be called from the protocol's `resume_writing`: the transport is empty."""
        if self.state == OPEN and self.blocked:
            self.hub._catch_up(self)

    def pong(self):
        """To be called when a pong arrives: any, the heartbeat's pings carry no payload."""
        if self.awaits_pong:
            self.awaits_pong = False
            self.ping_due += self.hub._ping_interval_s - self.hub._pong_timeout_s


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
    """
    cdef dict _rooms            # name -> Room
    cdef dict _connections      # transport -> Connection
    cdef list _by_descriptor    # descriptor -> Connection or None
    cdef list _dirty            # rooms with something pending or unserved
    cdef object _loop, _clock, _on_evict, _tick_callback
    cdef object _sweep_handle, _later_handle
    cdef unsigned long _thread
    cdef bint _flushing, _soon, _closed
    cdef Py_ssize_t _max_lag_bytes
    cdef double _max_lag_s, _ping_interval_s, _pong_timeout_s, _swept_at
    cdef uint64_t _publications, _deliveries
    cdef dict _evictions        # close code -> how many

    def __init__(self, *, Py_ssize_t max_lag_bytes=1 << 20, double max_lag_s=10.0,
                 double ping_interval_s=0.0, double pong_timeout_s=10.0,
                 on_evict=None, clock=None):
        if max_lag_bytes < 1024:
            raise ValueError(f"max_lag_bytes must be at least 1024, not {max_lag_bytes}")
        if max_lag_s <= 0 or ping_interval_s < 0 or pong_timeout_s <= 0:
            raise ValueError("max_lag_s and pong_timeout_s must be above 0, ping_interval_s not below")
        self._loop = asyncio.get_running_loop()
        self._clock = clock if clock is not None else self._loop.time
        self._on_evict = on_evict
        self._thread = PyThread_get_thread_ident()
        self._tick_callback = self._tick
        self._max_lag_bytes = max_lag_bytes
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

    def register(self, transport, room=DEFAULT_ROOM):
        """Put `transport` into `room` and return its `Connection`.

        It gets what is broadcast from now on. A transport may be in many rooms; a
        second registration in the same room changes nothing. Raises RuntimeError
        when the hub or the transport is closed.
        """
        if self._is_elsewhere():
            self._hand_to_loop(self.register, (transport, room))
            return None
        cdef Connection conn = self._connections.get(transport)
        if conn is None:
            conn = self.attach(transport)
        self.join(conn, room)
        return conn

    def unregister(self, transport, room=None):
        """Take `transport` out of `room`, or with None out of the hub.

        The latter belongs into the protocol's `connection_lost`. What is pending
        for the room is sent first if it is left alone, and dropped if the
        transport goes. An unknown transport or room is ignored.
        """
        if self._is_elsewhere():
            self._hand_to_loop(self.unregister, (transport, room))
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
        conn.fd = self._descriptor(transport)
        if conn.fd < 0:
            conn.write = transport.write
        else:
            self._claim_descriptor(conn)
        # uvloop's TLS transport pauses at `>= high`, its TCP transport above it.
        transport.set_write_buffer_limits(0 if conn.fd >= 0 else 1, 0)
        if transport.get_write_buffer_size() > 0:
            self._block(conn)
        conn.ping_due = <double>self._clock() + self._ping_interval_s
        self._connections[transport] = conn
        if self._sweep_handle is None:
            self._sweep_handle = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep_again)
        return conn

    cdef int _descriptor(self, transport) except -2:
        """The descriptor that may be written to directly, or -1."""
        sock = transport.get_extra_info("socket")
        if sock is None or transport.get_extra_info("ssl_object") is not None:
            return -1
        return sock.fileno()

    cdef int _claim_descriptor(self, Connection conn) except -1:
        """Note whose the descriptor is.

        If the hub knows another connection by it, that one's socket was closed and
        `unregister` forgotten: it must not write to its successor's socket.
        """
        cdef Connection stale
        while len(self._by_descriptor) <= conn.fd:
            self._by_descriptor.append(None)
        stale = self._by_descriptor[conn.fd]
        self._by_descriptor[conn.fd] = conn
        if stale is not None:
            logger.warning("descriptor %d was reused before its transport was unregistered", conn.fd)
            self.detach(stale)
        return 0

    def detach(self, Connection conn not None):
        """Forget a connection at once, sending nothing. Safe to call again."""
        if conn.state != DETACHED:
            self._leave_all(conn)
            conn.state = DETACHED
            conn.rest = None
            self._connections.pop(conn.transport, None)
            if conn.fd >= 0 and self._by_descriptor[conn.fd] is conn:
                self._by_descriptor[conn.fd] = None

    def join(self, Connection conn not None, str name not None):
        """Make a connection a member of a room: it gets what is published from now on."""
        if conn.state != OPEN:
            raise RuntimeError("the connection is closed")
        cdef Room room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name)
        elif room in conn.seats:
            return
        self._seal(room)
        self._rooms[name] = room    # sealing may evict its last member, and drop it
        room.add(conn)

    def leave(self, Connection conn not None, str name not None):
        """End a membership; what was published before still arrives, also when blocked."""
        cdef Room room = self._rooms.get(name)
        if room is None or room not in conn.seats:
            return
        self._depart(room, conn)
        if conn.state == OPEN and conn.blocked and self._backlog(conn) > MAX_BACKLOG_BYTES:
            self._evict(conn, CLOSE_EVICTED, "left more rooms than it read")

    cdef int _depart(self, Room room, Connection conn) except -1:
        self._seal(room)
        if room in conn.seats:
            if conn.blocked:
                self._queue_missing(room, conn)
            else:
                self._serve_one(room, conn)
        if room in conn.seats:      # it may have been lost just now
            if conn.blocked:
                self._queue_missing(room, conn)
            self._remove(room, conn)
        return 0

    cdef int _remove(self, Room room, Connection conn) except -1:
        room.remove(conn)
        if room.size == 0:
            # Nobody is left to read what is pending or logged.
            room.pending.clear()
            room.pending_bytes = 0
            room.unserved = 0
            room.drop(len(room.batches))
            if self._rooms.get(room.name) is room:
                del self._rooms[room.name]
        return 0

    cdef int _leave_all(self, Connection conn) except -1:
        for room in tuple(conn.seats):
            self._remove(<Room>room, conn)
        return 0

    # Publishing

    def broadcast(self, data, room=DEFAULT_ROOM):
        """Send `data` (bytes or any buffer) to all members of `room` as one binary message.

        The data is copied once, here. It goes out at the end of this loop turn.
        A room without members is no error. Raises RuntimeError once the hub is closed.
        """
        self._publish(OP_BINARY, data, room)

    def broadcast_text(self, text, room=DEFAULT_ROOM):
        """Send `text` (str, or bytes that are UTF-8 already) as one text message."""
        self._publish(OP_TEXT, text, room)

    cpdef publish(self, str room, bytes payload, Connection but=None):
        """`broadcast_text` for the loop's own thread, optionally to all `but` one.

        The one left out must be at the head for that: while it is blocked it gets
        the message like the others.
        """
        cdef Room target = self._rooms.get(room)
        if target is None:
            return
        if but is None or target not in but.seats:
            self._append(target, _frame_of(OP_TEXT, payload))
            return
        self._seal(target)
        if not but.blocked:
            self._serve_one(target, but)
        self._append(target, _frame_of(OP_TEXT, payload))
        self._seal(target)
        if target in but.seats:
            self._skip_newest(target, but)

    cdef int _skip_newest(self, Room room, Connection conn) except -1:
        cdef Slot *slot = &room.slots[<Py_ssize_t>conn.seats[room]]
        if not conn.blocked and slot.cursor + 1 == room.head:
            slot.cursor += 1
        return 0

    cdef int _publish(self, int opcode, object data, str room) except -1:
        if self._thread != PyThread_get_thread_ident():
            # A mutable buffer may change before the loop gets to it: copy it now.
            self._loop.call_soon_threadsafe(
                self._publish_framed, _frame_of(opcode, data), room)
            return 0
        if self._closed:
            raise RuntimeError("the hub is closed")
        cdef Room target = self._rooms.get(room)
        if target is not None:
            self._append(target, _frame_of(opcode, data))
        return 0

    def _publish_framed(self, bytes frame, str room):
        cdef Room target = self._rooms.get(room)
        if target is not None:
            self._append(target, frame)

    cdef int _append(self, Room room, bytes frame) except -1:
        room.pending.append(frame)
        room.pending_bytes += PyBytes_GET_SIZE(frame)
        self._publications += 1
        if not room.dirty:
            room.dirty = True
            self._dirty.append(room)
            self._schedule()
        if room.pending_bytes >= MAX_BATCH_BYTES:
            self._seal(room)
        return 0

    cdef int _seal(self, Room room) except -1:
        """Move the pending frames into the log as one batch."""
        cdef Py_ssize_t count = len(room.pending)
        if count == 0:
            return 0
        if count == 1:
            room.append(<bytes>room.pending[0], 1)
        else:
            room.append(b"".join(room.pending), count)
        room.pending.clear()
        room.pending_bytes = 0
        room.round_frames += count
        if room.log_bytes > self._max_lag_bytes:
            self._shrink(room)
        return 0

    # Flushing

    def flush(self):
        """Deliver everything pending now, completely, without waiting for the turn's end.

        "Delivered" is written to the socket, or waiting behind an earlier short
        write. Called from within a flush (a transport's callback) it does nothing.
        """
        if self._is_elsewhere():
            self._hand_to_loop(self.flush, ())
            return
        cdef Room room
        if self._flushing:
            return
        while self._dirty:
            room = self._dirty.pop()
            room.dirty = False
            self._seal(room)
            self._serve_all(room)

    cdef _schedule(self):
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._tick_callback)

    def _tick(self):
        """The end of a loop turn: one slice of all there is to flush."""
        self._soon = False
        self._flush_slice()

    def _tick_later(self):
        self._later_handle = None
        self._flush_slice()

    cdef int _flush_slice(self) except -1:
        cdef Py_ssize_t budget = SLICE
        cdef list rooms = self._dirty, waiting = [], unfinished = []
        cdef double now = 0.0, wake = 0.0
        cdef Room room
        self._dirty = []
        for room in rooms:
            if room.not_before > 0.0:
                now = _now() if now == 0.0 else now
                if room.not_before > now:
                    wake = room.not_before if wake == 0.0 else min(wake, room.not_before)
                    waiting.append(room)
                    continue
            if budget <= 0:
                unfinished.append(room)
                continue
            self._seal(room)
            budget -= self._serve(room, budget)
            if room.unserved == 0:
                self._pace(room)
            room.dirty = room.unserved > 0 or len(room.pending) > 0
            if room.dirty:
                unfinished.append(room)
        # Whoever has work left joins the end of the line.
        self._dirty = waiting + self._dirty + unfinished
        if unfinished:
            self._schedule()
        elif wake > 0.0 and self._later_handle is None:
            self._later_handle = self._loop.call_later(wake - now, self._tick_later)
        return 0

    cdef int _pace(self, Room room) except -1:
        """After a flush that took long and carried much, let the room wait as long again.

        Under load the next flush then carries twice as much for the same number of
        sends. A flush of one lone publication is never followed by a pause.
        """
        if room.spent_s >= MIN_PACED_S and room.round_frames > 1:
            room.not_before = _now() + room.spent_s
        else:
            room.not_before = 0.0
        room.spent_s = 0.0
        room.round_frames = 0
        return 0

    cdef Py_ssize_t _serve(self, Room room, Py_ssize_t budget) except -1:
        """Visit up to `budget` members that the round has not reached yet; returns how many."""
        cdef Py_ssize_t visited = 0
        cdef double started = 0.0
        cdef bint timed = room.size >= PACED_MEMBERS
        cdef bint was_flushing = self._flushing
        if timed:
            started = _now()
        self._flushing = True
        try:
            while room.unserved > 0 and visited < budget:
                visited += self._serve_slice(room, min(budget - visited, SLICE))
        finally:
            self._flushing = was_flushing
        if timed:
            room.spent_s += _now() - started
        if room.unserved == 0:
            self._forget(room)
        return visited

    cdef int _serve_all(self, Room room) except -1:
        self._serve(room, room.unserved)
        while room.unserved:        # it grew meanwhile
            self._serve(room, room.unserved)
        return 0

    cdef Py_ssize_t _serve_slice(self, Room room, Py_ssize_t budget) except -1:
        cdef int32_t who[SLICE]
        cdef ssize_t outcome[SLICE]
        cdef Py_ssize_t start = room.next
        cdef Py_ssize_t count = min(min(room.unserved, budget), room.size - start)
        cdef Py_ssize_t short_count
        assert 0 <= start and 0 < count <= SLICE and start + count <= room.size
        assert len(room.members) == room.size
        short_count = _send_slice(
            room.slots, start, start + count, room.log, room.base, room.head,
            who, outcome, &self._deliveries)
        room.unserved -= count
        room.next = start + count if start + count < room.size else 0
        if short_count:
            self._finish_slice(room, who, outcome, short_count)
        return count

    cdef int _finish_slice(self, Room room, int32_t *who, ssize_t *outcome,
                           Py_ssize_t count) except -1:
        """Deal with the members for whom the send loop could not do all.

        First everything that must be on record before any Python code may run
        again, because that code could write to one of them or change the room.
        """
        cdef Py_ssize_t j
        cdef Connection conn
        cdef Slot *slot
        cdef bytes newest = <bytes>room.batches[-1]
        cdef list short_ones = []
        for j in range(count):
            conn = <Connection>room.members[who[j]]
            slot = &room.slots[who[j]]
            short_ones.append(conn)
            if outcome[j] == DEAD:
                continue
            if conn.fd >= 0:
                self._take_rest(room, conn, slot, outcome[j])
            elif slot.cursor + 1 == room.head:
                # The usual case for a transport without a descriptor: one batch.
                slot.cursor += 1
                outcome[j] = DONE
                self._deliveries += room.log[len(room.batches) - 1].frames
        for j in range(count):
            conn = <Connection>short_ones[j]
            if conn.state != OPEN:
                continue
            if outcome[j] == DEAD:
                self._lose(conn)
            elif conn.fd >= 0:
                if not self._hand_over(conn):
                    self._catch_up(conn)
            elif outcome[j] == DONE:
                self._write_through(conn, newest)
            elif not conn.blocked:
                self._serve_one(room, conn)
        return 0

    cdef int _take_rest(self, Room room, Connection conn, Slot *slot, ssize_t sent) except -1:
        """Block a connection on the batch at its cursor, `sent` bytes of which went out."""
        cdef Py_ssize_t i = <Py_ssize_t>(slot.cursor - room.base)
        assert 0 <= i < len(room.batches) and 0 <= sent < <ssize_t>room.log[i].size
        self._block(conn)
        batch = room.batches[i]
        conn.rest = memoryview(batch)[sent:] if sent else batch
        self._deliveries += room.log[i].frames
        slot.cursor += 1
        return 0

    cdef bint _hand_over(self, Connection conn) except -1:
        """Give the rest of a batch to the transport. True if the connection stays blocked."""
        rest = conn.rest
        conn.rest = None
        if rest is not None and not self._write_through(conn, rest):
            return True
        return conn.state != OPEN or self._backlog(conn) > 0

    cdef int _serve_one(self, Room room, Connection conn) except -1:
        """Bring one member to the head of its room; 0 if its transport fills up before."""
        cdef Slot *slot
        cdef ssize_t sent
        while conn.state == OPEN and room in conn.seats:
            # Looked up each time: a transport's callback may have moved it.
            slot = &room.slots[<Py_ssize_t>conn.seats[room]]
            if slot.cursor == room.head:
                return 1
            if conn.fd < 0:
                if not self._write_missing(room, conn, slot):
                    return 0
                if self._backlog(conn) > 0:
                    self._block(conn)
                    return 0
                continue
            sent = _send_from(slot, room.log, room.base, room.head, &self._deliveries)
            if sent == DEAD:
                self._lose(conn)
                return 0
            if sent != DONE:
                self._take_rest(room, conn, slot, sent)
                if self._hand_over(conn):
                    return 0
                self._unblock(conn)
        return 1

    cdef bint _write_missing(self, Room room, Connection conn, Slot *slot) except -1:
        """For a transport without a descriptor: a write of up to MAX_BATCH_BYTES."""
        cdef Py_ssize_t first = <Py_ssize_t>(slot.cursor - room.base), i = first
        cdef size_t size = 0
        while i < len(room.batches) and (i == first or size + room.log[i].size <= MAX_BATCH_BYTES):
            size += room.log[i].size
            self._deliveries += room.log[i].frames
            i += 1
        slot.cursor = room.base + i
        return self._write_through(
            conn, room.batches[first] if i == first + 1 else b"".join(room.batches[first:i]))

    cdef int _queue_missing(self, Room room, Connection conn) except -1:
        """Queue what a blocked member has yet to get behind what its transport holds."""
        cdef Slot *slot
        cdef Py_ssize_t first, i
        self._hand_over(conn)
        if conn.state != OPEN or room not in conn.seats:
            return 0
        slot = &room.slots[<Py_ssize_t>conn.seats[room]]
        first = <Py_ssize_t>(slot.cursor - room.base)
        for i in range(first, len(room.batches)):
            self._deliveries += room.log[i].frames
        slot.cursor = room.head
        for batch in room.batches[first:]:
            if not self._write_through(conn, batch):
                break
        return 0

    cdef int _catch_up(self, Connection conn) except -1:
        """The transport is empty: serve all its rooms, and unblock it at their heads."""
        if self._hand_over(conn):
            return 0
        conn.blocked_since = self._clock()
        if conn.awaits_pong:        # the ping was behind all that: it counts from now
            conn.ping_due = max(conn.ping_due, conn.blocked_since + self._pong_timeout_s)
        for room in tuple(conn.seats):
            if room in conn.seats and not self._serve_one(<Room>room, conn):
                return 0
        if conn.state == OPEN:
            self._unblock(conn)
            for room in conn.seats:
                if not (<Room>room).dirty:
                    self._forget(<Room>room)
        return 0

    cdef int _block(self, Connection conn) except -1:
        cdef Room room
        if not conn.blocked:
            conn.blocked = True
            conn.blocked_since = self._clock()
            for room, seat in conn.seats.items():
                room.slots[<Py_ssize_t>seat].flags |= BLOCKED
                room.blocked += 1
        return 0

    cdef int _unblock(self, Connection conn) except -1:
        cdef Room room
        if conn.blocked:
            conn.blocked = False
            for room, seat in conn.seats.items():
                room.slots[<Py_ssize_t>seat].flags &= ~<uint32_t>BLOCKED
                room.blocked -= 1
        return 0

    # The log's bounds

    cdef int _forget(self, Room room) except -1:
        """Drop what every member has."""
        cdef uint64_t low = room.head
        if room.blocked or room.unserved:
            low = room.lowest(0)
        if low > room.base:
            room.drop(<Py_ssize_t>(low - room.base))
        return 0

    cdef int _shrink(self, Room room) except -1:
        """Bring a log under its bound; evicts the blocked members it leaves behind.

        Slices are a courtesy and the bound is a promise: whoever is not blocked is
        served first, so that nobody pays for having been late in the round. Only
        inside a flush, when that cannot be done, the log may exceed its bound
        until the flush gets to them.
        """
        cdef uint64_t limit
        cdef Py_ssize_t count = 0, i
        if not self._flushing:
            self._serve_all(room)
            if room.log_bytes <= self._max_lag_bytes:
                return 0
        limit = room.lowest(BLOCKED)
        cdef Py_ssize_t log_bytes = room.log_bytes
        while log_bytes > self._max_lag_bytes and room.base + count < limit:
            log_bytes -= room.log[count].size + BATCH_OVERHEAD
            count += 1
        cdef list behind = []
        for i in range(room.size):
            if room.slots[i].cursor < room.base + count:
                behind.append(room.members[i])
        for conn in behind:
            self._evict(<Connection>conn, CLOSE_EVICTED, "fell too far behind")
        return self._forget(room)

    # Writing to one connection

    def send(self, Connection conn not None, data, int opcode=OP_TEXT):
        """Send one message to one connection, behind what is pending for it.

        `opcode` is the frame's (RFC 6455 §11.8); `data` str, bytes or a buffer.
        Returns False, and sends nothing, when the connection is closed, or when so
        much waits for it that it is evicted instead.
        """
        if self._is_elsewhere():
            data = data if isinstance(data, str) else bytes(data)
            self._hand_to_loop(self.send, (conn, data, opcode))
            return None
        cdef bytes frame = _frame_of(opcode, data)
        self._flush_to(conn)
        return self._write(conn, frame)

    cdef int _flush_to(self, Connection conn) except -1:
        """Send what is pending for one connection, unless it is blocked anyway."""
        for room in tuple(conn.seats):
            if conn.blocked or conn.state != OPEN:
                return 0
            if room in conn.seats:
                self._seal(<Room>room)
                self._serve_one(<Room>room, conn)
        return 0

    cdef bint _write(self, Connection conn, bytes frame) except -1:
        """The gate for everything that is for one connection alone."""
        cdef ssize_t sent = 0
        if conn.state != OPEN:
            return False
        if conn.rest is not None:
            self._hand_over(conn)
        if conn.fd >= 0 and not conn.blocked:
            sent = self._send_now(conn, frame)
            if sent == DONE:
                return True
            if sent == DEAD:
                self._lose(conn)
                return False
        elif conn.blocked and self._backlog(conn) + len(frame) > MAX_BACKLOG_BYTES:
            self._evict(conn, CLOSE_EVICTED, "left too many replies unread")
            return False
        if not self._write_through(conn, memoryview(frame)[sent:] if sent else frame):
            return False
        if conn.fd >= 0 and self._backlog(conn) > 0:
            self._block(conn)
        return True

    cdef ssize_t _send_now(self, Connection conn, bytes frame) except -3:
        cdef ssize_t sent
        while True:
            sent = c_send(conn.fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame),
                          MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent == PyBytes_GET_SIZE(frame):
                return DONE
            if sent >= 0:
                return sent
            if errno == EAGAIN or errno == ENOBUFS:
                return 0
            if errno != EINTR:
                return DEAD

    cdef bint _write_through(self, Connection conn, data) except -1:
        """Write through the transport, which keeps a reference to what it cannot send.

        Whatever a transport raises, it has failed: that costs its own connection
        and nobody else's.
        """
        try:
            if conn.write is not None:
                conn.write(data)
            else:
                conn.transport.write(data)
        except Exception as error:
            logger.warning("a transport failed: %s", error)
            self._lose(conn)
            return False
        return conn.state == OPEN

    cdef Py_ssize_t _backlog(self, Connection conn) except -1:
        return conn.transport.get_write_buffer_size()

    # Endings

    def close_connection(self, Connection conn not None, int code=CLOSE_GOING_AWAY, str reason=""):
        """Close one connection: what is pending, then a close frame, then nothing.

        The transport is closed by whoever sees the peer's close frame, and aborted
        by the sweep if that takes longer than 2 s. `code` 1005 sends an empty close
        frame. `reason` is cut at 123 bytes (RFC 6455 §5.5). Safe to call again.
        """
        if conn.state != OPEN:
            return
        for room in tuple(conn.seats):
            self._depart(<Room>room, conn)
        if conn.state == OPEN:
            self._send_close(conn, code, reason)

    cdef int _send_close(self, Connection conn, int code, str reason) except -1:
        """Queue the close frame behind what the transport holds, and start the clock."""
        cdef bytes payload = b""
        if code != 1005:        # RFC 6455 §7.4.1: no status code
            payload = code.to_bytes(2, "big") + _cut_utf8(reason, 123)
        self._leave_all(conn)
        if conn.rest is not None:
            self._hand_over(conn)
        if conn.state == OPEN and self._write_through(conn, _frame_of(OP_CLOSE, payload)):
            conn.state = CLOSING
            conn.close_deadline = <double>self._clock() + CLOSE_GRACE_S
        return 0

    cdef int _evict(self, Connection conn, int code, str reason) except -1:
        """Close a connection on the hub's own account, dropping what it has yet to read."""
        if conn.state != OPEN:
            return 0
        self._evictions[code] += 1
        self._send_close(conn, code, reason)
        self._report(conn, code, reason)
        return 0

    cdef int _lose(self, Connection conn) except -1:
        """The socket failed. `connection_lost` follows, if it has not come yet."""
        if conn.state != OPEN:
            return 0
        self._evictions[CLOSE_ABNORMAL] += 1
        self.detach(conn)
        conn.transport.abort()
        self._report(conn, CLOSE_ABNORMAL, "the connection is lost")
        return 0

    cdef int _report(self, Connection conn, int code, str reason) except -1:
        if self._on_evict is not None:
            self._loop.call_soon(self._on_evict, conn, code, reason)
        return 0

    def close(self, int code=CLOSE_GOING_AWAY, str reason=""):
        """Close every connection (see `close_connection`) and stop.

        The hub refuses everything afterwards. Transports whose peers do not answer
        are aborted within 3 s, as long as the loop runs.
        """
        if self._is_elsewhere():
            self._hand_to_loop(self.close, (code, reason))
            return
        if self._closed:
            return
        self._closed = True
        for conn in tuple(self._connections.values()):
            self.close_connection(<Connection>conn, code, reason)

    def abort(self):
        """Abort every transport that is left and end the sweep: nothing waits any more."""
        self._closed = True
        for conn in tuple(self._connections.values()):
            self.detach(<Connection>conn)
            (<Connection>conn).transport.abort()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()

    # The sweep: one timer for all connections

    def _sweep_again(self):
        self._sweep_handle = None
        self.sweep()
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
                    self.detach(conn)
                    conn.transport.abort()
            elif conn.state == OPEN:
                self._sweep_one(conn, now)

    cdef int _sweep_one(self, Connection conn, double now) except -1:
        if conn.blocked:
            # A protocol that does not forward `resume_writing` is found here.
            if self._backlog(conn) == 0:
                self._catch_up(conn)
            elif now - conn.blocked_since > self._max_lag_s:
                self._evict(conn, CLOSE_EVICTED, "read nothing for too long")
        elif conn.fd < 0 and self._backlog(conn) > 0:
            self._block(conn)       # and one that does not forward `pause_writing`
        elif self._ping_interval_s and now >= conn.ping_due:
            if conn.awaits_pong:
                self._evict(conn, CLOSE_HEARTBEAT, "missed its heartbeat")
            else:
                conn.awaits_pong = True
                conn.ping_due = now + self._pong_timeout_s
                self._write(conn, _frame_of(OP_PING, b""))
        return 0

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

        A delivery is one publication handed to one member's socket or transport.
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
            "deliveries": self._deliveries,
            "evictions": dict(self._evictions),
        }

    def verify(self):
        """Check every invariant between rooms, slots and connections; for tests.

        Raises AssertionError that names the one that is broken.
        """
        cdef Room room
        for room in self._rooms.values():
            _verify_room(self, room)

    # Threads

    cdef bint _is_elsewhere(self) noexcept:
        return self._thread != PyThread_get_thread_ident()

    cdef _hand_to_loop(self, method, tuple arguments):
        self._loop.call_soon_threadsafe(method, *arguments)


cdef bytes _cut_utf8(str text, Py_ssize_t limit):
    return text.encode()[:limit].decode("utf-8", "ignore").encode()


cdef int _verify_room(Hub hub, Room room) except -1:
    cdef Py_ssize_t i, log_bytes = 0, blocked = 0
    cdef Connection conn
    _require(room.size == len(room.members) <= room.capacity, "size")
    _require(room.size > 0, "an empty room is kept")
    _require(room.base + <uint64_t>len(room.batches) == room.head, "numbers of batches")
    _require(0 <= room.next < room.size and 0 <= room.unserved <= room.size, "round")
    _require(room.dirty or not (room.pending or room.unserved), "forgotten room")
    for i in range(len(room.batches)):
        _require(room.log[i].data == PyBytes_AS_STRING(<bytes>room.batches[i]), "log entry")
        log_bytes += room.log[i].size + BATCH_OVERHEAD
    _require(room.log_bytes == log_bytes, "bytes of the log")
    _require(log_bytes <= hub._max_lag_bytes or room.unserved > 0, "log over its bound")
    for i in range(room.size):
        conn = <Connection>room.members[i]
        _require(conn.seats[room] == i, "seat")
        _require(conn.state == OPEN and conn.fd == room.slots[i].fd, "member")
        _require(room.base <= room.slots[i].cursor <= room.head, "cursor outside the log")
        _require(bool(room.slots[i].flags & BLOCKED) == conn.blocked, "blocked flag")
        _require(room.unserved or conn.blocked or room.slots[i].cursor == room.head,
                 "an unblocked member behind the head after its round")
        blocked += conn.blocked
    _require(room.blocked == blocked, "blocked count")
    return 0


cdef int _require(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(f"hub invariant broken: {what}")
    return 0
