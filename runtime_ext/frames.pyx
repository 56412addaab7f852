# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""Cut a byte stream into frames, and look over a msgpack body before anything is allocated for it; cut a file's texts.

A frame is a length (4 bytes, big-endian) and that many bytes of msgpack. `Splitter` keeps what is not whole yet.
`survey` walks a body in place (msgpack specification, "Formats") and refuses what is nested too deep, has too many
values, is truncated, goes on after its end, or uses extension types: so a bomb costs one pass over its own bytes.
A text in a model file is a length (8 bytes, little-endian) and that many bytes: a vocabulary is 300,000 of them.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8, PyUnicode_Tailmatch
from libc.string cimport memcpy

DEF MAX_DEPTH = 64


cdef inline unsigned long long _be(const unsigned char *p, int n) noexcept nogil:
    cdef unsigned long long v = 0
    cdef int i
    for i in range(n):
        v = (v << 8) | p[i]
    return v


cdef int _survey(const unsigned char *p, Py_ssize_t n, int depth_limit, Py_ssize_t values_limit) noexcept nogil:
    """0 if sound; 1 truncated, 2 too deep, 3 too many values, 4 a type that we do not speak, 5 bytes after the end."""
    cdef unsigned long long left[MAX_DEPTH]   # values still to come at each open level
    cdef int depth = 0
    cdef Py_ssize_t at = 0, values = 0
    cdef unsigned long long count, size
    cdef unsigned char b
    cdef int width
    left[0] = 1
    while True:
        while depth >= 0 and left[depth] == 0:
            depth -= 1
        if depth < 0:
            return 0 if at == n else 5
        left[depth] -= 1
        if at >= n:
            return 1
        values += 1
        if values > values_limit:
            return 3
        b = p[at]
        at += 1
        count = 0
        size = 0
        if b <= 0x7f or b >= 0xe0 or b == 0xc0 or b == 0xc2 or b == 0xc3:
            continue
        elif b <= 0x8f:
            count = 2 * (b & 0x0f)
        elif b <= 0x9f:
            count = b & 0x0f
        elif b <= 0xbf:
            size = b & 0x1f
        elif 0xc4 <= b <= 0xc6 or 0xd9 <= b <= 0xdb:
            width = 1 << (b - (0xc4 if b <= 0xc6 else 0xd9))
            if at + width > n:
                return 1
            size = _be(p + at, width)
            at += width
        elif b == 0xca:
            size = 4
        elif b == 0xcb:
            size = 8
        elif 0xcc <= b <= 0xcf:
            size = 1 << (b - 0xcc)
        elif 0xd0 <= b <= 0xd3:
            size = 1 << (b - 0xd0)
        elif 0xdc <= b <= 0xdf:
            width = 2 if (b & 1) == 0 else 4
            if at + width > n:
                return 1
            count = _be(p + at, width)
            at += width
            if b >= 0xde:
                count *= 2
        else:
            return 4
        if size:
            if size > <unsigned long long>(n - at):
                return 1
            at += size
        elif count:
            # each value takes a byte at least: a count above what is left can never come true
            if count > <unsigned long long>(n - at):
                return 1
            depth += 1
            if depth >= depth_limit or depth >= MAX_DEPTH:
                return 2
            left[depth] = count


_WRONG = (
    "", "it ends in the middle of a value", "it is nested too deep", "it has too many values",
    "it has a type that is not spoken here", "bytes follow its end",
)


def survey(bytes body not None, int depth_limit, Py_ssize_t values_limit):
    """What is wrong with a msgpack body, in words; empty if it is sound."""
    return _WRONG[_survey(<const unsigned char *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
                          depth_limit, values_limit)]


def fits(list message not None, tuple kinds not None):
    """Whether the message's fields, those after its kind, are at least as many as `kinds`, and each of its type."""
    cdef Py_ssize_t i, n = len(kinds)
    if len(message) <= n:
        return False
    for i in range(n):
        if not isinstance(message[i + 1], kinds[i]):
            return False
    return True


