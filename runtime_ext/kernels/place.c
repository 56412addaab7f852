/* List scheduling with insertion: the timelines of lanes, the choice of a device, and going back where links are
   missing or windows close.

   Missing links and skills are constraints on pairs of steps, kept arc-consistent (AC-3, Mackworth 1977) during the
   placement. A step that found no place comes first in the next round ("squeaky wheel" optimisation, Joslin and
   Clements, JAIR 10, 1999). One file because all of it keeps the timelines. */

#include "schedule.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 32 };
static const double NEAR = 1e-12; /* relative: times that are equal but for rounding */

/* ---- lanes ----------------------------------------------------------------------------------------------------- */

static void clear(Sched *w, int lane)
{
    w->last[lane] = w->stretch + w->n + w->members + lane;
    w->last[lane][0] = (Stretch){.from = -INFINITY};
    w->gap[lane] = 0;
}

/* The first moment from t on with room for that long. */
static double fit(Sched *w, int lane, double t, double seconds)
{
    const Stretch *s = w->last[lane];
    double found = s->till > t ? s->till : t, widest = 0;
    if (seconds > w->gap[lane])
        return found;
    while (s->till > t) {
        double from = s->from;
        s = s->previous;
        double till = s->till, begin = till > t ? till : t;
        if (begin + seconds <= from)
            found = begin;
        widest = from - till > widest ? from - till : widest;
    }
    if (!(s->till > 0)) /* all of it was seen */
        w->gap[lane] = widest;
    return found;
}

static void widen(Sched *w, int lane, double gap)
{
    w->gap[lane] = gap > w->gap[lane] ? gap : w->gap[lane];
}

static void occupy(Sched *w, int lane, Stretch *s, double from, double till)
{
    Stretch *before = w->last[lane], *next = NULL;
    while (before->from > from) {
        next = before;
        before = before->previous;
    }
    *s = (Stretch){from, till, next, before};
    before->next = s;
    if (next)
        next->previous = s;
    else {
        widen(w, lane, from - before->till);
        w->last[lane] = s;
    }
}

static void vacate(Sched *w, int lane, const Stretch *s)
{
    s->previous->next = s->next;
    if (s->next) {
        widen(w, lane, s->next->from - s->previous->till);
        s->next->previous = s->previous;
    } else
        w->last[lane] = s->previous;
}

static double reached(const Sched *w, int lane)
{
    return w->last[lane]->previous ? w->last[lane]->till : -INFINITY;
}

static void follow_tail(Sched *w, int p)
{
    double least = INFINITY;
    for (int lane = w->lane_at[p]; lane < w->lane_at[p + 1]; lane++) {
        double till = w->last[lane]->till;
        least = till < least ? till : least;
    }
    w->tail[p] = least > w->opens[p] ? least : w->opens[p];
}

static void enter(Sched *w, int i)
{
    double from = w->start[i], till = w->end[i];
    if (w->radios)
        sched_radio_enter(w, i);
    if (!(till > from))
        return;
    occupy(w, w->lane[i], w->stretch + i, from, till);
    for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
        occupy(w, w->lanes + w->group[x], w->stretch + w->n + x, from, till);
    follow_tail(w, w->device[i]);
}

static void leave(Sched *w, int i)
{
    if (w->radios)
        sched_radio_leave(w, i);
    if (!(w->end[i] > w->start[i]))
        return;
    vacate(w, w->lane[i], w->stretch + i);
    for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
        vacate(w, w->lanes + w->group[x], w->stretch + w->n + x);
    follow_tail(w, w->device[i]);
}

/* What is given occupies its lanes as it is; where there are more steps than lanes, one stretch ends with the last. */
static void give(Sched *w, int lane, Stretch *s, double from, double till)
{
    if (!(till > from))
        return;
    occupy(w, lane, s, from, till);
    double reached = s->previous->previous ? s->previous->till : -INFINITY;
    for (; s; s = s->next) {
        reached = s->till > reached ? s->till : reached;
        s->till = reached;
    }
}

/* Nothing is placed but what is given. */
void sched_empty(Sched *w)
{
    for (int lane = 0; lane < w->lanes + w->groups; lane++)
        clear(w, lane);
    if (w->free < w->n)
        for (int x = 0; x < w->given; x++) {
            int i = w->by_start[x];
            int p = w->device[i], best = w->lane_at[p];
            for (int lane = best; lane < w->lane_at[p + 1]; lane++) { /* the fullest that is free by then, or the first */
                double till = reached(w, lane), other = reached(w, best), t = w->start[i];
                if (other <= t ? till <= t && till > other : till < other)
                    best = lane;
            }
            w->lane[i] = best;
            give(w, best, w->stretch + i, w->start[i], w->end[i]);
            for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
                give(w, w->lanes + w->group[x], w->stretch + w->n + x, w->start[i], w->end[i]);
        }
    for (int p = 0; p < w->m; p++)
        follow_tail(w, p);
    if (w->radios)
        sched_radio_empty(w);
}

