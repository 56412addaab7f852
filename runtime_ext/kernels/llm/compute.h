/* The kernels, in the words of lanes.h: each compute_*.c includes this with one instruction set chosen. */
#include "lanes.h"
#include "llm.h"

/* Loops over registers must come apart; where there are none to speak of, that only costs room. */
#if defined(LANES_SCALAR) || defined(__SANITIZE_ADDRESS__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Tokens that go through a panel at once. */
#if defined(LANES_AVX512)
enum { TILE = 12 };
#else
enum { TILE = 4 };
#endif

/* e^x by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; below -87 it is e^-87. Error below 2 units in the last place. */
INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_max(x, vf_set(-87.0f)), vf_set(88.0f));
    vi n = vi_round(vf_mul(x, vf_set(0x1.715476p0f)));
    vf whole = vf_from(n);
    vf r = vf_fma(whole, vf_set(-0x1.62e400p-1f), x);
    r = vf_fma(whole, vf_set(-0x1.7f7d1cp-20f), r);
    vf p = vf_fma(vf_set(0x1.6850e4p-10f), r, vf_set(0x1.123bccp-7f));
    p = vf_fma(p, r, vf_set(0x1.555b98p-5f));
    p = vf_fma(p, r, vf_set(0x1.55548ep-3f));
    p = vf_fma(p, r, vf_set(0x1.fffff8p-2f));
    p = vf_fma(vf_mul(r, r), p, r);
    return vf_times_2_to(vf_add(p, vf_set(1.0f)), n);
}

static void ISA(quantise)(struct Input *x, int first, int count)
{
    int cols = x->cols;
    for (int t = first; t < first + count; t++) {
        const float *f = x->f + (long)t * cols;
        int8_t *q = x->q + (long)t * cols;
        for (int b = 0; b < cols / BLOCK; b++, f += BLOCK, q += BLOCK) {
            vf low = vf_load(f), high = vf_load(f + 16);
            float most = vf_highest(vf_max(vf_abs(low), vf_abs(high)));
            /* what is not finite, or too small for a scale, counts as nothing */
            int sound = most >= 0x1p-100f && most <= 0x1p120f;
            float to = sound ? 127.0f / most : 0.0f;
            vf limit = vf_set(127.0f);
            vf zero = vf_zero();
            vf a = sound ? vf_min(vf_max(vf_mul(low, vf_set(to)), vf_sub(zero, limit)), limit) : zero;
            vf c = sound ? vf_min(vf_max(vf_mul(high, vf_set(to)), vf_sub(zero, limit)), limit) : zero;
            vi qa = vi_round(a), qc = vi_round(c);
            vi_store_s8(q, qa);
            vi_store_s8(q + 16, qc);
            x->scale[(long)t * (cols / BLOCK) + b] = sound ? most / 127.0f : 0.0f;
            int32_t *sums = x->sums + (long)t * (cols / 16) + 2 * b;
            sums[0] = (int32_t)vf_sum(vf_from(qa)); /* exact: whole numbers far below 2^24 */
            sums[1] = (int32_t)vf_sum(vf_from(qc));
        }
    }
}

/* Root mean square norm (Zhang and Sennrich, 2019). */
static void ISA(norm)(float *y, const float *x, const float *weight, int n, float eps)
{
    vf squares = vf_zero();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v = vf_load(x + i);
        squares = vf_fma(v, v, squares);
    }
    float sum = vf_sum(squares);
    for (int j = i; j < n; j++)
        sum = __builtin_fmaf(x[j], x[j], sum);
    float scale = 1.0f / __builtin_sqrtf(sum / (float)n + eps);
    for (i = 0; i + 16 <= n; i += 16)
        vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), vf_set(scale)), vf_load(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void ISA(gate)(float *gate, const float *up, long n)
{
    float last[2][16] = {{0}};
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        vf g = vf_load(gate + i), e = vf_exp(vf_sub(vf_zero(), g));
        vf_store(gate + i, vf_mul(vf_div(g, vf_add(vf_set(1.0f), e)), vf_load(up + i)));
    }
    if (i == n)
        return;
    memcpy(last[0], gate + i, (size_t)(n - i) * 4);
    memcpy(last[1], up + i, (size_t)(n - i) * 4);
    vf g = vf_load(last[0]), e = vf_exp(vf_sub(vf_zero(), g));
    vf_store(last[0], vf_mul(vf_div(g, vf_add(vf_set(1.0f), e)), vf_load(last[1])));
    memcpy(gate + i, last[0], (size_t)(n - i) * 4);
}

