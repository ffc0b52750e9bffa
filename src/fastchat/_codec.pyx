"""The compiled half of the protocol: a parser for plain messages, their encoding, and packing.

Most of what a chat server parses and encodes are messages without anything unusual. This module
does only these, from bytes to tuples and back. It leaves everything else to `fastchat.protocol`: a
general parser that knows why a payload is refused, and a general encoder. So each function here
has a slower twin, and what it returns is equal to what the twin returns;
`tests/unit/protocol/test_codec.py` compares them. What packs and
unpacks has no twin: drafts on the way to the relay, and plain messages on the way to other machines.

Like the hub, this module imports nothing else of fastchat. The tuples that it makes are of types
that the caller passes (`NamedTuple`s), whose `__new__` it does not call.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "Python.h":
    object PyType_GenericAlloc(type kind, Py_ssize_t items)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const char *PyUnicode_1BYTE_DATA "(const char *)PyUnicode_1BYTE_DATA" (object text)
    bytes PyUnicode_AsUTF8String(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef extern from *:
    """
    #ifndef FASTCHAT_DEBUG
    #define FASTCHAT_DEBUG 0
    #endif
    """
    bint FASTCHAT_DEBUG

cdef enum:
    ZERO = 0x30     # the digit

#: True in the build that `FASTCHAT_DEBUG=1` makes: assertions.
DEBUG = bool(FASTCHAT_DEBUG)


cdef struct Piece:      # the UTF-8 of a string
    const char *data
    Py_ssize_t size


# Parsing

cdef struct Span:       # a string's bytes in the payload, between its quotes
    const char *start
    Py_ssize_t size
    bint is_printable   # whether all of it is ASCII without control characters


cdef inline const char *_skip_space(const char *at, const char *end) noexcept nogil:
    # RFC 8259 §2: ws = *( %x20 / %x09 / %x0A / %x0D )
    while at < end and (at[0] == b' ' or at[0] == b'\n' or at[0] == b'\r' or at[0] == b'\t'):
        at += 1
    return at


cdef inline const char *_read_string(const char *at, const char *end, Span *span) noexcept nogil:
    """Read a string that begins at `at`; returns the place behind it.

    Returns NULL if there is no string, or one with an escape or a control character. RFC 8259 §7
    requires control characters to be escaped.
    """
    cdef const char *quote
    cdef Py_ssize_t i
    cdef uint8_t byte, high = 0
    cdef bint is_plain = True
    if at == end or at[0] != b'"':
        return NULL
    at += 1
    quote = <const char *>memchr(at, b'"', end - at)
    if quote == NULL:
        return NULL
    span.start = at
    span.size = quote - at
    for i in range(span.size):      # without a branch, so that the compiler can use vectors
        byte = <uint8_t>at[i]
        is_plain &= (byte >= 0x20) & (byte != b'\\')
        high = max(high, byte)
    if not is_plain:
        return NULL
    span.is_printable = high < 0x7f
    return quote + 1


cdef inline bint _is(const Span *span, const char *name, Py_ssize_t size) noexcept nogil:
    return span.size == size and memcmp(span.start, name, size) == 0


cdef inline bint _is_plain_room(const Span *room, Py_ssize_t max_chars) noexcept nogil:
    """Whether a room's name is its own key, as it is if it has only these characters."""
    cdef Py_ssize_t i
    cdef char char
    if not 1 <= room.size <= max_chars:
        return False
    for i in range(room.size):
        char = room.start[i]
        if not (b'a' <= char <= b'z' or b'0' <= char <= b'9'
                or char == b'.' or char == b'_' or char == b'-'):
            return False
    return True


