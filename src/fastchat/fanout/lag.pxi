# Part of _fanout.pyx: the bytes that are kept for connections that read slowly, and their bounds.
#
# The hub keeps three kinds of bytes for such connections, and counts each kind where it changes:
#
# * the logs of all rooms (`Hub._appended` minus `Hub._dropped`);
# * batches that a transport holds, wholly or in part (`Hub._batch_bytes`). A transport holds a
#   reference to a batch, not a copy. So a batch counts once, however many transports hold it;
# * bytes that only one transport holds (`Hub._private_bytes`): replies, and everything that a
#   transport without a descriptor holds, because TLS encrypts each connection separately.
#
# The *lag* of a connection is the number of bytes that are kept for it, whether or not the same bytes
# are kept for other connections too. `Hub._lagging` has all connections that can have a lag: the
# blocked ones, and those whose transport holds bytes, also while they are closing.
#
# To compute all lags takes about 40 ns for each room of each lagging connection. That is too long to
# do it for each publication. `_added` is the number of bytes that were ever added, and no lag grows
# faster than this number. So a check computes how many bytes can be added until the first bound can
# be reached, and the next check is due after so many bytes, but not before `_check_step` bytes.
# Therefore a bound can be exceeded by `_check_step`.

cdef enum:
    CHECK_BYTES = 65536     # the largest `_check_step`
    # When the kept bytes have fallen by this much, the C library is asked to return free memory to
    # the system. By itself it returns only the memory that is free at the end of its heap.
    TRIM_BYTES = 8388608

cdef extern from *:
    """
    #if defined(__GLIBC__)
    #include <malloc.h>
    static void fastchat_trim(void) { malloc_trim(0); }
    #else
    static void fastchat_trim(void) { }
    #endif
    """
    void c_trim "fastchat_trim"() nogil


cdef inline Py_ssize_t _log_bytes(Hub hub) noexcept:
    return <Py_ssize_t>(hub._appended - hub._dropped)


cdef inline uint64_t _added(Hub hub) noexcept:
    return hub._appended + hub._queued


cdef inline Py_ssize_t _kept(Hub hub) noexcept:
    """The bytes that are kept for all slow connections together."""
    return _log_bytes(hub) + hub._batch_bytes + hub._private_bytes


cdef Py_ssize_t _lag(Hub hub, Connection conn) except -1:
    """The bytes that are kept for one connection."""
    cdef Py_ssize_t lag
    _backlog(hub, conn)
    lag = conn.batch_bytes + conn.private_bytes
    for room, seat in conn.seats.items():
        lag += (<Room>room).unread(<Py_ssize_t>seat)
    return lag


# Counting what transports hold

cdef int _hold(Hub hub, Connection conn, bytes batch) except -1:
    """Count a batch that is about to be passed to a connection's transport, until `_release`."""
    cdef object key = <size_t><void *>batch     # `conn.batches` keeps the address valid
    cdef Py_ssize_t holders = hub._holders.get(key, 0)
    hub._holders[key] = holders + 1
    if holders == 0:
        hub._batch_bytes += PyBytes_GET_SIZE(batch)
        hub._queued += <uint64_t>PyBytes_GET_SIZE(batch)
    if conn.batches is None:
        conn.batches = []
    conn.batches.append(batch)
    conn.batch_bytes += PyBytes_GET_SIZE(batch)
    hub._lagging[conn] = None
    return 0


cdef int _release(Hub hub, Connection conn) except -1:
    """Note that a connection's transport holds nothing any more."""
    cdef object key
    cdef Py_ssize_t holders
    if conn.batches is not None:
        for batch in conn.batches:
            key = <size_t><void *>batch
            holders = hub._holders[key] - 1
            if holders:
                hub._holders[key] = holders
            else:
                del hub._holders[key]
                hub._batch_bytes -= PyBytes_GET_SIZE(<bytes>batch)
        conn.batches = None
        conn.batch_bytes = 0
    hub._private_bytes -= conn.private_bytes
    conn.private_bytes = conn.queued = 0
    if not (conn.state == OPEN and conn.blocked):
        hub._lagging.pop(conn, None)
    return 0


