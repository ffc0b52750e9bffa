# Part of _fanout.pyx: attaching, leaving rooms, closing, eviction, and the sweep.

# The time that a client has to answer the close frame. Without a limit, a client that never
# answers would keep its descriptor. RFC 6455 §7.1.1: "An endpoint MAY close the connection via
# any means available when necessary".
cdef double CLOSE_GRACE_S = 2.0
# One timer serves all connections, so each deadline is met up to a second late.
cdef double SWEEP_INTERVAL_S = 1.0


cdef int _descriptor(Hub hub, transport) except -2:
    """The descriptor that the hub can write to directly; -1 for TLS or without a socket."""
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("ssl_object") is not None:
        return -1
    return sock.fileno()


cdef int _claim_descriptor(Hub hub, Connection conn) except -1:
    """Record which connection has the descriptor.

    If the descriptor belongs to another connection, that connection's socket was closed
    without a call of `unregister`. It is detached, so that its frames are not written to
    the new socket.
    """
    cdef Connection stale
    while len(hub._by_descriptor) <= conn.fd:
        hub._by_descriptor.append(None)
    stale = hub._by_descriptor[conn.fd]
    hub._by_descriptor[conn.fd] = conn
    if stale is not None:
        _logger().warning("descriptor %d was reused before its transport was unregistered", conn.fd)
        hub.detach(stale)
    return 0


cdef int _require_own(Hub hub, Connection conn) except -1:
    if conn.hub is not hub:
        raise ValueError("the connection belongs to another hub")
    return 0


cdef int _depart(Hub hub, Room room, Connection conn) except -1:
    """Write or queue all that a member lacks, and remove it from the room."""
    _seal(hub, room)
    if room in conn.seats:
        if conn.blocked:
            _queue_missing(hub, room, conn)
        else:
            _serve_one(hub, room, conn)
    if room in conn.seats:      # the connection can have been lost during the write
        if conn.blocked:
            _queue_missing(hub, room, conn)
        _remove(hub, room, conn)
    return 0


cdef int _remove(Hub hub, Room room, Connection conn) except -1:
    room.remove(conn)
    if room.size == 0:
        # No member is left to read the pending frames or the log.
        room.pending.clear()
        room.pending_bytes = 0
        room.unserved = 0
        _drop(hub, room, len(room.batches))
        if hub._rooms.get(room.name) is room:
            del hub._rooms[room.name]
    elif not room.dirty:
        # Perhaps only this member needed the log, and no flush is due that would trim it.
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
    return _check_bounds(hub) if _is_check_due(hub) else 0


cdef int _send_close(Hub hub, Connection conn, bytes frame) except -1:
    """Queue the close frame behind the transport's bytes, and set the connection's deadline.

    None instead of a frame means that the owner of the transport has written one.
    """
    rest = conn.rest
    conn.rest = None
    _leave_all(hub, conn)
    # RFC 6455 §5.5.1: "The application MUST NOT send any more data frames after sending a
    # Close frame." So the state is set before the write, which can call back into the hub.
    conn.state = CLOSING
    conn.close_deadline = <double>hub._clock() + CLOSE_GRACE_S
    if rest is not None:
        _write_through(hub, conn, rest)
    if conn.state == CLOSING and frame is not None:
        _write_through(hub, conn, frame)
    if conn.state == CLOSING:
        _backlog(hub, conn)     # counts what the transport holds now
    return 0


cdef int _evict(Hub hub, Connection conn, int code, str reason) except -1:
    """Close a connection on the hub's own account, and drop what it has yet to be sent."""
    if conn.state != OPEN:
        return 0
    hub._evictions[code] = hub._evictions.get(code, 0) + 1
    _send_close(hub, conn, _close_frame(code, reason))
    _report(hub, conn, code, reason)
    return 0


cdef int _evict_slow(Hub hub, Connection conn, str cause, str reason) except -1:
    """Evict a connection that reads too slowly, and count the bound that it exceeded."""
    if conn.state == OPEN:
        hub._slow_evictions[cause] += 1
    return _evict(hub, conn, CLOSE_EVICTED, reason)


cdef int _lose(Hub hub, Connection conn) except -1:
    """Abort a connection whose socket failed. `connection_lost` follows, unless it was called."""
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
            _logger().warning("a transport could not be aborted: %s", error)
    return 0


cdef int _report(Hub hub, Connection conn, int code, str reason) except -1:
    if hub._on_evict is not None:
        hub._loop.call_soon(hub._on_evict, conn, code, reason)
    return 0


cdef int _sweep_one(Hub hub, Connection conn, double now) except -1:
    """Check one open connection's lag and heartbeat. A blocked connection is not sent a ping."""
    if conn.blocked:
        # The transport can be empty here if the protocol does not forward `resume_writing`.
        if _backlog(hub, conn) == 0:
            _catch_up(hub, conn)
        elif now - conn.blocked_since > hub._max_lag_s:
            _evict_slow(hub, conn, "time", "read nothing for too long")
    elif conn.fd < 0 and _backlog(hub, conn) > 0:
        _block(hub, conn)       # the protocol does not forward `pause_writing`
    elif hub._ping_interval_s and now >= conn.ping_due:
        if conn.awaits_pong:
            _evict(hub, conn, CLOSE_HEARTBEAT, "missed its heartbeat")
        else:
            conn.awaits_pong = True
            conn.ping_due = now + hub._pong_timeout_s
            _write(hub, conn, _frame_of(OP_PING, b""))
    return 0
