/* Anytime local search: simulated annealing over (order, device), driven by the critical path, and list schedules with
   noise on their ranks.

   A state is a topological sequence of the steps and a device for each. It is decoded by appending: every step begins
   when its inputs are there and its lanes are free of those before it in the sequence, and of what is given for later.
   Some sequence decodes to an optimal schedule: the one by the start times of such a schedule. A change is decoded from the first place that it
   touches, from the state of the lanes kept every few steps, and given up as soon as the least time that must still
   follow says that it will not be taken. One file because the compiler makes one function of it. */

#include "schedule.h"

#include <math.h>
#include <string.h>

enum {
    PAIR = 2,   /* steps that one change may move to another device besides a block */
    BLOCK = 8,  /* steps of a block */
    FEW = 16,   /* steps up to which annealing gets nearly all of the budget; */
    LISTS = 6,  /* above, for each change a list schedule looks at one in so many of the steps */
    ROUND = 8,  /* changes per step in the first round; each further one has twice as many */
    CHEAPER = 10, /* the part of the work at most that goes to less energy, once no schedule is shorter */
    LOGS = 1024
};

/* Of 1024 changes, those below each mark: another device, another place, with a neighbour, with what is around, and the
   rest with all that is tied to it on its device. CRITICAL_ONES are to a step on the critical path. */
enum { DEVICE = 500, PLACE = 650, NEIGHBOUR = 850, AROUND = 950, CRITICAL_ONES = 740 };

/* Heat in makespans: rounds begin hot or warm, and end cold; with more steps than FEW all of it is milder. */
static const double HOT = 0.1, WARM = 0.03, COLD = 0.001, MILD = 0.6;

static double logs[LOGS]; /* -ln of numbers spread over (0, 1) */

void sched_begin(void)
{
    for (int x = 0; x < LOGS; x++)
        logs[x] = -log((x + 0.5) / LOGS);
}

typedef struct {
    double cost, extra;            /* of the state; what devices and links cost of it */
    double late, tardy;            /* what a late step, and lateness, cost */
    double energy, moved;          /* what a unit of energy, or of size that moves, costs */
    double best, scale;
    int reached;                   /* places decoded by the last change */
    int path;                      /* length of the critical path, -1: not known */
} Search;

typedef struct {
    int step, was;
} Move;

static int lanes_in_all(const Sched *w)
{
    return w->lanes + w->groups;
}

/* ---- what a state costs ---------------------------------------------------------------------------------------- */

/* What the device of step i, and the links of its inputs (and outputs), cost: a little, to tell schedules of one length
   apart. */
static double price(const Sched *w, const Search *s, int i, int outputs)
{
    int p = w->on[i];
    double cost = w->prices ? s->energy * w->joules[(size_t)i * w->stride + p] : 0;
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        int q = w->on[w->before[e]];
        if (q != p)
            cost += w->before_size[e] * (s->moved + (w->prices ? s->energy * w->carry[(size_t)q * w->stride + p] : 0));
    }
    for (int e = w->after_at[i]; outputs && e < w->after_at[i + 1]; e++) {
        int q = w->on[w->after[e]];
        if (q != p)
            cost += w->after_size[e] * (s->moved + (w->prices ? s->energy * w->carry[(size_t)p * w->stride + q] : 0));
    }
    return cost;
}

/* The first moment from t on at which step i overlaps nothing that is given for later, in its lane and its groups. */
static double past_breaks(const Sched *w, int i, int lane, double t, double seconds)
{
    for (double was = -INFINITY; was < t;) {
        was = t;
        for (int x = w->group_at[i] - 1; x < w->group_at[i + 1]; x++) {
            int l = x < w->group_at[i] ? lane : w->lanes + w->group[x];
            for (int b = w->break_at[l]; b < w->break_at[l + 1]; b++)
                if (t < w->break_till[b] && t + seconds > w->break_from[b])
                    t = w->break_till[b];
        }
    }
    return t;
}

/* Append the steps from a place on. The cost of the whole state, or INFINITY as soon as it is sure to be above `limit`;
   `reached` is the first place that was not decoded. */
