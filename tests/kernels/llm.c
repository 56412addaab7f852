/* The inference kernels under sanitizers: every instruction set of this processor gives the same bits as the plain C,
 * one token at a time gives the same as many at once, and all of it is what the numbers in the file say. The number at the
 * end is the same on every processor; after it, the instruction sets that were compared. */
#include "llm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 1;

static uint32_t any(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

static float unit(void) { return (float)(int)(any() % 20001) / 10000.0f - 1.0f; }

/* Of all results: the same number on every processor. */
static uint64_t digest = 0xcbf29ce484222325;

static void digested(const void *results, size_t n)
{
    for (size_t i = 0; i < n; i++)
        digest = (digest ^ ((const uint8_t *)results)[i]) * 0x100000001b3;
}

static void fail(const char *what, const char *kernels, int form, int rows, int cols)
{
    fprintf(stderr, "%s: %s, form %d, %d x %d\n", what, kernels, form, rows, cols);
    exit(1);
}

static void *room(size_t bytes)
{
    void *p = malloc(bytes + 1);
    if (p == NULL)
        abort();
    return p;
}

/* A row of the file's bytes with scales that are numbers. */
static void fill(int form, uint8_t *row, size_t bytes)
{
    static const int block[FORMS] = {4, 2, 2, 34, 18, 22, 144, 176, 210};
    for (size_t i = 0; i < bytes; i++)
        row[i] = (uint8_t)any();
    for (size_t i = 0; i < bytes; i += (size_t)block[form]) {
        uint8_t *d = row + i + (form == Q6_K ? 208 : 0);
        float small = unit();
        switch (form) {
        case F32: memcpy(d, &small, 4); break;
        case BF16: memcpy(d, (uint8_t *)&small + 2, 2); break;
        default: d[1] = (uint8_t)(0x1c | (any() & 0x83)); /* a half near 2^-8 */
        }
        if (form == Q4_K || form == Q5_K)
            d[3] = (uint8_t)(0x1c | (any() & 0x83));
    }
}

static const char *const NAMES[] = {"scalar", "avx2", "avx512", "neon", "dotprod", "i8mm"};

static void check_products(int form, int rows, int cols, int tokens)
{
    size_t row_bytes = form_row_bytes(form, cols), n = (size_t)tokens * (size_t)cols, behind = 512;
    if (row_bytes == 0)
        return;
    struct Input x = {room(n * 4 + behind), room(n + behind), room(n / 8 + behind), room(n / 4 + behind), cols};
    for (size_t i = 0; i < n; i++)
        x.f[i] = i / 32 % 5 == 4 ? 0.0f : unit() * (float)(1 + i % 3);
    uint8_t *file = room((size_t)rows * row_bytes), *made = NULL;
    for (int r = 0; r < rows; r++)
        fill(form, file + (size_t)r * row_bytes, row_bytes);
    struct Matrix m = {.form = form, .rows = rows, .cols = cols, .data = file};
    size_t bytes = form_bytes(form, rows, cols, &m.stride);
    if (form > Q8_0) {
        m.data = made = room(bytes);
        for (int p = 0; p < (rows + PANEL - 1) / PANEL; p++)
            form_pack(form, file, row_bytes, made, p, rows, cols);
    }
    int panels = (rows + PANEL - 1) / PANEL;
    size_t out = (size_t)tokens * (size_t)rows;
    uint8_t *scratch = room(GROUP_BYTES);
    float *first = NULL, *row = room((size_t)cols * 4);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const struct Kernels *k = llm_kernels(NAMES[i]);
        if (k == NULL)
            continue;
        float *y = room(out * 4), *alone = room((size_t)rows * 4);
        if (form >= Q8_0)
            k->quantise(&x, 0, tokens);
        k->multiply(&m, 0, panels, &x, tokens, y, rows, scratch);
        for (int t = 0; t < tokens; t++) {
            struct Input one = {x.f + (long)t * cols, x.q + (long)t * cols, x.scale + (long)t * (cols / BLOCK),
                                x.sums + (long)t * (cols / 16), cols};
            k->multiply(&m, 0, panels, &one, 1, alone, rows, scratch);
            if (memcmp(alone, y + (long)t * rows, (size_t)rows * 4) != 0)
                fail("one token is not the same as many", k->name, form, rows, cols);
        }
        if (first == NULL) {
            for (int r = 0; r < rows; r++) {
                form_row(form, file + (size_t)r * row_bytes, cols, row);
                for (int t = 0; t < tokens; t++) {
                    double right = 0.0, size = 0.0;
                    for (int c = 0; c < cols; c++) {
                        double v = form >= Q8_0 ? (double)x.q[(long)t * cols + c] *
                                                      (double)x.scale[(long)t * (cols / BLOCK) + c / BLOCK]
                                                : (double)x.f[(long)t * cols + c];
                        right += v * (double)row[c];
                        size += fabs(v * (double)row[c]);
                    }
                    if (!(fabs(right - (double)y[(long)t * rows + r]) <= 4e-6 * size + 1e-12))
                        fail("the product is wrong", k->name, form, rows, cols);
                }
            }
            first = y;
        } else {
            if (memcmp(first, y, out * 4) != 0)
                fail("not the same bits as the plain C", k->name, form, rows, cols);
            free(y);
        }
        free(alone);
    }
    digested(first, out * 4);
    free(first);
    free(row);
    free(scratch);
    free(made);
    free(file);
    free(x.f);
    free(x.q);
    free(x.scale);
    free(x.sums);
}

