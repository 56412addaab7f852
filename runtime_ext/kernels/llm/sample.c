/* Logits -> the next token. The order of candidates is by logit, then by number, so that nothing depends on a sort. */
#include "llm.h"

#include <math.h>
#include <string.h>

/* splitmix64 (Steele, Lea and Flood, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static int before(const struct Candidate *a, const struct Candidate *b)
{
    return a->weight > b->weight || (a->weight == b->weight && a->token < b->token);
}

static void sink(struct Candidate *heap, long at, long n)
{
    struct Candidate moved = heap[at];
    for (long child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void penalise(float *logits, const struct Sampling *s, int vocabulary)
{
    /* A token that is there twice counts once: the later ones find its logit changed already, so walk back and skip. */
    for (int i = 0; i < s->n_recent; i++) {
        int token = s->recent[i], again = 0;
        for (int j = i + 1; j < s->n_recent && !again; j++)
            again = s->recent[j] == token;
        if (!again && token >= 0 && token < vocabulary)
            logits[token] = logits[token] > 0.0f ? logits[token] / s->penalty : logits[token] * s->penalty;
    }
}

static int allowed(const struct Sampling *s, int token)
{
    return s->mask == NULL || (s->mask[token >> 3] >> (token & 7) & 1);
}

/* The first of the largest; parts in which nothing is allowed, or nothing is larger, are passed over at once. */
static int most_likely(const float *logits, const struct Sampling *s, int vocabulary)
{
    enum { PART = 64, LANES = 16 };
    int best = -1;
    for (int at = 0; at < vocabulary; at += PART) {
        int end = at + PART <= vocabulary ? at + PART : vocabulary;
        if (best >= 0 && end - at == PART) {
            uint64_t bits = 1;
            float largest = logits[best], top[LANES];
            int larger = 0;
            if (s->mask != NULL)
                memcpy(&bits, s->mask + at / 8, sizeof bits);
            if (bits == 0)
                continue;
            for (int i = 0; i < LANES; i++)
                top[i] = largest;
            for (int t = at; t < end; t += LANES)
                for (int i = 0; i < LANES; i++) /* a NaN is never taken */
                    top[i] = logits[t + i] > top[i] ? logits[t + i] : top[i];
            for (int i = 0; i < LANES; i++)
                larger |= top[i] > largest;
            if (!larger)
                continue;
        }
        for (int t = at; t < end; t++)
            if (allowed(s, t) && !isnan(logits[t]) && (best < 0 || logits[t] > logits[best]))
                best = t;
    }
    return best;
}

int sample_token(const struct Kernels *k, const float *given, int vocabulary, const struct Sampling *s, uint64_t *random,
                 float *work, struct Candidate *heap)
{
    const float *logits = given;
    if (s->penalty != 1.0f && s->n_recent > 0) {
        memcpy(work, given, (size_t)vocabulary * sizeof *work);
        penalise(work, s, vocabulary);
        logits = work;
    }
    int best = most_likely(logits, s, vocabulary);
    if (best < 0 || s->temperature <= 0.0f)
        return best;
    if (logits != work)
        memcpy(work, logits, (size_t)vocabulary * sizeof *work);
    for (int t = 0; t < vocabulary; t++)
        if (!allowed(s, t) || isnan(work[t]))
            work[t] = -INFINITY;
    k->softmax(work, vocabulary, 1.0f / s->temperature);
    double total = 0.0;
    long n = 0;
    for (int t = 0; t < vocabulary; t++)
        if (allowed(s, t) && work[t] > 0.0f)
            total += (double)work[t];
    /* Tokens that together weigh less than what top_p leaves out are not in it: each below its share of that. */
    double least = s->top_p < 1.0f ? total * (1.0 - (double)s->top_p) / (double)vocabulary : 0.0;
    double floor = (double)s->min_p * (double)work[best];
    for (int t = 0; t < vocabulary; t++)
        if (allowed(s, t) && work[t] > 0.0f && (double)work[t] >= floor && ((double)work[t] >= least || t == best))
            heap[n++] = (struct Candidate){work[t], t};
    uint64_t drawn = next_random(random) >> 11;
    double share = (double)drawn * 0x1p-53;
    if (s->top_k <= 0 && s->top_p >= 1.0f) { /* no order is needed: in the order of numbers */
        double sum = 0.0, left;
        for (long i = 0; i < n; i++)
            sum += (double)heap[i].weight;
        left = share * sum;
        for (long i = 0; i < n; i++)
            if ((left -= (double)heap[i].weight) < 0.0)
                return heap[i].token;
        return heap[n - 1].token;
    }
    for (long i = n / 2 - 1; i >= 0; i--)
        sink(heap, i, n);
    /* Take the best away to the end of the array until there are enough of them. */
    long taken = 0, limit = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    double sum = 0.0, enough = (double)s->top_p;
    if (s->top_k > 0 && s->top_p < 1.0f) { /* top_p is a part of what top_k left */
        double kept = 0.0;
        long left = n;
        for (long i = 0; i < limit; i++) {
            struct Candidate top = heap[0];
            kept += (double)top.weight;
            heap[0] = heap[--left];
            heap[left] = top;
            sink(heap, 0, left);
        }
        enough *= kept;
        for (; taken < limit; taken++) {
            sum += (double)heap[n - 1 - taken].weight;
            if (sum >= enough) {
                taken++;
                break;
            }
        }
    } else {
        enough *= total;
        for (long left = n; taken < limit;) {
            struct Candidate top = heap[0];
            sum += (double)top.weight;
            heap[0] = heap[--left];
            heap[left] = top;
            sink(heap, 0, left);
            taken++;
            if (s->top_p < 1.0f && sum >= enough)
                break;
        }
    }
    double left = share * sum;
    for (long i = 0; i < taken; i++)
        if ((left -= (double)heap[n - 1 - i].weight) < 0.0)
            return heap[n - 1 - i].token;
    return heap[n - taken].token;
}

double log_total(const struct Kernels *k, const float *logits, int vocabulary, float *work)
{
    float highest = -INFINITY;
    for (int t = 0; t < vocabulary; t++)
        if (logits[t] > highest)
            highest = logits[t];
    memcpy(work, logits, (size_t)vocabulary * sizeof *work);
    return (double)highest + log(k->softmax(work, vocabulary, 1.0f));
}
