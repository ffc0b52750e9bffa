# Part of _fanout.pyx: a connection, and everything that is written to a single one.
#
# Every write through a transport can call back into the hub: the transport calls its
# protocol's pause_writing, and the protocol can publish, reply, leave or close there.
# Therefore slots are looked up again after every write, and states are set before it.

cdef enum:
    # If a reply or a pong would leave more than this in a transport, the connection is
    # evicted. It bounds the memory of a client that sends commands and does not read the
    # replies. 320 KiB are the rest of a batch (64 KiB) and the largest reply of the chat
    # (256 KiB, protocol.MAX_REPLY_BYTES).
    MAX_BACKLOG_BYTES = 327680

cdef enum State:
    OPEN = 0
    CLOSING = 1     # in no room; the close frame is written or queued
    DETACHED = 2    # the hub uses neither the transport nor the descriptor any more


@cython.final
cdef class Connection:
    """One transport that the hub writes to, in any number of rooms.

    `Hub.member`, `Hub.register` and `Hub.attach` create connections. All methods must be called
    in the thread of the hub's loop, and none raises an exception. The transport's protocol must
    forward `pause_writing` and `resume_writing` to its connection; with `Hub.member` that is done.
    The hub holds a strong reference to the connection, and the connection to its transport, until
    `Hub.unregister`, or until the transport is aborted.

    * ``transport``: what the hub writes to.
    * ``owner``: the WebSocket of `Hub.member`, or the object that `Hub.attach` was given.
    * ``blocked``: True while the transport holds bytes, so that publications wait in the hub.
    """
    # A connection goes from OPEN to CLOSING (`Hub.close_connection`, eviction) to DETACHED
    # (`Hub.detach`, an abort), or straight from OPEN to DETACHED. It never goes back. While it
    # is OPEN it can be blocked: then the transport holds bytes, or is about to be given
    # ``rest``, and the hub writes no publication to the connection.
    cdef readonly object transport
    cdef readonly object owner
    cdef Hub hub
    cdef object write           # transport.write if there is no descriptor, else None
    cdef int fd                 # -1: the hub writes through the transport only
    cdef dict seats             # Room -> index of its slot
    cdef object rest            # of a batch: the next bytes that the transport must be given
    # What the transport holds, or `rest`: see lag.pxi.
    cdef list batches
    cdef Py_ssize_t batch_bytes, queued, private_bytes
    cdef State state
    cdef bint awaits_pong
    cdef readonly bint blocked
    cdef double blocked_since, ping_due, close_deadline

    def __init__(self):
        raise TypeError("connections are made by Hub.member, Hub.register and Hub.attach")

    @property
    def closed(self):
        """True once the connection is closed, evicted or unregistered.

        The hub sends no further message to a closed connection.
        """
        return self.state != OPEN

    @property
    def rooms(self):
        """The names of the rooms that the connection is in."""
        return [(<Room>room).name for room in self.seats]

    def pause_writing(self):
        """Stop writing to the transport; the protocol's `pause_writing` must call this."""
        if self.state == OPEN:
            _block(self.hub, self)
            _backlog(self.hub, self)    # counts what the transport holds now

    def resume_writing(self):
        """Catch up with the rooms; the protocol's `resume_writing` must call this.

        The transport must be empty.
        """
        if self.state == OPEN and self.blocked:
            _catch_up(self.hub, self)
        elif self.state == CLOSING:
            _backlog(self.hub, self)    # nothing is held any more

    def flush(self):
        """Send now what is pending for the connection in its rooms.

        The owner of the transport calls this before it writes to the transport itself, so that
        its bytes do not overtake publications. A connection that is blocked or closed is sent
        nothing. If the socket has failed, the transport is aborted.
        """
        _flush_to(self.hub, self)

    def pong(self):
        """Note that a pong arrived. Any pong counts, because the hub's pings have no payload.

        A pong that no ping asked for changes nothing. (RFC 6455 §5.5.3: "A Pong frame MAY be
        sent unsolicited.")
        """
        if self.awaits_pong:
            self.awaits_pong = False
            self.ping_due += self.hub._ping_interval_s - self.hub._pong_timeout_s


# Blocked or not