/* ---- the choice of a device ------------------------------------------------------------------------------------ */

/* Two devices at once: of plain loops the compiler makes no vectors where the least of all is asked for. */
typedef double Pair __attribute__((vector_size(16)));
typedef int64_t Bits __attribute__((vector_size(16)));

static inline Pair both(double x)
{
    return (Pair){x, x};
}

static inline Pair lesser(Pair a, Pair b)
{
#ifdef __SSE2__
    return __builtin_ia32_minpd(a, b);
#else
    return (Pair){a[0] < b[0] ? a[0] : b[0], a[1] < b[1] ? a[1] : b[1]};
#endif
}

static inline Pair greater(Pair a, Pair b)
{
#ifdef __SSE2__
    return __builtin_ia32_maxpd(a, b);
#else
    return (Pair){a[0] > b[0] ? a[0] : b[0], a[1] > b[1] ? a[1] : b[1]};
#endif
}

static inline const Pair *pairs(const double *row)
{
    return (const Pair *)row; /* every row begins at a multiple of 32 bytes */
}

/* When the inputs of step i are at each device, and it is there. */
static void arrivals(Sched *w, int i, double *ready)
{
    if (w->radios) {
        sched_radio_arrivals(w, i, ready);
        return;
    }
    const int half = w->stride / 2, last = w->before_at[i + 1];
    Pair *there = (Pair *)ready;
    const Pair *opens = pairs(w->opens), *so_far = opens;
    for (int e = w->before_at[i]; e < last; so_far = there) {
        int j = w->before[e], k = w->before[e + 1 < last ? e + 1 : e];
        size_t row = (size_t)w->device[j] * w->stride, other = (size_t)w->device[k] * w->stride;
        const Pair *latency = pairs(w->latency + row), *per_unit = pairs(w->per_unit + row);
        Pair end = both(w->end[j]), size = both(w->before_size[e++]);
        if (e == last) {
            for (int x = 0; x < half; x++)
                there[x] = greater(end + latency[x] + size * per_unit[x], so_far[x]);
            break;
        }
        const Pair *latency_too = pairs(w->latency + other), *per_unit_too = pairs(w->per_unit + other);
        Pair end_too = both(w->end[k]), size_too = both(w->before_size[e++]);
        for (int x = 0; x < half; x++)
            there[x] = greater(end_too + latency_too[x] + size_too * per_unit_too[x],
                               greater(end + latency[x] + size * per_unit[x], so_far[x]));
    }
    if (w->before_at[i] == last)
        memcpy(ready, w->opens, (size_t)w->stride * sizeof *ready);
}

/* The first moment from t on at which step i fits on device p and into its groups; INFINITY for never. */
static double moment(Sched *w, int i, int p, double t, int *lane)
{
    double seconds = w->seconds[(size_t)i * w->stride + p], closes = w->closes[p];
    t = t > w->opens[p] ? t : w->opens[p];
    *lane = w->lane_at[p];
    while (seconds > 0) {
        double soonest = INFINITY, u;
        for (int l = w->lane_at[p]; l < w->lane_at[p + 1]; l++) {
            u = fit(w, l, t, seconds);
            if (u < soonest) {
                soonest = u;
                *lane = l;
            }
            if (u <= t)
                break;
        }
        u = soonest;
        for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
            u = fit(w, w->lanes + w->group[x], u, seconds);
        t = u;
        if (u <= soonest)
            break;
    }
    return t + seconds <= closes + NEAR * fabs(closes) ? t : INFINITY;
}

static int inputs_at(const Sched *w, int i, int p)
{
    int count = 0;
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
        count += w->device[w->before[e]] == p;
    return count;
}

/* What the energy of step i and its inputs' way there costs on device p. */
static double price_at(const Sched *w, int i, int p)
{
    double price = w->joules[(size_t)i * w->stride + p];
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
        price += w->before_size[e] * w->carry[(size_t)w->device[w->before[e]] * w->stride + p];
    return price;
}

/* Of the devices that are as good as the best but for rounding, the one that takes least energy, then the one with most
   inputs, then the first. */