static void ISA(store_halves)(uint16_t *to, const float *from, long n)
{
    long i = 0;
    for (; i + 16 <= n; i += 16)
        vf_store_halves(to + i, vf_load(from + i));
    for (; i < n; i++)
        to[i] = float_to_half(from[i]);
}

/* ---- matrix times vectors */

INLINE vf float_row(int form, const uint8_t *row, int at)
{
    return form == F32 ? vf_load((const float *)(const void *)row + at)
         : form == F16 ? vf_halves(row + 2 * at)
                       : vf_bhalves(row + 2 * at);
}

INLINE vf float_tail(int form, const uint8_t *row, int at, int n)
{
    uint8_t last[64] = {0};
    size_t size = form == F32 ? 4 : 2;
    memcpy(last, row + (size_t)at * size, (size_t)(n - at) * size);
    return float_row(form, last, 0);
}

static void ISA(load_row)(float *to, const uint8_t *row, int form, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = form == F32   ? bits_to_float(load_u32(row + 4l * i))
              : form == F16 ? half_to_float(load_u16(row + 2l * i))
                            : bits_to_float((uint32_t)load_u16(row + 2l * i) << 16);
}

/* Lane l sums columns l, l + 16, ...; then the lanes. */
INLINE void float_tile(int form, const uint8_t *row, const struct Input *x, int t0, int count, float *y, long ldy)
{
    int n = x->cols, at = 0;
    vf sum[4];
    UNROLL for (int t = 0; t < count; t++) sum[t] = vf_zero();
    for (; at + 16 <= n; at += 16) {
        vf w = float_row(form, row, at);
        UNROLL for (int t = 0; t < count; t++)
            sum[t] = vf_fma(w, vf_load(x->f + (long)(t0 + t) * n + at), sum[t]);
    }
    if (at < n) {
        vf w = float_tail(form, row, at, n);
        UNROLL for (int t = 0; t < count; t++)
            sum[t] = vf_fma(w, float_tail(F32, (const uint8_t *)(x->f + (long)(t0 + t) * n), at, n), sum[t]);
    }
    UNROLL for (int t = 0; t < count; t++) y[(t0 + t) * ldy] = vf_sum(sum[t]);
}

INLINE void float_rows(int form, const struct Matrix *m, int first, int last, const struct Input *x, int tokens,
                       float *y, long ldy)
{
    for (int r = first; r < last; r++) {
        const uint8_t *row = m->data + (size_t)r * m->stride;
        int t = 0;
        for (; t + 4 <= tokens; t += 4)
            float_tile(form, row, x, t, 4, y + r, ldy);
        for (; t < tokens; t++)
            float_tile(form, row, x, t, 1, y + r, ldy);
    }
}

/* What a form's blocks hold, see llm.h. `super` is where the 8 blocks (or the one) begin, j the block in it. */
INLINE int blocks_of(int form) { return form == Q4_K || form == Q5_K || form == Q6_K ? 8 : 1; }

INLINE size_t super_bytes(int form)
{
    return form == Q4_0   ? 32 + 256
         : form == Q5_0 ? 32 + 64 + 256
         : form == Q4_K ? 64 + 8 * (32 + 256)
         : form == Q5_K ? 64 + 8 * (32 + 64 + 256)
         : form == Q6_K ? 32 + 8 * (32 + 256 + 128)
                        : PACKED_BYTES;
}

INLINE const uint8_t *block_at(int form, const uint8_t *super, int j)
{
    return form == Q4_K   ? super + 64 + j * (32 + 256)
         : form == Q5_K ? super + 64 + j * (32 + 64 + 256)
         : form == Q6_K ? super + 32 + j * (32 + 256 + 128)
                        : super;
}

INLINE vb weights(int form, const uint8_t *block, int g)
{
    if (form == PACKED)
        return vb_load(block + 64 + g * 64);
    const uint8_t *q = block + (form == Q5_0 || form == Q5_K ? 96 : 32);
    vb both = vb_load(q + (g & 3) * 64);
    vb w = g < 4 ? vb_low(both) : vb_high(both);
    if (form == Q5_0 || form == Q5_K)
        w = vb_or(w, vb_bits(block + 32 + g * 8));
    if (form == Q6_K) {
        vb two = vb_load(block + 32 + 256 + (g >> 2) * 64);
        w = vb_or(w, (g & 3) == 0   ? vb_two(two, 0)
                   : (g & 3) == 1 ? vb_two(two, 1)
                   : (g & 3) == 2 ? vb_two(two, 2)
                                  : vb_two(two, 3));
    }
    return w;
}

INLINE int zero_of(int form)
{
    return form == Q4_0 ? 8 : form == Q5_0 ? 16 : form == Q6_K ? 32 : form == PACKED ? DOT8_ZERO : 0;
}

