/* A device's radio as a timeline of its own: it is half-duplex, so two transfers that both use it do not overlap.

   A transfer of an output from device p to device q holds the radios of both, where they have one, for its size times the
   time per unit; the latency comes after and holds nothing. What goes no way, or over no radio, holds nothing and does not
   queue. Transfers are planned with the step that reads them, those first whose producer ended first, and none begins
   before now, time 0. Where an earlier reader on the same device was sent at least as much of the same output, that
   transfer serves. List schedules put each transfer into the first stretch in which both radios are free; local search
   appends it to what both did before. */

#include "schedule.h"

#include <math.h>
#include <string.h>

void sched_radio_prepare(Sched *w)
{
    for (int i = 0; i < w->n; i++)
        for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
            w->reader[e] = i;
            w->inputs[e] = e;
        }
    memset(w->first, -1, (size_t)w->n * w->m * sizeof *w->first);
}

/* The inputs of step i in the order in which they are sent: as their producers end, then by number. */
static void order_inputs(Sched *w, int i, const double *end)
{
    int *inputs = w->inputs, begin = w->before_at[i];
    for (int x = begin + 1; x < w->before_at[i + 1]; x++) {
        int e = inputs[x], y = x;
        double t = end[w->before[e]];
        for (; y > begin; y--) {
            double u = end[w->before[inputs[y - 1]]];
            if (u < t || (u == t && inputs[y - 1] < e))
                break;
            inputs[y] = inputs[y - 1];
        }
        inputs[y] = e;
    }
}

/* Whether a transfer from p to q that takes so long holds a radio; there is a link. */
static int holds(const Sched *w, int p, int q, double seconds)
{
    return seconds > 0 && (w->radio[p] || w->radio[q]);
}

/* ---- list schedules: the first stretch in which both are free --------------------------------------------------- */

/* The first moment from t on, which is not before 0, at which the radio of p is free for that long. */
static double room(const Sched *w, int p, double t, double seconds)
{
    const Stretch *s = w->air_last[p];
    double found = s->till > t ? s->till : t;
    while (s->till > t) { /* without a radio none does */
        double from = s->from, begin;
        s = s->previous;
        begin = s->till > t ? s->till : t;
        if (begin + seconds <= from)
            found = begin;
    }
    return found;
}

static void occupy(Sched *w, int p, Stretch *s, double from, double till)
{
    Stretch *before = w->air_last[p], *next = NULL;
    if (!w->radio[p])
        return;
    while (before->from > from) {
        next = before;
        before = before->previous;
    }
    *s = (Stretch){from, till, next, before};
    before->next = s;
    if (next)
        next->previous = s;
    else
        w->air_last[p] = s;
}

static void vacate(Sched *w, int p, const Stretch *s)
{
    if (!w->radio[p])
        return;
    s->previous->next = s->next;
    if (s->next)
        s->next->previous = s->previous;
    else
        w->air_last[p] = s->previous;
}

/* Plan the transfers to step i, were it on q; when the last is there. Its inputs are in order. */
static double transmit(Sched *w, int i, int q)
{
    double ready = -INFINITY;
    for (int x = w->before_at[i]; x < w->before_at[i + 1]; x++) {
        int e = w->inputs[x], j = w->before[e], p = w->device[j], known = w->first[(size_t)j * w->m + q];
        size_t link = (size_t)p * w->stride + q;
        double seconds = w->before_size[e] * w->per_unit[link], t = w->end[j], there = t + w->latency[link] + seconds;
        Sent *sent = &w->sent[e];
        if (!holds(w, p, q, seconds))
            *sent = (Sent){t, t + seconds, -1};
        else {
            if (known >= 0 && w->reader[known] != i && w->before_size[known] >= w->before_size[e])
                *sent = w->sent[known];
            else {
                double u = t > 0 ? t : 0;
                do {
                    t = u;
                    u = room(w, q, room(w, p, t, seconds), seconds);
                } while (u > t);
                *sent = (Sent){t, t + seconds, e};
                occupy(w, p, w->air + 2 * e, t, t + seconds);
                occupy(w, q, w->air + 2 * e + 1, t, t + seconds);
            }
            there = sent->till + w->latency[link];
        }
        ready = there > ready ? there : ready;
    }
    return ready;
}

static void withdraw(Sched *w, int i, int q)
{
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
        if (w->sent[e].carrier == e) {
            vacate(w, w->device[w->before[e]], w->air + 2 * e);
            vacate(w, q, w->air + 2 * e + 1);
        }
}

static double arrival(Sched *w, int i, int q)
{
    double there = transmit(w, i, q);
    withdraw(w, i, q);
    return there > w->opens[q] ? there : w->opens[q];
}

void sched_radio_empty(Sched *w)
{
    for (int p = 0; p < w->m; p++) {
        w->air_last[p] = w->air + 2 * w->edges + p;
        w->air_last[p][0] = (Stretch){.from = -INFINITY};
    }
    memset(w->first, -1, (size_t)w->n * w->m * sizeof *w->first);
}

/* When the inputs of step i would be at each device, and it is there. */
void sched_radio_arrivals(Sched *w, int i, double *ready)
{
    const double *seconds = w->seconds + (size_t)i * w->stride;
    int inputs = w->before_at[i + 1] - w->before_at[i];
    memcpy(ready, w->opens, (size_t)w->stride * sizeof *ready);
    if (inputs == 0)
        return;
    order_inputs(w, i, w->end);
    for (int q = 0; q < w->m; q++)
        if (seconds[q] < INFINITY)
            ready[q] = arrival(w, i, q);
    w->work += (int64_t)inputs * w->m;
}

