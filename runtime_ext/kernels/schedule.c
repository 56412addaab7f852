/* The arena, and the portfolio: what is tried, in which order, and what is kept. */

#include "schedule.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum {
    CLUSTERS = 3,     /* groups of well-linked devices that are tried */
    SNAP = 3,         /* least of `snap`, */
    TAILS = 1 << 20,  /* which grows until no more than so many cells are kept */
    HOLDING = 4,      /* the part of the work, and */
    HELD_STEPS = 400, /* the work for each step at most, that goes to plans in which what has a device stays there */
    CLOCK_EVERY = 500 /* units of work between two looks at the clock */
};

/* ---- the arena ------------------------------------------------------------------------------------------------- */

static void *take(char *base, size_t *at, size_t size)
{
    size_t begin = *at;
    *at += (size + 31) & ~(size_t)31;
    return base ? base + begin : NULL;
}

size_t sched_layout(Sched *w, char *base)
{
    size_t at = 0, n = (size_t)w->n, m = (size_t)w->m, row = (size_t)w->stride, lanes = (size_t)(w->lanes + w->groups);
    size_t edges = (size_t)w->edges, members = (size_t)w->members;
    size_t radios = (size_t)w->radios, sent = radios ? edges : 0;
    for (w->snap = SNAP; (n >> w->snap) * (lanes + radios) > TAILS; w->snap++)
        ;
#define TAKE(field, count) w->field = take(base, &at, (count) * sizeof *w->field)
    TAKE(seconds, n * row);
    TAKE(latency, m * row);
    TAKE(per_unit, m * row);
    TAKE(joules, w->prices ? n * row : 0);
    TAKE(carry, w->prices ? m * row : 0);
    TAKE(deadline, n);
    TAKE(weight, n);
    TAKE(opens, row);
    TAKE(closes, row);
    TAKE(lane_at, m + 1);
    TAKE(before_at, n + 1);
    TAKE(before, edges);
    TAKE(before_size, edges);
    TAKE(after_at, n + 1);
    TAKE(after, edges);
    TAKE(after_size, edges);
    TAKE(group_at, n + 1);
    TAKE(group, members);
    TAKE(fixed, n);
    TAKE(mean, n);
    TAKE(least, n);
    TAKE(topological, n);
    TAKE(waiting, n + 1);
    TAKE(up, n);
    TAKE(down, n);
    TAKE(ahead, w->m <= TABLE ? n * row : 0);
    TAKE(allowed_at, n + 1);
    TAKE(allowed, w->m <= 4 * TABLE ? n * m : 0);
    TAKE(stretch, n + members + lanes);
    TAKE(last, lanes);
    TAKE(gap, lanes + row);
    TAKE(tail, row);
    TAKE(ready, row);
    TAKE(begin, row);
    TAKE(finish, row);
    TAKE(keys, n);
    TAKE(keys_too, n);
    TAKE(order, n);
    TAKE(heap, n);
    TAKE(lane, n);
    TAKE(by_start, n);
    TAKE(among, row);
    TAKE(critical, n);
    TAKE(radio, radios);
    TAKE(dep, sent);
    TAKE(reader, sent);
    TAKE(inputs, sent);
    TAKE(first, radios * n);
    TAKE(air, 2 * sent + radios);
    TAKE(air_last, radios);
    TAKE(sent, sent);
    TAKE(sent_kept, sent);
    TAKE(sent_now, sent);
    TAKE(sent_was, sent);
    TAKE(first_at, sent);
    TAKE(first_was, sent);
    TAKE(may, n * m);
    TAKE(tried, n * m);
    TAKE(trail, n * m);
    TAKE(choices, n);
    TAKE(mark, n);
    TAKE(queue, n + 1);
    TAKE(front, n);
    TAKE(queued, n);
    TAKE(device, n);
    TAKE(start, n);
    TAKE(end, n);
    TAKE(device_kept, n);
    TAKE(start_kept, n);
    TAKE(end_kept, n);
    TAKE(sequence, n);
    TAKE(position, n);
    TAKE(on, n);
    TAKE(till, n);
    TAKE(ran_in, n);
    TAKE(tails, ((n >> w->snap) + 1) * (lanes + radios));
    TAKE(break_at, lanes + 1);
    TAKE(break_from, n + members);
    TAKE(break_till, n + members);
    TAKE(latest, n + 1);
    TAKE(late, n + 1);
    TAKE(tardy, n + 1);
    TAKE(now, lanes + radios);
    TAKE(till_was, n);
    TAKE(ran_was, n);
    TAKE(path, n);
    TAKE(sequence_best, n);
    TAKE(on_best, n);
    TAKE(shaken, n);
    TAKE(device_now, n);
    TAKE(start_now, n);
#undef TAKE
    return at;
}