static inline __attribute__((always_inline)) double decode_with(Sched *w, Search *s, int from, double limit,
                                                                const int radios)
{
    const int all = lanes_in_all(w) + (radios ? w->radios : 0), free = w->free, lanes = w->lanes, wide = w->wide,
              table = w->looked, breaks = w->breaks;
    const size_t stride = (size_t)w->stride;
    const int *restrict sequence = w->sequence, *restrict on = w->on, *restrict before_at = w->before_at,
              *restrict before = w->before, *restrict group_at = w->group_at, *restrict group = w->group,
              *restrict lane_at = w->lane_at;
    const double *restrict seconds_of = w->seconds, *restrict latency = w->latency, *restrict per_unit = w->per_unit,
                 *restrict before_size = w->before_size, *restrict opens = w->opens, *restrict closes = w->closes;
    const double *restrict ahead = table ? w->ahead : w->down;
    double *restrict now = w->now, *restrict till_of = w->till, *restrict till_was = w->till_was;
    int *restrict ran_in = w->ran_in, *restrict ran_was = w->ran_was;
    double longest = w->latest[from], late = w->deadlines ? w->late[from] : 0,
           tardy = w->deadlines ? w->tardy[from] : 0, spare = limit - s->extra,
           cost = s->late * late + s->tardy * tardy;
    int snap = from >> w->snap, k = snap << w->snap;
    memcpy(now, w->tails + (size_t)snap * all, (size_t)all * sizeof *now);
    if (radios)
        w->firsts = 0;
    for (; k < from; k++) {
        int i = sequence[k];
        if (radios)
            sched_radio_hold(w, i, now);
        if (ran_in[i] < 0)
            continue;
        now[ran_in[i]] = till_of[i];
        for (int x = group_at[i]; x < group_at[i + 1]; x++)
            now[lanes + group[x]] = till_of[i];
    }
    for (; k < free; k++) {
        const int i = sequence[k], p = on[i];
        const size_t cell = (size_t)i * stride + p;
        double seconds = seconds_of[cell], t = opens[p];
        int lane = wide ? lane_at[p] : p;
        if (radios)
            t = sched_radio_append(w, i, k, t, now, till_of);
        for (int e = before_at[i]; !radios && e < before_at[i + 1]; e++) {
            int j = before[e];
            size_t link = (size_t)on[j] * stride + p;
            double u = till_of[j] + latency[link] + before_size[e] * per_unit[link];
            t = u > t ? u : t;
        }
        if (seconds > 0) {
            for (int x = group_at[i]; x < group_at[i + 1]; x++) {
                double u = now[lanes + group[x]];
                t = u > t ? u : t;
            }
            if (wide)
                for (int l = lane + 1; l < lane_at[p + 1]; l++) /* the fullest that is free by then, or the first */
                    if (now[lane] <= t ? now[l] <= t && now[l] > now[lane] : now[l] < now[lane])
                        lane = l;
            t = now[lane] > t ? now[lane] : t;
            if (breaks)
                t = past_breaks(w, i, lane, t, seconds);
        } else
            lane = -1;
        double till = t + seconds, least = till + (table ? ahead[cell] : ahead[i]);
        till_was[k] = till_of[i];
        ran_was[k] = ran_in[i];
        till_of[i] = till;
        ran_in[i] = lane;
        longest = till > longest ? till : longest;
        if (w->deadlines && till > w->deadline[i]) {
            late += w->weight[i];
            tardy += w->weight[i] * (till - w->deadline[i]);
            cost = s->late * late + s->tardy * tardy;
        }
        if (cost + (least > longest ? least : longest) > spare || till > closes[p] * (1 + 1e-12)) {
            s->reached = k + 1;
            w->work += radios ? (k + 1 - from) * 3 / 2 : k + 1 - from; /* it takes half as long again */
            return INFINITY;
        }
        if (lane >= 0) {
            now[lane] = till;
            for (int x = group_at[i]; x < group_at[i + 1]; x++)
                now[lanes + group[x]] = till;
        }
    }
    s->reached = k;
    w->work += radios ? (k - from) * 3 / 2 : k - from;
    return cost + longest + s->extra;
}

