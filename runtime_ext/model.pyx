# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""Models and sessions: the door to the inference core (kernels/llm/llm.h). What each does is told in model.pyi.

Laws: weights stay where the file is mapped unless a kernel gains from another order of them; a full KV block does not
change any more; a session's bits depend on its tokens only, not on kernels, threads, or how many tokens went at once.
One file because a session reaches into its model's C struct.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import mmap as _mmap

from .architecture import ModelError, Shape, tensor

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t, size_t)

cdef extern from "kernels/llm/llm.h" nogil:
    enum:
        KV_TOKENS
        PANEL
        FORM_F16 "F16"
        FORM_Q8_0 "Q8_0"
    ctypedef struct atomic_int:
        pass
    int atomic_load(atomic_int *)
    void atomic_store(atomic_int *, int)
    ctypedef uint8_t *KvBlock
    struct Matrix:
        const uint8_t *data
        size_t stride
        int form, rows, cols
    struct Kernels:
        const char *name
    struct Pool:
        pass
    struct Scratch:
        pass
    struct LayerC "Layer":
        Matrix q, k, v, o, gate, up, down
        const float *attn_norm
        const float *ffn_norm
        const float *q_bias
        const float *k_bias
        const float *v_bias
        const float *q_norm
        const float *k_norm
        int window, sinks
    struct ModelC "Model":
        int layers, embd, heads, kv_heads, head_dim, ff, vocabulary, rope_dims, neox
        float eps, attention_factor
        const double *frequencies
        LayerC *layer
        const float *output_norm
        Matrix output
        const uint8_t *embedding
        int embedding_form
        size_t embedding_bytes
    struct Sampling:
        float temperature, top_p, min_p, penalty
        int top_k, n_recent
        const int32_t *recent
        const uint8_t *mask
    struct Candidate:
        float weight
        int token
    const Kernels *llm_kernels(const char *)
    Pool *pool_new(int)
    void pool_free(Pool *)
    ctypedef void (*Work)(void *, int, int)
    void pool_run(Pool *, Work, void *, int, const atomic_int *)
    size_t form_bytes(int, long, long, size_t *)
    void form_pack(int, const uint8_t *, size_t, uint8_t *, int, int, int)
    void form_row(int, const uint8_t *, int, float *)
    size_t form_row_bytes(int, long)
    Scratch *scratch_new(const ModelC *, const Pool *, int, int)
    void scratch_free(Scratch *)
    size_t kv_block_bytes(const ModelC *, int)
    void kv_take(const ModelC *, int, const uint8_t *, int, int, uint8_t *)
    void kv_put(const ModelC *, int, uint8_t *, int, int, const uint8_t *)
    int model_pass(const ModelC *, const Kernels *, Pool *, Scratch *, const KvBlock *, int, int, const int32_t *, int,
                   int, float *, const atomic_int *)
    int sample_token(const Kernels *, const float *, int, const Sampling *, uint64_t *, float *, Candidate *)
    double log_total(const Kernels *, const float *, int, float *)
    void block_digest(const uint8_t *, size_t, uint64_t *)
    double stream_read(Pool *, const uint8_t *, size_t)

BLOCK_TOKENS = KV_TOKENS
NUMERICS = 1

cdef enum:
    PASS_TOKENS = 128  # of a prompt that go through the layers at once

_FORMS = {name: i for i, name in enumerate(("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K"))}
_KV = {"f16": FORM_F16, "q8_0": FORM_Q8_0}


class Stopped(Exception):
    pass


def kernels():
    return [name.decode() for name in (b"avx512", b"avx2", b"i8mm", b"dotprod", b"neon", b"scalar")
            if llm_kernels(name) != NULL]


def digest(data):
    cdef Py_buffer view
    cdef uint64_t sums[2]
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len % 8:
            raise ValueError("a block is a multiple of 8 bytes")
        with nogil:
            block_digest(<const uint8_t *>view.buf, view.len, sums)
    finally:
        PyBuffer_Release(&view)
    return sums[0].to_bytes(8, "little") + sums[1].to_bytes(8, "little")


cdef struct Packing:
    const uint8_t *rows
    uint8_t *to
    size_t row_bytes
    int form, n_rows, cols


cdef void pack_panel(void *context, int chunk, int thread) noexcept nogil:
    cdef Packing *p = <Packing *>context
    form_pack(p.form, p.rows, p.row_bytes, p.to, chunk, p.n_rows, p.cols)