void sched_clear(Sched *w)
{
    size_t n = (size_t)w->n, m = (size_t)w->m, row = (size_t)w->stride;
    memset(w->latency, 0, m * row * sizeof *w->latency);
    memset(w->per_unit, 0, m * row * sizeof *w->per_unit);
    memset(w->opens, 0, row * sizeof *w->opens);
    memset(w->lane_at, 0, (m + 1) * sizeof *w->lane_at);
    memset(w->before_at, 0, (n + 1) * sizeof *w->before_at);
    memset(w->after_at, 0, (n + 1) * sizeof *w->after_at);
    memset(w->group_at, 0, (n + 1) * sizeof *w->group_at);
    memset(w->gap, 0, ((size_t)(w->lanes + w->groups) + row) * sizeof *w->gap);
    memset(w->tail, 0, row * sizeof *w->tail);
    memset(w->fixed, 0, n);
    memset(w->queued, 0, n);
    if (w->prices) {
        memset(w->joules, 0, n * row * sizeof *w->joules);
        memset(w->carry, 0, m * row * sizeof *w->carry);
    }
}

void sched_prepare(Sched *w)
{
    int filled = 0;
    for (int i = 0; i < w->n; i++) {
        double *row = w->seconds + (size_t)i * w->stride, sum = 0, least = INFINITY;
        int count = 0;
        for (int p = w->m; p < w->stride; p++)
            row[p] = INFINITY;
        w->allowed_at[i] = filled;
        if (w->fixed[i]) {
            sum = least = w->end[i] - w->start[i];
            count = 1;
        } else {
            for (int p = 0; p < w->m; p++) {
                if (row[p] < INFINITY) {
                    sum += row[p];
                    count++;
                    least = row[p] < least ? row[p] : least;
                    if (w->m <= 4 * TABLE)
                        w->allowed[filled++] = p;
                }
            }
        }
        w->choices[i] = count;
        w->mean[i] = count ? sum / count : 0;
        w->least[i] = count ? least : 0;
    }
    w->allowed_at[w->n] = filled;
    if (w->radios)
        sched_radio_prepare(w);
    w->given = 0;
    for (int i = 0; i < w->n; i++) {
        int x = w->given;
        if (!w->fixed[i])
            continue;
        for (; x > 0 && w->start[w->by_start[x - 1]] > w->start[i]; x--)
            w->by_start[x] = w->by_start[x - 1];
        w->by_start[x] = i;
        w->given++;
    }
}

/* ---- what is kept ---------------------------------------------------------------------------------------------- */

Score sched_score(const Sched *w, const int *device, const double *end)
{
    Score score = {0};
    for (int i = 0; i < w->n; i++) {
        if (w->fixed[i] == 2)
            continue;
        score.makespan = end[i] > score.makespan ? end[i] : score.makespan;
        if (w->deadlines && end[i] > w->deadline[i]) {
            score.late += w->weight[i];
            score.tardiness += w->weight[i] * (end[i] - w->deadline[i]);
        }
        if (w->prices && !w->fixed[i])
            score.energy += w->joules[(size_t)i * w->stride + device[i]];
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            int p = device[i], q = device[w->after[e]];
            if (p != q) {
                score.moved += w->after_size[e];
                if (w->prices)
                    score.energy += w->after_size[e] * w->carry[(size_t)p * w->stride + q];
            }
        }
    }
    return score;
}

