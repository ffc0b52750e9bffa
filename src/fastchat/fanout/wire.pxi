# Part of _fanout.pyx: the wire. Frames, and the send loop.
#
# The send loop is `nogil` and `noexcept`: it uses C arrays only, raises nothing and calls no
# Python code. Its results are numbers, and flush.pxi acts on them after the loop.

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

# Opcodes of RFC 6455 §11.8. The three control opcodes are those from OP_CLOSE on.
cdef enum:
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA

# Close codes of RFC 6455 §7.4.1. Codes from 4000 on are reserved for private use (§7.4.2).
cdef enum:
    CLOSE_GOING_AWAY = 1001
    CLOSE_NO_STATUS = 1005     # never sent: stands for a close frame without a code
    CLOSE_ABNORMAL = 1006      # never sent: stands for a connection that was lost
    CLOSE_EVICTED = 4008
    CLOSE_HEARTBEAT = 4009

cdef enum:
    # Batches in one sendmsg(). The array takes 1 KiB of the stack; Linux accepts 1,024
    # (IOV_MAX). A member that lacks more batches gets them in several calls.
    MAX_IOVECS = 64

cdef enum:
    BLOCKED = 1     # a flag of a slot: the send loop skips the member

cdef enum:
    # Results of a write; any other result is a number of bytes.
    DONE = -1       # everything was written
    DEAD = -2       # send() failed with an error that repeating cannot mend

cdef struct Slot:
    int fd          # -1: the member is served through its transport
    uint32_t flags
    uint64_t cursor # number of the next batch that the member needs

cdef struct Batch:      # `data` points into a bytes object in Room.batches
    const char *data
    size_t size
    size_t frames
    uint64_t start      # Room.appended before this batch

cdef struct Sent:       # totals handed to sockets and transports
    uint64_t deliveries
    uint64_t bytes


cdef bytes _frame(int opcode, const char *payload, Py_ssize_t size):
    """One unfragmented, unmasked frame (RFC 6455 §5.2)."""
    cdef Py_ssize_t header = 2 if size < 126 else 4 if size < 65536 else 10
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, header + size)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(frame)
    cdef int shift
    # RFC 6455 §5.2: "the minimal number of bytes MUST be used to encode the length".
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


cdef bytes _close_frame(int code, str reason):
    """A close frame (RFC 6455 §5.5.1). The code 1005 gives a frame without a code.

    Raises ValueError for 1004, 1006 and 1015, which RFC 6455 §7.4.1 reserves, and for codes
    outside 1000 to 4999.
    """
    if code == CLOSE_NO_STATUS:
        return _frame_of(OP_CLOSE, b"")
    if not 1000 <= code <= 4999 or code in (1004, CLOSE_ABNORMAL, 1015):
        raise ValueError(f"{code} is no code that a close frame may carry")
    return _frame_of(OP_CLOSE, code.to_bytes(2, "big") + _cut_utf8(reason, 123))


cdef bytes _cut_utf8(str text, Py_ssize_t limit):
    """Encode `text`, cut to at most `limit` bytes at the end of a character."""
    return text.encode()[:limit].decode("utf-8", "ignore").encode()


cdef ssize_t _send_from(
    Slot *slot, const Batch *log, uint64_t base, uint64_t head, Sent *total
) noexcept nogil:
    """Write the batches between a member's cursor and the head of its room's log.

    The cursor moves past each batch that was written whole. Returns DONE, DEAD, or the
    number of bytes of the batch at the cursor that the socket accepted before it was full.
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
                return 0    # the socket, or the kernel, has no buffer left for now
            return DEAD
        total.bytes += <size_t>sent
        for i in range(count):
            if <size_t>sent < batch[i].size:
                return sent
            sent -= <ssize_t>batch[i].size
            slot.cursor += 1
            total.deliveries += batch[i].frames
    return DONE


cdef Py_ssize_t _send_slice(
    Slot *slots, Py_ssize_t start, Py_ssize_t stop,
    const Batch *log, uint64_t base, uint64_t head,
    int32_t *who, ssize_t *outcome, Sent *total
) noexcept nogil:
    """The send loop. Returns the number of members that were not served completely.

    `who` gets the index of each of these members, and `outcome` the result of `_send_from`
    for it (0 for a member without a descriptor). Both need `stop - start` entries.
    """
    cdef Py_ssize_t i, short_count = 0
    cdef ssize_t sent
    for i in range(start, stop):
        if slots[i].cursor == head or slots[i].flags & BLOCKED:
            continue
        sent = 0
        if slots[i].fd >= 0:
            sent = _send_from(&slots[i], log, base, head, total)
            if sent == DONE:
                continue
        who[short_count] = <int32_t>i
        outcome[short_count] = sent
        short_count += 1
    return short_count


cdef ssize_t _send_frame(int fd, bytes frame) noexcept:
    """Write one frame. Returns DONE, DEAD, or the number of bytes that the socket accepted."""
    cdef ssize_t sent
    while True:
        sent = c_send(fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame),
                      MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent == PyBytes_GET_SIZE(frame):
            return DONE
        if sent >= 0:
            return sent
        if errno == EAGAIN or errno == ENOBUFS:
            return 0
        if errno != EINTR:
            return DEAD