static int settle(const Sched *w, int i, const double *finish, double best)
{
    int chosen = -1, most = -1;
    double limit = best + NEAR * fabs(best), least = INFINITY;
    for (int p = 0; p < w->m; p++)
        if (finish[p] <= limit) {
            int here = inputs_at(w, i, p);
            double price = w->prices ? price_at(w, i, p) : 0;
            if (price < least || (price == least && here > most)) {
                least = price;
                most = here;
                chosen = p;
            }
        }
    return chosen;
}

/* Where step i ends first, or what follows it can: for devices of one lane each, and steps without groups. */
static int choose_plainly(Sched *w, int i, const double *ahead, double eager, double *at)
{
    const double *seconds = w->seconds + (size_t)i * w->stride, *tail = w->tail;
    double *ready = w->ready, *start = w->begin, *finish = w->finish, best, soon;
    const int half = w->stride / 2;
    Pair first = both(INFINITY), early = first, ties = both(0), where = ties, which = {0, 1};
    arrivals(w, i, ready);
    for (int x = 0; x < half; x++) {
        Pair r = pairs(ready)[x], t = pairs(tail)[x], s = pairs(seconds)[x], from = greater(r, t), more = s;
        if (ahead)
            more += both(eager) * pairs(ahead)[x];
        Bits no_gap = (r >= t) | (s > pairs(w->gap)[x]);
        ((Pair *)start)[x] = from;
        ((Pair *)finish)[x] = from + more;
        first = lesser(from + more, first);
        early = lesser(r + more + (Pair)((Bits)both(INFINITY) & no_gap), early);
    }
    best = first[0] < first[1] ? first[0] : first[1];
    soon = early[0] < early[1] ? early[0] : early[1];
    for (int p = 0; soon < best && p < w->m; p++) { /* those where a gap may be found that is good enough */
        double more = seconds[p] + (ahead ? eager * ahead[p] : 0);
        if (!(ready[p] < tail[p] && ready[p] + more < best && seconds[p] <= w->gap[p]))
            continue;
        start[p] = seconds[p] > 0 ? fit(w, p, ready[p], seconds[p]) : ready[p];
        finish[p] = start[p] + more;
        best = finish[p] < best ? finish[p] : best;
    }
    if (!(best < INFINITY))
        return -1;
    Pair limit = both(best + NEAR * fabs(best));
    for (int x = 0; x < half; x++) {
        Bits tie = pairs(finish)[x] <= limit;
        ties += (Pair)((Bits)both(1) & tie);
        where += (Pair)((Bits)which & tie);
        which += both(2);
    }
    w->lane[i] = ties[0] + ties[1] > 1 ? settle(w, i, finish, best) : (int)(where[0] + where[1]);
    at[0] = start[w->lane[i]];
    return w->lane[i];
}

/* The same under every rule; `tried` devices are left out, and so are those that are not open to it any more. */
static int choose(Sched *w, int i, const double *ahead, double eager, int prefer, const unsigned char *tried,
                  double *at)
{
    const double *seconds = w->seconds + (size_t)i * w->stride;
    const unsigned char *may = tried ? w->may + (size_t)i * w->m : NULL;
    double *finish = w->finish, best = INFINITY;
    int chosen = -1, lane, few = 0;
    arrivals(w, i, w->ready);
    for (int p = 0; p < w->m; p++) {
        finish[p] = seconds[p] < INFINITY && !(tried && (tried[p] || !may[p])) ? 0 : INFINITY;
        few |= prefer && w->among[p] && finish[p] == 0;
    }
    for (int p = 0; p < w->m; p++) {
        double more = seconds[p] + (ahead ? eager * ahead[p] : 0), t;
        if (finish[p] > 0)
            continue;
        finish[p] = INFINITY;
        if ((few && !w->among[p]) || w->ready[p] + more > best + NEAR * fabs(best))
            continue;
        t = moment(w, i, p, w->ready[p], &lane);
        finish[p] = t + more;
        if (t == INFINITY)
            w->rule = SCHED_NO_WINDOW;
        best = finish[p] < best ? finish[p] : best;
    }
    if (!(best < INFINITY))
        return -1;
    chosen = settle(w, i, finish, best);
    at[0] = moment(w, i, chosen, w->ready[chosen], &w->lane[i]);
    return chosen;
}

/* On the device that it has; -1 if that cannot be. */
static int stay(Sched *w, int i, int p, const unsigned char *tried, double *at)
{
    double ready = w->opens[p];
    if (tried && (tried[p] || !w->may[(size_t)i * w->m + p]))
        return -1;
    if (w->radios)
        ready = sched_radio_arrival(w, i, p);
    for (int e = w->before_at[i]; !w->radios && e < w->before_at[i + 1]; e++) {
        int j = w->before[e];
        size_t link = (size_t)w->device[j] * w->stride + p;
        double t = w->end[j] + w->latency[link] + w->before_size[e] * w->per_unit[link];
        ready = t > ready ? t : ready;
    }
    at[0] = moment(w, i, p, ready, &w->lane[i]);
    if (at[0] < INFINITY)
        return p;
    w->rule = SCHED_NO_WINDOW;
    return -1;
}