int sched_beats(const Score *a, const Score *b)
{
    if (a->late != b->late)
        return a->late < b->late;
    if (a->tardiness != b->tardiness)
        return a->tardiness < b->tardiness;
    if (fabs(a->makespan - b->makespan) > 1e-12 * fabs(b->makespan)) /* else but for rounding the same */
        return a->makespan < b->makespan;
    if (a->energy != b->energy)
        return a->energy < b->energy;
    return a->moved < b->moved;
}

/* Keep the schedule if it beats the one that is kept. */
int sched_keep(Sched *w)
{
    Score score = sched_score(w, w->device, w->end);
    if (w->found && !sched_beats(&score, &w->kept))
        return 0;
    w->found = 1;
    w->kept = score;
    memcpy(w->device_kept, w->device, (size_t)w->n * sizeof *w->device);
    memcpy(w->start_kept, w->start, (size_t)w->n * sizeof *w->start);
    memcpy(w->end_kept, w->end, (size_t)w->n * sizeof *w->end);
    if (w->radios)
        memcpy(w->sent_kept, w->sent, (size_t)w->edges * sizeof *w->sent);
    sched_prove(w);
    return 1;
}

/* Whether what is kept is as short as can be. */
void sched_prove(Sched *w)
{
    w->proven = w->found && w->kept.late == 0 && w->kept.makespan <= w->bound * (1 + 1e-12);
}

/* ---- budget and chance ----------------------------------------------------------------------------------------- */

/* Nanoseconds on the monotonic clock. */
int64_t sched_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Whether the budget is used. */
int sched_used(Sched *w)
{
    if (w->work >= w->work_limit)
        return 1;
    if (w->deadline_ns && w->work >= w->look_at) {
        w->look_at = w->work + CLOCK_EVERY;
        w->expired = sched_now() >= w->deadline_ns;
    }
    return w->expired;
}

/* Whether the budget is used, or no schedule is shorter. */
int sched_over(Sched *w)
{
    return w->proven || sched_used(w);
}

/* ---- the portfolio --------------------------------------------------------------------------------------------- */

static int attempt(Sched *w, int looking, int prefer)
{
    if (w->found && (w->incumbent || w->deadline_ns) && sched_over(w)) /* there is one already */
        return 0;
    w->work += (int64_t)w->free * (w->m / 4 + 2);
    if (sched_place(w, looking, 1.0, prefer) != 1)
        return 0;
    sched_keep(w);
    return 1;
}

/* No schedule that keeps every step among those devices where it may run there ends sooner. */
static double alone(const Sched *w, int p)
{
    double work = 0;
    for (int i = 0; i < w->n; i++) {
        double seconds = w->seconds[(size_t)i * w->stride + p];
        if (!w->fixed[i] && seconds < INFINITY)
            work += seconds;
    }
    return work / (w->lane_at[p + 1] - w->lane_at[p]);
}

/* Prefer the device that would do all soonest but for c - 1 others, and those whose links with it are better than the
   mean. False if those are all or none. */
static int well_linked(Sched *w, int c)
{
    double size = 0, before = -1, least = INFINITY, mean;
    int seed = -1, count = 0;
    for (; c > 0; c--) {
        least = INFINITY;
        seed = -1;
        for (int p = 0; p < w->m; p++) {
            double time = alone(w, p);
            if (time > before && time < least) {
                least = time;
                seed = p;
            }
        }
        before = least;
    }
    if (seed < 0)
        return 0;
    for (int e = 0; e < w->edges; e++)
        size += w->after_size[e] / w->edges;
    mean = w->mean_latency + size * w->mean_per_unit;
    for (int p = 0; p < w->m; p++) {
        size_t there = (size_t)seed * w->stride + p, back = (size_t)p * w->stride + seed;
        double cost = w->latency[there] + size * w->per_unit[there], other = w->latency[back] + size * w->per_unit[back];
        w->among[p] = (cost + other) / 2 <= mean;
        count += w->among[p];
    }
    return count > 1 && count < w->m;
}