cdef class Parser:
    """Called with a payload: the message in it as `kind(text, room, id, ref)`, if it is a plain one.

    A plain message is a JSON object with a `text`, and perhaps "type":"message", a `room`, an `id`
    and a `ref`, each at most once, all of them strings without escapes. Its text has 1 to
    `max_chars` printable characters, and no space at its end. Its room is an ASCII name of at most
    `max_room_chars`. `id` and `ref` have 1 to `max_token_bytes`. For all else, the result is that
    of `general(payload)`.
    """

    cdef object _general
    cdef type _kind
    cdef Py_ssize_t _max_chars, _max_room_chars, _max_token_bytes

    def __init__(self, general, type kind not None, Py_ssize_t max_chars,
                 Py_ssize_t max_room_chars, Py_ssize_t max_token_bytes):
        self._general = general
        self._kind = kind
        self._max_chars = max_chars
        self._max_room_chars = max_room_chars
        self._max_token_bytes = max_token_bytes

    def __call__(self, bytes payload not None):
        plain = _parse_plain(
            payload, self._kind, self._max_chars, self._max_room_chars, self._max_token_bytes)
        return self._general(payload) if plain is None else plain


cdef object _parse_plain(bytes payload, type kind, Py_ssize_t max_chars,
                         Py_ssize_t max_room_chars, Py_ssize_t max_token_bytes):
    cdef const char *at = PyBytes_AS_STRING(payload)
    cdef const char *end = at + PyBytes_GET_SIZE(payload)
    cdef Span key, value, text, room, id, ref
    cdef bint has_type = False
    text.start = room.start = id.start = ref.start = NULL
    text.size = room.size = id.size = ref.size = 0
    text.is_printable = id.is_printable = ref.is_printable = False
    at = _skip_space(at, end)
    if at == end or at[0] != b'{':
        return None
    while True:     # at[0] is the brace, or a comma
        at = _read_string(_skip_space(at + 1, end), end, &key)
        if at == NULL:
            return None
        at = _skip_space(at, end)
        if at == end or at[0] != b':':
            return None
        at = _read_string(_skip_space(at + 1, end), end, &value)
        if at == NULL:
            return None
        if text.start == NULL and _is(&key, b"text", 4):
            text = value
        elif room.start == NULL and _is(&key, b"room", 4) and _is_plain_room(&value, max_room_chars):
            room = value
        elif id.start == NULL and _is(&key, b"id", 2) and 1 <= value.size <= max_token_bytes:
            id = value
        elif ref.start == NULL and _is(&key, b"ref", 3) and 1 <= value.size <= max_token_bytes:
            ref = value
        elif not has_type and _is(&key, b"type", 4) and _is(&value, b"message", 7):
            has_type = True
        else:
            return None
        at = _skip_space(at, end)
        if at == end:
            return None
        if at[0] == b'}':
            break
        if at[0] != b',':
            return None
    if _skip_space(at + 1, end) != end:
        return None
    if text.size == 0 or text.start[text.size - 1] == b' ':
        return None
    try:
        words = _decode(&text)
        if not text.is_printable and not words.isprintable():
            return None
        if PyUnicode_GET_LENGTH(words) > max_chars:
            return None
        return _tuple(kind, words, _decode_or_none(&room), _decode_or_none(&id), _decode_or_none(&ref))
    except UnicodeDecodeError:
        return None


cdef inline str _decode(const Span *span):
    return <str>PyUnicode_DecodeUTF8(span.start, span.size, NULL)


cdef inline object _decode_or_none(const Span *span):
    return None if span.start == NULL else _decode(span)


cdef int _require_items(object made, Py_ssize_t count) except -1:
    if not (PyTuple_Check(made) and PyTuple_GET_SIZE(made) == count):
        raise TypeError(f"a tuple of {count} items is needed")
    return 0


cdef inline object _item(object made, Py_ssize_t index):
    return <object>PyTuple_GET_ITEM(made, index)


cdef inline object _tuple(type kind, object a, object b, object c, object d):
    cdef object made = PyType_GenericAlloc(kind, 4)
    _set(made, 0, a)
    _set(made, 1, b)
    _set(made, 2, c)
    _set(made, 3, d)
    return made


cdef inline void _set(object made, Py_ssize_t index, object item) noexcept:
    Py_INCREF(item)
    PyTuple_SET_ITEM(made, index, item)     # which takes over a reference