/* ---- which devices are open to a step -------------------------------------------------------------------------- */

static void strike(Sched *w, int i, int p)
{
    w->may[(size_t)i * w->m + p] = 0;
    w->choices[i]--;
    w->trail[w->struck++] = i * w->m + p;
}

static void restore(Sched *w, int length)
{
    while (w->struck > length) {
        int cell = w->trail[--w->struck];
        w->may[cell] = 1;
        w->choices[cell / w->m]++;
    }
}

/* Strike out the devices of `y` that no device of `x` has a link with (`forward`: from x to y). */
static int revise(Sched *w, int y, int x, int forward)
{
    int changed = 0;
    const unsigned char *of = w->may + (size_t)x * w->m;
    for (int q = 0; q < w->m; q++) {
        int p = 0;
        if (!w->may[(size_t)y * w->m + q])
            continue;
        while (p < w->m
               && !(of[p] && w->latency[forward ? (size_t)p * w->stride + q : (size_t)q * w->stride + p] < INFINITY))
            p++;
        if (p == w->m) {
            strike(w, y, q);
            changed = 1;
        }
    }
    return changed;
}

/* Make the devices of all steps arc-consistent after a change in [first, last); -1, or the step left with none. */
static int propagate(Sched *w, int first, int last)
{
    int head = 0, count = 0, emptied = -1;
    for (int x = first; x < last; x++) {
        w->queue[count++] = x;
        w->queued[x] = 1;
    }
    while (count) {
        int x = w->queue[head];
        head = head + 1 == w->n ? 0 : head + 1;
        count--;
        w->queued[x] = 0;
        for (int forward = 0; forward < 2; forward++) {
            const int *at = forward ? w->after_at : w->before_at, *of = forward ? w->after : w->before;
            for (int e = at[x]; e < at[x + 1]; e++) {
                int y = of[e];
                if (emptied >= 0 || !revise(w, y, x, forward))
                    continue;
                if (w->choices[y] == 0)
                    emptied = y;
                else if (!w->queued[y]) {
                    w->queue[(head + count++) % w->n] = y;
                    w->queued[y] = 1;
                }
            }
        }
    }
    return emptied;
}

/* ---- the placement --------------------------------------------------------------------------------------------- */

static void put(Sched *w, int i, int p, double at)
{
    w->device[i] = p;
    w->start[i] = at;
    w->end[i] = at + w->seconds[(size_t)i * w->stride + p];
}

static const double *looks(const Sched *w, int i, int looking)
{
    return looking ? w->ahead + (size_t)i * w->stride : NULL;
}

/* Place every free step in order, going back where it leads nowhere. 1: done; 0: there is no such schedule; -1: given
   up. */
static int search(Sched *w, int looking, double eager, int prefer)
{
    int level = 0, deepest = -1, rule = SCHED_NO_LINK;
    int64_t budget = 256 + 4 * (int64_t)w->n;
    double at = 0;
    restore(w, 0);
    if (w->free)
        memset(w->tried, 0, (size_t)w->m);
    while (level < w->free) {
        int i = w->order[level];
        unsigned char *tried = w->tried + (size_t)level * w->m;
        w->rule = SCHED_NO_LINK;
        int liked = prefer == EVERYWHERE || (prefer == CRITICAL && w->critical[i]);
        int p = prefer == HELD && w->device_now[i] >= 0
                    ? stay(w, i, w->device_now[i], tried, &at)
                    : choose(w, i, looks(w, i, looking), eager, liked, tried, &at);
        if (p < 0) {
            if (level > deepest) {
                deepest = level;
                rule = w->rule;
                w->failed = i;
            }
            if (level == 0 || --budget < 0) {
                w->rule = rule;
                restore(w, 0);
                return level == 0 ? 0 : -1;
            }
            level--;
            leave(w, w->order[level]);
            restore(w, w->mark[level]);
            continue;
        }
        tried[p] = 1;
        w->mark[level] = w->struck;
        put(w, i, p, at);
        if (w->sparse) {
            for (int q = 0; q < w->m; q++)
                if (q != p && w->may[(size_t)i * w->m + q])
                    strike(w, i, q);
            if (propagate(w, i, i + 1) >= 0) {
                restore(w, w->mark[level]);
                budget--;
                continue;
            }
        }
        enter(w, i);
        if (++level < w->free)
            memset(w->tried + (size_t)level * w->m, 0, (size_t)w->m);
    }
    restore(w, 0);
    return 1;
}