@cython.final
cdef class Splitter:
    """Frames out of a byte stream. `limit` is the largest body that is taken, in bytes; it may be set at any time."""

    cdef public Py_ssize_t limit
    cdef bytes _rest

    def __init__(self, Py_ssize_t limit):
        self.limit = limit
        self._rest = b""

    @property
    def waiting(self):
        """Bytes of a frame that is not whole yet."""
        return PyBytes_GET_SIZE(self._rest)

    def feed(self, bytes data not None):
        """The bodies that became whole with `data`, in order.

        Raises:
            ValueError: a length is above the limit (the frames before it are lost: the stream is broken anyway).
        """
        cdef const unsigned char *p
        cdef Py_ssize_t n, at = 0
        cdef unsigned long long size
        cdef list bodies = []
        if PyBytes_GET_SIZE(self._rest):
            data = self._rest + data
        p = <const unsigned char *>PyBytes_AS_STRING(data)
        n = PyBytes_GET_SIZE(data)
        while n - at >= 4:
            size = _be(p + at, 4)
            if size > <unsigned long long>self.limit:
                raise ValueError(f"a frame of {size} bytes, and {self.limit} is the limit")
            if <unsigned long long>(n - at - 4) < size:
                break
            bodies.append(PyBytes_FromStringAndSize(<const char *>(p + at + 4), <Py_ssize_t>size))
            at += 4 + <Py_ssize_t>size
        self._rest = data[at:] if at else data
        return bodies


cdef bint _begins(object value, str prefix, Py_ssize_t n, int depth):
    """Deeper than the wire carries, the answer is yes: whoever asks looks for himself then."""
    cdef object inner
    if type(value) is str:
        return PyUnicode_Tailmatch(value, prefix, 0, n, -1) == 1
    if depth > MAX_DEPTH:
        return True
    if type(value) is dict:
        for inner in (<dict>value).values():
            if _begins(inner, prefix, n, depth + 1):
                return True
    elif type(value) is list:
        for inner in <list>value:
            if _begins(inner, prefix, n, depth + 1):
                return True
    elif type(value) not in _FLAT:
        return True
    return False


_FLAT = frozenset((int, float, bool, bytes, type(None)))


def begins(object value, str prefix not None):
    """Whether some text in a plain value may begin with `prefix`: keys are not looked at, other types may hold any."""
    return _begins(value, prefix, len(prefix), 0)


def frame(bytes body not None):
    """The body with its length before it."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(body)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 4)
    cdef unsigned char *p = <unsigned char *>PyBytes_AS_STRING(out)
    p[0] = (n >> 24) & 0xff
    p[1] = (n >> 16) & 0xff
    p[2] = (n >> 8) & 0xff
    p[3] = n & 0xff
    memcpy(p + 4, PyBytes_AS_STRING(body), n)
    return out


def texts(data, Py_ssize_t at, Py_ssize_t end, Py_ssize_t count):
    """The texts that lie whole in data[at:end], up to `count` of them, and where the next one begins.

    Bytes that are no UTF-8 are kept as surrogates (`surrogateescape`).

    Raises:
        ValueError: there is no such part of the data.
    """
    cdef Py_buffer view
    cdef const unsigned char *p
    cdef unsigned long long size
    cdef int i
    cdef list found = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if not 0 <= at <= end <= view.len:
            raise ValueError(f"bytes {at} to {end} of {view.len}")
        p = <const unsigned char *>view.buf
        while count > 0 and end - at >= 8:
            size = 0
            for i in range(7, -1, -1):
                size = (size << 8) | p[at + i]
            if size > <unsigned long long>(end - at - 8):
                break
            found.append(PyUnicode_DecodeUTF8(<const char *>p + at + 8, <Py_ssize_t>size, b"surrogateescape"))
            at += 8 + <Py_ssize_t>size
            count -= 1
        return found, at
    finally:
        PyBuffer_Release(&view)
