/* The scheduling core: one problem in one arena, and what works on it.

   n steps on m devices. Rows over devices are padded to `stride`, a multiple of four, with devices on which nothing
   runs, so that every loop over devices is whole vectors. A device is one or more lanes (its slots), each of which runs
   one step at a time; an exclusive group is a lane of its own, which its steps occupy besides. A radio is a timeline of
   the transfers that use it (radio.c). Times and sizes are in any consistent units. Nothing is allocated after the
   arena, nothing touches Python, and there is no global state. */

#ifndef SLIPSTREAM_SCHEDULE_H
#define SLIPSTREAM_SCHEDULE_H

#include <stddef.h>
#include <stdint.h>

/* Which devices of `among` a step prefers. */
enum { NOWHERE, CRITICAL, EVERYWHERE, HELD }; /* HELD: where `device_now` says, if it does */
enum { SCHED_OK, SCHED_CYCLE, SCHED_NO_DEVICE, SCHED_NO_WINDOW, SCHED_NO_LINK };

/* What makes one schedule better than another: field by field, the first that differs decides. */
typedef struct {
    double late;      /* weights of the steps that miss their deadlines */
    double tardiness; /* by how much, weighted */
    double makespan;
    double energy;    /* as dear as the caller made each joule */
    double moved;     /* size that goes from device to device */
} Score;

/* An occupied stretch of a lane; before the first of a lane comes one that ends at 0. */
typedef struct Stretch {
    double from, till;
    struct Stretch *next, *previous; /* in the order of time; NULL: none */
} Stretch;

/* When the input of a step is on its way. */
typedef struct {
    double from, till;
    int carrier; /* the input whose transfer it is: itself, or that of an earlier reader; -1: it holds no radio */
} Sent;

typedef struct {
    int step;
    float rank; /* rounded, so that equal ranks are equal whatever the order of their sums was */
} Key;

typedef struct {
    int n, m, stride, lanes, groups, members, edges;
    int sparse;    /* some pair of devices has no link */
    int windows;   /* some device is not always available */
    int deadlines; /* some step has one */
    int wide;      /* some device has several lanes */
    int prices;    /* energy counts */
    int snap;      /* local search keeps the state of the lanes every 1 << snap steps */
    int radios;    /* m if some device has a radio, else 0, and nothing of it is there */
    double mean_latency, mean_per_unit;

    /* the problem */
    double *seconds;  /* (n, stride), INFINITY: it cannot run there */
    double *latency;  /* (m, stride), INFINITY: no link; the diagonal is 0 */
    double *per_unit; /* (m, stride), time per unit of size */
    double *joules;   /* (n, stride), for a run there */
    double *carry;    /* (m, stride), energy per unit of size */
    double *deadline, *weight; /* (n) */
    double *opens, *closes;    /* (stride), when a device is available */
    int *lane_at;     /* (m + 1), the lanes of device p are lane_at[p] up to lane_at[p + 1] */
    int *before_at, *before; /* CSR: what step i waits for */
    double *before_size;
    int *after_at, *after;   /* CSR: what waits for step i */
    double *after_size;
    int *group_at, *group;   /* CSR: the groups of step i */
    unsigned char *radio;    /* (m), it has one */
    unsigned char *fixed;    /* (n), device, start and end are given: 1 done or running, 2 another plan's, takes room only */

    /* worked out of it */
    double *mean, *least; /* (n), of the run times */
    int *topological, *waiting;
    double *up, *down;    /* (n), ranks */
    double *ahead;        /* (n, stride), the least time from the end of a step that runs there to the end of all */
    int *allowed_at, *allowed; /* CSR: the devices that may run step i */
    double bound;         /* no schedule is shorter */
    int looked;           /* `ahead` is worked out */

    /* list scheduling */
    Stretch *stretch;     /* (n + members + lanes + groups) */
    Stretch **last;       /* (lanes + groups), the last stretch of each lane */
    double *gap;          /* (lanes + groups, at least stride), no gap between the stretches of it is longer */
    double *tail;         /* (stride), when the last lane of a device is free for good */
    double *ready, *begin, *finish; /* (stride) */
    Key *keys, *keys_too; /* (n) */
    int *order;           /* (n), the steps that are not fixed */
    int free;             /* how many those are */
    int *heap;            /* (n) */
    int *lane;            /* (n), where it runs */
    int *by_start;        /* (n), the steps that are given, in the order of their starts */
    int given;            /* how many those are */
    unsigned char *among; /* (stride), the devices that are preferred */
    unsigned char *critical; /* (n), CPOP: runs on one device */

    /* radios: an input is its place in `before` */
    int *dep, *reader;    /* (edges), its number for the caller, and the step that reads it */
    int *inputs;          /* (edges), those of each step as they are sent */
    int *first;           /* (n, m), the first input for which an output was sent there, -1: none */
    Stretch *air;         /* (2 edges + m), the sender's and the receiver's */
    Stretch **air_last;   /* (m), the last stretch of each radio */
    Sent *sent, *sent_kept, *sent_now, *sent_was; /* (edges), as planned, kept, of the incumbent, before a change */
    int *first_at, *first_was, firsts; /* (edges), what a change replaced in `first` */

    /* going back where links are missing */
    unsigned char *may, *tried; /* (n, m) */
    int *choices, *trail, *mark, *queue, *front;
    unsigned char *queued;
    int struck;

    /* the schedule */
    int *device;
    double *start, *end;
    Score score;
    int *device_kept;
    double *start_kept, *end_kept;
    Score kept;

    /* local search */
    int *sequence, *position, *on;     /* order, place in it, device */
    double *till;                      /* (n) */
    int *ran_in;                       /* (n), lane */
    double *tails;                     /* (n >> snap + 1, lanes + groups + radios), every 1 << snap */
    int *break_at;                     /* CSR: what is given for later in each lane, */
    double *break_from, *break_till;   /* (n + members), in the order of its starts */
    int breaks;                        /* how much of that there is */
    double *latest;                    /* (n + 1), the largest end before each position */
    double *late, *tardy;              /* (n + 1) */
    double *now;                       /* (lanes + groups + radios) */
    double *till_was;                  /* (n) */
    int *ran_was;                      /* (n) */
    int *path;                         /* (n), the critical path */
    int *sequence_best, *on_best;      /* (n) */
    double *shaken;                    /* (n), ranks with noise */

    int incumbent;                     /* a schedule that runs is given: */
    int *device_now;                   /* (n), -1: none, so it is placed anew */
    double *start_now;                 /* (n), of those that have a device */
    int homeless;                      /* how many steps have no device there */
    int holding;                       /* what has a device there stays on it */
    double margin;                     /* the part by which another must be shorter to take its place */

    int64_t work, work_limit; /* steps placed so far, and at most */
    int64_t deadline_ns;      /* on the monotonic clock; 0: none */
    int64_t look_at;          /* the work at which to look at the clock next */
    uint64_t random;
    int found;                /* a schedule is kept */
    int expired;              /* the deadline is over */
    int proven;               /* the schedule is as short as can be */
    int failed, rule;         /* the step that has no place, and why */
} Sched;

