/* One pass of tokens through the layers. Each step is cut into chunks that any thread may take; which one does shows in
 * no bit of the result, nor does how many tokens go through together. */
#include "llm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ATTEND_TOKENS = 8 };

struct Scratch {
    struct Input normed, heads, inner; /* (tokens, embd), (tokens, heads * head_dim), (tokens, ff) */
    float *x;                          /* (tokens, embd): the residual stream */
    float *qkv;                        /* (tokens, (heads + 2 kv_heads) * head_dim) */
    float *up;                         /* (tokens, ff) */
    float *turns;                      /* (tokens, rope_dims / 2, {cos, sin}) */
    float *scores;                     /* (threads, SCORE_ROWS, context) */
    uint8_t *packed;                   /* (threads, packed_bytes) */
    size_t packed_bytes, bytes;
    long context;
    int tokens;
    void *memory;
};

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Lays everything out from `base` on; the size it takes. */
static size_t lay_out(struct Scratch *s, const struct Model *m, int threads, uint8_t *base)
{
    size_t at = 0, t = (size_t)s->tokens;
#define TAKE(pointer, count) ((pointer) = (void *)(base + at), at += padded(sizeof *(pointer) * (size_t)(count)))
    struct Input *inputs[] = {&s->normed, &s->heads, &s->inner};
    for (int i = 0; i < 3; i++) {
        size_t n = t * (size_t)inputs[i]->cols;
        TAKE(inputs[i]->f, n);
        TAKE(inputs[i]->q, n);
        TAKE(inputs[i]->scale, n / BLOCK + 1);
        TAKE(inputs[i]->sums, n / 16 + 2);
    }
    TAKE(s->x, t * (size_t)m->embd);
    TAKE(s->qkv, t * (size_t)((m->heads + 2 * m->kv_heads) * m->head_dim));
    TAKE(s->up, t * (size_t)m->ff);
    TAKE(s->turns, t * (size_t)m->rope_dims);
    TAKE(s->scores, (size_t)threads * SCORE_ROWS * (size_t)s->context);
    TAKE(s->packed, (size_t)threads * s->packed_bytes);
#undef TAKE
    return at;
}

struct Scratch *scratch_new(const struct Model *m, const struct Pool *pool, int tokens, int context)
{
    struct Scratch *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->tokens = tokens;
    s->context = (context + KV_TOKENS - 1) / KV_TOKENS * KV_TOKENS;
    s->normed.cols = m->embd;
    s->heads.cols = m->heads * m->head_dim;
    s->inner.cols = m->ff;
    int widest = m->embd > m->ff ? m->embd : m->ff;
    widest = s->heads.cols > widest ? s->heads.cols : widest;
    s->packed_bytes = padded((size_t)(widest / BLOCK) * PACKED_BYTES);
    s->packed_bytes = s->packed_bytes > GROUP_BYTES ? s->packed_bytes : GROUP_BYTES;
    s->bytes = lay_out(s, m, pool_threads(pool), NULL);
    s->memory = aligned_alloc(64, s->bytes);
    if (s->memory == NULL) {
        free(s);
        return NULL;
    }
    lay_out(s, m, pool_threads(pool), s->memory);
    return s;
}

void scratch_free(struct Scratch *s)
{
    if (s != NULL) {
        free(s->memory);
        free(s);
    }
}

size_t scratch_bytes(const struct Scratch *s) { return s->bytes; }

/* What layers keep of the tokens that they have seen. From here to kv_put is all that knows it, beside the two places
 * that write and read cells, store_* and attend: sessions move, share and forget whole blocks and cells of bytes. Law:
 * a layer keeps cells, each final once its token is through. */

/* Columns of a block's cells, see KvBlock. */
struct Columns {
    size_t count, cell; /* bytes of a cell */
};

enum { COLUMNS = 4 };

