# Part of _fanout.pyx: how connections come, leave rooms, and end.

# A closed connection is aborted when its transport has not ended by then.
cdef double CLOSE_GRACE_S = 2.0
cdef double SWEEP_INTERVAL_S = 1.0


cdef int _descriptor(Hub hub, transport) except -2:
    """The descriptor that may be written to directly, or -1."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("ssl_object") is not None:
        return -1
    return sock.fileno()


cdef int _claim_descriptor(Hub hub, Connection conn) except -1:
    """Note whose the descriptor is.

    If the hub knows another connection by it, that one's socket was closed and
    `unregister` forgotten: it must not write to its successor's socket.
    """
    cdef Connection stale
    while len(hub._by_descriptor) <= conn.fd:
        hub._by_descriptor.append(None)
    stale = hub._by_descriptor[conn.fd]
    hub._by_descriptor[conn.fd] = conn
    if stale is not None:
        logger.warning("descriptor %d was reused before its transport was unregistered", conn.fd)
        hub.detach(stale)
    return 0


cdef int _require_own(Hub hub, Connection conn) except -1:
    if conn.hub is not hub:
        raise ValueError("the connection belongs to another hub")
    return 0


cdef int _depart(Hub hub, Room room, Connection conn) except -1:
    _seal(hub, room)
    if room in conn.seats:
        if conn.blocked:
            _queue_missing(hub, room, conn)
        else:
            _serve_one(hub, room, conn)
    if room in conn.seats:      # it may have been lost just now
        if conn.blocked:
            _queue_missing(hub, room, conn)
        _remove(hub, room, conn)
    return 0


cdef int _remove(Hub hub, Room room, Connection conn) except -1:
    room.remove(conn)
    if room.size == 0:
        # Nobody is left to read what is pending or logged.
        room.pending.clear()
        room.pending_bytes = 0
        room.unserved = 0
        room.drop(len(room.batches))
        if hub._rooms.get(room.name) is room:
            del hub._rooms[room.name]
    elif not room.dirty:
        # Perhaps the log was kept for it alone, and no flush comes to see that.
        _forget(hub, room)
    return 0


cdef int _leave_all(Hub hub, Connection conn) except -1:
    for room in tuple(conn.seats):
        _remove(hub, <Room>room, conn)
    return 0


cdef int _close_one(Hub hub, Connection conn, bytes frame) except -1:
    for room in tuple(conn.seats):
        if conn.state == OPEN and room in conn.seats:
            _depart(hub, <Room>room, conn)
    if conn.state == OPEN:
        _send_close(hub, conn, frame)
    return 0


cdef int _send_close(Hub hub, Connection conn, bytes frame) except -1:
    """Queue the close frame behind what the transport holds, and start the clock."""
    rest = conn.rest
    conn.rest = None
    _leave_all(hub, conn)
    # Before anything is written: no callback may get a word in behind it.
    conn.state = CLOSING
    conn.close_deadline = <double>hub._clock() + CLOSE_GRACE_S
    if rest is not None:
        _write_through(hub, conn, rest)
    if conn.state == CLOSING:
        _write_through(hub, conn, frame)
    return 0


cdef int _evict(Hub hub, Connection conn, int code, str reason) except -1:
    """Close a connection on the hub's own account, dropping what it has yet to read."""
    if conn.state != OPEN:
        return 0
    hub._evictions[code] = hub._evictions.get(code, 0) + 1
    _send_close(hub, conn, _close_frame(code, reason))
    _report(hub, conn, code, reason)
    return 0


cdef int _lose(Hub hub, Connection conn) except -1:
    """The socket failed. `connection_lost` follows, if it has not come yet."""
    if conn.state == OPEN:
        hub._evictions[CLOSE_ABNORMAL] += 1
        _report(hub, conn, CLOSE_ABNORMAL, "the connection is lost")
    _abort_one(hub, conn)
    return 0


cdef int _abort_one(Hub hub, Connection conn) except -1:
    if conn.state != DETACHED:
        hub.detach(conn)
        try:
            conn.transport.abort()
        except Exception as error:
            logger.warning("a transport could not be aborted: %s", error)
    return 0


cdef int _report(Hub hub, Connection conn, int code, str reason) except -1:
    if hub._on_evict is not None:
        hub._loop.call_soon(hub._on_evict, conn, code, reason)
    return 0


cdef int _sweep_one(Hub hub, Connection conn, double now) except -1:
    if conn.blocked:
        # A protocol that does not forward `resume_writing` is found here.
        if _backlog(hub, conn) == 0:
            _catch_up(hub, conn)
        elif now - conn.blocked_since > hub._max_lag_s:
            _evict(hub, conn, CLOSE_EVICTED, "read nothing for too long")
    elif conn.fd < 0 and _backlog(hub, conn) > 0:
        _block(hub, conn)       # and one that does not forward `pause_writing`
    elif hub._ping_interval_s and now >= conn.ping_due:
        if conn.awaits_pong:
            _evict(hub, conn, CLOSE_HEARTBEAT, "missed its heartbeat")
        else:
            conn.awaits_pong = True
            conn.ping_due = now + hub._pong_timeout_s
            _write(hub, conn, _frame_of(OP_PING, b""))
    return 0
