# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The door to the scheduling core (kernels/schedule.h): Python's numbers into its arena, and its schedule out.

A problem is packed straight from lists or tuples of floats into one arena of C arrays, which is solved without the GIL.
The core is list schedules that compete (HEFT, PEFT, CPOP, one device, well-linked devices) and an anytime local search.
One file because all of it fills one struct.
"""

cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF, PyObject
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cdef extern from "Python.h":
    object PySequence_Fast(object, const char *)
    PyObject **PySequence_Fast_ITEMS(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)

cdef extern from "kernels/schedule.h":
    enum:
        SCHED_OK
        SCHED_CYCLE
        SCHED_NO_DEVICE
        SCHED_NO_WINDOW
        SCHED_NO_LINK
    ctypedef struct Score:
        double late, tardiness, makespan, energy, moved
    ctypedef struct Sent:
        double from_ "from"
        double till
    ctypedef struct Sched:
        int n, m, stride, lanes, groups, members, edges, sparse, windows, deadlines, wide, prices, radios
        double mean_latency, mean_per_unit
        double *seconds
        double *latency
        double *per_unit
        double *joules
        double *carry
        double *deadline
        double *weight
        double *opens
        double *closes
        int *lane_at
        int *before_at
        int *before
        double *before_size
        int *after_at
        int *after
        double *after_size
        int *group_at
        int *group
        unsigned char *radio
        unsigned char *fixed
        int *dep
        Sent *sent_kept
        int *topological
        int *waiting
        int *queue
        double bound
        int *device
        double *start
        double *end
        Score score
        int incumbent
        int *device_now
        double *start_now
        double margin
        int64_t work, work_limit, deadline_ns, look_at
        uint64_t random
        int found, expired, proven, failed, rule
    size_t sched_layout(Sched *w, char *base) nogil
    void sched_clear(Sched *w) nogil
    void sched_prepare(Sched *w) nogil
    int sched_solve(Sched *w) nogil
    int sched_heft(Sched *w) nogil
    int64_t sched_now() nogil
    void sched_begin() nogil
    int64_t sched_fleet(const int *candidates, const double *seconds, double *free_at, int *chosen, int64_t steps,
                        int each, int devices, uint64_t seed) nogil

sched_begin()

cdef enum:
    LARGEST = 50_000_000  # cells of the largest table

cdef double MOST = 1e15   # of any number: sums of what is allowed stay finite, and their differences exact enough


_RULES = {
    "device": "no device can run it",
    "window": "no device is available for long enough",
    "link": "no link carries its inputs or its result",
}
_NAMES = {SCHED_NO_DEVICE: "device", SCHED_NO_WINDOW: "window", SCHED_NO_LINK: "link"}


class Infeasible(Exception):
    """No schedule was found that keeps the hard rules: `step` has no place.

    `rule` is "device" (none can run it), "window" (none is available for long enough) or "link" (no link carries its
    inputs or its result). "device" is proven; so are the others, unless the bounded search gave up.
    """

    def __init__(self, step, rule):
        super().__init__(step, rule)
        self.step = step
        self.rule = rule

    def __str__(self):
        return f"step {self.step}: {_RULES[self.rule]}"


# ---- numbers in -------------------------------------------------------------------------------------------------

cdef inline double _number(object x, str name, Py_ssize_t a, Py_ssize_t b) except -1.0:
    """A finite number from 0 on, INFINITY for None."""
    cdef double value
    if PyFloat_CheckExact(x):
        value = PyFloat_AS_DOUBLE(x)
    elif x is None:
        return INFINITY
    else:
        value = x
    if not 0 <= value <= MOST:
        raise ValueError(f"{name}[{a}][{b}] is {x!r}; it must be finite and at least 0, and at most {MOST:g}")
    return value


cdef inline int _index(object x, int limit, str name) except -1:
    cdef Py_ssize_t value = x
    if not 0 <= value < limit:
        raise ValueError(f"{name} names {x!r}; there are {limit}, counted from 0")
    return <int>value


cdef object _row(object row, Py_ssize_t m, str name, Py_ssize_t i):
    row = PySequence_Fast(row, b"a row of numbers is needed")
    if PySequence_Fast_GET_SIZE(row) != m:
        raise ValueError(f"{name}[{i}] has {PySequence_Fast_GET_SIZE(row)} entries for {m} devices")
    return row


cdef int _read_table(double *table, int stride, object rows, Py_ssize_t n, Py_ssize_t m, str name) except -1:
    cdef Py_ssize_t i, p
    cdef PyObject **item
    cdef PyObject **line
    cdef double value
    cdef object fast = PySequence_Fast(rows, b"a table of numbers is needed"), row
    if PySequence_Fast_GET_SIZE(fast) != n:
        raise ValueError(f"{name} has {PySequence_Fast_GET_SIZE(fast)} rows and needs {n}")
    line = PySequence_Fast_ITEMS(fast)
    for i in range(n):
        row = _row(<object>line[i], m, name, i)
        item = PySequence_Fast_ITEMS(row)
        for p in range(m):
            if PyFloat_CheckExact(<object>item[p]):
                value = PyFloat_AS_DOUBLE(<object>item[p])
                if 0 <= value <= MOST:
                    table[i * stride + p] = value
                    continue
            table[i * stride + p] = _number(<object>item[p], name, i, p)
    return 0


cdef int _read_seconds(Sched *w, object rows, object speed) except -1:
    """Run times, or the cost of each step, which takes cost / speed."""
    cdef Py_ssize_t i, p
    cdef object fast = PySequence_Fast(rows, b"a table of numbers is needed")
    cdef PyObject **line = PySequence_Fast_ITEMS(fast)
    cdef double cost
    cdef double *row
    if not speed:
        return _read_table(w.seconds, w.stride, fast, w.n, w.m, "seconds")
    if len(speed) != w.m:
        raise ValueError(f"speed has {len(speed)} entries for {w.m} devices")
    for p in range(w.m):
        w.opens[p] = _number(speed[p], "speed", p, 0)
        if not 1 / MOST <= w.opens[p] < INFINITY:
            raise ValueError(f"speed[{p}] is {speed[p]!r}; it must be finite and at least {1 / MOST:g}")
    for i in range(w.n):
        row = w.seconds + i * w.stride
        if isinstance(<object>line[i], (float, int)):
            cost = _number(<object>line[i], "seconds", i, 0)
            for p in range(w.m):
                row[p] = min(cost / w.opens[p], MOST)
        else:
            _read_table(row, w.stride, (<object>line[i],), 1, w.m, "seconds")
    memset(w.opens, 0, w.stride * sizeof(double))
    return 0


cdef int _read_links(Sched *w, bandwidth, latency) except -1:
    cdef Py_ssize_t p, q, linked = 0
    cdef double least, most, sum, waits
    cdef double *slow
    cdef double *wait
    if w.m:
        _read_table(w.per_unit, w.stride, bandwidth, w.m, w.m, "bandwidth")
    if latency:
        _read_table(w.latency, w.stride, latency, w.m, w.m, "latency")
    for p in range(w.m):
        slow = w.per_unit + p * w.stride
        wait = w.latency + p * w.stride
        slow[p] = 1
        wait[p] = 0
        least, most, sum, waits = 1, 0, 0, 0
        for q in range(w.m):
            least = min(least, slow[q])
            most = max(most, max(slow[q], wait[q]))
        if 1 / MOST <= least and most < INFINITY:  # every device has a link with this one
            for q in range(w.m):
                slow[q] = 1 / slow[q]
                sum += slow[q]
                waits += wait[q]
            w.mean_per_unit += sum - 1
            w.mean_latency += waits
            linked += w.m - 1
        else:
            linked += _read_odd_links(w, p)
        slow[p] = 0
    if linked:
        w.mean_per_unit /= linked
        w.mean_latency /= linked
    return 0


cdef Py_ssize_t _read_odd_links(Sched *w, Py_ssize_t p) except -1:
    """The links from a device that has none with some; how many it has."""
    cdef Py_ssize_t q, linked = 0
    cdef double *slow = w.per_unit + p * w.stride
    cdef double *wait = w.latency + p * w.stride
    for q in range(w.m):
        if p == q:
            continue
        if slow[q] == INFINITY:
            slow[q] = 0
            wait[q] = INFINITY
            w.sparse = True
            continue
        if slow[q] < 1 / MOST:
            raise ValueError(f"bandwidth[{p}][{q}] is {slow[q]!r}, too little; None means that there is no link")
        if wait[q] == INFINITY:
            raise ValueError(f"latency[{p}][{q}] is None, and there is a link")
        slow[q] = 1 / slow[q]
        w.mean_per_unit += slow[q]
        w.mean_latency += wait[q]
        linked += 1
    return linked


cdef int _read_graph(Sched *w, deps, exclusive) except -1:
    """Edges and groups by counting sort into CSR; `waiting`, `queue` and `topological` are cursors meanwhile."""
    cdef int i, j, p, x = 0
    cdef double size
    for producer, consumer, _ in deps:
        w.after_at[_index(producer, w.n, "deps") + 1] += 1
        w.before_at[_index(consumer, w.n, "deps") + 1] += 1
    for group in exclusive:
        for member in group:
            w.group_at[_index(member, w.n, "exclusive") + 1] += 1
    for i in range(w.n):
        w.after_at[i + 1] += w.after_at[i]
        w.before_at[i + 1] += w.before_at[i]
        w.group_at[i + 1] += w.group_at[i]
        w.waiting[i] = w.after_at[i]
        w.queue[i] = w.before_at[i]
        w.topological[i] = w.group_at[i]
    for producer, consumer, amount in deps:
        i = producer
        j = consumer
        size = _number(amount, "size", i, j)
        if size == INFINITY:
            raise ValueError(f"the size from {i} to {j} is None")
        w.after[w.waiting[i]] = j
        w.after_size[w.waiting[i]] = size
        w.waiting[i] += 1
        w.before[w.queue[j]] = i
        w.before_size[w.queue[j]] = size
        if w.radios:
            w.dep[w.queue[j]] = x
            x += 1
        w.queue[j] += 1
    for p, group in enumerate(exclusive):
        for member in group:
            i = member
            w.group[w.topological[i]] = p
            w.topological[i] += 1
    return 0


cdef int _read_fixed(Sched *w, fixed) except -1:
    cdef int i
    for key, (device, begin, end) in fixed.items():
        i = _index(key, w.n, "fixed")
        w.fixed[i] = 1
        w.device[i] = _index(device, w.m, "fixed")
        w.start[i] = begin
        w.end[i] = end
        if not -MOST <= w.start[i] <= w.end[i] <= MOST:
            raise ValueError(f"fixed[{i}] goes from {begin!r} to {end!r}")
    return 0


cdef int _read_deadlines(Sched *w, deadlines, weights) except -1:
    cdef int i
    cdef double until
    for i in range(w.n):
        w.deadline[i] = INFINITY
        w.weight[i] = 1
    for key, end in deadlines.items():
        until = end
        if until != until:
            raise ValueError(f"deadlines[{key}] is {end!r}")
        w.deadline[_index(key, w.n, "deadlines")] = until
        w.deadlines = True
    if weights:
        for key, weight in weights.items():
            i = _index(key, w.n, "weights")
            w.weight[i] = _number(weight, "weights", i, 0)
            if not 0 < w.weight[i] <= MOST:
                raise ValueError(f"weights[{key}] is {weight!r}; it must be finite and above 0")
    return 0


cdef int _read_devices(Sched *w, slots, available, radio) except -1:
    cdef int p
    if w.radios:
        for p in range(w.m):
            w.radio[p] = bool(radio[p])
    for p in range(w.stride):
        w.closes[p] = INFINITY
    for p in range(w.m):
        w.lane_at[p + 1] = w.lane_at[p] + (slots[p] if slots else 1)
    if available:
        for p in range(w.m):
            window = available[p]
            w.opens[p] = _number(window[0], "available", p, 0)
            w.closes[p] = _number(window[1], "available", p, 1)
            if w.opens[p] == INFINITY:
                raise ValueError(f"available[{p}][0] is None; only the end may be open")
            w.windows |= w.closes[p] < INFINITY
    return 0


# ---- arenas -----------------------------------------------------------------------------------------------------

cdef enum:
    SPARE = 4 << 20  # bytes of the largest arena that is kept for the next problem: fresh memory costs more than HEFT

cdef char *_spare = NULL
cdef size_t _spare_size = 0


cdef char *_borrow(size_t *size, size_t needed) noexcept:
    """An arena of that many bytes at least; `size` is what it has."""
    global _spare
    cdef char *base = _spare
    if base is not NULL and _spare_size >= needed:
        _spare = NULL
        size[0] = _spare_size
        return base
    size[0] = needed + needed // 2 + 64
    return <char *>malloc(size[0])


cdef void _give_back(char *base, size_t size) noexcept:
    global _spare, _spare_size
    if size <= SPARE and (_spare is NULL or _spare_size < size):
        base, _spare = _spare, base
        _spare_size = size
    free(base)


# ---- one problem ------------------------------------------------------------------------------------------------

@cython.final
cdef class Packed:
    """A problem in its arena, which is solved in place, as often as wanted.

    seconds: (n, m), run times, None: it cannot run there. deps: (producer, consumer, size) each. bandwidth, latency:
    (m, m), row = sender; a bandwidth of None: no link; the diagonal is not read. slots: (m), steps at once. available:
    (m) of (from, to or None). exclusive: groups of steps, no two of a group overlap. fixed: step -> (device, start,
    end), as it was or is; its own inputs are not looked at. deadlines: step -> time, and weights: step -> what a miss
    weighs, else 1. speed: (m), if given, a row of seconds may be a float, the cost of its step, which takes cost / speed.
    apart: fixed steps of other plans, which take room and count for nothing else. joules: (n, m), what a run costs;
    carry: (m, m), what moving a unit of size costs. radio: (m), whether a device has one half-duplex radio, which each
    transfer from or to it holds for size / bandwidth, from now, time 0, on; the latency comes after, and an output goes to
    a device once for all who read no more of it there. What is empty means 0, 1, always, none.

    Raises:
        ValueError: the numbers do not describe a problem.
    """

    cdef Sched w
    cdef char *base
    cdef size_t size
    cdef bint packed
    cdef bint busy
    cdef list numbers  # of the deps, where some are left out

    def __init__(
        self, seconds, deps, bandwidth, latency=(), slots=(), available=(), exclusive=(), fixed=None, deadlines=None,
        weights=None, joules=(), carry=(), speed=(), apart=(), radio=(),
    ):
        cdef Sched *w = &self.w
        cdef size_t size = 0, n = len(seconds), m = len(bandwidth), g = len(exclusive), members = 0, lanes = m
        cdef int p
        if self.base is not NULL:
            raise ValueError("it is packed already")
        if n > LARGEST or m > LARGEST or g > LARGEST or n * m > LARGEST or m * m > LARGEST:
            raise ValueError(f"{n} steps on {m} devices with {g} groups are too many")
        if (
            (latency and len(latency) != m) or (slots and len(slots) != m) or (available and len(available) != m)
            or (radio and len(radio) != m)
        ):
            raise ValueError(f"latency, slots, available and radio need {m} entries each")
        if fixed:
            if radio:
                self.numbers = [k for k, dep in enumerate(deps) if dep[1] not in fixed]
            deps = [dep for dep in deps if dep[1] not in fixed]
        if slots:
            lanes = 0
            for p in range(<int>m):
                if not 1 <= slots[p] < LARGEST:
                    raise ValueError(f"slots[{p}] is {slots[p]}; a device runs at least 1 step at once")
                lanes += min(<size_t>slots[p], max(n, 1))
            slots = [min(count, max(n, 1)) for count in slots]
        for group in exclusive:
            members += len(group)
        memset(w, 0, sizeof(Sched))
        w.n, w.m, w.groups, w.lanes, w.edges, w.members = n, m, g, lanes, len(deps), members
        w.stride = (w.m + 3) & ~3
        w.wide = w.lanes > w.m
        w.prices = bool(joules) or bool(carry)
        w.radios = m if radio and any(radio) else 0
        size = sched_layout(w, NULL)
        self.base = _borrow(&self.size, size)
        if self.base is NULL:
            raise MemoryError(f"{size} bytes for a schedule")
        sched_layout(w, self.base)
        sched_clear(w)
        _read_seconds(w, seconds, speed)
        _read_links(w, bandwidth, latency)
        _read_devices(w, slots, available, radio)
        _read_fixed(w, fixed or {})
        for step in apart:
            if not w.fixed[_index(step, w.n, "apart")]:
                raise ValueError(f"apart names step {step}, which is not fixed")
            w.fixed[<int>step] = 2
        _read_deadlines(w, deadlines or {}, weights)
        _read_graph(w, deps, exclusive)
        if joules:
            _read_table(w.joules, w.stride, joules, n, m, "joules")
        if carry:
            _read_table(w.carry, w.stride, carry, m, m, "carry")
        sched_prepare(w)
        self.packed = True

    def __dealloc__(self):
        _give_back(self.base, self.size)

    def solve(self, int64_t work=0, double budget_us=0, uint64_t seed=1, incumbent=None, double margin=0):
        """Schedule it: what competes, then local search for that many units of work, or until the time is over.

        A unit is about what it takes to look at one step once (some 30 ns). The same work and seed give the same
        schedule; a time is only cut at, whatever the work. `incumbent` is (device or -1, start) of each step as they are
        now: that schedule stays unless another is shorter by more than the part `margin`, and with it nothing else is
        tried beyond the work. Returns (device, start, end, late, makespan, bound, proven, energy, moved, work).

        Raises:
            Infeasible: some step has no place.
            ValueError: it waits for itself.
        """
        cdef Sched *w = self._packed()
        cdef int status
        w.random = seed
        w.work = w.look_at = 0
        w.expired = 0
        w.work_limit = work if work or not budget_us else <int64_t>1 << 62
        if not 0 <= budget_us < INFINITY or work < 0:
            raise ValueError(f"a budget of {budget_us} us and {work} units of work; both must be finite and at least 0")
        w.deadline_ns = sched_now() + <int64_t>(min(budget_us, 1e12) * 1000) if budget_us else 0
        w.proven = 0
        w.incumbent = incumbent is not None
        w.margin = margin
        if incumbent is not None:
            self._read_incumbent(incumbent[0], incumbent[1])
        self.busy = True
        with nogil:
            status = sched_solve(w)
        self.busy = False
        if status == SCHED_CYCLE:
            raise ValueError(f"step {w.failed} waits for itself, through others")
        if status != SCHED_OK:
            raise Infeasible(w.failed, _NAMES[status])
        return self._found()

    cdef Sched *_packed(self) except NULL:
        if not self.packed:
            raise ValueError("nothing is packed")
        if self.busy:
            raise ValueError("another thread solves it")
        return &self.w

    cdef int _read_incumbent(self, device, start) except -1:
        cdef Py_ssize_t i
        cdef double begin
        cdef object devices = PySequence_Fast(device, b"devices are needed")
        cdef object starts = PySequence_Fast(start, b"times are needed")
        cdef PyObject **at = PySequence_Fast_ITEMS(devices)
        cdef PyObject **when = PySequence_Fast_ITEMS(starts)
        if PySequence_Fast_GET_SIZE(devices) != self.w.n or PySequence_Fast_GET_SIZE(starts) != self.w.n:
            raise ValueError(f"the incumbent has {len(device)} devices and {len(start)} times for {self.w.n} steps")
        for i in range(self.w.n):
            begin = <object>when[i]
            if not -MOST <= begin <= MOST:
                raise ValueError(f"the incumbent starts step {i} at {start[i]!r}")
            self.w.device_now[i] = <object>at[i]
            self.w.start_now[i] = begin
        return 0

    cdef tuple _found(self):
        cdef Sched *w = &self.w
        cdef Py_ssize_t i
        cdef list device = PyList_New(w.n), start = PyList_New(w.n), end = PyList_New(w.n), late = []
        for i in range(w.n):
            _put(device, i, w.device[i])
            _put(start, i, w.start[i])
            _put(end, i, w.end[i])
            if w.deadlines and w.end[i] > w.deadline[i]:
                late.append(i)
        return (device, start, end, late, w.score.makespan, w.bound, bool(w.proven), w.score.energy, w.score.moved,
                w.work)

    def heft(self, int times=1):
        """One HEFT schedule, and nothing else, that many times over; its makespan. For measuring.

        Raises:
            ValueError: it waits for itself, or links are missing, or windows close.
        """
        cdef Sched *w = self._packed()
        cdef int x, status = SCHED_OK
        cdef double makespan = 0
        if w.sparse or w.windows:
            raise ValueError("this pass is for problems in which every device reaches every other, always")
        if times < 1:
            raise ValueError(f"times is {times}; once is the least")
        self.busy = True
        with nogil:
            for x in range(times):
                status = sched_heft(w)
        self.busy = False
        if status == SCHED_NO_DEVICE:
            raise ValueError(f"step {w.failed} can run nowhere")
        if status == SCHED_CYCLE:
            raise ValueError(f"step {w.failed} waits for itself, through others")
        for x in range(w.n):
            makespan = max(makespan, w.end[x])
        return makespan

    def transfers(self):
        """When each input that goes to another device is on its way, in the last schedule that `solve` found.

        A dict: number of the dep -> (start, end), without the latency; empty without radios. Inputs of fixed steps are
        not in it. Of one output, several readers on a device may share a transfer.

        Raises:
            ValueError: none was found.
        """
        cdef Sched *w = self._packed()
        cdef dict sent = {}
        cdef int i, e
        if not w.found:
            raise ValueError("no schedule was found")
        if w.radios:
            for i in range(w.n):
                for e in range(w.before_at[i], w.before_at[i + 1]):
                    if w.device[w.before[e]] != w.device[i]:
                        sent[w.dep[e] if self.numbers is None else self.numbers[w.dep[e]]] = (
                            w.sent_kept[e].from_, w.sent_kept[e].till
                        )
        return sent

    @property
    def memory(self):
        """Bytes of the arena."""
        cdef Sched copy = self.w
        return sched_layout(&copy, NULL)


cdef inline void _put(list values, Py_ssize_t at, object value):
    Py_INCREF(value)
    PyList_SET_ITEM(values, at, value)


# ---- many independent steps -------------------------------------------------------------------------------------

def fleet(const int[::1] candidates, const double[::1] seconds, double[::1] free_at, int[::1] chosen, uint64_t seed=1):
    """Give each of many independent steps one of its candidate devices: of the two best, one at random.

    candidates: (steps * each) device numbers, below 0 for none; seconds: (steps * each), how long it takes there;
    free_at: (devices), when each is free, and is moved on; chosen: (steps), gets the device, -1 for none. Returns how
    many steps have one.

    Raises:
        ValueError: the sizes do not fit together.
    """
    cdef Py_ssize_t steps = chosen.shape[0], each = candidates.shape[0] // steps if steps else 0
    cdef int64_t placed
    if candidates.shape[0] != steps * each or seconds.shape[0] != steps * each or each >= 1 << 30:
        raise ValueError(f"{candidates.shape[0]} candidates and {seconds.shape[0]} times do not fit {steps} steps")
    if steps == 0 or each == 0 or free_at.shape[0] == 0:
        for i in range(steps):
            chosen[i] = -1
        return 0
    with nogil:
        placed = sched_fleet(&candidates[0], &seconds[0], &free_at[0], &chosen[0], steps, <int>each,
                             <int>free_at.shape[0], seed)
    return placed
