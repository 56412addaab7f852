/* Random problems through the scheduling core, built with sanitizers: every schedule that it gives keeps every rule, and
   what was in the arena before means nothing. Ends with 0, or says what is wrong: `make check` runs it. */

#include "kernels/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 40, DEVICES = 6, EDGES = 3 * MOST, GROUPS = 2, PROBLEMS = 1500 };

static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
}

static double number(void)
{
    return draw(8) ? (double)draw(1000) / 50 : 0;
}

static void fail(const char *what, int problem, int step)
{
    fprintf(stderr, "problem %d, step %d: %s\n", problem, step, what);
    exit(1);
}

/* The rows of an index in CSR form, from pairs. */
static void index_by(int *at, int *of, double *sizes, const int *keys, const int *values, const double *given, int count,
                     int rows)
{
    memset(at, 0, (size_t)(rows + 1) * sizeof *at);
    for (int x = 0; x < count; x++)
        at[keys[x] + 1]++;
    for (int i = 0; i < rows; i++)
        at[i + 1] += at[i];
    for (int i = 0, put = 0; i < rows; i++)
        for (int x = 0; x < count; x++)
            if (keys[x] == i) {
                if (sizes)
                    sizes[put] = given[x];
                of[put++] = values[x];
            }
}

static int running(const Sched *w, int i, double moment)
{
    return w->start[i] <= moment && w->end[i] > moment && w->end[i] > w->start[i];
}

/* No two transfers share a radio at a time, and each is after its producer, before its reader, and not in the past. */
static void check_radios(const Sched *w, int problem)
{
    double near = 1e-9 * (1 + w->score.makespan);
    for (int e = 0; e < w->edges; e++) {
        const Sent *sent = &w->sent_kept[e];
        int j = w->before[e], i = w->reader[e], p = w->device[j], q = w->device[i];
        size_t link = (size_t)p * w->stride + q;
        double seconds = w->before_size[e] * w->per_unit[link];
        if (sent->from < w->end[j] - near || sent->till < sent->from + seconds - near)
            fail("it is not sent, or too soon", problem, i);
        if (w->start[i] < sent->till + w->latency[link] - near)
            fail("what it is sent is not there", problem, i);
        if ((sent->carrier >= 0) != (seconds > 0 && (w->radio[p] || w->radio[q])))
            fail("it holds no radio, or one that is not there", problem, i);
        if (sent->carrier >= 0 && sent->carrier != e) {
            const Sent *other = &w->sent_kept[sent->carrier];
            if (w->before[sent->carrier] != j || w->device[w->reader[sent->carrier]] != q || other->till != sent->till)
                fail("it has no part in that transfer", problem, i);
        }
        for (int f = 0; sent->carrier == e && f < e; f++) {
            const Sent *other = &w->sent_kept[f];
            int r = w->device[w->before[f]], s = w->device[w->reader[f]];
            if (other->carrier == f && ((w->radio[p] && (p == r || p == s)) || (w->radio[q] && (q == r || q == s)))
                && sent->from < other->till - near && other->from < sent->till - near)
                fail("its transfer overlaps", problem, i);
        }
        if (sent->carrier == e && sent->from < 0)
            fail("it is sent in the past", problem, i);
    }
}

static void check(const Sched *w, int problem)
{
    double near = 1e-9 * (1 + w->score.makespan);
    for (int i = 0; i < w->n; i++) {
        int p = w->device[i];
        if (w->fixed[i])
            continue;
        if (p < 0 || p >= w->m || !(w->seconds[(size_t)i * w->stride + p] < INFINITY))
            fail("it cannot run there", problem, i);
        if (fabs(w->end[i] - w->start[i] - w->seconds[(size_t)i * w->stride + p]) > near)
            fail("it does not take its time", problem, i);
        if (w->start[i] < w->opens[p] - near || w->end[i] > w->closes[p] + near)
            fail("it is outside the window", problem, i);
        for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
            size_t link = (size_t)w->device[w->before[e]] * w->stride + p;
            double there = w->end[w->before[e]] + w->latency[link] + w->before_size[e] * w->per_unit[link];
            if (!(w->start[i] >= there - near))
                fail("its inputs are not there", problem, i);
        }
        int beside = 0, alone = 1;
        for (int j = 0; j < w->n; j++) {
            if (!running(w, j, w->start[i] + near) || !running(w, i, w->start[i] + near))
                continue;
            beside += w->device[j] == p;
            for (int x = w->group_at[i]; j != i && x < w->group_at[i + 1]; x++)
                for (int y = w->group_at[j]; y < w->group_at[j + 1]; y++)
                    alone &= w->group[x] != w->group[y];
        }
        if (beside > w->lane_at[p + 1] - w->lane_at[p])
            fail("too much runs at once", problem, i);
        if (!alone)
            fail("its group overlaps", problem, i);
    }
    if (w->bound > w->score.makespan + near)
        fail("the bound is wrong", problem, -1);
}