/* Place the free steps in their order. 1: done; 0: there is no such schedule; -1: given up. `looking`: on the device
   from which all can end first, what lies ahead taken `eager` times. */
int sched_place(Sched *w, int looking, double eager, int prefer)
{
    sched_empty(w);
    if (w->sparse || w->windows)
        return search(w, looking, eager, prefer);
    for (int x = 0; x < w->free; x++) {
        int i = w->order[x], p, plain = !w->wide && w->group_at[i] == w->group_at[i + 1];
        int liked = prefer == EVERYWHERE || (prefer == CRITICAL && w->critical[i]);
        double at = 0;
        if (prefer == HELD && w->device_now[i] >= 0)
            p = stay(w, i, w->device_now[i], NULL, &at);
        else if (liked || !plain)
            p = choose(w, i, looks(w, i, looking), eager, liked, NULL, &at);
        else
            p = choose_plainly(w, i, looks(w, i, looking), eager, &at);
        if (p < 0) {
            w->failed = i;
            w->rule = SCHED_NO_DEVICE;
            return 0;
        }
        put(w, i, p, at);
        if (!plain || w->radios)
            enter(w, i);
        else if (w->end[i] > at) {
            occupy(w, p, w->stretch + i, at, w->end[i]);
            w->tail[p] = w->last[p]->till;
        }
    }
    return 1;
}

/* Put a step and all before it in front; the order of the others stays. */
static void advance(Sched *w, int step, int number)
{
    int put_at = 0;
    w->front[step] = number;
    for (int x = w->n - 1; x >= 0; x--) {
        int i = w->topological[x];
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++)
            if (w->front[w->after[e]] == number)
                w->front[i] = number;
    }
    for (int front = number; front >= 0; front--)
        for (int x = 0; x < w->free; x++)
            if (w->front[w->order[x]] == front)
                w->heap[put_at++] = w->order[x];
    memcpy(w->order, w->heap, (size_t)put_at * sizeof *w->order);
}

/* The devices that are open to each step; SCHED_OK, or the rule that no schedule can keep. */
int sched_open(Sched *w)
{
    int emptied;
    for (int i = 0; i < w->n; i++) {
        int count = w->fixed[i];
        for (int p = 0; p < w->m && !count; p++)
            count = w->seconds[(size_t)i * w->stride + p] < INFINITY;
        if (!count) {
            w->failed = i;
            return SCHED_NO_DEVICE;
        }
    }
    if (!w->sparse && !w->windows)
        return SCHED_OK;
    w->struck = 0;
    memset(w->front, 0, (size_t)w->n * sizeof *w->front);
    for (int i = 0; i < w->n; i++) {
        w->choices[i] = 0;
        for (int p = 0; p < w->m; p++) {
            double seconds = w->seconds[(size_t)i * w->stride + p];
            int lane, may = w->fixed[i] ? w->device[i] == p : seconds < INFINITY;
            if (may && !w->fixed[i] && w->windows) {
                for (lane = w->lane_at[p]; lane < w->lane_at[p + 1]; lane++)
                    clear(w, lane); /* as if it were alone */
                for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
                    clear(w, w->lanes + w->group[x]);
                may = moment(w, i, p, 0, &lane) < INFINITY;
            }
            w->may[(size_t)i * w->m + p] = (unsigned char)may;
            w->choices[i] += may;
        }
        if (w->choices[i] == 0) {
            w->failed = i;
            return SCHED_NO_WINDOW;
        }
    }
    if (w->sparse && (emptied = propagate(w, 0, w->n)) >= 0) {
        w->failed = emptied;
        return SCHED_NO_LINK;
    }
    w->struck = 0; /* what is out now is out for good */
    return SCHED_OK;
}

/* A first schedule where not every order leads to one, which is kept; SCHED_OK, or the rule that none was found for. */
int sched_first(Sched *w)
{
    if (!w->sparse && !w->windows)
        return SCHED_OK;
    sched_arrange(w, w->up);
    for (int number = 1; number <= ROUNDS; number++) {
        int found = sched_place(w, w->m <= TABLE, 1.0, NOWHERE);
        if (found == 1) {
            sched_keep(w);
            return SCHED_OK;
        }
        if (found == 0 && !w->windows)
            return SCHED_NO_LINK;
        advance(w, w->failed, number);
    }
    return w->rule;
}
