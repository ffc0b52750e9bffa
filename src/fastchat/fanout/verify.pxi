# Part of _fanout.pyx: the invariants. Only Hub.verify() calls these functions.

cdef int _verify_room(Hub hub, Room room) except -1:
    cdef Py_ssize_t i, log_bytes = 0, blocked = 0
    cdef Connection conn
    _require(room.size == len(room.members) <= room.capacity, "size")
    _require(room.size > 0, "an empty room is kept")
    _require(hub._rooms.get(room.name) is room, "name of a room")
    _require(room.base + <uint64_t>len(room.batches) == room.head, "numbers of batches")
    _require(0 <= room.next < room.size and 0 <= room.unserved <= room.size, "round")
    _require(room.dirty or not (room.pending or room.unserved), "forgotten room")
    _require(room.dirty == (room in hub._dirty), "a dirty room that no flush knows")
    _require(not room.dirty or hub._soon or hub._later_handle is not None, "no flush to come")
    _require(room.pending_bytes == sum(map(len, room.pending)), "pending bytes")
    for i in range(len(room.batches)):
        _require(room.log[i].data == PyBytes_AS_STRING(<bytes>room.batches[i]), "log entry")
        _require(room.log[i].size == <size_t>len(<bytes>room.batches[i]), "size of a batch")
        log_bytes += room.log[i].size + BATCH_OVERHEAD
    _require(room.log_bytes() == log_bytes, "bytes of the log")
    _require(log_bytes <= hub._max_lag_bytes or room.unserved > 0, "log over its bound")
    _require(room.dirty or room.base == room.lowest(0), "a log longer than anybody needs")
    for i in range(room.size):
        conn = <Connection>room.members[i]
        _require(conn.seats[room] == i, "seat")
        _require(conn.state == OPEN and conn.fd == room.slots[i].fd, "member")
        _require(hub._connections.get(conn.transport) is conn, "a member the hub does not know")
        _require(room.base <= room.slots[i].cursor <= room.head, "cursor outside the log")
        _require(bool(room.slots[i].flags & BLOCKED) == conn.blocked, "blocked flag")
        _require((i - room.next + room.size) % room.size < room.unserved or conn.blocked
                 or room.slots[i].cursor == room.head,
                 "an unblocked member behind the head after its turn in the round")
        blocked += conn.blocked
    _require(room.blocked == blocked, "blocked count")
    return 0


cdef int _verify_connection(Hub hub, Connection conn) except -1:
    _require(conn.state != DETACHED, "a detached connection is kept")
    _require(conn.rest is None, "a rest was not handed over")
    _require(conn.state == OPEN or not conn.seats, "a closing connection in a room")
    _require(conn.fd < 0 or hub._by_descriptor[conn.fd] is conn, "whose a descriptor is")
    for room in conn.seats:
        _require(hub._rooms.get((<Room>room).name) is room, "a seat in a forgotten room")
    return 0


cdef int _verify_lag(Hub hub) except -1:
    cdef Connection conn
    cdef Py_ssize_t log_bytes = 0, private_bytes = 0
    cdef dict held = {}
    for room in hub._rooms.values():
        log_bytes += (<Room>room).log_bytes()
    for conn in hub._connections.values():
        private_bytes += conn.private_bytes
        _require(conn.batch_bytes == sum(map(len, conn.batches or ())), "bytes of held batches")
        for batch in conn.batches or ():
            held.setdefault(id(batch), []).append(len(batch))
        if (conn.state == OPEN and conn.blocked) or conn.batches or conn.private_bytes:
            _require(conn in hub._lagging, "a lagging connection that no check sees")
    for conn in hub._lagging:
        _require(hub._connections.get(conn.transport) is conn, "a lagging connection is kept")
    _require(_log_bytes(hub) == log_bytes, "bytes of all logs")
    _require(hub._private_bytes == private_bytes, "bytes of single transports")
    _require(hub._batch_bytes == sum(sizes[0] for sizes in held.values()), "bytes of batches")
    _require(hub._holders == {key: len(sizes) for key, sizes in held.items()}, "holders")
    _require(not hub._checking, "a check that does not end")
    return 0


cdef int _require(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(f"hub invariant broken: {what}")
    return 0