int main(void)
{
    int found = 0;
    sched_begin();
    for (int problem = 0; problem < PROBLEMS; problem++) {
        Sched w = {0};
        int from[EDGES], to[EDGES], step[2 * MOST], group[2 * MOST], plain = draw(3) == 0;
        double size[EDGES];
        w.n = (int)draw(MOST) + 1;
        w.m = (int)draw(DEVICES) + 1;
        w.stride = (w.m + 3) & ~3;
        w.groups = plain ? 0 : (int)draw(GROUPS + 1);
        w.members = w.groups ? (int)draw((uint64_t)w.n) : 0;
        w.prices = draw(3) == 0;
        int slots[DEVICES];
        for (int p = 0; p < w.m; p++)
            w.lanes += slots[p] = plain ? 1 : 1 + (int)draw(3);
        w.wide = w.lanes > w.m;
        w.radios = draw(2) ? w.m : 0;
        for (int x = 0; x < (int)draw(EDGES) && w.n > 1; x++) {
            int a = (int)draw((uint64_t)w.n), b = (int)draw((uint64_t)w.n);
            if (a == b)
                continue;
            from[w.edges] = a < b ? a : b;
            to[w.edges] = a < b ? b : a;
            size[w.edges++] = number();
        }
        w.sparse = w.windows = !plain;
        size_t bytes = sched_layout(&w, NULL);
        char *base = malloc(bytes);
        if (!base)
            return 2;
        memset(base, (int)draw(256), bytes);
        sched_layout(&w, base);
        sched_clear(&w);
        w.sparse = w.windows = 0;
        for (int p = 0; p < w.stride; p++)
            w.closes[p] = INFINITY;
        for (int p = 0; p < w.m; p++) {
            w.lane_at[p + 1] = w.lane_at[p] + slots[p];
            if (w.radios)
                w.radio[p] = draw(4) > 0;
            if (!plain && draw(4) == 0) {
                w.opens[p] = number();
                w.closes[p] = draw(2) ? w.opens[p] + 5 * number() : INFINITY;
                w.windows |= w.closes[p] < INFINITY;
            }
            for (int q = 0; q < w.m; q++) {
                size_t cell = (size_t)p * w.stride + q;
                if (p == q)
                    continue;
                w.latency[cell] = !plain && draw(8) == 0 ? INFINITY : number() / 10;
                w.sparse |= w.latency[cell] == INFINITY;
                w.per_unit[cell] = w.latency[cell] < INFINITY ? 0.01 + number() / 20 : 0;
                if (w.prices)
                    w.carry[cell] = number();
            }
        }
        for (int i = 0; i < w.n; i++) {
            w.deadline[i] = draw(6) ? INFINITY : 3 * number();
            w.deadlines |= w.deadline[i] < INFINITY;
            w.weight[i] = 1 + (double)draw(5);
            for (int p = 0; p < w.m; p++) {
                w.seconds[(size_t)i * w.stride + p] = !plain && draw(5) == 0 ? INFINITY : number();
                if (w.prices)
                    w.joules[(size_t)i * w.stride + p] = number();
            }
            if (!plain && draw(10) == 0) {
                w.fixed[i] = 1;
                w.device[i] = (int)draw((uint64_t)w.m);
                w.start[i] = draw(3) ? -number() / 4 : number();
                w.end[i] = w.start[i] + number() / 2;
            }
        }
        int edges = 0;
        for (int x = 0; x < w.edges; x++)
            if (!w.fixed[to[x]]) {
                from[edges] = from[x];
                to[edges] = to[x];
                size[edges++] = size[x];
            }
        w.edges = edges;
        for (int x = 0; x < w.members; x++) {
            step[x] = (int)draw((uint64_t)w.n);
            group[x] = (int)draw((uint64_t)w.groups);
        }
        index_by(w.before_at, w.before, w.before_size, to, from, size, w.edges, w.n);
        index_by(w.after_at, w.after, w.after_size, from, to, size, w.edges, w.n);
        index_by(w.group_at, w.group, NULL, step, group, NULL, w.members, w.n);
        sched_prepare(&w);
        w.random = (uint64_t)problem;
        w.work_limit = (int64_t)draw(4) * 2000;
        w.incumbent = draw(3) == 0;
        w.margin = (double)draw(3) / 20;
        for (int i = 0; i < w.n; i++) {
            w.device_now[i] = (int)draw((uint64_t)w.m + 2) - 1; /* none, one, or one that is no device */
            w.start_now[i] = number() - 2;
        }
        if (sched_solve(&w) == SCHED_OK) {
            check(&w, problem);
            if (w.radios)
                check_radios(&w, problem);
            found++;
        }
        if (plain && sched_heft(&w) != SCHED_OK)
            fail("a plain problem has no schedule", problem, -1);
        free(base);
    }
    int candidates[] = {0, 1, 2, -1, 9, 2, 0, 1}, chosen[2];
    double seconds[] = {1, 2, INFINITY, 1, 1, 1, 1, 1}, free_at[3] = {0};
    if (sched_fleet(candidates, seconds, free_at, chosen, 2, 4, 3, 1) != 2 || chosen[0] == 2)
        fail("the fleet", -1, -1);
    printf("%d of %d random problems have a schedule, and each keeps its rules\n", found, PROBLEMS);
    return found < PROBLEMS / 3;
}