/* Those of one layer and KV head; the bytes that they take. */
static size_t kv_columns(const struct Model *m, int form, struct Columns of[COLUMNS])
{
    size_t hd = (size_t)m->head_dim, bytes = 0;
    const struct Columns f16[COLUMNS] = {{hd, 2}, {1, 2 * hd}};
    const struct Columns q8_0[COLUMNS] = {{hd / 4, 4}, {hd / BLOCK, 2}, {1, hd}, {hd / BLOCK, 2}};
    memcpy(of, form == F16 ? f16 : q8_0, sizeof f16);
    for (int i = 0; i < COLUMNS; i++)
        bytes += of[i].count * of[i].cell * KV_TOKENS;
    return bytes;
}

/* Where the cells of a layer's KV head begin in a block. */
static size_t kv_at(const struct Model *m, int form, int layer, int head)
{
    struct Columns columns[COLUMNS];
    return ((size_t)layer * (size_t)m->kv_heads + (size_t)head) * kv_columns(m, form, columns);
}

size_t kv_block_bytes(const struct Model *m, int form) { return kv_at(m, form, m->layers, 0); }

static void kv_move(const struct Model *m, int form, uint8_t *block, int first, int n, uint8_t *rows, int put)
{
    struct Columns columns[COLUMNS];
    kv_columns(m, form, columns);
    for (int head = 0; head < m->layers * m->kv_heads; head++)
        for (int i = 0; i < COLUMNS; i++)
            for (size_t c = 0; c < columns[i].count; c++) {
                size_t cell = columns[i].cell, size = (size_t)n * cell;
                uint8_t *at = block + (size_t)first * cell;
                memcpy(put ? at : rows, put ? rows : at, size);
                rows += size;
                block += KV_TOKENS * cell;
            }
}

void kv_take(const struct Model *m, int form, const uint8_t *block, int first, int n, uint8_t *rows)
{
    kv_move(m, form, (uint8_t *)block, first, n, rows, 0);
}

void kv_put(const struct Model *m, int form, uint8_t *block, int first, int n, const uint8_t *rows)
{
    kv_move(m, form, block, first, n, (uint8_t *)rows, 1);
}

/* What all chunks of a pass know. */
struct Pass {
    const struct Model *m;
    const struct Kernels *k;
    struct Pool *pool;
    struct Scratch *s;
    const KvBlock *blocks;
    const atomic_int *stop;
    int form, position, tokens, layer;
};

static int stopped(const struct Pass *p)
{
    return p->stop != NULL && atomic_load_explicit(p->stop, memory_order_relaxed);
}

/* Up to three matrices times the same input. */
struct Products {
    const struct Pass *pass;
    const struct Input *x;
    const struct Matrix *matrix[3];
    float *y[3];
    long ldy[3];
    int count, tokens, first[3], per_chunk; /* first: chunk */
};

static void multiply_chunk(void *context, int chunk, int thread)
{
    const struct Products *j = context;
    int i = j->count - 1;
    while (chunk < j->first[i])
        i--;
    const struct Matrix *m = j->matrix[i];
    int panels = (m->rows + PANEL - 1) / PANEL, at = (chunk - j->first[i]) * j->per_chunk;
    int here = panels - at < j->per_chunk ? panels - at : j->per_chunk;
    const struct Scratch *s = j->pass->s;
    j->pass->k->multiply(m, at, here, j->x, j->tokens, j->y[i], j->ldy[i], s->packed + (size_t)thread * s->packed_bytes);
}

static void multiply(struct Products *j)
{
    int panels = 0, chunks = 0;
    for (int i = 0; i < j->count; i++)
        panels += (j->matrix[i]->rows + PANEL - 1) / PANEL;
    /* one token: small shares, for cores that others need too; many: panels that meet a tile together */
    int wanted = (j->tokens > 1 ? 4 : 16) * pool_threads(j->pass->pool), most = j->tokens > 1 ? 8 : 16;
    j->per_chunk = panels / wanted < 1 ? 1 : panels / wanted < most ? panels / wanted : most;
    for (int i = 0; i < j->count; i++) {
        j->first[i] = chunks;
        chunks += ((j->matrix[i]->rows + PANEL - 1) / PANEL + j->per_chunk - 1) / j->per_chunk;
    }
    pool_run(j->pass->pool, multiply_chunk, j, chunks, j->pass->stop);
}