static void portfolio(Sched *w)
{
    int table = w->m <= TABLE;
    sched_arrange(w, w->up);
    attempt(w, 0, NOWHERE);
    if (table && !w->proven)
        attempt(w, 1, NOWHERE);
    if (w->deadlines && w->kept.late > 0) {
        sched_urgencies(w, w->kept.makespan, w->shaken);
        sched_arrange(w, w->shaken);
        attempt(w, 0, NOWHERE);
        if (table)
            attempt(w, 1, NOWHERE);
    }
    if (table && !w->proven) {
        for (int p = 0; p < w->m && !w->proven; p++)
            if (w->kept.late > 0 || alone(w, p) < w->kept.makespan) {
                memset(w->among, 0, (size_t)w->stride);
                w->among[p] = 1;
                attempt(w, 0, EVERYWHERE);
            }
        for (int c = 1; c <= CLUSTERS && w->m > 2 && !w->proven; c++) {
            if (!well_linked(w, c))
                continue;
            attempt(w, 1, EVERYWHERE);
        }
    }
    if (!w->proven && sched_critical_first(w))
        attempt(w, 0, CRITICAL);
    if (!w->proven) {
        sched_ranks(w, w->least, w->mean_latency, w->mean_per_unit, w->shaken);
        sched_arrange(w, w->shaken);
        attempt(w, 0, NOWHERE);
    }
    if (!w->proven) {
        sched_ranks(w, w->mean, 0, 0, w->shaken);
        sched_arrange(w, w->shaken);
        attempt(w, table, NOWHERE);
    }
}

/* Work out how urgent each step is, and how short a schedule can be. */
static void look(Sched *w)
{
    w->looked = w->m <= TABLE;
    if (w->looked)
        sched_ahead(w);
    w->bound = sched_bound(w);
    sched_prove(w);
}

/* The schedule that is kept, as what was found. */
static void give(Sched *w)
{
    memcpy(w->device, w->device_kept, (size_t)w->n * sizeof *w->device);
    memcpy(w->start, w->start_kept, (size_t)w->n * sizeof *w->start);
    memcpy(w->end, w->end_kept, (size_t)w->n * sizeof *w->end);
    w->score = w->kept;
}

/* What is kept gives way to the incumbent, unless it is better by enough; whether it did. */
static int prefer_incumbent(Sched *w, const Score *incumbent)
{
    if (w->kept.late != incumbent->late || w->kept.makespan <= incumbent->makespan * (1 - w->margin))
        return 0;
    memcpy(w->device_kept, w->device_now, (size_t)w->n * sizeof *w->device);
    memcpy(w->start_kept, w->start_now, (size_t)w->n * sizeof *w->start);
    for (int i = 0; i < w->n; i++)
        if (!w->fixed[i])
            w->end_kept[i] = w->start_now[i] + w->seconds[(size_t)i * w->stride + w->device_now[i]];
    if (w->radios)
        memcpy(w->sent_kept, w->sent_now, (size_t)w->edges * sizeof *w->sent_kept);
    w->kept = *incumbent;
    sched_prove(w);
    return 1;
}

/* When each step began, or was to begin, rising along every edge, whatever a rounding did. Steps without a device begin
   as late as their rank leaves time for, but not after what waits for them. */
