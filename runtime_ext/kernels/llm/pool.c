/* Fork and join in a fraction of a microsecond, and nothing while there is nothing to do.
 *
 * One word, the ticket, holds the generation of a job, its number of chunks and the next chunk; a thread takes a chunk
 * by adding one to it. So a thread that comes late finds either a chunk of the job that runs, whose fields are then sure
 * to stay until that chunk is done, or none.
 */
#include "llm.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 3000, BITS = 21 };
#define CHUNK_MASK ((1ull << BITS) - 1)

struct Pool {
    _Alignas(64) atomic_ullong ticket; /* generation : 22, chunks : BITS, next : BITS */
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_uint wake; /* counts jobs, for those that sleep */
    atomic_int sleepers, waits, quit;
    Work work;
    void *context;
    const atomic_int *stop;
    int threads, next_id;
    pthread_mutex_t one_job;
    pthread_t *ids;
};

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(void *word, unsigned seen) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); }
static void futex_wake(void *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

static int open_chunks(unsigned long long ticket) { return (ticket & CHUNK_MASK) < ((ticket >> BITS) & CHUNK_MASK); }

/* Takes chunks while there are any; whether it found one. */
static int take(struct Pool *p, int thread)
{
    int found = 0;
    while (open_chunks(atomic_load_explicit(&p->ticket, memory_order_relaxed))) {
        unsigned long long t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_acquire);
        if (!open_chunks(t))
            break;
        found = 1;
        int chunks = (int)((t >> BITS) & CHUNK_MASK);
        if (p->stop == NULL || !atomic_load_explicit(p->stop, memory_order_relaxed))
            p->work(p->context, (int)(t & CHUNK_MASK), thread);
        if (atomic_fetch_add(&p->done, 1) + 1 == chunks && atomic_load(&p->waits))
            futex_wake(&p->done);
    }
    return found;
}

static void *serve(void *argument)
{
    struct Pool *p = argument;
    int thread = __atomic_fetch_add(&p->next_id, 1, __ATOMIC_RELAXED), spins = 0;
    while (!atomic_load(&p->quit)) {
        unsigned seen = atomic_load(&p->wake);
        if (take(p, thread)) {
            spins = 0;
        } else if (spins < SPINS) {
            spins++;
            pause_briefly();
        } else {
            atomic_fetch_add(&p->sleepers, 1);
            if (!open_chunks(atomic_load(&p->ticket)) && !atomic_load(&p->quit))
                futex_wait(&p->wake, seen);
            atomic_fetch_sub(&p->sleepers, 1);
            spins = 0;
        }
    }
    return NULL;
}

void pool_run(struct Pool *p, Work work, void *context, int chunks, const atomic_int *stop)
{
    if (p->threads == 1 || chunks == 1) {
        for (int i = 0; i < chunks && !(stop && atomic_load_explicit(stop, memory_order_relaxed)); i++)
            work(context, i, 0);
        return;
    }
    pthread_mutex_lock(&p->one_job);
    p->work = work;
    p->context = context;
    p->stop = stop;
    atomic_store(&p->done, 0);
    unsigned job = atomic_load(&p->wake) + 1;
    atomic_store(&p->ticket, (unsigned long long)job << (2 * BITS) | (unsigned long long)chunks << BITS);
    atomic_store(&p->wake, job);
    if (atomic_load(&p->sleepers))
        futex_wake(&p->wake);
    take(p, 0);
    for (int spins = 0, done; (done = atomic_load(&p->done)) < chunks; spins++) {
        if (spins < SPINS) {
            pause_briefly();
            continue;
        }
        atomic_store(&p->waits, 1);
        if (atomic_load(&p->done) == done)
            futex_wait(&p->done, (unsigned)done);
        atomic_store(&p->waits, 0);
    }
    pthread_mutex_unlock(&p->one_job);
}

int pool_threads(const struct Pool *p) { return p->threads; }

void pool_free(struct Pool *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->quit, 1);
    atomic_fetch_add(&p->wake, 1);
    futex_wake(&p->wake);
    for (int i = 0; i + 1 < p->threads; i++)
        pthread_join(p->ids[i], NULL);
    pthread_mutex_destroy(&p->one_job);
    free(p->ids);
    free(p);
}

struct Pool *pool_new(int threads)
{
    struct Pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (p == NULL)
        return NULL;
    *p = (struct Pool){.threads = 1, .next_id = 1, .ids = calloc((size_t)threads, sizeof(pthread_t))};
    pthread_mutex_init(&p->one_job, NULL);
    if (p->ids == NULL) {
        pool_free(p);
        return NULL;
    }
    sigset_t all, before; /* signals belong to the threads that know what to do with them */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->threads < threads && pthread_create(&p->ids[p->threads - 1], NULL, serve, p) == 0)
        p->threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (p->threads < threads) {
        pool_free(p);
        return NULL;
    }
    return p;
}