/* Attention of some tokens after others, and everything that works on a row: each set against the plain C, and tokens
 * one at a time against all at once. */
/* Cells of a block as KvBlock tells them: one key or value. */
static float cell(int form, const uint8_t *block, int head_dim, int value, int slot, int dim)
{
    float out, d;
    if (form == F16) {
        long at = value ? (KV_TOKENS + slot) * head_dim + dim : dim * KV_TOKENS + slot;
        form_row(F16, block + 2 * at, 1, &out);
        return out;
    }
    const uint8_t *q = block + value * (head_dim + head_dim / 16) * KV_TOKENS;
    long at = value ? slot * head_dim + dim : (dim / 4 * KV_TOKENS + slot) * 4 + dim % 4;
    form_row(F16, q + head_dim * KV_TOKENS + 2 * (dim / BLOCK * KV_TOKENS + slot), 1, &d);
    return d * (float)(int8_t)q[at];
}

static void check_attention(int form, int head_dim, int group, int position, int tokens, int window, int sinks)
{
    int total = position + tokens, n_blocks = (total + KV_TOKENS - 1) / KV_TOKENS, width = head_dim * group;
    struct Model one_head = {.layers = 1, .kv_heads = 1, .head_dim = head_dim};
    size_t bytes = kv_block_bytes(&one_head, form), bytes_end = form == F16 ? 0 : (size_t)head_dim * KV_TOKENS;
    KvBlock *blocks = room((size_t)n_blocks * sizeof *blocks);
    for (int b = 0; b < n_blocks; b++) {
        blocks[b] = room(bytes);
        for (size_t i = 0; i < bytes; i += 2) {
            int q = i % (bytes / 2) < bytes_end;
            uint16_t two = (uint16_t)(q ? any() : form == F16 ? 0x3000 | (any() & 0x8bff) : 0x1000 | (any() & 0x3ff));
            memcpy(blocks[b] + i, &two, 2);
            for (int j = 0; q && j < 2; j++)
                blocks[b][i + (size_t)j] = blocks[b][i + (size_t)j] == 0x80 ? 0x7f : blocks[b][i + (size_t)j];
        }
    }
    float *q = room((size_t)(tokens * width) * 4), *scores = room((size_t)SCORE_ROWS * (size_t)(n_blocks * KV_TOKENS) * 4);
    for (int i = 0; i < tokens * width; i++)
        q[i] = unit();
    float *first = NULL;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const struct Kernels *k = llm_kernels(NAMES[i]);
        if (k == NULL)
            continue;
        float *out = room((size_t)(tokens * width) * 4), *alone = room((size_t)(tokens * width) * 4);
        struct Attention a = {.q = q, .out = out, .ldq = width, .blocks = blocks, .form = form,
                              .head_dim = head_dim, .group = group,
                              .tokens = tokens, .position = position, .window = window, .sinks = sinks, .scores = scores};
        k->attend(&a);
        for (int t = 0; t < tokens; t++) {
            struct Attention one = a;
            one.q = q + t * width;
            one.out = alone + t * width;
            one.tokens = 1;
            one.position = position + t;
            k->attend(&one);
        }
        if (memcmp(out, alone, (size_t)(tokens * width) * 4) != 0)
            fail("attention of one is not the same as of many", k->name, window, position, tokens);
        for (int t = 0; first == NULL && t < tokens; t++)
            for (int h = 0; h < group; h++) {
                double sum = 0.0, weights[4096], right;
                float *row = q + t * width + h * head_dim, copy[WIDE], scale[WIDE / BLOCK];
                int8_t quantised[WIDE];
                int32_t of[WIDE / 16];
                struct Input x = {row, quantised, scale, of, head_dim};
                k->quantise(&x, 0, 1);
                for (int d = 0; d < head_dim; d++)
                    copy[d] = form == F16 ? row[d] : (float)quantised[d] * scale[d / BLOCK];
                for (int p = 0; p <= position + t; p++) {
                    int seen = p < sinks || window == 0 || p > position + t - window;
                    double dot = 0.0;
                    for (int d = 0; d < head_dim; d++)
                        dot += (double)copy[d] * (double)cell(form, blocks[p / KV_TOKENS], head_dim, 0, p % KV_TOKENS, d);
                    weights[p] = seen ? exp(dot) : 0.0;
                    sum += weights[p];
                }
                for (int d = 0; d < head_dim; d++) {
                    right = 0.0;
                    for (int p = 0; p <= position + t; p++)
                        right += weights[p] / sum *
                                 (double)cell(form, blocks[p / KV_TOKENS], head_dim, 1, p % KV_TOKENS, d);
                    if (!(fabs(right - (double)out[t * width + h * head_dim + d]) < 2e-5))
                        fail("attention is wrong", k->name, window, position, tokens);
                }
            }
        free(alone);
        if (first == NULL) {
            first = out;
        } else {
            if (memcmp(first, out, (size_t)(tokens * width) * 4) != 0)
                fail("attention: not the same bits as the plain C", k->name, window, position, tokens);
            free(out);
        }
    }
    digested(first, (size_t)(tokens * width) * 4);
    free(first);
    free(scores);
    free(q);
    for (int b = 0; b < n_blocks; b++)
        free(blocks[b]);
    free(blocks);
}