@cython.final
@cython.no_gc  # it is in no cycle; and a collector that takes its buffer's owner apart first fails
cdef class Model:
    cdef ModelC c
    cdef const Kernels *k
    cdef Pool *pool
    cdef const uint8_t *base
    cdef Py_buffer _view
    cdef bint _viewed
    cdef object _packed
    cdef list _floats
    cdef readonly object shape
    cdef readonly str kernels
    cdef readonly int threads
    cdef readonly size_t packed, read, block_bytes

    def __init__(self, gguf, int threads=1, *, str kernels="", progress=None):
        cdef bytes encoded = kernels.encode()
        cdef const char *name = NULL
        shape = Shape.of(gguf)
        if not 1 <= threads <= 256:
            raise ValueError(f"threads: {threads} is not from 1 to 256")
        if kernels:
            name = encoded
        self.k = llm_kernels(name)
        if self.k == NULL:
            raise ValueError(f"kernels: {kernels!r} do not run here")
        self.shape, self.threads, self.kernels = shape, threads, self.k.name.decode()
        self._floats = []
        PyObject_GetBuffer(gguf.data, &self._view, PyBUF_SIMPLE)
        self._viewed = True
        self.base = <const uint8_t *>self._view.buf
        self.pool = pool_new(threads)
        if self.pool == NULL:
            raise MemoryError("no room for threads")
        self._lay_out(gguf, shape, progress)

    def __dealloc__(self):
        pool_free(self.pool)
        free(self.c.layer)
        if self._viewed:
            PyBuffer_Release(&self._view)

    cdef _lay_out(self, gguf, shape, progress):
        cdef ModelC *c = &self.c
        cdef LayerC *l
        cdef int i, embd = shape.embd, ff = shape.ff
        cdef int q_rows = shape.heads * shape.head_dim, kv_rows = shape.kv_heads * shape.head_dim
        c.layers, c.embd, c.heads, c.kv_heads = shape.layers, embd, shape.heads, shape.kv_heads
        c.head_dim, c.ff, c.vocabulary, c.eps = shape.head_dim, ff, shape.vocabulary, shape.eps
        c.rope_dims, c.neox = 2 * len(shape.frequencies), not shape.neighbours
        c.attention_factor = shape.attention_factor
        frequencies = b"".join([_double(f) for f in shape.frequencies])
        self._floats.append(frequencies)
        c.frequencies = <const double *><void *>PyBytes_AS_STRING(frequencies)
        c.layer = <LayerC *>calloc(shape.layers, sizeof(LayerC))
        if c.layer == NULL:
            raise MemoryError("no room for the layers")
        matrices = []
        for i in range(shape.layers):
            b = f"blk.{i}."
            for part, rows, cols in (("attn_q", q_rows, embd), ("attn_k", kv_rows, embd), ("attn_v", kv_rows, embd),
                                     ("attn_output", embd, q_rows), ("ffn_gate", ff, embd), ("ffn_up", ff, embd),
                                     ("ffn_down", embd, ff)):
                matrices.append(_matrix(gguf, f"{b}{part}.weight", rows, cols))
        output = "output.weight" if "output.weight" in gguf.tensors else "token_embd.weight"
        matrices.append(_matrix(gguf, output, shape.vocabulary, embd))
        self._make_room(matrices)
        cdef Matrix *into
        cdef Matrix *parts[7]
        cdef size_t at = 0, done = 0, total = sum([t.nbytes for t, _, _ in matrices])
        for i, (t, rows, cols) in enumerate(matrices):
            l = &c.layer[min(i // 7, shape.layers - 1)]
            into = &c.output
            if i < 7 * shape.layers:
                parts[0], parts[1], parts[2], parts[3] = &l.q, &l.k, &l.v, &l.o
                parts[4], parts[5], parts[6] = &l.gate, &l.up, &l.down
                into = parts[i % 7]
            at += self._place(into, t, rows, cols, at)
            done += t.nbytes
            self.read += t.nbytes
            if progress is not None:
                progress(<double>done / total)
        for i in range(shape.layers):
            l, b = &c.layer[i], f"blk.{i}."
            l.attn_norm = self._values(gguf, b + "attn_norm.weight", embd)
            l.ffn_norm = self._values(gguf, b + "ffn_norm.weight", embd)
            l.q_bias = self._values(gguf, b + "attn_q.bias", q_rows, True)
            l.k_bias = self._values(gguf, b + "attn_k.bias", kv_rows, True)
            l.v_bias = self._values(gguf, b + "attn_v.bias", kv_rows, True)
            l.q_norm = self._values(gguf, b + "attn_q_norm.weight", shape.head_dim, True)
            l.k_norm = self._values(gguf, b + "attn_k_norm.weight", shape.head_dim, True)
            l.window = shape.window
        c.output_norm = self._values(gguf, "output_norm.weight", embd)
        t = _matrix(gguf, "token_embd.weight", shape.vocabulary, embd)[0]
        c.embedding, c.embedding_form = self.base + <size_t>t.offset, _FORMS[t.type]
        c.embedding_bytes = form_row_bytes(c.embedding_form, embd)
        self.block_bytes = kv_block_bytes(c, FORM_F16)

    cdef _make_room(self, list matrices):
        """One mapping for all panels, in huge pages where there are any."""
        cdef size_t stride
        for t, rows, cols in matrices:
            if _FORMS[t.type] > FORM_Q8_0:
                self.packed += form_bytes(_FORMS[t.type], rows, cols, &stride)
        if not self.packed:
            return
        try:
            self._packed = _mmap.mmap(-1, self.packed, flags=_mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS)
            if hasattr(_mmap, "MADV_HUGEPAGE"):
                self._packed.madvise(_mmap.MADV_HUGEPAGE)
        except OSError as error:
            raise MemoryError(f"no room for {self.packed >> 20} MiB of weights: {error}") from None

    cdef size_t _place(self, Matrix *m, t, int rows, int cols, size_t at) except? 0:
        """Where a matrix lies from now on; the bytes of panels that it took."""
        cdef Packing p
        cdef Py_buffer room
        cdef size_t size
        m.form, m.rows, m.cols = _FORMS[t.type], rows, cols
        m.data = self.base + <size_t>t.offset
        size = form_bytes(m.form, rows, cols, &m.stride)
        if m.form <= FORM_Q8_0:
            return 0
        PyObject_GetBuffer(self._packed, &room, PyBUF_WRITABLE)
        p.rows, p.row_bytes, p.to = m.data, form_row_bytes(m.form, cols), <uint8_t *>room.buf + at
        p.form, p.n_rows, p.cols = m.form, rows, cols
        m.data = p.to
        with nogil:
            pool_run(self.pool, pack_panel, &p, (rows + PANEL - 1) // PANEL, NULL)
        PyBuffer_Release(&room)
        return size

    cdef const float *_values(self, gguf, str name, int n, bint optional=False) except? NULL:
        """A vector as floats of our own."""
        cdef bytes values
        t = tensor(gguf, name, n, optional=optional)
        if t is None:
            return NULL
        if t.type not in ("F32", "F16", "BF16"):
            raise ModelError(f"it is of type {t.type}, not F32, F16 or BF16", name)
        values = PyBytes_FromStringAndSize(NULL, 4 * <Py_ssize_t>n)
        form_row(_FORMS[t.type], self.base + <size_t>t.offset, n, <float *><void *>PyBytes_AS_STRING(values))
        self._floats.append(values)
        return <const float *><void *>PyBytes_AS_STRING(values)


def _double(value):
    cdef double d = value
    return PyBytes_FromStringAndSize(<char *>&d, sizeof(double))


def _matrix(gguf, name, rows, cols):
    t = tensor(gguf, name, cols, rows)
    if t.type not in _FORMS:
        raise ModelError(f"{t.type} is not supported; supported: {', '.join(_FORMS)}", name)
    if form_row_bytes(_FORMS[t.type], cols) == 0:
        raise ModelError(f"rows of {cols} do not fit {t.type}", name)
    return t, rows, cols


@cython.final
@cython.no_gc
cdef class Block:
    """The KV of KV_TOKENS tokens; as a buffer it is read-only. Shared: somebody else may read it, so it is not written."""

    cdef uint8_t *data
    cdef size_t size
    cdef bint shared, _lent
    cdef Py_buffer _foreign

    def __cinit__(self, size_t size):
        self.size = size

    cdef int own(self) except -1:
        self.data = <uint8_t *>aligned_alloc(64, (self.size + 63) // 64 * 64)
        if self.data == NULL:
            raise MemoryError("no room for another block of keys and values")
        memset(self.data, 0, self.size)
        return 0

    def __dealloc__(self):
        if self._lent:
            PyBuffer_Release(&self._foreign)
        else:
            free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.data == NULL:
            raise BufferError("only sessions make blocks")
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)


@cython.final
cdef class Session:
    cdef readonly Model model
    cdef readonly int context, seed
    cdef readonly str kv
    cdef readonly size_t block_bytes
    cdef int _form
    cdef public uint64_t random
    cdef list _tokens
    cdef list _blocks
    cdef KvBlock *_table
    cdef Scratch *_scratch
    cdef int _scratch_tokens
    cdef float *_logits
    cdef int _rows, _room
    cdef float *_work
    cdef Candidate *_heap
    cdef atomic_int _stop
    cdef bint _busy

    def __init__(self, Model model not None, int context=4096, seed=0, *, str kv="f16"):
        if context < 1:
            raise ValueError(f"context: {context} is below 1")
        if kv not in _KV:
            raise ValueError(f"kv: {kv!r:.60} is not supported; supported: {', '.join(_KV)}")
        self.kv, self._form = kv, _KV[kv]
        self.block_bytes = kv_block_bytes(&model.c, self._form)
        self.model, self.context, self.seed = model, context, seed & 0x7fffffff
        self.random = seed & 0xffffffffffffffff
        self._tokens, self._blocks = [], []
        self._table = <KvBlock *>calloc(context // KV_TOKENS + 1, sizeof(KvBlock))
        self._work = <float *>malloc(model.c.vocabulary * sizeof(float))
        self._heap = <Candidate *>malloc(model.c.vocabulary * sizeof(Candidate))
        atomic_store(&self._stop, 0)
        if self._table == NULL or self._work == NULL or self._heap == NULL:
            raise MemoryError("no room for a session")

    def __dealloc__(self):
        scratch_free(self._scratch)
        free(self._table)
        free(self._logits)
        free(self._work)
        free(self._heap)

    @property
    def tokens(self):
        return self._tokens[:]

    def __len__(self):
        return len(self._tokens)

    cdef int _prepare(self, int length, int n, int wanted) except -1:
        """Blocks up to `length` that may be written, scratch for passes of n, room for logits."""
        cdef Block block, mine
        cdef int i, first = len(self._tokens) // KV_TOKENS, last = (length - 1) // KV_TOKENS
        cdef size_t size = self.block_bytes
        for i in range(first, last + 1):
            if i < len(self._blocks):
                block = self._blocks[i]
                if not block.shared:
                    continue
            else:
                block = None
            mine = Block(size)
            mine.own()
            if block is not None:
                memcpy(mine.data, block.data, size)
                self._blocks[i] = mine
            else:
                self._blocks.append(mine)
            self._table[i] = mine.data
        if self._scratch == NULL or self._scratch_tokens < n:
            scratch_free(self._scratch)
            self._scratch_tokens = n if n <= 8 else PASS_TOKENS
            self._scratch = scratch_new(&self.model.c, self.model.pool, self._scratch_tokens, self.context)
            if self._scratch == NULL:
                self._scratch_tokens = 0
                raise MemoryError("no room to compute in")
        if self._room < wanted:
            free(self._logits)
            self._logits = <float *>malloc(<size_t>wanted * self.model.c.vocabulary * sizeof(float))
            self._room = wanted if self._logits != NULL else 0
            if self._logits == NULL:
                raise MemoryError("no room for logits")
        return 0

    def advance(self, tokens, int wanted=1):
        cdef int i, n = len(tokens), at = len(self._tokens), here, want, done = 0, failed = 0
        cdef int vocabulary = self.model.c.vocabulary
        cdef int32_t *ids
        if self._busy:
            raise RuntimeError("this session is computing already")
        if n == 0:
            raise ValueError("there are no tokens")
        if n > self.context - at:
            raise ValueError(f"{n} tokens do not fit: {at} of {self.context} are taken")
        if not 0 <= wanted <= n:
            raise ValueError(f"wanted: {wanted} is not from 0 to {n}")
        ids = <int32_t *>malloc(n * sizeof(int32_t))
        if ids == NULL:
            raise MemoryError("no room for the tokens")
        self._busy = True
        try:
            for i, token in enumerate(tokens):
                if not 0 <= token < vocabulary:
                    raise ValueError(f"there is no token {token}; there are {vocabulary}")
                ids[i] = token
            self._prepare(at + n, min(n, PASS_TOKENS), wanted)
            self._rows = 0
            with nogil:
                while done < n and not failed:
                    here = min(n - done, self._scratch_tokens)
                    want = max(0, wanted - (n - done - here))
                    want = min(want, here)
                    failed = model_pass(
                        &self.model.c, self.model.k, self.model.pool, self._scratch, self._table, self._form, at + done,
                        ids + done, here, want, self._logits + <size_t>max(0, wanted - (n - done)) * vocabulary,
                        &self._stop)
                    done += here
            if failed:
                atomic_store(&self._stop, 0)
                raise Stopped
            self._rows = wanted
            self._tokens.extend(tokens)
        finally:
            self._busy = False
            free(ids)

    def stop(self):
        atomic_store(&self._stop, 1)

    cdef const float *_row(self, int row) except NULL:
        if row < 0:
            row += self._rows
        if not 0 <= row < self._rows:
            raise IndexError(f"there are the logits of {self._rows} tokens")
        return self._logits + <size_t>row * self.model.c.vocabulary

    def logits(self, int row=-1):
        cdef const float *p = self._row(row)
        cdef int i
        return [p[i] for i in range(self.model.c.vocabulary)]

    def sample(self, *, int row=-1, float temperature=0.0, int top_k=0, float top_p=1.0, float min_p=0.0,
               float penalty=1.0, int recent=64, mask=None):
        cdef const float *p = self._row(row)
        cdef Sampling s
        cdef Py_buffer view
        cdef int32_t last[1024]
        cdef int i, n, token, end
        s.temperature, s.top_k, s.top_p, s.min_p, s.penalty = temperature, top_k, top_p, min_p, penalty
        s.n_recent, s.recent, s.mask = 0, last, NULL
        if penalty != 1.0:
            # of the tokens up to the one whose logits these are
            end = len(self._tokens) - (self._rows - 1 - (row if row >= 0 else row + self._rows))
            n = min(recent, 1024, end)
            for i in range(n):
                last[i] = self._tokens[end - n + i]
            s.n_recent = n
        if mask is None:
            return sample_token(self.model.k, p, self.model.c.vocabulary, &s, &self.random, self._work, self._heap)
        PyObject_GetBuffer(mask, &view, PyBUF_SIMPLE)
        try:
            if view.len * 8 < self.model.c.vocabulary:
                raise ValueError(f"mask: {view.len} bytes are too few for {self.model.c.vocabulary} tokens")
            s.mask = <const uint8_t *>view.buf
            token = sample_token(self.model.k, p, self.model.c.vocabulary, &s, &self.random, self._work, self._heap)
        finally:
            PyBuffer_Release(&view)
        return token

    def logprobs(self, tokens, int row=-1):
        cdef const float *p = self._row(row)
        cdef double total = log_total(self.model.k, p, self.model.c.vocabulary, self._work)
        for token in tokens:
            if not 0 <= token < self.model.c.vocabulary:
                raise ValueError(f"there is no token {token}; there are {self.model.c.vocabulary}")
        return [p[<int>token] - total for token in tokens]

    def likeliest(self, int count, int row=-1):
        cdef const float *p = self._row(row)
        cdef double total = log_total(self.model.k, p, self.model.c.vocabulary, self._work)
        cdef int i, j, best
        found = []
        taken = set()
        for j in range(min(count, self.model.c.vocabulary)):
            best = -1
            for i in range(self.model.c.vocabulary):
                if (best < 0 or p[i] > p[best]) and i not in taken:
                    best = i
            taken.add(best)
            found.append((best, p[best] - total))
        return found

    def rewind(self, int length):
        if not 0 <= length <= len(self._tokens):
            raise ValueError(f"length: {length} is not from 0 to {len(self._tokens)}")
        if self._busy:
            raise RuntimeError("this session is computing")
        if length < len(self._tokens):
            self._rows = 0
        del self._tokens[length:]
        del self._blocks[(length + KV_TOKENS - 1) // KV_TOKENS:]

    def fork(self):
        cdef Session other = Session(self.model, self.context, self.seed, kv=self.kv)
        cdef Block block
        cdef int i
        if self._busy:
            raise RuntimeError("this session is computing")
        other.random = self.random
        other._tokens = self._tokens[:]
        for i, block in enumerate(self._blocks):
            block.shared = True
            other._blocks.append(block)
            other._table[i] = block.data
        return other

    def blocks(self, int since=0):
        cdef Block block
        out = []
        for block in self._blocks[since:len(self._tokens) // KV_TOKENS]:
            block.shared = True
            out.append(memoryview(block))
        return out

    def tail(self, since=None):
        cdef int length = len(self._tokens), at = length // KV_TOKENS * KV_TOKENS if since is None else since
        cdef int n = length - at
        cdef Block block
        if not 0 <= at <= length or n > KV_TOKENS - at % KV_TOKENS:
            raise ValueError(f"since: tokens {at} to {length} are not of one block")
        cdef bytes out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(self.block_bytes // KV_TOKENS * n))
        if n:
            block = self._blocks[at // KV_TOKENS]
            kv_take(&self.model.c, self._form, block.data, at % KV_TOKENS, n, <uint8_t *>PyBytes_AS_STRING(out))
        return out

    def extend(self, tokens, rows):
        cdef Py_buffer view
        cdef Block block
        cdef int at = len(self._tokens), n = len(tokens), first = at % KV_TOKENS
        cdef size_t size = self.block_bytes // KV_TOKENS * n
        if self._busy:
            raise RuntimeError("this session is computing")
        if n > self.context - at or n > KV_TOKENS - first:
            raise ValueError(f"{n} tokens do not fit: {min(self.context - at, KV_TOKENS - first)} do")
        for token in tokens:
            if not 0 <= token < self.model.c.vocabulary:
                raise ValueError(f"there is no token {token}; there are {self.model.c.vocabulary}")
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        try:
            if <size_t>view.len != size:
                raise ValueError(f"rows: there are {view.len} bytes; {n} tokens have {size}")
            if n == 0:
                return
            self._prepare(at + n, 1, 0)
            block = self._blocks[at // KV_TOKENS]
            kv_put(&self.model.c, self._form, block.data, first, n, <const uint8_t *>view.buf)
        finally:
            PyBuffer_Release(&view)
        self._rows = 0
        self._tokens.extend(tokens)

    @classmethod
    def restore(cls, Model model not None, tokens, blocks, tail, int context=4096, *, str kv="f16"):
        cdef Session s = Session(model, context, kv=kv)
        cdef Block block
        cdef int full = len(tokens) // KV_TOKENS, i
        if len(tokens) > context:
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {context}")
        if len(blocks) != full:
            raise ValueError(f"blocks: there are {len(blocks)}; {len(tokens)} tokens have {full}")
        for token in tokens:
            if not 0 <= token < model.c.vocabulary:
                raise ValueError(f"there is no token {token}; there are {model.c.vocabulary}")
        for i, given in enumerate(blocks):
            block = Block(s.block_bytes)
            PyObject_GetBuffer(given, &block._foreign, PyBUF_SIMPLE)
            block._lent = True
            if <size_t>block._foreign.len != s.block_bytes:
                raise ValueError(f"block {i} has {block._foreign.len} bytes, not {s.block_bytes}")
            if <size_t>block._foreign.buf % 2 == 0 and block._foreign.readonly:
                block.data, block.shared = <uint8_t *>block._foreign.buf, True
            else:
                block.own()
                memcpy(block.data, block._foreign.buf, s.block_bytes)
                PyBuffer_Release(&block._foreign)
                block._lent = False
            s._blocks.append(block)
            s._table[i] = block.data
        s._tokens = list(tokens[:full * KV_TOKENS])
        s.extend(tokens[full * KV_TOKENS:], tail)
        return s


def read_bandwidth(size_t size, int threads=1):
    cdef Py_buffer room
    cdef Pool *pool
    cdef double seconds, least = 0
    cdef int i
    size = size >> 20 << 20
    if not size or not 1 <= threads <= 256:
        raise ValueError(f"{size >> 20} MiB by {threads} threads cannot be read")
    try:
        memory = _mmap.mmap(-1, size, flags=_mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS)
        if hasattr(_mmap, "MADV_HUGEPAGE"):
            memory.madvise(_mmap.MADV_HUGEPAGE)
    except OSError as error:
        raise MemoryError(f"no room for {size >> 20} MiB: {error}") from None
    PyObject_GetBuffer(memory, &room, PyBUF_WRITABLE)
    try:
        pool = pool_new(threads)
        if pool == NULL:
            raise MemoryError("no room for threads")
        with nogil:
            memset(room.buf, 1, size)
            for i in range(5):
                seconds = stream_read(pool, <const uint8_t *>room.buf, size)
                if i == 0 or seconds < least:
                    least = seconds
        pool_free(pool)
    finally:
        PyBuffer_Release(&room)
    return size / least