/* The same at one device. */
double sched_radio_arrival(Sched *w, int i, int q)
{
    order_inputs(w, i, w->end);
    return arrival(w, i, q);
}

/* The transfers to step i are planned for good. */
void sched_radio_enter(Sched *w, int i)
{
    int q = w->device[i];
    order_inputs(w, i, w->end);
    transmit(w, i, q);
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        int *first = &w->first[(size_t)w->before[e] * w->m + q];
        if (w->sent[e].carrier == e && *first < 0)
            *first = e;
    }
}

/* It goes back; whatever was placed after it did so before. */
void sched_radio_leave(Sched *w, int i)
{
    int q = w->device[i];
    withdraw(w, i, q);
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        int *first = &w->first[(size_t)w->before[e] * w->m + q];
        if (*first == e)
            *first = -1;
    }
}

/* ---- local search: appended to what both did before -------------------------------------------------------------- */

/* Append the transfers to step i, at place k of the sequence; when it has all, and not before t.

   `first` is whatever reader was sent each output on each device first; it counts only if it is there in this sequence
   and before this place, so that what earlier states left in it means nothing. */
double sched_radio_append(Sched *w, int i, int k, double t, double *now, const double *till)
{
    const int q = w->on[i];
    double *air = now + w->lanes + w->groups;
    order_inputs(w, i, till);
    for (int x = w->before_at[i]; x < w->before_at[i + 1]; x++) {
        int e = w->inputs[x], j = w->before[e], p = w->on[j];
        size_t link = (size_t)p * w->stride + q;
        double seconds = w->before_size[e] * w->per_unit[link], u = till[j], there = u + w->latency[link] + seconds;
        Sent *sent = &w->sent[e];
        w->sent_was[e] = *sent;
        if (!holds(w, p, q, seconds))
            *sent = (Sent){u, u + seconds, -1};
        else {
            int *first = &w->first[(size_t)j * w->m + q], known = *first;
            int valid = known >= 0 && w->on[w->reader[known]] == q && w->position[w->reader[known]] < k;
            if (valid && w->before_size[known] >= w->before_size[e])
                *sent = w->sent[known];
            else {
                if (w->radio[p]) /* which is not before 0 */
                    u = air[p] > u ? air[p] : u;
                if (w->radio[q])
                    u = air[q] > u ? air[q] : u;
                *sent = (Sent){u, u + seconds, e};
                air[p] = air[q] = u + seconds; /* without a radio nobody asks */
                if (!valid) {
                    w->first_at[w->firsts] = (int)(first - w->first);
                    w->first_was[w->firsts++] = known;
                    *first = e;
                }
            }
            there = sent->till + w->latency[link];
        }
        t = there > t ? there : t;
    }
    return t;
}

/* The radios are held by what step i was sent. */
void sched_radio_hold(const Sched *w, int i, double *now)
{
    double *air = now + w->lanes + w->groups;
    int q = w->on[i];
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        const Sent *sent = &w->sent[e];
        int p = w->on[w->before[e]];
        if (sent->carrier < 0)
            continue;
        air[p] = sent->till > air[p] ? sent->till : air[p];
        air[q] = sent->till > air[q] ? sent->till : air[q];
    }
}

/* What was appended from one place to another is as it was before. */
void sched_radio_forget(Sched *w, int from, int to)
{
    for (int k = from; k < to; k++) {
        int i = w->sequence[k];
        for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++)
            w->sent[e] = w->sent_was[e];
    }
    while (w->firsts > 0) {
        w->firsts--;
        w->first[w->first_at[w->firsts]] = w->first_was[w->firsts];
    }
}

/* Who reads the transfer that held back transfer e to step i, by keeping one of its radios until then; -1: none.
   `edge` is that transfer. */
static int held_back_by(const Sched *w, int e, int i, int *edge)
{
    int p = w->on[w->before[e]], q = w->on[i];
    double from = w->sent[e].from, near = 1e-9 * from;
    for (int k = w->position[i]; k >= 0; k--) {
        int reader = w->sequence[k], r = w->on[reader];
        for (int f = w->before_at[reader]; f < w->before_at[reader + 1]; f++) {
            int s = w->on[w->before[f]];
            if (w->sent[f].carrier != f || fabs(w->sent[f].till - from) > near)
                continue;
            if ((w->radio[p] && (r == p || s == p)) || (w->radio[q] && (r == q || s == q))) {
                *edge = f;
                return reader;
            }
        }
    }
    return -1;
}

/* Which input step i waited for until then: the step that made it, or, where radios held it back, who made what they were
   busy with; who reads that is put on the path. -1: none. */
int sched_radio_cause(Sched *w, int i, double until, int *length)
{
    int q = w->on[i];
    for (int e = w->before_at[i]; e < w->before_at[i + 1]; e++) {
        int j = w->before[e], f = -1, reader;
        const Sent *sent = &w->sent[e];
        if (sent->till + w->latency[(size_t)w->on[j] * w->stride + q] < until)
            continue;
        if (sent->carrier >= 0 && sent->from > w->till[j] && (reader = held_back_by(w, sent->carrier, i, &f)) >= 0) {
            if (!w->fixed[w->before[f]]) {
                if (reader != i)
                    w->path[(*length)++] = reader;
                return w->before[f];
            }
            if (reader != i)
                return reader;
        }
        if (!w->fixed[j])
            return j;
    }
    return -1;
}