/* Cells that are taken out of one block and put into another are there, and no others are touched. */
static void check_cells(void)
{
    struct Model m = {.layers = 2, .kv_heads = 3, .head_dim = 96};
    for (int form = F16; form <= Q8_0; form += Q8_0 - F16) {
        size_t bytes = kv_block_bytes(&m, form), head = bytes / 6;
        uint8_t *from = room(bytes), *to = room(bytes), *rows = room(bytes);
        for (size_t i = 0; i < bytes; i++)
            from[i] = (uint8_t)any(), to[i] = 0;
        for (int first = 0, n = 1; first < KV_TOKENS; first += n, n = n % 7 + 1) {
            n = n > KV_TOKENS - first ? KV_TOKENS - first : n;
            kv_take(&m, form, from, first, n, rows);
            kv_put(&m, form, to, first, n, rows);
            for (int h = 0; h < 6; h++)
                for (int slot = 0; slot < KV_TOKENS; slot++)
                    for (int i = 0; i < 2 * m.head_dim; i++) {
                        const uint8_t *a = from + (size_t)h * head, *b = to + (size_t)h * head;
                        float right = cell(form, a, 96, i / 96, slot, i % 96), got = cell(form, b, 96, i / 96, slot, i % 96);
                        right = slot < first + n ? right : 0.0f;
                        if (memcmp(&right, &got, 4) != 0 && right != got)
                            fail("cells are not where they belong", "", form, first, n);
                    }
        }
        if (memcmp(from, to, bytes) != 0)
            fail("cells were lost", "", form, 0, 0);
        free(from), free(to), free(rows);
    }
}