/* PANEL rows times `count` tokens. Law: per row and token, block by block, sum = fma(w_scale * x_scale, exact integer
 * dot product, sum), for Q6_K by halves of a block, for Q8_0 with the product rounded too; then for Q4_K and Q5_K sum = fma(-(min * x_scale), sum of x, sum).
 * Every path gives these bits, so one token at a time equals many. */
INLINE void tile(int form, const uint8_t *panel, const struct Input *x, int t0, int count, float *y, long ldy, int rows)
{
    int n_blocks = x->cols / BLOCK, per = blocks_of(form), zero = zero_of(form);
    const int8_t *q = x->q + (long)t0 * x->cols;
    const float *scale = x->scale + (long)t0 * n_blocks;
    const int32_t *sums = x->sums + (long)t0 * n_blocks * 2;
    vf sum[TILE];
    UNROLL for (int t = 0; t < count; t++) sum[t] = vf_zero();
    for (int b0 = 0; b0 < n_blocks; b0 += per, panel += super_bytes(form)) {
        for (int j = 0; j < per; j++) {
            const uint8_t *block = block_at(form, panel, j);
            int b = b0 + j;
            const int8_t *qb = q + b * BLOCK;
            vi dot[TILE], upper[TILE];
            UNROLL for (int t = 0; t < count; t++) dot[t] = upper[t] = vi_zero();
            UNROLL for (int g = 0; g < 8; g++) {
                vb w = weights(form, block, g);
                UNROLL for (int t = 0; t < count; t++) {
                    const int8_t *four = qb + (long)t * x->cols + 4 * g;
                    if (form == PACKED)
                        dot[t] = vi_dot8(dot[t], w, four);
                    else if (form == Q6_K && g >= 4)
                        upper[t] = vi_dot(upper[t], w, four);
                    else
                        dot[t] = vi_dot(dot[t], w, four);
                }
            }
            if (form == Q6_K) {
                vf d = vf_halves(panel);
                vf a = vf_mul(d, vf_from(vi_s8(block))), c = vf_mul(d, vf_from(vi_s8(block + 16)));
                UNROLL for (int t = 0; t < count; t++) {
                    const int32_t *s = sums + ((long)t * n_blocks + b) * 2;
                    vf by = vf_set(scale[(long)t * n_blocks + b]);
                    vi low = vi_sub(dot[t], vi_set(zero * s[0])), high = vi_sub(upper[t], vi_set(zero * s[1]));
                    sum[t] = vf_fma(vf_mul(a, by), vf_from(low), sum[t]);
                    sum[t] = vf_fma(vf_mul(c, by), vf_from(high), sum[t]);
                }
                continue;
            }
            vf d = form == PACKED ? vf_load((const float *)(const void *)block) : vf_halves(panel);
            vf min = vf_zero();
            if (form == Q4_K || form == Q5_K) {
                d = vf_mul(d, vf_from(vi_u8(block)));
                min = vf_mul(vf_halves(panel + 32), vf_from(vi_u8(block + 16)));
            }
            UNROLL for (int t = 0; t < count; t++) {
                const int32_t *s = sums + ((long)t * n_blocks + b) * 2;
                vf by = vf_set(scale[(long)t * n_blocks + b]);
                vi exact = zero ? vi_sub(dot[t], vi_set(zero * (s[0] + s[1]))) : dot[t];
                if (form == PACKED)
                    sum[t] = vf_add(sum[t], vf_mul(vf_mul(d, by), vf_from(exact)));
                else
                    sum[t] = vf_fma(vf_mul(d, by), vf_from(exact), sum[t]);
                if (form == Q4_K || form == Q5_K)
                    sum[t] = vf_fma(vf_mul(min, by), vf_set((float)-(s[0] + s[1])), sum[t]);
            }
        }
    }
    UNROLL for (int t = 0; t < count; t++) {
        float *to = y + (t0 + t) * ldy;
        if (rows == PANEL) {
            vf_store(to, sum[t]);
        } else {
            float all[PANEL];
            vf_store(all, sum[t]);
            memcpy(to, all, (size_t)rows * 4);
        }
    }
}

/* Panels of `rows` rows in all, `stride` bytes apart, times all tokens: a tile of tokens meets every panel while it is
 * in the first cache. */