cdef int _block(Hub hub, Connection conn) except -1:
    cdef Room room
    if not conn.blocked:
        conn.blocked = True
        conn.blocked_since = hub._clock()
        if conn.state != DETACHED:
            hub._lagging[conn] = None
        for room, seat in conn.seats.items():
            room.slots[<Py_ssize_t>seat].flags |= BLOCKED
            room.blocked += 1
    return 0


cdef int _unblock(Hub hub, Connection conn) except -1:
    cdef Room room
    if conn.blocked:
        conn.blocked = False
        hub._lagging.pop(conn, None)
        for room, seat in conn.seats.items():
            room.slots[<Py_ssize_t>seat].flags &= ~<uint32_t>BLOCKED
            room.blocked -= 1
    return 0


cdef int _catch_up(Hub hub, Connection conn) except -1:
    """Serve all rooms of a connection whose transport is empty, and unblock it at the heads."""
    if _hand_over(hub, conn):
        return 0
    conn.blocked_since = hub._clock()
    if conn.awaits_pong:        # the ping was queued behind the backlog: its time starts now
        conn.ping_due = max(conn.ping_due, conn.blocked_since + hub._pong_timeout_s)
    for room in tuple(conn.seats):
        if room in conn.seats and not _serve_one(hub, <Room>room, conn):
            break
    else:
        if conn.state == OPEN:
            _unblock(hub, conn)
    for room in conn.seats:
        if not (<Room>room).dirty:
            _forget(hub, <Room>room)
    return 0


# From the log of a room

cdef int _serve_one(Hub hub, Room room, Connection conn) except -1:
    """Bring one member to the head of its room. Returns 0 if the transport fills up first."""
    cdef Slot *slot
    cdef ssize_t sent
    cdef bint was_blocked = conn.blocked    # if so, _catch_up() unblocks it after all rooms
    if conn.rest is not None and _hand_over(hub, conn):
        return 0
    while conn.state == OPEN and room in conn.seats:
        # The slot is looked up each time: a transport's callback can have moved it.
        slot = &room.slots[<Py_ssize_t>conn.seats[room]]
        assert room.base <= slot.cursor <= room.head
        if slot.cursor == room.head:
            return 1
        if conn.fd < 0:
            if not _write_missing(hub, room, conn, slot):
                return 0
            if _holds_back(hub, conn):
                _block(hub, conn)
                return 0
            continue
        sent = _send_from(slot, room.log, room.base, room.head, &hub._sent)
        if sent == DEAD:
            _lose(hub, conn)
            return 0
        if sent != DONE:
            _take_rest(hub, room, conn, slot, sent)
            if _hand_over(hub, conn):
                return 0
            if not was_blocked:
                _unblock(hub, conn)
    return 1


cdef int _take_rest(Hub hub, Room room, Connection conn, Slot *slot, ssize_t sent) except -1:
    """Block a connection whose socket accepted only `sent` bytes of the batch at its cursor."""
    cdef Py_ssize_t i = <Py_ssize_t>(slot.cursor - room.base)
    assert 0 <= i < len(room.batches) and 0 <= sent < <ssize_t>room.log[i].size
    _block(hub, conn)
    batch = room.batches[i]
    _hold(hub, conn, <bytes>batch)
    conn.rest = memoryview(batch)[sent:] if sent else batch
    hub._sent.deliveries += room.log[i].frames
    slot.cursor += 1
    return 0


cdef bint _hand_over(Hub hub, Connection conn) except -1:
    """Give the rest of a batch to the transport. True if nothing more can be written now."""
    rest = conn.rest
    conn.rest = None
    if rest is not None and not _write_through(hub, conn, rest):
        return True
    return _holds_back(hub, conn)


cdef bint _write_missing(Hub hub, Room room, Connection conn, Slot *slot) except -1:
    """Write up to MAX_BATCH_BYTES, or one batch, through a transport without a descriptor."""
    cdef Py_ssize_t first = <Py_ssize_t>(slot.cursor - room.base), i = first
    cdef size_t size = 0
    while i < len(room.batches) and (i == first or size + room.log[i].size <= MAX_BATCH_BYTES):
        size += room.log[i].size
        hub._sent.deliveries += room.log[i].frames
        i += 1
    slot.cursor = room.base + i
    return _write_through(
        hub, conn,
        room.batches[first] if i == first + 1 else b"".join(room.batches[first:i]))