static void check_rows(int n)
{
    size_t bytes = (size_t)n * 4;
    float *x = room(bytes), *w = room(bytes), *out[4][2];
    uint16_t *halves[2];
    double sums[2] = {0.0, 0.0};
    for (int i = 0; i < n; i++) {
        x[i] = unit() * 20.0f;
        w[i] = unit();
    }
    for (int j = 0; j < 2; j++) {
        for (int i = 0; i < 4; i++)
            out[i][j] = room(bytes);
        halves[j] = room(bytes / 2);
    }
    int set = 0;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const struct Kernels *k = llm_kernels(NAMES[i]);
        if (k == NULL)
            continue;
        k->norm(out[0][set], x, w, n, 1e-6f);
        memcpy(out[1][set], x, bytes);
        k->gate(out[1][set], w, n);
        memcpy(out[2][set], x, bytes);
        sums[set] = k->softmax(out[2][set], n, 0.7f);
        k->store_halves(halves[set], x, n);
        if (set == 0) {
            for (int c = 0; c < n; c++) {
                double gated = (double)x[c] / (1.0 + exp(-(double)x[c])) * (double)w[c];
                float back;
                form_row(F16, (const uint8_t *)&halves[0][c], 1, &back);
                if (!(fabs(gated - (double)out[1][0][c]) <= 1e-6 * fabs(gated) + 1e-30))
                    fail("silu is wrong", k->name, 0, 1, n);
                if (!(fabs((double)back - (double)x[c]) <= fabs((double)x[c]) * 0.0005 + 1e-7))
                    fail("halves are wrong", k->name, 0, 1, n);
            }
            set = 1;
        } else if (memcmp(out[0][0], out[0][1], bytes) != 0 || memcmp(out[1][0], out[1][1], bytes) != 0 ||
                   memcmp(out[2][0], out[2][1], bytes) != 0 || memcmp(halves[0], halves[1], bytes / 2) != 0 ||
                   memcmp(&sums[0], &sums[1], sizeof sums[0]) != 0) {
            fail("rows: not the same bits as the plain C", k->name, 0, 1, n);
        }
    }
    for (int i = 0; i < 3; i++)
        digested(out[i][0], bytes);
    digested(halves[0], bytes / 2);
    digested(&sums[0], sizeof sums[0]);
    free(x);
    free(w);
    for (int j = 0; j < 2; j++) {
        for (int i = 0; i < 4; i++)
            free(out[i][j]);
        free(halves[j]);
    }
}

static atomic_int counted[1000];
static void count(void *context, int chunk, int thread)
{
    (void)thread;
    atomic_fetch_add(&counted[chunk], *(int *)context);
}

static void check_pool(int threads)
{
    struct Pool *pool = pool_new(threads);
    int one = 1, jobs = 3000, total = 0;
    if (pool == NULL || pool_threads(pool) != threads)
        fail("no pool", "", 0, threads, 0);
    memset(counted, 0, sizeof counted);
    for (int j = 0; j < jobs; j++) {
        int chunks = 1 + (int)(any() % 999);
        pool_run(pool, count, &one, chunks, NULL);
        total += chunks;
    }
    for (int c = 0; c < 1000; c++)
        total -= atomic_load(&counted[c]);
    if (total != 0)
        fail("chunks were lost or done twice", "", 0, threads, total);
    atomic_int stop = 1;
    pool_run(pool, count, &one, 999, &stop);
    pool_free(pool);
}

int main(void)
{
    static const int COLS[] = {32, 96, 256, 512, 896, 1280}, ROWS[] = {1, 15, 16, 17, 40};
    for (int form = F32; form < PACKED; form++)
        for (size_t c = 0; c < sizeof COLS / sizeof *COLS; c++)
            for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
                check_products(form, ROWS[r], COLS[c], 1 + (int)(any() % 30));
    check_products(F32, 17, 75, 5);
    check_products(F16, 17, 75, 5);
    check_products(BF16, 17, 75, 5);
    for (int form = F16; form <= Q8_0; form += Q8_0 - F16) {
        check_attention(form, 64, 7, 0, 1, 0, 0);
        check_attention(form, 64, 7, 100, 40, 0, 0);
        check_attention(form, 32, 1, 3, 70, 0, 0);
        check_attention(form, 128, 4, 64, 33, 40, 4);
        check_attention(form, 96, 3, 250, 10, 20, 33);
    }
    check_cells();
    for (int n = 1; n < 70; n++)
        check_rows(n);
    for (int threads = 1; threads <= 4; threads++)
        check_pool(threads);
    printf("llm kernels: ok, %016llx:", (unsigned long long)digest);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (llm_kernels(NAMES[i]) != NULL)
            printf(" %s", NAMES[i]);
    printf("\n");
    return 0;
}