INLINE void tiles(int form, const uint8_t *panel, size_t stride, int rows, const struct Input *x, int tokens, float *y,
                  long ldy)
{
    for (int t = 0, count; t < tokens; t += count) {
        int left = tokens - t;
        count = left >= TILE ? TILE : left >= 4 ? 4 : 1;
        for (int r = 0; r < rows; r += PANEL) {
            const uint8_t *p = panel + (size_t)(r / PANEL) * stride;
            int here = rows - r < PANEL ? rows - r : PANEL;
            if (count == TILE)
                tile(form, p, x, t, TILE, y + r, ldy, here);
            else if (count == 4)
                tile(form, p, x, t, 4, y + r, ldy, here);
            else
                tile(form, p, x, t, 1, y + r, ldy, here);
        }
    }
}

#define TILES_OF(form) \
    static __attribute__((noinline)) void ISA(tiles_##form)( \
        const uint8_t *panel, size_t stride, int rows, const struct Input *x, int tokens, float *y, long ldy) \
    { \
        tiles(form, panel, stride, rows, x, tokens, y, ldy); \
    }
TILES_OF(Q4_0)
TILES_OF(Q5_0)
TILES_OF(Q4_K)
TILES_OF(Q5_K)
TILES_OF(Q6_K)
TILES_OF(PACKED)

enum { Q8_BYTES = 2 + BLOCK };

/* PANEL rows of Q8_0 as in the file -> PACKED. Rows that there are not are copies of the last. */
static void ISA(pack_rows)(const uint8_t *data, size_t stride, int rows, int n_blocks, uint8_t *to)
{
    const uint8_t *row[PANEL];
    for (int r = 0; r < PANEL; r++)
        row[r] = data + (size_t)(r < rows ? r : rows - 1) * stride;
    for (size_t at = 0; at < (size_t)n_blocks * Q8_BYTES; at += Q8_BYTES, to += PACKED_BYTES) {
        uint16_t d[PANEL];
        for (int r = 0; r < PANEL; r++)
            d[r] = load_u16(row[r] + at);
        vf_store((float *)(void *)to, vf_halves(d));
        vb_transpose(row, at + 2, to + 64);
    }
}

#if defined(LANES_AVX512)
/* Sixteen blocks of one Q8_0 row times x: d (sum of w x + 128 sum of x), and d, without what x is worth. */
INLINE void sixteen_blocks(const uint8_t *p, const int8_t *x, __m512i *dots, __m512 *scales)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    __m512i v[8];
    UNROLL for (int i = 0; i < 8; i++) { /* lanes: eight of block 2i, eight of block 2i + 1 */
        const uint8_t *two = p + 2 * Q8_BYTES * i + 2;
        __m512i w = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)two)),
                                       _mm256_loadu_si256((const __m256i *)(two + Q8_BYTES)), 1);
        v[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(w, flip), _mm512_loadu_si512(x + 64 * i));
    }
    UNROLL for (int i = 0; i < 4; i++) /* in each quarter: two sums of v[2i] and of v[2i + 1], alternating */
        v[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    UNROLL for (int i = 0; i < 2; i++) /* in each quarter: its sum of four vectors */
        v[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]),
                                _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]));
    __m512i sums = _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
    *dots = _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15), sums);
    /* by the integer units, which have nothing else to do: wide loads for two bytes each cost more than all the rest */
    uint64_t d[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const uint8_t *four = p + 4 * Q8_BYTES * i;
        uint64_t low = load_u16(four) | (uint64_t)load_u16(four + Q8_BYTES) << 16;
        uint64_t high = load_u16(four + 2 * Q8_BYTES) | (uint64_t)load_u16(four + 3 * Q8_BYTES) << 16;
        d[i] = low | high << 32;
    }
    *scales = _mm512_cvtph_ps(_mm256_set_epi64x((long long)d[3], (long long)d[2], (long long)d[1], (long long)d[0]));
}