cdef int _queue_missing(Hub hub, Room room, Connection conn) except -1:
    """Queue all batches that a blocked member lacks behind the bytes in its transport."""
    cdef Slot *slot
    cdef Py_ssize_t first, i
    _hand_over(hub, conn)
    if conn.state != OPEN or room not in conn.seats:
        return 0
    slot = &room.slots[<Py_ssize_t>conn.seats[room]]
    first = <Py_ssize_t>(slot.cursor - room.base)
    for i in range(first, len(room.batches)):
        hub._sent.deliveries += room.log[i].frames
    slot.cursor = room.head
    for batch in room.batches[first:]:
        if conn.fd >= 0:
            _hold(hub, conn, <bytes>batch)
        if not _write_through(hub, conn, batch):
            break
    _backlog(hub, conn)     # counts what the transport holds now
    return 0


cdef int _flush_to(Hub hub, Connection conn) except -1:
    """Send what is pending for one connection in all its rooms, unless it is blocked."""
    for room in tuple(conn.seats):
        if conn.blocked or conn.state != OPEN:
            return 0
        if room in conn.seats:
            _seal(hub, <Room>room)
            _serve_one(hub, <Room>room, conn)
    return 0


# To a single connection

cdef bint _write(Hub hub, Connection conn, bytes frame) except -1:
    """Write a frame that is for one connection only: every reply, ping and pong.

    Returns False if the connection is closed, or is evicted because of its backlog.
    """
    cdef ssize_t sent = 0
    cdef bint queued
    if conn.rest is not None:
        _hand_over(hub, conn)
    if conn.state != OPEN:
        return False
    if conn.fd >= 0 and not conn.blocked:
        sent = _send_frame(conn.fd, frame)
        if sent == DONE:
            hub._sent.bytes += PyBytes_GET_SIZE(frame)
            return True
        if sent == DEAD:
            _lose(hub, conn)
            return False
        hub._sent.bytes += <size_t>sent
    elif conn.blocked and _backlog(hub, conn) + len(frame) > MAX_BACKLOG_BYTES:
        _evict_slow(hub, conn, "replies", "left too many replies unread")
        return False
    conn.queued += PyBytes_GET_SIZE(frame)
    if not _write_through(hub, conn, memoryview(frame)[sent:] if sent else frame):
        return False
    if conn.fd < 0:
        if conn.blocked:
            _backlog(hub, conn)     # counts what the transport holds now
    elif _holds_back(hub, conn):
        _block(hub, conn)
    queued = conn.state == OPEN
    if _is_check_due(hub):
        _check_bounds(hub)  # can evict this connection, behind the reply
    return queued


cdef bint _write_through(Hub hub, Connection conn, data) except -1:
    """Write through the transport, which holds a reference to bytes that it cannot send yet.

    A transport that raises an exception has failed. Its connection is lost, and no other
    connection is affected.
    """
    try:
        if conn.write is not None:
            conn.write(data)
        else:
            conn.transport.write(data)
    except Exception as error:
        _logger().warning("a transport failed: %s", error)
        _lose(hub, conn)
        return False
    hub._sent.bytes += <size_t>len(data)
    return conn.state == OPEN


cdef bint _holds_back(Hub hub, Connection conn) except -1:
    """Whether a transport still holds bytes that it was given, or has discarded them.

    A transport that is closing (because it failed, or other code closed it) discards what
    it is given. The descriptor stays open until the next turn, but bytes written to it
    would arrive after a hole. So the connection is detached.
    """
    if _backlog(hub, conn) > 0:
        return True
    if conn.state == OPEN and _is_closing(hub, conn):
        hub.detach(conn)
    return conn.state != OPEN


cdef bint _is_closing(Hub hub, Connection conn) except -1:
    """Whether the transport is closing; a transport that raises has failed."""
    try:
        return conn.transport.is_closing()
    except Exception as error:
        _logger().warning("a transport failed: %s", error)
        _lose(hub, conn)
        return True


cdef Py_ssize_t _backlog(Hub hub, Connection conn) except -1:
    """Count how many bytes the transport holds; a transport that raises has failed."""
    cdef Py_ssize_t size
    try:
        size = conn.transport.get_write_buffer_size()
    except Exception as error:
        _logger().warning("a transport failed: %s", error)
        _lose(hub, conn)
        return 0
    _note_backlog(hub, conn, size)
    return size
