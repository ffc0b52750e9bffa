# Part of _fanout.pyx: from pending frames to the log, and from the log to all members.
#
# A *round* visits every member of a room once after a batch was appended to its log. It is
# spread over several loop turns if the room has more members than a slice. Batches that are
# appended meanwhile start the round again at the same member: `Room.next` stands still, and
# `Room.unserved` is set to the number of all members.
#
# A room is in `Hub._dirty`, and `Room.dirty` is set, if it has pending frames or unserved
# members. `Hub._soon` is set while a call of `_tick` is scheduled.

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

cdef enum:
    # Visits in a loop turn: about 1 ms of sends at 3.3 µs each, so that reading, pings
    # and other rooms are not delayed for longer while a big room is flushed.
    SLICE = 256
    # A batch is sealed early at this size. It bounds the rest of a batch that a transport
    # holds for a blocked connection, and is the step in which a log is trimmed.
    MAX_BATCH_BYTES = 65536
    # Smaller rooms are not paced: their flush takes less than 1 ms at 3.3 µs a send.
    PACED_MEMBERS = 256
    # With this number of publications in one send(), a delivery costs 0.22 µs instead of
    # 3.3, and hardly less with more. (bench/broadcast.py with 1,000 clients: a pause after
    # fuller flushes halved the rate.)
    ENOUGH_FRAMES = 16

# Shorter flushes are not paced, because the loop's timers have a resolution of 1 ms.
cdef double MIN_PACED_S = 0.001


cdef inline double _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


# Into the log

cdef int _publish(Hub hub, int opcode, object data, str room) except -1:
    if hub._closed:
        raise RuntimeError("the hub is closed")
    if _is_elsewhere(hub):
        # A mutable buffer can change before the loop runs the call, so it is copied now.
        _hand_to_loop(hub, hub._publish_framed, (_frame_of(opcode, data), room))
        return 0
    cdef Room target = hub._rooms.get(room)
    if target is not None:
        _append(hub, target, _frame_of(opcode, data))
    return 0


cdef int _append(Hub hub, Room room, bytes frame, Connection but=None) except -1:
    """Append a frame to a room's pending ones, and schedule the flush at the end of the turn."""
    room.pending.append(frame)
    room.pending_bytes += PyBytes_GET_SIZE(frame)
    hub._publications += 1
    if not room.dirty:
        room.dirty = True
        hub._dirty.append(room)
        _schedule(hub)
    if but is not None or room.pending_bytes >= MAX_BATCH_BYTES:
        _seal(hub, room, but)
    return 0


cdef int _seal(Hub hub, Room room, Connection but=None) except -1:
    """Move the pending frames into the log as one batch, which the member `but` skips."""
    cdef Py_ssize_t count = len(room.pending)
    if count == 0:
        return 0
    if room.size == 0:      # its last member has left, perhaps during this publication
        room.pending.clear()
        room.pending_bytes = 0
        return 0
    if count == 1:
        room.append(<bytes>room.pending[0], 1)
    else:
        room.append(b"".join(room.pending), count)
    hub._appended += <uint64_t>room.pending_bytes + BATCH_OVERHEAD
    room.pending.clear()
    room.pending_bytes = 0
    room.round_frames += count
    if but is not None:
        _skip_newest(hub, room, but)    # before _shrink(), which can serve the member
    if room.log_bytes() > hub._max_lag_bytes:
        _shrink(hub, room)
    return 0


cdef int _skip_newest(Hub hub, Room room, Connection conn) except -1:
    """Move a member's cursor past the newest batch, if that is the only one that it lacks."""
    cdef Slot *slot
    if room in conn.seats and not conn.blocked:
        slot = &room.slots[<Py_ssize_t>conn.seats[room]]
        if slot.cursor + 1 == room.head:
            slot.cursor += 1
    return 0


# Out of the log, one slice a turn

cdef _schedule(Hub hub):
    if not hub._soon:
        hub._soon = True
        hub._loop.call_soon(hub._tick_callback)


cdef int _wake_at(Hub hub, double when, double delay) except -1:
    """Flush after `delay` seconds, unless an earlier flush is scheduled already."""
    if hub._later_handle is not None:
        if hub._later_at <= when:
            return 0
        hub._later_handle.cancel()
    hub._later_at = when
    hub._later_handle = hub._loop.call_later(delay, hub._tick_later)
    return 0


cdef int _flush_slice(Hub hub) except -1:
    """Visit up to `slice_visits` members of the dirty rooms, and schedule the rest."""
    cdef Py_ssize_t budget = hub._slice_visits
    cdef list rooms = hub._dirty, waiting = [], untouched = [], unfinished = []
    cdef double now = 0.0, wake = 0.0
    cdef Room room
    hub._dirty = []
    for room in rooms:
        if room.not_before > 0.0:
            now = _now() if now == 0.0 else now
            if room.not_before > now:
                wake = room.not_before if wake == 0.0 else min(wake, room.not_before)
                waiting.append(room)
                continue
        if budget <= 0:
            untouched.append(room)
            continue
        _seal(hub, room)
        budget -= _serve(hub, room, budget)
        if room.unserved == 0:
            _pace(hub, room)
        room.dirty = room.unserved > 0 or len(room.pending) > 0
        if room.dirty:
            unfinished.append(room)
    # Unfinished rooms are appended at the end, so that a big room delays no other room.
    hub._dirty = waiting + untouched + hub._dirty + unfinished
    if untouched or unfinished:
        _schedule(hub)
    elif wake > 0.0:
        _wake_at(hub, wake, wake - now)
    return _check_bounds(hub) if _is_check_due(hub) else 0