INLINE void transpose(__m512 v[16])
{
    __m512 w[16];
    UNROLL for (int i = 0; i < 8; i++) {
        w[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
        w[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
#define PD(x) _mm512_castps_pd(x)
    UNROLL for (int i = 0; i < 4; i++) {
        v[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(PD(w[4 * i]), PD(w[4 * i + 2])));
        v[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(PD(w[4 * i]), PD(w[4 * i + 2])));
        v[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(PD(w[4 * i + 1]), PD(w[4 * i + 3])));
        v[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(PD(w[4 * i + 1]), PD(w[4 * i + 3])));
    }
#undef PD
    UNROLL for (int i = 0; i < 4; i++) { /* quarter q of v[i + 4 k]: column 4 q + i of rows 4 k to 4 k + 3 */
        __m512 a = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), b = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        __m512 c = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd), d = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        v[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
        v[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
}

enum { STRIP = 512, STEP_BYTES = 16 * Q8_BYTES, AHEAD = 8192 };

/* One token times PANEL rows straight from the file. Memory wants to be read in line, and asked two pages ahead for what
 * the second cache shall hold: so row by row, with blocks as lanes; what belongs to one block of all rows is added up
 * afterwards, from the first cache. Rows that there are not are copies of the last. */
static void panel_q8(const struct Matrix *m, int first, const struct Input *x, float *y)
{
    _Alignas(64) float part[STRIP / 16][PANEL][16];
    _Alignas(64) int32_t off[STRIP];
    const uint8_t *end = m->data + (size_t)m->rows * m->stride;
    int n_blocks = x->cols / BLOCK;
    __m512 sum = _mm512_setzero_ps();
    for (int b0 = 0; b0 < n_blocks; b0 += STRIP) {
        int here = n_blocks - b0 < STRIP ? n_blocks - b0 : STRIP;
        for (int b = 0; b < here; b++)
            off[b] = 128 * (x->sums[2 * (b0 + b)] + x->sums[2 * (b0 + b) + 1]);
        for (int r = 0; r < PANEL; r++) {
            const uint8_t *p = m->data + (size_t)(first + r < m->rows ? first + r : m->rows - 1) * m->stride;
            p += (size_t)b0 * Q8_BYTES;
            for (int b = 0; b < here; b += 16, p += STEP_BYTES) {
                UNROLL for (int line = 0; line < STEP_BYTES; line += 64)
                    _mm_prefetch((const char *)p + AHEAD + line, _MM_HINT_T1);
                const uint8_t *from = p;
                uint8_t last[STEP_BYTES];
                if (end - p < STEP_BYTES) {
                    memset(last, 0, sizeof last);
                    from = memcpy(last, p, (size_t)(end - p));
                }
                __m512i dots;
                __m512 scales;
                sixteen_blocks(from, x->q + (b0 + b) * BLOCK, &dots, &scales);
                __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(dots, _mm512_load_si512(off + b)));
                scales = _mm512_mul_ps(scales, _mm512_loadu_ps(x->scale + b0 + b));
                _mm512_store_ps(part[b / 16][r], _mm512_mul_ps(scales, exact));
            }
        }
        for (int b = 0; b < here; b += 16) {
            __m512 v[16];
            int blocks = here - b < 16 ? here - b : 16;
            UNROLL for (int r = 0; r < 16; r++) v[r] = _mm512_load_ps(part[b / 16][r]);
            transpose(v);
            UNROLL for (int k = 0; k < 16; k++) {
                if (k < blocks)
                    sum = _mm512_add_ps(sum, v[k]);
            }
        }
    }
    int rows = m->rows - first < PANEL ? m->rows - first : PANEL;
    _mm512_mask_storeu_ps(y + first, (__mmask16)((1u << rows) - 1), sum);
}

static void rows_q8(const struct Matrix *m, int panel, int panels, const struct Input *x, float *y)
{
    for (int i = 0; i < panels; i++)
        panel_q8(m, (panel + i) * PANEL, x, y);
}
#else
static void row_q8(const uint8_t *row, const struct Input *x, float *y)
{
    float sum = 0.0f;
    for (int b = 0; b < x->cols / BLOCK; b++, row += Q8_BYTES) {
        const int8_t *w = (const int8_t *)row + 2, *q = x->q + b * BLOCK;
        int32_t dot = 0;
        for (int i = 0; i < BLOCK; i++)
            dot += w[i] * q[i];
        sum = sum + half_to_float(load_u16(row)) * x->scale[b] * (float)dot;
    }
    *y = sum;
}

static void rows_q8(const struct Matrix *m, int panel, int panels, const struct Input *x, float *y)
{
    int last = (panel + panels) * PANEL < m->rows ? (panel + panels) * PANEL : m->rows;
    for (int r = panel * PANEL; r < last; r++)
        row_q8(m->data + (size_t)r * m->stride, x, y + r);
}
#endif

static void ISA(multiply)(const struct Matrix *m, int panel, int panels, const struct Input *x, int tokens, float *y,
                          long ldy, uint8_t *scratch)
{
    int last = (panel + panels) * PANEL < m->rows ? (panel + panels) * PANEL : m->rows;
    if (m->form == F32)
        float_rows(F32, m, panel * PANEL, last, x, tokens, y, ldy);
    else if (m->form == F16)
        float_rows(F16, m, panel * PANEL, last, x, tokens, y, ldy);
    else if (m->form == BF16)
        float_rows(BF16, m, panel * PANEL, last, x, tokens, y, ldy);
    else if (m->form == Q8_0 && tokens == 1)
        rows_q8(m, panel, panels, x, y);
    else {
        size_t stride = m->form == Q8_0 ? (size_t)(x->cols / BLOCK) * PACKED_BYTES : m->stride;
        int group = stride < GROUP_BYTES / 2 ? (int)(GROUP_BYTES / stride) * PANEL : PANEL;
        for (int first = panel * PANEL; first < last; first += group) {
            int rows = last - first < group ? last - first : group;
            const uint8_t *data = m->data + (size_t)(first / PANEL) * m->stride;
            float *to = y + first;
            switch (m->form) {
            case Q4_0: ISA(tiles_Q4_0)(data, stride, rows, x, tokens, to, ldy); break;
            case Q5_0: ISA(tiles_Q5_0)(data, stride, rows, x, tokens, to, ldy); break;
            case Q4_K: ISA(tiles_Q4_K)(data, stride, rows, x, tokens, to, ldy); break;
            case Q5_K: ISA(tiles_Q5_K)(data, stride, rows, x, tokens, to, ldy); break;
            case Q6_K: ISA(tiles_Q6_K)(data, stride, rows, x, tokens, to, ldy); break;
            default:
                for (int r = 0; r < rows; r += PANEL)
                    ISA(pack_rows)(m->data + (size_t)(first + r) * m->stride, m->stride, rows - r, x->cols / BLOCK,
                                   scratch + (size_t)(r / PANEL) * stride);
                ISA(tiles_PACKED)(scratch, stride, rows, x, tokens, to, ldy);
            }
        }
    }
}

/* ---- attention */

/* The positions that one query row sees: [0, sinks) and [from, to). */
struct Seen {
    const float *q;
    float *out;
    float *scores; /* by position */
    int sinks, from, to;
};

/* Query rows as Q8_0. */
struct Bytes {
    int8_t q[SCORE_ROWS][WIDE];
    float scale[SCORE_ROWS][WIDE / BLOCK];
    int32_t sums[SCORE_ROWS][WIDE / 16];
};

/* scores[position] = q . K[position], for `count` rows and the 32 positions of one block: lane = position. Blocks lie
 * apart, so the one after is asked for, line by line. */
INLINE void score_halves(const struct Attention *a, const struct Seen *row, int count, int block, int after)
{
    const uint16_t *k = (const void *)(a->blocks[block] + a->at), *next = (const void *)(a->blocks[after] + a->at);
    vf sum[SCORE_ROWS][2];
    UNROLL for (int i = 0; i < count; i++) sum[i][0] = sum[i][1] = vf_zero();
    for (int d = 0; d < a->head_dim; d++, k += KV_TOKENS, next += KV_TOKENS) {
        __builtin_prefetch(next, 0, 2);
        vf low = vf_halves(k), high = vf_halves(k + 16);
        UNROLL for (int i = 0; i < count; i++) {
            vf q = vf_set(row[i].q[d]);
            sum[i][0] = vf_fma(q, low, sum[i][0]);
            sum[i][1] = vf_fma(q, high, sum[i][1]);
        }
    }
    UNROLL for (int i = 0; i < count; i++) {
        vf_store(row[i].scores + block * KV_TOKENS, sum[i][0]);
        vf_store(row[i].scores + block * KV_TOKENS + 16, sum[i][1]);
    }
}

/* The same of Q8_0: the dot product of 32 dimensions is a whole number, 16 positions at a time. */
INLINE void score_bytes(const struct Attention *a, const struct Seen *row, const struct Bytes *x, int count, int block,
                        int after)
{
    const uint8_t *k = a->blocks[block] + a->at, *d = k + a->head_dim * KV_TOKENS, *next = a->blocks[after] + a->at;
    for (int half = 0; half < KV_TOKENS; half += 16) {
        vf sum[SCORE_ROWS];
        UNROLL for (int i = 0; i < count; i++) sum[i] = vf_zero();
        for (int b = 0; b < a->head_dim / BLOCK; b++) {
            vi dot[SCORE_ROWS];
            UNROLL for (int i = 0; i < count; i++) dot[i] = vi_zero();
            UNROLL for (int g = 0; g < 8; g++) {
                long at = (b * BLOCK + 4 * g) * KV_TOKENS + 4 * half;
                __builtin_prefetch(next + at, 0, 2);
                vb w = vb_signed(k + at);
                UNROLL for (int i = 0; i < count; i++) dot[i] = vi_dot8(dot[i], w, x->q[i] + b * BLOCK + 4 * g);
            }
            vf scale = vf_halves(d + 2 * (b * KV_TOKENS + half));
            UNROLL for (int i = 0; i < count; i++) {
                vi exact = vi_sub(dot[i], vi_set(DOT8_ZERO * (x->sums[i][2 * b] + x->sums[i][2 * b + 1])));
                sum[i] = vf_fma(vf_mul(scale, vf_set(x->scale[i][b])), vf_from(exact), sum[i]);
            }
        }
        UNROLL for (int i = 0; i < count; i++) vf_store(row[i].scores + block * KV_TOKENS + half, sum[i]);
    }
}

/* The scores up to `end`, a multiple of KV_TOKENS, become exp(score - highest), 0 where the row does not see; what they
 * sum to comes back. */
static float ISA(weigh)(const struct Seen *row, int end)
{
    float *s = row->scores;
    for (int t = row->sinks; t < row->from; t++)
        s[t] = -__builtin_inff();
    for (int t = row->to; t < end; t++)
        s[t] = -__builtin_inff();
    vf most = vf_set(-__builtin_inff());
    for (int t = 0; t < end; t += 16)
        most = vf_max(vf_load(s + t), most);
    vf highest = vf_set(vf_highest(most)), sum = vf_zero();
    for (int t = 0; t < end; t += 16) {
        vf e = vf_exp(vf_sub(vf_load(s + t), highest));
        vf_store(s + t, e);
    }
    for (int t = row->sinks; t < row->from; t++)
        s[t] = 0.0f;
    for (int t = row->to; t < end; t++)
        s[t] = 0.0f;
    for (int t = 0; t < end; t += 16)
        sum = vf_add(sum, vf_load(s + t));
    return vf_sum(sum);
}

/* sum += scores . V over the first `to` positions of one block, for `count` rows and 32 dimensions: lane = dimension. */
INLINE void value_halves(const struct Attention *a, const struct Seen *row, int count, int block, int after, int dim,
                         int to, vf sum[][2])
{
    size_t at = a->at + 2 * ((size_t)KV_TOKENS * (size_t)a->head_dim + (size_t)dim);
    const uint16_t *v = (const void *)(a->blocks[block] + at), *next = (const void *)(a->blocks[after] + at);
    for (int t = 0; t < to; t++) {
        const uint16_t *values = v + (long)t * a->head_dim;
        __builtin_prefetch(next + (long)t * a->head_dim, 0, 2);
        vf low = vf_halves(values), high = vf_halves(values + 16);
        UNROLL for (int i = 0; i < count; i++) {
            vf p = vf_set(row[i].scores[block * KV_TOKENS + t]);
            sum[i][0] = vf_fma(p, low, sum[i][0]);
            sum[i][1] = vf_fma(p, high, sum[i][1]);
        }
    }
}

/* The same of Q8_0: each score times what its token's values are multiples of, then the bytes as floats. */
INLINE void value_bytes(const struct Attention *a, const struct Seen *row, int count, int block, int after, int dim,
                        int to, vf sum[][2])
{
    size_t at = a->at + (size_t)(a->head_dim + a->head_dim / BLOCK * 2) * KV_TOKENS;
    const uint8_t *v = a->blocks[block] + at, *d = v + a->head_dim * KV_TOKENS + 2 * dim, *next = a->blocks[after] + at;
    vf low = vf_halves(d), high = vf_halves(d + 32);
    float scaled[SCORE_ROWS][KV_TOKENS];
    UNROLL for (int i = 0; i < count; i++) {
        vf_store(scaled[i], vf_mul(low, vf_load(row[i].scores + block * KV_TOKENS)));
        vf_store(scaled[i] + 16, vf_mul(high, vf_load(row[i].scores + block * KV_TOKENS + 16)));
    }
    for (int t = 0; t < to; t++) {
        const uint8_t *values = v + (long)t * a->head_dim + dim;
        __builtin_prefetch(next + (long)t * a->head_dim + dim, 0, 2);
        vf first = vf_from(vi_s8(values)), second = vf_from(vi_s8(values + 16));
        UNROLL for (int i = 0; i < count; i++) {
            vf p = vf_set(scaled[i][t]);
            sum[i][0] = vf_fma(p, first, sum[i][0]);
            sum[i][1] = vf_fma(p, second, sum[i][1]);
        }
    }
}

/* `count` query rows at once; all of them see the same first and last block, or less of it. */
INLINE void attend_rows(int form, const struct Attention *a, const struct Seen *row, int count)
{
    struct Bytes x;
    if (form == Q8_0)
        for (int i = 0; i < count; i++) {
            struct Input one = {(float *)row[i].q, x.q[i], x.scale[i], x.sums[i], a->head_dim};
            ISA(quantise)(&one, 0, 1);
        }
    int last = 0, sinks = 0, from = row[0].from;
    UNROLL for (int i = 0; i < count; i++) {
        last = row[i].to > last ? row[i].to : last;
        from = row[i].from < from ? row[i].from : from;
        sinks = row[i].sinks > sinks ? row[i].sinks : sinks;
    }
    int blocks = (last + KV_TOKENS - 1) / KV_TOKENS;
    for (int b = 0; b < blocks; b++)
        if (b * KV_TOKENS < sinks || (b + 1) * KV_TOKENS > from) {
            int after = b + 1 < blocks ? b + 1 : b;
            if (form == F16)
                score_halves(a, row, count, b, after);
            else
                score_bytes(a, row, &x, count, b, after);
        }
    vf scale[SCORE_ROWS];
    UNROLL for (int i = 0; i < count; i++) scale[i] = vf_set(1.0f / ISA(weigh)(&row[i], blocks * KV_TOKENS));
    for (int dim = 0; dim < a->head_dim; dim += 32) {
        vf sum[SCORE_ROWS][2];
        UNROLL for (int i = 0; i < count; i++) sum[i][0] = sum[i][1] = vf_zero();
        for (int b = 0; b < blocks; b++) {
            int begin = b * KV_TOKENS, to = last - begin < KV_TOKENS ? last - begin : KV_TOKENS;
            if (begin < sinks || begin + KV_TOKENS > from)
                (form == F16 ? value_halves : value_bytes)(a, row, count, b, b + 1 < blocks ? b + 1 : b, dim, to, sum);
        }
        UNROLL for (int i = 0; i < count; i++) {
            vf_store(row[i].out + dim, vf_mul(sum[i][0], scale[i]));
            vf_store(row[i].out + dim + 16, vf_mul(sum[i][1], scale[i]));
        }
    }
}

/* Softmax(q K) V for the query heads that share one KV head. Each row's operations and their order depend on nothing
 * but the row: what is computed beside it does not show. */
INLINE void attend(int form, const struct Attention *a)
{
    struct Seen rows[SCORE_ROWS];
    int total = a->tokens * a->group, stride = (a->position + a->tokens + KV_TOKENS - 1) / KV_TOKENS * KV_TOKENS;
    for (int at = 0; at < total;) {
        int count = total - at < SCORE_ROWS ? total - at : SCORE_ROWS;
        count = count >= 8 ? 8 : count >= 7 ? 7 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
        for (int i = 0; i < count; i++) {
            int token = (at + i) / a->group, head = (at + i) % a->group, to = a->position + token + 1;
            int from = a->window && to > a->window ? to - a->window : 0, sinks = from < a->sinks ? from : a->sinks;
            long offset = token * a->ldq + (long)head * a->head_dim;
            rows[i] = (struct Seen){a->q + offset, a->out + offset, a->scores + (long)i * stride, sinks, from, to};
        }
        switch (count) {
        case 8: attend_rows(form, a, rows, 8); break;
        case 7: attend_rows(form, a, rows, 7); break;
        case 4: attend_rows(form, a, rows, 4); break;
        case 2: attend_rows(form, a, rows, 2); break;
        default: attend_rows(form, a, rows, 1);
        }
        at += count;
    }
}

static __attribute__((noinline)) void ISA(attend_f16)(const struct Attention *a) { attend(F16, a); }
static __attribute__((noinline)) void ISA(attend_q8_0)(const struct Attention *a) { attend(Q8_0, a); }

static void ISA(attend)(const struct Attention *a) { (a->form == F16 ? ISA(attend_f16) : ISA(attend_q8_0))(a); }

static double ISA(softmax)(float *x, long n, float scale)
{
    vf most = vf_set(-__builtin_inff()), by = vf_set(scale);
    float last[16];
    for (int i = 0; i < 16; i++)
        last[i] = -__builtin_inff();
    long whole = n / 16 * 16;
    memcpy(last, x + whole, (size_t)(n - whole) * 4);
    for (long i = 0; i < whole; i += 16)
        most = vf_max(vf_load(x + i), most);
    vf highest = vf_set(vf_highest(vf_max(vf_load(last), most)));
    double sum = 0.0;
    for (long i = 0; i <= whole; i += 16) {
        vf e = vf_exp(vf_mul(vf_sub(vf_load(i < whole ? x + i : last), highest), by));
        vf_store(last, e);
        memcpy(x + i, last, i < whole ? 64 : (size_t)(n - whole) * 4);
        for (int k = 0; k < 16 && i + k < n; k++)
            sum += (double)last[k];
        if (i + 16 == whole)
            memcpy(last, x + whole, (size_t)(n - whole) * 4);
    }
    return sum;
}

const struct Kernels ISA(kernels) = {
    NAME, ISA(quantise), ISA(norm), ISA(gate), ISA(multiply), ISA(attend), ISA(store_halves), ISA(load_row), ISA(softmax),
};