static void give_starts(Sched *w, double *from)
{
    double horizon = 0;
    for (int i = 0; i < w->n; i++)
        if (!w->fixed[i] && w->device_now[i] >= 0 && w->start_now[i] + w->up[i] > horizon)
            horizon = w->start_now[i] + w->up[i];
    for (int x = w->n - 1; x >= 0; x--) {
        int i = w->topological[x];
        if (w->fixed[i] || w->device_now[i] >= 0) {
            from[i] = w->fixed[i] ? w->start[i] : w->start_now[i];
            continue;
        }
        from[i] = horizon - w->up[i];
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++)
            from[i] = from[w->after[e]] < from[i] ? from[w->after[e]] : from[i];
    }
}

/* Keep the schedule that runs, as it would go on from here: each step on its device, in the order of the starts, and
   those that have none, or none that is open to them any more, where they end first. False if that cannot be, or no step
   has a device. */
static int take_incumbent(Sched *w)
{
    double *from = w->shaken;
    w->homeless = 0;
    for (int i = 0; i < w->n; i++) {
        int p = w->device_now[i];
        if (w->fixed[i] || p >= w->m || !(p >= 0 && w->seconds[(size_t)i * w->stride + p] < INFINITY))
            w->device_now[i] = -1;
        w->homeless += !w->fixed[i] && w->device_now[i] < 0;
    }
    give_starts(w, from);
    sched_line_up(w, from);
    w->work += (int64_t)w->free * (w->m / 4 + 2);
    return w->homeless < w->free && sched_place(w, 0, 0.0, HELD) == 1 && sched_keep(w);
}

/* What was taken over becomes the incumbent, once the steps that had no device found better ones, for a part of the
   work. */
static Score settle_incumbent(Sched *w)
{
    int64_t all = w->work_limit, part = (all - w->work) / HOLDING, most = (int64_t)HELD_STEPS * w->free;
    if (w->homeless) {
        w->work_limit = w->work + (part < most ? part : most);
        w->holding = 1;
        sched_improve(w);
        sched_cheapen(w);
        w->holding = 0;
        w->work_limit = all;
    }
    memcpy(w->device_now, w->device_kept, (size_t)w->n * sizeof *w->device);
    memcpy(w->start_now, w->start_kept, (size_t)w->n * sizeof *w->start);
    if (w->radios)
        memcpy(w->sent_now, w->sent_kept, (size_t)w->edges * sizeof *w->sent_kept);
    return w->kept;
}

int sched_solve(Sched *w)
{
    Score incumbent = {0};
    int rule;
    if (!sched_sort(w))
        return SCHED_CYCLE;
    w->found = 0;
    w->bound = 0;
    w->looked = 0;
    if ((rule = sched_open(w)) != SCHED_OK)
        return rule;
    sched_ranks(w, w->mean, w->mean_latency, w->mean_per_unit, w->up);
    if (w->incumbent && (w->incumbent = take_incumbent(w)) && sched_over(w)) {
        give(w);
        return SCHED_OK;
    }
    look(w);
    if (w->incumbent)
        incumbent = settle_incumbent(w);
    rule = sched_first(w);
    if (rule == SCHED_OK)
        portfolio(w);
    if (!w->found)
        return rule == SCHED_OK ? SCHED_NO_DEVICE : rule;
    if (!sched_over(w))
        sched_improve(w);
    if (!w->incumbent || !prefer_incumbent(w, &incumbent))
        sched_cheapen(w);
    give(w);
    return SCHED_OK;
}

int sched_heft(Sched *w)
{
    for (int i = 0; i < w->n; i++)
        if (!w->fixed[i] && w->choices[i] == 0) {
            w->failed = i;
            return SCHED_NO_DEVICE;
        }
    if (!sched_sort(w))
        return SCHED_CYCLE;
    sched_ranks(w, w->mean, w->mean_latency, w->mean_per_unit, w->up);
    sched_arrange(w, w->up);
    return sched_place(w, 0, 0.0, NOWHERE) == 1 ? SCHED_OK : SCHED_NO_WINDOW;
}
