# Part of _fanout.pyx: a room, its members in a C array and its log.

cdef enum:
    # What a batch costs beyond its bytes (object header, log entry), counted so
    # that a log of tiny batches keeps to its bound in real memory.
    BATCH_OVERHEAD = 80


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
