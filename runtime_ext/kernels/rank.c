/* Ranks, bounds, and the orders of placement that come of them. */

#include "schedule.h"

#include <math.h>
#include <string.h>

enum {
    SMALL = 48,   /* steps up to which an insertion sort is the quickest */
    BUCKETS = 256 /* and up to which it is behind a sort into as many buckets */
};

/* ---- order and ranks ------------------------------------------------------------------------------------------- */

/* Kahn's topological order; edges into fixed steps are not in the graph. False if there is a cycle. */
int sched_sort(Sched *w)
{
    int done = 0, known = 0;
    for (int i = 0; i < w->n; i++) {
        w->waiting[i] = w->before_at[i + 1] - w->before_at[i];
        if (w->waiting[i] == 0)
            w->topological[known++] = i;
    }
    while (done < known) {
        int i = w->topological[done++];
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            w->topological[known] = w->after[e]; /* known < n while an edge is left */
            known += --w->waiting[w->after[e]] == 0;
        }
    }
    for (int i = 0; known < w->n && i < w->n; i++)
        if (w->waiting[i]) {
            w->failed = i;
            break;
        }
    return known == w->n;
}

/* The upward rank (Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002): from the start of a step to the end of all. */
void sched_ranks(Sched *w, const double *mean, double latency, double per_unit, double *rank)
{
    for (int x = w->n - 1; x >= 0; x--) {
        int i = w->topological[x];
        double most = 0;
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            double r = rank[w->after[e]] + latency + w->after_size[e] * per_unit;
            most = r > most ? r : most;
        }
        rank[i] = mean[i] + most;
    }
}

/* The same with deadlines: a step is as urgent as what it must leave time for under that horizon. */
void sched_urgencies(Sched *w, double horizon, double *rank)
{
    for (int x = w->n - 1; x >= 0; x--) {
        int i = w->topological[x];
        double most = horizon - w->deadline[i];
        most = most > 0 ? most : 0;
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            double r = rank[w->after[e]] + w->mean_latency + w->after_size[e] * w->mean_per_unit;
            most = r > most ? r : most;
        }
        rank[i] = w->mean[i] + most;
    }
}

/* What must still follow a step on a device, with every device free: the optimistic cost table (Arabnejad, Barbosa,
   IEEE TPDS 25(3), 2014). Its largest least is a bound on every schedule. */
void sched_ahead(Sched *w)
{
    int m = w->m;
    for (int x = w->n - 1; x >= 0; x--) {
        int i = w->topological[x];
        double *row = w->ahead + (size_t)i * w->stride;
        memset(row, 0, (size_t)w->stride * sizeof *row);
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            int j = w->after[e];
            const double *seconds = w->seconds + (size_t)j * w->stride, *ahead = w->ahead + (size_t)j * w->stride;
            double size = w->after_size[e];
            for (int p = 0; p < m; p++) {
                const double *latency = w->latency + (size_t)p * w->stride, *per_unit = w->per_unit + (size_t)p * w->stride;
                double least = INFINITY;
                for (int q = 0; q < m; q++) {
                    double c = latency[q] + size * per_unit[q] + seconds[q] + ahead[q];
                    least = c < least ? c : least;
                }
                row[p] = least > row[p] ? least : row[p];
            }
        }
    }
}

/* No schedule is shorter: by the longest path, with each step where it goes soonest, and by the work. For any prices of
   the devices' time that sum to 1 over all lanes, the steps cost at least what each costs where it is cheapest (the dual
   of the assignment's linear program): equal prices, and prices by speed. */