enum {
    TABLE = 16 /* devices up to which the table of what lies ahead pays */
};

size_t sched_layout(Sched *w, char *base); /* give each array its place; NULL only measures; the bytes of all */
void sched_clear(Sched *w);                /* what the reader adds to, and what is empty unless it is filled */
void sched_prepare(Sched *w);              /* once all was read in: means, columns that pad */
int sched_solve(Sched *w);
int sched_heft(Sched *w);                  /* one pass, for plain problems */
int64_t sched_fleet(const int *candidates, const double *seconds, double *free_at, int *chosen, int64_t steps, int each,
                    int devices, uint64_t seed);

/* what the files below share */
int sched_sort(Sched *w);
int sched_open(Sched *w);
int sched_first(Sched *w);
void sched_empty(Sched *w);
void sched_ranks(Sched *w, const double *mean, double latency, double per_unit, double *rank);
void sched_urgencies(Sched *w, double horizon, double *rank);
void sched_ahead(Sched *w);
double sched_bound(Sched *w);
int sched_critical_first(Sched *w);
int sched_place(Sched *w, int looking, double eager, int prefer);
void sched_arrange(Sched *w, const double *rank);
void sched_line_up(Sched *w, double *from);
int sched_keep(Sched *w);
void sched_prove(Sched *w);
void sched_improve(Sched *w);
void sched_cheapen(Sched *w);
int sched_used(Sched *w);
int sched_over(Sched *w);
Score sched_score(const Sched *w, const int *device, const double *end);
int sched_beats(const Score *a, const Score *b);
int64_t sched_now(void);
void sched_radio_prepare(Sched *w);
void sched_radio_empty(Sched *w);
void sched_radio_arrivals(Sched *w, int i, double *ready);
double sched_radio_arrival(Sched *w, int i, int q);
void sched_radio_enter(Sched *w, int i);
void sched_radio_leave(Sched *w, int i);
double sched_radio_append(Sched *w, int i, int k, double t, double *now, const double *till);
void sched_radio_hold(const Sched *w, int i, double *now);
void sched_radio_forget(Sched *w, int from, int to);
int sched_radio_cause(Sched *w, int i, double until, int *length);
void sched_begin(void); /* once, before anything else */

/* splitmix64 (Steele, Lea, Flood, OOPSLA 2014). */
static inline uint64_t sched_random(Sched *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