cdef int _pace(Hub hub, Room room) except -1:
    """After a slow flush of several publications, pause the room for as long as it took.

    Under load the next flush then carries twice as many publications with the same number
    of sends. A flush of a single publication is not followed by a pause. Neither is a
    flush of ENOUGH_FRAMES or more, because larger batches would not be cheaper.
    """
    if room.spent_s >= MIN_PACED_S and 1 < room.round_frames < ENOUGH_FRAMES:
        room.not_before = _now() + room.spent_s
    else:
        room.not_before = 0.0
    room.spent_s = 0.0
    room.round_frames = 0
    return 0


cdef int _serve_all(Hub hub, Room room) except -1:
    """Finish a room's round, whatever it costs."""
    _serve(hub, room, room.unserved)
    while room.unserved:        # a transport's callback has published
        _serve(hub, room, room.unserved)
    return 0


cdef Py_ssize_t _serve(Hub hub, Room room, Py_ssize_t budget) except -1:
    """Visit up to `budget` members that the round has not reached; returns their number."""
    cdef Py_ssize_t visited = 0
    cdef double started = 0.0
    cdef bint timed = room.size >= PACED_MEMBERS
    cdef bint was_flushing = hub._flushing
    if timed:
        started = _now()
    hub._flushing = True
    try:
        while room.unserved > 0 and visited < budget:
            visited += _serve_slice(hub, room, min(budget - visited, SLICE))
    finally:
        hub._flushing = was_flushing
    if timed:
        room.spent_s += _now() - started
    if room.unserved == 0:
        _forget(hub, room)
        if room.log_bytes() > hub._max_lag_bytes:
            _cut(hub, room)
    return visited


cdef Py_ssize_t _serve_slice(Hub hub, Room room, Py_ssize_t budget) except -1:
    """Run the send loop once over adjacent slots; returns the number of members visited."""
    cdef int32_t who[SLICE]
    cdef ssize_t outcome[SLICE]
    cdef Py_ssize_t start = room.next
    cdef Py_ssize_t count = min(min(room.unserved, budget), room.size - start)
    cdef Py_ssize_t short_count
    assert 0 <= start and 0 < count <= SLICE and start + count <= room.size
    assert len(room.members) == room.size
    short_count = _send_slice(
        room.slots, start, start + count, room.log, room.base, room.head,
        who, outcome, &hub._sent)
    room.unserved -= count
    room.next = start + count if start + count < room.size else 0
    if short_count:
        _finish_slice(hub, room, who, outcome, short_count)
    return count


cdef int _finish_slice(Hub hub, Room room, int32_t *who, ssize_t *outcome,
                       Py_ssize_t count) except -1:
    """Deal with the members that the send loop could not serve completely.

    The first pass records everything and runs no Python code of others. The second pass
    writes through transports, whose callbacks can write to any of these connections or
    change the room.
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
            _take_rest(hub, room, conn, slot, outcome[j])
        elif slot.cursor + 1 == room.head:
            # The usual case of a transport without a descriptor: it lacks one batch.
            slot.cursor += 1
            outcome[j] = DONE
            conn.rest = newest
            hub._sent.deliveries += room.log[len(room.batches) - 1].frames
    for j in range(count):
        conn = <Connection>short_ones[j]
        if conn.state != OPEN:
            continue
        if outcome[j] == DEAD:
            _lose(hub, conn)
        elif conn.fd >= 0:
            if not _hand_over(hub, conn):
                _catch_up(hub, conn)
        elif outcome[j] == DONE:
            if conn.rest is newest:     # otherwise a transport's callback has written it
                conn.rest = None
                _write_through(hub, conn, newest)
        elif not conn.blocked:
            _serve_one(hub, room, conn)
    return 0


# The bounds of a log

cdef int _forget(Hub hub, Room room) except -1:
    """Drop the batches that all members have been sent."""
    cdef uint64_t low = room.head
    if low == room.base:
        return 0
    if room.blocked or room.unserved or hub._flushing:
        low = room.lowest(0)
    if low > room.base:
        _drop(hub, room, <Py_ssize_t>(low - room.base))
    return 0


cdef int _drop(Hub hub, Room room, Py_ssize_t count) except -1:
    """Drop the oldest `count` batches of a log."""
    hub._dropped += <uint64_t>room.log_bytes()
    room.drop(count)
    hub._dropped -= <uint64_t>room.log_bytes()
    return 0


cdef int _shrink(Hub hub, Room room) except -1:
    """Bring a log under its bound by evicting blocked members.

    The members that are not blocked are served first, even beyond a slice, so that none of
    them is evicted only because the round has not reached it. Inside a flush this is
    impossible, and the log can exceed its bound until the flush has reached them.
    """
    if hub._flushing:
        _cut(hub, room)
    else:
        _serve_all(hub, room)       # it calls _cut() at its end
    return 0


cdef int _cut(Hub hub, Room room) except -1:
    """Evict the blocked members that keep a log over its bound."""
    cdef uint64_t limit = room.lowest(BLOCKED)
    cdef Py_ssize_t log_bytes = room.log_bytes(), count = 0, i
    cdef list behind = []
    while log_bytes > hub._max_lag_bytes and room.base + count < limit:
        log_bytes -= room.log[count].size + BATCH_OVERHEAD
        count += 1
    for i in range(room.size):
        if room.slots[i].cursor < room.base + count:
            behind.append(room.members[i])
    for conn in behind:
        _evict_slow(hub, <Connection>conn, "room", "fell too far behind")
    return _forget(hub, room)