# Drafts

def make_draft(type kind not None, room, username, text, timestamp, user, id):
    """`kind(room, username, text, timestamp, user, id)`, a `fastchat.protocol.MessageDraft`."""
    made = PyType_GenericAlloc(kind, 6)
    _set(made, 0, room)
    _set(made, 1, username)
    _set(made, 2, text)
    _set(made, 3, timestamp)
    _set(made, 4, user)
    _set(made, 5, id)
    return made


def number_draft(draft, offset, type kind not None):
    """The `fastchat.protocol.Message`, a `kind`, that the draft of a message becomes at `offset`."""
    cdef Py_ssize_t index
    _require_items(draft, 6)
    made = PyType_GenericAlloc(kind, 10)
    _set(made, 0, _item(draft, 0))
    _set(made, 1, offset)
    for index in range(1, 6):
        _set(made, index + 1, _item(draft, index))
    _set(made, 7, None)     # edited
    _set(made, 8, False)    # deleted
    _set(made, 9, None)     # reactions
    return made


def message_rows(list publications not None, type kind not None, int64_t before):
    """The values to store of those publications that are messages (of the exact type `kind`).

    For each message a tuple: `before` + its offset, user, username, text, timestamp, id. The items
    of a message are those of `fastchat.protocol.Message`.
    """
    rows = []
    for each in publications:
        if type(each) is not kind:
            continue
        _require_items(each, 10)
        rows.append((
            before + <int64_t>_item(each, 1), _item(each, 5), _item(each, 2), _item(each, 3),
            _item(each, 4), _item(each, 6)))
    return rows


# Times

cdef enum:
    SECOND_CHARS = 19       # 2025-01-18T10:30:00
    TIMESTAMP_CHARS = 24    # 2025-01-18T10:30:00.123Z

