"""Buffers that the WebSockets of an event loop share, in place of two for each connection.

picows gives each connection a buffer to read into (2 KiB or more, and it never shrinks) and one to
write from (1 KiB). A connection that waits for its client needs neither:

* A read ends in the same callback of the event loop in which it began, and picows then delivers
  all whole frames. Only the beginning of a frame, or of the handshake, has to stay. So all
  connections of a loop read into one buffer, and what stays is copied into a buffer of the
  connection's own, until its frame is complete (`settle`).
* picows writes the handshake and close frames of its own. Each write ends before it returns: what
  the kernel does not take is copied. So all connections of a loop write from one buffer.

The fields of picows' objects are private. Therefore the two structures below repeat their layout in
picows 2.3.1, to which `pyproject.toml` pins it. If picows is another version, or if the sizes
differ, importing this module fails. Before the pin moves, compare the structures with
`WSProtocol` (picows.pyx), `WSTransport` and `MemoryBuffer` (picows.pxd).
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from picows import __version__ as _version
from picows.picows import MemoryBuffer, WSProtocol, WSTransport

cdef extern from *:
    """
    #ifndef FASTCHAT_DEBUG
    #define FASTCHAT_DEBUG 0
    #endif

    typedef struct {
        PyObject_HEAD
        void *vtable;
        Py_ssize_t size, capacity;
        char *data;
    } picows_buffer;

    typedef struct {
        PyObject_HEAD
        void *vtable;
        PyObject *transport, *listener;
        PyObject *listener_factory, *host_port, *ws_path, *logger;
        int log_debug_enabled, is_client_side, disconnect_on_exception;
        PyObject *disconnect_exception, *loop;
        PyObject *handshake_timeout, *handshake_timeout_handle, *handshake_complete_future;
        Py_ssize_t http_max_size;
        PyObject *websocket_key_b64;
        Py_ssize_t max_frame_size;
        int enable_auto_pong, enable_auto_ping;
        PyObject *auto_ping_idle_timeout, *auto_ping_reply_timeout;
        int auto_ping_strategy;
        PyObject *auto_ping_loop_task;
        double last_data_time;
        PyObject *extra_headers;
        int state;
        PyObject *read_buffer;
        Py_ssize_t new_data_start, state_start, frame_start, payload_length, payload_start;
        int msg_type;
        uint32_t mask;
        uint8_t fin, rsv1, rsv2, rsv3, has_mask, payload_length_flag;
    } picows_protocol;

    typedef struct {
        PyObject_HEAD
        void *vtable;
        PyObject *weakref;
        unsigned long thread_id;
        PyObject *loop, *logger;
        int log_debug_enabled, is_aiofn_transport;
        PyObject *get_write_buffer_size, *write;
        int socket;
        PyObject *underlying_transport, *request, *response, *close_handshake;
        int is_client_side, is_secure, is_close_frame_sent, is_disconnected;
        int auto_ping_expect_pong;
        PyObject *pong_received_at_future, *listener_proxy, *disconnected_future;
        PyObject *write_buffer;
    } picows_transport;
    """
    bint FASTCHAT_DEBUG
    ctypedef struct picows_buffer:
        Py_ssize_t size, capacity
        char *data
    ctypedef struct picows_protocol:
        PyObject *transport
        PyObject *read_buffer
        Py_ssize_t new_data_start
    ctypedef struct picows_transport:
        PyObject *write_buffer

#: True in the build that `FASTCHAT_DEBUG=1` makes: bounds checks and assertions.
DEBUG = bool(FASTCHAT_DEBUG)

cdef enum:
    # picows leaves so much of a buffer free, because its SIMD code reads beyond the data.
    MARGIN = 256
    # The smallest buffer of picows.
    OWN_BYTES = 2048

if _version != "2.3.1" or (
    WSProtocol.__basicsize__ != sizeof(picows_protocol)
    or WSTransport.__basicsize__ != sizeof(picows_transport)
    or MemoryBuffer.__basicsize__ != sizeof(picows_buffer)
):
    raise ImportError(f"fastchat needs picows 2.3.1, and not {_version}")


cdef class SharedBuffers:
    """The buffers of all WebSockets of one event loop, for reads of at most ``read_bytes``."""

    cdef object _read, _write

    def __init__(self, Py_ssize_t read_bytes):
        # picows enlarges a buffer if a read leaves less than a tenth of it or the margin free.
        self._read = MemoryBuffer(2 * read_bytes + 2 * MARGIN)
        cdef picows_buffer *read = <picows_buffer *><PyObject *>self._read
        read.size = read.capacity - MARGIN
        self._write = MemoryBuffer(MARGIN)

    def settle(self, protocol not None):
        """Have a protocol read into the shared buffer next.

        It must be called after each `buffer_updated` of the protocol, which has to be a
        ``WSProtocol`` (TypeError). If the beginning of a frame stays, the protocol gets or keeps a
        buffer of its own, with the same bytes in it.
        """
        if not isinstance(protocol, WSProtocol):
            raise TypeError("a protocol of picows is needed")
        cdef picows_protocol *fields = <picows_protocol *><PyObject *>protocol
        if fields.new_data_start == 0:
            _replace(&fields.read_buffer, self._read)
        elif fields.read_buffer == <PyObject *>self._read:
            _replace(&fields.read_buffer, _copied(self._read, fields.new_data_start))

    def share_writing(self, transport not None):
        """Have a ``WSTransport`` write from the shared buffer (TypeError for anything else)."""
        if not isinstance(transport, WSTransport):
            raise TypeError("a transport of picows is needed")
        _replace(&(<picows_transport *><PyObject *>transport).write_buffer, self._write)

    def is_sharing(self, protocol not None):
        """Whether a protocol has no buffer of its own to read into; for tests."""
        if not isinstance(protocol, WSProtocol):
            raise TypeError("a protocol of picows is needed")
        return (<picows_protocol *><PyObject *>protocol).read_buffer == <PyObject *>self._read


cdef object _copied(buffer, Py_ssize_t count):
    """A new buffer with the first `count` bytes of another, of a size that picows would choose."""
    cdef Py_ssize_t size = OWN_BYTES - MARGIN
    while 100 * count / size > 90 or size - count <= MARGIN:
        size *= 2
    own = MemoryBuffer(size + MARGIN)
    cdef picows_buffer *fields = <picows_buffer *><PyObject *>own
    assert count <= (<picows_buffer *><PyObject *>buffer).size
    fields.size = size
    memcpy(fields.data, (<picows_buffer *><PyObject *>buffer).data, count)
    return own


cdef int _replace(PyObject **field, value) except -1:
    """Assign a field of another type's object."""
    cdef PyObject *old = field[0]
    if old != <PyObject *>value:
        Py_INCREF(value)
        field[0] = <PyObject *>value
        Py_DECREF(<object>old)
    return 0