static __attribute__((noinline)) double decode_radios(Sched *w, Search *s, int from, double limit)
{
    return decode_with(w, s, from, limit, 1);
}

static double decode(Sched *w, Search *s, int from, double limit)
{
    return w->radios ? decode_radios(w, s, from, limit) : decode_with(w, s, from, limit, 0);
}

/* The decoded state is the state from now on: what is known at each place from there. */
static inline __attribute__((always_inline)) void settle_with(Sched *w, int from, const int radios)
{
    int all = lanes_in_all(w) + (radios ? w->radios : 0), snap = from >> w->snap;
    double *now = w->now;
    memcpy(now, w->tails + (size_t)snap * all, (size_t)all * sizeof *now);
    for (int k = snap << w->snap; k < w->free; k++) {
        int i = w->sequence[k];
        double till = w->till[i];
        if (k >> w->snap << w->snap == k)
            memcpy(w->tails + (size_t)(k >> w->snap) * all, now, (size_t)all * sizeof *now);
        if (radios)
            sched_radio_hold(w, i, now);
        if (w->ran_in[i] >= 0) {
            now[w->ran_in[i]] = till;
            for (int x = w->group_at[i]; x < w->group_at[i + 1]; x++)
                now[w->lanes + w->group[x]] = till;
        }
        w->latest[k + 1] = till > w->latest[k] ? till : w->latest[k];
        if (w->deadlines) {
            int late = till > w->deadline[i];
            w->late[k + 1] = w->late[k] + (late ? w->weight[i] : 0);
            w->tardy[k + 1] = w->tardy[k] + (late ? w->weight[i] * (till - w->deadline[i]) : 0);
        }
    }
    if (w->free >> w->snap << w->snap == w->free)
        memcpy(w->tails + (size_t)(w->free >> w->snap) * all, now, (size_t)all * sizeof *now);
}

static void settle(Sched *w, int from)
{
    if (w->radios)
        settle_with(w, from, 1);
    else
        settle_with(w, from, 0);
}

static void forget(Sched *w, const Search *s, int from)
{
    for (int k = from; k < s->reached; k++) {
        int i = w->sequence[k];
        w->till[i] = w->till_was[k];
        w->ran_in[i] = w->ran_was[k];
    }
    if (w->radios)
        sched_radio_forget(w, from, s->reached);
}

/* The lanes before the first free step: what is done and runs, windows that are not open yet, and what is given for
   later. */
static void lanes_at_first(Sched *w)
{
    for (int p = 0; p < w->m; p++)
        for (int lane = w->lane_at[p]; lane < w->lane_at[p + 1]; lane++)
            w->tails[lane] = w->opens[p];
    for (int lane = w->lanes; lane < w->lanes + w->groups + w->radios; lane++)
        w->tails[lane] = 0;
    w->latest[0] = w->late[0] = w->tardy[0] = 0;
    for (int i = 0; i < w->n && w->free < w->n; i++) {
        double till = w->end[i];
        if (!w->fixed[i])
            continue;
        w->till[i] = till;
        w->on[i] = w->device[i];
        w->latest[0] = w->fixed[i] == 1 && till > w->latest[0] ? till : w->latest[0];
        if (w->deadlines && till > w->deadline[i]) {
            w->late[0] += w->weight[i];
            w->tardy[0] += w->weight[i] * (till - w->deadline[i]);
        }
    }
    sched_empty(w);
    w->breaks = 0;
    for (int lane = 0; lane < lanes_in_all(w) && w->given; lane++) {
        const Stretch *s = w->last[lane];
        w->break_at[lane] = w->breaks;
        while (s->previous)
            s = s->previous;
        for (s = s->next; s; s = s->next)
            if (s->from <= w->tails[lane])
                w->tails[lane] = s->till > w->tails[lane] ? s->till : w->tails[lane];
            else {
                w->break_from[w->breaks] = s->from;
                w->break_till[w->breaks++] = s->till;
            }
    }
    w->break_at[lanes_in_all(w)] = w->breaks;
}

