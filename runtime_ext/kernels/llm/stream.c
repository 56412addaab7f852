/* How fast memory can be read, with nothing to do but to read it: what weights are streamed against. */
#include "llm.h"

#include <time.h>

enum { PART = 1 << 20 };

struct Reading {
    const uint64_t *data;
    atomic_ullong sum;
};

static void read_part(void *context, int part, int thread)
{
    struct Reading *r = context;
    const uint64_t *p = r->data + (size_t)part * (PART / 8);
    uint64_t s[32] = {0};
    (void)thread;
    for (long i = 0; i < PART / 8; i += 32)
        for (int j = 0; j < 32; j++)
            s[j] += p[i + j];
    for (int j = 1; j < 32; j++)
        s[0] += s[j];
    atomic_fetch_add_explicit(&r->sum, s[0], memory_order_relaxed); /* so that reading is not left out */
}

double stream_read(struct Pool *pool, const uint8_t *data, size_t n)
{
    struct Reading r = {.data = (const uint64_t *)(const void *)data};
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    pool_run(pool, read_part, &r, (int)(n / PART), NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    return (double)(ended.tv_sec - began.tv_sec) + 1e-9 * (double)(ended.tv_nsec - began.tv_nsec);
}