cdef int _note_backlog(Hub hub, Connection conn, Py_ssize_t size) except -1:
    """Count the bytes that only this transport holds; `size` is how many it holds in all."""
    cdef Py_ssize_t bytes_of_its_own
    if conn.state == DETACHED:
        return 0
    if size == 0:
        if conn.rest is None:
            _release(hub, conn)
        return 0
    bytes_of_its_own = size if conn.fd < 0 else min(conn.queued, size)
    if bytes_of_its_own > conn.private_bytes:
        hub._queued += <uint64_t>(bytes_of_its_own - conn.private_bytes)
        hub._lagging[conn] = None
    hub._private_bytes += bytes_of_its_own - conn.private_bytes
    conn.private_bytes = bytes_of_its_own
    return 0


# The bounds

cdef inline bint _is_check_due(Hub hub) noexcept:
    """Whether enough bytes were added since the last check.

    It is False during a check, and during a flush, which ends with a check.
    """
    return not (_added(hub) < hub._check_at or hub._checking or hub._flushing)


cdef int _check_bounds(Hub hub) except -1:
    """Evict each connection whose lag is too large, and more if the process exceeds its bound."""
    cdef Py_ssize_t most = 0, lag
    cdef Connection conn
    hub._checking = True
    try:
        for conn in tuple(hub._lagging):
            if conn.state == OPEN:
                lag = _lag(hub, conn)
                if lag > hub._max_connection_lag_bytes:
                    _evict_slow(hub, conn, "connection", "fell too far behind in its rooms together")
                else:
                    most = max(most, lag)
        hub._peak_bytes = max(hub._peak_bytes, _kept(hub))
        if hub._lagging and _kept(hub) > hub._max_lag_total_bytes:
            hub.flush()     # so that no bytes are kept for members that were only not served yet
            _relieve(hub)
    finally:
        hub._checking = False
    hub._check_at = _added(hub) + <uint64_t>max(
        hub._check_step,
        min(hub._max_connection_lag_bytes - most, hub._max_lag_total_bytes - _kept(hub)))
    return 0


cdef int _relieve(Hub hub) except -1:
    """Evict the connections with the largest lags until the process is within its bound.

    The transport of an evicted connection still holds bytes, in front of its close frame. If that
    connection still has the largest lag, it is aborted.
    """
    cdef Connection conn
    cdef Py_ssize_t before = _kept(hub), evicted = 0
    cdef list heap = [(-_lag(hub, conn), index, conn)
                      for index, conn in enumerate(tuple(hub._lagging))]
    heapify(heap)
    while heap and _kept(hub) > hub._max_lag_total_bytes:
        lag, index, conn = heappop(heap)
        if lag == 0:
            break   # nothing is kept for the others
        if conn.state == OPEN:
            evicted += 1
            _evict_slow(hub, conn, "total", "the server had too much to keep for slow readers")
            if conn.state == CLOSING and _lag(hub, conn) > 0:
                heappush(heap, (-_lag(hub, conn), index, conn))
        elif conn.state == CLOSING:
            _abort_one(hub, conn)
    if evicted:
        _logger().warning(
            "clients that read too slowly were evicted (%d): %d bytes were kept for slow "
            "clients, and --max-lag-total-bytes is %d", evicted, before, hub._max_lag_total_bytes)
    return 0


cdef int _return_memory(Hub hub) except -1:
    """Return free memory to the system if the number of kept bytes has fallen by TRIM_BYTES."""
    cdef Py_ssize_t kept = _kept(hub)
    hub._peak_bytes = max(hub._peak_bytes, kept)
    if hub._peak_bytes - kept >= TRIM_BYTES:
        hub._peak_bytes = kept
        with nogil:
            c_trim()
    return 0