/* Decode the whole state. False if it breaks a rule: then it is none to go on from. */
static int adopt(Sched *w, Search *s)
{
    for (int k = 0; k < w->free; k++)
        w->position[w->sequence[k]] = k;
    s->extra = 0;
    for (int i = 0; i < w->n; i++)
        s->extra += price(w, s, i, 0);
    s->cost = decode(w, s, 0, INFINITY);
    s->path = -1;
    if (!(s->cost < INFINITY))
        return 0;
    settle(w, 0);
    return 1;
}

/* Take a schedule over as the state: its sequence is that of its start times. */
static int take_over(Sched *w, Search *s, const int *device, const double *start)
{
    memcpy(w->shaken, start, (size_t)w->n * sizeof *start);
    sched_line_up(w, w->shaken);
    memcpy(w->sequence, w->order, (size_t)w->free * sizeof *w->order);
    for (int k = 0; k < w->free; k++)
        w->on[w->sequence[k]] = device[w->sequence[k]];
    return adopt(w, s);
}

static void remember(Sched *w, Search *s)
{
    s->best = s->cost;
    memcpy(w->sequence_best, w->sequence, (size_t)w->free * sizeof *w->sequence);
    memcpy(w->on_best, w->on, (size_t)w->n * sizeof *w->on);
}

static void recall(Sched *w, Search *s)
{
    memcpy(w->sequence, w->sequence_best, (size_t)w->free * sizeof *w->sequence);
    memcpy(w->on, w->on_best, (size_t)w->n * sizeof *w->on);
    adopt(w, s);
}

/* The state as a schedule, kept if it beats the one that is. */
static void keep(Sched *w)
{
    for (int k = 0; k < w->free; k++) {
        int i = w->sequence[k];
        w->device[i] = w->on[i];
        w->start[i] = w->till[i] - w->seconds[(size_t)i * w->stride + w->on[i]];
        if (w->start[i] < 0)
            w->start[i] = 0;
        w->end[i] = w->start[i] + w->seconds[(size_t)i * w->stride + w->on[i]];
    }
    sched_keep(w);
}

/* ---- changes --------------------------------------------------------------------------------------------------- */

static int some(Sched *w, int count)
{
    return (int)((sched_random(w) >> 32) * (uint64_t)count >> 32);
}

/* The steps that hold the end of all where it is: from a step that ends last, what each waited for. */
static void critical_path(Sched *w, Search *s)
{
    int at = -1, length = 0;
    double latest = -1;
    if (w->deadlines && w->late[w->free] > 0) {
        int count = 0;
        for (int k = 0; k < w->free; k++) {
            int i = w->sequence[k];
            if (w->till[i] > w->deadline[i] && some(w, ++count) == 0)
                at = i;
        }
    }
    for (int k = 0; at < 0 && k < w->free; k++)
        if (w->till[w->sequence[k]] > latest)
            latest = w->till[w->sequence[k]];
    for (int k = 0; at < 0 && k < w->free; k++)
        if (w->till[w->sequence[k]] == latest)
            at = w->sequence[k];
    while (at >= 0) {
        int p = w->on[at], cause = -1;
        double start = w->till[at] - w->seconds[(size_t)at * w->stride + p], near = start - 1e-9 * fabs(start);
        w->path[length++] = at;
        if (w->radios)
            cause = sched_radio_cause(w, at, near, &length);
        for (int e = w->before_at[at]; !w->radios && e < w->before_at[at + 1] && cause < 0; e++) {
            int j = w->before[e];
            size_t link = (size_t)w->on[j] * w->stride + p;
            if (!w->fixed[j] && w->till[j] + w->latency[link] + w->before_size[e] * w->per_unit[link] >= near)
                cause = j;
        }
        for (int k = w->position[at] - 1; k >= 0 && cause < 0 && start > 0 && w->ran_in[at] >= 0; k--) {
            int j = w->sequence[k];
            if (w->till[j] < near || w->till[j] > start + 1e-9 * fabs(start))
                continue;
            if (w->ran_in[j] == w->ran_in[at])
                cause = j;
            for (int x = w->group_at[at]; x < w->group_at[at + 1] && cause < 0; x++)
                for (int y = w->group_at[j]; y < w->group_at[j + 1]; y++)
                    if (w->group[x] == w->group[y])
                        cause = j;
        }
        at = cause;
    }
    s->path = length;
}

