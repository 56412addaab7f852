# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""List scheduling on unequal devices and links, with insertion, under hard rules that never bend.

Order and choice are those of HEFT (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002: upward rank, earliest finish, idle
gaps filled) and of its successor PEFT (Arabnejad, Barbosa, IEEE TPDS 25(3), 2014: the choice also counts what must
follow). Both compete, and so do schedules that keep to one device, where outputs are large; the best is kept.
Around them:

- A device with k slots, an exclusive group and an availability window are one thing, a *resource*: its use over time is
  a step function with a capacity, and a step goes where every resource that it needs has room.
- Missing links and skills are constraints on pairs of steps: kept arc-consistent (Mackworth's AC-3, 1977) before and
  during the placement, which goes back a bounded number of times where a choice leads nowhere.
- Where that does not help, the step that found no place comes first in the next round ("squeaky wheel" optimisation,
  Joslin and Clements, JAIR 10, 1999).
- Deadlines are soft: they pull the latest start of a step and of all before it; when some are missed, a schedule under
  the makespan that was reached competes too, on (late steps, tardiness, makespan).

Everything numeric lies in one arena of C arrays; the graph is in CSR form; the solve runs without the GIL. 
One file because all of it works on one struct, and the compiler sees the whole solve at once.
"""

from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcpy, memmove, memset

cdef enum:
    OK
    CYCLE
    NO_DEVICE
    NO_WINDOW
    NO_LINK

cdef enum:
    ROUNDS = 32           # schedules begun anew with the step that found no place in front
    LARGEST = 50_000_000  # cells of the largest table


cdef struct Key:
    int front     # the round in which it was put in front, 0 for never
    int position  # in topological order
    int step
    float latest  # rounded, so that equal ranks are equal whatever the order of their sums was


cdef struct Score:
    int late
    double tardiness
    double makespan


cdef struct Work:
    int n, m, g                # steps, devices, exclusive groups
    bint sparse                # some pair of devices has no link
    bint windows               # some device is not always available
    bint deadlines             # some step has one
    double mean_latency, mean_per_unit
    double *seconds            # (n, m), INFINITY: it cannot run there
    double *latency            # (m, m), INFINITY: no link
    double *per_unit           # (m, m), time per unit of size
    double *deadline           # (n), INFINITY: none
    int *before_at             # (n + 1), CSR: what step i waits for is before[before_at[i]:before_at[i + 1]]
    int *before
    double *before_size
    int *after_at              # (n + 1), CSR: what waits for step i
    int *after
    double *after_size
    int *group_at              # (n + 1), CSR: the groups of step i
    int *group
    unsigned char *fixed       # (n)
    int stride                 # points kept for a resource
    int *capacity              # (m + g), devices first, then groups
    int *points                # (m + g)
    double *when               # (m + g, stride), ascending, the first is -INFINITY
    int *used                  # (m + g, stride), in use from when[] on
    unsigned char *may         # (n, m), the devices still open to a step
    int *choices               # (n), how many those are
    int *trail                 # (n * m), cells of `may` that were struck out
    int struck
    int *mark                  # (n), length of the trail before each level
    unsigned char *tried       # (n, m), by level
    int *queue                 # (n), of the propagation
    unsigned char *queued      # (n)
    int *topological           # (n)
    int *waiting               # (n)
    int *front                 # (n)
    double *latest             # (n), latest start under a horizon
    double *ahead              # (n, m), the least time from the end of step i on device p to the end of all
    bint looking               # whether the choice of a device counts that in
    int home                   # the device that takes every step that may run there; -1: none does
    Key *keys                  # (n)
    int *order                 # (n), the steps that are not fixed, in order of placement
    int free                   # how many those are
    int placed                 # levels of the order that are in the schedule
    int *device                # (n), the schedule
    double *start
    double *end
    int *device_kept           # (n), the schedule that another competes with
    double *start_kept
    double *end_kept
    int step                   # where it failed
    int rule


# ---- resources: step functions with a capacity ------------------------------------------------------------------

cdef inline int _segment(const double *when, int n, double t) noexcept nogil:
    cdef int lo = 0, hi = n, mid
    while hi - lo > 1:
        mid = (lo + hi) >> 1
        if when[mid] <= t:
            lo = mid
        else:
            hi = mid
    return lo


cdef double _fit(Work *w, int r, double t, double seconds) noexcept nogil:
    """The first moment from `t` on that has room on resource `r` for that long; INFINITY for never."""
    cdef double *when = w.when + <size_t>r * w.stride
    cdef int *used = w.used + <size_t>r * w.stride
    cdef int n = w.points[r], capacity = w.capacity[r]
    cdef int lo = _segment(when, n, t), hi
    while True:
        while used[lo] >= capacity:
            lo += 1
            if lo == n:
                return INFINITY
            t = when[lo]
        hi = lo + 1
        while hi < n and when[hi] < t + seconds and used[hi] < capacity:
            hi += 1
        if hi == n or when[hi] >= t + seconds:
            return t
        lo = hi


cdef double _place(Work *w, int i, int p, double t) noexcept nogil:
    """The first moment from `t` on at which step `i` fits on device `p` and into all its groups."""
    cdef double seconds = w.seconds[<size_t>i * w.m + p], u
    cdef int x
    while True:
        u = _fit(w, p, t, seconds)
        if u == INFINITY:
            return u
        for x in range(w.group_at[i], w.group_at[i + 1]):
            u = _fit(w, w.m + w.group[x], u, seconds)
        if u == t or w.group_at[i] == w.group_at[i + 1]:
            return u
        t = u


cdef int _cut(Work *w, int r, double t) noexcept nogil:
    """The index of the point at `t`, made if there was none."""
    cdef double *when = w.when + <size_t>r * w.stride
    cdef int *used = w.used + <size_t>r * w.stride
    cdef int at = _segment(when, w.points[r], t)
    if when[at] == t:
        return at
    memmove(when + at + 2, when + at + 1, (w.points[r] - at - 1) * sizeof(double))
    memmove(used + at + 2, used + at + 1, (w.points[r] - at - 1) * sizeof(int))
    when[at + 1] = t
    used[at + 1] = used[at]
    w.points[r] += 1
    return at + 1


cdef void _join(Work *w, int r, int at) noexcept nogil:
    cdef double *when = w.when + <size_t>r * w.stride
    cdef int *used = w.used + <size_t>r * w.stride
    if at > 0 and used[at] == used[at - 1]:
        memmove(when + at, when + at + 1, (w.points[r] - at - 1) * sizeof(double))
        memmove(used + at, used + at + 1, (w.points[r] - at - 1) * sizeof(int))
        w.points[r] -= 1


cdef void _add(Work *w, int r, double start, double end, int amount) noexcept nogil:
    """Use that much more of resource `r` in [start, end); the form stays canonical: no two equal neighbours."""
    cdef int a, b, x
    if not end > start:
        return
    a = _cut(w, r, start)
    b = _cut(w, r, end)
    for x in range(a, b):
        w.used[<size_t>r * w.stride + x] += amount
    _join(w, r, b)
    _join(w, r, a)


cdef void _occupy(Work *w, int i, int amount) noexcept nogil:
    cdef int x
    _add(w, w.device[i], w.start[i], w.end[i], amount)
    for x in range(w.group_at[i], w.group_at[i + 1]):
        _add(w, w.m + w.group[x], w.start[i], w.end[i], amount)


# ---- which devices are open to a step ---------------------------------------------------------------------------

cdef void _strike(Work *w, int i, int p) noexcept nogil:
    w.may[<size_t>i * w.m + p] = 0
    w.choices[i] -= 1
    w.trail[w.struck] = i * w.m + p
    w.struck += 1


cdef void _restore(Work *w, int length) noexcept nogil:
    while w.struck > length:
        w.struck -= 1
        w.may[w.trail[w.struck]] = 1
        w.choices[w.trail[w.struck] / w.m] += 1


cdef bint _revise(Work *w, int y, int x, bint forward) noexcept nogil:
    """Strike out the devices of `y` that no device of `x` has a link with (`forward`: from x to y)."""
    cdef int p, q, m = w.m
    cdef bint changed = False
    for q in range(m):
        if not w.may[<size_t>y * m + q]:
            continue
        for p in range(m):
            if w.may[<size_t>x * m + p] and w.latency[p * m + q if forward else q * m + p] < INFINITY:
                break
        else:
            _strike(w, y, q)
            changed = True
    return changed


cdef int _propagate(Work *w, int first, int last) noexcept nogil:
    """Make the devices of all steps arc-consistent after a change in [first, last); -1, or the step left with none."""
    cdef int head = 0, count = 0, x, y, e, emptied = -1
    cdef bint forward
    cdef const int *at
    for x in range(first, last):
        w.queue[count] = x
        w.queued[x] = 1
        count += 1
    while count:
        x = w.queue[head]
        head = 0 if head + 1 == w.n else head + 1
        count -= 1
        w.queued[x] = 0
        for forward in range(2):
            at = w.after_at if forward else w.before_at
            for e in range(at[x], at[x + 1]):
                y = (w.after if forward else w.before)[e]
                if emptied < 0 and _revise(w, y, x, forward):
                    if w.choices[y] == 0:
                        emptied = y
                    elif not w.queued[y]:
                        w.queue[(head + count) % w.n] = y
                        w.queued[y] = 1
                        count += 1
    return emptied


# ---- the order --------------------------------------------------------------------------------------------------

cdef bint _sort(Work *w) noexcept nogil:
    """Kahn's topological order; edges into fixed steps are not in the graph. False if there is a cycle."""
    cdef int i, e, done = 0, known = 0
    for i in range(w.n):
        w.waiting[i] = w.before_at[i + 1] - w.before_at[i]
        if w.waiting[i] == 0:
            w.topological[known] = i
            known += 1
    while done < known:
        i = w.topological[done]
        done += 1
        for e in range(w.after_at[i], w.after_at[i + 1]):
            w.waiting[w.after[e]] -= 1
            if w.waiting[w.after[e]] == 0:
                w.topological[known] = w.after[e]
                known += 1
    if known < w.n:
        for i in range(w.n):
            if w.waiting[i]:
                w.step = i
                break
    return known == w.n


cdef double _latest(Work *w, double horizon, bint deadlines) noexcept nogil:
    """Latest mean-time starts under a horizon (HEFT's upward rank, seen from there); returns the smallest."""
    cdef int x, i, e, p
    cdef double late, mean, smallest = horizon
    for x in range(w.n - 1, -1, -1):
        i = w.topological[x]
        mean = 0
        if not w.fixed[i]:
            for p in range(w.m):
                if w.may[<size_t>i * w.m + p]:
                    mean += w.seconds[<size_t>i * w.m + p]
            mean /= w.choices[i]
        late = horizon
        if deadlines and w.deadline[i] < late:
            late = w.deadline[i]
        for e in range(w.after_at[i], w.after_at[i + 1]):
            late = min(late, w.latest[w.after[e]] - w.mean_latency - w.after_size[e] * w.mean_per_unit)
        w.latest[i] = late - mean
        smallest = min(smallest, w.latest[i])
    return smallest


cdef void _look_ahead(Work *w) noexcept nogil:
    """The optimistic cost table: what must still follow a step that runs on a device, with every device free."""
    cdef int x, i, j, e, p, q, m = w.m
    cdef double worst, least, c
    for x in range(w.n - 1, -1, -1):
        i = w.topological[x]
        for p in range(m):
            if not w.may[<size_t>i * m + p]:
                continue
            worst = 0
            for e in range(w.after_at[i], w.after_at[i + 1]):
                j = w.after[e]
                least = INFINITY
                for q in range(m):
                    if w.may[<size_t>j * m + q]:
                        c = (w.latency[p * m + q] + w.after_size[e] * w.per_unit[p * m + q]
                             + w.seconds[<size_t>j * m + q] + w.ahead[<size_t>j * m + q])
                        if c < least:
                            least = c
                if least > worst:
                    worst = least
            w.ahead[<size_t>i * m + p] = worst


cdef int _compare(const void *a, const void *b) noexcept nogil:
    cdef const Key *x = <const Key *>a
    cdef const Key *y = <const Key *>b
    if x.front != y.front:
        return 1 if x.front < y.front else -1
    if x.latest != y.latest:
        return 1 if x.latest > y.latest else -1
    return 1 if x.position > y.position else -1


cdef void _arrange(Work *w) noexcept nogil:
    """The order of placement: those in front, then by latest start; always topological, for a step's predecessors are
    in front with it and start no later."""
    cdef int x, i
    w.free = 0
    for x in range(w.n):
        i = w.topological[x]
        if not w.fixed[i]:
            w.keys[w.free].front = w.front[i]
            w.keys[w.free].latest = <float>w.latest[i]
            w.keys[w.free].position = x
            w.keys[w.free].step = i
            w.free += 1
    qsort(w.keys, w.free, sizeof(Key), _compare)
    for x in range(w.free):
        w.order[x] = w.keys[x].step


# ---- the placement ----------------------------------------------------------------------------------------------

cdef int _choose(Work *w, int i, const unsigned char *tried, double *at) noexcept nogil:
    """The untried device on which step `i` ends first, -1 for none; ties go to the one with most inputs."""
    cdef int p, q, e, here, best = -1, best_here = 0, m = w.m
    cdef double ready, t, finish, best_finish = INFINITY, near, after
    cdef bint home = w.home >= 0 and w.may[<size_t>i * m + w.home] and not tried[w.home]
    for p in range(m):
        if tried[p] or not w.may[<size_t>i * m + p] or (home and p != w.home):
            continue
        ready = 0
        here = 0
        for e in range(w.before_at[i], w.before_at[i + 1]):
            q = w.device[w.before[e]]
            here += q == p
            t = w.end[w.before[e]] + w.latency[q * m + p] + w.before_size[e] * w.per_unit[q * m + p]
            if t > ready:
                ready = t
        after = w.seconds[<size_t>i * m + p] + (w.ahead[<size_t>i * m + p] if w.looking else 0)
        near = best_finish * 1e-12
        if best >= 0 and ready + after > best_finish + near:
            continue
        t = _place(w, i, p, ready)
        if t == INFINITY:
            w.rule = NO_WINDOW
            continue
        finish = t + after
        if best < 0 or finish < best_finish - near or (finish <= best_finish + near and here > best_here):
            best = p
            best_here = here
            best_finish = finish
            at[0] = t
    return best


cdef void _undo(Work *w, int level) noexcept nogil:
    _occupy(w, w.order[level], -1)
    _restore(w, w.mark[level])


cdef int _search(Work *w) noexcept nogil:
    """Place every free step in order. 1: done; 0: there is no such schedule; -1: given up. Then nothing is placed."""
    cdef int level = 0, deepest = -1, rule = NO_LINK, found, i, p, q, budget = 256 + 4 * w.n
    cdef double t = 0
    if w.free:
        memset(w.tried, 0, w.m)
    while level < w.free:
        i = w.order[level]
        w.rule = NO_LINK
        p = _choose(w, i, w.tried + <size_t>level * w.m, &t)
        if p < 0:
            if level > deepest:
                deepest = level
                rule = w.rule
                w.step = i
            budget -= 1
            if level == 0 or budget < 0:
                w.rule = rule
                found = 0 if level == 0 else -1
                while level > 0:
                    level -= 1
                    _undo(w, level)
                return found
            level -= 1
            _undo(w, level)
            continue
        w.tried[<size_t>level * w.m + p] = 1
        w.mark[level] = w.struck
        w.device[i] = p
        w.start[i] = t
        w.end[i] = t + w.seconds[<size_t>i * w.m + p]
        if w.sparse:
            for q in range(w.m):
                if q != p and w.may[<size_t>i * w.m + q]:
                    _strike(w, i, q)
            q = _propagate(w, i, i + 1)
            if q >= 0:
                _restore(w, w.mark[level])
                budget -= 1
                continue
        _occupy(w, i, 1)
        level += 1
        if level < w.free:
            memset(w.tried + <size_t>level * w.m, 0, w.m)
    w.placed = level
    return 1


cdef void _advance(Work *w, int step, int number) noexcept nogil:
    """Put a step and all before it in front."""
    cdef int x, i, e
    w.front[step] = number
    for x in range(w.n - 1, -1, -1):
        i = w.topological[x]
        for e in range(w.after_at[i], w.after_at[i + 1]):
            if w.front[w.after[e]] == number:
                w.front[i] = number


cdef Score _score(Work *w) noexcept nogil:
    cdef Score score = Score(0, 0, 0)
    cdef int i
    for i in range(w.n):
        score.makespan = max(score.makespan, w.end[i])
        if w.end[i] > w.deadline[i]:
            score.late += 1
            score.tardiness += w.end[i] - w.deadline[i]
    return score


cdef bint _beats(Score a, Score b) noexcept nogil:
    if a.late != b.late:
        return a.late < b.late
    if a.tardiness != b.tardiness:
        return a.tardiness < b.tardiness
    return a.makespan < b.makespan


cdef void _copy(
    Work *w, int *device, double *start, double *end, const int *d, const double *s, const double *e
) noexcept nogil:
    memcpy(device, d, w.n * sizeof(int))
    memcpy(start, s, w.n * sizeof(double))
    memcpy(end, e, w.n * sizeof(double))


cdef Score _contest(Work *w, Score kept) noexcept nogil:
    """Another schedule in place of the last one; the better of the two is kept."""
    cdef Score score
    while w.placed:
        w.placed -= 1
        _undo(w, w.placed)
    _arrange(w)
    if _search(w) == 1:
        score = _score(w)
        if _beats(score, kept):
            _copy(w, w.device_kept, w.start_kept, w.end_kept, w.device, w.start, w.end)
            return score
    return kept


cdef double _alone(Work *w, int p) noexcept nogil:
    """No schedule that keeps every step on device `p` where it may run there ends sooner."""
    cdef int x
    cdef double work = 0
    for x in range(w.free):
        if w.may[<size_t>w.order[x] * w.m + p]:
            work += w.seconds[<size_t>w.order[x] * w.m + p]
    return work / w.capacity[p]


cdef int _begin(Work *w) noexcept nogil:
    """The steps' devices, the fixed steps' use, and a first consistency; OK, or the rule that no schedule can keep."""
    cdef int i, p
    for i in range(w.n):
        w.rule = NO_DEVICE
        for p in range(w.m):
            if w.fixed[i]:
                w.may[<size_t>i * w.m + p] = w.device[i] == p
            elif w.seconds[<size_t>i * w.m + p] < INFINITY:
                w.rule = NO_WINDOW
                w.may[<size_t>i * w.m + p] = _fit(w, p, 0, w.seconds[<size_t>i * w.m + p]) < INFINITY
            w.choices[i] += w.may[<size_t>i * w.m + p]
        if w.choices[i] == 0:
            w.step = i
            return w.rule
    for i in range(w.n):
        if w.fixed[i]:
            _occupy(w, i, 1)
    if w.sparse:
        w.step = _propagate(w, 0, w.n)
        if w.step >= 0:
            return NO_LINK
    return OK


cdef int _solve(Work *w) noexcept nogil:
    cdef int number, found, rule, p
    cdef double horizon
    cdef Score kept
    if not _sort(w):
        return CYCLE
    rule = _begin(w)
    if rule != OK:
        return rule
    _look_ahead(w)
    w.home = -1
    w.looking = True
    horizon = -_latest(w, 0, False)
    if w.deadlines:
        _latest(w, horizon, True)
    for number in range(1, ROUNDS + 1):
        _arrange(w)
        found = _search(w)
        if found == 1:
            break
        if found == 0 and not w.windows:
            return NO_LINK
        _advance(w, w.step, number)
    else:
        return w.rule
    kept = _score(w)
    _copy(w, w.device_kept, w.start_kept, w.end_kept, w.device, w.start, w.end)
    w.looking = False
    kept = _contest(w, kept)
    for p in range(w.m):
        if kept.late or _alone(w, p) < kept.makespan:
            w.home = p
            kept = _contest(w, kept)
    w.home = -1
    if kept.late:
        w.looking = True
        _latest(w, kept.makespan, True)
        kept = _contest(w, kept)
    _copy(w, w.device, w.start, w.end, w.device_kept, w.start_kept, w.end_kept)
    return OK


# ---- the door ---------------------------------------------------------------------------------------------------

_RULES = {
    "device": "no device can run it",
    "window": "no device is available for long enough",
    "link": "no link carries its inputs or its result",
}
_NAMES = {NO_DEVICE: "device", NO_WINDOW: "window", NO_LINK: "link"}


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


cdef inline void *_take(char *base, size_t *at, size_t size) noexcept nogil:
    cdef size_t begin = at[0]
    at[0] += (size + 7) & ~<size_t>7
    return NULL if base is NULL else base + begin


cdef size_t _layout(Work *w, char *base, size_t edges, size_t members) noexcept nogil:
    """Give each array its place from `base` on; returns the bytes that all take. NULL only measures."""
    cdef size_t at = 0, n = w.n, m = w.m, resources = w.m + w.g
    w.seconds = <double *>_take(base, &at, n * m * sizeof(double))
    w.ahead = <double *>_take(base, &at, n * m * sizeof(double))
    w.latency = <double *>_take(base, &at, m * m * sizeof(double))
    w.per_unit = <double *>_take(base, &at, m * m * sizeof(double))
    w.deadline = <double *>_take(base, &at, n * sizeof(double))
    w.before_at = <int *>_take(base, &at, (n + 1) * sizeof(int))
    w.before = <int *>_take(base, &at, edges * sizeof(int))
    w.before_size = <double *>_take(base, &at, edges * sizeof(double))
    w.after_at = <int *>_take(base, &at, (n + 1) * sizeof(int))
    w.after = <int *>_take(base, &at, edges * sizeof(int))
    w.after_size = <double *>_take(base, &at, edges * sizeof(double))
    w.group_at = <int *>_take(base, &at, (n + 1) * sizeof(int))
    w.group = <int *>_take(base, &at, members * sizeof(int))
    w.fixed = <unsigned char *>_take(base, &at, n)
    w.capacity = <int *>_take(base, &at, resources * sizeof(int))
    w.points = <int *>_take(base, &at, resources * sizeof(int))
    w.when = <double *>_take(base, &at, resources * w.stride * sizeof(double))
    w.used = <int *>_take(base, &at, resources * w.stride * sizeof(int))
    w.may = <unsigned char *>_take(base, &at, n * m)
    w.choices = <int *>_take(base, &at, n * sizeof(int))
    w.trail = <int *>_take(base, &at, n * m * sizeof(int))
    w.mark = <int *>_take(base, &at, n * sizeof(int))
    w.tried = <unsigned char *>_take(base, &at, n * m)
    w.queue = <int *>_take(base, &at, n * sizeof(int))
    w.queued = <unsigned char *>_take(base, &at, n)
    w.topological = <int *>_take(base, &at, n * sizeof(int))
    w.waiting = <int *>_take(base, &at, n * sizeof(int))
    w.front = <int *>_take(base, &at, n * sizeof(int))
    w.latest = <double *>_take(base, &at, n * sizeof(double))
    w.keys = <Key *>_take(base, &at, n * sizeof(Key))
    w.order = <int *>_take(base, &at, n * sizeof(int))
    w.device = <int *>_take(base, &at, n * sizeof(int))
    w.start = <double *>_take(base, &at, n * sizeof(double))
    w.end = <double *>_take(base, &at, n * sizeof(double))
    w.device_kept = <int *>_take(base, &at, n * sizeof(int))
    w.start_kept = <double *>_take(base, &at, n * sizeof(double))
    w.end_kept = <double *>_take(base, &at, n * sizeof(double))
    return at


cdef inline double _number(object x, str name, int a, int b) except -1.0:
    """A finite number from 0 on, INFINITY for None."""
    cdef double value
    if x is None:
        return INFINITY
    value = x
    if not 0 <= value < INFINITY:
        raise ValueError(f"{name}[{a}][{b}] is {x!r}; it must be finite and at least 0")
    return value


cdef inline int _index(object x, int limit, str name) except -1:
    cdef Py_ssize_t value = x
    if not 0 <= value < limit:
        raise ValueError(f"{name} names {x!r}; there are {limit}, counted from 0")
    return <int>value


cdef int _read_links(Work *w, bandwidth, latency) except -1:
    cdef int p, q
    cdef double rate, linked = 0
    for p in range(w.m):
        row = bandwidth[p]
        delays = latency[p] if latency else None
        if len(row) != w.m or (delays is not None and len(delays) != w.m):
            raise ValueError(f"row {p} of bandwidth or latency has not {w.m} entries")
        for q in range(w.m):
            if p == q:
                continue
            rate = _number(row[q], "bandwidth", p, q)
            if rate == INFINITY:
                w.latency[p * w.m + q] = INFINITY
                w.sparse = True
                continue
            if rate == 0:
                raise ValueError(f"bandwidth[{p}][{q}] is 0; None means that there is no link")
            if delays is not None:
                w.latency[p * w.m + q] = _number(delays[q], "latency", p, q)
                if w.latency[p * w.m + q] == INFINITY:
                    raise ValueError(f"latency[{p}][{q}] is None, and there is a link")
            w.per_unit[p * w.m + q] = 1 / rate
            w.mean_per_unit += 1 / rate
            w.mean_latency += w.latency[p * w.m + q]
            linked += 1
    if linked:
        w.mean_per_unit /= linked
        w.mean_latency /= linked
    return 0


cdef int _read_resources(Work *w, slots, available) except -1:
    cdef int r
    cdef double begin, until
    for r in range(w.m + w.g):
        w.when[<size_t>r * w.stride] = -INFINITY
        w.points[r] = 1
        w.capacity[r] = slots[r] if slots and r < w.m else 1
        if w.capacity[r] < 1:
            raise ValueError(f"slots[{r}] is {w.capacity[r]}; a device runs at least 1 step at once")
        if available and r < w.m:
            window = available[r]
            begin = _number(window[0], "available", r, 0)
            until = _number(window[1], "available", r, 1)
            if begin == INFINITY:
                raise ValueError(f"available[{r}][0] is None; only the end may be open")
            w.windows |= begin > 0 or until < INFINITY
            _add(w, r, -INFINITY, begin, w.capacity[r])
            _add(w, r, max(begin, until), INFINITY, w.capacity[r])
    return 0


cdef int _read_steps(Work *w, seconds, fixed, deadlines) except -1:
    cdef int i, p
    cdef double until
    for i in range(w.n):
        w.deadline[i] = INFINITY
        row = seconds[i]
        if len(row) != w.m:
            raise ValueError(f"seconds[{i}] has {len(row)} entries for {w.m} devices")
        for p in range(w.m):
            w.seconds[<size_t>i * w.m + p] = _number(row[p], "seconds", i, p)
    for key, (device, begin, end) in fixed.items():
        i = _index(key, w.n, "fixed")
        w.fixed[i] = 1
        w.device[i] = _index(device, w.m, "fixed")
        w.start[i] = begin
        w.end[i] = end
        if not -INFINITY < w.start[i] <= w.end[i] < INFINITY:
            raise ValueError(f"fixed[{i}] goes from {begin!r} to {end!r}")
    for key, end in deadlines.items():
        until = end
        if until != until:
            raise ValueError(f"deadlines[{key}] is {end!r}")
        w.deadline[_index(key, w.n, "deadlines")] = until
        w.deadlines = True
    return 0


cdef int _read_graph(Work *w, deps, exclusive) except -1:
    """Edges and groups by counting sort into CSR; `waiting`, `queue` and `topological` are cursors meanwhile."""
    cdef int i, j, p
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
        w.queue[j] += 1
    for p, group in enumerate(exclusive):
        for member in group:
            i = member
            w.group[w.topological[i]] = p
            w.topological[i] += 1
    return 0


def solve(seconds, deps, bandwidth, latency=(), slots=(), available=(), exclusive=(), fixed=None, deadlines=None):
    """Assign n steps to m devices; times and sizes in any consistent units, from time 0 on.

    seconds: (n, m), run times, None: it cannot run there. deps: (producer, consumer, size) each. bandwidth, latency:
    (m, m), row = sender; a bandwidth of None: no link; the diagonal is not read. slots: (m), steps at once. available:
    (m) of (from, to or None). exclusive: groups of steps, no two of a group overlap. fixed: step -> (device, start,
    end), as it was or is; its own inputs are not looked at. deadlines: step -> time. An empty latency, slots or
    available means 0, 1, always. Returns (device, start, end, makespan, late steps), lists in step order.

    Raises:
        Infeasible: some step has no place.
        ValueError: the numbers do not describe a problem.
    """
    cdef Work w
    cdef char *base
    cdef int i, status
    cdef size_t size, n = len(seconds), m = len(bandwidth), g = len(exclusive), members = 0
    cdef double makespan = 0
    cdef list device = [], start = [], end = [], late = []
    if n > LARGEST or m > LARGEST or g > LARGEST or n * m > LARGEST or m * m > LARGEST or (m + g) * n > LARGEST:
        raise ValueError(f"{n} steps on {m} devices with {g} groups are too many")
    if (latency and len(latency) != m) or (slots and len(slots) != m) or (available and len(available) != m):
        raise ValueError(f"latency, slots and available need {m} entries each")
    if fixed:
        deps = [dep for dep in deps if dep[1] not in fixed]
    for group in exclusive:
        members += len(group)
    memset(&w, 0, sizeof(Work))
    w.n, w.m, w.g = n, m, g
    w.stride = 2 * n + 6  # the edges of every step and of the window, and the two that a change may add
    size = _layout(&w, NULL, len(deps), members)
    base = <char *>calloc(size + 1, 1)
    if base is NULL:
        raise MemoryError(f"{size} bytes for a schedule")
    try:
        _layout(&w, base, len(deps), members)
        _read_links(&w, bandwidth, latency)
        _read_resources(&w, slots, available)
        _read_steps(&w, seconds, fixed or {}, deadlines or {})
        _read_graph(&w, deps, exclusive)
        with nogil:
            status = _solve(&w)
        if status == CYCLE:
            raise ValueError(f"step {w.step} waits for itself, through others")
        if status != OK:
            raise Infeasible(w.step, _NAMES[status])
        for i in range(w.n):
            device.append(w.device[i])
            start.append(w.start[i])
            end.append(w.end[i])
            makespan = max(makespan, w.end[i])
            if w.end[i] > w.deadline[i]:
                late.append(i)
    finally:
        free(base)
    return device, start, end, makespan, late