double sched_bound(Sched *w)
{
    double most = 0, work = 0, cheap = 0, sum = 0, opens = INFINITY, *price = w->ready;
    int any = 0;
    for (int p = 0; p < w->m; p++) {
        double seconds = 0;
        int count = 0;
        for (int i = 0; i < w->n; i++)
            if (w->seconds[(size_t)i * w->stride + p] < INFINITY && !w->fixed[i]) {
                seconds += w->seconds[(size_t)i * w->stride + p];
                count++;
            }
        price[p] = seconds > 0 ? count / seconds : 0;
        sum += price[p] * (w->lane_at[p + 1] - w->lane_at[p]);
        opens = w->opens[p] < opens ? w->opens[p] : opens;
    }
    for (int i = 0; i < w->n; i++) {
        const double *seconds = w->seconds + (size_t)i * w->stride;
        double least = INFINITY, cheapest = INFINITY;
        if (w->fixed[i]) {
            most = w->fixed[i] == 1 && w->end[i] > most ? w->end[i] : most;
            continue;
        }
        for (int p = 0; p < w->m; p++) {
            double c = w->opens[p] + seconds[p] + (w->m <= TABLE ? w->ahead[(size_t)i * w->stride + p] : 0);
            least = c < least ? c : least;
            if (seconds[p] < INFINITY && seconds[p] * price[p] < cheapest)
                cheapest = seconds[p] * price[p];
        }
        any = 1;
        work += w->least[i];
        cheap += cheapest;
        most = least > most ? least : most;
    }
    if (w->m > TABLE && any) {
        sched_ranks(w, w->least, 0, 0, w->down);
        for (int i = 0; i < w->n; i++)
            if (!w->fixed[i] && opens + w->down[i] > most)
                most = opens + w->down[i];
    }
    work /= w->lanes;
    if (sum > 0 && cheap < INFINITY && cheap / sum > work)
        work = cheap / sum;
    work = any ? work + opens : 0;
    return work > most ? work : most;
}

/* ---- orders of placement --------------------------------------------------------------------------------------- */

static uint32_t falling(float rank)
{
    union {
        float f;
        uint32_t u;
    } bits;
    bits.f = rank + 0.0f; /* of two zeros one */
    return bits.u >> 31 ? bits.u : ~bits.u & 0x7fffffffu;
}

/* By buckets of equal width; where the ranks lie close together but for some, insertion does most of it. */
static const Key *spread(Sched *w, int count)
{
    unsigned char bucket[BUCKETS];
    int place[BUCKETS] = {0}, sum = 0;
    float most = w->keys[0].rank, least = most;
    for (int x = 1; x < count; x++) {
        most = w->keys[x].rank > most ? w->keys[x].rank : most;
        least = w->keys[x].rank < least ? w->keys[x].rank : least;
    }
    float scale = most - least > 1e-30f ? (float)(count - 1) / (most - least) : 0;
    for (int x = 0; x < count; x++) {
        bucket[x] = (unsigned char)((most - w->keys[x].rank) * scale);
        place[bucket[x]]++;
    }
    for (int b = 0; b < count; b++) {
        int here = place[b];
        place[b] = sum;
        sum += here;
    }
    for (int x = 0; x < count; x++)
        w->keys_too[place[bucket[x]]++] = w->keys[x];
    return w->keys_too;
}

static void sort_keys(Sched *w, int count)
{
    Key *keys = w->keys, *other = w->keys_too;
    if (count <= BUCKETS) {
        const Key *from = count > SMALL ? spread(w, count) : keys;
        for (int x = 0; x < count; x++) {
            Key key = from[x];
            int y = x;
            for (; y > 0 && keys[y - 1].rank < key.rank; y--)
                keys[y] = keys[y - 1];
            keys[y] = key;
        }
        return;
    }
    for (int shift = 0; shift < 32; shift += 8) {
        int place[256] = {0}, sum = 0;
        for (int x = 0; x < count; x++)
            place[falling(keys[x].rank) >> shift & 255]++;
        for (int b = 0; b < 256; b++) {
            int here = place[b];
            place[b] = sum;
            sum += here;
        }
        for (int x = 0; x < count; x++)
            other[place[falling(keys[x].rank) >> shift & 255]++] = keys[x];
        Key *swap = keys;
        keys = other;
        other = swap;
    }
    if (keys != w->keys)
        memcpy(w->keys, keys, (size_t)count * sizeof *keys);
}