/* Between which places a step may move: after the last that it waits for, before the first that waits for it. */
static void range(const Sched *w, int i, int *low, int *high)
{
    *low = 0;
    *high = w->free - 1;
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        int j = w->before[e];
        if (!w->fixed[j] && w->position[j] >= *low)
            *low = w->position[j] + 1;
    }
    for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++)
        if (w->position[w->after[e]] <= *high)
            *high = w->position[w->after[e]] - 1;
}

static void shift(Sched *w, int from, int to)
{
    int i = w->sequence[from], step = to > from ? 1 : -1;
    for (int k = from; k != to; k += step) {
        w->sequence[k] = w->sequence[k + step];
        w->position[w->sequence[k]] = k;
    }
    w->sequence[to] = i;
    w->position[i] = to;
}

static int reassign(Sched *w, Search *s, Move *moves, int count, int i, int p)
{
    if (w->on[i] == p || w->fixed[i] || (w->holding && w->device_now[i] >= 0)
        || !(w->seconds[(size_t)i * w->stride + p] < INFINITY))
        return count;
    moves[count].step = i;
    moves[count].was = w->on[i];
    s->extra -= price(w, s, i, 1);
    w->on[i] = p;
    s->extra += price(w, s, i, 1);
    return count + 1;
}

static int neighbour(Sched *w, int i)
{
    int before = w->before_at[i + 1] - w->before_at[i], after = w->after_at[i + 1] - w->after_at[i], x;
    if (before + after == 0)
        return -1;
    x = some(w, before + after);
    return x < before ? w->before[w->before_at[i] + x] : w->after[w->after_at[i] + x - before];
}

static int some_device(Sched *w, int i)
{
    int at = w->allowed_at[i], count = w->allowed_at[i + 1] - at;
    if (count)
        return w->allowed[at + some(w, count)];
    return some(w, w->m);
}

/* Move step i and what is tied to it on its device to another device. */
static int move_block(Sched *w, Search *s, Move *moves, int i, int p)
{
    int was = w->on[i], block[BLOCK], length = 0, count = 0;
    block[length++] = i;
    for (int x = 0; x < length; x++) {
        int j = block[x];
        for (int forward = 0; forward < 2; forward++) {
            const int *at = forward ? w->after_at : w->before_at, *of = forward ? w->after : w->before;
            for (int e = at[j]; e < at[j + 1] && length < BLOCK; e++) {
                int y = of[e], known = 0;
                for (int z = 0; z < length; z++)
                    known |= block[z] == y;
                if (!known && !w->fixed[y] && w->on[y] == was)
                    block[length++] = y;
            }
        }
    }
    for (int x = 0; x < length; x++)
        count = reassign(w, s, moves, count, block[x], p);
    return count;
}

/* Move step i and some steps around it, wherever they are, to one device. */
static int move_some(Sched *w, Search *s, Move *moves, int i, int p)
{
    int block[BLOCK], length = 1, count = 0, size = 2 + some(w, BLOCK - 1);
    block[0] = i;
    for (int x = 0; x < 2 * BLOCK && length < size; x++) {
        int y = neighbour(w, block[some(w, length)]), known = 0;
        for (int z = 0; z < length; z++)
            known |= block[z] == y;
        if (y >= 0 && !known)
            block[length++] = y;
    }
    for (int x = 0; x < length; x++)
        count = reassign(w, s, moves, count, block[x], p);
    return count;
}

