# Part of _fanout.pyx: a connection, and everything that is written to one alone.
#
# Whatever goes through a transport may call back into the hub: the transport calls its
# protocol's pause_writing, and that may publish, reply, leave or close. So slots are
# looked up again after every write, and states are set before it.

cdef enum:
    # What may wait in a transport for one connection alone: replies and pongs.
    MAX_BACKLOG_BYTES = 327680

cdef enum State:
    OPEN = 0
    CLOSING = 1     # in no room; its close frame is on the way
    DETACHED = 2    # the hub does not touch it any more


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

    def __init__(self):
        raise TypeError("connections are made by Hub.register and Hub.attach")

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
            _block(self.hub, self)

    def resume_writing(self):
        """To be called from the protocol's `resume_writing`: the transport is empty."""
        if self.state == OPEN and self.blocked:
            _catch_up(self.hub, self)

    def pong(self):
        """To be called when a pong arrives: any, the heartbeat's pings carry no payload."""
        if self.awaits_pong:
            self.awaits_pong = False
            self.ping_due += self.hub._ping_interval_s - self.hub._pong_timeout_s


# Blocked or not

cdef int _block(Hub hub, Connection conn) except -1:
    cdef Room room
    if not conn.blocked:
        conn.blocked = True
        conn.blocked_since = hub._clock()
        for room, seat in conn.seats.items():
            room.slots[<Py_ssize_t>seat].flags |= BLOCKED
            room.blocked += 1
    return 0


cdef int _unblock(Hub hub, Connection conn) except -1:
    cdef Room room
    if conn.blocked:
        conn.blocked = False
        for room, seat in conn.seats.items():
            room.slots[<Py_ssize_t>seat].flags &= ~<uint32_t>BLOCKED
            room.blocked -= 1
    return 0


cdef int _catch_up(Hub hub, Connection conn) except -1:
    """The transport is empty: serve all its rooms, and unblock it at their heads."""
    if _hand_over(hub, conn):
        return 0
    conn.blocked_since = hub._clock()
    if conn.awaits_pong:        # the ping was behind all that: it counts from now
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
    """Bring one member to the head of its room; 0 if its transport fills up before."""
    cdef Slot *slot
    cdef ssize_t sent
    cdef bint was_blocked = conn.blocked    # then it is being caught up with
    if conn.rest is not None and _hand_over(hub, conn):
        return 0
    while conn.state == OPEN and room in conn.seats:
        # Looked up each time: a transport's callback may have moved it.
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
    """Block a connection on the batch at its cursor, `sent` bytes of which went out."""
    cdef Py_ssize_t i = <Py_ssize_t>(slot.cursor - room.base)
    assert 0 <= i < len(room.batches) and 0 <= sent < <ssize_t>room.log[i].size
    _block(hub, conn)
    batch = room.batches[i]
    conn.rest = memoryview(batch)[sent:] if sent else batch
    hub._sent.deliveries += room.log[i].frames
    slot.cursor += 1
    return 0


cdef bint _hand_over(Hub hub, Connection conn) except -1:
    """Give the rest of a batch to the transport. True if it is not to be written to now."""
    rest = conn.rest
    conn.rest = None
    if rest is not None and not _write_through(hub, conn, rest):
        return True
    return _holds_back(hub, conn)


cdef bint _write_missing(Hub hub, Room room, Connection conn, Slot *slot) except -1:
    """For a transport without a descriptor: a write of up to MAX_BATCH_BYTES."""
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
    """Queue what a blocked member has yet to get behind what its transport holds."""
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
        if not _write_through(hub, conn, batch):
            break
    return 0


cdef int _flush_to(Hub hub, Connection conn) except -1:
    """Send what is pending for one connection, unless it is blocked anyway."""
    for room in tuple(conn.seats):
        if conn.blocked or conn.state != OPEN:
            return 0
        if room in conn.seats:
            _seal(hub, <Room>room)
            _serve_one(hub, <Room>room, conn)
    return 0


# For it alone

cdef bint _write(Hub hub, Connection conn, bytes frame) except -1:
    """The gate for everything that is for one connection alone."""
    cdef ssize_t sent = 0
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
        _evict(hub, conn, CLOSE_EVICTED, "left too many replies unread")
        return False
    if not _write_through(hub, conn, memoryview(frame)[sent:] if sent else frame):
        return False
    if conn.fd >= 0 and _holds_back(hub, conn):
        _block(hub, conn)
    return conn.state == OPEN


cdef bint _write_through(Hub hub, Connection conn, data) except -1:
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
        _lose(hub, conn)
        return False
    hub._sent.bytes += <size_t>len(data)
    return conn.state == OPEN


cdef bint _holds_back(Hub hub, Connection conn) except -1:
    """Whether a transport that was given bytes keeps some, or has dropped them.

    A transport that is closing (it failed, or somebody else closed it) throws
    away what it is given. The descriptor lives on until the next turn, but
    anything more on it would arrive with a hole before it.
    """
    if _backlog(hub, conn) > 0:
        return True
    if conn.state == OPEN and _is_closing(hub, conn):
        hub.detach(conn)
    return conn.state != OPEN


cdef bint _is_closing(Hub hub, Connection conn) except -1:
    """Whether the transport is; one that cannot say has failed."""
    try:
        return conn.transport.is_closing()
    except Exception as error:
        logger.warning("a transport failed: %s", error)
        _lose(hub, conn)
        return True


cdef Py_ssize_t _backlog(Hub hub, Connection conn) except -1:
    """How much the transport holds; one that cannot say has failed."""
    try:
        return conn.transport.get_write_buffer_size()
    except Exception as error:
        logger.warning("a transport failed: %s", error)
        _lose(hub, conn)
        return 0
