# Part of _fanout.pyx: a room, its members in a C array and its log.

cdef enum:
    # The memory that a batch takes beyond its bytes: the header of a bytes object (33),
    # its entry in `batches` (8) and in `log` (32), and rounding. It is counted so that a
    # log of tiny batches stays within its bound in real memory, too.
    BATCH_OVERHEAD = 80


@cython.final
cdef class Room:
    """A room's members, its pending frames and its log. Private to the hub.

    Invariants, which verify.pxi checks between two calls: the log holds the batches with
    the numbers ``base`` to ``head - 1``. Every cursor lies in ``base`` to ``head``. A
    member behind the head is blocked, or the round has yet to visit it. A room without
    members does not exist.
    """
    cdef readonly str name
    # Members: slots[i] and members[i] are the same one. Removal moves the last to the gap.
    cdef Slot *slots
    cdef Py_ssize_t size, capacity
    cdef list members
    cdef Py_ssize_t blocked         # the number of slots with the flag BLOCKED
    # Frames that are not in the log yet.
    cdef list pending
    cdef Py_ssize_t pending_bytes
    # The log: batches[i] and log[i] are the batch with the number base + i.
    cdef list batches
    cdef Batch *log
    cdef Py_ssize_t log_capacity
    cdef uint64_t base, head
    cdef uint64_t appended          # bytes of all batches since the room was made
    # The round: `unserved` members from `next` on, in a circle, have yet to be visited.
    cdef Py_ssize_t next, unserved
    cdef bint dirty                 # whether the room is in the hub's list of rooms to flush
    # Pacing: the seconds and the publications of this round, and the end of the pause.
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
        """Add a member at the head of the log, so that it gets later publications only."""
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
            self.unserved = self.size   # the circle has grown: visit all members again
        return 0

    cdef int remove(self, Connection conn) except -1:
        """Remove a member, and move the last one into its slot."""
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
        """Append a batch to the log and start a new round."""
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
        self.log[count].start = self.appended
        self.appended += PyBytes_GET_SIZE(batch) + BATCH_OVERHEAD
        self.head += 1
        self.unserved = self.size
        return 0

    cdef int drop(self, Py_ssize_t count) except -1:
        """Drop the oldest `count` batches of the log."""
        cdef Py_ssize_t left = len(self.batches) - count
        assert 0 <= count <= len(self.batches)
        if left == 0:
            self.batches.clear()
            if self.log_capacity > 64:      # free a large array after a long lag
                free(self.log)
                self.log = NULL
                self.log_capacity = 0
        else:
            memmove(self.log, self.log + count, left * sizeof(Batch))
            del self.batches[:count]
        self.base += count
        return 0

    cdef inline Py_ssize_t log_bytes(self) noexcept:
        if self.base == self.head:
            return 0
        return <Py_ssize_t>(self.appended - self.log[0].start)

    cdef Py_ssize_t unread(self, Py_ssize_t i) noexcept:
        """The bytes of the log from the cursor of member `i` to the head."""
        cdef uint64_t cursor = self.slots[i].cursor
        if cursor == self.head:
            return 0
        return <Py_ssize_t>(self.appended - self.log[cursor - self.base].start)

    cdef uint64_t lowest(self, uint32_t skip) noexcept:
        """The lowest cursor of the members that have no flag of `skip`, or the head."""
        cdef uint64_t low = self.head
        cdef Py_ssize_t i
        for i in range(self.size):
            if not self.slots[i].flags & skip and self.slots[i].cursor < low:
                low = self.slots[i].cursor
        return low