/* Try one change; whether it was taken. */
static int change(Sched *w, Search *s, double heat)
{
    Move moves[BLOCK + PAIR];
    int count = 0, from = -1, to = -1, first, low, high, i, j;
    uint64_t dice = sched_random(w);
    int kind = (int)(dice & 1023), near = (int)(dice >> 10 & 1023), place = (int)(dice >> 20 & 1023);
    double extra = s->extra, cost, limit;
    if (s->path < 0)
        critical_path(w, s);
    i = (dice >> 30 & 1023) < CRITICAL_ONES ? w->path[some(w, s->path)] : w->sequence[some(w, w->free)];
    if (kind < DEVICE) { /* another device */
        j = near < 600 ? neighbour(w, i) : -1;
        count = reassign(w, s, moves, count, i, j >= 0 ? w->on[j] : some_device(w, i));
        if (place < 400) {
            range(w, i, &low, &high);
            from = w->position[i];
            to = low + some(w, high - low + 1);
        }
    } else if (kind < PLACE) { /* another place */
        range(w, i, &low, &high);
        from = w->position[i];
        to = low + some(w, high - low + 1);
    } else if (kind < NEIGHBOUR) { /* with a neighbour */
        j = neighbour(w, i);
        if (j >= 0) {
            int p = near < 300 ? w->on[i] : near < 500 ? w->on[j] : some_device(w, i);
            count = reassign(w, s, moves, count, i, p);
            count = reassign(w, s, moves, count, j, p);
        }
    } else if (kind < AROUND) { /* with some of its surroundings */
        count = move_some(w, s, moves, i, near < 300 ? w->on[i] : some_device(w, i));
    } else { /* with all that is tied to it */
        j = near < 500 ? neighbour(w, i) : -1;
        count = move_block(w, s, moves, i, j >= 0 && w->on[j] != w->on[i] ? w->on[j] : some_device(w, i));
    }
    if (from == to)
        from = to = -1;
    w->work++;
    if (count == 0 && from < 0)
        return 0;
    first = from < 0 ? w->free : from < to ? from : to;
    if (from >= 0)
        shift(w, from, to);
    for (int x = 0; x < count; x++)
        if (w->position[moves[x].step] < first)
            first = w->position[moves[x].step];
    limit = s->cost + heat * logs[sched_random(w) % LOGS];
    cost = decode(w, s, first, limit);
    if (cost <= limit) {
        if (cost != s->cost)
            s->path = -1;
        s->cost = cost;
        settle(w, first);
        return 1;
    }
    forget(w, s, first);
    s->extra = extra;
    while (count--)
        w->on[moves[count].step] = moves[count].was;
    if (from >= 0)
        shift(w, to, from);
    return 0;
}

/* ---- the search ------------------------------------------------------------------------------------------------ */

static void anneal(Sched *w, Search *s, int64_t changes, double hot, double cold)
{
    double heat = hot * s->scale, fall = pow(cold / hot, 16.0 / (double)changes);
    for (int64_t x = 0; x < changes && !sched_over(w); x++) {
        if (x % 16 == 15)
            heat *= fall;
        if (change(w, s, heat) && s->cost < s->best) {
            remember(w, s);
            keep(w);
        }
    }
}

static double chance(Sched *w)
{
    return (double)(sched_random(w) >> 40) * 0x1p-24;
}

/* One list schedule with noise on its ranks, on what a transfer weighs in them, and on how far ahead it looks. */
static void shake(Sched *w)
{
    double noise = chance(w), far = 2 * chance(w), eager = 1.25 * chance(w);
    int looking = w->m <= TABLE && some(w, 2);
    noise *= 0.9 * noise;
    for (int i = 0; i < w->n; i++)
        w->till_was[i] = w->mean[i] * (1 + noise * (2 * chance(w) - 1));
    sched_ranks(w, w->till_was, w->mean_latency * far, w->mean_per_unit * far, w->shaken);
    sched_arrange(w, w->shaken);
    w->work += (int64_t)w->free * (w->m / 4 + 2);
    if (sched_place(w, looking, eager, w->holding ? HELD : NOWHERE) == 1)
        sched_keep(w);
}

/* What the search starts from: what costs how much, what must still follow each step, and the lanes as they are. */
static void begin(Sched *w, Search *s)
{
    double scale = w->kept.makespan > 0 ? w->kept.makespan : 1;
    *s = (Search){.late = 4 * scale, .tardy = 1, .scale = scale, .path = -1};
    s->energy = w->kept.energy > 0 ? 1e-6 * scale / w->kept.energy : 0;
    s->moved = w->kept.moved > 0 ? 1e-9 * scale / w->kept.moved : 0;
    if (!w->looked) { /* the least time after each step, on whatever device */
        sched_ranks(w, w->least, 0, 0, w->down);
        for (int i = 0; i < w->n; i++)
            w->down[i] -= w->least[i];
    }
    lanes_at_first(w);
}