/* By falling rank, equal ones in topological order: so it is topological, for no rank rises along an edge. */
void sched_arrange(Sched *w, const double *rank)
{
    int count = 0;
    for (int x = 0; x < w->n; x++) {
        int i = w->topological[x];
        if (!w->fixed[i]) {
            w->keys[count].step = i;
            w->keys[count++].rank = (float)rank[i];
        }
    }
    sort_keys(w, count);
    w->free = count;
    for (int x = 0; x < count; x++)
        w->order[x] = w->keys[x].step;
}

/* By rising start, to the last bit, equal ones in topological order; starts that fall along an edge are made to rise. */
void sched_line_up(Sched *w, double *from)
{
    for (int x = 0; x < w->n; x++) {
        int i = w->topological[x];
        for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
            from[i] = from[w->before[e]] > from[i] ? from[w->before[e]] : from[i];
    }
    for (int i = 0; i < w->n; i++)
        from[i] = -from[i];
    sched_arrange(w, from);
    for (int x = 1; x < w->free; x++) { /* those whose keys are the same */
        int i = w->order[x], y = x;
        for (; y > 0 && from[w->order[y - 1]] < from[i]; y--)
            w->order[y] = w->order[y - 1];
        w->order[y] = i;
    }
}

static void sift(const double *rank, int *heap, int count, int x)
{
    for (;;) {
        int child = 2 * x + 1, at = heap[x];
        if (child >= count)
            return;
        if (child + 1 < count && rank[heap[child + 1]] > rank[heap[child]])
            child++;
        if (!(rank[heap[child]] > rank[at]))
            return;
        heap[x] = heap[child];
        heap[child] = at;
        x = child;
    }
}

/* The steps on the longest path go to the one device that runs them soonest, all by rank up and down (CPOP, same paper
   as HEFT). False if there is no such device. */
int sched_critical_first(Sched *w)
{
    int count = 0, best = -1;
    double longest = 0, least = INFINITY;
    memset(w->critical, 0, (size_t)w->n);
    for (int x = 0; x < w->n; x++) {
        int i = w->topological[x];
        double most = 0;
        for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
            int j = w->before[e];
            double r = w->down[j] + w->mean[j] + w->mean_latency + w->before_size[e] * w->mean_per_unit;
            most = r > most ? r : most;
        }
        w->down[i] = most;
    }
    for (int i = 0; i < w->n; i++) {
        w->shaken[i] = w->up[i] + w->down[i];
        longest = w->shaken[i] > longest ? w->shaken[i] : longest;
    }
    for (int i = 0; i < w->n; i++)
        w->critical[i] = !w->fixed[i] && w->shaken[i] >= longest * (1 - 1e-9);
    for (int p = 0; p < w->m; p++) {
        double sum = 0;
        for (int i = 0; i < w->n; i++)
            if (w->critical[i])
                sum += w->seconds[(size_t)i * w->stride + p];
        if (sum < least) {
            least = sum;
            best = p;
        }
    }
    if (best < 0)
        return 0;
    memset(w->among, 0, (size_t)w->stride);
    w->among[best] = 1;
    w->free = 0;
    for (int i = 0; i < w->n; i++) {
        w->waiting[i] = w->before_at[i + 1] - w->before_at[i];
        if (w->waiting[i] == 0)
            w->heap[count++] = i;
    }
    for (int x = count / 2 - 1; x >= 0; x--)
        sift(w->shaken, w->heap, count, x);
    while (count) {
        int i = w->heap[0];
        w->heap[0] = w->heap[--count];
        sift(w->shaken, w->heap, count, 0);
        if (!w->fixed[i])
            w->order[w->free++] = i;
        for (int e = w->after_at[i]; e < w->after_at[i + 1]; e++) {
            int j = w->after[e], x = count;
            if (--w->waiting[j])
                continue;
            for (; x > 0 && w->shaken[w->heap[(x - 1) / 2]] < w->shaken[j]; x = (x - 1) / 2)
                w->heap[x] = w->heap[(x - 1) / 2];
            w->heap[x] = j;
            count++;
        }
    }
    return 1;
}