cdef class Timestamps:
    """Called without arguments: the time now in RFC 3339, UTC, with milliseconds.

    `clock` returns seconds since 1970, and `format_second` formats whole ones, once a second.
    """

    cdef object _clock, _format_second, _text
    cdef int64_t _second
    cdef int _millisecond
    cdef char _chars[TIMESTAMP_CHARS]

    def __init__(self, clock, format_second):
        self._clock = clock
        self._format_second = format_second
        self._second = -1
        self._millisecond = -1

    def __call__(self):
        cdef int64_t now = <int64_t>(<double>self._clock() * 1000)
        cdef int64_t second = now // 1000
        cdef int millisecond = <int>(now % 1000)
        if second != self._second:
            self._write_second(self._format_second(second))
            self._second = second
        elif millisecond == self._millisecond:  # as it often is in a burst of messages
            return self._text
        self._chars[SECOND_CHARS + 1] = <char>(ZERO + millisecond // 100)
        self._chars[SECOND_CHARS + 2] = <char>(ZERO + millisecond // 10 % 10)
        self._chars[SECOND_CHARS + 3] = <char>(ZERO + millisecond % 10)
        self._text = PyUnicode_DecodeUTF8(self._chars, TIMESTAMP_CHARS, NULL)
        self._millisecond = millisecond
        return self._text

    cdef int _write_second(self, str second) except -1:
        if not PyUnicode_IS_COMPACT_ASCII(second) or PyUnicode_GET_LENGTH(second) != SECOND_CHARS:
            raise ValueError(f"{second!r} has not the form 2025-01-18T10:30:00")
        memcpy(self._chars, PyUnicode_1BYTE_DATA(second), SECOND_CHARS)
        self._chars[SECOND_CHARS] = b'.'
        self._chars[TIMESTAMP_CHARS - 1] = b'Z'
        return 0


# Drafts on the way to the relay

cdef enum:
    TEXTS = 7                   # of a draft: five, the id, and the change
    REQUIRED = 5
    LENGTH_BYTES = 4
    MISSING = 0xffffffff        # the length of a text that is None


def pack_draft(draft not None, str change=None):
    """The bytes of a draft in a record: its texts, each behind its length in UTF-8, big-endian.

    The first six items of `draft` are those of a `fastchat.protocol.MessageDraft`. `change` has the
    rest of any other draft. Raises UnicodeEncodeError for a lone surrogate.
    """
    cdef Piece pieces[TEXTS]
    cdef Py_ssize_t size = TEXTS * LENGTH_BYTES
    cdef int index
    cdef char *out
    if not (PyTuple_Check(draft) and PyTuple_GET_SIZE(draft) >= TEXTS - 1):
        raise TypeError("a draft has at least six items")
    owners = (      # of the bytes to which the pieces point
        _utf8_or_none(_item(draft, 0), &pieces[0]), _utf8_or_none(_item(draft, 1), &pieces[1]),
        _utf8_or_none(_item(draft, 2), &pieces[2]), _utf8_or_none(_item(draft, 3), &pieces[3]),
        _utf8_or_none(_item(draft, 4), &pieces[4]), _utf8_or_none(_item(draft, 5), &pieces[5]),
        _utf8_or_none(change, &pieces[6]))
    for index in range(TEXTS):
        size += pieces[index].size
    packed = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(packed)
    for index in range(TEXTS):
        out = _put_length(out, MISSING if pieces[index].data == NULL else <uint32_t>pieces[index].size)
        if pieces[index].size:      # without an id, `data` is NULL, which memcpy does not allow
            out = _put(out, pieces[index].data, pieces[index].size)
    assert out == PyBytes_AS_STRING(packed) + size
    return packed


def unpack_drafts(bytes packed not None, type kind not None):
    """The drafts that `pack_draft` has packed, one after the other.

    A draft without a change is a `kind` of six items, a `fastchat.protocol.MessageDraft`. Any other
    is a tuple of seven, the last of which is its change. A text that a draft has in common with the
    draft before is the same object: most drafts of a turn share rooms, names and times. Raises
    ValueError if the bytes are not those of drafts.
    """
    cdef const char *at = PyBytes_AS_STRING(packed)
    cdef const char *end = at + PyBytes_GET_SIZE(packed)
    cdef Piece piece
    cdef Piece earlier[TEXTS]
    cdef uint32_t size
    cdef int index
    cdef list drafts = []
    cdef list texts = [None] * TEXTS    # of the draft before
    for index in range(TEXTS):
        earlier[index] = Piece(NULL, 0)
    while at < end:
        for index in range(TEXTS):
            if end - at < LENGTH_BYTES:
                raise ValueError("a draft is incomplete")
            size = _get_length(at)
            at += LENGTH_BYTES
            if size == MISSING:
                if index < REQUIRED:
                    raise ValueError("a text of a draft is missing")
                piece = Piece(NULL, 0)
                texts[index] = None
            else:
                if size > end - at:
                    raise ValueError("a text of a draft is incomplete")
                piece = Piece(at, size)
                at += size
                if not _is_same(&piece, &earlier[index]):
                    texts[index] = PyUnicode_DecodeUTF8(piece.data, piece.size, NULL)
            earlier[index] = piece
        if piece.data != NULL:
            drafts.append(tuple(texts))
            continue
        made = PyType_GenericAlloc(kind, TEXTS - 1)
        for index in range(TEXTS - 1):
            _set(made, index, texts[index])
        drafts.append(made)
    return drafts


cdef inline bint _is_same(const Piece *piece, const Piece *other) noexcept:
    return (other.data != NULL and piece.size == other.size
            and memcmp(piece.data, other.data, piece.size) == 0)


cdef inline char *_put_length(char *out, uint32_t size) noexcept:
    out[0] = <char>(size >> 24)
    out[1] = <char>(size >> 16)
    out[2] = <char>(size >> 8)
    out[3] = <char>size
    return out + LENGTH_BYTES


cdef inline uint32_t _get_length(const char *at) noexcept:
    cdef const uint8_t *bytes_ = <const uint8_t *>at
    return ((<uint32_t>bytes_[0] << 24) | (<uint32_t>bytes_[1] << 16)
            | (<uint32_t>bytes_[2] << 8) | bytes_[3])


cdef inline object _utf8_or_none(str text, Piece *piece):
    if text is None:
        piece.data = NULL
        piece.size = 0
        return None
    return _utf8(text, piece)


# Encoding

cdef enum:
    KEYS_BYTES = 87     # of everything in a payload but the values, without an id
    ID_KEY_BYTES = 8

cdef class Encoder:
    """Called with a publication: its payload, made here if it is a plain message.

    The items of a message are those of `fastchat.protocol.Message`. A message is not plain if it
    was changed, or if a string needs an escape. For all else, the result is that of
    `general(publication)`. Raises UnicodeEncodeError for a lone surrogate.
    """

    cdef object _general

    def __init__(self, general):
        self._general = general

    def __call__(self, publication):
        payload = _encode_plain(publication)
        return self._general(publication) if payload is None else payload


cdef object _encode_plain(message):
    cdef Piece room, username, text, timestamp, user
    cdef Piece id = Piece(NULL, 0)
    cdef char digits[20]
    cdef Py_ssize_t count = 0, size
    cdef int64_t offset
    cdef char *out
    _require_items(message, 10)
    if _item(message, 7) is not None or _item(message, 8) is not False or _item(message, 9) is not None:
        return None
    # These objects keep the bytes alive to which the pieces point.
    owners = (
        _utf8(_item(message, 0), &room), _utf8(_item(message, 2), &username),
        _utf8(_item(message, 3), &text), _utf8(_item(message, 4), &timestamp),
        _utf8(_item(message, 5), &user))
    has_id = _item(message, 6) is not None
    id_owner = _utf8(_item(message, 6), &id) if has_id else None
    if (_needs_escape(&room) or _needs_escape(&username) or _needs_escape(&text)
            or _needs_escape(&timestamp) or _needs_escape(&user)
            or _needs_escape(&id)):
        return None
    offset = _item(message, 1)
    assert offset >= 0
    while True:     # the last digit first
        digits[count] = <char>(ZERO + offset % 10)
        count += 1
        offset //= 10
        if offset == 0:
            break
    size = (KEYS_BYTES + count + room.size + user.size + username.size + text.size + timestamp.size)
    if has_id:
        size += ID_KEY_BYTES + id.size
    payload = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(payload)
    out = _put(out, b'{"type":"message","room":"', 26)
    out = _put(out, room.data, room.size)
    out = _put(out, b'","offset":', 11)
    while count:
        count -= 1
        out[0] = digits[count]
        out += 1
    out = _put(out, b',"user":"', 9)
    out = _put(out, user.data, user.size)
    out = _put(out, b'","username":"', 14)
    out = _put(out, username.data, username.size)
    out = _put(out, b'","text":"', 10)
    out = _put(out, text.data, text.size)
    out = _put(out, b'","timestamp":"', 15)
    out = _put(out, timestamp.data, timestamp.size)
    if has_id:
        out = _put(out, b'","id":"', 8)
        out = _put(out, id.data, id.size)
    out = _put(out, b'"}', 2)
    assert out == PyBytes_AS_STRING(payload) + size
    return payload


# Messages in notes to other machines

cdef enum:
    BRACKETS_BYTES = 13     # of everything in a line but the values, without an id
    ID_BRACKETS_BYTES = 3

def pack_message(message not None):
    """A plain message as a list in JSON, or None for any other publication.

    The list has the user, the username, the text, the timestamp, and the id if there is one. The
    items of a message are those of `fastchat.protocol.Message`; `Encoder` says which are plain.
    Raises UnicodeEncodeError for a lone surrogate.
    """
    cdef Piece username, text, timestamp, user
    cdef Piece id = Piece(NULL, 0)
    cdef Py_ssize_t size
    cdef char *out
    _require_items(message, 10)
    if _item(message, 7) is not None or _item(message, 8) is not False or _item(message, 9) is not None:
        return None
    # These objects keep the bytes alive to which the pieces point.
    owners = (
        _utf8(_item(message, 2), &username), _utf8(_item(message, 3), &text),
        _utf8(_item(message, 4), &timestamp), _utf8(_item(message, 5), &user))
    has_id = _item(message, 6) is not None
    id_owner = _utf8(_item(message, 6), &id) if has_id else None
    if (_needs_escape(&username) or _needs_escape(&text) or _needs_escape(&timestamp)
            or _needs_escape(&user) or _needs_escape(&id)):
        return None
    size = BRACKETS_BYTES + user.size + username.size + text.size + timestamp.size
    if has_id:
        size += ID_BRACKETS_BYTES + id.size
    line = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(line)
    out = _put(out, b'["', 2)
    out = _put(out, user.data, user.size)
    out = _put(out, b'","', 3)
    out = _put(out, username.data, username.size)
    out = _put(out, b'","', 3)
    out = _put(out, text.data, text.size)
    out = _put(out, b'","', 3)
    out = _put(out, timestamp.data, timestamp.size)
    if has_id:
        out = _put(out, b'","', 3)
        out = _put(out, id.data, id.size)
    out = _put(out, b'"]', 2)
    assert out == PyBytes_AS_STRING(line) + size
    return line


def unpack_message(bytes line not None, room, offset, type kind not None):
    """The message, a `kind`, that `pack_message` has packed. Raises ValueError if there is none."""
    cdef const char *at = PyBytes_AS_STRING(line)
    cdef const char *end = at + PyBytes_GET_SIZE(line)
    cdef Span user, username, text, timestamp, id
    cdef Py_ssize_t index
    id.start = NULL
    at = _read_behind(b'[', at, end, &user)
    at = _read_behind(b',', at, end, &username)
    at = _read_behind(b',', at, end, &text)
    at = _read_behind(b',', at, end, &timestamp)
    if at != NULL and at < end and at[0] == b',':
        at = _read_behind(b',', at, end, &id)
    if at == NULL or end - at != 1 or at[0] != b']':
        raise ValueError("there is no packed message")
    texts = (
        _decode(&username), _decode(&text), _decode(&timestamp), _decode(&user),
        _decode_or_none(&id))
    made = PyType_GenericAlloc(kind, 10)
    _set(made, 0, room)
    _set(made, 1, offset)
    for index in range(5):
        _set(made, index + 2, texts[index])
    _set(made, 7, None)     # edited
    _set(made, 8, False)    # deleted
    _set(made, 9, None)     # reactions
    return made


cdef inline const char *_read_behind(
        char before, const char *at, const char *end, Span *span) noexcept nogil:
    """Read a string behind this byte; returns the place behind it, or NULL if it is not there."""
    if at == NULL or at == end or at[0] != before:
        return NULL
    return _read_string(at + 1, end, span)


cdef inline char *_put(char *out, const char *data, Py_ssize_t size) noexcept:
    memcpy(out, data, size)
    return out + size


cdef inline object _utf8(str text, Piece *piece):
    """Set `piece` to a string's UTF-8; returns the object that the bytes belong to."""
    if PyUnicode_IS_COMPACT_ASCII(text):
        piece.data = PyUnicode_1BYTE_DATA(text)
        piece.size = PyUnicode_GET_LENGTH(text)
        return text
    # Not PyUnicode_AsUTF8AndSize, which would keep the UTF-8 as long as the string.
    encoded = PyUnicode_AsUTF8String(text)
    piece.data = PyBytes_AS_STRING(encoded)
    piece.size = PyBytes_GET_SIZE(encoded)
    return encoded


cdef inline bint _needs_escape(const Piece *piece) noexcept nogil:
    """Whether a string has a character that JSON must escape (RFC 8259 §7)."""
    cdef Py_ssize_t i
    cdef uint8_t found = 0, byte
    for i in range(piece.size):     # without a branch, so that the compiler can use vectors
        byte = <uint8_t>piece.data[i]
        found |= (byte < 0x20) | (byte == b'"') | (byte == b'\\')
    return found