void sched_improve(Sched *w)
{
    Search s;
    int64_t changes;
    if (w->free == 0)
        return;
    begin(w, &s);
    if (!take_over(w, &s, w->device_kept, w->start_kept)) { /* by a rounding, or transfers that do not fit appended */
        while (w->radios && !sched_over(w))
            shake(w);
        return;
    }
    remember(w, &s);
    keep(w);
    changes = (int64_t)ROUND * w->free;
    for (int round = 0; !sched_over(w); round++) {
        if (w->free > FEW || round % 4 == 3) {
            int64_t until = w->work + changes * (w->free > FEW ? w->free / LISTS : 4);
            double before = w->kept.makespan;
            while (w->work < until && !sched_over(w))
                shake(w);
            lanes_at_first(w);
            if (!(w->kept.makespan < before) || !take_over(w, &s, w->device_kept, w->start_kept))
                recall(w, &s);
        } else if (round)
            recall(w, &s);
        if (s.cost < s.best)
            remember(w, &s);
        anneal(w, &s, changes, (round % 2 ? WARM : HOT) * (w->free > FEW ? MILD : 1), COLD);
        changes *= 2;
    }
}

/* ---- less energy ----------------------------------------------------------------------------------------------- */

/* No schedule takes less. */
static double least_energy(const Sched *w)
{
    double sum = 0;
    for (int i = 0; i < w->n; i++) {
        const double *seconds = w->seconds + (size_t)i * w->stride, *joules = w->joules + (size_t)i * w->stride;
        double least = INFINITY;
        for (int p = 0; p < w->m; p++)
            if (seconds[p] < INFINITY && joules[p] < least)
                least = joules[p];
        sum += w->fixed[i] ? 0 : least;
    }
    return sum;
}

/* Whether step i has an input from a step that it could move with. */
static int tied(const Sched *w, int i)
{
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
        if (w->on[w->before[e]] == w->on[i] && !w->fixed[w->before[e]])
            return 1;
    return 0;
}

/* Each step, and each with all that is tied to it, moves to every device where it costs less, as far as nothing ends
   after `length`; whether any did. */
static int cheapen(Sched *w, Search *s, double length)
{
    Move moves[BLOCK];
    int any = 0;
    for (int k = w->free - 1; k >= 0; k--)
        for (int x = 0, i = w->sequence[k]; x < (tied(w, i) ? w->m : 2 * w->m) && !sched_used(w); x++) {
            double extra = s->extra, cost = INFINITY;
            int count = x < w->m ? reassign(w, s, moves, 0, i, x) : move_block(w, s, moves, i, x - w->m);
            int first = k;
            for (int y = 0; y < count; y++)
                if (w->position[moves[y].step] < first)
                    first = w->position[moves[y].step];
            w->work++;
            s->reached = first;
            if (s->extra < extra - 1e-15 * s->scale) /* by more than a rounding, or it might go round in circles */
                cost = decode(w, s, first, length + s->extra);
            if (cost < INFINITY) {
                s->cost = cost;
                settle(w, first);
                any = 1;
                continue;
            }
            forget(w, s, first);
            s->extra = extra;
            while (count--)
                w->on[moves[count].step] = moves[count].was;
        }
    return any;
}

/* Where no schedule is shorter than the one that is kept, one that is as short and takes less energy comes instead. */
void sched_cheapen(Sched *w)
{
    Search s;
    int64_t all = w->work_limit;
    double length = w->kept.makespan * (1 + 1e-12);
    if (!w->prices || !w->proven || sched_used(w) || w->kept.energy <= least_energy(w) * (1 + 1e-12))
        return;
    begin(w, &s);
    s.moved = 0;
    if (!take_over(w, &s, w->device_kept, w->start_kept) || s.cost - s.extra > length)
        return;
    w->work_limit = w->work + (all - w->work) / CHEAPER;
    while (cheapen(w, &s, length))
        ;
    keep(w);
    w->work_limit = all;
}