static int quantised(const struct Matrix *m) { return m->form >= Q8_0; }

/* Each token's own work, in chunks of tokens. */
struct EachToken {
    const struct Pass *pass;
    void (*work)(const struct Pass *p, int token);
};

static void token_chunk(void *context, int chunk, int thread)
{
    const struct EachToken *j = context;
    (void)thread;
    j->work(j->pass, chunk);
}

static void each_token(const struct Pass *p, void (*work)(const struct Pass *, int))
{
    struct EachToken j = {p, work};
    pool_run(p->pool, token_chunk, &j, p->tokens, p->stop);
}

static void norm_for_attention(const struct Pass *p, int t)
{
    const struct Model *m = p->m;
    struct Input *x = &p->s->normed;
    const struct Layer *l = &m->layer[p->layer];
    p->k->norm(x->f + (long)t * m->embd, p->s->x + (long)t * m->embd, l->attn_norm, m->embd, m->eps);
    if (quantised(&l->q) || quantised(&l->k) || quantised(&l->v))
        p->k->quantise(x, t, 1);
}

static void add(float *to, const float *from, long n)
{
    for (long i = 0; i < n; i++)
        to[i] += from[i];
}

/* Rotary position embedding (Su et al., 2021) of one head: pairs are halves apart, or neighbours. */
static void turn(float *head, const float *turns, int pairs, int neox)
{
    for (int i = 0; i < pairs; i++) {
        float *a = neox ? head + i : head + 2 * i, *b = neox ? head + i + pairs : a + 1;
        float c = turns[2 * i], s = turns[2 * i + 1], x = *a, y = *b;
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}

/* A token's key and value into its cells. */
static void store_halves(const struct Pass *p, uint8_t *to, int slot, float *key, float *value)
{
    int hd = p->m->head_dim;
    uint16_t halves[WIDE];
    p->k->store_halves(halves, key, hd);
    for (int d = 0; d < hd; d++)
        memcpy(to + 2 * (d * KV_TOKENS + slot), halves + d, 2);
    p->k->store_halves((uint16_t *)(void *)to + (hd * KV_TOKENS + slot * hd), value, hd);
}

static void store_bytes(const struct Pass *p, uint8_t *to, int slot, float *key, float *value)
{
    int hd = p->m->head_dim;
    int8_t q[WIDE];
    float scale[WIDE / BLOCK];
    uint16_t halves[WIDE / BLOCK];
    int32_t sums[WIDE / 16];
    for (int v = 0; v < 2; v++) {
        struct Input x = {v ? value : key, q, scale, sums, hd};
        p->k->quantise(&x, 0, 1);
        p->k->store_halves(halves, scale, hd / BLOCK);
        int cell = v ? hd : 4;
        for (int i = 0; i < hd / cell; i++)
            memcpy(to + (i * KV_TOKENS + slot) * cell, q + i * cell, (size_t)cell);
        to += hd * KV_TOKENS;
        for (int i = 0; i < hd / BLOCK; i++)
            memcpy(to + (i * KV_TOKENS + slot) * 2, halves + i, 2);
        to += hd / BLOCK * KV_TOKENS * 2;
    }
}

static void finish_heads(const struct Pass *p, int t)
{
    const struct Model *m = p->m;
    const struct Layer *l = &m->layer[p->layer];
    int hd = m->head_dim, pos = p->position + t, slot = pos % KV_TOKENS;
    float *q = p->s->qkv + (long)t * (m->heads + 2 * m->kv_heads) * hd, *k = q + (long)m->heads * hd;
    float *v = k + (long)m->kv_heads * hd;
    const float *turns = p->s->turns + (long)t * m->rope_dims;
    float scale = 1.0f / sqrtf((float)hd);
    if (l->q_bias)
        add(q, l->q_bias, (long)m->heads * hd);
    if (l->k_bias)
        add(k, l->k_bias, (long)m->kv_heads * hd);
    if (l->v_bias)
        add(v, l->v_bias, (long)m->kv_heads * hd);
    for (int h = 0; h < m->heads; h++) {
        float *head = q + (long)h * hd;
        if (l->q_norm)
            p->k->norm(head, head, l->q_norm, hd, m->eps);
        turn(head, turns, m->rope_dims / 2, m->neox);
        for (int d = 0; d < hd; d++)
            head[d] *= scale;
    }
    for (int h = 0; h < m->kv_heads; h++) {
        uint8_t *cells = p->blocks[pos / KV_TOKENS] + kv_at(m, p->form, p->layer, h);
        float *head = k + (long)h * hd;
        if (l->k_norm)
            p->k->norm(head, head, l->k_norm, hd, m->eps);
        turn(head, turns, m->rope_dims / 2, m->neox);
        (p->form == F16 ? store_halves : store_bytes)(p, cells, slot, head, v + (long)h * hd);
    }
}

static void attend_chunk(void *context, int chunk, int thread)
{
    const struct Pass *p = context;
    const struct Model *m = p->m;
    const struct Layer *l = &m->layer[p->layer];
    int h = chunk % m->kv_heads, first = chunk / m->kv_heads * ATTEND_TOKENS, hd = m->head_dim;
    int group = m->heads / m->kv_heads;
    long width = (long)(m->heads + 2 * m->kv_heads) * hd;
    float *q = p->s->qkv + first * width + (long)h * group * hd;
    struct Attention a = {
        .q = q, .out = q, .ldq = width, .blocks = p->blocks,
        .at = kv_at(m, p->form, p->layer, h), .form = p->form,
        .head_dim = hd, .group = group, .position = p->position + first,
        .tokens = p->tokens - first < ATTEND_TOKENS ? p->tokens - first : ATTEND_TOKENS,
        .window = l->window, .sinks = l->sinks,
        .scores = p->s->scores + (long)thread * SCORE_ROWS * p->s->context,
    };
    p->k->attend(&a);
}

static void gather_heads(const struct Pass *p, int t)
{
    const struct Model *m = p->m;
    struct Input *x = &p->s->heads;
    memcpy(x->f + (long)t * x->cols, p->s->qkv + (long)t * (m->heads + 2 * m->kv_heads) * m->head_dim,
           (size_t)x->cols * sizeof(float));
    if (quantised(&m->layer[p->layer].o))
        p->k->quantise(x, t, 1);
}

/* The residual stream grows by what is in `normed.f` of this token. */
static void add_to_stream(const struct Pass *p, int t)
{
    long n = p->m->embd;
    add(p->s->x + t * n, p->s->normed.f + t * n, n);
}

static void norm_for_ffn(const struct Pass *p, int t)
{
    const struct Model *m = p->m;
    const struct Layer *l = &m->layer[p->layer];
    struct Input *x = &p->s->normed;
    add_to_stream(p, t);
    p->k->norm(x->f + (long)t * m->embd, p->s->x + (long)t * m->embd, l->ffn_norm, m->embd, m->eps);
    if (quantised(&l->gate) || quantised(&l->up))
        p->k->quantise(x, t, 1);
}

static void gate_token(const struct Pass *p, int t)
{
    struct Input *x = &p->s->inner;
    p->k->gate(x->f + (long)t * x->cols, p->s->up + (long)t * x->cols, x->cols);
    if (quantised(&p->m->layer[p->layer].down))
        p->k->quantise(x, t, 1);
}

static void one_layer(const struct Pass *p)
{
    const struct Model *m = p->m;
    const struct Layer *l = &m->layer[p->layer];
    struct Scratch *s = p->s;
    long hd = m->head_dim, width = (m->heads + 2 * m->kv_heads) * hd, embd = m->embd, ff = m->ff;
    each_token(p, norm_for_attention);
    struct Products qkv = {
        .pass = p, .x = &s->normed, .tokens = p->tokens, .count = 3, .matrix = {&l->q, &l->k, &l->v},
        .y = {s->qkv, s->qkv + m->heads * hd, s->qkv + (m->heads + m->kv_heads) * hd}, .ldy = {width, width, width},
    };
    multiply(&qkv);
    each_token(p, finish_heads);
    pool_run(p->pool, attend_chunk, (void *)p, (p->tokens + ATTEND_TOKENS - 1) / ATTEND_TOKENS * m->kv_heads, p->stop);
    each_token(p, gather_heads);
    struct Products o = {.pass = p, .x = &s->heads, .tokens = p->tokens, .count = 1, .matrix = {&l->o},
                         .y = {s->normed.f}, .ldy = {embd}};
    multiply(&o);
    each_token(p, norm_for_ffn);
    struct Products in = {.pass = p, .x = &s->normed, .tokens = p->tokens, .count = 2, .matrix = {&l->gate, &l->up},
                          .y = {s->inner.f, s->up}, .ldy = {ff, ff}};
    multiply(&in);
    each_token(p, gate_token);
    struct Products down = {.pass = p, .x = &s->inner, .tokens = p->tokens, .count = 1, .matrix = {&l->down},
                            .y = {s->normed.f}, .ldy = {embd}};
    multiply(&down);
    each_token(p, add_to_stream);
}

/* cos and sin of an angle up to some millions, the same on every processor: no libm. */
static void cos_sin(double angle, double *cosine, double *sine)
{
    double turns = angle * 0x1.45f306dc9c883p-1; /* 2 / pi */
    double quarter = (double)(long long)(turns + (turns < 0 ? -0.5 : 0.5));
    double r = angle - quarter * 0x1.921fb544p+0;
    r = r - quarter * 0x1.0b4611a626331p-34;
    double z = r * r;
    double s = r + r * z * (-0x1.5555555555555p-3 + z * (0x1.1111111111111p-7 + z * (-0x1.a01a01a01a01ap-13 +
        z * (0x1.71de3a556c734p-19 + z * (-0x1.ae64567f544e4p-26 + z * 0x1.6124613a86d09p-33)))));
    double c = 1.0 + z * (-0.5 + z * (0x1.5555555555555p-5 + z * (-0x1.6c16c16c16c17p-10 + z * (0x1.a01a01a01a01ap-16 +
        z * (-0x1.27e4fb7789f5cp-22 + z * (0x1.1eed8eff8d898p-29 + z * -0x1.93974a8c07c9dp-37))))));
    switch ((long long)quarter & 3) {
    case 0: *cosine = c, *sine = s; break;
    case 1: *cosine = -s, *sine = c; break;
    case 2: *cosine = -c, *sine = -s; break;
    default: *cosine = s, *sine = -c;
    }
}

static void begin_token(const struct Pass *p, int t)
{
    const struct Model *m = p->m;
    float *turns = p->s->turns + (long)t * m->rope_dims;
    for (int i = 0; i < m->rope_dims / 2; i++) {
        double c, s;
        cos_sin((double)(p->position + t) * m->frequencies[i], &c, &s);
        turns[2 * i] = (float)c * m->attention_factor;
        turns[2 * i + 1] = (float)s * m->attention_factor;
    }
}

int model_pass(const struct Model *m, const struct Kernels *k, struct Pool *pool, struct Scratch *s,
               const KvBlock *blocks, int form, int position, const int32_t *tokens, int n, int wanted, float *logits,
               const atomic_int *stop)
{
    struct Pass p = {m, k, pool, s, blocks, stop, form, position, n, 0};
    for (int t = 0; t < n; t++)
        form_row(m->embedding_form, m->embedding + (size_t)tokens[t] * m->embedding_bytes, m->embd,
                 s->x + (long)t * m->embd);
    each_token(&p, begin_token);
    for (; p.layer < m->layers && !stopped(&p); p.layer++)
        one_layer(&p);
    if (stopped(&p))
        return -1;
    if (wanted > 0) {
        struct Input *x = &s->normed;
        for (int t = 0; t < wanted; t++)
            k->norm(x->f + (long)t * m->embd, s->x + (long)(n - wanted + t) * m->embd, m->output_norm, m->embd, m->eps);
        if (quantised(&m->output))
            k->quantise(x, 0, wanted);
        struct Products out = {.pass = &p, .x = x, .tokens = wanted, .count = 1, .matrix = {&m->output}, .y = {logits},
                               .ldy = {m->vocabulary}};
        multiply(&out);
    }
    return stopped(&p) ? -1 : 0;
}
